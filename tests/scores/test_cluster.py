"""Fits over shards: moments add, so who sums them and what dies on the way does not change one bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from typer.testing import CliRunner

from numeric.cluster import ClusterError, connected
from numeric.commands.app import app
from numeric.data import DataError, as_image_set
from numeric.reduction import FAN_IN, Finished, Tree, reduce_here
from numeric.results import read_json
from numeric.scores.moments import MomentError
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.totals import CheckpointError
from numeric.scores.wiener import WienerScore
from numeric.scores.wiener_own import WienerOwnScore
from numeric.shards import ShardError, as_shards
from tests.threads import torch_threads

distributed = pytest.importorskip("distributed", reason='pip install "wavelet-score[cluster]"')
import dask.array as da  # noqa: E402

READOUTS = [
    (WaveletScore, {"family": "local", "degree": 2}),
    (SharedWaveletScore, {"degree": 2}),
    (WienerScore, {"degree": 2}),
    (WienerOwnScore, {"family": "independent", "degree": 2}),
]


def new_cluster(workers: int = 2):
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
    )


@pytest.fixture(scope="module")
def client():
    """A real local cluster of two worker processes."""
    with new_cluster() as cluster, distributed.Client(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((37, 1, 8, 8))


def state(model) -> list[torch.Tensor]:
    """All numbers that a fit makes."""
    moments = model.moments_
    if isinstance(model, WaveletScore):
        return [moments.centre, *(block.sums for block in moments.blocks)]
    if isinstance(model, SharedWaveletScore):
        return [moments.gram, torch.from_numpy(moments.mean)]
    return [moments.mean, moments.covariance, *(solution.theta for solution in model.prepared_.values())]


def fitted(kind, settings, data, **how):
    model = kind(**settings).fit(data, **how)
    return model.prepare_levels([0.2, 0.5]) if isinstance(model, WienerScore) else model


def same_bits(a, b) -> bool:
    mine, its = state(a), state(b)
    return len(mine) == len(its) and all(torch.equal(x, y) for x, y in zip(mine, its)) and a.pixel_range_ == b.pixel_range_


def watched(images, log: Path, seconds: float = 0.0, rows: int = 3):
    """A dask array whose blocks note in a file that they are read."""

    def block(part, block_info=None):
        with open(log, "a") as file:
            file.write(f"{block_info[0]['chunk-location'][0]}\n")
        time.sleep(seconds)
        return part

    return da.from_array(images, chunks=(rows, -1, -1, -1)).map_blocks(block, meta=np.empty((0,) * 4), dtype=images.dtype)


def reads(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def wait_until(condition, seconds: float = 600.0) -> None:  # against hanging only: a busy machine is slow
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.02)


# ----- the order of the sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [1, 2, FAN_IN, FAN_IN + 1, 17, 64, 65, 100])
def test_the_tree_holds_every_leaf_once_and_children_first(leaves):
    tree, seen, made = Tree(leaves), {}, []
    for node in tree.nodes():
        seen[node] = [node[1]] if node[0] == 0 else [leaf for child in tree.children(node) for leaf in seen.pop(child)]
        made.append(node)
    assert seen == {tree.root: list(range(leaves))} and len(made) == len(set(made))
    assert max(len(tree.children(n)) for n in made if n[0]) <= FAN_IN if leaves > 1 else made == [(0, 0)]


@pytest.mark.parametrize("stop", range(1, 14))
def test_a_reduction_taken_up_anywhere_makes_nothing_twice(stop):
    """Killed at any leaf: the second run makes the other leaves only, and the sum is the same bits (floating sums)."""
    numbers, tree, files = [0.1 * 1.7**i for i in range(13)], Tree(13), {}

    def run(limit):
        made = []

        def leaf(i):
            if len(made) == limit:
                raise RuntimeError
            made.append(i)
            return numbers[i]

        finished = Finished(tree, dict(files), files.__setitem__, files.__delitem__, 0.0)
        try:
            return made, reduce_here(tree, leaf, sum, finished, lambda i: None)
        except RuntimeError:
            return made, None

    (first, nothing), (second, value) = run(stop), run(99)
    _, whole = [0], reduce_here(tree, numbers.__getitem__, sum, Finished(tree, {}), lambda i: None)
    assert value == whole and sorted(first + second) == list(range(13)) and (nothing is None or stop == 13)
    assert list(files) == [tree.root]


# ----- the same bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "settings"), READOUTS)
def test_two_workers_give_the_bits_of_this_process(kind, settings, images, client):
    here = fitted(kind, settings, as_shards(images, shard_size=3), batch_size=2)
    there = fitted(kind, settings, as_shards(images, shard_size=3), batch_size=2, client=client)
    assert same_bits(here, there) and there.moments_.count == 37
    plain = fitted(kind, settings, images)  # one pass in one order: equal up to rounding
    assert abs(there.expected_mse(0.5) / plain.expected_mse(0.5) - 1) < 1e-12
    assert torch.allclose(there.denoise(torch.from_numpy(images), 0.2), plain.denoise(torch.from_numpy(images), 0.2), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_bit(workers, images, client):
    shards = as_shards(images, shard_size=2)
    with connected(f"local:{workers}") as other:
        for kind, settings in READOUTS:
            assert same_bits(fitted(kind, settings, shards, client=client), fitted(kind, settings, shards, client=other))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), [(WaveletScore, {"family": "local"}), (SharedWaveletScore, {"degree": 2})])
def test_digits_at_the_size_people_use(kind, settings, mnist32, client):
    """2,000 digits of 32 pixels on two workers: the bits of this process with two threads, and the estimates of a plain fit."""
    data = as_shards(mnist32, shard_size=300)
    with torch_threads(2):
        here, there, plain = fitted(kind, settings, data), fitted(kind, settings, data, client=client), fitted(kind, settings, mnist32)
    assert same_bits(here, there)
    assert there.expected_mse(0.5) == pytest.approx(plain.expected_mse(0.5), rel=1e-9)
    x = mnist32[:20]
    assert torch.allclose(there.denoise(x, 0.5), plain.denoise(x, 0.5), atol=1e-5)


def test_threads_of_this_process_change_no_bit(images):
    """Shards are summed on one thread, and the number of threads is as before afterwards."""
    one = fitted(*READOUTS[1], as_shards(images))
    with torch_threads(2):
        two = fitted(*READOUTS[1], as_shards(images))
        assert torch.get_num_threads() == 2
    assert [torch.equal(a, b) for a, b in zip(state(one), state(two))] == [True, True]


class Digits(Dataset):
    """A data set that cannot be sliced."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return torch.from_numpy(self.pixels[index]), 0


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same 12 grey pictures in three shards, in every form, and the fit that all must give."""
    folder, pixels = tmp_path_factory.mktemp("shards"), np.random.default_rng(1).integers(0, 256, (12, 8, 8)).astype(np.uint8)
    for i in range(0, 12, 4):
        part = folder / f"part{i // 4}"
        np.save(f"{part}.npy", pixels[i : i + 4])
        part.mkdir()
        with tarfile.open(f"{part}.tar", "w") as tar:
            for k in range(4):
                Image.fromarray(pixels[i + k]).save(part / f"{k}.png")
                (part / f"{k}.cls").write_text("7")
                for suffix in ("cls", "png"):
                    tar.add(part / f"{k}.{suffix}", f"{i + k:04d}.{suffix}")
    np.save(folder / "all.npy", pixels)
    return folder, pixels, WaveletScore().fit(as_shards(pixels, shard_size=4))


FORMS = {
    "npy": lambda f, p: [f / f"part{i}.npy" for i in range(3)],
    "tar": lambda f, p: [f / f"part{i}.tar" for i in range(3)],
    "folders": lambda f, p: [str(f / f"part{i}") for i in range(3)],
    "pattern": lambda f, p: str(f / "part*.tar"),
    "sets": lambda f, p: [as_image_set(p[i : i + 4]) for i in (0, 4, 8)],
    "dask": lambda f, p: da.from_array(p, chunks=(4, 3, 8)),
    "pictures": lambda f, p: as_shards([f / f"part{i}" / f"{k}.png" for i in range(3) for k in range(4)], shard_size=4),
    "one file": lambda f, p: as_shards(f / "all.npy", shard_size=4),
    "memmap": lambda f, p: as_shards(np.load(f / "all.npy", mmap_mode="r"), shard_size=4),
    "data set": lambda f, p: as_shards(Digits(p), shard_size=4),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_shards_is_the_same_images(form, places, client):
    """Here, and (where something travels that is not a path) on the workers."""
    folder, pixels, expected = places
    data = FORMS[form](folder, pixels)
    assert same_bits(WaveletScore().fit(data, client="local:0"), expected)
    if form in ("dask", "memmap", "data set", "tar", "sets"):
        assert same_bits(WaveletScore().fit(data, client=client), expected)


def test_zarr_is_a_shard(places):
    zarr = pytest.importorskip("zarr")
    folder, pixels, expected = places
    for i in range(3):
        zarr.save_array(str(folder / f"part{i}.zarr"), pixels[4 * i : 4 * i + 4])
    assert same_bits(WaveletScore().fit([folder / f"part{i}.zarr" for i in range(3)], client="local:0"), expected)


def test_pictures_of_any_size_by_size_and_channels(tmp_path):
    generator = np.random.default_rng(0)
    for i, shape in enumerate([(9, 12, 3), (16, 10, 3), (11, 11)]):
        Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / f"{i}.png")
    model = WaveletScore().fit(as_shards(tmp_path, size=8, channels=3, shard_size=2))
    assert model.shape_ == (3, 8, 8) and model.moments_.count == 3
    with pytest.raises(ShardError, match=r"image 2 is .*the first is|cannot be read"):
        WaveletScore().fit(as_shards(tmp_path, shard_size=2))


# ----- faults ------------------------------------------------------------------------------------------------------------


def kill_a_worker(client) -> None:
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)


def test_a_worker_killed_half_way_changes_no_bit(images, client, tmp_path):
    log = tmp_path / "log"
    data = watched(images, log, 0.05)
    expected = WaveletScore().fit(as_shards(images, shard_size=3))

    def kill():
        wait_until(lambda: len(reads(log)) >= 5)
        kill_a_worker(client)

    thread = threading.Thread(target=kill)
    thread.start()
    model = WaveletScore().fit(data, client=client)
    thread.join()
    assert same_bits(model, expected)
    assert set(reads(log)) == set(range(13))


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_a_shard_that_cannot_be_read_is_named_and_nothing_is_lost(where, images, client, tmp_path):
    """The finished shards are kept, the bad one can be mended, and the sums are those of an undisturbed fit."""
    who = client if where == "cluster" else "local:0"
    paths = [tmp_path / f"part{i}.npy" for i in range(9)]
    for i, path in enumerate(paths):
        np.save(path, images[4 * i : 4 * i + 4])
    whole = paths[7].read_bytes()
    paths[7].write_bytes(whole[:-9])
    with pytest.raises(ShardError, match=r"part7\.npy cannot be read"):
        SharedWaveletScore(degree=2).fit(paths, client=who, checkpoint=tmp_path / "kept", checkpoint_seconds=0)
    assert list((tmp_path / "kept").glob("mean.*"))
    paths[7].write_bytes(whole)  # the mended file has another size and time
    kept = {leaf for file in (tmp_path / "kept").glob("mean.*") for leaf in leaves_of(file.name)}
    again = SharedWaveletScore(degree=2).fit(paths, client=who, checkpoint=tmp_path / "kept", checkpoint_seconds=0)
    assert same_bits(again, SharedWaveletScore(degree=2).fit(paths, client="local:0"))
    assert kept if where == "cluster" else kept == set(range(7))
    paths[0].unlink()  # what is finished needs no shard any more, but the first, which says what shape the images have
    paths[0].write_bytes(paths[1].read_bytes())
    with pytest.raises(CheckpointError, match="other images"):
        SharedWaveletScore(degree=2).fit(paths, client=who, checkpoint=tmp_path / "kept")


def test_a_fit_taken_up_reads_unfinished_shards_only(images, tmp_path, monkeypatch):
    """Interrupted at the ninth of 13 shards: the second run reads the other five, and the bits are the same."""
    kind, settings = READOUTS[0]
    expected = fitted(kind, settings, as_shards(images, shard_size=3))
    log, opened = tmp_path / "log", []
    data = as_shards(watched(images, log))
    original = type(data.shards[0]).open

    def open_or_stop(self, given):
        opened.append(self.name)
        if len(opened) == 11:  # the first is read for its shape and for the centre, too
            raise KeyboardInterrupt
        return original(self, given)

    monkeypatch.setattr(type(data.shards[0]), "open", open_or_stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(kind, settings, data, checkpoint=tmp_path / "kept")
    monkeypatch.undo()
    log.unlink()
    again = fitted(kind, settings, data, checkpoint=tmp_path / "kept")
    assert same_bits(again, expected)
    assert reads(log) == [0, 0, 8, 9, 10, 11, 12]  # shape and centre from the first, then what was not finished
    log.unlink()
    assert same_bits(fitted(kind, settings, data, checkpoint=tmp_path / "kept"), expected) and reads(log) == [0, 0]


def test_checkpoints_of_something_else_are_refused(images, tmp_path):
    shards, kept = as_shards(images, shard_size=10), tmp_path / "kept"
    WaveletScore().fit(shards, checkpoint=kept)
    for other, settings in ((as_shards(images[1:], shard_size=10), {}), (as_shards(images, shard_size=9), {}), (shards, {"degree": 2})):
        with pytest.raises(CheckpointError, match="other images, settings or batches"):
            WaveletScore(**settings).fit(other, checkpoint=kept)
    file = next(kept.iterdir())
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match="truncated"):
        WaveletScore().fit(shards, checkpoint=kept)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        WaveletScore().fit(shards, checkpoint=tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), READOUTS)
def test_a_scheduler_that_goes_away_and_comes_back(kind, settings, images, tmp_path):
    """The first cluster is closed half-way; a second one sums what is not finished, and the bits are the same."""
    log, kept = tmp_path / "log", tmp_path / "kept"
    data, expected = watched(images, log, 0.3), fitted(kind, settings, as_shards(images, shard_size=3))
    cluster = new_cluster()
    with distributed.Client(cluster) as first:

        def close():
            wait_until(lambda: len(list(kept.glob("*.0.*"))) + 3 * len(list(kept.glob("*.1.*"))) >= 3)
            cluster.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(ClusterError, match="went away"):
            kind(**settings).fit(data, client=first, checkpoint=kept, checkpoint_seconds=0)
        thread.join()
    before = {p.name for p in kept.glob("*.safetensors")}
    assert before
    log.unlink()
    with new_cluster() as second, distributed.Client(second) as client:
        model = kind(**settings).fit(data, client=client, checkpoint=kept, checkpoint_seconds=0)
        if isinstance(model, WienerScore):
            model.prepare_levels([0.2, 0.5])
    assert same_bits(model, expected)
    finished = {leaf for name in before for leaf in leaves_of(name)}
    first_pass = reads(log)[: 13 - len(finished) + 1]
    assert not (set(first_pass[1:]) - {0}) & finished


def leaves_of(name: str) -> range:
    _, height, place, _ = name.split(".")
    return range(int(place) * FAN_IN ** int(height), (int(place) + 1) * FAN_IN ** int(height))


@pytest.mark.slow
def test_a_shard_that_ends_its_workers_is_named(images, client):
    def deadly(part, block_info=None):
        if block_info[0]["chunk-location"][0] == 2:
            os._exit(1)
        return part

    data = da.from_array(images, chunks=(10, -1, -1, -1)).map_blocks(deadly, meta=np.empty((0,) * 4), dtype=images.dtype)
    with pytest.raises(ClusterError, match="block 2 died time after time"):
        WaveletScore().fit(data, client=client)


# ----- the face ----------------------------------------------------------------------------------------------------------


def test_dask_is_not_loaded_unless_it_is_asked_for(tmp_path):
    script = (
        "import sys, numpy as np\nfrom numeric import WaveletScore\nx = np.zeros((4, 8, 8), np.uint8); x[0] = 9\n"
        "WaveletScore().fit(x); WaveletScore().fit(x, client='local:0')\nassert not {'dask', 'distributed'} & set(sys.modules)\n"
        "sys.modules['distributed'] = None\n"
        "try:\n    WaveletScore().fit(x, client='local:2')\nexcept RuntimeError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and 'pip install "wavelet-score[cluster]"' in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("client", "message"),
    [("local:x", "unknown cluster 'local:x'"), ("local:-1", "unknown cluster"), (3, "address of a scheduler or 'local:N', got int")],
)
def test_a_client_that_is_none_is_named_before_the_work(client, message, images):
    with pytest.raises(ValueError, match=message):
        WaveletScore().fit(images, client=client)


def test_an_address_where_nothing_answers(images, monkeypatch):
    monkeypatch.setattr("numeric.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=r"no scheduler answers at 'tcp://127\.0\.0\.1:9'"), connected("tcp://127.0.0.1:9"):
        pass


def test_shards_that_cannot_be_used_are_named(images, tmp_path):
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", images[:, :, :4])
    with pytest.raises(ShardError, match=r"b\.npy holds images of \(1, 4, 8\), the first one of \(1, 8, 8\)"):
        WaveletScore().fit([tmp_path / "a.npy", tmp_path / "b.npy"], client="local:0")
    with pytest.raises(ShardError, match=r"c\.npy cannot be read .*was not found"):
        WaveletScore().fit([tmp_path / "a.npy", tmp_path / "c.npy"], client="local:0")
    with pytest.raises(DataError, match="no file matches"):
        as_shards(tmp_path / "x*.tar")
    with pytest.raises(ValueError, match="either client or memory_limit"):
        WaveletScore().fit(images, client="local:0", memory_limit=10**6)
    with pytest.raises(DataError, match="known after a pass"):
        len(as_shards(images))


def test_a_loaded_model_takes_its_shards_again(images, tmp_path):
    model = WienerScore(degree=2).fit(as_shards(images, shard_size=9))
    model.save(tmp_path / "m")
    loaded = WienerScore.load(tmp_path / "m").attach(as_shards(images, shard_size=9))
    assert loaded.expected_mse(0.5) == model.expected_mse(0.5)
    with pytest.raises(MomentError, match="these are not the 37 images"):
        WienerScore.load(tmp_path / "m").attach(as_shards(images[1:], shard_size=9))


@pytest.mark.parametrize("readout", ["own", "shared", "wiener"])
def test_the_command_fits_on_a_cluster(readout, places, client, tmp_path):
    folder, _, _ = places
    base = ["fit", "--size", "8", "--degree", "2", "--readout", readout, "--images", str(folder / "part*.tar"), "--no-progress"]
    results = []
    for name, cluster in (("here", "local:0"), ("there", client.scheduler.address)):
        result = CliRunner().invoke(app, [*base, str(tmp_path / name), "--cluster", cluster, "--report", str(tmp_path / f"{name}.json")])
        assert result.exit_code == 0 and f"3 shards, summed by {cluster}," in result.output, result.output
        results.append(result.output[result.output.index("exact expected") :])
        assert sorted(p.name for p in tmp_path.glob(f"{name}*")) == [name, f"{name}.json"]  # the checkpoint is gone
    assert results[0] == results[1]
    again = CliRunner().invoke(app, [*base[:-3], str(tmp_path / "here"), "--images", str(folder / "part0.tar"), "--cluster", "local:0"])
    assert again.exit_code == 2 and "more than these 4" in again.output


def test_the_command_names_what_it_cannot_use(places, tmp_path):
    for options, message in (
        (["--cluster", "local:many"], "unknown cluster 'local:many'"),
        (["--channels", "1"], "--channels is of the pictures that --cluster reads"),
        (["--cluster", "local:0", "--images", "nowhere"], "nowhere"),
    ):
        result = CliRunner().invoke(app, ["fit", str(tmp_path / "m"), "--images", str(places[0] / "all.npy"), *options])
        assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output


def test_the_page_says_what_the_results_file_says():
    """The section of the benchmarks' page is that of the results file, and ImageNet is foreseen from its rates."""
    cluster = pytest.importorskip("benchmarks.cluster")
    page = pytest.importorskip("benchmarks.page").PAGE
    record = read_json(cluster.OUTPUT)
    assert cluster.section(record) in page.read_text()
    for row in record["imagenet"]:
        rates = {key: value for key, value in row.items() if key != "foreseen"}
        overhead = record["small_shards"]["scheduler_cpu_per_task"]
        assert cluster.foreseen(rates, overhead, record["network"], record["plan"]) == row["foreseen"]
        hours = [at["hours"] for at in row["foreseen"]]
        work = record["plan"]["images"] * row["cpu_seconds_per_image"] / 3600
        assert hours == sorted(hours, reverse=True) and all(h >= work / at["cores"] for h, at in zip(hours, row["foreseen"]))
    assert all(row["same_bits"] for row in [*record["two_workers"], record["small_shards"]])
