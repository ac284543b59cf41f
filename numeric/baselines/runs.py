"""Training runs in a folder: file names, publishing weights with their record, and all of Table 1 one after the other.

A run's files are ``checkpoints/STEM.safetensors`` (the whole state) and, once published, ``STEM.safetensors`` (averaged weights)
with ``STEM.json`` (the record).  Nothing is replaced unless asked for, and nothing published by something shorter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from numeric.baselines.clock import machine_seconds
from numeric.baselines.configs import CONFIGS, TRAINING_ORDER, NetworkConfig
from numeric.baselines.edm import EDM
from numeric.baselines.network import load_network, save_network
from numeric.baselines.plateau import SIGMAS, images_seen
from numeric.baselines.schedule import Schedule, options
from numeric.baselines.train import Trainer, measure, train
from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.results import atomic_path, load_tensors, provenance, read_json, write_json

N_EVAL, N_CURVE = 2000, 1000
"""Images per split of the errors of a finished run, and held-out images that are followed in training."""


@dataclass(frozen=True)
class Run:
    """One network in training, in a folder.

    Attributes:
        config, size, schedule: what is trained. output: the folder. n_train: training images (None: all).
        start_from: folder of published weights that a run without a checkpoint goes on from, where they are there.
    """

    config: NetworkConfig
    size: int
    schedule: Schedule
    output: Path
    n_train: int | None = None
    start_from: Path | None = None

    @property
    def stem(self) -> str:
        """``NAME_SIZE``, with width, seed and number of images where they are not the usual ones."""
        usual = CONFIGS[self.config.name]
        text = f"{self.config.name}_{self.size}"
        if self.config.base_channels != usual.base_channels:
            text += f"_width{self.config.base_channels}"
        if self.schedule.seed != usual.seed:
            text += f"_seed{self.schedule.seed}"
        return text + (f"_{self.n_train}images" if self.n_train is not None else "")

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoints" / f"{self.stem}.safetensors"

    @property
    def weights(self) -> Path:
        return self.output / f"{self.stem}.safetensors"

    @property
    def record(self) -> Path:
        return self.output / f"{self.stem}.json"

    @property
    def start(self) -> Path | None:
        """The published weights to go on from, if the folder holds this run's."""
        path = self.start_from / self.weights.name if self.start_from is not None else None
        return path if path is not None and path.exists() else None

    def lock(self) -> FileLock:
        """Held by the process that trains this run; not waited for."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.checkpoint.with_suffix(".lock"), blocking=False)

    def command(self, images: int, phases: Sequence[dict[str, Any]], more: str = "") -> str:
        """The command that makes the same run from its start to so many images; one for every schedule it had.

        Args:
            more: options that every one of them had, such as ``" --n-curve 100"``.
        """
        usual = CONFIGS[self.config.name]
        width = f" --base-channels {self.config.base_channels}" if self.config.base_channels != usual.base_channels else ""
        count = f" --n-train {self.n_train}" if self.n_train is not None else ""
        parts, folder, output = [], "runs/train", ""
        for i, phase in enumerate(phases):
            until = phases[i + 1]["from_images"] if i + 1 < len(phases) else images
            steps = -(-until // phase["schedule"]["batch_size"])
            text = f"python -m numeric train --config {self.config.name} --size {self.size} --steps {steps} "
            goes_on = " --resume --reschedule" if i else ""
            if "weights" in phase:  # the checkpoint was lost, and the optimiser's moments with it
                goes_on, folder = f" --start-from {folder}", f"{folder}-again"
                output = f" --output {folder}"
            parts.append(text + options(phase["schedule"]) + width + count + more + goes_on + output)
        return " && ".join(parts)

    def prepare(self, resume: bool, overwrite: bool) -> None:
        """Before a run starts: what an earlier one left is taken up, removed, or in the way.

        Raises:
            ValueError: there is something and neither ``resume`` nor ``overwrite`` was said.
        """
        there = [path for path in (self.checkpoint, self.weights, self.record) if path.exists()]
        if overwrite:
            for path in there:
                path.unlink()
        elif self.weights.exists() and not self.checkpoint.exists():
            raise ValueError(f"{self.weights} is there without its checkpoint: choose another --output, or give --overwrite")
        elif there and not resume:
            raise ValueError(f"{there[0]} holds an earlier run: --resume goes on with it, --overwrite starts anew")


def checkpoint_record(path: Path) -> dict[str, Any] | None:
    """The record inside a checkpoint, or None where there is no checkpoint."""
    return json.loads(load_tensors(path)[1]["extra"])["record"] if path.exists() else None


def so_far(run: Run) -> dict[str, Any] | None:
    """The record of a run's checkpoint, else of the published weights that it goes on from, or None."""
    return checkpoint_record(run.checkpoint) or (read_json(run.start.with_suffix(".json")) if run.start is not None else None)


