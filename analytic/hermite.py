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

from analytic.bases import change_of_basis
from analytic.coefficient import ScoreCoefficient
from analytic.errors import AnalyticError
from analytic.moments import noisy_symbol, standard_moment, standard_symbol, unit
from analytic.tex import tex


class HermiteTwin:
    """A coefficient in the Hermite basis beside the same one in monomials.

    Args: family, degree, noise and options as for :class:`analytic.coefficient.ScoreCoefficient` (or one of its
        objects); ``basis`` is ``"hermite"`` (default) or ``"standardized"`` (powers of ``u``).

    Attributes:
        monomial, twin: the two coefficients.
    """

    def __init__(
        self,
        family: str | ScoreCoefficient = "independent",
        degree: int = 3,
        noise: str = "ve",
        *,
        basis: str = "hermite",
        **options: Any,
    ) -> None:
        if isinstance(family, ScoreCoefficient):
            source = family
        else:
            source = ScoreCoefficient(family, degree, noise, **options)
        if source.ridge is not None:
            raise AnalyticError(
                f"the twins agree without a ridge only, got ridge={source.ridge!r}: the penalty depends on the basis"
            )
        if basis == "monomial":
            raise AnalyticError("basis 'monomial' is its own twin: use 'hermite' or 'standardized'")
        self.monomial = ScoreCoefficient(source.family, noise=source.noise)
        self.twin = ScoreCoefficient(source.family, noise=source.noise, basis=basis)

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
    def _standard(self) -> dict[sp.Expr, sp.Expr]:
        """Every standardised moment in noisy ones, with c and delta as symbols."""
        centres, scales = self.twin.scale_symbols
        rows = [row for row in self.twin.noisy_exponents if isinstance(standard_symbol(row), sp.Symbol)]
        table = {standard_symbol(row): standard_moment(row, centres, scales) for row in rows}
        return {name: value.xreplace(self._at_mean_and_scale) for name, value in table.items()}

    def residual_gram(self) -> sp.ImmutableMatrix:
        """``G_He - T G T^T``, (F, F), expanded: zero, identically in all moments."""
        gram = self.monomial.plain_gram.xreplace(self._at_mean_and_scale)
        # Multiplying two at a time with expansion in between keeps the intermediate sums short.
        left = (self.matrix * gram).applyfunc(sp.expand)
        right = (left * self.matrix.T).applyfunc(sp.expand)
        return sp.ImmutableMatrix((self.twin.plain_gram.xreplace(self._standard) - right).applyfunc(sp.expand))

    def residual_rhs(self) -> sp.ImmutableMatrix:
        """``b_He - T b``, (F, 1), expanded: zero."""
        right = self.matrix * self.monomial.rhs_of_stein.xreplace(self._at_mean_and_scale)
        return sp.ImmutableMatrix((self.twin.rhs_of_stein.xreplace(self._standard) - right).applyfunc(sp.expand))

    def determinant(self) -> sp.Expr:
        """``det T``, the product of its diagonal (checked to be triangular): not zero, so T is invertible.

        Raises:
            ArithmeticError: T is not lower triangular.
        """
        if not self.matrix.is_lower:
            raise ArithmeticError("T is not lower triangular in the family's order of features")
        return sp.prod([self.matrix[k, k] for k in range(self.matrix.shape[0])])

    def check(self) -> dict[str, bool]:
        """The three claims of the proof, recomputed."""
        return {
            "G_He = T G T^T": self.residual_gram().is_zero_matrix is True,
            "b_He = T b": self.residual_rhs().is_zero_matrix is True,
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
        """LaTeX: T, the twin's system and the identities."""
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
        lines = [f"{self.twin.title} = {self.monomial.title} under features = T monomials"]
        if size <= 12:
            lines += [f"T = {self.matrix.tolist()}", f"G_He = {self.twin.plain_gram.tolist()}"]
            lines.append(f"b_He = {list(self.twin.rhs_of_stein)}")
        else:
            lines.append(f"T is {size} x {size}, lower triangular")
        lines.append(f"det T = {self.determinant()}")
        lines += [f"{claim}: {'holds' if ok else 'FAILS'}" for claim, ok in self.check().items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"HermiteTwin({self.monomial!r}, basis={self.twin.basis!r})"
