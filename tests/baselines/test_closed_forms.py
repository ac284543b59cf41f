"""Closed-form baselines beside their definitions, each other and other libraries."""

from __future__ import annotations

import time

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.restoration import denoise_wavelet

from numeric import memory
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.locality import LocalityDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.shrinkage import WaveletShrinkage
from numeric.data import ImageSet
from numeric.evaluation.sweep import noise_like
from numeric.noise import ve
from numeric.scores.shared import SharedWaveletScore
from tests.threads import torch_threads


@pytest.fixture
def images(generator) -> ImageSet:
    return ImageSet(torch.rand(12, 1, 6, 6, generator=generator, dtype=torch.float32))


def noisy(images: ImageSet, sigma: float, count: int = 4) -> torch.Tensor:
    x = images[:count]
    return x + sigma * noise_like(x, 7)


# ----- linear ----------------------------------------------------------------------------------------------------------


def test_linear_is_the_gaussian_posterior_mean(images):
    """(25), (26) against ``mu + C (C + s^2 I)^-1 (y - mu)`` with C from NumPy; one fit serves every noise level."""
    model = LinearDenoiser().fit(images)
    x = images[:].double().flatten(1).numpy()
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    for sigma in (0.05, 0.4, 3.0):
        y = noisy(images, sigma).double()
        flat = y.flatten(1).numpy()
        direct = mean + (flat - mean) @ np.linalg.solve(covariance + sigma**2 * np.eye(len(mean)), covariance)
        assert np.allclose(model.estimate(y, ve(sigma)).flatten(1).numpy(), direct, atol=1e-10)
        trace = np.trace(
            covariance - covariance @ np.linalg.solve(covariance + sigma**2 * np.eye(len(mean)), covariance)
        )
        assert model.expected_mse(sigma) == pytest.approx(trace / len(mean), rel=1e-9)


def test_linear_in_chunks_is_linear_at_once(images):
    one, many = LinearDenoiser().fit(images), LinearDenoiser().fit(images, batch_size=5)
    assert torch.allclose(one.eigenvalues_, many.eigenvalues_, atol=1e-12)


def test_linear_of_fewer_images_than_pixels_is_the_same(images):
    """12 images of 36 pixels: the rank is 11, and the few eigenpairs give what the whole covariance gives."""
    few, whole = LinearDenoiser().fit(images), LinearDenoiser()
    x = images[:].double().flatten(1)
    whole.mean_, covariance = x.mean(0), torch.cov(x.T, correction=0)
    whole.eigenvalues_, whole.eigenvectors_ = torch.linalg.eigh(covariance)
    assert few.eigenvectors_.shape == (36, 11) and few.eigenvalues_.shape == (11,)
    assert torch.allclose(few.eigenvectors_.T @ few.eigenvectors_, torch.eye(11).double(), atol=1e-10)
    y, e = noisy(images, 0.3).double(), torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(few.estimate(y, ve(0.3)), whole.estimate(y, ve(0.3)), atol=1e-10)
    assert torch.allclose(few.gaussian_state(e, ve(0.3)), whole.gaussian_state(e, ve(0.3)), atol=1e-7)
    assert few.expected_mse(0.3) == pytest.approx(whole.expected_mse(0.3))
    same = LinearDenoiser().fit(torch.full((3, 1, 4, 4), 0.5))  # no variance at all
    assert torch.allclose(same.denoise(torch.rand(2, 1, 4, 4), 0.1), torch.tensor(0.5))


def test_linear_foresees_its_memory(monkeypatch):
    """Before anything is read: 10,000 images of 3 x 256 x 256 are 29 GiB and as much again, in words of what was called."""
    monkeypatch.setattr("numeric.memory.free_memory", lambda *_: 8 * 2**30)

    class Never(ImageSet):
        def __getitem__(self, index):
            raise AssertionError("read before the memory was foreseen")

    wide = torch.zeros(1, 1, 1, 1).expand(10_000, 3, 256, 256)
    with pytest.raises(MemoryError, match=r"10,000 images of 196,608 pixels .* GiB are free: give fewer images"):
        LinearDenoiser().fit(Never(wide))
    with pytest.raises(MemoryError, match=r"covariance of 49,152 pixels .* GiB"):
        LinearDenoiser().fit(Never(torch.zeros(1, 1, 1, 1).expand(60_000, 3, 128, 128)))


