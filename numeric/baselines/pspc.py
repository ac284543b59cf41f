"""Patch set posterior composites: the mean, over all patches that hold a pixel, of the patches' posterior means.

Niedoba, Zwartsenberg, Murphy and Wood (arXiv 2411.19339), PSPC-Square.  For a ``p x p`` patch at place c, wholly inside the
image, the posterior mean under the training set's own patches *at that place* is

    D_c(y) = sum_i w_ic x_ic,   w_ic ~ exp(-|y_c - x_ic|^2 / (2 sigma^2)),

and pixel m of the composite is the mean of its value in all ``D_c`` with m in c.  A patch as wide as the image is the optimal
empirical denoiser.
"""

from __future__ import annotations

import torch
from torch import Tensor

from numeric.baselines.places import MANY, window_means
from numeric.baselines.sides import PatchDenoiser, Sides
from numeric.baselines.softmax import BLOCK
from numeric.derivatives import tracked, transformed
from numeric.memory import need


class PSPCDenoiser(PatchDenoiser):
    """PSPC-Square; the side belongs to the noise level (the authors hand-pick a schedule): see :meth:`calibrate`.

    Args:
        patch: side of the patches, a table ``{sigma: side}``, or a function of the effective sigma. A side wider than the image is
            the whole image.
        n_train: use the first so many training images (None: all). chunk: training images at a time.

    Cost for each noisy and training image is two box filters and two of their transposes; memory is a weight for each training
    image and patch of a noisy image.  On 2,000 images and more, where no gradient is asked for, it works by
    :mod:`numeric.baselines.places`: all 60,000 digits of 32 x 32 exactly, in about 1 GiB.

    Raises:
        ValueError: a side or chunk below 1.

    Example:
        >>> import torch
        >>> from numeric import PSPCDenoiser
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> machine = PSPCDenoiser(3).fit(images[:20])
        >>> machine.denoise(images[20:22], 0.5).shape, machine.label, machine.side_label, machine.patch_at(0.5), machine.check_side(5)
        (torch.Size([2, 1, 8, 8]), 'PSPC 3x3', '3x3', 3, 5)
        >>> machine.name, machine.parameter_count, PSPCDenoiser({0.1: 3, 1.0: 7}).patch_at(0.2)  # 20 images of 64 pixels
        ('PSPC', 1280, 3)
        >>> machine.with_side(images[20:22], 3, 4.0).shape  # precision 1 / 0.5^2
        torch.Size([2, 1, 8, 8])
        >>> machine.calibrate(images[20:], [0.5], sides=[1, 3]).patch_at(0.5) in (1, 3)
        True
    """

    sides = (2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 19, 23, 32)

    def __init__(
        self, patch: Sides = 7, n_train: int | None = 2000, chunk: int = 100
    ) -> None:
        super().__init__(patch, n_train, chunk)

    name = "PSPC"

    @property
    def label(self) -> str:
        """Name in figures."""
        return f"{self.name} {self.side_label}"

    def with_side(self, x: Tensor, side: int, precision: float) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = (_inside(length, min(side, length)).to(x) for length in (height, width))
        if len(self.data_) >= MANY and not (tracked(x) or transformed(x)):
            out = torch.zeros_like(x)
            for down, across, mean in window_means(self.data_, x, rows, columns, precision):
                out[..., down[:, None], across] += mean
            return out / torch.outer(rows.sum(0), columns.sum(0))
        places = len(rows) * len(columns)
        need(x.element_size() * 3 * len(self.data_) * places, f"weights of {len(self.data_):,} images", "lower n_train")
        block = max(1, BLOCK // (len(self.data_) * places))
        return torch.cat([self._composite(part, rows, columns, precision) for part in x.split(block)])

    def _composite(self, y: Tensor, rows: Tensor, columns: Tensor, precision: float) -> Tensor:
        """All weights of a few noisy images, then the sum; a box filter is a product with a banded 0-1 matrix an axis."""
        logits = []
        for clean in self.data_.batches(self.chunk):
            d2 = (y[:, None] - clean.to(y)[None]).square().sum(2)
            logits.append((rows @ (d2 @ columns.T)).mul_(-0.5 * precision))
        weights = torch.cat(logits, 1).softmax(1)
        out = torch.zeros_like(y)
        for part, clean in zip(weights.split(self.chunk, 1), self.data_.batches(self.chunk)):
            spread = rows.T @ (part @ columns)  # of each pixel: the weights of all patches that hold it
            out = out + torch.einsum("qnhw,nchw->qchw", spread, clean.to(y))
        return out / torch.outer(rows.sum(0), columns.sum(0))


def _inside(length: int, side: int) -> Tensor:
    """``(length - side + 1, length)`` 0-1 matrix: the pixels of every patch wholly inside."""
    start, place = torch.arange(length - side + 1)[:, None], torch.arange(length)[None]
    return ((place >= start) & (place < start + side)).double()
