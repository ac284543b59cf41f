"""The normal system of one wavelet coefficient's score ``c_lambda(y) = theta . phi(y)``, and its solution in closed form.

What a :class:`Coefficient` gives is algebra alone.  Values, source text, printing and theory take one
(:mod:`analytic.numbers`, :mod:`analytic.text`, :mod:`analytic.theory`); :class:`analytic.score.ScoreCoefficient` stands on
top and offers them as methods.
"""

from __future__ import annotations

from functools import cached_property

import sympy as sp

from analytic.algebra.bases import basis_features, change_of_basis, check_basis
from analytic.algebra.cofactor import cofactor_solution
from analytic.algebra.families import Family, monomial
from analytic.algebra.families import family as make_family
from analytic.algebra.hankel import gram_matrix, rhs_vector
from analytic.algebra.moments import (
    Exponent,
    centre,
    clean_moment,
    moment_closure,
    noisy_moment,
    noisy_symbol,
    scale,
    standard_moment,
    standard_symbol,
)
from analytic.algebra.noise import A, Noise, noise_model
from analytic.algebra.program import Assignment, Program, solve_program, used
from analytic.errors import AnalyticError

RIDGES = ("unit", "raw", "denoiser")
LAMBDA = sp.Symbol("lambda", nonnegative=True)
S2 = sp.Symbol("s2", positive=True)
MAX_EXPANDED = 7  # features; a generic 8 x 8 symmetric determinant has 18155 terms


