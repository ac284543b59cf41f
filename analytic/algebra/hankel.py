"""Normal systems ``G theta = b`` in moments (equations (14) to (16), and the Hankel system above (20)).

One rule covers every family: with features ``phi_k`` that are polynomials in the coordinates and a table that turns a
monomial into a moment symbol, ``G_jk = E[phi_j phi_k]`` and ``b_j = -E[d phi_j / d w]`` (Stein's identity (11)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy as sp

from analytic.algebra.moments import Exponent, noisy_symbol

Moment = Callable[[Exponent], sp.Expr]
Polynomial = dict[Exponent, sp.Expr]


def hankel_matrix(degree: int, moment: Moment = noisy_symbol) -> sp.ImmutableMatrix:
    """``G_jk = m_(j+k)``, shape (n+1, n+1): the Gram of the monomials (above equation (20))."""
    return sp.ImmutableMatrix(degree + 1, degree + 1, lambda j, k: moment((j + k,)))


def hankel_rhs(degree: int, moment: Moment = noisy_symbol) -> sp.ImmutableMatrix:
    """``b_j = -j m_(j-1)``, shape (n+1, 1): Stein's identity (13) on monomials."""
    return sp.ImmutableMatrix(degree + 1, 1, lambda j, _: -j * moment((j - 1,)) if j else sp.Integer(0))


def expectation(polynomial: Polynomial, moment: Moment) -> sp.Expr:
    """``E[p]``: every monomial replaced by its moment."""
    return sp.Add(*(coefficient * moment(exponent) for exponent, coefficient in polynomial.items()))


def multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    """Product of two polynomials."""
    result: Polynomial = {}
    for e1, c1 in left.items():
        for e2, c2 in right.items():
            key = tuple(i + j for i, j in zip(e1, e2))
            result[key] = result.get(key, sp.Integer(0)) + c1 * c2
    return result


def derivative(polynomial: Polynomial, index: int = 0) -> Polynomial:
    """Partial derivative in coordinate ``index``."""
    result: Polynomial = {}
    for exponent, coefficient in polynomial.items():
        if exponent[index]:
            key = tuple(p - (k == index) for k, p in enumerate(exponent))
            result[key] = result.get(key, sp.Integer(0)) + exponent[index] * coefficient
    return result


def gram_matrix(features: Sequence[Polynomial], moment: Moment = noisy_symbol) -> sp.ImmutableMatrix:
    """``G = E[phi phi^T]``, shape (F, F) (equations (9), (10))."""
    size = len(features)
    rows: list[list[sp.Expr]] = [[sp.Integer(0)] * size for _ in range(size)]
    for j in range(size):
        for k in range(j, size):
            rows[j][k] = rows[k][j] = expectation(multiply(features[j], features[k]), moment)
    return sp.ImmutableMatrix(rows)


def rhs_vector(
    features: Sequence[Polynomial], moment: Moment = noisy_symbol, scale: sp.Expr = sp.S.One
) -> sp.ImmutableMatrix:
    """``b_j = -E[d phi_j / d w]``, shape (F, 1) (equations (13), (14)); ``scale`` is dw/du of the target."""
    return sp.ImmutableMatrix([-expectation(derivative(feature), moment) / scale for feature in features])


def monomials(exponents: Sequence[Exponent]) -> list[Polynomial]:
    """Monomials as polynomials."""
    return [{exponent: sp.Integer(1)} for exponent in exponents]
