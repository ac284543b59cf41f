"""Photographs that come with packages, and image sets by name: colour and natural images beside MNIST.

Patches are split by photograph, so that no held-out patch comes from a picture that was fitted on.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from numeric._torchvision import import_torchvision
from numeric.imageset import ImageSet, LazyImages
from numeric.mnist import default_root, load_mnist
from numeric.pixels import DataError
from numeric.sources import PictureFiles, fitted, picture_paths

COLOUR = {
    "astronaut": "skimage/data/astronaut.png",
    "chelsea": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "rocket": "skimage/data/rocket.jpg",
    "retina": "skimage/data/retina.jpg",
    "hubble": "skimage/data/hubble_deep_field.jpg",
    "immunohistochemistry": "skimage/data/ihc.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
}
"""Colour photographs by name, as files of scikit-image and scikit-learn (in their wheels, nothing is downloaded)."""

GREY = {name: f"skimage/data/{name}.png" for name in ("camera", "brick", "grass", "gravel", "moon", "coins")}
"""Photographs that are grey to begin with."""

HELD_OUT = ("chelsea", "coffee", "china", "gravel", "coins")
"""Photographs whose patches are the ``test`` split."""


def photograph(name: str, channels: int = 3) -> Tensor:
    """One of the photographs as uint8 ``(channels, height, width)``.

    Raises:
        DataError: unknown, grey where 3 channels are asked for, or its package is not installed.
    """
    where = (COLOUR if channels == 3 else {**COLOUR, **GREY}).get(name)
    if where is None:
        kind = "is grey: ask for channels=1" if name in GREY else "is unknown"
        raise DataError(f"photograph {name!r} {kind}; colour: {', '.join(COLOUR)}; grey: {', '.join(GREY)}")
    package, _, inside = where.partition("/")
    spec = importlib.util.find_spec(package)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / inside
    if path is None or not path.is_file():
        raise DataError(f"photograph {name!r} is not in the {package} that is installed ({where}): install scikit-image and scikit-learn")
    pixels = np.asarray(PictureFiles([path], channels=channels)[0])
    return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy())


def patches(picture: Tensor, size: int, stride: int) -> Tensor:
    """Square patches ``(n, channels, size, size)`` of ``(channels, height, width)``, row by row, ``stride`` pixels apart."""
    windows = picture.unfold(1, size, stride).unfold(2, size, stride)  # (channels, rows, columns, size, size)
    return windows.permute(1, 2, 0, 3, 4).reshape(-1, len(picture), size, size)


def load_natural(
    split: str = "train",
    *,
    size: int = 32,
    channels: int = 3,
    count: int | None = None,
    stride: int | None = None,
    photographs: Sequence[str] | None = None,
    seed: int = 0,
) -> ImageSet:
    """Patches of the photographs that scikit-image and scikit-learn carry, uint8; nothing is downloaded.

    Args:
        split: ``"train"``, ``"test"`` (the patches of :data:`HELD_OUT`) or ``"all"``: whole photographs are held out.
        size: side of a patch, pixels of the photograph.
        channels: 3, or 1 for grey, to which the grey photographs are added.
        count: only the first so many, after mixing: a fair sample of all patches.
        stride: pixels between neighbouring patches (default: ``size``, no overlap).
        photographs: these instead of the split's (names in :data:`COLOUR` and :data:`GREY`).
        seed: of the mixing.

    Returns:
        A set whose labels say which photograph each patch comes from, numbered in the order of its ``source``.

    Raises:
        DataError: unknown split or photograph, or no photograph as large as a patch.

    Example:
        >>> from numeric.pictures import load_natural
        >>> load_natural("test", size=64, channels=1, count=100).shape
        (1, 64, 64)
    """
    if split not in ("train", "test", "all"):
        raise DataError(f"unknown split {split!r}: use 'train', 'test' or 'all'")
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 or 3, got {channels}")
    if size < 1 or (stride is not None and stride < 1):
        raise DataError(f"size and stride must be positive numbers of pixels, got {size} and {stride}")
    known = tuple(COLOUR if channels == 3 else {**COLOUR, **GREY})
    names = tuple(photographs) if photographs is not None else known
    if photographs is None and split != "all":
        names = tuple(name for name in known if (name in HELD_OUT) == (split == "test"))
    parts, used = [], []
    for name in names:
        picture = photograph(name, channels)
        if min(picture.shape[1:]) >= size:
            parts.append(patches(picture, size, size if stride is None else stride))
            used.append(name)
    if not parts:
        raise DataError(f"no photograph of {', '.join(names)} is {size} pixels wide and high: use a smaller size")
    order = torch.randperm(sum(map(len, parts)), generator=torch.Generator().manual_seed(seed))[:count]
    labels = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("scikit-image", "scikit-learn"))
    source = f"patches of {', '.join(used)} ({versions})"
    return ImageSet(torch.cat(parts)[order], labels[order], source=source, split=split).take(count)


# ----- sets by name ------------------------------------------------------------------------------------------------------


def _grey(pixels: Tensor) -> Tensor:
    """uint8 ``(n, 3, h, w)`` to ``(n, 1, h, w)`` by the weights and rounding of Pillow's ``convert("L")`` (ITU-R 601-2)."""
    weights = torch.tensor([19595, 38470, 7471])
    total = torch.zeros(len(pixels), *pixels.shape[2:], dtype=torch.int32)
    for channel, weight in enumerate(weights.tolist()):
        total += pixels[:, channel].to(torch.int32) * weight
    return ((total + 32768) >> 16).to(torch.uint8)[:, None]


