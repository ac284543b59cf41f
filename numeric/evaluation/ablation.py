"""Exact expected errors by scale and orientation, of fits and of fits to ablated moments, with folds for their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.data import ImageSet
from numeric.noise import NoiseLevel
from numeric.scores.cumulants import gaussianise, solve_projected
from numeric.scores.folds import FoldedFit, jackknife
from numeric.scores.moments import CleanMoments
from numeric.scores.own import Solution, WaveletScore
from numeric.scores.solve import held_out_error


def target_errors(model: WaveletScore, solution: Solution, moments: CleanMoments | None = None) -> Tensor:
    """Exact expected squared error of every coefficient, ``(channels * n_coefficients,)``.

    Args:
        moments: of other (held-out) data; None for the fitted data.
    """
    out = torch.empty_like(model.mean_)
    tables = None if moments is None else moments.central()
    mean = None if moments is None else moments.mean
    for index, (block, part) in enumerate(zip(model.moments_.blocks, solution.blocks)):
        targets = torch.as_tensor(block.block.targets, device=out.device)
        if tables is None:
            out[targets] = part.expected_error
        else:
            variables = torch.as_tensor(block.block.variables, device=out.device)
            out[targets] = held_out_error(part, tables[index], mean[variables].T, solution.noise)  # type: ignore[index]
    return out


def by_band(model: WaveletScore, errors: Tensor) -> dict[tuple[int, str], float]:
    """Errors ``(channels * n_coefficients,)`` summed over each band and divided by the image's number of values."""
    per = errors.reshape(-1, model.transform_.n_coefficients)
    pixels = per.shape[0] * model.transform_.shape[0] * model.transform_.shape[1]
    return {(b.scale, b.orientation): float(per[:, b.start : b.stop].sum()) / pixels for b in model.transform_.bands}


class FamilyFit:
    """A fitted family with its exact errors by fold of both splits."""

    def __init__(self, model: WaveletScore, train: ImageSet, test: ImageSet, folds: int, progress: bool) -> None:
        self.folded = FoldedFit(model, {"train": train, "test": test}, folds, progress=progress)
        self.model = self.folded.model

    def errors(self, noise: NoiseLevel, degree: int) -> dict[str, Any]:
        """Errors by band, one dictionary per fold of each split."""
        return self._errors(self.model.solve(noise, degree))

    def _errors(self, solution: Solution) -> dict[str, Any]:
        return {
            split: [by_band(self.model, errors) for errors in self.folded.target_errors([solution], split)[:, 0]]
            for split in self.folded.tables
        }

    def ablated(self, noise: NoiseLevel, degree: int, orders: Sequence[int]) -> tuple[dict[str, Any], float]:
        """Errors on the true moments of denoisers solved from ablated ones, and the share of directions left out."""
        blocks, lost, count = [], 0.0, 0
        for block, table, mean in zip(self.model.moments_.blocks, self.model.central_, self.folded.means):
            part, share = solve_projected(gaussianise(table, block.plan, orders), mean, block.plan, noise, degree)
            blocks.append(part)
            lost, count = lost + float(share.sum()), count + len(share)
        return self._errors(Solution(noise, degree, tuple(blocks))), lost / count


def falls(base: dict[str, Any], other: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Rows of the relative fall of the error from ``base`` to ``other`` per split and band, and for the whole image.

    ``gain`` is ``1 - other / base`` on all images of the split; ``se`` its jackknife standard error over folds (paired).
    """
    rows = []
    for split in ("train", "test"):
        keys = list(base[split][0])
        for key in [*keys, ("all", "all")]:
            chosen = keys if key == ("all", "all") else [key]
            a = np.array([sum(fold[k] for k in chosen) for fold in base[split]])
            b = np.array([sum(fold[k] for k in chosen) for fold in other[split]])
            gain = jackknife(lambda x, y: 1 - y / x, a, b)
            where = {"split": split, "scale": key[0], "orientation": key[1]}
            errors = {"error": float(b.mean()), "reference_error": float(a.mean())}
            rows.append({**fields, **where, "gain": gain["value"], "se": gain["se"], **errors})
    return rows
