"""Gaussian mixture denoiser: the exact posterior mean when the data are a mixture of Gaussians, by class or by k-means.

With components ``pi_k, mu_k, C_k`` and ``Q_k = a^2 C_k + s^2 I`` the covariance of the noisy image,

    r_k(y) = pi_k N(y; a mu_k, Q_k) / sum_j pi_j N(y; a mu_j, Q_j),
    D(y)   = sum_k r_k(y) (mu_k + a C_k Q_k^-1 (y - a mu_k)).

The responsibilities r_k are those of the noisy image at its own noise level, exact at every sigma, VE and VP.  Every covariance
is kept as ``C = V diag(l - rho) V^T + rho I``: a component of n images has rank below n, so that all of them together take no
more memory than the images, and with ``rank`` the rest of the variance is spread evenly (Tipping and Bishop, 1999).  A pass
is two matrix products for each component, the second only for the images that it takes part in.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from numeric.baselines.estimator import FittedDenoiser
from numeric.baselines.linear import eigenpairs
from numeric.data import ImageSet, as_image_set
from numeric.memory import need
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.scores.gaussians import Component, component_mean, log_joint, mixture_mean, responsibilities


class GaussianMixtureDenoiser(FittedDenoiser):
    """Exact posterior mean of a Gaussian mixture fitted to images in one assignment: by their labels, or by k-means.

    Args:
        components: number of k-means clusters, or ``"class"`` for one component a label.
        rank: leading eigenpairs kept of each covariance, the rest of its variance spread evenly over all other directions;
            None keeps all (no spreading).
        seed: of k-means (scikit-learn's :class:`~sklearn.cluster.KMeans`, one k-means++ start).

    Attributes:
        components_: list of :class:`Component`. assignment_: ``(images,)`` int64, the component of every training image.

    Raises:
        ValueError: components or rank below 1, or (at fit) more components than images, or labels asked for and not there.

    Example:
        >>> import torch
        >>> from numeric import GaussianMixtureDenoiser, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> mixture, level = GaussianMixtureDenoiser(3).fit(images), ve(0.5)
        >>> mixture.denoise(images[:2], level).shape, mixture.label
        (torch.Size([2, 1, 8, 8]), 'Gaussian mixture, 3 k-means components')
        >>> mixture.responsibilities(images[:2], level).shape, mixture.log_density(images[:2], level).shape
        (torch.Size([2, 3]), torch.Size([2]))
        >>> mixture.jacobian_trace(images[:2], level).shape, mixture.parameter_count > 0
        (torch.Size([2]), True)
    """

    of_fit = ("components", "rank", "seed")

    def __init__(self, components: int | str = 100, rank: int | None = None, seed: int = 0) -> None:
        if components != "class" and (isinstance(components, str) or components < 1):
            raise ValueError(f"components must be a number >= 1 or 'class', got {components!r}")
        if rank is not None and rank < 1:
            raise ValueError(f"rank must be >= 1, got {rank}: None keeps every direction")
        self.components, self.rank, self.seed = components, rank, seed

    @property
    def label(self) -> str:
        """Name in figures."""
        kind = "by class" if self.components == "class" else f"{self.components} k-means components"
        return f"Gaussian mixture, {kind}" + (f", rank {self.rank}" if self.rank else "")

    @property
    def parameter_count(self) -> int:
        """Numbers that the fitted components consist of."""
        return sum(component.count for component in self.learned("components_"))

    def fit(self, images: Any, y: Any = None, *, progress: bool = False) -> GaussianMixtureDenoiser:
        """Assign the images, then mean and covariance of each component.

        Args:
            images: ``(n, channels, height, width)``. y: labels ``(n,)`` for ``components="class"``; by default the images' own.

        Raises:
            MemoryError: foreseen, before the work starts.
        """
        data = as_image_set(images)
        pixels, n = math.prod(data.shape), len(data)
        count = 1 if self.components == "class" else int(self.components)
        if count > n:
            raise ValueError(f"{count} components need at least as many images, got {n}: ask for fewer components")
        need(4 * 3 * n * pixels, f"{n:,} images of {pixels:,} pixels and their components", "give fewer images")
        x = torch.cat([batch.flatten(1) for batch in data.batches()])
        self.assignment_ = self._assign(data, x, y)
        self.components_ = []
        groups = torch.unique(self.assignment_)
        with progress_bar(len(groups), "components", progress, "component") as bar:
            for group in groups:
                self.components_.append(self._component(x[self.assignment_ == group], n))
                bar.update()
        self.remember(data)
        return self

    def _assign(self, data: ImageSet, x: Tensor, y: Any) -> Tensor:
        if self.components == "class":
            labels = data.labels if y is None else torch.as_tensor(np.asarray(y))
            if labels is None or labels.shape != (len(data),):
                shape = None if labels is None else tuple(labels.shape)
                raise ValueError(
                    f"components='class' needs one label for each of the {len(data)} images, got {shape}: give fit(images, labels), "
                    "or a number of k-means components"
                )
            return labels.long()
        clusters = KMeans(int(self.components), n_init=1, random_state=self.seed).fit_predict(x.numpy())
        return torch.from_numpy(clusters).long()

    def _component(self, x: Tensor, total: int) -> Component:
        mean, eigenvalues, vectors = eigenpairs(ImageSet(x[:, None, None]))
        rest = 0.0
        if self.rank is not None and self.rank < len(eigenvalues):
            spread = eigenvalues[: -self.rank].sum() / (len(mean) - self.rank)
            eigenvalues, vectors, rest = eigenvalues[-self.rank :], vectors[:, -self.rank :], float(spread)
        parts = (mean.float(), vectors.float().contiguous(), eigenvalues)
        return Component(len(x) / total, *parts, rest)

    def responsibilities(self, y: Any, noise: Any) -> Any:
        """``r_k(y)`` ``(n, components)`` of noisy images; noise as in :meth:`denoise`."""
        self.learned("components_")
        return self.by_level(y, noise, lambda part, level: responsibilities(part.flatten(1), level, self.components_))

    def log_density(self, y: Any, noise: NoiseLevel | float) -> Tensor:
        """Natural logarithm of the noisy mixture's density at every image, ``(n,)`` float64."""
        components = self.learned("components_")
        return log_joint(self.readable(y).flatten(1).double(), as_noise(noise), components).logsumexp(1)

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy = sum_k r_k tr J_k + (s^2 / a) (sum_k r_k |g_k|^2 - |sum_k r_k g_k|^2)``, ``(n,)``.

        ``J_k`` is the Jacobian of a component's own posterior mean and ``g_k`` its score: the second term is the spread of the
        components' scores, which is how the responsibilities move.
        """
        components, flat = self.learned("components_"), y.flatten(1)
        a, s2, weights = noise.alpha, noise.sigma**2, responsibilities(flat, noise, components)
        trace, square, mean = torch.zeros_like(flat[:, 0]), torch.zeros_like(flat[:, 0]), torch.zeros_like(flat)
        for k, c in enumerate(components):
            gain = float((a * c.eigenvalues / (a**2 * c.eigenvalues + s2)).sum())
            gain += (len(c.mean) - len(c.eigenvalues)) * a * c.rest / (a**2 * c.rest + s2)
            score = (a * component_mean(flat, noise, c) - flat) / s2
            trace = trace + weights[:, k] * gain
            square = square + weights[:, k] * score.square().sum(1)
            mean = mean + weights[:, k, None] * score
        return trace + s2 / a * (square - mean.square().sum(1))

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        return mixture_mean(y.flatten(1), noise, self.learned("components_")).reshape(y.shape)
