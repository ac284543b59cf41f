"""How a network is trained: the printed schedule, for a GPU, and one for a CPU; recorded with the weights either way."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from numeric.baselines.configs import NetworkConfig

OPTIMIZERS = ("adam", "soap")
RESTART_STEPS = 30
"""Steps over which the learning rate rises, at least, where a trained network goes on without Adam's moments: the first steps of
empty moments are as long as the rate allows in every direction, and throw weights that are already good far back."""


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        steps: in all (with a late batch size: as many images as so many steps of ``batch_size``). batch_size: images a step. learning_rate: the optimiser's, the highest. seed: of weights and draws.
        ema: decay of the running average of the weights that is evaluated and shipped, ``min(ema, (1 + t) / (10 + t))``
            after step t; 0 for the last weights themselves.  With a constant learning rate the last weights are noisy.
        bf16: forward and backward in bfloat16, weights in float32. compile: torch.compile. device: torch device.
        max_minutes: stop early after so long (the record says how many steps were run).
        warmup: images over which the learning rate rises linearly from 0; again, over :data:`RESTART_STEPS` steps at least, where
            published weights are gone on from.
        decay_after: images after which it falls as one over the square root of the images seen; 0: never.
        ema_power: instead of ``ema``, average with weights proportional to ``t^ema_power`` over all steps t so far: the average
            keeps to the last part, about ``1 / (ema_power + 2)``, of however long the training is; 0: use ``ema``.
            (Both after Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3.)
        late_batch_size: images a step once ``decay_after`` images have been seen; 0: as before.  Larger batches take less work an
            image, and late in training do what a smaller learning rate does (Smith et al. 2018).
        until_trained: stop at the plateau (:mod:`numeric.baselines.plateau`) before all steps are run.
        optimizer: ``"adam"``, the paper's, or ``"soap"`` (:mod:`numeric.baselines.soap`).
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
    warmup: int = 0
    decay_after: int = 0
    ema_power: float = 0.0
    late_batch_size: int = 0
    until_trained: bool = False
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch size must be >= 1, got {self.steps} and {self.batch_size}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if not self.learning_rate > 0 or not self.max_minutes > 0:
            raise ValueError(f"learning rate and max minutes must be > 0, got {self.learning_rate}, {self.max_minutes}")
        if self.warmup < 0 or self.decay_after < 0 or self.ema_power < 0:
            raise ValueError(
                f"warmup, decay_after and ema_power must be >= 0, got {self.warmup}, {self.decay_after}, {self.ema_power}"
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}: use {' or '.join(OPTIMIZERS)}")
        if self.late_batch_size < 0 or (self.late_batch_size and not self.decay_after):
            raise ValueError(f"late_batch_size must be >= 0 and needs decay_after, got {self.late_batch_size}, {self.decay_after}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {self.device!r} was asked for but torch sees no GPU: use --device cpu")

    @classmethod
    def printed(cls, config: NetworkConfig, device: str = "cpu", **changes: Any) -> Schedule:
        """The paper's: batches of 2,048, constant learning rate; on a GPU in bf16."""
        gpu = device.startswith("cuda")
        values: dict[str, Any] = {"steps": config.steps, "batch_size": config.batch_size, "learning_rate": config.learning_rate}
        return cls(**values | {"seed": config.seed, "device": device, "bf16": gpu} | changes)

    @classmethod
    def cpu(cls, config: NetworkConfig, **changes: Any) -> Schedule:
        """For a CPU: the printed number of images at most, in small batches, at twice the printed learning rate.

        Small batches make the most of each image.  Neither the falling learning rate nor the average depends on how long
        the training will be, so that it can stop at the plateau.
        """
        batch = 32
        values: dict[str, Any] = {
            "steps": config.steps * config.batch_size // batch,
            "batch_size": batch,
            "learning_rate": 2 * config.learning_rate,
            "seed": config.seed,
            "bf16": True,
            "warmup": 5_000,
            "decay_after": 100_000,
            "ema_power": 7.0,
            "late_batch_size": 128,
            "until_trained": True,
        }
        return cls(**values | changes)

    @property
    def images(self) -> int:
        """Images in all, with repetitions."""
        return self.steps * self.batch_size

    def batch(self, images: int) -> int:
        """Images of the step that follows when so many have been seen."""
        return self.late_batch_size if self.late_batch_size and images >= self.decay_after else self.batch_size

    def rate(self, images: int, start: int = 0) -> float:
        """Learning rate when so many images have been seen, of which ``start`` before Adam's moments were empty (again)."""
        warmup = max(self.warmup, RESTART_STEPS * self.batch(images)) if start else self.warmup
        rise = min((images - start + self.batch(images)) / warmup, 1.0) if warmup else 1.0
        fall = math.sqrt(self.decay_after / max(images, self.decay_after)) if self.decay_after else 1.0
        return self.learning_rate * rise * fall

    def average_decay(self, step: int) -> float:
        """Decay of the averaged weights after ``step`` steps (>= 1)."""
        if self.ema_power:
            return (1 - 1 / step) ** (self.ema_power + 1)
        return min(self.ema, (1 + step) / (10 + step)) if self.ema else 0.0

    def to_dict(self) -> dict[str, Any]:
        """What a record states: all but limits and the machine's matters."""
        return {k: v for k, v in asdict(self).items() if k not in ("max_minutes", "until_trained")}


def options(schedule: dict[str, Any]) -> str:
    """The command line's options for a recorded schedule (:meth:`Schedule.to_dict`), all but its length; every digit is kept."""
    s: dict[str, Any] = {field.name: field.default for field in fields(Schedule)} | schedule
    text = ""
    for name in ("batch_size", "learning_rate", "ema", "seed", "warmup", "decay_after", "late_batch_size", "ema_power"):
        value = int(s[name]) if float(s[name]).is_integer() else float(s[name])
        text += f"--{name.replace('_', '-')} {value} "
    text += f"--optimizer {s['optimizer']} " if s["optimizer"] != "adam" else ""
    text += "--bf16" if s["bf16"] else "--float32"
    return text + (" --compile" if s["compile"] else " --no-compile") + f" --device {s['device']}"
