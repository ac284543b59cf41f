"""Wick-ordered monomials of correlated letters, grouped by their exponents: the noise as elementwise powers of its covariance.

A group holds all monomials ``t_i^a t_j^b ...`` of one tuple of exponents ``(a, b, ...)``.  Between the monomials of two groups
letters contract in the same ways, one way for every small matrix ``k`` of whole numbers (``k_ij`` letters of variable i with
letters of variable j)::

    E[:u^alpha: :u^beta:] = sum_k  alpha! beta! / (prod_ij k_ij! (alpha - k 1)! (beta - 1 k)!)
                                   prod_ij (s^2 K_ij)^k_ij   E[t^(alpha - k 1) t^(beta - 1 k)]

so a block of the Gram matrix costs a few elementwise products of gathered blocks of K and of the clean Gram matrix.  With one
variable on each side this is ``sum_k k! C(a, k) C(b, k) (s^2 K_ij)^k E[t_i^(a - k) t_j^(b - k)]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import factorial, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.scores.monomials import MonomialSet, run_or_index

STEP = 512
"""Rows of a group handled at a time."""

Exponents = tuple[int, ...]


@lru_cache(maxsize=4096)
def contractions(alpha: Exponents, beta: Exponents) -> tuple[tuple[np.ndarray, float, Exponents, Exponents], ...]:
    """All ways in which at least one letter contracts: ``(k, weight, alpha - k 1, beta - 1 k)``."""
    out = []
    shape = (len(alpha), len(beta))
    for flat in product(*(range(min(a, b) + 1) for a in alpha for b in beta)):
        k = np.array(flat, dtype=int).reshape(shape)
        left, right = tuple((np.array(alpha) - k.sum(1)).tolist()), tuple((np.array(beta) - k.sum(0)).tolist())
        if not k.any() or min(left) < 0 or min(right) < 0:
            continue
        over = prod(factorial(n) for n in (*flat, *left, *right))
        out.append((k, prod(factorial(n) for n in (*alpha, *beta)) / over, left, right))
    return tuple(out)


def by_pattern(rows: np.ndarray) -> np.ndarray:
    """Monomials ``(P, degree)`` sorted by degree, then by exponents, so that a group is a run of rows."""
    degree = rows.shape[1]
    keys = []
    for row in rows:
        letters, counts = np.unique(row[row >= 0], return_counts=True)
        keys.append((int(counts.sum()), len(counts), *(-counts).tolist(), *[0] * (degree - len(counts)), *letters.tolist()))
    order = sorted(range(len(rows)), key=keys.__getitem__)
    return rows[order]


@dataclass(frozen=True)
class Group:
    """Monomials of one tuple of exponents, neighbours in the set.

    Attributes:
        exponents: of the variables, which stand in ascending order.
        variables: ``(m, r)``.
        start: number of the first in its :class:`~numeric.scores.monomials.MonomialSet`.
    """

    exponents: Exponents
    variables: np.ndarray
    start: int

    @property
    def degree(self) -> int:
        return sum(self.exponents)

    def __len__(self) -> int:
        return len(self.variables)


class Groups:
    """The nonlinear monomials of a set sorted by :func:`by_pattern`, in groups.

    Features are numbered as they are used: the intercept, ``linear`` linear features, then these monomials.

    Args:
        monomials: closed under division, sorted by :func:`by_pattern`.
        linear: how many linear features there are (they replace the letters, of which they are linear maps).
    """

    def __init__(self, monomials: MonomialSet, linear: int) -> None:
        self.monomials, self.linear = monomials, linear
        self.letters = monomials.variables
        self.groups: list[Group] = []
        self._parts: dict[tuple[int, Exponents], np.ndarray] = {}
        start, rows, degree = 1 + self.letters, monomials.rows, monomials.degree
        signatures = [tuple(np.unique(row[row >= 0], return_counts=True)[1].tolist()) for row in rows]
        while start < len(rows):
            stop = start
            while stop < len(rows) and signatures[stop] == signatures[start]:
                stop += 1
            places = np.cumsum(signatures[start]) + degree - sum(signatures[start]) - 1
            self.groups.append(Group(signatures[start], rows[start:stop][:, places], start))
            start = stop

    def __len__(self) -> int:
        return len(self.monomials) - self.letters + self.linear

    def feature(self, number: Any) -> Any:
        """Number (or array of numbers) among the features of a nonlinear monomial's number in the set."""
        return number - self.letters + self.linear

    def rows(self, group: Group) -> slice:
        """A group's features."""
        return slice(self.feature(group.start), self.feature(group.start) + len(group))

    def part(self, group: Group, exponents: Exponents) -> np.ndarray:
        """Numbers in the set of the divisors with these exponents of a group's monomials, ``(m,)``."""
        key = (group.start, exponents)
        if key not in self._parts:
            rows = np.full((len(group), self.monomials.degree), -1)
            columns = np.repeat(np.arange(len(exponents)), exponents)
            rows[:, : len(columns)] = group.variables[:, columns]
            self._parts[key] = self.monomials.index(rows)
        return self._parts[key]

    def pairs(self) -> Iterator[tuple[Group, Group]]:
        """Pairs of groups, the later one first, by descending total degree."""
        every = [(a, b) for place, a in enumerate(self.groups) for b in self.groups[: place + 1]]
        yield from sorted(every, key=lambda pair: -(pair[0].degree + pair[1].degree))


