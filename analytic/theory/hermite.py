"""The Hermite twin of a coefficient: the same system under a change of basis, proved by computation.

With ``features = T monomials`` the claim is ``G_He = T G T^T`` and ``b_He = T b``.  Then ``G_He theta_He = b_He`` is
``T (G T^T theta_He - b) = 0``, and because T is invertible ``theta = T^T theta_He``: one polynomial, two sets of numbers.
Both sides are computed separately: the left one from ``He_k`` and the moments ``g_p`` of the standardised coordinate (with
``g_1 = 0``, ``g_2 = 1``), the right one from the monomial system and the expansion of the ``He_k``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import sympy as sp

from analytic.algebra.bases import basis_features, change_of_basis
from analytic.algebra.coefficient import Coefficient
from analytic.algebra.hankel import Polynomial, derivative, expectation, multiply
from analytic.algebra.moments import Exponent, noisy_symbol, standard_moment, standard_symbol, unit
from analytic.errors import AnalyticError
from analytic.text.tex import tex


class HermiteTwin:
    """A coefficient in the Hermite basis beside the same one in monomials.

    Args: family, degree, noise and options as for :class:`analytic.score.ScoreCoefficient` (or one of its
        objects); ``basis`` is ``"hermite"`` (default) or ``"standardized"`` (powers of ``u``).

    Attributes:
        monomial, twin: the two coefficients.

    >>> from analytic import HermiteTwin
    >>> twin = HermiteTwin('independent', 2)
    >>> twin.holds, set(twin.check().values()), twin.matrix.shape, len(twin.representatives), len(twin.theta)
    (True, {True}, (3, 3), 6, 3)
    >>> len(twin.residual_gram()) > 0, len(twin.residual_rhs()), twin.determinant() != 0, len(twin.latex()) > 100
    (True, 3, True, True)
    """

    def __init__(
        self,
        family: str | Coefficient = "independent",
        degree: int = 3,
        noise: str = "ve",
        *,
        basis: str = "hermite",
        **options: Any,
    ) -> None:
        if isinstance(family, Coefficient):
            source = family
        else:
            source = Coefficient(family, degree, noise, **options)
        if source.ridge is not None:
            raise AnalyticError(
                f"the twins agree without a ridge only, got ridge={source.ridge!r}: the penalty depends on the basis"
            )
        if basis == "monomial":
            raise AnalyticError("basis 'monomial' is its own twin: use 'hermite' or 'standardized'")
        self.monomial = Coefficient(source.family, noise=source.noise)
        self.twin = Coefficient(source.family, noise=source.noise, basis=basis)

    @cached_property
    def matrix(self) -> sp.ImmutableMatrix:
        """``T``, (F, F): ``twin features = T monomials``; lower triangular up to order, in c and delta."""
        return change_of_basis(self.twin.family, self.twin.basis, *self.twin.scale_symbols)

    @cached_property
    def _at_mean_and_scale(self) -> dict[sp.Expr, sp.Expr]:
        """What "c is the noisy mean and delta the noisy standard deviation" says of the noisy moments."""
        centres, scales = self.twin.scale_symbols
        count = len(centres)
        table: dict[sp.Expr, sp.Expr] = {}
        for i, (c, d) in enumerate(zip(centres, scales)):
            table[noisy_symbol(unit(i, count))] = c
            table[noisy_symbol(unit(i, count, 2))] = c**2 + d**2
        return table

    @cached_property
    def _features(self) -> list[Polynomial]:
        return basis_features(self.twin.family, self.twin.basis, *self.twin.scale_symbols)

    @cached_property
    def _rows(self) -> list[list[tuple[int, sp.Expr]]]:
        """Entries of T that are not zero, row by row."""
        size = self.matrix.shape[0]
        return [[(k, self.matrix[j, k]) for k in range(size) if self.matrix[j, k] != 0] for j in range(size)]

    def _standard(self, exponent: Exponent) -> sp.Expr:
        """A standardised moment in noisy ones, with c and delta as symbols."""
        if exponent not in self._known:
            value = standard_symbol(exponent)
            if isinstance(value, sp.Symbol):
                value = standard_moment(exponent, *self.twin.scale_symbols).xreplace(self._at_mean_and_scale)
            self._known[exponent] = value
        return self._known[exponent]

    @cached_property
    def _known(self) -> dict[Exponent, sp.Expr]:
        return {}

    @cached_property
    def representatives(self) -> list[tuple[int, int]]:
        """Pairs (j, k) of features to check; every other entry of G is one of these with its variables renamed.

        The features treat all variables but the target alike, and so do both sides of the claim: entries that differ by
        a relabelling of those variables are one identity, checked once.
        """
        rows = self.twin.exponents
        seen: dict[Any, tuple[int, int]] = {}
        for j, left in enumerate(rows):
            for k in range(j, len(rows)):
                columns = list(zip(left, rows[k]))
                swapped = [(y, x) for x, y in columns]
                key = min((c[0], *sorted(c[1:])) for c in (columns, swapped))
                seen.setdefault(key, (j, k))
        return list(seen.values())

    def residual_gram(self) -> dict[tuple[int, int], sp.Expr]:
        """``{(j, k): (G_He - T G T^T)_jk}``, expanded, at the :attr:`representatives`: zero, identically in all moments."""
        exponents, place = self.monomial.exponents, self._at_mean_and_scale
        found = {}
        for j, k in self.representatives:
            left = expectation(multiply(self._features[j], self._features[k]), self._standard)
            right = sp.Add(
                *(
                    x * y * noisy_symbol(tuple(p + q for p, q in zip(exponents[m], exponents[n]))).xreplace(place)
                    for m, x in self._rows[j]
                    for n, y in self._rows[k]
                )
            )
            found[j, k] = sp.expand(left - right)
        return found

    def residual_rhs(self) -> list[sp.Expr]:
        """``b_He - T b``, F values, expanded: zero."""
        step = self.twin.scale_symbols[1][0]
        plain = self.monomial.rhs_of_stein.xreplace(self._at_mean_and_scale)
        return [
            sp.expand(
                -expectation(derivative(feature), self._standard) / step - sp.Add(*(x * plain[k] for k, x in row))
            )
            for feature, row in zip(self._features, self._rows)
        ]

    def determinant(self) -> sp.Expr:
        """``det T``, the product of its diagonal (checked to be triangular): not zero, so T is invertible.

        Raises:
            ArithmeticError: T is not lower triangular.
        """
        if not self.matrix.is_lower:
            raise ArithmeticError("T is not lower triangular in the family's order of features")
        return sp.prod([self.matrix[k, k] for k in range(self.matrix.shape[0])])

    def check(self) -> dict[str, bool]:
        """The three claims of the proof, computed (once per object)."""
        if not self._verdicts:
            self._verdicts.update(self._prove())
        return dict(self._verdicts)

    @cached_property
    def _verdicts(self) -> dict[str, bool]:
        return {}

    def _prove(self) -> dict[str, bool]:
        return {
            "G_He = T G T^T": all(value == 0 for value in self.residual_gram().values()),
            "b_He = T b": all(value == 0 for value in self.residual_rhs()),
            "det T != 0": self.determinant().is_nonzero is True,
        }

    @property
    def holds(self) -> bool:
        """Whether the proof goes through."""
        return all(self.check().values())

    @property
    def theta(self) -> tuple[sp.Expr, ...]:
        """Monomial coefficients from the twin's closed form, ``T^T theta_He``, F of them."""
        vector = sp.Matrix(self.twin.theta if self.twin.is_expanded else self.twin.theta_symbols)
        return tuple(self.matrix.T * vector)

    def latex(self) -> str:
        """LaTeX: T, the twin's system and the identities.

        Raises:
            AnalyticError: more than 12 features.
        """
        if len(self.twin.family) > 12:
            raise AnalyticError(
                f"{len(self.twin.family)} features are too many for LaTeX (12 is the most): print it as text, or use "
                "matrix and twin.plain_gram"
            )
        lines = [
            rf"T &= {tex(self.matrix)}",
            rf"G_{{He}} = T G T^{{\top}} &= {tex(self.twin.plain_gram)}",
            rf"b_{{He}} = T b &= {tex(self.twin.rhs_of_stein)}",
            rf"\theta &= T^{{\top}} \theta_{{He}}, \qquad \det T = {tex(self.determinant())}",
        ]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex() + "$"

    def __str__(self) -> str:
        size = len(self.twin.family)
        lines = [
            f"{self.twin.title} = {self.monomial.title} under features = T monomials",
            "u = (w - c) / delta in each coordinate, c its noisy mean and delta its noisy standard deviation",
        ]
        if size <= 12:
            lines += [f"T = {self.matrix.tolist()}", f"G_He = {self.twin.plain_gram.tolist()}"]
            lines.append(f"b_He = {list(self.twin.rhs_of_stein)}")
        else:
            entries = sum(map(len, self._rows))
            lines.append(f"T is {size} x {size}, lower triangular, {entries} entries not zero")
        lines.append(f"det T = {self.determinant()}")
        lines += [f"{claim}: {'holds' if ok else 'FAILS'}" for claim, ok in self.check().items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"HermiteTwin({self.monomial!r}, basis={self.twin.basis!r})"
