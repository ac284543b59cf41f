"""Data: the order of sources, announced fall-back, provenance, and clear errors for bad input."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from numeric import mnist
from numeric.data import (
    DataError,
    FallbackDataWarning,
    ImageSet,
    LazyImages,
    as_image_set,
    load_mnist,
    pixels_to_idx,
    read_idx,
)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.delenv("WAVELET_SCORE_DATA", raising=False)
    return tmp_path / "empty"


def test_fall_back_is_announced_and_recorded(nowhere):
    with pytest.warns(FallbackDataWarning, match="4,000"):
        train = load_mnist("train", root=nowhere, download=False)
    with pytest.warns(FallbackDataWarning):
        test = load_mnist("test", root=nowhere, download=False)
    assert (len(train), len(test)) == (4000, 1000)
    assert "fall-back" in train.provenance["source"] and len(train.sha256) == 64
    assert torch.bincount(train.labels).tolist() == [400] * 10
    seen = {image.numpy().tobytes() for image in train.raw}
    assert sum(image.numpy().tobytes() in seen for image in test.raw) == 0  # held out means held out


def test_images_are_resized_antialiased_and_in_range(nowhere):
    with pytest.warns(FallbackDataWarning):
        data = load_mnist("test", size=64, count=7, root=nowhere, download=False)
    images = data[:]
    assert images.shape == (7, 1, 64, 64) and images.dtype == torch.float32
    assert 0 <= images.min() and images.max() <= 1
    small = data.resized(7)[:]
    assert torch.allclose(small.mean((1, 2, 3)), data.resized(28)[:].mean((1, 2, 3)), atol=0.02)


def test_idx_round_trip_and_truncation(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    payload = pixels_to_idx(pixels)
    (tmp_path / "a").write_bytes(payload)
    (tmp_path / "a.gz").write_bytes(gzip.compress(payload))
    assert np.array_equal(read_idx(tmp_path / "a"), pixels)
    assert np.array_equal(read_idx(tmp_path / "a.gz"), pixels)
    (tmp_path / "b").write_bytes(payload[:-5])
    with pytest.raises(DataError, match="truncated: 55 data bytes, 60 expected"):
        read_idx(tmp_path / "b")
    (tmp_path / "b.gz").write_bytes(gzip.compress(payload)[:-9])
    with pytest.raises(DataError, match="truncated"):
        read_idx(tmp_path / "b.gz")
    (tmp_path / "c").write_bytes(b"hello world")
    with pytest.raises(DataError, match="not an IDX file"):
        read_idx(tmp_path / "c")


def test_wrong_folder_is_an_error_not_a_fall_back(monkeypatch, tmp_path):
    monkeypatch.setenv("WAVELET_SCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="holds no MNIST train files"):
        load_mnist("train")
    for name, shape in (("images-idx3", (5, 28, 28)), ("labels-idx1", (5,))):
        (tmp_path / f"train-{name}-ubyte").write_bytes(pixels_to_idx(np.zeros(shape, np.uint8)))
    with pytest.raises(DataError, match="is not MNIST's train file: md5"):
        load_mnist("train")


def corrupt(payload: bytes) -> bytes:
    """gzip with a bit turned in the middle of its data."""
    packed = bytearray(gzip.compress(payload))
    packed[len(packed) // 2] ^= 0x55
    return bytes(packed)


def test_a_corrupt_gzip_file_is_named(tmp_path):
    payload = pixels_to_idx(np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8))
    (tmp_path / "train.gz").write_bytes(corrupt(payload))
    with pytest.raises(DataError, match=r"train\.gz is truncated or not gzip .*fetch it again"):
        read_idx(tmp_path / "train.gz")
    for name in ("none", "."):
        with pytest.raises(DataError, match=r"was not found|is a folder"):
            read_idx(tmp_path / name)


def mnist_files(folder, split, pixels, labels):
    stem = {"train": "train", "test": "t10k"}[split]
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        (folder / f"{stem}-{name}-ubyte").write_bytes(pixels_to_idx(array))


@pytest.fixture
def small_mnist(monkeypatch):
    """Small files that take the place of MNIST's: their hashes are the ones that are asked for."""
    out = {}
    for number, (split, count) in enumerate((("train", 30), ("test", 20))):
        generator = np.random.default_rng(number)
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.permutation(np.arange(count) % 10).astype(np.uint8)
        monkeypatch.setitem(mnist._RAW_IMAGES_MD5, split, mnist._md5(pixels))
        monkeypatch.setitem(mnist._RAW_LABELS_MD5, split, mnist._md5(labels))
        out[split] = pixels, labels
    return out


