"""What the data can carry: family, degree and ridge of the lowest predicted risk at a noise level, with the reason in words.

Predicted risk is the exact expected error on the fitted images plus what choosing the coefficients from those images hides,
the gap to other images.  The gap comes from the same moments: the images are cut into groups, every model is solved without
each group and its exact error on that group is taken (no image is read again, no noise drawn).  A fit on n images has the gap of one on
``n (K - 1) / K`` times ``(K - 1) / K``, to first order in 1 / n.  Where coefficients are few against images it is the trace formula
of :meth:`~numeric.scores.base.WaveletEstimator.standard_errors` (its ``optimism``); where they are many that is too small and this is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numeric.data import as_image_set
from numeric.noise import NoiseLevel, as_noise
from numeric.scores.groups import all_but_one, grouped_moments
from numeric.scores.readouts import READOUTS
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.totals import one_thread
from numeric.scores.wiener import WienerScore

GROUPS = 5
MOST_FEATURES = 4000
"""Features of a shared readout that are tried without being asked for."""


@dataclass(frozen=True)
class Candidate:
    """A family to try to a degree, the lower ones too, with several ridges."""

    readout: str
    family: str
    degree: int = 3
    ridges: tuple[float | str, ...] = (1e-10, 1e-2)

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise ValueError(f"unknown readout {self.readout!r}: use one of {', '.join(READOUTS)}")
        if self.degree < 1 or not self.ridges:
            raise ValueError(f"a candidate needs a degree >= 1 and a ridge, got degree {self.degree} and ridges {self.ridges}")
        for ridge in self.ridges:
            self.model(ridge).check_settings()

    def model(self, ridge: float | str, degree: int | None = None) -> Any:
        """An unfitted estimator."""
        return READOUTS[self.readout](self.family, self.degree if degree is None else degree, ridge=ridge)


GRID = (
    Candidate("own", "independent"),
    Candidate("own", "band"),
    Candidate("own", "local"),
    Candidate("shared", "independent", 3, (1e-6, 1e-2)),
)


@dataclass(frozen=True)
class Judged:
    """One setting: exact error on the fitted images, predicted gap to others, their sum, coefficients an output.

    ``shares``: of the groups, the errors without each group on it, ``(K,)``, for paired comparisons.
    """

    readout: str
    family: str
    degree: int
    ridge: float | str
    features: int
    empirical: float
    gap: float
    shares: tuple[float, ...] = field(repr=False)

    @property
    def risk(self) -> float:
        """The predicted risk per pixel."""
        return self.empirical + self.gap

    @property
    def label(self) -> str:
        ridge = self.ridge if isinstance(self.ridge, str) else f"{self.ridge:g}"
        return f"{self.family}, {self.readout} readout, degree {self.degree}, ridge {ridge}"


@dataclass(frozen=True)
class Recommendation:
    """What :func:`recommend` found.

    Attributes:
        model: fitted on all images with the recommended settings. rows: all that was tried, by predicted risk.
        images: how many; noise: at which level. left_out: candidates that were not tried, and why.
    """

    model: Any
    rows: tuple[Judged, ...]
    images: int
    noise: NoiseLevel
    left_out: tuple[str, ...] = ()

    @property
    def best(self) -> Judged:
        """The recommended setting."""
        return self.rows[0]

    def against(self, other: Judged) -> tuple[float, float]:
        """By how much the other's predicted risk is higher, and the standard error of that over groups (paired)."""
        gaps = np.subtract(other.shares, self.best.shares)
        return other.risk - self.best.risk, float(gaps.std(ddof=1) / len(gaps) ** 0.5)

    @property
    def reason(self) -> str:
        """Why, in words."""
        best = self.best
        lines = [
            f"{best.label}: with {self.images:,} images at {self.noise} it is predicted to err by {best.risk:.6f} a pixel, "
            f"{best.empirical:.6f} on the fitted images and {best.gap:.2g} more on others, because its {best.features:,} coefficients "
            f"an output are chosen from {self.images:,} images."
        ]
        same = [r for r in self.rows if (r.readout, r.family, r.ridge) == (best.readout, best.family, best.ridge)]
        for other in sorted(same, key=lambda r: r.degree):
            if abs(other.degree - best.degree) == 1:
                fitted, gap = other.empirical - best.empirical, other.gap - best.gap
                lines.append(
                    f"Degree {other.degree} changes the fitted error by {fitted:+.2g} and the gap by {gap:+.2g}: {fitted + gap:+.2g} together."
                )
        others = [r for r in self.rows if (r.readout, r.family) != (best.readout, best.family)]
        if others:
            more, error = self.against(others[0])
            close = "the groups do not tell them apart" if more < 2 * error else "more than two standard errors of the groups"
            lines.append(f"The best of another family, {others[0].label}, is {more:.2g} higher ({more / best.risk:.1%}; {close}).")
        return " ".join([*lines, *self.left_out])


