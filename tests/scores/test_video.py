"""Videos: the three-dimensional transform, neighbours in time, and the noise integrated exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from numeric.data import as_image_set
from numeric.moving import moving_digits
from numeric.noise import vp
from numeric.scores.families import Family, FamilyError
from numeric.scores.own import WaveletScore
from numeric.scores.video import VideoScore
from numeric.video import VideoTransform
from numeric.wavelets import WaveletError, WaveletTransform
from tests.threads import torch_threads

SHAPES = torch.rand(30, 1, 5, 5, generator=torch.Generator().manual_seed(3)).mul(255).to(torch.uint8)
VIDEOS = moving_digits(as_image_set(SHAPES.numpy()[:, 0]), count=120, frames=4, size=8, per_video=1, speed=1.0)


@pytest.mark.parametrize(("wavelet", "levels"), [("haar", 1), ("haar", None), ("db2", 2), (None, None)])
def test_the_transform_is_orthonormal_and_separable(wavelet, levels):
    """Isometry on random videos; the coefficients are PyWavelets' in time of ours in space; gradients are the transpose."""
    import pywt

    transform = VideoTransform((8, 8), 8, wavelet, levels)
    x = torch.randn(3, 8, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    w = transform.forward(x)
    assert torch.allclose(w.square().sum((1, 2)), x.square().sum((1, 2, 3))) and torch.allclose(transform.inverse(w), x)
    if wavelet is not None:
        depth = levels or 2
        space = WaveletTransform((8, 8)).forward(x.detach()).numpy()
        expected = np.concatenate(pywt.wavedec(space, wavelet, mode="periodization", level=depth, axis=1), axis=1)
        assert np.allclose(w.detach().numpy(), expected, atol=1e-10)
    v = torch.randn_like(w)
    (gradient,) = torch.autograd.grad(w, x, v)
    assert torch.allclose(gradient, transform.inverse(v))


def test_neighbours_in_time_are_of_one_band():
    transform = VideoTransform((8, 8), 8, "haar", 2)  # bands of time: 0-1, 2-3, 4-7
    assert [transform.frames_near(place, 1) for place in range(8)] == [[1], [0], [3], [2], [5], [4, 6], [5, 7], [6]]
    blocks = Family("independent", time_radius=1).blocks(transform, 8)
    seen = {int(row[0]): sorted(int(v) // 64 for v in row[1:]) for block in blocks for row in block.variables}
    assert len(seen) == 8 * 64 and all(seen[place * 64 + 7] == transform.frames_near(place, 1) for place in range(8))
    plain = Family("local").blocks(WaveletTransform((8, 8)), 8)
    none = Family("local", time_radius=0).blocks(transform, 8)
    assert all(np.array_equal(a.variables, b.variables) for a, b in zip(plain, none))
    with pytest.raises(FamilyError, match="of images"):
        Family("local", time_radius=1).blocks(WaveletTransform((8, 8)), 8)


def test_without_time_it_is_the_score_of_the_frames():
    """No transform and no neighbours in time: the own readout with the frames as channels."""
    video = VideoScore("local", 2, time_wavelet=None, time_radius=0, ridge=1e-8).fit(VIDEOS)
    frames = WaveletScore("local", 2, ridge=1e-8).fit(VIDEOS)
    y = VIDEOS[:3] + 0.3 * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(video.denoise(y, 0.3), frames.denoise(y, 0.3), atol=1e-6)
    assert video.expected_mse(0.3) == pytest.approx(frames.expected_mse(0.3), rel=1e-9)


@pytest.mark.parametrize(("wavelet", "noise"), [("haar", 0.4), (None, 0.4), ("haar", vp(0.8))])
def test_the_noise_is_integrated_exactly(wavelet, noise):
    """The expected error from moments alone against Monte Carlo over noise, on the fitted videos: |z| < 4."""
    model = VideoScore("local", 2, time_wavelet=wavelet, time_radius=1).fit(VIDEOS)
    clean, generator = VIDEOS[:].double(), torch.Generator().manual_seed(5)
    alpha, sigma = (1.0, noise) if isinstance(noise, float) else (noise.alpha, noise.sigma)
    draws = []
    for _ in range(60):
        y = alpha * clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        draws.append(float((model.denoise(y, noise, clamp=False) - clean).square().mean()))
    z = (np.mean(draws) - model.expected_mse(noise)) / (np.std(draws, ddof=1) / len(draws) ** 0.5)
    assert abs(z) < 4


def test_the_solution_is_the_regression_on_drawn_noise():
    """Features of many noisy copies, least squares: the same denoised coefficients as from moments, to the error of sampling."""
    model = VideoScore("independent", 2, time_wavelet="haar", time_radius=1, ridge=1e-12).fit(VIDEOS)
    clean, generator = VIDEOS[:].double(), torch.Generator().manual_seed(6)
    transform = model.transform_
    target = 9  # a coefficient of the first place in time; its neighbour in time has the same atom
    place, near = target, transform.frames_near(0, 1)[0] * transform.n_coefficients + target
    x = transform.forward(clean).flatten(1)
    gram, rhs, exact = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64), None
    for _ in range(1500):
        v = x[:, [place, near]] + 0.4 * torch.randn(len(x), 2, dtype=torch.float64, generator=generator)
        a, b = v.T
        phi = torch.stack([torch.ones_like(a), a, b, a * a, a * b, b * b], 1)
        gram, rhs = gram + phi.T @ phi, rhs + phi.T @ x[:, place]
    theta = torch.linalg.solve(gram, rhs)
    y = clean[:20] + 0.4 * torch.randn(20, 4, 8, 8, dtype=torch.float64, generator=generator)
    noisy, exact = transform.forward(y).flatten(1), transform.forward(model.denoise(y, 0.4, clamp=False)).flatten(1)[:, place]
    a, b = noisy[:, [place, near]].T
    regressed = torch.stack([torch.ones_like(a), a, b, a * a, a * b, b * b], 1) @ theta
    assert float((regressed - exact).abs().max()) < 0.02 * float(x[:, place].std())


def test_files_and_changed_settings(tmp_path):
    model = VideoScore("independent", 2, time_radius=1).fit(VIDEOS)
    model.save(tmp_path / "video.safetensors")
    again = VideoScore.load(tmp_path / "video.safetensors")
    y = VIDEOS[:2] + 0.1
    assert torch.equal(again.denoise(y, 0.3), model.denoise(y, 0.3)) and again.get_params() == model.get_params()
    model.time_radius = 0
    with pytest.raises(ValueError, match="time_radius is 0 but was 1"):
        model.denoise(y, 0.3)
    with pytest.raises(ValueError, match="4 frames, got"):
        again.transform_.forward(torch.rand(1, 3, 8, 8))
    with pytest.raises(WaveletError, match="6 frames cannot be halved 2 times"):
        VideoTransform((8, 8), 6, "haar", 2)
    with pytest.raises(WaveletError, match="orthogonal wavelet"):
        VideoTransform((8, 8), 8, "bior2.2")
    with pytest.raises(FamilyError, match="time_radius must be >= 0"):
        VideoScore(time_radius=-1).fit(VIDEOS)


def test_the_figure_pairs_with_one_coefficient_of_one_frame(tmp_path, monkeypatch):
    """Still digits: time saves more than space; every ratio is of errors on the same noisy videos; bad parameters are named."""
    from numeric.evaluation.sweep import noise_like
    from numeric.figures.video import REFERENCE, VideoConfig, make_figure, row_of

    digits = as_image_set(SHAPES.numpy()[:, 0])
    monkeypatch.setattr(VideoConfig, "images", lambda self, split, size, count=None: digits)
    config = VideoConfig(digit_size=5, size=8, frames=4, per_video=1, speeds=[0.0], n_train=80, n_eval=20, degree=1, sigmas=[0.5])
    _, record, _ = make_figure(config, tmp_path, progress=False)
    assert len(record["rows"]) == 8 and row_of(record, REFERENCE, 0.5, 0.0)["ratio"]["ratio"] == 1.0
    time, space = (row_of(record, name, 0.5, 0.0) for name in ("time only", "space only"))
    assert time["ratio"]["ratio"] < space["ratio"]["ratio"]
    model = config.readout("one coefficient", "nothing in time").fit(config.videos("train", 0.0))
    clean = config.videos("test", 0.0)[:]
    y = clean + 0.5 * noise_like(clean, config.seed, 0, 0, 0, 0)
    direct = float((model.denoise(y, 0.5) - clean).square().mean())
    assert row_of(record, REFERENCE, 0.5, 0.0)["mse"] == pytest.approx(direct, rel=1e-4)
    for changes, message in (({"frames": 6, "time_levels": 2}, "cannot be halved"), ({"speeds": [-1.0]}, "speeds"), ({"digit_size": 40}, "digit_size")):
        with pytest.raises(ValueError, match=message):
            VideoConfig(**changes)


@pytest.mark.slow
def test_time_is_worth_more_than_space_on_slow_digits():
    """Moving MNIST digits of the size of the figure, half a pixel a frame, two threads: time saves more than space at sigma 0.5."""
    from numeric.figures.video import VideoConfig

    config = VideoConfig(n_train=400)
    with torch_threads(2):
        train, test = config.videos("train", 0.5), config.videos("test", 0.5)
        errors = {}
        for name, (space, time) in {"space": ("neighbours in space", "nothing in time"), "time": ("one coefficient", "wavelet and neighbours in time")}.items():
            model = config.readout(space, time).fit(train, batch_size=100)
            held_out = model.new_moments(test.shape)
            model.accumulate(held_out, test, 100, None, None, 30.0)
            errors[name] = model.expected_mse(0.5, moments=held_out)
    assert errors["time"] < 0.95 * errors["space"]
