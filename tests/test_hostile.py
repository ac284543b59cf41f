"""Hostile and damaged files: a named error or the right content, never another exception, a hang or a lost old file."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from numeric.baselines.configs import get_config
from numeric.baselines.edm import EDM
from numeric.baselines.network import load_network, save_network
from numeric.data import DataError, as_image_set, pixels_to_idx, read_idx
from numeric.results import FileError, atomic_path, load_tensors, read_json, save_tensors, write_json
from numeric.scores.levels import NoImagesError
from numeric.scores.own import WaveletScore
from numeric.scores.potential import PotentialScore
from numeric.scores.refined import RefinedScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore
from numeric.scores.wiener_own import WienerOwnScore
from numeric.shards import as_shards

ROOT = Path(__file__).resolve().parents[1]
MODELS = [f"{name}.safetensors" for name in ("own", "shared", "wiener", "wiener-own", "potential", "refined", "network")]
NAMED = (ValueError, OSError, MemoryError)
PROMISE = "the model that was read says why it cannot be used"
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)


def idx(path):
    path.write_bytes(pixels_to_idx(IMAGES))
    return lambda: read_idx(path)


def packed_idx(path):
    path.write_bytes(gzip.compress(pixels_to_idx(IMAGES)))
    return lambda: read_idx(path)


def npy(path):
    np.save(path, IMAGES)
    return lambda: as_image_set(path)[:]


def npz(path):
    np.savez(path, images=IMAGES, labels=np.arange(6))
    return lambda: as_image_set(path)[:]


def picture(path):
    from PIL import Image

    Image.fromarray(IMAGES[0]).save(path)
    return lambda: as_image_set(path)[:]


def tensors(path):
    save_tensors(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}, {"k": "v"})
    return lambda: load_tensors(path)


def record(path):
    write_json(path, {"a": [1, 2.5, None], "b": "text"})
    return lambda: read_json(path)


def used(model):
    """What was read must be usable, or say by a named error why it is not."""
    y = IMAGES[:, None] / 255.0
    try:
        return model.denoise(y, 0.5)
    except (*NAMED, ArithmeticError, NoImagesError) as error:  # a singular system, for one
        raise ValueError(f"{PROMISE}: {error}") from error


def own(path):
    WaveletScore("local", 2, wavelet="haar").fit(IMAGES).save(path)
    return lambda: used(WaveletScore.load(path))


def shared(path):
    SharedWaveletScore("band", 2, wavelet="haar").fit(IMAGES).save(path)
    return lambda: used(SharedWaveletScore.load(path))


def wiener(path):
    WienerScore(degree=2, wavelet="haar", levels=1).fit(IMAGES).prepare_levels([0.5]).save(path)
    return lambda: used(WienerScore.load(path))


def wiener_own(path):
    WienerOwnScore(degree=2, wavelet="haar", levels=1).fit(IMAGES).prepare_levels([0.5]).save(path)
    return lambda: used(WienerOwnScore.load(path))


def potential(path):
    PotentialScore(degree=2, wavelet="haar", levels=1).fit(IMAGES).prepare_levels([0.5]).save(path)
    return lambda: used(PotentialScore.load(path))


def refined(path):
    """Two components and a level of two stages; no labels, so that every tensor is read."""
    settings = {"readouts": ("pixel:2",), "components": 2, "directions": 4, "experts": (1, 2), "pixels": 60}
    model = RefinedScore(**settings, side=3, dims=2).fit(IMAGES)
    model.prepare_levels([0.5]).save(path)
    return lambda: used(RefinedScore.load(path))


def network(path):
    """The smallest weights; its settings are strings, so that each is a JSON value for itself."""
    config = get_config("cnn").with_base_channels(4)
    save_network(path, config.build(1), config, EDM(0.3), 1)
    return lambda: used(load_network(path))


READERS = {
    "x-ubyte": idx, "x-ubyte.gz": packed_idx, "x.npy": npy, "x.npz": npz, "x.png": picture, "x.safetensors": tensors,
    "x.json": record, "own.safetensors": own, "shared.safetensors": shared, "wiener.safetensors": wiener,
    "wiener-own.safetensors": wiener_own, "potential.safetensors": potential, "refined.safetensors": refined, "network.safetensors": network,
}  # fmt: skip


def outcome(read, name, seconds=20.0):
    """What the file holds, or None; an error must be one of those named, with the file's name in it."""
    start = time.monotonic()
    try:
        return read()
    except NAMED as error:
        assert name in str(error) or PROMISE in str(error), f"{type(error).__name__} without the file's name: {error}"
        return None
    finally:
        assert time.monotonic() - start < seconds


