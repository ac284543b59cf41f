"""How the *shape* of the data moves the score: the standardised sensitivity, with mean and variance held fixed.

In the standardised noisy coordinate ``u`` the score is ``sd * c = sum_k theta_k He_k(u)`` and its coefficients are functions
of the cumulants ``kappa_3, kappa_4, ...`` alone (:func:`analytic.theory.limits.cumulant_form`).  Implicit differentiation of the
Hermite system, ``theta' = G^-1 (b' - G' theta)``, gives ``d theta_k / d kappa_p``; the *response* of the score to the p-th
cumulant is the polynomial

    R_p(u) = sum_k (d theta_k / d kappa_p) He_k(u).

A clean standardised cumulant reaches the noisy coordinate shrunk, ``kappa_p = rho^(p/2) kappa_p(clean)``, by the signal's
share of the variance ``rho = a^2 v / (a^2 v + s^2)``.  So at a noise level the clean p-th cumulant moves the score by
``rho^(p/2) R_p``: the higher the moment, the sooner the noise hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import comb
from typing import Any

import sympy as sp

from analytic.algebra.bases import hermite_coefficients
from analytic.algebra.coefficient import Coefficient
from analytic.algebra.families import check_degree
from analytic.algebra.moments import moments_to_cumulants
from analytic.algebra.noise import check_level, noise_model
from analytic.algebra.rational import first_negative, rational
from analytic.errors import AnalyticError, FewAtoms, NotAMomentSequence
from analytic.numbers.conditions import refuse_no_law_of_one
from analytic.text.tex import tex
from analytic.theory.limits import VARIANCE

RHO = sp.Symbol("rho", positive=True)
U = sp.Symbol("u", real=True)


class Response:
    """``d theta_k / d kappa_p`` in the standardised coordinate, independent family.

    Args:
        degree: n >= 1; the cumulants are ``kappa_3 .. kappa_2n``.

    Attributes:
        degree; cumulants: their symbols, 2n - 2 of them (none at degree 1: the linear score sees no shape).

    >>> from analytic import Response
    >>> response = Response(2)
    >>> response.theta([0, 0]).T, response.closed_form().shape, response.system[0].shape
    (Matrix([[0, -1, 0]]), (3, 2), (3, 3))
    >>> response.jacobian().shape, response.elasticity([1, 1]).shape, response.polynomial(3) != 0
    ((3, 2), (3, 2), True)
    >>> response.title, len(response.latex()) > 100
    ('response of sd * score = sum_k theta_k He_k(u) to the cumulants, degree 2', True)
    """

    def __init__(self, degree: int = 3) -> None:
        check_degree(degree)
        self.degree = degree
        self.cumulants = [sp.Symbol(f"kappa_{p}", real=True) for p in range(3, 2 * degree + 1)]

    @cached_property
    def system(self) -> tuple[sp.ImmutableMatrix, sp.ImmutableMatrix]:
        """``G`` and ``sd * b`` of the Hermite features in the cumulants, (n+1, n+1) and (n+1, 1)."""
        c = Coefficient("independent", self.degree, basis="hermite")
        table = moments_to_cumulants(2 * self.degree)
        return (
            sp.ImmutableMatrix(c.gram.xreplace(table).applyfunc(sp.expand)),
            sp.ImmutableMatrix((c.rhs * c.scale_symbols[1][0]).xreplace(table).applyfunc(sp.expand)),
        )

    def jacobian(self, values: Sequence[Any] | None = None) -> sp.Matrix:
        """``d theta_k / d kappa_p``, (n + 1, 2n - 2): exact.

        Args:
            values: of the cumulants ``kappa_3 ..`` (rational in, rational out); default zero, the Gaussian.  There it
                is ``1 / k!`` at ``p = k + 1`` and zero elsewhere (:func:`analytic.theory.limits.first_order`).

        Raises:
            AnalyticError: wrong number of values.
            NotAMomentSequence: no law has these cumulants (a minor of G is negative).
            FewAtoms: no law with a density of this degree has these cumulants (det G = 0).
        """
        table = self._table(values)
        gram, rhs = (matrix.xreplace(table) for matrix in self.system)
        theta = self._solve(gram, rhs)
        slopes = [
            self._solve(
                gram, (self.system[1].diff(name) - self.system[0].diff(name) * sp.Matrix(theta)).xreplace(table)
            )
            for name in self.cumulants
        ]
        return sp.Matrix.hstack(*slopes) if slopes else sp.zeros(self.degree + 1, 0)

    def theta(self, values: Sequence[Any] | None = None) -> sp.Matrix:
        """Hermite coefficients of ``sd * c`` at given cumulants, (n + 1, 1), exact."""
        table = self._table(values)
        return self._solve(*(matrix.xreplace(table) for matrix in self.system))

    def elasticity(self, values: Sequence[Any]) -> sp.Matrix:
        """``(kappa_p / theta_k) d theta_k / d kappa_p``, (n + 1, 2n - 2); NaN-free: 0 where theta_k = 0 = its slope, oo else."""
        theta, jacobian, table = self.theta(values), self.jacobian(values), self._table(values)

        def entry(k: int, p: int) -> sp.Expr:
            top = jacobian[k, p] * table[self.cumulants[p]]
            return top / theta[k] if theta[k] != 0 else (sp.Integer(0) if top == 0 else sp.oo)

        return sp.Matrix(self.degree + 1, len(self.cumulants), entry)

    def closed_form(self) -> sp.ImmutableMatrix:
        """The Jacobian as rational functions of the cumulants, (n + 1, 2n - 2); degree <= 3.

        Raises:
            AnalyticError: a higher degree, whose entries fill pages: use :meth:`jacobian` at values.
        """
        if self.degree > 3:
            raise AnalyticError(f"degree {self.degree} is not written out (3 is the last): use jacobian(values)")
        gram, rhs = self.system
        theta = gram.LUsolve(rhs).applyfunc(sp.cancel)
        slopes = [
            gram.LUsolve(rhs.diff(name) - gram.diff(name) * theta).applyfunc(sp.factor) for name in self.cumulants
        ]
        return sp.ImmutableMatrix(sp.Matrix.hstack(*slopes)) if slopes else sp.ImmutableMatrix(self.degree + 1, 0, [])

    def polynomial(self, order: int, values: Sequence[Any] | None = None) -> sp.Expr:
        """``R_p(u)``: what one unit of ``kappa_p`` adds to ``sd * c`` at ``u``, to first order."""
        if not 3 <= order <= 2 * self.degree:
            raise AnalyticError(f"degree {self.degree} sees the cumulants 3 to {2 * self.degree}, got {order}")
        column = self.jacobian(values).col(order - 3)
        total = sp.Integer(0)
        for k, value in enumerate(column):
            total += value * sum(weight * U**power for power, weight in enumerate(hermite_coefficients(k)))
        return sp.expand(total)

    def _table(self, values: Sequence[Any] | None) -> dict[sp.Symbol, sp.Expr]:
        given = [0] * len(self.cumulants) if values is None else list(values)
        if len(given) != len(self.cumulants):
            raise AnalyticError(
                f"degree {self.degree} takes {len(self.cumulants)} cumulants (kappa_3 to kappa_{2 * self.degree}), "
                f"got {len(given)}"
            )
        return dict(zip(self.cumulants, map(rational, given)))

    @staticmethod
    def _solve(gram: sp.MatrixBase, rhs: sp.MatrixBase) -> sp.Matrix:
        negative = first_negative(gram)
        if negative is not None:
            raise NotAMomentSequence(
                f"no distribution has these cumulants: a minor of the Gram on He_{', He_'.join(map(str, negative[0]))} is "
                f"{sp.N(negative[1], 4)} < 0",
                "compute the cumulants from data, or from moments (standard_cumulants)",
            )
        if gram.det(method="bareiss") == 0:
            raise FewAtoms(
                "det G = 0: a law on at most n points has these cumulants", "use a lower degree, or noise s > 0"
            )
        return sp.Matrix(gram.LUsolve(rhs))

    # -- printing --------------------------------------------------------------------------------------------------

    def _entries(self) -> list[tuple[str, str, sp.Expr]]:
        matrix = self.closed_form() if self.degree <= 2 else self.jacobian()
        return [
            (f"theta_{k}", name.name, matrix[k, p])
            for p, name in enumerate(self.cumulants)
            for k in range(self.degree + 1)
            if matrix[k, p] != 0
        ]

    @property
    def title(self) -> str:
        """One line."""
        where = "" if self.degree <= 2 else ", at the Gaussian (all cumulants zero)"
        return f"response of sd * score = sum_k theta_k He_k(u) to the cumulants, degree {self.degree}{where}"

    def latex(self) -> str:
        """LaTeX: all entries that are not zero, then the shrinkage of the cumulants by noise."""
        lines = [
            rf"\frac{{\partial {tex(sp.Symbol(k))}}}{{\partial {tex(sp.Symbol(p))}}} &= {tex(value)}"
            for k, p, value in self._entries()
        ]
        lines.append(r"\kappa_p &= \rho^{p/2}\, \kappa_p^{\mathrm{clean}}, \qquad \rho = \frac{a^2 v}{a^2 v + s^2}")
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex() + "$"

    def __str__(self) -> str:
        lines = [self.title]
        lines += [f"d {k} / d {p} = {value}" for k, p, value in self._entries()]
        lines.append("kappa_p = rho^(p/2) kappa_p(clean), rho = a^2 v / (a^2 v + s^2)")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Response({self.degree})"


def signal_share(noise: str, *level: Any, variance: Any = VARIANCE) -> sp.Expr:
    """``rho = a^2 v / (a^2 v + s^2)`` at a level: the share of the signal in the noisy variance."""
    model = noise_model(noise)
    if level:
        check_level(model.kind, *level)
    table = dict(zip(model.level, map(rational, level)))
    signal = (model.a**2 * variance).xreplace(table)
    return sp.simplify(signal / (signal + model.s2.xreplace(table)))


def standard_cumulants(moments: Sequence[Any], noise: str = "clean", *level: Any) -> list[sp.Expr]:
    """Standardised noisy cumulants ``kappa_3 .. kappa_N`` from raw clean moments ``mu_0 = 1 .. mu_N``, exactly.

    Odd ones hold a square root of the variance.  Raises AnalyticError for bad moments or variance zero with no noise.
    """
    values = [rational(value) for value in moments]
    if len(values) < 3 or values[0] != 1:
        raise AnalyticError(f"moments must be mu_0 = 1, mu_1, mu_2, ...: got {list(moments)[:3]}")
    refuse_no_law_of_one(moments)
    model = noise_model(noise)
    a, s2 = model.values(*map(rational, level))
    k: list[sp.Expr] = [sp.Integer(0)]
    for p in range(1, len(values)):
        k.append(sp.expand(values[p] - sum(comb(p - 1, q - 1) * k[q] * values[p - q] for q in range(1, p))))
    total = a**2 * k[2] + s2
    if total <= 0:
        raise AnalyticError("the variance is zero and there is no noise: give sigma > 0 or other moments")
    return [sp.radsimp(a**p * k[p] / sp.sqrt(total) ** p) for p in range(3, len(values))]
