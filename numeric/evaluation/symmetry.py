"""How far a denoiser is from a gradient field: the posterior mean's Jacobian is symmetric, an estimate's need not be.

``D(y) = y / a + (s^2 / a) grad log p(y)`` by Tweedie's formula, so the Jacobian of the exact D is symmetric (it is
``a / s^2`` times the posterior's covariance).  A fitted field has a part that no density's score has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from numeric.noise import NoiseLevel, as_noise


def jacobian(model: Any, y: Tensor, noise: NoiseLevel | float, chunk: int = 64) -> Tensor:
    """``d D / d y`` of one noisy image ``(channels, height, width)``, unclamped, ``(N, N)``.

    Args:
        chunk: rows computed at a time.
    """
    level = as_noise(noise)

    def flat(z: Tensor) -> Tensor:
        return model.denoise(z.reshape(1, *y.shape), level, clamp=False).flatten()

    # Row by row through reverse mode; what is gathered and scattered inside is differentiated for `chunk` rows at once.
    return torch.func.jacrev(flat, chunk_size=chunk)(y.flatten())


def asymmetry(model: Any, y: Tensor, noise: NoiseLevel | float) -> Tensor:
    """``|J - J^T| / |J + J^T|`` (Frobenius) at each noisy image ``(n, channels, height, width)``, ``(n,)``; a gradient has 0."""
    out = []
    for image in y:
        j = jacobian(model, image, noise)
        out.append((j - j.T).norm() / (j + j.T).norm())
    return torch.stack(out)
