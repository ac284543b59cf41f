"""One progress bar for all long work."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int, label: str, show: bool = True, unit: str = "img") -> Any:
    """A tqdm bar (a context manager with ``update``), hidden if ``show`` is false."""
    return tqdm(total=total, desc=label, unit=unit, disable=not show, leave=False, dynamic_ncols=True)
