"""The shared readout: correlated noise of over-complete bases, lemmas C.1 and C.3, cross-validated ridge."""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from numeric.noise import vp
from numeric.scores.contraction import CorrelatedNoise, pairings, permanents
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.wavelets import WaveletTransform


@pytest.fixture
def images(generator):
    return torch.rand(30, 1, 8, 8, generator=generator, dtype=torch.float64) ** 2


def test_permanents_and_pairings():
    """Against the definitions: a sum over permutations; (2m - 1)!! pairings."""
    k = np.random.default_rng(0).standard_normal((5, 5))
    rows, columns = np.array([[0, 1, 2], [3, 3, 4]]), np.array([[1, 1, 4], [0, 2, 3]])
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            direct = sum(prod(k[r[a], c[p[a]]] for a in range(3)) for p in permutations(range(3)))
            assert permanents(k, rows, columns)[i, j] == pytest.approx(direct, rel=1e-12)
    assert [len(list(pairings(n))) for n in range(7)] == [1, 0, 1, 0, 3, 0, 15]


@pytest.mark.parametrize("family", ["independent", "band"])
def test_correlated_noise_at_unit_covariance_is_the_orthonormal_code(family, images):
    """Two codes for one sum: permanents at K = I against the white-noise contraction."""
    model = SharedWaveletScore(family, 3, levels=1).fit(images)
    level = vp(0.5)
    white = model.noisy_gram(level, 3)
    model.moments_._noise = CorrelatedNoise(model.monomials_, np.eye(64))
    assert np.abs(model.noisy_gram(level, 3) - white).max() < 1e-12 * np.abs(white).max()


@pytest.mark.parametrize(
    ("family", "degree", "side"), [("independent", 3, "denoiser"), ("independent", 2, "score"), ("band", 2, "denoiser")]
)
def test_over_complete_error_is_the_monte_carlo_error(family, degree, side, images, generator):
    """Exact pixel error with noise of covariance W W^T, within five standard errors of drawn pixel noise."""
    model = SharedWaveletScore(family, degree, levels=1, ridge=1e-3, mode="symmetric", ridge_side=side).fit(images)
    assert not model.transform_.is_orthonormal
    level = vp(0.5)
    x = images.repeat(200, 1, 1, 1)
    y = level.alpha * x + level.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    errors = (model.denoise(y, level, clamp=False) - x).square().flatten(1).mean(1)
    error = float(errors.std() / len(errors) ** 0.5)
    assert abs(float(errors.mean()) - model.expected_mse(level)) < 5 * error


@pytest.mark.parametrize(("family", "degree", "mode"), [("band", 2, "symmetric"), ("local", 3, "periodization")])
def test_gram_is_the_sampled_gram(family, degree, mode, images, generator):
    """Every entry of E[phi phi^T] (equation (9)) against drawn noise, in units of its standard error; local n = 3 at 8x8: 961 features."""
    model = SharedWaveletScore(family, degree, levels=1, mode=mode).fit(images)
    exact = model.noisy_gram(vp(0.6), degree)
    level, draws = vp(0.6), 400
    total, squares = np.zeros_like(exact), np.zeros_like(exact)
    for _ in range(draws):
        y = level.alpha * images + level.sigma * torch.randn(images.shape, generator=generator, dtype=images.dtype)
        v = model.transform_.forward(y).flatten(1) - level.alpha * torch.from_numpy(model.mean_)
        phi = model.monomials_.features(v)
        gram = (phi @ phi.T / len(images)).numpy()
        total += gram
        squares += gram**2
    mean = total / draws
    error = np.sqrt((squares / draws - mean**2) / draws)
    scaled = np.abs(mean - exact)[error > 0] / error[error > 0]
    assert scaled.max() < 7 and 0.5 < scaled.mean() < 1.1  # a half-normal's mean is 0.80


def test_over_complete_with_two_channels(generator):
    """Noise of different channels is independent: K is block diagonal."""
    x = torch.rand(20, 2, 4, 4, generator=generator, dtype=torch.float64)
    model = SharedWaveletScore("independent", 2, levels=1, ridge=1e-3, wavelet="haar", mode="symmetric").fit(x)
    one = SharedWaveletScore("independent", 2, levels=1, ridge=1e-3, wavelet="db2", mode="symmetric").fit(x)
    for fitted in (model, one):
        many = x.repeat(500, 1, 1, 1)
        y = many + 0.5 * torch.randn(many.shape, generator=generator, dtype=x.dtype)
        errors = (fitted.denoise(y, 0.5, clamp=False) - many).square().flatten(1).mean(1)
        assert abs(float(errors.mean()) - fitted.expected_mse(0.5)) < 5 * float(errors.std() / len(errors) ** 0.5)


