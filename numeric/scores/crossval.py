"""How systems are regularised, and the choice of the ridge by generalised cross-validation from moments alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RIDGE_SIDES = ("score", "denoiser")
RIDGE_SCALINGS = ("unit", "raw")
GCV_CHOICES = ("gcv", "gcv-band")
GCV_GRID = tuple(10.0**e for e in np.arange(-12, 2.5, 0.5))
"""Strengths that generalised cross-validation chooses from."""


@dataclass(frozen=True)
class Ridge:
    """How the systems are regularised.

    Attributes:
        strength: lambda >= 0 of ``G + lambda I``; or ``"gcv"`` (one lambda per coefficient and noise level, by
            generalised cross-validation, :func:`gcv_scores`) or ``"gcv-band"`` (one per band and noise level).
        side: ``"score"`` shrinks the score's theta (equation (16)), so that a huge ridge returns ``y / a``;
            ``"denoiser"`` shrinks the denoiser's theta (equation (23)), so that a huge ridge returns zero.
        scaling: ``"unit"`` applies lambda to features of unit second moment (default); ``"raw"`` to the raw features, as
            the paper does.
    """

    strength: float | str = 1e-10
    side: str = "score"
    scaling: str = "unit"

    def __post_init__(self) -> None:
        if isinstance(self.strength, str):
            if self.strength not in GCV_CHOICES:
                raise ValueError(f"unknown ridge {self.strength!r}: use a number >= 0, 'gcv' or 'gcv-band'")
        elif isinstance(self.strength, bool) or not self.strength >= 0 or not np.isfinite(self.strength):
            raise ValueError(f"ridge must be a finite number >= 0, got {self.strength}")
        if self.side not in RIDGE_SIDES:
            raise ValueError(
                f"unknown ridge side {self.side!r}: use 'score' (equation (16)) or 'denoiser' (equation (23))"
            )
        if self.scaling not in RIDGE_SCALINGS:
            raise ValueError(f"unknown ridge scaling {self.scaling!r}: use 'unit' or 'raw'")


def gcv_scores(
    gram: Tensor, averaged: Tensor, rhs: Tensor, second: Tensor, count: int, target: str | None = None
) -> Tensor:
    """Generalised cross-validation of every strength of :data:`GCV_GRID`, ``(strengths, g)``, from moments alone.

    ``GCV(lambda) = R(lambda) / (1 - df(lambda) / n)^2`` (Golub, Heath and Wahba, 1979), with the mean squared residual
    ``R = E t^2 - 2 theta.b + theta.G theta`` of ``theta = (G + lambda I)^-1 b`` and the degrees of freedom
    ``df = tr Z (G + lambda I)^-1``.  R is an expectation over images *and* noise, exact in the noise; t is the
    regression's target: ``-z / s`` on the score side (then R is ``(a / s^2)^2`` times the denoising error, by Tweedie),
    the clean coefficient on the denoiser side.  What is sampled is images alone, n of them, so what can be fitted to
    chance is the features *averaged over the noise*: ``Z = E_x[(E_z phi)(E_z phi)^T]``.  Without noise Z = G, the usual
    formula (with ``tr G (G + lambda I)^-1`` every feature that is mostly noise would be charged for, though its noise is
    known exactly).  One eigendecomposition serves all lambdas.  A lambda with ``df > 0.9 n`` (0.98 n where R is split) scores infinity.

    With many more features than images (the shared readout) that is too severe: df comes near n though the noise keeps the
    fit from memorising.  R is then split.  What depends on the images alone, ``R_x = E_x (E_z t - theta.E_z phi)^2``, is
    divided as above, and the variance that noise adds, ``R - R_x``, is left as it is.  With 60 images and 769 features the
    chosen lambda then is as good as the best fixed one, where the plain formula errs by tens of per cent; with a few
    features a coefficient the plain formula is the better one, because their noise variance is learnt from the images too.

    Args:
        gram, averaged: G and Z, ``(g, F, F)``; rhs: ``(g, F)`` or ``(g, F, outputs)``, in coordinates whose penalty is the identity.
        second: ``(g,)`` second moment of the target (summed over outputs).
        count: n.
        target: what t is, to split R: ``"image"`` (clean coefficients, so ``E_z t = t``), ``"noise"`` (``E_z t = 0``); None
            divides all of R.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0.0)
    projected = vectors.transpose(-1, -2) @ (rhs if rhs.ndim == 3 else rhs[..., None])
    energy = projected.square().sum(-1)
    rotated = vectors.transpose(-1, -2) @ averaged @ vectors  # U^T Z U
    charged = rotated.diagonal(dim1=-2, dim2=-1).clamp_min(0.0)
    if target is not None:
        rotated = rotated * (projected @ projected.transpose(-1, -2))
    rows = []
    for strength in GCV_GRID:
        shrunk = 1.0 / (values + strength)
        residual = second + (energy * shrunk * (values * shrunk - 2.0)).sum(-1)
        freedom = (charged * shrunk).sum(-1)
        noise = torch.zeros_like(residual)  # the part that noise adds
        if target is not None:
            image = torch.einsum("gi,gij,gj->g", shrunk, rotated, shrunk)  # theta.Z theta
            if target == "image":
                image = image + second - 2.0 * (energy * shrunk).sum(-1)
            image = image.clamp_min(0.0)
            residual, noise = image, residual - image
        score = residual.clamp_min(0.0) / (1.0 - freedom / count).clamp_min(1e-3).square() + noise
        limit = 0.9 if target is None else 0.98
        rows.append(torch.where(freedom > limit * count, torch.inf, score))
    out = torch.stack(rows)
    out[-1] = torch.where(torch.isinf(out[-1]), torch.finfo(out.dtype).max, out[-1])  # the last resort: the largest
    return out
