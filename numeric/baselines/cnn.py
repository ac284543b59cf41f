"""Plain convolutional backbone at one resolution: any image size, a known receptive field.

The paper names a CNN and gives no details; this one is our reading: 3 x 3 convolutions at constant width with SiLU, each
scaled and shifted by the noise embedding, and residual.  ``depth`` of them see a ``2 depth + 5`` pixel window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from numeric.baselines.fused import affine_silu
from numeric.baselines.unet import NoiseEmbedding, _zero


class CNN(nn.Module):
    """``(images (n, c, h, w), c_noise (n,)) -> (n, c, h, w)``.

    Args:
        channels: of the images. width: channels inside. depth: inner convolutions.
    """

    def __init__(self, channels: int = 1, width: int = 32, depth: int = 5) -> None:
        super().__init__()
        self.embedding = NoiseEmbedding(width, 2 * width)
        self.input = nn.Conv2d(channels, width, 3, padding=1)
        self.inner = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
        self.affine = nn.ModuleList([nn.Linear(2 * width, 2 * width) for _ in range(depth)])
        self.output = _zero(nn.Conv2d(width, channels, 3, padding=1))

    @property
    def receptive_field(self) -> int:
        """Side of the window one output pixel sees."""
        return 2 * (len(self.inner) + 2) + 1

    def forward(self, images: Tensor, c_noise: Tensor) -> Tensor:
        embedding = self.embedding(c_noise)
        x = self.input(images)
        for convolution, affine in zip(self.inner, self.affine):
            scale, shift = torch.chunk(affine(embedding), 2, dim=1)
            x = x + affine_silu(convolution(x), scale, shift, self.training)
        return self.output(F.silu(x))
