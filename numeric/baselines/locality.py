"""PCA locality: the empirical posterior under masks read off the data's Wiener filter (Lukoianov et al., 2025).

Like the local score machines (:mod:`numeric.baselines.patches`) it gives each output pixel its own distance; here the data
say which pixels it listens to.  Sums run over all chosen training images exactly, in chunks.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from numeric.baselines.estimator import FittedDenoiser
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.softmax import RunningSoftmax, resident
from numeric.data import ImageSet, as_image_set
from numeric.derivatives import tracked
from numeric.noise import NoiseLevel

SPARSE = 0.15
"""Masks that keep less than this share of the pixels are applied as sparse matrices."""

RULES = ("authors", "row")
QUIET = 1e-6
"""The authors divide a row of the Wiener matrix by its diagonal entry only above this."""


class LocalityDenoiser(FittedDenoiser):
    """Empirical posterior under a mask per output pixel that is read off the data's Wiener filter.

    Lukoianov et al. (arXiv 2509.09672).  The optimal linear denoiser has the matrix ``A = U diag(l / (l + sigma^2)) U^T``:
    entry (m, n) says how much output pixel m listens to input pixel n.  It becomes a mask M, and

        D(y)_m = sum_i softmax_i(-sum_n M_mn (y_n - x_in)^2 / (2 sigma^2)) x_im.

    Args:
        rule: how A becomes M.
            ``"authors"``, as their program does it: ``M_mn = [|A_nm / A_nn| >= threshold max |A / diag|]``, the maximum over the
            whole matrix.  This is the transpose of the normalisation by output pixel: the share is of what the *input* pixel
            n listens to in itself, not of what m does. Where some pixels hardly vary (a border in few images) they inflate that
            maximum and masks become empty: give more images, a lower threshold, or the other rule.
            ``"row"``, ours: ``M_mn = [|A_mn / A_mm| >= threshold max_n' |A_mn' / A_mm|]``, each output pixel by itself, always
            with itself.
        threshold: share of the largest normalised entry below which a pixel is not listened to. The authors take 0.02, and
            0.005 for MNIST. 0 keeps all (the optimal empirical denoiser, if binary).
        binary: mask of 0 and 1; False (``"row"`` only) keeps ``|A_mn / A_mm|`` as weights.
        n_train: use the first so many images (None: all). chunk: images at a time.

    The softmax is exact over all images; the authors' averages that of each batch.

    Raises:
        ValueError: threshold outside [0, 1], an unknown rule.

    Example:
        >>> import torch
        >>> from numeric import LocalityDenoiser
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> locality = LocalityDenoiser().fit(images)
        >>> locality.denoise(images[:2], 0.5).shape, locality.mask(0.5).shape, locality.label
        (torch.Size([2, 1, 8, 8]), torch.Size([64, 64]), 'PCA locality')
    """

    of_fit = ("n_train",)

    def __init__(
        self,
        threshold: float = 0.02,
        binary: bool = True,
        n_train: int | None = None,
        chunk: int = 500,
        rule: str = "authors",
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1 image, got {chunk}")
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}: use 'authors' or 'row'")
        if rule == "authors" and not binary:
            raise ValueError("rule='authors' makes a binary mask: use rule='row' for weights")
        self.threshold, self.binary, self.n_train, self.chunk, self.rule = threshold, binary, n_train, chunk, rule

    @property
    def label(self) -> str:
        """Name in figures."""
        return "PCA locality" if self.rule == "authors" else "PCA locality, by rows"

    def fit(self, images: Any, y: None = None, *, linear: LinearDenoiser | None = None, **_: Any) -> LocalityDenoiser:
        """Covariance of all images (or that of a fitted ``linear``); the sums run over the first ``n_train``."""
        data = as_image_set(images)
        self.linear_ = linear if linear is not None else LinearDenoiser().fit(data)
        self.data_: ImageSet = resident(data.take(self.n_train))
        self.remember(self.data_)
        return self

    def mask(self, sigma: float) -> Tensor:
        """``M`` ``(pixels, pixels)`` float32: row m is the mask of output pixel m (channels are pixels too)."""
        gain = self.learned("linear_").eigenvalues_ / (self.linear_.eigenvalues_ + sigma**2)
        vectors = self.linear_.eigenvectors_
        wiener = (vectors * gain) @ vectors.T
        if self.rule == "authors":
            diagonal = wiener.diagonal()
            relative = (wiener / torch.where(diagonal < QUIET, 1.0, diagonal)[:, None]).abs()
            return (relative.T >= self.threshold * relative.max()).float()
        return self._by_rows(wiener).float()

    def _by_rows(self, wiener: Tensor) -> Tensor:
        """Pixels that are constant in the data, whose row is zero, have only themselves in the mask."""
        diagonal = wiener.diagonal()
        quiet = diagonal <= 1e-12 * diagonal.max()
        relative = (wiener / torch.where(quiet, 1.0, diagonal)[:, None]).abs()
        relative[quiet] = 0.0
        keep = relative >= self.threshold * relative.amax(1, keepdim=True)
        out = keep.double() if self.binary else relative * keep
        if self.threshold > 0:
            out[quiet] = 0.0
        out.fill_diagonal_(1.0)
        return out

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        data, query, precision = self.learned("data_"), (y / noise.alpha).flatten(1), 1.0 / noise.effective_sigma**2
        mask = self.mask(noise.effective_sigma).to(y)
        # A mask keeps few pixels where the noise is small; torch's gradients do not go through its sparse products.
        if not tracked(y) and y.device.type == "cpu" and float(mask.mean()) < SPARSE:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
                mask = mask.to_sparse_csr()
        states = [RunningSoftmax() for _ in query]
        for batch in data.batches(self.chunk):
            x = batch.to(y).flatten(1).T.contiguous()
            # One noisy image at a time: memory is chunk x pixels, and each step is one matrix product.
            for image, state in zip(query, states):
                logits = (mask @ (x - image[:, None]).square()).mul_(-0.5 * precision)
                state.add(logits, 1, partial(_pixelwise, x))
        return torch.stack([state.mean for state in states]).reshape(y.shape)


def _pixelwise(values: Tensor, p: Tensor) -> Tensor:
    """Weights and values of each pixel, both ``(pixels, n)``."""
    return (p * values).sum(1)
