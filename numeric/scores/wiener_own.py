"""The cheap form of :mod:`numeric.scores.wiener`: each target reads all that is linear, and its own family's monomials only.

The whitened linear features have the identity for Gram matrix, so one target's system is solved by the Schur complement of its
few dozen nonlinear features: ``S = G_ff - G_lf^T G_lf``, ``S theta_f = b_f - G_lf^T b_l``, ``theta_l = b_l - G_lf theta_f``.
A pass accumulates the linear features against all monomials, and the small blocks of each target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from numeric.memory import free_memory
from numeric.noise import NoiseLevel
from numeric.scores.contraction import wick_map
from numeric.scores.coordinates import LevelCoordinates
from numeric.scores.dense import SingularGramError
from numeric.scores.families import Family, FamilyError, closure
from numeric.scores.influence_wiener import own_held_theta
from numeric.scores.levels import LevelGrams, LinearMoments
from numeric.scores.monomials import MonomialSet
from numeric.scores.passes import tensor_hash
from numeric.scores.patterns import FirstMoments, contractions, linear_noise
from numeric.scores.plain_readout import PlainMap
from numeric.scores.wiener import LevelSolution, WienerScore
from numeric.wavelets import WaveletTransform

CHUNK_BYTES = 2**25
"""Gathered features of one step over targets."""


@dataclass(frozen=True)
class TargetBlock:
    """Targets that see as many letters.

    Attributes:
        targets: ``(g,)``; variables: ``(g, r)`` letters, the target first.
        exponents: ``(E, r)`` by total degree: the constant, the letters, then F nonlinear monomials.
        numbers: ``(g, F)`` nonlinear monomials, counted from the first of the set.
    """

    targets: np.ndarray
    variables: np.ndarray
    exponents: np.ndarray
    numbers: np.ndarray

    @property
    def nonlinear(self) -> np.ndarray:
        """``(F, r)``."""
        return self.exponents[self.exponents.sum(1) > 1]

    def count(self, degree: int) -> int:
        """Nonlinear monomials up to a degree: the leading ones."""
        return int((self.nonlinear.sum(1) <= degree).sum())

    def chunks(self, width: int) -> list[slice]:
        """Runs of targets whose gathered features ``(width, F)`` stay near the cache."""
        step = max(1, CHUNK_BYTES // (8 * width * max(1, self.numbers.shape[1])))
        return [slice(start, start + step) for start in range(0, len(self.targets), step)]


def pixel_variables(shape: tuple[int, int, int], family: Family) -> list[tuple[str, np.ndarray]]:
    """Pattern and variables ``(g, r)`` of every pixel: itself, then its neighbours within the radius (no wrapping)."""
    channels, height, width = shape
    radius = family.radius if family.name == "local" else 0
    grouped: dict[int, list[list[int]]] = {}
    for index in range(channels * height * width):
        channel, row, column = np.unravel_index(index, shape)
        near = [
            int(np.ravel_multi_index((channel, r, c), shape))
            for r in range(max(0, int(row) - radius), min(height, int(row) + radius + 1))
            for c in range(max(0, int(column) - radius), min(width, int(column) + radius + 1))
            if (r, c) != (row, column)
        ]
        grouped.setdefault(1 + len(near), []).append([index, *near])
    return [("pairwise" if r > 1 else "independent", np.array(rows)) for r, rows in sorted(grouped.items())]


def target_blocks(pairs: Sequence[tuple[str, np.ndarray]], monomials: MonomialSet) -> list[TargetBlock]:
    """The nonlinear monomials of every target, found in the set."""
    out = []
    for pattern, variables in pairs:
        exponents = closure(pattern, variables.shape[1], monomials.degree)
        nonlinear = exponents[exponents.sum(1) > 1]
        numbers = np.empty((len(variables), len(nonlinear)), dtype=np.int64)
        for column, row in enumerate(nonlinear):
            letters = np.full((len(variables), monomials.degree), -1)
            places = np.repeat(np.arange(len(row)), row)
            letters[:, : len(places)] = variables[:, places]
            numbers[:, column] = monomials.index(letters) - 1 - monomials.variables
        out.append(TargetBlock(variables[:, 0], variables, exponents, numbers))
    return out


@dataclass
class OwnSums:
    """What a pass gives at one level.

    Attributes:
        mean: ``(Q,)`` of the nonlinear monomials; cross: ``(N, Q)``, ``E[e t^alpha]``; blocks: ``(g, F, F)`` each.
        head: ``(1 + N, 1 + N)``, clean ``E[(1, e) (1, e)^T]``.
    """

    mean: Tensor
    cross: Tensor
    blocks: list[Tensor]
    head: Tensor


@dataclass
class LevelOwnProducts(LevelGrams):
    """Sums for each level: of the nonlinear monomials, of their products with the linear features, and of every block's own."""

    blocks: tuple[TargetBlock, ...] = ()
    name = "own-levels"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        n, q = len(self.centre), len(self.monomials) - self.monomials.variables - 1
        return [(q,), (n, q), *((len(b.targets), *[b.numbers.shape[1]] * 2) for b in self.blocks)] * len(self.levels)

    @property
    def config(self) -> Any:
        return [super().config, tensor_hash(*(torch.from_numpy(b.numbers) for b in self.blocks))]

    def by_level(self, sums: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """The sums of each level."""
        each = 2 + len(self.blocks)
        return [sums[i : i + each] for i in range(0, len(sums), each)]

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        centred, n = self.centred(images), len(self.centre)
        for level, (first, cross, *blocks) in zip(self.levels, self.by_level(sums)):
            phi = self.features(centred, level)
            nonlinear = phi[1 + n :]
            first += nonlinear.sum(1)
            cross.addmm_(phi[1 : 1 + n], nonlinear.T)
            for block, gram in zip(self.blocks, blocks):
                for part in block.chunks(len(centred)):
                    own = nonlinear[torch.as_tensor(block.numbers[part], device=first.device)]
                    gram[part].baddbmm_(own, own.mT)


@dataclass(frozen=True)
class OwnReadout:
    """As it is evaluated: ``coefficients = constant + c linear + own monomials . weights`` for ``c = y / a - mean``.

    Attributes:
        mean: ``(N,)``; constant: ``(T,)``; linear: ``(N, T)``; letters: ``(N, q)``; weights: ``(g, F)`` of every block.
    """

    mean: Tensor
    constant: Tensor
    linear: Tensor
    letters: Tensor
    weights: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.mean, self.constant, self.linear, self.letters, *self.weights))


