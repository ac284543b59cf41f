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
