"""Standard errors of the readouts of the Wiener estimate: derivatives by weights of images, jackknife, training sets drawn again.

What is held against what: the influence of an image on the expected error, its coordinates included, against fits with that image
once more and once less; the noise of single images against drawn noise; delta against jackknife; the predicted excess against that
of fits on images drawn from a population, and what refitted coordinates add to it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from numeric.noise import ve, vp
from numeric.scores.contraction import wick_map
from numeric.scores.groups import estimate_errors
from numeric.scores.influence_wiener import WienerInfluence, WienerOwnInfluence, held_solution
from numeric.scores.levels import NoImagesError
from numeric.scores.potential import PotentialScore
from numeric.scores.wiener import WienerScore
from numeric.scores.wiener_own import WienerOwnScore
from tests.agreement import check_agreement

SMALL = [
    (WienerScore, "independent", 3, "pixel", "wiener", "independent"),
    (WienerScore, "independent", 3, "both", "wiener", "local"),
    (WienerScore, "band", 2, "wavelet", "noisy", "independent"),
    (WienerOwnScore, "independent", 3, "pixel", "wiener", "local"),
    (WienerOwnScore, "local", 3, "wavelet", "wiener", "independent"),
]


def influence_of(model, noise, degree):
    return (WienerOwnInfluence if isinstance(model, WienerOwnScore) else WienerInfluence)(model, noise, degree)


@pytest.fixture(scope="module")
def digits(mnist16):
    """2,000 digits at 8 x 8, neighbours (of one writer) apart."""
    images = mnist16.resized(8)
    return images.subset(np.random.default_rng(0).permutation(len(images)))


@pytest.fixture(scope="module")
def few():
    """80 random images of 4 x 4."""
    return torch.rand(80, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2


def blobs(count: int) -> torch.Tensor:
    """Images of 8 x 8 of two round spots each, everything about them random."""
    random, grid = np.random.default_rng(0), np.arange(8)
    out = np.zeros((count, 8, 8))
    for _ in range(2):
        place, width, height = random.uniform(1.5, 5.5, (2, count, 1)), random.uniform(0.8, 1.8, (count, 1)), random.uniform(0.3, 1, (count, 1))
        rows, columns = (np.exp(-((grid - p) ** 2) / 2 / width**2) for p in place)
        out += height[:, :, None] * rows[:, :, None] * columns[:, None, :]
    return torch.from_numpy(out.clip(0, 1))[:, None]


@pytest.mark.parametrize("case", SMALL)
def test_influence_is_the_derivative_by_an_images_weight(case, few):
    """``IF_i = d error / d weight_i``, everything refitted, by central differences; with the coordinates held it is another number."""
    kind, family, degree, coordinates, of, pixel_family = case
    noise, copies = vp(0.8), 100

    def fit(images):
        return kind(family, degree, coordinates, of, pixel_family, levels=1, ridge=1e-8).fit(images)

    found = influence_of(fit(few), noise, degree)
    values, form = found.features(few), found.forms()
    pulls = found.pulls(*values, *form)
    held = found.pulls(*values, *form[:2], None)
    many, n = few.repeat(copies, 1, 1, 1), copies * len(few)
    for i in (0, 17):
        more, less = fit(torch.cat([many, few[i : i + 1]])), fit(torch.cat([many[:i], many[i + 1 :]]))
        slope = 16 * (more.expected_mse(noise) - less.expected_mse(noise)) * n / 2
        assert slope == pytest.approx(float(pulls[i] - pulls.mean()), rel=1e-4)
        if of == "wiener":
            assert slope != pytest.approx(float(held[i] - held.mean()), rel=2e-3)
        else:
            assert form[2] is None


@pytest.mark.parametrize("case", SMALL[:3])
def test_one_system_by_two_codes(case, few):
    """The noisy Gram matrix by takings and permanents is that by groups of exponents; the mean of r is ``b - G theta``."""
    kind, family, degree, coordinates, of, pixel_family = case
    model = kind(family, degree, coordinates, of, pixel_family, levels=1, ridge=1e-2).fit(few)
    found = influence_of(model, ve(0.5), degree)
    clean, f = found.features(few)
    gram = f @ f.T / len(few)
    found.noise.add_to(gram, gram.clone(), 1.0, 1.0, found.monomials.degrees)
    torch.testing.assert_close(gram, found.gram, rtol=1e-10, atol=1e-12)
    right = found.contracted.residual(f.numpy(), found.theta[:, [3]].numpy(), clean[:, 3].numpy()).mean(1)
    np.testing.assert_allclose(right, (found.cross - found.gram @ found.theta)[:, 3], atol=1e-12)
    assert abs(right).max() > 1e-5  # a ridge leaves something to compare
    loss = found.pulls(clean, f, found.quadratic(found.theta @ found.theta.T), -2.0 * found.theta, None)
    assert float(loss.mean()) / 16 == pytest.approx(model.expected_mse(0.5), rel=1e-9)


def test_the_noise_of_one_image_is_drawn_noise(few):
    """``r_i = E_z[:phi: (x - D)]`` and ``E_z |x - D|^2`` of two images against 100,000 draws, within five standard errors."""
    model = WienerScore("independent", 3, "both", levels=1).fit(few)
    found, level = WienerInfluence(model, ve(0.5), 3), model.coordinates_at(0.5)
    random = torch.Generator().manual_seed(1)
    clean, f = found.features(few[:2])
    loss = found.pulls(clean, f, found.quadratic(found.theta @ found.theta.T), -2.0 * found.theta, None)
    exact = found.contracted.residual(f.numpy(), found.theta[:, [5]].numpy(), clean[:, 5].numpy())
    linear = torch.cat([level.whiten, level.letters])
    wick = wick_map(found.monomials, 0.5, (linear @ linear.T).numpy(), sign=-1.0)
    for i in range(2):
        y = clean[i] + 0.5 * torch.randn(100_000, 16, generator=random, dtype=torch.float64)
        phi = torch.as_tensor(wick @ found.monomials.features(y @ linear.T).numpy())
        errors = clean[i] - (phi.T @ found.theta)
        sample = phi * errors[:, 5]
        scaled = (sample.mean(1) - exact[:, i]).abs() / (sample.std(1) / len(y) ** 0.5)
        assert scaled.max() < 5 and scaled.mean() > 0.3
        square = errors.square().sum(1)
        assert abs(float(square.mean() - loss[i])) < 5 * float(square.std()) / len(y) ** 0.5


@pytest.mark.parametrize(
    "kind, coordinates, degree, options, noise",
    [
        (WienerScore, "pixel", 2, {}, 0.5),
        (WienerScore, "pixel", 3, {"ridge": 1e-2}, vp(0.8)),
        (WienerScore, "both", 2, {"of": "noisy"}, 0.5),
        (WienerScore, "both", 3, {}, 0.5),
        (WienerOwnScore, "pixel", 2, {"pixel_family": "independent"}, 0.5),
        (WienerOwnScore, "wavelet", 2, {"family": "band"}, vp(0.8)),
    ],
)
def test_delta_and_jackknife_agree(digits, kind, coordinates, degree, options, noise):
    """Theta of three outputs in the coordinates of the fit, and the expected MSE with everything fitted again."""
    images = digits.take(2000 if degree == 3 else 1000)  # the first order asks for many images a feature
    check_agreement(kind(degree=degree, coordinates=coordinates, **options).fit(images), images, noise, outputs=[9, 27, 36])


@pytest.mark.parametrize("coordinates, degree", [("pixel", 2), ("pixel", 3), ("both", 2)])
def test_drawn_training_sets(coordinates, degree):
    """30 training sets of 2,500 from 5,000 images: excess, optimism, spread of theta and of the expected MSE are the predicted ones.

    ``tr(G Cov(theta))`` is the risk above that of the best coefficients in the coordinates of the same fit: five standard errors, and
    6 % for what lies beyond the first order.  The whole excess is off by what the coordinates add, a sixth at most here.
    """
    population, level, n, draws = blobs(5000), vp(0.7), 2500, 30
    model = WienerScore(degree=degree, coordinates=coordinates).fit(population)
    truth, found, scale = model.expected_mse(level), model.standard_errors(level, population, outputs=[20, 43]), len(population) / n
    exact = WienerInfluence(model, level, degree)
    loss = exact.pulls(*exact.features(population), exact.quadratic(exact.theta @ exact.theta.T), -2.0 * exact.theta, None) / 64
    random = np.random.default_rng(1)
    whole, held, optimism, errors, thetas = [], [], [], [], []
    for _ in range(draws):
        chosen = random.integers(len(population), size=n)
        drawn = WienerScore(degree=degree, coordinates=coordinates).fit(population[chosen])
        risk = drawn.expected_mse(level, moments=model.moments_)
        solution, coords = held_solution(model, level, degree, drawn)  # the best coefficients in its coordinates
        (sums,) = drawn._sums(model.moments_, [coords])
        best = drawn._excess(solution, coords, sums, model.moments_) / 64
        own = drawn._excess(drawn.solve(level), coords, drawn._sums(model.moments_, [coords])[0], model.moments_) / 64
        whole.append(risk - truth)
        held.append(own - best)
        errors.append(drawn.expected_mse(level))
        # less what the choice of the images does to the error of the best coefficients, whose mean is zero
        optimism.append(risk - errors[-1] - (truth - float(loss[chosen].mean())))
        thetas.append(drawn.coefficients(level, degree, model)[0][:, [20, 43]])
    assert min(held) > 0
    for values, predicted, more in ((held, found.excess, 0.06), (optimism, found.optimism, 0.1), (whole, found.excess, 0.16)):
        five = 5 * np.std(values, ddof=1) / draws**0.5
        assert five < 0.2 * predicted * scale
        assert abs(np.mean(values) / scale - predicted) < five / scale + more * predicted
    spread = torch.stack(thetas).std(0) / (found.theta[0] * scale**0.5)
    assert float(spread.median()) == pytest.approx(1.0, abs=0.1)
    assert float(((spread > 0.6) & (spread < 1.6)).double().mean()) > 0.95
    assert np.std(errors, ddof=1) / (found.expected_mse * scale**0.5) == pytest.approx(1.0, abs=5 / (2 * draws) ** 0.5)


def test_error_bars_of_a_denoised_image(digits):
    """The jackknife of D(y) is the spread of D(y) between training sets; with the coordinates held it would be a tenth too small."""
    random, level = np.random.default_rng(2), ve(0.25)
    y = digits[1990:].double() + 0.25 * torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images = digits.take(1000)
    model = WienerScore(degree=2, coordinates="pixel").fit(images)
    error, relative = estimate_errors(model, images, y, level, groups=40)
    assert error.shape == relative.shape == y.shape
    every = [digits.subset(np.sort(random.integers(1990, size=1000))) for _ in range(40)]
    fits = [WienerScore(degree=2, coordinates="pixel").fit(drawn) for drawn in every]
    spread = torch.stack([fit.estimate(y, level) for fit in fits]).std(0)
    alive = error > 1e-12  # a corner that is black in all images has no error, and hardly any where it is black in nearly all
    assert float(alive.double().mean()) > 0.9 and (bool(alive.all()) or float(spread[~alive].max()) < float(spread.median()))
    assert float((error / spread)[alive].log().mean().exp()) == pytest.approx(1.0, abs=0.12)  # 40 draws, 40 groups, 1 / n
    readout, size = model.plain_readout(level, 2, y), 1 + 64
    centred = y.flatten(1) - readout.mean
    phi = torch.cat([torch.ones(1, 10), centred.T, model.monomials_.features(centred @ readout.letters)[size:]])
    held = torch.stack([phi.T @ fit.coefficients(level, 2, model)[0] for fit in fits]).std(0).reshape(y.shape)
    assert 0.75 < float((held / spread)[alive].log().mean().exp()) < 0.94


def test_ve_and_vp_and_lower_degrees(digits):
    """VP at (a, s) is VE at s / a; degree 1 is the linear denoiser whatever the coordinates, and its errors are the same in all."""
    images = digits.take(300)
    model = WienerScore(degree=2, coordinates="pixel").fit(images)
    level = vp(0.8)
    one, other = model.standard_errors(level, images, outputs=[7]), model.standard_errors(level.effective_sigma, images, outputs=[7])
    assert (one.expected_mse, one.excess) == pytest.approx((other.expected_mse, other.excess), rel=1e-9)
    torch.testing.assert_close(one.theta[0], other.theta[0], rtol=1e-7, atol=0)
    low = model.standard_errors(level, images, degree=1, outputs=[7])
    linear = WienerScore(degree=1, coordinates="wavelet", mode="symmetric").fit(images).standard_errors(level, images, outputs=[7])
    assert low.theta[0].shape == (65, 1)
    assert (low.expected_mse, low.excess) == pytest.approx((linear.expected_mse, linear.excess), rel=1e-9)
    torch.testing.assert_close(low.theta[0], linear.theta[0], rtol=1e-6, atol=1e-12)
    assert low.excess < one.excess


def test_gcv_is_chosen_anew_by_the_jackknife_and_held_by_the_delta_method(digits):
    """Both run with a chosen ridge; the delta method is that of the number chosen."""
    images = digits.take(200)
    model = WienerScore(degree=2, coordinates="pixel", ridge="gcv").fit(images)
    same = WienerScore(degree=2, coordinates="pixel", ridge=model.chosen_ridge(0.5)).fit(images)
    errors = [m.standard_errors(0.5, images, outputs=[]) for m in (model, same)]
    assert errors[0].expected_mse == pytest.approx(errors[1].expected_mse, rel=1e-9)
    jackknife = model.standard_errors(0.5, images, method="jackknife", groups=5, outputs=[3])
    assert jackknife.theta[0].shape == (129, 1) and float((jackknife.theta[0] > 0).double().mean()) > 0.9


def test_the_potential_has_the_jackknife(digits):
    """Its expected MSE varies between training sets as the jackknife says; the delta method says why not."""
    random, sets = np.random.default_rng(4), 25
    images = digits.take(500)
    model = PotentialScore(degree=2, coordinates="pixel").fit(images)
    found = model.standard_errors(0.5, images, method="jackknife", groups=25)
    assert found.theta[0].shape == (192, 1) and found.excess is None
    errors = [
        PotentialScore(degree=2, coordinates="pixel").fit(digits.subset(random.integers(2000, size=500))).expected_mse(0.5) for _ in range(sets)
    ]
    assert np.log(np.std(errors, ddof=1) / found.expected_mse) == pytest.approx(0.0, abs=4 * np.hypot(found.expected_mse_error, (2 * sets) ** -0.5))
    with pytest.raises(ValueError, match="use method='jackknife'"):
        model.standard_errors(0.5, images)


def test_bad_input_is_named(digits, tmp_path):
    images = digits.take(60)
    model = WienerScore(degree=2, coordinates="pixel").fit(images)
    with pytest.raises(ValueError, match=r"0..63, got \[64\]"):
        model.standard_errors(0.5, images, outputs=[64])
    with pytest.raises(ValueError, match=r"fitted on \(1, 8, 8\)"):
        model.standard_errors(0.5, images.resized(16))
    with pytest.raises(ValueError, match="60 images of the fit, got 2,000"):
        model.standard_errors(0.5, digits, method="jackknife")
    model.prepare_levels([0.5]).save(tmp_path / "model.safetensors")
    loaded = WienerScore.load(tmp_path / "model.safetensors")
    with pytest.raises(NoImagesError, match="attach"):
        loaded.standard_errors(0.5, images)
    assert loaded.attach(images).standard_errors(0.5, images, outputs=[]).expected_mse == pytest.approx(
        model.standard_errors(0.5, images, outputs=[]).expected_mse, rel=1e-9
    )
    assert model.standard_errors(0.5, images, method="jackknife", groups=3, outputs=[]).theta == ()
