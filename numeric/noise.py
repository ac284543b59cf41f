"""Noise levels ``y = alpha x + sigma e``: VE and VP are one family (equations (1) and (20))."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level of ``y = alpha x + sigma e`` with ``e ~ N(0, I)``.

    VE has ``alpha = 1``; VP has ``alpha^2 + sigma^2 = 1``.  Dividing ``y`` by ``alpha`` turns any level into the
    VE level ``sigma / alpha``, so the two share every denoiser.

    Raises:
        ValueError: ``sigma <= 0`` (the score needs noise) or ``alpha <= 0``, or either is not finite.

    Example:
        >>> from numeric import NoiseLevel
        >>> NoiseLevel(0.5, 0.2).effective_sigma, str(NoiseLevel(1.0, 0.2))
        (0.4, 'VE(sigma=0.2)')
    """

    alpha: float
    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(
                f"sigma must be a finite number > 0, got {self.sigma}: the score of clean data is not defined"
            )
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(
                f"alpha must be a finite number > 0, got {self.alpha}: use 1 for VE, sqrt(alpha_bar) for VP"
            )

    @property
    def effective_sigma(self) -> float:
        """Noise-to-signal ratio ``sigma / alpha``: the VE level with the same denoiser."""
        return self.sigma / self.alpha

    def __str__(self) -> str:
        if self.alpha == 1.0:
            return f"VE(sigma={self.sigma:g})"
        return f"NoiseLevel(alpha={self.alpha:g}, sigma={self.sigma:g})"


def ve(sigma: float) -> NoiseLevel:
    """Variance-exploding level ``y = x + sigma e``.

    Example:
        >>> from numeric import ve
        >>> ve(0.5)
        NoiseLevel(alpha=1.0, sigma=0.5)
    """
    return NoiseLevel(1.0, float(sigma))


def vp(alpha_bar: float) -> NoiseLevel:
    """Variance-preserving level ``y = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) e``.

    Raises:
        ValueError: ``alpha_bar`` outside (0, 1).

    Example:
        >>> from numeric import vp
        >>> vp(0.64)
        NoiseLevel(alpha=0.8, sigma=0.6)
    """
    if not 0.0 < alpha_bar < 1.0:
        raise ValueError(f"alpha_bar must lie strictly between 0 and 1, got {alpha_bar}")
    return NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar))


def ddpm_alpha_bars(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Cumulative ``alpha_bar_t``, shape ``(steps,)``, of the linear-beta DDPM schedule (Ho et al., 2020).

    Example:
        >>> from numeric import ddpm_alpha_bars
        >>> ddpm_alpha_bars()[[0, 999]].round(5)
        array([9.999e-01, 4.000e-05])
    """
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")
    return np.cumprod(1.0 - np.linspace(beta_start, beta_end, steps))


def as_noise(noise: NoiseLevel | float) -> NoiseLevel:
    """Read a bare number as the VE level of that sigma."""
    if isinstance(noise, NoiseLevel):
        return noise
    try:
        sigma = float(noise)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{noise!r} is no noise level: give a number (the VE sigma), ve(sigma) or vp(alpha_bar)") from error
    return ve(sigma)


def as_levels(noise: Any, count: int) -> NoiseLevel | list[NoiseLevel]:
    """One noise level, or one for each of ``count`` images.

    Args:
        noise: a :class:`NoiseLevel`, a number (the VE sigma), an array or tensor of sigmas with one value or ``count``
            values in any shape (such as ``(count, 1, 1, 1)``), or a sequence of ``count`` levels or sigmas.

    Raises:
        ValueError: neither one level nor one for each image.
    """
    if isinstance(noise, NoiseLevel):
        return noise
    if hasattr(noise, "tolist"):  # arrays, tensors and their scalars
        noise = np.asarray(noise.tolist(), dtype=float).ravel().tolist()
    if not isinstance(noise, Sequence):
        return as_noise(noise)
    levels = [as_noise(item) for item in noise]
    if len(levels) not in (1, count):
        raise ValueError(f"got {len(levels)} noise levels for {count} image(s): give one level, or one for each image")
    if len(levels) == 1:
        return levels[0]
    return levels
