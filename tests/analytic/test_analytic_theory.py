"""The theory of ``analytic`` checked by computation: derivations, Hermite twins, limits, cumulant forms."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from analytic import AnalyticError, ScoreCoefficient, exact_theta
from analytic.algebra.laws import moments_of_samples
from analytic.theory.derivation import Derivation
from analytic.theory.hermite import HermiteTwin
from analytic.theory.limits import Theorem, cumulant_form, gaussian_is_linear, large_noise, small_noise, theorems

CASES = [("independent", n, {}) for n in (1, 2, 3, 4, 5)]
CASES += [("band", n, {}) for n in (1, 2, 3)]
CASES += [("local", 2, {}), ("local", 2, {"neighbours": 2, "interactions": "full"})]

points = st.lists(st.fractions(-3, 3, max_denominator=8), min_size=5, max_size=8, unique=True)


@pytest.mark.parametrize("noise", ["ve", "vp"])
@pytest.mark.parametrize("family, degree, options", CASES)
def test_derivation_holds_step_by_step(family, degree, options, noise):
    """Equations (11) to (21): every step of the derivation, recomputed by its second route."""
    derivation = Derivation(family, degree, noise, **options)
    checks = derivation.check()
    assert len(checks) >= 6
    assert all(checks.values()), checks


@pytest.mark.parametrize("ridge", ["unit", "raw", "denoiser"])
def test_derivation_with_a_symbolic_ridge(ridge):
    """Equations (16) and (23): the ridge is the gradient of its penalty, VE and VP."""
    for noise in ("ve", "vp"):
        checks = Derivation(ScoreCoefficient("independent", 2, noise, ridge=ridge)).check()
        assert any("Ridge" in title for title in checks) and all(checks.values())


def test_a_wrong_step_is_found():
    """The checks can fail: a derivation whose right-hand side is altered does not hold."""
    derivation = Derivation("independent", 2, "ve")
    wrong = sp.ImmutableMatrix([0, -1, -3 * sp.Symbol("m_1", real=True)])
    derivation.coefficient.__dict__["rhs_of_stein"] = wrong
    assert not all(derivation.check().values())


@pytest.mark.parametrize("basis", ["hermite", "standardized"])
@pytest.mark.parametrize("family, degree, options", CASES[:7] + CASES[9:])
def test_hermite_twin_is_a_change_of_basis(family, degree, options, basis):
    """Section 2.2.4: G_He = T G T^T and b_He = T b, identically in all moments, with T invertible."""
    twin = HermiteTwin(family, degree, "ve", basis=basis, **options)
    assert all(twin.check().values()), twin.check()


@settings(max_examples=15, deadline=None)
@given(points, st.integers(1, 3), st.sampled_from(["1/2", "3/10", "2"]))
def test_twins_are_one_polynomial(samples, degree, sigma):
    """On exact moments of random points the Hermite coefficients, carried back, are the monomial ones."""
    monomial = ScoreCoefficient("independent", degree, "ve")
    hermite = ScoreCoefficient("independent", degree, "ve", basis="hermite")
    moments = moments_of_samples(samples, monomial.moment_exponents)
    moments_he = moments_of_samples(samples, hermite.moment_exponents)
    left = exact_theta(monomial, moments, sp.Rational(sigma))
    right = exact_theta(hermite, moments_he, sp.Rational(sigma))
    mean = moments[1]
    scale = sp.sqrt(moments[2] - mean**2 + sp.Rational(sigma) ** 2)
    w = sp.Symbol("w")
    polynomial = {0: sp.Integer(1), 1: w, 2: w**2 - 1, 3: w**3 - 3 * w}
    carried = sum(value * polynomial[k].subs(w, (w - mean) / scale) for k, value in enumerate(right))
    difference = sp.Poly(sp.expand(carried - sum(value * w**k for k, value in enumerate(left))), w)
    assert all(abs(sp.N(value, 40)) < 1e-25 for value in difference.coeffs())


def test_hermite_twin_refuses_a_ridge():
    """The penalty depends on the basis, so no identity is claimed with one."""
    with pytest.raises(AnalyticError, match="without a ridge"):
        HermiteTwin(ScoreCoefficient("independent", 2, ridge="unit"))


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_theorems_hold(degree):
    """Gaussian data, s -> 0, s -> infinity, cumulant forms: each identity recomputed from both sides."""
    for theorem in theorems(degree):
        assert theorem.holds, theorem.name
        assert theorem.latex().startswith("\\begin{aligned}") and "holds" in str(theorem)


@pytest.mark.parametrize("noise", ["ve", "vp"])
def test_gaussian_theorem_for_each_noise(noise):
    assert gaussian_is_linear(3, noise).holds


def test_a_false_theorem_fails():
    """``holds`` can say no, and the printed form says so."""
    theorem = Theorem("false", "one is zero", (sp.Eq(sp.Symbol("x"), 1),), lambda: [sp.Integer(1)])
    assert not theorem.holds and "FAILS" in str(theorem)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_limits_are_where_the_numbers_go(degree):
    """The same limits numerically: exact coefficients at sigma = 1000 and 1/1000 against the theorems' values."""
    coefficient = ScoreCoefficient("independent", degree, "ve")
    samples = [-2, -1, sp.Rational(1, 2), 1, 2, sp.Rational(7, 2)]
    moments = moments_of_samples(samples, coefficient.moment_exponents)
    table = {symbol: value for symbol, value in zip(coefficient.moment_symbols, moments) if symbol.is_Symbol}
    sigma = sp.Integer(1000)
    for k, (equation, theta) in enumerate(zip(large_noise(degree).formula, exact_theta(coefficient, moments, sigma))):
        power = 2 if k < 2 else 2 * k + 2
        value = equation.rhs.xreplace(table)
        assert abs(theta * sigma**power - value) < sp.Rational(1, 1000) * (1 + abs(value))
    matrix, system = small_noise(degree).formula
    clean = matrix.rhs.xreplace(table).LUsolve(system.rhs.xreplace(table))
    for left, right in zip(exact_theta(coefficient, moments, sp.Rational(1, 1000)), clean):
        assert abs(left - right) < sp.Rational(1, 1000) * (1 + abs(right))