class _Fitted(Sequence[Image.Image]):
    """The pictures of a torchvision data set, their centre square resized and with so many channels."""

    def __init__(self, data: Any, size: int | None, channels: int | None) -> None:
        self.data, self.size, self.channels = data, size, channels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        return fitted(self.data[index][0], self.size, self.channels)


NAMES = {"cifar10": "CIFAR10", "fashion-mnist": "FashionMNIST", "svhn": "SVHN", "celeba": "CelebA"}
"""Sets of torchvision by the names that :func:`load_images` takes."""


def _torchvision_set(name: str, split: str, root: Path, download: bool) -> Any:
    """torchvision's data set from ``root``, downloaded if it is not there.

    Raises:
        DataError: it is not there, and could not be had.
    """
    kind = getattr(import_torchvision("datasets"), NAMES[name])
    chosen = {"train": split == "train"} if name in ("cifar10", "fashion-mnist") else {"split": split}
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        try:
            return kind(str(root), download=False, **chosen)
        except Exception:
            if not download:
                raise
        return kind(str(root), download=True, **chosen)
    except Exception as error:  # torchvision and gdown raise what they meet: RuntimeError, OSError, ImportError, zlib.error
        tried = "no mirror gave it" if download else "downloading was not allowed"
        raise DataError(f"{NAMES[name]} is not in {root} and {tried} ({error}): put torchvision's files there or give a folder") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _folder(folder: Path, split: str, size: int | None, channels: int | None) -> ImageSet:
    """Pictures in a folder; its split is a sub-folder of that name, or every tenth picture is held out."""
    if split != "all" and any((folder / name).is_dir() for name in ("train", "test")):
        if not (folder / split).is_dir():
            raise DataError(f"{folder} has a sub-folder for another split but none called {split!r}: make one, or use split='all'")
        paths = picture_paths(folder / split)
    else:
        paths = picture_paths(folder)
        if split != "all":
            paths = [path for i, path in enumerate(paths) if (i % 10 == 9) == (split == "test")]
        if not paths:
            raise DataError(f"{folder} holds fewer than 10 pictures, so that none is held out: use split='all'")
    return ImageSet(LazyImages(PictureFiles(paths, size, channels)), source=f"pictures in {folder.name}", split=split)


def _letters(name: str) -> str:
    """A name without case and signs, so that ``CIFAR-10``, ``cifar_10`` and torchvision's ``CIFAR10`` are one."""
    return "".join(filter(str.isalnum, name.lower()))


def load_images(
    name: str | os.PathLike[str],
    split: str = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    count: int | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> ImageSet:
    """A set of images by its name, or a folder of pictures.

    Args:
        name: ``"mnist"``, ``"natural"`` (:func:`load_natural`), ``"cifar10"``, ``"fashion-mnist"``, ``"svhn"``, ``"celeba"``
            (the last four by torchvision, from ``root`` or its download), or a folder of pictures, whose splits are its
            sub-folders of those names; without them every tenth picture, in order of their paths, is the test split.
        split: ``"train"``, ``"test"``, or of a folder ``"all"``.
        size: side in pixels; pictures that are not square give their centre square. None: as stored.
        channels: 1 or 3; None: as stored.
        count: only the first so many.
        root: where torchvision's files are or go (default: :func:`numeric.mnist.default_root`).
        download: whether torchvision may fetch what is not there.

    Raises:
        DataError: unknown name, not a folder, or nothing there and nothing to be had.

    Example:
        >>> from numeric import load_images
        >>> load_images('natural', 'test', size=32, channels=1, count=2).shape
        (1, 32, 32)
    """
    key = {_letters(known): known for known in ("mnist", "natural", *NAMES)}.get(_letters(os.fspath(name)), "")
    if split not in ("train", "test", "all"):
        raise DataError(f"unknown split {split!r}: use 'train', 'test', or 'all' of a folder")
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 or 3, got {channels}")
    if key == "natural":
        return load_natural(split, size=32 if size is None else size, channels=channels or 3, count=count)
    if key not in ("mnist", *NAMES):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            known = ", ".join(["mnist", "natural", *NAMES])
            raise DataError(f"{os.fspath(name)!r} is neither a folder nor the name of a set: {known}")
        return _folder(folder, split, size, channels).take(count)
    if split == "all":
        raise DataError(f"{key} has the splits 'train' and 'test', not 'all'")
    if key == "mnist":
        found = load_mnist(split, size=size, root=root, download=download)
    else:
        data = _torchvision_set(key, split, Path(root) if root is not None else default_root(), download)
        if key == "celeba":
            lazy = LazyImages(_Fitted(data, size, channels))
            return ImageSet(lazy, source=NAMES[key], split=split).take(count)
        pixels = torch.as_tensor(data.data)
        if key == "cifar10":
            pixels = pixels.permute(0, 3, 1, 2)
        elif key == "fashion-mnist":
            pixels = pixels[:, None]
        labels = torch.as_tensor(np.asarray(data.labels if key == "svhn" else data.targets)).long()
        found = ImageSet(pixels.contiguous(), labels, size, NAMES[key], split)
    found = found.take(count)
    if channels is None or channels == found.raw.shape[1]:
        return found
    pixels = _grey(found.raw) if channels == 1 else found.raw.expand(-1, 3, -1, -1).contiguous()
    return ImageSet(pixels, found.labels, size, f"{found.source}, {'grey' if channels == 1 else 'three equal channels'}", split)
