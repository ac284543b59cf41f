"""Intervals: jackknife, repeated fits, energy distances; coverage by simulation and by real fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numeric.claims.exact import sampled_solution
from numeric.claims.intervals import repeated_jackknife
from numeric.claims.readout import SampledShared, SharedFeatures
from numeric.claims.samples import EnergyDistance, fall_between, jackknife_pair
from numeric.data import ImageSet
from numeric.evaluation.sweep import noise_like
from numeric.noise import ve, vp
from numeric.scores.folds import FoldedFit, jackknife
from numeric.scores.groups import fold_edges
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore

# ----- jackknife -----------------------------------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_its_standard_error():
    """For a mean the delete-one jackknife is s / sqrt(K) exactly, and the half width Student's quantile times it."""
    x = np.random.default_rng(0).normal(size=12)
    for j in (jackknife(lambda m: m, x), repeated_jackknife(lambda m: m, x)):
        assert j["value"] == pytest.approx(x.mean()) and j["se"] == pytest.approx(x.std(ddof=1) / 12**0.5)
        assert (j["high"] - j["low"]) / 2 == pytest.approx(2.2009851600829 * j["se"])  # t, 11 degrees, 97.5%


def test_repeats_add_the_variance_of_the_fits():
    """Value: mean over repeats; variance: jackknife over groups of it plus the repeats' variance over their number."""
    rng = np.random.default_rng(0)
    a, b = 2 + 0.1 * rng.normal(size=(3, 8)), 1 + 0.1 * rng.normal(size=(1, 8))
    j = repeated_jackknife(lambda x, y: x / y, a, b)
    parts = np.array([row.mean() / b.mean() for row in a])
    left = lambda t: (t.sum(-1, keepdims=True) - t) / 7  # noqa: E731
    draws = (left(a) / left(b)).mean(0)
    images = 7 / 8 * np.square(draws - draws.mean()).sum()
    assert j["value"] == pytest.approx(parts.mean())
    assert j["se"] ** 2 == pytest.approx(images + parts.var(ddof=1) / 3)
    with pytest.raises(ValueError, match="one number of groups"):
        repeated_jackknife(lambda x, y: x, a, b[:, :4])


@given(st.integers(2, 40), st.integers(2, 12))
def test_folds_partition_the_images(count, folds):
    """Contiguous, disjoint, complete, sizes within one of another."""
    if count < folds:
        with pytest.raises(ValueError, match="too few"):
            fold_edges(count, folds)
        return
    edges = fold_edges(count, folds)
    assert [i for a, b in edges for i in range(a, b)] == list(range(count))
    assert max(b - a for a, b in edges) - min(b - a for a, b in edges) <= 1


