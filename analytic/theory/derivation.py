"""The derivation, step by step: Stein's identity, normal equations, Hankel system, noisy moments, cofactor formula.

It starts from score matching at one noise level (equations (3), (4)), where the gradient of the quadratic loss vanishes
(equations (7), (8)), and uses Stein's identity (equations (11), (12), (13)).

Every step is a :class:`Step`: a sentence, its formulas as SymPy equations, and a list of *residuals* that are computed by
a second route and must be zero.  ``Derivation.check()`` recomputes them; nothing is asserted from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import comb, prod
from typing import Any

import sympy as sp
from sympy.polys.rings import ring

from analytic.algebra.coefficient import LAMBDA, Coefficient
from analytic.algebra.hankel import Polynomial, monomials
from analytic.algebra.laws import moments_of_samples
from analytic.algebra.moments import Exponent, clean_moment, gaussian_moment, heat_moment, noisy_moment, noisy_symbol
from analytic.algebra.noise import Noise
from analytic.errors import AnalyticError
from analytic.numbers.exact import exact_theta
from analytic.text.tex import tex, text

SHOWN = 12  # formulas printed per step; the rest is counted
MAX_SOLVED = 7  # features up to which the solution is multiplied out in the check
MAX_PROGRAM = 60  # features up to which the solution's program is run in the check; beyond, that of a lower degree


def equation(left: Any, right: Any) -> sp.Eq:
    """``left = right``, kept as it stands."""
    return sp.Eq(left, right, evaluate=False)


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        title, text: what happens; equations: the formulas; residuals: a function that computes expressions which
        must all be zero (by another route than the formulas); proof: one line that says how they are computed.
    """

    title: str
    text: str
    equations: tuple[sp.Basic, ...]
    residuals: Callable[[], list[sp.Expr]]
    proof: str

    @property
    def holds(self) -> bool:
        """Whether every residual is zero."""
        return all(sp.expand(value) == 0 for value in self.residuals())

    def latex(self, *, full: bool = True) -> str:
        """The formulas, aligned; lists are cut at :data:`SHOWN`, and long sums unless ``full``."""
        lines = [tex(item, full).replace(" = ", " &= ", 1) for item in self.equations[:SHOWN]]
        if len(self.equations) > SHOWN:
            lines.append(rf"&\;\ldots\ \text{{and {len(self.equations) - SHOWN} more}}")
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex(full=False) + "$"

    def written(self, *, full: bool = False) -> str:
        """Plain text; unless ``full``, the list of formulas is cut at :data:`SHOWN` and sums at 40 terms."""
        shown = [
            f"    {text(item.lhs, full)} = {text(item.rhs, full)}" if isinstance(item, sp.Eq) else f"    {item}"
            for item in (self.equations if full else self.equations[:SHOWN])
        ]
        if len(shown) < len(self.equations):
            shown.append(f"    ... and {len(self.equations) - SHOWN} more")
        return "\n".join([self.title, f"  {self.text}", *shown, f"  checked: {self.proof}"])

    def __str__(self) -> str:
        return self.written()


