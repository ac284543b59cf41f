"""Optimal empirical denoiser: the exact posterior mean when the data are the training images themselves."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from numeric.baselines.estimator import FittedDenoiser
from numeric.baselines.softmax import RunningSoftmax, resident
from numeric.data import ImageSet, as_image_set
from numeric.noise import NoiseLevel, as_noise

SKETCH = 128
"""Principal directions of the coarse distance."""

WORTHWHILE = 2000
"""Training images from which on the coarse distance is used."""


class OptimalDenoiser(FittedDenoiser):
    """``D(y) = sum_i softmax_i(-|y / a - x_i|^2 / (2 sigma^2)) x_i`` over all training images.

    This is the minimiser of the denoising loss on the training set (it memorises; Li et al., 2024): a lower bound on its
    training error, not a model of new images.

    Coarse to fine: with B the training set's leading principal directions and r what lies outside of them,
    ``|y - x|^2 >= |B^T (y - x)|^2 + (r_y - r_x)^2``.  An image for which this exceeds the nearest one's distance by
    ``2 sigma^2 log(n / tolerance)`` weighs less than ``tolerance / n`` of it and is left out.  Where that leaves more than a
    quarter of the images (much noise), all distances are worked out in chunks, and only the sum leaves such images out.

    Args:
        chunk: training images at a time. tolerance: bound on the weight of all images that are left out; 0 leaves out none.

    Memory is one chunk of training images and its weights (all chunks' weights while a gradient is taken).

    Raises:
        ValueError: chunk below 1, tolerance outside [0, 1).

    Example:
        >>> import torch
        >>> from numeric import OptimalDenoiser, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> optimal = OptimalDenoiser().fit(images)
        >>> float((optimal.denoise(images[:3], 0.05) - images[:3]).abs().max()) < 1e-6  # it knows them
        True
        >>> optimal.log_density(images[:3], ve(0.05)).shape
        torch.Size([3])
    """

    label = "optimal empirical"

    def __init__(self, chunk: int = 4000, tolerance: float = 1e-7) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1 image, got {chunk}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be in [0, 1), got {tolerance}: 0 leaves no image out")
        self.chunk, self.tolerance = chunk, tolerance

    def fit(self, images: Any, y: None = None, **_: Any) -> OptimalDenoiser:
        """Keep the images (read once, where they take no more than 1 GiB) and, of many, their coarse coordinates."""
        data = as_image_set(images)
        self.data_: ImageSet = resident(data)
        pixels = math.prod(data.shape)
        self.sketch_: Sketch | None = None
        if self.tolerance > 0 and len(data) >= WORTHWHILE and pixels >= 4 * SKETCH:
            self.sketch_ = Sketch(self.data_, SKETCH)
        self.remember(data)
        return self

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        data, query = self.learned("data_"), (y / noise.alpha).flatten(1)
        variance = noise.effective_sigma**2
        if self.sketch_ is not None:
            margin = 2 * variance * math.log(len(data) / self.tolerance)
            few = self.sketch_.near(query.detach(), data, margin, len(data) // 4)
            if few is not None:
                rows = []
                for image, index in zip(query, few):
                    x = data[index].to(y).flatten(1)
                    rows.append(torch.softmax(-0.5 / variance * (x - image).square().sum(1), 0) @ x)
                return torch.stack(rows).reshape(y.shape)
        state = RunningSoftmax()
        for batch in data.batches(self.chunk):
            x = batch.to(y).flatten(1)
            logits = torch.addmm(x.square().sum(1), query, x.T, beta=-0.5 / variance, alpha=1 / variance)
            state.add(logits, 1, partial(self._sum, x))
        return state.mean.reshape(y.shape)

    def _sum(self, x: Tensor, p: Tensor) -> Tensor:
        """``p @ x`` without the images that weigh nothing for any row; p is relative to the nearest image so far."""
        kept = torch.nonzero(p.detach().amax(0) > self.tolerance / len(self.data_)).flatten()
        return p @ x if 2 * len(kept) > len(x) else p[:, kept] @ x[kept]

    def log_density(self, y: Any, noise: NoiseLevel | float) -> Tensor:
        """Natural logarithm of ``mean_i N(y; a x_i, s^2 I)``, the density whose score this is, ``(n,)`` float64."""
        data, noise = self.learned("data_"), as_noise(noise)
        query, parts = self.readable(y).flatten(1).double(), []
        for batch in data.batches(self.chunk):
            parts.append(-0.5 * torch.cdist(query, noise.alpha * batch.to(query).flatten(1)).square() / noise.sigma**2)
        pixels = query.shape[1]
        total = torch.cat(parts, 1).logsumexp(1) - math.log(len(data))
        return total - 0.5 * pixels * math.log(2 * math.pi * noise.sigma**2)


class Sketch:
    """Coordinates of the training images along their leading principal directions, and the norm of the rest."""

    def __init__(self, data: ImageSet, directions: int) -> None:
        step = max(1, len(data) // 4000)
        sample = data[::step].flatten(1)
        self.mean = sample.mean(0)
        covariance = torch.cov((sample - self.mean).T)
        self.basis = torch.linalg.eigh(covariance)[1][:, -directions:].contiguous()
        parts = [self.place(batch.flatten(1)) for batch in data.batches(4000)]
        self.inside, self.outside = (torch.cat(part) for part in zip(*parts))

    def place(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates ``(n, directions)`` and the norm outside ``(n,)``."""
        d = x - self.mean.to(x)
        inside = d @ self.basis.to(x)
        return inside, (d.square().sum(1) - inside.square().sum(1)).clamp_min(0.0).sqrt()

    def near(self, query: Tensor, data: ImageSet, margin: float, most: int) -> list[Tensor] | None:
        """For each query the training images that may be within ``margin`` of the nearest one's squared distance.

        None as soon as they are more than ``most`` for one query.
        """
        out = []
        keys, rest = self.inside.to(query), self.outside.to(query)
        for part in (query[:4], *query[4:].split(64)):  # a few first: with much noise they already say no
            if len(part) == 0:
                continue
            inside, outside = self.place(part)
            coarse = torch.addmm(keys.square().sum(1), inside, keys.T, alpha=-2.0).add_(inside.square().sum(1)[:, None])
            # Rests are taken as orthogonal to choose a near image, whose distance is then worked out exactly.
            nearest = torch.add(coarse, rest.square()).argmin(1)
            best = (data[nearest].to(query).flatten(1) - part).square().sum(1)
            bound = coarse.add_((outside[:, None] - rest).square_())
            slack = 1e-5 * (best + part.square().sum(1))  # rounding
            close = bound <= (best + margin + slack)[:, None]
            if int(close.sum(1).amax()) > most:
                return None
            out += [torch.nonzero(row).flatten() for row in close]
        return out
