"""The best polynomial against the true posterior mean: the laws by Tweedie's formula and sums, errors by the closed form, rates by theory."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import sympy as sp

from analytic import AnalyticError, Approximation, ScoreCoefficient, exact_theta
from analytic.algebra.moments import gaussian_moment
from analytic.theory.approximation import LAWS, Laplace, Mixture, in_noise

SIGMAS = (0.3, 1.0)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_posterior_mean_is_tweedies(name, sigma):
    """``E[x | y] = y + sigma^2 p' / p`` with the density differentiated numerically; the density integrates to one."""
    law = LAWS[name][1]
    points = np.random.default_rng(0).uniform(-2.5, 2.5, size=(40, law.dimension))
    shift = np.zeros(law.dimension)
    shift[0] = 1e-5
    density, mean = law.at(points, sigma)
    slope = (np.log(law.at(points + shift, sigma)[0]) - np.log(law.at(points - shift, sigma)[0])) / 2e-5
    np.testing.assert_allclose(mean, points[:, 0] + sigma**2 * slope, atol=2e-8)
    assert Approximation(law, sigma, 1).weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (density > 0).all()


@pytest.mark.parametrize("name, values", [("uniform", np.linspace(-1, 1, 20001)), ("laplace", np.linspace(-15, 15, 300001))])
def test_the_posterior_mean_is_the_mean_of_the_posterior(name, values):
    """Bayes' formula as a sum over clean values, far out too, where a naive quotient would be 0 / 0."""
    prior = np.ones_like(values) if name == "uniform" else np.exp(-np.abs(values) / 0.5)
    for y in (-3.0, -0.4, 0.0, 0.2, 2.0):
        weights = prior * np.exp(-0.5 * ((y - values) / 0.4) ** 2 + 0.5 * (max(abs(y) - 1, 0) / 0.4) ** 2)
        found = LAWS[name][1].at(np.array([[y]]), 0.4)[1][0]
        assert found == pytest.approx(float((weights * values).sum() / weights.sum()), abs=1e-4)
    assert np.isfinite(LAWS[name][1].at(np.array([[14.0]]), 0.4)[1]).all()


def exact_moments(name, order):
    """Raw moments 0 .. order of the one-dimensional laws, exactly."""
    if name == "two-atom":
        return [sp.Integer(1 - p % 2) for p in range(order + 1)]
    if name == "uniform":
        return [sp.Rational(1 - p % 2, p + 1) for p in range(order + 1)]
    if name == "laplace":
        return [sp.factorial(p) * sp.Rational(1, 2) ** p * (1 - p % 2) for p in range(order + 1)]
    parts = [(sp.Rational(3, 10), sp.Integer(-1), sp.Rational(1, 5)), (sp.Rational(7, 10), sp.Rational(1, 2), sp.Rational(2, 5))]
    return [
        sum(w * sum(sp.binomial(p, q) * m ** (p - q) * d**q * gaussian_moment(q) for q in range(p + 1)) for w, m, d in parts)
        for p in range(order + 1)
    ]


@pytest.mark.parametrize("name", ["two-atom", "uniform", "laplace", "mixture"])
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_errors_are_those_of_the_closed_form(name, degree):
    """``E (x - D)^2 + E (D - D_n)^2 = s^2 - s^4 theta . b``, the right side in exact rationals (Tweedie and the normal equations)."""
    sigma = sp.Rational(1, 2)
    coefficient = ScoreCoefficient("independent", degree, "ve")
    clean = exact_moments(name, 2 * degree)
    theta = exact_theta(coefficient, clean[: len(coefficient.moment_exponents)], sigma)
    noisy = [
        sum(sp.binomial(p, q) * clean[q] * sigma ** (p - q) * gaussian_moment(p - q) for q in range(p + 1)) for p in range(degree)
    ]
    right = sigma**2 - sigma**4 * sum(theta[k] * -k * noisy[k - 1] for k in range(1, degree + 1))
    found = Approximation(name, 0.5, degree)
    least = float(clean[2]) - float(found.weights @ found.denoised**2)
    assert least + found.errors[degree] == pytest.approx(float(right), abs=1e-12)
    assert found.errors[degree] > 1e-4


