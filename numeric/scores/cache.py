"""What an estimator keeps of earlier noise levels and degrees, up to a number of bytes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from numeric.memory import free_memory

KEPT_BYTES = 2**30
"""Solutions of earlier noise levels and degrees that an estimator keeps for the next call."""


class SolutionCache:
    """Keeps what is expensive to make, up to a number of bytes; the oldest goes first.

    Args:
        limit: bytes. None: a quarter of what is free or held here, and :data:`KEPT_BYTES` at least, so that a loop over twenty
            noise levels of a large readout solves each of them once. device: where most of it lies; of a GPU half as much is kept.
    """

    def __init__(self, limit: int | None = None, device: str = "cpu") -> None:
        self.limit, self.device, self._kept = limit, device, dict[Hashable, tuple[Any, int]]()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def __getitem__(self, key: Hashable) -> Any:
        return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> Any:
        """Keep ``value`` of ``size`` bytes, and return it."""
        held = sum(kept for _, kept in self._kept.values())
        limit = self.limit
        if limit is None:
            limit = max(KEPT_BYTES, ((free_memory(self.device) or 0) + held) // (4 if self.device == "cpu" else 8))
        while self._kept and held > limit - size:
            held -= self._kept.pop(next(iter(self._kept)))[1]
        self._kept[key] = (value, size)
        return value
