"""Daubechies' scaling functions and wavelets as functions of x, exact on dyadic grids (Figure 1)."""

from __future__ import annotations

import numpy as np
import pywt


def cascade(wavelet: str, depth: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scaling function phi and wavelet psi on the dyadic grid ``x = i / 2^depth``, exact there (Fig. 1).

    The values of phi at the integers are the eigenvector of the two-scale relation ``phi(x) = sqrt(2) sum_k h_k
    phi(2x - k)`` to eigenvalue 1; the relation itself then gives the half integers, the quarters, and so on, and
    ``psi(x) = sqrt(2) sum_k g_k phi(2x - k)``.

    Args:
        wavelet: an orthogonal wavelet of PyWavelets with a continuous scaling function (db2, db3, sym4, ...).

    Returns: ``(x, phi, psi)``, each ``(length * 2^depth + 1,)`` over the support ``[0, length]``, length = taps - 1.
    """
    filters = pywt.Wavelet(wavelet)
    h, g = np.sqrt(2) * np.array(filters.rec_lo), np.sqrt(2) * np.array(filters.rec_hi)
    length = len(h) - 1
    if length < 2:
        raise ValueError(f"{wavelet!r} has a discontinuous scaling function: use db2 or higher")
    i = np.arange(length + 1)
    k = 2 * i[:, None] - i[None, :]  # phi(i) = sum_j h[2i - j] phi(j)
    two_scale = np.where((k >= 0) & (k <= length), h[np.clip(k, 0, length)], 0.0)
    values, vectors = np.linalg.eig(two_scale)
    phi = vectors[:, np.argmin(abs(values - 1.0))].real
    phi = phi / phi.sum()  # partition of unity: the integers' values sum to one
    for level in range(1, depth + 1):
        step, finer = 2**level, np.zeros(length * 2**level + 1)
        finer[::2] = phi
        x2 = np.arange(1, len(finer), 2)  # 2x on the previous grid is the index itself
        for tap, weight in enumerate(h):
            source = x2 - tap * step // 2
            inside = (source >= 0) & (source < len(phi))
            finer[x2[inside]] += weight * phi[source[inside]]
        phi = finer
    psi = np.zeros_like(phi)
    doubled = 2 * np.arange(len(phi))
    for tap, weight in enumerate(g):
        source = doubled - tap * 2**depth
        inside = (source >= 0) & (source < len(phi))
        psi[inside] += weight * phi[source[inside]]
    return np.arange(len(phi)) / 2**depth, phi, psi


def unit_sum(phi: np.ndarray, depth: int) -> np.ndarray:
    """``sum_k phi(x - k)`` on the grid points of [0, 1): one everywhere, although only the integers were made to sum to one."""
    return phi[:-1].reshape(-1, 2**depth).sum(0)


def vanishing_moments(x: np.ndarray, psi: np.ndarray, tolerance: float = 1e-6) -> int:
    """How many of ``int x^k psi dx``, k = 0, 1, ..., vanish: the rectangle rule on the grid, relative to ``int |x^k psi|``.

    The dyadic sums of a refinable function are exact for the polynomials it reproduces, so the zeros are sharp.
    """
    count = 0
    while count < 20 and abs((x**count * psi).sum()) < tolerance * abs(x**count * psi).sum():
        count += 1
    return count
