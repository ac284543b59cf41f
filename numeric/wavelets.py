"""Two-dimensional Daubechies transform ``w = W x``: the basis of equation (5), batched in torch as separable filter banks.

The atoms are those of equation (17): scaling atoms at the coarsest scale, three orientations of details at every scale.

The one-dimensional analysis matrix of each level is read off PyWavelets (its transform of the identity), so every
wavelet and boundary mode it knows is available and agrees with it to rounding.  A level is two passes, one per image
axis, of shifted slices with the images last (:mod:`numeric.stencil`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pywt
import torch
from torch import Tensor

from numeric.stencil import Stencil

ORIENTATIONS = ("A", "H", "V", "D")
"""Scaling atom, and the horizontal, vertical and diagonal details (PyWavelets' ``da``, ``ad``, ``dd``)."""

CHUNK_BYTES = 2**22
"""One chunk of images of the transform: small enough to stay in the cache, large enough that calls cost little."""


class WaveletError(ValueError):
    """The transform cannot be built; the message names the value and the fix."""


@dataclass(frozen=True)
class Band:
    """One block of coefficients at one scale and orientation.

    Attributes:
        scale: 1 is the finest, ``levels`` the coarsest.
        orientation: one of :data:`ORIENTATIONS`.
        start: index of its first coefficient in the flat order.
        shape: (rows, columns).
    """

    scale: int
    orientation: str
    start: int
    shape: tuple[int, int]

    @property
    def stop(self) -> int:
        return self.start + self.shape[0] * self.shape[1]

    @property
    def indices(self) -> np.ndarray:
        """Flat indices laid out on the band's grid, shape ``(rows, columns)``."""
        return np.arange(self.start, self.stop).reshape(self.shape)


@lru_cache(maxsize=64)
def analysis_matrix(wavelet: str, length: int, mode: str) -> np.ndarray:
    """One-level 1-D analysis matrix: low-pass rows, then high-pass rows, shape ``(2 * half, length)``."""
    low, high = pywt.dwt(np.eye(length), wavelet, mode=mode, axis=0)
    return np.concatenate([low, high], axis=0)


def _analysis(matrix: np.ndarray) -> Stencil:
    """One level along one axis: signal to (low, high)."""
    half = len(matrix) // 2
    return Stencil(matrix, [slice(0, half), slice(half, None)], [slice(None)], step=2)


def _synthesis(matrix: np.ndarray) -> Stencil:
    """The left inverse of :func:`_analysis`: (low, high) to the even and odd samples.  A transpose where that is exact."""
    half = len(matrix) // 2
    orthonormal = matrix.shape[0] == matrix.shape[1] and np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() < 1e-10
    inverse = matrix.T.copy() if orthonormal else np.linalg.pinv(matrix)
    return Stencil(inverse, [slice(0, None, 2), slice(1, None, 2)], [slice(0, half), slice(half, None)], step=1)


def default_levels(size: int) -> int:
    """Levels that leave a 4 x 4 scaling band, as in the paper's setting: 32 -> 3, 64 -> 4, 128 -> 5."""
    return max(1, int(np.log2(size)) - 2)


class _Scratch:
    """Work arrays ``(..., images)`` of a chunk, used again by the next chunk: fresh memory costs more than the arithmetic.

    Under autograd every chunk gets its own, because what is written over cannot be differentiated.
    """

    def __init__(self, like: Tensor) -> None:
        self.like, self.keep = like, not like.requires_grad
        self.arrays: list[Tensor] = []
        self.images = self.next = 0

    def start(self, images: int) -> None:
        """Begin a chunk of so many images; it takes the same arrays in the same order as the one before."""
        if not self.keep or images != self.images:
            self.arrays, self.images = [], images
        self.next = 0

    def take(self, *shape: int) -> Tensor:
        """The next array, ``(*shape, images)``, not initialised."""
        if self.next == len(self.arrays):
            self.arrays.append(self.like.new_empty(*shape, self.images))
        self.next += 1
        return self.arrays[self.next - 1]


class WaveletTransform:
    """Batched 2-D wavelet transform of ``(n, channels, height, width)`` images.

    Args:
        shape: ``(height, width)`` of the images, or one number for square ones.
        wavelet: any discrete wavelet PyWavelets knows by name; orthogonal ones give an orthonormal ``W`` under
            ``mode="periodization"``.
        levels: J; by default the number that leaves a 4 x 4 scaling band.
        mode: a PyWavelets boundary mode. Every mode but periodization is over-complete; synthesis then is the
            pseudo-inverse ``W^+`` with ``W^+ W = I``.

    Coefficients come flat, ``(n, channels, n_coefficients)``, in PyWavelets' order
    ``A_J, (H, V, D)_J, ..., (H, V, D)_1``; :attr:`bands` gives their addresses.

    Raises:
        WaveletError: unknown or non-discrete wavelet, unknown mode, or a size not divisible by ``2^J``.
    """

    def __init__(
        self,
        shape: int | tuple[int, int],
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str = "periodization",
    ) -> None:
        height, width = (shape, shape) if isinstance(shape, int) else shape
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise WaveletError(
                f"unknown wavelet {wavelet!r}: use a discrete one such as 'haar', 'db2', 'sym4' or 'coif1' (pywt.wavelist(kind='discrete'))"
            )
        if mode not in pywt.Modes.modes:
            raise WaveletError(f"unknown mode {mode!r}: use one of {', '.join(pywt.Modes.modes)}")
        if mode == "smooth" and min(height, width) < 2:
            raise WaveletError("mode 'smooth' needs at least 2 pixels a side")
        levels = default_levels(min(height, width)) if levels is None else levels
        if levels < 1:
            raise WaveletError(f"levels must be >= 1, got {levels}")
        if mode == "periodization" and (height % 2**levels or width % 2**levels):
            raise WaveletError(
                f"image size {height}x{width} is not divisible by 2^{levels} = {2**levels}: resize the images, or use fewer levels"
            )
        if min(height, width) >> levels < 1:
            raise WaveletError(
                f"{levels} levels are too many for {height}x{width} images: use at most {int(np.log2(min(height, width)))}"
            )
        self.shape = (int(height), int(width))
        self.wavelet, self.levels, self.mode = wavelet, int(levels), mode
        self.steps: list[tuple[np.ndarray, np.ndarray]] = []
        rows, columns = self.shape
        shapes = []
        for _ in range(levels):
            step = analysis_matrix(wavelet, rows, mode), analysis_matrix(wavelet, columns, mode)
            self.steps.append(step)
            rows, columns = step[0].shape[0] // 2, step[1].shape[0] // 2
            shapes.append((rows, columns))
        bands, start = [], 0
        for scale in range(levels, 0, -1):
            for orientation in ORIENTATIONS if scale == levels else ORIENTATIONS[1:]:
                bands.append(Band(scale, orientation, start, shapes[scale - 1]))
                start = bands[-1].stop
        self.bands: tuple[Band, ...] = tuple(bands)
        self.n_coefficients = start

    def __repr__(self) -> str:
        return f"WaveletTransform({self.shape}, wavelet={self.wavelet!r}, levels={self.levels}, mode={self.mode!r})"

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments, for results files."""
        return {"shape": list(self.shape), "wavelet": self.wavelet, "levels": self.levels, "mode": self.mode}

    @cached_property
    def is_orthonormal(self) -> bool:
        """Whether ``W W^T = I`` to 1e-8 (filter coefficients are published to about 12 digits)."""
        return self.n_coefficients == self.shape[0] * self.shape[1] and all(
            float(np.abs(matrix @ matrix.T - np.eye(len(matrix))).max()) < 1e-8
            for step in self.steps
            for matrix in step
        )

    @cached_property
    def _stencils(self) -> list[tuple[Stencil, Stencil, Stencil, Stencil]]:
        """For every level: analysis along rows and columns, synthesis along rows and columns."""
        return [(_analysis(r), _analysis(c), _synthesis(r), _synthesis(c)) for r, c in self.steps]

    def _chunk(self, images: Tensor) -> int:
        """Images of one chunk: all levels of a chunk run while it is in the cache; on a GPU one large chunk is better."""
        size = CHUNK_BYTES if images.device.type == "cpu" else 2**10 * CHUNK_BYTES
        return max(8, size // (images.element_size() * max(self.n_coefficients, self.shape[0] * self.shape[1])))

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or tuple(images.shape[-2:]) != self.shape:
            raise WaveletError(
                f"expected images (n, channels, {self.shape[0]}, {self.shape[1]}), got {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise WaveletError(f"expected floating images, got {images.dtype}: divide by 255 first")

    def forward(self, images: Tensor) -> Tensor:
        """``w = W x``: images ``(n, channels, height, width)`` to coefficients ``(n, channels, n_coefficients)``."""
        self._check(images)
        flat = images.reshape(-1, self.shape[0] * self.shape[1])
        out = flat.new_empty(len(flat), self.n_coefficients)
        step = self._chunk(images)
        scratch = _Scratch(flat)
        for start in range(0, len(flat), step):
            part = flat[start : start + step]
            n = len(part)
            scratch.start(n)
            # Images last: then every shifted slice of every level is contiguous.
            approximation = scratch.take(*self.shape)
            approximation.view(-1, n).copy_(part.T)
            target = scratch.take(self.n_coefficients)
            for level, (rows, columns, _, _) in enumerate(self._stencils):
                h, v, d = self.bands[len(self.bands) - 3 * (level + 1) : len(self.bands) - 3 * level]
                width = approximation.shape[1]
                low, high = scratch.take(h.shape[0], width), scratch.take(h.shape[0], width)
                rows.apply([approximation], [low, high], axis=0)
                if level + 1 < self.levels:
                    approximation = scratch.take(*h.shape)
                else:
                    approximation = target[: self.bands[0].stop].view(*h.shape, n)
                # H is high-pass along rows (PyWavelets' "da"), V along columns ("ad").
                columns.apply([low], [approximation, target[v.start : v.stop].view(*v.shape, n)], axis=1)
                views = [target[b.start : b.stop].view(*b.shape, n) for b in (h, d)]
                columns.apply([high], views, axis=1)
            out[start : start + step] = target.T
        return out.reshape(*images.shape[:2], self.n_coefficients)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """``x = W^+ w``: coefficients ``(n, channels, n_coefficients)`` to images.

        For an orthonormal ``W`` this is ``W^T w``.  Otherwise it is the composition of the levels' pseudo-inverses, a
        left inverse of ``W``.
        """
        if coefficients.shape[-1] != self.n_coefficients:
            raise WaveletError(f"expected {self.n_coefficients} coefficients, got {coefficients.shape[-1]}")
        flat = coefficients.reshape(-1, self.n_coefficients)
        out = flat.new_empty(len(flat), self.shape[0] * self.shape[1])
        step = self._chunk(coefficients)
        scratch = _Scratch(flat)
        for start in range(0, len(flat), step):
            part = flat[start : start + step]
            n = len(part)
            scratch.start(n)
            source = scratch.take(self.n_coefficients)
            source.copy_(part.T)
            grids = [source[b.start : b.stop].view(*b.shape, n) for b in self.bands]
            approximation = grids[0]
            for level in range(self.levels):
                _, _, rows, columns = self._stencils[self.levels - 1 - level]
                h, v, d = grids[1 + 3 * level : 4 + 3 * level]
                approximation = approximation[: h.shape[0], : h.shape[1]]  # odd sizes: one row or column too many
                height, width = rows.matrix.shape[0], columns.matrix.shape[0]
                low, high = scratch.take(h.shape[0], width), scratch.take(h.shape[0], width)
                columns.apply([approximation, v], [low[:, ::2], low[:, 1::2]], axis=1)
                columns.apply([h, d], [high[:, ::2], high[:, 1::2]], axis=1)
                approximation = scratch.take(height, width)
                rows.apply([low, high], [approximation[::2], approximation[1::2]], axis=0)
            out[start : start + step] = approximation.reshape(-1, n).T
        return out.reshape(*coefficients.shape[:-1], *self.shape)

    @cached_property
    def matrix(self) -> np.ndarray:
        """``W`` as a dense array ``(n_coefficients, height * width)``; rows are the vectorised atoms."""
        pixels = self.shape[0] * self.shape[1]
        if pixels * self.n_coefficients * 8 > 4 * 2**30:
            raise MemoryError(
                f"the dense {self.n_coefficients} x {pixels} basis needs {pixels * self.n_coefficients * 8 / 2**30:.1f} GiB: use forward/inverse"
            )
        identity = torch.eye(pixels, dtype=torch.float64).reshape(pixels, 1, *self.shape)
        return self.forward(identity)[:, 0].numpy().T.copy()

    @cached_property
    def noise_covariance(self) -> np.ndarray | None:
        """``W W^T``, the covariance of the coefficients of unit white noise; None when it is the identity."""
        return None if self.is_orthonormal else self.matrix @ self.matrix.T

    @cached_property
    def addresses(self) -> np.ndarray:
        """Structured array ``(n_coefficients,)`` of (scale, row, column, orientation) for every atom."""
        out = np.empty(
            self.n_coefficients,
            dtype=[("scale", "i4"), ("row", "i4"), ("column", "i4"), ("orientation", "U1")],
        )
        for band in self.bands:
            rows, columns = np.indices(band.shape)
            part = out[band.start : band.stop]
            part["scale"], part["orientation"] = band.scale, band.orientation
            part["row"], part["column"] = rows.ravel(), columns.ravel()
        return out
