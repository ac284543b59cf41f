"""Gram matrices of every coefficient's features, scaled as a ridge may see them, and their condition numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from numeric.noise import as_noise
from numeric.scores.own import WaveletScore
from numeric.scores.solve import feature_matrix, normal_system


def scaled_grams(model: WaveletScore, sigma: float, degree: int, basis: str) -> Iterator[dict[str, Tensor]]:
    """Gram matrices ``G = E[phi phi^T]`` without ridge (equation (9)), ``(targets, F, F)``, block by block.

    Args:
        basis: ``"monomial"`` or ``"hermite"``.

    Returns: for each block, by scaling: ``"raw"`` features as they are, ``"unit"`` features divided to unit second moment.
    """
    for block, table in zip(model.moments_.blocks, model.central_):
        variables = torch.as_tensor(block.block.variables)
        system = normal_system(table, model.mean_[variables].T, block.plan, as_noise(sigma), degree, model._covariance(block.block.variables))
        features = feature_matrix(block.plan, degree, basis, system.centre / system.scale)
        gram = features @ system.gram @ features.transpose(1, 2)
        raw = torch.ones_like(gram[:, 0])
        if basis == "monomial":  # features are of v / t: back to powers of v
            powers = torch.as_tensor(block.plan.basis[block.plan.features(degree)], dtype=gram.dtype, device=gram.device)
            raw = torch.exp(powers @ system.scale.log()).T
        norms = {"unit": gram.diagonal(dim1=1, dim2=2).rsqrt(), "raw": raw}
        yield {scaling: gram * norm[:, :, None] * norm[:, None, :] for scaling, norm in norms.items()}


def gram_conditions(model: WaveletScore, sigma: float, degree: int, basis: str, scaling: str) -> np.ndarray:
    """Condition number of every coefficient's Gram matrix (:func:`scaled_grams`).

    Returns: ``(n_coefficients,)``, block by block as in :func:`scaled_grams`; infinite where the smallest eigenvalue is not positive in float64.
    """
    out = []
    for grams in scaled_grams(model, sigma, degree, basis):
        values = torch.linalg.eigvalsh(grams[scaling])
        out.append((values[:, -1] / values[:, 0]).where(values[:, 0] > 0, torch.inf))
    return torch.cat(out).cpu().numpy()
