"""A bound on what a finite training set costs, for data in an interval: a theorem with its steps recomputed.

Setting: one coefficient x in [low, high] (pixels are bounded, so a wavelet coefficient lies between minus the sum of the
negative and the sum of the positive parts of its atom), N independent images, the independent family of degree n, noise
integrated exactly.  About the middle of the interval ``|x| <= B``.  The fit solves ``Ghat thetahat = bhat`` from the mean
of ``T_p(x) = E (a x + s z)^p`` over the images; the best coefficients solve ``G theta = b``.

1. ``T_p' = a p T_(p-1)``, so on [-B, B] an odd T_p runs between ``-T_p(B)`` and ``T_p(B)``, an even one between ``T_p(0)`` and
   ``T_p(B)``: the width ``W_p``.
2. Hoeffding (1963): with probability at least ``1 - delta``, for p = 1 .. 2n at once, ``|mhat_p - m_p| <= eps_p``,
   ``eps_p = W_p sqrt(log(4 n / delta) / (2 N))``.  Or, by the sample variance V_p of T_p (Maurer and Pontil 2009),
   ``eps_p = sqrt(2 V_p log(8 n / delta) / N) + 7 W_p log(8 n / delta) / (3 (N - 1))``.
3. ``G (thetahat - theta) = r``, ``r = (bhat - b) - (Ghat - G) thetahat = M (mhat - m)``: linear in the errors of the moments.
4. The excess risk is ``E (chat - c)^2 = (thetahat - theta) . G (thetahat - theta) = r . G^-1 r``.
5. ``Ghat - G <= eta Ghat`` with eta the spectral radius of ``|Ghat^-1| E``, ``E_jk = eps_(j+k)`` (the eigenvalues of
   ``Ghat^-1 (Ghat - G)`` are real and at most that, Wielandt).  If ``eta < 1`` then ``G^-1 <= Ghat^-1 / (1 - eta)``.

Theorem: with probability at least ``1 - delta``, if ``eta < 1``,

    E (chat - c)^2 <= eps . |M^T Ghat^-1 M| eps / (1 - eta),

everything on the right known from the images themselves; the denoiser's excess is ``s^4 / a^2`` times that.  Steps 1, 3
and 4 are recomputed as identities (:meth:`FiniteSampleBound.check`), 2 and 5 are the theorems named there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log, sqrt
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from analytic.algebra.families import check_degree
from analytic.algebra.hankel import hankel_matrix, hankel_rhs
from analytic.algebra.moments import clean_moment, noisy_moment, noisy_symbol
from analytic.algebra.noise import Noise, noise_model
from analytic.algebra.rational import rational
from analytic.errors import AnalyticError
from analytic.text.tex import tex

KINDS = ("hoeffding", "bernstein")
DIGITS = 40


@dataclass(frozen=True)
class FiniteSample:
    """The bound at one coefficient.

    Attributes:
        count, delta, kind: N, the probability of failure, and which inequality gives the radii.
        theta: the fitted coefficients about the middle of the interval, n + 1; radii: ``eps_1 .. eps_2n``.
        eta: must be below 1; score, denoiser: bounds on the excess risk (infinite where eta is not).
    """

    count: int
    delta: float
    kind: str
    theta: tuple[float, ...]
    radii: tuple[float, ...]
    eta: float
    score: float
    denoiser: float


class FiniteSampleBound:
    """The theorem of :mod:`analytic.theory.finite` for one degree and noise model.

    Args:
        degree: n >= 1; noise: ``ve``, ``vp`` or ``general``.

    >>> bound = FiniteSampleBound(1)
    >>> bound.holds
    True
    >>> from analytic import FiniteSampleBound
    >>> bound = FiniteSampleBound(1)
    >>> found = bound.evaluate([0.1, 0.4, 0.9, 0.5], 0.0, 1.0, 0.5)
    >>> type(found).__name__, bound.title, set(bound.check().values())
    ('FiniteSample', 'finite samples, independent degree 1, VE: a bound on the excess risk', {True})
    >>> bound.smoothed(2), bound.matrix([0, 1]).shape, len(bound.latex()) > 100, len(bound.written()) > 100
    (sigma**2 + x**2, (2, 2), True, True)
    >>> score, denoiser = bound.excess([0.0, -2.0], [0.1, 0.4, 0.9, 0.5], 0.0, 1.0, 0.5)
    >>> score > 0 and denoiser > 0
    True
    """

    def __init__(self, degree: int = 2, noise: str | Noise = "ve") -> None:
        check_degree(degree)
        self.degree, self.noise = degree, noise_model(noise)
        if self.noise.kind == "clean":
            raise AnalyticError('noise "clean" has no score to bound: use ve, vp or general')

    # -- the symbols of the proof ----------------------------------------------------------------------------------

    @staticmethod
    def _fitted(order: Any) -> sp.Expr:
        """Moments of the images, ``mhat_p``."""
        (power,) = order
        return sp.Symbol(f"mhat_{power}", real=True) if power else sp.Integer(1)

    @property
    def _theta(self) -> sp.Matrix:
        return sp.Matrix([sp.Symbol(f"thetahat_{k}", real=True) for k in range(self.degree + 1)])

    def smoothed(self, power: int) -> sp.Expr:
        """``T_p(x) = E (a x + s z)^p``, a polynomial in ``x``."""
        x = sp.Symbol("x", real=True)
        table = {clean_moment(q): x**q for q in range(1, power + 1)}
        return sp.expand(noisy_moment(power, self.noise).xreplace(table)) if power else sp.Integer(1)

    def matrix(self, theta: Sequence[Any]) -> sp.Matrix:
        """``M``, (n + 1, 2n): ``r = M (mhat - m)``, with entries ``-[p = j - 1] j - theta_(p - j)``."""

        def entry(j: int, p: int) -> Any:
            power = p + 1
            value = -theta[power - j] if 0 <= power - j <= self.degree else 0
            return value - j if power == j - 1 else value

        return sp.Matrix(self.degree + 1, 2 * self.degree, entry)

    def check(self) -> dict[str, bool]:
        """``{step: holds}`` of the steps that are identities, recomputed."""
        n = self.degree
        size = range(2 * n + 1)
        x, a = sp.Symbol("x", real=True), self.noise.a
        slopes = [sp.diff(self.smoothed(p), x) - a * p * self.smoothed(p - 1) for p in size if p]
        # an odd T_p has coefficients >= 0 and no constant: it grows with x, so T_p' = a p T_(p-1) gives the extremes
        odd = [sp.Poly(self.smoothed(p), x).coeff_monomial(x**q) for p in size for q in size if (p - q) % 2]

        fitted, gram = hankel_matrix(n, self._fitted), hankel_matrix(n)
        fitted_rhs, rhs = hankel_rhs(n, self._fitted), hankel_rhs(n)
        theta = self._theta
        r = (fitted_rhs - rhs) - (fitted - gram) * theta
        normal = fitted * theta - fitted_rhs  # zero: the fit's own normal equations
        step3 = list((gram * theta - rhs) - r - normal)
        gaps = sp.Matrix([self._fitted((p,)) - noisy_symbol(p) for p in range(1, 2 * n + 1)])
        linear = list(r - self.matrix(list(theta)) * gaps)

        best = sp.Matrix([sp.Symbol(f"theta_{k}", real=True) for k in range(n + 1)])

        def loss(weights: sp.Matrix) -> sp.Expr:  # E (c - S)^2 up to a constant, with b = G theta
            return (weights.T * gram * weights)[0] - 2 * (weights.T * gram * best)[0]

        gap = theta - best
        excess = [loss(theta) - loss(best) - (gap.T * gram * gap)[0]]
        w, s2 = sp.Symbol("w", real=True), self.noise.s2
        one, other = sp.symbols("chat c", real=True)
        denoiser = [((w + s2 * one) / a - (w + s2 * other) / a) - s2 * (one - other) / a]
        claims = {
            "1. T_p' = a p T_(p-1), and T_p has the parity of p": [*slopes, *odd],
            "3. G (thetahat - theta) = (bhat - b) - (Ghat - G) thetahat": step3,
            "3. = M (mhat - m)": linear,
            "4. excess risk = (thetahat - theta) . G (thetahat - theta)": excess,
            "4. Dhat - D = (s^2 / a) (chat - c)": denoiser,
        }
        return {claim: all(sp.expand(value) == 0 for value in values) for claim, values in claims.items()}

    @property
    def holds(self) -> bool:
        """Whether every identity of :meth:`check` holds."""
        return all(self.check().values())

    # -- numbers ---------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        clean: Any,
        low: float,
        high: float,
        *level: Any,
        delta: float = 0.05,
        kind: str = "bernstein",
    ) -> FiniteSample:
        """The bound for the fit on N clean values of a coefficient that is known to lie in ``[low, high]``.

        Args:
            clean: N values, one an image; level: sigma, abar, or a and s; delta: the probability that it fails.
            kind: ``hoeffding`` (the widths alone) or ``bernstein`` (the sample variances too: sharper for many images).

        Raises:
            AnalyticError: values outside the interval, fewer than two of them, a level, delta or kind out of range.
        """
        if kind not in KINDS:
            raise AnalyticError(f"unknown kind {kind!r}: use one of {', '.join(KINDS)}")
        if not 0 < delta < 1:
            raise AnalyticError(f"delta must lie strictly between 0 and 1, got {delta}: it is a probability")
        values, half = self._centred(clean, low, high)
        count, n = len(values), self.degree
        a, s2 = (float(value) for value in self.noise.values(*level))
        table = self._table(values, a, s2)
        edge, middle = self._table(np.array([half]), a, s2)[:, 0], self._table(np.array([0.0]), a, s2)[:, 0]
        widths = np.array([2 * edge[p] if p % 2 else edge[p] - middle[p] for p in range(1, 2 * n + 1)])
        if kind == "hoeffding":
            radii = widths * sqrt(log(4 * n / delta) / (2 * count))
        else:
            share = log(8 * n / delta)
            radii = np.sqrt(2 * table[1:].var(axis=1, ddof=1) * share / count) + 7 * widths * share / (3 * (count - 1))
        with mpmath.workdps(DIGITS):
            moments = [mpmath.mpf(value) for value in table.mean(axis=1)]
            gram = mpmath.matrix(n + 1, n + 1)
            for j in range(n + 1):
                for k in range(n + 1):
                    gram[j, k] = moments[j + k]
            inverse = gram**-1
            rhs = mpmath.matrix([0, *(-j * moments[j - 1] for j in range(1, n + 1))])
            theta = list(inverse * rhs)
            eps = [mpmath.mpf(0), *map(mpmath.mpf, radii)]
            eta = self._radius(inverse, eps)
            linear = mpmath.matrix(self.matrix(theta).tolist())
            quadratic = linear.T * inverse * linear
            size = range(2 * n)
            total = sum(eps[p + 1] * abs(quadratic[p, q]) * eps[q + 1] for p in size for q in size)
            score = float(total / (1 - eta)) if eta < 1 else float("inf")
        return FiniteSample(
            count,
            delta,
            kind,
            tuple(float(value) for value in theta),
            tuple(float(value) for value in radii),
            float(eta),
            score,
            score * s2**2 / a**2,
        )

    def excess(
        self, theta: Sequence[float], population: Any, low: float, high: float, *level: Any
    ) -> tuple[float, float]:
        """The true excess risk (score, denoiser) of coefficients about the middle, where the whole population is known."""
        values, _ = self._centred(population, low, high)
        a, s2 = (float(value) for value in self.noise.values(*level))
        with mpmath.workdps(DIGITS):
            moments = [mpmath.mpf(value) for value in self._table(values, a, s2).mean(axis=1)]
            n = self.degree
            gram = mpmath.matrix([[moments[j + k] for k in range(n + 1)] for j in range(n + 1)])
            rhs = mpmath.matrix([0, *(-j * moments[j - 1] for j in range(1, n + 1))])
            gap = mpmath.matrix([mpmath.mpf(value) for value in theta]) - mpmath.lu_solve(gram, rhs)
            found = float((gap.T * gram * gap)[0])
        return found, found * s2**2 / a**2

    @staticmethod
    def _centred(clean: Any, low: float, high: float) -> tuple[np.ndarray, float]:
        low, high = float(rational(low)), float(rational(high))
        if not low < high:
            raise AnalyticError(f"the interval must have low < high, got [{low}, {high}]")
        values = np.asarray(clean, dtype=np.float64).reshape(-1)
        if len(values) < 2:
            raise AnalyticError(f"the bound needs at least 2 images, got {len(values)}")
        slack = 1e-12 * max(abs(low), abs(high))
        if not (values.min() >= low - slack and values.max() <= high + slack):
            worst = values[np.argmax(np.abs(values - (low + high) / 2))]
            raise AnalyticError(
                f"a value of {worst} lies outside [{low}, {high}]: give the interval in which every coefficient must lie"
            )
        return values - (low + high) / 2, (high - low) / 2

    def _table(self, values: np.ndarray, a: float, s2: float) -> np.ndarray:
        """``T_p`` of the values, p = 0 .. 2n: (2n + 1, N), by ``T_p = a x T_(p-1) + (p - 1) s^2 T_(p-2)``."""
        rows = [np.ones_like(values), a * values]
        for p in range(2, 2 * self.degree + 1):
            rows.append(a * values * rows[-1] + (p - 1) * s2 * rows[-2])
        return np.stack(rows)

    def _radius(self, inverse: Any, eps: Sequence[Any]) -> Any:
        """Upper bound on the spectral radius of ``|Ghat^-1| E``: Collatz and Wielandt's quotient of a positive vector."""
        size = range(self.degree + 1)
        product = [[sum(abs(inverse[j, i]) * eps[i + k] for i in size if i + k) for k in size] for j in size]
        vector = [1 / mpmath.sqrt(abs(inverse[k, k]) + 1) for k in size]
        best = mpmath.inf
        for _ in range(200):
            image = [sum(product[j][k] * vector[k] for k in size) for j in size]
            best = min(best, max(image[j] / vector[j] for j in size))
            top = max(image)
            vector = [value / top + mpmath.mpf(10) ** -30 for value in image]
        return best

    # -- printing --------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line."""
        return (
            f"finite samples, independent degree {self.degree}, {self.noise.kind.upper()}: a bound on the excess risk"
        )

    def latex(self, *, full: bool = True) -> str:
        """LaTeX: radii, the linear map M, and the theorem (``full`` or not: it is short)."""
        theta = [sp.Symbol(rf"\hat\theta_{k}") for k in range(self.degree + 1)]
        lines = [
            r"\varepsilon_p &= W_p \sqrt{\frac{\log(4 n / \delta)}{2 N}}, \qquad W_p = "
            r"T_p(B) - \min_{|x| \le B} T_p(x), \quad p = 1, \ldots, 2n",
            *(rf"T_{{{p}}}(x) &= {tex(self.smoothed(p))}" for p in range(1, min(2 * self.degree, 4) + 1)),
            rf"M &= {tex(self.matrix(theta))}",
            r"\eta &= \rho\bigl( |\hat G^{-1}|\, E \bigr), \qquad E_{jk} = \varepsilon_{j+k}",
            r"E (\hat c - c)^2 &\le \frac{1}{1 - \eta}\, \varepsilon^{\top} \bigl| M^{\top} \hat G^{-1} M \bigr| "
            r"\varepsilon \quad \text{with probability } 1 - \delta",
        ]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex() + "$"

    def written(self, *, full: bool = True) -> str:
        """Plain text with the verdicts of :meth:`check`."""
        theta = [sp.Symbol(f"thetahat_{k}") for k in range(self.degree + 1)]
        lines = [
            self.title,
            "x in [low, high], B = (high - low) / 2, N independent images, noise integrated exactly",
            "T_p(x) = E (a x + s z)^p about the middle; W_p = 2 T_p(B) (p odd), T_p(B) - T_p(0) (p even)",
            *(f"T_{p}(x) = {self.smoothed(p)}" for p in range(1, min(2 * self.degree, 4) + 1)),
            "eps_p = W_p sqrt(log(4 n / delta) / (2 N)), p = 1 .. 2n (Hoeffding)",
            f"M = {self.matrix(theta).tolist()}",
            "eta = spectral radius of |Ghat^-1| E, E_jk = eps_(j+k)",
            "with probability 1 - delta, if eta < 1: E (chat - c)^2 <= eps . |M^T Ghat^-1 M| eps / (1 - eta)",
        ]
        return "\n".join([*lines, *(f"{claim}: {'holds' if ok else 'FAILS'}" for claim, ok in self.check().items())])

    def __str__(self) -> str:
        return self.written()

    def __repr__(self) -> str:
        return f"FiniteSampleBound({self.degree}, {self.noise.kind!r})"


def interval_of(atom: Any, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """Where a wavelet coefficient ``psi . x`` lies when every pixel lies in ``[low, high]``.

    Raises:
        AnalyticError: an atom that is not finite, or low >= high.
    """
    weights = np.asarray(atom, dtype=np.float64).reshape(-1)
    if not (np.isfinite(weights).all() and isfinite(low) and isfinite(high) and low < high):
        raise AnalyticError(f"an atom of finite weights and low < high are needed, got [{low}, {high}]")
    up, down = float(weights[weights > 0].sum()), float(weights[weights < 0].sum())
    return up * low + down * high, up * high + down * low
