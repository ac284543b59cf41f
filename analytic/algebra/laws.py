"""Textbook laws and finite samples by their exact raw moments, for examples, tests and the table of lost digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, factorial
from typing import Any

import sympy as sp

from analytic.algebra.moments import Exponent, gaussian_moment
from analytic.algebra.rational import rational
from analytic.errors import AnalyticError


def _gaussian(p: int) -> sp.Expr:
    return sp.Integer(gaussian_moment(p))


def _uniform(p: int) -> sp.Expr:
    return sp.Rational(1, p + 1)


def _laplace(p: int) -> sp.Expr:
    return sp.Integer(0 if p % 2 else factorial(p))


def _exponential(p: int) -> sp.Expr:
    return sp.Integer(factorial(p))


def _two_point(p: int) -> sp.Expr:
    return sp.Integer(1) if p == 0 else sp.Rational(1, 2)


LAWS: dict[str, tuple[str, Callable[[int], sp.Expr]]] = {
    "gaussian": ("normal, mean 0, variance 1", _gaussian),
    "uniform": ("uniform on [0, 1]", _uniform),
    "laplace": ("Laplace, mean 0, scale 1", _laplace),
    "exponential": ("exponential, mean 1", _exponential),
    "two-point": ("0 or 1 with equal chances", _two_point),
}


def law_moments(name: str, order: int, *, shift: Any = 0, scale: Any = 1) -> list[sp.Expr]:
    """Exact raw moments ``mu_0 = 1 .. mu_order`` of ``shift + scale * x``, x of the named law.

    Raises:
        AnalyticError: unknown law, or order < 0.

    >>> from analytic import law_moments
    >>> law_moments('gaussian', 4, shift=1)
    [1, 1, 2, 4, 10]
    """
    if name not in LAWS:
        raise AnalyticError(f"unknown law {name!r}: use one of {', '.join(LAWS)}")
    if order < 0:
        raise AnalyticError(f"order must be >= 0, got {order}")
    moment = LAWS[name][1]
    by, times = rational(shift), rational(scale)
    return [
        sum((comb(p, q) * times**q * moment(q) * by ** (p - q) for q in range(p + 1)), sp.Integer(0))
        for p in range(order + 1)
    ]


def moments_of_samples(samples: Sequence[Any], exponents: Sequence[Exponent]) -> list[sp.Expr]:
    """Exact moments of a finite list of (rational) points, in the order of ``exponents``."""
    points = [tuple(map(rational, x if isinstance(x, tuple | list) else (x,))) for x in samples]
    count = sp.Integer(len(points))
    return [sum(sp.prod([x**p for x, p in zip(point, e)]) for point in points) / count for e in exponents]