class WienerOwnScore(WienerScore):
    """Every wavelet coefficient (or pixel) reads all linear features and its family's monomials of the Wiener estimate.

    With ``family="band"`` a target also reads the divisors of its monomials, at a lower degree those of the fitted one's: there a lower
    degree of a fit sees a few features more than a fit of that degree.

    Args: as :class:`numeric.scores.wiener.WienerScore`; ``coordinates`` is ``"wavelet"`` (then ``family`` is that of
        :class:`numeric.scores.own.WaveletScore`) or ``"pixel"`` (then ``pixel_family``). The basis is orthonormal and the
        ridge a number. Memory is ``N Q`` float64 and small blocks, not a square of the number of features.

    Example:
        >>> import torch
        >>> from numeric import WienerOwnScore, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = WienerOwnScore('independent', degree=2, coordinates='wavelet').fit(images)
        >>> model.denoise(images[:2], 0.5).shape, type(model.own_readout(ve(0.5), 2, images)).__name__
        (torch.Size([2, 1, 8, 8]), 'OwnReadout')
    """

    readout = "wiener-own"

    def __init__(
        self,
        family: str = "local",
        degree: int = 3,
        coordinates: str = "wavelet",
        of: str = "wiener",
        pixel_family: str = "local",
        radius: int = 1,
        interactions: str = "pairwise",
        channels_coupled: bool = False,
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str = "periodization",
        ridge: float | str = 1e-6,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            family, degree, coordinates, of, pixel_family, radius, interactions, channels_coupled, wavelet, levels, mode, ridge, device
        )  # fmt: skip

    @property
    def label(self) -> str:
        """Name for legends."""
        family = self.family_ if self.coordinates == "wavelet" else self.pixel_family_
        kind = "wavelet coefficients" if self.coordinates == "wavelet" else "pixels"
        return f"linear in all + own {'Wiener' if self.of == 'wiener' else 'noisy'} {kind}, {family.label}"

    def check_settings(self) -> None:
        super().check_settings()
        if self.coordinates == "both":
            raise ValueError("coordinates='both' has no own form: a target is a wavelet coefficient or a pixel, use one of them")
        if isinstance(self.ridge, str):
            raise ValueError(f"ridge={self.ridge!r} is not of the own Wiener form: use a number >= 0")
        if self.mode != "periodization":
            raise ValueError(f"mode={self.mode!r} is over-complete: coefficients' errors add up in mode='periodization' only")

    def _check_transform(self, transform: WaveletTransform) -> None:
        if not transform.is_orthonormal:
            raise FamilyError(f"{transform} is {transform.kind}: coefficients' errors add up in {transform.to_orthonormal} only")

    def _check_memory(self, moments: LinearMoments, monomials: MonomialSet) -> None:
        needed, free = 3 * 8 * len(moments.mean) * (len(monomials) + 2 * len(moments.mean)), free_memory(moments.device)
        if free is not None and needed > free:
            raise MemoryError(
                f"{len(monomials):,} monomials need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: use a lower degree"
            )

    @property
    def sums_bytes(self) -> int:
        """Memory of what a pass accumulates for one level."""
        return 8 * (len(self.moments_.mean) * len(self.groups_) + sum(b.numbers.shape[0] * b.numbers.shape[1] ** 2 for b in self.blocks_))

    def prepare(self) -> None:
        super().prepare()
        moments, shape = self.moments_, (self.moments_.channels, *self.moments_.transform.shape)
        self._check_transform(moments.transform)
        if self.coordinates == "pixel":
            pairs = pixel_variables(shape, self.pixel_family_)
        else:
            pairs = [(b.pattern, b.variables) for b in self.family_.blocks(moments.transform, moments.channels)]
        self.blocks_ = target_blocks(pairs, self.monomials_)

    def _theta_shape(self, degree: int) -> tuple[int, ...]:
        size = len(self.moments_.mean)
        return ((1 + size) * size + sum(len(block.targets) * block.count(degree) for block in self.blocks_),)

    # ----- the pass ------------------------------------------------------------------------------------------------------

    def _sums(
        self, moments: LinearMoments, levels: Sequence[LevelCoordinates], bar: Any = None, checkpoint: Path | None = None
    ) -> list[OwnSums]:
        mean = self.moments_.mean
        work = LevelOwnProducts(levels, self.monomials_, mean, device=moments.device, blocks=tuple(self.blocks_))
        found, out = moments.total(work, bar, checkpoint), []
        for level, (first, cross, *blocks) in zip(levels, work.by_level(found)):
            shift = level.whiten @ (moments.mean - mean)
            head = mean.new_zeros(1 + len(mean), 1 + len(mean))
            head[0, 0], head[0, 1:], head[1:, 0] = 1.0, shift, shift
            head[1:, 1:] = level.whiten @ moments.covariance @ level.whiten.T + torch.outer(shift, shift)
            for sums in (first, cross, *blocks):
                sums /= moments.count
            out.append(OwnSums(first, cross, blocks, head))
        return out

    # ----- the noise -----------------------------------------------------------------------------------------------------

    def _noisy_cross(self, level: LevelCoordinates, sums: OwnSums) -> Tensor:
        """``E[(1, e) :t^alpha:]``, ``(1 + N, Q)``."""
        letters = level.letters_of_linear
        whole = torch.cat([sums.head[0], sums.mean])
        means = FirstMoments(self.groups_, letters @ sums.head[1:, 0], whole)
        return torch.cat([sums.mean[None], sums.cross + linear_noise(means, self.groups_, level.cross).T])

    def _noisy_block(self, level: LevelCoordinates, sums: OwnSums, which: int, part: slice) -> Tensor:
        """``E[:t^alpha: :t^beta:]`` of some targets of a block, ``(g, F, F)``."""
        block, letters = self.blocks_[which], level.letters_of_linear
        variables = torch.as_tensor(block.variables[part], device=letters.device)
        numbers = torch.as_tensor(block.numbers[part], device=letters.device)
        exponents = [tuple(row) for row in block.exponents.tolist()]
        place, size, first = {row: i for i, row in enumerate(exponents)}, len(exponents), len(exponents) - numbers.shape[1]
        # Clean second moments of everything that taking letters can leave.
        own = letters[variables]  # (g, r, N)
        order = torch.tensor([int(np.argmax(exponents[i])) for i in range(1, first)], dtype=torch.long, device=letters.device)
        table = letters.new_zeros(len(variables), size, size)
        table[:, first:, first:] = sums.blocks[which][part]
        table[:, 0, 0] = 1.0
        table[:, 0, first:] = sums.mean[numbers]
        table[:, 0, 1:first] = (own @ sums.head[1:, 0])[:, order]
        table[:, 1:first, 1:first] = (own @ sums.head[1:, 1:] @ own.mT)[:, order][:, :, order]
        table[:, 1:first, first:] = (own @ sums.cross[:, numbers].permute(1, 0, 2))[:, order]
        for i in range(first):
            table[:, i + 1 :, i] = table[:, i, i + 1 :]
        mine = level.letters[variables]
        k = level.sigma**2 * (mine @ mine.mT)
        out = table[:, first:, first:].clone()
        for a in range(first, size):
            for b in range(first, a + 1):
                total = out[:, a - first, b - first]
                for ways, weight, left, right in contractions(exponents[a], exponents[b]):
                    term = weight * table[:, place[left], place[right]]
                    for i, j in zip(*np.nonzero(ways)):
                        term = term * k[:, i, j] ** int(ways[i, j])
                    total += term
                out[:, b - first, a - first] = total
        return out

    # ----- the systems ---------------------------------------------------------------------------------------------------

    @property
    def _targets(self) -> Tensor:
        moments, eye = self.moments_, super()._targets
        if self.coordinates == "pixel":
            return eye
        return moments.transform.forward(eye.reshape(-1, moments.channels, *moments.transform.shape)).flatten(1).T

    def coefficients(self, noise: NoiseLevel, degree: int, like: Self) -> list[Tensor]:
        """As of :class:`numeric.scores.wiener.WienerScore`, zero for the monomials that a target does not read."""
        theta, level = own_held_theta(self, noise, degree, like)
        constant, linear, weights = PlainMap(self.monomials_, level, degree)(theta)
        return [torch.cat([constant[None], linear, weights])]

    def _wick_theta(self, solution: LevelSolution) -> Tensor:
        head, found = self._parts(solution.theta)
        size = 1 + self.monomials_.variables + max((int(b.numbers[:, : t.shape[1]].max(initial=-1)) + 1 for b, t in zip(self.blocks_, found)), default=0)
        rest = self._by_monomial(found, size)[1 + self.monomials_.variables :].toarray()
        return torch.cat([head, torch.from_numpy(rest).to(head)])

    def _solve(self, level: LevelCoordinates, sums: OwnSums, degrees: Sequence[int]) -> list[LevelSolution]:
        strength = float(self.ridge)
        noisy, read = self._noisy_cross(level, sums), self._targets @ level.unwhiten  # (T, N): targets in e
        linear = sums.head[:, 1:] @ read.T  # E[(1, e) x], (1 + N, T)
        weights = torch.full((len(noisy), 1), 1.0 + strength, dtype=torch.float64, device=noisy.device)
        weights[0] = 1.0  # the intercept is free
        outs: dict[int, tuple[Tensor, list[Tensor], float]] = {}
        second = float(self.moments_.covariance.trace())
        for degree in degrees:
            outs[degree] = (linear / weights, [], second - float((linear.square() / weights).sum()))
        for which, block in enumerate(self.blocks_):
            pieces: dict[int, list[Tensor]] = {degree: [] for degree in degrees}
            for part in block.chunks(len(noisy)):
                numbers, targets = (torch.as_tensor(v[part], device=noisy.device) for v in (block.numbers, block.targets))
                gram = self._noisy_block(level, sums, which, part)
                near = noisy[:, numbers].permute(1, 0, 2)  # (g, 1 + N, F)
                variance = gram.diagonal(dim1=1, dim2=2) - sums.mean[numbers].square()
                rhs = (read[targets][:, None] @ sums.cross[:, numbers].permute(1, 0, 2))[:, 0]
                schur = gram - near.mT @ (near / weights) + torch.diag_embed(strength * variance + (variance <= 0))
                b = rhs - (near.mT @ (linear.T[targets] / weights[:, 0])[:, :, None])[:, :, 0]
                for degree in degrees:
                    size = block.count(degree)
                    if size == 0:
                        pieces[degree].append(b[:, :0])
                        continue
                    factor, flag = torch.linalg.cholesky_ex(schur[:, :size, :size])
                    if bool(flag.any()):
                        raise SingularGramError(
                            f"{int((flag > 0).sum())} of {len(b)} targets have a singular system: use a ridge > 0 (such as 1e-8)"
                        )
                    theta = torch.cholesky_solve(b[:, :size, None], factor)[:, :, 0]
                    head, found, error = outs[degree]
                    head[:, targets] -= ((near[:, :, :size] @ theta[:, :, None])[:, :, 0] / weights[:, 0]).T
                    penalty = strength * float((variance[:, :size] * theta.square()).sum())
                    outs[degree] = (head, found, error - float((theta * b[:, :size]).sum()) - penalty)
                    pieces[degree].append(theta)
            for degree in degrees:
                outs[degree][1].append(torch.cat(pieces[degree]))
        out = []
        for head, found, error in outs.values():
            # The normal equations give |t|^2 - theta.b; the penalty's share is taken out of it.
            error -= strength * float(head[1:].square().sum())
            out.append(LevelSolution(torch.cat([head.flatten(), *(t.flatten() for t in found)]), error, strength))
        return out

    def _parts(self, theta: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``(1 + N, T)`` of intercept and linear features, and ``(g, F)`` of every block, from how they are stored."""
        size = len(self.moments_.mean)
        head, rest = theta[: (1 + size) * size].reshape(1 + size, size), theta[(1 + size) * size :]
        for degree in range(1, int(self.moments_.degree) + 1):
            sizes = [len(b.targets) * b.count(degree) for b in self.blocks_]
            if sum(sizes) == len(rest):
                break
        return head, [t.reshape(len(b.targets), -1) for b, t in zip(self.blocks_, rest.split(sizes))]

    def _excess(self, solution: LevelSolution, level: LevelCoordinates, sums: OwnSums, moments: LinearMoments) -> float:
        """``E|D - x|^2 - E|x|^2`` about the fitted mean, summed over pixels, from the sums of a pass."""
        head, found = self._parts(solution.theta)
        noisy, read = self._noisy_cross(level, sums), self._targets @ level.unwhiten
        gram = sums.head.clone()
        gram[1:, 1:] += torch.diag(level.noise)
        total = float((head * (gram @ head - 2.0 * sums.head[:, 1:] @ read.T)).sum())
        for which, (block, theta) in enumerate(zip(self.blocks_, found)):
            size = theta.shape[1]
            for part in block.chunks(len(noisy)) if size else ():
                numbers = torch.as_tensor(block.numbers[part, :size], device=noisy.device)
                targets = torch.as_tensor(block.targets[part], device=noisy.device)
                near, mine = noisy[:, numbers], theta[part]
                own = self._noisy_block(level, sums, which, part)[:, :size, :size]
                rhs = (read[targets][:, None] @ sums.cross[:, numbers].permute(1, 0, 2))[:, 0]
                both = torch.einsum("hg,hgf->gf", head[:, targets], near)
                total += float((mine * ((own @ mine[:, :, None])[:, :, 0] + 2.0 * both - 2.0 * rhs)).sum())
        return total

    # ----- use -----------------------------------------------------------------------------------------------------------

    def _places(self, found: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Monomial and target of every entry of the blocks' weights ``(g, F)``, one after the other."""
        first = 1 + self.monomials_.variables
        rows = [b.numbers[:, : t.shape[1]] + first for b, t in zip(self.blocks_, found)]
        columns = [np.broadcast_to(b.targets[:, None], r.shape) for b, r in zip(self.blocks_, rows)]
        return np.concatenate([r.ravel() for r in rows]), np.concatenate([c.ravel() for c in columns])

    def _by_monomial(self, found: Sequence[Tensor], size: int) -> sp.csr_matrix:
        """The blocks' weights as a sparse ``(size, T)``: monomials by targets."""
        values = torch.cat([t.flatten() for t in found]).double().cpu().numpy()
        return sp.csr_matrix((values, self._places(found)), shape=(size, len(self.moments_.mean)))

    def own_readout(self, noise: NoiseLevel | float, degree: int, like: Tensor) -> OwnReadout:
        """The readout in plain monomials, in the type and on the device of a tensor; kept."""
        solution, key = self.solve(noise, degree), self._key(noise, degree)
        dtype, device = like.dtype, like.device

        def make() -> OwnReadout:
            kind = torch.empty(0, dtype=dtype, device=device)
            level, mean, letters = self.coordinates_at(key[0]), self.moments_.mean, self.monomials_.variables
            head, found = self._parts(solution.theta)
            size = self.monomials_.count(degree)
            row, column = self._places(found)
            wick = self._by_monomial(found, size)
            unit = level.unit_covariance.cpu().numpy()
            # Columns of the inverse Wick map: theta . :phi: = theta . M^-1 phi; a target's monomials are closed under it.
            plain = (wick_map(self.monomials_, level.sigma, unit, size, sign=-1.0).T @ wick).tocsr()
            straight = level.whiten.T @ head[1:] + level.letters.T @ torch.from_numpy(plain[1 : 1 + letters].toarray()).to(mean)
            constant = self._targets @ mean + head[0] + torch.from_numpy(plain[0].toarray()[0]).to(mean)
            every = sp.csr_matrix(plain[row, column]).toarray()[0] if len(row) else np.zeros(0)
            parts = torch.from_numpy(every).to(kind).split([t.numel() for t in found])
            weights = tuple(part.reshape(t.shape) for part, t in zip(parts, found))
            return OwnReadout(mean.to(kind), constant.to(kind), straight.to(kind), level.letters.T.to(kind), weights)

        return self.kept(("plain", key, like.dtype, like.device), make, lambda made: made.nbytes)

    def at_degrees(self, y: Tensor, noise: NoiseLevel, degrees: Sequence[int]) -> Tensor:
        like = y.detach().new_zeros(0)
        readouts = [self.own_readout(noise, degree, like) for degree in degrees]
        centred = y.flatten(1) / noise.alpha - readouts[0].mean
        features = self.monomials_.features(centred @ readouts[0].letters, self.monomials_.count(max(degrees)))
        features = features[1 + self.monomials_.variables :]
        order = torch.as_tensor(np.argsort(np.concatenate([b.targets for b in self.blocks_])), device=y.device)
        out = []
        for readout in readouts:
            parts = []
            for block, weights in zip(self.blocks_, readout.weights):
                for part in block.chunks(len(y)):
                    mine = weights[part]
                    if mine.shape[1]:
                        own = features[torch.as_tensor(block.numbers[part, : mine.shape[1]], device=y.device)]
                        parts.append((mine[:, None] @ own)[:, 0])
                    else:
                        parts.append(centred.new_zeros(len(mine), len(y)))
            values = readout.constant + centred @ readout.linear + torch.cat(parts).index_select(0, order).T
            if self.coordinates == "wavelet":
                values = self.moments_.transform.inverse(values.reshape(len(y), self.moments_.channels, -1))
            out.append(values.reshape(y.shape))
        return torch.stack(out)

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy`` in closed form.

        Target T is a direction of the image, so the trace takes its derivative along that direction only: of its linear part,
        and of each of its monomials by every letter, times what the letter changes by along T.
        """
        degree, letters = int(self.degree), self.monomials_.variables
        size, readout = self.monomials_.count(degree), self.own_readout(noise, degree, y.detach().new_zeros(0))

        def make() -> Tensor:
            targets = self._targets.to(readout.mean)
            along = (targets @ readout.letters).T.double().cpu().numpy()  # (q, T)
            weights, step = self._by_monomial(readout.weights, size), max(1, CHUNK_BYTES // (8 * len(targets)))

            def weight(monomial: np.ndarray, letter: np.ndarray) -> np.ndarray:
                runs = [slice(start, start + step) for start in range(0, len(monomial), step)]
                parts = [np.asarray(weights[monomial[run]].multiply(along[letter[run]]).sum(1)).ravel() for run in runs]
                return np.concatenate([*parts, np.zeros(0)])

            coefficients = torch.from_numpy(self.monomials_.derivative_sum(weight, 1 + letters, size)).double()
            coefficients[0] += float((targets * readout.linear.T).sum())
            return coefficients

        key = ("trace", self._key(noise, degree), y.dtype, y.device)
        coefficients = self.kept(key, make, lambda made: made.nbytes)
        features = self.monomials_.features((y.flatten(1) / noise.alpha - readout.mean) @ readout.letters, size)
        return (coefficients.to(y) @ features) / noise.alpha
