"""Exact noise integration of monomials by Wick's theorem, for white and for correlated noise.

A noisy coefficient is ``v = a u + z`` with clean u and Gaussian z of covariance ``s^2 K`` (``K = I`` in an orthonormal
basis).  To every monomial ``v^alpha`` belongs its *Wick-ordered* form ``:v^alpha:``, in which no two letters of the monomial
itself contract; in one variable ``:v^k: = s^k He_k(v / s)``.  These are the right coordinates, because

- averaged over the noise they are the clean monomials, ``E_z :v^alpha: = (a u)^alpha``, and
- in their Gram matrix letters contract across the two factors only::

    E[:v^alpha: :v^beta:] = sum_{kappa <= alpha, lambda <= beta, |kappa| = |lambda| = m}
                              s^(2m) C(alpha, kappa) C(beta, lambda) perm K[kappa, lambda]  S_{alpha - kappa, beta - lambda}

with the clean Gram ``S_{alpha beta} = a^(|alpha| + |beta|) E[u^alpha u^beta]`` and the permanent of a small block of K.  With
``K = I`` only ``kappa = lambda`` is left (weight ``kappa!``): a sparse correction of S.  Plain monomials are a sparse, lower
triangular map of the Wick-ordered ones (:func:`wick_map`), and so is a shift of the origin (:func:`translation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from itertools import pairwise, permutations
from math import factorial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from numeric.scores.monomials import MonomialSet, Takings

CROSS_LIMIT = 2 * 10**9
"""Most pairs of takings (each some flops) that the correlated noise integration takes on: about a minute."""
CROSS_BYTES = 2**27
"""Working memory of one step of it, and of other steps over blocks of rows."""


def permanents(k: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``perm(k[rows_i, columns_j])`` for all pairs of index lists ``(r, m)`` and ``(c, m)``, ``(r, c)``."""
    out = np.zeros((len(rows), len(columns)))
    for order in permutations(range(columns.shape[1])):
        term = np.ones_like(out)
        for place, other in enumerate(order):
            term *= k[rows[:, place][:, None], columns[:, other][None, :]]
        out += term
    return out


def pairings(count: int) -> Iterator[list[tuple[int, int]]]:
    """Every way to pair up ``count`` places, ``(count - 1)!!`` of them; none for an odd number."""
    if count == 0:
        yield []
    elif count % 2 == 0:
        for other in range(1, count):
            rest = [i for i in range(1, count) if i != other]
            for pairs in pairings(count - 2):
                yield [(0, other), *((rest[a], rest[b]) for a, b in pairs)]


def hafnians(k: np.ndarray | None, letters: np.ndarray) -> np.ndarray:
    """``E[z_l1 z_l2 ...]`` of zero-mean Gaussian letters ``(t, m)`` of covariance k (None: white), by Isserlis' theorem."""
    out = np.zeros(len(letters))
    for pairs in pairings(letters.shape[1]):
        term = np.ones(len(letters))
        for a, b in pairs:
            one, other = letters[:, a], letters[:, b]
            term *= (one == other) if k is None else k[one, other]
        out += term
    return out


def _matrix(takings: Takings, values: np.ndarray, size: int) -> sp.csr_matrix:
    return sp.csr_matrix((values, (takings.monomial, takings.left)), shape=(size, size))


def _leading(monomials: MonomialSet, size: int) -> Takings:
    takings = monomials.takings
    return takings.chosen(takings.monomial < size) if size < len(monomials) else takings


def translation(monomials: MonomialSet, shift: np.ndarray, size: int | None = None) -> sp.csr_matrix:
    """The sparse T with ``phi(u + shift) = T phi(u)`` on the first ``size`` monomials: the binomial theorem."""
    size = len(monomials) if size is None else size
    takings = _leading(monomials, size)
    padded = np.append(shift, 1.0)  # letter -1: a factor of 1
    return _matrix(takings, takings.ways * padded[takings.taken].prod(axis=1), size)


