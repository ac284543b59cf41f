"""Exact numbers, and linear systems of them."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.polys.matrices import DomainMatrix
from sympy.polys.matrices.exceptions import DMNonInvertibleMatrixError

from analytic.errors import AnalyticError


def rational(value: Any) -> sp.Expr:
    """Exact value of a number: Fractions and integers stay, a float becomes the dyadic rational it is.

    Raises:
        AnalyticError: NaN or infinity.
    """
    if isinstance(value, sp.Basic):
        number = value
    elif isinstance(value, int):
        number = sp.Integer(value)
    elif hasattr(value, "numerator") and hasattr(value, "denominator") and not hasattr(value, "dtype"):
        number = sp.Rational(int(value.numerator), int(value.denominator))
    else:
        try:
            number = sp.Rational(*float(value).as_integer_ratio())
        except (OverflowError, ValueError) as error:
            raise AnalyticError(f"moments and levels must be finite numbers, got {value!r}") from error
    if number.is_finite is False:
        raise AnalyticError(f"moments and levels must be finite numbers, got {value!r}")
    return number


def rational_solve(gram: sp.Matrix, rhs: sp.Matrix) -> list[sp.Expr] | None:
    """Exact solution over the rationals, or None for a singular matrix."""
    left = DomainMatrix.from_Matrix(gram).convert_to(sp.QQ)
    right = DomainMatrix.from_Matrix(rhs).convert_to(sp.QQ)
    try:
        return list(left.lu_solve(right).to_Matrix())
    except DMNonInvertibleMatrixError:
        return None
