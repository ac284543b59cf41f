"""Image sets: NumPy's indexing, pixel ranges, types, picture modes, layouts and everything that can hold images."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, basic_indices, integer_array_indices
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from numeric.baselines.linear import LinearDenoiser
from numeric.data import DataError, ImageSet, LazyImages, as_image_set
from numeric.denoiser import as_noisy_images
from numeric.pixels import picture_array
from tests.threads import torch_threads

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 2, 6, 5), dtype=np.uint8)


class Items(Dataset):
    def __init__(self, items):
        self.items, self.reads = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads += 1
        return self.items[index]


def sets(tmp_path, pixels=PIXELS):
    """The same images as a tensor, a data set and an array on disk."""
    np.save(tmp_path / "x.npy", pixels)
    tensor = torch.from_numpy(pixels.copy())
    return [as_image_set(pixels), as_image_set(Items(tensor)), as_image_set(tmp_path / "x.npy")]


INDICES = [
    3,
    -1,
    np.int64(2),
    torch.tensor(4),
    slice(None),
    slice(5, 1, -2),
    slice(None, None, -1),
    slice(-3, None),
    slice(2, 2),
    slice(1, 100, 3),
    [0, -1, 0],
    [],
    range(2, 5),
    np.array([[0, 1], [-1, 3]]),
    torch.tensor([6, 0]),
    torch.tensor([1, 0], dtype=torch.uint8),
    np.array([True, False, True, False, False, False, True]),
    torch.tensor([False] * 6 + [True]),
    [True, True, False, False, False, False, False],
    np.zeros(7, bool),
    ...,
    (slice(1, 3),),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_an_index_means_what_it_means_in_numpy(tmp_path, index):
    expected = PIXELS[index.numpy() if isinstance(index, torch.Tensor) else index].astype(np.float32) / np.float32(255)
    for images in sets(tmp_path):
        assert np.array_equal(images[index].numpy(), expected)
        small = images.resized(3)[index]
        assert small.shape == (*expected.shape[:-3], 2, 3, 3) and torch.isfinite(small).all()


@pytest.mark.parametrize(
    "index", [7, -8, [0, 7], [True, False], 1.5, [0.0], "a", (0, 0), (slice(None), 0), torch.tensor([0.5]), np.zeros(8, bool)], ids=repr
)
def test_an_index_that_numpy_refuses_is_refused(tmp_path, index):
    for images in sets(tmp_path):
        with pytest.raises(IndexError):
            images[index]


@pytest.mark.parametrize("index", [slice(None, None, -2), [1, 5], np.arange(7) % 2 == 0, 4], ids=repr)
def test_subsets_carry_their_labels_and_read_nothing_more(tmp_path, index):
    labels = torch.arange(7)
    for images in sets(tmp_path):
        part = ImageSet(images.raw, labels).subset(index)
        assert torch.equal(part.labels, torch.from_numpy(np.atleast_1d(np.arange(7)[index]).copy()))
        assert torch.equal(part[:], images[part.labels]) and torch.equal(part.subset([0])[:], images[part.labels[:1]])
    data = Items(torch.from_numpy(PIXELS))
    as_image_set(data).subset([1, 5])
    assert data.reads == 2  # one look at the first image of each set


def test_images_can_be_iterated_and_loaded():
    images = as_image_set(PIXELS)
    assert torch.equal(torch.stack(list(images)), images[:])
    assert torch.equal(torch.cat(list(DataLoader(images, batch_size=3))), images[:])


# ----- range, type, hash ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.9, (0, 1)), (-0.5, 1, (-1, 1)), (0, 7, (0, 255)), (-3, 2, (-3, 2)), (-1, 300, (-1, 300))],
)
def test_the_pixel_range_is_the_narrowest_usual_one(low, high, expected):
    x = torch.linspace(low, high, 300 * 16).reshape(300, 1, 4, 4)
    data = Items(x)
    for images in (as_image_set(x), as_image_set(data), ImageSet(x), ImageSet(x.double())):
        assert images.pixel_range == pytest.approx(expected, abs=1e-6)
    data.reads = 0
    lazy = as_image_set(data)
    assert lazy.provenance["pixel_range"] == list(lazy.pixel_range) and data.reads == 301  # one pass for hash and range
    lazy, data.reads = as_image_set(data), 0
    fitted = LinearDenoiser().fit(lazy)
    before = data.reads
    assert lazy.pixel_range == pytest.approx(expected, abs=1e-6) and data.reads == before  # the fit has seen every pixel
    assert torch.isfinite(fitted.denoise(x[:2], 0.5)).all()


def test_an_unfinished_pass_leaves_no_range():
    x = torch.zeros(4, 1, 2, 2)
    x[3] = -1
    images = ImageSet(x)
    next(images.batches(2))
    assert images.pixel_range == (-1, 1)


def test_float64_stays_float64_and_the_rest_is_float32():
    """At an offset of 1e6 the float32 grid is 1/16 wide: a variance of 1e-4 is lost in it, not in float64."""
    x = 1e6 + 1e-2 * torch.randn(500, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for images in (as_image_set(x), as_image_set(Items(x)), as_image_set(x.numpy())):
        assert images[:].dtype == images.dtype == torch.float64 and torch.equal(images[:], x)
    mse = LinearDenoiser().fit(x).expected_mse(0.01)
    assert mse == pytest.approx(0.5e-4, rel=0.05)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert as_image_set(torch.rand(2, 1, 4, 4).to(dtype))[:].dtype == torch.float32
    assert as_image_set(PIXELS)[:].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_hash_is_of_the_stored_bytes(dtype):
    x = torch.from_numpy(PIXELS).to(dtype)
    expected = hashlib.sha256(x.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    assert as_image_set(x).sha256 == as_image_set(Items(x)).sha256 == as_image_set(x.flip(0).flip(0)).sha256 == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[::-1][::-1],
        lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
        lambda x: x.astype(">f8"),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(np.float16),
        lambda x: np.asfortranarray(x),
        lambda x: x.tolist(),
        lambda x: list(x),
    ],
)
def test_arrays_of_any_strides_and_types(change, tmp_path):
    x = PIXELS.astype(np.float64)
    form = change(x)
    assert torch.equal(as_image_set(form)[:].double(), torch.from_numpy(x))
    assert torch.equal(as_noisy_images(form).double(), torch.from_numpy(x))
    if isinstance(form, np.ndarray) and form.dtype != np.longdouble:
        np.save(tmp_path / "x.npy", form)
        assert torch.equal(as_image_set(tmp_path / "x.npy")[[1, 0]].double(), torch.from_numpy(x)[[1, 0]])


# ----- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 32, 32, 3), (9, 32, 32, 4), (9, 8, 16, 1), (9, 4, 4, 3)])
def test_channels_last_is_named_with_its_fix(shape, tmp_path):
    x = np.zeros(shape, np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", images=x)
    for form in (x, torch.from_numpy(x), tmp_path / "x.npy", str(tmp_path / "x.npz"), Items(torch.from_numpy(x))):
        if isinstance(form, Items) and shape[1] == 4:
            continue
        with pytest.raises(DataError, match=r"channels last.*np.moveaxis\(x, -1, 1\).*permute\(0, 3, 1, 2\)"):
            as_image_set(form)
    assert as_image_set(np.moveaxis(x, -1, 1)).shape == (shape[3], *shape[1:3])
    assert ImageSet(torch.from_numpy(x)).shape == shape[1:]  # said outright, it is taken at its word


def test_one_colour_picture_is_no_set_of_narrow_ones():
    with pytest.raises(DataError, match="one colour picture"):
        as_image_set(np.zeros((32, 48, 3), np.uint8))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (32, 32, 3), (32, 32, 1), (32, 32, 4)])
def test_array_items_say_by_their_sides_where_their_channels_are(shape):
    x = np.random.default_rng(1).integers(0, 256, (2, *shape), dtype=np.uint8)
    first = x if shape[0] < 5 else np.moveaxis(x, -1, 1)
    assert torch.equal(as_image_set(Items(x))[:], as_image_set(first)[:])


# ----- pictures ------------------------------------------------------------------------------------------------------


def pictures():
    """Mode -> a picture of the same grey ramp, or of the same colours."""
    grey = np.linspace(0, 255, 48).reshape(6, 8).round().astype(np.uint8)
    colour = np.stack([grey, grey.T.reshape(6, 8), 255 - grey], -1)
    l, rgb = Image.fromarray(grey), Image.fromarray(colour)
    palette = rgb.quantize(48)
    out = {
        "L": (l, grey),
        "LA": (l.convert("LA"), grey),
        "F": (l.convert("F"), grey),
        "I;16": (Image.fromarray(grey.astype(np.uint16) * 257), grey),
        "I": (Image.fromarray(grey.astype(np.int32) * 257), grey),
        "RGB": (rgb, colour),
        "RGBA": (rgb.convert("RGBA"), colour),
        "RGBX": (rgb.convert("RGBX"), colour),
        "CMYK": (rgb.convert("CMYK"), colour),
        "P": (palette, np.asarray(palette.convert("RGB"))),
        "1": (Image.fromarray(grey > 99), np.where(grey > 99, 255, 0)),
    }
    assert all(mode == picture.mode for mode, (picture, _) in out.items())
    return out


@pytest.mark.parametrize("mode", sorted(pictures()))
def test_pictures_are_read_by_their_mode(mode):
    picture, expected = pictures()[mode]
    expected = torch.from_numpy(np.atleast_3d(expected).transpose(2, 0, 1).astype(np.float32) / 255)[None]
    for form in (Items([picture]), [picture], Items([{"image": picture, "label": 3}]), Items([(picture, 3)])):
        assert torch.allclose(as_image_set(form)[:], expected, atol=1e-6)
    assert torch.allclose(as_noisy_images(picture), expected, atol=1e-6)
    assert as_image_set([picture]).pixel_range == (0, 1)


def test_eight_bits_in_thirty_two_are_refused():
    """``convert("I")`` of a grey picture keeps 0 to 255, where 65535 is white: it would be read as black."""
    picture = pictures()["L"][0].convert("I")
    with pytest.raises(DataError, match="65535 is white, but holds"):
        as_image_set([picture])[:]


def test_a_list_of_pairs_is_read_as_a_data_set():
    """``list(dataset)``: (image, label) pairs of tensors or arrays."""
    x = torch.rand(4, 1, 5, 6)
    assert torch.equal(as_image_set([(image, k) for k, image in enumerate(x)])[:], x)
    assert torch.equal(as_image_set([(image[0].numpy(), k) for k, image in enumerate(x)])[:], x)


def test_transparent_pictures_are_laid_on_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    expected = np.repeat([0, 0, 255, 255], 4).reshape(4, 4)
    assert np.array_equal(picture_array(Image.fromarray(pixels)), np.stack([expected] * 3))
    assert np.array_equal(picture_array(Image.fromarray(pixels[..., 2:])), expected[None])
    palette = Image.fromarray(np.repeat([0, 1], 8).reshape(4, 4).astype(np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.info["transparency"] = 1
    assert picture_array(palette)[:, ::3, 0].tolist() == [[10, 255], [20, 255], [30, 255]]


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBa", "La", "PA", "I;16B"])
def test_rarer_modes_agree_with_pillow(mode):
    """Up to the rounding of the conversion there and back."""
    base, expected = pictures()["L" if mode in ("La", "I;16B") else "RGB"]
    if mode == "I;16B":
        form = Image.frombytes(mode, base.size, (expected.astype(">u2") * 257).astype(">u2").tobytes())
    elif mode == "PA":
        form = base.quantize(64).convert("PA")
    else:
        form = base.convert("RGBA" if mode == "RGBa" else "LA" if mode == "La" else mode).convert(mode)
    assert form.mode == mode
    got = as_image_set([form])[0]
    expected = torch.from_numpy(np.atleast_3d(expected).transpose(2, 0, 1).astype(np.float32) / 255)
    assert got.shape == expected.shape and float((got - expected).abs().max()) < 0.04


@pytest.mark.parametrize("values", [[0.0, 0.5], [-1.0, 1.0], [0.0, 300.0]])
def test_floating_pictures_outside_their_convention_are_named(values):
    picture = Image.fromarray(np.array([values], np.float32))
    with pytest.raises(DataError, match=r"mode 'F'.*255 is white.*np\.asarray"):
        as_image_set([picture])
    assert as_image_set([np.asarray(picture)])[0].flatten().tolist() == values


def test_a_folder_of_pictures(tmp_path):
    for number, (folder, suffix) in enumerate((("a", ".png"), ("a", ".bmp"), ("b", ".tif"))):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(PIXELS[number, 0]).save(tmp_path / folder / f"{number}{suffix}")
    (tmp_path / "notes.txt").write_text("no picture")
    images = as_image_set(str(tmp_path))
    assert isinstance(images.raw, LazyImages) and torch.equal(images[:], as_image_set(PIXELS[:3, :1])[:])
    files = sorted(p for p in tmp_path.rglob("*") if p.suffix in (".png", ".bmp", ".tif"))
    assert torch.equal(as_image_set(files)[:], images[:]) and torch.equal(as_image_set(files[0])[0], images[0])
    (tmp_path / "b" / "9.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"9\.png is truncated or not a picture"):
        as_image_set(tmp_path)[:]


def test_archives_keep_their_labels(tmp_path):
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.arange(7))
    images = as_image_set(tmp_path / "x.npz")
    assert torch.equal(images[:], as_image_set(PIXELS)[:]) and images.labels.tolist() == list(range(7))
    np.savez(tmp_path / "y.npz", PIXELS)
    assert torch.equal(as_image_set(tmp_path / "y.npz")[:], images[:])


def test_loaders_and_subsets_give_their_data_set():
    data = TensorDataset(torch.from_numpy(PIXELS), torch.arange(7))
    expected = as_image_set(PIXELS)[:]
    for loader in (DataLoader(data), DataLoader(data, shuffle=True, batch_size=3)):
        assert torch.equal(as_image_set(loader)[:], expected)
    assert torch.equal(as_image_set(Subset(data, [5, 2]))[:], expected[[5, 2]])
    chosen = DataLoader(data, sampler=torch.utils.data.SubsetRandomSampler([1, 2]))
    for loader in (chosen, DataLoader(data, collate_fn=lambda items: items[0])):
        with pytest.raises(DataError, match="chooses or changes its images"):
            as_image_set(loader)


class OnDisk:
    """What h5py, zarr and dask arrays have in common."""

    chunks, dtype = (2, 2, 6, 5), np.dtype(np.uint8)
    shape = PIXELS.shape

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        assert isinstance(index, int | slice)
        return PIXELS[index]


def test_arrays_that_are_not_in_memory():
    images = as_image_set(OnDisk())
    assert isinstance(images.raw, LazyImages) and torch.equal(images[[6, 0]], as_image_set(PIXELS)[[6, 0]])
    assert torch.equal(torch.cat(list(images.batches(3))), as_image_set(PIXELS)[:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        ({}, "a dict is no set of images"),
        (iter([1]), "is no set of images"),
        (Items([]), "empty"),
        (Items([{"a": 1, "b": 2}]), "dictionary of a, b: name its image 'image'"),
        ([np.zeros((4, 4)), np.zeros((5, 4))], "different shapes"),
        ([torch.zeros(4, 4), torch.zeros(5, 4)], "image 1 is torch.float32"),
        (np.zeros((2, 0, 8), np.uint8), "no pixels"),
        (np.zeros((2, 8, 8), np.uint16), "uint8 or floating, got torch.uint16"),
        (np.zeros((2, 8, 8), complex), "uint8 or floating, got torch.complex128"),
        (np.zeros((2, 8, 8), bool), "uint8 or floating, got torch.bool"),
        (np.full((2, 8, 8), "a"), "must be numbers"),
        (Items([torch.zeros(2, 2, 2, 2)]), "expected .height, width."),
        (3, "int has no length"),
        ("/nowhere/at all.npy", "/nowhere/at all.npy was not found"),
        (["/nowhere/1.png"], "/nowhere/1.png was not found"),
    ],
)
def test_what_holds_no_images_is_named(data, message):
    with pytest.raises(DataError, match=message):
        as_image_set(data)[:]


def test_labels_are_one_an_image():
    with pytest.raises(DataError, match=r"7 images have labels of shape \(6,\)"):
        ImageSet(torch.from_numpy(PIXELS), torch.arange(6))


# ----- any shape, type and layout --------------------------------------------------------------------------------------


@st.composite
def image_arrays(draw):
    """An array of images ``(n, h, w)`` or ``(n, c, h, w)``, and the same numbers with other strides or byte order."""
    sides = draw(st.tuples(st.integers(1, 6), st.integers(5, 9), st.integers(5, 9)))
    shape = sides if draw(st.booleans()) else (sides[0], draw(st.integers(1, 5)), *sides[1:])
    kind = draw(st.sampled_from(["u1", "f2", "f4", "f8"]))
    elements = st.integers(0, 255) if kind == "u1" else st.floats(-2, 300, width=16)
    x = draw(arrays(np.dtype(kind), shape, elements=elements, fill=st.just(7)))
    axes = draw(st.permutations(range(x.ndim)))
    other = np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))  # any order in memory
    axis = draw(st.integers(0, x.ndim - 1))
    other = np.flip(np.ascontiguousarray(np.flip(other, axis)), axis)  # a negative stride
    return x, other.astype(other.dtype.newbyteorder(draw(st.sampled_from("<>"))))


@settings(max_examples=60, deadline=None)
@given(image_arrays(), st.data())
def test_any_array_is_the_same_set_however_it_lies_in_memory(pair, data):
    x, other = pair
    whole = x.reshape(len(x), -1, *x.shape[-2:])
    expected = torch.from_numpy(whole / np.float32(255) if x.dtype == np.uint8 else whole.astype(np.float64))
    sets = [as_image_set(x), as_image_set(other), as_image_set(Items(torch.from_numpy(x))), as_image_set(list(torch.from_numpy(x)))]
    if x.ndim == 4:
        sets.append(as_image_set(Items(list(np.moveaxis(x, 1, -1)))))
    basic = basic_indices((len(x),), max_dims=1, allow_newaxis=False, allow_ellipsis=False).filter(lambda i: not isinstance(i, tuple) or len(i))
    index = data.draw(basic | integer_array_indices((len(x),)) | arrays(bool, len(x)))
    for images in sets:
        assert torch.equal(images[:].double(), expected.double()) and images.shape == whole.shape[1:]
        assert np.array_equal(images[index].numpy(), images[:].numpy()[index])
        with pytest.raises(IndexError, match="along its images only"):
            images[()]  # of no axis: refused by name
        assert images.sha256 == sets[0].sha256 and images.pixel_range == sets[0].pixel_range
        low, high = images.pixel_range
        assert low <= float(expected.min()) and float(expected.max()) <= high


@pytest.mark.slow
def test_a_large_file_is_fitted_without_being_in_memory(tmp_path):
    """20,000 float64 images of 32 x 32 (156 MiB) from disk, two threads: the bits of the fit in memory, and little memory."""
    import resource

    from numeric.scores.own import WaveletScore

    with torch_threads(2):
        np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20_000, 32, 32)) * 2 - 1)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lazy = WaveletScore("local", 3).fit(tmp_path / "x.npy")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
        whole = WaveletScore("local", 3).fit(np.load(tmp_path / "x.npy"))
    assert lazy.expected_mse(0.5) == whole.expected_mse(0.5) and lazy.pixel_range_ == whole.pixel_range_ == (-1, 1)
    assert grown < 2**20  # KiB: the sums and a batch, with the pages of the file that the system keeps


@pytest.mark.slow
def test_reading_costs_little_beside_the_fit():
    """Handing out 20,000 uint8 images at their own size takes less than a tenth of the cheapest fit's time."""
    import time

    images = as_image_set(np.random.default_rng(0).integers(0, 256, (20_000, 32, 32), dtype=np.uint8))

    def seconds(work):
        start = time.process_time()  # what else runs on the machine does not count
        work()
        return time.process_time() - start

    read = min(seconds(lambda: sum(len(batch) for batch in images.batches())) for _ in range(3))
    assert read < 0.1 * min(seconds(lambda: LinearDenoiser().fit(images)) for _ in range(2))
