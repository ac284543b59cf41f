"""Photographs by name, split by photograph; sets of torchvision and folders of pictures."""

from __future__ import annotations

import hashlib
import socket

import numpy as np
import pytest
import torch
from PIL import Image

import numeric
from numeric import pictures
from numeric.data import DataError, LazyImages, pixels_to_idx
from numeric.pictures import COLOUR, GREY, HELD_OUT, load_images, load_natural, patches, photograph
from tests.threads import torch_threads


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may reach for the network: photographs come with the packages."""

    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", sorted({**COLOUR, **GREY}))
def test_every_photograph_is_in_its_package(name):
    """Their own loaders give the same pixels."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    ours = photograph(name, 1 if name in GREY else 3).permute(1, 2, 0).numpy()
    loaders = {
        "china": lambda: load_sample_image("china.jpg"),
        "flower": lambda: load_sample_image("flower.jpg"),
        "hubble": skimage.data.hubble_deep_field,
        "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    }
    theirs = loaders.get(name, getattr(skimage.data, name, None))()
    assert np.array_equal(ours, np.atleast_3d(theirs)) and ours.std() > 5


def test_patches_tile_the_photograph():
    picture = photograph("coffee")
    tiles = patches(picture, 100, 100)
    assert torch.equal(tiles.reshape(4, 6, 3, 100, 100).permute(2, 0, 3, 1, 4).reshape(3, 400, 600), picture)
    assert len(patches(picture, 32, 16)) == (1 + (400 - 32) // 16) * (1 + (600 - 32) // 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_photograph_is_in_both_splits(channels):
    train, test, both = (load_natural(split, size=64, channels=channels) for split in ("train", "test", "all"))
    assert len(train) + len(test) == len(both) and train.shape == (channels, 64, 64) and train.raw.dtype == torch.uint8
    assert all((name in test.source) == (name in HELD_OUT) for name in (COLOUR if channels == 3 else GREY))
    assert all((name in train.source) != (name in HELD_OUT) for name in (COLOUR if channels == 3 else GREY))
    patch = test.raw[0]
    name = test.source.split(" (")[0].removeprefix("patches of ").split(", ")[int(test.labels[0])]
    assert any(torch.equal(patch, other) for other in patches(photograph(name, channels), 64, 64))


def test_natural_sets_are_mixed_counted_and_recorded():
    whole, some = load_natural("test", size=32), load_natural("test", size=32, count=60)
    assert torch.equal(some.raw, whole.raw[:60]) and set(some.labels.tolist()) == {0, 1, 2}
    assert not torch.equal(load_natural("test", size=32, seed=1).raw[:60], some.raw)
    record = some.provenance
    assert "scikit-image" in record["source"] and record["sha256"] == hashlib.sha256(some.raw.numpy().tobytes()).hexdigest()
    assert load_natural(photographs=["moon"], channels=1, size=512).shape == (1, 512, 512)
    assert len(load_natural("test", size=64, stride=16)) > 10 * len(load_natural("test", size=64))
    assert numeric.load_natural is load_natural and numeric.load_images is load_images


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_natural("validation"), "unknown split 'validation'"),
        (lambda: load_natural(channels=2), "channels must be 1 or 3, got 2"),
        (lambda: load_natural(size=0), "positive numbers of pixels, got 0"),
        (lambda: load_natural(stride=0), "positive numbers of pixels, got 32 and 0"),
        (lambda: load_natural(size=5000), "no photograph of .* is 5000 pixels wide"),
        (lambda: load_natural(count=0), "empty"),
        (lambda: load_natural(photographs=["moon"]), "'moon' is grey: ask for channels=1"),
        (lambda: load_natural(photographs=["lena"]), "'lena' is unknown; colour: astronaut"),
        (lambda: load_images("imagenet"), "neither a folder nor the name of a set: mnist, natural, cifar10"),
        (lambda: load_images("cifar10", "all"), "not 'all'"),
        (lambda: load_images("cifar10", channels=4), "channels must be 1 or 3"),
        (lambda: load_images("natural", "val"), "unknown split 'val'"),
    ],
)
def test_bad_requests_are_named(call, message):
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "of_torchvision"),
    [("cifar10", "CIFAR10"), ("CIFAR-10", "CIFAR10"), ("fashion_mnist", "FashionMNIST"), ("FashionMNIST", "FashionMNIST"), ("svhn", "SVHN"), ("CelebA", "CelebA")],
)
def test_what_cannot_be_had_is_named(name, of_torchvision, tmp_path):
    """However the set's name is written."""
    with pytest.raises(DataError, match=rf"{of_torchvision} is not in .*downloading was not allowed"):
        load_images(name, root=tmp_path, download=False)


