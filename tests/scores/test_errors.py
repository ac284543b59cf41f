"""Standard errors of a fit: delta method against symbolic sensitivities, the jackknife, and training sets drawn again and again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from analytic import ScoreCoefficient, Sensitivity
from numeric.moving import moving_digits
from numeric.noise import NoiseLevel, ve, vp
from numeric.scores.base import SettingsError
from numeric.scores.groups import all_but_one, grouped_moments
from numeric.scores.influence import averaged_powers
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.video import VideoScore
from tests.agreement import check_agreement
from tests.threads import torch_threads

FAMILIES = [("independent", 3), ("band", 3), ("local", 2)]


@pytest.fixture(scope="module")
def digits(mnist16):
    """2,000 digits at 8 x 8."""
    return mnist16.resized(8)


@pytest.mark.parametrize("family, degree", [("independent", 2), ("independent", 3), ("band", 2)])
@pytest.mark.parametrize("noise", [ve(0.5), vp(0.6)])
def test_the_delta_method_is_the_symbolic_sensitivity_times_the_covariance_of_the_moments(digits, family, degree, noise):
    """``J Cov(mu) J^T / n`` with J from :class:`analytic.Sensitivity` in raw clean moments, at every detail coefficient of a block."""
    images = digits.take(60)
    model = WaveletScore(family, degree, levels=1, ridge=0.0).fit(images)
    found = model.standard_errors(noise, images)
    clean = model.transform_.forward(images[:].double()).flatten(1).numpy()
    sensitivity = Sensitivity(ScoreCoefficient(family, degree, noise="general"))
    jacobian = sensitivity.lambdify()
    block = model.moments_.blocks[-1].block.variables
    checked = 0
    for group in range(0, len(block), 7):
        rows = clean[:, block[group]]
        powers = np.stack([np.prod(rows ** np.array(e), axis=1) for e in sensitivity.exponents])
        every = [np.prod(rows ** np.array(e), axis=1).mean() for e in sensitivity.coefficient.moment_exponents]
        slope = jacobian(every, noise.alpha, noise.sigma)
        expected = np.sqrt(np.diag(slope @ np.cov(powers) @ slope.T) / len(rows))
        np.testing.assert_allclose(found.theta[-1][group].numpy(), expected, rtol=1e-6)
        checked += 1
    assert checked >= 2 and found.images == 60


RIDGES = [{"ridge": 0.1}, {"ridge": 0.01, "ridge_side": "denoiser"}, {"ridge": 1e-3, "ridge_scaling": "raw"}]


@pytest.mark.parametrize(
    "family, degree, ridge", [(*case, {}) for case in FAMILIES] + [("independent", 3, r) for r in RIDGES] + [("band", 2, RIDGES[0])]
)
def test_delta_and_jackknife_agree_within_their_own_error(digits, family, degree, ridge):
    """Both for theta (all coefficients together) and for the expected MSE, with every kind of ridge."""
    images = digits.take(1000)
    check_agreement(WaveletScore(family, degree, **ridge).fit(images), images, 0.5)


@pytest.mark.parametrize(
    "family, degree, noise, ridge", [("independent", 3, 0.5, {}), ("band", 2, vp(0.6), {"ridge": 1e-2}), ("local", 2, 0.5, {"ridge_side": "score"})]
)
def test_delta_and_jackknife_agree_for_the_shared_readout(digits, family, degree, noise, ridge):
    """Three outputs' theta, and the error of all."""
    images = digits.take(600)
    check_agreement(SharedWaveletScore(family, degree, **ridge).fit(images), images, noise, outputs=[0, 5, 40])


