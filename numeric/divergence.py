"""Trace of the Jacobian of a denoiser by automatic differentiation: exactly, or with random probes.

A denoiser with a closed form does not need these (:meth:`numeric.denoiser.Denoiser.jacobian_trace`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EXACT_PIXELS = 4096
"""Most pixels of an image whose exact trace is taken without a closed form: it costs a backward pass a pixel."""


def exact_trace(estimate: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """``tr dD/dy`` of every image of ``y`` ``(n, ...)``, ``(n,)``: one backward pass for each pixel."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        flat = estimate(leaf).flatten(1).sum(0)  # images do not mix, so one sum differentiates all of them
        out = y.new_zeros(len(y))
        for pixel in range(len(flat)):
            if not flat[pixel].requires_grad:
                continue
            (slope,) = torch.autograd.grad(flat[pixel], leaf, retain_graph=True, allow_unused=True)
            if slope is not None:
                out += slope.flatten(1)[:, pixel]
    return out


def probed_trace(estimate: Callable[[Tensor], Tensor], y: Tensor, probes: Tensor) -> Tensor:
    """Unbiased estimate of ``tr dD/dy`` of every image, ``(n,)``: the mean of ``v.(dD/dy) v`` over probes (Hutchinson, 1990).

    Args:
        probes: ``(k, *y.shape)`` of independent signs (or standard normals).
    """
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        out = estimate(leaf)
        total = y.new_zeros(len(y))
        for probe in probes:
            (slope,) = torch.autograd.grad((out * probe).sum(), leaf, retain_graph=True)
            total += (slope * probe).flatten(1).sum(1)
    return total / len(probes)


def signs(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs ``(count, *like.shape)``, the probes of least variance."""
    draws = torch.randint(0, 2, (count, *like.shape), generator=generator, device=generator.device)
    return (2 * draws - 1).to(like)
