"""Posterior means given a window, under the windows of many training images at the same place: exact, with blank windows merged.

The patch machines compare every window of a noisy image with all training windows at its place.  Here the training images lie
pixel by pixel, so that a comparison is a matrix product, ``-|y - x|^2 / 2 = y x - |x|^2 / 2 + const``, and

- training windows that are nothing but background (most of a digit's frame) are one candidate with their number as weight;
- the squared distances of wide windows are sums of those of their rows, which windows above each other share.

Nothing is left out: the sums are those over all training images, up to rounding.  For values without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from numeric.baselines.softmax import RunningSoftmax, weighted_sum
from numeric.data import ImageSet

MANY = 2000
"""Training images from which on this pays."""

HELD = 2**26
"""Pixels of training images that lie here at a time (256 MiB in float32; the windows and norms cut from them take twice that)."""

TILE = 2**20
"""Weights worked out at a time: few enough for the processor's cache."""

NARROW = 64
"""Numbers of a window up to which each place is worked out apart."""

STRIP = 1024
"""Training images at a time where rows are summed apart."""

MERGED = 0.3
"""Share of blank windows from which on they are merged: fewer do not pay for copying the others."""


class Field:
    """Training images pixel by pixel, less their background, ``(height, width, channels, n + 1)``; the last is blank.

    The background, ``(channels, 1, 1)``, is the most common value of each channel in the first images; a window that is nothing
    else has norm zero.
    """

    def __init__(self, clean: Tensor, background: Tensor) -> None:
        self.pixels = clean.new_zeros(*clean.shape[2:], clean.shape[1], len(clean) + 1)
        torch.sub(clean.permute(2, 3, 1, 0), background.permute(1, 2, 0)[..., None], out=self.pixels[..., :-1])

    def norms(self, columns: Tensor) -> Tensor:
        """Squared norms of the rows of windows, ``(height, places, n + 1)``, from a 0-1 matrix ``(places, width)``."""
        return torch.stack([columns @ row.square().sum(1) for row in self.pixels])


def merged(own: Tensor, precision: float) -> Tensor | None:
    """Let the last window, a blank one, stand for all blank ones; which windows are left to look at, None for all.

    Args:
        own: squared norms ``(n + 1,)``. The last becomes ``-2 log(number) / precision``, so that its weight
            ``exp(-precision own / 2)`` is that of as many, or infinite where the others are few and stay as they are.
    """
    inked = own > 0
    blank = len(own) - 1 - int(inked.sum())
    if blank <= MERGED * len(own):
        own[-1] = math.inf
        return None
    inked[-1], own[-1] = True, -2 * math.log(blank) / precision
    return torch.nonzero(inked).flatten()


