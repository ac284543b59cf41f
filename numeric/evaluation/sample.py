"""Sampling with any denoiser: reverse SDE (equation (2), Euler-Maruyama), probability-flow ODE (Heun, with EDM's churn), DDIM.

Both processes run down one schedule of noise-to-signal ratios ``sigma``.  VE is ``y = x + sigma e``; VP is the same path
divided by ``sqrt(1 + sigma^2)``, that is ``alpha = 1 / sqrt(1 + sigma^2)``, ``s = sigma alpha``, whose
own clock is ``tau = log(1 + sigma^2)``.  The exact flows agree up to that factor; their discretisations agree as the steps
shrink.  The last step of every sampler is the denoiser at the smallest sigma, the posterior mean ``E[x | y]``.

A sampler starts from the state that the flow of Gaussian data reaches at the largest sigma, not from the noise alone: that
forgets the data's mean, and what the flow then loses of it it never regains (:meth:`Sampler.start`).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel, ddpm_alpha_bars, ve
from numeric.progress import progress_bar

METHODS = ("ode", "sde", "ddim")
PROCESSES = ("ve", "vp")
STARTS = ("gaussian", "noise")


class SamplingError(ValueError):
    """Sampling cannot start or go on; the message names the value and the fix."""


def edm_sigmas(steps: int = 40, sigma_min: float = 0.02, sigma_max: float = 20.0, rho: float = 7.0) -> list[float]:
    """Decreasing noise levels ``(steps + 1,)``, equally spaced in ``sigma^(1/rho)`` (Karras et al., 2022, equation (5)).

    Args:
        sigma_min, sigma_max: first and last level, noise standard deviation per pixel of images in [0, 1]. Images of
            values in [0, 1] are half the width of those in [-1, 1] for which Karras et al. take 80. From the default
            start 20 is ample; from the noise alone it is not (see :meth:`Sampler.start`).

    Raises:
        SamplingError: ``steps < 1``, ``rho <= 0``, or not ``0 < sigma_min < sigma_max < inf``.

    Example:
        >>> from numeric import edm_sigmas
        >>> [round(sigma, 3) for sigma in edm_sigmas(3, 0.1, 10.0)]
        [10.0, 2.934, 0.663, 0.1]
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


