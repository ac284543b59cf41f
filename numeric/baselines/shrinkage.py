"""Classical wavelet shrinkage: BayesShrink and soft or hard thresholding, by scikit-image and PyWavelets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pywt
import torch
from skimage.restoration import denoise_wavelet
from torch import Tensor

from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel

METHODS = ("bayes", "soft", "hard")


class WaveletShrinkage(Denoiser):
    """Shrink detail coefficients of each noisy image; nothing is learnt from data, sigma is known.

    Args:
        method: ``bayes``: scikit-image's BayesShrink (Chang, Yu and Vetterli, 2000), a soft threshold ``sigma^2 / sigma_x`` a
            subband; ``soft`` or ``hard``: PyWavelets with one threshold ``factor * sigma`` for every detail coefficient.
        wavelet: a PyWavelets name. levels: None for PyWavelets' maximum (3 at 32 pixels with
            db2; scikit-image's own default would be 1 there, which leaves coarse noise in). mode: boundary (``soft``, ``hard``).
        factor: threshold over sigma; None is the universal ``sqrt(2 ln n)`` for n pixels (Donoho and Johnstone, 1994).

    ``fit`` exists for the common interface and changes nothing.

    Raises:
        ValueError: unknown method, or a factor that is negative.
    """

    def __init__(
        self,
        method: str = "bayes",
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str = "periodization",
        factor: float | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"unknown shrinkage {method!r}: use one of {', '.join(METHODS)}")
        if factor is not None and factor < 0:
            raise ValueError(f"factor must be >= 0, got {factor}")
        self.method, self.wavelet, self.levels, self.mode, self.factor = method, wavelet, levels, mode, factor

    @property
    def label(self) -> str:
        """Name in figures."""
        return "BayesShrink" if self.method == "bayes" else f"{self.method} threshold"

    def fit(self, images: Any = None, y: None = None, **_: Any) -> WaveletShrinkage:
        return self

    def _levels(self, x: np.ndarray) -> int:
        return pywt.dwt_max_level(min(x.shape[-2:]), self.wavelet) if self.levels is None else self.levels

    def _bayes(self, x: np.ndarray, sigma: float) -> np.ndarray:
        return np.stack(
            [
                denoise_wavelet(
                    image,
                    sigma=sigma,
                    wavelet=self.wavelet,
                    wavelet_levels=self._levels(x),
                    method="BayesShrink",
                    mode="soft",
                    channel_axis=0,
                    rescale_sigma=False,
                )
                for image in x
            ]
        )

    def _threshold(self, x: np.ndarray, sigma: float) -> np.ndarray:
        factor = math.sqrt(2 * math.log(x.shape[-1] * x.shape[-2])) if self.factor is None else self.factor
        approximation, *details = pywt.wavedec2(x, self.wavelet, self.mode, self._levels(x), axes=(-2, -1))
        shrunk = [tuple(pywt.threshold(band, factor * sigma, self.method) for band in level) for level in details]
        out = pywt.waverec2([approximation, *shrunk], self.wavelet, self.mode, axes=(-2, -1))
        return out[..., : x.shape[-2], : x.shape[-1]]

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        x = (y / noise.alpha).detach().cpu().double().numpy()
        shrink = self._bayes if self.method == "bayes" else self._threshold
        # scikit-image clips its output only for images of known range; floating ones keep theirs.
        return torch.from_numpy(np.ascontiguousarray(shrink(x, noise.effective_sigma))).to(y)