def test_images_and_labels_must_belong_together(small_mnist, monkeypatch, tmp_path):
    (pixels, labels), (_, others) = small_mnist["train"], small_mnist["test"]
    monkeypatch.setenv("WAVELET_SCORE_DATA", str(tmp_path))
    mnist_files(tmp_path, "train", pixels, labels)
    assert load_mnist("train").labels.tolist() == labels.tolist()
    wrong = labels.copy()
    wrong[0] = 10
    for given, message in (
        (others, "holds 20 labels for the 30 images"),
        (pixels, "holds an array of 3 dimensions, no labels"),
        (wrong, "holds the class 10"),
        (labels[::-1], "train-labels-idx1-ubyte is not MNIST's train file: md5"),
    ):
        mnist_files(tmp_path, "train", pixels, given)
        with pytest.raises(DataError, match=message):
            load_mnist("train")
    mnist_files(tmp_path, "train", labels, labels)
    with pytest.raises(DataError, match="holds an array of 1 dimensions, no images"):
        load_mnist("train")


@pytest.fixture
def mirror(monkeypatch, small_mnist):
    """torchvision's download, with a list of what comes at each try."""

    class Mirror:
        tries: list = []  # noqa: RUF012

        def MNIST(self, root, train, download):
            what = self.tries.pop(0)
            split = "train" if train else "test"
            pixels, labels = small_mnist[split]
            if what == "whole" or what == "part":
                mnist_files(Path(root) / "MNIST" / "raw", split, pixels, labels)
            if what == "part":
                path = Path(root) / "MNIST" / "raw" / "train-images-idx3-ubyte"
                path.write_bytes(path.read_bytes()[:-9])
            if isinstance(what, Exception):
                (Path(root) / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
                (Path(root) / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"half")
                raise what

    out = Mirror()
    monkeypatch.setattr(mnist, "import_torchvision", lambda _: out)
    return out


def test_a_broken_download_is_fetched_again(mirror, small_mnist, monkeypatch, tmp_path):
    monkeypatch.delenv("WAVELET_SCORE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    raw = tmp_path / "wavelet-score" / "MNIST" / "raw"
    mirror.tries = ["part", "whole"]
    assert load_mnist("train").source == "MNIST" and mirror.tries == []  # broken on the way: once more
    (raw / "train-images-idx3-ubyte").write_bytes(b"half")
    with pytest.raises(DataError, match="remains of a broken download: delete it"):
        load_mnist("train", download=False)
    mirror.tries = ["whole"]
    assert load_mnist("train").source == "MNIST" and mirror.tries == []  # broken at an earlier time: anew
    (raw / "train-images-idx3-ubyte").write_bytes(b"half")
    mirror.tries = [zlib.error("bad"), "never asked"]
    with pytest.warns(FallbackDataWarning):
        load_mnist("train")
    assert list(raw.iterdir()) == []  # nothing that the next call would take for the data
    mirror.tries = ["part", "part"]
    with pytest.warns(FallbackDataWarning):
        load_mnist("train")
    assert list(raw.iterdir()) == []


def test_a_download_never_touches_the_users_own_files(mirror, monkeypatch, tmp_path):
    monkeypatch.delenv("WAVELET_SCORE_DATA", raising=False)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"mine")
    mirror.tries = [OSError("no mirror")]
    with pytest.warns(FallbackDataWarning):
        load_mnist("train", root=tmp_path)
    assert [(p.name, p.read_bytes()) for p in raw.iterdir()] == [("train-labels-idx1-ubyte", b"mine")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_mnist("validation"), "unknown split 'validation'"),
        (lambda: as_image_set(np.zeros((0, 8, 8), np.uint8)), "empty"),
        (lambda: as_image_set(np.zeros((8, 8), np.float32)), "shape"),
        (lambda: as_image_set(np.zeros((2, 8, 8), np.int64)), "uint8 or floating, got torch.int64"),
        (lambda: as_image_set(np.full((2, 8, 8), np.nan)), "NaN"),
        (lambda: as_image_set(np.zeros((2, 8, 8), np.uint8)).take(0), "cannot take 0"),
        (lambda: list(as_image_set(np.zeros((2, 8, 8), np.uint8)).batches(0)), "batch_size must be >= 1, got 0"),
        (lambda: ImageSet(torch.zeros(2, 1, 8, 8), size=0), "size must be a positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DataError, match=message):
        call()


class Pairs(torch.utils.data.Dataset):
    """A data set that counts how many items were read."""

    def __init__(self, pixels, convert=lambda x: x):
        self.pixels, self.convert, self.reads = pixels, convert, 0

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        self.reads += 1
        return self.convert(self.pixels[index]), 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_torch_data_set_and_array_agree(channels):
    """Same images, batches, shape and hash; nothing is read before it is asked for."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (6, channels, 8, 8), generator=generator, dtype=torch.uint8)
    pairs = Pairs(pixels)
    lazy, array = as_image_set(pairs), as_image_set(pixels)
    assert pairs.reads == 1 and isinstance(lazy.raw, LazyImages)
    assert torch.equal(next(lazy.batches(2)), array[:2]) and pairs.reads == 3
    assert torch.equal(lazy[:], array[:]) and lazy.shape == (channels, 8, 8)
    assert torch.equal(lazy.take(4)[torch.tensor([3, 0])], array[torch.tensor([3, 0])]) and len(lazy.take(4)) == 4
    assert lazy.sha256 == array.sha256 and lazy.take(4).sha256 == array.take(4).sha256 != lazy.sha256
    assert lazy.provenance["source"] == "Pairs"
    assert torch.equal(lazy.resized(4)[:], array.resized(4)[:])


def test_items_with_channels_last_and_without_channels():
    """PIL images and arrays are (h, w) or (h, w, c); tensors are (c, h, w)."""
    colour = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    from PIL import Image

    pil = Pairs(colour, lambda x: Image.fromarray(x.permute(1, 2, 0).numpy()))
    assert torch.equal(as_image_set(pil)[:], as_image_set(colour)[:])
    grey = Pairs(colour, lambda x: Image.fromarray(x[0].numpy()))
    assert torch.equal(as_image_set(grey)[:], as_image_set(colour[:, :1])[:])


def test_an_array_on_disk_is_read_in_batches(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    mapped = as_image_set(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert isinstance(mapped.raw, LazyImages) and mapped.shape == (3, 8, 8)
    assert torch.equal(torch.cat(list(mapped.batches(7))), as_image_set(pixels)[:])
    assert mapped.sha256 == as_image_set(pixels).sha256


def test_a_fit_from_a_lazy_data_set_is_the_fit_from_the_array():
    from numeric.scores.own import WaveletScore

    pixels = torch.randint(0, 256, (60, 2, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    one, other = (WaveletScore("band", 2, levels=1).fit(x, batch_size=25) for x in (Pairs(pixels), pixels))
    assert one.expected_mse(0.5) == other.expected_mse(0.5)


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda x: x.long(), "uint8 or floating, got torch.int64"),
        (lambda x: x[:, : 4 + int(x[0, 0, 0] == 9)], "image 1 is torch.uint8 .*, the first is torch.uint8"),
        (lambda x: torch.where(x == 9, torch.nan, x.float()), "NaN"),
    ],
)
def test_bad_items_are_named(convert, message):
    pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    pixels[1] = 9
    with pytest.raises(DataError, match=message):
        as_image_set(Pairs(pixels, convert))[:]


def test_a_stream_without_length_is_named():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(DataError, match="has no length"):
        as_image_set(Stream())


def test_items_of_many_channels_keep_their_layout():
    """Arrays ``(channels, height, width)`` of more than four channels, from a data set as from a list."""
    items = [np.random.default_rng(k).random((6, 8, 10), dtype=np.float32) for k in range(5)]

    class Set(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int) -> np.ndarray:
            return items[index]

    assert as_image_set(Set()).shape == as_image_set(items).shape == (6, 8, 10)
    assert torch.equal(as_image_set(Set())[:], torch.from_numpy(np.stack(items)))
