"""The transform against PyWavelets, and its algebra."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from numeric.wavelets import WaveletError, WaveletTransform


def pywt_flat(images: np.ndarray, wavelet: str, mode: str, levels: int) -> np.ndarray:
    parts = pywt.wavedec2(images, wavelet, mode=mode, level=levels, axes=(-2, -1))
    bands = [parts[0], *(band for level in parts[1:] for band in level)]
    return np.concatenate([band.reshape(len(images), -1) for band in bands], axis=1)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db4", "sym5", "coif2", "bior2.2"])
@pytest.mark.parametrize("mode", ["periodization", "symmetric", "zero", "reflect", "periodic", "smooth", "antireflect"])
@pytest.mark.parametrize(("shape", "levels"), [((16, 12), 2), ((15, 22), 2), ((9, 7), 1)])
def test_forward_is_pywavelets_for_every_size(wavelet, mode, shape, levels):
    """Odd sizes and those not divisible by 2^J too: coefficients are PyWavelets', and W^+ W = I crops exactly."""
    images = np.random.default_rng(0).standard_normal((5, *shape))
    transform = WaveletTransform(shape, wavelet, levels, mode)
    ours = transform.forward(torch.from_numpy(images)[:, None])[:, 0].numpy()
    reference = pywt_flat(images, wavelet, mode, levels)
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() < 1e-10 * max(1.0, np.abs(reference).max())
    back = transform.inverse(torch.from_numpy(reference)[:, None])[:, 0].numpy()
    assert np.abs(back - images).max() < 1e-9  # W^+ W = I


@pytest.mark.parametrize(
    ("shape", "levels", "redundancy"), [((30, 30), 2, 1.034), ((45, 67), 3, 1.053), ((48, 72), 3, 1.0)]
)
def test_default_settings_take_any_size(shape, levels, redundancy):
    """Exactly orthonormal where 2^J divides the size, a little over-complete elsewhere."""
    transform = WaveletTransform(shape)
    assert transform.levels == levels and transform.redundancy == pytest.approx(redundancy, abs=0.003)
    assert transform.is_orthonormal == (redundancy == 1.0) == (transform.noise_covariance is None)
    images = torch.rand(3, 2, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(transform.inverse(transform.forward(images)), images, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    wavelet=st.sampled_from(["haar", "db2", "db3", "sym4", "coif1"]),
    levels=st.integers(1, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
)
def test_periodized_orthogonal_wavelets_are_orthonormal(wavelet, levels, rows, columns):
    """W W^T = W^T W = I for every size divisible by 2^J (Section 1.2)."""
    transform = WaveletTransform((rows * 2**levels, columns * 2**levels), wavelet, levels)
    w = transform.matrix
    assert w.shape[0] == w.shape[1] and transform.is_orthonormal
    assert np.abs(w @ w.T - np.eye(len(w))).max() < 1e-10
    assert transform.noise_covariance is None


FRAMES = [
    ("db2", "symmetric"),
    ("db2", "smooth"),
    ("sym4", "reflect"),
    ("bior2.2", "periodic"),
    ("rbio3.1", "symmetric"),
    ("db2", "periodization"),
]


@pytest.mark.parametrize("direct", [True, False], ids=["null space", "iteration"])
@pytest.mark.parametrize(("wavelet", "mode"), FRAMES)
def test_synthesis_is_the_pseudo_inverse(wavelet, mode, direct, monkeypatch):
    """W^+ of NumPy's SVD to 1e-10, with its adjoint, by the null space of W^T and by the identity of Kerzman and Stein."""
    if not direct:
        monkeypatch.setattr("numeric.wavelets.NULL_BYTES", -1)
    transform = WaveletTransform((13, 14), wavelet, 3, mode)
    right = np.linalg.pinv(transform.matrix, rcond=1e-14)
    assert not transform.per_level_is_exact
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 2, transform.n_coefficients, generator=generator, dtype=torch.float64, requires_grad=True)
    x = transform.inverse(w)
    want = w.detach().numpy() @ right.T
    assert np.abs(x.detach().flatten(2).numpy() - want).max() < 1e-10 * np.abs(want).max()
    g = torch.randn(4, 2, 13, 14, generator=generator, dtype=torch.float64)
    (slope,) = torch.autograd.grad((x * g).sum(), w)
    want = g.flatten(2).numpy() @ right
    assert np.abs(slope.numpy() - want).max() < 1e-10 * np.abs(want).max()
    single = transform.inverse(w.detach().float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), x.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("wavelet", "mode"), FRAMES)
