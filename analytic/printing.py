"""Text and LaTeX of a coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy as sp

from analytic.errors import AnalyticError
from analytic.tex import tex

if TYPE_CHECKING:
    from analytic.coefficient import ScoreCoefficient

FORMS = ("auto", "cofactor", "clean", "determinant", "system")


def _align(lines: list[str]) -> str:
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def _system(coefficient: ScoreCoefficient) -> list[str]:
    return [
        f"G &= {tex(coefficient.gram)}",
        f"b &= {tex(coefficient.rhs)}",
        r"\theta_k &= \frac{1}{\det G} \sum_j b_j C_{jk}",
    ]


def _noisy(coefficient: ScoreCoefficient) -> list[str]:
    table = {**coefficient.standard_moments, **coefficient.noisy_moments}
    return [f"{tex(name)} &= {tex(value)}" for name, value in table.items()]


def latex_of(coefficient: ScoreCoefficient, form: str) -> str:
    """See :meth:`analytic.coefficient.ScoreCoefficient.latex`."""
    if form not in FORMS:
        raise AnalyticError(f"unknown LaTeX form {form!r}: use one of {', '.join(FORMS)}")
    if form == "auto":
        form = "cofactor" if len(coefficient.family) <= 4 else "system"
    names = [tex(name) for name in coefficient.theta_symbols]
    if form == "clean":
        return _align([f"{name} &= {tex(value)}" for name, value in zip(names, coefficient.theta_clean())])
    if form == "system":
        return _align(_system(coefficient) + _noisy(coefficient))
    numerators, determinant = coefficient.cofactors
    if form == "determinant" or not coefficient.is_expanded:
        lines = []
        for k, name in enumerate(names):
            changed = coefficient.gram.as_mutable()
            changed[:, k] = coefficient.rhs
            top, bottom = (tex(sp.Determinant(m.as_immutable())) for m in (changed, coefficient.gram))
            lines.append(f"{name} &= \\frac{{{top}}}{{{bottom}}}")
        return _align(lines + _noisy(coefficient))
    lines = [f"\\det G &= {tex(determinant)}"]
    lines += [f"{name} &= \\frac{{{tex(top)}}}{{\\det G}}" for name, top in zip(names, numerators)]
    return _align(lines + _noisy(coefficient))


def text_of(coefficient: ScoreCoefficient) -> str:
    """Plain text: title, features, system, solution (where written out) and the noisy moments."""
    lines = [coefficient.title, "features: " + ", ".join(map(str, coefficient.features))]
    if len(coefficient.family) <= 12:
        lines.append("G = " + str(coefficient.gram.tolist()))
        lines.append("b = " + str(list(coefficient.rhs)))
    else:
        size = len(coefficient.family)
        lines.append(f"G = E[phi phi^T], {size} x {size}; b = -E[d phi / d {coefficient.variables[0]}]")
    numerators, determinant = coefficient.cofactors
    if coefficient.is_expanded:
        lines.append(f"det G = {determinant}")
        lines += [f"theta_{k} = ({top}) / det G" for k, top in enumerate(numerators)]
    else:
        lines.append("theta_k = det(G with column k replaced by b) / det G   (equation (21))")
    table = {**coefficient.standard_moments, **coefficient.noisy_moments}
    shown = list(table.items())[:40]
    lines += [f"{name} = {value}" for name, value in shown]
    if len(table) > len(shown):
        lines.append(f"... and {len(table) - len(shown)} more noisy moments (ScoreCoefficient.noisy_moments)")
    return "\n".join(lines)