def wick_map(
    monomials: MonomialSet, sigma: float, covariance: np.ndarray | None = None, size: int | None = None, sign: float = 1.0
) -> sp.csr_matrix:
    """The sparse M with ``phi(v) = M :phi(v):``; with ``sign=-1`` its inverse, ``:phi: = M^-1 phi``.

    Taken letters contract among themselves in all pairings: ``sigma^2m E[prod of the letters]``.
    """
    size = len(monomials) if size is None else size
    takings = _leading(monomials, size)
    takings = takings.chosen(takings.order % 2 == 0)
    values = np.zeros(len(takings.ways))
    for order in range(0, monomials.degree + 1, 2):
        which = np.flatnonzero(takings.order == order)
        letters = takings.taken[which][:, monomials.degree - order :]
        weight = (sign * sigma**2) ** (order // 2)
        values[which] = takings.ways[which] * weight * hafnians(covariance, letters)
    return _matrix(takings, values, size)


def rescaled(monomials: MonomialSet, rules: np.ndarray, factors: np.ndarray, size: int) -> sp.csr_matrix:
    """A map made of one polynomial a power in every variable: ``w^p -> sum_k rules[p, k] factors[variable]^-k w^k``.

    Args:
        rules: lower triangular ``(degree + 1, degree + 1)``, such as the coefficients of Hermite polynomials.
        factors: ``(variables,)``.
    """
    takings = _leading(monomials, size)
    values = np.ones(len(takings.ways))
    rows, left = monomials.rows[takings.monomial], monomials.rows[takings.left]
    for place in range(monomials.degree):
        # Each variable once, where it stands last in the sorted row.
        letter = rows[:, place]
        here = letter >= 0
        if place + 1 < monomials.degree:
            here &= letter != rows[:, place + 1]
        power = (rows[here] == letter[here][:, None]).sum(1)
        kept = (left[here] == letter[here][:, None]).sum(1)
        values[here] *= rules[power, kept] / factors[letter[here]] ** kept
    return _matrix(takings, values, size)


class WhiteNoise:
    """The sparse correction that white noise makes to the Gram matrix of Wick-ordered monomials.

    The pairs that share letters are found once; a noise level then costs a few operations on each.
    """

    def __init__(self, monomials: MonomialSet) -> None:
        takings = monomials.takings.chosen(monomials.takings.order > 0)
        order = np.argsort(takings.kind, kind="stable")
        takings = takings.chosen(order)
        starts: np.ndarray = np.flatnonzero(np.diff(takings.kind, prepend=-1))
        sizes = np.diff(np.append(starts, len(takings.kind)))
        factorials = self.factorials(takings.taken[starts])
        row, column, source_row, source_column, weight, power = [], [], [], [], [], []
        for size in np.unique(sizes):  # all kinds that as many monomials hold, at once
            group = np.flatnonzero(sizes == size)
            members = starts[group][:, None] + np.arange(size)
            number, left, ways = takings.monomial[members], takings.left[members], takings.ways[members]
            i, j = np.indices((size, size)).reshape(2, -1)
            lower = number[:, i] >= number[:, j]
            row.append(number[:, i][lower])
            column.append(number[:, j][lower])
            source_row.append(left[:, i][lower])
            source_column.append(left[:, j][lower])
            weight.append((ways[:, i] * ways[:, j] * factorials[group][:, None])[lower])
            power.append(np.broadcast_to(takings.order[starts[group]][:, None], lower.shape)[lower])
        columns: list[np.ndarray] = [np.concatenate(parts) for parts in (row, column, source_row, source_column, weight, power)]
        by_power = np.argsort(columns[-1], kind="stable")
        # An entry of the Gram matrix and one contraction, lower triangle, sorted by the number of contracted letters.
        self.row, self.column, self.source_row, self.source_column, self.weight, self.power = (c[by_power] for c in columns)

    @staticmethod
    def factorials(letters: np.ndarray) -> np.ndarray:
        """``kappa!``, the product of the factorials of the multiplicities of the letters ``(t, width)``."""
        out, run = np.ones(len(letters)), np.ones(len(letters))
        for before, after in pairwise(letters.T):
            run = np.where((after == before) & (after >= 0), run + 1, 1)
            out *= run
        return out

    def add_to(self, gram: Tensor, clean: Tensor, alpha: float, sigma: float, degrees: np.ndarray) -> None:
        """``gram += (noise)`` on and below the diagonal of the leading block that ``gram`` is.

        Args:
            clean: the clean Gram matrix of the monomials of u, on and below the diagonal at least.
            degrees: of the monomials.
        """
        size, device = len(gram), gram.device
        keep = self.row < size
        high, low = np.maximum(self.source_row, self.source_column)[keep], np.minimum(self.source_row, self.source_column)[keep]
        scale = self.weight[keep] * sigma ** (2.0 * self.power[keep])
        scale = scale * alpha ** (degrees[high] + degrees[low]).astype(float)
        index = [torch.as_tensor(a, device=device) for a in (self.row[keep], self.column[keep], high, low)]
        values = clean[index[2], index[3]] * torch.as_tensor(scale, device=device)
        gram.index_put_((index[0], index[1]), values, accumulate=True)


def add_gathered_(out: np.ndarray, gather: sp.csr_matrix, block: Callable[[slice], np.ndarray], scale: float = 1.0) -> None:
    """``out += scale C B C^T`` for a sparse C, with B made some rows at a time (:data:`CROSS_BYTES` of them)."""
    count = gather.shape[1]
    step = max(1, CROSS_BYTES // (8 * max(1, count)))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        out += scale * (gather[:, rows] @ (gather @ block(rows).T).T)


class CorrelatedNoise:
    """The same for noise of covariance ``s^2 K``: every two letters may contract, so the correction is dense.

    Raises:
        MemoryError: from the constructor, if the work is unreasonable (:data:`CROSS_LIMIT`).
    """

    def __init__(self, monomials: MonomialSet, covariance: np.ndarray, what: str = "basis") -> None:
        self.covariance = covariance
        ways = incidence_counts(monomials.degrees)
        if sum(n * n for n in ways) > CROSS_LIMIT:
            raise MemoryError(
                f"{len(monomials):,} shared features in the {what} have {max(ways):,} contractions; "
                "integrating correlated noise over all pairs of them would take too long: use smaller images, a lower "
                "degree, mode='periodization' or the 'own' readout"
            )
        table = monomials.takings
        self.parts = [(m, table.chosen(table.order == m)) for m in range(1, monomials.degree + 1)]

    def adjoint(self) -> CorrelatedNoise:
        """The transpose of :meth:`add_to` (at alpha 1): ``<A, noise of S> = <adjoint's noise of A, S>``."""
        out = copy(self)
        out.parts = [(m, Takings(t.left, t.monomial, t.taken, t.kind, t.ways)) for m, t in self.parts]
        return out

    def add_to(self, gram: Tensor, clean: Tensor, alpha: float, sigma: float, degrees: np.ndarray) -> None:
        """``gram += (noise)`` on the whole leading block that ``gram`` is; ``clean`` must be whole."""
        size, s = len(gram), clean.cpu().numpy()
        out = gram.cpu().numpy()  # on a CPU this is the memory of ``gram`` itself
        for order, every in self.parts:
            part = every.chosen(every.monomial < size)
            if len(part.monomial) == 0:
                continue
            letters, place = np.unique(part.taken[:, -order:], axis=0, return_inverse=True)
            place = place.ravel()
            scale = alpha ** degrees[part.left].astype(float)
            t = np.arange(len(part.monomial))
            gather = sp.csr_matrix((part.ways * scale, (part.monomial, t)), (size, len(t)))

            def block(rows: slice, letters: Any = letters, place: Any = place, left: Any = part.left) -> np.ndarray:
                used, position = np.unique(place[rows], return_inverse=True)
                return permanents(self.covariance, letters[used], letters)[position.ravel()][:, place] * s[np.ix_(left[rows], left)]

            add_gathered_(out, gather, block, sigma ** (2.0 * order))
        if gram.device.type != "cpu":
            gram.copy_(torch.from_numpy(out))


def incidence_counts(degrees: np.ndarray) -> list[int]:
    """Bound on the ways to take 1, 2, ... letters out of all monomials."""

    def choose(n: int, m: int) -> int:
        return factorial(n) // (factorial(m) * factorial(n - m)) if m <= n else 0

    counts = np.bincount(degrees)
    return [sum(int(c) * choose(n, m) for n, c in enumerate(counts)) for m in range(1, len(counts))]


def conjugate(t: sp.csr_matrix, matrix: np.ndarray) -> np.ndarray:
    """``t M t^T`` in place of the symmetric (whole) M, for a lower triangular sparse t.

    Row i of ``t M`` reads rows up to i only, so rows are replaced from the last to the first and no second matrix is held.
    """
    size = len(matrix)
    step = max(1, CROSS_BYTES // (2 * 8 * size))
    for stop in range(size, 0, -step):
        rows = slice(max(0, stop - step), stop)
        matrix[rows] = (t @ np.ascontiguousarray((t[rows] @ matrix).T)).T
    return matrix
