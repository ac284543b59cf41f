"""The divergence of the polynomial score in closed form, and what its mean says about the error.

In an orthonormal wavelet basis the score's divergence is the sum over coefficients of ``d c_lambda / d w_lambda``: a
polynomial again, ``sum_k theta_k d phi_k / d w``, no derivative of a network and no random probe.  Its mean is known without
drawing anything,

    E[div c] = theta . E[d phi / d w] = -theta . b,

and at the optimum (no ridge) ``theta . b = theta . G theta = E c^2``, so the error of the denoiser ``D = (y + s^2 c) / a``
(Tweedie) is Stein's unbiased risk,

    E (x - D)^2 = (s^2 + 2 s^4 E[div c] + s^4 E c^2) / a^2 = (s^2 / a^2) (1 + s^2 E[div c]).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import sympy as sp
from sympy.polys.rings import ring

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.families import monomial
from analytic.algebra.hankel import Polynomial, derivative, expectation, monomials
from analytic.algebra.moments import noisy_moment, noisy_symbol
from analytic.algebra.rational import rational
from analytic.errors import AnalyticError
from analytic.numbers.exact import exact_theta
from analytic.text.tex import tex, text
from analytic.theory.derivation import clean_times, score_times


class Divergence:
    """``d c / d w`` of a score coefficient in the monomial basis: what it adds to the divergence of the whole score.

    Args:
        coefficient: a score coefficient, or the arguments of one (family, degree, noise and options).

    Raises:
        AnalyticError: another basis (the same polynomial, see :class:`analytic.theory.hermite.HermiteTwin`), or the
            clean noise, which has no score.

    >>> Divergence("independent", 2).polynomial
    theta_1 + 2*theta_2*w
    >>> from analytic import Divergence
    >>> d = Divergence('independent', 2)
    >>> len(d.slopes), d.holds, set(d.check().values()), d.mean
    (3, True, {True}, 2*m_1*theta_2 + theta_1)
    >>> d.exact([1, 0, 1, 0, 3], 0, 1), d.title
    (-1/2, 'divergence of independent degree 2, VE, monomial basis')
    >>> len(d.latex()) > 100, len(d.written()) > 100
    (True, True)
    """

    def __init__(self, coefficient: Coefficient | str = "independent", *args: Any, **options: Any) -> None:
        if not isinstance(coefficient, Coefficient):
            coefficient = Coefficient(coefficient, *args, **options)
        if coefficient.basis != "monomial":
            raise AnalyticError(
                f'the divergence is written in basis="monomial", got {coefficient.basis!r}: '
                "analytic.HermiteTwin carries coefficients of the other bases to monomials"
            )
        if coefficient.noise.kind == "clean":
            raise AnalyticError('noise "clean" has no score and no divergence: use ve or vp')
        self.coefficient = coefficient

    @cached_property
    def slopes(self) -> list[Polynomial]:
        """``d phi_k / d w`` by the target, F polynomials in the noisy coefficients."""
        return [derivative(feature) for feature in monomials(self.coefficient.exponents)]

    @cached_property
    def polynomial(self) -> sp.Expr:
        """``d c / d w = sum_k theta_k d phi_k / d w``, with the coefficients as symbols ``theta_k``."""
        return self._at(self.coefficient.theta_symbols)

    def _at(self, theta: Sequence[Any]) -> sp.Expr:
        names = self.coefficient.variables
        return sp.Add(
            *(
                weight * value * monomial(row, names)
                for weight, slope in zip(theta, self.slopes)
                for row, value in slope.items()
            )
        )

    @cached_property
    def mean(self) -> sp.Expr:
        """``E[d c / d w] = -theta . b`` in noisy moments and ``theta_k``."""
        symbols = self.coefficient.theta_symbols
        return sp.Add(*(name * expectation(slope, noisy_symbol) for name, slope in zip(symbols, self.slopes)))

    def exact(self, moments: Sequence[Any], point: Sequence[Any] | Any, *level: Any, ridge: Any = 0) -> sp.Expr:
        """Exact value at a noisy point (one number a variable), from exact clean moments and a level.

        Raises:
            AnalyticError, SingularCoefficient: as :func:`analytic.exact_theta`; a point with other coordinates.
        """
        names = self.coefficient.variables
        given = list(point) if hasattr(point, "__len__") and not isinstance(point, str) else [point]
        if len(given) != len(names):
            raise AnalyticError(
                f"the point must hold {len(names)} coordinate(s) ({', '.join(map(str, names))}), got {len(given)}"
            )
        theta = exact_theta(self.coefficient, moments, *level, ridge=ridge)
        return sp.expand(self._at(theta).xreplace(dict(zip(names, map(rational, given)))))

    # -- proof -----------------------------------------------------------------------------------------------------

    def check(self) -> dict[str, bool]:
        """``{claim: holds}``, each recomputed by a second route; the last two are of the optimum without a ridge."""
        claims = {"E[d phi / d w] = E[e phi] / s": self._stein()}
        if self.coefficient.ridge is None:
            if self.coefficient.is_expanded:
                claims["E[div c] = -E c^2"] = self._square()
            claims["E (x - D)^2 = (s^2 / a^2)(1 + s^2 E[div c])"] = self._risk()
        return {claim: all(sp.expand(value) == 0 for value in values) for claim, values in claims.items()}

    @property
    def holds(self) -> bool:
        """Whether every claim of :meth:`check` holds."""
        return all(self.check().values())

    def _stein(self) -> list[sp.Expr]:
        """No derivative on the right: ``E[e phi]`` is expanded by the binomial theorem."""
        c = self.coefficient
        return [
            expectation(slope, lambda row: noisy_moment(row, c.noise)) + score_times(row, c.noise)
            for slope, row in zip(self.slopes, c.exponents)
        ]

    def _square(self) -> list[sp.Expr]:
        """``theta . b = theta . G theta`` with ``theta = N / det G``, times ``(det G)^2``: a polynomial identity."""
        c = self.coefficient
        tops, bottom = c.cofactors
        slopes = [expectation(slope, noisy_symbol) for slope in self.slopes]
        names = sorted(set().union(*(item.free_symbols for item in [*tops, bottom, *slopes, c.plain_gram])), key=str)
        if not names:
            return [
                sum(top * slope for top, slope in zip(tops, slopes)) * bottom + self._power(c.plain_gram.tolist(), tops)
            ]
        domain, *_ = ring(names, sp.QQ)
        vector, mean = (
            [domain.from_expr(top) for top in tops],
            [domain.from_expr(sp.sympify(value)) for value in slopes],
        )
        gram = [[domain.from_expr(entry) for entry in row] for row in c.plain_gram.tolist()]
        total = domain.from_expr(bottom) * sum((x * y for x, y in zip(vector, mean)), domain(0))
        return [(total + self._power(gram, vector)).as_expr()]

    @staticmethod
    def _power(gram: Sequence[Sequence[Any]], vector: Sequence[Any]) -> Any:
        """``v . G v`` in any ring."""
        return sum(
            (x * sum((entry * y for entry, y in zip(row, vector)), x * 0) for row, x in zip(gram, vector)),
            vector[0] * 0,
        )

    def _risk(self) -> list[sp.Expr]:
        """``a^2 E (x - D)^2`` from the moments of x and D, against Stein's risk, as polynomials in any ``theta``.

        The difference is a multiple of the normal equations: it is checked with ``theta . G theta`` replaced by
        ``theta . b``, which is what they say at the optimum.
        """
        c = self.coefficient
        a, s2 = c.noise.a, c.noise.s2
        theta = c.theta_symbols
        noisy = c.noisy_moments
        target = (1, *(0,) * (len(c.variables) - 1))
        square = (2, *target[1:])
        stein = -self.mean.xreplace(noisy)  # theta . b, and theta . G theta at the optimum
        signal = (noisy_moment(square, c.noise) - s2) / a**2  # E x^2
        with_clean = sp.Add(*(name * clean_times(row, c.noise) for name, row in zip(theta, c.exponents)))  # E[x c]
        with_noisy = sp.Add(
            *(name * noisy_moment((row[0] + 1, *row[1:]), c.noise) for name, row in zip(theta, c.exponents))
        )  # E[y c]
        cross = (a * signal + s2 * with_clean) / a  # E[x D]; E[x y] = a E x^2
        power = (noisy_moment(square, c.noise) + 2 * s2 * with_noisy + s2**2 * stein) / a**2  # E D^2
        risk = signal - 2 * cross + power
        return [sp.expand(a**2 * (risk - (s2 / a**2) * (1 - s2 * stein)))]

    # -- printing --------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line."""
        return f"divergence of {self.coefficient.title}"

    def latex(self, *, full: bool = True) -> str:
        """LaTeX: the polynomial, its mean, and Stein's risk; long sums cut unless full."""
        target = tex(self.coefficient.variables[0])
        a, s2 = tex(self.coefficient.noise.a), tex(self.coefficient.noise.s2)
        lines = [
            rf"\frac{{\partial c}}{{\partial {target}}} &= {tex(self.polynomial, full)}",
            rf"E\Bigl[\frac{{\partial c}}{{\partial {target}}}\Bigr] &= {tex(self.mean, full)} = -\theta \cdot b",
        ]
        if self.coefficient.ridge is None:
            lines.append(
                rf"E (x - D)^2 &= \frac{{s^2}}{{a^2}} \Bigl(1 + s^2 E\Bigl[\frac{{\partial c}}{{\partial {target}}}\Bigr]"
                rf"\Bigr), \qquad a = {a}, \; s^2 = {s2}"
            )
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex(full=False) + "$"

    def written(self, *, full: bool = False) -> str:
        """Plain text with the verdicts of :meth:`check`; unless ``full``, long sums are cut and the rest counted."""
        target = self.coefficient.variables[0]
        lines = [
            self.title,
            f"d c / d {target} = {text(self.polynomial, full)}",
            f"E[d c / d {target}] = {text(self.mean, full)} = -theta . b",
        ]
        if self.coefficient.ridge is None:
            lines.append(f"E (x - D)^2 = (s^2 / a^2) (1 + s^2 E[d c / d {target}])")
        return "\n".join([*lines, *(f"{claim}: {'holds' if ok else 'FAILS'}" for claim, ok in self.check().items())])

    def __str__(self) -> str:
        return self.written()

    def __repr__(self) -> str:
        return f"Divergence({self.coefficient!r})"
