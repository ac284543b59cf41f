"""Images in shards, so that a pass over them can be split: files, pieces of one set, blocks of a dask array.

A shard has a name and can be opened where it is to be read, in this process or on another machine.  Which images lie in
which shard depends on the images alone, never on who reads them.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from numeric.cluster import connected
from numeric.imageset import ImageSet, LazyImages, image_set_of, usual_range
from numeric.pixels import DataError, native_tensor
from numeric.sources import ARCHIVES, PictureFiles, as_image_set, picture_paths, read_file

SHARD_BYTES = 2**23
"""Stored pixels of one shard of a set that is cut into shards here."""
SHARD_IMAGES = 4096
"""Images of one shard of such a set, at most."""


class ShardError(DataError):
    """A shard cannot be read; the message names it."""


def check_shape(shape: Sequence[int], wanted: Sequence[int] | None, name: str = "a shard") -> None:
    """Raise ShardError unless images are of the shape of the first one (if that is known)."""
    if wanted is not None and tuple(shape) != tuple(wanted):
        raise ShardError(f"{name} holds images of {tuple(shape)}, the first one of {tuple(wanted)}: give all one size and channels")


@dataclass(frozen=True)
class FileShard:
    """What a path holds, or a run of its images.

    Attributes:
        path: ``.npy``, ``.npz``, ``.tar``, ``.zarr``, a picture or a folder of pictures, as the reader sees it.
        start, stop: run of its images; all by default.
        size, channels: of the images (centre squares of pictures are cut out, arrays resized); None: as stored.
    """

    path: Path
    start: int | None = None
    stop: int | None = None
    size: int | None = None
    channels: int | None = None
    given: Any = None

    @property
    def name(self) -> str:
        run = "" if self.start is None else f"[{self.start}:{self.stop}]"
        return f"{self.path}{run}"

    def open(self, given: Any = None) -> ImageSet:
        """The images."""
        found = read_file(self.path, self.size, self.channels).resized(self.size)
        return found if self.start is None else found.subset(slice(self.start, self.stop))

    def identity(self) -> Any:
        """What tells these images from others without reading them: path, and size and time of the file where it can be seen."""
        try:
            facts = self.path.stat()
        except OSError:
            return [self.name, self.size, self.channels]
        if self.path.is_dir():  # a folder's own time does not change with what is in its files
            inside = [(str(path.relative_to(self.path)), path.stat()) for path in sorted(self.path.rglob("*")) if path.is_file()]
            return [self.name, self.size, self.channels, [[name, one.st_size, one.st_mtime_ns] for name, one in inside]]
        return [self.name, self.size, self.channels, facts.st_size, facts.st_mtime_ns]


@dataclass(frozen=True)
class PieceShard:
    """A run of images of a set in this process; only the run travels."""

    name: str
    images: ImageSet
    start: int
    stop: int
    given: Any = None

    def open(self, given: Any = None) -> ImageSet:
        """The images."""
        return self.images.subset(slice(self.start, self.stop))

    def __reduce__(self) -> Any:
        piece, raw = self.open(), self.images.raw[self.start : self.stop] if self._in_file else None
        if raw is None and isinstance(piece.raw, Tensor):
            raw = piece.raw.clone()  # a view would take all it is a view of with it
        if raw is not None:
            piece = replace(piece, raw=raw)
        return type(self), (self.name, replace(piece, labels=None), 0, len(piece))

    @property
    def _in_file(self) -> bool:
        raw = self.images.raw
        return isinstance(raw, LazyImages) and isinstance(raw.source, np.ndarray)

    def identity(self) -> Any:
        """Name and run; the set itself is told apart by its hash."""
        return [self.name]


@dataclass(frozen=True)
class ItemsShard:
    """A run of a data set of any kind, which travels as a whole, once to each reader."""

    name: str
    given: ImageSet
    start: int
    stop: int

    def open(self, given: ImageSet) -> ImageSet:
        """The images."""
        return given.subset(slice(self.start, self.stop))

    def identity(self) -> Any:
        """Name and run; the set itself is told apart by its hash."""
        return [self.name]


@dataclass(frozen=True)
class BlockShard:
    """A block of a dask array along its first axis; computed where it is read."""

    name: str
    given: Any
    size: int | None = None

    def open(self, given: Any) -> ImageSet:
        """The images."""
        return image_set_of(native_tensor(np.asarray(given)), self.name).resized(self.size)

    def identity(self) -> Any:
        """Dask's own name of the block, a hash of what it is computed from."""
        return [self.name, self.given.name, self.size]


