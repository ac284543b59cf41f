"""The divergence of the polynomial score: its identities, numbers by differences, and Stein's risk against plain moments."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from analytic import AnalyticError, Divergence, ScoreCoefficient, exact_theta, law_moments
from analytic.algebra.laws import moments_of_samples

CASES = [("independent", n, {}) for n in (1, 2, 3)] + [("band", 2, {}), ("local", 1, {"neighbours": 2})]


@pytest.mark.parametrize("noise", ["ve", "vp"])
@pytest.mark.parametrize("family, degree, options", CASES)
def test_identities_hold(family, degree, options, noise):
    """Stein, E[div c] = -E c^2 at the optimum, and the risk: recomputed, identically in all moments."""
    checks = Divergence(family, degree, noise, **options).check()
    assert len(checks) == 3 and all(checks.values()), checks


def test_a_wrong_slope_is_found():
    """The checks can fail: the derivative of w^2 taken as w."""
    divergence = Divergence("independent", 2)
    divergence.__dict__["slopes"] = [{}, {(0,): sp.Integer(1)}, {(1,): sp.Integer(1)}]
    assert not any(divergence.check().values())


@pytest.mark.parametrize("family, degree, options", CASES)
def test_it_is_the_derivative_of_the_score(family, degree, options):
    """At a rational point, against an exact difference quotient of c(y) (degree <= 3: central differences in h^2)."""
    coefficient = ScoreCoefficient(family, degree, "ve", **options)
    width = len(coefficient.variables)
    points = [
        tuple(sp.Rational((7 * i + 3 * j * j + i**2 * (j + 1)) % 61 - 30, 16) for j in range(width)) for i in range(40)
    ]
    moments = moments_of_samples(points, coefficient.moment_exponents)
    level, point, h = sp.Rational(1, 2), [sp.Rational(k + 1, 3) for k in range(width)], sp.Rational(1, 10**15)
    theta = exact_theta(coefficient, moments, level)

    def score(by) -> sp.Expr:
        place = dict(zip(coefficient.variables, [point[0] + by, *point[1:]]))
        return sum(weight * sp.sympify(phi).xreplace(place) for weight, phi in zip(theta, coefficient.features))

    found = Divergence(coefficient).exact(moments, point, level)
    assert abs((score(h) - score(-h)) / (2 * h) - found) <= 100 * h**2 * max(map(abs, theta))


def test_gaussian_data():
    """The linear score: divergence -1 / (a^2 v + s^2) everywhere, at every degree; VP too."""
    moments = law_moments("gaussian", 6, shift=1, scale=2)
    assert Divergence("independent", 3).exact(moments, 5, 1) == sp.Rational(-1, 5)
    assert Divergence("independent", 3, "vp").exact(moments, "1/3", sp.Rational(1, 4)) == sp.Rational(-4, 7)


def test_mean_and_risk_by_monte_carlo():
    """E[div c] and s^2 (1 + s^2 E[div c]) on drawn points of a two-point law, within 4 standard errors."""
    coefficient, sigma = ScoreCoefficient("independent", 3), 0.7
    moments = law_moments("two-point", 6)
    divergence = Divergence(coefficient)
    theta = [float(v) for v in exact_theta(coefficient, moments, sp.Rational(7, 10))]
    noisy = {
        symbol: value.xreplace({coefficient.noise.level[0]: sp.Rational(7, 10)})
        for symbol, value in coefficient.noisy_moments.items()
    }
    clean = dict(zip(coefficient.moment_symbols[1:], moments[1:]))
    mean = float(divergence.mean.xreplace(noisy).xreplace(clean).xreplace(dict(zip(coefficient.theta_symbols, theta))))
    random = np.random.default_rng(0)
    x = random.integers(2, size=400_000).astype(float)
    y = x + sigma * random.normal(size=len(x))
    drawn = sum(k * theta[k] * y ** (k - 1) for k in (1, 2, 3))
    assert abs(drawn.mean() - mean) < 4 * drawn.std() / len(x) ** 0.5
    squares = (x - y - sigma**2 * sum(theta[k] * y**k for k in range(4))) ** 2
    assert abs(squares.mean() - sigma**2 * (1 + sigma**2 * mean)) < 4 * squares.std() / len(x) ** 0.5


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Divergence("independent", 2, basis="hermite"), "hermite"),
        (lambda: Divergence("independent", 2, "clean"), "clean"),
        (lambda: Divergence("band", 1).exact([1, 0, 1], [1, 2], 1), "3 coordinate"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(AnalyticError, match=named):
        make()


def test_a_ridge_makes_fewer_claims():
    """With a ridge the optimum's identities do not hold, and are not claimed; the text says what is."""
    divergence = Divergence("independent", 2, ridge="unit")
    assert list(divergence.check()) == ["E[d phi / d w] = E[e phi] / s"] and divergence.holds
    assert "E (x - D)^2" not in str(divergence) and "holds" in str(divergence)
