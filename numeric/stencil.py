"""One-dimensional filters along one axis of a batch-last array ``(rows, columns, images)``, from their banded matrices.

A level of a wavelet transform is a matrix whose rows are shifted copies of two short filters, but for a few rows at the
borders.  Applied as shifted slices it costs one multiply-add per tap instead of one per matrix column, and with the
images last every slice is contiguous, whichever axis is filtered.  Border rows, whatever the boundary mode, are small
products read off the same matrix; a matrix without such structure (a pseudo-inverse) is applied whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

Step = Callable[[], Any]
"""One operation of a transform on arrays that are fixed beforehand; running it again serves the next chunk of images."""

Levels = list[tuple[np.ndarray, np.ndarray]]
"""``(rows, columns)`` one-level analysis matrices of a transform, finest level first."""

DENSE_PIXELS = 64
"""Levels of at most so many pixels are applied together, as one dense matrix."""

MAX_TAPS = 10
"""Filters with more taps are applied as a matrix product: that is then the faster way."""


@dataclass(frozen=True)
class _Group:
    """Output rows that share a filter: ``lo <= i < hi`` by taps ``(segment, first row at i = lo, weight)``, others dense."""

    size: int
    lo: int
    hi: int
    taps: tuple[tuple[int, int, float], ...]
    border: tuple[int, ...]
    border_taps: tuple[tuple[tuple[int, int, float], ...], ...] | None  # of each border row, where those are few
    support: tuple[np.ndarray, ...]  # for each input segment: the rows that the border rows need
    weights: tuple[np.ndarray, ...]  # for each input segment: (border rows, support)


def _add(out: Tensor, source: Tensor, weight: float, first: bool) -> Step:
    """``out += weight * source``, or ``=`` if it is the first term."""
    if not first:
        return partial(out.add_, source, alpha=weight)
    return partial(torch.mul, source, weight, out=out)


class Stencil:
    """A matrix applied along an axis, with its inputs and outputs each given in parts.

    Args:
        matrix: ``(output rows, input rows)``.
        outputs: for each output part, which matrix rows it holds, in order.
        inputs: for each input part, which matrix columns it holds, in order.
        step: how far a filter moves along its input part from one output row to the next.
    """

    def __init__(self, matrix: np.ndarray, outputs: list[slice], inputs: list[slice], step: int) -> None:
        self.matrix, self.step = matrix, step
        self.groups = tuple(self._group([matrix[rows][:, part] for part in inputs], step) for rows in outputs)
        self._dense: dict[tuple[int, torch.dtype, torch.device], list[tuple[Tensor, Tensor | None]]] = {}

    @staticmethod
    def _group(parts: list[np.ndarray], step: int) -> _Group:
        size = len(parts[0])
        middle = size // 2
        found = [
            (s, int(c), float(part[middle, c])) for s, part in enumerate(parts) for c in np.flatnonzero(part[middle])
        ]

        def same(row: int) -> bool:
            """Whether a row is the middle one, moved."""
            for s, part in enumerate(parts):
                moved = np.zeros(part.shape[1])
                for segment, column, weight in found:
                    if segment == s:
                        column += step * (row - middle)
                        if not 0 <= column < len(moved):
                            return False
                        moved[column] = weight
                if not np.array_equal(moved, part[row]):
                    return False
            return True

        lo = hi = middle
        if 0 < len(found) <= MAX_TAPS:
            while lo > 0 and same(lo - 1):
                lo -= 1
            while hi < size and same(hi):
                hi += 1
        if 2 * (hi - lo) < size:
            lo = hi = 0
        border = tuple(i for i in range(size) if not lo <= i < hi)
        support = tuple(np.flatnonzero(np.any(part[list(border)] != 0, axis=0)) for part in parts)
        weights = tuple(part[list(border)][:, columns] for part, columns in zip(parts, support))
        taps = tuple((s, c + step * (lo - middle), w) for s, c, w in found) if hi > lo else ()
        border_taps = tuple(
            tuple((s, int(c), float(part[i, c])) for s, part in enumerate(parts) for c in np.flatnonzero(part[i]))
            for i in border
        )
        few = hi > lo and sum(map(len, border_taps)) <= 2 * MAX_TAPS and all(border_taps)
        return _Group(size, lo, hi, taps, border, border_taps if few else None, support, weights)

    def _border(self, number: int, dtype: torch.dtype, device: torch.device) -> list[tuple[Tensor, Tensor | None]]:
        key = (number, dtype, device)
        if key not in self._dense:
            group = self.groups[number]
            self._dense[key] = [
                (
                    torch.as_tensor(weights, dtype=dtype, device=device),
                    # None: the border needs every row, as in a matrix without taps
                    None if len(rows) and len(rows) == rows[-1] + 1 else torch.as_tensor(rows, device=device),
                )
                for weights, rows in zip(group.weights, group.support)
            ]
        return self._dense[key]

    def steps(self, inputs: list[Tensor], outputs: list[Tensor], axis: int) -> Iterator[Step]:
        """What fills ``outputs`` from ``inputs``, arrays ``(rows, columns, images)``, along axis 0 or 1.

        The slices are taken here, once, and not when a step runs: for a small chunk of images taking them costs as
        much as the arithmetic.
        """
        for number, (group, out) in enumerate(zip(self.groups, outputs)):
            if group.hi > group.lo:
                inner = out.narrow(axis, group.lo, group.hi - group.lo)
                for order, (segment, first, weight) in enumerate(group.taps):
                    stop = first + self.step * (group.hi - group.lo - 1) + 1
                    moved = slice(first, stop, self.step)
                    source = inputs[segment][moved] if axis == 0 else inputs[segment][:, moved]
                    yield _add(inner, source, weight, order == 0)
            if group.border_taps is not None:
                for row, taps in zip(group.border, group.border_taps):
                    edge = out.select(axis, row)
                    for order, (segment, position, weight) in enumerate(taps):
                        yield _add(edge, inputs[segment].select(axis, position), weight, order == 0)
            elif group.border:
                yield partial(self._dense_rows, number, inputs, out, axis)

    def _dense_rows(self, number: int, inputs: list[Tensor], out: Tensor, axis: int) -> None:
        """The border rows of one output part (or all rows of a matrix without taps), as small matrix products."""
        group = self.groups[number]
        value: Tensor | None = None
        for source, (weights, rows) in zip(inputs, self._border(number, out.dtype, out.device)):
            if weights.shape[1] == 0:
                continue
            part = source.narrow(axis, 0, weights.shape[1]) if rows is None else source.index_select(axis, rows)
            if axis == 0:
                part = (weights @ part.flatten(1)).unflatten(1, part.shape[1:])
            else:
                part = weights @ part
            value = part if value is None else value + part
        if value is None:
            value = out.new_zeros(())
        if group.hi == group.lo:
            out.copy_(value)
        else:
            for position, row in enumerate(group.border):
                out.select(axis, row).copy_(value.select(axis, position) if value.ndim else value)


def left_inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a level's 1-D analysis matrix: its transpose where that is exact, else its pseudo-inverse."""
    orthonormal = matrix.shape[0] == matrix.shape[1] and np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() < 1e-10
    return matrix.T.copy() if orthonormal else np.linalg.pinv(matrix)


