"""The interface every denoiser shares: ``denoise`` and, by Tweedie's formula, ``score``."""

from __future__ import annotations

import torch
from torch import Tensor

from numeric.noise import NoiseLevel, as_noise


class Denoiser:
    """Mixin: a subclass gives :meth:`estimate`, the posterior mean ``E[x | y]``."""

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``E[x | y]``, unclamped, in the shape of ``y`` ``(n, channels, height, width)``."""
        raise NotImplementedError

    def denoise(self, y: Tensor, noise: NoiseLevel | float, clamp: bool = True) -> Tensor:
        """Denoised images ``(n, channels, height, width)``.

        Args:
            y: noisy images ``alpha x + sigma e``.
            noise: a :class:`~numeric.noise.NoiseLevel`; a bare number is the VE sigma.
            clamp: clamp to [0, 1], as the paper does before computing MSE.
        """
        check_images(y)
        out = self.estimate(y, as_noise(noise))
        return out.clamp(0.0, 1.0) if clamp else out

    def score(self, y: Tensor, noise: NoiseLevel | float) -> Tensor:
        """Score ``(alpha D(y) - y) / sigma^2`` in the shape of ``y`` (Tweedie's formula)."""
        check_images(y)
        level = as_noise(noise)
        return (level.alpha * self.estimate(y, level) - y) / level.sigma**2


def check_images(y: Tensor) -> None:
    """Raise ValueError unless ``y`` is a finite floating ``(n, channels, height, width)`` tensor."""
    if y.ndim != 4 or not y.is_floating_point():
        raise ValueError(f"expected floating images (n, channels, height, width), got {y.dtype} {tuple(y.shape)}")
    if not torch.isfinite(y).all():
        raise ValueError("the noisy images contain NaN or infinite pixels: remove or replace them")
