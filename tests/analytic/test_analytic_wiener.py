"""Nonlinear features of a linear estimate: product formula, Stein and Tweedie against brute force."""

from __future__ import annotations

from math import comb, factorial

import numpy as np
import pytest
import sympy as sp
import torch

from analytic import AnalyticError, NotAMomentSequence, ScoreCoefficient, WienerSystem, exact_theta
from analytic.algebra.moments import heat_moment
from analytic.algebra.noise import Noise
from numeric import WienerScore, ve, vp

POINTS = [(0, 0), (1, 2), (3, 1), (-1, 1), (2, -2), (sp.Rational(1, 2), 3)]
COVARIANCE = sp.Matrix([[2, 1], [1, 1]])  # = L L^T with L below


def integral(power: int) -> sp.Expr:
    """``E z^p`` of a standard normal, by integrating its density."""
    z = sp.Symbol("z", real=True)
    return 0 if power % 2 else 2 * sp.integrate(z**power * sp.exp(-(z**2) / 2), (z, 0, sp.oo)) / sp.sqrt(2 * sp.pi)


@pytest.fixture(scope="module")
def integrals():
    return [integral(power) for power in range(7)]


@pytest.mark.parametrize("degree", [2, 3])
def test_system_against_gaussian_integration(degree, integrals):
    """G and B at six clean points: features expanded in v + L z, z integrated by SymPy; equal exactly."""
    z1, z2 = sp.symbols("z1 z2")
    root = sp.Matrix([[1, 1], [1, 0]])
    assert root * root.T == COVARIANCE
    noise = root * sp.Matrix([z1, z2])

    def mean(expression) -> sp.Expr:
        polynomial = sp.Poly(sp.expand(expression), z1, z2)
        return sum(value * integrals[p] * integrals[q] for (p, q), value in polynomial.terms())

    system = WienerSystem(degree)
    gram, rhs = system.system(system.moments_of(POINTS), COVARIANCE)
    brute_gram, brute_rhs = sp.zeros(*gram.shape), sp.zeros(*rhs.shape)
    for point in POINTS:
        u = sp.Matrix(point) + noise
        phi = sp.Matrix([u[0] ** row[0] * u[1] ** row[1] for row in system.exponents])
        brute_gram += (phi * phi.T).applyfunc(mean) / len(POINTS)
        brute_rhs += (phi * sp.Matrix(point).T).applyfunc(mean) / len(POINTS)
    assert gram == brute_gram and rhs == brute_rhs
    assert gram.rank() == 1 + 2 * degree


@pytest.mark.parametrize("degree, coordinates", [(1, 2), (2, 2), (3, 2), (1, 3), (3, 1)])
def test_identities_hold(degree, coordinates):
    """Product formula = Wick, Stein and Tweedie for correlated noise, degree 1 = the linear estimate: all symbolic."""
    checks = WienerSystem(degree, coordinates).check()
    assert len(checks) == 4 and all(checks.values()), checks


def test_a_wrong_covariance_is_found():
    """The checks can fail: one power of K_12 left out."""
    system = WienerSystem(2)
    wrong = system.gram.as_mutable()
    wrong[2, 4] -= 2 * system.covariance[0, 1] ** 2
    system.__dict__["gram"] = sp.ImmutableMatrix(wrong)
    checks = system.check()
    assert not checks["G: product formula = Wick's recursion"] and not system.holds
    assert "FAILS" in str(system)


def test_one_coordinate_is_the_score_coefficient():
    """q = 1, K = sigma^2: Tweedie's formula on the independent family, exactly, E[v | u] = u + sigma^2 c(u)."""
    sigma = sp.Rational(2, 3)
    system, coefficient = WienerSystem(3, 1), ScoreCoefficient("independent", 3)
    moments = system.moments_of([(point[1],) for point in POINTS])
    theta = exact_theta(coefficient, moments, sigma)
    expected = [sigma**2 * value + int(k == 1) for k, value in enumerate(theta)]
    assert list(system.exact(moments, [[sigma**2]])) == expected


def test_white_noise_through_a_matrix():
    """u = A y with K = s^2 A A^T: at degree 1 the estimate does not depend on A; beyond it does (DESIGN: why u matters)."""
    s2 = sp.Rational(1, 4)
    clean = [sp.Matrix(point) for point in POINTS]
    errors = {}
    for degree in (1, 2):
        for name, a in (("y", sp.eye(2)), ("u", sp.Matrix([[1, 1], [-1, 2]]) / 3)):
            system = WienerSystem(degree)
            moments = system.moments_of([tuple(a * point) for point in clean])
            theta = system.exact(moments, s2 * a * a.T)
            mse = system.expected_mse(moments, s2 * a * a.T)
            assert mse == system.expected_mse(moments, s2 * a * a.T, theta)
            # in the coordinates of x: v = A x, so the errors' second moments transform with A^-1
            gram, rhs = system.system(moments, s2 * a * a.T)
            square = sum((a * p * (a * p).T for p in clean), sp.zeros(2)) / len(clean)
            covariance = a.inv() * (square - theta.T * rhs - rhs.T * theta + theta.T * gram * theta) * a.inv().T
            errors[degree, name] = covariance.trace()
    assert errors[1, "y"] == errors[1, "u"]
    assert errors[2, "y"] != errors[2, "u"] and max(errors[2, "y"], errors[2, "u"]) < errors[1, "y"]


