"""Log likelihood of images under any denoiser, by the probability-flow ODE (Song et al., 2021, Section 4.3).

In the variance-exploding process the flow ``dy / dlog(sigma) = y - D(y, sigma)`` carries the density at ``sigma_min`` to the one
at ``sigma_max``, and along a path

    log p_min(y_min) = log p_max(y_max) + integral over log(sigma) of (pixels - tr dD/dy).

The trace is exact where the denoiser has it in closed form (the linear denoiser and every wavelet readout), else by automatic
differentiation, or estimated by probes.  Where ``D`` is not the gradient of anything (a shared readout of degree 2 and more),
what is computed is the density of the images that the flow generates, as for every network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from numeric.denoiser import Denoiser, as_noisy_images
from numeric.noise import ve
from numeric.progress import progress_bar


class LikelihoodError(ArithmeticError):
    """The flow left the range of numbers; the message names where and the fix."""


@dataclass(frozen=True)
class Flow:
    """How the flow is followed.

    Attributes:
        sigma_min: level whose density is asked for: that of images with noise of this standard deviation.
        sigma_max: level at which the density is taken to be Gaussian; 20 is ample for images in [0, 1].
        steps: Runge-Kutta steps (order 4, four evaluations each), equal in log sigma.
        probes: random directions of the trace; None: exactly.

    Example:
        >>> from numeric import Flow
        >>> Flow(sigma_min=0.3, steps=8).sigma_max
        20.0
    """

    sigma_min: float = 0.1
    sigma_max: float = 20.0
    steps: int = 24
    probes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")
        if self.probes is not None and self.probes < 1:
            raise ValueError(f"probes must be >= 1, or None for the exact trace, got {self.probes}")


def gaussian_at(denoiser: Denoiser, y: Tensor, sigma: float, prior: Any = None) -> Tensor:
    """Log density ``(n,)`` at a large ``sigma``: the data are Gaussian there but for terms of the order ``(spread / sigma)^3``.

    Args:
        prior: a fitted :class:`~numeric.baselines.linear.LinearDenoiser`, whose mean and covariance are used exactly; None: the
            mean that the denoiser itself answers with, and the one variance ``v`` a pixel that the trace of its Jacobian has,
            ``tr = pixels v / (v + sigma^2)``.
    """
    if prior is None and hasattr(denoiser, "log_density"):
        prior = denoiser
    if prior is not None:
        out: Tensor = prior.log_density(y, ve(sigma))
        return out
    mean = y.new_zeros(1, *y.shape[1:])
    for _ in range(3):
        mean = denoiser.denoise(mean, sigma, clamp=False)
    pixels = mean.numel()
    probes = None if type(denoiser).jacobian_trace is not Denoiser.jacobian_trace else 16
    trace = float(denoiser.divergence(mean, sigma, probes)[0]) * sigma**2 + pixels
    share = min(max(trace / pixels, 0.0), 0.5)
    variance = sigma**2 / (1.0 - share)
    return -0.5 * (
        (y - mean).double().square().flatten(1).sum(1) / variance + pixels * math.log(2 * math.pi * variance)
    )


def log_likelihood(
    denoiser: Denoiser,
    y: Any,
    flow: Flow | None = None,
    *,
    prior: Any = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Natural logarithm of the density at images, ``(n,)`` float64.

    Args:
        y: images at noise level ``flow.sigma_min``, ``(n, channels, height, width)``: see :func:`noised`.
        flow: level, steps and trace; the defaults are for images in [0, 1].
        prior: of the Gaussian at ``flow.sigma_max``, see :func:`gaussian_at`.
        generator: of the probes, which stay the same along a path.

    Raises:
        LikelihoodError: the state became infinite.
        ValueError: what :meth:`~numeric.denoiser.Denoiser.denoise` and ``divergence`` raise.

    Example:
        >>> import torch
        >>> from numeric import LinearDenoiser
        >>> from numeric.evaluation.likelihood import Flow, log_likelihood
        >>> x = torch.randn(500, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> model = LinearDenoiser().fit(x)
        >>> from numeric import ve
        >>> exact = model.log_density(x[:3], ve(0.5))
        >>> bool((log_likelihood(model, x[:3], Flow(sigma_min=0.5)) - exact).abs().max() < 1e-4)
        True
    """
    flow = Flow() if flow is None else flow
    state = as_noisy_images(y)
    state = state if state.dtype == torch.float64 else state.float()
    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
    first, last = math.log(flow.sigma_min), math.log(flow.sigma_max)
    h, total = (last - first) / flow.steps, state.new_zeros(len(state), dtype=torch.float64)

    # One table of levels, so that a step's last is the next one's first to the bit and is solved once.
    sigmas = [math.exp(first + half * h / 2) for half in range(2 * flow.steps + 1)]

    def slope(part: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        if not bool(torch.isfinite(part).all()):
            name = getattr(denoiser, "label", type(denoiser).__name__)
            raise LikelihoodError(
                f"{name}: the flow became infinite near sigma={sigma:g}: a polynomial denoiser extrapolates; use more steps, a larger "
                "sigma_min or a lower degree"
            )
        probes = torch.Generator().manual_seed(seed)
        divergence = denoiser.divergence(part, sigma, flow.probes, probes).double()
        return part - denoiser.denoise(part, sigma, clamp=False), -(sigma**2) * divergence  # pixels - tr dD/dy

    with torch.no_grad(), progress_bar(flow.steps, "log likelihood", progress, "step") as bar:
        for step in range(flow.steps):
            here, middle, there = sigmas[2 * step : 2 * step + 3]
            k1, d1 = slope(state, here)
            k2, d2 = slope(state + (h / 2) * k1, middle)
            k3, d3 = slope(state + (h / 2) * k2, middle)
            k4, d4 = slope(state + h * k3, there)
            state = state + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)
            total = total + (h / 6) * (d1 + 2 * d2 + 2 * d3 + d4)
            bar.update()
        return gaussian_at(denoiser, state, flow.sigma_max, prior).double() + total


def noised(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """``x + sigma e``: clean images as images at ``sigma``, whose log density is a proper score of a model at that level."""
    return x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)


def bits_per_dimension(log_density: Tensor, pixels: int, levels: int = 256, width: float = 1.0) -> Tensor:
    """``-log2 p / pixels`` for pixels counted in steps of ``width / levels``, the unit of published numbers; ``(n,)``.

    Args:
        log_density: natural logarithm of a density over images whose pixels span ``width`` (1 for [0, 1]).
        pixels: values an image has (channels, height, width multiplied).

    With noise of one step and more the number is far above what a density of clean 8-bit images gives: noise costs bits.

    Example:
        >>> from numeric import bits_per_dimension
        >>> round(bits_per_dimension(-100.0, pixels=64), 4)
        10.2542
    """
    if pixels < 1 or levels < 1 or not width > 0:
        raise ValueError(f"pixels and levels must be >= 1 and width > 0, got {pixels}, {levels} and {width}")
    return -log_density / (pixels * math.log(2)) + math.log2(levels / width)
