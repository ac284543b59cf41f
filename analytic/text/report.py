"""The exact coefficients of given moments as a text or LaTeX report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.rational import any_length
from analytic.numbers.exact import compare
from analytic.text.tex import number_text, tex


def evaluation(
    coefficient: Coefficient,
    moments: Sequence[Any],
    level: Sequence[Any],
    ridge: Any = 0,
    *,
    digits: int = 12,
    slopes: tuple[Sequence[sp.Expr], sp.Matrix] | None = None,
    latex: bool = False,
    full: bool = True,
) -> str:
    """Exact ``theta`` at given moments, with decimals, the condition number and the error of a float64 solve.

    Args:
        full: write every digit of every fraction; False: numbers beyond 200 digits are only counted.
        slopes: also print ``d theta_k / d mu_p``: the clean moments (P) and the exact Jacobian (F, P).

    Raises:
        AnalyticError, SingularCoefficient: as :func:`analytic.numbers.exact.exact_theta`.
    """
    with any_length():
        return _evaluation(coefficient, moments, level, ridge, digits, slopes, latex, full)


def _evaluation(
    coefficient: Coefficient,
    moments: Sequence[Any],
    level: Sequence[Any],
    ridge: Any,
    digits: int,
    slopes: tuple[Sequence[sp.Expr], sp.Matrix] | None,
    latex: bool,
    full: bool,
) -> str:
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
    given = [
        f"{symbol} = {number_text(value, full)}"
        for symbol, value in zip(coefficient.moment_symbols, moments)
        if symbol != 1
    ]
    levels = [f"{symbol} = {number_text(value, full)}" for symbol, value in zip(coefficient.noise.level, level)]
    lines = [coefficient.title, "at " + ", ".join([*given[:12], *(["..."] if len(given) > 12 else []), *levels])]
    if coefficient.ridge:
        lines.append(f"lambda = {ridge}")
    width = max(len(str(feature)) for feature in coefficient.features)
    for name, feature, value in zip(names, coefficient.features, found.exact):
        lines.append(f"{name}  ({feature!s:>{width}}) = {number_text(value, full)}  ~ {sp.N(value, digits)}")
    if jacobian is not None:
        for k, name in enumerate(names):
            for p, moment in enumerate(by):
                value = jacobian[k, p]
                lines.append(f"d {name} / d {moment} = {number_text(value, full)}  ~ {sp.N(value, digits)}")
    lines.append(
        f"condition number of G {found.condition:.3g}; against these exact values float64 {_errs(found.error)}, "
        f"mpmath at 50 digits {_errs(found.mpmath_error)} (relative to the largest coefficient)"
    )
    return "\n".join(lines)


def _errs(error: float) -> str:
    return "finds the system singular" if error == float("inf") else f"errs by {error:.1e}"
