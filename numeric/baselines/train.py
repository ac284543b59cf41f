"""Train the networks of Table 1: ``python -m numeric train --config 4blocks_noattn``.

Adam, constant learning rate, EDM loss (:mod:`numeric.baselines.edm`).  Every step's images, noise levels and noise are a
function of (seed, step), so a run that is killed and resumed gives the numbers of a run that was not: the checkpoint
holds the weights, their running average, Adam's moments and the step.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from numeric.baselines.configs import CONFIGS, NetworkConfig, parameter_count
from numeric.baselines.edm import EDM
from numeric.baselines.network import NetworkDenoiser
from numeric.data import ImageSet
from numeric.evaluation.sweep import evaluate
from numeric.memory import free_memory
from numeric.progress import progress_bar
from numeric.results import load_tensors, save_tensors

SIGMAS = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        steps: in all. batch_size, learning_rate: Adam's, constant. seed: of weights and draws.
        ema: decay of the running average of the weights that is evaluated and shipped, ``min(ema, (1 + t) / (10 + t))``
            after step t; 0 for the last weights themselves.  With a constant learning rate the last weights are noisy.
        bf16: forward and backward in bfloat16, weights in float32. compile: torch.compile. device: torch device.
        max_minutes: stop early after so long (the record says how many steps were run).
    """

    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    ema: float = 0.995
    bf16: bool = False
    compile: bool = False
    device: str = "cpu"
    max_minutes: float = math.inf

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch size must be >= 1, got {self.steps} and {self.batch_size}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if not self.learning_rate > 0 or not self.max_minutes > 0:
            raise ValueError(f"learning rate and max minutes must be > 0, got {self.learning_rate}, {self.max_minutes}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {self.device!r} was asked for but torch sees no GPU: use --device cpu")


