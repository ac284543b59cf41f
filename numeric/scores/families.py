"""The feature families: which coefficients a score coefficient sees, and in which monomials (Section 2.2).

A family answers two questions for every target coefficient ``lambda``: its *variables* (itself first, then its
neighbours) and the *exponents* of its monomials.  Targets with equally many neighbours share their exponents and are
handled together as one :class:`Block`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import comb
from typing import Any

import numpy as np

from numeric.video import VideoTransform
from numeric.wavelets import WaveletTransform

FAMILIES = ("independent", "band", "local", "parent", "joint")
INTERACTIONS = ("pairwise", "full")
PATTERNS = ("independent", "target", "pairwise", "full")


class FamilyError(ValueError):
    """The family cannot be built; the message names the value and the fix."""


def _compositions(total: int, variables: int) -> list[tuple[int, ...]]:
    """All exponent vectors of the given total degree, in descending lexicographic order."""
    if variables == 1:
        return [(total,)]
    return [(first, *rest) for first in range(total, -1, -1) for rest in _compositions(total - first, variables - 1)]


@lru_cache(maxsize=256)
def exponents(pattern: str, variables: int, degree: int) -> np.ndarray:
    """Monomial exponents of a pattern, shape ``(features, variables)``, the intercept first, by total degree.

    Patterns (the target is variable 0, ``n`` the degree):
        independent: ``w^k``, k = 0..n (equation (18)).
        target: total degree <= n with target exponent >= 1, plus the intercept (equation (22)).
        pairwise: ``w^k`` and, for each neighbour m, ``w^i m^j`` with 1 <= j and i + j <= n (our reading of 2.2.3).
        full: every monomial of total degree <= n.
    """
    if degree < 1:
        raise FamilyError(f"degree must be >= 1, got {degree}: degree 1 is the linear score")
    if pattern not in PATTERNS:
        raise FamilyError(f"unknown pattern {pattern!r}: use one of {', '.join(PATTERNS)}")
    if variables == 1 or pattern == "independent":
        rows = [(k, *(0,) * (variables - 1)) for k in range(degree + 1)]
    elif pattern == "pairwise":
        rows = [(k, *(0,) * (variables - 1)) for k in range(degree + 1)]
        for total, neighbour in product(range(1, degree + 1), range(1, variables)):
            for power in range(1, total + 1):
                row = [0] * variables
                row[0], row[neighbour] = total - power, power
                rows.append(tuple(row))
        rows.sort(key=sum)
    else:
        rows = [row for total in range(degree + 1) for row in _compositions(total, variables)]
        if pattern == "target":
            rows = [row for row in rows if row[0] >= 1 or sum(row) == 0]
    return np.array(rows, dtype=np.int64)


@lru_cache(maxsize=256)
def closure(pattern: str, variables: int, degree: int) -> np.ndarray:
    """Smallest downward-closed set of exponents that holds the pattern's, by total degree.

    Integrating Gaussian noise lowers exponents two at a time and centring lowers them one at a time, so exact noisy
    moments need every divisor of every monomial.  Only ``target`` is not closed already.
    """
    features = exponents(pattern, variables, degree)
    if pattern != "target" or variables == 1:
        return features
    rows = {below for row in features for below in product(*(range(exponent + 1) for exponent in row))}
    return np.array(sorted(rows, key=lambda row: (sum(row), tuple(-e for e in row))), dtype=np.int64)


def product_count(pattern: str, variables: int, degree: int) -> int:
    """Number of moments of a pattern (for ``target`` an upper bound), without listing them."""
    if degree < 1:
        raise FamilyError(f"degree must be >= 1, got {degree}: degree 1 is the linear score")
    n, k = degree, variables - 1
    if k == 0 or pattern == "independent":
        return 2 * n + 1
    if pattern == "pairwise":
        triples = sum(2 * n - i - j + 1 for i in range(1, n + 1) for j in range(1, n + 1))
        return 2 * n + 1 + k * n * (2 * n + 1) + comb(k, 2) * triples
    return comb(2 * n + variables, variables)


class MonomialPlan:
    """Bookkeeping of one pattern at its largest degree: features, their products, and how exponents step down.

    Attributes:
        basis: downward-closed exponents ``(B, q)``.
        products: exponents of all products of two basis monomials ``(M, q)``, by total degree; downward closed too,
            because a divisor of a product is a product of divisors.
        pair: index of the product of basis monomials i and j, ``(B, B)``.
        representative: flat index into a ``(B, B)`` table where each product occurs, ``(M,)``.
        down: index of the product with exponent i lowered by one, -1 where there is none, ``(q, M)``.
    """

    def __init__(self, pattern: str, variables: int, degree: int) -> None:
        self.pattern, self.variables, self.degree = pattern, variables, degree
        self.basis = closure(pattern, variables, degree)
        # A linear 64-bit key per exponent vector: key(a + b) = key(a) + key(b), so that products and divisors are
        # found by sorting integers.  Odd multipliers from a fixed generator; collisions are checked below.
        weights = np.random.default_rng(0).integers(1, 2**62, size=variables, dtype=np.uint64) | np.uint64(1)
        with np.errstate(over="ignore"):
            keys = (self.basis.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64)
            pair_keys = (keys[:, None] + keys[None, :]).ravel()
            unique, first, inverse = np.unique(pair_keys, return_index=True, return_inverse=True)
            size = len(self.basis)
            rows = self.basis[first // size] + self.basis[first % size]
            order = np.lexsort((*(-rows.T[::-1]), rows.sum(axis=1)))
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            self.products = rows[order]
            self.representative = first[order]
            self.pair = rank[inverse].reshape(size, size)
            if len(np.unique(self.products, axis=0)) != len(self.products):
                raise RuntimeError("exponent keys collided; change the generator's seed")  # probability ~ M^2 / 2^64
            down = np.full((variables, len(unique)), -1, dtype=np.int64)
            for i in range(variables):
                can = self.products[:, i] > 0
                position = np.searchsorted(unique, unique[order][can] - weights[i])
                down[i, can] = rank[position]
        self.down = down
        self._position = {tuple(int(e) for e in row): index for index, row in enumerate(self.basis)}

    def __repr__(self) -> str:
        return f"MonomialPlan({self.pattern!r}, variables={self.variables}, degree={self.degree})"

    @property
    def n_products(self) -> int:
        return len(self.products)

    def product_index(self, *variables: int) -> int | None:
        """Index of the product monomial ``prod_i x_{variables[i]}``, or None if it is not among the products."""
        row = np.bincount(np.array(variables, dtype=int), minlength=self.variables)
        found = np.flatnonzero((self.products == row).all(axis=1))
        return int(found[0]) if len(found) else None

    @cached_property
    def linear(self) -> int:
        """Position in the basis of the target itself."""
        return self._position[(1, *(0,) * (self.variables - 1))]

    @cached_property
    def recursion(self) -> tuple[np.ndarray, np.ndarray]:
        """For each basis monomial but the first: (a basis monomial, a variable) whose product it is, ``(B - 1,)``."""
        parent, variable = [], []
        for row in self.basis[1:]:
            i = int(np.flatnonzero(row)[-1])
            below = row.copy()
            below[i] -= 1
            parent.append(self._position[tuple(int(e) for e in below)])
            variable.append(i)
        return np.array(parent), np.array(variable)

    @cached_property
    def lowered(self) -> np.ndarray:
        """Position in the basis of each basis monomial with exponent i lowered by one, -1 where there is none, ``(q, B)``."""
        out = np.full((self.variables, len(self.basis)), -1, dtype=np.int64)
        for i in range(self.variables):
            for b in np.flatnonzero(self.basis[:, i]):
                row = self.basis[b].copy()
                row[i] -= 1
                out[i, b] = self._position[tuple(int(e) for e in row)]
        return out

    def differentiated(self, coefficients: Any, variable: int) -> Any:
        """Coefficients ``(g, B')`` of leading basis monomials, differentiated by a variable: a tensor of the same shape."""
        lowered = self.lowered[variable, : coefficients.shape[1]]
        held = np.flatnonzero(lowered >= 0)
        powers = coefficients.new_tensor(self.basis[held, variable].astype(float))
        out = coefficients.new_zeros(coefficients.shape)
        out[:, lowered[held]] = coefficients[:, held] * powers
        return out

    def closed_count(self, degree: int) -> int:
        """How many leading basis monomials the closure at a lower degree needs."""
        self._check(degree)
        return len(closure(self.pattern, self.variables, degree)) if self._nested(degree) else len(self.basis)

    def _nested(self, degree: int) -> bool:
        lower = closure(self.pattern, self.variables, degree)
        return np.array_equal(self.basis[: len(lower)], lower)

    def features(self, degree: int) -> np.ndarray:
        """Positions in the basis of the features of a degree up to this plan's, ``(F,)``."""
        self._check(degree)
        return np.array(
            [self._position[tuple(int(e) for e in row)] for row in exponents(self.pattern, self.variables, degree)]
        )

    def _check(self, degree: int) -> None:
        if not 1 <= degree <= self.degree:
            raise FamilyError(f"degree must lie in 1..{self.degree} (the fitted degree), got {degree}")


@lru_cache(maxsize=64)
def monomial_plan(pattern: str, variables: int, degree: int) -> MonomialPlan:
    """The (cached) plan of a pattern; plans are shared by all blocks of the same shape."""
    return MonomialPlan(pattern, variables, degree)


@dataclass(frozen=True)
class Block:
    """Targets with equally many variables.

    Attributes:
        pattern: one of :data:`PATTERNS`.
        variables: ``(groups, q)`` indices into the flattened ``(channels * n_coefficients)`` coefficients; column 0 is
            the target.
    """

    pattern: str
    variables: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        return self.variables[:, 0]


@dataclass(frozen=True)
class Family:
    """A feature family.

    Args:
        name: ``independent``; ``band`` (the three orientations at one place, equation (22)); ``local`` (a Chebyshev ball
            at one scale and orientation, periodic); ``parent`` (the coefficient above, one scale coarser); ``joint``
            (band and local neighbours together, pairwise).
        radius: of the ball, for ``local`` and ``joint``; 0 is the independent family.
        interactions: ``"pairwise"`` or ``"full"`` monomials for ``local``, ``parent`` and ``joint``.
        channels_coupled: also couple the same atom in the other colour channels (Appendix D).
        time_radius: also couple the same atom at so many places in time on either side (:class:`numeric.video.VideoTransform`).
    """

    name: str = "independent"
    radius: int = 1
    interactions: str = "pairwise"
    channels_coupled: bool = False
    time_radius: int = 0

    def __post_init__(self) -> None:
        if self.name not in FAMILIES:
            raise FamilyError(f"unknown family {self.name!r}: use one of {', '.join(FAMILIES)}")
        if self.interactions not in INTERACTIONS:
            raise FamilyError(f"unknown interactions {self.interactions!r}: use 'pairwise' or 'full'")
        if self.radius < 0:
            raise FamilyError(f"radius must be >= 0, got {self.radius}")
        if self.time_radius < 0:
            raise FamilyError(f"time_radius must be >= 0, got {self.time_radius}")

    @property
    def label(self) -> str:
        """Short name for legends, e.g. ``local(r=1, pairwise)``."""
        text = self.name
        if self.name in ("local", "joint"):
            text += f"(r={self.radius}, {self.interactions})"
        elif self.name == "parent":
            text += f"({self.interactions})"
        text += "+channels" if self.channels_coupled else ""
        return text + (f"+{self.time_radius} in time" if self.time_radius else "")

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": self.name,
            "radius": self.radius,
            "interactions": self.interactions,
            "channels_coupled": self.channels_coupled,
        }
        return found | ({"time_radius": self.time_radius} if self.time_radius else {})  # files of images know of no time

    def _other_channels(self, transform: WaveletTransform, channel: int, channels: int) -> list[int]:
        """Channels whose coefficient at the same atom is a neighbour.

        Raises:
            FamilyError: neighbours in time of a transform that has no time.
        """
        if self.channels_coupled:
            return [other for other in range(channels) if other != channel]
        if not self.time_radius:
            return []
        if not isinstance(transform, VideoTransform):
            raise FamilyError(f"time_radius is {self.time_radius}, but {transform} is of images: use numeric.video.VideoTransform")
        return transform.frames_near(channel, self.time_radius)

    def _neighbours(self, transform: WaveletTransform, band_index: int) -> np.ndarray:
        """Neighbours ``(rows, columns, k)`` of every coefficient of a band, -1 for a repeated one."""
        band = transform.bands[band_index]
        rows, columns = np.indices(band.shape)
        columns_of: list[np.ndarray] = []
        if self.name in ("band", "joint") and band.orientation != "A":
            siblings = [
                b for b in transform.bands if b.scale == band.scale and b.orientation not in ("A", band.orientation)
            ]
            columns_of += [b.indices for b in siblings]
        if self.name in ("local", "joint"):
            for dr, dc in product(range(-self.radius, self.radius + 1), repeat=2):
                if (dr, dc) != (0, 0):
                    columns_of.append(band.indices[(rows + dr) % band.shape[0], (columns + dc) % band.shape[1]])
        if self.name == "parent":
            wanted = (band.scale + 1, band.orientation) if band.scale < transform.levels else (band.scale, "A")
            if band.orientation != "A":
                parent = next(b for b in transform.bands if (b.scale, b.orientation) == wanted)
                factor = 2 if band.scale < transform.levels else 1
                r = np.minimum(rows // factor, parent.shape[0] - 1)
                c = np.minimum(columns // factor, parent.shape[1] - 1)
                columns_of.append(parent.indices[r, c])
        return np.stack(columns_of, axis=-1) if columns_of else np.empty((*band.shape, 0), dtype=np.int64)

    def blocks(self, transform: WaveletTransform, channels: int = 1) -> list[Block]:
        """Every target of every channel exactly once, grouped by number of variables."""
        pattern = "target" if self.name == "band" else self.interactions
        size = transform.n_coefficients
        grouped: dict[int, list[np.ndarray]] = {}
        for index, band in enumerate(transform.bands):
            targets = band.indices.reshape(-1, 1)
            near = self._neighbours(transform, index).reshape(len(targets), -1)
            for channel in range(channels):
                own = np.concatenate([targets, near], axis=1) + channel * size
                others = [targets + other * size for other in self._other_channels(transform, channel, channels)]
                own = np.concatenate([own, *others], axis=1)
                for row in own:
                    # Distinct neighbours only: on a small band the periodic ball wraps onto itself, and duplicated
                    # features would make the Gram singular.
                    _, first = np.unique(row, return_index=True)
                    row = row[np.sort(first)]
                    grouped.setdefault(len(row), []).append(row)
        return [
            Block(pattern if q > 1 else "independent", np.array(rows, dtype=np.int64))
            for q, rows in sorted(grouped.items())
        ]
