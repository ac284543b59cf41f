"""Every computation stays on the device it was asked for, and gives there what the CPU gives.

No GPU is needed: :mod:`tests.pretend_device` stands in, and refuses what a GPU would refuse.  Where there is a GPU the
same tests run on it too.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.data import as_image_set
from numeric.memory import free_memory
from numeric.noise import ve, vp
from numeric.scores.moments import CleanMoments
from numeric.scores.monomials import MonomialSet
from numeric.scores.own import WaveletScore
from numeric.scores.potential import PotentialScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.sparse import sparse_product
from numeric.scores.wiener import WienerScore
from numeric.scores.wiener_own import WienerOwnScore
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


@pytest.mark.parametrize("size", [5, 300])
def test_sparse_product(size, device, monkeypatch):
    """Empty, short and long rows, in one step and in many, against SciPy's product; the same bits every time."""
    matrix = sp.random(size, size, 0.3, "csr", rng=np.random.default_rng(0)).tolil()
    matrix[1], matrix[2] = 0.0, 1.0
    x = torch.randn(size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for table in (matrix.tocsr(), matrix.tocsr().T):
        expected = torch.from_numpy(table @ x.numpy())
        assert torch.equal(sparse_product(table, x), expected)
        for working in (2**28, 1000):
            monkeypatch.setattr("numeric.scores.sparse.STEP_BYTES", working)
            found = sparse_product(table, x.to(device))
            same(found, expected)
            assert torch.equal(found.cpu(), sparse_product(table, x.to(device)).cpu())


def test_features_after_inference_mode():
    """An index that was kept without gradients serves a computation with them (the pretended device has no such mode)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    monomials = MonomialSet(np.array([[-1, -1], [-1, 0], [-1, 1], [0, 0], [0, 1], [1, 1]]), 2)
    u = torch.tensor([[2.0, 3.0]], device=device)
    with torch.inference_mode():
        assert monomials.features(u)[:, 0].cpu().tolist() == [1, 2, 3, 4, 6, 9]
    assert monomials.features(u, 4)[:, 0].cpu().tolist() == [1, 2, 3, 4]
    (slope,) = torch.autograd.grad(monomials.features(u.requires_grad_()).sum(), u)
    assert slope.cpu().tolist() == [[1 + 2 * 2 + 3, 1 + 2 + 2 * 3]]


def test_free_memory_is_of_the_device(device):
    """Of the CPU, and of a GPU what torch holds back too; a device that does not say is not guessed."""
    assert free_memory() == free_memory("cpu") or free_memory() > 0
    if device == "cuda":
        free, there = torch.cuda.mem_get_info()
        assert free <= free_memory("cuda") <= there
    else:
        assert free_memory(device) is None


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


def test_shared_readout_moves_merges_and_tells(device, images, tmp_path):
    """Held-out errors, readout in monomials, traces, standard errors, merge and files: the CPU's numbers from the device."""
    options = {"degree": 3, "levels": 1}
    here = SharedWaveletScore("independent", **options).fit(images)
    there = SharedWaveletScore("independent", **options, device=device).fit(images)
    level = vp(0.6)
    here_others, there_others = (m.new_moments((1, 8, 8)).fit(as_image_set(images**2)) for m in (here, there))
    assert there.solve(level).readout.device.type != "cpu"
    assert there.expected_mse(level, 2, there_others) == pytest.approx(here.expected_mse(level, 2, here_others), rel=1e-9)
    assert torch.allclose(there.coefficients(level, 3, there)[0], here.coefficients(level, 3, here)[0], rtol=1e-7, atol=1e-10)
    assert torch.allclose(there.trace_coefficients(level), here.trace_coefficients(level), rtol=1e-7, atol=1e-10)
    same(there.jacobian_trace(images[:3].to(device), level), here.jacobian_trace(images[:3], level))
    found, wanted = (m.standard_errors(level, images, method="delta", outputs=[]) for m in (there, here))
    assert found.expected_mse == pytest.approx(wanted.expected_mse, rel=1e-6)
    halves = [SharedWaveletScore("independent", **options, device=device).fit(part) for part in images.split(12)]
    there.save(tmp_path / "there")
    here.save(tmp_path / "here")
    expected = here.denoise(images, level)
    for model in (halves[0].merge(halves[1]), SharedWaveletScore.load(tmp_path / "here", device)):
        assert torch.allclose(model.denoise(images.to(device), level).cpu(), expected, rtol=1e-7, atol=1e-9)
    assert torch.allclose(SharedWaveletScore.load(tmp_path / "there").denoise(images, level), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("coordinates", ["wavelet", "pixel", "both"])
@pytest.mark.parametrize(("of", "ridge"), [("wiener", 1e-5), ("noisy", 1e-5), ("wiener", "gcv")])
@pytest.mark.parametrize("kind", [WienerScore, PotentialScore, WienerOwnScore])
def test_wiener_readouts(kind, coordinates, of, ridge, device, images, tmp_path):
    """Several levels in one pass, fitted and held-out errors, denoised images, and files to the other device."""
    if (kind is not WienerScore and ridge == "gcv") or (kind is WienerOwnScore and coordinates == "both"):
        pytest.skip("refused")
    degree, levels = (3, [0.2, 0.7]) if kind is WienerScore else (2, [0.3])
    options = {"degree": degree, "coordinates": coordinates, "of": of, "levels": 1, "ridge": ridge}
    here = kind(**options).fit(images).prepare_levels(levels)
    there = kind(**options, device=device).fit(images).prepare_levels(levels)
    here_others, there_others = (m.new_moments((1, 8, 8)) for m in (here, there))
    for model, others in ((here, here_others), (there, there_others)):
        model.accumulate(others, as_image_set(images**2), 10, None, None, 30.0)
    there.save(tmp_path / "model")
    moved = kind.load(tmp_path / "model")
    for sigma in levels:
        assert there.expected_mse(sigma) == pytest.approx(here.expected_mse(sigma), rel=1e-9)
        assert there.expected_mse(sigma, moments=there_others) == pytest.approx(here.expected_mse(sigma, moments=here_others), rel=1e-9)
        assert there.chosen_ridge(sigma) == pytest.approx(here.chosen_ridge(sigma))
        found, expected = there.denoise(images.to(device), sigma), here.denoise(images, sigma)
        assert found.device.type != "cpu"
        for image in (found.cpu(), moved.denoise(images, sigma)):
            assert torch.allclose(image, expected, rtol=1e-9, atol=1e-9)
        trace = there.jacobian_trace(images[:2].to(device), ve(sigma)).cpu()
        assert torch.allclose(trace, here.jacobian_trace(images[:2], ve(sigma)), rtol=1e-7, atol=1e-7)


def test_linear_denoiser(device, images):
    model = LinearDenoiser().fit(images)
    same(model.denoise(images.to(device), 0.4), model.denoise(images, 0.4))
