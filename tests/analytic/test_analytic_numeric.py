"""Symbolic against numeric: the closed forms of ``analytic`` on moments of real digits are ``numeric``'s coefficients.

The digits are the first 500 training images at 32 x 32 (MNIST, or the announced fall-back).  ``numeric`` stores *central*
clean moments; the closed forms take raw ones, so they are translated by the clean mean first.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import pytest
import torch

from analytic import ScoreCoefficient, compare, exact_theta
from numeric.data import FallbackDataWarning, load_mnist
from numeric.noise import NoiseLevel, ve, vp
from numeric.scores.families import exponents as numeric_exponents
from numeric.scores.own import WaveletScore
from numeric.scores.tables import translate

TOLERANCE = 1e-9
LEVELS = {"ve": (0.1, 0.5, 1.0), "vp": (0.1, 0.5, 0.9, 0.99)}
PATTERNS = {"independent": "independent", "band": "target", "local": "pairwise"}


@lru_cache(maxsize=4)
def fitted(family: str, degree: int) -> WaveletScore:
    """The numeric estimator: raw monomials, ridge 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackDataWarning)
        images = load_mnist("train", size=32, count=500, download=False)
    return WaveletScore(family, degree=degree, basis="monomial", ridge=0.0).fit(images)


def raw_moments(model: WaveletScore, block: int = 0) -> dict[tuple[int, ...], np.ndarray]:
    """``{exponent: raw clean moments of every group (g,)}`` of a block, from the model's central moments."""
    part = model.moments_.blocks[block]
    mean = model.mean_[torch.as_tensor(part.block.variables)].T
    table = translate(model.central_[block], part.plan, mean).numpy()
    return {tuple(int(e) for e in row): values for row, values in zip(part.plan.products, table)}


def vector(coefficient: ScoreCoefficient, table: dict[tuple[int, ...], np.ndarray]) -> np.ndarray:
    """Moments in the order of ``moment_exponents``, (M, g)."""
    return np.stack([table[exponent] for exponent in coefficient.moment_exponents])


def noise_of(kind: str, level: float) -> NoiseLevel:
    return ve(level) if kind == "ve" else vp(level)


def worst(symbolic: np.ndarray, numeric: np.ndarray) -> float:
    """Largest ``max_k |difference| / max_k |theta_k|`` over the wavelet coefficients; both (F, g)."""
    return float((np.abs(symbolic - numeric).max(0) / np.abs(numeric).max(0)).max())


@pytest.mark.parametrize("kind", ["ve", "vp"])
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_independent_closed_form_is_the_numeric_solution(kind, degree):
    """Equation (21), lambdified, against the batched Cholesky solve of (15) on all 1,024 coefficients.

    The lambdified formula runs in double-double (its default): its cancellation in plain float64 is the next test.
    """
    model = fitted("independent", 4)
    coefficient = ScoreCoefficient("independent", degree, kind)
    moments = vector(coefficient, raw_moments(model))
    for level in LEVELS[kind]:
        numeric = model.solve(noise_of(kind, level), degree).blocks[0].theta.numpy().T
        assert numeric.shape == (degree + 1, 1024)
        assert worst(coefficient.lambdify("numpy")(moments, level), numeric) < TOLERANCE


@pytest.mark.parametrize("kind", ["ve", "vp"])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_plain_float64_suffices_to_degree_three(kind, degree):
    """The same without extended arithmetic: up to degree 3 the cofactor formula holds 1e-9 in float64 itself."""
    model = fitted("independent", 4)
    coefficient = ScoreCoefficient("independent", degree, kind)
    formula = coefficient.lambdify("numpy", precision="double")
    moments = vector(coefficient, raw_moments(model))
    for level in LEVELS[kind]:
        numeric = model.solve(noise_of(kind, level), degree).blocks[0].theta.numpy().T
        assert worst(formula(moments, level), numeric) < TOLERANCE


def test_degree_four_needs_more_than_plain_float64():
    """Why the default is double-double: at little noise (abar = 0.99) the cofactor formula cancels in float64."""
    model = fitted("independent", 4)
    coefficient = ScoreCoefficient("independent", 4, "vp")
    moments = vector(coefficient, raw_moments(model))
    numeric = model.solve(vp(0.99), 4).blocks[0].theta.numpy().T
    plain = worst(coefficient.lambdify("numpy", precision="double")(moments, 0.99), numeric)
    accurate = worst(coefficient.lambdify("numpy")(moments, 0.99), numeric)
    assert accurate < TOLERANCE  # and plain loses at least ten times more, though less than 1e-6:
    assert 10 * accurate < plain < 1e-6


@pytest.mark.parametrize("kind", ["ve", "vp"])
@pytest.mark.parametrize("family, degree", [("band", 1), ("band", 2), ("local", 1), ("local", 2)])
def test_coupled_families_are_the_numeric_solution(family, degree, kind):
    """Section 2.2.2 and 2.2.3: mixed moments mu_ijk, every block of at most 9 variables, first 16 coefficients each."""
    model = fitted(family, 2)
    level = 0.5
    solution = model.solve(noise_of(kind, level), degree)
    for index, part in enumerate(model.moments_.blocks):
        variables = part.block.variables.shape[1]
        name = family if variables > 1 else "independent"  # scaling atoms of the band family stand alone
        options = {"neighbours": variables - 1} if name == "local" else {}
        coefficient = ScoreCoefficient(name, degree, kind, **options)
        moments = vector(coefficient, raw_moments(model, index))[:, :16]
        numeric = solution.blocks[index].theta.numpy().T[:, :16]
        assert worst(coefficient.lambdify("numpy")(moments, level), numeric) < TOLERANCE


@pytest.mark.parametrize("kind, level", [("ve", "0.5"), ("vp", "0.5")])
def test_numeric_against_exact_rationals(kind, level):
    """Rational moments in, exact coefficients out: numeric's float64 loses at most condition number times 1e-15."""
    model = fitted("independent", 4)
    table = raw_moments(model)
    solved = model.solve(noise_of(kind, float(level)), 4, condition=True).blocks[0]
    coefficient = ScoreCoefficient("independent", 4, kind)
    moments = vector(coefficient, table)
    for group in range(0, 1024, 128):
        exact = [float(value) for value in exact_theta(coefficient, moments[:, group], float(level))]
        error = worst(np.array(exact)[:, None], solved.theta.numpy()[[group]].T)
        assert error < max(1e-13, 1e-15 * float(solved.condition[group]))
        assert compare(coefficient, moments[:, group], float(level)).mpmath_error < 1e-30


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("family, variables", [("independent", 1), ("band", 3), ("local", 3), ("local", 9)])
def test_both_packages_name_the_same_features(family, variables, degree):
    """Equations (18), (22) and Section 2.2.3: the same monomials in the same order in both packages."""
    options = {"neighbours": variables - 1} if family == "local" else {}
    ours = ScoreCoefficient(family, degree, **options).exponents
    theirs = numeric_exponents(PATTERNS[family], variables, degree)
    assert [tuple(map(int, row)) for row in theirs] == [tuple(row) for row in ours]


@pytest.mark.parametrize("degree, variables", [(1, 9), (2, 3), (3, 3), (3, 9)])
def test_full_interactions_name_the_same_features(degree, variables):
    """``interactions="full"``: every monomial of total degree <= n (220 of them at n = 3, radius 1)."""
    ours = ScoreCoefficient("local", degree, interactions="full", neighbours=variables - 1).exponents
    theirs = numeric_exponents("full", variables, degree)
    assert {tuple(map(int, row)) for row in theirs} == set(ours)
    assert len(ours) == len(theirs)
