"""Conditions on the moments themselves: whether they belong to a law, and why a clean system is singular."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.moments import clean_moment, noisy_symbol
from analytic.algebra.rational import rational
from analytic.errors import (
    AnalyticError,
    ConstantCoefficient,
    FewAtoms,
    NotAMomentSequence,
    NumericallySingular,
    SingularCoefficient,
)


def clean_values(coefficient: Coefficient, moments: Sequence[Any]) -> dict[sp.Symbol, sp.Expr]:
    """``{mu symbol: exact value}`` of a moments vector.

    Raises:
        AnalyticError: wrong length, or mu_0 != 1.
    """
    symbols = coefficient.moment_symbols
    if len(moments) != len(symbols):
        raise AnalyticError(
            f"moments must hold {len(symbols)} values (mu_0 = 1 first; order: ScoreCoefficient.moment_exponents), "
            f"got {len(moments)}"
        )
    values = [rational(value) for value in moments]
    if abs(values[0] - 1) > sp.Rational(1, 10**9):
        raise AnalyticError(f"the first moment must be mu_0 = 1, got {moments[0]}: divide by the number of samples")
    return {symbol: value for symbol, value in zip(symbols, values) if isinstance(symbol, sp.Symbol)}


def diagnosed(coefficient: Coefficient, moments: Sequence[Any]) -> SingularCoefficient:
    """The named condition of a singular system, or NumericallySingular if the clean system is regular."""
    found = diagnose(coefficient, moments)
    return found or NumericallySingular("det G = 0 in the arithmetic asked for", "use more digits, or a ridge")


def diagnose(coefficient: Coefficient, moments: Sequence[Any]) -> SingularCoefficient | None:
    """Why the *clean* system (s = 0) is singular, as an exception to raise, or None where it is not.

    Exact: the Hankel matrix of a law on r points has leading minors ``D_1 .. D_r > 0`` and ``D_(r+1) = 0``.
    """
    clean = Coefficient(coefficient.family, noise="clean")
    table = clean_values(clean, moments)
    lookup = {noisy_symbol(e): table.get(clean_moment(e), clean_moment(e)) for e in clean.noisy_exponents if any(e)}
    gram = clean.plain_gram.xreplace(lookup).as_mutable()
    one = len(coefficient.variables) == 1
    for size in range(1, gram.shape[0] + 1):
        minor = gram[:size, :size].det(method="bareiss")
        if minor < 0:
            return NotAMomentSequence(
                f"leading minor {size} of the Gram is {sp.N(minor, 4)} < 0", "recompute the moments in more digits"
            )
        if minor == 0:
            if size == 2:
                return ConstantCoefficient(
                    f"the clean coefficient {coefficient.variables[0]} has variance zero (m_2 = m_1^2) and s = 0",
                    "add noise (s > 0), a ridge, or drop the coefficient: its denoiser is the constant m_1",
                )
            what = (
                f"the clean data sit on {size - 1} points and s = 0: the Hankel matrix of degree >= {size - 1} is singular"
                if one
                else f"feature {size - 1} is a linear combination of the earlier ones on the clean data (s = 0)"
            )
            return FewAtoms(
                what,
                f"use degree <= {size - 2}, noise s > 0, or a ridge"
                if one
                else "use a lower degree, s > 0, or a ridge",
            )
    return None
