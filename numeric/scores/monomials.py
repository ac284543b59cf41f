"""A set of monomials in many variables, closed under division: the features of the shared readout.

A monomial is a multiset of variables ("letters"): ``w3^2 w5`` holds the letters 3, 3, 5.  Everything that Gaussian noise or
a shift of the origin does to a monomial takes some of its letters out, so all of it is read off one table, the
:class:`Takings`: every way to take letters out of every monomial, what was taken and what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.derivatives import tracked
from numeric.scores.families import Family, FamilyError, closure
from numeric.wavelets import WaveletTransform


def run_or_index(numbers: np.ndarray, like: Tensor) -> slice | Tensor:
    """A slice where the numbers follow each other (then nothing is copied), else an index tensor on the device of ``like``."""
    if len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1 and bool((np.diff(numbers) == 1).all()):
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return torch.as_tensor(numbers, device=like.device)


@dataclass(frozen=True)
class Takings:
    """All ways to take letters out of monomials.

    Attributes:
        monomial, left: ``(t,)`` which monomial, and which one is left.
        taken: ``(t, width)`` the letters taken, sorted, -1 in front; as a monomial it is number ``kind``.
        kind: ``(t,)``.
        ways: ``(t,)`` number of ways, the product of the binomials ``C(power, taken)`` over the variables.
    """

    monomial: np.ndarray
    left: np.ndarray
    taken: np.ndarray
    kind: np.ndarray
    ways: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """``(t,)`` how many letters were taken."""
        return (self.taken >= 0).sum(1)

    def chosen(self, keep: np.ndarray) -> Takings:
        """Some of them (a mask or indices)."""
        return Takings(*(a[keep] for a in (self.monomial, self.left, self.taken, self.kind, self.ways)))


class MonomialSet:
    """Distinct monomials sorted by degree; the first is the intercept, then the variables in their order.

    Args:
        rows: ``(P, degree)`` sorted letters, padded with -1 in front; closed under division.
        variables: how many variables there are.
    """

    def __init__(self, rows: np.ndarray, variables: int) -> None:
        self.rows, self.variables = rows, variables
        self.degrees = (rows >= 0).sum(axis=1)
        self._there: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_there": {}}  # what lies on a device does not travel

    def _on(self, device: torch.device, name: str, make: Callable[[], Any]) -> Any:
        """An index that a device keeps, so that the batches of a pass do not send it again and again."""
        if (name, device) not in self._there:
            with torch.inference_mode(False):  # so that gradients can be taken later
                self._there[name, device] = make()
        return self._there[name, device]

    @classmethod
    def of_family(cls, family: Family, transform: WaveletTransform, degree: int, channels: int = 1) -> MonomialSet:
        """All distinct monomials of a family, and their divisors."""
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
        return cls(unique[order], channels * transform.n_coefficients)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def degree(self) -> int:
        return self.rows.shape[1]

    def count(self, degree: int) -> int:
        """Number of monomials up to a degree: they are the leading ones.

        Raises:
            FamilyError: the degree is not between 1 and the set's.
        """
        if not 1 <= degree <= self.degree:
            raise FamilyError(f"degree must lie in 1..{self.degree} (the fitted degree), got {degree}")
        return int((self.degrees <= degree).sum())

    def letters(self, number: int) -> list[int]:
        row = self.rows[number]
        return row[row >= 0].tolist()

    def features(self, u: Tensor, count: int | None = None) -> Tensor:
        """The first ``count`` monomials (all) of coefficients ``(n, variables)``, ``(count, n)``."""
        padded = torch.cat([u.T, u.new_ones(1, len(u))])  # index -1 is the constant 1
        count = len(self) if count is None else count
        index = self._on(u.device, "letters", lambda: torch.as_tensor(np.ascontiguousarray(self.rows.T), device=u.device))
        out = padded[index[-1, :count]]
        for position in range(self.degree - 2, -1, -1):
            # Sorted by degree: those that have a further letter are the last ones.
            first = int(np.searchsorted(self.degrees, self.degree - position))
            if first < count:
                more = padded[index[position, first:count]]
                if tracked(out):
                    out = torch.cat([out[:first], out[first:] * more])
                else:
                    out[first:] *= more
        return out

    @cached_property
    def _products(self) -> list[tuple[slice, bool, np.ndarray, np.ndarray]]:
        """Runs of monomials of degree 2 and more of the same exponents, counted from the first of them, with their factors.

        These are a letter and what is left without it: a letter too (True), or an earlier monomial of them.
        """
        first = 1 + self.variables
        if first == len(self):
            return []
        exponents = [tuple(np.unique(row[row >= 0], return_counts=True)[1].tolist()) for row in self.rows[first:]]
        starts = [i for i in range(len(exponents)) if i == 0 or exponents[i] != exponents[i - 1]]
        out = []
        for start, stop in zip(starts, [*starts[1:], len(exponents)]):
            rows, pair = self.rows[first + start : first + stop], sum(exponents[start]) == 2
            left = self.index(rows[:, :-1]) - (1 if pair else first)
            out.append((slice(start, stop), pair, left, rows[:, -1]))
        return out

    def products_(self, out: Tensor, letters: Tensor) -> Tensor:
        """The monomials of degree 2 and more of letters ``(variables, n)``, in place, ``(P - 1 - variables, n)``.

        Fast where monomials of the same exponents are neighbours (:func:`numeric.scores.patterns.by_pattern`).
        """
        def make() -> list[Any]:
            return [(rows, pair, run_or_index(left, out), run_or_index(last, out)) for rows, pair, left, last in self._products]

        for rows, pair, left, last in self._on(out.device, "products", make):
            torch.mul((letters if pair else out)[left], letters[last], out=out[rows])
        return out

    # ----- look-up and the table of takings ------------------------------------------------------------------------------

    @cached_property
    def _weights(self) -> np.ndarray:
        """A random odd 64-bit number a letter (0 for none): the key of a multiset is the sum over its letters."""
        weights = np.random.default_rng(0).integers(1, 2**62, size=self.variables + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        weights[-1] = 0
        return weights

    @cached_property
    def _sorted_keys(self) -> tuple[np.ndarray, np.ndarray]:
        keys = self._key(self.rows)
        order = np.argsort(keys)
        if len(np.unique(keys)) != len(keys):
            raise RuntimeError("keys of monomials collided; change the generator's seed")  # probability ~ P^2 / 2^64
        return keys[order], order

    def _key(self, rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return self._weights[rows].sum(axis=-1, dtype=np.uint64)

    def index(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of monomials given by their letters ``(..., width)``, in any order, -1 for no letter.

        Raises:
            KeyError: a monomial that is not in the set.
        """
        keys, order = self._sorted_keys
        wanted = self._key(rows)
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        if not np.array_equal(keys[place], wanted):
            raise KeyError("not every monomial is in the set")
        return order[place]

    @cached_property
    def takings(self) -> Takings:
        """Every way to take letters (none, some, all) out of every monomial."""
        monomial, left, taken = [], [], []
        for mask in product((False, True), repeat=self.degree):
            chosen = np.array(mask)
            usable = np.flatnonzero((self.rows[:, chosen] >= 0).all(axis=1))
            rows = self.rows[usable]
            out = np.where(chosen, rows, -1)
            out.sort(axis=1)
            rest = np.where(chosen, -1, rows)
            monomial.append(usable)
            taken.append(out)
            left.append(self.index(rest))
        number, rest_of, letters = np.concatenate(monomial), np.concatenate(left), np.concatenate(taken)
        # What is left says what was taken: equal pairs are the same letters taken in another way.
        pairs, first, ways = np.unique(number * len(self) + rest_of, return_index=True, return_counts=True)
        kept = letters[first]
        return Takings(pairs // len(self), pairs % len(self), kept, self.index(kept), ways.astype(float))

    def derivative_sum(self, weight: Callable[[np.ndarray, np.ndarray], np.ndarray], first: int, stop: int) -> np.ndarray:
        """Coefficients ``(stop,)`` of ``sum_{p, j} weight(p, j) d phi_p / d u_j`` over the monomials ``first <= p < stop``.

        Args:
            weight: of pairs of a monomial and one of its letters, index arrays ``(t,)`` both, ``(t,)``.
        """
        table = self.takings
        one = table.chosen((table.order == 1) & (table.monomial >= first) & (table.monomial < stop))
        return np.bincount(one.left, one.ways * weight(one.monomial, one.taken[:, -1]), stop)
