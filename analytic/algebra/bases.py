"""Bases of one feature space: monomials, powers of the standardised coordinate, Hermite (Section 3, Appendix A.2).

Every basis is a list of polynomials in coordinates ``v``: the coefficients themselves (``monomial``), or the standardised
``u_i = (w_i - c_i) / d_i`` (``standardized``, ``hermite``).  The probabilists' Hermite polynomials obey
``He_(k+1) = x He_k - k He_(k-1)`` and ``He_k' = k He_(k-1)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import sympy as sp

from analytic.algebra.families import Family
from analytic.algebra.hankel import Polynomial, multiply
from analytic.algebra.moments import Exponent, unit
from analytic.errors import AnalyticError

BASES = ("monomial", "standardized", "hermite")


def check_basis(name: str) -> str:
    """Raises AnalyticError unless the basis is one of :data:`BASES`."""
    if name not in BASES:
        raise AnalyticError(f"unknown basis {name!r}: use one of {', '.join(BASES)}")
    return name


def hermite_coefficients(order: int) -> list[int]:
    """Integer coefficients of ``He_k``, lowest power first, by the three-term recurrence."""
    before, here = [1], [0, 1]
    if order == 0:
        return before
    for k in range(1, order):
        after = [0] + here
        for power, value in enumerate(before):
            after[power] -= k * value
        before, here = here, after
    return here


def hermite_feature(exponent: Exponent) -> Polynomial:
    """``He_i(u_1) He_j(u_2) ...`` as a polynomial in u."""
    result: Polynomial = {(0,) * len(exponent): sp.Integer(1)}
    for index, order in enumerate(exponent):
        factor = {
            unit(index, len(exponent), power): sp.Integer(value)
            for power, value in enumerate(hermite_coefficients(order))
            if value
        }
        result = multiply(result, factor)
    return result


def basis_features(
    family: Family, basis: str, centres: Sequence[sp.Expr], scales: Sequence[sp.Expr]
) -> list[Polynomial]:
    """Features of a family in a basis, as polynomials in that basis's coordinates.

    The band family keeps its factor ``w_H = c + d u_H``, for its twin must span ``{1} + w_H * polynomials``:
    ``w_H He_(i-1)(u_H) He_j(u_V) He_k(u_D)`` (``w_H u_H^(i-1) ...`` when standardised).
    """
    check_basis(basis)
    if basis == "monomial":
        return [{exponent: sp.Integer(1)} for exponent in family.exponents]
    count = len(family.variables)
    target: Polynomial = {(0,) * count: centres[0], unit(0, count): scales[0]}
    features: list[Polynomial] = []
    for exponent in family.exponents:
        tied = family.name == "band" and any(exponent)
        inner = (exponent[0] - 1, *exponent[1:]) if tied else exponent
        polynomial = hermite_feature(inner) if basis == "hermite" else {inner: sp.Integer(1)}
        features.append(multiply(target, polynomial) if tied else polynomial)
    return features


def in_monomials(polynomial: Polynomial, centres: Sequence[sp.Expr], scales: Sequence[sp.Expr]) -> Polynomial:
    """Replace ``u_i = (w_i - c_i) / d_i`` and expand in the w."""
    result: Polynomial = {}
    for exponent, coefficient in polynomial.items():
        term: Polynomial = {(0,) * len(exponent): coefficient}
        for index, power in enumerate(exponent):
            shift = {
                unit(index, len(exponent), q): comb(power, q)
                * (-centres[index]) ** (power - q)
                / scales[index] ** power
                for q in range(power + 1)
            }
            term = multiply(term, shift)
        for key, value in term.items():
            result[key] = result.get(key, sp.Integer(0)) + value
    return result


def change_of_basis(
    family: Family, basis: str, centres: Sequence[sp.Expr], scales: Sequence[sp.Expr]
) -> sp.ImmutableMatrix:
    """``T`` with ``features = T monomials``, shape (F, F), lower triangular with a non-zero diagonal.

    Then ``G_basis = T G T^T``, ``b_basis = T b`` and ``theta_monomial = T^T theta_basis``.

    Raises:
        ArithmeticError: the basis leaves the span of the family's monomials (it never should).
    """
    check_basis(basis)
    if basis == "monomial":
        return sp.ImmutableMatrix(sp.eye(len(family)))
    column = {exponent: k for k, exponent in enumerate(family.exponents)}
    rows = [[sp.Integer(0)] * len(family) for _ in range(len(family))]
    for j, feature in enumerate(basis_features(family, basis, centres, scales)):
        for exponent, value in in_monomials(feature, centres, scales).items():
            # The band twin multiplies (c + d u) by u-polynomials: what falls outside must cancel to zero exactly.
            value = sp.expand(value) if family.name == "band" else value
            if exponent in column:
                rows[j][column[exponent]] = value
            elif sp.expand(value) != 0:
                raise ArithmeticError(f"feature {j} of {basis} leaves the span at {exponent}")
    return sp.ImmutableMatrix(rows)
