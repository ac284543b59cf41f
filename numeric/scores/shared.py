"""The ``shared`` readout: one feature vector of all coefficients, a dense ridge to all outputs (Sec. 3, App. C).

This is the paper's code, with the noise integrated exactly instead of sampled.  Clean data enter through one matrix,
``S = E[B B^T]`` over all monomials.  At any noise level the noisy Gram follows from Wick's theorem: contracting noise
inside each factor gives ``Z = T S T^T`` with a sparse T, and contracting across the two factors adds
``sum_kappa s^(2|kappa|) / kappa! (d^kappa alpha)(d^kappa beta) Z``, non-zero only where two monomials share variables.

In an over-complete basis the coefficients' noise is correlated, with covariance ``K = W W^T``.  Any two letters may then
contract: inside a factor every pairing of letters weighs ``prod K_ij``, and across the factors
``sum_{kappa, lambda} s^(2m) perm(K[kappa, lambda]) / (kappa! lambda!) (d^kappa alpha)(d^lambda beta) Z`` with
``m = |kappa| = |lambda|`` and the permanent of a small block of K.  At ``K = I`` this is the sum above.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations
from math import comb, factorial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg.blas import dger, dsymm, dsyrk
from scipy.linalg.lapack import dpotrf, dpotrs
from sklearn.base import BaseEstimator
from torch import Tensor

from numeric.data import as_image_set
from numeric.denoiser import Denoiser, NotFittedError, check_images
from numeric.memory import free_memory
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.results import load_tensors, save_tensors
from numeric.scores.families import Family, FamilyError, closure
from numeric.scores.own import WaveletScore
from numeric.scores.solve import BASES, GCV_GRID, Ridge, SingularGramError, gcv_scores, hermite_coefficients
from numeric.wavelets import WaveletTransform


def shared_monomials(family: Family, transform: WaveletTransform, degree: int, channels: int = 1) -> np.ndarray:
    """All distinct monomials of a family as sorted variable multisets, ``(P, degree)``, padded with -1 in front.

    ``w3^2 w5`` at degree 4 is ``(-1, 3, 3, 5)``.  Sorted by degree; the first row is the intercept.
    """
    rows = []
    for block in family.blocks(transform, channels):
        for exponents in closure(block.pattern, block.variables.shape[1], degree):
            positions = np.repeat(np.arange(len(exponents)), exponents)
            part = np.full((len(block.variables), degree), -1, dtype=np.int64)
            if len(positions):
                part[:, degree - len(positions) :] = np.sort(block.variables[:, positions], axis=1)
            rows.append(part)
    unique = np.unique(np.concatenate(rows), axis=0)
    order = np.lexsort((*unique.T[::-1], (unique >= 0).sum(axis=1)))
    return unique[order]


class _Index:
    """Look-up of multisets by hashing rows to bytes."""

    def __init__(self, rows: np.ndarray) -> None:
        self.table = {row.tobytes(): i for i, row in enumerate(rows)}

    def __call__(self, row: Sequence[int], width: int) -> int:
        full = np.full(width, -1, dtype=np.int64)
        if len(row):
            full[width - len(row) :] = row
        return self.table[full.tobytes()]


@dataclass(frozen=True)
class _Divisors:
    """For every contraction kappa: the monomials that hold it, what is left of them, and falling factorials."""

    kappa_degree: np.ndarray
    kappa_factorial: np.ndarray
    rows: list[np.ndarray]
    left: list[np.ndarray]
    falling: list[np.ndarray]


@dataclass(frozen=True)
class _Incidences:
    """All ways to take ``order`` letters out of a monomial: which letters, what is left, the weight falling / kappa!."""

    kappas: np.ndarray  # (kinds, order) the distinct letters taken
    kappa: np.ndarray  # (incidences,) which of them
    monomial: np.ndarray  # (incidences,)
    left: np.ndarray  # (incidences,)
    weight: np.ndarray  # (incidences,)


CROSS_LIMIT = 2 * 10**9
"""Most pairs of incidences (each some flops) that the correlated noise integration takes on: about a minute."""
CROSS_BYTES = 2**27
"""Working memory of one step of it, and of other steps over blocks of rows."""
KEPT_BYTES = 2**30
"""Readouts of earlier noise levels and degrees that are kept for the next call."""


def permanents(k: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``perm(k[rows_i, columns_j])`` for all pairs of index lists ``(r, m)`` and ``(c, m)``, ``(r, c)``."""
    out = np.zeros((len(rows), len(columns)))
    for order in permutations(range(columns.shape[1])):
        term = np.ones_like(out)
        for place, other in enumerate(order):
            term *= k[rows[:, place][:, None], columns[:, other][None, :]]
        out += term
    return out