def step_generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The generator of one training step: the same (seed, step) draws the same batch."""
    digest = hashlib.sha256(f"train {seed} {step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))


def saved_bytes(network: nn.Module, edm: EDM, shape: tuple[int, int, int]) -> int:
    """Bytes that autograd keeps per image between forward and backward: those of two images less those of one."""

    def kept(count: int) -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        device = next(network.parameters()).device
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            x = torch.zeros(count, *shape, device=device)
            edm.loss(network, x, torch.ones(count, device=device), torch.zeros_like(x))
        return total

    return kept(2) - kept(1)


def check_memory(network: nn.Module, edm: EDM, shape: tuple[int, int, int], batch_size: int, device: str) -> None:
    """Raise MemoryError before training if a batch will not fit."""
    free = torch.cuda.mem_get_info()[0] if device.startswith("cuda") else free_memory()
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


class Trainer:
    """One network in training: :meth:`run` to a step, :meth:`save` and :meth:`restore` its whole state."""

    def __init__(self, config: NetworkConfig, images: ImageSet, schedule: Schedule, edm: EDM | None = None) -> None:
        self.config, self.images, self.schedule = config, images, schedule
        device = schedule.device
        self.edm = edm if edm is not None else EDM.measured(images)
        self.network = config.build(images.shape[0], schedule.seed).to(device)
        self.average = config.build(images.shape[0], schedule.seed).to(device).requires_grad_(False)
        check_memory(self.network, self.edm, images.shape, schedule.batch_size, device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=schedule.learning_rate)
        self.step = 0
        self.seconds = 0.0
        self._device_images = ImageSet(images.raw.to(device), size=images.size)
        self._forward: Any = torch.compile(self.network) if schedule.compile else self.network

    def advance(self) -> float:
        """One training step; returns its loss."""
        s = self.schedule
        generator = step_generator(s.seed, self.step, s.device)
        index = torch.randint(len(self.images), (s.batch_size,), generator=generator, device=s.device)
        x = self._device_images[index]
        sigma = self.edm.sample_sigma(s.batch_size, generator)
        noise = torch.randn(x.shape, generator=generator, device=s.device)
        with torch.autocast(s.device.split(":")[0], torch.bfloat16) if s.bf16 else nullcontext():
            loss = self.edm.loss(self._forward, x, sigma, noise).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {self.step}: lower --learning-rate, or train without --bf16"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        decay = min(s.ema, (1 + self.step) / (10 + self.step)) if s.ema else 0.0
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(now, 1.0 - decay)
        return value

    def denoiser(self, label: str = "network") -> NetworkDenoiser:
        """The running average under the denoiser interface."""
        return NetworkDenoiser(self.average, self.edm, label, bf16=self.schedule.bf16)

    def fingerprint(self) -> str:
        """What must agree for a checkpoint to be taken up."""
        s = self.schedule
        key = [asdict(self.config), self.edm.to_dict(), s.batch_size, s.learning_rate, s.seed, s.ema, s.bf16]
        return hashlib.sha256(json.dumps([key, self.images.shape, self.images.sha256]).encode()).hexdigest()

    def save(self, path: Path, extra: dict[str, Any] | None = None) -> None:
        """Write the whole state atomically."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{k}": v.clone() for k, v in state.items()}
        meta = {
            "step": str(self.step),
            "seconds": repr(self.seconds),
            "fingerprint": self.fingerprint(),
            "extra": json.dumps(extra or {}),
        }
        save_tensors(path, tensors, meta)

    def restore(self, path: Path) -> dict[str, Any]:
        """Take up a checkpoint; returns what :meth:`save` was given as ``extra``.

        Raises:
            ValueError: truncated, or made with other settings or data.
        """
        tensors, meta = load_tensors(path)
        if meta.get("fingerprint") != self.fingerprint():
            raise ValueError(
                f"{path} was made with another configuration, schedule, seed or data: delete it, or run with its settings"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("adam.").items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        return json.loads(meta["extra"])


def measure(denoiser: NetworkDenoiser, images: ImageSet, sigmas: Iterable[float], seed: int = 0) -> dict[str, Any]:
    """MSE per pixel (clamped) with its standard error at each sigma: ``{"0.5": {"mse", "se", "n"}}``."""
    out = {}
    for sigma in sigmas:
        record = evaluate({"network": (denoiser, None)}, images, sigma, key=(seed, round(sigma * 1e6)))[1]
        out[f"{sigma:g}"] = {k: record[k] for k in ("mse", "se", "n")}
    return out


def milestones(steps: int) -> list[int]:
    """Steps at which the held-out error is measured: 25, 50, 100, ... doubling, and the last."""
    out, step = [], 25
    while step < steps:
        out.append(step)
        step *= 2
    return [*out, steps]


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
    progress: bool = True,
) -> tuple[Trainer, dict[str, Any]]:
    """Train to ``schedule.steps``; returns the trainer and the record (steps, seconds, images/s, loss and error curves).

    Args:
        held_out: images on which the error is followed (a few hundred are enough).
        checkpoint: file for the state, written every ``checkpoint_seconds`` and at the end. resume: take it up if it is there.
    """
    trainer = Trainer(config, images, schedule)
    losses: list[list[float]] = []
    curve: list[dict[str, Any]] = []
    if resume and checkpoint is not None and checkpoint.exists():
        extra = trainer.restore(checkpoint)
        losses, curve = extra["losses"], extra["curve"]
    sigmas = list(sigmas)
    stops = milestones(schedule.steps)
    every = max(schedule.steps // 200, 1)
    saved = time.perf_counter()
    total, count = 0.0, 0
    if losses and trainer.step % every:  # an unfinished mean of the loss curve is part of the checkpoint
        total, count = losses.pop()[1] * (trainer.step % every), trainer.step % every

    def state() -> dict[str, Any]:
        pending = [[trainer.step, total / count]] if count else []
        return {"losses": losses + pending, "curve": curve}

    def follow() -> None:
        if held_out is not None and (not curve or curve[-1]["step"] != trainer.step):
            error = measure(trainer.denoiser(), held_out, sigmas)
            curve.append(
                {"step": trainer.step, "seconds": trainer.seconds, "mse": {k: v["mse"] for k, v in error.items()}}
            )

    with progress_bar(schedule.steps * schedule.batch_size, f"train {config.name}", progress) as bar:
        bar.update(trainer.step * schedule.batch_size)
        while trainer.step < schedule.steps and trainer.seconds < 60 * schedule.max_minutes:
            start = time.perf_counter()
            loss = trainer.advance()
            trainer.seconds += time.perf_counter() - start
            total, count = total + loss, count + 1
            if trainer.step % every == 0:
                losses.append([trainer.step, total / count])
                bar.set_postfix_str(f"loss {total / count:.4f}")
                total, count = 0.0, 0
            bar.update(schedule.batch_size)
            if trainer.step in stops:
                follow()
            if checkpoint is not None and time.perf_counter() - saved > checkpoint_seconds:
                trainer.save(checkpoint, state())
                saved = time.perf_counter()
    follow()
    if checkpoint is not None:
        trainer.save(checkpoint, state())
    record = {
        "config": asdict(config),
        "schedule": {k: v for k, v in asdict(schedule).items() if k != "max_minutes"},
        "edm": trainer.edm.to_dict(),
        "size": images.shape[-1],
        "parameters": parameter_count(trainer.network),
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "images_per_second": trainer.step * schedule.batch_size / max(trainer.seconds, 1e-9),
        "data": images.provenance,
        "loss": losses,
        "held_out_curve": curve,
        "held_out_curve_images": len(held_out) if held_out is not None else 0,
    }
    return trainer, record


def configuration_table() -> None:
    """Print Table 1's configurations with their parameter counts."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*["name", "parameters", "base_ch", "ch_mult", "steps", "batch", "LR"])
    console = Console(width=110)
    for c in CONFIGS.values():
        mult = ",".join(map(str, c.channel_mult)) if c.kind == "unet" else f"depth {c.depth}"
        count = f"{parameter_count(c.build()):,}"
        table.add_row(
            c.name, count, str(c.base_channels), mult, f"{c.steps:,}", str(c.batch_size), f"{c.learning_rate:g}"
        )
    console.print(table)
    for c in CONFIGS.values():
        if c.note:
            console.print(f"{c.name}: {c.note}", highlight=False)