def test_videos_are_units_too(digits):
    """The readout of videos: whole videos are independent, their frames are not."""
    videos = moving_digits(digits, count=400, frames=4, size=8, per_video=1, speed=1.0)
    check_agreement(VideoScore("independent", 2, time_wavelet="haar", time_radius=1).fit(videos), videos, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("readout, family, options", [(WaveletScore, "local", {}), (SharedWaveletScore, "independent", {"outputs": [0, 500]})])
def test_at_the_size_people_use(mnist32, readout, family, options):
    """32 x 32, degree 3, two threads: delta and jackknife agree for theta (not asked of few images) and for the expected error."""
    with torch_threads(2):
        images = mnist32.take(1000)
        model = readout(family, 3).fit(images)
        delta = model.standard_errors(0.25, images, **options)
        jackknife = model.standard_errors(0.25, images, method="jackknife", groups=10, **options)
        gap = math.log(jackknife.expected_mse / delta.expected_mse)
        # more coefficients than images: what lies beyond the first order is left 10 %
        assert abs(gap) < 3 * math.hypot(delta.expected_mse_error, jackknife.expected_mse_error) + 0.1
        assert 0 < delta.excess < delta.optimism < model.expected_mse(0.25)
        for theta in delta.theta:  # coefficients of what is the same in every image (the dark border) have no error
            assert bool(torch.isfinite(theta).all()) and float(theta.min()) >= 0 and float((theta > 0).double().mean()) > 0.5


@pytest.mark.parametrize("readout, family, degree", [(WaveletScore, *case) for case in FAMILIES] + [(SharedWaveletScore, "band", 2)])
def test_drawn_training_sets(digits, readout, family, degree):
    """40 training sets drawn from 600 digits: their spread, the excess and the optimism are the predicted ones.

    The digits are the population, so the excess risk of every draw is exact.  What is checked is first order in 1 / n;
    five standard errors, and 15 % for what lies beyond the first order.
    """
    population, sigma, draws = digits.take(600)[:].double(), 0.5, 40
    n = 400 if readout is WaveletScore else 1600  # the first order asks for more images where all is shared
    model = readout(family, degree, levels=2).fit(population)
    truth = model.expected_mse(sigma)
    moments = model.moments_
    found = model.standard_errors(sigma, population)
    scale = len(population) / n  # from a fit on the whole population to one on n
    random = np.random.default_rng(1)
    thetas, errors, excess, optimism = [], [], [], []
    for _ in range(draws):
        drawn = readout(family, degree, levels=2).fit(population[random.integers(len(population), size=n)])
        thetas.append(torch.cat([t.flatten() for t in drawn.coefficients(ve(sigma), degree, model)]))
        errors.append(drawn.expected_mse(sigma))
        excess.append(drawn.expected_mse(sigma, moments=moments) - truth)
        optimism.append(excess[-1] + truth - errors[-1])
    assert min(excess) > 0
    spread = torch.stack(thetas).std(0) / (torch.cat([t.flatten() for t in found.theta]) * scale**0.5)
    assert float(spread.median()) == pytest.approx(1.0, abs=0.15)
    assert float(((spread > 0.7) & (spread < 1.5)).double().mean()) > 0.9
    bars = {"excess": excess, "optimism": optimism}
    for name, values in bars.items():
        predicted = getattr(found, name) * scale
        assert np.mean(values) == pytest.approx(predicted, rel=0.15, abs=5 * np.std(values) / draws**0.5)
    assert np.std(errors) / (found.expected_mse * scale**0.5) == pytest.approx(1.0, abs=5 / (2 * draws) ** 0.5)


def test_a_wrong_covariance_would_be_seen(digits):
    """Coefficients within an image are correlated: errors summed as if they were independent come out far too small."""
    images = digits.take(500)
    model = WaveletScore("independent", 2).fit(images)
    whole = model.standard_errors(0.5, images).expected_mse
    clean = model.transform_.forward(images[:].double()).flatten(1)
    y = model.estimate(images[:].double(), ve(0.5))
    apart = (model.transform_.forward(y).flatten(1) - clean).square().var(0).sum().sqrt() / 64 / 500**0.5
    assert whole > 1.5 * float(apart)


def test_averaged_powers_are_hermite_like():
    """``T_p``: E (m + d z)^p in closed form for p = 4."""
    m, d = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    assert float(averaged_powers(m, d, 4)[4]) == pytest.approx(0.3**4 + 6 * 0.3**2 * 0.7**2 + 3 * 0.7**4, rel=1e-14)
    assert averaged_powers(m, d, 1).shape == (2, 1)


def test_all_but_one_leaves_one_out(digits):
    """Merged moments of the others are those of a fit on the others."""
    model = WaveletScore("band", 2)
    images = digits.take(30)
    parts = grouped_moments(model, images, 3)
    for number, moments in enumerate(all_but_one(parts)):
        others = [i for i in range(30) if i // 10 != number]
        expected = WaveletScore("band", 2).fit(images.subset(others))
        got = WaveletScore("band", 2).fit_moments(moments)
        assert moments.count == 20
        assert got.expected_mse(0.3) == pytest.approx(expected.expected_mse(0.3), rel=1e-10)


def test_more_images_make_smaller_errors(digits):
    """A fit on n images has errors like 1 / sqrt(n), read off any images of the kind; VP at (a, s) is VE at s / a for the MSE."""
    few, many = (WaveletScore("independent", 2).fit(digits.take(n)) for n in (500, 2000))
    ratio = few.standard_errors(0.5, digits).expected_mse / many.standard_errors(0.5, digits).expected_mse
    assert ratio == pytest.approx(2.0, rel=0.1)
    a, s = 0.8, 0.6
    twins = [many.standard_errors(level, digits.take(200)).expected_mse for level in (NoiseLevel(a, s), ve(s / a))]
    assert twins[0] == pytest.approx(twins[1], rel=1e-6)


def test_the_shared_quadratic_form_is_the_error_of_an_image(digits):
    """Without a ridge the means of the images' own errors are the expected MSE: on any images, at a lower degree too."""
    from numeric.scores.influence_shared import shared_delta_errors

    model = SharedWaveletScore("local", 2, ridge=1e-12).fit(digits.take(300))
    others = digits.subset(range(300, 400))
    held_out = model.new_moments(others.shape)
    model.accumulate(held_out, others, 1000, None, None, 30.0)
    for degree in (1, 2):
        # the standard error of a mean over one image repeated is that of no spread at all
        apart = [shared_delta_errors(model, others.subset([k, k]), ve(0.5), degree, []).expected_mse for k in range(3)]
        assert max(apart) < 1e-9
        exact = []
        for k in range(12):
            alone = model.new_moments(others.shape)
            model.accumulate(alone, others.subset([k]), 1000, None, None, 30.0)
            exact.append(model.expected_mse(0.5, degree, alone))
        found = shared_delta_errors(model, others.subset(range(12)), ve(0.5), degree, []).expected_mse
        assert found == pytest.approx(np.std(exact, ddof=1) / 300**0.5, rel=1e-4)


def test_bad_input_is_named(digits):
    model = WaveletScore("independent", 2).fit(digits.take(50))
    with pytest.raises(ValueError, match="bootstrap"):
        model.standard_errors(0.5, digits, method="bootstrap")
    with pytest.raises(ValueError, match=r"fitted on \(1, 8, 8\)"):
        model.standard_errors(0.5, digits.resized(16))
    with pytest.raises(ValueError, match="give two or more"):
        model.standard_errors(0.5, digits.take(1))
    with pytest.raises(ValueError, match="50 images of the fit, got 2,000"):
        model.standard_errors(0.5, digits, method="jackknife")
    with pytest.raises(SettingsError, match="monomial"):
        WaveletScore("independent", 2, basis="hermite").fit(digits.take(50)).standard_errors(0.5, digits)
    with pytest.raises(ValueError, match="periodization"):
        WaveletScore("independent", 2, mode="symmetric").fit(digits.take(50)).standard_errors(0.5, digits)
    with pytest.raises(ValueError, match="outputs= is of the shared readout"):
        model.standard_errors(0.5, digits, outputs=[0])
    shared = SharedWaveletScore("independent", 2).fit(digits.take(50))
    with pytest.raises(ValueError, match=r"0..63, got \[64\]"):
        shared.standard_errors(0.5, digits, outputs=[64])
    with pytest.raises(ValueError, match="sigma must be"):
        model.standard_errors(0.0, digits)
