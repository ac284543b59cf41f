"""Both readouts on images of any size and in over-complete bases: fit, denoise and exact error against Monte Carlo."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from numeric.noise import ve, vp
from numeric.scores.base import SCORE_SIGMAS
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.wavelets import WaveletTransform


def pictures(count: int, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Smooth random images in [0, 1], not Gaussian."""
    noise = torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)
    return (0.5 + 0.6 * smooth.pow(3) + 0.6 * smooth).clamp(0, 1)


def monte_carlo(model, images, level, draws: int, seed: int) -> tuple[float, float]:
    """Mean squared error per pixel before clamping over drawn noise, and its standard error (images are given)."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(draws):
        y = level.alpha * images + level.sigma * torch.randn(images.shape, generator=generator, dtype=images.dtype)
        errors.append((model.denoise(y, level, clamp=False) - images).square().flatten(1).mean(1))
    table = torch.stack(errors)
    return float(table.mean()), float(table.std(0).square().mean().sqrt() / table.numel() ** 0.5)


ODD, HAAR, COMPOSED = (11, 9), ((10, 10), {"wavelet": "haar"}), ((9, 10), {"synthesis": "per-level"})


@pytest.mark.parametrize("readout", [WaveletScore, SharedWaveletScore])
@pytest.mark.parametrize(
    ("family", "degree", "shape", "options"),
    [
        *[(family, degree, ODD, {}) for family, degree in (("independent", 3), ("local", 2), ("band", 2))],
        *[(family, 2, *HAAR) for family in ("independent", "local")],
        ("band", 2, *COMPOSED),
        ("independent", 3, (8, 8), {"wavelet": "bior2.2"}),
        ("independent", 2, (8, 7), {"mode": "symmetric"}),
    ],
)
def test_exact_error_at_any_size(readout, family, degree, shape, options):
    """E|D(y) - x|^2 from moments = Monte Carlo within five standard errors where 2^J does not divide the size."""
    options = {"levels": 2, **options}
    images = pictures(60, shape, 0)
    model = readout(family, degree, ridge=1e-6, **options).fit(images)
    assert not model.transform_.is_orthonormal
    level = vp(0.6)
    exact = model.expected_mse(level)
    mean, error = monte_carlo(model, images, level, 60, 1)
    assert abs(mean - exact) < 5 * error and error < 0.02 * exact
    assert 0.0 < exact < float((images - images.mean(0)).square().mean()) * 1.05


def test_errors_on_other_images_and_without_the_fitted_ones(tmp_path):
    """Own readout, 10 x 9: ``score(images)`` is minus the mean error on them; where no images are at hand the error says so."""
    images, others = pictures(60, (10, 9), 0), pictures(30, (10, 9), 1)
    model = WaveletScore("local", 2, levels=1, ridge=1e-6).fit(images)
    table = [monte_carlo(model, others, ve(sigma), 40, 2) for sigma in SCORE_SIGMAS]
    spread = sum(error**2 for _, error in table) ** 0.5
    assert abs(sum(mean for mean, _ in table) + len(table) * model.score(others)) < 5 * spread
    alone = model.expected_mse(0.5)
    model.save(tmp_path / "model")
    for again in (WaveletScore.load(tmp_path / "model"), pickle.loads(pickle.dumps(model)), model.merge(model)):
        with pytest.raises(ValueError, match=r"pass joint=model\.joint\(images\)"):
            again.expected_mse(0.5)
        assert again.expected_mse(0.5, joint=again.joint(images)) == pytest.approx(alone, rel=1e-6)
    model = WaveletScore("local", 2, levels=1, ridge=1e-6).fit(images)
    images.mul_(0.5)
    with pytest.raises(ValueError, match="changed since the fit"):
        model.expected_mse(0.5)


def test_joint_moments_are_foreseen(monkeypatch):
    """Words of what was called: the error of an own readout, with the ways out."""
    model = WaveletScore("independent", 2, levels=1).fit(pictures(5, (11, 9), 0))
    monkeypatch.setattr("numeric.scores.joint.free_memory", lambda *_: 1000)
    with pytest.raises(MemoryError, match=r"exact pixel error in the over-complete basis .* sides divisible"):
        model.expected_mse(0.5)
    model = WaveletScore("independent", 2, wavelet="bior2.2", levels=1).fit(pictures(5, (8, 8), 0))
    with pytest.raises(MemoryError, match=r"in the non-orthogonal basis .* GiB are free: use a lower degree, .* orthogonal wavelet") as caught:
        model.expected_mse(0.5)
    assert "'own'" not in str(caught.value)


def test_synthesis_is_named_in_files_and_kept(tmp_path):
    """What was fitted with composed levels loads so, and differs from W^+."""
    images = pictures(20, (11, 9), 0)
    estimates = {}
    for synthesis in ("per-level", "pseudo-inverse"):
        model = WaveletScore("independent", 2, levels=2, mode="symmetric", synthesis=synthesis).fit(images)
        model.save(tmp_path / "model")
        loaded = WaveletScore.load(tmp_path / "model")
        assert loaded.synthesis == loaded.transform_.synthesis == synthesis
        estimates[synthesis] = loaded.denoise(images, 0.3, clamp=False)
        assert torch.equal(estimates[synthesis], model.denoise(images, 0.3, clamp=False))
    assert (estimates["per-level"] - estimates["pseudo-inverse"]).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(30, 30), (45, 67)])
def test_default_settings_at_sizes_in_use(shape, two_threads):
    """Defaults on 30 x 30 and 45 x 67, two threads: both readouts denoise with the error they announce."""
    images = pictures(300, shape, 0)
    for model in (WaveletScore(), SharedWaveletScore(degree=2)):
        model.fit(images)
        level = vp(0.8)
        noisy = level.alpha * images + level.sigma * torch.randn(
            images.shape, generator=torch.Generator().manual_seed(1)
        )
        assert float((model.denoise(noisy, level) - images).square().mean()) < level.effective_sigma**2 / 2
    mean, error = monte_carlo(model, images, level, 4, 2)
    assert abs(mean - model.expected_mse(level)) < 5 * error


@pytest.mark.slow
def test_large_over_complete_fit_needs_entries_only():
    """The own readout at 128 x 128 in an over-complete basis never forms the noise covariance."""
    images = pictures(4, (128, 128), 0).float()
    model = WaveletScore("independent", 1, mode="symmetric", ridge=1e-3, synthesis="per-level").fit(images)
    assert model.denoise(images[:1], 0.5).shape == (1, 1, 128, 128)
    assert "noise_covariance" not in vars(model.transform_) and "matrix" not in vars(model.transform_)
    k = model._covariance(model.moments_.blocks[0].block.variables[:5])
    rows = WaveletTransform(128, mode="symmetric").atoms.dense()[model.moments_.blocks[0].block.variables[:5, 0]]
    assert np.allclose(k[0, 0].numpy(), (rows**2).sum(1))