def window_means(
    data: ImageSet, y: Tensor, rows: Tensor, columns: Tensor, precision: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Posterior means of whole windows, place by place.

    Args:
        y: noisy images ``(q, channels, height, width)`` in VE units. rows, columns: 0-1 matrices ``(places, length)``, the
            pixels of the windows along either axis; every pair of one of each is a window. precision: ``1 / sigma^2``.

    Yields: the window's rows and columns as indices, and its mean ``(q, channels, rows, columns)``.
    """
    down, across = _pixels(rows), _pixels(columns)
    background = _background(data, y)
    for (i, j), mean in _direct(data, y - background, background, rows, columns, precision, whole=True):
        yield down[i], across[j], mean.unflatten(1, (len(down[i]), len(across[j]), -1)).permute(0, 3, 1, 2) + background


def centre_means(data: ImageSet, y: Tensor, rows: Tensor, columns: Tensor, precision: float) -> Tensor:
    """Posterior means of every pixel given the window around it.

    Args:
        as :func:`window_means`, with a window for every pixel, which it holds: square 0-1 matrices.

    Returns: ``(q, channels, height, width)``.
    """
    out = torch.empty_like(y)
    numbers = y.shape[1] * int(rows.sum(1).amax()) * int(columns.sum(1).amax())
    narrow = numbers <= NARROW
    background = _background(data, y)
    given = data, y - background, background, rows, columns, precision
    for (i, j), mean in _direct(*given, whole=False) if narrow else _by_rows(*given):
        out[..., i, j] = mean
    return out.add_(background)


def _direct(
    data: ImageSet, y: Tensor, background: Tensor, rows: Tensor, columns: Tensor, precision: float, whole: bool
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Every place apart: its windows of all images against its windows of all noisy images.

    Args:
        whole: means of whole windows ``(q, rows x columns x channels)``; else of the pixel of the place ``(q, channels)``.
    """
    down, across = _pixels(rows), _pixels(columns)
    queries, block = y.permute(2, 3, 1, 0), max(1, TILE // min(len(data), _held(data)))
    states: dict[tuple[int, int], list[RunningSoftmax]] = {}
    for field in _fields(data, background):
        norms = field.norms(columns)
        for j, wide in enumerate(across):
            band, asked = _take(field.pixels, wide, 1).contiguous(), _take(queries, wide, 1)
            for i, high in enumerate(down):
                keys, own = _take(band, high).flatten(0, 2), _take(norms[:, j], high).sum(0)
                values = keys if whole else field.pixels[i, j]
                index = merged(own, precision)
                if index is not None:
                    keys, own = keys.index_select(1, index), own[index]
                    values = keys if whole else values.index_select(1, index)
                parts = _take(asked, high).flatten(0, 2).T.split(block)
                for part, state in zip(parts, states.setdefault((i, j), [RunningSoftmax() for _ in parts])):
                    logits = torch.addmm(own, part, keys, beta=-0.5 * precision, alpha=precision)
                    state.add(logits, 1, partial(weighted_sum, values.T))
    for place, found in states.items():
        yield place, torch.cat([state.mean for state in found])


def _by_rows(
    data: ImageSet, y: Tensor, background: Tensor, rows: Tensor, columns: Tensor, precision: float
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """A column of places at a time: exponents of the rows of their windows, then the sum over the rows of each window."""
    across, queries = _pixels(columns), y.permute(2, 0, 3, 1)
    step = max(1, min(STRIP, TILE // len(rows)))
    block = max(1, TILE // (len(rows) * step))
    states: dict[int, list[RunningSoftmax]] = {}
    for field in _fields(data, background):
        norms = field.norms(columns)
        for j, wide in enumerate(across):
            band, values = _take(field.pixels, wide, 1).flatten(1, 2), field.pixels[:, j].transpose(1, 2)
            strips = zip(
                *(t[..., :-1].split(step, -1) for t in (band, norms[:, j, None])), values[:, :-1].split(step, 1)
            )
            parts = _take(queries, wide, 2).flatten(2).split(block, 1)
            column = states.setdefault(j, [RunningSoftmax() for _ in parts])
            for strip, own, value in strips:
                for part, state in zip(parts, column):
                    of_rows = torch.baddbmm(own, part, strip, beta=-0.5 * precision, alpha=precision)
                    logits = (rows @ of_rows.flatten(1)).view_as(of_rows)
                    state.add(logits, 2, partial(weighted_sum, value))
    for j, found in states.items():
        for i, mean in enumerate(torch.cat([state.mean for state in found], 1)):
            yield (i, j), mean


def _background(data: ImageSet, y: Tensor) -> Tensor:
    """The most common value of each channel in the first images, ``(channels, 1, 1)``."""
    return data[:64].transpose(0, 1).flatten(1).mode(1).values.to(y)[:, None, None]


def _held(data: ImageSet) -> int:
    return max(1, HELD // math.prod(data.shape))


def _fields(data: ImageSet, background: Tensor) -> Iterator[Field]:
    """The training images, as many at a time as may lie here."""
    for clean in data.batches(_held(data)):
        yield Field(clean.to(background), background)


def _pixels(places: Tensor) -> list[Tensor]:
    """Of each row of a 0-1 matrix where it is 1."""
    return [torch.nonzero(place).flatten() for place in places]


def _take(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Entries along an axis, without copying where they lie side by side."""
    first, count = int(index[0]), len(index)
    return x.narrow(axis, first, count) if int(index[-1]) - first == count - 1 else x.index_select(axis, index)
