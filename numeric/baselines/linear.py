"""Optimal linear (Gaussian, Wiener) denoiser: ``D(y) = mu + U diag(l / (l + sigma^2)) U^T (y - mu)``, equations (25), (26)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from numeric.baselines.estimator import FittedDenoiser
from numeric.data import ImageSet, as_image_set
from numeric.memory import need
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar


class LinearDenoiser(FittedDenoiser):
    """Wiener denoiser of the data's mean and covariance; one eigendecomposition serves every noise level.

    The covariance of n images has rank below n.  With at least as many images as pixels it is summed in one streaming pass and
    diagonalised (memory ``pixels^2``); with fewer, the images themselves are decomposed, through their n x n Gram matrix
    (memory ``n x pixels``), and only the directions that they span are kept: all others have eigenvalue zero, and a gain of
    zero, so both ways give the same denoiser.

    Attributes:
        mean_: ``(pixels,)`` float64. eigenvalues_: ``(rank,)``, ascending, >= 0. eigenvectors_: ``(pixels, rank)``, orthonormal.

    Example:
        >>> import torch
        >>> from numeric import LinearDenoiser, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> linear, level = LinearDenoiser().fit(images), ve(0.5)
        >>> linear.denoise(images[:2], level).shape, linear.estimate(images[:2], level).shape, linear.log_density(images[:2], level).shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8]), torch.Size([2]))
        >>> 0.0 < linear.expected_mse(level) < 0.25, linear.jacobian_trace(images[:2], level).shape
        (True, torch.Size([2]))
        >>> abs(linear.unclamped_mse(images, level) - linear.expected_mse(level)) < 1e-12
        True
        >>> linear.gaussian_state(torch.randn(2, 1, 8, 8), level).shape
        torch.Size([2, 1, 8, 8])
    """

    label = "linear"

    def fit(self, images: Any, y: None = None, *, batch_size: int = 1000, progress: bool = False) -> LinearDenoiser:
        """Mean and eigenpairs of the covariance (divided by n) of ``(n, channels, height, width)`` images.

        Raises:
            MemoryError: more is needed than is free; foreseen, with the amount and the ways out.
        """
        data = as_image_set(images)
        self.mean_, self.eigenvalues_, self.eigenvectors_ = eigenpairs(data, batch_size, progress)
        self.remember(data)
        return self

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        eigenvalues = self.learned("eigenvalues_")
        mean, vectors = self.mean_.to(y), self.eigenvectors_.to(y)
        gain = (eigenvalues / (eigenvalues + noise.effective_sigma**2)).to(y)
        centred = y.flatten(1) / noise.alpha - mean
        return (((centred @ vectors) * gain) @ vectors.T + mean).reshape(y.shape)

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy = sum_i l_i / (l_i + s^2) / a``, the same for every image."""
        eigenvalues = self.learned("eigenvalues_")
        trace = float((eigenvalues / (eigenvalues + noise.effective_sigma**2)).sum()) / noise.alpha
        return torch.full_like(y.flatten(1)[:, 0], trace)

    def log_density(self, y: Any, noise: NoiseLevel | float) -> Tensor:
        """Natural logarithm of the Gaussian ``N(alpha mu, alpha^2 C + s^2 I)`` at every image, ``(n,)`` float64."""
        y, noise = self.readable(y), as_noise(noise)
        flat = y.flatten(1).double()
        eigenvalues, mean, vectors = (self.learned(name).to(flat) for name in ("eigenvalues_", "mean_", "eigenvectors_"))
        centred = flat - noise.alpha * mean
        variance, least = noise.alpha**2 * eigenvalues + noise.sigma**2, noise.sigma**2
        inside = centred @ vectors
        outside = (centred.square().sum(1) - inside.square().sum(1)).clamp_min(0.0)
        rest = centred.shape[1] - len(eigenvalues)
        logs = variance.log().sum() + rest * math.log(least) + centred.shape[1] * math.log(2 * math.pi)
        return -0.5 * ((inside.square() / variance).sum(1) + outside / least + logs)

    def expected_mse(self, noise: NoiseLevel | float) -> float:
        """Exact expected MSE per pixel on the fitted data, before clamping: ``sum_i l_i s^2 / (l_i + s^2) / pixels``."""
        eigenvalues, s2 = self.learned("eigenvalues_"), as_noise(noise).effective_sigma ** 2
        return float((eigenvalues * s2 / (eigenvalues + s2)).sum()) / len(self.mean_)

    def unclamped_mse(self, images: Any, noise: NoiseLevel | float) -> float:
        """MSE per pixel on clean images, before clamping: exact, no noise is drawn.

        With the gains ``g_i = l_i / (l_i + s^2)`` the error is ``(1 - g_i) c_i`` of every clean eigencoordinate ``c_i``, the whole of
        what lies outside the eigenvectors' span, and ``s^2 sum_i g_i^2`` from the noise.
        """
        eigenvalues, s2 = self.learned("eigenvalues_"), as_noise(noise).effective_sigma ** 2
        gain, data, total = eigenvalues / (eigenvalues + s2), as_image_set(images), 0.0
        for batch in data.batches(500):
            centred = batch.double().flatten(1) - self.mean_
            inside = (centred @ self.eigenvectors_).square()
            total += float(centred.square().sum() - inside.sum() + (inside * (1 - gain).square()).sum())
        return (total / len(data) + s2 * float(gain.square().sum())) / len(self.mean_)

    def gaussian_state(self, e: Tensor, noise: NoiseLevel) -> Tensor:
        """The noisy state ``N(alpha mu, alpha^2 C + s^2 I)`` that the flow of Gaussian data brings white noise ``e`` to.

        Every eigencoordinate of the probability flow keeps ``(y - alpha mu) / sqrt(alpha^2 l + s^2)``, so that from infinite
        noise, where that ratio is ``e``'s own coordinate, it comes to ``alpha mu + sqrt(alpha^2 C + s^2 I) e`` exactly.

        Args:
            e: standard normal ``(n, channels, height, width)``.
        """
        eigenvalues = self.learned("eigenvalues_")
        mean, vectors = self.mean_.to(e), self.eigenvectors_.to(e)
        # The part outside the kept directions has variance s^2: add only what the others have beyond it.
        more = ((noise.alpha**2 * eigenvalues + noise.sigma**2).sqrt() - noise.sigma).to(e)
        flat = e.flatten(1)
        return (noise.alpha * mean + noise.sigma * flat + ((flat @ vectors) * more) @ vectors.T).reshape(e.shape)