def test_fashion_mnist_by_torchvisions_own_reader(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    x, labels = generator.integers(0, 256, (12, 28, 28), dtype=np.uint8), np.arange(12, dtype=np.uint8) % 10
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(pixels_to_idx(x))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(pixels_to_idx(labels))
    images = load_images("fashion_mnist", root=tmp_path, download=False, size=32, count=5)
    assert images.shape == (1, 32, 32) and images.labels.tolist() == [0, 1, 2, 3, 4] and images.source == "FashionMNIST"
    assert np.array_equal(images.raw[:, 0].numpy(), x[:5])
    colour = load_images("fashion-mnist", "test", root=tmp_path, download=False, channels=3)
    assert colour.shape == (3, 28, 28) and "three equal channels" in colour.source


class Fake:
    """torchvision's sets with their own shapes."""

    def __init__(self, root, download, train=None, split=None):
        x = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        self.data, self.targets = x, [0, 1, 2, 3, 4, 5]
        if split is not None:
            self.data, self.labels = x.transpose(0, 3, 1, 2), np.arange(6)
        self.pictures = [Image.fromarray(picture[:, :20]) for picture in x]

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.pictures[index], 0


def test_colour_sets_are_one_layout(monkeypatch):
    class Datasets:
        CIFAR10 = SVHN = CelebA = Fake

    monkeypatch.setattr(pictures, "import_torchvision", lambda _: Datasets)
    cifar, svhn, celeba = (load_images(name) for name in ("cifar10", "svhn", "celeba"))
    assert torch.equal(cifar.raw, svhn.raw) and cifar.shape == (3, 32, 32) and svhn.labels.tolist() == list(range(6))
    assert isinstance(celeba.raw, LazyImages) and celeba.shape == (3, 32, 20) and torch.equal(celeba[:], cifar[:][..., :20])
    assert load_images("celeba", size=16, channels=1).shape == (1, 16, 16)
    grey = load_images("cifar10", channels=1)
    by_pillow = [np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in cifar.raw]
    assert np.array_equal(grey.raw[:, 0].numpy(), by_pillow) and "grey" in grey.source


def test_folders_of_pictures_of_all_sizes(tmp_path):
    generator = np.random.default_rng(2)
    for i in range(20):
        Image.fromarray(generator.integers(0, 256, (10 + i, 14, 3), dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
    train, test = (load_images(tmp_path, split, size=8) for split in ("train", "test"))
    assert (len(train), len(test)) == (18, 2) and train.shape == (3, 8, 8) and test.raw.source.paths[0].name == "09.png"
    assert load_images(str(tmp_path), "all", size=8, channels=1).shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"image 1 is .* the first is"):
        load_images(tmp_path)[:]
    (tmp_path / "test").mkdir()
    (tmp_path / "19.png").rename(tmp_path / "test" / "19.png")
    assert len(load_images(tmp_path, "test")) == 1
    with pytest.raises(DataError, match="none called 'train'"):
        load_images(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        load_images(tmp_path, "train")


@pytest.mark.slow
def test_photographs_at_the_size_people_use():
    """64 x 64 colour, two threads: what a coefficient's neighbours and colours are worth on photographs never fitted on."""
    from numeric.evaluation.sweep import evaluate
    from numeric.scores.own import WaveletScore

    with torch_threads(2):
        train, test = load_natural("train", size=64), load_natural("test", size=64, count=100)
        models = {
            "alone": WaveletScore("independent", 3).fit(train),
            "neighbours": WaveletScore("local", 3).fit(train),
            "colours": WaveletScore("independent", 3, channels_coupled=True).fit(train),
        }
        rows = evaluate({name: (model, None) for name, model in models.items()}, test, 0.1)
    mse = {row["method"]: row["mse"] for row in rows}
    assert mse["neighbours"] < mse["alone"] < mse["noisy"] and mse["colours"] < mse["alone"]
