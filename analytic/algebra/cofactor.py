"""The cofactor formula ``theta_k = (1 / det G) sum_j b_j C_jk`` (equation (21)).

All numerators and the determinant are the maximal minors of the augmented matrix ``[G | b]``, found row by row by
Laplace expansion with every smaller minor computed once: 2^(F+1) small products instead of F! of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, TypeVar

import sympy as sp
from sympy.polys.rings import ring

from analytic.errors import AnalyticError

T = TypeVar("T")
METHODS = ("laplace", "berkowitz", "bareiss")


def cramer_minors(
    rows: Sequence[Sequence[T]], keep: Callable[[tuple[int, ...], T], T] = lambda columns, value: value
) -> tuple[list[T], T]:
    """Numerators and determinant of Cramer's rule, in any commutative ring.

    Args:
        rows: augmented matrix ``[G | b]``, F rows of F + 1 entries.
        keep: called with (columns, minor) for every minor; may replace it (used to name intermediates).

    Returns:
        ``([N_0, ..., N_(F-1)], det G)`` with ``theta_k = N_k / det G``, ``N_k = sum_j b_j C_jk`` (equation (21)).
    """
    size = len(rows)
    minors: dict[tuple[int, ...], Any] = {(c,): rows[0][c] for c in range(size + 1)}
    for r in range(1, size):
        new: dict[tuple[int, ...], Any] = {}
        for columns in combinations(range(size + 1), r + 1):
            total: Any = None
            first: Any = rows[r][columns[0]]
            for place, column in enumerate(columns):
                if rows[r][column] == 0:
                    continue
                term = rows[r][column] * minors[columns[:place] + columns[place + 1 :]]
                if (place + r) % 2:
                    total = -term if total is None else total - term
                else:
                    total = term if total is None else total + term
            new[columns] = keep(columns, first * 0 if total is None else total)
        minors = new
    everything = tuple(range(size + 1))
    numerators = []
    for k in range(size):
        minor = minors[everything[:k] + everything[k + 1 :]]
        numerators.append(-minor if (size - 1 - k) % 2 else minor)
    return numerators, minors[everything[:-1]]


def cofactor_solution(gram: sp.MatrixBase, rhs: sp.MatrixBase) -> tuple[list[sp.Expr], sp.Expr]:
    """Expanded numerators and determinant of ``theta = G^-1 b`` (equation (21)), each F + 1 polynomials.

    Entries must be polynomials in their symbols (noisy moments, ridge); the work is done in a polynomial ring.
    """
    symbols = sorted(gram.free_symbols | rhs.free_symbols, key=lambda symbol: symbol.name)
    size = gram.shape[0]
    if not symbols:
        exact = [[sp.sympify(gram[j, k]) for k in range(size)] + [sp.sympify(rhs[j])] for j in range(size)]
        return cramer_minors(exact)
    domain, *_ = ring(symbols, sp.QQ)
    rows = [[domain.from_expr(gram[j, k]) for k in range(size)] + [domain.from_expr(rhs[j])] for j in range(size)]
    numerators, determinant = cramer_minors(rows)
    return [numerator.as_expr() for numerator in numerators], determinant.as_expr()


def cofactor(gram: sp.MatrixBase, j: int, k: int) -> sp.Expr:
    """``C_jk``: signed minor of G without row j and column k (equation (21))."""
    return (-1) ** (j + k) * determinant(gram.minor_submatrix(j, k))


def determinant(matrix: sp.MatrixBase, method: str = "laplace") -> sp.Expr:
    """Expanded determinant of a polynomial matrix by one of :data:`METHODS`.

    Raises:
        AnalyticError: unknown method.
    """
    if method not in METHODS:
        raise AnalyticError(f"unknown determinant method {method!r}: use one of {', '.join(METHODS)}")
    if method == "laplace":
        return cofactor_solution(matrix, sp.zeros(matrix.shape[0], 1))[1] if matrix.shape[0] else sp.Integer(1)
    return sp.expand(matrix.det(method=method))