def cuts(name, path, ends):
    """The file cut at some places: what is then read is all that the whole one holds (PNG's end mark may be missing), or nothing."""
    read = READERS[name](path)
    whole, expected = path.read_bytes(), repr(read())
    for end in ends(len(whole)):
        path.write_bytes(whole[:end])
        found = repr(outcome(read, name))
        assert found in ("None", expected), end
        yield found != "None"


@pytest.mark.parametrize("name", READERS)
def test_a_cut_file_is_named(name, tmp_path):
    assert not all(cuts(name, tmp_path / name, lambda size: sorted({*range(min(200, size)), *range(0, size, 41), size - 1})))


@pytest.mark.parametrize("name", READERS)
def test_a_folder_and_nothing_are_named(name, tmp_path):
    read = READERS[name](tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="was not found"):
        read()
    (tmp_path / name).mkdir()
    assert outcome(read, name) is None


def flips(name, path, count, seed):
    """``count`` damaged copies of a file: bytes changed, inserted, taken out, doubled."""
    read, generator = READERS[name](path), random.Random(f"{name}{seed}")
    whole = path.read_bytes()
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 8))):
            place = generator.randrange(min(len(data), generator.choice((16, 200, 10**9))))
            kind = generator.randrange(4)
            if kind == 0:
                data[place] = generator.randrange(256)
            elif kind == 1:
                data[place] ^= 1 << generator.randrange(8)
            elif kind == 2:
                data[place:place] = bytes(generator.randrange(256) for _ in range(generator.randrange(9)))
            else:
                del data[place : place + generator.randrange(1, 9)]
        path.write_bytes(bytes(data))
        yield outcome(read, name) is not None


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_named_or_read(name, tmp_path):
    read = list(flips(name, tmp_path / name, 60, 0))
    assert len(read) == 60 and not all(read)


CHECKPOINTS = {
    "own": lambda path: WaveletScore(wavelet="haar").fit(IMAGES, checkpoint=path),
    "shared": lambda path: SharedWaveletScore(degree=2, wavelet="haar").fit(IMAGES, checkpoint=path),
    "wiener": lambda path: WienerScore(degree=2, wavelet="haar", levels=1).fit(IMAGES, checkpoint=path),
    "moments.1.0.safetensors": lambda path: WaveletScore(wavelet="haar").fit(as_shards(IMAGES, shard_size=3), checkpoint=path.parent),
}  # fmt: skip
"""Fits that keep a checkpoint in a file of that name; the last is that of a fit over shards, in a folder."""


