"""The delta method for readouts of one system for all outputs (:mod:`numeric.scores.influence` says what it is).

All of it is written in Wick-ordered monomials ``:phi:``, whose average over the noise is the clean monomial, f for one image.

- One output, or one random combination w of all: ``r_i = E_z[:phi: (x - D).w]``, from the table of ways to take letters out of
  monomials, for each image; then ``IF_i = H^-1 r_i``, two triangular solves.
- The error of an image, and its pull on the fit's error, is a quadratic form ``E_z[:phi:^T A :phi:] = f^T Q f``; Q is made once.
- The excess risk ``tr(G Cov(theta))`` sums over all outputs; random signs w of every image make it the mean of ``IF_i . G IF_i``.

The scale of the features in a penalty is held where it was fitted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from numeric.divergence import signs
from numeric.noise import NoiseLevel
from numeric.scores.contraction import CROSS_BYTES, WhiteNoise, permanents, wick_map
from numeric.scores.dense import backward_solve, cholesky_, forward_solve, mirror
from numeric.scores.groups import StandardErrors, relative_error
from numeric.scores.influence import error_of_mean
from numeric.scores.monomials import MonomialSet, Takings

MOST_NUMBERS = 2**22
"""Coefficients of a shared readout (features times outputs) whose standard errors are given without asking for some of them."""
PROBES = 4
PROBED_IMAGES = 2000
"""Random signs an image, and images, that the excess risk is estimated with."""


class Contracted:
    """``E_z[:phi: (x - D)]`` of single images.

    With the takings t of letters kappa out of monomials, and the average w of the letters taken from one factor against those
    from the other, ``E_z[:phi_m: :phi_l:] = sum_(kappa, lambda) w_(kappa lambda) (sum_(t of m) ways f_left) (sum_(t of l) ways f_left)``:
    for white noise ``sigma^(2 |kappa|) kappa!`` of equal ones, else the permanents of the covariance.

    Args:
        sigma: of white noise, or the letters' noise covariance ``(variables, variables)``.
    """

    def __init__(self, monomials: MonomialSet, sigma: float | np.ndarray, size: int) -> None:
        takings = monomials.takings
        self.takings = takings.chosen(takings.monomial < size)
        self.size = size
        self.met = white_weights(self.takings, sigma) if isinstance(sigma, float) else correlated_weights(self.takings, sigma)
        columns = np.arange(len(self.takings.ways))
        self.collect, self.by_kind = (
            sp.csr_matrix((self.takings.ways, (rows, columns)), shape=(size, len(columns))) for rows in (self.takings.monomial, self.takings.kind)
        )

    @property
    def images(self) -> int:
        """How many images at a time."""
        return max(1, CROSS_BYTES // (16 * len(self.takings.ways)))

    def residual(self, f: np.ndarray, theta: np.ndarray, target: np.ndarray) -> np.ndarray:
        """``(P, n)`` from the averaged monomials ``(P, n)``, coefficients ``(P, n)`` or ``(P, 1)`` and clean values ``(n,)``."""
        t = self.takings
        slopes = self.by_kind @ (theta[t.monomial] * f[t.left])
        for kinds, weight in self.met:
            slopes[kinds] = weight @ slopes[kinds] if weight.ndim == 2 else weight[:, None] * slopes[kinds]
        return f * target - self.collect @ (slopes[t.kind] * f[t.left])


def white_weights(takings: Takings, sigma: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of what can be taken, and what it is worth against itself, ``(k,)``."""
    kinds, first = np.unique(takings.kind, return_index=True)
    return [(kinds, sigma ** (2.0 * takings.order[first]) * WhiteNoise.factorials(takings.taken[first]))]


