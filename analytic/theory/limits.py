"""Limits of the score coefficient as checked theorems (independent family, every degree asked for).

A :class:`Theorem` states an identity between two sides that are computed separately; ``holds`` recomputes it.  In the
standardised noisy coordinate ``u = (y - E y) / sd(y)`` the moments are functions of the cumulants: ``kappa_3`` is the
skewness and ``kappa_4`` the excess kurtosis of the *noisy* coefficient.  Noise adds no cumulant beyond the second, so

    kappa_p(noisy) = a^p k_p / (a^2 k_2 + s^2)^(p/2),   p >= 3,

with ``k_p`` the clean cumulants: the noise shrinks the p-th standardised cumulant by the signal's share to the power p/2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import comb, factorial
from typing import Any

import sympy as sp

from analytic.algebra.bases import hermite_coefficients
from analytic.algebra.coefficient import Coefficient
from analytic.algebra.families import check_degree
from analytic.algebra.hankel import hankel_matrix, hankel_rhs
from analytic.algebra.moments import (
    clean_moment,
    gaussian_moment,
    moments_to_cumulants,
    noisy_moment,
    noisy_symbol,
    standard_symbol,
)
from analytic.algebra.noise import Noise, noise_model
from analytic.errors import AnalyticError
from analytic.text.tex import tex

MU, VARIANCE = sp.Symbol("mu", real=True), sp.Symbol("v", positive=True)
EPSILON = sp.Symbol("epsilon", positive=True)


@dataclass(frozen=True)
class Theorem:
    """An identity and how to recompute it.

    Attributes:
        name, statement: one line each; formula: as SymPy equations; residuals: a function whose values must be zero.
    """

    name: str
    statement: str
    formula: tuple[sp.Basic, ...]
    residuals: Callable[[], list[sp.Expr]]

    @property
    def holds(self) -> bool:
        """Whether every residual is zero, recomputed."""
        return all(sp.simplify(value) == 0 for value in self.residuals())

    def latex(self) -> str:
        """The formulas, aligned."""
        return (
            "\\begin{aligned}\n"
            + " \\\\\n".join(tex(item).replace(" = ", " &= ", 1) for item in self.formula)
            + "\n\\end{aligned}"
        )

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex() + "$"

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.statement}"]
        lines += [f"    {i.lhs} = {i.rhs}" if isinstance(i, sp.Eq) else f"    {i}" for i in self.formula]
        return "\n".join([*lines, f"    {'holds' if self.holds else 'FAILS'}"])


def _equation(left: Any, right: Any) -> sp.Eq:
    return sp.Eq(left, right, evaluate=False)


def _theta_symbols(degree: int) -> list[sp.Symbol]:
    return [sp.Symbol(f"theta_{k}", real=True) for k in range(degree + 1)]


# -- Gaussian data ---------------------------------------------------------------------------------------------------


def gaussian_moments(order: int, mean: sp.Expr = MU, variance: sp.Expr = VARIANCE) -> dict[sp.Expr, sp.Expr]:
    """``{mu_p: E[x^p]}`` of a normal law, p = 1..order."""
    return {
        clean_moment(p): sp.expand(
            sum(comb(p, 2 * l) * gaussian_moment(2 * l) * variance**l * mean ** (p - 2 * l) for l in range(p // 2 + 1))
        )
        for p in range(1, order + 1)
    }


def linear_score(degree: int, noise: Noise | str = "general", mean: sp.Expr = MU, variance: sp.Expr = VARIANCE) -> Any:
    """``theta`` of the linear score ``-(w - a mu) / (a^2 v + s^2)``, padded with zeros, (n + 1, 1)."""
    model = noise_model(noise)
    total = model.a**2 * variance + model.s2
    return sp.ImmutableMatrix([model.a * mean / total, -1 / total] + [sp.Integer(0)] * (degree - 1))


def gaussian_is_linear(degree: int, noise: str = "general") -> Theorem:
    """Gaussian data: at every degree the solution is the linear score, its higher coefficients exactly zero.

    The check is ``G theta = b`` with the normal law's moments and the linear theta, and ``det G != 0``: the Gram of a
    Gaussian of variance V has ``det G = V^(n(n+1)/2) prod_k k!``, so the solution is the only one.
    """
    check_degree(degree)
    model = noise_model(noise)
    theta = linear_score(degree, model)

    def residuals() -> list[sp.Expr]:
        clean = gaussian_moments(2 * degree)
        table = {noisy_symbol(p): noisy_moment(p, model).xreplace(clean) for p in range(1, 2 * degree + 1)}
        gram, rhs = hankel_matrix(degree).xreplace(table), hankel_rhs(degree).xreplace(table)
        found = [sp.together(value) for value in (gram * theta - rhs)]
        # The determinant does not depend on the mean (a shift is a unit triangular change of basis).
        centred = hankel_matrix(degree).xreplace({k: v.subs(MU, 0) for k, v in table.items()})
        total = model.a**2 * VARIANCE + model.s2
        power = degree * (degree + 1) // 2
        determinant = sp.expand(centred.det(method="berkowitz"))
        found.append(determinant - sp.expand(total**power) * sp.prod([factorial(k) for k in range(degree + 1)]))
        return found

    return Theorem(
        f"Gaussian data, degree {degree}, {model.kind.upper()}",
        "the score is linear, exactly, and unique (det G > 0)",
        tuple(_equation(name, value) for name, value in zip(_theta_symbols(degree), theta)),
        residuals,
    )


# -- s -> 0 and s -> infinity ----------------------------------------------------------------------------------------


def _leading(expression: sp.Expr, variable: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
    """Leading power and coefficient of a rational function at ``variable -> 0``."""
    top, bottom = (sp.Poly(part, variable) for part in sp.fraction(sp.together(expression)))
    if top.is_zero:
        return sp.Integer(0), sp.oo

    def lowest(poly: sp.Poly) -> tuple[sp.Expr, int]:
        (power,), value = min(poly.terms(), key=lambda term: term[0])
        return value, power

    (upper, p), (lower, q) = lowest(top), lowest(bottom)
    return sp.cancel(upper / lower), sp.Integer(p - q)


def small_noise(degree: int) -> Theorem:
    """``s -> 0`` (a = 1): theta tends to the solution of the clean system, wherever ``det G`` of the clean data is not 0.

    Cofactors and determinant are polynomials in s^2, so each tends to its value at ``s = 0``.
    """
    check_degree(degree)
    noisy = Coefficient("independent", degree, "ve")
    clean = Coefficient("independent", degree, "clean")

    def residuals() -> list[sp.Expr]:
        (sigma,) = noisy.noise.level
        tops, bottom = noisy.cofactors
        limits = [noisy.in_clean(value).subs(sigma, 0) for value in [*tops, bottom]]
        tops, bottom = clean.cofactors
        targets = [clean.in_clean(value) for value in [*tops, bottom]]
        return [sp.expand(left - right) for left, right in zip(limits, targets)]

    system = _equation(sp.Symbol("G_clean") * sp.Symbol("theta"), clean.in_clean(clean.rhs))
    return Theorem(
        f"Little noise, degree {degree}",
        "theta tends to the solution of the clean system where det G_clean > 0; "
        "otherwise the clean data sit on at most n points (analytic.FewAtoms, analytic.ConstantCoefficient)",
        (_equation(sp.Symbol("G_clean"), clean.in_clean(clean.gram)), system),
        residuals,
    )


def large_noise(degree: int) -> Theorem:
    """``s -> infinity`` (a = 1): the score becomes linear, ``s^2 theta_1 -> -1`` and ``s^2 theta_0 -> mu_1``.

    With ``epsilon = 1 / s``, ``theta_k`` (k >= 2) is of order ``epsilon^(2k + 2)``: its leading coefficient is
    ``k_(k+1) / k!``, the (k+1)-th clean cumulant, because in the limit only the first order in the cumulants counts.
    """
    check_degree(degree)
    c = Coefficient("independent", degree, "ve")
    cumulants = raw_cumulants(degree + 1)
    powers = [sp.Integer(2)] * 2 + [sp.Integer(2 * k + 2) for k in range(2, degree + 1)]
    limits = [cumulants[1], sp.Integer(-1)] + [cumulants[k + 1] / factorial(k) for k in range(2, degree + 1)]

    def residuals() -> list[sp.Expr]:
        (sigma,) = c.noise.level
        tops, bottom = c.cofactors
        found: list[sp.Expr] = []
        for k, top in enumerate(tops):
            ratio = (c.in_clean(top) / c.in_clean(bottom)).subs(sigma, 1 / EPSILON)
            value, power = _leading(ratio, EPSILON)
            found += [sp.expand(value - limits[k]), power - powers[k]]
        return found

    return Theorem(
        f"Much noise, degree {degree}",
        "theta_k sigma^(power) tends to these values as sigma -> infinity: the linear score -(w - mu_1) / sigma^2",
        tuple(
            _equation(sp.Limit(name * sp.Symbol("sigma", positive=True) ** power, sp.Symbol("sigma"), sp.oo), value)
            for name, power, value in zip(_theta_symbols(degree), powers, limits)
        ),
        residuals,
    )


def raw_cumulants(order: int) -> list[sp.Expr]:
    """Clean cumulants ``k_0 = 0, k_1, ..., k_order`` in the raw clean moments: ``k_p = mu_p - sum C(p-1,q-1) k_q mu_(p-q)``."""
    k: list[sp.Expr] = [sp.Integer(0)]
    for p in range(1, order + 1):
        lower = sum((comb(p - 1, q - 1) * k[q] * clean_moment(p - q) for q in range(1, p)), sp.Integer(0))
        k.append(sp.expand(clean_moment(p) - lower))
    return k


# -- cumulant forms --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def cumulant_form(degree: int, symmetric: bool = False) -> tuple[sp.Expr, ...]:
    """Hermite coefficients of the score in cumulants: ``sd * c(y) = sum_k theta_k He_k(u)``, n + 1 rational functions.

    Args:
        symmetric: set the odd cumulants to zero.

    They hold for VE and VP alike, in the standardised *noisy* cumulants ``kappa_3 .. kappa_2n``.
    """
    check_degree(degree)
    c = Coefficient("independent", degree, basis="hermite")
    table = moments_to_cumulants(2 * degree)
    if symmetric:
        odd = {sp.Symbol(f"kappa_{p}", real=True): sp.Integer(0) for p in range(3, 2 * degree + 1, 2)}
        table = {name: value.xreplace(odd) for name, value in table.items()}
    delta = c.scale_symbols[1][0]
    tops, bottom = c.cofactors
    low = sp.factor(bottom.xreplace(table))
    return tuple(sp.cancel(sp.together(top.xreplace(table) * delta / low)) for top in tops)


def _solves(degree: int, values: tuple[sp.Expr, ...], symmetric: bool) -> list[sp.Expr]:
    """``G theta - b`` of the *monomial* Hankel system in u (g_1 = 0, g_2 = 1), for Hermite coefficients ``values``."""
    table = moments_to_cumulants(2 * degree)
    theta = [sp.Integer(0)] * (degree + 1)
    for k, value in enumerate(values):
        for power, weight in enumerate(hermite_coefficients(k)):
            theta[power] += weight * value
    names = {sp.Symbol(f"kappa_{p}", real=True): sp.Integer(0) for p in range(3, 2 * degree + 1, 2)}
    lookup = {name: value.xreplace(names) if symmetric else value for name, value in table.items()}

    def moment(exponent: tuple[int, ...]) -> sp.Expr:
        return standard_symbol(exponent).xreplace(lookup)

    residual = hankel_matrix(degree, moment) * sp.Matrix(theta) - hankel_rhs(degree, moment)
    return [sp.cancel(sp.together(value)) for value in residual]


def skewness_form() -> Theorem:
    """Degree 2 in the skewness: ``theta_2 = kappa_3 / (2 + kappa_4 - kappa_3^2)`` on He_2 of the standardised coordinate."""
    k3, k4 = sp.symbols("kappa_3 kappa_4", real=True)
    bottom = 2 + k4 - k3**2
    values = (sp.Integer(0), -(2 + k4) / bottom, k3 / bottom)

    def residuals() -> list[sp.Expr]:
        return [a - b for a, b in zip(values, cumulant_form(2))] + _solves(2, values, False)

    return Theorem(
        "Degree 2 in the skewness",
        "the quadratic part of the score is proportional to the skewness kappa_3; "
        "2 + kappa_4 - kappa_3^2 > 0 fails only for two-point data (Pearson's inequality)",
        tuple(_equation(name, value) for name, value in zip(_theta_symbols(2), values)),
        residuals,
    )


def kurtosis_form() -> Theorem:
    """Degree 3 of a symmetric law in the excess kurtosis: ``theta_3`` proportional to ``kappa_4`` on He_3."""
    k4, k6 = sp.symbols("kappa_4 kappa_6", real=True)
    bottom = 6 + 9 * k4 + k6 - k4**2
    values = (sp.Integer(0), -(6 + 9 * k4 + k6) / bottom, sp.Integer(0), k4 / bottom)

    def residuals() -> list[sp.Expr]:
        return [a - b for a, b in zip(values, cumulant_form(3, True))] + _solves(3, values, True)

    return Theorem(
        "Degree 3 in the kurtosis (symmetric law)",
        "the cubic part of the score is proportional to the excess kurtosis kappa_4: heavy tails shrink small "
        "coefficients and keep large ones",
        tuple(_equation(name, value) for name, value in zip(_theta_symbols(3), values)),
        residuals,
    )


def first_order(degree: int) -> Theorem:
    """Near the Gaussian: ``theta_k = kappa_(k+1) / k!`` on He_k to first order in the cumulants (k >= 2).

    It is the derivative of the Gram-Charlier series ``log p = log phi + sum_p kappa_p He_p / p!``.
    """
    check_degree(degree)
    kappa = [sp.Symbol(f"kappa_{p}", real=True) for p in range(3, 2 * degree + 1)]

    def residuals() -> list[sp.Expr]:
        # theta' = G^-1 (b' - G' theta) at kappa = 0, where G = diag(k!) and theta = -He_1.
        c = Coefficient("independent", degree, basis="hermite")
        table = moments_to_cumulants(2 * degree)
        zero = {name: sp.Integer(0) for name in kappa}
        delta = c.scale_symbols[1][0]
        gram, rhs = c.gram.xreplace(table), (c.rhs * delta).xreplace(table)
        gaussian = gram.xreplace(zero)
        theta = sp.Matrix([0, -1] + [0] * (degree - 1))
        found = list(gaussian - sp.diag(*[factorial(k) for k in range(degree + 1)]))
        found += list(gaussian * theta - rhs.xreplace(zero))
        for p, name in enumerate(kappa, 3):
            slope = gaussian.inv() * (rhs.diff(name) - gram.diff(name) * theta).xreplace(zero)
            expected = [sp.Rational(1, factorial(k)) if k + 1 == p else sp.Integer(0) for k in range(degree + 1)]
            found += [slope[k] - expected[k] for k in range(degree + 1)]
        return found

    names = _theta_symbols(degree)
    lines = [_equation(names[1], sp.Integer(-1))]
    lines += [_equation(names[k], kappa[k - 2] / factorial(k)) for k in range(2, degree + 1)]
    return Theorem(
        f"First order in the cumulants, degree {degree}",
        "to first order the coefficient of He_k moves with kappa_(k+1) alone (the derivative of the Gram-Charlier series)",
        tuple(lines),
        residuals,
    )


def noise_shrinks_cumulants(order: int = 6) -> Theorem:
    """Noisy cumulants from clean ones: ``k_p -> a^p k_p`` (p != 2) and ``k_2 -> a^2 k_2 + s^2``."""
    if order < 1:
        raise AnalyticError(f"order must be >= 1, got {order}")
    model = noise_model("general")
    clean = raw_cumulants(order)

    def residuals() -> list[sp.Expr]:
        table = {clean_moment(p): noisy_moment(p, model) for p in range(1, order + 1)}
        return [
            sp.expand(clean[p].xreplace(table) - model.a**p * clean[p] - (model.s2 if p == 2 else 0))
            for p in range(1, order + 1)
        ]

    names = [sp.Symbol(f"k_{p}") for p in range(1, order + 1)]
    return Theorem(
        "Noise adds to the second cumulant only",
        "k_p(noisy) in clean cumulants; the standardised ones shrink by (a^2 k_2 / (a^2 k_2 + s^2))^(p/2)",
        tuple(
            _equation(sp.Symbol(f"k_{p}^noisy"), model.a**p * name + (model.s2 if p == 2 else 0))
            for p, name in enumerate(names, 1)
        ),
        residuals,
    )


def theorems(degree: int = 3, noise: str = "general") -> list[Theorem]:
    """All of the above at a degree (the large-noise one up to degree 4, where its rational functions stay small).

    >>> from analytic import theorems
    >>> all(theorem.holds for theorem in theorems(2))
    True
    """
    check_degree(degree)
    found = [gaussian_is_linear(degree, noise), small_noise(min(degree, 5)), large_noise(min(degree, 4))]
    return [*found, noise_shrinks_cumulants(), skewness_form(), kurtosis_form(), first_order(max(degree, 2))]
