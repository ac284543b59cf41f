"""Clean, noisy and standardised moments (equation (20) and its VE form).

Clean moments are symbols ``mu_p`` (one coordinate) or ``mu_ijk`` (several: the exponents, one digit each); noisy moments are
``m_p``, ``m_ijk``; moments of the standardised noisy coordinate ``u = (w - c) / d`` are ``g_p``, ``g_ijk``.  A zero
exponent vector is the number 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import comb, prod

import sympy as sp

from analytic.algebra.noise import Noise, noise_model
from analytic.errors import AnalyticError

Exponent = tuple[int, ...]


def as_exponent(power: int | Sequence[int]) -> Exponent:
    """An exponent vector; a bare integer is one coordinate.

    Raises:
        AnalyticError: a negative exponent.
    """
    exponent = (int(power),) if isinstance(power, int | sp.Integer) else tuple(int(p) for p in power)
    if any(p < 0 for p in exponent):
        raise AnalyticError(f"moment exponents must be >= 0, got {exponent}")
    return exponent


@lru_cache(maxsize=65536)
def _symbol(letter: str, exponent: Exponent) -> sp.Expr:
    if not any(exponent):
        return sp.Integer(1)
    text = "".join(map(str, exponent)) if max(exponent) < 10 else "_".join(map(str, exponent))
    return sp.Symbol(f"{letter}_{text}", real=True)


def clean_moment(power: int | Sequence[int]) -> sp.Expr:
    """Symbol of the clean moment ``E[x^p]`` (or ``E[x_1^i x_2^j ...]``); 1 for order zero.

    >>> from analytic import clean_moment
    >>> clean_moment(3), clean_moment((1, 2)), clean_moment(0)
    (mu_3, mu_12, 1)
    """
    return _symbol("mu", as_exponent(power))


def noisy_symbol(power: int | Sequence[int]) -> sp.Expr:
    """Symbol of the noisy moment ``E[y^p]``; 1 for order zero.

    >>> from analytic import noisy_symbol
    >>> noisy_symbol(3), noisy_symbol((1, 2)), noisy_symbol(0)
    (m_3, m_12, 1)
    """
    return _symbol("m", as_exponent(power))


def standard_symbol(power: int | Sequence[int]) -> sp.Expr:
    """Symbol of the moment of the standardised coordinates; order one is 0 and order two (one coordinate) is 1."""
    exponent = as_exponent(power)
    if sum(exponent) == 1:
        return sp.Integer(0)
    return sp.Integer(1) if sum(exponent) == 2 and max(exponent) == 2 else _symbol("g", exponent)


def gaussian_moment(power: int) -> int:
    """``E[z^p]`` of a standard normal: ``(2l - 1)!!`` for p = 2l, else 0 (below equation (20))."""
    return 0 if power % 2 else prod(range(1, power, 2))


def noisy_moment(
    power: int | Sequence[int], noise: Noise | str = "ve", covariance: sp.MatrixBase | None = None
) -> sp.Expr:
    """Noisy moment in clean ones: ``m_p = sum_q C(p, q) a^q s^(p-q) mu_q E[z^(p-q)]`` (equation (20)).

    Mixed moments factor over the coordinates, because white noise stays white in an orthonormal basis.

    Args:
        power: exponent(s).
        noise: a noise model or its name.
        covariance: of the noise over ``s^2``, ``(q, q)``, for a basis that is not orthonormal; then the moment is
            the heat operator ``exp(s^2/2 sum K_ij d_i d_j)`` applied to the monomial.  Default: the identity.

    Returns:
        A polynomial in the clean symbols, a and s.

    >>> from analytic import noisy_moment
    >>> noisy_moment(2), noisy_moment(2, 'vp')
    (mu_2 + sigma**2, abar*mu_2 - abar + 1)
    """
    exponent, model = as_exponent(power), noise_model(noise)
    if covariance is not None:
        return heat_moment(exponent, model, covariance)
    total = sp.Integer(0)
    for lower in product(*(range(p % 2, p + 1, 2) for p in exponent)):
        weight = prod(comb(p, q) * gaussian_moment(p - q) for p, q in zip(exponent, lower))
        gap = (sum(exponent) - sum(lower)) // 2
        total += weight * model.a ** sum(lower) * model.s2**gap * clean_moment(lower)
    return total


def heat_moment(exponent: Exponent, noise: Noise, covariance: sp.MatrixBase) -> sp.Expr:
    """Noisy moment under correlated Gaussian noise, by Wick's recursion (see :func:`noisy_moment`).

    ``M(p) = a x_i M(p - e_i) + s^2 sum_j K_ij (p - e_i)_j M(p - e_i - e_j)``.

    Raises:
        AnalyticError: a covariance of the wrong shape, or not symmetric.
    """
    count = len(exponent)
    if covariance.shape != (count, count) or not covariance.is_symmetric():
        raise AnalyticError(f"covariance must be symmetric ({count}, {count}), got shape {covariance.shape}")
    return sp.expand(_wick(exponent, noise, sp.ImmutableMatrix(covariance), (0,) * count))


@lru_cache(maxsize=65536)
def _wick(exponent: Exponent, noise: Noise, covariance: sp.ImmutableMatrix, powers: Exponent) -> sp.Expr:
    """The recursion; ``powers`` are the powers of x already taken out."""
    if not any(exponent):
        return noise.a ** sum(powers) * clean_moment(powers)
    i = next(index for index, p in enumerate(exponent) if p)
    rest = _step(exponent, i, -1)
    total = _wick(rest, noise, covariance, _step(powers, i, 1))
    for j, p in enumerate(rest):
        if p and covariance[i, j] != 0:
            total += noise.s2 * covariance[i, j] * p * _wick(_step(rest, j, -1), noise, covariance, powers)
    return sp.expand(total)


def _step(exponent: Exponent, index: int, by: int) -> Exponent:
    return tuple(p + by if k == index else p for k, p in enumerate(exponent))


def unit(index: int, count: int, power: int = 1) -> Exponent:
    """Exponent vector with one entry: ``power`` at ``index``."""
    return tuple(power if k == index else 0 for k in range(count))


def centre(index: int, count: int) -> sp.Expr:
    """Noisy mean ``c_i`` of a coordinate, in noisy symbols."""
    return noisy_symbol(unit(index, count))


def scale(index: int, count: int) -> sp.Expr:
    """Noisy standard deviation ``d_i = sqrt(m_2 - m_1^2)`` of a coordinate, in noisy symbols."""
    return sp.sqrt(noisy_symbol(unit(index, count, 2)) - noisy_symbol(unit(index, count)) ** 2)


def standard_moment(power: int | Sequence[int], centres: Sequence[sp.Expr], scales: Sequence[sp.Expr]) -> sp.Expr:
    """Moment of ``u_i = (w_i - c_i) / d_i`` in noisy symbols: the binomial shift, then the scale."""
    exponent = as_exponent(power)
    total = sp.Integer(0)
    for lower in product(*(range(p + 1) for p in exponent)):
        weight = prod(comb(p, q) for p, q in zip(exponent, lower))
        shift = sp.prod([(-c) ** (p - q) for c, p, q in zip(centres, exponent, lower)])
        total += weight * shift * noisy_symbol(lower)
    return total / sp.prod([d**p for d, p in zip(scales, exponent)])


def moment_closure(exponents: Sequence[Exponent]) -> list[Exponent]:
    """All exponents below the given ones, by total degree, then in descending lexicographic order.

    This is the order of every moments vector in this package: for one coordinate ``mu_0 = 1, mu_1, ..., mu_2n``.
    """
    rows = {lower for exponent in exponents for lower in product(*(range(p + 1) for p in exponent))}
    return sorted(rows, key=lambda row: (sum(row), tuple(-p for p in row)))


def moments_to_cumulants(order: int, letter: str = "kappa") -> dict[sp.Symbol, sp.Expr]:
    """Standardised moments ``g_3 .. g_order`` in cumulants ``kappa_3 ..`` (kappa_1 = 0, kappa_2 = 1).

    By ``g_p = sum_q C(p-1, q-1) kappa_q g_(p-q)``; kappa_3 is the skewness and kappa_4 the excess kurtosis.
    """
    kappa = [sp.Integer(0), sp.Integer(0), sp.Integer(1)]
    kappa += [sp.Symbol(f"{letter}_{p}", real=True) for p in range(3, order + 1)]
    g: list[sp.Expr] = [sp.Integer(1)]
    for p in range(1, order + 1):
        g.append(sp.expand(sum(comb(p - 1, q - 1) * kappa[q] * g[p - q] for q in range(1, p + 1))))
    return {standard_symbol(p): g[p] for p in range(3, order + 1)}
