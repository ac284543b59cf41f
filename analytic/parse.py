"""Exact numbers, moments and points from text: what the command line understands."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.laws import law_moments, moments_of_samples
from analytic.algebra.rational import any_length
from analytic.errors import AnalyticError


def number(text: str) -> sp.Rational:
    """``1/10``, ``0.1`` (exactly one tenth), ``-3`` or ``2e-5`` as a rational.

    Raises:
        AnalyticError: anything else.
    """
    try:
        with any_length():
            value = sp.Rational(text.strip())
    except (TypeError, ValueError, ZeroDivisionError):
        value = sp.nan
    if not (isinstance(value, sp.Rational) and value.is_finite):
        raise AnalyticError(f"{text.strip()!r} is not a rational number: write 1/10, 0.1 or -3")
    return value


def moments_from_text(coefficient: Coefficient, text: str) -> list[sp.Expr]:
    """Clean moments of a coefficient, exact, from ``1,1/2,1/3`` (in order) or ``mu_1=1/2,mu_2=1/3`` (by name).

    In order, ``mu_0 = 1`` comes first.  By name, ``mu_0`` may be left out; mixed moments are ``mu_110``.

    Raises:
        AnalyticError: a number or name that is not understood, one too many, or one missing.
    """
    items = [item for item in (part.strip() for part in text.split(",")) if item]
    if not any("=" in item for item in items):
        values = [number(item) for item in items]
        wanted = len(coefficient.moment_exponents)
        if len(values) != wanted:
            names = [str(symbol) for symbol in coefficient.moment_symbols]
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise AnalyticError(
                f"--moments holds {len(values)} values, {coefficient.title} takes {wanted}: {shown} (the first is mu_0 = 1)"
            )
        return list(values)
    known = {str(symbol): symbol for symbol in coefficient.moment_symbols if isinstance(symbol, sp.Symbol)}
    given: dict[str, sp.Expr] = {}
    for item in items:
        name, _, value = (part.strip() for part in item.partition("="))
        name = name if name.startswith("mu_") else f"mu_{name}"
        if name.strip("mu_0") == "" and name != "mu_":
            if number(value) != 1:
                raise AnalyticError(f"mu_0 must be 1, got {value}: divide the moments by the number of samples")
            name = "mu_0"
        elif name not in known:
            shown = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
            raise AnalyticError(f"unknown moment {name!r} in {item!r}: {coefficient.title} takes {shown}")
        if name in given:
            raise AnalyticError(f"{name} is given twice (the second time in {item!r}): give each moment once")
        given[name] = number(value)
    missing = [name for name in known if name not in given]
    if missing:
        raise AnalyticError(
            f"{len(missing)} moment(s) are missing: {', '.join(missing[:6])}" + (", ..." if len(missing) > 6 else "")
        )
    return [sp.Integer(1), *(given[name] for name in known)]


def points_from_text(coefficient: Coefficient, text: str) -> list[sp.Expr]:
    """Exact moments of equally likely points: ``0,1,3``, or several coordinates as ``1 2 0, 3 1 1``.

    Raises:
        AnalyticError: a point with another number of coordinates than the coefficient has.
    """
    width = len(coefficient.variables)
    points = [tuple(map(number, item.split())) for item in text.split(",") if item.strip()]
    for point in points:
        if len(point) != width:
            raise AnalyticError(
                f"point ({', '.join(map(str, point))}) has {len(point)} coordinate(s), {coefficient.title} has {width}"
            )
    if not points:
        raise AnalyticError("--points is empty: give values such as 0,1,3")
    return moments_of_samples(points, coefficient.moment_exponents)


def moments_of_choice(
    coefficient: Coefficient, moments: str | None, points: str | None, law: str | None
) -> list[sp.Expr]:
    """Moments from exactly one of the three.

    Raises:
        AnalyticError: none or several of them; a law with a family of several coordinates.
    """
    if sum(value is not None for value in (moments, points, law)) != 1:
        raise AnalyticError("give exactly one of --moments, --points and --law")
    if moments is not None:
        return moments_from_text(coefficient, moments)
    if points is not None:
        return points_from_text(coefficient, points)
    if len(coefficient.variables) > 1:
        raise AnalyticError(f"--law {law!r} has one coordinate, {coefficient.title} several: use --moments or --points")
    return law_moments(str(law), 2 * coefficient.degree)


def level_of(coefficient: Coefficient, sigma: str | None, abar: str | None, a: str | None, s: str | None) -> list:
    """Noise level values in the order the noise model takes them.

    Raises:
        AnalyticError: a level that the noise does not take, or one missing.
    """
    given = {"sigma": sigma, "abar": abar, "a": a, "s": s}
    wanted = [symbol.name for symbol in coefficient.noise.level]
    for name, value in given.items():
        if value is not None and name not in wanted:
            raise AnalyticError(
                f"noise {coefficient.noise.kind!r} takes {', '.join('--' + n for n in wanted) or 'no level'}, "
                f"got --{name} {value}"
            )
    missing = [f"--{name}" for name in wanted if given[name] is None]
    if missing:
        raise AnalyticError(f"noise {coefficient.noise.kind!r} needs {', '.join(missing)} (such as 1/10)")
    return [number(str(given[name])) for name in wanted]


def numbers(text: str) -> Sequence[sp.Rational]:
    """Comma-separated rationals."""
    return [number(item) for item in text.split(",") if item.strip()]