def test_monte_carlo():
    """E (v - estimate)^2 of drawn noise against the exact value, within 4 standard errors."""
    system = WienerSystem(3)
    moments = system.moments_of(POINTS)
    theta = np.array(system.exact(moments, COVARIANCE), dtype=float)
    expected = [float(value) for value in system.expected_mse(moments, COVARIANCE)]
    random = np.random.default_rng(0)
    v = np.array(POINTS, dtype=float)[random.integers(len(POINTS), size=200_000)]
    u = v + random.multivariate_normal([0, 0], np.array(COVARIANCE, dtype=float), size=len(v))
    phi = np.stack([u[:, 0] ** row[0] * u[:, 1] ** row[1] for row in system.exponents], axis=1)
    squares = (v - phi @ theta) ** 2
    error = np.abs(squares.mean(0) - expected) / (squares.std(0) / len(v) ** 0.5)
    assert (error < 4).all(), error


def test_against_a_numeric_route():
    """The Gram of float data by the product formula in NumPy, as readouts on Wiener features compute it: to 1e-9."""
    random = np.random.default_rng(1)
    clean, degree = random.normal(size=(50, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]]) + 0.4, 3
    covariance = np.array([[0.5, 0.2], [0.2, 0.3]])
    system = WienerSystem(degree)
    gram, rhs = (np.array(matrix, dtype=float) for matrix in system.system(system.moments_of(clean), covariance))

    def smooth(i: int, m: int) -> np.ndarray:
        normal = [1, 0, 1, 0, 3, 0, 15]
        return sum(
            comb(m, k) * normal[k] * covariance[i, i] ** (k / 2) * clean[:, i] ** (m - k) for k in range(0, m + 1, 2)
        )

    places = [(0, 0)] + [(i, p) for i in (0, 1) for p in range(1, degree + 1)]
    for j, (i1, p) in enumerate(places):
        np.testing.assert_allclose(rhs[j], (clean * smooth(i1, p)[:, None]).mean(0), rtol=1e-9, atol=1e-12)
        for k, (i2, q) in enumerate(places):
            value = sum(
                factorial(n)
                * comb(p, n)
                * comb(q, n)
                * covariance[i1, i2] ** n
                * (smooth(i1, p - n) * smooth(i2, q - n)).mean()
                for n in range(min(p, q) + 1)
            )
            assert gram[j, k] == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: WienerSystem(0), "degree"),
        (lambda: WienerSystem(2, 0), "coordinates"),
        (lambda: WienerSystem(20, 2), "41 features"),
        (lambda: WienerSystem(1).exact([1, 0, 0, 1, 0], COVARIANCE), "6 values"),
        (lambda: WienerSystem(1).exact([1, 0, 0, 1, 0, 1], [[1, 2], [2, 1]]), "covariance"),
        (lambda: WienerSystem(1).exact([1, 0, 0, 1, 0, 1], [[1, 0]]), "covariance"),
        (lambda: WienerSystem(1).exact([1, 0, 0, 1, 1, 1], [[0, 0], [0, 0]]), "linearly dependent"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(AnalyticError, match=named):
        make()


def test_moments_of_no_law():
    with pytest.raises(NotAMomentSequence):
        WienerSystem(1).exact([1, 0, 0, 1, 2, 1], COVARIANCE)


def test_noise_model_is_the_one_of_the_paper():
    """White noise, A = I: every entry of G of one coordinate is equation (20)."""
    system = WienerSystem(2)
    general = Noise("general", sp.Integer(1), system.covariance[0, 0], ())
    assert sp.expand(system.gram[2, 2] - heat_moment((4, 0), general, sp.eye(2))) == 0


@pytest.mark.parametrize("noise", [ve(0.4), vp(0.8)])
@pytest.mark.parametrize("degree, of", [(2, "wiener"), (3, "wiener"), (2, "noisy")])
def test_numeric_readout_is_the_exact_solution(degree, of, noise):
    """numeric's WienerScore on 2 x 2 images (whitened linear features, Wick-ordered powers) is this system's estimate: 1e-9.

    Both span the same features, so without a ridge estimate and expected error are those of ``G Theta = B`` in the letters
    ``v = L (x - mean)`` with ``K = s^2 L L^T``, from exact rationals.
    """
    images = torch.rand(40, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 2
    model = WienerScore(degree=degree, coordinates="pixel", of=of, wavelet="haar", levels=1, ridge=0.0).fit(images)
    sigma = noise.effective_sigma
    letters = model.coordinates_at(sigma).letters.numpy()
    mean = images.mean(0).flatten().numpy()
    clean = (images.flatten(1).numpy() - mean) @ letters.T
    covariance = sigma**2 * letters @ letters.T
    covariance = (covariance + covariance.T) / 2
    system = WienerSystem(degree, 4)
    gram, rhs = system.system(system.moments_of(clean), covariance)
    theta = np.array(system.exact(system.moments_of(clean), covariance), dtype=float)
    y = noise.alpha * images[:3] + noise.sigma * torch.randn(
        3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    u = (y.flatten(1).numpy() / noise.alpha - mean) @ letters.T
    phi = np.stack([np.prod(u ** np.array(row), axis=1) for row in system.exponents], axis=1)
    expected = mean + phi @ theta @ np.linalg.inv(letters).T
    found = model.denoise(y, noise, clamp=False).flatten(1).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    gram, rhs = np.array(gram, dtype=float), np.array(rhs, dtype=float)
    errors = clean.T @ clean / len(clean) - theta.T @ rhs - rhs.T @ theta + theta.T @ gram @ theta
    back = np.linalg.inv(letters)
    assert model.expected_mse(noise) == pytest.approx(np.trace(back @ errors @ back.T) / 4, rel=1e-9)