class Derivation:
    """The steps that lead from the noise model to the closed form of a coefficient, in the monomial basis.

    Args: those of :class:`analytic.score.ScoreCoefficient`, or one of its objects.

    Iterate over it for the :class:`Step` objects; ``print`` it, or let a notebook show it.

    >>> from analytic import Derivation
    >>> d = Derivation('independent', 2)
    >>> len(d.steps), all(d.check().values()), d.title
    (6, True, 'independent degree 2, VE, monomial basis')
    >>> len(d.latex()) > 100, len(d.written()) > 100
    (True, True)
    """

    def __init__(self, coefficient: Coefficient | str = "independent", *args: Any, **options: Any) -> None:
        self.coefficient = (
            coefficient if isinstance(coefficient, Coefficient) else Coefficient(coefficient, *args, **options)
        )
        if self.coefficient.basis != "monomial":
            raise AnalyticError(
                f'the derivation is written in basis="monomial", got {self.coefficient.basis!r}: '
                "analytic.theory.hermite.HermiteTwin carries it to the other bases"
            )
        if self.coefficient.noise.kind == "clean":
            raise AnalyticError(
                'noise "clean" has no score to derive: use ve or vp, and analytic.theory.limits for s -> 0'
            )

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, in order."""
        c = self.coefficient
        steps = [self._stein(), self._normal_equations(), self._system(), self._noisy_moments()]
        if c.ridge is not None:
            steps.append(self._ridge())
        return (*steps, self._solution(), self._denoiser())

    def __iter__(self) -> Any:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    def check(self) -> dict[str, bool]:
        """``{title: holds}`` of every step, recomputed."""
        return {step.title: step.holds for step in self.steps}

    # -- the steps -------------------------------------------------------------------------------------------

    @property
    def _names(self) -> tuple[sp.Symbol, ...]:
        return self.coefficient.variables

    @property
    def _features(self) -> list[Polynomial]:
        return monomials(self.coefficient.exponents)

    def _stein(self) -> Step:
        c = self.coefficient
        score = sp.Symbol("S", real=True)
        equations = [
            equation(_expect(score * phi), _expect(-sp.diff(phi, self._names[0]))) for phi in c.family.monomials
        ]

        def residuals() -> list[sp.Expr]:
            return [
                score_times(row, c.noise) - b.xreplace(c.noisy_moments) for row, b in zip(c.exponents, c.rhs_of_stein)
            ]

        return Step(
            "Stein's identity (11), (13)",
            f"S = d log p / d {self._names[0]} is the score of the noisy coefficient; integrating by parts, "
            "E[S phi] = -E[d phi / d w] for every feature phi.",
            tuple(equations),
            residuals,
            "S = -E[e | y] / s, so E[S phi] = -E[e phi(a x + s e)] / s, expanded binomially with Gaussian moments of e",
        )

    def _normal_equations(self) -> Step:
        c = self.coefficient
        theta, size = c.theta_symbols, len(c.family)
        gram, rhs = c.plain_gram, c.rhs_of_stein
        equations = [
            equation(sp.Add(*(gram[j, k] * theta[k] for k in range(size)), evaluate=False), rhs[j]) for j in range(size)
        ]

        def residuals() -> list[sp.Expr]:
            # E (theta.phi - S)^2 up to a constant, from the polynomial theta.phi itself, then its gradient.
            score: dict[Exponent, sp.Expr] = dict(zip(c.exponents, theta))
            gradients = []
            for j, row in enumerate(c.exponents):
                cross = sp.Add(*(value * _moment_of(_sum(row, other)) for other, value in score.items()))
                gradients.append(2 * cross - 2 * _minus_derivative(row) - 2 * (equations[j].lhs - equations[j].rhs))
            return gradients

        return Step(
            "Normal equations (14), (15)",
            "c = theta . phi minimises E (c - S)^2 = theta.G theta - 2 theta.b + const; its gradient is zero.",
            tuple(equations),
            residuals,
            "gradient E[2 (c - S) phi_j], with E[c phi_j] expanded monomial by monomial and E[S phi_j] by Stein",
        )

    def _system(self) -> Step:
        c = self.coefficient
        name = "Hankel system" if c.family.name == "independent" else "Normal system in mixed moments"
        gram, rhs = sp.Symbol("G"), sp.Symbol("b")
        size = len(c.family)
        equations: list[sp.Basic]
        if size <= SHOWN:
            equations = [equation(gram, c.plain_gram), equation(rhs, c.rhs_of_stein)]
        else:
            equations = [equation(sp.Symbol(f"b_{j}"), value) for j, value in enumerate(c.rhs_of_stein) if value != 0]

        def residuals() -> list[sp.Expr]:
            rows = c.exponents
            found = [
                c.plain_gram[j, k] - noisy_symbol(_sum(rows[j], rows[k])) for j in range(size) for k in range(size)
            ]
            if c.family.name == "independent":  # Hankel: constant along anti-diagonals
                found += [
                    c.plain_gram[j, k] - c.plain_gram[j + 1, k - 1] for j in range(size - 1) for k in range(1, size)
                ]
            return found

        return Step(
            f"{name} (above (20))",
            "G_jk = E[phi_j phi_k] is the moment of the sum of the exponents; b_j = -E[d phi_j / d w]."
            + ("" if size <= SHOWN else f"  G is {size} x {size}; the entries of b that are not zero:"),
            tuple(equations),
            residuals,
            "every entry of G against the moment of the sum of its exponents"
            + ("; constant along anti-diagonals" if c.family.name == "independent" else ""),
        )

    def _noisy_moments(self) -> Step:
        c = self.coefficient
        equations = [equation(name, value) for name, value in c.noisy_moments.items()]

        def residuals() -> list[sp.Expr]:
            # Wick's recursion is slow in many variables: there, every moment up to the fourth order is checked.
            rows = [row for row in c.noisy_exponents if any(row) and (len(row) <= 3 or sum(row) <= 4)]
            identity = sp.eye(len(self._names))
            return [noisy_moment(row, c.noise) - heat_moment(row, c.noise, identity) for row in rows]

        return Step(
            f"Noisy moments from clean ones (20), {c.noise.kind.upper()}",
            f"y = a x + s e with a = {c.noise.a}, s^2 = {c.noise.s2}: the noise is integrated exactly.",
            tuple(equations),
            residuals,
            "the binomial sum against Wick's recursion (Gaussian integration by parts), two different algorithms",
        )

    def _ridge(self) -> Step:
        c = self.coefficient
        gram, rhs = sp.Symbol("G_lambda"), sp.Symbol("b_lambda")
        size = len(c.family)
        equations = [equation(gram, c.gram), equation(rhs, c.rhs)] if size <= SHOWN else []

        def residuals() -> list[sp.Expr]:
            # The gradient of the penalised loss at theta, for the penalty written on theta (or on the denoiser).
            theta = sp.Matrix(c.theta_symbols)
            loss = (theta.T * c.plain_gram * theta - 2 * theta.T * c.rhs_of_stein)[0, 0]
            penalty = sp.Add(*(self._penalty(k) * theta[k] ** 2 for k in range(size)))
            if c.ridge == "denoiser":
                target = c.exponents.index(tuple(int(i == 0) for i in range(len(self._names))))
                # D = (y + s^2 c) / a has weights (e_w + s^2 theta) / a; the penalty is |e_w + s^2 theta|^2 / s^4.
                shifted = [theta[k] + (1 / c.noise.s2 if k == target else 0) for k in range(size)]
                penalty = LAMBDA * sp.Add(*(value**2 for value in shifted))
            total = sp.expand(loss + penalty)
            gradient = [sp.diff(total, name) / 2 for name in c.theta_symbols]
            mine = c.gram * theta - c.rhs
            return [sp.expand(sp.together(gradient[k] - mine[k])) for k in range(size)]

        return Step(
            f"Ridge (16), on {c.ridge}",
            "a penalty lambda on the weights makes G + lambda (...) invertible for every lambda > 0.",
            tuple(equations),
            residuals,
            "gradient of the penalised quadratic loss, differentiated by SymPy",
        )

    def _penalty(self, k: int) -> sp.Expr:
        return LAMBDA * (self.coefficient.plain_gram[k, k] if self.coefficient.ridge == "unit" else 1)

    def _solution(self) -> Step:
        c = self.coefficient
        size = len(c.family)
        det = sp.Symbol("Delta")
        if c.is_expanded:
            numerators, determinant = c.cofactors
            equations = [equation(det, determinant)]
            equations += [equation(name, top / det) for name, top in zip(c.theta_symbols, numerators)]
        else:
            j, k = sp.symbols("j k", integer=True)
            b, cofactor = sp.IndexedBase("b"), sp.IndexedBase("C")
            total = sp.Sum(b[j] * cofactor[j, k], (j, 0, size - 1))
            equations = [equation(sp.Symbol("theta_k"), total / sp.Symbol("det_G"))]

        def residuals() -> list[sp.Expr]:
            if size <= MAX_SOLVED and c.is_expanded:
                return [sp.expand(value) for value in _multiply_back(c)]
            return _exact_point(c)

        return Step(
            "Cofactor formula (21)",
            "Cramer's rule: theta_k = (1 / Delta) sum_j b_j C_jk with Delta = det G and C_jk its cofactors.",
            tuple(equations),
            residuals,
            "G N = b det G, multiplied out as polynomials in the noisy moments"
            if size <= MAX_SOLVED
            else "the straight-line program of the formula at rational moments, against an exact rational solve"
            + (
                ""
                if size <= MAX_PROGRAM
                else f" (at degree {_lower(c).degree}, which has {len(_lower(c).family)} features)"
            ),
        )

    def _denoiser(self) -> Step:
        c = self.coefficient
        target = self._names[0]
        estimate, score = sp.Symbol("D"), sp.Symbol("c")
        formula = (target + c.noise.s2 * score) / c.noise.a

        def residuals() -> list[sp.Expr]:
            # E[x phi] = E[D phi] must follow from E[S phi] = b: (m_(row + 1) + s^2 b_row) / a = E[x phi].
            found = []
            for k, row in enumerate(c.exponents):
                up = (row[0] + 1, *row[1:])
                stein = c.rhs_of_stein[k].xreplace(c.noisy_moments)
                left = noisy_moment(up, c.noise) + c.noise.s2 * stein
                found.append(left - c.noise.a * clean_times(row, c.noise))
            return found

        return Step(
            "Denoiser (Tweedie)",
            "E[x | y] = (y + s^2 S) / a: the score coefficient is a denoiser.",
            (equation(estimate, formula),),
            residuals,
            "E[(y + s^2 S) phi] = a E[x phi(a x + s e)] for every feature, expanded binomially",
        )

    # -- printing --------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line."""
        return self.coefficient.title

    def latex(self, *, full: bool = True) -> str:
        """All steps: titles and texts as text, then the formulas; unless ``full``, sums beyond 40 terms are cut."""
        parts = []
        for number, step in enumerate(self.steps, 1):
            parts.append(f"% {number}. {step.title}: {step.text}\n\\[\n{step.latex(full=full)}\n\\]")
        return "\n".join(parts)

    def _repr_markdown_(self) -> str:
        parts = [f"**{self.title}**"]
        for number, step in enumerate(self.steps, 1):
            parts.append(
                f"**{number}. {step.title}.** {step.text}\n\n$$\n{step.latex(full=False)}\n$$\n\n*Checked:* {step.proof}."
            )
        return "\n\n".join(parts)

    def _repr_latex_(self) -> str:
        lines = [
            f"&\\text{{{number}. {step.title}}} \\\\ &{step.latex(full=False)}"
            for number, step in enumerate(self.steps, 1)
        ]
        return "$\\displaystyle \\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}$"

    def written(self, *, full: bool = False) -> str:
        """All steps as text; unless ``full``, long lists and sums are cut and the rest counted."""
        steps = (f"\n{number}. {step.written(full=full)}" for number, step in enumerate(self.steps, 1))
        return "\n".join([self.title, *steps])

    def __str__(self) -> str:
        return self.written()

    def __repr__(self) -> str:
        return f"Derivation({self.coefficient!r})"