class Coefficient:
    """Closed form of the optimal score coefficient of a family (equations (15), (16) and (21)).

    Args:
        family: ``independent``, ``band`` (alias ``band-tied``) or ``local``.
        degree: n >= 1.
        noise: ``ve``, ``vp``, ``general`` (free a and s) or ``clean`` (s = 0, the limit system).
        basis: ``monomial``, ``standardized`` or ``hermite`` (:mod:`analytic.algebra.bases`).
        ridge: None, or where the symbolic ridge ``lambda`` enters: ``"unit"``: on features scaled to unit second
            moment, ``G + lambda diag(G)``; ``"raw"``: ``G + lambda I`` (equation (16)); ``"denoiser"``: the ridge of
            equation (23) on the denoiser's weights, ``(G + lambda I) theta = b - (lambda / s^2) e_w`` (monomials only).
            The intercept is penalised too, as in the paper.
        radius, interactions, neighbours: of the ``local`` family (:func:`analytic.algebra.families.family`).

    Raises:
        AnalyticError: any argument out of range; the message names the value and the fix.

    >>> from analytic import ScoreCoefficient
    >>> c = ScoreCoefficient('independent', 1)
    >>> c.variables, c.exponents, c.features, c.coordinates, c.theta_symbols, c.title
    ((w,), ((0,), (1,)), (1, w), (w,), [theta_0, theta_1], 'independent degree 1, VE, monomial basis')
    >>> c.gram, c.plain_gram == c.gram, c.rhs.T, c.rhs_of_stein == c.rhs, c.cofactors
    (Matrix([
    [  1, m_1],
    [m_1, m_2]]), True, Matrix([[0, -1]]), True, ([m_1, -1], -m_1**2 + m_2))
    >>> c.theta_clean()
    (mu_1/(-mu_1**2 + mu_2 + sigma**2), -1/(-mu_1**2 + mu_2 + sigma**2))
    >>> c.is_expanded, c.score, c.denoiser.has(*c.variables)
    (True, m_1/(-m_1**2 + m_2) - w/(-m_1**2 + m_2), True)
    >>> c.moment_exponents, c.moment_symbols, c.noisy_exponents, c.noisy_moments
    ([(0,), (1,), (2,)], [1, mu_1, mu_2], [(0,), (1,), (2,)], {m_1: mu_1, m_2: mu_2 + sigma**2})
    >>> c.in_clean(c.gram[1, 1]), c.change_of_basis, type(c.program()).__name__
    (mu_2 + sigma**2, Matrix([
    [1, 0],
    [0, 1]]), 'Program')
    >>> h = ScoreCoefficient('independent', 2, basis='hermite')
    >>> h.centres, h.scales, h.scale_symbols, len(h.standard_moments), len(h.theta)
    ([m_1], [sqrt(-m_1**2 + m_2)], ([c], [delta]), 4, 3)
    """

    def __init__(
        self,
        family: str | Family = "independent",
        degree: int = 3,
        noise: str | Noise = "ve",
        *,
        basis: str = "monomial",
        ridge: str | None = None,
        radius: int = 1,
        interactions: str = "pairwise",
        neighbours: int | None = None,
    ) -> None:
        if isinstance(family, Family):
            self.family = family
        else:
            self.family = make_family(family, degree, radius=radius, interactions=interactions, neighbours=neighbours)
        self.degree = self.family.degree
        self.noise = noise_model(noise)
        self.basis = check_basis(basis)
        if ridge is not None and ridge not in RIDGES:
            raise AnalyticError(f"unknown ridge {ridge!r}: use None or one of {', '.join(RIDGES)}")
        if ridge == "denoiser" and basis != "monomial":
            raise AnalyticError('ridge="denoiser" penalises monomial weights: use basis="monomial"')
        self.ridge = ridge

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coefficient) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        return (self.family, self.noise, self.basis, self.ridge)

    # -- what the coefficient is made of ---------------------------------------------------------------------

    @property
    def variables(self) -> tuple[sp.Symbol, ...]:
        """Noisy wavelet coefficients, the target first."""
        return self.family.variables

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        """Monomial exponents, one tuple a feature."""
        return self.family.exponents

    @cached_property
    def centres(self) -> list[sp.Expr]:
        """Noisy means ``c_i``, in noisy moment symbols."""
        return [centre(i, len(self.variables)) for i in range(len(self.variables))]

    @cached_property
    def scales(self) -> list[sp.Expr]:
        """Noisy standard deviations ``d_i``, in noisy moment symbols."""
        return [scale(i, len(self.variables)) for i in range(len(self.variables))]

    @cached_property
    def scale_symbols(self) -> tuple[list[sp.Symbol], list[sp.Symbol]]:
        """Short names ``c, d`` (or ``c_1, d_1, ...``) for centres and scales in the standardised bases."""
        count = len(self.variables)
        ends = [""] if count == 1 else [f"_{k}" for k in range(1, count + 1)]
        return (
            [sp.Symbol(f"c{end}", real=True) for end in ends],
            [sp.Symbol(f"delta{end}", positive=True) for end in ends],
        )

    @cached_property
    def coordinates(self) -> tuple[sp.Symbol, ...]:
        """The basis's own coordinates: w, or the standardised u."""
        if self.basis == "monomial":
            return self.variables
        return tuple(sp.Symbol(str(v).replace("w", "u"), real=True) for v in self.variables)

    @cached_property
    def _polynomials(self) -> list[dict[Exponent, sp.Expr]]:
        return basis_features(self.family, self.basis, *self.scale_symbols)

    @cached_property
    def features(self) -> tuple[sp.Expr, ...]:
        """``phi_k`` as expressions in :attr:`coordinates`, F of them."""
        return tuple(
            sp.expand(sp.Add(*(value * monomial(exponent, self.coordinates) for exponent, value in p.items())))
            for p in self._polynomials
        )

    @cached_property
    def plain_gram(self) -> sp.ImmutableMatrix:
        """``G = E[phi phi^T]`` without the ridge, (F, F) (equation (9))."""
        symbol = noisy_symbol if self.basis == "monomial" else standard_symbol
        return gram_matrix(self._polynomials, symbol)

    @cached_property
    def gram(self) -> sp.ImmutableMatrix:
        """The system's matrix, (F, F), ridge included (equation (16)).

        In noisy moments ``m`` (monomials: Hankel, ``m_(j+k)``) or standardised noisy moments ``g``.
        """
        plain = self.plain_gram
        if self.ridge is None:
            return plain
        size = len(self.family)
        weights = sp.diag(*[plain[k, k] for k in range(size)]) if self.ridge == "unit" else sp.eye(size)
        return sp.ImmutableMatrix(plain + LAMBDA * weights)

    @cached_property
    def rhs_of_stein(self) -> sp.ImmutableMatrix:
        """``b = -E[d phi / d w]``, (F, 1), without what a ridge may add to it (equations (13), (14))."""
        symbol = noisy_symbol if self.basis == "monomial" else standard_symbol
        step = sp.Integer(1) if self.basis == "monomial" else self.scale_symbols[1][0]
        return rhs_vector(self._polynomials, symbol, step)

    @cached_property
    def rhs(self) -> sp.ImmutableMatrix:
        """Right-hand side of the system, (F, 1): ``b``, and the ridge's part where it sits on the denoiser (23)."""
        return self._rhs_at(self.noise.s2)

    def _rhs_at(self, s2: sp.Expr) -> sp.ImmutableMatrix:
        """:attr:`rhs` with any name for the noise variance."""
        vector = self.rhs_of_stein
        if self.ridge == "denoiser":
            target = self.exponents.index((1, *(0,) * (len(self.variables) - 1)))
            vector = sp.ImmutableMatrix(
                [vector[k] - (LAMBDA / s2 if k == target else 0) for k in range(len(self.family))]
            )
        return vector

    # -- moments ---------------------------------------------------------------------------------------------

    @cached_property
    def noisy_exponents(self) -> list[Exponent]:
        """Exponents of every noisy moment the system needs, in :func:`analytic.algebra.moments.moment_closure` order."""
        rows = self.exponents
        products = {tuple(i + j for i, j in zip(a, b)) for a in rows for b in rows}
        if self.basis == "monomial":
            lowered = {(row[0] - 1, *row[1:]) for row in rows if row[0]}
            return sorted(products | lowered, key=lambda row: (sum(row), tuple(-p for p in row)))
        return moment_closure(list(products))

    @cached_property
    def moment_exponents(self) -> list[Exponent]:
        """Exponents of the clean moments, in the order in which a moments vector holds them.

        One coordinate: ``mu_0 = 1, mu_1, ..., mu_2n``.  Several: by total degree, then in descending lexicographic
        order of the exponents.
        """
        return moment_closure(self.noisy_exponents)

    @property
    def moment_symbols(self) -> list[sp.Expr]:
        """Clean moments in vector order; the first is the number 1."""
        return [clean_moment(exponent) for exponent in self.moment_exponents]

    @cached_property
    def noisy_moments(self) -> dict[sp.Symbol, sp.Expr]:
        """``{m_p: polynomial in the clean moments, a and s}`` (equation (20))."""
        return {
            noisy_symbol(exponent): noisy_moment(exponent, self.noise)
            for exponent in self.noisy_exponents
            if any(exponent)
        }

    @cached_property
    def standard_moments(self) -> dict[sp.Symbol, sp.Expr]:
        """``{c, delta, g_p: expressions in the noisy moments}``; empty in the monomial basis."""
        if self.basis == "monomial":
            return {}
        names_c, names_d = self.scale_symbols
        table: dict[sp.Symbol, sp.Expr] = dict(zip(names_c, self.centres)) | dict(zip(names_d, self.scales))
        for exponent in self.noisy_exponents:
            symbol = standard_symbol(exponent)
            if isinstance(symbol, sp.Symbol):
                table[symbol] = standard_moment(exponent, names_c, names_d)
        return table

    def in_clean(self, expression: sp.Expr) -> sp.Expr:
        """Substitute noisy (and standardised) moments by clean ones and the noise level; not expanded."""
        if self.basis != "monomial":
            table = {k: v for k, v in self.standard_moments.items()}
            names = {name for row in self.scale_symbols for name in row}
            places = {k: v for k, v in table.items() if k in names}
            expression = expression.xreplace({k: v for k, v in table.items() if k not in names}).xreplace(places)
        return expression.xreplace(self.noisy_moments)

    # -- the solution ----------------------------------------------------------------------------------------

    @property
    def is_expanded(self) -> bool:
        """Whether :attr:`theta` is written out; larger systems keep their determinants unevaluated."""
        return len(self.family) <= MAX_EXPANDED

    @cached_property
    def cofactors(self) -> tuple[list[sp.Expr], sp.Expr]:
        """Numerators ``N_k = sum_j b_j C_jk`` and ``det G`` (equation (21)).

        Polynomials in the noisy moments up to seven features, else unevaluated determinants (Cramer's rule).
        """
        gram, rhs = self.gram, self.rhs
        if self.is_expanded:
            step = sp.Integer(1)
            if self.basis != "monomial":
                step = self.scale_symbols[1][0]  # keeps the entries polynomial
            if self.ridge == "denoiser":
                step = self.noise.s2
            # cancel, not expand: it leaves no 1 / (1 - abar) behind, which is no polynomial
            scaled = sp.ImmutableMatrix([sp.expand(sp.cancel(value * step)) for value in rhs])
            numerators, determinant = cofactor_solution(gram, scaled)
            return [numerator / step for numerator in numerators], determinant
        columns = []
        for k in range(gram.shape[0]):
            changed = gram.as_mutable()
            changed[:, k] = rhs
            columns.append(sp.Determinant(changed.as_immutable()))
        return columns, sp.Determinant(gram)

    @cached_property
    def theta(self) -> tuple[sp.Expr, ...]:
        """``theta_k = N_k / det G``, F closed forms in the moment symbols of :attr:`gram` (equation (21))."""
        numerators, determinant = self.cofactors
        return tuple(numerator / determinant for numerator in numerators)

    def theta_clean(self, *, expand: bool = False) -> tuple[sp.Expr, ...]:
        """``theta`` in clean moments and the noise level.

        Args:
            expand: write numerator and denominator out as polynomials (slow beyond degree 4).
        """
        numerators, determinant = self.cofactors
        if not expand:
            return tuple(self.in_clean(numerator) / self.in_clean(determinant) for numerator in numerators)
        bottom = sp.expand(self.in_clean(determinant))
        return tuple(sp.expand(self.in_clean(numerator)) / bottom for numerator in numerators)

    @property
    def theta_symbols(self) -> list[sp.Symbol]:
        """Names ``theta_0, theta_1, ...``."""
        return [sp.Symbol(f"theta_{k}", real=True) for k in range(len(self.family))]

    @property
    def score(self) -> sp.Expr:
        """``c(y) = sum_k theta_k phi_k`` (equation (6)), with the closed forms where they are written out."""
        weights = self.theta if self.is_expanded else tuple(self.theta_symbols)
        return sp.Add(*(weight * feature for weight, feature in zip(weights, self.features)))

    @property
    def denoiser(self) -> sp.Expr:
        """Tweedie's formula ``E[x|y] = (y + s^2 c(y)) / a``, in the noisy coefficient ``w``."""
        return (self.variables[0] + self.noise.s2 * self.score) / self.noise.a

    @cached_property
    def change_of_basis(self) -> sp.ImmutableMatrix:
        """``T``, (F, F), with ``features = T monomials`` in the names c and delta."""
        return change_of_basis(self.family, self.basis, *self.scale_symbols)

    # -- the solution as a program --------------------------------------------------------------------------------

    def program(self, method: str = "auto", *, to_monomial: bool = False) -> Program:
        """The closed form as a straight-line program in clean moments, ``a``, ``s2`` (and ``lambda``).

        Args:
            method: ``cofactor``, ``elimination`` or ``auto`` (:func:`analytic.algebra.program.solve_program`).
            to_monomial: shift the coefficients back to monomials of w.
        """
        steps: list[Assignment] = []
        for exponent in self.noisy_exponents:
            if any(exponent):
                general = Noise("general", A, S2, (A, S2))
                steps.append((noisy_symbol(exponent), noisy_moment(exponent, general)))
        steps += list(self.standard_moments.items())
        solution, theta = solve_program(self.gram, self._rhs_at(S2), method)
        steps += solution
        if to_monomial and self.basis != "monomial":
            names = [sp.Symbol(f"vartheta_{k}", real=True) for k in range(len(theta))]
            steps += list(zip(names, theta))
            theta = list(self.change_of_basis.T * sp.Matrix(names))
        inputs = [symbol for symbol in self.moment_symbols if isinstance(symbol, sp.Symbol)] + [A, S2]
        if self.ridge is not None:
            inputs.append(LAMBDA)
        return used(Program(tuple(inputs), tuple(steps), tuple(theta)))

    # -- in words ------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line: family, degree, noise, basis."""
        text = self.family.name if self.family.name != "band" else "band-tied"
        if self.family.name == "local":
            text += f" {self.family.interactions} ({len(self.variables) - 1} neighbours)"
        ridge = f", ridge {self.ridge}" if self.ridge else ""
        return f"{text} degree {self.degree}, {self.noise.kind.upper()}, {self.basis} basis{ridge}"

    def __repr__(self) -> str:
        extra = f", ridge={self.ridge!r}" if self.ridge else ""
        if self.family.name == "local":
            extra += f", interactions={self.family.interactions!r}, neighbours={len(self.variables) - 1}"
        return (
            f"{type(self).__name__}({self.family.name!r}, degree={self.degree}, noise={self.noise.kind!r}, "
            f"basis={self.basis!r}{extra})"
        )
