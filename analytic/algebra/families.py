"""Feature families: exponents of the monomials a score coefficient may use (Section 2.2 of the paper).

The target coordinate is variable 0.  Features come by total degree, the intercept first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import sympy as sp

from analytic.algebra.moments import Exponent
from analytic.errors import AnalyticError

FAMILIES = ("independent", "band", "local")
INTERACTIONS = ("pairwise", "full")
MAX_FEATURES = 800  # beyond, SymPy takes minutes; python -m benchmarks.families measures what it holds in one
_ALIASES = {"band-tied": "band", "bandtied": "band", "band_tied": "band", "diagonal": "independent"}


@dataclass(frozen=True)
class Family:
    """A family at a degree.

    Attributes:
        name: one of :data:`FAMILIES`; degree: n; interactions: of ``local``.
        variables: coordinate symbols, the target first.
        exponents: of the monomials, one tuple a feature.
    """

    name: str
    degree: int
    interactions: str
    variables: tuple[sp.Symbol, ...]
    exponents: tuple[Exponent, ...]

    def __len__(self) -> int:
        return len(self.exponents)

    @property
    def monomials(self) -> tuple[sp.Expr, ...]:
        """The features as expressions, in order."""
        return tuple(monomial(exponent, self.variables) for exponent in self.exponents)


def monomial(exponent: Exponent, variables: tuple[sp.Symbol, ...]) -> sp.Expr:
    """``w_1^i w_2^j ...``."""
    return sp.prod([variable**power for variable, power in zip(variables, exponent)])


def _compositions(total: int, variables: int) -> list[Exponent]:
    if variables == 1:
        return [(total,)]
    return [(first, *rest) for first in range(total, -1, -1) for rest in _compositions(total - first, variables - 1)]


def check_degree(degree: int) -> None:
    """Raises AnalyticError unless ``degree`` is an integer >= 1."""
    if not isinstance(degree, int | sp.Integer) or isinstance(degree, bool) or degree < 1:
        raise AnalyticError(f"degree must be an integer >= 1, got {degree!r}: degree 1 is the linear score")
    if degree >= MAX_FEATURES:
        raise AnalyticError(
            f"degree {degree} has more than {MAX_FEATURES} features in every family, more than a symbolic system may have: "
            "use a lower degree"
        )


def independent_exponents(degree: int) -> list[Exponent]:
    """``w^k``, k = 0..n: n + 1 features (equations (18), (19))."""
    check_degree(degree)
    return [(k,) for k in range(degree + 1)]


def band_exponents(degree: int) -> list[Exponent]:
    """``w_H^i w_V^j w_D^k``, i >= 1, i + j + k <= n, and the intercept: C(n+2, 3) + 1 features (equation (22))."""
    check_degree(degree)
    rows = [row for total in range(degree + 1) for row in _compositions(total, 3)]
    kept = [row for row in rows if row[0] >= 1 or not any(row)]
    assert len(kept) == comb(degree + 2, 3) + 1
    return kept


def pairwise_exponents(degree: int, neighbours: int) -> list[Exponent]:
    """``1, w^k`` and for every neighbour m ``w^i m^j``, 1 <= j, i + j <= n (Section 2.2.3, our reading)."""
    check_degree(degree)
    rows = []
    for total in range(degree + 1):
        rows.append((total, *(0,) * neighbours))
        for neighbour in range(neighbours):
            for power in range(1, total + 1):
                others = [0] * neighbours
                others[neighbour] = power
                rows.append((total - power, *others))
    return rows


def full_exponents(degree: int, neighbours: int) -> list[Exponent]:
    """Every monomial of total degree <= n: C(n + q, q) features in q = neighbours + 1 variables."""
    check_degree(degree)
    return [row for total in range(degree + 1) for row in _compositions(total, neighbours + 1)]


def _count(name: str, degree: int, neighbours: int, interactions: str) -> int:
    """Number of features, before any is listed."""
    if name == "independent":
        return degree + 1
    if name == "band":
        return comb(degree + 2, 3) + 1
    if interactions == "pairwise":
        return degree + 1 + neighbours * degree * (degree + 1) // 2
    return comb(degree + neighbours + 1, degree)


def family_name(name: str) -> str:
    """Canonical family name.

    Raises:
        AnalyticError: unknown family.
    """
    key = _ALIASES.get(str(name).lower(), str(name).lower())
    if key not in FAMILIES:
        raise AnalyticError(f"unknown family {name!r}: use one of {', '.join(FAMILIES)} (band-tied is band)")
    return key


@lru_cache(maxsize=128)
def family(
    name: str = "independent",
    degree: int = 1,
    *,
    radius: int = 1,
    interactions: str = "pairwise",
    neighbours: int | None = None,
) -> Family:
    """A family by name.

    Args:
        name: ``independent``, ``band`` (or ``band-tied``) or ``local``.
        degree: n >= 1.
        radius: of the Chebyshev ball of ``local``; (2r+1)^2 - 1 neighbours.
        interactions: ``pairwise`` or ``full``, for ``local``.
        neighbours: number of distinct neighbours, where the ball wraps onto itself on a small band, or where a
            smaller system is wanted; default the whole ball.

    Raises:
        AnalyticError: any of these out of range.

    >>> from analytic import family
    >>> len(family('band', 3).exponents), family('local', 2, neighbours=1).exponents
    (11, ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)))
    """
    key = family_name(name)
    check_degree(degree)
    if interactions not in INTERACTIONS:
        raise AnalyticError(f"unknown interactions {interactions!r}: use 'pairwise' or 'full'")
    if radius < 0:
        raise AnalyticError(f"radius must be >= 0, got {radius}")
    if neighbours is not None and not 0 <= neighbours <= (2 * radius + 1) ** 2 - 1:
        raise AnalyticError(
            f"neighbours must lie in 0..{(2 * radius + 1) ** 2 - 1} at radius {radius}, got {neighbours}"
        )
    total = _count(key, degree, (2 * radius + 1) ** 2 - 1 if neighbours is None else neighbours, interactions)
    if total > MAX_FEATURES:
        raise AnalyticError(
            f"{key} at degree {degree} has {total} features, more than the {MAX_FEATURES} that a symbolic system may "
            "have: use a lower degree or radius, neighbours=K, interactions='pairwise', or solve it in numbers with "
            "numeric.scores.own.WaveletScore"
        )
    if key == "independent":
        variables, rows = sp.symbols("w,", real=True), independent_exponents(degree)
    elif key == "band":
        variables, rows = sp.symbols("w_H w_V w_D", real=True), band_exponents(degree)
    else:
        count = (2 * radius + 1) ** 2 - 1 if neighbours is None else neighbours
        variables = (sp.Symbol("w", real=True), *(sp.Symbol(f"w_{k}", real=True) for k in range(1, count + 1)))
        rows = (pairwise_exponents if interactions == "pairwise" else full_exponents)(degree, count)
    assert len(rows) == total
    return Family(key, int(degree), interactions, tuple(variables), tuple(rows))
