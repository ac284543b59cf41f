"""What memory is free, asked before long work starts."""

from __future__ import annotations


def free_memory() -> int | None:
    """Free system memory in bytes, None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def need(size: float, what: str, advice: str) -> None:
    """Raise MemoryError before the work starts if ``size`` bytes are more than is free.

    Args:
        what: what takes them, in words of what the caller called. advice: the ways out.
    """
    free = free_memory()
    if free is not None and size > free:
        raise MemoryError(f"{what} need about {size / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free: {advice}")
