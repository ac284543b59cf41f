"""Two-dimensional Daubechies transform ``w = W x``: the basis of equation (5), batched in torch as separable filter banks.

The atoms are those of equation (17): scaling atoms at the coarsest scale, three orientations of details at every scale.

The one-dimensional analysis matrix of each level is read off PyWavelets (its transform of the identity), so every
wavelet and boundary mode it knows is available and agrees with it to rounding.  A level is two passes, one per image
axis, of shifted slices with the images last (:mod:`numeric.stencil`).

Every size of image is taken, as PyWavelets takes it: where a level's size is odd, ``mode="periodization"`` repeats the last
sample once.  ``W`` is orthonormal (for an orthogonal wavelet) where both sizes are divisible by ``2^J``, and a little
over-complete elsewhere; synthesis then is the pseudo-inverse ``W^+``, which crops exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pywt
import torch
from torch import Tensor

from numeric.frames import PseudoInverse, SeparableAtoms, composes, null_space, nullity
from numeric.memory import free_memory
from numeric.stencil import Bank, Levels, Step, Workspace, empty_like, left_inverse

ORIENTATIONS = ("A", "H", "V", "D")
"""Scaling atom, and the horizontal, vertical and diagonal details (PyWavelets' ``da``, ``ad``, ``dd``)."""

CHUNK_BYTES = 3 * 2**19
"""One chunk of images of the transform: small enough to stay in the cache, large enough that calls cost little."""


PADDING = 8
"""Numbers between the rows of a chunk that is transposed."""

SYNTHESES = ("pseudo-inverse", "per-level")
"""Left inverses of an over-complete ``W``: ``W^+``, or the composition of the levels' pseudo-inverses."""

NULL_BYTES = 2**29
"""A basis of the null space of ``W^T`` of at most so many bytes is kept for ``W^+``; larger frames are solved by iteration."""

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
    """Levels that leave a scaling band of 4 to 8 a side; as in the paper's setting 32 -> 3, 64 -> 4, 128 -> 5."""
    return max(1, int(np.log2(size)) - 2)


class WaveletTransform:
    """Batched 2-D wavelet transform of ``(n, channels, height, width)`` images.

    Args:
        shape: ``(height, width)`` of the images, or one number for square ones.
        wavelet: any discrete wavelet PyWavelets knows by name. Orthogonal ones give an orthonormal ``W`` under
            ``mode="periodization"`` where both sizes are divisible by ``2^J``; biorthogonal ones a square, invertible one.
        levels: J; by default the number that leaves a scaling band of 4 to 8 a side.
        mode: a PyWavelets boundary mode. All but periodization are over-complete if the filters are longer than 2.
        synthesis: of an over-complete ``W``: ``"pseudo-inverse"`` is ``W^+``, which takes inconsistent coefficients to the
            image nearest in coefficients; ``"per-level"`` composes the pseudo-inverses of the levels, a left inverse too
            and cheaper, whose pixels differ by several per cent where coefficients are not those of an image.
            :attr:`per_level_is_exact` says where both are one.

    Coefficients come flat, ``(n, channels, n_coefficients)``, in PyWavelets' order
    ``A_J, (H, V, D)_J, ..., (H, V, D)_1``; :attr:`bands` gives their addresses.

    Raises:
        WaveletError: unknown or non-discrete wavelet, unknown mode or synthesis, or more levels than the size has.

    Example:
        >>> import torch
        >>> from numeric import WaveletTransform
        >>> transform = WaveletTransform((45, 67))
        >>> transform.is_orthonormal, round(transform.redundancy, 3), transform.per_level_is_exact
        (False, 1.053, False)
        >>> x = torch.rand(2, 3, 45, 67, dtype=torch.float64)
        >>> torch.allclose(transform.inverse(transform.forward(x)), x)
        True
        >>> transform.kind, transform.to_orthonormal
        ('over-complete', "an orthonormal basis (mode='periodization', sides divisible by 2^levels)")
        >>> basis = WaveletTransform(8, levels=1)
        >>> basis.matrix.shape, basis.noise_covariance, basis.projection, float(basis.covariance(0, 0)), basis.config['levels']
        ((64, 64), None, None, 1.0, 1)
        >>> basis.addresses[0], type(basis.atoms).__name__
        (np.void((1, 0, 0, 'A'), dtype=[('scale', '<i4'), ('row', '<i4'), ('column', '<i4'), ('orientation', '<U1')]), 'SeparableAtoms')
    """

    def __init__(
        self,
        shape: int | tuple[int, int],
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str = "periodization",
        synthesis: str = "pseudo-inverse",
    ) -> None:
        height, width = (shape, shape) if isinstance(shape, int) else shape
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise WaveletError(
                f"unknown wavelet {wavelet!r}: use a discrete one such as 'haar', 'db2', 'sym4' or 'coif1' (pywt.wavelist(kind='discrete'))"
            )
        if mode not in pywt.Modes.modes:
            raise WaveletError(f"unknown mode {mode!r}: use one of {', '.join(pywt.Modes.modes)}")
        if synthesis not in SYNTHESES:
            raise WaveletError(f"unknown synthesis {synthesis!r}: use 'pseudo-inverse' (W^+) or 'per-level'")
        if min(height, width) < 2:
            raise WaveletError(
                f"images of {height}x{width} have no level to transform: at least 2 pixels a side are needed"
            )
        levels = default_levels(min(height, width)) if levels is None else levels
        if levels < 1:
            raise WaveletError(f"levels must be >= 1, got {levels}")
        if min(height, width) >> levels < 1:
            raise WaveletError(
                f"{levels} levels are too many for {height}x{width} images: use at most {int(np.log2(min(height, width)))}"
            )
        self.shape = (int(height), int(width))
        self.wavelet, self.levels, self.mode, self.synthesis = wavelet, int(levels), mode, synthesis
        self.steps: Levels = []
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
        text = f"WaveletTransform({self.shape}, wavelet={self.wavelet!r}, levels={self.levels}, mode={self.mode!r}"
        return text + (")" if self.per_level_is_exact else f", synthesis={self.synthesis!r})")

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments, for results files."""
        names = ("wavelet", "levels", "mode", "synthesis")
        return {"shape": list(self.shape), **{name: getattr(self, name) for name in names}}

    @property
    def redundancy(self) -> float:
        """Coefficients per pixel: 1 of a basis, more of an over-complete frame."""
        return self.n_coefficients / (self.shape[0] * self.shape[1])

    @cached_property
    def per_level_is_exact(self) -> bool:
        """Whether both syntheses are one, ``W^+`` (see :func:`numeric.frames.composes`)."""
        return composes(self.steps)

    @cached_property
    def is_orthonormal(self) -> bool:
        """Whether ``W W^T = I`` to 1e-8 (filter coefficients are published to about 12 digits)."""
        return self.n_coefficients == self.shape[0] * self.shape[1] and all(
            float(np.abs(matrix @ matrix.T - np.eye(len(matrix))).max()) < 1e-8
            for step in self.steps
            for matrix in step
        )

    @cached_property
    def _inverse_steps(self) -> Levels:
        """The transposed left inverses of every level: of the shape of :attr:`steps`, and equal to them if orthonormal."""
        return [(left_inverse(rows).T, left_inverse(columns).T) for rows, columns in self.steps]

    @cached_property
    def _forward_bank(self) -> Bank:
        return Bank(self.steps, synthesis=False)

    @cached_property
    def _inverse_bank(self) -> Bank:
        return Bank(self._inverse_steps, synthesis=True)

    @cached_property
    def _forward_adjoint(self) -> Bank:
        return Bank(self.steps, synthesis=True)

    @cached_property
    def _inverse_adjoint(self) -> Bank:
        return Bank(self._inverse_steps, synthesis=False)

    @cached_property
    def _pseudo_inverse(self) -> PseudoInverse:
        return PseudoInverse(
            partial(self._analyse, self._forward_bank),
            partial(self._synthesise, self._forward_adjoint),
            partial(self._synthesise, self._inverse_bank),
            partial(self._analyse, self._inverse_adjoint),
        )

    @cached_property
    def _null_space(self) -> Tensor | None:
        """Orthonormal basis ``(n_coefficients, nullity)`` of what no image has, where it is not too large."""
        if 8 * self.n_coefficients * nullity(self.steps) > NULL_BYTES:
            return None
        return torch.from_numpy(null_space(self.steps, self._inverse_steps))

    def _apply_pseudo_inverse(self, flat: Tensor, adjoint: bool) -> Tensor:
        """``W^+ = V P`` of rows of coefficients, or its adjoint of rows of pixels; V composes the levels' inverses.

        The projection P onto the coefficients that images have takes out the null space, or is solved for in float64.
        """
        if self._null_space is not None:
            null = self._null_space.to(flat)
            w = self._analyse(self._inverse_adjoint, flat) if adjoint else flat
            w = w - (w @ null) @ null.T
            return w if adjoint else self._synthesise(self._inverse_bank, w)
        use = self._pseudo_inverse.adjoint if adjoint else self._pseudo_inverse.apply
        out = flat.new_empty(len(flat), self.n_coefficients if adjoint else self.shape[0] * self.shape[1])
        chunk = self._chunk(flat)
        for start in range(0, len(flat), chunk):
            out[start : start + chunk] = use(flat[start : start + chunk].double())
        return out

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
            flat, partial(self._analyse, self._forward_bank), partial(self._synthesise, self._forward_adjoint)
        )
        return out.reshape(*images.shape[:2], self.n_coefficients)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """``x = W^+ w``: coefficients ``(n, channels, n_coefficients)`` to images.

        For an orthonormal ``W`` this is ``W^T w``.  For an over-complete one it is the left inverse that :attr:`synthesis`
        names, ``W^+`` by default.
        """
        if coefficients.shape[-1] != self.n_coefficients:
            raise WaveletError(f"expected {self.n_coefficients} coefficients, got {coefficients.shape[-1]}")
        flat = coefficients.reshape(-1, self.n_coefficients)
        if self.synthesis == "per-level" or self.per_level_is_exact:
            out = _Apply.apply(
                flat, partial(self._synthesise, self._inverse_bank), partial(self._analyse, self._inverse_adjoint)
            )
        else:
            out = _Apply.apply(
                flat,
                partial(self._apply_pseudo_inverse, adjoint=False),
                partial(self._apply_pseudo_inverse, adjoint=True),
            )
        return out.reshape(*coefficients.shape[:-1], *self.shape)

    def _analyse(self, bank: Bank, flat: Tensor) -> Tensor:
        return self._by_chunks(flat, self.n_coefficients, partial(self._analysis_steps, bank))

    def _synthesise(self, bank: Bank, flat: Tensor) -> Tensor:
        return self._by_chunks(flat, self.shape[0] * self.shape[1], partial(self._synthesis_steps, bank))

    def _by_chunks(self, flat: Tensor, size: int, steps: Callable[[Tensor, Tensor, Empty], Iterator[Step]]) -> Tensor:
        """Run the steps ``(source, target, empty) -> ...`` on chunks of the rows of ``flat``; ``(n, size)``.

        A chunk is transposed, so that every shifted slice of every level is contiguous.  Its arrays and steps are made
        once and run for every chunk of that size: fresh memory and fresh slices cost more than the arithmetic.
        """
        out = empty_like(flat, len(flat), size)
        width, chunk, made = flat.shape[1], self._chunk(flat), 0
        for start in range(0, len(flat), chunk):
            part = flat[start : start + chunk]
            n = len(part)
            if n != made:
                # Source, target and rows, and about as much again for the low and high halves and the approximations.
                take = Workspace(flat, 2 * n * (width + size)).take
                source, target, made = take(width, n), take(size, n), n
                # Rows a power of two apart compete for the same lines of the cache when they are transposed.
                rows = take(n, max(width, size) + PADDING)
                prepared = list(steps(source, target, take))
            source.copy_(rows[:, :width].copy_(part).T)
            for step in prepared:
                step()
            out[start : start + chunk] = rows[:, :size].copy_(target.T)
        return out

    def _analysis_steps(self, bank: Bank, source: Tensor, target: Tensor, empty: Empty) -> Iterator[Step]:
        """Levels from pixels ``(height * width, n)`` to coefficients ``(n_coefficients, n)``, finest level first."""
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

    def _synthesis_steps(self, bank: Bank, source: Tensor, target: Tensor, empty: Empty) -> Iterator[Step]:
        """Levels from coefficients ``(n_coefficients, n)`` to pixels ``(height * width, n)``, coarsest level first."""
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

    @property
    def kind(self) -> str:
        """``orthonormal``, ``non-orthogonal`` (square: a biorthogonal wavelet, periodized) or ``over-complete``."""
        if self.is_orthonormal:
            return "orthonormal"
        return "non-orthogonal" if self.n_coefficients == self.shape[0] * self.shape[1] else "over-complete"

    @property
    def to_orthonormal(self) -> str:
        """What to ask for instead, in messages: an orthonormal basis of these images."""
        wavelet = "" if pywt.Wavelet(self.wavelet).orthogonal else " of an orthogonal wavelet, such as 'db2'"
        sizes = "" if self.kind == "non-orthogonal" else " (mode='periodization', sides divisible by 2^levels)"
        return f"an orthonormal basis{wavelet}{sizes}"

    @cached_property
    def atoms(self) -> SeparableAtoms:
        """The rows of ``W`` as products of one vector along each axis."""
        return SeparableAtoms.of(self.steps, [(band.scale, band.orientation) for band in self.bands])

    def _foresee(self, what: str, numbers: int, instead: str) -> None:
        free = free_memory()
        if free is not None and 8 * numbers > free:
            raise MemoryError(
                f"{what} of {self} needs {8 * numbers / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: {instead}"
            )

    @cached_property
    def projection(self) -> np.ndarray | None:
        """``W W^-`` with the synthesis ``W^-``: onto the coefficients that images have, ``(n_coefficients, n_coefficients)``.

        None where it is the identity, in every square basis.

        Raises:
            MemoryError: foreseen.
        """
        if self.n_coefficients == self.shape[0] * self.shape[1]:
            return None
        self._foresee("the projection onto the range", 3 * self.n_coefficients**2, "use a square basis, or probes")
        unit = torch.eye(self.n_coefficients, dtype=torch.float64)[:, None]
        # In space alone, of videos too: time is orthonormal.
        return WaveletTransform.forward(self, WaveletTransform.inverse(self, unit))[:, 0].numpy().T.copy()

    @cached_property
    def matrix(self) -> np.ndarray:
        """``W`` as a dense array ``(n_coefficients, height * width)``; rows are the vectorised atoms.

        Raises:
            MemoryError: foreseen.
        """
        self._foresee("the dense basis", self.n_coefficients * self.shape[0] * self.shape[1], "use forward and inverse")
        return self.atoms.dense()

    def covariance(self, i: Any, j: Any) -> np.ndarray:
        """Covariances of coefficients ``i`` and ``j`` (index arrays that broadcast) of unit white noise: entries of ``W W^T``.

        Exact in every basis and of any size: nothing larger than the result is formed.
        """
        return self.atoms.inner(np.asarray(i), np.asarray(j))

    @cached_property
    def noise_covariance(self) -> np.ndarray | None:
        """``W W^T``, the covariance of the coefficients of unit white noise; None when it is the identity.

        Raises:
            MemoryError: foreseen; :meth:`covariance` gives the entries that are needed.
        """
        if self.is_orthonormal:
            return None
        self._foresee(
            f"the noise covariance of the {self.n_coefficients:,} coefficients",
            2 * self.n_coefficients**2,
            "ask for the entries needed (covariance), or use an orthonormal basis: mode='periodization', sizes divisible by 2^levels",
        )
        every = np.arange(self.n_coefficients)
        return self.covariance(every[:, None], every[None, :])

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
