"""How many digits float64 loses, by degree: monomials, standardised powers and Hermite polynomials (Appendix A.2).

Every degree is solved four times from one exact moments vector: over the rationals (the reference), in mpmath at 50 digits,
and in float64 in each basis, on features scaled to unit second moment (as ``numeric`` solves).  The error is that of the
score itself, ``|c - c_exact| / |c_exact|`` in the norm of L2 under the noisy law, because it means the same in every basis;
``digits lost`` is ``log10(error / 2^-53)``.

float64 can enter in two places (``start``):

- ``"system"``: Gram and right-hand side are formed exactly and then rounded: what the *solve* loses.
- ``"moments"``: the raw moments are rounded first and everything after runs in float64: what a program that accumulates raw
  moments loses.  A better basis cannot bring those digits back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb, log10
from typing import Any

import mpmath
import sympy as sp

from analytic.algebra.bases import BASES, hermite_coefficients
from analytic.algebra.coefficient import Coefficient
from analytic.algebra.laws import law_moments
from analytic.algebra.moments import gaussian_moment
from analytic.algebra.noise import noise_model
from analytic.algebra.rational import rational, rational_solve
from analytic.errors import AnalyticError, NumericallySingular
from analytic.numbers.conditions import diagnosed, refuse_no_law_of_one
from analytic.numbers.exact import float_solve

DIGITS = 50
STARTS = ("system", "moments")
LOSSES = (3, 6, 9)
UNIT = 2.0**-53


@dataclass(frozen=True)
class DigitLoss:
    """float64 against the exact coefficients, one degree in one basis.

    Attributes:
        law: label; noise, level: e.g. ``"ve"``, ``"1/10"``; degree, basis, start.
        error: relative error of the score in L2; lost: digits, ``log10(error / 2^-53)``, at least 0.
        coefficient_error: ``max |theta - exact| / max |exact|`` of the monomial coefficients.
        mpmath_error: ``error`` of the solve at 50 digits; condition: of the Gram in this basis, unit diagonal.
    """

    law: str
    noise: str
    level: str
    degree: int
    basis: str
    start: str
    error: float
    lost: float
    coefficient_error: float
    mpmath_error: float
    condition: float

    def record(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


def digit_loss(
    moments: Sequence[Any],
    *level: Any,
    noise: str = "ve",
    degrees: Sequence[int] | None = None,
    bases: Sequence[str] = BASES,
    start: str = "system",
    law: str = "data",
) -> list[DigitLoss]:
    """Digits that float64 loses on one coefficient (independent family).

    Args:
        moments: clean raw moments ``mu_0 = 1 .. mu_N``, exact (integers, fractions, SymPy rationals; floats are taken as
            the dyadic rationals they are); degree n needs ``mu_2n``.
        level: sigma, abar, or a and s; exact if possible (``Fraction(1, 10)``).
        degrees: default every one that the moments allow; bases, start: see the module.
        law: label in the records.

    Returns: a record for every degree and basis.

    Raises:
        AnalyticError: bad arguments; SingularCoefficient: the exact system is singular.

    >>> from fractions import Fraction
    >>> from analytic import digit_loss, law_moments
    >>> records = digit_loss(law_moments('uniform', 4), Fraction(1, 10), degrees=[1, 2], bases=['monomial'])
    >>> [record.degree for record in records]
    [1, 2]
    """
    if start not in STARTS:
        raise AnalyticError(f"unknown start {start!r}: use 'system' or 'moments'")
    for basis in bases:
        if basis not in BASES:
            raise AnalyticError(f"unknown basis {basis!r}: use one of {', '.join(BASES)}")
    exact = [rational(value) for value in moments]
    if len(exact) < 3 or exact[0] != 1:
        raise AnalyticError(f"moments must be mu_0 = 1, mu_1, mu_2, ...: got {list(moments)[:3]}")
    refuse_no_law_of_one(moments)
    top = (len(exact) - 1) // 2
    wanted = list(range(1, top + 1)) if degrees is None else list(degrees)
    for degree in wanted:
        if not 1 <= degree <= top:
            raise AnalyticError(f"degree {degree} needs moments to mu_{2 * degree}, got mu_0 .. mu_{len(exact) - 1}")
    model = noise_model(noise)
    a, s2 = model.values(*map(rational, level))
    # VP is VE at s^2 / a^2 after dividing by a, which keeps everything rational; the score only changes its unit.
    ratio = sp.nsimplify(s2 / a**2)
    label = ", ".join(str(rational(value)) if not isinstance(value, float) else f"{value:g}" for value in level)
    noisy = _noisy(exact, ratio)
    found = []
    for degree in wanted:
        gram = sp.Matrix(degree + 1, degree + 1, lambda j, k: noisy[j + k])
        rhs = sp.Matrix([0] + [-j * noisy[j - 1] for j in range(1, degree + 1)])
        theta = rational_solve(gram, rhs)
        if theta is None:
            raise diagnosed(Coefficient("independent", degree, "ve"), exact[: 2 * degree + 1])
        for basis in bases:
            found.append(_one(exact, noisy, ratio, degree, basis, start, theta, law, model.kind, label))
    return found


def textbook(
    laws: Sequence[str] = ("gaussian", "uniform", "laplace", "exponential"),
    sigmas: Sequence[Any] = (sp.Rational(1, 10), sp.Rational(1, 2), sp.Integer(1)),
    *,
    degree: int = 12,
    bases: Sequence[str] = BASES,
    start: str = "system",
) -> list[DigitLoss]:
    """:func:`digit_loss` of named laws (:mod:`analytic.algebra.laws`) at VE levels, degrees 1 to ``degree``."""
    found = []
    for name in laws:
        for sigma in sigmas:
            found += digit_loss(law_moments(name, 2 * degree), sigma, bases=bases, start=start, law=name)
    return found


# -- one degree, one basis -------------------------------------------------------------------------------------------


def _noisy(clean: Sequence[Any], s2: Any) -> list[Any]:
    """``m_p = sum_q C(p, q) s^(p-q) mu_q E[z^(p-q)]`` (equation (20), a = 1) in the arithmetic of its arguments."""
    return [
        sum(comb(p, q) * gaussian_moment(p - q) * (s2 ** ((p - q) // 2)) * clean[q] for q in range(p % 2, p + 1, 2))
        for p in range(len(clean))
    ]


def _standard(noisy: Sequence[Any], order: int, sqrt: Any) -> tuple[Any, Any, list[Any]]:
    """Mean, deviation and moments of ``u`` to an order, in the arithmetic of ``noisy``."""
    mean = noisy[1]
    deviation = sqrt(noisy[2] - mean * mean)
    shifted = [sum(comb(p, q) * noisy[q] * (-mean) ** (p - q) for q in range(p + 1)) for p in range(order + 1)]
    return mean, deviation, [value / deviation**p for p, value in enumerate(shifted)]


def _features(basis: str, degree: int) -> list[list[int]]:
    """Monomial coefficients of the features in their own coordinate."""
    rows = [hermite_coefficients(k) if basis == "hermite" else [0] * k + [1] for k in range(degree + 1)]
    return [row + [0] * (degree + 1 - len(row)) for row in rows]


def _system(moments: Sequence[Any], features: list[list[int]]) -> tuple[list[list[Any]], list[Any]]:
    """Gram and ``-E[phi']`` of features in the moments of their coordinate."""
    size = len(features)

    def mean(left: list[int], right: list[int]) -> Any:
        return sum(
            a * b * moments[i + j] for i, a in enumerate(left) if a for j, b in enumerate(right) if b
        )  # a coordinate's moments, whatever their arithmetic

    gram = [[mean(features[j], features[k]) for k in range(size)] for j in range(size)]
    rhs = [-sum(i * a * moments[i - 1] for i, a in enumerate(row) if i and a) for row in features]
    return gram, [value + 0 * moments[0] for value in rhs]


def _one(
    exact: Sequence[sp.Expr],
    noisy: Sequence[sp.Expr],
    s2: sp.Expr,
    degree: int,
    basis: str,
    start: str,
    theta: list[sp.Expr],
    law: str,
    kind: str,
    label: str,
) -> DigitLoss:
    with mpmath.workdps(3 * DIGITS + 4 * degree):
        precise = [mpmath.mpf(int(value.p)) / int(value.q) for value in noisy[: 2 * degree + 1]]
        true = [mpmath.mpf(int(value.p)) / int(value.q) for value in theta]
        features = _features(basis, degree)
        mean, deviation, own = _coordinate(precise, basis, degree, mpmath.sqrt)
        gram, rhs = _system(own, features)
        norms = [mpmath.sqrt(gram[k][k]) for k in range(degree + 1)]
        scaled = [[gram[j][k] / (norms[j] * norms[k]) for k in range(degree + 1)] for j in range(degree + 1)]
        right = [value / norm for value, norm in zip(rhs, norms)]

        def score_error(weights: Sequence[Any]) -> tuple[float, float]:
            """Errors of unit-norm weights in this basis, after carrying them to monomials of w."""
            carried = _carry([w / n for w, n in zip(weights, norms)], features, mean, deviation)
            gap = [left - right for left, right in zip(carried, true)]
            hankel = [[precise[j + k] for k in range(degree + 1)] for j in range(degree + 1)]
            size = mpmath.sqrt(_quadratic(hankel, true))
            return (
                float(mpmath.sqrt(abs(_quadratic(hankel, gap))) / size),
                float(max(map(abs, gap)) / max(map(abs, true))),
            )

        condition = _condition(scaled)
        with mpmath.workdps(DIGITS):
            high = list(mpmath.lu_solve(mpmath.matrix(scaled), mpmath.matrix(right)))
        mp_error, _ = score_error(high)
        try:
            if start == "system":
                double = float_solve([[float(v) for v in row] for row in scaled], [float(v) for v in right])
            else:
                double = _from_float_moments(exact, s2, degree, basis, features, [float(n) for n in norms])
            error, coefficient_error = score_error([mpmath.mpf(v) for v in double])
        except (NumericallySingular, ValueError, ZeroDivisionError, OverflowError):
            error = coefficient_error = float("inf")  # float64 finds the system singular: all digits are lost
    lost = 0.0 if error == 0 else max(0.0, log10(error / UNIT)) if error != float("inf") else float("inf")
    return DigitLoss(law, kind, label, degree, basis, start, error, lost, coefficient_error, mp_error, condition)


def _coordinate(noisy: Sequence[Any], basis: str, degree: int, sqrt: Any) -> tuple[Any, Any, list[Any]]:
    return (noisy[0] * 0, noisy[0], list(noisy)) if basis == "monomial" else _standard(noisy, 2 * degree, sqrt)


def _from_float_moments(
    exact: Sequence[sp.Expr], s2: sp.Expr, degree: int, basis: str, features: list[list[int]], norms: list[float]
) -> list[float]:
    """Everything in float64, from rounded raw clean moments; weights of unit-norm features."""
    noisy = _noisy([float(value) for value in exact[: 2 * degree + 1]], float(s2))
    _, _, own = _coordinate(noisy, basis, degree, lambda value: float(value) ** 0.5)
    gram, rhs = _system([float(value) for value in own], features)
    size = range(degree + 1)
    scaled = [[gram[j][k] / (norms[j] * norms[k]) for k in size] for j in size]
    return float_solve(scaled, [value / norm for value, norm in zip(rhs, norms)])


def _carry(weights: Sequence[Any], features: list[list[int]], mean: Any, deviation: Any) -> list[Any]:
    """Weights of features in ``(w - mean) / deviation`` as coefficients of the monomials of w; the score is per w."""
    size = len(weights)
    inner = [sum(weights[k] * features[k][p] for k in range(size)) for p in range(size)]
    out = [weights[0] * 0 for _ in range(size)]
    for p, value in enumerate(inner):
        for q in range(p + 1):
            out[q] += value * comb(p, q) * (-mean) ** (p - q) / deviation**p
    # b holds d phi / d w = (d phi / d u) / deviation
    return [value / deviation for value in out]


def _quadratic(gram: list[list[Any]], vector: Sequence[Any]) -> Any:
    size = range(len(vector))
    return sum(vector[j] * gram[j][k] * vector[k] for j in size for k in size)


def _condition(gram: list[list[Any]]) -> float:
    values = mpmath.eigsy(mpmath.matrix(gram), eigvals_only=True)
    low, high = min(values), max(values)
    return float(high / low) if low > 0 else float("inf")


# -- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class DigitTable:
    """First degree at which float64 loses so many digits, per law, noise level and basis.

    Attributes:
        records: of :func:`digit_loss`; losses: numbers of digits.

    A degree that no record reaches is written ``> highest degree tried``.
    """

    records: tuple[DigitLoss, ...]
    losses: tuple[int, ...] = LOSSES

    def first_degree(self, law: str, level: str, basis: str, loss: int, start: str = "system") -> int | None:
        """Smallest degree whose loss is at least ``loss`` digits; None where no degree tried loses so many."""
        rows = [
            r.degree
            for r in self.records
            if (r.law, r.level, r.basis, r.start) == (law, level, basis, start) and r.lost >= loss
        ]
        return min(rows) if rows else None

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a line: law, noise, level, start, basis, degree of each loss, and the condition there."""
        out = []
        keys = dict.fromkeys((r.law, r.noise, r.level, r.start, r.basis) for r in self.records)
        for law, noise, level, start, basis in keys:
            mine = [
                r
                for r in self.records
                if (r.law, r.noise, r.level, r.start, r.basis) == (law, noise, level, start, basis)
            ]
            last = max(mine, key=lambda r: r.degree)
            row: dict[str, Any] = {"law": law, "noise": noise, "level": level, "start": start, "basis": basis}
            for loss in self.losses:
                row[f"loses {loss}"] = self.first_degree(law, level, basis, loss, start)
            row["highest degree"], row["condition"], row["lost"] = last.degree, last.condition, last.lost
            row["mpmath error"] = max(r.mpmath_error for r in mine)
            out.append(row)
        return out

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        rows = self.rows()
        head = ["law", "level", "basis", *(f"-{loss} digits" for loss in self.losses)]
        head += ["at degree", "condition", "lost"]
        if len({row["start"] for row in rows}) > 1:
            head.insert(3, "start")
        body = []
        for row in rows:
            cells = [row["law"], f"{row['noise']} {row['level']}", row["basis"]]
            if "start" in head:
                cells.append(row["start"])
            for loss in self.losses:
                first = row[f"loses {loss}"]
                cells.append(f"n = {first}" if first is not None else f"n > {row['highest degree']}")
            body.append([*cells, str(row["highest degree"]), f"{row['condition']:.1e}", f"{row['lost']:.1f}"])
        return head, body

    def __str__(self) -> str:
        head, body = self._cells()
        widths = [max(len(line[k]) for line in [head, *body]) for k in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [head, *body]]
        lines.insert(1, "  ".join("-" * width for width in widths))
        worst = max(r.mpmath_error for r in self.records)
        starts = " and ".join(sorted({r.start for r in self.records}))
        lines.append(
            f"float64 ({starts} rounded) against exact rationals; digits lost = log10(error of the score / 2^-53), "
            f"error in L2 of the noisy law; mpmath at {DIGITS} digits: error at most {worst:.0e}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"DigitTable({len(self.records)} records, losses={self.losses})"

    def latex(self) -> str:
        """LaTeX table."""
        head, body = self._cells()
        align = "l" * (3 + ("start" in head)) + "r" * (len(head) - 3 - ("start" in head))
        lines = [rf"\begin{{tabular}}{{{align}}}", " & ".join(head).replace("-", "$-$", 0) + r" \\ \hline"]
        for line in body:
            lines.append(" & ".join(f"${cell}$" if cell.startswith("n ") else cell for cell in line) + r" \\")
        return "\n".join([*lines, r"\end{tabular}"])

    def _repr_html_(self) -> str:
        head, body = self._cells()
        cells = ["<tr>" + "".join(f"<th>{c}</th>" for c in head) + "</tr>"]
        cells += ["<tr>" + "".join(f"<td>{c.replace('>', '&gt;')}</td>" for c in line) + "</tr>" for line in body]
        return "<table>" + "".join(cells) + "</table>"


def digit_table(records: Sequence[DigitLoss], losses: Sequence[int] = LOSSES) -> DigitTable:
    """The table of some records.

    >>> from fractions import Fraction
    >>> from analytic import digit_loss, digit_table, law_moments
    >>> table = digit_table(digit_loss(law_moments('uniform', 4), Fraction(1, 10), degrees=[1, 2], bases=['monomial']))
    >>> len(table.records)
    2
    """
    if not records:
        raise AnalyticError("no records: run digit_loss or textbook first")
    return DigitTable(tuple(records), tuple(losses))
