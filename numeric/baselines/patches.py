"""Local analytic denoisers: the score machines of Kamb and Ganguli (2024) and the PCA locality of Lukoianov et al. (2025).

Both replace the optimal empirical denoiser's distance between whole images by one over a window that belongs to each
output pixel, so that pixels of one output may come from different training images.  All sums run over all chosen
training images exactly, in chunks; memory is one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from numeric.baselines.linear import LinearDenoiser
from numeric.data import ImageSet, as_image_set
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel

BORDERS = ("circular", "zeros", "broken")
BLOCK = 2**25
"""Window pairs held in memory at a time by the equivariant machine (128 MiB in float32)."""


class _Softmax:
    """Running softmax-weighted mean: exponents and values arrive in chunks, the result is as if all were there at once."""

    def __init__(self, like: Tensor) -> None:
        self.top = torch.full_like(like, -torch.inf)
        self.weight = torch.zeros_like(like)
        self.total = torch.zeros_like(like)

    def add(self, top: Tensor, weight: Tensor, total: Tensor) -> None:
        """A chunk's largest exponent, its sum of ``exp(exponent - top)``, and the same sum weighted by the values."""
        new = torch.maximum(self.top, top)
        old_scale, scale = (self.top - new).exp(), (top - new).exp()
        self.weight = self.weight * old_scale + weight * scale
        self.total = self.total * old_scale + total * scale
        self.top = new

    @property
    def mean(self) -> Tensor:
        return self.total / self.weight