def cut_checkpoints(name, path, ends):
    """A fit on a checkpoint that was cut: a named error, the file as it was, and the right fit once it is gone."""
    expected = CHECKPOINTS[name](path).expected_mse(0.5)
    whole = path.read_bytes()
    for end in ends(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(NAMED, match=name):
            CHECKPOINTS[name](path)
        assert path.read_bytes() == whole[:end]
        yield end
    path.unlink()
    path.mkdir()
    with pytest.raises(NAMED, match=name):
        CHECKPOINTS[name](path)
    path.rmdir()
    assert CHECKPOINTS[name](path).expected_mse(0.5) == expected


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_cut_checkpoint_is_named(name, tmp_path):
    assert list(cut_checkpoints(name, tmp_path / name, lambda size: [0, 1, 8, 9, 200, size // 2, size - 1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_cut_anywhere_is_named(name, tmp_path, capsys):
    number = len(list(cut_checkpoints(name, tmp_path / name, range)))
    with capsys.disabled():
        print(f"\n{name}: {number:,} cut checkpoints, all named")


HOSTILE = [
    -1, 0, 1, 3, 2**31, 10**9, 2**63, 10**30, 1.5, 1e308, float("nan"), float("inf"), None, True, "", "haar", "full", "x" * 999,
    [], [1], [10**6, 10**6], [2**40, 1], {}, {"a": 1}, [[[]]],
]  # fmt: skip


def leaves(tree, path=()):
    """Every place in a JSON tree."""
    yield path
    if isinstance(tree, dict):
        for key in tree:
            yield from leaves(tree[key], (*path, key))
    elif isinstance(tree, list):
        for key in range(len(tree)):
            yield from leaves(tree[key], (*path, key))


def changed(tree, path, value):
    if not path:
        return value
    out = dict(tree) if isinstance(tree, dict) else list(tree)
    out[path[0]] = changed(tree[path[0]], path[1:], value)
    return out


def settings_changed(name, path, every):
    """Model files whose settings lie, one value at a time."""
    read = READERS[name](path)
    whole, metadata = load_tensors(path)
    number = 0
    for key, text in metadata.items():
        for place in leaves(json.loads(text) if text[:1] in "[{" else None):
            for value in HOSTILE:
                number += 1
                if number % every == 0:
                    lie = json.dumps(changed(json.loads(text), place, value)) if place or text[:1] in "[{" else str(value)
                    save_file(whole, path, {**metadata, key: lie})
                    yield outcome(read, name, 60.0) is not None


@pytest.mark.parametrize("name", MODELS)
def test_settings_that_lie_about_sizes_are_named(name, tmp_path):
    read = list(settings_changed(name, tmp_path / name, 7))
    assert len(read) > 30 and not all(read)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.long(), "not floating numbers"),
        (lambda t: torch.full_like(t, torch.nan), "NaN or infinite"),
        (lambda t: t.reshape(-1)[:-1], r"damaged"),
        (lambda t: None, "damaged|no settings"),
    ],
)
def test_tensors_of_the_wrong_kind_are_named(name, change, message, tmp_path):
    read = READERS[name](tmp_path / name)
    whole, metadata = load_tensors(tmp_path / name)
    for key in whole:
        other = {**whole, key: change(whole[key])}
        save_file({k: v.contiguous() for k, v in other.items() if v is not None}, tmp_path / name, metadata)
        with pytest.raises(ValueError, match=message):
            read()


def test_a_header_that_claims_a_petabyte_allocates_nothing(tmp_path):
    def header(shape, size):
        text = json.dumps({"a": {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}}).encode()
        return struct.pack("<Q", len(text)) + text + bytes(64)

    for content in (header([2**47], 2**50), header([2**62, 8], 64), header([2**32, 2**32], 0), struct.pack("<Q", 2**60) + b"{}"):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(FileError, match=r"x\.safetensors is truncated or not a safetensors file"):
            load_tensors(tmp_path / "x.safetensors")
    for shape in ((2**31, 2**19), (2**32 - 1,) * 8, (2**32 - 1,) * 3):
        content = b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(64)
        for name, data in (("x", content), ("x.gz", gzip.compress(content))):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(DataError, match=f"{name} is truncated: 64 data bytes"):
                read_idx(tmp_path / name)
    for shape in ((2**20, 2**15, 2**15), (2**62, 2**62, 3)):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
        (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64))
        with pytest.raises(DataError, match=r"x\.npy is truncated or not a NumPy array file"):
            as_image_set(tmp_path / "x.npy")


def test_more_data_than_the_header_says_is_not_unpacked(tmp_path):
    """A gzip bomb: 64 bytes announced, 30 MB packed into 130 kB."""
    content = b"\0\0\x08\x03" + struct.pack(">3I", 1, 8, 8)
    (tmp_path / "x.gz").write_bytes(gzip.compress(content + bytes(3 * 10**7), 1))
    with pytest.raises(DataError, match="too long: more than 64 data bytes"):
        read_idx(tmp_path / "x.gz")


