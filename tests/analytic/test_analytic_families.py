"""Every family to the degree SymPy holds in a minute (benchmarks/families.json): system, derivation, Hermite twin, text."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from test_analytic_numeric import fitted, raw_moments, vector

from analytic import AnalyticError, Derivation, HermiteTwin, ScoreCoefficient, compare, exact_theta
from analytic.algebra.laws import moments_of_samples
from numeric.noise import ve
from numeric.scores.own import WaveletScore

FAST = [("independent", n, {}) for n in range(1, 6)] + [("band", n, {}) for n in (1, 2, 3)]
FAST += [("local", n, {}) for n in (1, 2)] + [("local", 1, {"interactions": "full"})]
FAST += [("local", 3, {"interactions": "full", "neighbours": 2})]
SLOW = [("band", 4, {}), ("local", 3, {}), ("local", 4, {}), ("local", 2, {"radius": 2}), ("local", 3, {"radius": 2})]
SLOW += [("local", 2, {"interactions": "full"}), ("local", 3, {"interactions": "full"})]


def everything(family: str, degree: int, options: dict) -> None:
    """Build all objects of one case and check what can be checked."""
    coefficient = ScoreCoefficient(family, degree, "vp", **options)
    size = len(coefficient.family)
    assert coefficient.gram.shape == (size, size) and coefficient.gram == coefficient.gram.T
    assert coefficient.rhs.shape == (size, 1)
    assert all(symbol.name.startswith("m_") for symbol in coefficient.gram.free_symbols)
    assert coefficient.title in str(coefficient) and "aligned" in coefficient.latex()
    checks = Derivation(coefficient).check()
    assert len(checks) == 6 and all(checks.values()), checks
    assert HermiteTwin(coefficient).holds


@pytest.mark.parametrize("family, degree, options", FAST)
def test_families_build(family, degree, options):
    """Sections 2.2.1 to 2.2.3, VP with abar symbolic, mixed clean moments mu_ijk."""
    everything(family, degree, options)


@pytest.mark.slow
@pytest.mark.parametrize("family, degree, options", SLOW)
def test_large_families_build(family, degree, options):
    """The same, up to 220 features."""
    everything(family, degree, options)


@pytest.mark.parametrize(
    "family, degree, options",
    [("local", 4, {"interactions": "full", "radius": 2}), ("local", 7, {"radius": 3}), ("band", 20, {})],
)
def test_what_is_too_large_is_refused(family, degree, options):
    """Before anything is listed: the message names the number of features and what to change."""
    with pytest.raises(AnalyticError, match=r"features, more than the 800 .* lower degree"):
        ScoreCoefficient(family, degree, **options)


@pytest.mark.parametrize(
    "family, degree, options", [("local", 2, {"neighbours": 2, "interactions": "full"}), ("band", 2, {})]
)
def test_checked_entries_stand_for_all(family, degree, options):
    """The twin's proof checks one entry of each relabelling; here every entry of G is expanded."""
    twin = HermiteTwin(family, degree, **options)
    size = len(twin.twin.family)
    assert len(twin.representatives) < size * (size + 1) // 2
    twin.__dict__["representatives"] = [(j, k) for j in range(size) for k in range(size)]
    residuals = twin.residual_gram()
    assert len(residuals) == size**2 and not any(residuals.values())


@pytest.mark.parametrize("family, degree", [("independent", 2), ("band", 2), ("local", 1)])
def test_a_wrong_change_of_basis_is_found(family, degree):
    """The proof can fail: one entry of T altered."""
    twin = HermiteTwin(family, degree)
    wrong = twin.matrix.as_mutable()
    wrong[2, 1] += 1
    twin.__dict__["matrix"] = sp.ImmutableMatrix(wrong)
    assert not twin.holds and "FAILS" in str(twin)


@pytest.mark.parametrize("noise", ["ve", "vp"])
@pytest.mark.parametrize("ridge", ["unit", "raw"])
def test_symbolic_ridge_of_mixed_moments(noise, ridge):
    """Equation (16) for the band-tied family: program and exact solve at rational points."""
    coefficient = ScoreCoefficient("band", 2, noise, ridge=ridge)
    points = [(1, 2, 0), (3, 1, 1), (0, 1, 2), (-1, 0, 1), (2, 2, 2), (1, 1, 3)]
    moments = moments_of_samples(points, coefficient.moment_exponents)
    level, lam = sp.Rational(1, 4), sp.Rational(1, 3)
    exact = [float(v) for v in exact_theta(coefficient, moments, level, ridge=lam)]
    found = coefficient.lambdify()(np.array([float(m) for m in moments]), 0.25, ridge=1 / 3)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_numeric_hermite_solver_against_exact_and_fifty_digits(sigma):
    """numeric's Hermite coefficients of real digits: exact algebraic numbers, mpmath at 50 digits, condition reported."""
    model = WaveletScore("independent", degree=3, basis="hermite", ridge=0.0).fit_moments(
        fitted("independent", 4).moments_
    )
    solved = model.solve(ve(sigma), 3, condition=True).blocks[0]
    coefficient = ScoreCoefficient("independent", 3, "ve", basis="hermite")
    table = raw_moments(fitted("independent", 4))
    moments = vector(coefficient, table)
    for group in (0, 200, 900):
        found = compare(coefficient, moments[:, group], sigma)
        exact = np.array([float(value) for value in found.exact])
        condition = float(solved.condition[group])
        error = np.abs(solved.theta.numpy()[group] - exact).max() / np.abs(exact).max()
        raw = float(compare(ScoreCoefficient("independent", 3, "ve"), moments[:, group], sigma).condition)
        assert 1 <= condition and found.mpmath_error < 1e-40
        # the raw float64 moments the exact values start from limit the agreement, by their own condition number
        assert error < 1e-14 * (condition + raw)
