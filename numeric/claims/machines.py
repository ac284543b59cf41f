"""The machines a sentence can be about (readout, fit, error), their errors, and effects made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numeric.claims.config import SPLITS, Skipped, Units, find
from numeric.claims.effects import AGAINST, CONSTRUCTED, SKIPPED, Effect, by_setting, describe, extremes, measured
from numeric.claims.exact import fit_name
from numeric.claims.intervals import repeated_jackknife
from numeric.claims.measure import Measurements

EQUAL = 1e-6
"""Effects and intervals within this (per cent or points) are rounding: the two sides are the same denoiser."""
NESTED = "nested features and an exact fit: the expected training error cannot come out otherwise"


@dataclass(frozen=True)
class Machine:
    """A denoiser of the paper, and how its error is measured.

    Attributes:
        readout: ``own`` or ``shared``. samples: noisy samples of the fit, None: noise integrated exactly.
        error: ``expected`` (exact, before clamping) or ``clamped`` (on drawn noise, as the paper).
    """

    readout: str
    samples: int | None
    error: str

    @property
    def fit(self) -> str:
        return "exact fit" if self.samples is None else fit_name(self.samples)

    def setting(self, split: str, **more: Any) -> dict[str, Any]:
        return {"readout": self.readout, "fit": self.fit, "split": split, "error": self.error, **more}

    @property
    def minimises_training_error(self) -> bool:
        """Whether its expected training error, as measured, is the very minimum over its features."""
        return self.readout == "own" and self.samples is None and self.error == "expected"


def machines(m: Measurements) -> Iterator[tuple[Machine, str]]:
    """Every machine on every split."""
    exact = [Machine("own", None, "expected"), Machine("own", None, "clamped"), Machine("shared", None, "clamped")]
    drawn = [Machine("own", n, "expected") for n in m.config.samples]
    drawn += [Machine("shared", n, "clamped") for n in m.shared_samples]
    for machine in (*exact, *drawn):
        for split in SPLITS:
            yield machine, split


def errors(
    m: Measurements,
    machine: Machine,
    size: int,
    split: str,
    family: str,
    sigma: float,
    degree: int | None = None,
    metric: str = "mse",
    images: str = "all",
) -> Units:
    """Errors ``(repeats, groups)`` of a family, or of the linear denoiser on the same images and noise; None: not planned."""
    wanted = {"split": split, "family": family, "sigma": sigma, "degree": degree}
    if machine.error == "expected":
        if metric != "mse":
            return None
        if family == "linear":
            return find(m.rows("linear", size), **wanted)
        if machine.samples is None:
            return find(m.rows("exact", size, family), **wanted)
        return find(m.rows("sampled", size, family, machine.samples), **wanted) if size == m.small else None
    if family == "linear" or machine.readout == "own":
        return find(m.rows("drawn", size), **wanted, metric=metric, images=images)
    return find(m.shared_rows(size, family, machine.samples, sigma), **wanted, metric=metric, images=images)


def effect(
    setting: dict[str, Any], cell: dict[str, Any], statistic: Callable[..., float], *units: Units, constructed: str = ""
) -> list[Effect]:
    """One effect with its interval; none if something isn't planned, without a number if something was left out.

    Args:
        constructed: why it could not have come out against the claim.
    """
    if any(u is None for u in units):
        return []
    skipped = [u for u in units if isinstance(u, Skipped)]
    if skipped:
        return [Effect(setting, cell, status=SKIPPED, reason=str(skipped[0]))]
    with np.errstate(divide="ignore", invalid="ignore"):
        j = repeated_jackknife(statistic, *[np.asarray(u) for u in units])
    numbers = (j["value"], j["low"], j["high"], j["df"])
    if abs(j["value"]) < EQUAL and j["high"] - j["low"] < EQUAL:
        return [Effect(setting, cell, *numbers, status=AGAINST, reason="equal to rounding: both are the same denoiser")]
    if constructed:
        return [Effect(setting, cell, *numbers, status=CONSTRUCTED, reason=constructed)]
    return [Effect(setting, cell, *numbers)]


def fall(before: float, after: float) -> float:
    """Fall of an error in per cent."""
    return 100.0 * (1.0 - after / before)


def best_errors(m: Measurements, machine: Machine, size: int, split: str, families: Sequence[str], sigma: float, images: str = "all"):
    """Errors of all families at all degrees from 2 that were measured, for the best of them; what was left out is left out."""
    found = [errors(m, machine, size, split, f, sigma, d, images=images) for f in families for d in m.config.degrees[1:]]
    kept = [u for u in found if isinstance(u, np.ndarray)]
    return kept or [found[0]]


def range_text(effects: Sequence[Effect], unit: str = "%") -> str:
    """``from a to b`` with the cells of the extremes."""
    if not measured(effects):
        return "not measured"
    low, high = extremes(effects)
    return f"{low.value:+.2f}{unit} ({describe(low.cell)}) to {high.value:+.2f}{unit} ({describe(high.cell)})"


def per_setting(m: Measurements, effects: Sequence[Effect]) -> list[str]:
    """Generic explanation: the range of the effect in each setting."""
    return [f"{describe(e[0].setting)}: {range_text(e, '')}" for e in by_setting(effects).values()]
