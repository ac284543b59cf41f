"""Beyond the paper: the score as the gradient of a polynomial potential; a conservative field, in closed form.

The score of a density is a gradient, and the Jacobian of a posterior mean symmetric; a readout that fits every pixel by itself
has neither.  Here one polynomial is fitted, and differentiated (``c = y / a - mean``, S the images' covariance)::

    D(y) = mean + c + s^2 grad phi(c),    phi(c) = -c^T (S + s^2 I)^-1 c / 2 + sum_alpha theta_alpha :u^alpha:,    u = L c

with the letters u and the families of :mod:`numeric.scores.coordinates`, Wick-ordered.  The error ``E|D - x|^2`` is score matching
(Hyvarinen 2005; Vincent 2011): by Stein's identity ``E[(linear - x) . grad m] = s^2 (E[Lap m] - E[grad m . (S + s^2 I)^-1 c])``, so

    A theta = b,    A = E[grad m_alpha . grad m_beta],    b = E[grad m_alpha . (S + s^2 I)^-1 c] - E[Lap m_alpha]

and ``E|D - x|^2 = linear's - 2 s^4 theta . b + s^4 theta . A theta``.  With ``grad :u^alpha: = sum_i alpha_i :u^(alpha - i): L_i`` all
of it is read off the noisy Gram matrix of the monomials of one degree less, times elements of ``L L^T``: the pass of
:class:`~numeric.scores.wiener.WienerScore`, nothing sampled.  Powers ``:u_i^2:`` and ``u_i`` have ``b = 0`` on the fitted images:
a potential of degree 2 is the linear denoiser's, and on Gaussian data all of theta vanishes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from numeric.noise import NoiseLevel
from numeric.scores.contraction import wick_map
from numeric.scores.coordinates import LevelCoordinates, letter_monomials
from numeric.scores.dense import backward_solve, cholesky_, forward_solve, mirror
from numeric.scores.families import FamilyError
from numeric.scores.groups import StandardErrors
from numeric.scores.influence_wiener import held_solution
from numeric.scores.levels import LinearMoments
from numeric.scores.monomials import MonomialSet
from numeric.scores.patterns import STEP, Exponents, GramReader, Group, Groups
from numeric.scores.wiener import LevelSolution, WienerScore
from numeric.wavelets import WaveletTransform


@dataclass(frozen=True)
class PotentialReadout:
    """The field as it is evaluated, for ``c = y / a - mean`` and letters ``u = c letters``.

    Attributes:
        mean: ``(N,)``. linear: ``(N, N)``, of the linear denoiser. letters: ``(N, q)``. inverse: ``(N, N)``, ``(S + s^2 I)^-1``.
        potential: ``(Q,)`` of plain monomials, the constant first.
        letter, left, weights: ``(t,)``, ``d potential / d u_letter`` is the sum of weights times monomials ``left``.
        laplacian: coefficients of ``sum_ij (L L^T)_ij d^2 potential / d u_i d u_j`` in monomials.
    """

    mean: Tensor
    linear: Tensor
    letters: Tensor
    inverse: Tensor
    potential: Tensor
    letter: Tensor
    left: Tensor
    weights: Tensor
    laplacian: Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in vars(self).values())


def without(exponents: Exponents, *places: int) -> Exponents:
    """Exponents with one letter of each place taken out."""
    return tuple(power - places.count(i) for i, power in enumerate(exponents))


class PotentialScore(WienerScore):
    """Closed-form score that is the gradient of one polynomial of the Wiener estimate: its Jacobian is symmetric.

    Args: as :class:`numeric.scores.wiener.WienerScore`; ``degree`` is that of the estimate, the potential's is one more, and
        ``ridge``, a number, acts on potentials scaled to unit mean square gradient.

    One number a monomial is fitted, for all pixels together: fewer than the shared readout's by a factor of the number of
    pixels, so that it errs more, overfits less and samples from a density that can be evaluated (:meth:`potential`).

    Example:
        >>> import torch
        >>> from numeric import PotentialScore, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model, level = PotentialScore(degree=2, coordinates='pixel').fit(images), ve(0.5)
        >>> model.denoise(images[:2], level).shape, model.count(2), model.label, model.potential(images[:2], level).shape
        (torch.Size([2, 1, 8, 8]), 192, 'potential of Wiener pixels', torch.Size([2]))
        >>> type(model.field(level, 2, images)).__name__, model.jacobian_trace(images[:2], level).shape
        ('PotentialReadout', torch.Size([2]))
    """

    readout = "potential"

    @property
    def label(self) -> str:
        """Name for legends."""
        return f"potential of {super().label}"

    def check_settings(self) -> None:
        super().check_settings()
        if isinstance(self.ridge, str):
            raise ValueError(f"ridge={self.ridge!r} is not of the potential readout: use a number >= 0")

    def _new_potential(self, transform: WaveletTransform, channels: int) -> MonomialSet:
        return letter_monomials(self.coordinates, self.family_, self.pixel_family_, transform, int(self.degree) + 1, channels)

    def _check_memory(self, moments: LinearMoments, monomials: MonomialSet) -> None:
        moments.check_memory(len(self._new_potential(moments.transform, moments.channels)), 2)

    def prepare(self) -> None:
        super().prepare()
        monomials = self._new_potential(self.moments_.transform, self.moments_.channels)
        self.potential_ = Groups(monomials, len(self.moments_.mean))
        # What differentiating leaves has the numbers that it has in the potential: the sets begin alike.
        assert np.array_equal(monomials.rows[: len(self.monomials_), 1:], self.monomials_.rows)
        letters = np.arange(monomials.variables)[:, None]
        self._groups_of_potential = [Group((1,), letters, 1), *self.potential_.groups]

    def count(self, degree: int) -> int:
        """Number of the potential's coefficients for an estimate of a degree (they are sorted by degree).

        Raises:
            FamilyError: the degree is not between 1 and the fitted one.
        """
        if not 1 <= degree <= self.monomials_.degree:
            raise FamilyError(f"degree must lie in 1..{self.monomials_.degree} (the fitted degree), got {degree}")
        return self.potential_.monomials.count(degree + 1) - 1

    def _theta_shape(self, degree: int) -> tuple[int, ...]:
        return (self.count(degree),)

    def coefficients(self, noise: NoiseLevel, degree: int, like: Self) -> list[Tensor]:
        """Theta of the Wick-ordered monomials, ``(Q, 1)``, solved in the coordinates of ``like``."""
        return [held_solution(self, noise, degree, like)[0].theta[:, None]]

    def delta_errors(self, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None, bar: Any) -> StandardErrors:
        raise ValueError(
            "the delta method is not of the potential readout, whose linear part is the linear denoiser's and moves with the images "
            "without being fitted beside the rest: use method='jackknife'"
        )

    # ----- derivatives of the monomials ----------------------------------------------------------------------------------

    def _first(self, group: Group) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """``d m / d u_i`` of a group's monomials: how often, the letter ``(m,)``, the number of what is left ``(m,)``."""
        for i, power in enumerate(group.exponents):
            yield power, group.variables[:, i], self.groups_.part(group, without(group.exponents, i))

    def _second(self, group: Group) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """The same of ``d^2 m / d u_i d u_j``, every ordered pair of letters."""
        for i, one in enumerate(group.exponents):
            for j, other in enumerate(group.exponents):
                ways = one * (other - (i == j))
                if ways:
                    left = self.groups_.part(group, without(group.exponents, i, j))
                    yield ways, group.variables[:, i], group.variables[:, j], left

    # ----- the system ----------------------------------------------------------------------------------------------------

    def _system(self, level: LevelCoordinates, gram: Tensor) -> tuple[Tensor, Tensor]:
        """A ``(Q, Q)`` on and below the diagonal and b ``(Q,)``, from the noisy Gram matrix, whole."""
        size, unit = len(self.potential_.monomials) - 1, level.unit_covariance
        read, normals = GramReader(self.groups_, gram, level.letters_of_linear), level.letters @ level.whiten.T
        system, rhs = gram.new_zeros(size, size), gram.new_zeros(size)
        for place, one in enumerate(self._groups_of_potential):
            rows = slice(one.start - 1, one.start - 1 + len(one))
            for power, letter, left in self._first(one):
                rhs[rows] += power * (read.with_linear(left) * normals[torch.as_tensor(letter, device=gram.device)]).sum(1)
            for ways, i, j, left in self._second(one):
                rhs[rows] -= ways * unit[torch.as_tensor(i, device=gram.device), torch.as_tensor(j, device=gram.device)] * read.means(left)
            for other in self._groups_of_potential[: place + 1]:
                for start in range(0, len(one), STEP):
                    part, stop = slice(start, start + STEP), min(start + STEP, len(one)) if one is other else len(other)
                    into = system[rows][part, other.start - 1 : other.start - 1 + stop]
                    for power, letter, left in self._first(one):
                        for power_, letter_, left_ in self._first(other):
                            term = read.gather(unit, letter[part], letter_[:stop]) * read.block(left[part], left_[:stop])
                            into.add_(term, alpha=float(power * power_))
        return system, rhs

    def _solve(self, level: LevelCoordinates, sums: Any, degrees: Sequence[int]) -> list[LevelSolution]:
        system, rhs = self._system(level, mirror(self._add_noise(level, sums)))
        strength, four = float(self.ridge), level.sigma**4
        square = system.diagonal().clone()  # E|grad m|^2
        system.diagonal().add_(strength * square).add_((square <= 0).to(square))
        factor = cholesky_(system, "system of the potential")
        half, out = forward_solve(factor, rhs[:, None]), []
        linear = float((self._values * level.sigma**2 / (self._values + level.sigma**2)).sum())
        for degree in degrees:
            size = self.count(degree)
            theta = backward_solve(factor, half[:size])[:, 0]
            gain = float(theta @ rhs[:size]) + strength * float(square[:size] @ theta.square())
            out.append(LevelSolution(theta, linear - four * gain, strength))
        return out

    def _excess(self, solution: LevelSolution, level: LevelCoordinates, sums: Any, moments: LinearMoments) -> float:
        """``E|D - x|^2 - E|x|^2`` about the fitted mean, summed over pixels, from the sums of a pass."""
        size, theta, two = len(solution.theta), solution.theta, level.sigma**2
        system, rhs = self._system(level, mirror(self._add_noise(level, sums)))
        shift, share = moments.mean - self.moments_.mean, self._values / (self._values + two)
        second = moments.covariance + torch.outer(shift, shift)
        each = torch.einsum("ik,ij,jk->k", self._vectors, second, self._vectors)
        linear = float(((1.0 - share).square() * each - each + two * share.square()).sum())
        return linear + two**2 * float(theta @ (mirror(system)[:size, :size] @ theta) - 2.0 * theta @ rhs[:size])

    # ----- use -----------------------------------------------------------------------------------------------------------

    def field(self, noise: NoiseLevel | float, degree: int, like: Tensor) -> PotentialReadout:
        """The potential and its derivatives in plain monomials, in the type and on the device of a tensor; kept."""
        solution, key = self.solve(noise, degree), self._key(noise, degree)
        dtype, device = like.dtype, like.device

        def make() -> PotentialReadout:
            level, mean, size = self.coordinates_at(key[0]), self.moments_.mean, 1 + self.count(degree)
            unit = level.unit_covariance.cpu().numpy()
            wick = np.concatenate([[0.0], solution.theta.cpu().numpy()])
            plain = wick_map(self.potential_.monomials, level.sigma, unit, size, sign=-1.0).T @ wick
            letters, lefts, weights, laplacian = [], [], [], np.zeros(self.monomials_.count(degree))
            for group in self._groups_of_potential:
                if group.start >= size:
                    break
                mine = plain[group.start : group.start + len(group)]
                for power, letter, left in self._first(group):
                    letters.append(letter)
                    lefts.append(left)
                    weights.append(power * mine)
                for ways, i, j, left in self._second(group):
                    laplacian += np.bincount(left, ways * unit[i, j] * mine, len(laplacian))
            total = self._values + level.sigma**2
            linear, inverse = ((self._vectors * share) @ self._vectors.T for share in (self._values / total, 1.0 / total))
            numbers = (mean, linear, level.letters.T, inverse, torch.from_numpy(plain))
            index = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in (letters, lefts))
            last = (torch.from_numpy(np.concatenate(weights)), torch.from_numpy(laplacian))
            return PotentialReadout(*(t.to(device, dtype) for t in numbers), *index, *(t.to(device, dtype) for t in last))

        return self.kept(("potential", key, dtype, device), make, lambda made: made.nbytes)

    def at_degrees(self, y: Tensor, noise: NoiseLevel, degrees: Sequence[int]) -> Tensor:
        like = y.detach().new_zeros(0)
        fields = [self.field(noise, degree, like) for degree in degrees]
        centred = y.flatten(1) / noise.alpha - fields[0].mean
        features, out = self.monomials_.features(centred @ fields[0].letters, self.monomials_.count(max(degrees))), []
        for field in fields:
            slopes = features.new_zeros(field.letters.shape[1], len(y))
            slopes = slopes.index_add(0, field.letter, field.weights[:, None] * features[field.left])
            pushed = noise.effective_sigma**2 * (slopes.T @ field.letters.T)
            out.append((field.mean + centred @ field.linear + pushed).reshape(y.shape))
        return torch.stack(out)

    def potential(self, y: Any, noise: Any, degree: int | None = None) -> Any:
        """Log-density of noisy images ``(n, channels, height, width)``, up to a constant, ``(n,)``: its gradient is the score.

        Images, and a noise level for each of them, are taken as by :meth:`denoise`; the constant is another at every level.
        """
        self.fitted()
        degree = int(self.degree) if degree is None else degree

        def one_level(part: Tensor, level: NoiseLevel) -> Tensor:
            field = self.field(level, degree, part.detach().new_zeros(0))
            centred = part.flatten(1) / level.alpha - field.mean
            features = self.potential_.monomials.features(centred @ field.letters, len(field.potential))
            return field.potential @ features - 0.5 * (centred * (centred @ field.inverse)).sum(1)

        return self.by_level(y, noise, one_level)

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy`` in closed form: of the linear part, and the Laplacian of the potential, one polynomial."""
        field = self.field(noise, int(self.degree), y.detach().new_zeros(0))
        features = self.monomials_.features((y.flatten(1) / noise.alpha - field.mean) @ field.letters, len(field.laplacian))
        return (field.linear.diagonal().sum() + noise.effective_sigma**2 * (field.laplacian @ features)) / noise.alpha
