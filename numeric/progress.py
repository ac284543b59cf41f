"""One progress bar for all long work."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int, label: str, show: bool = True, unit: str = "img", done: int = 0) -> Any:
    """A tqdm bar (a context manager with ``update``), hidden if ``show`` is false.

    Args:
        done: units that an earlier run finished: in the bar, not in its rate and the time that it foresees.
    """
    return tqdm(total=total, desc=label, unit=unit, initial=done, disable=not show, leave=False, dynamic_ncols=True)