def correlated_weights(takings: Takings, covariance: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every number of letters: numbers of what can be taken, and what it is worth against each other, ``(k, k)``."""
    out = []
    for order in range(1, int(takings.order.max()) + 1):
        kinds, first = np.unique(np.where(takings.order == order, takings.kind, -1), return_index=True)
        letters = takings.taken[first[kinds >= 0]][:, -order:]
        out.append((kinds[kinds >= 0], permanents(covariance, letters, letters)))
    return out


class DenseInfluence(ABC):
    """A solved readout as the delta method reads it; ``size`` P, N outputs.

    Attributes:
        theta: ``(P, N)`` in Wick-ordered monomials, of images less their mean. gram, cross: noisy ``(P, P)``, and
            ``E[:phi: x]``, ``(P, N)``. contracted: of single images. count: images of the fit.
    """

    theta: Tensor
    gram: Tensor
    cross: Tensor
    contracted: Contracted
    count: int
    times = float(PROBES)

    @abstractmethod
    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Clean values of the outputs less their mean ``(n, N)``, and averaged monomials ``(P, n)``."""

    @abstractmethod
    def solved(self, right: Tensor, output: int | None = None) -> Tensor:
        """``H^-1 right``, where H is of one output, if every output has its own."""

    @abstractmethod
    def plain(self, influence: Tensor) -> Tensor:
        """Wick-ordered coefficients ``(P, n)`` as standard errors are of them."""

    @abstractmethod
    def quadratic(self, form: Tensor) -> Tensor:
        """Q of ``E_z[:phi:^T A :phi:] = f^T Q f`` for a symmetric A ``(P, P)``; symmetric in its sum only."""

    def moved(self, form: Tensor, quadratic: Tensor, linear: Tensor) -> Tensor | None:
        """What else an image moves: ``(N, N)``, the form of its clean values in its pull on ``E[:phi:^T A :phi: + (linear^T :phi:) . x]``."""
        return None

    def combinations(self, clean: Tensor, generator: torch.Generator) -> Iterator[tuple[int | None, Tensor, Tensor]]:
        """Combinations of outputs, as :meth:`influence` takes them; over :attr:`times`, their risks are that of all outputs."""
        for probe in signs(PROBES, clean, generator):
            yield None, self.theta @ probe.T, (clean * probe).sum(1)

    @cached_property
    def pull(self) -> Tensor:
        """``H^-1`` times the gradient of the expected error by theta, zero without a ridge, ``(P, N)``."""
        return self.solved(2.0 * (self.gram @ self.theta - self.cross))

    def risk(self, influence: Tensor, output: int | None) -> float:
        """``influence . G influence`` of a combination, summed over images."""
        return float((influence * (self.gram @ influence)).sum())

    def risk_of_all(self, influence: Tensor) -> float:
        """The same of all outputs, ``(P, N)``."""
        return self.risk(influence, None)

    def errors(self, images: Any, wanted: Sequence[int], bar: Any = None) -> StandardErrors:
        """One pass over the images; theta of some outputs."""
        theta, forms, generator = self.theta, self.forms(), torch.Generator().manual_seed(0)
        sums = torch.zeros(3, len(self.plain(theta[:, :1])), len(wanted), dtype=torch.float64)
        excess, optimism, losses, probed = 0.0, 0.0, [], 0
        for batch in images.batches(self.contracted.images):
            clean, f = self.features(batch)
            losses.append(self.pulls(clean, f, *forms))
            for place, j in enumerate(wanted):
                influence = self.plain(self.influence(f, j, theta[:, [j]], clean[:, j])[1])
                for order, power in enumerate((1, 2, 4)):
                    sums[order, :, place] += influence.pow(power).sum(1)
            if probed < PROBED_IMAGES:
                for output, combined, target in self.combinations(clean, generator):
                    right, influence = self.influence(f, output, combined, target)
                    optimism += float((right * influence).sum()) / self.times
                    excess += self.risk(influence, output) / self.times
                probed += len(batch)
            if bar is not None:
                bar.update(len(batch))
        # A ridge moves the means of r and of IF from zero.
        excess = excess / probed - self.risk_of_all(0.5 * self.pull)
        optimism = optimism / probed - 0.5 * float((self.pull * (self.gram @ theta - self.cross)).sum())
        n = theta.shape[1]
        count = len(images)
        means = sums / count
        variance = (means[1] - means[0].square()).clamp_min(0.0) * (count / (count - 1.0))
        relative = relative_error(variance, means[2], count)
        return StandardErrors(
            "delta", self.count, ((variance / self.count).sqrt(),), (relative,),
            *error_of_mean(torch.cat(losses) / n, self.count), excess / n / self.count, 2.0 * optimism / n / self.count,
        )  # fmt: skip

    def forms(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the influence on the expected error is made of: of ``f . f``, of ``f . x`` and of ``x . x``."""
        crossed = self.pull @ self.theta.T  # what the gradient makes of an image's pull on theta
        wick = self.theta @ self.theta.T - 0.5 * (crossed + crossed.T)
        linear = self.pull - 2.0 * self.theta
        form = self.quadratic(wick)
        return form, linear, self.moved(wick, form, linear)

    def pulls(self, clean: Tensor, f: Tensor, form: Tensor, linear: Tensor, moved: Tensor | None) -> Tensor:
        """Influence of images on the expected squared error summed over outputs, ``(n,)``, up to a constant."""
        out = clean.square().sum(1) + ((linear.T @ f) * clean.T).sum(0) + ((form @ f) * f).sum(0)
        return out if moved is None else out + ((clean @ moved) * clean).sum(1)

    def influence(self, f: Tensor, output: int | None, theta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """``r_i`` and ``IF_i``, ``(P, n)`` each, of an output (None: a combination), its theta ``(P, n)`` or ``(P, 1)`` and clean values."""
        right = torch.as_tensor(self.contracted.residual(f.numpy(), theta.numpy(), target.numpy()))
        return right, self.solved(right, output)


def wanted_outputs(outputs: Sequence[int] | None, size: int, n: int) -> list[int]:
    """The outputs whose theta is wanted, of n.

    Raises:
        ValueError: too many coefficients (``size`` an output) to give the standard errors of all, or an output that is not there.
    """
    if outputs is None and size * n > MOST_NUMBERS:
        raise ValueError(
            f"this readout has {size:,} x {n:,} coefficients: name those whose theta is wanted, outputs=[0, 5], "
            "or outputs=[] for the error of expected_mse and the excess alone"
        )
    wanted = list(range(n)) if outputs is None else [int(j) for j in outputs]
    if wanted and not (min(wanted) >= 0 and max(wanted) < n):
        raise ValueError(f"outputs must lie in 0..{n - 1}, got {wanted}")
    return wanted


class SharedInfluence(DenseInfluence):
    """Of a fitted :class:`numeric.scores.shared.SharedWaveletScore` at a level and degree."""

    def __init__(self, model: Any, noise: NoiseLevel, degree: int) -> None:
        moments, n, size = model.fitted(), len(model.mean_), model.count(degree)
        a, s = noise.alpha, noise.sigma
        self.model, self.noise, self.count = model, noise, moments.count
        solution = model.solve(noise, degree)
        self.theta = torch.as_tensor(
            wick_map(moments.monomials, s, None, size).T @ (solution.readout / solution.scale[:, None]).cpu().numpy()
        )
        self.theta[0] -= torch.as_tensor(model.mean_)
        self.powers = torch.as_tensor(a ** moments.monomials.degrees[:size].astype(float))
        self.gram = mirror(moments.wick_gram(a, s, size)).cpu()
        self.cross = moments.gram[:size, 1 : 1 + n].cpu() * self.powers[:, None]
        system = model.normal_equations(noise, size)
        self.factor, self.unwick = cholesky_(system.gram, "shared Gram matrix").cpu(), system.unwick
        self.contracted = Contracted(moments.monomials, float(s), size)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        clean = self.model.transform_.forward(images.to(torch.float64)).flatten(1) - torch.as_tensor(self.model.mean_)
        return clean, self.model.moments_.monomials.features(clean, len(self.powers)) * self.powers[:, None]

    def solved(self, right: Tensor, output: int | None = None) -> Tensor:
        return backward_solve(self.factor, forward_solve(self.factor, right))

    def plain(self, influence: Tensor) -> Tensor:
        return torch.as_tensor(self.unwick.T @ influence.numpy())

    def quadratic(self, form: Tensor) -> Tensor:
        noise, sigma, form = self.model.moments_.noise, self.noise.sigma, form.clone()
        keep = noise.row < len(form)
        row, column = (torch.as_tensor(a[keep]) for a in (noise.row, noise.column))
        scale = noise.weight[keep] * sigma ** (2.0 * noise.power[keep]) * np.where(noise.row[keep] == noise.column[keep], 1.0, 2.0)
        values = form[row, column] * torch.as_tensor(scale)
        where = (torch.as_tensor(noise.source_row[keep]), torch.as_tensor(noise.source_column[keep]))
        return form.index_put_(where, values, accumulate=True)


def shared_delta_errors(
    model: Any, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None = None, bar: Any = None
) -> StandardErrors:
    """The delta method for a fitted :class:`numeric.scores.shared.SharedWaveletScore`.

    Raises:
        ValueError: as :func:`wanted_outputs`.
    """
    model.fitted()
    wanted = wanted_outputs(outputs, model.count(degree), len(model.mean_))
    return SharedInfluence(model, noise, degree).errors(images, wanted, bar)