def test_composed_levels_are_another_left_inverse(wavelet, mode):
    """What synthesis="per-level" is: a left inverse of W that is not W^+."""
    transform = WaveletTransform((13, 14), wavelet, 3, mode, synthesis="per-level")
    w = transform.matrix
    left = transform.inverse(torch.eye(len(w), dtype=torch.float64)[:, None]).flatten(1).numpy().T
    right = np.linalg.pinv(w, rcond=1e-14)
    assert np.abs(left @ w - np.eye(13 * 14)).max() < 1e-8
    assert np.linalg.norm(left - right) > 1e-3 * np.linalg.norm(right)
    assert np.linalg.norm(left) > np.linalg.norm(right)  # W^+ has the least norm of all left inverses
    assert "per-level" in repr(transform) and transform.config["synthesis"] == "per-level"


@settings(max_examples=40, deadline=None)
@given(
    wavelet=st.sampled_from(["haar", "db2", "sym4", "bior2.2"]),
    mode=st.sampled_from(["periodization", "symmetric", "zero", "periodic"]),
    levels=st.integers(1, 3),
    rows=st.integers(8, 14),
    columns=st.integers(8, 14),
)
def test_both_syntheses_are_one_where_it_says_so(wavelet, mode, levels, rows, columns):
    transform = WaveletTransform((rows, columns), wavelet, levels, mode, synthesis="per-level")
    w = transform.matrix
    left = transform.inverse(torch.eye(len(w), dtype=torch.float64)[:, None]).flatten(1).numpy().T
    assert (np.abs(left - np.linalg.pinv(w)).max() < 1e-8) or not transform.per_level_is_exact
    if wavelet != "bior2.2" and mode == "zero":  # zeros beyond the border: an isometry
        assert transform.per_level_is_exact


def test_biorthogonal_periodized_basis_is_square():
    """Invertible, neither orthonormal nor over-complete: one synthesis, W^-1."""
    transform = WaveletTransform(16, "bior2.2", 2)
    assert transform.redundancy == 1.0 and not transform.is_orthonormal and transform.per_level_is_exact
    assert transform.kind == "non-orthogonal" and transform.to_orthonormal == "an orthonormal basis of an orthogonal wavelet, such as 'db2'"
    assert WaveletTransform(16, "db2", 2).kind == "orthonormal" and WaveletTransform(15, "db2", 2).kind == "over-complete"
    assert WaveletTransform(16, "db2", 2, "symmetric").to_orthonormal.endswith("(mode='periodization', sides divisible by 2^levels)")
    inverse = transform.inverse(torch.eye(256, dtype=torch.float64)[:, None]).flatten(1).numpy().T
    assert np.abs(inverse - np.linalg.inv(transform.matrix)).max() < 1e-10


@pytest.mark.parametrize(("shape", "mode"), [((16, 16), "symmetric"), ((15, 22), "periodization")])
def test_noise_of_a_frame_is_coloured_exactly(shape, mode):
    """W W^T from products of one-dimensional vectors, against the matrix and against noise drawn."""
    transform = WaveletTransform(shape, "db2", 2, mode)
    pixels = shape[0] * shape[1]
    w = transform.forward(torch.eye(pixels, dtype=torch.float64).reshape(pixels, 1, *shape))[:, 0].numpy().T
    assert np.abs(transform.matrix - w).max() < 1e-13
    k = transform.noise_covariance
    assert np.abs(k - w @ w.T).max() < 1e-13 and not transform.is_orthonormal
    i, j = np.array([[3, 40], [7, 200]]), np.array([5, 41])
    assert np.array_equal(transform.covariance(i, j), k[i, j])
    noise = transform.forward(torch.randn(20_000, 1, *shape, generator=torch.Generator().manual_seed(0)))[:, 0].numpy()
    sample = noise.T @ noise / len(noise)
    error = np.sqrt((np.outer(np.diag(k), np.diag(k)) + k**2) / len(noise))  # of a product of two Gaussians' mean
    assert np.abs((sample - k) / error).max() < 6.0


def test_large_frames_need_no_matrix(monkeypatch):
    """128 x 128 and 256 x 192, over-complete: entries of the noise covariance without W; the whole is foreseen."""
    for shape in ((128, 128), (256, 192)):
        transform = WaveletTransform(shape, "db2", mode="symmetric")
        last = transform.n_coefficients - 1
        probe = torch.zeros(1, 1, transform.n_coefficients, dtype=torch.float64)
        probe[0, 0, last] = 1.0
        atom = torch.autograd.functional.vjp(transform.forward, torch.zeros(1, 1, *shape, dtype=torch.float64), probe)[
            1
        ]
        row = transform.forward(atom)[0, 0].numpy()  # W W^T e_last
        every = np.arange(transform.n_coefficients)
        assert np.abs(transform.covariance(last, every) - row).max() < 1e-12
    monkeypatch.setattr("numeric.wavelets.free_memory", lambda: 2**30)
    with pytest.raises(MemoryError, match=r"noise covariance of the .* coefficients .* 1.0 GiB are free"):
        _ = transform.noise_covariance
    with pytest.raises(MemoryError, match="dense basis"):
        _ = transform.matrix


