"""Every computation stays on the device it was asked for, and gives there what the CPU gives.

No GPU is needed: :mod:`tests.pretend_device` stands in, and refuses what a GPU would refuse.  Where there is a GPU the
same tests run on it too.
"""

from __future__ import annotations

import pytest
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.noise import ve, vp
from numeric.scores.moments import CleanMoments
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.wavelets import WaveletTransform
from tests.pretend_device import pretend_device


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def device(request):
    if request.param == "cuda":
        yield "cuda"
    else:
        with pretend_device() as name:
            yield name


@pytest.fixture
def images(generator):
    return torch.rand(24, 1, 8, 8, generator=generator, dtype=torch.float64) ** 2


def same(there: torch.Tensor, here: torch.Tensor) -> None:
    assert there.device.type != "cpu" and here.device.type == "cpu"
    assert torch.allclose(there.cpu(), here, rtol=1e-9, atol=1e-12)


def test_the_device_refuses_what_a_gpu_refuses(device):
    x = torch.ones(3, device=device)
    with pytest.raises(RuntimeError, match=r"(?i)all tensors"):
        x + torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        x.numpy()
    assert float((2 * x).cpu().sum()) == 6.0


@pytest.mark.parametrize(("wavelet", "mode"), [("db2", "periodization"), ("db2", "symmetric"), ("db8", "periodization")])
def test_transform(wavelet, mode, device, generator):
    transform = WaveletTransform(16, wavelet, 2, mode)
    x = torch.randn(5, 2, 16, 16, generator=generator, dtype=torch.float64)
    w = transform.forward(x)
    same(transform.forward(x.to(device)), w)
    same(transform.inverse(w.to(device)), transform.inverse(w))


@pytest.mark.parametrize("family", ["independent", "band", "local", "parent", "joint"])
@pytest.mark.parametrize("ridge", [1e-8, "gcv", "gcv-band"])
def test_moments_solves_and_evaluation(family, ridge, device, images):
    """fit, solve, denoise, exact errors, condition numbers: all families, fixed and chosen ridge."""
    options = {"degree": 2, "levels": 1, "ridge": ridge}
    here = WaveletScore(family, **options).fit(images)
    there = WaveletScore(family, **options, device=device).fit(images, batch_size=7)
    level = vp(0.6)
    y = level.alpha * images + level.sigma * torch.randn_like(images)
    same(there.mean_, here.mean_)
    same(there.denoise_degrees(y.to(device), level, [1, 2]), here.denoise_degrees(y, level, [1, 2]))
    same(there.score(y.to(device), level), here.score(y, level))
    same(there.chosen_ridge(level), here.chosen_ridge(level))
    assert there.expected_mse(level) == pytest.approx(here.expected_mse(level), rel=1e-9)
    there_others, here_others = (m.new_moments((1, 8, 8)).fit([images**2]) for m in (there, here))
    assert there.expected_mse(level, 2, there_others) == pytest.approx(here.expected_mse(level, 2, here_others), rel=1e-9)
    assert torch.isfinite(there.condition_numbers(level)).all()


@pytest.mark.parametrize("side", ["score", "denoiser"])
@pytest.mark.parametrize("basis", ["monomial", "hermite"])
def test_over_complete_basis(side, basis, device, images):
    options = {"degree": 3, "levels": 1, "mode": "symmetric", "ridge_side": side, "basis": basis, "ridge": 1e-8}
    here = WaveletScore("band", **options).fit(images)
    there = WaveletScore("band", **options, device=device).fit(images)
    same(there.denoise(images.to(device), 0.4), here.denoise(images, 0.4))


def test_moments_merge_resume_split_and_move(device, images, tmp_path):
    """Merge, checkpoint, passes, and files that go from one device to the other."""
    whole = WaveletScore("local", 2, levels=1, device=device).fit(images)
    halves = [WaveletScore("local", 2, levels=1, device=device).fit(part).moments_ for part in images.split(12)]
    merged = WaveletScore("local", 2, levels=1, device=device).fit_moments(halves[0].merge(halves[1]))
    path = tmp_path / "checkpoint"
    for _ in range(2):
        resumed = WaveletScore("local", 2, levels=1, device=device).fit(images, batch_size=8, checkpoint=path, checkpoint_seconds=0)
    split = WaveletScore("local", 2, levels=1, device=device).fit(images, memory_limit=200_000)
    whole.save(tmp_path / "model")
    moved = WaveletScore.load(tmp_path / "model")
    assert isinstance(moved.moments_, CleanMoments) and moved.mean_.device.type == "cpu"
    expected = moved.denoise(images, 0.3)
    for model in (whole, merged, resumed, split, WaveletScore.load(tmp_path / "model", device)):
        same(model.denoise(images.to(device), 0.3), expected)


@pytest.mark.parametrize(("ridge", "side"), [(1e-6, "denoiser"), ("gcv", "denoiser"), (1e-6, "score")])
@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
def test_shared_readout(ridge, side, mode, device, images):
    options = {"degree": 2, "levels": 1, "ridge": ridge, "ridge_side": side, "mode": mode}
    here = SharedWaveletScore("independent", **options).fit(images)
    there = SharedWaveletScore("independent", **options, device=device).fit(images)
    level = ve(0.4)
    same(there.denoise_degrees(images.to(device), level, [1, 2]), here.denoise_degrees(images, level, [1, 2]))
    assert there.expected_mse(level) == pytest.approx(here.expected_mse(level), rel=1e-9)
    own = WaveletScore("independent", 2, levels=1, mode=mode, device=device).fit(images)
    assert own.expected_mse(level, joint=there) > 0


def test_linear_denoiser(device, images):
    model = LinearDenoiser().fit(images)
    same(model.denoise(images.to(device), 0.4), model.denoise(images, 0.4))
