"""Local analytic denoisers: the local and the equivariant local score machine of Kamb and Ganguli (2024).

They replace the optimal empirical denoiser's distance between whole images by one over a window around each output
pixel, so that pixels of one output may come from different training images.  All sums run over all chosen training
images exactly, in chunks; memory is one chunk (all chunks' weights while a gradient is taken).  The local machine on 2,000
images and more works by :mod:`numeric.baselines.places` where no gradient is asked for.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from numeric.baselines.places import MANY, centre_means, merged
from numeric.baselines.sides import PatchDenoiser, Sides, box
from numeric.baselines.softmax import BLOCK, RunningSoftmax, weighted_sum
from numeric.derivatives import tracked, transformed

BORDERS = ("circular", "zeros", "broken")


class LocalScoreMachine(PatchDenoiser):
    """Posterior mean of each pixel given its ``p x p`` window, under the training set's own windows.

    Kamb and Ganguli (arXiv 2412.20292).  With ``P_x y`` the window of ``y`` around pixel x, their local score (LS) machine is

        D(y)_x = sum_phi w_phi phi_x,   w_phi ~ exp(-|P_x y - P_x phi|^2 / (2 sigma^2))

    over training images phi, and the equivariant one (ELS) pools windows over positions x' as well,

        D(y)_x = sum_phi sum_x' w_{phi, x'} phi_x',   w_{phi, x'} ~ exp(-|P_x y - P_x' phi|^2 / (2 sigma^2)).

    Args:
        patch: window side, odd (``2 side - 1`` and more is the whole image), a table ``{sigma: side}``, or a function of the effective sigma. The side
            belongs to the noise level: :meth:`calibrate` chooses it, as the paper does.
        equivariant: pool windows over positions (ELS) or not (LS).
        border: what a window sees beyond the image.  ``circular``: the image repeats, exact translation equivariance.
            ``zeros``: zeros on both sides (ELS with zero padding, borders not told apart).  ``broken``: the paper's
            border handling: a pixel is compared only with windows that overlap the border as its own does, and only the
            pixels inside the image count.
        n_train: use the first so many training images (None: all).
        chunk: training images at a time.

    Cost is (noisy images) x (training images) x pixels x (pixels, if equivariant) x patch side^2; keep ``n_train`` small
    for the equivariant one: its 60,000 digits of 32 x 32 are 61 million windows.  The local one takes all of them, exactly, in
    about 1 GiB.

    Raises:
        ValueError: an even or non-positive patch, an unknown border.

    Example:
        >>> import torch
        >>> from numeric import LocalScoreMachine
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> machine = LocalScoreMachine(3).fit(images[:20])
        >>> machine.denoise(images[20:22], 0.5).shape, machine.label, machine.side_label, machine.patch_at(0.5), machine.check_side(5)
        (torch.Size([2, 1, 8, 8]), 'ELS machine 3x3, broken border', '3x3', 3, 5)
        >>> machine.name, machine.parameter_count  # 20 images of 64 pixels
        ('ELS', 1280)
        >>> machine.with_side(images[20:22], 3, 4.0).shape  # precision 1 / 0.5^2
        torch.Size([2, 1, 8, 8])
        >>> machine.calibrate(images[20:], [0.5], sides=[1, 3]).patch_at(0.5) in (1, 3)
        True
    """

    def __init__(
        self,
        patch: Sides = 5,
        equivariant: bool = True,
        border: str = "broken",
        n_train: int | None = 200,
        chunk: int = 20,
    ) -> None:
        if border not in BORDERS:
            raise ValueError(f"unknown border {border!r}: use one of {', '.join(BORDERS)}")
        self.equivariant, self.border = equivariant, border
        super().__init__(patch, n_train, chunk)

    def check_side(self, side: int) -> int:
        if side < 1 or side % 2 == 0:
            raise ValueError(f"the patch side must be odd and >= 1, got {side}")
        return int(side)

    @property
    def name(self) -> str:
        """LS or ELS."""
        return "ELS" if self.equivariant else "LS"

    @property
    def label(self) -> str:
        """Name in figures."""
        return f"{self.name} machine {self.side_label}, {self.border} border"

    def with_side(self, x: Tensor, side: int, precision: float) -> Tensor:
        return (self._equivariant if self.equivariant else self._local)(x, side, precision)

    # ----- LS: every pixel against the same pixel ------------------------------------------------------------------------

    def _local(self, y: Tensor, side: int, precision: float) -> Tensor:
        """Squared distances of windows are a box filter of squared differences: a product with a banded 0-1 matrix an axis.

        Zero padding and the border's own windows agree here: both images have nothing outside.
        """
        height, width = y.shape[-2:]
        rows, columns = (box(length, side, self.border == "circular").to(y) for length in (height, width))
        if len(self.data_) >= MANY and not (tracked(y) or transformed(y)):
            return centre_means(self.data_, y, rows, columns, precision)
        chunk = max(1, min(self.chunk, BLOCK // (height * width)))
        block = max(1, BLOCK // (chunk * height * width))
        queries = y.split(block)
        states = [RunningSoftmax() for _ in queries]
        for clean in self.data_.batches(chunk):
            clean = clean.to(y)
            for query, state in zip(queries, states):
                d2 = (query[:, None] - clean[None]).square().sum(2)
                logits = (rows @ (d2 @ columns)).mul_(-0.5 * precision)
                state.add(logits, 1, partial(_pixelwise, clean))
        return torch.cat([state.mean for state in states]).permute(0, 3, 1, 2)

    # ----- ELS: every pixel against all pixels of its kind ---------------------------------------------------------------

    def _windows(self, x: Tensor, side: int) -> Tensor:
        """Windows around every pixel, ``(height, width, n, channels, side, side)``, a view; beyond the image zero or repeated."""
        reach = side // 2
        if self.border == "circular":
            if side > min(x.shape[-2:]):
                raise ValueError(
                    f"a {side} pixel window wraps a {x.shape[-2]} x {x.shape[-1]} image onto itself and would count pixels "
                    "twice: lower patch, or use border='broken' or 'zeros'"
                )
        padded = F.pad(x, (reach,) * 4, mode="circular" if self.border == "circular" else "constant")
        return padded.unfold(2, side, 1).unfold(3, side, 1).permute(2, 3, 0, 1, 4, 5)

    def _classes(self, shape: tuple[int, int], side: int) -> list[Tensor]:
        """Pixels grouped by how their windows overlap the border, classes of equal size together.

        Returns: tensors ``(classes, pixels of each)``; one class of all pixels where borders are not told apart.
        """
        height, width = shape
        if self.border != "broken":
            return [torch.arange(height * width)[None]]
        inside = F.unfold(torch.ones(1, 1, height, width), side, padding=side // 2)[0].T
        _, group, size = torch.unique(inside, dim=0, return_inverse=True, return_counts=True)
        by_class = torch.argsort(group, stable=True).split(size.tolist())
        return [torch.stack([c for c in by_class if len(c) == m]) for m in sorted(set(size.tolist()))]

    def _equivariant(self, y: Tensor, side: int, precision: float) -> Tensor:
        """Every window of ``y`` against every training window of its border class, by batched matrix products.

        Windows of the training images are cut once a chunk, for all noisy images; where a class stands alone (the inside of the
        image, nearly all of the work) its blank ones, most of a digit's frame, are one candidate with their number as weight.
        """
        height, width = y.shape[-2:]
        queries, groups = self._windows(y, side), self._classes((height, width), side)
        rows, columns = (box(length, side, self.border == "circular").to(y) for length in (height, width))
        chunk = max(1, min(self.chunk, BLOCK // (height * width) ** 2))
        states: list[list[RunningSoftmax]] = [[] for _ in groups]
        for clean in self.data_.batches(chunk):
            clean = clean.to(y)
            norms = rows @ (clean.square().sum(1) @ columns)  # a box filter of the squares
            views = self._windows(clean, side), clean.permute(2, 3, 0, 1), norms.permute(1, 2, 0)
            for pixels, group in zip(groups, states):
                keys, values, own = (view[pixels // width, pixels % width] for view in views)  # (classes, pixels, images, ...)
                keys, values, own = keys.flatten(3).flatten(1, 2), values.flatten(1, 2), own.flatten(1)[:, None]
                if len(pixels) == 1 and not transformed(keys):
                    keys, values, own = _blank_once(keys, values, own, precision)
                block = max(1, BLOCK // (chunk * pixels.numel() * pixels.shape[1]))  # the same for every chunk
                for number, query in enumerate(queries.split(block, 2)):
                    if number == len(group):
                        group.append(RunningSoftmax())
                    q = query[pixels // width, pixels % width].flatten(3).flatten(1, 2)
                    logits = torch.baddbmm(own, q, keys.transpose(1, 2), beta=-0.5 * precision, alpha=precision)
                    group[number].add(logits, 2, partial(weighted_sum, values))
        # (classes, pixels of a class x noisy images, channels), put back in the order of the pixels.
        parts = []
        for pixels, group in zip(groups, states):
            means = [state.mean.unflatten(1, (pixels.shape[1], -1)) for state in group]
            parts.append(torch.cat(means, 2).permute(2, 0, 1, 3).flatten(1, 2))
        order = torch.cat([pixels.flatten() for pixels in groups]).argsort().to(y.device)
        return torch.cat(parts, 1)[:, order].transpose(1, 2).reshape(y.shape)


def _pixelwise(values: Tensor, p: Tensor) -> Tensor:
    """Weights ``(q, n, height, width)`` against values ``(n, channels, height, width)``: ``(q, height, width, channels)``."""
    return torch.einsum("qnhw,nchw->qhwc", p, values)


def _blank_once(keys: Tensor, values: Tensor, own: Tensor, precision: float) -> tuple[Tensor, Tensor, Tensor]:
    """Windows ``(1, n, d)`` of one class, their centres and squared norms with one blank window for all, where there are many.

    A blank window is zero everywhere, its centre too: it adds to the sum of weights alone.
    """
    norms = torch.cat([own.flatten(), own.new_zeros(1)])
    rows = merged(norms, precision)
    if rows is None:
        return keys, values, own
    kept = rows[:-1]
    padded = [torch.cat([part[:, kept], part.new_zeros(1, 1, part.shape[2])], 1) for part in (keys, values)]
    return padded[0], padded[1], norms[rows][None, None]
