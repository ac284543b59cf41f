"""Whatever holds images as an :class:`~numeric.imageset.ImageSet`: arrays, data sets, loaders, files, folders of pictures."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from numeric.imageset import ImageSet, LazyImages, image_set_of
from numeric.pixels import IMAGE_KEYS, DataError, check_layout, native_tensor, opaque
from numeric.results import readable

ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Names of tar files end so."""
LABEL_KEYS = ("labels", "label", "y")
"""Names of the labels in an ``.npz`` file."""


def fitted(picture: Image.Image, size: int | None = None, channels: int | None = None) -> Image.Image:
    """A picture with so many channels (1 or 3; 16 bits and floating ones stay grey), its centre square resized to ``size``."""
    if channels is not None and picture.mode[0] not in "IF":
        picture = opaque(picture).convert("L" if channels == 1 else "RGB")
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    return picture


class PictureFiles(Sequence[Image.Image]):
    """Picture files, each opened when it is asked for, upright as its camera meant it.

    Args:
        paths: in order.
        size: cut the centre square out and resize it to so many pixels; None: as stored.
        channels: convert to 1 (grey) or 3 (colour); None: as each file's mode says.
    """

    def __init__(self, paths: Sequence[Path], size: int | None = None, channels: int | None = None) -> None:
        if channels not in (None, 1, 3):
            raise DataError(f"channels must be 1 or 3, got {channels}")
        self.paths, self.size, self.channels = list(paths), size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        path = readable(self.paths[index])
        return fitted(_opened(path, str(path)), self.size, self.channels)