def test_arrays_of_python_objects_run_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    bomb = np.array([Bomb()], dtype=object)
    np.save(tmp_path / "x.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=bomb)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match=name):
            as_image_set(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


# ----- writing ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """In a process that may write 64 kB a file; SIGXFSZ ignored, as a full disk raises no signal."""
    code = """
import resource, signal, sys, torch
from numeric.results import save_tensors, write_json
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
for write in (lambda: save_tensors(sys.argv[1] + "/a.safetensors", {"a": torch.zeros(2**16)}, {}),
              lambda: write_json(sys.argv[1] + "/a.json", [0] * 2**16)):
    try:
        write()
        print("written")
    except OSError as error:
        print("named", error)
"""
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(3)}, {})
    write_json(tmp_path / "a.json", [1])
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert lines[0].startswith("named") and "a.safetensors could not be written" in lines[0] and lines[1].startswith("named")
    assert load_tensors(tmp_path / "a.safetensors")[0]["a"].tolist() == [1, 1, 1] and read_json(tmp_path / "a.json") == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


@pytest.mark.slow
def test_a_full_disk_leaves_every_kind_of_file(tmp_path):
    """Models, weights and checkpoints, old ones in place, written by a process that may write 200 bytes a file."""
    code = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
import test_hostile as t
from pathlib import Path
folder = Path(sys.argv[1])
makers = {name: t.READERS[name] for name in t.MODELS} | t.CHECKPOINTS
for name, make in makers.items():
    (folder / f"{name}.d").mkdir()
    make(folder / f"{name}.d" / name)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
for name, make in makers.items():
    path = folder / f"{name}.d" / name
    whole = path.read_bytes()
    if name in t.CHECKPOINTS:  # a checkpoint that is there is complete: a fit that has to write one finds none
        path.unlink()
    try:
        make(path)
        print("written", name)
    except OSError as error:
        assert name in str(error), error
        assert name in t.CHECKPOINTS or path.read_bytes() == whole
        assert name in t.CHECKPOINTS or [p.name for p in path.parent.iterdir()] == [name]
        assert name not in t.CHECKPOINTS or not list(path.parent.iterdir())
        print("named", name)
"""
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(ROOT / "tests")], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == [word for name in (*MODELS, *CHECKPOINTS) for word in ("named", name)]


@contextlib.contextmanager
def nobody(*paths: Path):
    """As a user without rights, who owns the paths: root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    for path in paths:
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users")
def test_a_read_only_folder_is_named():
    """The old files stay, and no other is left beside them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "a.json", [1])
        save_tensors(folder / "a.safetensors", {"a": torch.ones(3)}, {})
        with nobody(folder, *folder.iterdir()):
            folder.chmod(0o500)
            try:
                with pytest.raises(PermissionError, match=name):
                    write_json(folder / "a.json", [2])
                with pytest.raises(PermissionError, match=name):
                    save_tensors(folder / "a.safetensors", {"a": torch.zeros(3)}, {})
                with pytest.raises(PermissionError, match=name):
                    write_json(folder / "new" / "b.json", [2])
                assert read_json(folder / "a.json") == [1]
                assert load_tensors(folder / "a.safetensors")[0]["a"].tolist() == [1, 1, 1]
                assert sorted(p.name for p in folder.iterdir()) == ["a.json", "a.safetensors"]
            finally:
                folder.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users")
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_may_not_be_read_is_named(name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        read = READERS[name](path)
        with nobody(Path(folder), path):
            path.chmod(0o000)
            with pytest.raises(PermissionError, match=name):
                read()


def test_a_folder_in_the_place_of_the_file_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(FileError, match=r"a\.json is a folder"), atomic_path(tmp_path / "a.json"):
        raise AssertionError("the block ran")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file is a file, not a folder"):
        write_json(tmp_path / "file" / "b.json", [1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "file"]


# ----- the long fuzz ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_fuzz(name, tmp_path, record_property, capsys):
    """Thousands of damaged files for each reader, and the file cut at every byte; the count is reported."""
    count = 500 if name in MODELS else 3000
    read = list(flips(name, tmp_path / name, count, 1)) + list(cuts(name, tmp_path / name, range))
    if name in MODELS:
        read += list(settings_changed(name, tmp_path / name, 1))
    record_property("files", len(read))
    with capsys.disabled():
        print(f"\n{name}: {len(read):,} damaged files, {sum(read):,} still readable, the others named")
    assert len(read) >= count and not all(read)
