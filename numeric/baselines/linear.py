"""Optimal linear (Gaussian, Wiener) denoiser: ``D(y) = mu + U diag(l / (l + sigma^2)) U^T (y - mu)``, equations (25), (26)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from numeric.data import as_image_set
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar


class LinearDenoiser(Denoiser):
    """Wiener denoiser of the data's mean and covariance; one eigendecomposition serves every noise level.

    Fitting is one streaming pass: memory is ``pixels^2`` plus a batch.
    """

    label = "linear"

    def fit(self, images: Any, y: None = None, *, batch_size: int = 1000, progress: bool = False) -> LinearDenoiser:
        """Accumulate mean and covariance of ``(n, channels, height, width)`` images, then diagonalise."""
        data = as_image_set(images)
        pixels = data.shape[0] * data.shape[1] * data.shape[2]
        shift = data[:1].double().flatten(1)[0]
        total, second = (
            torch.zeros(pixels, dtype=torch.float64),
            torch.zeros(pixels, pixels, dtype=torch.float64),
        )
        with progress_bar(len(data), "covariance", progress) as bar:
            for batch in data.batches(batch_size):
                x = batch.double().flatten(1) - shift
                total += x.sum(0)
                second.addmm_(x.T, x)
                bar.update(len(x))
        mean = total / len(data)
        covariance = second / len(data) - torch.outer(mean, mean)
        self.mean_ = mean + shift
        eigenvalues, self.eigenvectors_ = torch.linalg.eigh(covariance)
        self.eigenvalues_ = eigenvalues.clamp_min_(0.0)
        return self

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        mean, vectors = self.mean_.to(y), self.eigenvectors_.to(y)
        gain = (self.eigenvalues_ / (self.eigenvalues_ + noise.effective_sigma**2)).to(y)
        centred = y.flatten(1) / noise.alpha - mean
        return (((centred @ vectors) * gain) @ vectors.T + mean).reshape(y.shape)

    def expected_mse(self, noise: NoiseLevel | float) -> float:
        """Exact expected MSE per pixel on the fitted data, before clamping: ``mean_i l_i s^2 / (l_i + s^2)``."""
        s2 = as_noise(noise).effective_sigma ** 2
        return float((self.eigenvalues_ * s2 / (self.eigenvalues_ + s2)).mean())