def test_a_containers_limit_counts(tmp_path):
    """Control groups: the narrowest limit above the process, less what is used and cannot be dropped."""
    inner = tmp_path / "cgroup" / "outer" / "inner"
    inner.mkdir(parents=True)
    groups = tmp_path / "groups"
    groups.write_text("0::/outer/inner\n")
    for folder, limit, current, cached in ((inner, "max", 10, 0), (inner.parent, "1000", 700, 200), (inner.parents[1], "2000", 900, 0)):
        for name, text in (("max", limit), ("current", current), ("stat", f"anon 1\ninactive_file {cached}")):
            (folder / f"memory.{name}").write_text(f"{text}\n")
    assert memory._of_container(groups, tmp_path / "cgroup") == 500
    assert memory._of_container(groups, tmp_path) is None and memory._of_container(tmp_path / "none", tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 7 kB\n")
    assert memory._of_system(tmp_path / "meminfo") == 7 * 1024 and memory._of_system(tmp_path / "none") is None


@pytest.mark.slow
def test_linear_on_colour_images_at_the_size_people_use():
    """1,500 RGB images of 64 x 64: rank 1,499 of 12,288 pixels, in well under a minute of CPU time a thread (two of them)."""
    with torch_threads(2):
        x = torch.rand(1500, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        start = time.process_time()  # what else runs on the machine does not count
        model = LinearDenoiser().fit(x)
        seconds = time.process_time() - start
    assert seconds < 2 * 60 and model.eigenvectors_.shape == (12_288, 1_499)
    y = x[:4] + 0.1 * noise_like(x[:4], 0)
    assert float((model.denoise(y, 0.1) - x[:4]).square().mean()) < 0.01


def test_shared_readout_at_degree_one_is_linear(images):
    """Lemma C.1: the shared readout at degree 1 is the Wiener denoiser."""
    data = ImageSet(torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    shared = SharedWaveletScore("independent", 1, levels=1, ridge=1e-12).fit(data)
    y = noisy(data, 0.3)
    assert torch.allclose(
        shared.estimate(y.double(), ve(0.3)), LinearDenoiser().fit(data).estimate(y.double(), ve(0.3)), atol=1e-6
    )


# ----- optimal and local -----------------------------------------------------------------------------------------------


def direct_posterior(x: torch.Tensor, y: torch.Tensor, sigma: float) -> torch.Tensor:
    d2 = (y.flatten(1)[:, None] - x.flatten(1)[None]).square().sum(2)
    return (torch.softmax(-d2 / (2 * sigma**2), 1) @ x.flatten(1)).reshape(y.shape)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_chunks_change_nothing(images, sigma):
    """Running softmax against softmax over all images at once, for every machine that sums in chunks."""
    y = noisy(images, sigma).double()
    data = ImageSet(images[:].double())
    assert torch.allclose(
        OptimalDenoiser(chunk=5).fit(data).estimate(y, ve(sigma)),
        direct_posterior(data[:].double(), y, sigma),
        atol=1e-6,
    )
    for make in (
        lambda c: LocalScoreMachine(3, False, chunk=c),
        lambda c: LocalScoreMachine(3, True, chunk=c),
        lambda c: LocalityDenoiser(0.1, chunk=c),
    ):
        one, many = make(100).fit(data).estimate(y, ve(sigma)), make(5).fit(data).estimate(y, ve(sigma))
        assert torch.allclose(one, many, atol=1e-10)


def test_coarse_to_fine_is_exact_to_its_tolerance():
    """3,000 images: at little noise few are near, at much noise all are summed; either way the sum over all, and its gradient."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(30, 24 * 24, generator=generator)
    train = (0.1 * torch.randn(3000, 30, generator=generator) @ patterns).reshape(3000, 1, 24, 24)
    fast, full = OptimalDenoiser().fit(train), OptimalDenoiser(tolerance=0).fit(train)
    assert fast.sketch_ is not None and full.sketch_ is None
    for sigma in (0.05, 0.3, 3.0):
        y = (train[:70] + sigma * noise_like(train[:70], 0)).double()
        near = fast.sketch_.near(y.flatten(1), fast.data_, 2 * sigma**2 * np.log(3000 / 1e-7), 750)
        assert (near is None) == (sigma == 3.0)
        assert torch.allclose(fast.estimate(y, ve(sigma)), full.estimate(y, ve(sigma)), atol=1e-6)
    y = (train[:3] + 0.3 * noise_like(train[:3], 0)).double().requires_grad_()
    a, b = (torch.autograd.grad(m.estimate(y, ve(0.3)).square().sum(), y)[0] for m in (fast, full))
    assert torch.allclose(a, b, atol=1e-6)


def test_a_window_as_wide_as_the_image_is_the_optimal_denoiser(images):
    """Kamb and Ganguli: the LS machine at full patch size is the ideal score machine; so is ELS with broken borders."""
    y, sigma = noisy(images, 0.4).double(), 0.4
    expected = direct_posterior(images[:].double(), y, sigma)
    for machine in (
        LocalScoreMachine(11, False, "zeros"),
        LocalScoreMachine(11, True, "broken"),  # every pixel is a border class of its own: nothing is pooled
        LocalityDenoiser(threshold=0.0),
    ):
        assert torch.allclose(machine.fit(images).estimate(y, ve(sigma)), expected, atol=1e-5)


@pytest.mark.parametrize("border", ["circular", "zeros", "broken"])
@pytest.mark.parametrize("equivariant", [True, False])
def test_local_machine_against_its_definition(images, border, equivariant):
    """The sum over training windows written out with loops."""
    y, sigma, side = noisy(images, 0.5, 1).double()[0, 0], 0.5, 3
    x = images[:4].double()[:, 0]
    machine = LocalScoreMachine(side, equivariant, border, chunk=3).fit(images.take(4))
    got = machine.estimate(y[None, None], ve(sigma))[0, 0]

    def window(image, i, j):
        rows = [[(i + a, j + b) for b in (-1, 0, 1)] for a in (-1, 0, 1)]

        def value(r, c):
            if border == "circular":
                return float(image[r % 6, c % 6])
            return float(image[r, c]) if 0 <= r < 6 and 0 <= c < 6 else 0.0

        return np.array([[value(r, c) for r, c in row] for row in rows])

    def place(i):
        return "low" if i == 0 else "high" if i == 5 else "inside"

    for i, j in [(0, 0), (0, 3), (2, 4), (5, 5)]:
        weights, values = [], []
        for image in x:
            for k in range(6) if equivariant else [i]:
                for l in range(6) if equivariant else [j]:
                    if border == "broken" and equivariant and (place(i), place(j)) != (place(k), place(l)):
                        continue
                    distance = np.square(window(y, i, j) - window(image, k, l)).sum()
                    weights.append(-distance / (2 * sigma**2))
                    values.append(float(image[k, l]))
        weights = np.exp(np.array(weights) - max(weights))
        assert float(got[i, j]) == pytest.approx(float(weights @ values / weights.sum()), abs=1e-6)


@given(st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_circular_machine_is_translation_equivariant(down, right):
    """Shifting the noisy image shifts the output (ELS, periodic border)."""
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    machine = LocalScoreMachine(3, True, "circular").fit(x)
    y = (x[:2] + 0.3 * noise_like(x[:2], 1)).double()
    shifted = machine.estimate(y.roll((down, right), (2, 3)), ve(0.3))
    assert torch.allclose(shifted, machine.estimate(y, ve(0.3)).roll((down, right), (2, 3)), atol=1e-10)


def test_a_window_wider_than_a_circular_image_counts_each_pixel_once(images):
    """Then it is the whole image, so LS is the optimal empirical denoiser; ELS refuses and names the way out."""
    y = noisy(images, 0.4).double()
    expected = direct_posterior(images[:].double(), y, 0.4)
    for side in (7, 9, 13):
        assert torch.allclose(LocalScoreMachine(side, False, "circular").fit(images).estimate(y, ve(0.4)), expected, atol=1e-5)
        with pytest.raises(ValueError, match=f"a {side} pixel window wraps a 6 x 6 image onto itself"):
            LocalScoreMachine(side, True, "circular").fit(images).denoise(y, 0.4)


def test_one_pixel_window_forgets_neighbours(images):
    """p = 1 pools single pixels: on two-valued pixels the ELS machine is the posterior mean of a two-point prior."""
    binary = (images[:] > 0.5).float()
    q, sigma = float(binary.mean()), 0.7
    y = (binary[:2] + sigma * noise_like(binary[:2], 2)).double()
    on = q * torch.exp(-((y - 1) ** 2) / (2 * sigma**2))
    off = (1 - q) * torch.exp(-(y**2) / (2 * sigma**2))
    got = LocalScoreMachine(1, True, "circular").fit(binary).estimate(y, ve(sigma))
    assert torch.allclose(got, on / (on + off), atol=1e-6)


def test_locality_mask_of_independent_pixels_is_the_pixel_itself():
    """With a diagonal covariance the Wiener matrix is diagonal: each pixel listens to itself only."""
    generator = torch.Generator().manual_seed(0)
    data = ImageSet(torch.randn(50, 1, 4, 4, generator=generator))
    linear = LinearDenoiser()
    linear.mean_, linear.eigenvalues_ = torch.zeros(16).double(), torch.linspace(1, 2, 16).double()
    linear.eigenvectors_ = torch.eye(16).double()
    model = LocalityDenoiser().fit(data, linear=linear)
    assert torch.equal(model.mask(0.5), torch.eye(16))
    x = data[:].double().flatten(1)
    y = x[:3] + 0.5
    weight = torch.softmax(-((y[:, None] - x[None]) ** 2) / (2 * 0.25), 1)
    got = model.estimate(y.reshape(3, 1, 4, 4), ve(0.5)).flatten(1)
    assert torch.allclose(got, (weight * x[None]).sum(1), atol=1e-6)


# ----- shrinkage -------------------------------------------------------------------------------------------------------


def test_soft_threshold_by_hand(generator):
    """One level: the details of the orthonormal transform shrink by ``factor sigma``, the approximation is kept."""
    y = torch.rand(2, 1, 8, 8, generator=generator).double()
    out = WaveletShrinkage("soft", levels=1, factor=1.5).estimate(y, ve(0.2)).numpy()
    a, details = pywt.dwt2(y.numpy(), "db2", "periodization")
    a2, details2 = pywt.dwt2(out, "db2", "periodization")
    assert np.allclose(a, a2)
    for before, after in zip(details, details2):
        assert np.allclose(after, np.sign(before) * np.maximum(np.abs(before) - 0.3, 0))


@pytest.mark.parametrize(("size", "wavelet", "levels"), [((32, 32), "db2", None), ((33, 27), "sym4", 1), ((16, 40), "haar", 3)])
def test_bayes_shrink_is_scikit_images(size, wavelet, levels, generator):
    y = torch.rand(2, 3, *size, generator=generator).double()
    depth = levels or pywt.dwt_max_level(min(size), wavelet)
    ours = WaveletShrinkage("bayes", wavelet, levels).estimate(y, ve(0.2))
    for image, out in zip(y, ours):
        kept = {"wavelet": wavelet, "wavelet_levels": depth, "method": "BayesShrink", "mode": "soft", "channel_axis": 0}
        theirs = denoise_wavelet(image.numpy(), sigma=0.2, rescale_sigma=False, **kept)
        assert np.allclose(out.numpy(), theirs, atol=1e-10)


@pytest.mark.parametrize("method", ["soft", "hard"])
@pytest.mark.parametrize("mode", ["periodization", "symmetric", "zero"])
def test_thresholds_are_pywavelets(method, mode, generator):
    y = torch.rand(2, 1, 20, 24, generator=generator).double()
    first, *details = pywt.wavedec2(y.numpy(), "db3", mode, 2, axes=(-2, -1))
    shrunk = [tuple(pywt.threshold(band, 0.3, method) for band in level) for level in details]
    theirs = pywt.waverec2([first, *shrunk], "db3", mode, axes=(-2, -1))
    ours = WaveletShrinkage(method, "db3", 2, mode, factor=1.5).estimate(y, ve(0.2))
    assert np.allclose(ours.numpy(), theirs, atol=1e-10)


def test_cycle_spinning(mnist32_test):
    """Coifman and Donoho: the mean over shifts, of all of them invariant under shifts, and better than one."""
    x = mnist32_test[:20].double()
    y = x + 0.25 * noise_like(x, 0)
    one, spun = WaveletShrinkage(mode="periodization"), WaveletShrinkage(mode="periodization", spins=8)
    by_hand = [one.estimate(y.roll((i, j), (2, 3)), ve(0.25)).roll((-i, -j), (2, 3)) for i in range(8) for j in range(8)]
    out = spun.estimate(y, ve(0.25))
    assert torch.allclose(out, torch.stack(by_hand).mean(0), atol=1e-12)
    assert torch.allclose(spun.estimate(y.roll((3, 5), (2, 3)), ve(0.25)), out.roll((3, 5), (2, 3)), atol=1e-10)
    assert float((out - x).square().mean()) < 0.9 * float((one.estimate(y, ve(0.25)) - x).square().mean())


def test_a_wavelet_too_long_for_one_level_is_named():
    """It used to give back its input."""
    with pytest.raises(ValueError, match=r"db20 \(filters of 40\) is too long for one level of 16 x 16 pixels: .*'db2'.*levels=1"):
        WaveletShrinkage("bayes", "db20").denoise(torch.rand(1, 1, 16, 16), 0.1)


def test_no_threshold_changes_nothing(generator):
    y = torch.rand(2, 3, 16, 16, generator=generator).double()
    assert torch.allclose(WaveletShrinkage("hard", factor=0.0).estimate(y, ve(0.3)), y)


def test_shrinkage_denoises_mnist(mnist32_test):
    x = mnist32_test[:50]
    y = x + 0.25 * noise_like(x, 0)
    before = float((y.clamp(0, 1) - x).square().mean())
    for method in ("bayes", "soft"):
        model = WaveletShrinkage(method)
        after = float((model.denoise(y, 0.25) - x).square().mean())
        assert after < before, (method, before, after)
