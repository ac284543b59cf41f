"""The delete-a-group jackknife over merged moments: standard errors of anything that is fitted, by fitting it again.

Moments add up, so one pass gives those of every group of images and, merged, those of all images but a group; each is solved
again, which reads no image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.data import as_image_set
from numeric.progress import progress_bar

GROUPS = 20
"""Groups of images; the relative error of a standard error from K groups is at least about ``1 / sqrt(2 (K - 1))``, 16 % for 20."""


@dataclass(frozen=True)
class StandardErrors:
    """What the choice of the images leaves open in a fit at one noise level.

    Attributes:
        method: ``"delta"`` or ``"jackknife"``.
        images: n, on which the model was fitted: the errors are those of a fit on so many.
        theta: one standard error for every coefficient, in the shape and order of the solution's: for the own readout a table
            ``(groups, features)`` a block, as ``model.solve(noise).blocks[i].theta``; for the shared one ``(P, outputs)``; for those
            of the Wiener estimate ``(1 + N + Q, outputs)``: constant, linear map and weights of its ``PlainReadout``.
        theta_error: relative standard errors of those, same shapes.
        expected_mse: of the expected MSE per pixel on the fitted images. expected_mse_error: its relative standard error.
        excess: delta only: predicted excess risk per pixel ``tr(G Cov(theta))``: the error beyond that of the best coefficients
            (of the Wiener estimate: in the coordinates of that fit).
        optimism: delta only: by how much the error per pixel on other images is expected to lie above that on the fitted ones
            (about twice the excess).
    """

    method: str
    images: int
    theta: tuple[Tensor, ...]
    theta_error: tuple[Tensor, ...]
    expected_mse: float
    expected_mse_error: float
    excess: float | None = None
    optimism: float | None = None

    def __repr__(self) -> str:
        more = "" if self.excess is None else f", excess {self.excess:.3g}, optimism {self.optimism:.3g}"
        count = sum(part.numel() for part in self.theta)
        return f"StandardErrors({self.method}, {self.images:,} images, expected_mse ± {self.expected_mse:.3g}, {count:,} of theta{more})"


def fold_edges(count: int, folds: int) -> list[tuple[int, int]]:
    """First and last index (exclusive) of ``folds`` contiguous groups of nearly equal size.

    Contiguous, because neighbouring images share a writer in MNIST: what they have in common then stays within a fold.

    Raises:
        ValueError: fewer than two folds, or fewer images than folds.
    """
    if folds < 2:
        raise ValueError(f"folds must be >= 2 for an interval, got {folds}")
    if count < folds:
        raise ValueError(f"{count} images are too few for {folds} folds: use more images or fewer folds")
    edges = np.linspace(0, count, folds + 1).astype(int)
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def relative_error(second: Tensor, fourth: Tensor, count: float, least: float = 1.0) -> Tensor:
    """Relative standard error of a standard deviation from ``count`` values, of their second and fourth central moments.

    ``sqrt((kurtosis - 1) / count) / 2``, the kurtosis taken as ``least`` at least; zero where nothing varies.
    """
    some = second > 1e-150
    kurtosis = torch.where(some, fourth / torch.where(some, second, 1.0).square(), 1.0).clamp_min(least)
    return torch.where(some, ((kurtosis - 1.0) / count).sqrt() / 2.0, 0.0)


def grouped_moments(model: Any, images: Any, groups: int, progress: bool = False) -> list[Any]:
    """Moments of every group of images, with a model's settings (the model need not be fitted, and is not changed)."""
    data = as_image_set(images)
    out: list[Any] = []
    with progress_bar(model.passes * len(data), f"{model.readout} moments of {groups} groups", progress) as bar:
        for low, high in fold_edges(len(data), groups):
            moments = model.new_moments(data.shape)
            if out and hasattr(out[0], "centre"):
                moments.centre = out[0].centre  # sums about one centre add up as they are
            model.accumulate(moments, data.subset(range(low, high)), 1000, bar, None, 30.0)
            moments.pixel_range = data.pixel_range
            out.append(moments)
    return out


def all_but_one(parts: Sequence[Any]) -> Iterator[Any]:
    """Merged moments of all parts but the first, all but the second, ...: about two merges each."""
    after = list(itertools.accumulate(reversed(parts[1:]), lambda one, other: other.merge(one)))[::-1]
    before: Any = None
    for number, part in enumerate(parts):
        if number == len(parts) - 1:
            yield before
        else:
            yield after[number] if before is None else before.merge(after[number])
        before = part if before is None else before.merge(part)


def deviations(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Jackknife standard error of a statistic from its values without each group, K of them, and its relative standard error.

    The latter is that of a standard deviation of K values of their kurtosis, a Gaussian's at least: where few images decide,
    groups are far from Gaussian.
    """
    stacked = torch.stack(list(values))
    k = len(stacked)
    gaps = stacked - stacked.mean(0)
    square = gaps.square().mean(0)
    return (square * (k - 1.0)).sqrt(), relative_error(square, gaps.pow(4).mean(0), k - 1.0, least=3.0)


def refits(model: Any, images: Any, groups: int, progress: bool = False) -> Iterator[Any]:
    """Estimators of a model's settings, fitted without each group of images in turn."""
    for moments in all_but_one(grouped_moments(model, images, groups, progress)):
        yield type(model)(**model.get_params()).fit_moments(moments)


def estimate_errors(
    model: Any, images: Any, y: Tensor, noise: Any, degree: int | None = None, groups: int = GROUPS, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Standard error of every pixel of the unclamped ``D(y)`` by the delete-a-group jackknife, and its relative standard error.

    All that is fitted is fitted again, so it is of the denoiser as it is evaluated, whatever coordinates its coefficients are in.

    Args:
        model: gives the settings; images: those it was fitted on; y: noisy images ``(n, channels, height, width)``.

    Returns:
        Both in the shape of y.

    Example:
        >>> import torch
        >>> from numeric import WienerScore
        >>> from numeric.scores.groups import estimate_errors
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = WienerScore(degree=2, coordinates='pixel')
        >>> error, relative = estimate_errors(model, images, images[:2], 0.5, groups=4)
        >>> error.shape, bool((error > 0).all())
        (torch.Size([2, 1, 8, 8]), True)
    """
    degree = int(model.degree) if degree is None else degree
    return deviations([part.estimate_degrees(y, noise, [degree])[0] for part in refits(model, images, groups, progress)])


def jackknife_errors(
    model: Any, images: Any, noise: Any, degree: int | None, groups: int, theta_of: Callable[[Any], Sequence[Tensor]], progress: bool = False
) -> StandardErrors:
    """Standard errors of a fitted estimator's coefficients and expected MSE by the delete-a-group jackknife.

    Args:
        model: gives the settings; images: those it was fitted on (their number is what the errors are of).
        theta_of: the coefficients of an estimator at this level and degree, in coordinates that do not move with the fit.
    """
    thetas: list[Sequence[Tensor]] = []
    errors, count = [], len(as_image_set(images))
    for part in refits(model, images, groups, progress):
        thetas.append([t.clone() for t in theta_of(part)])
        errors.append(torch.tensor(part.expected_mse(noise, degree), dtype=torch.float64))
    theta = [deviations(column) for column in zip(*thetas)]
    error, relative = deviations(errors)
    return StandardErrors(
        "jackknife", count, tuple(t for t, _ in theta), tuple(r for _, r in theta), float(error), float(relative)
    )
