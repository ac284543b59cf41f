"""Straight-line programs: from clean moments to coefficients, every intermediate named.

A system of F features has numerators with up to F! terms.  Written as a program (noisy moments, then minors or pivots,
then coefficients) it stays a closed form of polynomial size, which prints, compiles and runs in any arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from analytic.algebra.cofactor import cramer_minors
from analytic.algebra.rational import rational
from analytic.errors import AnalyticError

Assignment = tuple[sp.Symbol, sp.Expr]
PROGRAM_METHODS = ("cofactor", "elimination", "auto")
EXACT_IN_FLOAT = 2**53
MAX_COFACTOR = 7  # features; beyond, 2^(F+1) minors cost more than F^3 pivots


@dataclass(frozen=True)
class Program:
    """``outputs`` as expressions in ``inputs`` and in the left-hand sides of ``assignments``, which come in order."""

    inputs: tuple[sp.Symbol, ...]
    assignments: tuple[Assignment, ...]
    outputs: tuple[sp.Expr, ...]

    def with_cse(self) -> Program:
        """The same program with common subexpressions named ``x_0, x_1, ...`` (:func:`sympy.cse`)."""
        names = (sp.Symbol(f"x_{k}") for k in count())
        expressions = [expression for _, expression in self.assignments] + list(self.outputs)
        replacements, reduced = sp.cse(expressions, symbols=names, order="none")
        pending = dict(replacements)
        order: list[Assignment] = []

        def need(expression: sp.Expr) -> None:
            for symbol in sorted(expression.free_symbols & pending.keys(), key=lambda s: s.name):
                if symbol in pending:
                    value = pending.pop(symbol)
                    need(value)
                    order.append((symbol, value))

        for (name, _), expression in zip(self.assignments, reduced):
            need(expression)
            order.append((name, expression))
        outputs = reduced[len(self.assignments) :]
        for expression in outputs:
            need(expression)
        return Program(self.inputs, tuple(order), tuple(outputs))

    def evaluate(self, values: dict[sp.Symbol, Any]) -> list[sp.Expr]:
        """Outputs for given inputs, exactly, by substitution in order (rational in, rational out)."""
        table: dict[sp.Symbol, sp.Expr] = {name: rational(value) for name, value in values.items()}
        for name, expression in self.assignments:
            table[name] = expression.xreplace(table)
        return [expression.xreplace(table) for expression in self.outputs]


def solve_program(
    gram: sp.MatrixBase, rhs: sp.MatrixBase, method: str = "auto"
) -> tuple[list[Assignment], list[sp.Expr]]:
    """Assignments and outputs for ``theta = G^-1 b`` (equation (15)).

    Args:
        method: ``"cofactor"`` (equation (21), named minors), ``"elimination"`` (LDL^T without pivoting: G is positive
            definite) or ``"auto"``: cofactor up to seven features.

    Raises:
        AnalyticError: unknown method.
    """
    if method == "auto":
        method = "cofactor" if gram.shape[0] <= MAX_COFACTOR else "elimination"
    if method == "cofactor":
        return _cofactor_program(gram, rhs)
    if method == "elimination":
        return _elimination_program(gram, rhs)
    raise AnalyticError(f"unknown method {method!r}: use 'cofactor', 'elimination' or 'auto'")


def _cofactor_program(gram: sp.MatrixBase, rhs: sp.MatrixBase) -> tuple[list[Assignment], list[sp.Expr]]:
    size = gram.shape[0]
    steps: list[Assignment] = []

    def name(columns: tuple[int, ...], value: sp.Expr) -> sp.Expr:
        if value.is_Atom:
            return value
        symbol = sp.Symbol("M_" + "".join(f"{c:x}" for c in columns))
        steps.append((symbol, value))
        return symbol

    rows = [[gram[j, k] for k in range(size)] + [rhs[j]] for j in range(size)]
    numerators, determinant = cramer_minors(rows, name)
    det = sp.Symbol("det_G")
    steps.append((det, determinant))
    return steps, [numerator / det for numerator in numerators]


def _elimination_program(gram: sp.MatrixBase, rhs: sp.MatrixBase) -> tuple[list[Assignment], list[sp.Expr]]:
    size = gram.shape[0]
    steps: list[Assignment] = []

    def name(text: str, value: sp.Expr) -> sp.Expr:
        if value.is_Atom:
            return value
        symbol = sp.Symbol(text)
        steps.append((symbol, value))
        return symbol

    # v_ij = L_ij d_j is the partly eliminated entry; L_ij its quotient by the pivot d_j.
    lower: list[list[sp.Expr]] = [[sp.Integer(0)] * size for _ in range(size)]
    entry: list[list[sp.Expr]] = [[sp.Integer(0)] * size for _ in range(size)]
    pivots: list[sp.Expr] = []
    forward: list[sp.Expr] = []
    for j in range(size):
        pivots.append(name(f"d_{j}", sp.Add(gram[j, j], *(-lower[j][k] * entry[j][k] for k in range(j)))))
        for i in range(j + 1, size):
            value = sp.Add(gram[i, j], *(-lower[i][k] * entry[j][k] for k in range(j)))
            entry[i][j] = name(f"v_{i}_{j}", value)
            lower[i][j] = name(f"L_{i}_{j}", entry[i][j] / pivots[j])
        forward.append(name(f"f_{j}", sp.Add(rhs[j], *(-lower[j][k] * forward[k] for k in range(j)))))
    theta: list[sp.Expr] = [sp.Integer(0)] * size
    for j in range(size - 1, -1, -1):
        value = sp.Add(forward[j] / pivots[j], *(-lower[i][j] * theta[i] for i in range(j + 1, size)))
        theta[j] = name(f"t_{j}", value)
    return steps, theta


def pivot_symbols(program: Program) -> list[sp.Symbol]:
    """Quantities that must be > 0 for the program to have a meaning: det G, or the pivots."""
    names = [name for name, _ in program.assignments]
    return [name for name in names if name.name == "det_G" or _is_pivot(name.name)]


def _is_pivot(text: str) -> bool:
    return text.startswith("d_") and text[2:].isdigit()


def used(program: Program) -> Program:
    """Drop assignments nothing depends on."""
    wanted: set[sp.Symbol] = set().union(*(output.free_symbols for output in program.outputs))
    kept: list[Assignment] = []
    for name, value in reversed(program.assignments):
        if name in wanted:
            kept.append((name, value))
            wanted |= value.free_symbols
    return Program(program.inputs, tuple(reversed(kept)), program.outputs)


def assignments_of(pairs: Iterable[tuple[sp.Expr, sp.Expr]]) -> list[Assignment]:
    """Keep the pairs whose left-hand side is a symbol."""
    return [(name, value) for name, value in pairs if isinstance(name, sp.Symbol)]


class _WholePrinter(PythonCodePrinter):
    """Integers that float64 cannot hold are handed to ``whole``: arrays overflow on them, or round them without a word."""

    def _print_Integer(self, expr: Any) -> str:
        text = str(int(expr))
        return text if abs(int(expr)) <= EXACT_IN_FLOAT else f"whole({text})"


def compile_program(program: Program, modules: Sequence[Any] | str, whole: Callable[[int], Any] | None = None) -> Any:
    """A Python function of the inputs, returning the list of outputs (:func:`sympy.lambdify`).

    Args:
        modules: where the function's names come from, as for lambdify.
        whole: turns an integer beyond 2^53 into a number of the arithmetic the function will run in; needed for arrays.
    """

    def plan(expressions: Any, **_: Any) -> tuple[list[Assignment], list[sp.Expr]]:
        return list(program.assignments), list(program.outputs)

    if whole is None:
        return sp.lambdify(list(program.inputs), list(program.outputs), modules=modules, cse=plan)
    printer = _WholePrinter({"fully_qualified_modules": False, "inline": True, "allow_unknown_functions": True})
    names = [{"whole": whole}, *modules]
    return sp.lambdify(list(program.inputs), list(program.outputs), modules=names, printer=printer, cse=plan)
