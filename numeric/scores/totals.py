"""Who runs a pass: this process over an image set, or over shards whoever reads them, and put together in order.

The sums of shards are the same bits whoever makes them: a run of shards is summed on one thread, and runs are put together in
the order of :class:`~numeric.reduction.Tree`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.cluster import answer, reduce_on, same
from numeric.data import ImageSet
from numeric.reduction import Finished, Node, Tree, reduce_here
from numeric.results import FileError, check_output, load_tensors, reading, save_tensors, stored
from numeric.scores.passes import Pass, Sums, merge
from numeric.scores.stored import whole
from numeric.shards import ShardError, Shards, check_shape


class CheckpointError(ValueError):
    """A checkpoint is of another pass, or of other images; the message names the fix."""


@contextmanager
def one_thread() -> Iterator[None]:
    """On one thread: how many there are changes the order of floating sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """What reading a shard raises names it."""
    try:
        yield
    except (MemoryError, ShardError):
        raise
    except Exception as error:  # readers of files raise what they meet
        raise ShardError(f"shard {name} cannot be read ({type(error).__name__}: {error}): mend it or leave it out") from error


def sum_run(work: Pass, shards: Sequence[Any], given: Sequence[Any], shape: tuple[int, int, int] | None, hashed: bool) -> Sums:
    """The sums of a run of shards, in order, on one thread; what a task does.

    Args:
        given: for each shard what it is opened with (:mod:`numeric.shards`), or None. shape: of the images, if known.

    Raises:
        ShardError: a shard cannot be read, or its images have another shape.
    """
    with one_thread():
        sums, count, low, high, hashes = work.empty(), 0, np.inf, -np.inf, []
        for shard, its in zip(shards, given):
            with _naming(shard.name):
                images = shard.open(its)
                check_shape(images.shape, shape, f"shard {shard.name}")
                batches = images.batches(work.batch, hashed)
                batch = next(batches, None)
            shape = images.shape
            while batch is not None:
                work.add(sums, batch)
                with _naming(shard.name):
                    batch = next(batches, None)
            span = images.span
            count, low, high = count + len(images), min(low, span[0]), max(high, span[1])
            hashes += [images.sha256] if hashed else []
        assert shape is not None
        return Sums([t.cpu().numpy() for t in sums], count, low, high, shape, tuple(hashes))


def open_first(shards: Sequence[Any], given: Sequence[Any]) -> np.ndarray:
    """The first image ``(1, channels, height, width)`` of the first shard."""
    with _naming(shards[0].name):
        return shards[0].open(given[0])[:1].numpy()


def count_images(shards: Sequence[Any], given: Sequence[Any]) -> int:
    """Number of images of some shards, from headers and lists: no pixel is read but a first one."""
    number = 0
    for shard, its in zip(shards, given):
        with _naming(shard.name):
            number += len(shard.open(its))
    return number


# ----- over shards -------------------------------------------------------------------------------------------------------


class Given:
    """What shards are opened with, sent to the workers once: whole data sets, and the blocks of dask arrays."""

    def __init__(self, client: Any) -> None:
        self.client, self._sent = client, dict[int, Any]()

    def of(self, shards: Sequence[Any]) -> list[Any]:
        """For every shard what :meth:`open` takes: a value here, a future on a cluster."""
        return [None if shard.given is None else self._one(shard.given) for shard in shards]

    def _one(self, given: Any) -> Any:
        if isinstance(given, ImageSet):
            if self.client is None:
                return given
            if id(given) not in self._sent:
                self._sent[id(given)] = self.client.submit(same, given, pure=False)
            return self._sent[id(given)]
        return given.compute(scheduler="synchronous") if self.client is None else self.client.compute(given)


def ask(data: Shards, question: Callable[[Sequence[Any], Sequence[Any]], Any], run: Sequence[Any]) -> Any:
    """One function of some shards, where they are read."""
    with data.connected() as client:
        given = Given(client).of(run)
        return question(run, given) if client is None else answer(client, [client.submit(question, run, given, pure=False)])[0]


def look(data: Shards) -> None:
    """Forget what earlier passes found; learn the first image, and with it the shape of all."""
    data.forget()
    first = torch.from_numpy(np.array(ask(data, open_first, data.shards[:1])))
    data._facts |= {"first": first, "shape": tuple(first.shape[1:])}


def count(data: ImageSet | Shards) -> int:
    """Number of images; shards are counted where they are read, from headers and lists."""
    if isinstance(data, ImageSet):
        return len(data)
    with data.connected() as client:
        given = Given(client)
        if client is None:
            return sum(count_images(run, given.of(run)) for run in data.runs)
        return sum(answer(client, [client.submit(count_images, run, given.of(run), pure=False) for run in data.runs]))


def steps(data: ImageSet | Shards) -> int:
    """What a pass tells a progress bar: images, or shards."""
    return len(data.shards) if isinstance(data, Shards) else len(data)


