"""Noise that is drawn, and moments of other images than the fitted ones: what exact errors are held against."""

from __future__ import annotations

from typing import Any

import torch

from numeric.data import as_image_set
from numeric.noise import NoiseLevel


def noisy(x: torch.Tensor, level: NoiseLevel, generator: torch.Generator) -> torch.Tensor:
    return level.alpha * x + level.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def held_out(model: Any, x: torch.Tensor) -> Any:
    moments = model.new_moments(tuple(x.shape[1:]))
    model.accumulate(moments, as_image_set(x), 1000, None, None, 30.0)
    return moments
