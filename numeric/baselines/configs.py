"""The seven U-Nets of Table 1 and a CNN, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from numeric.baselines.cnn import CNN
from numeric.baselines.unet import UNet


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture and schedule of one network.

    Attributes:
        name: the paper's name for the run. kind: ``unet`` or ``cnn``.
        base_channels, channel_mult, layers_per_block: of the U-Net (``base_channels``: width of the CNN).
        depth: inner convolutions of the CNN.
        steps, batch_size, learning_rate: the printed schedule (Adam, constant learning rate).
        seed: of weights and draws where none is given.
        printed_minutes: the paper's training time (one A100 or H100), None where it prints none.
        note: what a reader should know about this row.
    """

    name: str
    kind: str = "unet"
    base_channels: int = 16
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    layers_per_block: int = 1
    depth: int = 0
    steps: int = 10_000
    batch_size: int = 2048
    learning_rate: float = 1e-3
    seed: int = 0
    printed_minutes: float | None = None
    note: str = ""

    def build(self, channels: int = 1, seed: int = 0) -> nn.Module:
        """The network with weights drawn from ``seed`` (the global generator is left as it was)."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU's too
            if self.kind == "cnn":
                return CNN(channels, self.base_channels, self.depth)
            return UNet(channels, self.base_channels, self.channel_mult, self.layers_per_block)

    @property
    def title(self) -> str:
        """``U-Net 4blocks_noattn`` or ``CNN``."""
        return "CNN" if self.kind == "cnn" else f"U-Net {self.name}"

    def with_base_channels(self, base_channels: int) -> NetworkConfig:
        """The same at another width.

        Raises:
            ValueError: an odd one, or below 2: half of the noise embedding are sines, half cosines.
        """
        if base_channels < 2 or base_channels % 2:
            raise ValueError(f"base channels must be even and >= 2, got {base_channels}")
        return replace(self, base_channels=base_channels)


_ROWS = [
    NetworkConfig("4blocks_noattn", printed_minutes=25),
    NetworkConfig("4blocks_noattn_smalllr_longtrain", steps=50_000, learning_rate=1e-4, printed_minutes=124),
    NetworkConfig(
        "4blocks_noattn_denser",
        seed=1,
        printed_minutes=37,
        note="the table prints the hyperparameters of 4blocks_noattn; kept as printed, trained from another seed",
    ),
    NetworkConfig("4blocks_wide64_noattn", base_channels=64, printed_minutes=77),
    NetworkConfig("1block_noattn", channel_mult=(1,), printed_minutes=28),
    NetworkConfig(
        "1block_wide128_noattn",
        base_channels=32,
        channel_mult=(1,),
        printed_minutes=17,
        note="the name says 128 channels, the table prints 32; 32 is kept, --base-channels 128 trains the other reading",
    ),
    NetworkConfig("2blocks_noattn", channel_mult=(1, 2), printed_minutes=22),
    NetworkConfig(
        "cnn",
        kind="cnn",
        base_channels=32,
        channel_mult=(1,),
        depth=5,
        note="the paper gives no details of its CNN; this architecture is our reading",
    ),
]
CONFIGS: dict[str, NetworkConfig] = {row.name: row for row in _ROWS}


TRAINING_ORDER: tuple[tuple[str, int], ...] = (
    ("2blocks_noattn", 32),
    ("4blocks_noattn", 32),
    ("cnn", 32),
    ("1block_noattn", 32),
    ("1block_wide128_noattn", 32),
    ("4blocks_noattn_denser", 32),
    ("2blocks_noattn", 64),
    ("4blocks_noattn", 64),
    ("cnn", 64),
    ("4blocks_noattn_smalllr_longtrain", 32),
    ("4blocks_wide64_noattn", 32),
)
"""All of Table 1, what figures show first, first."""


def get_config(name: str) -> NetworkConfig:
    """A configuration by its name or title, in capitals or not.

    Raises:
        ValueError: no such name; the message lists them.
    """
    for config in CONFIGS.values():
        if str(name).lower() in (config.name.lower(), config.title.lower()):
            return config
    raise ValueError(f"unknown configuration {name!r}: use one of {', '.join(CONFIGS)}")


def parameter_count(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
