"""Exact numbers, and linear systems of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from sympy.polys.matrices import DomainMatrix
from sympy.polys.matrices.exceptions import DMNonInvertibleMatrixError

from analytic.errors import AnalyticError


def rational(value: Any) -> sp.Expr:
    """Exact value of a number: nothing is rounded on the way in.

    Integers, fractions, ``Decimal`` and decimal strings (``"0.34"``, ``"1/3"``) are what they say; binary numbers (float,
    NumPy's and torch's scalars, mpmath's mpf, SymPy's Float) become the dyadic rationals they are; SymPy's irrational
    numbers stay.

    Raises:
        AnalyticError: NaN, infinity, a complex number, or what is no number.
    """
    try:
        number = _exact(value)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise AnalyticError(f"moments and levels must be finite real numbers, got {value!r}") from error
    if not number.is_number or number is sp.nan or number.is_finite is False or number.is_real is False:
        raise AnalyticError(f"moments and levels must be finite real numbers, got {value!r}")
    return number


def _exact(value: Any) -> sp.Expr:
    if hasattr(value, "item") and not isinstance(value, np.longdouble):
        value = value.item()  # a NumPy or torch scalar, or an array of one value
    if isinstance(value, sp.Float):
        return _dyadic(*value._mpf_[:3])
    if isinstance(value, sp.Basic):
        return value
    if hasattr(value, "_mpf_"):
        if not mpmath.isfinite(value):
            raise ValueError(f"{value} is not finite")
        return _dyadic(*value._mpf_[:3])
    if isinstance(value, str):
        return sp.Rational(value.strip())
    if isinstance(value, int | Fraction):
        return sp.Rational(value.numerator, value.denominator)
    if hasattr(value, "as_integer_ratio"):
        top, bottom = value.as_integer_ratio()
        return sp.Rational(int(top), int(bottom))
    return sp.Rational(int(value.numerator), int(value.denominator)) if hasattr(value, "numerator") else _float(value)


def _float(value: Any) -> sp.Expr:
    return sp.Rational(*float(value).as_integer_ratio())


def _dyadic(sign: int, mantissa: Any, exponent: int) -> sp.Expr:
    number = sp.Integer(int(mantissa)) * sp.Integer(2) ** int(exponent)
    return -number if sign else number


def is_exact(value: Any) -> bool:
    """Whether a number is meant exactly: integers, fractions, decimals, text and SymPy's exact numbers, but no float."""
    if isinstance(value, sp.Basic):
        return not value.has(sp.Float)
    return isinstance(value, int | Fraction | Decimal | str | np.integer)


@contextmanager
def any_length() -> Iterator[None]:
    """Lift Python's limit of 4,300 digits on integers read and printed: exact fractions here are longer now and then."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def rational_solve(gram: sp.Matrix, rhs: sp.Matrix) -> list[sp.Expr] | None:
    """Exact solution over the rationals, or None for a singular matrix."""
    left = DomainMatrix.from_Matrix(gram).convert_to(sp.QQ)
    right = DomainMatrix.from_Matrix(rhs).convert_to(sp.QQ)
    try:
        return list(left.lu_solve(right).to_Matrix())
    except DMNonInvertibleMatrixError:
        return None


def first_negative(matrix: sp.MatrixBase, allowance: sp.Expr | int = 0) -> tuple[list[int], sp.Expr] | None:
    """A principal minor that shows that a symmetric matrix is not positive semidefinite: its rows and its value.

    Gaussian elimination without pivoting, exact.  A Schur complement that is negative, or one that is zero with an entry
    beside it that is not, gives a negative minor; where neither occurs the matrix is semidefinite and None is returned.

    Args:
        matrix: entries rational, or else evaluated to 60 digits (with an allowance of 1e-40).
        allowance: relative error of the entries: each diagonal entry is raised by so much of itself first.
    """
    size = matrix.shape[0]
    if not all(entry.is_Rational for entry in matrix):
        matrix = matrix.applyfunc(lambda entry: entry if entry.is_Rational else _exact(sp.N(entry, 60)))
        allowance = max(allowance, sp.Rational(1, 10**40))
    rows = [[sp.QQ.from_sympy(sp.sympify(matrix[j, k])) for k in range(size)] for j in range(size)]
    more = 1 + sp.QQ.from_sympy(sp.sympify(allowance))
    for j in range(size):
        rows[j][j] *= more
    kept: list[int] = []
    minor = sp.QQ(1)
    for k in range(size):
        pivot = rows[k][k]
        if pivot < 0:
            return [*kept, k], sp.QQ.to_sympy(minor * pivot)
        if pivot == 0:
            for j in range(k + 1, size):
                if rows[k][j]:
                    return [*kept, k, j], sp.QQ.to_sympy(-minor * rows[k][j] ** 2)
            continue
        kept.append(k)
        minor *= pivot
        for i in range(k + 1, size):
            if rows[k][i]:
                factor = rows[k][i] / pivot
                for j in range(i, size):
                    rows[i][j] -= factor * rows[k][j]
                    rows[j][i] = rows[i][j]
    return None
