"""PCA locality: the empirical posterior under masks read off the data's Wiener filter (Lukoianov et al., 2025).

Like the local score machines (:mod:`numeric.baselines.patches`) it gives each output pixel its own distance; here the data
say which pixels it listens to.  Sums run over all chosen training images exactly, in chunks.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.softmax import RunningSoftmax
from numeric.data import ImageSet, as_image_set
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel


class LocalityDenoiser(Denoiser):
    """Empirical posterior under a mask per output pixel that is read off the data's Wiener filter.

    Lukoianov et al. (arXiv 2509.09672).  The optimal linear denoiser has the matrix ``A = U diag(l / (l + sigma^2)) U^T``;
    row m says which input pixels n the output pixel m listens to.  Normalised by its diagonal and cut at a share
    ``threshold`` of the row's largest entry, it becomes the mask of output pixel m:

        D(y)_m = sum_i softmax_i(-sum_n M_mn (y_n - x_in)^2 / (2 sigma^2)) x_im,   M_mn = [|A_mn / A_mm| >= threshold max_n'|A_mn' / A_mm|].

    Our readings, each a parameter or stated here: the mask is binary (``binary=False`` keeps ``|A_mn / A_mm|`` as weights),
    ``threshold`` is 0.02 of the row's own maximum (the authors' program cuts at a share of the matrix's, which MNIST's almost
    constant border pixels inflate until every other pixel is left alone with itself), and pixels whose row of A is zero (constant in the data) have only themselves in the mask.

    Args:
        threshold: share of the largest normalised entry below which a pixel is not listened to; 0 keeps all (the optimal
            empirical denoiser, if binary). n_train: use the first so many images (None: all). chunk: images at a time.

    Raises:
        ValueError: threshold outside [0, 1].
    """

    def __init__(
        self, threshold: float = 0.02, binary: bool = True, n_train: int | None = None, chunk: int = 500
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1 image, got {chunk}")
        self.threshold, self.binary, self.n_train, self.chunk = threshold, binary, n_train, chunk

    label = "PCA locality"

    def fit(self, images: Any, y: None = None, *, linear: LinearDenoiser | None = None, **_: Any) -> LocalityDenoiser:
        """Covariance of all images (or that of a fitted ``linear``); the sums run over the first ``n_train``."""
        data = as_image_set(images)
        self.linear_ = linear if linear is not None else LinearDenoiser().fit(data)
        self.data_: ImageSet = data.take(self.n_train)
        self.remember(self.data_)
        return self

    def mask(self, sigma: float) -> Tensor:
        """``M`` ``(pixels, pixels)`` float32: row m is the mask of output pixel m (channels are pixels too)."""
        gain = self.learned("linear_").eigenvalues_ / (self.linear_.eigenvalues_ + sigma**2)
        vectors = self.linear_.eigenvectors_
        wiener = (vectors * gain) @ vectors.T
        diagonal = wiener.diagonal()
        quiet = diagonal <= 1e-12 * diagonal.max()
        relative = (wiener / torch.where(quiet, 1.0, diagonal)[:, None]).abs()
        relative[quiet] = 0.0
        keep = relative >= self.threshold * relative.amax(1, keepdim=True)
        out = keep.double() if self.binary else relative * keep
        if self.threshold > 0:
            out[quiet] = 0.0
        out[torch.arange(len(out)), torch.arange(len(out))] = 1.0
        return out.float()

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        data, query, precision = self.learned("data_"), (y / noise.alpha).flatten(1), 1.0 / noise.effective_sigma**2
        mask = self.mask(noise.effective_sigma).to(y)
        states = [RunningSoftmax() for _ in query]
        for batch in data.batches(self.chunk):
            x = batch.to(y).flatten(1)
            own = x.square() @ mask.T
            # One noisy image at a time: memory is chunk x pixels, and each step is one matrix product.
            for image, state in zip(query, states):
                logits = torch.addmm(own, image * x, mask.T, beta=-0.5 * precision, alpha=precision)
                state.add(logits, 0, partial(_columns, x))
        return torch.stack([state.mean for state in states]).reshape(y.shape)


def _columns(values: Tensor, p: Tensor) -> Tensor:
    """Weights and values of each pixel, both ``(n, pixels)``."""
    return (p * values).sum(0)