@pytest.mark.parametrize("fit_noise", [0.0, 0.3])
def test_intervals_of_repeated_fits_cover(fit_noise):
    """95% intervals of a ratio of means cover it in 95% of 800 draws within 4 binomial errors, with and without fit noise."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(800):
        image = 0.3 * rng.normal(size=10)
        a = 2 + image + np.zeros((4, 1))
        b = 1 + 0.5 * image + fit_noise * rng.normal(size=(4, 1)) + 0.1 * rng.normal(size=(1, 10))
        j = repeated_jackknife(lambda x, y: y / x, a, b)
        hits += j["low"] < 0.5 < j["high"]
    assert abs(hits / 800 - 0.95) < 4 * (0.95 * 0.05 / 800) ** 0.5


# ----- exact errors by folds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["independent", "band", "local"])
@pytest.mark.parametrize("noise", [ve(0.4), vp(0.7)])
def test_fold_errors_average_to_the_exact_expected_error(mnist16, family, noise):
    """Exact errors by fold average to ``E|x|^2 - 2 theta.E[phi x] + theta.G theta`` on all images, fitted and held-out."""
    splits = {"train": mnist16.take(120), "held-out": ImageSet(mnist16.raw[120:200], size=16)}
    fit = FoldedFit(WaveletScore(family, 2), splits, 4, progress=False)
    solutions = fit.solve(noise, [1, 2])
    whole = WaveletScore(family, 2).fit(splits["train"])
    other = whole.new_moments((1, 16, 16)).fit(splits["held-out"].batches())
    for degree, train, held_out in zip((1, 2), fit.errors(solutions, "train"), fit.errors(solutions, "held-out")):
        assert train.mean() == pytest.approx(whole.expected_mse(noise, degree), rel=1e-9)
        assert held_out.mean() == pytest.approx(whole.expected_mse(noise, degree, other), rel=1e-9)


def test_fold_error_is_the_monte_carlo_mean(mnist16):
    """The exact held-out error of one fold against drawn noise, 60 draws, within 4 standard errors."""
    splits = {"train": mnist16.take(200), "held-out": ImageSet(mnist16.raw[200:240], size=16)}
    fit = FoldedFit(WaveletScore("band", 2), splits, 2, progress=False)
    exact = fit.errors(fit.solve(ve(0.5), [2]), "held-out")[0, 1]
    x = splits["held-out"][20:40].double()
    draws = []
    for k in range(60):
        y = x + 0.5 * noise_like(x, 3, k)
        draws.append(float((fit.model.denoise(y, 0.5, clamp=False) - x).square().mean()))
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws, ddof=1) / 60**0.5


# ----- sampled fits ----------------------------------------------------------------------------------------------------------


def test_sampled_fits_approach_the_exact_minimum_from_above(mnist16):
    """Equation (23) against (15): no sampled own fit beats the exact expected training error, and the excess falls like 1/n."""
    train = mnist16.take(200)
    fit = FoldedFit(WaveletScore("band", 2), {"train": train}, 2, progress=False)
    best = float(fit.errors(fit.solve(ve(0.5), [2]), "train").mean())
    excess = []
    for n in (200, 3200):
        solution = sampled_solution(fit.model, train, n, ve(0.5), 2, 1e-10)
        excess.append(float(fit.errors([solution], "train").mean()) - best)
    assert excess[0] > excess[1] > 0 and 5 < excess[0] / excess[1] < 50  # 16 for a variance


def test_sampled_shared_readout_approaches_the_exact_one(mnist16):
    """The paper's sampled ridge (23) against its exact-noise limit (Wick's theorem) on the same drawn images, within 3%."""
    train = mnist16.take(300)
    exact = SharedWaveletScore("independent", 1).fit(train)
    features = SharedFeatures(train, "independent", 1)
    few, many = (SampledShared(features, train, n, ve(0.5), 1, 1e-8) for n in (600, 30_000))
    x = train[:100].double()
    y = x + 0.5 * noise_like(x, 9)
    errors = [float((d.denoise(y, 0.5, clamp=False) - x).square().mean()) for d in (exact, few, many)]
    assert errors[0] < errors[2] < 1.03 * errors[0] and errors[1] > 1.2 * errors[0]
    with pytest.raises(ValueError, match="fitted on samples"):
        few.denoise(y, 0.4)


@pytest.mark.parametrize("degree", [1, 2])
def test_primal_and_dual_sampled_fits_agree(mnist16, degree):
    """Ridge on n samples by the features' Gram matrix or by the samples' inner products: one readout; degrees are leading blocks."""
    train = mnist16.take(150)
    features = SharedFeatures(train, "independent", 2)
    fit = SampledShared(features, train, 300, ve(0.5), 2, 1e-3)  # 513 features: dual
    assert fit.dual and features.monomials.count(2) == 513
    noisy = torch.cat([train[:150], train[:150]]).double()
    y = torch.cat([noisy[k : k + 150] + 0.5 * noise_like(noisy[k : k + 150], 0, k) for k in (0, 150)])
    phi = features(y, ve(0.5), features.monomials.count(degree))
    norm = phi.square().sum(1).rsqrt()
    gram = (phi * norm[:, None]) @ (phi * norm[:, None]).T
    theta = torch.linalg.solve(
        gram + 1e-3 * torch.eye(len(gram), dtype=torch.float64), (phi * norm[:, None]) @ features.coefficients(noisy)
    )
    assert torch.allclose(fit.at(degree), theta * norm[:, None], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_intervals_of_sampled_fits_hold_the_fits_own_noise(mnist16):
    """Own readout on 500 samples: the interval of the mean over fits covers the mean over 40 other fits in most of 10 trials.

    With the images' jackknife alone (one fit, as before) it covers in far fewer: the interval is several times too narrow.
    """
    train = mnist16.take(500)
    fits = {f: FoldedFit(WaveletScore(f, 2), {"train": train}, 5, progress=False) for f in ("independent", "band")}

    def units(repeat: int) -> list[np.ndarray]:
        out = []
        for fit in fits.values():
            solution = sampled_solution(fit.model, train, 500, ve(0.5), 2, 1e-10, (7, repeat))
            out.append(fit.errors([solution], "train")[0])
        return out

    rise = lambda a, b: 100 * (b / a - 1)  # noqa: E731
    table = np.array([units(k) for k in range(80)])  # (repeats, families, folds)
    truth = np.mean([rise(*row.mean(1)) for row in table[40:]])
    hits = {1: 0, 4: 0}
    for trial in range(10):
        part = table[4 * trial : 4 * trial + 4]
        for repeats in hits:
            j = repeated_jackknife(rise, part[:repeats, 0], part[:repeats, 1])
            hits[repeats] += j["low"] < truth < j["high"]
    assert hits[4] >= 8 and hits[1] < hits[4]


# ----- energy distance -------------------------------------------------------------------------------------------------------


def test_energy_distance_and_its_delete_one_values():
    """U-statistics by hand; the delete-one values are the distance of the smaller samples."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(9, 3)) + 1
    d = EnergyDistance(x, y)
    norm = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)  # noqa: E731
    by_hand = 2 * norm(x, y).mean() - norm(x, x).sum() / 42 - norm(y, y).sum() / 72
    assert d.value == pytest.approx(by_hand)
    assert d.without_x[2] == pytest.approx(EnergyDistance(np.delete(x, 2, 0), y).value)
    assert d.without_y[5] == pytest.approx(EnergyDistance(x, np.delete(y, 5, 0)).value)
    with pytest.raises(ValueError, match="at least 3 samples"):
        EnergyDistance(x[:2], y)


