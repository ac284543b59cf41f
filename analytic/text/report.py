"""The exact coefficients of given moments as a text or LaTeX report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from analytic.algebra.coefficient import Coefficient
from analytic.numbers.exact import compare
from analytic.text.tex import tex


def evaluation(
    coefficient: Coefficient,
    moments: Sequence[Any],
    level: Sequence[Any],
    ridge: Any = 0,
    *,
    digits: int = 12,
    slopes: tuple[Sequence[sp.Expr], sp.Matrix] | None = None,
    latex: bool = False,
) -> str:
    """Exact ``theta`` at given moments, with decimals, the condition number and the error of a float64 solve.

    Args:
        slopes: also print ``d theta_k / d mu_p``: the clean moments (P) and the exact Jacobian (F, P).

    Raises:
        AnalyticError, SingularCoefficient: as :func:`analytic.numbers.exact.exact_theta`.
    """
    found = compare(coefficient, moments, *level, ridge=ridge)
    names = coefficient.theta_symbols
    by, jacobian = slopes or ((), None)
    if latex:
        lines = [f"{tex(name)} &= {tex(value)}" for name, value in zip(names, found.exact)]
        if jacobian is not None:
            for k, name in enumerate(names):
                for p, moment in enumerate(by):
                    lines.append(rf"\frac{{\partial {tex(name)}}}{{\partial {tex(moment)}}} &= {tex(jacobian[k, p])}")
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"
    given = [f"{symbol} = {value}" for symbol, value in zip(coefficient.moment_symbols, moments) if symbol != 1]
    levels = [f"{symbol} = {value}" for symbol, value in zip(coefficient.noise.level, level)]
    lines = [coefficient.title, "at " + ", ".join([*given[:12], *(["..."] if len(given) > 12 else []), *levels])]
    if coefficient.ridge:
        lines.append(f"lambda = {ridge}")
    width = max(len(str(feature)) for feature in coefficient.features)
    for name, feature, value in zip(names, coefficient.features, found.exact):
        lines.append(f"{name}  ({feature!s:>{width}}) = {value}  ~ {sp.N(value, digits)}")
    if jacobian is not None:
        for k, name in enumerate(names):
            for p, moment in enumerate(by):
                value = jacobian[k, p]
                lines.append(f"d {name} / d {moment} = {value}  ~ {sp.N(value, digits)}")
    lines.append(
        f"condition number of G {found.condition:.3g}; against these exact values float64 errs by {found.error:.1e}, "
        f"mpmath at 50 digits by {found.mpmath_error:.1e} (relative to the largest coefficient)"
    )
    return "\n".join(lines)
