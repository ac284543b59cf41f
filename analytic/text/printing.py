"""Text and LaTeX of a coefficient."""

from __future__ import annotations

import sympy as sp

from analytic.algebra.coefficient import Coefficient
from analytic.errors import AnalyticError
from analytic.text.tex import tex, text

FORMS = ("auto", "cofactor", "clean", "determinant", "system")


SHOWN_MOMENTS = 40  # noisy moments that are printed; the rest is counted


def _align(lines: list[str]) -> str:
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


MATRIX = 12  # features up to which G is printed entry by entry


def _system(coefficient: Coefficient) -> list[str]:
    size = len(coefficient.family)
    if size > MATRIX:
        features = [tex(feature) for feature in coefficient.features]
        rows = [", ".join(features[k : k + 10]) for k in range(0, size, 10)]
        target = tex(coefficient.variables[0])
        return [
            r"\phi &= (" + r", \\ &\quad ".join(rows) + ")",
            rf"G_{{jk}} &= E[\phi_j \phi_k], \quad b_j = -E[\partial \phi_j / \partial {target}], "
            rf"\quad j, k = 1, \ldots, {size}",
            r"\theta_k &= \frac{1}{\det G} \sum_j b_j C_{jk}",
        ]
    return [
        f"G &= {tex(coefficient.gram)}",
        f"b &= {tex(coefficient.rhs)}",
        r"\theta_k &= \frac{1}{\det G} \sum_j b_j C_{jk}",
    ]


def _definitions(coefficient: Coefficient) -> dict[sp.Symbol, sp.Expr]:
    """Standardised and noisy moments that the system is written in, and those that they are written in."""
    needed = set(coefficient.gram.free_symbols | coefficient.rhs.free_symbols)
    standard = coefficient.standard_moments
    kept = set(standard) & needed
    for name in list(kept):  # g_p is written in c, delta and the m
        kept |= standard[name].free_symbols & standard.keys()
    for name in kept:
        needed |= standard[name].free_symbols
    found = {name: value for name, value in standard.items() if name in kept}
    return found | {name: value for name, value in coefficient.noisy_moments.items() if name in needed}


def _noisy(coefficient: Coefficient) -> list[str]:
    """Noisy moments in clean ones; where there are many, the first of them and the rule (20)."""
    table = _definitions(coefficient)
    shown = list(table.items())[:SHOWN_MOMENTS]
    lines = [f"{tex(name)} &= {tex(value)}" for name, value in shown]
    if len(table) > len(shown):
        a, s2 = tex(coefficient.noise.a), tex(coefficient.noise.s2)
        lines.append(
            rf"m_p &= \sum_{{q \le p}} \binom{{p}}{{q}} a^{{|q|}} s^{{|p| - |q|}} \mu_q E[z^{{p - q}}], \quad "
            rf"a = {a}, \; s^2 = {s2} \qquad \text{{({len(table) - len(shown)} more)}}"
        )
    return lines


def latex_of(coefficient: Coefficient, form: str, full: bool = True) -> str:
    """See :meth:`analytic.score.ScoreCoefficient.latex`."""
    if form not in FORMS:
        raise AnalyticError(f"unknown LaTeX form {form!r}: use one of {', '.join(FORMS)}")
    if form in ("clean", "determinant") and len(coefficient.family) > MATRIX:
        raise AnalyticError(
            f"form {form!r} writes {len(coefficient.family)} features out ({MATRIX} is the most): use form 'system'"
        )
    if form == "auto":
        form = "cofactor" if len(coefficient.family) <= 4 else "system"
    names = [tex(name) for name in coefficient.theta_symbols]
    if form == "clean":
        return _align([f"{name} &= {tex(value, full)}" for name, value in zip(names, coefficient.theta_clean())])
    if form == "system":
        return _align(_system(coefficient) + _noisy(coefficient))
    if form == "cofactor" and len(coefficient.family) > MATRIX:
        return _align(_system(coefficient) + _noisy(coefficient))
    if form == "determinant" or not coefficient.is_expanded:
        lines = []
        for k, name in enumerate(names):
            changed = coefficient.gram.as_mutable()
            changed[:, k] = coefficient.rhs
            top, bottom = (tex(sp.Determinant(m.as_immutable())) for m in (changed, coefficient.gram))
            lines.append(f"{name} &= \\frac{{{top}}}{{{bottom}}}")
        return _align(lines + _noisy(coefficient))
    numerators, determinant = coefficient.cofactors
    lines = [f"\\det G &= {tex(determinant, full)}"]
    lines += [f"{name} &= \\frac{{{tex(top, full)}}}{{\\det G}}" for name, top in zip(names, numerators)]
    return _align(lines + _noisy(coefficient))


def text_of(coefficient: Coefficient, full: bool = True) -> str:
    """Plain text: title, features, system, solution (where written out) and the noisy moments; long sums cut unless full."""
    lines = [coefficient.title, "features: " + ", ".join(map(str, coefficient.features))]
    if len(coefficient.family) <= MATRIX:
        lines.append("G = " + str(coefficient.gram.tolist()))
        lines.append("b = " + str(list(coefficient.rhs)))
    else:
        size = len(coefficient.family)
        lines.append(f"G = E[phi phi^T], {size} x {size}; b = -E[d phi / d {coefficient.variables[0]}]")
    if coefficient.is_expanded:
        numerators, determinant = coefficient.cofactors
        lines.append(f"det G = {text(determinant, full)}")
        lines += [f"theta_{k} = ({text(top, full)}) / det G" for k, top in enumerate(numerators)]
    else:
        lines.append("theta_k = det(G with column k replaced by b) / det G   (equation (21))")
    table = _definitions(coefficient)
    shown = list(table.items())[:SHOWN_MOMENTS]
    lines += [f"{name} = {value}" for name, value in shown]
    if len(table) > len(shown):
        lines.append(f"... and {len(table) - len(shown)} more noisy moments (ScoreCoefficient.noisy_moments)")
    return "\n".join(lines)