def test_over_complete_sizes_that_cannot_be_done_are_refused(monkeypatch):
    monkeypatch.setattr("numeric.scores.contraction.CROSS_LIMIT", 10**4)
    with pytest.raises(MemoryError, match=r"correlated noise .* use smaller images"):
        SharedWaveletScore("independent", 3, mode="symmetric").fit(torch.rand(2, 1, 16, 16))


@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
def test_lemma_c1_pixel_ridge_is_wavelet_ridge_and_synthesis(mode, generator):
    """Lemma C.1 with scikit-learn on drawn noise: ridge to pixels = ridge to coefficients, then W^+ (exact for both)."""
    transform = WaveletTransform(8, levels=1, mode=mode)
    x = torch.rand(300, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    v, w = (transform.forward(t)[:, 0].numpy() for t in (y, x))
    phi = np.concatenate([v, v**2], 1)
    pixels = Ridge(alpha=2.0).fit(phi, x.flatten(1).numpy()).predict(phi)
    coefficients = Ridge(alpha=2.0).fit(phi, w).predict(phi)
    synthesised = transform.inverse(torch.from_numpy(coefficients)[:, None]).flatten(1).numpy()
    assert np.abs(pixels - synthesised).max() < 1e-9


def test_lemma_c1_norms_agree_only_in_an_orthonormal_basis(generator):
    """The ridge objectives are equal when W is orthonormal; over-complete they bound each other by W's singular values."""
    residual = torch.randn(50, 1, 8, 8, generator=generator, dtype=torch.float64)
    for mode in ("periodization", "symmetric"):
        transform = WaveletTransform(8, levels=1, mode=mode)
        ratio = (transform.forward(residual).square().sum((1, 2)) / residual.square().sum((1, 2, 3))).numpy()
        singular = np.linalg.svd(transform.matrix, compute_uv=False) ** 2
        assert (ratio >= singular.min() - 1e-9).all() and (ratio <= singular.max() + 1e-9).all()
        assert (np.abs(ratio - 1).max() < 1e-9) == transform.is_orthonormal


@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
def test_lemma_c3_coefficient_wise_regressions_are_the_joint_one(mode, generator):
    """Lemma C.3: the joint least squares over all coefficients splits into one regression per coefficient, because each
    parameter enters one residual only; scikit-learn on drawn noise, and the exact solve as its limit."""
    x = torch.rand(10, 1, 4, 4, generator=generator, dtype=torch.float64)
    model = WaveletScore("independent", 2, levels=1, wavelet="haar" if mode == "periodization" else "db2", mode=mode)
    model.ridge_side, model.ridge, model.basis = "denoiser", 1e-9, "hermite"
    model.fit(x)
    many = x.repeat(4000, 1, 1, 1)
    y = many + 0.5 * torch.randn(many.shape, generator=generator, dtype=x.dtype)
    v, w = (model.transform_.forward(t)[:, 0].numpy() for t in (y, many))
    n = model.transform_.n_coefficients
    chosen = range(min(n, 4))
    own = [np.stack([np.ones(len(v)), v[:, i], v[:, i] ** 2], 1) for i in chosen]
    each = [Ridge(alpha=1e-9, fit_intercept=False).fit(phi, w[:, i]).coef_ for phi, i in zip(own, chosen)]
    # The joint problem: a block-diagonal design for the stacked targets.
    rows = 2000
    design = np.zeros((rows * len(own), 3 * len(own)))
    for i, phi in enumerate(own):
        design[rows * i : rows * (i + 1), 3 * i : 3 * i + 3] = phi[:rows]
    target = np.concatenate([w[:rows, i] for i in chosen])
    joint = Ridge(alpha=1e-9, fit_intercept=False).fit(design, target).coef_.reshape(-1, 3)
    parts = [Ridge(alpha=1e-9, fit_intercept=False).fit(p[:rows], w[:rows, i]).coef_ for p, i in zip(own, chosen)]
    assert np.allclose(joint, parts, atol=1e-6)
    solution, block = model.solve(0.5), model.moments_.blocks[0].block
    for i, theta in zip(chosen, each):
        group = int(np.flatnonzero(block.targets == i)[0])
        part = solution.blocks[0]
        u = (v[:, i] - float(part.centre[0, group])) / float(part.scale[0, group])
        exact = np.polynomial.polynomial.polyval(u, part.denoiser[group].numpy())
        sampled = own[i] @ theta
        # 40,000 draws estimate three parameters: the fits differ by about sigma_residual * sqrt(3 / draws).
        residual = np.std(w[:, i] - exact)
        assert np.sqrt(np.mean((exact - sampled) ** 2)) < 5 * residual * np.sqrt(3 / len(v))


def test_gcv_of_the_shared_readout(generator):
    """With fewer images than features the smallest ridge memorises; the chosen one does not, on held-out images."""
    smooth = torch.nn.functional.interpolate(
        torch.rand(260, 1, 3, 3, generator=generator, dtype=torch.float64), size=8, mode="bilinear"
    )
    train, test = smooth[:60], smooth[60:]
    y = test + 0.3 * torch.randn(test.shape, generator=generator, dtype=test.dtype)
    fixed = SharedWaveletScore("independent", 2, levels=1, ridge=1e-10).fit(train)
    chosen = SharedWaveletScore("independent", 2, levels=1, ridge="gcv").fit(train)
    fixed_error, chosen_error = (float((m.denoise(y, 0.3, False) - test).square().mean()) for m in (fixed, chosen))
    assert chosen.chosen_ridge(0.3) > 1e-10 and chosen_error < 1.02 * fixed_error


@pytest.mark.parametrize("side", ["denoiser", "score"])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_gcv_with_more_features_than_images_is_as_good_as_the_best_fixed_ridge(side, degree, mnist16):
    """60 digits, 257 to 769 features; errors on 600 other digits with the same drawn noise for every ridge."""
    data = torch.from_numpy(np.asarray(mnist16[:660]))
    train, test = data[:60], data[60:]
    y = test.double() + 0.3 * torch.randn(test.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def held_out(ridge: float | str) -> float:
        model = SharedWaveletScore("independent", degree, ridge=ridge, ridge_side=side).fit(train)
        return float((model.denoise(y, 0.3, False) - test).square().mean())

    fixed = {ridge: held_out(ridge) for ridge in (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
    assert held_out("gcv") < 1.05 * min(fixed.values()), fixed


@pytest.mark.parametrize(("family", "degree", "mode"), [("independent", 3, "symmetric"), ("band", 2, "symmetric"), ("local", 2, "zero")])
def test_own_readout_in_an_over_complete_basis_has_the_monte_carlo_pixel_error(family, degree, mode, images, generator):
    """E|W^+ h(y) - x|^2 from joint moments, within five standard errors of drawn pixel noise; on held-out images too."""
    options = {"levels": 1, "mode": mode, "radius": 1}
    assert not WaveletTransform(8, levels=1, mode=mode).is_orthonormal
    model = WaveletScore(family, degree, ridge=1e-6, **options).fit(images)
    level = vp(0.5)
    others = torch.rand(30, 1, 8, 8, generator=generator, dtype=torch.float64) ** 3
    for data in (images, others):
        joint = SharedWaveletScore(family, degree, **options).fit(data)
        for lower in range(1, degree + 1):
            x = data.repeat(100, 1, 1, 1)
            y = level.alpha * x + level.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            estimate = model.denoise_degrees(y, level, [lower], clamp=False)[0]
            errors = (estimate - x).square().flatten(1).mean(1)
            # images are given, noise is drawn: spread within each image
            error = float(errors.view(100, -1).std(0).square().mean().sqrt() / len(errors) ** 0.5)
            exact = model.expected_mse(level, lower, joint=joint)
            assert abs(float(errors.mean()) - exact) < 5 * error
            assert error < 0.02 * exact


@pytest.mark.parametrize(("family", "degree"), [("independent", 3), ("local", 2), ("joint", 2)])
@pytest.mark.parametrize("other", [False, True])
def test_joint_moments_give_the_error_that_separate_ones_give(family, degree, other, images, generator):
    """In an orthonormal basis: the sum over pixels from joint moments, and over coefficients from each one's own."""
    model = WaveletScore(family, degree, levels=1).fit(images)
    data = torch.rand(20, 1, 8, 8, generator=generator, dtype=torch.float64) if other else images
    joint = SharedWaveletScore(family, degree, levels=1).fit(data)
    moments = model.new_moments((1, 8, 8)).fit([data]) if other else None
    for level in (vp(0.7), 0.3):
        for lower in (1, degree):
            separate = model.expected_mse(level, lower, moments)
            assert model.expected_mse(level, lower, joint=joint) == pytest.approx(separate, rel=1e-9)


def test_joint_moments_of_other_settings_are_refused(images):
    model = WaveletScore("independent", 2, levels=1, mode="symmetric").fit(images)
    with pytest.raises(ValueError, match=r"pass joint=model\.joint\(images\)"):
        model.merge(model).expected_mse(0.5)  # no images are at hand
    with pytest.raises(ValueError, match="fit both alike"):
        model.expected_mse(0.5, joint=SharedWaveletScore("independent", 2, levels=1).fit(images))
    with pytest.raises(ValueError, match="features that the joint moments lack"):
        model.expected_mse(0.5, joint=SharedWaveletScore("independent", 1, levels=1, mode="symmetric").fit(images))


@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
def test_saved_shared_readout_gives_the_same_images(mode, images, tmp_path):
    path = tmp_path / "shared.safetensors"
    model = SharedWaveletScore("band", 2, levels=1, mode=mode, basis="hermite").fit(images)
    model.save(path)
    loaded = SharedWaveletScore.load(path)
    assert loaded.get_params() == model.get_params() and loaded.n_images_ == 30
    assert torch.equal(loaded.denoise(images, vp(0.5)), model.denoise(images, vp(0.5)))
    assert loaded.expected_mse(0.3) == model.expected_mse(0.3)
    WaveletScore(levels=1).fit(images).save(tmp_path / "own")
    with pytest.raises(ValueError, match="not a file of the shared readout"):
        SharedWaveletScore.load(tmp_path / "own")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated"):
        SharedWaveletScore.load(path)


@pytest.mark.parametrize(("family", "degree", "mode"), [("independent", 3, "periodization"), ("band", 2, "symmetric")])
def test_moments_of_two_parts_are_those_of_the_whole(family, degree, mode, images):
    """Unequal parts about their own means, moved to the common mean and added, against one pass over all images."""
    options = {"levels": 1, "mode": mode}
    whole = SharedWaveletScore(family, degree, **options).fit(images)
    parts = [SharedWaveletScore(family, degree, **options).fit(part) for part in (images[:8], images[8:])]
    merged = parts[0].merge(parts[1])
    assert merged.n_images_ == 30 and np.allclose(merged.mean_, whole.mean_, atol=1e-14)
    assert float((merged.moments_.gram - whole.moments_.gram).abs().max()) < 1e-12 * float(whole.moments_.gram.abs().max())
    assert merged.expected_mse(vp(0.5)) == pytest.approx(whole.expected_mse(vp(0.5)), rel=1e-9)
    with pytest.raises(ValueError, match="degree 1 and"):
        SharedWaveletScore(family, 1, **options).fit(images).merge(whole)


@pytest.mark.parametrize("side", ["denoiser", "score"])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_gcv_far_from_zero_shrinks_towards_the_mean(side, degree, generator):
    """50 images about 100 at sigma 0.01: the intercept is free, so the chosen ridge is within 5 % of the best fixed one."""

    def draw(count):
        coarse = torch.rand(count, 1, 3, 3, generator=generator, dtype=torch.float64)
        return 100 + torch.nn.functional.interpolate(coarse, size=8, mode="bilinear")

    train, test = draw(50), draw(400)
    y = test + 0.01 * torch.randn(test.shape, generator=generator, dtype=test.dtype)

    def held_out(ridge: float | str) -> float:
        model = SharedWaveletScore("independent", degree, levels=1, ridge=ridge, ridge_side=side).fit(train)
        return float((model.denoise(y, 0.01, False) - test).square().mean())

    assert held_out("gcv") < 1.05 * min(held_out(ridge) for ridge in (1e-12, 1e-10, 1e-8, 1e-6))