@dataclass
class Shards:
    """A set of images in shards, and who reads them.

    Attributes:
        shards: in order; each has a ``name`` and is opened as an :class:`~numeric.imageset.ImageSet`.
        source: one line that says where the images came from.
        client: who reads them (:func:`numeric.cluster.connected`); None: this process.
        tasks: at most so many runs of neighbouring shards are summed apart before their sums are put together. A run is
            what is done again after a fault; its number must not depend on the number of workers.

    Example:
        >>> import numpy as np
        >>> from numeric import WaveletScore, as_shards
        >>> shards = as_shards(np.zeros((5, 8, 8), np.uint8), shard_size=2)
        >>> model = WaveletScore('independent', degree=1).fit(shards)  # a pass
        >>> shards.shape, shards.first.shape, shards.pixel_range, len(shards.sha256), shards.provenance['count']
        ((1, 8, 8), torch.Size([1, 1, 8, 8]), (0.0, 1.0), 64, 5)
        >>> len(shards.runs), len(shards.identities()), len(shards.head.shards)
        (3, 3, 1)
        >>> with shards.connected() as client:
        ...     print(client)
        None
        >>> shards.learn(5, (0.0, 1.0), ['a', 'b', 'c'])
        >>> shards.forget()
    """

    shards: list[Any]
    source: str = "shards"
    client: Any = None
    tasks: int = 4096
    _facts: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.shards) == 0:
            raise DataError("there is no shard: give at least one")
        if self.tasks < 1:
            raise DataError(f"tasks must be >= 1, got {self.tasks}")

    def __getstate__(self) -> dict[str, Any]:
        """Pickled without the client, which belongs to this process."""
        return {**self.__dict__, "client": None, "_facts": {k: v for k, v in self._facts.items() if k != "open"}}

    @property
    def runs(self) -> list[list[Any]]:
        """Neighbouring shards that one task sums."""
        edges = np.linspace(0, len(self.shards), min(self.tasks, len(self.shards)) + 1).astype(int)
        return [self.shards[a:b] for a, b in itertools.pairwise(edges)]

    @property
    def head(self) -> Shards:
        """The first shard alone, read by the same client."""
        facts = {"open": self._facts["open"]} if "open" in self._facts else {}
        return Shards(self.shards[:1], self.source, self.client, self.tasks, facts)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The connection to the client, opened once for everything inside the block; None: this process."""
        if "open" in self._facts:
            yield self._facts["open"]
            return
        with connected(self.client) as client:
            self._facts["open"] = client
            try:
                yield client
            finally:
                del self._facts["open"]

    def identities(self) -> list[str]:
        """For every run the hash of what tells its images from others; no file of pixels is read."""

        def one(shard: Any) -> Any:
            images = getattr(shard, "images", shard.given)
            return [shard.identity(), images.sha256 if isinstance(images, ImageSet) else None]

        return [hashlib.sha256(json.dumps([one(shard) for shard in run]).encode()).hexdigest() for run in self.runs]

    # ----- what a pass finds out -----------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Forget what passes have seen (a connection stays open)."""
        self._facts = {name: fact for name, fact in self._facts.items() if name == "open"}

    def learn(self, count: int, span: tuple[float, float], hashes: Sequence[str]) -> None:
        """Keep what a pass has seen: the number of images, the span of their pixels, the hash of every shard."""
        self._facts |= {"count": count, "span": span}
        if hashes:
            self._facts["sha256"] = hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def _fact(self, name: str) -> Any:
        if name not in self._facts:
            raise DataError(f"the {name} of images in shards is known after a pass over them: fit first")
        return self._facts[name]

    def __len__(self) -> int:
        return int(self._fact("count"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``, after :func:`numeric.scores.totals.look`."""
        return self._fact("shape")

    @property
    def first(self) -> Tensor:
        """The first image ``(1, channels, height, width)``, after :func:`numeric.scores.totals.look`."""
        return self._fact("first")

    @property
    def sha256(self) -> str:
        """Hash of the hashes of the shards' stored pixels, after a pass."""
        return self._fact("sha256")

    @property
    def pixel_range(self) -> tuple[float, float]:
        """As :attr:`numeric.imageset.ImageSet.pixel_range`, after a pass."""
        return usual_range(*self._fact("span"))

    @property
    def provenance(self) -> dict[str, Any]:
        """What a results file records of its data."""
        return {
            "source": self.source, "shards": len(self.shards), "count": len(self), "shape": list(self.shape),
            "sha256": self.sha256, "pixel_range": list(self.pixel_range),
        }  # fmt: skip


# ----- making shards -----------------------------------------------------------------------------------------------------


def _cut(images: ImageSet, name: str, shard_size: int | None) -> list[Any]:
    """Runs of one set."""
    raw = images.raw
    pixels = int(np.prod(raw.shape[1:])) * raw.dtype.itemsize
    step = shard_size or max(1, min(SHARD_IMAGES, SHARD_BYTES // pixels))
    edges = [(start, min(start + step, len(images))) for start in range(0, len(images), step)]
    travels = isinstance(raw, Tensor) or isinstance(raw.source, np.ndarray)
    kind = PieceShard if travels else ItemsShard
    return [kind(f"{name}[{a}:{b}]", images, a, b) for a, b in edges]


def _cut_path(path: Path, size: int | None, channels: int | None, shard_size: int | None) -> list[Any]:
    """Runs of what one path holds, opened again by whoever reads them."""
    if path.is_dir() and path.suffix != ".zarr":
        inside = sorted(p for p in path.iterdir() if p.name.lower().endswith((*ARCHIVES, ".npy", ".npz", ".zarr")))
        if inside:
            return [FileShard(p, size=size, channels=channels) for p in inside]
        return _cut_pictures(picture_paths(path), str(path), size, channels, shard_size)
    whole = _cut(read_file(path, size, channels).resized(size), path.name, shard_size)
    return [FileShard(path, shard.start, shard.stop, size, channels) for shard in whole]


def _cut_pictures(
    paths: list[Path], name: str, size: int | None, channels: int | None, shard_size: int | None
) -> list[Any]:
    """Runs of picture files; only their paths travel."""
    step = shard_size or max(1, SHARD_IMAGES // 8)  # a picture is decoded, which costs more than an array's reading
    edges = [(start, min(start + step, len(paths))) for start in range(0, len(paths), step)]
    return [PicturesShard(f"{name}[{a}:{b}]", tuple(paths[a:b]), size, channels) for a, b in edges]


@dataclass(frozen=True)
class PicturesShard:
    """A run of picture files."""

    name: str
    paths: tuple[Path, ...]
    size: int | None = None
    channels: int | None = None
    given: Any = None

    def open(self, given: Any = None) -> ImageSet:
        """The images."""
        return ImageSet(LazyImages(PictureFiles(self.paths, self.size, self.channels)), source=self.name)

    def identity(self) -> Any:
        """Paths, and size and time of those files that can be seen."""
        return [FileShard(path, None, None, self.size, self.channels).identity() for path in self.paths]


def is_dask(data: Any) -> bool:
    """Whether it is a dask array (Dask is not imported to find out)."""
    return type(data).__module__.startswith("dask.array")


def as_shards(
    data: Any,
    *,
    size: int | None = None,
    channels: int | None = None,
    shard_size: int | None = None,
    client: Any = None,
    tasks: int = 4096,
) -> Shards:
    """Any images as :class:`Shards`.

    Args:
        data: Shards; a dask array ``(n, h, w)`` or ``(n, c, h, w)``, whose blocks along the first axis are the shards; a list
            of paths (``.npy``, ``.npz``, ``.zarr``, ``.tar`` with pictures as webdataset writes it, folders of pictures), a
            pattern such as ``"train-*.tar"``, or a folder of such files, a shard each; a list of image sets or of arrays
            ``(n, c, h, w)``; or anything that :func:`numeric.data.as_image_set` takes, which is cut into runs of images.
        size: side to resize to, pixels. channels: 1 or 3, of pictures. None: as stored.
        shard_size: images in a run of a set that is cut; by default about 8 MiB of stored pixels.
        client, tasks: see :class:`Shards`.

    Raises:
        DataError: nothing there, or images that cannot be cut.

    Example:
        >>> import numpy as np
        >>> from numeric import as_shards
        >>> len(as_shards(np.zeros((5, 8, 8), np.uint8), shard_size=2).shards)
        3
    """
    if shard_size is not None and shard_size < 1:
        raise DataError(f"shard_size must be >= 1, got {shard_size}")
    if isinstance(data, Shards):
        return data if client is None else replace(data, client=client, _facts={})
    shards, source = _shards(data, size, channels, shard_size)
    return Shards(shards, source, client, tasks)


def _shards(data: Any, size: int | None, channels: int | None, shard_size: int | None) -> tuple[list[Any], str]:
    if is_dask(data):
        return _blocks(data, size), "dask array"
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        if not path.exists() and glob.has_magic(str(path)):
            found = sorted(glob.glob(str(path)))
            if not found:
                raise DataError(f"no file matches {path}")
            return _shards(found, size, channels, shard_size)[0], path.name
        return _cut_path(path, size, channels, shard_size), path.name
    if isinstance(data, list | tuple) and len(data) > 0:
        if all(isinstance(item, str | os.PathLike) for item in data):
            paths = [Path(item).expanduser() for item in data]
            pictures = set(Image.registered_extensions())
            if all(path.suffix.lower() in pictures for path in paths):
                return _cut_pictures(paths, "pictures", size, channels, shard_size), "pictures"
            return [FileShard(path, size=size, channels=channels) for path in paths], f"{len(paths)} files"
        if all(isinstance(item, ImageSet) or getattr(item, "ndim", 0) == 4 for item in data):
            sets = [as_image_set(item).resized(size) if size else as_image_set(item) for item in data]
            return [PieceShard(f"set {i}", part, 0, len(part)) for i, part in enumerate(sets)], f"{len(sets)} sets"
    images = as_image_set(data)
    images = images if size is None else images.resized(size)
    return _cut(images, images.source, shard_size), images.source


def _blocks(array: Any, size: int | None) -> list[Any]:
    """Blocks of a dask array along its first axis, whole along the others."""
    if array.ndim not in (3, 4):
        raise DataError(f"images must have shape (n, height, width) or (n, channels, height, width), got {tuple(array.shape)}")
    array = array.rechunk({axis: -1 for axis in range(1, array.ndim)})
    return [BlockShard(f"block {i}", array.blocks[i], size) for i in range(array.numblocks[0])]
