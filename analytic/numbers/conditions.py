"""Conditions on the moments themselves: whether they belong to a law, and why a clean system is singular."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.moments import Exponent, clean_moment, noisy_symbol
from analytic.algebra.rational import first_negative, is_exact, rational
from analytic.errors import (
    AnalyticError,
    ConstantCoefficient,
    FewAtoms,
    NotAMomentSequence,
    NumericallySingular,
    SingularCoefficient,
)

ROUNDED = sp.Rational(1, 10**9)  # of moments given as floats: they come from long sums, so more than one rounding


def clean_values(coefficient: Coefficient, moments: Sequence[Any]) -> dict[sp.Symbol, sp.Expr]:
    """``{mu symbol: exact value}`` of a moments vector.

    Raises:
        AnalyticError: wrong length, or mu_0 != 1.
        NotAMomentSequence: no law has these moments (:func:`refuse_no_law`).
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
    allowance = sp.Integer(0) if all(map(is_exact, moments)) else ROUNDED
    _lawful(coefficient.family.exponents, tuple(coefficient.moment_exponents), tuple(values), allowance)
    return {symbol: value for symbol, value in zip(symbols, values) if isinstance(symbol, sp.Symbol)}


@lru_cache(maxsize=64)
def moment_matrices(known: tuple[Exponent, ...], first: tuple[Exponent, ...] = ()) -> tuple[tuple[Exponent, ...], ...]:
    """Sets of monomials whose products are all among the known moments: the rows of moment matrices.

    The first set grows from ``first`` (a family's features) as far as it goes; where squares of other monomials are known
    too, each gets a set of its own, in its own variables.
    """
    there = {*known, (0,) * len(known[0])}
    squares = sorted((tuple(p // 2 for p in row) for row in there if not any(p % 2 for p in row)), key=_order)
    candidates = [*first, *(row for row in squares if row not in set(first))]
    waiting = candidates
    sets: list[tuple[Exponent, ...]] = []
    while waiting:
        start = waiting[0]
        rows: list[Exponent] = []
        for row in [start, *(row for row in candidates if row != start)]:
            alone = sets and any(p and not q for p, q in zip(row, start))
            if not alone and all(_times(row, other) in there for other in [*rows, row]):
                rows.append(row)
        gathered = {start, *rows}
        waiting = [row for row in waiting if row not in gathered]
        sets.append(tuple(sorted(rows, key=_order)))
    return tuple(sets)


def _order(row: Exponent) -> tuple[Any, ...]:
    return sum(row), tuple(-p for p in row)


def refuse_no_law(
    moments: dict[Exponent, sp.Expr], first: Sequence[Exponent] = (), allowance: sp.Expr | int = 0
) -> None:
    """Moments of a law have positive semidefinite moment matrices ``E[v_j v_k]``, for any monomials v; eliminated exactly.

    One coordinate: the Hankel matrix, whose semidefiniteness is all there is to ask (Hamburger).  Several: necessary.

    Args:
        moments: exact values by exponents; ``(0, ..)`` may be left out, it is 1.
        first: monomials to start with (:func:`moment_matrices`).
        allowance: relative rounding of the moments (:data:`ROUNDED` for floats).

    Raises:
        NotAMomentSequence: names the monomials and the minor.
    """
    known = {(0,) * len(next(iter(moments))): sp.Integer(1)} | moments
    for rows in moment_matrices(tuple(moments), tuple(first)):
        found = first_negative(sp.Matrix([[known[_times(j, k)] for k in rows] for j in rows]), allowance)
        if found is not None:
            places, minor = found
            raise NotAMomentSequence(
                f"no distribution has these moments: the minor of the moment matrix on "
                f"({', '.join(_monomial(rows[place]) for place in places)}) is {sp.N(minor, 4)} < 0",
                "recompute the moments from data, in more digits",
            )


def refuse_no_law_of_one(moments: Sequence[Any]) -> None:
    """:func:`refuse_no_law` of one coordinate's ``mu_0 = 1, mu_1, ...``; floats up to their rounding."""
    allowance = sp.Integer(0) if all(map(is_exact, moments)) else ROUNDED
    refuse_no_law({(p,): rational(value) for p, value in enumerate(moments) if p}, (), allowance)


def refuse_no_law_of_arrays(coefficient: Coefficient, moments: np.ndarray) -> None:
    """:func:`refuse_no_law` of many coefficients at once, moments (M, ...) in float64, beyond their rounding.

    Raises:
        NotAMomentSequence: says at how many coefficients, and which the first is.
    """
    exponents = coefficient.moment_exponents
    place = {row: k for k, row in enumerate(exponents)}
    flat = moments.reshape(len(exponents), -1)
    if not np.isfinite(flat).all():
        raise AnalyticError("the moments are not all finite: scale the data, or lower the degree")
    for rows in moment_matrices(tuple(exponents), coefficient.family.exponents):
        matrix = flat[np.array([[place[_times(j, k)] for k in rows] for j in rows])].transpose(2, 0, 1)
        diagonal = np.einsum("gjj->gj", matrix)
        size = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        scaled = matrix / size[:, :, None] / size[:, None, :] + float(ROUNDED) * np.eye(len(rows))
        try:
            np.linalg.cholesky(scaled)
        except np.linalg.LinAlgError:
            lowest = np.linalg.eigvalsh(scaled)[:, 0]
            bad = np.flatnonzero(lowest < 0)
            if len(bad):
                where = f" at {len(bad)} of {flat.shape[1]} coefficients (first: {bad[:3].tolist()})"
                raise NotAMomentSequence(
                    "no distribution has these moments"
                    + (where if flat.shape[1] > 1 else "")
                    + f": the moment matrix on ({', '.join(map(_monomial, rows[:6]))}{', ...' if len(rows) > 6 else ''}), "
                    f"scaled to a unit diagonal, has the eigenvalue {lowest[bad[0]]:.2g} < 0",
                    "recompute the moments from data, in more digits",
                ) from None


def _times(left: Exponent, right: Exponent) -> Exponent:
    return tuple(p + q for p, q in zip(left, right))


def _monomial(row: Exponent) -> str:
    names = ["x"] if len(row) == 1 else [f"x_{k}" for k in range(1, len(row) + 1)]
    factors = [name if p == 1 else f"{name}^{p}" for name, p in zip(names, row) if p]
    return " ".join(factors) or "1"


@lru_cache(maxsize=256)
def _lawful(
    features: tuple[Exponent, ...], exponents: tuple[Exponent, ...], values: tuple[sp.Expr, ...], allowance: sp.Expr
) -> None:
    """:func:`refuse_no_law` of a coefficient's moments, done once for equal ones."""
    refuse_no_law(dict(zip(exponents, values)), features, allowance)


def diagnosed(coefficient: Coefficient, moments: Sequence[Any]) -> SingularCoefficient:
    """The named condition of a singular system, or NumericallySingular if the clean system is regular."""
    found = diagnose(coefficient, moments)
    return found or NumericallySingular("det G = 0 in the arithmetic asked for", "use more digits, or a ridge")


def diagnose(coefficient: Coefficient, moments: Sequence[Any]) -> SingularCoefficient | None:
    """Why the *clean* system (s = 0) is singular, as an exception to raise, or None where it is not.

    Exact: the Hankel matrix of a law on r points has leading minors ``D_1 .. D_r > 0`` and ``D_(r+1) = 0``.

    >>> from analytic import ScoreCoefficient, diagnose
    >>> print(diagnose(ScoreCoefficient('independent', 1), [1, 0, 1]), diagnose(ScoreCoefficient('independent', 1), [1, 2, 4]).name)
    None constant-coefficient
    """
    clean = Coefficient(coefficient.family, noise="clean")
    try:
        table = clean_values(clean, moments)
    except NotAMomentSequence as found:
        return found
    lookup = {noisy_symbol(e): table.get(clean_moment(e), clean_moment(e)) for e in clean.noisy_exponents if any(e)}
    gram = clean.plain_gram.xreplace(lookup).as_mutable()
    one = len(coefficient.variables) == 1
    for size in range(1, gram.shape[0] + 1):
        minor = gram[:size, :size].det(method="bareiss")
        if minor < 0:
            return None  # by no more than the rounding of the moments, or clean_values had refused them
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
