"""How well a polynomial of degree n can do: the best one against the true posterior mean, where that is known.

With all moments known exactly what is left is the error of approximation ``E (D - D_n)^2``, D the posterior mean
``E[x_0 | y]``, ``y = x + sigma z``, and D_n its projection on the polynomials of total degree n in ``L^2`` of the law of y, which is
what the normal equations of the score solve (``E (x_0 - D_n)^2 = E (x_0 - D)^2 + E (D - D_n)^2``).  It is computed as a projection, not as
that difference: nodes of a quadrature of the law of y, the orthonormal polynomials of that law on them (a QR factorisation,
whatever basis one starts from), and what of D they leave.

Rates.  The density of y falls off like a Gaussian of deviation sigma, for which the error of a function analytic in the strip
``|Im y| < d`` falls like ``exp(-2 d sqrt(n) / sigma)`` (Hille 1940, squared).  Two atoms at -1 and 1 have ``D = tanh(y / sigma^2)``, with
poles at ``d = pi sigma^2 / 2``: ``exp(-pi sigma sqrt(n))``.  More noise, faster approximation: :meth:`Approximation.rate` fits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import erfc, pi, sqrt
from typing import Any

import numpy as np

from analytic.errors import AnalyticError

BASES = ("monomial", "hermite")
REACH = 6.0
"""Standard deviations that the quadrature goes beyond the last zero of a polynomial of the degree, ``sqrt(4 n + 2)`` of them."""
FLOOR = 1e-13
"""Squared errors, relative to the variance of D, below which double precision says nothing."""

NODES = 10**6
"""Most nodes of the quadrature."""

_erfc = np.vectorize(erfc, otypes=[float])


def spread(degree: int) -> float:
    """Standard deviations of a Gaussian that matter to polynomials of a degree."""
    return sqrt(4 * degree + 2) + REACH


def _phi(t: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * t * t) / sqrt(2 * pi)


def _upper(t: np.ndarray) -> np.ndarray:
    """``P(z > t)``, with its digits for large t."""
    return 0.5 * _erfc(t / sqrt(2))


@dataclass(frozen=True)
class Mixture:
    """Gaussian mixture in any number of coordinates; components of zero covariance are atoms.

    Attributes:
        weights: ``(K,)``; means: ``(K, q)``; covariances: ``(K, q, q)``.
    """

    weights: Any
    means: Any
    covariances: Any

    @property
    def dimension(self) -> int:
        return int(np.shape(self.means)[1])

    def reach(self, degree: int) -> float:
        """How far out clean values matter to polynomials of a degree."""
        deviations = np.sqrt(np.max(np.asarray(self.covariances), axis=(1, 2)))
        return float(np.max(np.abs(self.means).max(axis=1) + spread(degree) * deviations))

    def at(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Density and posterior mean of ``x_0`` at points ``(m, q)``."""
        density, mean = np.zeros(len(y)), np.zeros(len(y))
        for weight, centre, covariance in zip(self.weights, np.asarray(self.means, float), np.asarray(self.covariances, float)):
            noisy = covariance + sigma**2 * np.eye(self.dimension)
            gap = y - centre
            solved = np.linalg.solve(noisy, gap.T).T
            one = weight * np.exp(-0.5 * (gap * solved).sum(1)) / sqrt(np.linalg.det(2 * pi * noisy))
            density += one
            mean += one * (centre[0] + solved @ covariance[0])
        return density, mean / density


class Uniform:
    """Uniform on [-1, 1]."""

    dimension = 1

    def reach(self, degree: int) -> float:
        """Half the interval."""
        return 1.0

    def at(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Density and posterior mean; the mean of a Gaussian at y cut to [-1, 1]."""
        t = np.abs(y[:, 0])  # the law is symmetric, and this side keeps the digits
        low, high = (t - 1) / sigma, (t + 1) / sigma
        mass = _upper(low) - _upper(high)
        mean = t - sigma * (_phi(low) - _phi(high)) / mass
        return mass / 2, np.sign(y[:, 0]) * mean


class Laplace:
    """Laplace of mean 0 and scale b: density ``exp(-|x| / b) / (2 b)``."""

    dimension = 1

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = scale

    def reach(self, degree: int) -> float:
        """The zeros of polynomials orthogonal under an exponential reach to about ``pi n`` scales."""
        return (30.0 + pi * degree) * self.scale

    def at(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Two halves: on x > 0 the posterior is a Gaussian at ``y - sigma^2 / b`` cut to it, on x < 0 one at ``y + sigma^2 / b``."""
        b, t = self.scale, np.abs(y[:, 0])
        right, left = t - sigma**2 / b, t + sigma**2 / b
        # Both halves over exp(sigma^2 / (2 b^2) - t / b), which would underflow.
        more = np.exp(np.minimum(2 * t / b, 700.0))
        masses = _upper(-right / sigma), more * _upper(left / sigma)
        first = right * masses[0] + sigma * _phi(right / sigma)
        second = more * (left * _upper(left / sigma) - sigma * _phi(left / sigma))
        density = np.exp(sigma**2 / (2 * b**2) - t / b) * (masses[0] + masses[1]) / (2 * b)
        return density, np.sign(y[:, 0]) * (first + second) / (masses[0] + masses[1])


LAWS: dict[str, tuple[str, Any]] = {
    "two-atom": ("-1 or 1 with equal chances", Mixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.0]], [[0.0]]])),
    "uniform": ("uniform on [-1, 1]", Uniform()),
    "laplace": ("Laplace, scale 1/2", Laplace(0.5)),
    "mixture": (
        "Gaussians at -1 and 1/2 of deviations 0.2 and 0.4, weights 0.3 and 0.7",
        Mixture([0.3, 0.7], [[-1.0], [0.5]], [[[0.04]], [[0.16]]]),
    ),
    "mixture-2d": (
        "in two coordinates: Gaussians at (-1, -1/2) and (1/2, 1/2), correlated in each",
        Mixture([0.4, 0.6], [[-1.0, -0.5], [0.5, 0.5]], [[[0.1, 0.05], [0.05, 0.1]], [[0.2, -0.1], [-0.1, 0.15]]]),
    ),
}
"""Laws whose posterior mean is known, all of about unit variance."""


