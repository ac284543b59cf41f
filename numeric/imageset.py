"""Sets of images behind one small interface, read in batches wherever they lie.

Images are handed out as tensors ``(n, channels, height, width)``: uint8 as float32 in [0, 1], floating ones in their own
range, as float64 if they are stored so and as float32 otherwise.  They are resized batch by batch (antialiased bilinear), so
that memory is bounded by the batch and not by the resized set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.pixels import DataError, check_dtype, check_layout, item_tensor, native_tensor

PASS = 256
"""Images read at a time for hash and range."""


def positions(index: Any, count: int) -> int | range | np.ndarray:
    """Which of ``count`` images an index means, by NumPy's own rules.

    Returns:
        An int (negative ones counted from the end), a range for slices, or an integer array for lists, arrays and boolean masks.

    Raises:
        IndexError: out of range, a mask of another length, floating numbers, or more than one axis.
    """
    if isinstance(index, slice):
        return range(count)[index]
    if isinstance(index, tuple):
        if len(index) != 1:
            raise IndexError("an image set is indexed along its images only: index the tensor that comes back, x[i][:, 0]")
        return positions(index[0], count)
    if isinstance(index, Tensor):
        index = index.detach().cpu()
        index = (index.float() if index.is_floating_point() else index).numpy()
    try:
        chosen = np.arange(count)[index]
    except IndexError as error:
        raise IndexError(f"{error} (the set has {count} images)") from error
    return int(chosen) if chosen.ndim == 0 else chosen


def _of_tensor(raw: Tensor, where: int | range | np.ndarray) -> Tensor:
    """``raw[where]``; a view for slices that go forward."""
    if isinstance(where, int):
        return raw[where]
    if isinstance(where, range) and where.step > 0:
        return raw[where.start : where.stop : where.step]
    return raw[torch.as_tensor(np.asarray(where, dtype=np.int64), device=raw.device)]


class LazyImages:
    """Images that stay where they are (a file, a data set) and are read a batch at a time, like a tensor's slices.

    Args:
        source: anything with a length whose items are images or ``(image, ...)`` pairs (:func:`numeric.pixels.item_tensor`):
            a map-style torch data set, a list of pictures, files; or an array ``(n, h, w)``, ``(n, c, h, w)`` that is not in
            memory, such as ``numpy.memmap``.
        indices: which items, in order; all by default.
        array: the source is such an array and can be sliced; by default if it is a NumPy array.

    Raises:
        DataError: no length, no image, or items of the wrong type; later, when they are read, items unlike the first.
    """

    def __init__(self, source: Any, indices: Sequence[int] | np.ndarray | None = None, array: bool | None = None) -> None:
        length = len(source) if hasattr(source, "__len__") else source.shape[0] if array else None  # arrays of zarr have no len
        if length is None or not hasattr(source, "__getitem__"):
            raise DataError(
                f"{type(source).__name__} has no length: give a map-style data set (with __len__ and __getitem__)"
            )
        self.source, self.array = source, isinstance(source, np.ndarray) if array is None else array
        self.indices = range(length) if indices is None else indices
        if len(self.indices) == 0:
            raise DataError("the image set is empty: give at least one image")
        first = self._item(self.indices[0])
        self.item_shape, self.dtype = tuple(first.shape), first.dtype
        check_dtype(self.dtype)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ndim(self) -> int:
        return 1 + len(self.item_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.item_shape)

    def _item(self, number: int) -> Tensor:
        return item_tensor(self.source[int(number)], f"image {number}", self.array)

    def _run(self, numbers: Sequence[int] | np.ndarray) -> Tensor | None:
        """Neighbouring images of an array in one read, or None."""
        if not self.array or len(numbers) == 0 or not np.array_equal(np.diff(numbers), np.ones(len(numbers) - 1)):
            return None
        part = native_tensor(np.asarray(self.source[int(numbers[0]) : int(numbers[-1]) + 1]))
        return part if part.ndim == 4 else part[:, None]

    def __getitem__(self, index: Any) -> Tensor:
        where = positions(index, len(self))
        if isinstance(where, int):
            return self[where : where + 1][0]
        chosen = np.asarray(self.indices)[np.asarray(where, dtype=np.int64)]
        out = self._run(chosen)
        if out is not None:
            return out
        out = torch.empty(chosen.size, *self.item_shape, dtype=self.dtype)
        for place, number in enumerate(chosen.flat):
            item = self._item(number)
            if tuple(item.shape) != self.item_shape or item.dtype != self.dtype:
                raise DataError(
                    f"image {number} is {item.dtype} {tuple(item.shape)}, the first is {self.dtype} {self.item_shape}: "
                    "give all images one type and size (a Resize transform)"
                )
            out[place] = item
        return out.reshape(*chosen.shape, *self.item_shape)

    def subset(self, index: Any) -> LazyImages:
        """Some of the images, none of them read but the first."""
        chosen = np.asarray(self.indices)[np.asarray(positions(index, len(self)), dtype=np.int64)]
        return LazyImages(self.source, np.atleast_1d(chosen), self.array)


@dataclass(frozen=True)
class ImageSet:
    """A set of images, read in batches.

    Attributes:
        raw: uint8 or floating ``(n, channels, height, width)``, a tensor in memory or :class:`LazyImages`; uint8 is
            divided by 255 when read.
        labels: int64 ``(n,)`` or None.
        size: side to resize to when read, or None for as stored.
        source: one line that says where the images came from.
        split: ``"train"``, ``"test"`` or any name.

    Raises:
        DataError: no image, another shape or type, or as many labels as there are no images.

    Example:
        >>> import numpy as np
        >>> from numeric.data import as_image_set
        >>> images = as_image_set(np.zeros((5, 8, 8), np.uint8)).resized(4)
        >>> images[:2].shape, images[-1].shape, images[[4, 0]].shape
        (torch.Size([2, 1, 4, 4]), torch.Size([1, 4, 4]), torch.Size([2, 1, 4, 4]))
        >>> half = images.subset([0, 2]).take(1)
        >>> len(half), half.shape, half.dtype, half.span, half.pixel_range, len(half.sha256), half.provenance['count']
        (1, (1, 4, 4), torch.float32, (0.0, 1.0), (0.0, 1.0), 64, 1)
        >>> [len(batch) for batch in images.batches(2)], images.hashed_again() == images.sha256
        ([2, 2, 1], True)
    """

    raw: Any
    labels: Tensor | None = None
    size: int | None = None
    source: str = "array"
    split: str = "all"
    _facts: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.raw.ndim != 4:
            raise DataError(f"images must have shape (n, channels, height, width), got {tuple(self.raw.shape)}")
        if len(self.raw) == 0:
            raise DataError("the image set is empty: give at least one image")
        if min(self.raw.shape) == 0:
            raise DataError(f"the images have no pixels: their shape is {tuple(self.raw.shape)}")
        check_dtype(self.raw.dtype)
        if self.size is not None and self.size < 1:
            raise DataError(f"size must be a positive number of pixels, got {self.size}")
        if self.labels is not None and tuple(self.labels.shape) != (len(self.raw),):
            raise DataError(f"{len(self.raw)} images have labels of shape {tuple(self.labels.shape)}: give one an image")

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the images as read."""
        channels, height, width = self.raw.shape[1:]
        return (channels, height, width) if self.size is None else (channels, self.size, self.size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the images as read: float64 if they are stored so, else float32."""
        return torch.float64 if self.raw.dtype == torch.float64 else torch.float32

    def __getitem__(self, index: Any) -> Tensor:
        """Images ``(n, channels, height, width)``, uint8 in [0, 1], floating ones in their own range.

        Args:
            index: whatever NumPy takes along one axis and with its meaning: an int (one image, ``(channels, height, width)``),
                slices with any step, lists and arrays of ints, boolean masks.

        Raises:
            IndexError: as NumPy does, and for more than one axis. DataError: NaN or infinite pixels.
        """
        return self._read(index)[0]

    def _read(self, index: Any, digest: Any = None) -> tuple[Tensor, tuple[float, float]]:
        """Images, and the lowest and highest of their stored pixels (of uint8: what they can be); a digest takes these in."""
        if isinstance(self.raw, Tensor):
            here = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32) and index.device == self.raw.device
            raw = self.raw[index] if here else _of_tensor(self.raw, positions(index, len(self)))
        else:
            raw = self.raw[index]
        span = _span(raw, self.source)
        if digest is not None:
            digest.update(_bytes(raw))
        images = raw.float().div_(255.0) if raw.dtype == torch.uint8 else raw.to(self.dtype)
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            flat = images.reshape(-1, *images.shape[-3:])
            if len(flat):
                flat = torch.nn.functional.interpolate(
                    flat, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False
                )
            images = flat.reshape(*images.shape[:-3], *self.shape)
        return images, span

    def batches(self, batch_size: int = 1000, hashed: bool = False) -> Iterator[Tensor]:
        """Images in order, ``batch_size`` at a time; ``hashed``: the stored pixels are hashed on the way (:attr:`sha256`)."""
        if batch_size < 1:
            raise DataError(f"batch_size must be >= 1, got {batch_size}")
        low, high = math.inf, -math.inf
        digest = hashlib.sha256() if hashed and "sha256" not in self._facts else None
        for start in range(0, len(self), batch_size):
            images, span = self._read(slice(start, start + batch_size), digest)
            low, high = min(low, span[0]), max(high, span[1])
            yield images
        self._facts["span"] = low, high  # a whole pass has seen every pixel
        if digest is not None:
            self._facts["sha256"] = digest.hexdigest()

    def subset(self, index: Any) -> ImageSet:
        """Some of the images as a set of their own, with their labels; lazy ones are not read."""
        where = np.atleast_1d(np.asarray(positions(index, len(self)), dtype=np.int64))
        if len(where) == 0:
            raise DataError("the image set is empty: choose at least one image")
        labels = None if self.labels is None else self.labels[torch.from_numpy(where)]
        raw = self.raw.subset(index) if isinstance(self.raw, LazyImages) else _of_tensor(self.raw, where)
        return replace(self, raw=raw, labels=labels, _facts={})

    def take(self, count: int | None) -> ImageSet:
        """The first ``count`` images (all, if None or more than there are)."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise DataError(f"cannot take {count} images: ask for at least 1")
        labels = None if self.labels is None else self.labels[:count]
        raw = self.raw.subset(slice(count)) if isinstance(self.raw, LazyImages) else self.raw[:count]
        return replace(self, raw=raw, labels=labels, _facts={})

    def resized(self, size: int | None) -> ImageSet:
        """The same images, read at ``size`` by ``size`` pixels."""
        return replace(self, size=size)

    def _scan(self, hashed: bool) -> None:
        """One pass over the stored pixels for their span and, if asked for, their hash."""
        digest, low, high = hashlib.sha256(), math.inf, -math.inf
        for start in range(0, len(self), PASS):
            part = self.raw[start : start + PASS]
            span = _span(part, self.source)
            low, high = min(low, span[0]), max(high, span[1])
            if hashed:
                digest.update(_bytes(part))
        self._facts["span"] = low, high
        if hashed:
            self._facts["sha256"] = digest.hexdigest()

    @property
    def sha256(self) -> str:
        """Hash of the stored pixels (before resizing), read a batch at a time; kept."""
        if "sha256" not in self._facts:
            self._scan(hashed=True)
        return self._facts["sha256"]

    def hashed_again(self) -> str:
        """:attr:`sha256` of the pixels as they are now: another where the array that a set shares memory with was written to."""
        return replace(self, _facts={}).sha256

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Lowest and highest value that a pixel can take: denoised images are clamped to it.

        The narrowest of [0, 1], [-1, 1] and [0, 255] that holds all stored pixels, else what they span themselves; uint8 is
        read as [0, 1].  Known after a whole pass of :meth:`batches` or :attr:`sha256`; before, it takes a pass of its own
        (of lazy images one that hashes too).
        """
        return usual_range(*self.span)

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest stored pixel as read (of uint8: 0 and 1); known and found as :attr:`pixel_range` is."""
        if self.raw.dtype == torch.uint8:
            return 0.0, 1.0
        if "span" not in self._facts:
            self._scan(hashed=isinstance(self.raw, LazyImages))
        return self._facts["span"]

    @property
    def provenance(self) -> dict[str, Any]:
        """What a results file records of its data."""
        return {
            "source": self.source,
            "split": self.split,
            "count": len(self),
            "shape": list(self.shape),
            "sha256": self.sha256,
            "pixel_range": list(self.pixel_range),
        }


def usual_range(low: float, high: float) -> tuple[float, float]:
    """The narrowest of [0, 1], [-1, 1] and [0, 255] that holds these pixels, else what they span themselves."""
    usual = [(a, b) for a, b in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)) if a <= low and high <= b]
    return usual[0] if usual else (low, high)