def ddpm_sigmas(steps: int = 50, train_steps: int = 1000) -> list[float]:
    """Decreasing noise-to-signal ratios ``(steps,)`` on DDPM's linear-beta schedule, as DDIM walks it.

    Every ``train_steps / steps``-th time of the schedule from its end down to its first (Song, Meng and Ermon, 2021, Appendix
    D.3, "linear"); ``sigma_t = sqrt((1 - abar_t) / abar_t)``. For images in [0, 1] these levels lie somewhat high: the schedule
    was made for [-1, 1].

    Raises:
        SamplingError: not ``2 <= steps <= train_steps``.

    Example:
        >>> from numeric import ddpm_sigmas
        >>> [round(sigma, 3) for sigma in ddpm_sigmas(3)]
        [157.407, 3.443, 0.01]
    """
    if not 2 <= steps <= train_steps:
        raise SamplingError(f"steps must be between 2 and train_steps={train_steps}, got {steps}")
    bars = ddpm_alpha_bars(train_steps)
    times = [round((train_steps - 1) * (1 - i / (steps - 1))) for i in range(steps)]
    return [math.sqrt((1 - bars[t]) / bars[t]) for t in times]


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

    Example:
        >>> import torch
        >>> from numeric import NoiseStream
        >>> NoiseStream.from_seeds([3, 5]).draw((1, 2, 2), torch.float32, 'cpu').shape
        torch.Size([2, 1, 2, 2])
        >>> len(NoiseStream.from_generator(4, torch.Generator().manual_seed(0)))
        4
    """

    def __init__(self, generators: Sequence[torch.Generator], counts: Sequence[int]) -> None:
        self.generators, self.counts = list(generators), list(counts)

    @classmethod
    def from_seeds(cls, seeds: Sequence[int]) -> NoiseStream:
        """A generator of its own for every seed: a sample's noise does not depend on which others are drawn with it.

        Raises:
            SamplingError: no seeds.
        """
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
        """All ``n`` samples from one generator, which goes on from where it stands.

        Raises:
            SamplingError: ``n`` below 1.
        """
        if n < 1:
            raise SamplingError(f"the number of samples must be >= 1, got {n}")
        return cls([generator], [n])

    def __len__(self) -> int:
        return sum(self.counts)

    def draw(self, shape: tuple[int, int, int], dtype: torch.dtype, device: str | torch.device) -> Tensor:
        """``(len(self), channels, height, width)``; the same numbers for every type and device.

        They are drawn in float32 on the generator's device (the CPU, unless it was made elsewhere) and then converted.
        """
        parts = [
            torch.randn(n, *shape, generator=generator, dtype=torch.float32, device=generator.device).cpu()
            for generator, n in zip(self.generators, self.counts)
        ]
        return torch.cat(parts).to(device, dtype)


@dataclass(frozen=True)
class Trajectory:
    """A run with what lies between.

    Attributes:
        sigmas: the levels, as many as steps + 1.
        states: ``(levels, n, channels, height, width)``, the state at every level.
        denoised: the same shape, the denoiser's image of every state; with churn, of the state as it was stirred.
        samples: ``(n, channels, height, width)``, what :meth:`Sampler.run` returns.
    """

    sigmas: tuple[float, ...]
    states: Tensor
    denoised: Tensor
    samples: Tensor


@dataclass(frozen=True)
class Sampler:
    """How to go from noise to images.

    Attributes:
        sigmas: decreasing noise-to-signal ratios, such as :func:`edm_sigmas` or :func:`ddpm_sigmas` gives.
        method: ``"ode"``, the probability-flow ODE by Heun's method (order 2, two evaluations a step); ``"sde"``, the
            reverse SDE by Euler-Maruyama (weak order 1); ``"ddim"``, Song, Meng and Ermon's (2021) step, one evaluation
            (order 1; with ``eta`` noise, 1 being DDPM's ancestral sampling).
        process: ``"ve"`` or ``"vp"``. DDIM's steps are the same in both.
        clip_denoised: clamp every denoised image to the range of the denoiser's pixels before stepping. A polynomial denoiser
            extrapolates without bound where no training image with noise lies; clipping keeps it in range, at the price of
            not being the family's own score there. Off by default.
        denoise_last: end with the posterior mean at the smallest sigma; else return the state there.
        dtype, device: of the state (half precision is worked out in float32).
        start_from: ``"gaussian"`` or ``"noise"``, see :meth:`start`.
        gaussian: a fitted :class:`~numeric.baselines.linear.LinearDenoiser` (or anything with its ``gaussian_state``) to
            start from exactly, at any sigma, such as ``edm_sigmas(40, sigma_max=3)``; None: see :meth:`start`.
        eta: noise of DDIM, 0 (none) to 1 (DDPM).
        churn, churn_range, churn_noise: the noise that EDM's sampler adds and takes away again at each step of the ODE:
            ``S_churn``, ``(S_tmin, S_tmax)`` and ``S_noise`` of Karras et al. (2022), Algorithm 2.

    Example:
        >>> import torch
        >>> from numeric import LinearDenoiser, NoiseStream, Sampler, edm_sigmas
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> denoiser, shape = LinearDenoiser().fit(images), (1, 8, 8)
        >>> sampler = Sampler(edm_sigmas(4), method='ode')
        >>> sampler.run(denoiser, NoiseStream.from_seeds([0, 1]), shape, progress=False).shape
        torch.Size([2, 1, 8, 8])
        >>> sampler.trajectory(denoiser, NoiseStream.from_seeds([0]), shape, progress=False).states.shape
        torch.Size([5, 1, 1, 8, 8])
        >>> y = sampler.start(NoiseStream.from_seeds([0]), shape, denoiser)
        >>> sampler.denoised(denoiser, y, 20.0).shape, sampler.velocity(denoiser, y, 20.0).shape
        (torch.Size([1, 1, 8, 8]), torch.Size([1, 1, 8, 8]))
        >>> len(list(sampler.steps(denoiser, NoiseStream.from_seeds([0]), shape, progress=False)))
        5
    """

    sigmas: Sequence[float]
    method: str = "ode"
    process: str = "ve"
    clip_denoised: bool = False
    denoise_last: bool = True
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    start_from: str = "gaussian"
    gaussian: Any = None
    eta: float = 0.0
    churn: float = 0.0
    churn_range: tuple[float, float] = (0.0, math.inf)
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SamplingError(f"unknown method {self.method!r}: use 'ode' (Heun), 'sde' (Euler-Maruyama) or 'ddim'")
        if self.process not in PROCESSES:
            raise SamplingError(f"unknown process {self.process!r}: use 've' or 'vp'")
        if self.start_from not in STARTS:
            raise SamplingError(f"unknown start_from {self.start_from!r}: use 'gaussian' or 'noise'")
        if self.gaussian is not None and not hasattr(self.gaussian, "gaussian_state"):
            raise SamplingError(f"gaussian must be a fitted LinearDenoiser, got {type(self.gaussian).__name__}")
        if not 0 <= self.eta <= 1 or (self.eta and self.method != "ddim"):
            raise SamplingError(f"eta must be in [0, 1] and belongs to method='ddim', got {self.eta} with {self.method!r}")
        if not 0 <= self.churn < math.inf or (self.churn and self.method != "ode"):
            raise SamplingError(f"churn must be >= 0 and belongs to method='ode', got {self.churn} with {self.method!r}")
        levels = list(self.sigmas)
        if len(levels) < 2:
            raise SamplingError(f"need at least two noise levels, got {levels}: use edm_sigmas(steps)")
        if not all(math.isfinite(s) and s > 0 for s in levels):
            raise SamplingError(f"noise levels must be finite and > 0, got {levels}")
        if any(b >= a for a, b in itertools.pairwise(levels)):
            raise SamplingError(f"noise levels must decrease, got {levels}: reverse or sort them")

    @property
    def _work(self) -> torch.dtype:
        return self.dtype if self.dtype in (torch.float32, torch.float64) else torch.float32

    # ----- one evaluation ------------------------------------------------------------------------------------------------

    def denoised(self, denoiser: Denoiser, y: Tensor, sigma: float) -> Tensor:
        """The denoised images of states ``y`` at the noise-to-signal ratio ``sigma``, clamped if the sampler clips them."""
        _check_finite(y, denoiser, f"at sigma={sigma:g}")  # also the predicted state inside a Heun step
        return denoiser.denoise(y, level(self.process, sigma), clamp=self.clip_denoised)

    def velocity(self, denoiser: Denoiser, y: Tensor, sigma: float) -> Tensor:
        """``dy / dsigma`` of the probability-flow ODE.

        VE: ``-sigma score``; VP: ``-(y + score) / 2`` per unit of ``tau = log(1 + sigma^2)``, times ``dtau / dsigma``.
        """
        return self._velocity(y, self.denoised(denoiser, y, sigma), sigma)

    def _velocity(self, y: Tensor, x: Tensor, sigma: float) -> Tensor:
        noise = level(self.process, sigma)
        score = (noise.alpha * x - y) / noise.sigma**2
        if self.process == "ve":
            return -sigma * score
        return -(sigma / (1.0 + sigma**2)) * (y + score)

    def _stirred(self, y: Tensor, sigma: float, draw: Any) -> tuple[Tensor, float]:
        """Churn: the state at a higher sigma, the difference filled up with fresh noise (in VE, then scaled as the process)."""
        low, high = self.churn_range
        if not self.churn or not low <= sigma <= high:
            return y, sigma
        more = sigma * (1 + min(self.churn / (len(self.sigmas) - 1), math.sqrt(2) - 1))
        before, after = level(self.process, sigma).alpha, level(self.process, more).alpha
        return after * (y / before + math.sqrt(more**2 - sigma**2) * self.churn_noise * draw()), more

    def _ode_step(self, denoiser: Denoiser, y: Tensor, x: Tensor, sigma: float, below: float) -> Tensor:
        h, first = below - sigma, self._velocity(y, x, sigma)
        second = self.velocity(denoiser, y + h * first, below)
        return y + (h / 2) * (first + second)

    def _sde_step(self, y: Tensor, x: Tensor, sigma: float, below: float, z: Tensor) -> Tensor:
        noise = level(self.process, sigma)
        score = (noise.alpha * x - y) / noise.sigma**2
        if self.process == "ve":  # the clock is sigma^2
            dt = sigma**2 - below**2
            return y + dt * score + math.sqrt(dt) * z
        dt = math.log1p(sigma**2) - math.log1p(below**2)
        return y + dt * (y / 2 + score) + math.sqrt(dt) * z

    def _ddim_step(self, y: Tensor, x: Tensor, sigma: float, below: float, draw: Any) -> Tensor:
        """Song, Meng and Ermon (2021), equation (12), in VE units: the predicted noise at the lower level, ``eta^2`` of it fresh."""
        now, then = level(self.process, sigma).alpha, level(self.process, below).alpha
        fresh = self.eta**2 * below**2 * (sigma**2 - below**2) / sigma**2
        out = x + math.sqrt(below**2 - fresh) / sigma * (y / now - x)
        return then * (out + math.sqrt(fresh) * draw() if fresh else out)

    # ----- whole runs ----------------------------------------------------------------------------------------------------

    def start(self, noise: NoiseStream, shape: tuple[int, int, int], denoiser: Denoiser | None = None) -> Tensor:
        """The state at the largest sigma.

        With ``start_from="gaussian"`` the flow of Gaussian data is followed from infinite noise: with ``gaussian`` (or a linear
        denoiser) exactly, ``alpha mu + sqrt(alpha^2 C + s^2 I) e``. Without, from the denoiser's own response at that sigma:
        its fixed point m is the mean, and ``alpha m + s e + alpha (D(alpha m + s e) - m) / 2`` agrees with the exact state up
        to ``3 l^2 / (8 s^4)`` of the noise in a direction of variance l: three evaluations, no data.

        With ``"noise"``, ``s e`` alone: a direction of mean ``mu`` and variance l then loses ``sqrt(l / (l + s^2))`` of its mean
        in the ODE, for good.
        """
        if len(shape) != 3 or min(shape) < 1:
            raise SamplingError(f"shape must be (channels, height, width), got {tuple(shape)}")
        e, top = noise.draw(shape, self._work, self.device), level(self.process, self.sigmas[0])
        gaussian = self.gaussian or (denoiser if hasattr(denoiser, "gaussian_state") else None)
        if self.start_from == "noise" or (gaussian is None and denoiser is None):
            return top.sigma * e
        if gaussian is not None:
            return gaussian.gaussian_state(e, top)
        assert denoiser is not None
        mean = torch.zeros(1, *shape, dtype=e.dtype, device=e.device)
        for _ in range(2):
            mean = self.denoised(denoiser, top.alpha * mean, self.sigmas[0])
        y = top.alpha * mean + top.sigma * e
        return y + 0.5 * top.alpha * (self.denoised(denoiser, y, self.sigmas[0]) - mean)

    def run(self, denoiser: Denoiser, noise: NoiseStream, shape: tuple[int, int, int], progress: bool = True) -> Tensor:
        """Samples ``(len(noise), channels, height, width)``, not clamped.

        Raises:
            SamplingError: bad shape, or the state became infinite (the message names the step).
        """
        for _, y, x in self.steps(denoiser, noise, shape, progress):
            last = y if x is None else x
        return last.to(self.dtype)

    def trajectory(
        self, denoiser: Denoiser, noise: NoiseStream, shape: tuple[int, int, int], progress: bool = True
    ) -> Trajectory:
        """The same run with every state and denoised image kept; raises as :meth:`run` does."""
        sigmas, states, denoised = zip(*self.steps(denoiser, noise, shape, progress))
        samples = states[-1] if denoised[-1] is None else denoised[-1]
        if denoised[-1] is None:
            denoised = (*denoised[:-1], self.denoised(denoiser, states[-1], sigmas[-1]))
        parts = (torch.stack(states), torch.stack(denoised), samples)
        return Trajectory(tuple(sigmas), *(part.to(self.dtype) for part in parts))

    def steps(
        self, denoiser: Denoiser, noise: NoiseStream, shape: tuple[int, int, int], progress: bool = True
    ) -> Iterator[tuple[float, Tensor, Tensor | None]]:
        """``(sigma, state, denoised)`` at every level, as the run goes; the last ``denoised`` is None without ``denoise_last``."""

        def draw() -> Tensor:
            return noise.draw(shape, self._work, self.device)

        y = self.start(noise, shape, denoiser)
        title = f"{self.method} {self.process} {_name(denoiser)}"
        with progress_bar(len(self.sigmas), title, progress, "step") as bar:
            for sigma, below in itertools.pairwise(self.sigmas):
                state = y
                y, from_ = self._stirred(y, sigma, draw)
                x = self.denoised(denoiser, y, from_)
                yield sigma, state, x
                if self.method == "ode":
                    y = self._ode_step(denoiser, y, x, from_, below)
                elif self.method == "sde":
                    y = self._sde_step(y, x, sigma, below, draw())
                else:
                    y = self._ddim_step(y, x, sigma, below, draw)
                _check_finite(y, denoiser, f"between sigma={sigma:g} and {below:g}")
                bar.update()
            final = None
            if self.denoise_last:
                final = self.denoised(denoiser, y, self.sigmas[-1])
                _check_finite(final, denoiser, f"at sigma={self.sigmas[-1]:g}")
            bar.update()
            yield self.sigmas[-1], y, final


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
