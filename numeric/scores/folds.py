"""Exact expected errors on disjoint groups of images, and intervals from them.

Moments add up, so one pass over the images gives the moments of every group (fold) and of all of them.  The error of a
fitted denoiser on a fold, the noise integrated exactly, then needs no image and no noise; its spread over folds is what the
choice of images leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from numeric.data import ImageSet
from numeric.noise import NoiseLevel
from numeric.progress import progress_bar
from numeric.scores.groups import fold_edges
from numeric.scores.own import Solution, WaveletScore
from numeric.scores.solve import expected_error, normal_system


class FoldedFit:
    """An ``own``-readout family fitted on all images of ``splits[fit_on]``, with exact errors per fold of every split.

    Args:
        model: an unfitted :class:`~numeric.scores.own.WaveletScore` with an orthonormal basis; it is fitted here.
        splits: name -> images.
        folds: number of groups of every split.
        fit_on: the split to fit on.
    """

    def __init__(
        self,
        model: WaveletScore,
        splits: Mapping[str, ImageSet],
        folds: int,
        fit_on: str = "train",
        progress: bool = True,
        batch_size: int = 1000,
    ) -> None:
        parts: dict[str, list[Any]] = {}
        total = sum(map(len, splits.values())) + len(splits[fit_on])
        with progress_bar(total, f"moments {model.family}", progress) as bar:
            # A first, cheap pass for the mean: sums about it need no translation fold by fold.
            shape = splits[fit_on].shape
            empty = model.new_moments(shape)
            centre = torch.zeros(shape[0] * empty.transform.n_coefficients, dtype=torch.float64)
            for batch in splits[fit_on].batches(batch_size):
                centre += empty.transform.forward(batch.double()).flatten(1).sum(0)
                bar.update(len(batch))
            centre /= len(splits[fit_on])
            for name, images in splits.items():
                parts[name] = []
                for low, high in fold_edges(len(images), folds):
                    moments = model.new_moments(images.shape)
                    moments.centre = centre
                    for start in range(low, high, batch_size):
                        moments.update(images[start : min(start + batch_size, high)])
                    parts[name].append(moments)
                    bar.update(high - low)
        merged = parts[fit_on][0]
        for part in parts[fit_on][1:]:
            merged = merged.merge(part)
        merged.pixel_range = splits[fit_on].pixel_range
        self.model = model.fit_moments(merged)
        if not model.transform_.is_orthonormal:
            raise ValueError(f"exact pixel errors need an orthonormal basis; {model.transform_} is not")
        # Tables about the fitted mean, the coordinates the solutions are written in: the centre, up to rounding.
        self.means = [model.mean_[torch.as_tensor(b.block.variables)].T for b in merged.blocks]
        self.tables = {
            name: [[block.sums / fold.count for block in fold.blocks] for fold in folds_]
            for name, folds_ in parts.items()
        }

    @property
    def pixels(self) -> int:
        return len(self.model.mean_)

    def target_errors(self, solutions: Sequence[Solution], split: str) -> Tensor:
        """Exact expected squared error ``(folds, len(solutions), coefficients)`` of solutions at one noise level.

        The systems of a fold are set up once, at the largest degree; lower degrees are leading blocks of them.
        """
        noise, degree = solutions[0].noise, self.model.moments_.degree
        if any(s.noise != noise for s in solutions):
            raise ValueError("the solutions must be of one noise level")
        out = torch.empty(len(self.tables[split]), len(solutions), self.pixels, dtype=torch.float64)
        for index, block in enumerate(self.model.moments_.blocks):
            parts = [s.blocks[index] for s in solutions]
            targets = torch.as_tensor(block.block.targets)
            for number, tables in enumerate(self.tables[split]):
                system = normal_system(
                    tables[index], self.means[index], block.plan, noise, degree, scale=parts[0].scale
                )
                for k, part in enumerate(parts):
                    h = torch.zeros_like(system.cross)
                    h[:, : part.denoiser.shape[1]] = part.denoiser
                    out[number, k, targets] = expected_error(h, system)
        return out

    def errors(self, solutions: Sequence[Solution], split: str) -> np.ndarray:
        """Exact expected MSE per pixel, ``(len(solutions), folds)``."""
        return (self.target_errors(solutions, split).sum(-1) / self.pixels).T.numpy()

    def solve(self, noise: NoiseLevel, degrees: Sequence[int]) -> list[Solution]:
        """The exact solutions of several degrees."""
        return [self.model.solve(noise, degree) for degree in degrees]


def jackknife(
    statistic: Callable[..., float], *units: Sequence[float] | np.ndarray, level: float = 0.95
) -> dict[str, float]:
    """A function of means over paired groups, with its delete-one-group jackknife interval.

    Args:
        statistic: of the means of each argument, ``statistic(mean_1, mean_2, ...)``.
        units: per-group values, all of one length K (the same group at the same place: differences are paired).
        level: of the interval, Student's t with K - 1 degrees of freedom.

    Returns: ``value, low, high, se``.

    Raises:
        ValueError: fewer than two groups, or unequal numbers of them.
    """
    lengths = {len(u) for u in units}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(f"need one number of groups, at least two, got {sorted(lengths)}")
    table = np.asarray(units, dtype=float)
    k = table.shape[1]
    value = float(statistic(*table.mean(1)))
    left_out = (table.sum(1, keepdims=True) - table) / (k - 1)
    draws = np.array([statistic(*column) for column in left_out.T])
    se = float(np.sqrt((k - 1) / k * np.square(draws - draws.mean()).sum()))
    half = float(scipy.stats.t.ppf(0.5 + level / 2, k - 1)) * se
    return {"value": value, "low": value - half, "high": value + half, "se": se}