def derive(family: str = "independent", degree: int = 3, noise: str = "ve", **options: Any) -> Derivation:
    """The derivation of a family; options are those of :class:`analytic.score.ScoreCoefficient`."""
    return Derivation(Coefficient(family, degree, noise, **options))


# -- second routes ---------------------------------------------------------------------------------------------------


def _expect(expression: sp.Expr) -> sp.Expr:
    return sp.Function("E")(expression) if expression != 0 else sp.Integer(0)


def _sum(left: Exponent, right: Exponent) -> Exponent:
    return tuple(i + j for i, j in zip(left, right))


def _moment_of(exponent: Exponent) -> sp.Expr:
    return noisy_symbol(exponent)


def _minus_derivative(exponent: Exponent) -> sp.Expr:
    if not exponent[0]:
        return sp.Integer(0)
    return -exponent[0] * noisy_symbol((exponent[0] - 1, *exponent[1:]))


def _expanded(exponent: Exponent, noise: Noise, extra_noise: int = 0, extra_clean: int = 0) -> sp.Expr:
    """``E[x_1^extra_clean e_1^extra_noise prod_i (a x_i + s e_i)^p_i]``, from the binomial theorem alone."""
    total = sp.Integer(0)
    for clean in product(*(range(p + 1) for p in exponent)):
        gaussian = [p - q + (extra_noise if i == 0 else 0) for i, (p, q) in enumerate(zip(exponent, clean))]
        weight = prod(comb(p, q) for p, q in zip(exponent, clean)) * prod(gaussian_moment(g) for g in gaussian)
        if weight:
            raised = (clean[0] + extra_clean, *clean[1:])
            power = sum(exponent) - sum(clean)
            total += weight * noise.a ** sum(clean) * noise.s**power * clean_moment(raised)
    return total