def total(
    work: Pass, data: ImageSet | Shards, bar: Any = None, checkpoint: str | Path | None = None, every: float = 30.0
) -> list[Tensor]:
    """The sums of a pass over all images, on the pass's device.

    Args:
        bar: progress bar, told of images, or of shards.
        checkpoint: of shards: folder that receives finished sums about every ``every`` seconds and when the work ends with
            an error; what is in it is not summed again, and the bits are the same.

    Raises:
        ShardError, CheckpointError; :class:`numeric.cluster.ClusterError`.
    """
    if isinstance(data, Shards):
        return _over_shards(work, data, bar, checkpoint, every).tensors(work.device)
    sums = work.empty()
    for batch in data.batches(work.batch):
        work.add(sums, batch)
        if bar is not None:
            bar.update(len(batch))
    return sums


def _over_shards(work: Pass, data: Shards, bar: Any, checkpoint: str | Path | None, every: float) -> Sums:
    runs, shape, hashed = data.runs, data._facts.get("shape"), "sha256" not in data._facts
    tree = Tree(len(runs))
    finished = Finished(tree, {}) if checkpoint is None else _kept(Path(checkpoint), work, data, tree, every)

    def told(leaf: int) -> None:
        if bar is not None:
            bar.update(len(runs[leaf]))

    with data.connected() as client:
        given = Given(client)
        if client is None:
            result = reduce_here(
                tree, lambda i: sum_run(work, runs[i], given.of(runs[i]), shape, hashed), merge, finished, told
            )
        else:
            sent = client.submit(same, work, pure=False)

            def leaf(i: int) -> Any:
                return sum_run, (sent, runs[i], given.of(runs[i]), shape, hashed)

            def names(i: int) -> str:
                return " to ".join(dict.fromkeys((runs[i][0].name, runs[i][-1].name)))

            result = reduce_on(client, tree, leaf, merge, finished, told, names)
    data.learn(result.count, (result.low, result.high), result.hashes)
    data._facts["shape"] = result.shape
    return result


# ----- checkpoints -------------------------------------------------------------------------------------------------------


def _kept(folder: Path, work: Pass, data: Shards, tree: Tree, every: float) -> Finished:
    """What a checkpoint folder holds of a pass, and the way new sums get there.

    A shard that was changed since (mended, for one) is summed again; what was kept of the others stays.

    Raises:
        CheckpointError: it is a file, or of other images or another pass.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file, the checkpoint of a fit in one process: a fit over shards needs a folder of its own")
    check_output(folder / f"{work.name}.safetensors")  # makes the folder, or says why it cannot be
    made = json.dumps([work.name, work.config, work.batch, tree.leaves], sort_keys=True)
    identities = data.identities()

    def path(node: Node) -> Path:
        return folder / f"{work.name}.{node[0]}.{node[1]}.safetensors"

    def key(node: Node) -> str:
        return hashlib.sha256("\n".join(identities[slice(*tree.span(node))]).encode()).hexdigest()

    def write(node: Node, sums: Sums) -> None:
        record = {"count": sums.count, "span": [sums.low, sums.high], "shape": sums.shape, "hashes": sums.hashes}
        tensors = {f"sums{i}": torch.from_numpy(a) for i, a in enumerate(sums.arrays)}
        content = {"shards": key(node), "pass": made, "record": json.dumps(record)}
        save_tensors(path(node), {**tensors, "none": torch.zeros(1)}, content)

    def drop(node: Node) -> None:
        path(node).unlink(missing_ok=True)

    there = [node for node in tree.nodes() if path(node).exists()]
    found = {node: _read(path(node), made, key(node), work) for node in there}
    kept = {node: sums for node, sums in found.items() if sums is not None}
    others = [p.name for p in folder.glob(f"{work.name}.*.safetensors") if p not in {path(node) for node in there}]
    if others or (there and not kept):
        raise _refused(folder)
    for node in there:
        if node not in kept or any(above in kept for above in tree.above(node)[1:]):
            drop(node)
            kept.pop(node, None)
    return Finished(tree, kept, write, drop, every)


def _refused(folder: Path) -> CheckpointError:
    return CheckpointError(f"{folder} was made from other images, settings or batches: use those, or delete it to start again")


def _read(path: Path, made: str, key: str, work: Pass) -> Sums | None:
    """The sums in a file; None if its shards are other ones now.

    Raises:
        CheckpointError: it is of another pass. FileError: it is damaged.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("pass") != made:
        raise _refused(path.parent)
    if metadata.get("shards") != key:
        return None
    with reading(path, "checkpoint of a fit over shards", FileError):
        record = json.loads(metadata["record"])
        arrays = [stored(tensors, f"sums{i}", shape, path).numpy() for i, shape in enumerate(work.shapes)]
        low, high = (float(end) for end in record["span"])
        number = whole(record["count"], "number of images", 1, 2**63)
        channels, height, width = record["shape"]
        return Sums(arrays, number, low, high, (channels, height, width), tuple(record["hashes"]))


def clear(checkpoint: Path) -> None:
    """Remove a checkpoint that is no longer needed: a file, or a folder of finished sums (and nothing else in it)."""
    if checkpoint.is_dir():
        for path in checkpoint.glob("*.*.*.safetensors"):
            path.unlink()
        if not any(checkpoint.iterdir()):
            checkpoint.rmdir()
    else:
        checkpoint.unlink(missing_ok=True)
