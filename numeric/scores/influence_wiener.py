"""The delta method for a readout of the Wiener estimate (:mod:`numeric.scores.influence` says what it is).

What is fitted is two things: the coordinates, which are the images' mean and covariance S (letters ``u = L c``, where L is made of
``A = S (S + s^2)^-1``), and the coefficients in them.

- *Coefficients* are named by their coordinates, so theta and its errors are of the coordinates held where they were fitted:
  ``IF_i = H^-1 r_i`` in Wick-ordered monomials, and then as :class:`numeric.scores.plain_readout.PlainReadout` has them.
  The jackknife's theta are solved without a group in the coordinates of all.
- *The expected error* moves with both.  At its coefficients it has no slope (but for a ridge), at its coordinates it has one, since
  they are not chosen by it: with ``J(L) = E[E_z |x - D|^2]`` at fixed Wick-ordered theta and ``dA = s^2 R dS R, R = (S + s^2)^-1`` ::

      IF_i(error) = |x_i - D|^2 averaged over the noise + x_i^T Z x_i + const,   Z = s^2 R (dJ/dA) R,   x_i about the mean

  ``dJ/dL`` is that of the clean letters, ``E[(df / dt)^T (Q + Q^T) f x^T]``, and that of their noise: letters contract once more,
  ``dJ/dK_ab = E[d_a:phi:^T Theta Theta^T d_b:phi:]``.  A shift of the mean, scales of the letters and axes of the linear features
  change the features within their span, which at the solution is no slope.
- *The excess* ``tr(G Cov(theta))`` is of the coefficients too: the risk of a fit above that of the best coefficients in the
  coordinates of that same fit.  What the coordinates add, ``E min R(., A) - min R(., A*)``, is of the same order 1 / n, of either sign.

Measured at 8 x 8 (tests/scores/test_errors_wiener.py), degrees 2 and 3: without Z the expected error's bar is up to 5 % too small;
the bars of D(y) with the coordinates held (2 to 16 % too small, the median of pixels and images) are not given, the jackknife's
(:func:`numeric.scores.groups.estimate_errors`) are; what the coordinates add to the excess is -9 to 0 % of it.

The linear features e and the letters u are one set of letters here, noise correlated among all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from numeric.noise import NoiseLevel
from numeric.scores.contraction import CorrelatedNoise, add_gathered_
from numeric.scores.coordinates import LevelCoordinates, analysed, linear_estimate
from numeric.scores.dense import backward_solve, feature_variance, forward_solve, mirror, penalised_factor_
from numeric.scores.groups import StandardErrors
from numeric.scores.influence_shared import Contracted, DenseInfluence, wanted_outputs
from numeric.scores.levels import LevelGrams
from numeric.scores.monomials import MonomialSet
from numeric.scores.plain_readout import PlainMap


def held_solution(model: Any, noise: NoiseLevel, degree: int, like: Any) -> tuple[Any, LevelCoordinates]:
    """A fitted model's images solved in the coordinates of another fit, ``like``, with the ridge of their own; and those."""
    strength = model.chosen_ridge(noise, degree) if isinstance(model.ridge, str) else model.ridge
    solver = type(like)(**{**like.get_params(), "ridge": strength}).fit_moments(like.moments_)
    level = like.coordinates_at(like._key(noise, degree)[0])
    (sums,) = solver._sums(model.moments_, [level])
    (solution,) = solver._solve(level, sums, [degree])
    return solution, level


def own_rows(blocks: Sequence[Any], n: int, size: int) -> list[Tensor]:
    """The features, of the leading ``size``, that each of n targets reads: all that is linear, and its own monomials."""
    rows = [torch.arange(1 + n)] * n
    for block in blocks:
        for target, numbers in zip(block.targets, block.numbers):
            rows[int(target)] = torch.cat([rows[int(target)], 1 + n + torch.as_tensor(numbers[numbers < size - 1 - n])])
    return rows


def own_system(gram: Tensor, strength: float) -> Tensor:
    """``G + lambda diag(variance)`` of all features, of which every target solves its rows."""
    return gram + torch.diag(strength * feature_variance(gram) + (gram.diagonal() <= 0))


def own_held_theta(model: Any, noise: NoiseLevel, degree: int, like: Any) -> tuple[Tensor, LevelCoordinates]:
    """:func:`held_solution` of the own form ``(P, T)``: in others' coordinates the linear features are not quite white."""
    level, mean = like.coordinates_at(like._key(noise, degree)[0]), like.moments_.mean
    (gram,) = model.moments_.grams([level], like.monomials_, mean)
    size, n = like.count(degree), len(mean)
    cross = gram[:size, 1 : 1 + n] @ level.unwhiten.T @ like._targets.T
    system = own_system(mirror(like._add_noise(level, gram))[:size, :size], float(model.ridge))
    out = torch.zeros_like(cross)
    for target, rows in enumerate(own_rows(like.blocks_, n, size)):
        out[rows, target] = torch.linalg.solve(system[rows][:, rows], cross[rows, target])
    return out, level


