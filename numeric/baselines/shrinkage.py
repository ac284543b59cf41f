"""Classical wavelet shrinkage: BayesShrink and soft or hard thresholding, in PyWavelets' bases, in torch.

Nothing is learnt from data and sigma is known.  The arithmetic is scikit-image's and PyWavelets' (the tests hold it to
both), written as small matrix products so that a batch is one call and gradients pass.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pywt
import torch
from torch import Tensor

from numeric.baselines.estimator import FittedDenoiser
from numeric.data import as_image_set
from numeric.noise import NoiseLevel
from numeric.wavelets import WaveletError, analysis_matrix

METHODS = ("bayes", "soft", "hard")


@lru_cache(maxsize=64)
def synthesis_matrix(wavelet: str, length: int, mode: str) -> np.ndarray:
    """PyWavelets' inverse of one level along one axis, ``(length, 2 * half)``: what ``idwt`` makes of each coefficient."""
    half = len(analysis_matrix(wavelet, length, mode)) // 2
    eye = np.eye(2 * half)
    return pywt.idwt(eye[:half], eye[half:], wavelet, mode=mode, axis=0)[:length]


def soft_threshold(w: Tensor, threshold: Tensor | float) -> Tensor:
    """``sign(w) max(|w| - t, 0)``."""
    return w.sign() * (w.abs() - threshold).clamp_min(0.0)


def bayes_threshold(w: Tensor, variance: float) -> Tensor:
    """BayesShrink's threshold ``sigma^2 / sigma_x`` of a subband ``(..., rows, columns)``, ``sigma_x^2 = mean(w^2) - sigma^2``.

    Chang, Yu and Vetterli (2000), equation (13); a subband of less power than the noise is removed.
    """
    signal = w.square().mean((-2, -1), keepdim=True) - variance
    return variance / signal.clamp_min(torch.finfo(w.dtype).eps).sqrt()


class WaveletShrinkage(FittedDenoiser):
    """Shrink detail coefficients of each noisy image; nothing is learnt from data, sigma is known.

    Args:
        method: ``bayes``: BayesShrink (Chang, Yu and Vetterli, 2000), a soft threshold ``sigma^2 / sigma_x`` for each subband of
            each channel; ``soft`` or ``hard``: one threshold ``factor * sigma`` for every detail coefficient.
        wavelet: a PyWavelets name. levels: None for PyWavelets' maximum (3 at 32 pixels with
            db2; scikit-image's own default would be 1 there, which leaves coarse noise in).
        mode: PyWavelets' boundary; None for ``symmetric`` with ``bayes`` (as in scikit-image) and ``periodization`` otherwise.
        factor: threshold over sigma; None is the universal ``sqrt(2 ln n)`` for n pixels (Donoho and Johnstone, 1994).
        spins: average over so many circular shifts along either axis (cycle spinning, Coifman and Donoho, 1995), which makes
            the result translation invariant up to ``2^levels`` shifts; 1 is none.

    ``fit`` only remembers shape and pixel range; an unfitted one takes images of any shape.

    Raises:
        ValueError: unknown method, a negative factor, spins below 1.

    Example:
        >>> import torch
        >>> from numeric import WaveletShrinkage
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> shrinkage = WaveletShrinkage('bayes').fit(images)
        >>> shrinkage.denoise(images[:2], 0.2).shape, shrinkage.label
        (torch.Size([2, 1, 8, 8]), 'BayesShrink')
    """

    def __init__(
        self,
        method: str = "bayes",
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str | None = None,
        factor: float | None = None,
        spins: int = 1,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"unknown shrinkage {method!r}: use one of {', '.join(METHODS)}")
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise WaveletError(f"unknown wavelet {wavelet!r}: use one such as 'haar', 'db2' or 'sym4'")
        if mode is not None and mode not in pywt.Modes.modes:
            raise WaveletError(f"unknown mode {mode!r}: use one of {', '.join(pywt.Modes.modes)}")
        if factor is not None and factor < 0:
            raise ValueError(f"factor must be >= 0, got {factor}")
        if spins < 1:
            raise ValueError(f"spins must be >= 1, got {spins}: 1 is no cycle spinning")
        if levels is not None and levels < 1:
            raise ValueError(f"levels must be >= 1, got {levels}")
        self.method, self.wavelet, self.levels, self.mode = method, wavelet, levels, mode
        self.factor, self.spins = factor, spins

    @property
    def label(self) -> str:
        """Name in figures."""
        name = "BayesShrink" if self.method == "bayes" else f"{self.method} threshold"
        return name if self.spins == 1 else f"{name}, {self.spins} x {self.spins} shifts"

    def fit(self, images: Any = None, y: None = None, **_: Any) -> WaveletShrinkage:
        """Remember the images' shape and pixel range; nothing is learnt."""
        if images is not None:
            self.remember(as_image_set(images))
        return self

    def _levels(self, height: int, width: int) -> int:
        if self.levels is not None:
            return self.levels
        levels = pywt.dwt_max_level(min(height, width), self.wavelet)
        if levels < 1:
            raise WaveletError(
                f"{self.wavelet} (filters of {pywt.Wavelet(self.wavelet).dec_len}) is too long for one level of {height} x {width} "
                "pixels: use a shorter wavelet such as 'db2' or 'haar', or ask for levels=1"
            )
        return levels

    def _shrink(self, x: Tensor, sigma: float) -> Tensor:
        height, width = x.shape[-2:]
        mode = self.mode or ("symmetric" if self.method == "bayes" else "periodization")
        factor = math.sqrt(2 * math.log(height * width)) if self.factor is None else self.factor

        def shrink(band: Tensor) -> Tensor:
            if self.method == "bayes":
                return soft_threshold(band, bayes_threshold(band, sigma**2))
            if self.method == "soft":
                return soft_threshold(band, factor * sigma)
            return torch.where(band.abs() < factor * sigma, torch.zeros_like(band), band)

        sizes, details = [], []
        for _ in range(self._levels(height, width)):
            sizes.append((x.shape[-2], x.shape[-1]))
            rows, columns = (torch.from_numpy(analysis_matrix(self.wavelet, n, mode)).to(x) for n in sizes[-1])
            both, h, w = rows @ x @ columns.T, len(rows) // 2, len(columns) // 2
            details.append([shrink(band) for band in (both[..., :h, w:], both[..., h:, :w], both[..., h:, w:])])
            x = both[..., :h, :w]
        for size, (right, below, diagonal) in zip(reversed(sizes), reversed(details)):
            rows, columns = (torch.from_numpy(synthesis_matrix(self.wavelet, n, mode)).to(x) for n in size)
            x = torch.cat([torch.cat([x, right], -1), torch.cat([below, diagonal], -1)], -2)
            x = rows @ x @ columns.T
        return x

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        x, sigma = y / noise.alpha, noise.effective_sigma
        shifts = [(i, j) for i in range(self.spins) for j in range(self.spins)]
        back = [self._shrink(x.roll(s, (-2, -1)), sigma).roll((-s[0], -s[1]), (-2, -1)) for s in shifts]
        return back[0] if len(back) == 1 else torch.stack(back).mean(0)
