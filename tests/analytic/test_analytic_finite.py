"""The finite-sample bound: its steps as identities, its radii and itself against drawn samples, on laws and on real digits."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import torch

from analytic import AnalyticError, FiniteSampleBound, ScoreCoefficient, exact_theta
from analytic.algebra.laws import moments_of_samples
from analytic.theory.finite import interval_of
from numeric.wavelets import WaveletTransform


@pytest.mark.parametrize("noise", ["ve", "vp", "general"])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_steps_hold(degree, noise):
    """Steps 1, 3 and 4 of the proof, recomputed."""
    checks = FiniteSampleBound(degree, noise).check()
    assert len(checks) == 5 and all(checks.values()), checks


def test_a_wrong_step_is_found(monkeypatch):
    """The checks can fail: one entry of M altered."""
    plain = FiniteSampleBound.matrix

    def wrong(self, theta):
        found = plain(self, theta)
        found[0, 0] += 1
        return found

    monkeypatch.setattr(FiniteSampleBound, "matrix", wrong)
    assert not FiniteSampleBound(2).holds


@pytest.mark.parametrize("noise, level", [("ve", (0.5,)), ("vp", (0.6,)), ("general", (0.8, 0.3))])
def test_the_fit_is_the_exact_coefficient(noise, level):
    """About the middle of the interval, theta is :func:`analytic.exact_theta` of the same values; the excess of it is zero."""
    values = np.array([0.0, 0.25, 0.5, 1.0, 0.75, 0.125])
    bound = FiniteSampleBound(2, noise)
    found = bound.evaluate(values, 0, 1, *level)
    coefficient = ScoreCoefficient("independent", 2, noise)
    moments = moments_of_samples(
        [sp.Rational(float(v)) - sp.Rational(1, 2) for v in values], coefficient.moment_exponents
    )
    np.testing.assert_allclose(found.theta, [float(v) for v in exact_theta(coefficient, moments, *level)], rtol=1e-10)
    assert abs(bound.excess(found.theta, values, 0, 1, *level)[0]) < 1e-20


@pytest.mark.parametrize("kind", ["hoeffding", "bernstein"])
def test_radii_and_bound_hold_on_drawn_samples(kind):
    """50 samples of 2,000 from a known population, delta = 0.2: radii and bound fail at most that often (here never)."""
    random = np.random.default_rng(0)
    population = random.beta(0.5, 0.8, size=50_000)
    bound, sigma = FiniteSampleBound(2), 0.5
    true = bound._table(population - 0.5, 1.0, sigma**2).mean(1)[1:]
    outside = beyond = 0
    ratios = []
    for _ in range(50):
        sample = random.choice(population, 2000)
        found = bound.evaluate(sample, 0, 1, sigma, delta=0.2, kind=kind)
        gaps = np.abs(bound._table(sample - 0.5, 1.0, sigma**2).mean(1)[1:] - true)
        outside += bool((gaps > np.array(found.radii)).any())
        score, denoiser = bound.excess(found.theta, population, 0, 1, sigma)
        beyond += score > found.score or denoiser > found.denoiser
        ratios.append(found.score / score)
        assert found.eta < 1 and found.denoiser == pytest.approx(found.score * sigma**4)
    assert outside <= 10 and beyond <= 10
    assert 10 < np.median(ratios) < 1e5  # it is a bound, not an estimate: hundreds of times the truth, and finite


def test_the_deterministic_part_is_exact_to_the_radii():
    """Steps 3 to 5 without chance: any moments within eps of the fitted ones have an excess below the bound."""
    random = np.random.default_rng(1)
    bound, sigma = FiniteSampleBound(2), 0.7
    sample = random.uniform(0, 1, size=5000)
    found = bound.evaluate(sample, 0, 1, sigma)
    fitted = bound._table(sample - 0.5, 1.0, sigma**2).mean(1)
    worst = 0.0
    for _ in range(300):
        moved = fitted.copy()
        moved[1:] += random.choice([-1, 1], size=4) * np.array(found.radii)
        gram = np.array([[moved[j + k] for k in range(3)] for j in range(3)])
        gap = np.array(found.theta) - np.linalg.solve(gram, [0, -1, -2 * moved[1]])
        worst = max(worst, float(gap @ gram @ gap))
    assert 0.05 * found.score < worst <= found.score


def test_more_images_and_less_ambition_make_it_smaller():
    """It falls like 1 / N for many images; Bernstein's radii win then; too few images for the degree: no claim (infinite)."""
    random = np.random.default_rng(2)
    bound = FiniteSampleBound(2)
    found = {n: bound.evaluate(random.beta(0.5, 0.8, size=n), 0, 1, 0.5) for n in (10_000, 1_000_000)}
    assert 50 < found[10_000].score / found[1_000_000].score < 250
    sample = random.beta(0.5, 0.8, size=100_000)
    kinds = [bound.evaluate(sample, 0, 1, 0.5, kind=kind).score for kind in ("bernstein", "hoeffding")]
    assert kinds[0] < kinds[1]
    few = FiniteSampleBound(3).evaluate(sample[:20], 0, 1, 0.5)
    assert few.eta >= 1 and few.score == float("inf")


def test_interval_of_an_atom():
    """psi . x for pixels in [0, 1], against linear programming by hand: all pixels at one end or the other."""
    atom = np.array([0.5, -0.25, 0.75, -1.0])
    assert interval_of(atom) == (-1.25, 1.25)
    assert interval_of(atom, 2, 3) == (2 * 1.25 - 3 * 1.25, 3 * 1.25 - 2 * 1.25)
    with pytest.raises(AnalyticError, match="finite"):
        interval_of([np.nan])


def test_on_real_digits(mnist16):
    """60,000 draws from 1,000 digits, which are the population then: the true excess is below the bound, far below."""
    images = mnist16.take(1000)[:].double()
    transform = WaveletTransform(16)
    atoms = transform.forward(torch.eye(256, dtype=torch.float64).reshape(256, 1, 16, 16))[:, 0].T.numpy()
    coefficients = transform.forward(images)[:, 0].numpy()
    drawn = np.random.default_rng(0).integers(1000, size=60_000)
    finite = {1: 0, 2: 0}
    for degree in finite:
        bound = FiniteSampleBound(degree)
        for place in (0, 5, 40, 200):
            low, high = interval_of(atoms[place])
            found = bound.evaluate(coefficients[drawn, place], low, high, 0.5)
            score, _ = bound.excess(found.theta, coefficients[:, place], low, high, 0.5)
            assert 0 < 10 * score <= found.score
            finite[degree] += found.eta < 1
    assert finite[1] == 4 and finite[2] >= 2


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda b: b.evaluate([0.1, 2.0], 0, 1, 0.5), "2.0 lies outside"),
        (lambda b: b.evaluate([0.1, 0.2], 1, 0, 0.5), "low < high"),
        (lambda b: b.evaluate([0.1], 0, 1, 0.5), "at least 2"),
        (lambda b: b.evaluate([0.1, float("nan")], 0, 1, 0.5), "outside"),
        (lambda b: b.evaluate([0.1, 0.2], 0, 1, 0.5, delta=0), "delta"),
        (lambda b: b.evaluate([0.1, 0.2], 0, 1, 0.5, kind="chernoff"), "chernoff"),
        (lambda b: b.evaluate([0.1, 0.2], 0, 1, 0), "sigma = 0"),
        (lambda b: FiniteSampleBound(0), "degree"),
        (lambda b: FiniteSampleBound(1, "clean"), "clean"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(AnalyticError, match=named):
        make(FiniteSampleBound(1))
