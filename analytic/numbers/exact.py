"""Exact coefficients from exact moments, and a float64 solve held against them.

Rational moments in, rational coefficients out: with a rational VE level every theta is rational; with a rational ``abar``
``theta_k`` is a rational times ``sqrt(abar)`` at most, because VP is VE at ``sigma^2 = (1 - abar) / abar``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from analytic.algebra.coefficient import LAMBDA, Coefficient
from analytic.algebra.noise import Noise, check_level
from analytic.algebra.rational import rational, rational_solve
from analytic.errors import AnalyticError, NumericallySingular
from analytic.numbers.conditions import clean_values, diagnosed


def numeric_system(
    coefficient: Coefficient, moments: Sequence[Any], *level: Any, ridge: Any = 0
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
    noisy[LAMBDA] = _strength(ridge)
    noisy.update(levels)
    return coefficient.gram.xreplace(noisy).as_mutable(), coefficient.rhs.xreplace(noisy).as_mutable()


def _strength(ridge: Any) -> sp.Expr:
    """A ridge's exact value; AnalyticError for one below 0."""
    value = rational(ridge)
    if value < 0:
        raise AnalyticError(f"ridge must be >= 0, got {ridge}")
    return value


def exact_theta(coefficient: Coefficient, moments: Sequence[Any], *level: Any, ridge: Any = 0) -> list[sp.Expr]:
    """Exact coefficients, F of them.

    Raises:
        AnalyticError: bad moments or level.
        SingularCoefficient: det G = 0, by its named condition.

    >>> from analytic import ScoreCoefficient, exact_theta
    >>> exact_theta(ScoreCoefficient('independent', 1), [1, 0, 3], 1)
    [0, -1/4]
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


def _exact_vp(coefficient: Coefficient, moments: Sequence[Any], abar: Any, *, ridge: Any) -> list[sp.Expr]:
    """VP through VE (no ridge, or one that is scaled with the features): with ``v = y / a``, ``theta_k^VP = a^-(|k| + 1) theta_k^VE`` at ``s^2 = (1 - abar) / abar``."""
    check_level("vp", abar)
    value = rational(abar)
    a, ratio = sp.sqrt(value), (1 - value) / value
    twin = Coefficient(
        coefficient.family, noise=Noise("general", sp.Integer(1), ratio, ()), basis="monomial", ridge=coefficient.ridge
    )
    table = clean_values(twin, moments)
    noisy = {name: expr.xreplace(table) for name, expr in twin.noisy_moments.items()} | {LAMBDA: _strength(ridge)}
    solution = rational_solve(twin.gram.xreplace(noisy).as_mutable(), twin.rhs.xreplace(noisy).as_mutable())
    if solution is None:
        raise diagnosed(coefficient, moments)
    return [theta / a ** (sum(exponent) + 1) for theta, exponent in zip(solution, coefficient.exponents)]


# -- numbers -----------------------------------------------------------------------------------------------------


def float_solve(gram: Sequence[Sequence[float]], rhs: Sequence[float]) -> list[float]:
    """Gaussian elimination with partial pivoting in float64 (LAPACK's algorithm, dependency-free)."""
    size = len(rhs)
    rows = [[float(v) for v in row] + [float(b)] for row, b in zip(gram, rhs)]
    if not all(math.isfinite(value) for row in rows for value in row):
        raise NumericallySingular("the moments are beyond float64's range", "scale the data, or use exact arithmetic")
    for k in range(size):
        best = max(range(k, size), key=lambda i: abs(rows[i][k]))
        if rows[best][k] == 0.0:
            raise NumericallySingular(
                f"pivot {k} is exactly zero in float64", "use exact arithmetic or a Hermite basis"
            )
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
    """2-norm condition number of a symmetric positive definite matrix, from its eigenvalues in mpmath.

    It starts at ``digits`` and takes more until they resolve the smallest eigenvalue; infinite beyond 1e300 and where
    the matrix is not positive definite.

    >>> import sympy as sp
    >>> from analytic import condition_number
    >>> round(condition_number(sp.Matrix([[2, 0], [0, 1]])), 12)
    2.0
    """
    while True:
        with mpmath.workdps(digits):
            values = mpmath.eigsy(_mp_matrix(gram, digits), eigvals_only=True)
            low, high = min(values), max(values)
            if low > high * mpmath.mpf(10) ** (10 - digits):
                return float(high / low)
        if digits > 310:
            return float("inf")
        digits *= 2


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
        exact: rationals (or algebraic numbers); mpmath50: at 50 digits; float64: partial pivoting.  The last two are
            empty where their arithmetic finds the system singular or overflows.
        error: max |float64 - exact| / max |exact|; mpmath_error: the same for mpmath (infinite where there is no
            solution); condition: of G.
    """

    exact: list[sp.Expr]
    mpmath50: list[Any]
    float64: list[float]
    error: float
    mpmath_error: float
    condition: float


def compare(coefficient: Coefficient, moments: Sequence[Any], *level: Any, ridge: Any = 0) -> Comparison:
    """Solve exactly, at 50 digits and in float64, and report errors and the condition number.

    Only the exact solution may raise: an arithmetic that fails has lost every digit, which is its result.

    >>> from analytic import ScoreCoefficient, compare
    >>> found = compare(ScoreCoefficient('independent', 1), [1, 0, 3], 1)
    >>> found.exact
    [0, -1/4]
    """
    gram, rhs = numeric_system(coefficient, moments, *level, ridge=ridge)
    exact = exact_theta(coefficient, moments, *level, ridge=ridge)
    size = range(len(exact))
    with mpmath.workdps(60):
        reference = list(_mp_matrix(sp.Matrix(exact), 60))
    high = _or_nothing(lambda: _at_fifty_digits(gram, rhs))
    double = _or_nothing(
        lambda: float_solve([[float(gram[j, k]) for k in size] for j in size], [float(value) for value in rhs])
    )
    return Comparison(
        exact, high, double, _largest(double, reference), _largest(high, reference), condition_number(gram)
    )


def _at_fifty_digits(gram: sp.MatrixBase, rhs: sp.MatrixBase) -> list[Any]:
    with mpmath.workdps(50):
        return list(mpmath.lu_solve(_mp_matrix(gram, 50), _mp_matrix(rhs, 50)))


def _or_nothing(solve: Callable[[], list[Any]]) -> list[Any]:
    try:
        return solve()
    except (ArithmeticError, NumericallySingular):  # division by zero, overflow
        return []


def _largest(found: list[Any], reference: list[Any]) -> float:
    """``max |found - reference| / max |reference|``; infinite where nothing (or no number) was found."""
    if not found:
        return float("inf")
    with mpmath.workdps(60):
        error = max(abs(a - b) for a, b in zip(found, reference)) / max(abs(value) for value in reference)
        return float(error) if not mpmath.isnan(error) else float("inf")
