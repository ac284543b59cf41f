"""Small solves: from exact noisy moments to score coefficients, one independent system per coefficient (own readout).

``G theta = b`` with ``G = E[phi phi^T]`` and ``b_k = -E[d phi_k / d w_lambda]`` (equations (14) and (15)); with ridge,
equation (16).  All groups of a block are solved at once as a batch.  Internally everything is written in standardised
coordinates ``u = (v - a c) / t`` (c the clean mean, t the noisy standard deviation), whose moments keep their digits;
the requested feature basis is a matrix R applied to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, factorial

import numpy as np
import torch
from torch import Tensor

from numeric.noise import NoiseLevel
from numeric.scores.crossval import GCV_GRID, Ridge, gcv_scores
from numeric.scores.dense import SingularGramError
from numeric.scores.families import MonomialPlan
from numeric.scores.tables import heat, translate

BASES = ("monomial", "hermite")
SOLVE_BYTES = 256 * 2**20
"""Working memory of one batch of solves."""



@dataclass(frozen=True)
class BlockSolution:
    """Solved coefficients of one block at one noise level; ``g`` groups, ``q`` variables, ``B`` basis, ``F`` features.

    Attributes:
        plan: the monomial plan.
        degree: polynomial degree.
        denoiser: ``(g, B)`` coefficients of the denoised coefficient in monomials of the standardised coordinates.
        centre, scale: ``(q, g)``; ``u = (v - centre) / scale``.
        theta: ``(g, F)`` coefficients of the score (or of the denoiser, by the ridge's side) in the requested features.
        expected_error: ``(g,)`` exact ``E (D - w)^2`` on the fitted data, before clamping.
        condition: ``(g,)`` condition number of the solved system (after scaling, with ridge).
        ridge: ``(g,)`` the strength used, chosen by generalised cross-validation if that was asked for.
    """

    plan: MonomialPlan
    degree: int
    denoiser: Tensor
    centre: Tensor
    scale: Tensor
    theta: Tensor
    expected_error: Tensor
    condition: Tensor
    ridge: Tensor | None = None


def hermite_coefficients(degree: int) -> np.ndarray:
    """Probabilists' Hermite polynomials He_0..He_degree as rows of monomial coefficients (He_{k+1} = x He_k - k He_{k-1})."""
    table = np.zeros((degree + 1, degree + 1))
    table[0, 0] = 1.0
    for k in range(degree):
        table[k + 1, 1:] = table[k, :-1]
        if k:
            table[k + 1] -= k * table[k - 1]
    return table


@lru_cache(maxsize=128)
def _one_variable_maps(basis: str, pattern: str, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Monomial coefficients of one-variable features: for the target, split by powers of rho, and for the others.

    Returns ``(target, other)``: ``target[k, l, r]`` is the coefficient of ``u^l rho^r`` in the target's k-th feature and
    ``other`` likewise, where ``v / t = u + rho`` and ``rho = a c / t``.
    """
    size = degree + 1
    raw = np.zeros((size, size, size))
    for k in range(size):
        for l in range(k + 1):
            raw[k, l, k - l] = comb(k, l)
    if basis == "monomial":
        return raw, raw
    he = np.zeros((size, size, size))
    he[:, :, 0] = hermite_coefficients(degree)
    if pattern != "target":
        return he, he
    # Band-tied features all hold the target as a factor; the Hermite basis of the same space is
    # w He_{i-1}(u) He_j He_k, because He_i(u) itself would bring in monomials without the target.
    target = np.zeros((size, size, size))
    target[0, 0, 0] = 1.0
    for k in range(1, size):
        target[k, 1:, 0] = he[k - 1, :-1, 0]
        target[k, :, 1] = he[k - 1, :, 0]
    return target, he


def feature_matrix(plan: MonomialPlan, degree: int, basis: str, rho: Tensor) -> Tensor:
    """R: the requested features in monomials of the standardised coordinates, ``(g, F, B)``.

    Args:
        basis: ``"monomial"`` (of the raw noisy coefficients over their standard deviation) or ``"hermite"``.
        rho: ``(q, g)``, ``a c / t``.
    """
    if basis not in BASES:
        raise ValueError(f"unknown basis {basis!r}: use 'monomial' or 'hermite'")
    size = plan.closed_count(degree)
    rows, columns = plan.basis[plan.features(degree)], plan.basis[:size]
    target, other = (torch.as_tensor(m, device=rho.device) for m in _one_variable_maps(basis, plan.pattern, degree))
    # Where a feature lacks a variable its factor is 1 on the monomials that lack it too and 0 on the others.
    lacking = ((rows[:, None, :] > 0) | (columns[None, :, :] == 0)).all(axis=2)
    out = torch.as_tensor(lacking, dtype=rho.dtype, device=rho.device).repeat(rho.shape[1], 1, 1)
    for i in np.flatnonzero(rows.any(axis=0)):
        powers = torch.stack([rho[i] ** r for r in range(degree + 1)])  # (degree + 1, g)
        table = torch.einsum("klr,rg->gkl", target if i == 0 else other, powers)
        holds = torch.as_tensor(np.flatnonzero(rows[:, i]), device=rho.device)
        factor = table[:, torch.as_tensor(rows[:, i][rows[:, i] > 0])][:, :, torch.as_tensor(columns[:, i])]
        out[:, holds] *= factor
    return out


def standardise(table: Tensor, plan: MonomialPlan, scale: Tensor) -> Tensor:
    """Divide moments ``(M, g)`` by the scales ``(q, g)`` of their variables."""
    out = table.clone()
    for i in range(plan.variables):
        power = torch.as_tensor(plan.products[:, i], device=table.device)
        if bool(power.any()):
            inverse = torch.stack([scale[i] ** -float(k) for k in range(int(power.max()) + 1)])
            out *= inverse[power]
    return out


def noisy_scale(table: Tensor, plan: MonomialPlan) -> Tensor:
    """Standard deviations ``(q, g)`` of the variables from noisy central moments; 1 where a variable is not used or is zero.

    A Haar detail across a repeated border sample is zero for every image: its features are, and the ridge leaves them out.
    """
    rows = []
    for i in range(plan.variables):
        index = plan.product_index(i, i)
        rows.append(torch.ones_like(table[0]) if index is None else table[index].sqrt())
    out = torch.stack(rows)
    return torch.where(out > 0, out, 1.0)


@dataclass(frozen=True)
class NormalSystem:
    """Moments of one block at one noise level in standardised coordinates (``B`` basis monomials).

    Attributes:
        gram: ``(g, B, B)``, ``E[u^a u^b]``.
        stein: ``(g, B)``, ``-E[d u^b / d v_target]`` (equation (13)).
        cross: ``(g, B)``, ``E[u^b (w - c)]`` with the clean target w.
        centre: ``(q, g)`` noisy mean ``a c``.
        scale: ``(q, g)`` noisy standard deviation.
        clean_mean, clean_variance: ``(g,)`` of the target.
    """

    gram: Tensor
    stein: Tensor
    cross: Tensor
    centre: Tensor
    scale: Tensor
    clean_mean: Tensor
    clean_variance: Tensor


def normal_system(
    table: Tensor,
    mean: Tensor,
    plan: MonomialPlan,
    noise: NoiseLevel,
    degree: int,
    covariance: Tensor | None = None,
    scale: Tensor | None = None,
) -> NormalSystem:
    """Everything the solve needs, from clean central moments (equation (14)).

    Args:
        table: ``(M, g)`` clean central moments.
        mean: ``(q, g)`` clean means.
        covariance: ``(q, q, g)`` covariance of the coefficients of unit noise, None for an orthonormal basis.
        scale: standard deviations to use instead of this table's own (for held-out moments).
    """
    a, s = noise.alpha, noise.sigma
    size = plan.closed_count(degree)
    noisy = heat(table, plan, a, s, covariance)
    scale = noisy_scale(noisy, plan) if scale is None else scale
    u = standardise(noisy, plan, scale)
    pair = torch.as_tensor(plan.pair[:size, :size], device=table.device)
    gram = u[pair.reshape(-1)].reshape(size, size, -1).permute(2, 0, 1).contiguous()
    stein = torch.zeros(size, table.shape[1], dtype=table.dtype, device=table.device)
    in_products = plan.pair[0, :size]
    for j in range(plan.variables if covariance is not None else 1):
        power = plan.basis[:size, j]
        rows = np.flatnonzero(power)
        if len(rows) == 0:
            continue
        source = torch.as_tensor(plan.down[j][in_products[rows]], device=table.device)
        weight = torch.as_tensor(power[rows], dtype=table.dtype, device=table.device)[:, None] / scale[j]
        if covariance is not None:
            weight = weight * covariance[0, j]
        stein[torch.as_tensor(rows, device=table.device)] -= weight * u[source]
    times_target = torch.as_tensor(plan.pair[:size, plan.linear], device=table.device)
    cross = (scale[0] * u[times_target] + s**2 * stein) / a
    variance_index = plan.product_index(0, 0)
    return NormalSystem(
        gram,
        stein.T.contiguous(),
        cross.T.contiguous(),
        a * mean,
        scale,
        mean[0],
        table[variance_index].clamp_min(0.0),
    )


def _solve_scaled(
    gram: Tensor, rhs: Tensor, penalty: Tensor, names: Sequence[str], want_condition: bool
) -> tuple[Tensor, Tensor]:
    """Solve ``(gram + diag(penalty)) x = rhs`` by Cholesky, as a batch; also the condition number if wanted."""
    system = gram + torch.diag_embed(penalty)
    factor, info = torch.linalg.cholesky_ex(system)
    bad = torch.nonzero(info).squeeze(-1)
    if len(bad):
        shown = ", ".join(names[int(i)] for i in bad[:3])
        raise SingularGramError(
            f"the Gram matrix of {len(bad)} of {len(gram)} coefficients is singular to float64 (first: {shown}): "
            "use a ridge > 0 (1e-10 is enough for most), a lower degree or basis='hermite'"
        )
    solution = torch.cholesky_solve(rhs.unsqueeze(-1), factor).squeeze(-1)
    # One step of iterative refinement recovers the digits that an ill-conditioned factor loses.
    residual = rhs - torch.einsum("gij,gj->gi", system, solution)
    solution = solution + torch.cholesky_solve(residual.unsqueeze(-1), factor).squeeze(-1)
    if want_condition:
        eigenvalues = torch.linalg.eigvalsh(system)
        condition = eigenvalues[:, -1] / eigenvalues[:, 0].clamp_min(torch.finfo(gram.dtype).tiny)
    else:
        condition = torch.full_like(rhs[:, 0], float("nan"))
    return solution, condition


def averaged_gram(
    table: Tensor, plan: MonomialPlan, noise: NoiseLevel, degree: int, scale: Tensor, covariance: Tensor | None
) -> Tensor:
    """``E_x[(E_z u^a)(E_z u^b)]`` of the basis monomials averaged over the noise, ``(g, B, B)``.

    Args:
        table: ``(M, g)`` clean central moments; scale: ``(q, g)``.
        covariance: ``(q, q, g)``; its off-diagonal part is left out of the averaging (it couples few monomials weakly).
    """
    size = plan.closed_count(degree)
    basis, groups = plan.basis[:size], table.shape[1]
    pair = torch.as_tensor(plan.pair[:size, :size], device=table.device)
    clean = standardise(table, plan, scale)[pair.reshape(-1)].reshape(size, size, groups).permute(2, 0, 1)
    average = torch.ones(groups, size, size, dtype=table.dtype, device=table.device)
    for i in range(plan.variables):
        deviation = noise.sigma / scale[i]
        if covariance is not None:
            deviation = deviation * covariance[i, i].sqrt()
        rows = torch.zeros(groups, degree + 1, degree + 1, dtype=table.dtype, device=table.device)
        for p in range(degree + 1):
            for k in range(p // 2 + 1):  # E z^2k = (2k)! / (2^k k!)
                gaussian = factorial(2 * k) / (2**k * factorial(k))
                rows[:, p, p - 2 * k] = comb(p, 2 * k) * noise.alpha ** (p - 2 * k) * gaussian * deviation ** (2 * k)
        power = torch.as_tensor(basis[:, i], device=table.device)
        average *= rows[:, power][:, :, power]
    return average @ clean @ average.transpose(1, 2)


def _padded(h: Tensor, system: NormalSystem) -> Tensor:
    """Denoiser coefficients about the clean mean."""
    out = h.clone()
    out[:, 0] -= system.clean_mean
    return out


def expected_error(denoiser: Tensor, system: NormalSystem) -> Tensor:
    """Exact ``E (D - w)^2 = E|w|^2 - 2 h.E[phi w] + h.G h`` of each group, written about the mean, ``(g,)``."""
    h = _padded(denoiser, system)
    return system.clean_variance - 2 * (h * system.cross).sum(-1) + torch.einsum("gi,gij,gj->g", h, system.gram, h)


def solve_block(
    table: Tensor,
    mean: Tensor,
    plan: MonomialPlan,
    noise: NoiseLevel,
    degree: int,
    basis: str = "monomial",
    ridge: Ridge | None = None,
    covariance: Tensor | None = None,
    names: Sequence[str] | None = None,
    want_condition: bool = False,
    count: int | None = None,
    bands: np.ndarray | None = None,
) -> BlockSolution:
    """Solve every group of a block at one noise level (equations (15), (16) and (23)).

    Args:
        table: ``(M, g)`` clean central moments; mean: ``(q, g)`` clean means.
        names: of the groups, for messages.
        count: number of images behind the moments, for generalised cross-validation.
        bands: ``(g,)`` band number of each group, for ``"gcv-band"``.

    Raises:
        SingularGramError: a Gram matrix is singular to float64 and the ridge does not lift it.
    """
    ridge = Ridge() if ridge is None else ridge
    groups = table.shape[1]
    names = [f"group {i}" for i in range(groups)] if names is None else names
    size, n_features = plan.closed_count(degree), len(plan.features(degree))
    per_group = 8 * (3 * size * size + 2 * n_features * size + 3 * n_features**2 + 3 * len(table))
    step = max(1, SOLVE_BYTES // per_group)

    def prepare(part: slice) -> tuple[NormalSystem, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Scaled system of some groups: (moments, R, gram, right side, norm, t^alpha, penalty of lambda = 1)."""
        k = None if covariance is None else covariance[:, :, part]
        system = normal_system(table[:, part], mean[:, part], plan, noise, degree, k)
        rho = system.centre / system.scale
        features = feature_matrix(plan, degree, basis, rho)
        gram = features @ system.gram @ features.transpose(1, 2)
        if ridge.side == "score":
            right = system.stein
        else:
            right = system.cross + system.clean_mean[:, None] * system.gram[:, 0]
        rhs = torch.einsum("gfb,gb->gf", features, right)
        norm = gram.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(gram.dtype).tiny).rsqrt()
        gram = gram * norm[:, :, None] * norm[:, None, :]
        # Features are products of v / t; dividing theta by t^alpha gives coefficients of the raw monomials.
        powers = torch.as_tensor(plan.basis[plan.features(degree)], dtype=table.dtype, device=table.device)
        unit = torch.exp(powers @ system.scale.log()).T  # (g, F), t^alpha
        if ridge.scaling == "unit":
            penalty = torch.ones_like(norm)
        else:
            # Raw features: v^alpha = t^alpha u^alpha for monomials; Hermite features are of u and carry no unit.
            penalty = (norm / unit if basis == "monomial" else norm) ** 2
        return system, features, gram, rhs * norm, norm, unit, penalty

    def scores(
        part: slice, gram: Tensor, rhs: Tensor, penalty: Tensor, system: NormalSystem, weighted: Tensor
    ) -> Tensor:
        if count is None:
            raise ValueError("generalised cross-validation needs the number of images: pass count")
        root = penalty.rsqrt()
        if ridge.side == "score":
            second = torch.full_like(system.clean_mean, 1.0 / noise.sigma**2)
            if covariance is not None:
                second = second * covariance[0, 0, part]
        else:
            second = system.clean_variance + system.clean_mean**2
        k = None if covariance is None else covariance[:, :, part]
        averaged = averaged_gram(table[:, part], plan, noise, degree, system.scale, k)
        averaged = weighted @ averaged @ weighted.transpose(1, 2) * root[:, :, None] * root[:, None, :]
        return gcv_scores(gram * root[:, :, None] * root[:, None, :], averaged, rhs * root, second, count)

    grid = torch.tensor(GCV_GRID, dtype=table.dtype, device=table.device)
    chosen: Tensor | None = None
    if ridge.strength == "gcv-band":
        if bands is None:
            raise ValueError("ridge='gcv-band' needs the band of every coefficient: pass bands")
        all_scores = []
        for start in range(0, groups, step):
            part = slice(start, start + step)
            system, features, gram, rhs, norm, _, penalty = prepare(part)
            all_scores.append(scores(part, gram, rhs, penalty, system, features * norm[:, :, None]))
        index = torch.as_tensor(bands, device=table.device)
        # Within a band the scores are added: its coefficients share one lambda.
        by_band = torch.zeros(len(grid), int(index.max()) + 1, dtype=table.dtype, device=table.device)
        by_band.index_add_(1, index, torch.cat(all_scores, dim=1))
        chosen = grid[by_band.argmin(0)][index]
    parts = []
    for start in range(0, groups, step):
        part = slice(start, start + step)
        system, features, gram, rhs, norm, unit, penalty = prepare(part)
        if chosen is not None:
            strength = chosen[part]
        elif isinstance(ridge.strength, str):
            strength = grid[scores(part, gram, rhs, penalty, system, features * norm[:, :, None]).argmin(0)]
        else:
            strength = torch.full_like(system.clean_mean, ridge.strength)
        scaled, condition = _solve_scaled(
            gram, rhs, strength[:, None] * penalty, names[start : start + step], want_condition
        )
        theta = scaled * norm
        h = torch.einsum("gfb,gf->gb", features, theta)
        if ridge.side == "score":  # Tweedie: D = (v + s^2 c) / a
            h = h * (noise.sigma**2 / noise.alpha)
            h[:, plan.linear] += system.scale[0] / noise.alpha
            h[:, 0] += system.clean_mean
        if basis == "monomial":
            theta = theta / unit
        parts.append((h, system.centre, system.scale, theta, expected_error(h, system), condition, strength))
    h, centre, scale, theta, error, condition, strength = (
        torch.cat([p[i] for p in parts], dim=1 if i in (1, 2) else 0) for i in range(7)
    )
    return BlockSolution(plan, degree, h, centre, scale, theta, error, condition, strength)


def held_out_error(
    solution: BlockSolution, table: Tensor, mean: Tensor, noise: NoiseLevel, covariance: Tensor | None = None
) -> Tensor:
    """Exact expected squared error ``(g,)`` of a solved block on *other* data, from those data's central moments.

    Args:
        table: ``(M, g)`` central moments of the other data, mean: ``(q, g)`` their means.
    """
    # Re-centre the other data's moments on the fitted mean, so that both speak of the same coordinates.
    fitted_mean = solution.centre / noise.alpha
    moved = translate(table, solution.plan, mean - fitted_mean)
    system = normal_system(moved, fitted_mean, solution.plan, noise, solution.degree, covariance, scale=solution.scale)
    return expected_error(solution.denoiser, system)
