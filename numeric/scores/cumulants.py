"""Joint cumulants of moment tables, moments with some of them made a Gaussian's, and the denoiser solved from such moments."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from math import comb

import torch
from torch import Tensor

from numeric.noise import NoiseLevel
from numeric.scores.families import MonomialPlan
from numeric.scores.solve import BlockSolution, expected_error, feature_matrix, normal_system


@lru_cache(maxsize=64)
def _partitions(plan: MonomialPlan) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For every product monomial ``alpha``: the terms of its moment in cumulants and lower moments.

    With ``i`` a variable of ``alpha``: ``m_alpha = sum_beta C(alpha - e_i, beta) kappa_{beta + e_i} m_{alpha - e_i - beta}``
    over ``beta <= alpha - e_i`` (the exponential formula, differentiated once).  Rows ``(coefficient, cumulant, moment)``;
    the first one is ``kappa_alpha`` itself.
    """
    position = {tuple(int(e) for e in row): k for k, row in enumerate(plan.products)}
    out: list[tuple[tuple[int, ...], ...]] = []
    for row in plan.products:
        alpha = [int(e) for e in row]
        if sum(alpha) == 0:
            out.append(())
            continue
        i = next(k for k, e in enumerate(alpha) if e)
        rest = list(alpha)
        rest[i] -= 1
        terms = []
        for beta in product(*(range(e, -1, -1) for e in rest)):
            weight = 1
            for e, b in zip(rest, beta):
                weight *= comb(e, b)
            kappa = tuple(b + (k == i) for k, b in enumerate(beta))
            moment = tuple(e - b for e, b in zip(rest, beta))
            terms.append((weight, position[kappa], position[moment]))
        out.append(tuple(terms))
    return tuple(out)


def cumulants(table: Tensor, plan: MonomialPlan) -> Tensor:
    """Joint cumulants ``(M, groups)`` of the variables from their moments ``(M, groups)``; row 0 is zero."""
    out = torch.zeros_like(table)
    for k, terms in enumerate(_partitions(plan)):
        if terms:
            out[k] = table[k]
            for weight, kappa, moment in terms[1:]:
                out[k] -= weight * out[kappa] * table[moment]
    return out


def moments_from_cumulants(kappa: Tensor, plan: MonomialPlan) -> Tensor:
    """Inverse of :func:`cumulants`."""
    out = torch.ones_like(kappa)
    for k, terms in enumerate(_partitions(plan)):
        if terms:
            out[k] = 0.0
            for weight, index, moment in terms:
                out[k] += weight * kappa[index] * out[moment]
    return out


def gaussianise(table: Tensor, plan: MonomialPlan, orders: Iterable[int]) -> Tensor:
    """Moments with the cumulants of the given total orders (each >= 3) replaced by a Gaussian's, zero."""
    orders = sorted(set(orders))
    if orders and orders[0] < 3:
        raise ValueError(f"a Gaussian keeps its cumulants of order 1 and 2: ablate orders >= 3, got {orders}")
    kappa = cumulants(table, plan)
    total = torch.as_tensor(plan.products.sum(axis=1), device=table.device)
    for order in orders:
        kappa[total == order] = 0.0
    return moments_from_cumulants(kappa, plan)


def solve_projected(
    table: Tensor, mean: Tensor, plan: MonomialPlan, noise: NoiseLevel, degree: int, floor: float = 1e-9
) -> tuple[BlockSolution, Tensor]:
    """Denoiser of moments that need not belong to any distribution; also the share of directions left out, ``(groups,)``.

    A sequence of moments with some cumulants removed can have a Gram matrix that is not positive.  The system is solved
    in the eigenvectors of the unit-scaled Gram matrix whose eigenvalue exceeds ``floor`` times the largest one.
    """
    system = normal_system(table, mean, plan, noise, degree)
    # Hermite features: the family's own span (band-tied monomials hold the *uncentred* target), well conditioned.
    features = feature_matrix(plan, degree, "hermite", system.centre / system.scale)
    gram = features @ system.gram @ features.transpose(1, 2)
    rhs = torch.einsum("gfb,gb->gf", features, system.cross + system.clean_mean[:, None] * system.gram[:, 0])
    norm = gram.diagonal(dim1=1, dim2=2).abs().clamp_min(1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(gram * norm[:, :, None] * norm[:, None, :])
    usable = values > floor * values[:, -1:]
    inverse = torch.where(usable, 1.0 / torch.where(usable, values, torch.ones_like(values)), torch.zeros_like(values))
    coordinates = torch.einsum("gij,gi->gj", vectors, rhs * norm) * inverse
    h = torch.einsum("gfb,gf->gb", features, torch.einsum("gij,gj->gi", vectors, coordinates) * norm)
    error, nan = expected_error(h, system), torch.full_like(rhs[:, 0], float("nan"))
    return BlockSolution(plan, degree, h, system.centre, system.scale, h, error, nan), 1 - usable.double().mean(1)
