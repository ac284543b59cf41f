"""Coefficients from moments in float64, double-double, any number of digits or exact rationals.

Rational moments in, rational coefficients out: with a rational VE level every theta is rational; with a rational ``abar``
``theta_k`` is a rational times ``sqrt(abar)`` at most, because VP is VE at ``sigma^2 = (1 - abar) / abar``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from analytic.coefficient import LAMBDA, ScoreCoefficient
from analytic.errors import (
    AnalyticError,
    ConstantCoefficient,
    FewAtoms,
    NearlyConstant,
    NotAMomentSequence,
    NumericallySingular,
    SingularCoefficient,
)
from analytic.moments import Exponent, clean_moment, noisy_symbol
from analytic.noise import Noise, check_level, noise_model

METHODS = ("cofactor", "lu")


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


def clean_values(coefficient: ScoreCoefficient, moments: Sequence[Any]) -> dict[sp.Symbol, sp.Expr]:
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


def numeric_system(
    coefficient: ScoreCoefficient, moments: Sequence[Any], *level: Any, ridge: Any = 0
) -> tuple[sp.Matrix, sp.Matrix]:
    """Exact ``G`` and ``b`` for given moments and level, (F, F) and (F, 1) (equations (15), (16))."""
    table = clean_values(coefficient, moments)
    model = coefficient.noise
    check_level(model.kind, *level)
    levels = dict(zip(model.level, map(rational, level)))
    noisy = {name: value.xreplace(levels).xreplace(table) for name, value in coefficient.noisy_moments.items()}
    noisy = {name: sp.expand(value) for name, value in noisy.items()}
    if coefficient.basis != "monomial":
        for name, value in coefficient.standard_moments.items():
            noisy[name] = sp.expand(value.xreplace(noisy))
    noisy[LAMBDA] = rational(ridge)
    noisy.update(levels)
    return coefficient.gram.xreplace(noisy).as_mutable(), coefficient.rhs.xreplace(noisy).as_mutable()


def exact_theta(coefficient: ScoreCoefficient, moments: Sequence[Any], *level: Any, ridge: Any = 0) -> list[sp.Expr]:
    """Exact coefficients, F of them.

    Raises:
        AnalyticError: bad moments or level.
        SingularCoefficient: det G = 0, by its named condition.
    """
    if coefficient.noise.kind == "vp" and coefficient.basis == "monomial" and coefficient.ridge in (None, "unit"):
        return _exact_vp(coefficient, moments, *level, ridge=ridge)
    gram, rhs = numeric_system(coefficient, moments, *level, ridge=ridge)
    if not gram.free_symbols and all(entry.is_Rational for entry in [*gram, *rhs]):
        solution = rational_solve(gram, rhs)
        if solution is None:
            raise diagnosed(coefficient, moments)
        return solution
    determinant = sp.simplify(gram.det(method="berkowitz"))
    if determinant == 0:
        raise diagnosed(coefficient, moments)
    return [sp.radsimp(sp.simplify(value)) for value in gram.LUsolve(rhs)]


def rational_solve(gram: sp.Matrix, rhs: sp.Matrix) -> list[sp.Expr] | None:
    """Exact solution over the rationals, or None for a singular matrix."""
    from sympy.polys.matrices import DomainMatrix
    from sympy.polys.matrices.exceptions import DMNonInvertibleMatrixError

    left = DomainMatrix.from_Matrix(gram).convert_to(sp.QQ)
    right = DomainMatrix.from_Matrix(rhs).convert_to(sp.QQ)
    try:
        return list(left.lu_solve(right).to_Matrix())
    except DMNonInvertibleMatrixError:
        return None


def _exact_vp(coefficient: ScoreCoefficient, moments: Sequence[Any], abar: Any, *, ridge: Any) -> list[sp.Expr]:
    """VP through VE (no ridge, or one that is scaled with the features): with ``v = y / a``, ``theta_k^VP = a^-(|k| + 1) theta_k^VE`` at ``s^2 = (1 - abar) / abar``."""
    check_level("vp", abar)
    value = rational(abar)
    a, ratio = sp.sqrt(value), (1 - value) / value
    twin = ScoreCoefficient(
        coefficient.family, noise=Noise("general", sp.Integer(1), ratio, ()), basis="monomial", ridge=coefficient.ridge
    )
    if coefficient.ridge == "raw":  # lambda I on w^k is lambda a^-2|k| on v^k
        table = clean_values(twin, moments)
        noisy = {name: expr.xreplace(table) for name, expr in twin.noisy_moments.items()}
        gram = twin.plain_gram.xreplace(noisy).as_mutable()
        for k, exponent in enumerate(coefficient.exponents):
            gram[k, k] += rational(ridge) / value ** sum(exponent)
        solution = rational_solve(gram, twin.rhs.xreplace(noisy).as_mutable())
    else:
        table = clean_values(twin, moments)
        noisy = {name: expr.xreplace(table) for name, expr in twin.noisy_moments.items()} | {LAMBDA: rational(ridge)}
        solution = rational_solve(twin.gram.xreplace(noisy).as_mutable(), twin.rhs.xreplace(noisy).as_mutable())
    if solution is None:
        raise diagnosed(coefficient, moments)
    return [theta / a ** (sum(exponent) + 1) for theta, exponent in zip(solution, coefficient.exponents)]


def diagnosed(coefficient: ScoreCoefficient, moments: Sequence[Any]) -> SingularCoefficient:
    """The named condition of a singular system, or NumericallySingular if the clean system is regular."""
    found = diagnose(coefficient, moments)
    return found or NumericallySingular("det G = 0 in the arithmetic asked for", "use more digits, or a ridge")


def diagnose(coefficient: ScoreCoefficient, moments: Sequence[Any]) -> SingularCoefficient | None:
    """Why the *clean* system (s = 0) is singular, as an exception to raise, or None where it is not.

    Exact: the Hankel matrix of a law on r points has leading minors ``D_1 .. D_r > 0`` and ``D_(r+1) = 0``.
    """
    clean = ScoreCoefficient(coefficient.family, noise="clean")
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


# -- numbers -----------------------------------------------------------------------------------------------------


def float_solve(gram: Sequence[Sequence[float]], rhs: Sequence[float]) -> list[float]:
    """Gaussian elimination with partial pivoting in float64 (LAPACK's algorithm, dependency-free)."""
    size = len(rhs)
    rows = [[float(v) for v in row] + [float(b)] for row, b in zip(gram, rhs)]
    for k in range(size):
        best = max(range(k, size), key=lambda i: abs(rows[i][k]))
        if rows[best][k] == 0.0:
            raise NumericallySingular(f"pivot {k} is exactly zero in float64", "use precision=50 or a Hermite basis")
        rows[k], rows[best] = rows[best], rows[k]
        for i in range(k + 1, size):
            factor = rows[i][k] / rows[k][k]
            for j in range(k, size + 1):
                rows[i][j] -= factor * rows[k][j]
    theta = [0.0] * size
    for k in range(size - 1, -1, -1):
        theta[k] = (rows[k][size] - sum(rows[k][j] * theta[j] for j in range(k + 1, size))) / rows[k][k]
    return theta


def condition_number(gram: sp.MatrixBase, digits: int = 50) -> float:
    """2-norm condition number of a symmetric positive definite matrix, from its eigenvalues in mpmath."""
    with mpmath.workdps(digits):
        values = mpmath.eigsy(_mp_matrix(gram, digits), eigvals_only=True)
        low, high = min(values), max(values)
        return float(high / low) if low > 0 else float("inf")


def _mp_matrix(matrix: sp.MatrixBase, digits: int) -> Any:
    def number(entry: sp.Expr) -> Any:
        if entry.is_Rational:
            return mpmath.mpf(int(entry.p)) / int(entry.q)
        return mpmath.mpf(sp.N(entry, digits + 10)._mpf_)

    return mpmath.matrix([[number(matrix[j, k]) for k in range(matrix.shape[1])] for j in range(matrix.shape[0])])


@dataclass(frozen=True)
class Comparison:
    """A float64 solve held against the exact coefficients.

    Attributes:
        exact: rationals (or algebraic numbers); mpmath50: at 50 digits; float64: partial pivoting.
        error: max |float64 - exact| / max |exact|; mpmath_error: the same for mpmath; condition: of G.
    """

    exact: list[sp.Expr]
    mpmath50: list[Any]
    float64: list[float]
    error: float
    mpmath_error: float
    condition: float


def compare(coefficient: ScoreCoefficient, moments: Sequence[Any], *level: Any, ridge: Any = 0) -> Comparison:
    """Solve exactly, at 50 digits and in float64, and report errors and the condition number."""
    gram, rhs = numeric_system(coefficient, moments, *level, ridge=ridge)
    exact = exact_theta(coefficient, moments, *level, ridge=ridge)
    size = len(exact)
    with mpmath.workdps(50):
        high = list(mpmath.lu_solve(_mp_matrix(gram, 50), _mp_matrix(rhs, 50)))
        reference = list(_mp_matrix(sp.Matrix(exact), 60))
        top = max(abs(value) for value in reference)
        mp_error = float(max(abs(a - b) for a, b in zip(high, reference)) / top)
        double = float_solve([[float(gram[j, k]) for k in range(size)] for j in range(size)], [float(v) for v in rhs])
        error = float(max(abs(a - b) for a, b in zip(double, reference)) / top)
    return Comparison(exact, high, double, error, mp_error, condition_number(gram))


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
    """
    if method not in METHODS:
        raise AnalyticError(f"unknown method {method!r}: use 'cofactor' or 'lu'")
    if degree is None:
        if family != "independent" or len(moments) % 2 == 0:
            raise AnalyticError(f"degree is needed (family {family!r}, {len(moments)} moments): pass degree=")
        degree = (len(moments) - 1) // 2
    has_ridge = bool(_nonzero(ridge))
    coefficient = ScoreCoefficient(
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
                return coefficient.lambdify("mpmath", method=way, tolerance=tolerance)(moments, *level, ridge=ridge)
        evaluate = coefficient.lambdify("numpy", method=way, precision=precision, tolerance=tolerance)
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


def moments_of_samples(samples: Sequence[Any], exponents: Sequence[Exponent]) -> list[sp.Expr]:
    """Exact moments of a finite list of (rational) points, in the order of ``exponents``."""
    points = [tuple(map(rational, x if isinstance(x, tuple | list) else (x,))) for x in samples]
    count = sp.Integer(len(points))
    return [sum(sp.prod([x**p for x, p in zip(point, e)]) for point in points) / count for e in exponents]
