"""Two-dimensional Daubechies transform ``w = W x``: the basis of equation (5), batched in torch as separable filter banks.

The atoms are those of equation (17): scaling atoms at the coarsest scale, three orientations of details at every scale.

The one-dimensional analysis matrix of each level is read off PyWavelets (its transform of the identity), so every
wavelet and boundary mode it knows is available and agrees with it to rounding.  A level is two passes, one per image
axis, of shifted slices with the images last (:mod:`numeric.stencil`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from math import prod
from typing import Any

import numpy as np
import pywt
import torch
from torch import Tensor

from numeric.stencil import Stencil, Step

ORIENTATIONS = ("A", "H", "V", "D")
"""Scaling atom, and the horizontal, vertical and diagonal details (PyWavelets' ``da``, ``ad``, ``dd``)."""

CHUNK_BYTES = 3 * 2**19
"""One chunk of images of the transform: small enough to stay in the cache, large enough that calls cost little."""


PADDING = 8
"""Numbers between the rows of a chunk that is transposed."""

DENSE_PIXELS = 64
"""Levels of at most so many pixels are applied together, as one dense matrix."""

Empty = Callable[..., Tensor]
"""``empty(*shape)``, an array not initialised."""


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


def left_inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a level's 1-D analysis matrix: its transpose where that is exact, else its pseudo-inverse."""
    orthonormal = matrix.shape[0] == matrix.shape[1] and np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() < 1e-10
    return matrix.T.copy() if orthonormal else np.linalg.pinv(matrix)


def dense_levels(steps: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Several levels, ``(rows, columns)`` analysis matrices from the finest, as one ``(coefficients, pixels)`` matrix."""
    height, width = steps[0][0].shape[1], steps[0][1].shape[1]
    grid: np.ndarray = np.eye(height * width).reshape(height, width, -1)
    bands: list[np.ndarray] = []
    for rows, columns in steps:
        both = np.einsum("rh,cw,hwp->rcp", rows, columns, grid, optimize=True)
        h, w = len(rows) // 2, len(columns) // 2
        grid = both[:h, :w]
        bands = [both[h:, :w], both[:h, w:], both[h:, w:], *bands]
    return np.concatenate([band.reshape(-1, band.shape[2]) for band in [grid, *bands]])


class _Bank:
    """The matrices of a transform in the form in which they are applied.

    Fine levels are stencils.  Levels of at most :data:`DENSE_PIXELS` pixels are one matrix: there calls cost more than
    arithmetic.

    Args:
        steps: ``(rows, columns)`` of every level, finest first, each of the shape of an analysis matrix.
        synthesis: apply the transposes of the matrices, from coefficients to pixels.
    """

    def __init__(self, steps: list[tuple[np.ndarray, np.ndarray]], synthesis: bool) -> None:
        fine = sum(rows.shape[1] * columns.shape[1] > DENSE_PIXELS for rows, columns in steps)
        make = self._synthesis if synthesis else self._analysis
        self.stencils = [(make(rows), make(columns)) for rows, columns in steps[:fine]]
        self.coarse: np.ndarray | None = None
        if fine < len(steps):
            self.coarse = dense_levels(steps[fine:])
            self.coarse = self.coarse.T.copy() if synthesis else self.coarse

    @staticmethod
    def _analysis(matrix: np.ndarray) -> Stencil:
        """One level along one axis: signal to (low, high)."""
        half = len(matrix) // 2
        return Stencil(matrix, [slice(0, half), slice(half, None)], [slice(None)], step=2)

    @staticmethod
    def _synthesis(matrix: np.ndarray) -> Stencil:
        """The transpose of :meth:`_analysis`: (low, high) to the even and odd samples."""
        half = len(matrix) // 2
        return Stencil(
            matrix.T, [slice(0, None, 2), slice(1, None, 2)], [slice(0, half), slice(half, None)], step=1
        )


class _Apply(torch.autograd.Function):
    """A matrix applied to the rows of an array, whose gradient is its transpose applied; both are given as functions."""

    @staticmethod
    def forward(flat: Tensor, apply: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        return apply(flat)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.matrix, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Apply.apply(gradients[0], ctx.transpose, ctx.matrix), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Apply.apply(tangents[0], ctx.matrix, ctx.transpose)

    @staticmethod
    def vmap(info: Any, in_dims: Any, flat: Tensor, apply: Any, adjoint: Any) -> tuple[Tensor, int]:
        """Rows are independent: a batch of arrays is one array with more rows."""
        stacked = flat.movedim(in_dims[0], 0)
        out = _Apply.apply(stacked.flatten(0, 1).contiguous(), apply, adjoint)
        return out.unflatten(0, stacked.shape[:2]), 0


def default_levels(size: int) -> int:
    """Levels that leave a 4 x 4 scaling band, as in the paper's setting: 32 -> 3, 64 -> 4, 128 -> 5."""
    return max(1, int(np.log2(size)) - 2)


def _empty(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised array of a tensor's kind.  On a CPU NumPy allocates it, since it asks for huge pages.

    The first touch of ordinary pages would cost as much as half of the transform.
    """
    if like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.empty(shape, dtype=np.float32 if like.dtype == torch.float32 else np.float64))
    return like.new_empty(*shape)


class _Workspace:
    """Work arrays carved out of one block of memory."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.block, self.used = _empty(like, size), 0

    def take(self, *shape: int) -> Tensor:
        """The next array, not initialised; of its own memory where the block is used up."""
        start, self.used = self.used, self.used + prod(shape)
        return self.block[start : self.used].view(shape) if self.used <= len(self.block) else _empty(self.block, *shape)


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
    def _inverse_steps(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The transposed left inverses of every level: of the shape of :attr:`steps`, and equal to them if orthonormal."""
        return [(left_inverse(rows).T, left_inverse(columns).T) for rows, columns in self.steps]

    @cached_property
    def _forward_bank(self) -> _Bank:
        return _Bank(self.steps, synthesis=False)

    @cached_property
    def _inverse_bank(self) -> _Bank:
        return _Bank(self._inverse_steps, synthesis=True)

    @cached_property
    def _forward_adjoint(self) -> _Bank:
        return _Bank(self.steps, synthesis=True)

    @cached_property
    def _inverse_adjoint(self) -> _Bank:
        return _Bank(self._inverse_steps, synthesis=False)

    def _chunk(self, images: Tensor) -> int:
        """Images of one chunk: all levels of a chunk run while it is in the cache; on a GPU one large chunk is better."""
        size = CHUNK_BYTES if images.device.type == "cpu" else 2**8 * CHUNK_BYTES
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
        out = _Apply.apply(
            flat, partial(self._analyse, self._forward_bank), lambda g: self._synthesise(self._forward_adjoint, g)
        )
        return out.reshape(*images.shape[:2], self.n_coefficients)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """``x = W^+ w``: coefficients ``(n, channels, n_coefficients)`` to images.

        For an orthonormal ``W`` this is ``W^T w``.  Otherwise it is the composition of the levels' pseudo-inverses, a
        left inverse of ``W``.
        """
        if coefficients.shape[-1] != self.n_coefficients:
            raise WaveletError(f"expected {self.n_coefficients} coefficients, got {coefficients.shape[-1]}")
        flat = coefficients.reshape(-1, self.n_coefficients)
        out = _Apply.apply(
            flat, partial(self._synthesise, self._inverse_bank), lambda g: self._analyse(self._inverse_adjoint, g)
        )
        return out.reshape(*coefficients.shape[:-1], *self.shape)

    def _analyse(self, bank: _Bank, flat: Tensor) -> Tensor:
        return self._by_chunks(flat, self.n_coefficients, partial(self._analysis_steps, bank))

    def _synthesise(self, bank: _Bank, flat: Tensor) -> Tensor:
        return self._by_chunks(flat, self.shape[0] * self.shape[1], partial(self._synthesis_steps, bank))

    def _by_chunks(self, flat: Tensor, size: int, steps: Callable[[Tensor, Tensor, Empty], Iterator[Step]]) -> Tensor:
        """Run the steps ``(source, target, empty) -> ...`` on chunks of the rows of ``flat``; ``(n, size)``.

        A chunk is transposed, so that every shifted slice of every level is contiguous.  Its arrays and steps are made
        once and run for every chunk of that size: fresh memory and fresh slices cost more than the arithmetic.
        """
        out = _empty(flat, len(flat), size)
        width, chunk, made = flat.shape[1], self._chunk(flat), 0
        for start in range(0, len(flat), chunk):
            part = flat[start : start + chunk]
            n = len(part)
            if n != made:
                # Source, target and rows, and about as much again for the low and high halves and the approximations.
                take = _Workspace(flat, 2 * n * (width + size)).take
                source, target, made = take(width, n), take(size, n), n
                # Rows a power of two apart compete for the same lines of the cache when they are transposed.
                rows = take(n, max(width, size) + PADDING)
                prepared = list(steps(source, target, take))
            source.copy_(rows[:, :width].copy_(part).T)
            for step in prepared:
                step()
            out[start : start + chunk] = rows[:, :size].copy_(target.T)
        return out

    def _analysis_steps(self, bank: _Bank, source: Tensor, target: Tensor, empty: Empty) -> Iterator[Step]:
        """Steps from pixels ``(height * width, n)`` to coefficients ``(n_coefficients, n)``, finest level first."""
        n = source.shape[1]
        grids = [target[b.start : b.stop].view(*b.shape, n) for b in self.bands]
        approximation = source.view(*self.shape, n)
        for level, (rows, columns) in enumerate(bank.stencils):
            h, v, d = grids[len(grids) - 3 * (level + 1) : len(grids) - 3 * level]
            low, high = (empty(h.shape[0], approximation.shape[1], n) for _ in range(2))
            yield from rows.steps([approximation], [low, high], axis=0)
            approximation = empty(*h.shape) if level + 1 < self.levels else grids[0]
            # H is high-pass along rows (PyWavelets' "da"), V along columns ("ad").
            yield from columns.steps([low], [approximation, v], axis=1)
            yield from columns.steps([high], [h, d], axis=1)
        if bank.coarse is not None:
            matrix = torch.as_tensor(bank.coarse).to(source)
            yield partial(torch.mm, matrix, approximation.view(-1, n), out=target[: len(matrix)])

    def _synthesis_steps(self, bank: _Bank, source: Tensor, target: Tensor, empty: Empty) -> Iterator[Step]:
        """Steps from coefficients ``(n_coefficients, n)`` to pixels ``(height * width, n)``, coarsest level first."""
        n, fine = source.shape[1], len(bank.stencils)
        grids = [source[b.start : b.stop].view(*b.shape, n) for b in self.bands]
        approximation = grids[0]
        if bank.coarse is not None:
            matrix = torch.as_tensor(bank.coarse).to(source)
            product = empty(len(matrix), n) if fine else target
            yield partial(torch.mm, matrix, source[: matrix.shape[1]], out=product)
            approximation = product
        for level in reversed(range(fine)):
            rows, columns = bank.stencils[level]
            h, v, d = grids[len(grids) - 3 * (level + 1) : len(grids) - 3 * level]
            height, width = rows.matrix.shape[0], columns.matrix.shape[0]
            low, high = (empty(h.shape[0], width, n) for _ in range(2))
            yield from columns.steps([approximation.view(*h.shape), v], [low[:, ::2], low[:, 1::2]], axis=1)
            yield from columns.steps([h, d], [high[:, ::2], high[:, 1::2]], axis=1)
            approximation = empty(height, width, n) if level else target.view(height, width, n)
            yield from rows.steps([low, high], [approximation[::2], approximation[1::2]], axis=0)

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