def test_one_gaussian_needs_degree_one_only():
    """The posterior mean of a Gaussian is linear, in one coordinate and in two."""
    for mean, covariance in (([0.3], [[0.5]]), ([0.3, -0.2], [[0.5, 0.2], [0.2, 0.4]])):
        found = Approximation(Mixture([1.0], [mean], [covariance]), 0.7, 3)
        assert found.errors[0] > 0.05 and found.errors[1:].max() < 1e-14


def test_two_coordinates_apart_are_one():
    """Independent coordinates: the second one helps nothing, at any degree."""
    one = Mixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.1]], [[0.1]]])
    two = Mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [[[0.1, 0], [0, 0.3]]] * 2)
    a, b = Approximation(one, 0.8, 5), Approximation(two, 0.8, 5)
    np.testing.assert_allclose(a.errors, b.errors, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("sigma", [0.25, 1.0, 2.0])
def test_the_rate_of_two_atoms_is_that_of_their_poles(sigma):
    """``exp(-pi sigma sqrt(n))`` from degree 35 (25 where rounding comes first) within 8 %; a fit in n is worse."""
    found = Approximation("two-atom", sigma, 60)
    first = 25 if sigma == 2.0 else 35
    fit = found.rate(0.5, first)
    assert fit.rate == pytest.approx(pi * sigma, rel=0.08)
    assert found.rate(None, first).power == 0.5 and fit.residual < found.rate(1.0, first).residual


def test_bases_reach_the_same_until_rounding():
    """Monomials and Hermite polynomials span one space; at degree 40 monomials have lost two digits more."""
    found = Approximation("uniform", 0.5, 40)
    for degree in (1, 3, 7):
        for basis in ("monomial", "hermite"):
            assert found.reached(degree, basis) == pytest.approx(found.errors[degree], rel=1e-6)
    assert found.reached(40, "monomial") > 20 * found.reached(40, "hermite") > 0
    assert found.reached(40, "hermite") > found.errors[40] > 0


def test_the_quadrature_has_converged():
    """Half the step: the same errors, to their rounding."""
    for name in ("laplace", "mixture"):
        coarse, fine = (Approximation(name, 0.5, 12, step).errors for step in (0.2, 0.1))
        np.testing.assert_allclose(coarse, fine, rtol=1e-8)
    rough, fine = (Approximation("mixture-2d", 0.5, 5, step).errors for step in (0.4, 0.3))
    np.testing.assert_allclose(rough, fine, rtol=1e-8)


def test_errors_fall_with_the_degree_and_vanish_in_noise():
    found = in_noise("mixture", [0.25, 0.5, 1.0, 2.0], 6)
    assert all((np.diff(errors) <= 1e-15).all() for errors in found.values())
    assert found[2.0][3] < found[1.0][3] < found[0.5][3]


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Approximation("cauchy", 1.0), "cauchy"),
        (lambda: Approximation("uniform", 0.0), "sigma"),
        (lambda: Approximation("uniform", 1.0, 0), "degree"),
        (lambda: Approximation("uniform", 1.0, 2.5), "degree"),
        (lambda: Approximation("mixture-2d", 0.01), "nodes"),
        (lambda: Approximation("uniform", 1.0, 3).reached(3, "chebyshev"), "chebyshev"),
        (lambda: Approximation("uniform", 1.0, 3).rate(), "3 are needed"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(AnalyticError, match=named):
        make()


def test_laplace_scale_is_a_unit():
    """Scale and noise together: a change of units."""
    one, two = Approximation(Laplace(0.5), 0.5, 4), Approximation(Laplace(1.0), 1.0, 4)
    np.testing.assert_allclose(4 * one.errors, two.errors, rtol=1e-9)


def test_command_line(capsys):
    """The table of ``python -m analytic approximation``; wrong values end with code 2 and one line."""
    from analytic.cli import main

    assert main(["approximation", "--law", "uniform", "--sigma", "1/2", "--degree", "5"]) == 0
    text = capsys.readouterr().out
    error = Approximation("uniform", 0.5, 5)
    assert f"{error.errors[5] / error.scale:.3e}" in text and "sqrt(n)" in text
    assert main(["approximation", "--law", "cauchy"]) == 2
    assert "cauchy" in capsys.readouterr().err
