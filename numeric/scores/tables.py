"""Pure functions on monomials and on tables of moments ``(products, groups)``: products, translation, and exact noise (20)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.derivatives import tracked
from numeric.scores.families import MonomialPlan


def monomial_steps(x: Tensor, out: Tensor, plan: MonomialPlan) -> list[Callable[[], Any]]:
    """What fills ``out``, ``(groups, count, n)``, with the leading basis monomials of ``x``, ``(groups, q, n)``.

    Each monomial is one product of an earlier one and a variable.  The slices are taken here, once, so that the steps
    can be run again for other numbers in the same arrays.
    """
    parent, variable = plan.recursion
    steps: list[Callable[[], Any]] = [partial(out[:, 0].fill_, 1.0)]
    for index in range(out.shape[1] - 1):
        p, v = int(parent[index]), int(variable[index])
        target, factor = out[:, index + 1], x[:, v]
        steps.append(partial(target.copy_, factor) if p == 0 else partial(torch.mul, out[:, p], factor, out=target))
    return steps


def monomials(x: Tensor, plan: MonomialPlan, count: int | None = None) -> Tensor:
    """Basis monomials ``(groups, B, n)`` of the variables ``x`` of shape ``(groups, q, n)``; differentiable."""
    if tracked(x):  # nothing may be written in place
        columns = [torch.ones_like(x[:, 0])]
        for parent, variable in zip(*plan.recursion):
            if len(columns) == (len(plan.basis) if count is None else count):
                break
            columns.append(columns[parent] * x[:, variable])
        return torch.stack(columns, 1)
    out = x.new_empty(x.shape[0], len(plan.basis) if count is None else count, x.shape[2])
    for step in monomial_steps(x, out, plan):
        step()
    return out


def grams(phi: Tensor) -> Tensor:
    """``phi phi^T`` of every group, ``(groups, B, B)``, from ``(groups, B, n)``.

    On a CPU NumPy's matmul, which sees that the two factors are one array and fills half of each product (``syrk``).
    """
    if phi.device.type != "cpu":
        return torch.bmm(phi, phi.transpose(1, 2))
    array = phi.numpy()
    return torch.from_numpy(np.matmul(array, array.swapaxes(1, 2)))


def translate(table: Tensor, plan: MonomialPlan, shift: Tensor) -> Tensor:
    """Moments of ``u + shift`` from those of ``u``: the binomial theorem in every variable.

    Args:
        table: ``(M, groups)`` moments of all products.
        shift: ``(q, groups)``.
    """
    out = table
    for i in range(plan.variables):
        if not bool(torch.any(shift[i] != 0)):
            continue
        # exp(shift_i d/du_i), a finite sum because the derivative is nilpotent on polynomials.
        power = torch.as_tensor(plan.products[:, i], device=table.device)
        down = torch.as_tensor(plan.down[i], device=table.device)
        term, result = out, out.clone()
        for k in range(1, int(power.max()) + 1):
            rows = torch.nonzero(power >= k).squeeze(1)
            lowered = torch.zeros_like(term)
            lowered[rows] = term[down[rows]] * power[rows, None].to(table.dtype) * (shift[i] / k)
            term = lowered
            result[rows] += term[rows]
        out = result
    return out


def heat(table: Tensor, plan: MonomialPlan, alpha: float, sigma: float, covariance: Tensor | None = None) -> Tensor:
    """Moments of ``alpha u + sigma z`` from those of ``u``, the Gaussian noise integrated exactly (equation (20)).

    ``E_z p(alpha u + sigma z) = exp(sigma^2 / 2 * Laplacian) p(alpha u)``: the heat semigroup, a finite sum on
    polynomials.  It equals ``m_p = sum_q C(p, q) a^q s^(p-q) mu_q E[z^(p-q)]`` in one variable.

    Args:
        table: ``(M, groups)`` clean moments.
        covariance: ``(q, q, groups)`` covariance of ``z`` (over-complete bases), or None for the identity.
    """
    products = plan.products
    device, dtype = table.device, table.dtype
    degree = torch.as_tensor(products.sum(axis=1), device=device)
    term = table * (alpha ** degree.to(dtype))[:, None]
    out = term.clone()
    steps = []
    for i in range(plan.variables):
        for j in range(i, plan.variables):
            if i == j:
                weight = products[:, i] * (products[:, i] - 1) / 2.0
            elif covariance is None:
                continue
            else:
                weight = (products[:, i] * products[:, j]).astype(float)
            rows = np.flatnonzero(weight > 0)
            if len(rows) == 0:
                continue
            source = plan.down[j][plan.down[i][rows]]
            steps.append(
                (
                    torch.as_tensor(rows, device=device),
                    torch.as_tensor(source, device=device),
                    torch.as_tensor(weight[rows], device=device, dtype=dtype)[:, None],
                    None if covariance is None else covariance[i, j],
                )
            )
    for order in range(1, int(products.sum(axis=1).max()) // 2 + 1):
        lowered = torch.zeros_like(term)
        for target, source, weight, k in steps:
            part = term[source] * weight
            lowered.index_add_(0, target, part if k is None else part * k)
        term = lowered * (sigma**2 / order)
        out += term
    return out