@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
def test_function_transforms(mode):
    """jacrev, jacfwd and vmap of torch.func go through both directions."""
    transform = WaveletTransform((6, 5), "db2", 2, mode)
    w = torch.from_numpy(transform.matrix)

    def forward(image):
        return transform.forward(image[None])[0, 0]

    def both(image):
        return transform.inverse(transform.forward(image[None]).square())[0]

    x = torch.randn(3, 1, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        assert torch.allclose(jacobian(forward)(x[0]).flatten(1), w, atol=1e-12)
    assert torch.allclose(torch.func.vmap(both)(x), torch.stack([both(image) for image in x]), atol=1e-12)
    assert torch.autograd.gradcheck(both, x[:1].squeeze(0).requires_grad_())


def test_addresses_name_every_atom():
    transform = WaveletTransform(32)
    a = transform.addresses
    assert transform.levels == 3 and len(a) == 1024 and len(np.unique(a)) == 1024
    assert (a["orientation"] == "A").sum() == 16 and (a["scale"] == 1).sum() == 3 * 256
    # The atom sits where its address says: its energy is centred near the address, scaled to pixels.
    fine_v = np.flatnonzero((a["orientation"] == "V") & (a["scale"] == 1) & (a["row"] == 8) & (a["column"] == 3))[0]
    energy = transform.matrix[fine_v].reshape(32, 32) ** 2
    row, column = np.unravel_index(energy.argmax(), energy.shape)
    assert abs(row - 16) <= 3 and abs(column - 6) <= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((32, "db99"), "unknown wavelet 'db99'"),
        ((32, "morl"), "unknown wavelet 'morl'"),
        ((32, "db2", 0), "levels must be >= 1, got 0"),
        ((8, "db2", 4), "4 levels are too many for 8x8 images: use at most 3"),
        (((1, 40),), "at least 2 pixels a side"),
        ((32, "db2", 2, "symmetric", "exact"), "unknown synthesis 'exact'"),
        ((32, "db2", 2, "mirror"), "unknown mode 'mirror'"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(WaveletError, match=message):
        WaveletTransform(*arguments)


def test_bad_images_are_named():
    transform = WaveletTransform(16)
    with pytest.raises(WaveletError, match="expected images"):
        transform.forward(torch.zeros(2, 1, 8, 8))
    with pytest.raises(WaveletError, match="floating"):
        transform.forward(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_give_what_single_images_give(mode, dtype, monkeypatch):
    """A batch of many chunks, the last one shorter, against the images one by one."""
    transform = WaveletTransform((16, 24), "db2", 2, mode)
    images = torch.randn(21, 2, 16, 24, generator=torch.Generator().manual_seed(0), dtype=dtype)
    monkeypatch.setattr("numeric.wavelets.CHUNK_BYTES", 1)  # chunks of the least size, 8
    w = transform.forward(images)
    single = torch.cat([transform.forward(image[None]) for image in images])
    assert torch.allclose(w, single, atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert torch.allclose(transform.inverse(w), images, atol=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize(
    ("wavelet", "mode"), [("db2", "periodization"), ("db2", "symmetric"), ("db8", "periodization")]
)
def test_gradients_are_the_adjoint(wavelet, mode, monkeypatch):
    """The gradient of <W x, g> is W^T g, that of <W^+ w, x> is (W^+)^T x, over several chunks."""
    monkeypatch.setattr("numeric.wavelets.CHUNK_BYTES", 1)
    transform = WaveletTransform(16, wavelet, 2, mode)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 1, 16, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    g = torch.randn(11, 1, transform.n_coefficients, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.from_numpy(transform.matrix)
    (slope,) = torch.autograd.grad((transform.forward(x) * g.detach()).sum(), x)
    assert torch.allclose(slope.flatten(1), g.detach()[:, 0] @ w, atol=1e-10)
    (slope,) = torch.autograd.grad((transform.inverse(g) * x.detach()).sum(), g)
    inverse = transform.inverse(torch.eye(transform.n_coefficients, dtype=torch.float64)[:, None]).flatten(1)
    assert torch.allclose(slope[:, 0], x.detach().flatten(1) @ inverse.T, atol=1e-10)