def with_linear_letters(monomials: MonomialSet, linear: int, degree: int) -> MonomialSet:
    """The monomials up to a degree, of letters counted behind ``linear`` more that stand alone."""
    rows = monomials.rows[: monomials.count(degree), -degree:]
    alone = np.full((linear, degree), -1)
    alone[:, -1] = np.arange(linear)
    return MonomialSet(np.concatenate([rows[:1], alone, np.where(rows[1:] >= 0, rows[1:] + linear, -1)]), linear + monomials.variables)


@dataclass
class LetterPull(LevelGrams):
    """Sums over images of the slope of ``f^T Q f + x^T linear^T f`` by the letters, times x, ``(q, N)``.

    Args: double: ``Q + Q^T``; features: the set of linear features and letters.
    """

    double: Tensor | None = None
    linear: Tensor | None = None
    every: MonomialSet | None = None
    name = "letter-pull"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(self.levels[0].letters.shape)]

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        assert self.double is not None and self.linear is not None and self.every is not None
        centred, (level,) = self.centred(images), self.levels
        f = averaged(self.every, level, centred)
        slope = self.double @ f + self.linear @ centred.T
        one = self.every.takings.chosen(self.every.takings.order == 1)
        terms = torch.as_tensor(one.ways)[:, None] * slope[torch.as_tensor(one.monomial)] * f[torch.as_tensor(one.left)]
        letter = torch.as_tensor(one.taken[:, -1])
        by_letter = f.new_zeros(self.every.variables, f.shape[1]).index_add_(0, letter, terms)
        sums[0] += by_letter[len(level.whiten) :] @ centred


def averaged(monomials: MonomialSet, level: LevelCoordinates, centred: Tensor) -> Tensor:
    """The clean monomials of linear features and letters of centred images ``(n, N)``, ``(P, n)``."""
    return monomials.features(torch.cat([centred @ level.whiten.T, centred @ level.letters.T], 1))


class WienerInfluence(DenseInfluence):
    """Of a fitted :class:`numeric.scores.wiener.WienerScore` at a level and degree; the letters themselves are monomials of theta 0."""

    def __init__(self, model: Any, noise: NoiseLevel, degree: int) -> None:
        moments, n = model.fitted(), len(model.moments_.mean)
        self.model, self.count, self.mean = model, moments.count, moments.mean.cpu()
        solution, level = model.solve(noise, degree), model.coordinates_at(model._key(noise, degree)[0])
        self.level = LevelCoordinates(level.sigma, *(t.cpu() for t in (level.whiten, level.unwhiten, level.noise, level.letters)))
        theta = model._wick_theta(solution).cpu()
        (sums,) = moments.grams([level], model.monomials_, moments.mean)
        size, q = len(theta), len(level.letters)
        self.targets = model._targets.cpu()
        cross = (sums[:size, 1 : 1 + n] @ level.unwhiten.T).cpu() @ self.targets.T
        gram = mirror(model._add_noise(level, sums))[:size, :size].cpu()
        self.monomials = with_linear_letters(model.monomials_, n, degree)
        self.kept = torch.cat([torch.arange(1 + n), torch.arange(1 + n + q, len(self.monomials))])
        # The letters are linear in the linear features, so their rows are too.
        spread = torch.zeros(len(self.monomials), size, dtype=torch.float64)
        spread[self.kept, torch.arange(size)] = 1.0
        spread[1 + n : 1 + n + q, 1 : 1 + n] = self.level.letters_of_linear
        self.gram = spread @ gram @ spread.T
        self.theta, self.cross = self._embedded(theta), spread @ cross
        self._factorise(gram, solution.ridge)
        covariance = torch.cat([torch.cat([self.level.noise.diag(), self.level.cross], 1), torch.cat([self.level.cross.T, self.level.covariance], 1)])
        self.noise = CorrelatedNoise(self.monomials, covariance.numpy(), "Wiener coordinates")
        self.contracted = Contracted(self.monomials, covariance.numpy(), len(self.monomials))
        self.to_plain = PlainMap(model.monomials_, self.level, degree)

    def _factorise(self, gram: Tensor, strength: float) -> None:
        """Make H ready, from the noisy Gram matrix of the features, which is overwritten."""
        self.factor = penalised_factor_(gram, feature_variance(gram), strength, "Gram matrix of the Wiener features")

    def _embedded(self, theta: Tensor) -> Tensor:
        return theta.new_zeros(len(self.monomials), theta.shape[1]).index_copy_(0, self.kept, theta)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        centred = images.to(torch.float64).flatten(1) - self.mean
        return centred @ self.targets.T, averaged(self.monomials, self.level, centred)

    def solved(self, right: Tensor, output: int | None = None) -> Tensor:
        return self._embedded(backward_solve(self.factor, forward_solve(self.factor, right[self.kept])))

    def plain(self, influence: Tensor) -> Tensor:
        constant, linear, weights = self.to_plain(influence[self.kept])
        return torch.cat([constant[None], linear, weights])

    def quadratic(self, form: Tensor) -> Tensor:
        out = form.clone()
        self.noise.adjoint().add_to(out, form, 1.0, 1.0, self.monomials.degrees)
        return out

    def moved(self, form: Tensor, quadratic: Tensor, linear: Tensor) -> Tensor | None:
        if self.model.of != "wiener":
            return None
        moments, level, n = self.model.moments_, self.level, len(self.mean)
        # The targets are an orthonormal basis of the pixels.
        work = LetterPull(
            [level], self.monomials, self.mean, double=quadratic + quadratic.T, linear=linear @ self.targets, every=self.monomials
        )
        work.batch = self.contracted.images
        slope = moments.total(work)[0] / moments.count
        # Of the noise's covariance among all letters: they contract once more.
        one = self.monomials.takings.chosen(self.monomials.takings.order == 1)
        collect = sp.csr_matrix((one.ways, (one.taken[:, -1], np.arange(len(one.ways)))), shape=(self.monomials.variables, len(one.ways)))
        taken, left, out = form.numpy(), self.gram.numpy(), np.zeros((self.monomials.variables,) * 2)
        add_gathered_(
            out, collect, lambda rows: taken[np.ix_(one.monomial[rows], one.monomial)] * left[np.ix_(one.left[rows], one.left)]
        )
        of_letters = torch.as_tensor(out)[n:]
        slope += 2.0 * level.sigma**2 * (of_letters[:, n:] @ level.letters + of_letters[:, :n] @ level.whiten)
        # From the scaled letters to the linear estimate, and to the covariance.
        values, vectors = self.model._values.cpu(), self.model._vectors.cpu()
        rows = analysed(torch.eye(n, dtype=torch.float64), str(self.model.coordinates), self.model.transform_, self.model.shape_)
        estimate = linear_estimate(level.sigma, values, vectors)
        scale = level.letters.norm(dim=1) / (rows @ estimate).norm(dim=1)
        by_estimate = rows.T @ (scale[:, None] * slope)
        inverse = (vectors / (values + level.sigma**2)) @ vectors.T
        form = level.sigma**2 * (inverse @ by_estimate @ inverse)
        return self.targets @ form @ self.targets.T


