"""Coefficients straight from a moments vector, in float64, double-double, any number of digits or exact rationals."""

from __future__ import annotations

from typing import Any

import mpmath

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.noise import noise_model
from analytic.errors import AnalyticError, NearlyConstant, NotAMomentSequence, NumericallySingular
from analytic.numbers.conditions import diagnose
from analytic.numbers.evaluate import Evaluator
from analytic.numbers.exact import exact_theta

METHODS = ("cofactor", "lu")


def theta_from_moments(
    moments: Any,
    *level: Any,
    family: str = "independent",
    degree: int | None = None,
    noise: str = "ve",
    basis: str = "monomial",
    ridge: Any = 0,
    ridge_on: str = "unit",
    method: str = "cofactor",
    precision: str | int = "double-double",
    tolerance: float | None = 1e-3,
    **options: Any,
) -> Any:
    """Coefficients straight from clean moments (equations (15), (16), (20), (21)).

    Args:
        moments: shape (M, ...) in :attr:`ScoreCoefficient.moment_exponents` order; independent: ``mu_0 .. mu_2n``.
        level: sigma (VE), abar (VP), a and s (general), nothing (clean).
        degree: n; default for the independent family ``(M - 1) / 2``.
        ridge, ridge_on: value of lambda and where it enters (``unit``, ``raw``, ``denoiser``).
        method: ``cofactor`` (equation (21)) or ``lu`` (elimination).
        precision: ``"double"``, ``"double-double"``, a number of decimal digits (mpmath), or ``"exact"``.
        tolerance: largest relative error accepted (:meth:`ScoreCoefficient.lambdify`).
        options: radius, interactions, neighbours of the local family.

    Returns:
        Shape (F, ...): a float64 array; for digits or ``"exact"`` a list of mpf or of SymPy numbers (one
        coefficient only).

    Raises:
        AnalyticError: bad input, by value and fix.
        SingularCoefficient: by its named condition; never a NaN.

    >>> from fractions import Fraction
    >>> from analytic import theta_from_moments
    >>> theta_from_moments([1, 0, 3], 1)  # -w / (variance + sigma^2)
    array([ 0.  , -0.25])
    >>> theta_from_moments([1, Fraction(1, 2), Fraction(1, 3)], Fraction(1, 2), precision='exact')
    [3/2, -3]
    """
    if method not in METHODS:
        raise AnalyticError(f"unknown method {method!r}: use 'cofactor' or 'lu'")
    if degree is None:
        if family != "independent" or len(moments) % 2 == 0:
            raise AnalyticError(f"degree is needed (family {family!r}, {len(moments)} moments): pass degree=")
        degree = (len(moments) - 1) // 2
    has_ridge = bool(_nonzero(ridge))
    coefficient = Coefficient(
        family, degree, noise_model(noise), basis=basis, ridge=ridge_on if has_ridge else None, **options
    )
    way = "elimination" if method == "lu" else "auto"
    if precision == "exact":
        return exact_theta(coefficient, moments, *level, ridge=ridge)
    try:
        if isinstance(precision, int):
            if precision < 1:
                raise AnalyticError(f"precision must be a positive number of digits, got {precision}")
            with mpmath.workdps(precision):
                return Evaluator(coefficient, "mpmath", way, tolerance=tolerance)(moments, *level, ridge=ridge)
        evaluate = Evaluator(coefficient, "numpy", way, precision, tolerance=tolerance)
        return evaluate(moments, *level, ridge=ridge)
    except (NumericallySingular, ZeroDivisionError) as error:
        named = diagnose(coefficient, moments) if _is_scalar(moments) else None
        if isinstance(named, NotAMomentSequence) and isinstance(error, NearlyConstant):
            named = None  # only the rounding of the moments makes them none
        if named is not None:
            raise named from error
        if isinstance(error, ZeroDivisionError):
            raise NumericallySingular("a division by zero in the elimination", "use more digits or a ridge") from error
        raise


def _nonzero(value: Any) -> Any:
    return (value != 0).any() if hasattr(value, "any") else value != 0


def _is_scalar(moments: Any) -> bool:
    return getattr(moments, "ndim", 1) == 1 and not hasattr(moments[0], "__len__")
