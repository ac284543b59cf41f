"""Train the networks of Table 1: ``python -m numeric train --config 4blocks_noattn``.

Adam (or SOAP) on the EDM loss (:mod:`numeric.baselines.edm`) by a :class:`~numeric.baselines.schedule.Schedule`.  Every step's images,
noise levels and noise are a function of (seed, step), so a run that is killed and resumed gives the numbers of a run that was
not: the checkpoint holds the weights, their running average, the optimiser's moments, the step and both curves.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from numeric.baselines.clock import machine_name, machine_seconds
from numeric.baselines.configs import CONFIGS, NetworkConfig, parameter_count
from numeric.baselines.edm import EDM
from numeric.baselines.graphs import CapturedStep
from numeric.baselines.network import NetworkDenoiser, load_network
from numeric.baselines.plateau import SIGMAS, count_after, images_seen, is_trained, last_doubling
from numeric.baselines.schedule import Schedule
from numeric.baselines.soap import SOAP
from numeric.data import ImageSet, LazyImages
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import evaluate
from numeric.fingerprint import code_hash, files_hash
from numeric.memory import free_memory
from numeric.progress import progress_bar
from numeric.results import load_tensors, read_json, reading, save_tensors, versions


def step_generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The generator of one training step: the same (seed, step) draws the same batch."""
    digest = hashlib.sha256(f"train {seed} {step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))


def saved_bytes(network: nn.Module, edm: EDM, shape: tuple[int, int, int]) -> int:
    """Bytes that autograd keeps per image between forward and backward: those of two images less those of one."""

    def kept(count: int) -> int:
        total = 0

        def pack(tensor: Tensor) -> Any:  # a hook that keeps what it is given keeps the whole graph for ever
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return None

        device = next(network.parameters()).device
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            x = torch.zeros(count, *shape, device=device)
            edm.loss(network, x, torch.ones(count, device=device), torch.zeros_like(x))
        return total

    return kept(2) - kept(1)


def check_memory(network: nn.Module, edm: EDM, shape: tuple[int, int, int], batch_size: int, device: str) -> None:
    """Raise MemoryError before training if a batch will not fit."""
    free = free_memory(device)
    weights = 20 * sum(p.numel() for p in network.parameters())
    each = saved_bytes(network, edm, shape)
    if free is not None and weights + each * batch_size > 0.9 * free:
        fits = max(int((0.9 * free - weights) // each), 0)
        raise MemoryError(
            f"a batch of {batch_size} needs about {(weights + each * batch_size) / 2**30:.1f} GiB and {free / 2**30:.1f} GiB "
            f"are free: use --batch-size {2 ** int(math.log2(fits))} or less"
            if fits
            else f"not even one image fits into the {free / 2**30:.2f} GiB that are free"
        )


class Batches:
    """Images by index, on a device: resized and kept there if they fit into a quarter of its free memory, else read as asked."""

    def __init__(self, images: ImageSet, device: str) -> None:
        self.images, self.device, self.kept = images, device, None
        free = free_memory(device)
        needed = 4 * len(images) * math.prod(images.shape)
        if not isinstance(images.raw, LazyImages) and needed < min((free or 0) / 4, 2**30):
            self.kept = torch.empty(len(images), *images.shape, device=device)
            start = 0
            for part in images.batches(1000):
                self.kept[start : start + len(part)] = part.to(device)
                start += len(part)

    def __getitem__(self, index: Tensor) -> Tensor:
        if self.kept is not None:
            return self.kept[index]
        return self.images[index.cpu()].to(self.device, torch.float32)


class Trainer:
    """One network in training: :meth:`advance` by a step, :meth:`save` and :meth:`restore` its whole state.

    Attributes:
        step, images_seen, seconds: so far. machine_seconds: the seconds by machine (:mod:`numeric.baselines.clock`).
        made_with: versions and hash of the code that trains now.
        phases: schedules so far, ``{"schedule", "from_images", "from_step"}``; more than one if a checkpoint was taken up
            with another schedule.

    Args:
        capture: steps as one CUDA graph (:class:`~numeric.baselines.graphs.CapturedStep`), on a GPU.
    """

    def __init__(self, config: NetworkConfig, images: ImageSet, schedule: Schedule, edm: EDM | None = None, capture: bool = False) -> None:
        self.config, self.images, self.schedule = config, images, schedule
        device = schedule.device
        self.capture = capture
        self.edm = edm if edm is not None else EDM.measured(images)
        self.network = config.build(images.shape[0], schedule.seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = config.build(images.shape[0], schedule.seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average.requires_grad_(False).eval()
        check_memory(self.network, self.edm, images.shape, max(schedule.batch_size, schedule.late_batch_size), device)
        weights, rate = list(self.network.parameters()), schedule.learning_rate
        self.optimizer = SOAP(weights, lr=rate) if schedule.optimizer == "soap" else torch.optim.Adam(weights, lr=rate, fused=True)
        self.step = self.images_seen = 0
        self.machine, self.machine_seconds = machine_name(device), dict[str, float]()
        self.made_with = {"versions": versions(), "code": code_hash(__name__)}  # asked now: files may change while this runs
        self.phases: list[dict[str, Any]] = [{"schedule": schedule.to_dict(), "from_step": 0, "from_images": 0}]
        self.batches = Batches(images, device)
        self._forward: Any = torch.compile(self.network) if schedule.compile else self.network
        self._every = 1 if device == "cpu" else 50  # a look at the loss waits for the device
        self._captured: dict[int, CapturedStep] = {}  # by batch size

    @property
    def seconds(self) -> float:
        return math.fsum(self.machine_seconds.values())

    def took(self, seconds: float) -> None:
        """Count time of training on this machine."""
        self.machine_seconds[self.machine] = self.machine_seconds.get(self.machine, 0.0) + seconds

    @property
    def moments_from(self) -> int:
        """Images seen when the optimiser's moments were last empty: 0, or where published weights or another optimiser went on."""
        anew = [p for old, p in pairwise(self.phases) if "weights" in p or _optimizer(old) != _optimizer(p)]
        return int(anew[-1]["from_images"]) if anew else 0

    def advance(self) -> Tensor:
        """One training step; returns its loss (a scalar on the device).

        Raises:
            FloatingPointError: the loss is not finite (looked at every 50 steps on a GPU).
        """
        s = self.schedule
        generator = step_generator(s.seed, self.step, s.device)
        batch = s.batch(self.images_seen)
        index = torch.randint(len(self.images), (batch,), generator=generator, device=s.device)
        x = self.batches[index]
        sigma = self.edm.sample_sigma(batch, generator)
        noise = torch.randn(x.shape, generator=generator, device=s.device)
        loss = self._differentiated(x, sigma, noise)
        if self.step % self._every == 0 and not math.isfinite(float(loss)):
            raise FloatingPointError(f"the loss is {float(loss)} at step {self.step}: lower --learning-rate, or train without --bf16")
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate(self.images_seen, self.moments_from)
        self.optimizer.step()
        self.step += 1
        self.images_seen += batch
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1.0 - s.average_decay(self.step))
        return loss

    def _differentiated(self, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """The loss of a batch, its gradients left in the parameters; captured once and replayed where that was asked for."""

        def step(x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            device = self.schedule.device.split(":")[0]
            with torch.autocast(device, torch.bfloat16, cache_enabled=False) if self.schedule.bf16 else nullcontext():
                loss = self._loss(x, sigma, noise)
            loss.backward()
            return loss.detach()

        if self.capture and len(x) not in self._captured:
            try:
                self._captured[len(x)] = CapturedStep(step, (x, sigma, noise), list(self.network.parameters()))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                cause: BaseException = error
                while cause.__context__ is not None:  # the end of the capture fails for the reason that it was broken off
                    cause = cause.__context__
                reason = f"{type(cause).__name__} {cause}".splitlines()[0].strip()
                warnings.warn(f"the step cannot be captured as a CUDA graph ({reason}): training goes on without", stacklevel=2)
                self.capture = False
        return self._captured[len(x)](x, sigma, noise) if self.capture else step(x, sigma, noise)

    def _loss(self, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        try:
            return self.edm.loss(self._forward, x, sigma, noise, torch.channels_last).mean()
        except Exception as error:
            if self._forward is self.network:
                raise
            reason = f"{type(error).__name__} {error}".splitlines()[0].strip()
            warnings.warn(f"torch.compile does not work here ({reason}): training goes on without it", stacklevel=2)
            self._forward = self.network
            return self._loss(x, sigma, noise)

    def denoiser(self, label: str = "network") -> NetworkDenoiser:
        """The running average under the denoiser interface."""
        denoiser = NetworkDenoiser(self.average, self.edm, label, bf16=self.schedule.bf16)
        denoiser.pixel_range_ = self.images.pixel_range
        return denoiser

    def fingerprint(self) -> str:
        """What must agree for a checkpoint to be taken up under any schedule."""
        key = [asdict(self.config), self.edm.to_dict(), self.schedule.seed, self.images.shape, self.images.sha256]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def save(self, path: Path, extra: dict[str, Any] | None = None) -> None:
        """Write the whole state atomically.

        Raises:
            FloatingPointError: weights that are not finite; what ``path`` holds already is left as it is.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.network.parameters()):
            raise FloatingPointError(
                f"weights are not finite at step {self.step}: lower --learning-rate, or train without --bf16"
                + (f"; {path} keeps the last good ones" if path.exists() else "")
            )
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{k}": v.clone() for k, v in state.items()}
        meta = {
            "step": str(self.step),
            "images": str(self.images_seen),
            "machine_seconds": json.dumps(self.machine_seconds),
            "fingerprint": self.fingerprint(),
            "phases": json.dumps(self.phases),
            "extra": json.dumps(extra or {}),
        }
        save_tensors(path, tensors, meta)

    def restore(self, path: Path, reschedule: bool = False) -> dict[str, Any]:
        """Take up a checkpoint; returns what :meth:`save` was given as ``extra``.

        Args:
            reschedule: go on with this trainer's schedule even where it differs from the checkpoint's; the record lists both.

        Raises:
            ValueError: truncated, or made with other settings or data.
        """
        tensors, meta = load_tensors(path)
        phases = json.loads(meta.get("phases", "null"))
        if meta.get("fingerprint") != self.fingerprint() or not phases:
            raise ValueError(f"{path} was made with another configuration, seed or data: give another output folder, or run with its settings")
        new: dict[str, Any] = {"schedule": self.schedule.to_dict(), "from_step": int(meta["step"]), "from_images": int(meta["images"])}
        last = phases[-1]
        if differences := _differences(last["schedule"], new["schedule"]):
            if not reschedule:
                raise ValueError(
                    f"{path} was made with another schedule ({differences}): run with its settings, or go on with the new ones by "
                    "--reschedule"
                )
            phases.append(new)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        with reading(path, "checkpoint"):
            self.network.load_state_dict(part("network."))
            self.average.load_state_dict(part("average."))
            state: dict[int, dict[str, Tensor]] = {}
            parameters = list(self.network.parameters())
            kept = part("adam.") if _optimizer(last) == self.schedule.optimizer else {}  # another one's moments are not its own
            for key, value in kept.items():
                number, name = key.split(".", 1)
                if value.shape == parameters[int(number)].shape:  # in the memory layout of its parameter, which the fused optimiser relies on
                    value = torch.empty_like(parameters[int(number)], requires_grad=False).copy_(value)
                state.setdefault(int(number), {})[name] = value
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.step, self.images_seen, extra = int(meta["step"]), int(meta["images"]), json.loads(meta["extra"])
            if "machine_seconds" in meta:
                self.machine_seconds = json.loads(meta["machine_seconds"])
            else:  # of an older program
                before = extra.get("record") or {"phases": phases, "images": self.images_seen, "seconds": float(meta["seconds"])}
                self.machine_seconds = machine_seconds(before)
        self.phases = phases
        return extra

    def start_from(self, path: Path) -> dict[str, Any]:
        """Go on from published weights, whose checkpoint is gone: both the weights and their average, with Adam's moments anew.

        The learning rate rises from 0 once more (:attr:`Schedule.warmup`).  Without that the first steps threw a network of 15
        million weights back to half of the images that it had seen.

        Args:
            path: what :func:`numeric.baselines.runs.publish` wrote; its record lies beside it.

        Returns:
            Both curves of the record, as :class:`Curves` takes them.

        Raises:
            ValueError: another configuration, preconditioning, seed or data.
        """
        record = read_json(path.with_suffix(".json"))
        mine = {"config": asdict(self.config), "edm": self.edm.to_dict(), "data": self.images.provenance}
        mine = json.loads(json.dumps(mine | {"seed": self.schedule.seed}))
        theirs = {"config": record["config"], "edm": record["edm"], "data": record["data"], "seed": record["schedule"]["seed"]}
        if different := [name for name, value in mine.items() if theirs[name] != value]:
            name = different[0]
            raise ValueError(f"{path} was trained with another {name} ({theirs[name]}, here {mine[name]}): nothing can go on from it")
        weights = load_network(path).network.state_dict()
        self.network.load_state_dict(weights)
        self.average.load_state_dict(weights)
        self.step, self.images_seen, self.machine_seconds = int(record["steps"]), images_seen(record), machine_seconds(record)
        first = {"schedule": record["schedule"], "from_step": 0, "from_images": 0}
        new = {"schedule": self.schedule.to_dict(), "from_step": self.step, "from_images": self.images_seen}
        self.phases = [*record.get("phases", [first]), {**new, "weights": files_hash([path])}]
        points = [point for point in record["held_out_curve"] if "images" in point]
        return {"losses": record["loss"] if points else [], "errors": points}


def _optimizer(phase: dict[str, Any]) -> str:
    return str(phase["schedule"].get("optimizer", "adam"))


_NOT_THE_NUMBERS = ("steps", "device", "compile")


def _differences(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Where two schedules differ in what the numbers depend on (not in length or machine)."""
    a = {field.name: field.default for field in fields(Schedule)} | a  # what an older program did not know
    keys = [k for k in b if k not in _NOT_THE_NUMBERS and a[k] != b[k]]
    return ", ".join(f"{k} {a[k]} there, {b[k]} here" for k in keys)


def measure(
    denoiser: Denoiser, images: ImageSet, sigmas: Iterable[float], seed: int = 0, device: str = "cpu"
) -> dict[str, Any]:
    """MSE per pixel (clamped) with its standard error at each sigma: ``{"0.5": {"mse", "se", "n"}}``."""
    out = {}
    for sigma in sigmas:
        key = (seed, round(sigma * 1e6))
        record = evaluate({"network": (denoiser, None)}, images, sigma, key=key, device=device)[1]
        out[f"{sigma:g}"] = {k: record[k] for k in ("mse", "se", "n")}
    return out


class Curves:
    """Training loss and held-out error at image counts that do not depend on how long the training will be.

    Attributes:
        losses: ``[images, mean loss since the entry before]`` at counts a factor 2^(1/8) apart.
        errors: ``{"images", "step", "seconds", "mse"}`` at counts a factor sqrt(2) apart, and at the end.
    """

    def __init__(self, stored: dict[str, Any] | None = None) -> None:
        stored = stored or {}
        self.losses: list[list[float]] = stored.get("losses", [])
        self.errors: list[dict[str, Any]] = stored.get("errors", [])
        self.total: float | Tensor = stored.get("total", 0.0)
        self.count: int = stored.get("count", 0)

    def stored(self) -> dict[str, Any]:
        return {"losses": self.losses, "errors": self.errors, "total": float(self.total), "count": self.count}

    def add(self, loss: Tensor, images: int) -> bool:
        """One step's loss; returns whether an entry was made."""
        self.total, self.count = self.total + loss.double(), self.count + 1
        if images < count_after(int(self.losses[-1][0]) if self.losses else 0, 8):
            return False
        self.losses.append([images, float(self.total) / self.count])
        self.total, self.count = 0.0, 0
        return True

    def due(self, images: int) -> bool:
        """Whether the held-out error is to be measured now."""
        return images >= count_after(self.errors[-1]["images"] if self.errors else 0)


def train(
    config: NetworkConfig,
    images: ImageSet,
    schedule: Schedule,
    *,
    held_out: ImageSet | None = None,
    sigmas: Iterable[float] = SIGMAS,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
    reschedule: bool = False,
    stop_at: float = math.inf,
    start_from: Path | None = None,
    progress: bool = True,
) -> tuple[Trainer, dict[str, Any]]:
    """Train to ``schedule.steps``, or to the plateau; returns the trainer and the record (images, seconds, both curves).

    Args:
        held_out: images on which the error is followed (a thousand are enough).
        checkpoint: file for the state, written every ``checkpoint_seconds`` and at the end. resume: take it up if it is there.
        reschedule: take it up with another schedule. stop_at: images after which to pause.
        start_from: published weights to go on from where there is no checkpoint (:meth:`Trainer.start_from`).

    Raises:
        ValueError: the checkpoint is there and ``resume`` was not said, or is of other settings (:meth:`Trainer.restore`).
    """
    if checkpoint is not None and checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} holds an earlier run: resume=True goes on with it; to start anew, delete it first")
    trainer = Trainer(config, images, schedule)
    curves = Curves()
    if resume and checkpoint is not None and checkpoint.exists():
        curves = Curves(trainer.restore(checkpoint, reschedule)["curves"])
    elif start_from is not None:
        curves = Curves(trainer.start_from(start_from))
    sigmas = list(sigmas)
    saved = time.perf_counter()

    def follow() -> None:
        if held_out is not None and (not curves.errors or curves.errors[-1]["images"] != trainer.images_seen):
            error = measure(trainer.denoiser(), held_out, sigmas, device=schedule.device)
            point = {"images": trainer.images_seen, "step": trainer.step, "seconds": trainer.seconds}
            curves.errors.append({**point, "mse": {k: v["mse"] for k, v in error.items()}})

    def save() -> None:
        if checkpoint is not None:
            trainer.save(checkpoint, {"curves": curves.stored(), "record": record_of(trainer, curves, held_out)})

    def goes_on() -> bool:
        return (
            trainer.images_seen < min(schedule.images, stop_at)
            and trainer.seconds < 60 * schedule.max_minutes
            and not (schedule.until_trained and is_trained(curves.errors))
        )

    total = min(schedule.images, stop_at)
    with progress_bar(int(total), f"train {config.name} {images.shape[-1]}", progress, done=trainer.images_seen) as bar:
        while goes_on():
            start, before = time.perf_counter(), trainer.images_seen
            loss = trainer.advance()
            trainer.took(time.perf_counter() - start)
            if curves.add(loss, trainer.images_seen):
                bar.set_postfix_str(f"loss {curves.losses[-1][1]:.4f}", refresh=False)
            bar.update(trainer.images_seen - before)
            if held_out is not None and curves.due(trainer.images_seen):
                follow()
                save()
                saved = time.perf_counter()
            elif time.perf_counter() - saved > checkpoint_seconds:
                save()
                saved = time.perf_counter()
    follow()
    save()
    return trainer, record_of(trainer, curves, held_out)


def record_of(trainer: Trainer, curves: Curves, held_out: ImageSet | None) -> dict[str, Any]:
    """What is recorded of a training, finished or not."""
    pending = [[trainer.images_seen, float(curves.total) / curves.count]] if curves.count else []
    return {
        "config": asdict(trainer.config),
        "schedule": trainer.schedule.to_dict(),
        "phases": trainer.phases,
        "edm": trainer.edm.to_dict(),
        "size": trainer.images.shape[-1],
        "parameters": parameter_count(trainer.network),
        "steps": trainer.step,
        "images": trainer.images_seen,
        "seconds": trainer.seconds,
        "machine_seconds": trainer.machine_seconds,
        "images_per_second": trainer.images_seen / max(trainer.seconds, 1e-9),
        "data": trainer.images.provenance,
        "loss": curves.losses + pending,
        "held_out_curve": curves.errors,
        "trained_with": trainer.made_with,
        "held_out_curve_images": len(held_out) if held_out is not None else 0,
        "last_doubling": last_doubling(curves.errors),
        "trained": is_trained(curves.errors),
    }


def configuration_table() -> None:
    """Print Table 1's configurations with their parameter counts."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*["name", "parameters", "base_ch", "ch_mult", "steps", "batch", "LR"])
    console = Console(width=110)
    for c in CONFIGS.values():
        mult = ",".join(map(str, c.channel_mult)) if c.kind == "unet" else f"depth {c.depth}"
        count = f"{parameter_count(c.build()):,}"
        table.add_row(c.name, count, str(c.base_channels), mult, f"{c.steps:,}", str(c.batch_size), f"{c.learning_rate:g}")
    console.print(table)
    for c in CONFIGS.values():
        if c.note:
            console.print(f"{c.name}: {c.note}", highlight=False)
