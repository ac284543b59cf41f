"""U-Net of Appendix B: Song et al.'s "DDPM++" as Karras et al. (2022) use it, without attention.

Our reading of Appendix B: ``channel_mult`` gives one resolution level per entry.  The encoder has ``layers_per_block``
residual layers per level and a residual down-sampling layer between levels; the decoder has two residual layers at the
bottom, ``layers_per_block + 1`` per level (each joined with one encoder output), and a residual up-sampling layer between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from numeric.baselines.fused import norm_silu


def positional_embedding(values: Tensor, channels: int, longest: float = 10_000.0) -> Tensor:
    """Cosines and sines ``(n, channels)`` of ``values`` ``(n,)`` at geometric frequencies from 1 to ``1 / longest``."""
    half = channels // 2
    values = values if values.dtype == torch.float64 else values.float()
    powers = torch.arange(half, device=values.device, dtype=values.dtype) / max(half - 1, 1)
    angles = values[:, None] * longest ** (-powers)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class NoiseEmbedding(nn.Module):
    """``c_noise`` ``(n,)`` to an embedding ``(n, width)``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.hidden = nn.Linear(channels, width)
        self.out = nn.Linear(width, width)

    def forward(self, c_noise: Tensor) -> Tensor:
        return F.silu(self.out(F.silu(self.hidden(positional_embedding(c_noise, self.channels)))))


def _norm(channels: int) -> nn.GroupNorm:
    groups = min(32, max(channels // 4, 1))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualLayer(nn.Module):
    """norm, SiLU, 3x3 convolution, plus the embedding; again; plus the input; over sqrt(2).

    ``resample``: ``"down"`` averages 2 x 2 pixels, ``"up"`` repeats them, before the first convolution and on the shortcut.
    """

    def __init__(self, channels_in: int, channels_out: int, embedding: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.norm1, self.norm2 = _norm(channels_in), _norm(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = _zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.affine = nn.Linear(embedding, channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def _resampled(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # which computes both of these in float32
            if self.resample == "down":
                return F.avg_pool2d(x, 2)
            return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self._resampled(norm_silu(self.norm1, x)))
        h = self.conv2(norm_silu(self.norm2, h, self.affine(embedding)))
        return (h + self.shortcut(self._resampled(x))) * math.sqrt(0.5)


class UNet(nn.Module):
    """``(images (n, c, h, w), c_noise (n,)) -> (n, c, h, w)``; sides must be divisible by ``2^(levels - 1)``.

    Args:
        channels: of the images.
        base_channels, channel_mult: level ``i`` has ``base_channels * channel_mult[i]`` channels.
        layers_per_block: residual layers per encoder level.

    Raises:
        ValueError: from ``forward`` if the image side does not divide.
    """

    def __init__(
        self,
        channels: int = 1,
        base_channels: int = 16,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        layers_per_block: int = 1,
    ) -> None:
        super().__init__()
        widths = [base_channels * m for m in channel_mult]
        self.divisor = 2 ** (len(widths) - 1)
        width = 4 * base_channels
        self.embedding = NoiseEmbedding(base_channels, width)
        self.input = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips, current = [widths[0]], widths[0]
        for level, out in enumerate(widths):
            if level:
                self.encoder.append(ResidualLayer(current, current, width, "down"))
                skips.append(current)
            for _ in range(layers_per_block):
                self.encoder.append(ResidualLayer(current, out, width))
                current = out
                skips.append(current)
        self.middle = nn.ModuleList([ResidualLayer(current, current, width) for _ in range(2)])
        self.takes_skip: list[bool] = []
        for level, out in reversed(list(enumerate(widths))):
            if level != len(widths) - 1:
                self.decoder.append(ResidualLayer(current, current, width, "up"))
                self.takes_skip.append(False)
            for _ in range(layers_per_block + 1):
                self.decoder.append(ResidualLayer(current + skips.pop(), out, width))
                self.takes_skip.append(True)
                current = out
        self.norm = _norm(current)
        self.output = _zero(nn.Conv2d(current, channels, 3, padding=1))

    def forward(self, images: Tensor, c_noise: Tensor) -> Tensor:
        if images.shape[-1] % self.divisor or images.shape[-2] % self.divisor:
            raise ValueError(
                f"this U-Net halves the image {self.divisor.bit_length() - 1} times: sides must be multiples of "
                f"{self.divisor}, got {tuple(images.shape[-2:])}"
            )
        embedding = self.embedding(c_noise)
        x = self.input(images)
        skips = [x]
        for layer in self.encoder:
            x = layer(x, embedding)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer, joined in zip(self.decoder, self.takes_skip):
            x = layer(torch.cat([x, skips.pop()], dim=1) if joined else x, embedding)
        return self.output(norm_silu(self.norm, x))
