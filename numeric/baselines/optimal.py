"""Optimal empirical denoiser: the exact posterior mean when the data are the training images themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from numeric.data import ImageSet, as_image_set
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel


class OptimalDenoiser(Denoiser):
    """``D(y) = sum_i softmax_i(-|y / a - x_i|^2 / (2 sigma^2)) x_i`` over all training images, exact and chunked.

    This is the minimiser of the denoising loss on the training set (it memorises; Li et al., 2024): a lower bound on its
    training error, not a model of new images.  Memory is one chunk of training images and its weights.
    """

    label = "optimal empirical"

    def __init__(self, chunk: int = 4000) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1 image, got {chunk}")
        self.chunk = chunk

    def fit(self, images: Any, y: None = None, **_: Any) -> OptimalDenoiser:
        """Keep a reference to the images; nothing is computed."""
        self.data_: ImageSet = as_image_set(images)
        return self

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        query = (y / noise.alpha).flatten(1)
        precision = 1.0 / noise.effective_sigma**2
        top = torch.full((len(query), 1), -torch.inf, dtype=y.dtype, device=y.device)
        weight = torch.zeros_like(top)
        out = torch.zeros_like(query)
        # Running log-sum-exp: the largest exponent so far is subtracted, and what was summed before is rescaled.
        for batch in self.data_.batches(self.chunk):
            x = batch.to(y).flatten(1)
            logits = (query @ x.T - 0.5 * x.square().sum(1)) * precision
            new_top = torch.maximum(top, logits.amax(1, keepdim=True))
            rescale = torch.exp(top - new_top)
            p = torch.exp_(logits - new_top)
            out = out * rescale + p @ x
            weight = weight * rescale + p.sum(1, keepdim=True)
            top = new_top
        return (out / weight).reshape(y.shape)
