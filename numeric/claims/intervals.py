"""Intervals of functions of group means, with the spread of repeated fits beside that of the images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.special


def repeated_jackknife(statistic: Callable[..., float], *units: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """The mean over repeats of a function of means over paired groups, with an interval for images and fits both.

    The variance is that of the delete-one-group jackknife of the repeats' mean (which images were drawn) plus the variance
    between repeats over their number (the noise each fit was made from).  Degrees of freedom by Welch and Satterthwaite.

    Args:
        statistic: of the means of each argument, ``statistic(mean_1, mean_2, ...)``.
        units: ``(repeats, groups)`` each; one repeat stands for all. The same group, and the same repeat, at the same place.

    Returns: ``value, low, high, se, df``.

    Raises:
        ValueError: fewer than two groups, or numbers of groups or repeats that do not go together.
    """
    tables = [np.atleast_2d(np.asarray(u, dtype=float)) for u in units]
    repeats, groups = max(len(t) for t in tables), tables[0].shape[1]
    if groups < 2 or any(t.shape[1] != groups or len(t) not in (1, repeats) for t in tables):
        raise ValueError(f"need one number of groups, at least two, and of repeats, got {[t.shape for t in tables]}")
    table = np.stack([np.broadcast_to(t, (repeats, groups)) for t in tables])  # (arguments, repeats, groups)
    by_repeat = np.array([statistic(*column) for column in table.mean(2).T])
    left_out = (table.sum(2, keepdims=True) - table) / (groups - 1)
    draws = np.array([[statistic(*left_out[:, r, k]) for k in range(groups)] for r in range(repeats)]).mean(0)
    images = (groups - 1) / groups * np.square(draws - draws.mean()).sum()
    fits = by_repeat.var(ddof=1) / repeats if repeats > 1 else 0.0
    total = images + fits
    df = float(groups - 1)
    if fits > 0:
        df = total**2 / (images**2 / (groups - 1) + fits**2 / (repeats - 1))
    half = float(scipy.special.stdtrit(df, 0.5 + level / 2)) * total**0.5
    value = float(by_repeat.mean())
    return {"value": value, "low": value - half, "high": value + half, "se": float(total**0.5), "df": float(df)}