def eigenpairs(data: ImageSet, batch_size: int = 1000, progress: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(pixels,)``, eigenvalues ``(rank,)`` ascending and eigenvectors ``(pixels, rank)`` of images' covariance, float64.

    The covariance is divided by the number of images.  Of fewer images than pixels only the directions that they span come
    back; all others have eigenvalue 0.

    Raises:
        MemoryError: more is needed than is free.
    """
    pixels = math.prod(data.shape)
    way = _from_images if len(data) < pixels else _from_covariance
    return way(data, pixels, batch_size, progress)


def _from_covariance(data: ImageSet, pixels: int, batch_size: int, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, eigenvalues, eigenvectors from the ``pixels x pixels`` covariance, summed in one pass."""
    advice = f"give fewer images than pixels (fit(images.take({max(1, pixels // 8)}))), or resize them"
    need(8 * 5 * pixels**2, f"the covariance of {pixels:,} pixels and its eigenvectors", advice)
    shift = data[:1].double().flatten(1)[0]
    total = torch.zeros(pixels, dtype=torch.float64)
    second = torch.zeros(pixels, pixels, dtype=torch.float64)
    with progress_bar(len(data), "covariance", progress) as bar:
        for batch in data.batches(batch_size):
            x = batch.double().flatten(1) - shift
            total += x.sum(0)
            second.addmm_(x.T, x)
            bar.update(len(x))
        bar.set_description("eigenvectors")
        mean = total / len(data)
        covariance = second.div_(len(data)).sub_(torch.outer(mean, mean))
        eigenvalues, vectors = torch.linalg.eigh(covariance)
    return mean + shift, eigenvalues.clamp_min_(0.0), vectors


def _from_images(data: ImageSet, pixels: int, batch_size: int, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same from the n centred images X, through ``X X^T = Q diag(n l) Q^T`` and ``U = X^T Q / sqrt(n l)``."""
    n = len(data)
    advice = f"give fewer images (fit(images.take({max(1, n // 4)}))), or resize them"
    need(8 * (2 * n * pixels + 5 * n**2), f"{n:,} images of {pixels:,} pixels and as many eigenvectors", advice)
    x = torch.empty(n, pixels, dtype=torch.float64)
    with progress_bar(n, "reading", progress) as bar:
        start = 0
        for batch in data.batches(batch_size):
            x[start : start + len(batch)] = batch.flatten(1)
            start += len(batch)
            bar.update(len(batch))
        bar.set_description("eigenvectors")
        mean = x.mean(0)
        x -= mean
        gram, q = torch.linalg.eigh(x @ x.T)
        kept = gram > n * torch.finfo(torch.float64).eps * gram[-1].clamp_min(torch.finfo(torch.float64).tiny)
        gram, q = gram[kept], q[:, kept]
        vectors = x.T @ (q / gram.sqrt())
    return mean, gram / n, vectors
