"""How a moment of the data moves the score: ``d theta_k / d mu_p``, exactly (the question raised below equation (21)).

Differentiating ``G theta = b`` gives ``theta' = G^-1 (b' - G' theta)``: no quotient is differentiated.  A noisy moment
``m_q`` stands in G at the places whose exponents add up to q, and in b once, so with the cofactors of equation (21)

    d theta_k / d m_q = (1 / det G) [ sum_j C_jk db_j/dm_q - sum_(i + j = q) C_ik theta_j ]

and the clean moments enter linearly (equation (20)):

    d theta_k / d mu_p = sum_q  prod C(q, p) a^|p| s^(|q| - |p|) E[z^(q - p)]  d theta_k / d m_q .

The higher moments alone, in the standardised coordinate where mean and variance are fixed, are in
:mod:`analytic.theory.response`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import sympy as sp
from sympy.polys.matrices import DomainMatrix
from sympy.polys.matrices.exceptions import DMNonInvertibleMatrixError
from sympy.polys.rings import ring

from analytic.algebra.coefficient import LAMBDA, S2, Coefficient
from analytic.algebra.cofactor import cramer_minors
from analytic.algebra.moments import Exponent, as_exponent, clean_moment, noisy_moment, noisy_symbol
from analytic.algebra.noise import A, Noise, check_level
from analytic.algebra.program import Assignment, Program, solve_program, used
from analytic.algebra.rational import rational
from analytic.errors import AnalyticError
from analytic.numbers.conditions import clean_values, diagnosed
from analytic.numbers.exact import numeric_system
from analytic.numbers.jacobian import JacobianFunction
from analytic.text.generate import source_of_program
from analytic.text.tex import tex

SHOWN_WEIGHTS = 20  # derivatives dm_q / dmu_p that are printed; the rest is counted
MAX_ENTRIES = 4000  # entries of a Jacobian that is written as a program


class Sensitivity:
    """``d theta_k / d mu_p`` of a score coefficient in the monomial basis.

    Args:
        coefficient: a :class:`ScoreCoefficient`, or the arguments of one (family, degree, noise and options).
        moments: clean moments to differentiate by, as orders (``3``), exponents (``(1, 1, 0)``) or text (``"110"``);
            default all the coefficient depends on.

    Attributes:
        coefficient; exponents: of the clean moments p, P of them.

    Raises:
        AnalyticError: another basis (the coordinates themselves would move; see :mod:`analytic.theory.response`), or a moment
            the coefficient does not depend on.

    >>> from analytic import Sensitivity
    >>> s = Sensitivity('independent', 1)
    >>> s.in_clean().shape, s.elasticity().shape, s.adjugate.shape, len(s.score_slope()), len(s.weights) > 0
    ((2, 2), (2, 2), (2, 2), 2, True)
    >>> s.jacobian == s.differentiated_quotient(), s.moment_symbols, s.gram_slope((2,)), s.rhs_slope((2,)).T, s.by_noisy_moment(2)
    (False, [mu_1, mu_2], Matrix([
    [0, 0],
    [0, 1]]), Matrix([[0, 0]]), (-m_1/(-m_1**2 + m_2)**2, (-m_1**2 + m_2)**(-2)))
    >>> s.exact([1, 0, 3], 1)
    Matrix([
    [1/4,    0],
    [  0, 1/16]])
    >>> s.lambdify()([1.0, 0.0, 3.0], 1.0).shape, 'def sensitivity' in s.code(), type(s.program()).__name__
    ((2, 2), True, 'Program')
    >>> s.title, len(s.entries()), len(s.latex()) > 100
    ('sensitivity of independent degree 1, VE, monomial basis to mu_1, mu_2', 4, True)
    """

    def __init__(
        self,
        coefficient: Coefficient | str = "independent",
        *args: Any,
        moments: Sequence[int | str | Exponent] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(coefficient, Coefficient):
            coefficient = Coefficient(coefficient, *args, **options)
        if coefficient.basis != "monomial":
            raise AnalyticError(
                f'sensitivities are of basis="monomial", got {coefficient.basis!r}: in a standardised basis the '
                "coordinates move with the moments; analytic.theory.response holds mean and variance fixed"
            )
        self.coefficient = coefficient
        known = [row for row in coefficient.moment_exponents if any(row)]
        self.exponents = known if moments is None else [self._read(moment, known) for moment in moments]

    def _read(self, moment: int | str | Exponent, known: list[Exponent]) -> Exponent:
        width, given = len(self.coefficient.variables), moment
        if isinstance(moment, str):
            text = moment.removeprefix("mu_")
            if not text.replace("_", "").isdigit():
                raise AnalyticError(f"moment {moment!r} is not an order: write 3, or exponents such as 110")
            several = text.split("_") if "_" in text else list(text) if width > 1 else [text]
            moment = tuple(int(part) for part in several)
        exponent = as_exponent(moment)
        if exponent not in known:
            shown = ", ".join("".join(map(str, row)) for row in known[:6])
            raise AnalyticError(
                f"{self.coefficient.title} does not depend on a moment {given!r}: use any of {shown}"
                + (", ..." if len(known) > 6 else "")
            )
        return exponent

    @property
    def moment_symbols(self) -> list[sp.Expr]:
        """The clean moments differentiated by, P symbols ``mu_p``."""
        return [clean_moment(row) for row in self.exponents]

    # -- by noisy moments ------------------------------------------------------------------------------------------

    def gram_slope(self, noisy: Exponent) -> sp.ImmutableMatrix:
        """``dG / dm_q``, (F, F): ones where the exponents of two features add up to q (and the ridge's part)."""
        return sp.ImmutableMatrix(self.coefficient.gram.diff(noisy_symbol(noisy)))

    def rhs_slope(self, noisy: Exponent) -> sp.ImmutableMatrix:
        """``db / dm_q``, (F, 1)."""
        return sp.ImmutableMatrix(self.coefficient.rhs.diff(noisy_symbol(noisy)))

    @cached_property
    def adjugate(self) -> sp.ImmutableMatrix:
        """Cofactors ``C_jk`` of G, (F, F), polynomials in the noisy moments (G is symmetric, so is this).

        Raises:
            AnalyticError: more features than are written out; use :meth:`program` or :meth:`exact`.
        """
        self._require_expanded()
        size = len(self.coefficient.family)
        gram = self.coefficient.gram
        names = sorted(gram.free_symbols, key=lambda symbol: symbol.name)
        if size == 1 or not names:
            return sp.ImmutableMatrix(gram.adjugate())
        domain, *_ = ring(names, sp.QQ)
        rows = [[domain.from_expr(entry) for entry in gram.row(j)] for j in range(size)]
        out = [[sp.Integer(0)] * size for _ in range(size)]
        for k in range(size):
            # the numerators of Cramer's rule for the k-th unit vector are the k-th row of cofactors
            unit = [[domain(int(j == k))] for j in range(size)]
            numerators, _ = cramer_minors([row + b for row, b in zip(rows, unit)])
            for j, value in enumerate(numerators):
                out[k][j] = value.as_expr()
        return sp.ImmutableMatrix(out)

    def _require_expanded(self) -> None:
        if not self.coefficient.is_expanded:
            raise AnalyticError(
                f"{self.coefficient.title} has {len(self.coefficient.family)} features, too many to write its "
                "sensitivity out: use program(), lambdify() or exact() with a few moments=..."
            )

    def by_noisy_moment(self, noisy: int | Exponent) -> tuple[sp.Expr, ...]:
        """``d theta_k / d m_q``, F rational functions of the noisy moments; q any of ``coefficient.noisy_exponents``.

        ``[ C (b' det G - G' N) ]_k / (det G)^2`` with ``N`` the numerators of equation (21).
        """
        tops = self._noisy_numerators[as_exponent(noisy)]
        determinant = self.coefficient.cofactors[1]
        return tuple(top / determinant**2 for top in tops)

    @cached_property
    def _noisy_numerators(self) -> dict[Exponent, list[sp.Expr]]:
        """Numerators over ``(det G)^2`` by every noisy moment; unexpanded products of polynomials."""
        c = self.coefficient
        adjugate = self.adjugate
        numerators, determinant = c.cofactors
        found = {}
        for row in c.noisy_exponents:
            if any(row):
                change = self.rhs_slope(row) * determinant - self.gram_slope(row) * sp.Matrix(numerators)
                found[row] = list(adjugate * change)
        return found

    # -- by clean moments ------------------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> dict[tuple[Exponent, Exponent], sp.Expr]:
        """``{(q, p): dm_q / dmu_p}``, the constants of equation (20), zero ones left out."""
        wanted = {clean_moment(row): row for row in self.exponents}
        found = {}
        for row in self.coefficient.noisy_exponents:
            if any(row):
                value = noisy_moment(row, self.coefficient.noise)
                for symbol in sorted(value.free_symbols & wanted.keys(), key=str):
                    found[row, wanted[symbol]] = value.diff(symbol)
        return found

    @cached_property
    def jacobian(self) -> sp.ImmutableMatrix:
        """``d theta_k / d mu_p``, (F, P), in the noisy moments, a and s.

        Raises:
            AnalyticError: more than seven features (see :attr:`adjugate`).
        """
        determinant = self.coefficient.cofactors[1]
        columns = []
        for p in self.exponents:
            parts = [(w, self._noisy_numerators[q]) for (q, row), w in self.weights.items() if row == p]
            columns.append(
                [
                    sp.Add(*(w * tops[k] for w, tops in parts)) / determinant**2
                    for k in range(len(self.coefficient.family))
                ]
            )
        return sp.ImmutableMatrix(columns).T

    def in_clean(self) -> sp.ImmutableMatrix:
        """:attr:`jacobian` in clean moments and the noise level, (F, P)."""
        return sp.ImmutableMatrix(self.jacobian.applyfunc(self.coefficient.in_clean))

    def differentiated_quotient(self) -> sp.ImmutableMatrix:
        """The same by the other route: SymPy differentiates the quotients ``N_k / det G`` in clean moments, (F, P)."""
        quotients = self.coefficient.theta_clean()
        return sp.ImmutableMatrix([[theta.diff(name) for name in self.moment_symbols] for theta in quotients])

    def elasticity(self) -> sp.ImmutableMatrix:
        """``(mu_p / theta_k) d theta_k / d mu_p``, (F, P): per cent of theta_k for one per cent of mu_p, in noisy moments.

        Dimensionless, but of raw moments; :class:`analytic.theory.response.Response` is the standardised form.
        """
        theta, jacobian = self.coefficient.theta, self.jacobian
        return sp.ImmutableMatrix(
            len(theta), len(self.exponents), lambda k, p: jacobian[k, p] * self.moment_symbols[p] / theta[k]
        )

    def score_slope(self) -> tuple[sp.Expr, ...]:
        """``d c(y) / d mu_p = sum_k (d theta_k / d mu_p) phi_k``, P expressions in the noisy coefficients."""
        features = sp.Matrix(self.coefficient.features)
        return tuple(self.jacobian.T * features)

    # -- numbers ---------------------------------------------------------------------------------------------------

    def exact(self, moments: Sequence[Any], *level: Any, ridge: Any = 0) -> sp.Matrix:
        """Exact ``d theta_k / d mu_p`` at given moments, (F, P): rational in, rational out (VP: with ``sqrt(abar)``).

        Any number of features.

        Raises:
            AnalyticError, SingularCoefficient: as :func:`analytic.numbers.exact.exact_theta`.
        """
        c = self.coefficient
        if c.noise.kind == "vp" and c.ridge in (None, "unit"):
            # VP is VE at sigma^2 = (1 - abar) / abar: theta_k^VP = a^-(|k| + 1) theta_k^VE, which keeps this rational
            check_level("vp", *level)
            value = rational(level[0])
            twin = Sensitivity(Coefficient(c.family, noise="ve", ridge=c.ridge), moments=self.exponents)
            found = twin.exact(moments, sp.sqrt((1 - value) / value), ridge=ridge)
            scale = sp.diag(*[sp.sqrt(value) ** -(sum(row) + 1) for row in c.exponents])
            return scale * found
        gram, rhs = numeric_system(c, moments, *level, ridge=ridge)
        levels = dict(zip(c.noise.level, map(rational, level))) | {LAMBDA: rational(ridge)}
        clean = clean_values(c, moments)
        unit, known = _solver(gram)
        if unit is None:
            raise diagnosed(c, moments)
        theta = known(rhs)
        columns = []
        for p in self.exponents:
            slope_gram, slope_rhs = sp.zeros(*gram.shape), sp.zeros(gram.shape[0], 1)
            for (q, row), weight in self.weights.items():
                if row == p:
                    value = weight.xreplace(levels)
                    slope_gram += value * self.gram_slope(q).xreplace(levels).xreplace(clean)
                    slope_rhs += value * self.rhs_slope(q).xreplace(levels).xreplace(clean)
            columns.append(known(slope_rhs - slope_gram * theta))
        return sp.Matrix.hstack(*columns).applyfunc(lambda value: value if value.is_Rational else sp.radsimp(value))

    def program(self, method: str = "elimination") -> Program:
        """Straight-line program for the F * P entries (row by row), in the inputs of ``coefficient.program``.

        One factorisation serves theta and every right-hand side ``b' - G' theta``.

        Raises:
            AnalyticError: more than 4,000 entries: ask for a few moments.
        """
        c = self.coefficient
        size = len(c.family)
        if size * len(self.exponents) > MAX_ENTRIES:
            raise AnalyticError(
                f"{c.title}: {size} x {len(self.exponents)} sensitivities are too many for one program: "
                "choose some moments=..., or use exact()"
            )
        base = c.program(method)
        theta = [sp.Symbol(f"theta_{k}") for k in range(size)]
        steps: list[Assignment] = [*base.assignments, *zip(theta, base.outputs)]
        general = Noise("general", A, S2, (A, S2))
        known = {name for name, _ in steps}
        for row in c.noisy_exponents:  # what the solution itself did not need
            if any(row) and noisy_symbol(row) not in known:
                steps.append((noisy_symbol(row), noisy_moment(row, general)))
        outputs: list[list[sp.Expr]] = []
        for index, p in enumerate(self.exponents):
            change = sp.zeros(size, 1)
            for (q, row), _ in self.weights.items():
                if row == p:
                    weight = noisy_moment(q, general).diff(clean_moment(p))
                    change += weight * (self.rhs_slope(q) - self.gram_slope(q) * sp.Matrix(theta))
            names = [sp.Symbol(f"h_{index}_{k}") for k in range(size)]
            steps += list(zip(names, change))
            solution, values = solve_program(c.gram, sp.Matrix(names), "elimination")
            # the factor is the same for every right-hand side: only the substitutions are renamed
            fresh: dict[Any, Any] = {}
            for name, value in solution:
                if name.name[0] in "ft":
                    fresh[name] = sp.Symbol(f"{name.name[0]}_{index}_{name.name[2:]}")
                    steps.append((fresh[name], value.xreplace(fresh)))
                elif name not in known:
                    known.add(name)
                    steps.append((name, value))
            outputs.append([value.xreplace(fresh) for value in values])
        flat = [outputs[p][k] for k in range(size) for p in range(len(self.exponents))]
        return used(Program(base.inputs, tuple(steps), tuple(flat)))

    def lambdify(self, backend: str = "numpy") -> Any:
        """``f(moments, *level, ridge=0) -> (F, P, ...)``: float64, moments (M, ...) as for the coefficient.

        Backends: numpy, torch, mpmath.  No accuracy is checked here: ``coefficient.lambdify()(...)`` does that.
        """
        return _compiled(self.coefficient, tuple(self.exponents), backend)

    def code(self, language: str = "numpy", *, name: str = "sensitivity", cse: bool = True) -> str:
        """Source text of a function that computes the Jacobian, row by row: ``numpy``, ``torch`` or ``c``."""
        return source_of_program(
            self.coefficient,
            self.program(),
            language,
            name,
            cse,
            f"d theta_k / d mu_p of {self.coefficient.title}, {len(self.coefficient.family)} x {len(self.exponents)}.",
        )

    # -- printing --------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line."""
        return f"sensitivity of {self.coefficient.title} to {', '.join(map(str, self.moment_symbols[:8]))}" + (
            ", ..." if len(self.exponents) > 8 else ""
        )

    def entries(self) -> list[tuple[sp.Symbol, sp.Expr, sp.Expr]]:
        """``(theta_k, m_q, d theta_k / d m_q)``: numerators factored, over powers of ``Delta = det G``."""
        delta = sp.Symbol("Delta")
        determinant = self.coefficient.cofactors[1]
        found = []
        for row, tops in self._noisy_numerators.items():
            for name, top in zip(self.coefficient.theta_symbols, tops):
                top, power = sp.expand(top), 2
                quotient, rest = sp.div(top, determinant, *sorted(determinant.free_symbols, key=str))
                if rest == 0:  # one det G cancels
                    top, power = quotient, 1
                found.append((name, noisy_symbol(row), sp.factor(top) / delta**power))
        return found

    @property
    def _written_out(self) -> bool:
        return self.coefficient.is_expanded and len(self.coefficient.family) <= 3

    def latex(self) -> str:
        """LaTeX: the rule; ``d theta_k / d m_q`` (to three features every entry); and ``d m_q / d mu_p``."""

        def slope(top: sp.Expr, bottom: sp.Expr) -> str:
            return rf"\frac{{\partial {tex(top)}}}{{\partial {tex(bottom)}}}"

        lines = [
            r"\frac{\partial \theta}{\partial \mu_p} &= G^{-1} \left( \frac{\partial b}{\partial \mu_p} - "
            r"\frac{\partial G}{\partial \mu_p}\, \theta \right)",
            r"\frac{\partial \theta_k}{\partial \mu_p} &= \sum_q \frac{\partial m_q}{\partial \mu_p} "
            r"\frac{\partial \theta_k}{\partial m_q}",
            r"\frac{\partial \theta_k}{\partial m_q} &= \frac{1}{\Delta} \Bigl[ \sum_j C_{jk} "
            r"\frac{\partial b_j}{\partial m_q} - \sum_{i + j = q} C_{ik}\, \theta_j \Bigr], \quad \Delta = \det G",
        ]
        if self._written_out:
            lines.append(rf"\Delta &= {tex(self.coefficient.cofactors[1])}")
            lines += [f"{slope(name, moment)} &= {tex(value)}" for name, moment, value in self.entries()]
        shown = list(self.weights.items())[:SHOWN_WEIGHTS]
        lines += [f"{slope(noisy_symbol(q), clean_moment(p))} &= {tex(weight)}" for (q, p), weight in shown]
        if len(self.weights) > len(shown):
            lines.append(rf"&\;\ldots\ \text{{and {len(self.weights) - len(shown)} more weights}}")
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex() + "$"

    def __str__(self) -> str:
        lines = [
            self.title,
            "d theta / d mu_p = G^-1 (db/dmu_p - dG/dmu_p theta), in steps:",
            "d theta_k / d mu_p = sum_q (d m_q / d mu_p) d theta_k / d m_q",
            "d theta_k / d m_q = (1 / Delta) [sum_j C_jk db_j/dm_q - sum_(i+j=q) C_ik theta_j],  Delta = det G",
        ]
        if self._written_out:
            lines.append(f"Delta = {self.coefficient.cofactors[1]}")
            lines += [f"d {name} / d {moment} = {value}" for name, moment, value in self.entries()]
        shown = list(self.weights.items())[:SHOWN_WEIGHTS]
        lines += [f"d {noisy_symbol(q)} / d {clean_moment(p)} = {weight}" for (q, p), weight in shown]
        if len(self.weights) > len(shown):
            lines.append(f"... and {len(self.weights) - len(shown)} more (Sensitivity.weights)")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Sensitivity({self.coefficient!r}, moments={self.exponents!r})"


def _solver(gram: sp.Matrix) -> Any:
    """``(inverse, solve)`` of an exact matrix; the inverse is None where it is singular."""
    if all(entry.is_Rational for entry in gram):
        try:
            inverse = DomainMatrix.from_Matrix(gram).convert_to(sp.QQ).inv().to_Matrix()
        except DMNonInvertibleMatrixError:
            return None, None
    else:
        if sp.simplify(gram.det(method="berkowitz")) == 0:
            return None, None
        inverse = gram.inv(method="LU").applyfunc(sp.radsimp)
    return inverse, lambda right: (inverse * right).applyfunc(sp.expand)


@lru_cache(maxsize=32)
def _compiled(coefficient: Coefficient, exponents: tuple[Exponent, ...], backend: str) -> JacobianFunction:
    """The Jacobian's program, compiled once for equal coefficients."""
    program = Sensitivity(coefficient, moments=exponents).program().with_cse()
    return JacobianFunction(coefficient, program, len(exponents), backend)