def _pictures() -> set[str]:
    """Suffixes of the pictures that Pillow opens."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _opened(place: Any, name: str) -> Image.Image:
    """A picture from a path or an open file, upright.

    Raises:
        DataError: it is none.
    """
    try:
        with Image.open(place) as file:
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except Exception as error:  # Pillow's readers raise what they meet: OSError, SyntaxError, ValueError, struct.error
        raise DataError(f"{name} is truncated or not a picture ({error}): remove it or fetch it again") from error
    return picture


class TarPictures(Sequence[Image.Image]):
    """The pictures of a tar file, in its order, as webdataset writes them (what else a sample has is passed over).

    Args:
        path: of the file, compressed or not (in compressed ones only reading in order is fast).
        size, channels: as in :class:`PictureFiles`.
    """

    def __init__(self, path: Path, size: int | None = None, channels: int | None = None) -> None:
        self.path, self.size, self.channels = path, size, channels
        self._open()

    def _open(self) -> None:
        known = _pictures()
        try:
            self._file = tarfile.open(readable(self.path))
            self._members = [m for m in self._file if m.isfile() and Path(m.name).suffix.lower() in known]
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{self.path} is truncated or not a tar file ({error}): write it again") from error
        if not self._members:
            raise DataError(f"{self.path} holds no pictures (.png, .jpg, ...)")

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.size, self.channels)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: Any) -> Any:
        member = self._members[index]
        name = f"{member.name} in {self.path}"
        try:
            content = self._file.extractfile(member)
            data = content.read() if content is not None else b""
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{name} cannot be read ({error}): write the file again") from error
        if len(data) != member.size:
            raise DataError(f"{name} is cut short: write the file again")
        return fitted(_opened(io.BytesIO(data), name), self.size, self.channels)


def picture_paths(folder: Path) -> list[Path]:
    """Every picture under a folder, sorted by path; what they are is told by their suffix.

    Raises:
        DataError: there is none.
    """
    known = _pictures()
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known and p.is_file())
    if not paths:
        raise DataError(f"{folder} holds no pictures (.png, .jpg, ... or folders of them)")
    return paths


def read_file(path: Path, size: int | None = None, channels: int | None = None) -> ImageSet:
    """Images from an ``.npy`` file (read from disk in batches), ``.npz``, ``.zarr``, ``.tar``, a picture or a folder of pictures.

    Args:
        size, channels: of pictures, as in :class:`PictureFiles`; arrays are as they are.

    Raises:
        DataError: not found, truncated, of another kind, or what is in it is no set of images.
    """
    if not path.exists():
        raise DataError(f"{path} was not found: give an .npy, .npz or .tar file, a picture or a folder of pictures")
    suffix = path.suffix.lower()
    if suffix == ".zarr":
        return _read_zarr(path)
    if path.is_dir():
        return ImageSet(LazyImages(PictureFiles(picture_paths(path), size, channels)), source=f"pictures in {path.name}")
    readable(path)
    if path.name.lower().endswith(ARCHIVES):
        return ImageSet(LazyImages(TarPictures(path, size, channels)), source=path.name)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix != ".npy" and suffix in Image.registered_extensions():
        return ImageSet(LazyImages(PictureFiles([path], size, channels)), source=path.name)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a hostile header makes NumPy raise more than ValueError
        raise DataError(f"{path} is truncated or not a NumPy array file ({error}): save it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path} is an archive of arrays: name it .npz")
    return _on_disk(array, path.name)


def _read_zarr(path: Path) -> ImageSet:
    try:
        import zarr
    except ImportError as error:
        raise DataError(f"{path} needs zarr ({error}): pip install zarr") from error
    try:
        array = zarr.open_array(str(path), mode="r")
    except Exception as error:  # zarr raises what its stores raise
        raise DataError(f"{path} is no zarr array ({error}): save it with zarr.save_array") from error
    return _on_disk(array, path.name)


def _read_npz(path: Path) -> ImageSet:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive)
            keys = [key for key in IMAGE_KEYS if key in names] or [key for key in names if key not in LABEL_KEYS]
            if len(keys) == 0 or (len(keys) > 1 and keys[0] not in IMAGE_KEYS):
                raise KeyError(f"its arrays are {', '.join(names) or 'none'}; one must be called 'images'")
            images = archive[keys[0]]
            labels = next((archive[key] for key in LABEL_KEYS if key in names), None)
    except Exception as error:
        raise DataError(f"{path} is not readable as an .npz file of images ({error}): save it with numpy.savez") from error
    kept = None if labels is None else native_tensor(labels, "labels").long()
    return image_set_of(native_tensor(images), path.name, kept)


def _on_disk(array: Any, source: str) -> ImageSet:
    """An array that is not in memory, ``(n, h, w)`` or ``(n, c, h, w)``, read in batches."""
    if len(array.shape) not in (3, 4):
        raise DataError(
            f"images must have shape (n, height, width) or (n, channels, height, width), got {tuple(array.shape)}"
        )
    check_layout(array.shape)
    return ImageSet(LazyImages(array, array=True), source=source)


def _of_loader(loader: Any) -> ImageSet:
    """The data set behind a DataLoader; loaders that change or choose the images are refused."""
    from torch.utils.data import RandomSampler, SequentialSampler, default_collate

    sampler = loader.sampler
    whole = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(loader.dataset)
    )
    if not whole or loader.collate_fn is not default_collate:
        raise DataError(
            "this DataLoader chooses or changes its images (sampler or collate_fn): give the data set itself, or a "
            "torch.utils.data.Subset of it"
        )
    return as_image_set(loader.dataset)


def as_image_set(data: Any, source: str = "array") -> ImageSet:
    """Any images as an :class:`~numeric.imageset.ImageSet`.

    Args:
        data: an ImageSet; an array or tensor ``(n, h, w)``, ``(n, c, h, w)`` (uint8, or floating in its own range) of any
            strides, byte order and precision; an array that is not in memory (``numpy.memmap``, h5py, zarr, dask); a
            map-style data set or list whose items are images, ``(image, label)`` pairs or dictionaries with an ``image``, or
            a DataLoader of one; a path: ``.npy``, ``.npz``, a picture, a folder of pictures. All but arrays in memory are
            read batch by batch (:class:`~numeric.imageset.LazyImages`), never as a whole; any number of channels.
        source: one line that says where an array came from.

    Raises:
        DataError: wrong shape or type, channels that come last, no image, or NaN pixels (of lazy images: when they are read).

    Example:
        >>> import numpy as np
        >>> from numeric import as_image_set
        >>> images = as_image_set(np.zeros((5, 8, 8), np.uint8))
        >>> len(images), images.shape
        (5, (1, 8, 8))
    """
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, LazyImages):
        return ImageSet(data, source=source)
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        try:
            return read_file(path)
        except DataError as error:
            if path.name in str(error):
                raise
            raise DataError(f"{path}: {error}") from error
    if isinstance(data, torch.utils.data.DataLoader):
        return _of_loader(data)
    if isinstance(data, Tensor):
        return image_set_of(data, source)
    if isinstance(data, np.memmap) or (hasattr(data, "chunks") and hasattr(data, "dtype")):
        return _on_disk(data, source)
    if isinstance(data, Image.Image):
        return ImageSet(LazyImages([data]), source=source)
    if isinstance(data, list | tuple):
        return _of_list(data, source)
    if isinstance(data, Mapping | set) or (hasattr(data, "__next__")):
        raise DataError(f"a {type(data).__name__} is no set of images: give an array, a data set, a list of pictures or a path")
    if isinstance(data, torch.utils.data.Dataset) or not hasattr(data, "__array__"):
        return ImageSet(LazyImages(data), source=type(data).__name__)
    return image_set_of(native_tensor(np.asarray(data)), source)


def _of_list(data: Sequence[Any], source: str) -> ImageSet:
    """A list of numbers, or of images of any kind."""
    if len(data) == 0:
        raise DataError("the image set is empty: give at least one image")
    if all(isinstance(item, str | os.PathLike) for item in data):
        paths = [Path(item).expanduser() for item in data]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"{missing[0]} was not found ({len(missing)} of {len(paths)} files)")
        return ImageSet(LazyImages(PictureFiles(paths)), source=source)
    pair = isinstance(data[0], tuple | list) and len(data[0]) > 0 and isinstance(data[0][0], Image.Image | Tensor | np.ndarray)
    if isinstance(data[0], Image.Image | Tensor | Mapping) or (pair and not all(isinstance(part, np.ndarray) for part in data[0])):
        return ImageSet(LazyImages(data), source=source)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise DataError(f"the images in the list have different shapes ({error}): resize them to one") from error
    return image_set_of(native_tensor(array), source)