def _bytes(raw: Tensor) -> memoryview:
    return raw.cpu().contiguous().view(torch.uint8).numpy().reshape(-1).data


def _span(raw: Tensor, source: str) -> tuple[float, float]:
    """Lowest and highest stored pixel; 0 and 255 of uint8, which is not looked at.

    Raises:
        DataError: NaN or infinite pixels.
    """
    if raw.dtype == torch.uint8:
        return 0.0, 255.0
    if raw.numel() == 0:
        return math.inf, -math.inf
    low, high = (float(value) for value in torch.aminmax(raw))  # NaN is handed on
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(raw)).sum())
        raise DataError(f"{bad} pixel(s) are NaN or infinite ({source}): remove or replace them before fitting")
    return low, high


def image_set_of(tensor: Tensor, source: str = "array", labels: Tensor | None = None) -> ImageSet:
    """An array in memory ``(n, h, w)`` or ``(n, c, h, w)`` as an image set; type, layout and pixels are checked now.

    Raises:
        DataError: wrong shape or type, channels that come last, no image, or NaN pixels.
    """
    tensor = tensor.detach().cpu()
    check_dtype(tensor.dtype)
    check_layout(tensor.shape)
    if tensor.ndim == 3:
        tensor = tensor[:, None]
    out = ImageSet(tensor, labels, source=source)
    out._facts["span"] = _span(tensor, source)
    return out