class FirstMoments:
    """Means of the letters ``(q,)`` and of all features ``(P,)``, by the numbers of the set."""

    def __init__(self, groups: Groups, of_letters: Tensor, of_features: Tensor) -> None:
        self.groups, self._letters, self._features = groups, of_letters, of_features

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """``E[t^alpha]``, ``(m,)``; ``(1,)`` for the constant. The numbers are all of one group, or all letters."""
        if numbers[0] == 0:
            return self._features.new_ones(1)
        if numbers[0] <= self.groups.letters:
            return self._letters[torch.as_tensor(numbers - 1, device=self._letters.device)]
        return self._features[torch.as_tensor(self.groups.feature(numbers), device=self._letters.device)]


class GramReader:
    """Reads moments of the set's monomials off a Gram matrix: whole letters from their own matrices, all else from its upper triangle.

    Args: as :func:`add_noise_`; of a clean Gram matrix ``E[t^alpha t^beta]``, of a noisy one ``E[:u^alpha: :u^beta:]``.
    """

    def __init__(self, groups: Groups, gram: Tensor, letters: Tensor) -> None:
        linear = 1 + groups.linear
        self.groups, self.gram = groups, gram
        self.with_letters = letters @ gram[1:linear]  # E[t_i phi]
        self.of_letters = self.with_letters[:, 1:linear] @ letters.T
        self.means = FirstMoments(groups, self.with_letters[:, 0], gram[0])

    def block(self, one: np.ndarray, other: np.ndarray) -> Tensor:
        """``E[t^alpha t^beta]`` for numbers ``(m,)`` and ``(n,)`` in the set, ``(m, n)`` or, with a constant, ``(1, n)``, ``(m, 1)``."""
        low, count = one[0], self.groups.letters
        if low > other[0]:
            return self.block(other, one).T
        if low == 0:
            return self.means(other)[None]
        if low > count:
            rows, columns = self.groups.feature(one), self.groups.feature(other)
            return self.gather(self.gram, rows, columns)
        if other[0] > count:
            return self.gather(self.with_letters, one - 1, self.groups.feature(other))
        return self.gather(self.of_letters, one - 1, other - 1)

    def with_linear(self, numbers: np.ndarray) -> Tensor:
        """``E[t^alpha e]`` for numbers in the set, ``(m, N)``, or ``(1, N)`` for the constant; reads below the diagonal too."""
        linear, matrix = slice(1, 1 + self.groups.linear), self.gram
        if numbers[0] == 0:
            return matrix[:1, linear]
        if numbers[0] <= self.groups.letters:
            matrix, numbers = self.with_letters, numbers - 1
        else:
            numbers = self.groups.feature(numbers)
        return matrix[run_or_index(numbers, matrix)][:, linear]

    @staticmethod
    def gather(matrix: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
        """``(m, n)`` of some rows and columns."""
        return matrix[run_or_index(rows, matrix)][:, run_or_index(columns, matrix)]


def add_noise_(gram: Tensor, groups: Groups, letters: Tensor, covariance: Tensor, cross: Tensor, linear: Tensor) -> Tensor:
    """From the clean Gram matrix to the noisy one of Wick-ordered monomials, in place, on and below the diagonal.

    The upper triangle stays clean until the diagonal blocks, which are reached last of all that is read: the groups are gone
    through by descending degree and only products of lower degree are read.

    Args:
        gram: ``(P, P)``, whole, clean: ``E[phi phi^T]`` of intercept, linear features and nonlinear monomials.
        letters: ``(q, N)``, the letters in linear features, ``t = letters e``.
        covariance, cross: ``s^2 K`` among letters ``(q, q)``, and of linear features with letters ``(N, q)``.
        linear: ``(N, N)`` or ``(N,)`` (its diagonal): what noise adds to the linear features' own block.
    """
    clean = GramReader(groups, gram, letters)
    for one, other in groups.pairs():
        ways = contractions(one.exponents, other.exponents)
        rows, first = groups.rows(one), groups.rows(other).start
        for start in range(0, len(one), STEP):
            part = slice(start, start + STEP)
            stop = min(start + STEP, len(one)) if one is other else len(other)  # of a group with itself the lower half is enough
            powers: dict[tuple[int, int, int], Tensor] = {}
            total: Tensor | None = None
            for k, weight, left, right in ways:
                term = clean.block(groups.part(one, left)[part], groups.part(other, right)[:stop]) * weight
                for i, j in zip(*np.nonzero(k)):
                    term = term * _power(powers, covariance, one.variables[part, i], other.variables[:stop, j], (i, j, int(k[i, j])))
                total = term if total is None else total.add_(term) if total.shape == term.shape else total + term
            assert total is not None  # two monomials of degree 2 or more have letters to contract
            gram[rows.start + start : min(rows.start + start + STEP, rows.stop), first : first + stop] += total
    size = 1 + groups.linear
    gram[size:, 1:size] += linear_noise(clean.means, groups, cross)
    gram[1:size, 1:size] += torch.diag(linear) if linear.ndim == 1 else linear
    return gram


def _power(
    kept: dict[tuple[int, int, int], Tensor], k: Tensor, rows: np.ndarray, columns: np.ndarray, key: tuple[int, int, int]
) -> Tensor:
    """``K_ij^p`` on gathered rows and columns, from the power below it."""
    i, j, p = key
    if key not in kept:
        one = GramReader.gather(k, rows, columns) if p == 1 else _power(kept, k, rows, columns, (i, j, 1))
        kept[key] = one if p == 1 else _power(kept, k, rows, columns, (i, j, p - 1)) * one
    return kept[key]


def linear_noise(means: FirstMoments, groups: Groups, cross: Tensor) -> Tensor:
    """What noise adds to ``E[:t^alpha: e]``: one letter contracts with the linear feature, ``(P - 1 - N, N)``."""
    out = []
    for group in groups.groups:
        total = cross.new_zeros(len(group), len(cross))
        for i, power in enumerate(group.exponents):
            left = tuple(p - (place == i) for place, p in enumerate(group.exponents))
            mean = means(groups.part(group, left))
            total += power * mean[:, None] * cross.T[torch.as_tensor(group.variables[:, i], device=cross.device)]
        out.append(total)
    return torch.cat(out) if out else cross.new_zeros(0, len(cross))