@dataclass(frozen=True)
class Rate:
    """``error = exp(constant - rate n^power)`` fitted to ``degrees``; residual: root mean square in the logarithm."""

    power: float
    constant: float
    rate: float
    residual: float
    degrees: tuple[int, ...]

    def __str__(self) -> str:
        power = "sqrt(n)" if self.power == 0.5 else "n" if self.power == 1 else f"n^{self.power:g}"
        return (
            f"error ~ exp({self.constant:.2f} - {self.rate:.3g} {power}) over degrees {self.degrees[0]} to {self.degrees[-1]}, "
            f"residual {self.residual:.2f} in the logarithm"
        )


class Approximation:
    """Best polynomials of degrees 0 .. n against the posterior mean of a law at one noise level (VE).

    Args:
        law: a name of :data:`LAWS`, or an object with ``dimension``, ``reach(degree)`` and ``at(y, sigma)``.
        sigma: > 0; degree: the largest, >= 1; step: of the quadrature, in units of ``min(sigma, sigma^2)`` (trapezoidal rule, which
            converges exponentially here).

    Raises:
        AnalyticError: an unknown law, or a value out of range.

    >>> found = Approximation("two-atom", 1.0, 5)
    >>> bool(found.errors[1] > 10 * found.errors[5] > 0)
    True
    >>> found = Approximation('two-atom', 1.0, 7)
    >>> len(found.exponents), bool(found.scale > 0), bool(found.reached(3, 'monomial') > 0), bool(found.rate().power > 0)
    (8, True, True, True)
    """

    def __init__(self, law: Any, sigma: float, degree: int = 9, step: float | None = None) -> None:
        if isinstance(law, str):
            if law not in LAWS:
                raise AnalyticError(f"unknown law {law!r}: use one of {', '.join(LAWS)}")
            law = LAWS[law][1]
        if not (np.isfinite(sigma) and sigma > 0):
            raise AnalyticError(f"sigma must be a finite number > 0, got {sigma}")
        if not isinstance(degree, int | np.integer) or not 1 <= degree <= 60:
            raise AnalyticError(f"degree must be a whole number in 1..60, got {degree}")
        self.law, self.sigma, self.degree = law, float(sigma), int(degree)
        step = (1 / 5 if law.dimension == 1 else 2 / 5) if step is None else step
        length = max(step * min(sigma, sigma**2) if law.dimension == 1 else step * sigma * min(1.0, sigma), 2e-4)
        edge = law.reach(self.degree) + spread(self.degree) * sigma
        axis = np.arange(-edge, edge + length, length)
        if len(axis) ** law.dimension > NODES:
            raise AnalyticError(f"sigma = {sigma} asks for {len(axis) ** law.dimension:.1e} quadrature nodes: use a larger one")
        self.nodes = np.array(list(product(axis, repeat=law.dimension))) if law.dimension > 1 else axis[:, None]
        density, self.denoised = law.at(self.nodes, self.sigma)
        if law.dimension > 1:  # most of a box lies far from the law; polynomials of such degrees do not reach there
            near = density > 1e-30 * density.max()
            self.nodes, density, self.denoised = self.nodes[near], density[near], self.denoised[near]
        self.weights = density * length**law.dimension

    @property
    def exponents(self) -> list[tuple[int, ...]]:
        """Of all monomials up to the degree, by total degree."""
        every = product(range(self.degree + 1), repeat=self.law.dimension)
        return sorted((row for row in every if sum(row) <= self.degree), key=lambda row: (sum(row), row))

    @cached_property
    def _standardised(self) -> tuple[np.ndarray, np.ndarray]:
        mean = self.weights @ self.nodes / self.weights.sum()
        return mean, np.sqrt(self.weights @ (self.nodes - mean) ** 2 / self.weights.sum())

    def _columns(self, basis: str) -> np.ndarray:
        """Features at the nodes, ``(nodes, F)``: raw monomials, or products of He_k of the standardised coordinates."""
        if basis not in BASES:
            raise AnalyticError(f"unknown basis {basis!r}: use one of {', '.join(BASES)}")
        mean, deviation = self._standardised
        tables = []
        for j in range(self.law.dimension):
            u = self.nodes[:, j] if basis == "monomial" else (self.nodes[:, j] - mean[j]) / deviation[j]
            rows = [np.ones_like(u), u]
            for k in range(1, self.degree):
                rows.append(u * rows[-1] - (k * rows[-2] if basis == "hermite" else 0.0))
            tables.append(rows)
        return np.stack([np.prod([tables[j][e] for j, e in enumerate(row)], axis=0) for row in self.exponents], axis=1)

    @cached_property
    def errors(self) -> np.ndarray:
        """``E (D - D_n)^2`` for n = 0 .. degree; below about 1e-13 of the variance of D rounding is left."""
        root = np.sqrt(self.weights)[:, None]
        # Orthonormal polynomials: each column is made from the last ones by a multiplication, then orthogonalised (twice),
        # so that no basis whose columns are nearly dependent is ever formed.
        mean, deviation = self._standardised
        u = (self.nodes - mean) / deviation
        place = {row: k for k, row in enumerate(self.exponents)}
        basis = np.zeros((len(u), len(place)))
        for row, k in place.items():
            if k == 0:
                column = root[:, 0].copy()
            else:
                j = int(np.flatnonzero(row)[-1])
                column = u[:, j] * basis[:, place[tuple(e - (i == j) for i, e in enumerate(row))]]
            for _ in range(2):
                column -= basis[:, :k] @ (basis[:, :k].T @ column)
            basis[:, k] = column / np.linalg.norm(column)
        left = root[:, 0] * self.denoised
        found = np.empty(self.degree + 1)
        for n in range(self.degree + 1):
            for row, k in place.items():
                if sum(row) == n:
                    left = left - basis[:, k] * (basis[:, k] @ left)
            found[n] = left @ left
        return found

    @cached_property
    def scale(self) -> float:
        """The variance of D, of which errors are a part."""
        total = self.weights.sum()
        mean = self.weights @ self.denoised / total
        return float(self.weights @ (self.denoised - mean) ** 2 / total)

    def reached(self, degree: int, basis: str) -> float:
        """``E (D - theta.phi)^2`` with theta solved from the normal equations in double precision, as a fit does.

        In exact arithmetic both bases reach :attr:`errors`; what is above it is rounding, in which they differ.
        """
        count = sum(sum(row) <= degree for row in self.exponents)
        phi = self._columns(basis)[:, :count]
        gram = phi.T @ (self.weights[:, None] * phi)
        norm = 1 / np.sqrt(np.diagonal(gram))
        theta = np.linalg.solve(gram * norm * norm[:, None], norm * (phi.T @ (self.weights * self.denoised))) * norm
        gap = self.denoised - phi @ theta
        return float(self.weights @ gap**2)

    def rate(self, power: float | None = None, first: int = 1) -> Rate:
        """Fitted ``exp(c - r n^power)`` over degrees with an error above rounding; steps without any gain (parity) are left out.

        Args:
            power: 1/2, 1, or None: the one of the two that fits better. first: smallest degree.

        Raises:
            AnalyticError: fewer than three degrees to fit.
        """
        errors = self.errors
        gains = [n for n in range(max(first, 1), len(errors)) if errors[n] > FLOOR * self.scale and errors[n] < 0.999 * errors[n - 1]]
        if len(gains) < 3:
            raise AnalyticError(f"{len(gains)} degrees have an error above rounding, 3 are needed to fit a rate: give a higher degree")
        fits = []
        for p in (0.5, 1.0) if power is None else (power,):
            n = np.array(gains, dtype=float) ** p
            slope, constant = np.polyfit(n, np.log(errors[gains]), 1)
            left = np.log(errors[gains]) - constant - slope * n
            fits.append(Rate(p, float(constant), float(-slope), float(np.sqrt(np.mean(left**2))), tuple(gains)))
        return min(fits, key=lambda fit: fit.residual)

    def __repr__(self) -> str:
        return f"Approximation({type(self.law).__name__}, sigma={self.sigma:g}, degree={self.degree})"


def in_noise(law: Any, sigmas: Sequence[float], degree: int) -> dict[float, np.ndarray]:
    """``{sigma: errors of degrees 0 .. degree}`` relative to the variance of D."""
    found = {}
    for sigma in sigmas:
        one = Approximation(law, sigma, degree)
        found[float(sigma)] = one.errors / one.scale
    return found
