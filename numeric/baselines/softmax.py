"""The softmax-weighted mean that every empirical denoiser is, as a running sum over chunks of training images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from numeric.data import ImageSet
from numeric.memory import RESIDENT

BLOCK = 2**25
"""Weights held in memory at a time (128 MiB in float32)."""


def resident(images: ImageSet) -> ImageSet:
    """The same images, in memory as float32 if they are small enough: a sampler reads them a hundred times."""
    channels, height, width = images.shape
    if 4 * len(images) * channels * height * width > RESIDENT:
        return images
    return ImageSet(torch.cat(list(images.batches())), images.labels, source=images.source, split=images.split)


DEEP = -80.0
"""Exponents below it count as it: ``exp(-80)`` is 2e-35, less than rounding in float64, and exp is ten times slower where it underflows."""


class RunningSoftmax:
    """``sum_i exp(l_i) v_i / sum_i exp(l_i)`` from exponents and values that arrive in chunks, as if all were there at once.

    The largest exponent so far is subtracted and what was summed before is rescaled, so nothing overflows.  The result does not
    depend on what is subtracted; that constant is therefore left out of the gradient, which is exact.
    """

    def __init__(self) -> None:
        self.top: Tensor | None = None
        self.weight = self.total = torch.empty(0)

    def add(self, logits: Tensor, dim: int, combine: Callable[[Tensor], Tensor]) -> None:
        """One chunk of candidates.

        Args:
            logits: exponents, the candidates along axis ``dim``; overwritten.
            combine: from the weights, in the shape of ``logits``, to the weighted sum of values; it must broadcast against
                the weights summed over ``dim``.
        """
        top = logits.detach().amax(dim, keepdim=True)
        if self.top is None:
            p = logits.sub_(top).clamp_min_(DEEP).exp_()
            self.top, self.weight, self.total = top, p.sum(dim), combine(p)
            return
        new = torch.maximum(self.top, top)
        rescale = (self.top - new).exp().squeeze(dim)
        p = logits.sub_(new).clamp_min_(DEEP).exp_()
        self.weight = self.weight * rescale + p.sum(dim)
        total = combine(p)
        self.total = self.total * _fit(rescale, total) + total
        self.top = new

    @property
    def mean(self) -> Tensor:
        return self.total / _fit(self.weight, self.total)


def _fit(weight: Tensor, like: Tensor) -> Tensor:
    """Weights given a last axis where the values have one more."""
    return weight[..., None] if like.ndim > weight.ndim else weight


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """``weights @ values``, values first, to be bound to its values."""
    return weights @ values