def features_of(model: Any, degree: int) -> int:
    """Coefficients of one output of a fitted estimator (of the own readout: on average)."""
    if isinstance(model, SharedWaveletScore | WienerScore):
        return int(model.count(degree))
    blocks = model.moments_.blocks
    total = sum(len(b.block.variables) * len(b.plan.features(degree)) for b in blocks)
    return round(total / sum(len(b.block.variables) for b in blocks))


def judged(candidate: Candidate, parts: Sequence[Any], merged: Any, noise: NoiseLevel) -> list[Judged]:
    """All degrees and ridges of a candidate, from the moments of all groups and of all together.

    The own readout is solved on one thread: its systems are thousands of short steps, at each of which threads would wait for
    each other, by spinning, which takes minutes where other programs hold the cores.
    """
    with one_thread() if candidate.readout == "own" else nullcontext():
        return _judged(candidate, parts, merged, noise)


def _judged(candidate: Candidate, parts: Sequence[Any], merged: Any, noise: NoiseLevel) -> list[Judged]:
    out, k = [], len(parts)
    rest = list(all_but_one(parts))
    for ridge in candidate.ridges:
        whole = candidate.model(ridge).fit_moments(merged)
        without = [candidate.model(ridge).fit_moments(moments) for moments in rest]
        for degree in range(1, candidate.degree + 1):
            shares = tuple(model.expected_mse(noise, degree, part) for model, part in zip(without, parts))
            empirical = whole.expected_mse(noise, degree)
            weights = np.array([part.count for part in parts], dtype=float)
            gap = (float(np.average(shares, weights=weights)) - empirical) * (k - 1) / k
            out.append(
                Judged(candidate.readout, candidate.family, degree, ridge, features_of(whole, degree), empirical, gap, shares)
            )
    return out


def recommend(
    images: Any, noise: NoiseLevel | float, candidates: Sequence[Candidate] | None = None, groups: int = GROUPS, progress: bool = False
) -> Recommendation:
    """Which family, degree and ridge these images can carry at a noise level.

    Args:
        images: anything :func:`numeric.data.as_image_set` takes. candidates: what to try (default :data:`GRID`, without shared
            readouts of more than :data:`MOST_FEATURES` features). groups: K, contiguous.

    Raises:
        ValueError: a noise level, fewer than two groups or than two images a group, no candidates.

    Example:
        >>> import torch
        >>> from numeric.scores.recommend import Candidate, recommend
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> found = recommend(images, 0.5, [Candidate('own', 'independent', 2, (1e-6,))], groups=4)
        >>> found.model.degree, found.model.denoise(images[:2], 0.5).shape
        (1, torch.Size([2, 1, 8, 8]))
    """
    level, data = as_noise(noise), as_image_set(images)
    if groups < 2:
        raise ValueError(f"groups must be >= 2, got {groups}")
    if len(data) < 2 * groups:
        raise ValueError(f"{len(data)} images are too few for {groups} groups of at least two: give more images or fewer groups")
    wanted, left_out = list(GRID if candidates is None else candidates), []
    if not wanted:
        raise ValueError("there is nothing to choose from: give candidates")
    for one in wanted:
        if not isinstance(one, Candidate):
            raise ValueError(f"a candidate is a Candidate such as Candidate('own', 'local', 3), got {one!r}")
    for one in list(wanted) if candidates is None else ():
        size = 1 + one.degree * int(np.prod(data.shape))
        if one.readout == "shared" and size > MOST_FEATURES:
            wanted.remove(one)
            left_out.append(f"Not tried: {one.family}, shared readout, whose {size:,} features take long; ask for it with candidates=.")
    for one in list(wanted):
        basis = one.model(one.ridges[0]).new_transform(data.shape)
        if one.readout == "own" and not basis.is_orthonormal:
            wanted.remove(one)
            left_out.append(f"Not tried: {one.family}, own readout, whose exact error needs {basis.to_orthonormal}.")
    if not wanted:
        raise ValueError(" ".join([*left_out, "Give images of such sizes, or shared candidates"]))
    rows: list[Judged] = []
    kept: dict[tuple[str, str], Any] = {}
    for one in wanted:
        parts = grouped_moments(one.model(one.ridges[0]), data, groups, progress)
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part)
        rows += judged(one, parts, merged, level)
        kept[one.readout, one.family] = merged
    rows.sort(key=lambda row: row.risk)
    best = rows[0]
    model = READOUTS[best.readout](best.family, best.degree, ridge=best.ridge).fit_moments(kept[best.readout, best.family])
    return Recommendation(model, tuple(rows), len(data), level, tuple(left_out))
