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
@pytest.mark.parametrize("mode", ["periodization", "symmetric", "zero", "reflect", "periodic"])
@pytest.mark.parametrize(("shape", "levels"), [((32, 32), 2), ((16, 48), 1)])
def test_forward_is_pywavelets(wavelet, mode, shape, levels):
    images = np.random.default_rng(0).standard_normal((5, *shape))
    transform = WaveletTransform(shape, wavelet, levels, mode)
    ours = transform.forward(torch.from_numpy(images)[:, None])[:, 0].numpy()
    reference = pywt_flat(images, wavelet, mode, levels)
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() < 1e-10
    back = transform.inverse(torch.from_numpy(reference)[:, None])[:, 0].numpy()
    assert np.abs(back - images).max() < 1e-9  # W^+ W = I


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


def test_over_complete_mode_has_a_left_inverse_and_coloured_noise():
    transform = WaveletTransform(16, "db2", 2, "symmetric")
    assert transform.n_coefficients > 256 and not transform.is_orthonormal
    k = transform.noise_covariance
    assert np.allclose(k, transform.matrix @ transform.matrix.T)
    assert np.linalg.eigvalsh(k).min() > -1e-10


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
        (((30, 32), "db2", 2), "30x32 is not divisible by 2\\^2 = 4"),
        ((32, "db99"), "unknown wavelet 'db99'"),
        ((32, "morl"), "unknown wavelet 'morl'"),
        ((32, "db2", 0), "levels must be >= 1, got 0"),
        ((8, "db2", 4), "not divisible"),
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


@pytest.mark.parametrize(("wavelet", "mode"), [("db2", "periodization"), ("db2", "symmetric"), ("db8", "periodization")])
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
