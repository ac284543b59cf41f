"""What one pass over images sums: tensors of known shapes, and how a batch of images adds to them.

Every readout's pass is a :class:`Pass`; who runs it, and over which images, is the business of :mod:`numeric.scores.totals`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.scores.dense import add_gram
from numeric.shards import check_shape
from numeric.wavelets import WaveletTransform


def batch_bytes(device: str | torch.device) -> int:
    """Most bytes of the features of one batch: more on a GPU, whose products want to be long."""
    return 2**27 if torch.device(device).type == "cpu" else 2**30


def float64_on(images: Tensor, device: str | torch.device) -> Tensor:
    """Images as float64 on a device, sent in the type that they have."""
    return images.to(device).to(torch.float64)


def tensor_hash(*tensors: Tensor) -> str:
    """sha256 of the numbers of some tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Pass(ABC):
    """What a pass over images sums.

    Attributes:
        name: of the pass, in the names of its checkpoints.
        batch: images at a time. device: where the sums live while images are added.
    """

    name: str
    batch: int = 1000
    device: str | torch.device = "cpu"

    @property
    @abstractmethod
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the sums, float64."""

    @property
    @abstractmethod
    def config(self) -> Any:
        """What tells this pass from others, as JSON takes it; tensors by :func:`tensor_hash`."""

    @abstractmethod
    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        """Add a batch ``(n, channels, height, width)`` to the sums, in place."""

    def empty(self) -> list[Tensor]:
        """Sums of no image."""
        return [torch.zeros(shape, dtype=torch.float64, device=self.device) for shape in self.shapes]


class Look(Pass):
    """Sums nothing: number of images, span and hashes are what comes of it."""

    name = "look"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return []

    @property
    def config(self) -> Any:
        return None

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        """Nothing."""


@dataclass
class CoefficientSum(Pass):
    """Sum of the wavelet coefficients, ``(channels * n_coefficients,)``."""

    transform: WaveletTransform
    channels: int
    batch: int = 1000
    device: str | torch.device = "cpu"
    name = "mean"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(self.channels * self.transform.n_coefficients,)]

    @property
    def config(self) -> Any:
        return [self.transform.config, self.channels]

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        sums[0].add_(self.transform.forward(float64_on(images, self.device)).flatten(1).sum(0))


@dataclass
class PixelProducts(Pass):
    """Sum of the pixels less a fixed image, ``(N,)``, and of their products on and below the diagonal, ``(N, N)``."""

    shift: Tensor
    batch: int = 1000
    device: str | torch.device = "cpu"
    name = "covariance"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(len(self.shift),), (len(self.shift),) * 2]

    @property
    def config(self) -> Any:
        return ["pixels", tensor_hash(self.shift)]

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        x = float64_on(images, self.device).flatten(1) - self.shift
        sums[0].add_(x.sum(0))
        add_gram(sums[1], x.T)


@dataclass
class Sums:
    """What a pass over some images gave.

    Attributes:
        arrays: float64, of the pass's shapes; NumPy's, which travel without copies.
        count: images. low, high: span of their pixels. shape: ``(channels, height, width)``.
        hashes: sha256 of the stored pixels of every shard.
    """

    arrays: list[np.ndarray]
    count: int
    low: float
    high: float
    shape: tuple[int, int, int]
    hashes: tuple[str, ...] = ()

    def tensors(self, device: str | torch.device = "cpu") -> list[Tensor]:
        """The sums as tensors, to be worked on in place."""
        return [torch.from_numpy(np.require(a, requirements="W")).to(device) for a in self.arrays]


def merge(parts: Sequence[Sums]) -> Sums:
    """Sums of all the images together, added in order; the parts stay as they are."""
    arrays = []
    for columns in zip(*(part.arrays for part in parts)):
        out = columns[0].copy()
        for column in columns[1:]:
            out += column
        arrays.append(out)
    for part in parts[1:]:
        check_shape(part.shape, parts[0].shape)
    return Sums(
        arrays, sum(p.count for p in parts), min(p.low for p in parts), max(p.high for p in parts), parts[0].shape,
        tuple(h for p in parts for h in p.hashes),
    )  # fmt: skip