def test_cumulant_form_against_the_numbers():
    """Degree 3 in the standardised cumulants kappa_3 .. kappa_6, at an exponential law (kappa_p = (p-1)!), by hand."""
    moments = [sp.factorial(p) for p in range(7)]  # E[x^p] of Exp(1): mean 1, variance 1
    centred = [sum(sp.binomial(p, q) * moments[q] * (-1) ** (p - q) for q in range(p + 1)) for p in range(7)]
    gram = sp.Matrix(4, 4, lambda j, k: centred[j + k])
    rhs = sp.Matrix([0] + [-j * centred[j - 1] for j in range(1, 4)])
    theta = gram.LUsolve(rhs)
    hermite = [theta[0] + theta[2], theta[1] + 3 * theta[3], theta[2], theta[3]]
    kappa = {sp.Symbol(f"kappa_{p}", real=True): sp.factorial(p - 1) for p in range(3, 7)}
    assert [value.xreplace(kappa) for value in cumulant_form(3)] == hermite


def test_floats_agree_with_a_quadrature_of_the_true_score():
    """Equation (11): as the degree grows the projection tends to the true score (two-component mixture, sigma = 1)."""
    x = np.linspace(-14, 14, 8001)
    centres, weights, variance = np.array([-1.5, 2.0]), np.array([0.4, 0.6]), 1.25
    parts = weights * np.exp(-((x[:, None] - centres) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    density = parts.sum(1)
    score = (parts * (centres - x[:, None]) / variance).sum(1) / density
    clean = [sum(w * _normal_moment(p, c, 0.25) for w, c in zip(weights, centres)) for p in range(11)]
    losses = []
    for degree in (1, 3, 5):
        coefficient = ScoreCoefficient("independent", degree, "ve")
        theta = coefficient.lambdify("numpy")(np.array(clean[: 2 * degree + 1]), 1.0)
        estimate = sum(value * x**k for k, value in enumerate(theta))
        losses.append(np.trapezoid(density * (estimate - score) ** 2, x))
        # Pythagoras: E (c - S)^2 = E S^2 - theta.b with b_k = -k m_(k-1), the noisy moments by quadrature
        noisy = [np.trapezoid(density * x**k, x) for k in range(degree + 1)]
        explained = sum(-k * noisy[k - 1] * theta[k] for k in range(1, degree + 1))
        assert losses[-1] == pytest.approx(np.trapezoid(density * score**2, x) - explained, rel=1e-8)
    assert losses[0] > 2 * losses[1] and losses[1] > losses[2]


def _normal_moment(order: int, mean: float, variance: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    return float((weights * (mean + variance**0.5 * nodes) ** order).sum() / weights.sum())
