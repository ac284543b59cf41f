"""Nonlinear features of a linear (Wiener) estimate, their noise integrated exactly: the symbolic twin for a few coordinates.

The noisy image ``y = a x + s e`` is first denoised linearly, ``u = A y + c`` (any matrix A: the Wiener filter, its wavelet
coefficients, a change of basis).  Its clean part ``v = a A x + c`` is what u would be without noise, and its noise is Gaussian
with the *correlated* covariance ``K = s^2 A A^T``: ``u = v + n, n ~ N(0, K)``.  Features are the powers ``u_i^p`` of all
coordinates (one vector for all outputs, the shared readout of Section 3).  With the polynomials

    T_m(v) = E (v + z)^m = sum_l C(m, 2l) (2l - 1)!! kappa^l v^(m - 2l),    z ~ N(0, kappa), kappa = K_ii,

(Hermite polynomials of the other sign, ``T_m' = m T_(m-1)``) the normal equations hold the clean moments of v and K alone:

    G:  E[u_i^p u_j^q] = sum_k k! C(p, k) C(q, k) K_ij^k E[T_(p-k)(v_i) T_(q-k)(v_j)]
    B:  E[v_t u_j^q]   = E[v_t T_q(v_j)]                        (the clean part is regressed on the features)

and the least-squares estimate of the clean part is ``Theta^T phi(u)``, ``G Theta = B``.  By Stein's identity (11) for correlated
noise it is also Tweedie's formula ``E[v | u] = u + K score(u)``.  Each of these is recomputed by a second route.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import comb, factorial
from typing import Any

import sympy as sp

from analytic.algebra.families import check_degree
from analytic.algebra.hankel import Polynomial, expectation, multiply
from analytic.algebra.laws import moments_of_samples
from analytic.algebra.moments import Exponent, clean_moment, gaussian_moment, heat_moment, moment_closure, unit
from analytic.algebra.noise import Noise
from analytic.algebra.rational import is_exact, rational, rational_solve
from analytic.errors import AnalyticError, SingularCoefficient
from analytic.numbers.conditions import ROUNDED, refuse_no_law
from analytic.text.tex import tex, text

MAX_FEATURES = 31  # beyond, the checks take minutes


class WienerSystem:
    """Normal equations of the powers ``1, u_i, ..., u_i^n`` of correlated noisy coordinates (DESIGN of the beyond readouts).

    Args:
        degree: n >= 1.
        coordinates: q >= 1, the number of coordinates of u; F = 1 + q n features.

    Attributes:
        degree, coordinates; exponents: of the features, F rows: the intercept, then ``u_1, .., u_1^n, u_2, ..``.
        covariance: K, symbols ``K_ij`` (q, q).

    Raises:
        AnalyticError: degree or coordinates out of range.

    >>> WienerSystem(1, 2).gram[1, 2]
    K_12 + mu_11
    >>> from analytic import WienerSystem
    >>> w = WienerSystem(1, 1)
    >>> w.rhs.shape, w.score_rhs.T, w.features, w.moment_exponents, w.moment_symbols, w.pair(0, 1, 0, 1)
    ((2, 1), Matrix([[0, -1]]), [1, u_1], [(0,), (1,), (2,)], [1, mu_1, mu_2], K_11 + mu_2)
    >>> w.smoothed(0, 2) != 0, w.holds, set(w.check().values()), w.title
    (True, True, {True}, 'powers to degree 1 of 1 coordinates of a linear estimate u = v + n, n ~ N(0, K), shared: 2 features')
    >>> moments = w.moments_of([(0,), (2,)])
    >>> w.system(moments, [[1]])[0], w.exact(moments, [[1]]).T, w.expected_mse(moments, [[1]])
    (Matrix([
    [1, 1],
    [1, 3]]), Matrix([[1/2, 1/2]]), [1/2])
    >>> len(w.latex()) > 100, len(w.written()) > 50
    (True, True)
    """

    def __init__(self, degree: int = 2, coordinates: int = 2) -> None:
        check_degree(degree)
        if not isinstance(coordinates, int) or isinstance(coordinates, bool) or coordinates < 1:
            raise AnalyticError(f"coordinates must be an integer >= 1, got {coordinates!r}")
        if 1 + degree * coordinates > MAX_FEATURES:
            raise AnalyticError(
                f"degree {degree} in {coordinates} coordinates has {1 + degree * coordinates} features, more than the "
                f"{MAX_FEATURES} that are checked here: use fewer, or numeric's readouts on Wiener features"
            )
        self.degree, self.coordinates = degree, coordinates
        powers = [unit(i, coordinates, p) for i in range(coordinates) for p in range(1, degree + 1)]
        self.exponents: list[Exponent] = [(0,) * coordinates, *powers]
        self.covariance = sp.ImmutableMatrix(coordinates, coordinates, self._covariance)

    @staticmethod
    def _covariance(i: int, j: int) -> sp.Symbol:
        low, high = sorted((i + 1, j + 1))
        return sp.Symbol(f"K_{low}{high}", real=True) if low != high else sp.Symbol(f"K_{low}{high}", positive=True)

    # -- the system ------------------------------------------------------------------------------------------------

    def smoothed(self, index: int, power: int) -> Polynomial:
        """``T_m(v_i) = E (v_i + z)^m`` with ``z ~ N(0, K_ii)``, a polynomial in the clean coordinates."""
        return {
            unit(index, self.coordinates, power - 2 * l): comb(power, 2 * l)
            * gaussian_moment(2 * l)
            * self.covariance[index, index] ** l
            for l in range(power // 2 + 1)
        }

    def pair(self, i: int, p: int, j: int, q: int) -> sp.Expr:
        """``E[u_i^p u_j^q]`` in clean moments ``mu`` of v and K, by the product formula of the module."""
        terms = []
        for k in range(min(p, q) + 1):
            clean = expectation(multiply(self.smoothed(i, p - k), self.smoothed(j, q - k)), clean_moment)
            terms.append(factorial(k) * comb(p, k) * comb(q, k) * self.covariance[i, j] ** k * clean)
        return sp.expand(sp.Add(*terms))

    def _place(self, row: Exponent) -> tuple[int, int]:
        """Coordinate and power of a feature."""
        return next(((i, p) for i, p in enumerate(row) if p), (0, 0))

    @cached_property
    def gram(self) -> sp.ImmutableMatrix:
        """``G = E[phi phi^T]``, (F, F), in clean moments and K."""
        places = [self._place(row) for row in self.exponents]
        return sp.ImmutableMatrix([[self.pair(*left, *right) for right in places] for left in places])

    @cached_property
    def rhs(self) -> sp.ImmutableMatrix:
        """``B = E[phi v^T]``, (F, q): the clean parts are the targets."""
        rows = []
        for i, p in map(self._place, self.exponents):
            smooth = self.smoothed(i, p)
            targets: list[Polynomial] = [{unit(t, self.coordinates): sp.Integer(1)} for t in range(self.coordinates)]
            rows.append([sp.expand(expectation(multiply(target, smooth), clean_moment)) for target in targets])
        return sp.ImmutableMatrix(rows)

    @cached_property
    def score_rhs(self) -> sp.ImmutableMatrix:
        """``-E[d phi / d u_t]``, (F, q): Stein's identity (13) for the score of u."""
        return sp.ImmutableMatrix(
            [
                [-p * self.pair(i, p - 1, 0, 0) if p and i == t else sp.Integer(0) for t in range(self.coordinates)]
                for i, p in map(self._place, self.exponents)
            ]
        )

    @cached_property
    def moment_exponents(self) -> list[Exponent]:
        """Exponents of the clean moments of v, in the order in which a moments vector holds them; the first is zero."""
        rows = {tuple(p + q for p, q in zip(a, b)) for a in self.exponents for b in self.exponents}
        rows |= {tuple(p + (k == t) for k, p in enumerate(a)) for a in self.exponents for t in range(self.coordinates)}
        return moment_closure(sorted(rows))

    @property
    def moment_symbols(self) -> list[sp.Expr]:
        """The clean moments themselves; the first is the number 1."""
        return [clean_moment(row) for row in self.moment_exponents]

    @property
    def features(self) -> list[sp.Expr]:
        """``phi``, in symbols ``u_1, u_2, ...``."""
        names = [sp.Symbol(f"u_{i + 1}", real=True) for i in range(self.coordinates)]
        return [sp.prod([name**p for name, p in zip(names, row)]) for row in self.exponents]

    # -- numbers ---------------------------------------------------------------------------------------------------

    def _table(self, moments: Sequence[Any], covariance: Any) -> dict[sp.Expr, sp.Expr]:
        q, exponents = self.coordinates, self.moment_exponents
        if len(moments) != len(exponents):
            raise AnalyticError(
                f"moments must hold {len(exponents)} values (mu_0 = 1 first; order: WienerSystem.moment_exponents), "
                f"got {len(moments)}"
            )
        values = [rational(value) for value in moments]
        if abs(values[0] - 1) > sp.Rational(1, 10**9):
            raise AnalyticError(f"the first moment must be mu_0 = 1, got {moments[0]}: divide by the number of images")
        allowance = sp.Integer(0) if all(map(is_exact, moments)) else ROUNDED
        refuse_no_law(dict(zip(exponents, values)), self.exponents, allowance)
        noise = _exact_matrix(covariance)
        if noise.shape != (q, q) or noise != noise.T or not noise.is_positive_semidefinite:
            raise AnalyticError(
                f"covariance must be symmetric, positive semidefinite and ({q}, {q}), got {noise.tolist()}"
            )
        table: dict[sp.Expr, sp.Expr] = {clean_moment(row): value for row, value in zip(exponents[1:], values[1:])}
        return table | {self.covariance[i, j]: noise[i, j] for i in range(q) for j in range(q)}

    def system(self, moments: Sequence[Any], covariance: Any) -> tuple[sp.Matrix, sp.Matrix]:
        """Exact ``G`` (F, F) and ``B`` (F, q) at clean moments of v (order: :attr:`moment_exponents`) and K (q, q).

        Raises:
            AnalyticError: a vector of the wrong length, or a covariance that is none.
            NotAMomentSequence: no law has these moments.
        """
        table = self._table(moments, covariance)
        return self.gram.xreplace(table).as_mutable(), self.rhs.xreplace(table).as_mutable()

    def exact(self, moments: Sequence[Any], covariance: Any) -> sp.Matrix:
        """Exact ``Theta``, (F, q): the clean part is estimated by ``Theta^T phi(u)``.

        Raises:
            AnalyticError: as :meth:`system`.
            SingularCoefficient: G is singular (a coordinate without noise whose clean part sits on few points).
        """
        gram, rhs = self.system(moments, covariance)
        columns = [rational_solve(gram, rhs[:, t]) for t in range(self.coordinates)]
        if any(column is None for column in columns):
            raise SingularCoefficient(
                "the features of u are linearly dependent", "use a covariance of full rank, or a lower degree"
            )
        return sp.Matrix.hstack(*[sp.Matrix(column) for column in columns])

    def expected_mse(
        self, moments: Sequence[Any], covariance: Any, theta: sp.MatrixBase | None = None
    ) -> list[sp.Expr]:
        """``E (v_t - Theta_t . phi(u))^2`` of every coordinate, exactly, for any weights (default: the optimal ones)."""
        gram, rhs = self.system(moments, covariance)
        theta = self.exact(moments, covariance) if theta is None else theta
        table = dict(zip(self.moment_exponents, moments))
        found = []
        for t in range(self.coordinates):
            weights = theta[:, t]
            square = rational(table[unit(t, self.coordinates, 2)])
            found.append(sp.expand(square - 2 * (weights.T * rhs[:, t])[0] + (weights.T * gram * weights)[0]))
        return found

    def moments_of(self, clean: Sequence[Any]) -> list[sp.Expr]:
        """Exact clean moments, in order, of N equally likely clean points v (N, q): rows of numbers, arrays too."""
        return moments_of_samples([tuple(row) for row in clean], self.moment_exponents)

    # -- proof -----------------------------------------------------------------------------------------------------

    def check(self) -> dict[str, bool]:
        """``{claim: holds}``, each recomputed by a second route."""
        return {
            "G: product formula = Wick's recursion": all(value == 0 for value in self._gram_by_wick()),
            "T_m' = m T_(m-1)": all(value == 0 for value in self._derivatives()),
            "B = E[phi u^T] + S K (Stein and Tweedie)": all(value == 0 for value in self._tweedie()),
            "degree 1 is the linear (Wiener) estimate": all(value == 0 for value in self._linear()),
        }

    @property
    def holds(self) -> bool:
        """Whether every claim of :meth:`check` holds."""
        return all(self.check().values())

    def _gram_by_wick(self) -> list[sp.Expr]:
        """Every entry of G against Gaussian integration by parts (:func:`analytic.algebra.moments.heat_moment`)."""
        noise = Noise("general", sp.Integer(1), sp.Integer(1), ())
        size = range(len(self.exponents))
        return [
            sp.expand(
                self.gram[j, k]
                - heat_moment(
                    tuple(p + q for p, q in zip(self.exponents[j], self.exponents[k])), noise, self.covariance
                )
            )
            for j in size
            for k in size
            if k >= j
        ]

    def _derivatives(self) -> list[sp.Expr]:
        found = []
        for m in range(1, 2 * self.degree + 1):
            upper, lower = self.smoothed(0, m), self.smoothed(0, m - 1)
            v = sp.Symbol("v")
            slope = sp.Add(*(row[0] * value * v ** (row[0] - 1) for row, value in upper.items() if row[0]))
            found.append(sp.expand(slope - m * sp.Add(*(value * v ** row[0] for row, value in lower.items()))))
        return found

    def _tweedie(self) -> list[sp.Expr]:
        """``E[phi v^T] = E[phi u^T] + E[phi S^T] K`` with ``E[phi S^T]`` by Stein's identity."""
        columns = [1 + t * self.degree for t in range(self.coordinates)]
        linear = (
            self.gram[:, columns[0]] if len(columns) == 1 else sp.Matrix.hstack(*[self.gram[:, k] for k in columns])
        )
        return list((linear + self.score_rhs * self.covariance - self.rhs).applyfunc(sp.expand))

    def _linear(self) -> list[sp.Expr]:
        """``G Theta = B`` at degree 1 for ``Theta = C (C + K)^-1``, C the clean covariance, and its intercept."""
        one = self if self.degree == 1 else WienerSystem(1, self.coordinates)
        q = self.coordinates
        mean = sp.Matrix([clean_moment(unit(t, q)) for t in range(q)])
        clean = sp.Matrix(q, q, lambda i, j: clean_moment(tuple(int(k == i) + int(k == j) for k in range(q))))
        clean -= mean * mean.T
        total = clean + self.covariance
        # times det(C + K), which keeps everything polynomial: weights C adj(C + K), intercept (det - weights) mean
        determinant = total.det(method="berkowitz")
        weights = clean * total.adjugate()
        intercept = determinant * mean - weights * mean
        theta = sp.Matrix.vstack(intercept.T, weights.T)
        return list((one.gram * theta - determinant * one.rhs).applyfunc(sp.expand))

    # -- printing --------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line."""
        return (
            f"powers to degree {self.degree} of {self.coordinates} coordinates of a linear estimate u = v + n, "
            f"n ~ N(0, K), shared: {len(self.exponents)} features"
        )

    def latex(self, *, full: bool = True) -> str:
        """LaTeX: the two formulas, then G and B entry by entry (in order of the features); long sums cut unless full."""
        lines = [
            r"T_m(v_i) &= \sum_l \binom{m}{2l} (2l - 1)!!\, K_{ii}^l\, v_i^{m - 2l}",
            r"E[u_i^p u_j^q] &= \sum_k k! \binom{p}{k} \binom{q}{k} K_{ij}^k\, E[T_{p-k}(v_i)\, T_{q-k}(v_j)]",
            r"E[v_t u_j^q] &= E[v_t\, T_q(v_j)], \qquad G \Theta = B",
        ]
        lines += [f"{left} &= {tex(value, full)}" for left, value in self._entries(r"G_{{{}}}", r"B_{{{}}}")]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex(full=False) + "$"

    def _entries(self, gram: str, rhs: str) -> list[tuple[str, sp.Expr]]:
        size = range(len(self.exponents))
        found = [(gram.format(f"{j},{k}"), self.gram[j, k]) for j in size for k in size if k >= j]
        return found + [(rhs.format(f"{j},{t + 1}"), self.rhs[j, t]) for j in size for t in range(self.coordinates)]

    def written(self, *, full: bool = False) -> str:
        """Plain text with the verdicts of :meth:`check`; unless ``full``, long sums are cut and the rest counted."""
        lines = [
            self.title,
            "features: " + ", ".join(map(str, self.features)),
            "mu: clean moments of v, K: covariance of the noise in u",
        ]
        lines += [f"{left} = {text(value, full)}" for left, value in self._entries("G[{}]", "B[{}]")]
        return "\n".join([*lines, *(f"{claim}: {'holds' if ok else 'FAILS'}" for claim, ok in self.check().items())])

    def __str__(self) -> str:
        return self.written()

    def __repr__(self) -> str:
        return f"WienerSystem({self.degree}, {self.coordinates})"


def _exact_matrix(matrix: Any) -> sp.Matrix:
    rows = matrix.tolist() if hasattr(matrix, "tolist") else [list(row) for row in matrix]
    return sp.Matrix([[rational(value) for value in row] for row in rows])