def apply_levels(steps: Levels, grid: np.ndarray) -> np.ndarray:
    """Levels of matrices of the shape of analysis matrices, from the finest: ``(height, width, k)`` to ``(coefficients, k)``."""
    bands: list[np.ndarray] = []
    for rows, columns in steps:
        both = np.einsum("rh,cw,hwp->rcp", rows, columns, grid, optimize=True)
        h, w = len(rows) // 2, len(columns) // 2
        grid = both[:h, :w]
        bands = [both[h:, :w], both[:h, w:], both[h:, w:], *bands]
    return np.concatenate([band.reshape(-1, band.shape[2]) for band in [grid, *bands]])


def dense_levels(steps: Levels) -> np.ndarray:
    """Several levels, from the finest, as one ``(coefficients, pixels)`` matrix."""
    height, width = steps[0][0].shape[1], steps[0][1].shape[1]
    return apply_levels(steps, np.eye(height * width).reshape(height, width, -1))


class Bank:
    """The matrices of a transform in the form in which they are applied.

    Fine levels are stencils.  Levels of at most :data:`DENSE_PIXELS` pixels are one matrix: there calls cost more than
    arithmetic.

    Args:
        steps: ``(rows, columns)`` of every level, finest first, each of the shape of an analysis matrix.
        synthesis: apply the transposes of the matrices, from coefficients to pixels.
    """

    def __init__(self, steps: Levels, synthesis: bool) -> None:
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
        return Stencil(matrix.T, [slice(0, None, 2), slice(1, None, 2)], [slice(0, half), slice(half, None)], step=1)


def empty_like(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised array of a tensor's kind.  On a CPU NumPy allocates it, since it asks for huge pages.

    The first touch of ordinary pages would cost as much as half of the transform.
    """
    if like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.empty(shape, dtype=np.float32 if like.dtype == torch.float32 else np.float64))
    return like.new_empty(*shape)


class Workspace:
    """Work arrays carved out of one block of memory."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.block, self.used = empty_like(like, size), 0

    def take(self, *shape: int) -> Tensor:
        """The next array, not initialised; of its own memory where the block is used up."""
        start, self.used = self.used, self.used + prod(shape)
        return (
            self.block[start : self.used].view(shape)
            if self.used <= len(self.block)
            else empty_like(self.block, *shape)
        )
