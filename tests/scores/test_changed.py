"""What happens to a fitted model when its images, its settings or the way it is asked change: numbers stay right, or an error says why not."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from numeric import (
    PotentialScore,
    RefinedScore,
    SharedWaveletScore,
    VideoScore,
    WaveletScore,
    WienerOwnScore,
    WienerScore,
    ve,
)
from numeric.scores.base import SettingsError
from numeric.scores.conditioning import scaled_grams
from numeric.scores.moments import MomentError
from numeric.scores.recommend import Candidate, recommend
from numeric.shards import as_shards
from tests.threads import torch_threads

READOUTS = {
    "own": lambda: WaveletScore("local", 2),
    "shared": lambda: SharedWaveletScore("independent", 2),
    "wiener": lambda: WienerScore(degree=2, coordinates="pixel"),
    "wiener-own": lambda: WienerOwnScore("independent", 2, coordinates="wavelet"),
    "potential": lambda: PotentialScore(degree=2, coordinates="pixel"),
    "refined": lambda: RefinedScore(("pixel:2",), components=2, experts=(1,), pixels=500),
}


def digits(count: int = 60, size: int = 8) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(3)) ** 2


@pytest.fixture(params=READOUTS)
def model(request):
    return READOUTS[request.param]().fit(digits())


# ----- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wiener", "wiener-own", "potential", "refined"])
def test_images_written_to_after_the_fit_are_refused_by_a_new_level(kind):
    images = digits().numpy()
    model = READOUTS[kind]().fit(images)
    y = torch.from_numpy(images[:2].copy())
    kept = model.denoise(y, 0.3)
    images *= 0.5
    assert torch.equal(model.denoise(y, 0.3), kept)  # a level that was there
    with pytest.raises(MomentError, match="changed since the fit"):
        model.denoise(y, 0.7)


def test_a_list_of_pictures_can_be_attached_again(tmp_path):
    """What was fitted as one list of pictures is one set; several sets are those of a merge."""
    pictures = [np.asarray(one[0]) for one in digits()]
    model = WienerScore(degree=2, coordinates="pixel").fit(pictures)
    model.save(tmp_path / "model")
    loaded = WienerScore.load(tmp_path / "model")
    loaded.attach(pictures)
    y = digits()[:3]
    assert torch.equal(loaded.denoise(y, 0.4), model.denoise(y, 0.4))


def test_a_folder_whose_picture_was_written_over_is_another_shard(tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(folder / f"{number}.png")
    before = as_shards([folder]).identities()
    assert as_shards([folder]).identities() == before
    stamp = folder.stat()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "0.png")
    os.utime(folder, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert as_shards([folder]).identities() != before


# ----- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"ridge": 1e3}, {"experts": (2, 2)}, {"side": 5}, {"readouts": ("pixel:3",)}])
def test_a_refined_readout_refuses_settings_that_it_was_not_fitted_with(change, tmp_path):
    model = READOUTS["refined"]().fit(digits())
    model.prepare_levels([0.5])
    before = {name: model.get_params()[name] for name in change}
    model.set_params(**change)
    for ask in (lambda: model.prepare_levels([0.5]), lambda: model.denoise(digits()[:1], 0.5), lambda: model.save(tmp_path / "model")):
        with pytest.raises(SettingsError, match=f"{next(iter(change))} is .*: fit again, or set it back"):
            ask()
    model.set_params(**before)
    model.save(tmp_path / "model")
    loaded = RefinedScore.load(tmp_path / "model")
    assert torch.equal(loaded.denoise(digits()[:1], 0.5), model.denoise(digits()[:1], 0.5))


# ----- gradients ---------------------------------------------------------------------------------------------------------


def gradient(model, y: torch.Tensor) -> torch.Tensor:
    y = y.clone().requires_grad_()
    model.estimate(y, ve(0.5)).square().sum().backward()
    return y.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_level_made_in_inference_mode_serves_gradients_later(model, dtype):
    y = digits(3).to(dtype)
    with torch.inference_mode():
        model.denoise(y, 0.5)
    fresh = type(model)(**model.get_params()).fit(digits())
    assert torch.equal(gradient(model, y), gradient(fresh, y))


def test_forward_derivatives_are_those_of_the_jacobian(model):
    y = digits(2).double()
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(model.estimate(forward_ad.make_dual(y, direction), ve(0.5))).tangent
    wanted = torch.func.jvp(lambda x: model.estimate(x, ve(0.5)), (y,), (direction,))[1]
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


# ----- over-complete bases -----------------------------------------------------------------------------------------------


def test_videos_in_an_over_complete_basis_have_a_divergence_and_say_why_they_have_no_pixel_error():
    generator = torch.Generator().manual_seed(0)
    videos = torch.rand(40, 4, 9, 9, generator=generator, dtype=torch.float64)
    model = VideoScore("local", 1, time_radius=1).fit(videos)
    y = videos[:2]
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: model.estimate(x[None], ve(0.5))[0]))(y)
    exact = jacobian.reshape(2, y[0].numel(), -1).diagonal(dim1=1, dim2=2).sum(1)
    assert torch.allclose(model.jacobian_trace(y, ve(0.5)), exact, rtol=1e-8)
    for ask in (lambda: model.expected_mse(0.5), lambda: model.joint(videos)):
        with pytest.raises(ValueError, match="pixel error of videos needs"):
            ask()


def test_recommend_leaves_out_what_has_no_exact_error_and_says_so():
    images = torch.rand(24, 9, 9, generator=torch.Generator().manual_seed(0))
    own, shared = Candidate("own", "independent", 2, (1e-6,)), Candidate("shared", "independent", 1, (1e-6,))
    found = recommend(images, 0.5, [own, shared], groups=4)
    assert found.rows[0].readout == "shared" and "own readout, whose exact error needs" in str(found)
    with pytest.raises(ValueError, match="Not tried: independent, own readout"):
        recommend(images, 0.5, [own], groups=4)


@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
def test_gram_matrices_are_those_of_drawn_noise(mode):
    """Equation (9) in an over-complete basis too, where the noise of coefficients is correlated; five standard errors."""
    images = digits(30).double()
    model = WaveletScore("local", 1, mode=mode).fit(images)
    generator = torch.Generator().manual_seed(5)
    repeats = 4000
    index = torch.arange(30).repeat(repeats)
    y = images[index] + torch.randn(len(index), 1, 8, 8, generator=generator, dtype=torch.float64)
    w = model.transform_.forward(y).reshape(len(index), -1)
    block, grams = next(iter(zip(model.moments_.blocks, scaled_grams(model, 1.0, 1, "hermite"))))
    v = w[:, torch.as_tensor(block.block.variables[0])]
    u = (v - v.mean(0)) / v.std(0)
    products = u[:, :, None] * u[:, None, :]
    error = products.std(0) / len(u) ** 0.5
    linear = grams["unit"][0][1:, 1:] if grams["unit"].shape[1] > v.shape[1] else grams["unit"][0]
    assert ((linear - products.mean(0)).abs() < 5 * error + 1e-9).all()


@pytest.mark.slow
def test_a_changed_array_of_full_size_is_seen_and_the_check_is_cheap():
    """60,000 images of 32 x 32, two threads: the hash before a pass takes a small part of the pass."""
    import time

    images = torch.rand(60_000, 1, 32, 32, generator=torch.Generator().manual_seed(0)).numpy()
    with torch_threads(2):
        model = WienerScore(degree=2, coordinates="pixel").fit(images)
        start = time.perf_counter()
        model.denoise(torch.from_numpy(images[:1]), 0.5)
        whole = time.perf_counter() - start
        start = time.perf_counter()
        images[-1, 0, -1, -1] += 0.25
        with pytest.raises(MomentError, match="changed since the fit"):
            model.denoise(torch.from_numpy(images[:1]), 0.6)
        assert time.perf_counter() - start < 0.5 * whole