def score_times(exponent: Exponent, noise: Noise) -> sp.Expr:
    """``E[S phi] = -E[e phi] / s``: no integration by parts is used."""
    return sp.expand(-_expanded(exponent, noise, extra_noise=1) / noise.s)


def clean_times(exponent: Exponent, noise: Noise) -> sp.Expr:
    """``E[x phi(a x + s e)]``."""
    return _expanded(exponent, noise, extra_clean=1)


def _multiply_back(c: Coefficient) -> list[sp.Expr]:
    """``G N - b det G``, F polynomials in the moment symbols (times s^2 where the ridge sits on the denoiser)."""
    numerators, determinant = c.cofactors
    step = c.noise.s2 if c.ridge == "denoiser" else sp.Integer(1)
    rhs = [sp.expand(sp.cancel(value * step)) for value in c.rhs]
    tops = [sp.expand(sp.numer(value)) if step != 1 else value for value in numerators]
    names: set[Any] = set(c.gram.free_symbols)
    for item in [*rhs, *tops, determinant]:
        names |= item.free_symbols
    if not names:
        size = len(rhs)
        return [sp.Add(*(c.gram[j, k] * tops[k] for k in range(size))) - rhs[j] * determinant for j in range(size)]
    domain, *_ = ring(sorted(names, key=lambda symbol: symbol.name), sp.QQ)
    top = [domain.from_expr(value) for value in tops]
    bottom = domain.from_expr(determinant)
    out = []
    for j in range(len(rhs)):
        total = -domain.from_expr(rhs[j]) * bottom
        for k in range(len(rhs)):
            total = total + domain.from_expr(c.gram[j, k]) * top[k]
        out.append(total.as_expr())
    return out


