"""Optimal empirical denoiser: the exact posterior mean when the data are the training images themselves."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from numeric.baselines.softmax import RunningSoftmax, resident, weighted_sum
from numeric.data import ImageSet, as_image_set
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel


class OptimalDenoiser(Denoiser):
    """``D(y) = sum_i softmax_i(-|y / a - x_i|^2 / (2 sigma^2)) x_i`` over all training images, exact and chunked.

    This is the minimiser of the denoising loss on the training set (it memorises; Li et al., 2024): a lower bound on its
    training error, not a model of new images.  Memory is one chunk of training images and its weights (all chunks' weights
    while a gradient is taken).
    """

    label = "optimal empirical"

    def __init__(self, chunk: int = 4000) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1 image, got {chunk}")
        self.chunk = chunk

    def fit(self, images: Any, y: None = None, **_: Any) -> OptimalDenoiser:
        """Keep the images (read once, where they take no more than 1 GiB)."""
        data = as_image_set(images)
        self.data_: ImageSet = resident(data)
        self.remember(data)
        return self

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        data, query = self.learned("data_"), (y / noise.alpha).flatten(1)
        precision = 1.0 / noise.effective_sigma**2
        state = RunningSoftmax()
        for batch in data.batches(self.chunk):
            x = batch.to(y).flatten(1)
            logits = torch.addmm(x.square().sum(1), query, x.T, beta=-0.5 * precision, alpha=precision)
            state.add(logits, 1, partial(weighted_sum, x))
        return state.mean.reshape(y.shape)

    def log_density(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """Natural logarithm of ``mean_i N(y; a x_i, s^2 I)``, the density whose score this is, ``(n,)`` float64."""
        data, query = self.learned("data_"), y.flatten(1).double()
        parts = []
        for batch in data.batches(self.chunk):
            parts.append(-0.5 * torch.cdist(query, noise.alpha * batch.to(query).flatten(1)).square() / noise.sigma**2)
        pixels = query.shape[1]
        total = torch.cat(parts, 1).logsumexp(1) - math.log(len(data))
        return total - 0.5 * pixels * math.log(2 * math.pi * noise.sigma**2)