def _coverage(trials: int, n: int = 60) -> tuple[float, float]:
    """Shares of intervals that cover: of a distance, and of the fall between two paired samplers."""
    rng = np.random.default_rng(3)

    def sets(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        e, reference = rng.normal(size=(count, 4)), rng.normal(size=(count, 4))
        return e + 1.0, e + 0.8 + 0.2 * rng.normal(size=e.shape), reference

    a, b, y = sets(4000)
    before, after = EnergyDistance(a, y).value, EnergyDistance(b, y).value
    truth = 100 * (1 - after / before)
    hits = np.zeros(2)
    for _ in range(trials):
        a, b, y = sets(n)
        one, two = EnergyDistance(a, y), EnergyDistance(b, y)
        j, f = jackknife_pair(one.value, one.without_x, one.without_y), fall_between(one, two)
        assert j["low"] <= j["value"] <= j["high"]  # an interval holds its own estimate
        hits += [j["low"] < before < j["high"], f["low"] < truth < f["high"]]
    return tuple(hits / trials)


def test_energy_intervals_cover():
    """95% intervals of the energy distance and of its fall cover the truth in at least 90% of 150 draws of 60 samples."""
    assert min(_coverage(150)) >= 0.90


@pytest.mark.slow
def test_energy_intervals_cover_at_length():
    """The same, 1,500 draws: between 92% and 98%."""
    found = _coverage(1500)
    assert all(0.92 < share < 0.98 for share in found)