class WienerOwnInfluence(WienerInfluence):
    """Of a fitted :class:`numeric.scores.wiener_own.WienerOwnScore`: every output solves its own rows of the system of all."""

    times = 1.0

    def _factorise(self, gram: Tensor, strength: float) -> None:
        self.penalised = own_system(gram, strength)
        self.rows = own_rows(self.model.blocks_, len(self.mean), len(gram))

    def solved(self, right: Tensor, output: int | None = None) -> Tensor:
        assert output is not None
        rows = self.rows[output]
        factor = torch.linalg.cholesky(self.penalised[rows][:, rows])
        out = right.new_zeros(len(self.monomials), right.shape[1])
        return out.index_copy_(0, self.kept[rows], torch.cholesky_solve(right[self.kept[rows]], factor))

    def combinations(self, clean: Tensor, generator: torch.Generator) -> Iterator[tuple[int | None, Tensor, Tensor]]:
        for output in range(len(self.rows)):
            yield output, self.theta[:, [output]], clean[:, output]

    @cached_property
    def pull(self) -> Tensor:
        gradient = 2.0 * (self.gram @ self.theta - self.cross)
        return torch.cat([self.solved(gradient[:, [j]], j) for j in range(len(self.rows))], 1)

    def risk(self, influence: Tensor, output: int | None) -> float:
        assert output is not None
        rows = self.kept[self.rows[output]]
        mine = influence[rows]
        return float((mine * (self.gram[rows][:, rows] @ mine)).sum())

    def risk_of_all(self, influence: Tensor) -> float:
        return sum(self.risk(influence[:, [j]], j) for j in range(len(self.rows)))


def wiener_delta_errors(
    model: Any, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None = None, bar: Any = None
) -> StandardErrors:
    """The delta method for a fitted :class:`numeric.scores.wiener.WienerScore`, or its own form, whose images must be at hand.

    Raises:
        ValueError: as :func:`numeric.scores.influence_shared.wanted_outputs`.
        MemoryError: of the squares of the number of features, foreseen; or too many ways to contract the letters.
        NoImagesError: the images of the fit are not at hand.
    """
    moments = model.fitted()
    moments.check_memory(len(model.monomials_) + len(moments.mean), 8)
    wanted = wanted_outputs(outputs, model.count(degree), len(moments.mean))
    kind = WienerOwnInfluence if model.readout == "wiener-own" else WienerInfluence
    return kind(model, noise, degree).errors(images, wanted, bar)
