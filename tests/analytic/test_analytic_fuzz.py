"""Fuzz: no accepted result is worse than its tolerance, against exact rationals; a few cases here, thousands in the slow suite."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import sympy as sp

from analytic import NumericallySingular, ScoreCoefficient, exact_theta
from analytic.algebra.laws import moments_of_samples

TOLERANCE = 1e-3
KINDS = [
    ("independent", n, noise, {"basis": basis})
    for n in (1, 2, 3, 4, 5)
    for noise in ("ve", "vp")
    for basis in ("monomial", "hermite")
    if n < 4 or basis == "monomial"
]
KINDS += [("band", n, noise, {}) for n in (1, 2, 3) for noise in ("ve", "vp")]
KINDS += [("local", n, "ve", {"neighbours": q}) for n, q in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1))]
KINDS += [("local", n, "vp", {"neighbours": q, "interactions": "full"}) for n, q in ((1, 2), (2, 1), (2, 2))]


def case(random: np.random.Generator):
    """A coefficient, exact moments of a few atoms (far from zero, close together or plain) and a level, as a float."""
    family, degree, noise, options = KINDS[random.integers(len(KINDS))]
    coefficient = ScoreCoefficient(family, degree, noise, **options)
    width = len(coefficient.variables)
    atoms = int(random.integers(1, 8))
    centre = random.choice([0, 0, 1, 10, 1000], size=width)
    spread = 10.0 ** random.integers(-6, 2, size=width)
    points = centre + spread * random.normal(size=(atoms, width))
    points = [tuple(sp.Rational(*float(np.round(x, 12)).as_integer_ratio()) for x in row) for row in points]
    moments = moments_of_samples(points, coefficient.moment_exponents)
    sigma = float(10.0 ** random.uniform(-9, 1))
    return coefficient, moments, sigma if noise == "ve" else float(1 / (1 + sigma**2)) if sigma > 1e-6 else 0.5


def few_atoms(random: np.random.Generator):
    """Three atoms in three coordinates, one near 10, next to no noise: the Gram is singular but for its rounding."""
    coefficient = ScoreCoefficient("local", 1, "ve", neighbours=2)
    points = random.normal(size=(3, 3)) + np.eye(3)[random.integers(3)] * 10
    points = [tuple(sp.Rational(round(1000 * x), 1000) for x in row) for row in points]
    return coefficient, moments_of_samples(points, coefficient.moment_exponents), 10.0 ** random.integers(-10, -5)


def run(count: int, seed: int, case=case) -> Counter:
    """Accepted, refused and wrong results of ``count`` cases, in either precision and by either method."""
    random = np.random.default_rng(seed)
    tally: Counter = Counter()
    for _ in range(count):
        coefficient, moments, level = case(random)
        exact = exact_theta(coefficient, moments, level)
        true = np.array([float(value) for value in exact])
        floats = np.array([float(value) for value in moments])
        options = [{}, {"precision": "double"}, {"method": "elimination"}][int(random.integers(3))]
        try:
            found = coefficient.lambdify("numpy", tolerance=TOLERANCE, **options)(floats, level)
        except NumericallySingular:
            tally["refused"] += 1
            continue
        tally["accepted"] += 1
        error = float(np.abs(found - true).max() / np.abs(true).max())
        if not error <= TOLERANCE:
            tally["wrong"] += 1
            print("wrong", repr(coefficient), options, level, error)
        bound, rounding = coefficient.lambdify("numpy", **options).accuracy(floats, level)
        if not error <= 1.01 * float(bound + rounding) + 1e-15:
            tally["beyond its bound"] += 1
            print("beyond", repr(coefficient), options, level, error, bound, rounding)
    return tally


def test_no_accepted_result_is_wrong():
    """60 cases: the bound holds, the tolerance too, and both kinds of answer occur."""
    tally = run(60, seed=1)
    assert tally["wrong"] == tally["beyond its bound"] == 0, tally
    assert tally["accepted"] > 10 and tally["refused"] > 5, tally


@pytest.mark.parametrize("case", [few_atoms])
def test_rounded_moments_of_few_atoms(case):
    """200 cases in which the rounding of the moments decides the answer: all are refused, or right."""
    tally = run(200, seed=2, case=case)
    assert tally["wrong"] == tally["beyond its bound"] == 0, tally
    assert tally["refused"] > 20, tally


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 18))
def test_thousands_of_cases(seed):
    """8 x 500 cases."""
    tally = run(500, seed)
    assert tally["wrong"] == tally["beyond its bound"] == 0, tally
    assert tally["accepted"] > 100 and tally["refused"] > 50, tally
