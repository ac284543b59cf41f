"""Gaussian mixtures: responsibilities and posterior means of noisy images, exact at every noise level, VE and VP.

:class:`PrincipalMixture` is the one that a refined readout starts from: a mixture of the leading principal coordinates, whose
components' covariances are drawn towards the one that they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from numeric.derivatives import inside_vmap
from numeric.noise import NoiseLevel
from numeric.results import stored
from numeric.scores.stored import whole

NEGLIGIBLE = 1e-9
"""Responsibilities below this are not carried through; an image's D(y) moves by less than so much of a component's own D(y)."""


@dataclass(frozen=True)
class Component:
    """One Gaussian ``N(mean, V diag(l - rho) V^T + rho I)`` of weight ``weight``.

    Attributes:
        mean: ``(pixels,)``. vectors: V ``(pixels, rank)``, orthonormal. eigenvalues: l ``(rank,)``. rest: rho, the variance
            in every other direction.
    """

    weight: float
    mean: Tensor
    vectors: Tensor
    eigenvalues: Tensor
    rest: float = 0.0

    @property
    def count(self) -> int:
        """Numbers that it consists of, its weight among them."""
        return self.vectors.numel() + self.mean.numel() + self.eigenvalues.numel() + 1

    def to(self, like: Tensor) -> Component:
        """In the type and on the device of ``like``."""
        parts = (self.mean.to(like), self.vectors.to(like), self.eigenvalues.to(like))
        return Component(self.weight, *parts, self.rest)


def log_joint(y: Tensor, noise: NoiseLevel, components: Sequence[Component]) -> Tensor:
    """``log pi_k + log N(y; a mu_k, a^2 C_k + s^2 I)`` of noisy images ``(n, pixels)``: ``(n, components)``.

    The log-density of the noisy mixture is its ``logsumexp`` over the components.  In float32 it errs by about
    ``1e-7 |y - a mu|^2 / s^2``: give float64 where that is not small.
    """
    a2, s2, out = noise.alpha**2, noise.sigma**2, []
    for c in (component.to(y) for component in components):
        d = y - noise.alpha * c.mean
        inside, outside = a2 * c.eigenvalues + s2, a2 * c.rest + s2
        u2 = (d @ c.vectors).square()
        quadratic = (d.square().sum(1) - u2.sum(1)).clamp_min(0.0) / outside + u2 @ (1.0 / inside)
        log_det = inside.log().sum() + (len(c.mean) - len(inside)) * math.log(outside)
        out.append(math.log(c.weight) - 0.5 * (quadratic + log_det + len(c.mean) * math.log(2 * math.pi)))
    return torch.stack(out, 1)


def responsibilities(y: Tensor, noise: NoiseLevel, components: Sequence[Component]) -> Tensor:
    """``r_k(y)``, the posterior probability of each component given noisy images ``(n, pixels)``: ``(n, components)``."""
    return log_joint(y, noise, components).softmax(1)


def component_mean(y: Tensor, noise: NoiseLevel, component: Component) -> Tensor:
    """``E[x | y, k]`` of one component, ``(n, pixels)``."""
    a, c = noise.alpha, component.to(y)
    d = y - a * c.mean
    outside = a * c.rest / (a**2 * c.rest + noise.sigma**2)
    inside = a * c.eigenvalues / (a**2 * c.eigenvalues + noise.sigma**2)
    return c.mean + outside * d + ((d @ c.vectors) * (inside - outside)) @ c.vectors.T


def mixture_mean(y: Tensor, noise: NoiseLevel, components: Sequence[Component]) -> Tensor:
    """``D(y) = sum_k r_k(y) E[x | y, k]`` of noisy images ``(n, pixels)``; a component is worked out where it takes part."""
    weights, out = responsibilities(y, noise, components), torch.zeros_like(y)
    if inside_vmap(y):  # which rows take part is not known there: all of them do
        return torch.stack([weights[:, k, None] * component_mean(y, noise, c) for k, c in enumerate(components)]).sum(0)
    for k, component in enumerate(components):
        rows = torch.nonzero(weights[:, k].detach() > NEGLIGIBLE).flatten()
        if len(rows):
            part = weights[rows, k, None] * component_mean(y[rows], noise, component)
            out = out.index_add(0, rows, part)
    return out


@dataclass(frozen=True)
class PrincipalMixture:
    """A mixture of the leading principal coordinates; all others are one Gaussian, the same in every component.

    With B the leading eigenvectors of the images' covariance, ``B^T (x - mean)`` has components by k-means.  A component of
    n images takes ``C_k = (S_k + p C) / (n + p)``, S_k the sum of its own squares and C the covariance within components of all
    images: the Bayes estimate under a prior worth p images.  One component is the Gaussian of all images.

    Attributes:
        mean: ``(N,)``. basis: B ``(N, R)``. components: in the R coordinates.
    """

    mean: Tensor
    basis: Tensor
    components: list[Component]

    @classmethod
    def fit(cls, images: Tensor, mean: Tensor, basis: Tensor, components: int, pooling: float, seed: int) -> PrincipalMixture:
        """From images ``(n, N)``; k-means sees the 64 leading coordinates (the last columns of the basis)."""
        z = (images - mean.to(images)) @ basis.to(images)
        leading = z[:, -64:].contiguous().cpu().numpy()
        labels = torch.from_numpy(KMeans(components, n_init=1, max_iter=25, random_state=seed).fit_predict(leading)).long().to(z.device)
        parts = []
        for k in labels.unique():
            x = z[labels == k].double()
            parts.append((len(x), x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0))))
        within = sum(square for _, _, square in parts) / len(z)
        made = []
        for count, centre, square in parts:
            eigenvalues, vectors = torch.linalg.eigh((square + pooling * within) / (count + pooling))
            made.append(Component(count / len(z), centre, vectors.contiguous(), eigenvalues.clamp_min(0.0)))  # as a file gives them back
        return cls(mean, basis, made)

    def estimate(self, y: Tensor, linear: Tensor, noise: NoiseLevel) -> Tensor:
        """Posterior mean ``(n, N)`` of images ``(n, N)``, given their linear estimate, which serves the other directions."""
        mean, basis = self.mean.to(y), self.basis.to(y)
        inside = mixture_mean((y - noise.alpha * mean) @ basis, noise, self.components)
        return linear + (inside - (linear - mean) @ basis) @ basis.T

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds it: ``mixture.basis``, ``.weights``, ``.mean``, ``.vectors``, ``.eigenvalues``."""
        parts = self.components
        weights = torch.tensor([c.weight for c in parts], dtype=torch.float64)
        stacked = {f"mixture.{name}": torch.stack([getattr(c, name) for c in parts]) for name in ("mean", "vectors", "eigenvalues")}
        return {"mixture.basis": self.basis, "mixture.weights": weights, **stacked}

    @classmethod
    def read(cls, tensors: dict[str, Tensor], mean: Tensor, components: int, directions: int, path: str | Path) -> PrincipalMixture:
        """What :meth:`tensors` gave, read from a file: as large as settings and mean allow.

        Raises:
            ValueError, KeyError: it is not.
        """
        count, pixels = whole(tensors["mixture.weights"].numel(), "number of components", 1, components), len(mean)
        rank = min(directions, pixels)
        shapes = {"weights": (count,), "mean": (count, rank), "vectors": (count, rank, rank), "eigenvalues": (count, rank)}
        weights, *parts = (stored(tensors, f"mixture.{name}", shape, path) for name, shape in shapes.items())
        if float(weights.min()) <= 0 or float(parts[2].min()) < 0:
            raise ValueError("its mixture has weights or variances below zero")
        basis = stored(tensors, "mixture.basis", (pixels, rank), path)
        return cls(mean, basis, [Component(*part) for part in zip(weights.tolist(), *parts)])