class LocalScoreMachine(Denoiser):
    """Posterior mean of each pixel given its ``p x p`` window, under the training set's own windows.

    Kamb and Ganguli (arXiv 2412.20292).  With ``P_x y`` the window of ``y`` around pixel x, their local score (LS) machine is

        D(y)_x = sum_phi w_phi phi_x,   w_phi ~ exp(-|P_x y - P_x phi|^2 / (2 sigma^2))

    over training images phi, and the equivariant one (ELS) pools windows over positions x' as well,

        D(y)_x = sum_phi sum_x' w_{phi, x'} phi_x',   w_{phi, x'} ~ exp(-|P_x y - P_x' phi|^2 / (2 sigma^2)).

    Args:
        patch: window side, odd (or ``patch >= 2 side - 1``, which is the whole image); or a function of the effective sigma
            (the paper calibrates a side per noise level on a trained network; here it is a parameter).
        equivariant: pool windows over positions (ELS) or not (LS).
        border: what a window sees beyond the image.  ``circular``: the image repeats, exact translation equivariance.
            ``zeros``: zeros on both sides (ELS with zero padding, borders not told apart).  ``broken``: the paper's
            border handling: a pixel is compared only with windows that overlap the border as its own does, and only the
            pixels inside the image count.
        n_train: use the first so many training images (None: all).
        chunk: training images at a time.

    Cost is (noisy images) x (training images) x pixels x (pixels, if equivariant) x patch side^2; keep ``n_train`` small
    for the equivariant one.

    Raises:
        ValueError: an even or non-positive patch, an unknown border.
    """

    def __init__(
        self,
        patch: int | Callable[[float], int] = 5,
        equivariant: bool = True,
        border: str = "broken",
        n_train: int | None = 200,
        chunk: int = 20,
    ) -> None:
        if border not in BORDERS:
            raise ValueError(f"unknown border {border!r}: use one of {', '.join(BORDERS)}")
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1 image, got {chunk}")
        self.patch, self.equivariant, self.border = patch, equivariant, border
        self.n_train, self.chunk = n_train, chunk
        self.patch_at(1.0)

    def patch_at(self, sigma: float) -> int:
        """Window side at an effective sigma."""
        side = self.patch(sigma) if callable(self.patch) else self.patch
        if side < 1 or side % 2 == 0:
            raise ValueError(f"the patch side must be odd and >= 1, got {side}")
        return int(side)

    @property
    def label(self) -> str:
        """Name in figures."""
        kind = "ELS" if self.equivariant else "LS"
        size = "p(sigma)" if callable(self.patch) else f"{self.patch}x{self.patch}"
        return f"{kind} machine {size}, {self.border} border"

    def fit(self, images: Any, y: None = None, **_: Any) -> LocalScoreMachine:
        """Keep a reference to the images; nothing is computed."""
        self.data_: ImageSet = as_image_set(images).take(self.n_train)
        return self

    def _windows(self, x: Tensor, side: int) -> Tensor:
        """Windows around every pixel, ``(n, pixels, channels * side^2)``; beyond the image zero or repeated."""
        reach = side // 2
        if self.border == "circular":
            if reach >= min(x.shape[-2:]):
                raise ValueError(f"a {side} pixel window wraps a {x.shape[-1]} pixel image more than once: lower patch")
            x = F.pad(x, (reach,) * 4, mode="circular")
            return F.unfold(x, side).transpose(1, 2)
        return F.unfold(x, side, padding=reach).transpose(1, 2)

    def _classes(self, shape: tuple[int, int], side: int) -> list[Tensor]:
        """Pixels grouped by how their windows overlap the border; one group where borders are not told apart."""
        height, width = shape
        if self.border != "broken":
            return [torch.arange(height * width)]
        inside = F.unfold(torch.ones(1, 1, height, width), side, padding=side // 2)[0].T
        _, group = torch.unique(inside, dim=0, return_inverse=True)
        return [torch.nonzero(group == g).flatten() for g in range(int(group.max()) + 1)]

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        x, precision = y / noise.alpha, 1.0 / noise.effective_sigma**2
        side = self.patch_at(noise.effective_sigma)
        return (self._equivariant if self.equivariant else self._local)(x, side, precision)

    def _local(self, y: Tensor, side: int, precision: float) -> Tensor:
        """LS: squared distances of windows are a box filter of squared differences."""
        n, _, height, width = y.shape
        reach, ones = side // 2, torch.ones(1, 1, side, 1).to(y)
        state = _Softmax(y)
        for clean in self.data_.batches(self.chunk):
            clean = clean.to(y)
            d2 = (y[:, None] - clean[None]).square().sum(2).flatten(0, 1)[:, None]
            # Zero padding and the border's own windows agree here: both images have nothing outside.
            mode = "circular" if self.border == "circular" else "constant"
            d2 = F.conv2d(F.conv2d(F.pad(d2, (reach,) * 4, mode=mode), ones), ones.transpose(2, 3))
            logits = -0.5 * precision * d2.reshape(n, len(clean), 1, height, width)
            top = logits.amax(1)
            p = (logits - top[:, None]).exp()
            state.add(top.expand_as(y), p.sum(1).expand_as(y), (p * clean[None]).sum(1))
        return state.mean

    def _equivariant(self, y: Tensor, side: int, precision: float) -> Tensor:
        """ELS: every window of ``y`` against every training window of its border class, by one matrix product a class."""
        height, width = y.shape[-2:]
        classes = self._classes((height, width), side)
        queries, out = self._windows(y, side), torch.empty_like(y).flatten(2)
        chunk = max(1, min(self.chunk, BLOCK // (height * width) ** 2))
        for image, query in enumerate(queries):
            states = [_Softmax(out[0][:, pixels]) for pixels in classes]
            for clean in self.data_.batches(chunk):
                windows, centres = self._windows(clean.to(y), side), clean.to(y).flatten(2)
                for pixels, state in zip(classes, states):
                    keys = windows[:, pixels].flatten(0, 1)
                    logits = (query[pixels] @ keys.T - 0.5 * keys.square().sum(1)).mul_(precision)
                    top = logits.amax(1)
                    p = logits.sub_(top[:, None]).exp_()
                    values = centres[:, :, pixels].transpose(0, 1).flatten(1)
                    state.add(top, p.sum(1), values @ p.T)
            for pixels, state in zip(classes, states):
                out[image][:, pixels] = state.mean
        return out.reshape(y.shape)


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
        return self

    def mask(self, sigma: float) -> Tensor:
        """``M`` ``(pixels, pixels)`` float32: row m is the mask of output pixel m (channels are pixels too)."""
        gain = self.linear_.eigenvalues_ / (self.linear_.eigenvalues_ + sigma**2)
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
        query, precision = (y / noise.alpha).flatten(1), 1.0 / noise.effective_sigma**2
        mask = self.mask(noise.effective_sigma).to(y)
        states = [_Softmax(image) for image in query]
        for batch in self.data_.batches(self.chunk):
            x = batch.to(y).flatten(1)
            own = 0.5 * x.square() @ mask.T
            # One noisy image at a time: memory is chunk x pixels, and each step is one matrix product.
            for image, state in zip(query, states):
                logits = ((image * x) @ mask.T - own).mul_(precision)
                top = logits.amax(0)
                p = logits.sub_(top).exp_()
                state.add(top, p.sum(0), (p * x).sum(0))
        return torch.stack([state.mean for state in states]).reshape(y.shape)