def pairings(letters: Sequence[int]) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """Every partial pairing of a word's letters: (pairs, letters left), the empty one included."""
    if not letters:
        return [([], [])]
    first, rest = letters[0], list(letters[1:])
    out = [(pairs, [first, *left]) for pairs, left in pairings(rest)]
    for i, other in enumerate(rest):
        out += [([(first, other), *pairs], left) for pairs, left in pairings(rest[:i] + rest[i + 1 :])]
    return out


def features(u: Tensor, rows: np.ndarray) -> Tensor:
    """Monomials ``(P, n)``, one for each of ``rows``, of centred coefficients ``(n, channels * n_coefficients)``."""
    padded = torch.cat([u.T, u.new_ones(1, len(u))])  # index -1 is the constant 1
    index = torch.as_tensor(rows, device=u.device)
    out = padded[index[:, -1]]
    for position in range(rows.shape[1] - 2, -1, -1):
        used = torch.nonzero(index[:, position] >= 0).squeeze(1)
        if len(used):
            out[used] *= padded[index[used, position]]
    return out


def add_gram(gram: Tensor, phi: Tensor) -> None:
    """``gram += phi phi^T``; on a CPU only the triangle on and below the diagonal (half of the work)."""
    if gram.device.type != "cpu":
        gram.addmm_(phi, phi.T)
        return
    # BLAS counts columns first: what it takes for the upper triangle of the transpose is our lower one.
    dsyrk(1.0, phi.numpy().T, beta=1.0, c=gram.numpy().T, trans=1, lower=0, overwrite_c=1)


