"""What memory is free, asked before long work starts."""

from __future__ import annotations

from pathlib import Path

import torch

RESIDENT = 2**30
"""Images that take no more bytes than this are kept as they are read, resized; others are read again at each use."""


def free_memory(device: str | torch.device = "cpu") -> int | None:
    """Free memory in bytes of a device; None where nothing says.

    Of the CPU: of the system, or of the container that this process runs in. Of a GPU: also what torch has reserved there and
    does not use.
    """
    where = torch.device(device)
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0] + torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where))
    if where.type != "cpu":
        return None
    limits = [limit for limit in (_of_system(), _of_container()) if limit is not None]
    return min(limits, default=None)


def _of_system(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _of_container(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the memory limits of the process's control groups (version 2) leave; files that the kernel can drop count as free."""
    left = []
    try:
        name = next(line.split(":", 2)[2] for line in groups.read_text().splitlines() if line.startswith("0::"))
        here = root / name.strip().lstrip("/")
        for folder in [here, *here.parents]:
            if (folder / "memory.max").is_file() and (limit := (folder / "memory.max").read_text().strip()) != "max":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
                left.append(max(0, int(limit) - used))
            if folder == root:
                break
    except (OSError, ValueError, StopIteration):
        return None
    return min(left, default=None)


def need(size: float, what: str, advice: str, device: str | torch.device = "cpu") -> None:
    """Raise MemoryError before the work starts if ``size`` bytes are more than is free.

    Args:
        what: what takes them, in words of what the caller called. advice: the ways out. device: where they are to lie.
    """
    free = free_memory(device)
    if free is not None and size > free:
        raise MemoryError(f"{what} need about {size / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free: {advice}")