def publish(
    run: Run, images: ImageSet, test: ImageSet, command: str | None = None, folder: Path | None = None, record_alone: bool = False
) -> dict[str, Any]:
    """Write the averaged weights of a run's checkpoint, in half precision, with their record and errors.

    Args:
        images, test: on which the errors are measured, of the file as it is read back.
        command: as recorded (default: the one that makes the run again). folder: where to (default: the run's).
        record_alone: leave the weights out once they are measured, where they are too large to be shipped; the record says so.

    Raises:
        ValueError: what is there was trained on more images.
    """
    tensors, meta = load_tensors(run.checkpoint)
    record = json.loads(meta["extra"])["record"]
    target = run if folder is None else replace(run, output=folder)
    if target.record.exists() and images_seen(read_json(target.record)) > record["images"]:
        raise ValueError(
            f"{target.record} was trained on {images_seen(read_json(target.record)):,} images, this run on "
            f"{record['images']:,}: nothing longer is replaced (delete it first if that is meant)"
        )
    network = run.config.build(record["data"]["shape"][0])
    network.load_state_dict({k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")})
    counts = {"--n-eval": (max(len(images), len(test)), N_EVAL), "--n-curve": (record["held_out_curve_images"], N_CURVE)}
    more = "".join(f" {option} {count}" for option, (count, usual) in counts.items() if count not in (0, usual))
    command = command or run.command(record["images"], record["phases"], more)
    with atomic_path(target.weights) as temporary:  # the weights that are there stay until the errors of the new ones are known
        save_network(
            temporary, network, run.config, EDM(**record["edm"]), record["data"]["shape"][0],
            pixel_range=record["data"].get("pixel_range", Denoiser.pixel_range_),
        )  # fmt: skip
        shipped = load_network(temporary)
        errors = {
            name: measure(shipped, part, SIGMAS, device=run.schedule.device) for name, part in (("train", images), ("test", test))
        }
    left_out = {}
    if record_alone:
        left_out = {"weights": f"left out: {target.weights.stat().st_size / 1e6:.0f} MB in half precision"}
        target.weights.unlink()
    record = {
        **provenance(command, run.schedule.seed),
        **record,
        "machine_seconds": machine_seconds(record),
        "errors": errors,
        "weights_dtype": "float16",
        **left_out,
    }
    write_json(target.record, record)
    return record


def finished(record: dict[str, Any] | None, schedule: Schedule) -> bool:
    """Whether a run has nothing left to do."""
    return record is not None and (
        images_seen(record) >= schedule.images or (schedule.until_trained and bool(record.get("trained")))
    )


@dataclass(frozen=True)
class Foreseen:
    """What is left of one run: images so far and at most, images a second now, seconds at most."""

    run: Run
    done: int
    at_most: int
    images_per_second: float

    @property
    def seconds(self) -> float:
        return max(self.at_most - self.done, 0) / self.images_per_second


def foresee(run: Run, images: ImageSet, steps: int = 1) -> Foreseen:
    """Time a few steps of a fresh network of the run's kind (without torch.compile, so rather too long than too short)."""
    batch = run.schedule.late_batch_size or run.schedule.batch_size  # of most of the training
    schedule = replace(run.schedule, compile=False, batch_size=batch)
    trainer = Trainer(run.config, images.take(4 * batch), schedule)
    trainer.advance()
    _synchronise(schedule.device)
    start = time.perf_counter()
    for _ in range(steps):
        trainer.advance()
    _synchronise(schedule.device)
    rate = steps * batch / (time.perf_counter() - start)
    record = so_far(run)
    return Foreseen(run, images_seen(record) if record else 0, run.schedule.images, rate)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def all_runs(
    output: Path, make: Callable[[NetworkConfig], Schedule], order: Sequence[tuple[str, int]] = TRAINING_ORDER,
    *, start_from: Path | None = None,
) -> list[Run]:  # fmt: skip
    """Every network of Table 1 at its sizes, in the order in which they are trained."""
    return [Run(CONFIGS[name], size, make(CONFIGS[name]), output, start_from=start_from) for name, size in order]


def train_all(
    runs: Sequence[Run],
    data: Callable[[int], tuple[ImageSet, ImageSet]],
    *,
    rounds: Sequence[float] = (),
    n_eval: int = N_EVAL,
    n_curve: int = N_CURVE,
    checkpoint_seconds: float = 60.0,
    reschedule: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Iterator[dict[str, Any]]:
    """Train the runs one after the other, each from its checkpoint; yields the record of each that was published.

    Several processes may work in one folder: each takes the next run that no other is at.

    Args:
        data: size -> (training images, held-out images).
        rounds: image counts to which all runs are brought before any goes on to its end.
    """
    for limit in [*sorted(rounds), float("inf")]:
        for run in runs:
            try:
                with run.lock():
                    before = so_far(run)
                    if finished(before, run.schedule) or (before is not None and images_seen(before) >= limit):
                        continue
                    images, test = data(run.size)
                    say(f"{run.stem}: {images_seen(before) if before else 0:,} images so far")
                    train(
                        run.config, images, run.schedule, held_out=test.take(n_curve), checkpoint=run.checkpoint,
                        checkpoint_seconds=checkpoint_seconds, resume=True, reschedule=reschedule, stop_at=limit, start_from=run.start, progress=progress,
                    )  # fmt: skip
                    yield publish(run, images.take(n_eval), test.take(n_eval))
            except Timeout:
                continue
            except FloatingPointError as error:
                say(f"{run.stem}: {error}")
