"""One expression as LaTeX or text: the field's names for the symbols, and long sums cut with a count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from analytic.algebra.noise import ABAR

NAMES = {ABAR: r"\bar{\alpha}"}
LONG = 3000  # characters of one formula, where not everything is asked for
TERMS = (40, 20, 10, 4)  # of its sums: the first that keeps it shorter
REST = "..."
DIGITS = 200  # of a number, likewise


class _RestLast:
    """A cut sum keeps the order of its terms: the symbol for the rest stands at the end."""

    def _as_ordered_terms(self, expr: Any, order: Any = None) -> Any:
        cut = expr.args and str(expr.args[-1]).startswith(REST)
        return list(expr.args) if cut else super()._as_ordered_terms(expr, order)  # type: ignore[misc]


class _CutText(_RestLast, StrPrinter):
    pass


class _CutLatex(_RestLast, LatexPrinter):
    pass


def tex(expression: Any, full: bool = True) -> str:
    """:func:`sympy.latex` with ``abar`` written as alpha-bar; not ``full``: long sums are cut (:func:`_cuts`)."""
    if full:
        return sp.latex(expression, symbol_names=NAMES)
    for short, rests in _cuts(expression):
        names = NAMES | {name: rf"\cdots \text{{ ({count} more terms)}}" for name, count in rests.items()}
        written = _CutLatex({"symbol_names": names}).doprint(short)
        if len(written) <= LONG:
            break
    return written


def text(expression: Any, full: bool = True) -> str:
    """``str`` of an expression; not ``full``: long sums are cut and the rest counted (:func:`_cuts`)."""
    if full:
        return str(expression)
    for short, _ in _cuts(expression):
        written = _CutText().doprint(short)
        if len(written) <= LONG:
            break
    return written


def number_text(value: sp.Expr, full: bool = True) -> str:
    """``str`` of an exact number; not ``full``: beyond :data:`DIGITS` digits only how many there are."""
    written = str(value)
    if full or len(written) <= DIGITS:
        return written
    return f"({len(written)} digits)"


def _cuts(expression: Any) -> Iterator[tuple[Any, dict[sp.Symbol, int]]]:
    """An expression with its sums cut at ever fewer terms, and what each symbol for the rest stands for."""
    for keep in TERMS:
        rests: dict[sp.Symbol, int] = {}
        yield _cut(expression, keep, rests), rests


def _cut(expression: Any, keep: int, rests: dict[sp.Symbol, int]) -> Any:
    if isinstance(expression, sp.Eq):
        return sp.Eq(_cut(expression.lhs, keep, rests), _cut(expression.rhs, keep, rests), evaluate=False)
    if not isinstance(expression, sp.Basic):
        return expression
    table = {}
    for total in [part for part in sp.preorder_traversal(expression) if part.is_Add and len(part.args) > keep]:
        count = len(total.args) - keep
        rest = sp.Symbol(f"{REST} ({count} more terms)")
        rests[rest] = count
        table[total] = sp.Add(*total.as_ordered_terms()[:keep], rest, evaluate=False)
    return expression.xreplace(table)
