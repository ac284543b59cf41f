"""Sampling with any denoiser: reverse SDE (equation (2), Euler-Maruyama) and probability-flow ODE (Heun), VE and VP.

Both processes run down one schedule of noise-to-signal ratios ``sigma``.  VE is ``y = x + sigma e``; VP is the same path
divided by ``sqrt(1 + sigma^2)``, that is ``alpha = 1 / sqrt(1 + sigma^2)``, ``s = sigma alpha``, whose
own clock is ``tau = log(1 + sigma^2)``.  The exact flows agree up to that factor; their discretisations agree as the steps
shrink.  The last step of every sampler is the denoiser at the smallest sigma, the posterior mean ``E[x | y]``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel, ve
from numeric.progress import progress_bar

METHODS = ("ode", "sde")
PROCESSES = ("ve", "vp")


class SamplingError(ValueError):
    """Sampling cannot start or go on; the message names the value and the fix."""


def edm_sigmas(steps: int = 40, sigma_min: float = 0.02, sigma_max: float = 20.0, rho: float = 7.0) -> list[float]:
    """Decreasing noise levels ``(steps + 1,)``, equally spaced in ``sigma^(1/rho)`` (Karras et al., 2022, equation (5)).

    Args:
        sigma_min, sigma_max: first and last level, noise standard deviation per pixel of images in [0, 1]. Images of
            values in [0, 1] are half the width of those in [-1, 1] for which Karras et al. take 80; 20 to 40 is ample.

    Raises:
        SamplingError: ``steps < 1``, ``rho <= 0``, or not ``0 < sigma_min < sigma_max < inf``.
    """
    if steps < 1:
        raise SamplingError(f"steps must be >= 1, got {steps}")
    if not (0 < sigma_min < sigma_max < math.inf):
        raise SamplingError(f"need 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
    if not rho > 0:
        raise SamplingError(f"rho must be > 0, got {rho}: 7 is usual, 1 spaces the levels equally")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    out = [(high + i / steps * (low - high)) ** rho for i in range(steps + 1)]
    return [sigma_max, *out[1:-1], sigma_min]


def level(process: str, sigma: float) -> NoiseLevel:
    """The noise level of a process at noise-to-signal ratio ``sigma``."""
    if process == "ve":
        return ve(sigma)
    alpha = 1.0 / math.hypot(1.0, sigma)
    return NoiseLevel(alpha, sigma * alpha)


class NoiseStream:
    """Standard normal draws for a fixed number of samples, reproducible and independent of the batch.

    ``NoiseStream.from_seeds([3, 5])`` gives every sample its own generator: sample 5 is the same alone or among others,
    for every denoiser.  ``NoiseStream.from_generator(n, generator)`` draws all samples from one explicit generator.
    """

    def __init__(self, generators: Sequence[torch.Generator], counts: Sequence[int]) -> None:
        self.generators, self.counts = list(generators), list(counts)

    @classmethod
    def from_seeds(cls, seeds: Sequence[int]) -> NoiseStream:
        seeds = list(seeds)
        if not seeds:
            raise SamplingError("no seeds were given: name at least one, such as seeds=range(8)")
        generators = []
        for seed in seeds:
            digest = hashlib.sha256(f"sample {int(seed)}".encode()).digest()
            generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))
        return cls(generators, [1] * len(seeds))

    @classmethod
    def from_generator(cls, n: int, generator: torch.Generator) -> NoiseStream:
        if n < 1:
            raise SamplingError(f"the number of samples must be >= 1, got {n}")
        return cls([generator], [n])

    def __len__(self) -> int:
        return sum(self.counts)

    def draw(self, shape: tuple[int, int, int], dtype: torch.dtype, device: str | torch.device) -> Tensor:
        """``(len(self), channels, height, width)``; drawn on the CPU, so that a GPU sees the same numbers."""
        parts = [
            torch.randn(n, *shape, generator=generator, dtype=dtype, device=generator.device).cpu()
            for generator, n in zip(self.generators, self.counts)
        ]
        return torch.cat(parts).to(device)


@dataclass(frozen=True)
class Sampler:
    """How to go from noise to images.

    Attributes:
        sigmas: decreasing noise-to-signal ratios, such as :func:`edm_sigmas` gives.
        method: ``"ode"``, the probability-flow ODE by Heun's method (order 2, two evaluations a step), or ``"sde"``, the
            reverse SDE by Euler-Maruyama (weak order 1).
        process: ``"ve"`` or ``"vp"``.
        clip_denoised: clamp every denoised image to [0, 1] before stepping. A polynomial denoiser extrapolates without
            bound where no training image with noise lies; clipping keeps it in range, at the price of not being the
            family's own score there. Off by default.
        denoise_last: end with the posterior mean at the smallest sigma; else return the state there.
        dtype, device: of the state.
    """

    sigmas: Sequence[float]
    method: str = "ode"
    process: str = "ve"
    clip_denoised: bool = False
    denoise_last: bool = True
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SamplingError(f"unknown method {self.method!r}: use 'ode' (Heun) or 'sde' (Euler-Maruyama)")
        if self.process not in PROCESSES:
            raise SamplingError(f"unknown process {self.process!r}: use 've' or 'vp'")
        levels = list(self.sigmas)
        if len(levels) < 2:
            raise SamplingError(f"need at least two noise levels, got {levels}: use edm_sigmas(steps)")
        if not all(math.isfinite(s) and s > 0 for s in levels):
            raise SamplingError(f"noise levels must be finite and > 0, got {levels}")
        if any(b >= a for a, b in itertools.pairwise(levels)):
            raise SamplingError(f"noise levels must decrease, got {levels}: reverse or sort them")

    # ----- one evaluation ------------------------------------------------------------------------------------------------

    def _denoised(self, denoiser: Denoiser, y: Tensor, sigma: float) -> Tensor:
        _check_finite(y, denoiser, f"at sigma={sigma:g}")  # also the predicted state inside a Heun step
        return denoiser.denoise(y, level(self.process, sigma), clamp=self.clip_denoised)

    def velocity(self, denoiser: Denoiser, y: Tensor, sigma: float) -> Tensor:
        """``dy / dsigma`` of the probability-flow ODE.

        VE: ``-sigma score``; VP: ``-(y + score) / 2`` per unit of ``tau = log(1 + sigma^2)``, times ``dtau / dsigma``.
        """
        noise, x = level(self.process, sigma), self._denoised(denoiser, y, sigma)
        score = (noise.alpha * x - y) / noise.sigma**2
        if self.process == "ve":
            return -sigma * score
        return -(sigma / (1.0 + sigma**2)) * (y + score)

    def _ode_step(self, denoiser: Denoiser, y: Tensor, sigma: float, below: float) -> Tensor:
        h = below - sigma
        first = self.velocity(denoiser, y, sigma)
        second = self.velocity(denoiser, y + h * first, below)
        return y + (h / 2) * (first + second)

    def _sde_step(self, denoiser: Denoiser, y: Tensor, sigma: float, below: float, z: Tensor) -> Tensor:
        noise, x = level(self.process, sigma), self._denoised(denoiser, y, sigma)
        score = (noise.alpha * x - y) / noise.sigma**2
        if self.process == "ve":  # the clock is sigma^2
            dt = sigma**2 - below**2
            return y + dt * score + math.sqrt(dt) * z
        dt = math.log1p(sigma**2) - math.log1p(below**2)
        return y + dt * (y / 2 + score) + math.sqrt(dt) * z

    # ----- whole runs ----------------------------------------------------------------------------------------------------

    def start(self, noise: NoiseStream, shape: tuple[int, int, int]) -> Tensor:
        """The state at the largest sigma, ``s e``: the noise alone, the image neglected beside it."""
        if len(shape) != 3 or min(shape) < 1:
            raise SamplingError(f"shape must be (channels, height, width), got {tuple(shape)}")
        return level(self.process, self.sigmas[0]).sigma * noise.draw(shape, self.dtype, self.device)

    def run(self, denoiser: Denoiser, noise: NoiseStream, shape: tuple[int, int, int], progress: bool = True) -> Tensor:
        """Samples ``(len(noise), channels, height, width)``, not clamped.

        Raises:
            SamplingError: bad shape, or the state became infinite (the message names the step).
        """
        y = self.start(noise, shape)
        title = f"{self.method} {self.process} {_name(denoiser)}"
        with progress_bar(len(self.sigmas), title, progress, "step") as bar:
            for sigma, below in zip(self.sigmas, self.sigmas[1:]):
                if self.method == "ode":
                    y = self._ode_step(denoiser, y, sigma, below)
                else:
                    z = noise.draw(shape, self.dtype, self.device)
                    y = self._sde_step(denoiser, y, sigma, below, z)
                _check_finite(y, denoiser, f"between sigma={sigma:g} and {below:g}")
                bar.update()
            if self.denoise_last:
                y = self._denoised(denoiser, y, self.sigmas[-1])
                _check_finite(y, denoiser, f"at sigma={self.sigmas[-1]:g}")
            bar.update()
        return y


def _name(denoiser: Denoiser) -> str:
    return getattr(denoiser, "label", type(denoiser).__name__)


def _check_finite(y: Tensor, denoiser: Denoiser, where: str) -> None:
    if not torch.isfinite(y).all():
        raise SamplingError(
            f"{_name(denoiser)}: the state became infinite {where}: a polynomial denoiser extrapolates; use clip_denoised=True, "
            "more steps or a lower degree"
        )


def compare(
    denoisers: Mapping[str, Denoiser],
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    sampler: Sampler,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Samples of several denoisers from the same noise, seed by seed (the comparison Section 5.1 asks for).

    Every denoiser starts from the same state and, for the SDE, sees the same Brownian increments.

    Returns: label -> ``(len(seeds), channels, height, width)``.
    """
    return {
        label: sampler.run(denoiser, NoiseStream.from_seeds(seeds), shape, progress)
        for label, denoiser in denoisers.items()
    }