def _lower(c: Coefficient) -> Coefficient:
    """The same family at the largest degree with at most :data:`MAX_PROGRAM` features."""
    for degree in range(c.degree - 1, 0, -1):
        lower = Coefficient(
            c.family.name,
            degree,
            c.noise,
            ridge=c.ridge,
            radius=len(c.variables),  # any ball that holds the neighbours
            interactions=c.family.interactions,
            neighbours=len(c.variables) - 1,
        )
        if len(lower.family) <= MAX_PROGRAM:
            break
    return lower


def _exact_point(c: Coefficient) -> list[sp.Expr]:
    """Program minus exact solve at the moments of a few rational points: zero entry by entry."""
    if len(c.family) > MAX_PROGRAM:
        c = _lower(c)
    count = len(c.variables)
    points = [tuple(sp.Rational((7 * i + 3 * j * j + i * j) % 11 - 5, 4) for j in range(count)) for i in range(6)]
    moments = moments_of_samples(points, c.moment_exponents)
    level = {"ve": ["1/2"], "vp": ["1/2"], "general": ["1/2", "1/3"], "clean": []}[c.noise.kind]
    levels = [sp.Rational(value) for value in level]
    ridge = sp.Rational(1, 7) if c.ridge else 0
    program = c.program()
    a, s2 = c.noise.values(*levels)
    inputs = dict(zip(c.moment_symbols[1:], moments[1:]))
    inputs |= dict(zip(program.inputs[-2 - bool(c.ridge) :], [a, s2, ridge]))
    found = program.evaluate(inputs)
    exact = exact_theta(c, moments, *levels, ridge=ridge)
    return [sp.radsimp(sp.simplify(p - q)) for p, q in zip(found, exact)]