def mirror(matrix: np.ndarray, step: int = 1024) -> None:
    """Copy the triangle below the diagonal to the one above, in place."""
    for start in range(0, len(matrix), step):
        stop = start + step
        corner = np.tril(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = corner + np.tril(corner, -1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T


def conjugate(t: sp.csr_matrix, matrix: np.ndarray) -> np.ndarray:
    """``t M t^T`` in place of the symmetric M, for a lower triangular sparse t.

    Row i of ``t M`` reads rows up to i only, so rows are replaced from the last to the first and no second matrix is
    held.  All maps of this module are of that kind: they write a monomial by monomials of lower degree and itself.
    """
    size = len(matrix)
    step = max(1, CROSS_BYTES // (2 * 8 * size))
    for stop in range(size, 0, -step):
        rows = slice(max(0, stop - step), stop)
        matrix[rows] = (t @ np.ascontiguousarray((t[rows] @ matrix).T)).T
    return matrix


class SharedWaveletScore(Denoiser, BaseEstimator):
    """Wavelet score with the ``shared`` readout: every pixel reads all features.  Degree 1 *is* the linear denoiser.

    Args: as :class:`numeric.scores.own.WaveletScore`; ``ridge="gcv"`` chooses one lambda per noise level (all outputs share
        one system). Every ``mode`` of the transform can be had; in over-complete ones the noise is correlated and its
        exact integration costs the square of the number of ways to take letters out of monomials, which is realistic at
        small sizes and degrees up to 3 (8 x 8 and 16 x 16). It refuses what would take too long.
        ``device`` is that of the dense work: the products of the pass and the solves. The noise integration between them
        is sparse index work and runs on the CPU.

    Memory is ``2 P^2 + 3 P n`` float64 for P features and n coefficients: the clean Gram matrix and a noisy one, which is
    made, scaled and factored in place (independent, degree 3: P = 3,073 and 0.3 GiB at 32 x 32, P = 12,289 and 3.7 GiB at
    64 x 64).  ``ridge="gcv"`` holds about ``8 P^2``.
    """

    readout = "shared"

    def __init__(
        self,
        family: str = "independent",
        degree: int = 3,
        radius: int = 1,
        interactions: str = "pairwise",
        channels_coupled: bool = False,
        wavelet: str = "db2",
        levels: int | None = None,
        basis: str = "monomial",
        ridge: float | str = 1e-6,
        ridge_side: str = "denoiser",
        ridge_scaling: str = "unit",
        mode: str = "periodization",
        device: str = "cpu",
    ) -> None:
        self.family, self.degree, self.radius, self.interactions = family, degree, radius, interactions
        self.channels_coupled, self.wavelet, self.levels = channels_coupled, wavelet, levels
        self.basis, self.ridge, self.ridge_side, self.ridge_scaling = basis, ridge, ridge_side, ridge_scaling
        self.mode, self.device = mode, device

    @property
    def _family(self) -> Family:
        return Family(self.family, self.radius, self.interactions, self.channels_coupled)

    @property
    def label(self) -> str:
        return f"{self._family.label}, shared readout"

    # ----- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, images: Any, y: None = None, *, batch_size: int = 1000, progress: bool = False) -> SharedWaveletScore:
        """One streaming pass over clean images accumulates ``S`` (BLAS-3, float64)."""
        if self.basis not in BASES:
            raise ValueError(f"unknown basis {self.basis!r}: use 'monomial' or 'hermite'")
        data = as_image_set(images)
        channels = data.shape[0]
        transform = WaveletTransform(data.shape[1:], self.wavelet, self.levels, self.mode)
        family = self._family
        rows = shared_monomials(family, transform, self.degree, channels)
        # Clean and noisy Gram, and beside them solution, cross moments and one copy; cross-validation holds more.
        squares = 8 if isinstance(self.ridge, str) else 2
        needed = 8 * (squares * len(rows) ** 2 + 3 * len(rows) * channels * transform.n_coefficients)
        free = free_memory()
        if free is not None and needed > free:
            raise MemoryError(
                f"{len(rows):,} shared features need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: "
                "use a lower degree, a smaller family or the 'own' readout"
            )
        if not transform.is_orthonormal:
            ways = self._incidence_counts(rows)
            if sum(n * n for n in ways) > CROSS_LIMIT:
                raise MemoryError(
                    f"{len(rows):,} shared features in the over-complete basis {transform} have {max(ways):,} contractions; "
                    "integrating correlated noise over all pairs of them would take too long: use smaller images, a lower "
                    "degree, mode='periodization' or the 'own' readout"
                )
        n_coefficients = channels * transform.n_coefficients
        centre = torch.zeros(n_coefficients, dtype=torch.float64, device=self.device)
        with progress_bar(2 * len(data), f"shared moments {family.label}", progress) as bar:
            for batch in data.batches(batch_size):
                centre += transform.forward(batch.to(self.device, torch.float64)).flatten(1).sum(0)
                bar.update(len(batch))
            centre /= len(data)
            gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=self.device)
            # Bound the feature matrix of a batch as well as the batch of images.
            step = max(1, min(batch_size, CROSS_BYTES // (8 * len(rows))))
            for batch in data.batches(step):
                coefficients = transform.forward(batch.to(self.device, torch.float64)).flatten(1)
                add_gram(gram, features(coefficients - centre, rows))
                bar.update(len(batch))
        array = gram.div_(len(data)).cpu().numpy()
        if gram.device.type == "cpu":
            mirror(array)
        return self._use(transform, channels, rows, array, centre.cpu().numpy(), len(data))

    def _use(
        self, transform: WaveletTransform, channels: int, rows: np.ndarray, gram: np.ndarray, mean: np.ndarray, count: int
    ) -> SharedWaveletScore:
        """Take moments: of ``count`` images about their mean, as made by :meth:`fit` or read from a file."""
        self.transform_, self.channels_, self.monomials_ = transform, channels, rows
        self.gram_, self.mean_, self.n_images_ = gram, mean, count
        self._divisors: _Divisors | None = None
        self._solutions: dict[Any, tuple[Tensor, Tensor, float]] = {}
        self._chosen: dict[Any, float] = {}
        self._taken: list[_Incidences] | None = None
        covariance = transform.noise_covariance
        self._covariance = None if covariance is None else np.kron(np.eye(channels), covariance)
        return self

    def merge(self, other: SharedWaveletScore) -> SharedWaveletScore:
        """The estimator of both sets of images together: moments are moved to the common mean and added.

        Raises:
            ValueError: the two were made with other settings, or for images of another shape.
        """
        self._check_fitted()
        other._check_fitted()
        mine, theirs = (
            {**m.get_params(), "device": None, "channels": m.channels_, "shape": m.transform_.shape} for m in (self, other)
        )
        if mine != theirs:
            different = ", ".join(f"{k} {mine[k]} and {theirs[k]}" for k in mine if mine[k] != theirs[k])
            raise ValueError(f"cannot merge moments of different settings: {different}")
        count = self.n_images_ + other.n_images_
        mean = (self.n_images_ * self.mean_ + other.n_images_ * other.mean_) / count
        gram = self._gram_about(mean)
        gram *= self.n_images_ / count
        moved = other._gram_about(mean)
        moved *= other.n_images_ / count
        gram += moved
        merged = type(self)(**self.get_params())
        return merged._use(self.transform_, self.channels_, self.monomials_, gram, mean, count)

    def _gram_about(self, mean: np.ndarray) -> np.ndarray:
        """The clean Gram matrix of monomials centred elsewhere: the binomial theorem in every variable."""
        return conjugate(self._translation(self.mean_ - mean, len(self.monomials_)), self.gram_.copy())

    def _translation(self, shift: np.ndarray, size: int) -> sp.csr_matrix:
        """The sparse map with ``phi(u + shift) = T phi(u)``."""

        def rule(variable: int, power: int) -> list[tuple[int, float]]:
            return [(k, comb(power, k) * shift[variable] ** (power - k)) for k in range(power + 1)]

        return self._expansion(size, rule)

    def save(self, path: str | Path) -> None:
        """Write settings and moments (safetensors with JSON metadata), atomically; ``8 P^2`` bytes."""
        self._check_fitted()
        record = {
            "shared": self.get_params(),
            "shape": [self.channels_, *self.transform_.shape],
            "images": self.n_images_,
        }
        tensors = {"gram": torch.from_numpy(self.gram_), "mean": torch.from_numpy(self.mean_)}
        save_tensors(path, tensors, {key: json.dumps(value) for key, value in record.items()})

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> SharedWaveletScore:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file is truncated or holds something else.
        """
        tensors, metadata = load_tensors(path)
        if "shared" not in metadata:
            raise ValueError(f"{path} is not a file of the shared readout: WaveletScore.load reads those of the own readout")
        out = cls(**{**json.loads(metadata["shared"]), "device": device})
        channels, height, width = json.loads(metadata["shape"])
        transform = WaveletTransform((height, width), out.wavelet, out.levels, out.mode)
        rows = shared_monomials(out._family, transform, out.degree, channels)
        gram, mean = tensors["gram"].numpy(), tensors["mean"].numpy()
        return out._use(transform, channels, rows, gram, mean, json.loads(metadata["images"]))

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float64, device=self.device)

    def _check_fitted(self) -> None:
        if not hasattr(self, "gram_"):
            raise NotFittedError("this SharedWaveletScore has seen no images: call fit(images) first")

    def _features(self, u: Tensor, count: int | None = None) -> Tensor:
        """The first ``count`` monomials (all) of centred coefficients, ``(count, n)``."""
        return features(u, self.monomials_ if count is None else self.monomials_[:count])

    def count(self, degree: int) -> int:
        """Number of features up to a degree (they are sorted by degree)."""
        if not 1 <= degree <= self.degree:
            raise FamilyError(f"degree must lie in 1..{self.degree} (the fitted degree), got {degree}")
        return int(((self.monomials_ >= 0).sum(axis=1) <= degree).sum())

    # ----- exact noise integration -------------------------------------------------------------------------------------

    def _expansion(self, size: int, rules: Any) -> sp.csr_matrix:
        """Sparse matrix that rewrites every monomial through one-variable rules ``(variable, power) -> {power: factor}``."""
        index, width = _Index(self.monomials_), self.monomials_.shape[1]
        i, j, value = [], [], []
        for row_number, row in enumerate(self.monomials_[:size]):
            variables, powers = np.unique(row[row >= 0], return_counts=True)
            terms: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
            for variable, power in zip(variables.tolist(), powers.tolist()):
                terms = [
                    (left + (variable,) * new, factor * extra)
                    for left, factor in terms
                    for new, extra in rules(variable, power)
                ]
            for left, factor in terms:
                i.append(row_number)
                j.append(index(left, width))
                value.append(factor)
        return sp.csr_matrix((value, (i, j)), shape=(size, size))

    def _make_divisors(self) -> _Divisors:
        index, width = _Index(self.monomials_), self.monomials_.shape[1]
        found: dict[int, list[tuple[int, int, float]]] = defaultdict(list)
        for number, row in enumerate(self.monomials_):
            letters = row[row >= 0].tolist()
            seen = set()
            for size in range(1, len(letters) + 1):
                for chosen in combinations(range(len(letters)), size):
                    kappa = tuple(letters[k] for k in chosen)
                    if kappa in seen:
                        continue
                    seen.add(kappa)
                    left = [letters[k] for k in range(len(letters)) if k not in chosen]
                    falling = 1.0
                    for variable in set(kappa):
                        power, taken = letters.count(variable), kappa.count(variable)
                        falling *= factorial(power) / factorial(power - taken)
                    found[index(kappa, width)].append((number, index(left, width), falling))
        keys = sorted(found)
        degrees = (self.monomials_[keys] >= 0).sum(axis=1)
        factorials = np.array(
            [
                np.prod([factorial(c) for c in np.unique(r[r >= 0], return_counts=True)[1]])
                for r in self.monomials_[keys]
            ]
        )
        columns = [list(zip(*found[key])) for key in keys]
        return _Divisors(
            degrees,
            factorials,
            [np.array(c[0]) for c in columns],
            [np.array(c[1]) for c in columns],
            [np.array(c[2]) for c in columns],
        )

    @staticmethod
    def _incidence_counts(rows: np.ndarray) -> list[int]:
        """Bound on the ways to take 1, 2, ... letters out of all monomials."""
        letters = (rows >= 0).sum(axis=1)
        return [int(sum(comb(int(n), m) for n in letters)) for m in range(1, rows.shape[1] + 1)]

    def _incidences(self) -> list[_Incidences]:
        """The ways to take 1, 2, ... letters out of every monomial."""
        index, width = _Index(self.monomials_), self.monomials_.shape[1]
        out = []
        for order in range(1, width + 1):
            kinds: dict[tuple[int, ...], int] = {}
            columns: list[tuple[int, int, int, float]] = []
            for number, row in enumerate(self.monomials_):
                letters = row[row >= 0].tolist()
                ways: dict[tuple[int, ...], int] = defaultdict(int)
                for chosen in combinations(letters, order):
                    ways[chosen] += 1  # the number of ways is falling / kappa!
                for kappa, weight in ways.items():
                    left = list(letters)
                    for letter in kappa:
                        left.remove(letter)
                    columns.append((kinds.setdefault(kappa, len(kinds)), number, index(left, width), float(weight)))
            table = np.array(columns)
            taken, monomial, rest = table[:, :3].T.astype(np.int64)
            out.append(_Incidences(np.array(list(kinds)), taken, monomial, rest, table[:, 3]))
        return out

    def _correlated_transfer(self, noise: NoiseLevel, size: int) -> sp.csr_matrix:
        """The sparse T with ``E_z phi = T (clean monomials)``: all pairings of a word's letters, weighed by ``s^2 K``."""
        a, s, k = noise.alpha, noise.sigma, self._covariance
        assert k is not None
        index, width = _Index(self.monomials_), self.monomials_.shape[1]
        i, j, value = [], [], []
        for number, row in enumerate(self.monomials_[:size]):
            for pairs, left in pairings(row[row >= 0].tolist()):
                i.append(number)
                j.append(index(left, width))
                value.append(a ** len(left) * float(np.prod([s * s * k[p] for p in pairs])))
        return sp.csr_matrix((value, (i, j)), shape=(size, size))  # entries of one place are summed

    def _correlated_gram(self, noise: NoiseLevel, size: int, transfer: sp.csr_matrix | None = None) -> np.ndarray:
        """Exact ``E[phi phi^T]`` with noise of covariance ``s^2 K``: all pairings inside, permanents across."""
        s, k = noise.sigma, self._covariance
        assert k is not None
        transfer = self._correlated_transfer(noise, size) if transfer is None else transfer
        z = conjugate(transfer, self.gram_[:size, :size].copy())
        out = z.copy()
        if self._taken is None:
            self._taken = self._incidences()
        for order, taken in enumerate(self._taken, start=1):
            keep = np.flatnonzero(taken.monomial < size)
            if len(keep) == 0:
                continue
            kappa, rest = taken.kappa[keep], taken.left[keep]
            gather = sp.csr_matrix((taken.weight[keep], (taken.monomial[keep], np.arange(len(keep)))), (size, len(keep)))
            step = max(1, CROSS_BYTES // (8 * len(keep)))
            for start in range(0, len(keep), step):
                rows = slice(start, start + step)
                used, place = np.unique(kappa[rows], return_inverse=True)
                weight = permanents(k, taken.kappas[used], taken.kappas)
                block = weight[place][:, kappa] * z[np.ix_(rest[rows], rest)]
                out += s ** (2.0 * order) * (gather[:, rows] @ (gather @ block.T).T)
        return out

    def transfer(self, noise: NoiseLevel, size: int) -> sp.csr_matrix:
        """Sparse T, ``(P, P)``, with ``E_z phi(v) = T phi(u)``: the noise integrated inside each monomial."""
        if self._covariance is not None:
            return self._correlated_transfer(noise, size)
        a, s = noise.alpha, noise.sigma

        def contract(_: int, power: int) -> list[tuple[int, float]]:
            return [
                (
                    power - 2 * k,
                    factorial(power)
                    / (factorial(k) * factorial(power - 2 * k) * 2.0**k)
                    * s ** (2 * k)
                    * a ** (power - 2 * k),
                )
                for k in range(power // 2 + 1)
            ]

        return self._expansion(size, contract)

    def noisy_gram(self, noise: NoiseLevel, degree: int, transfer: sp.csr_matrix | None = None) -> np.ndarray:
        """Exact ``E[phi phi^T]`` of the noisy centred monomials, ``(P, P)``; noise variance integrated by Wick's theorem.

        Args:
            transfer: :meth:`transfer` of this noise level, if it has been made already.
        """
        s, size = noise.sigma, self.count(degree)
        if self._covariance is not None:
            return self._correlated_gram(noise, size, transfer)
        transfer = self.transfer(noise, size) if transfer is None else transfer
        out = conjugate(transfer, self.gram_[:size, :size].copy())  # Z, noise integrated inside
        if self._divisors is None:
            self._divisors = self._make_divisors()
        d = self._divisors
        degrees = (self.monomials_[:size] >= 0).sum(axis=1)
        # Across the two factors.  What is added to rows of one degree reads rows of lower ones, so from the highest
        # degree down the sum can be made in place.
        for row_degree in range(degree, 0, -1):
            for power, weight, rows, left, falling in zip(d.kappa_degree, d.kappa_factorial, d.rows, d.left, d.falling):
                keep = rows < size
                r, l, f = rows[keep], left[keep], falling[keep]
                mine = degrees[r] == row_degree
                if mine.any():
                    step = (s ** (2.0 * power) / weight) * np.outer(f[mine], f)
                    out[np.ix_(r[mine], r)] += step * out[np.ix_(l[mine], l)]
        return out

    def _feature_map(self, noise: NoiseLevel, size: int, sd: np.ndarray) -> sp.csr_matrix:
        """The requested basis in centred noisy monomials (sparse)."""
        if self.basis == "monomial":
            return self._translation(noise.alpha * self.mean_, size)
        he = hermite_coefficients(self.degree)

        def rule(variable: int, power: int) -> list[tuple[int, float]]:
            return [(k, he[power, k] / sd[variable] ** k) for k in range(power + 1) if he[power, k]]

        return self._expansion(size, rule)

    def solve(self, noise: NoiseLevel | float, degree: int | None = None) -> tuple[Tensor, Tensor, float]:
        """Readout ``(P, channels * n_coefficients)`` to clean coefficients, and the exact expected squared error.

        Returns ``(readout, feature_norm, expected_error)``; the readout acts on centred noisy monomials over the norm, and
        the error is summed over pixels. Pixel ridge equals wavelet ridge plus synthesis (equation (24), Lemma C.1).
        """
        self._check_fitted()
        level = as_noise(noise)
        degree = self.degree if degree is None else degree
        ridge = Ridge(self.ridge, self.ridge_side, self.ridge_scaling)
        key = (level, degree, self.basis, ridge)
        if key in self._solutions:
            return self._solutions[key]  # type: ignore[return-value]
        a, s, size, n = level.alpha, level.sigma, self.count(degree), len(self.mean_)
        transfer = self.transfer(level, size)
        gram = self.noisy_gram(level, degree, transfer)
        linear = slice(1, 1 + n)  # the degree-one monomials, in order of their variable
        scale = np.sqrt(gram.diagonal())
        sd = scale[linear]
        r = self._feature_map(level, size, sd)
        cross = (r @ transfer) @ self.gram_[:size, linear]  # E[(r phi) (w - c)], the noise integrated
        # Columns are contiguous and sums are made in place, as LAPACK wants it: then nothing as large is copied below.
        if ridge.side == "score":  # b from Stein's identity: E[phi v] = a E[phi w] - s^2 b
            rhs = np.asfortranarray(r @ gram[:, linear])
            rhs *= -1.0 / s**2
            rhs += (a / s**2) * cross
        else:
            rhs = dger(1.0, r @ gram[:, 0], self.mean_, a=np.array(cross, order="F"), overwrite_a=1)
        gram = conjugate(r, gram)
        norm = 1.0 / np.sqrt(gram.diagonal())
        gram *= norm[:, None]
        gram *= norm
        rhs *= norm[:, None]
        weight = np.ones(size) if ridge.scaling == "unit" else norm**2
        strength = ridge.strength
        if isinstance(strength, str):
            strength = self._cross_validated(ridge, level, gram, rhs, sp.csr_matrix(r @ transfer), norm, weight)
        self._chosen[level, degree] = strength
        theta = self._solve(gram, strength * weight, rhs)  # of features of unit second moment
        del rhs
        # From here on theta is that of D - c, the estimate less the mean: the error is taken about the mean.
        if ridge.side == "score":  # Tweedie: D = (v + s^2 theta.phi) / a, v from the linear features
            theta *= s**2 / a
            slope, shift = (sd, np.zeros(n)) if self.basis == "hermite" else (np.ones(n), a * self.mean_)
            theta[np.arange(1, 1 + n), np.arange(n)] += slope / (a * norm[linear])
            theta[0] -= shift / (a * norm[0])
        else:
            theta[0] -= self.mean_ / norm[0]
        cross *= norm[:, None]
        error = self._squared_error(theta, partial(dsymm, 1.0, gram.T, lower=0), cross)
        del gram, cross
        theta *= norm[:, None]
        readout = r.T @ theta
        readout[0] += self.mean_
        readout *= scale[:, None]
        solution = (torch.from_numpy(readout), torch.from_numpy(scale), error)
        while self._solutions and sum(kept[0].nbytes for kept in self._solutions.values()) > KEPT_BYTES - readout.nbytes:
            self._solutions.pop(next(iter(self._solutions)))
        self._solutions[key] = solution
        return solution

    def _cross_validated(
        self,
        ridge: Ridge,
        noise: NoiseLevel,
        gram: np.ndarray,
        rhs: np.ndarray,
        transfer: sp.csr_matrix,
        norm: np.ndarray,
        weight: np.ndarray,
    ) -> float:
        """Lambda by generalised cross-validation: one, because one system serves all outputs.

        Args:
            gram, rhs: of features of unit second moment; transfer: from clean monomials to the features averaged over
                the noise; norm: of the features; weight: penalty of each feature at lambda = 1.
        """
        root = 1.0 / np.sqrt(weight)  # weights are moved into the features
        if ridge.side == "denoiser":
            second = self._variance + (self.mean_**2).sum()
        else:  # of -z / s in the wavelet basis
            noisy = len(self.mean_) if self._covariance is None else np.trace(self._covariance)
            second = noisy / noise.sigma**2
        averaged = conjugate(transfer, self.gram_[: len(gram), : len(gram)].copy())
        scores = gcv_scores(
            self._on_device(gram * root[:, None] * root[None, :])[None],
            self._on_device(averaged * np.outer(norm * root, norm * root))[None],
            self._on_device(rhs * root[:, None])[None],
            self._on_device(np.array([second])),
            self.n_images_,
            "noise" if ridge.side == "score" else "image",
        )
        return float(GCV_GRID[int(scores[:, 0].argmin())])

    def _solve(self, gram: np.ndarray, penalty: np.ndarray, rhs: np.ndarray) -> np.ndarray:
        """``(G + diag(penalty))^-1 rhs`` by Cholesky, ``(P, outputs)``.

        On a CPU the factor takes the place of the triangle above G's diagonal (diagonal and lower triangle are kept), and
        the solution that of ``rhs``, whose columns must be contiguous.

        Raises:
            SingularGramError: not positive definite to float64.
        """
        diagonal, place = gram.diagonal().copy(), np.diag_indices(len(gram))
        gram[place] += penalty
        theta = np.empty(0)
        if torch.device(self.device).type == "cpu":
            factor, info = dpotrf(gram.T, lower=1, clean=0, overwrite_a=1)
            if info == 0:
                theta, _ = dpotrs(factor, rhs, lower=1, overwrite_b=1)
        else:
            there, flag = torch.linalg.cholesky_ex(self._on_device(gram))
            info = int(flag)
            if info == 0:
                theta = np.asfortranarray(torch.cholesky_solve(self._on_device(rhs), there).cpu().numpy())
        gram[place] = diagonal
        if info:
            raise SingularGramError(
                f"the shared Gram matrix of {len(gram):,} features is singular to float64: use a ridge > 0 (such as 1e-8)"
            )
        return theta

    @property
    def _variance(self) -> float:
        """Variance of the clean coefficients, summed."""
        return float(self.gram_.diagonal()[1 : 1 + len(self.mean_)].sum())

    def _squared_error(self, theta: np.ndarray, product: Callable[[np.ndarray], np.ndarray], cross: np.ndarray) -> float:
        """Exact expected squared error, summed over pixels, of ``D = c + theta.phi``.

        Args:
            theta: ``(P, channels * n_coefficients)``; product: multiplies some columns by ``E[phi phi^T]``; cross:
                ``E[phi (w - c)]``.
        """
        variance = self._variance
        if self._covariance is not None:  # errors of coefficients do not add up to the pixels': synthesise, x = W^+ w
            synthesis, n = self._synthesis(), len(self.mean_)
            theta, cross = theta @ synthesis, cross @ synthesis
            clean = self.gram_[1 : 1 + n, 1 : 1 + n]
            variance = np.einsum("ip,ij,jp->", synthesis, clean, synthesis, optimize=True)
        out, step = variance, max(1, CROSS_BYTES // (8 * len(theta)))
        for start in range(0, theta.shape[1], step):
            part, other = theta[:, start : start + step], cross[:, start : start + step]
            out += np.einsum("ij,ij->", part, product(part)) - 2.0 * np.einsum("ij,ij->", part, other)
        return float(out)

    def expected_mse_of(self, model: WaveletScore, noise: NoiseLevel | float, degree: int | None = None) -> float:
        """Exact expected MSE per pixel, before clamping, of an ``own`` readout, from these joint moments.

        In an over-complete basis overlapping coefficients make the error of a pixel together, so the moments of all of
        them are needed at once: those of this object, on the images it was fitted on (the model's or others).

        Args:
            model: a fitted estimator of the same transform whose features are among this one's.

        Raises:
            ValueError: another transform, other channels, or features that this object does not have.
        """
        self._check_fitted()
        solution, level = model.solve(noise, degree), as_noise(noise)
        if model.transform_.config != self.transform_.config or model.moments_.channels != self.channels_:
            raise ValueError(
                f"the joint moments are of {self.transform_} with {self.channels_} channel(s), the model is of "
                f"{model.transform_} with {model.moments_.channels}: fit both alike"
            )
        size, width = self.count(min(solution.degree, self.degree)), self.monomials_.shape[1]
        index, readout = _Index(self.monomials_), np.zeros((size, len(self.mean_)))
        for block, part in zip(model.moments_.blocks, solution.blocks):
            exponents = part.plan.basis[: part.denoiser.shape[1]]
            # h acts on ((v - centre) / scale)^alpha; here the scale moves into the coefficient.
            factors = part.denoiser.cpu().numpy() * np.exp(-(exponents @ np.log(part.scale.cpu().numpy())).T)
            places = [np.repeat(np.arange(exponents.shape[1]), row) for row in exponents]
            for variables, target, factor in zip(block.block.variables, block.block.targets, factors):
                for place, value in zip(places, factor):
                    try:
                        row = index(sorted(variables[place].tolist()), width)
                    except (KeyError, ValueError):
                        raise ValueError(
                            f"{model.label} has features that the joint moments lack ({self.label}, degree {self.degree}): "
                            "fit them with the model's family and degree"
                        ) from None
                    readout[row, target] += value
        # From the model's centre to this object's: v - a m = (v - a c) + a (c - m).
        shift = level.alpha * (self.mean_ - model.mean_.cpu().numpy())
        if np.any(shift != 0):
            readout = self._translation(shift, size).T @ readout
        readout[0] -= self.mean_  # D - c: the error is taken about the mean
        transfer = self.transfer(level, size)
        gram = self.noisy_gram(level, min(solution.degree, self.degree), transfer)
        cross = transfer @ self.gram_[:size, 1 : 1 + len(self.mean_)]
        return self._squared_error(readout, lambda part: gram @ part, cross) / self._pixels

    @property
    def _pixels(self) -> int:
        return self.channels_ * self.transform_.shape[0] * self.transform_.shape[1]

    def expected_mse(self, noise: NoiseLevel | float, degree: int | None = None) -> float:
        """Exact expected MSE per pixel on the fitted data, before clamping."""
        return self.solve(noise, degree)[2] / self._pixels

    def chosen_ridge(self, noise: NoiseLevel | float, degree: int | None = None) -> float:
        """The lambda used at a noise level, for ``ridge="gcv"`` the chosen one."""
        self.solve(noise, degree)
        return self._chosen[as_noise(noise), self.degree if degree is None else degree]

    def _synthesis(self) -> np.ndarray:
        """``(W^+)^T`` of all channels, ``(channels * n_coefficients, channels * pixels)``."""
        identity = torch.eye(self.transform_.n_coefficients, dtype=torch.float64)[:, None]
        return np.kron(np.eye(self.channels_), self.transform_.inverse(identity).flatten(1).numpy())

    # ----- use ---------------------------------------------------------------------------------------------------------

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        return self.estimate_degrees(y, noise, [self.degree])[0]

    def estimate_degrees(self, y: Tensor, noise: NoiseLevel | float, degrees: Sequence[int]) -> Tensor:
        """Unclamped estimates at several degrees, ``(len(degrees), n, channels, height, width)``."""
        check_images(y)
        self._check_fitted()
        level = as_noise(noise)
        v = self.transform_.forward(y).flatten(1) - torch.as_tensor(level.alpha * self.mean_).to(y)
        features = self._features(v, self.count(max(degrees)))
        out = []
        for degree in degrees:
            readout, scale, _ = self.solve(level, degree)
            phi = features[: len(scale)] / scale[:, None].to(y)
            out.append(self.transform_.inverse((phi.T @ readout.to(y)).reshape(len(y), self.channels_, -1)))
        return torch.stack(out)

    def denoise_degrees(
        self, y: Tensor, noise: NoiseLevel | float, degrees: Sequence[int], clamp: bool = True
    ) -> Tensor:
        """:meth:`denoise` at several degrees at once."""
        out = self.estimate_degrees(y, noise, degrees)
        return out.clamp_(0.0, 1.0) if clamp else out
