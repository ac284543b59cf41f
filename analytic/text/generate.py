"""Source text from closed forms, by SymPy's printers: NumPy, torch and C, with common subexpressions named."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.printing.c import C99CodePrinter
from sympy.printing.numpy import NumPyPrinter
from sympy.printing.pycode import PythonCodePrinter

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.program import Program, pivot_symbols
from analytic.errors import AnalyticError

LANGUAGES = ("numpy", "torch", "c")
_RIDGE = {sp.Symbol("lambda", nonnegative=True): sp.Symbol("ridge")}  # lambda is a keyword of Python


class _PowerC(C99CodePrinter):
    """Small integer powers as products: faster and exact to the last bit."""

    def _print_Pow(self, expr: sp.Pow) -> str:
        if expr.exp.is_Integer and 2 <= int(expr.exp) <= 4 and expr.base.is_Symbol:
            return "(" + "*".join([self._print(expr.base)] * int(expr.exp)) + ")"
        return super()._print_Pow(expr)


class _TorchPrinter(PythonCodePrinter):
    """Tensors overload the operators; only the square root needs its torch name."""

    def _hprint_Pow(self, expr: Any, rational: bool = False, sqrt: str = "torch.sqrt") -> str:
        return super()._hprint_Pow(expr, rational=rational, sqrt="torch.sqrt")


def source_of(coefficient: Coefficient, language: str, method: str, name: str, cse: bool) -> str:
    """See :meth:`analytic.score.ScoreCoefficient.code`."""
    header = f"theta = G^-1 b, equation (15): {coefficient.title}."
    return source_of_program(coefficient, coefficient.program(method), language, name, cse, header)


def source_of_program(
    coefficient: Coefficient, program: Program, language: str, name: str, cse: bool, header: str
) -> str:
    """Source text of any program in the inputs of a coefficient; ``header`` is its first comment."""
    if language not in LANGUAGES:
        raise AnalyticError(f"unknown language {language!r}: use one of {', '.join(LANGUAGES)}")
    if not name.isidentifier():
        raise AnalyticError(f"function name {name!r} is not an identifier")
    if cse:
        program = program.with_cse()
    if language == "c":
        return _c_source(coefficient, program, name, header)
    return _python_source(coefficient, program, name, language, header)


def _header(coefficient: Coefficient, first: str) -> list[str]:
    order = ", ".join(str(symbol) for symbol in coefficient.moment_symbols)
    if len(order) > 60:
        order = order[:60].rsplit(",", 1)[0] + ", ... (ScoreCoefficient.moment_exponents)"
    return [first, f"mu: {order}."]


def _used_inputs(coefficient: Coefficient, program: Program) -> list[tuple[int, sp.Expr]]:
    expressions = [value for _, value in program.assignments] + list(program.outputs)
    needed: set[Any] = set().union(*(expression.free_symbols for expression in expressions))
    return [(k, symbol) for k, symbol in enumerate(coefficient.moment_symbols) if symbol in needed]


def _python_source(coefficient: Coefficient, program: Program, name: str, language: str, header: str) -> str:
    printer: Any = NumPyPrinter() if language == "numpy" else _TorchPrinter()

    def show(expression: sp.Expr) -> str:
        return printer.doprint(expression.xreplace(_RIDGE))

    levels = [symbol.name for symbol in coefficient.noise.level] + (["ridge=0.0"] if coefficient.ridge else [])
    lines = [f"import {language}", "", "", f"def {name}({', '.join(['mu', *levels])}):"]
    first, second = _header(coefficient, header)
    lines += [f'    """{first}', "", f"    {second}", '    """']
    lines += [f"    {symbol} = mu[{k}]" for k, symbol in _used_inputs(coefficient, program)]
    lines += ["    " + line for line in _level_lines(coefficient, language)]
    guards = set(pivot_symbols(program))
    for target, value in program.assignments:
        lines.append(f"    {target} = {show(value)}")
        if target in guards:
            lines += _python_guard(target.name, language)
    outputs = [f"result_{k}" for k in range(len(program.outputs))]
    lines += [f"    {target} = {show(value)}" for target, value in zip(outputs, program.outputs)]
    if language == "numpy":
        lines.append(f"    return numpy.stack(numpy.broadcast_arrays({', '.join(outputs)}))")
    else:
        lines.append(f"    values = [torch.as_tensor(value, dtype=mu.dtype) for value in ({', '.join(outputs)},)]")
        lines.append("    return torch.stack(torch.broadcast_tensors(*values))")
    return "\n".join(lines) + "\n"


def _python_guard(name: str, language: str) -> list[str]:
    """Refuse a determinant or pivot that is not positive before anything is divided by it."""
    test = f"torch.all(torch.as_tensor({name}) > 0)" if language == "torch" else f"numpy.all({name} > 0)"
    return [f"    if not {test}:", f'        raise ArithmeticError("{name} is not positive: singular in float64")']


def _level_lines(coefficient: Coefficient, language: str) -> list[str]:
    kind = coefficient.noise.kind
    if kind == "vp":
        root = {"numpy": "numpy.sqrt(abar)", "torch": "torch.as_tensor(abar, dtype=mu.dtype)**0.5", "c": "sqrt(abar)"}
        return [f"a = {root[language]}", "s2 = 1.0 - abar"]
    if kind == "ve":
        return ["a = 1.0", "s2 = sigma*sigma"]
    return ["s2 = s*s"] if kind == "general" else ["a = 1.0", "s2 = 0.0"]


def _c_source(coefficient: Coefficient, program: Program, name: str, header: str) -> str:
    printer = _PowerC()

    def show(expression: sp.Expr) -> str:
        return printer.doprint(expression.xreplace(_RIDGE))

    levels = [symbol.name for symbol in coefficient.noise.level] + (["ridge"] if coefficient.ridge else [])
    arguments = ["const double *mu", *(f"double {level}" for level in levels), "double *result"]
    lines = ["#include <math.h>", "", "/* " + "\n   ".join(_header(coefficient, header)) + " */"]
    lines += [
        "/* Returns 0, or 1 with result untouched where det G or a pivot is not positive (singular in double). */"
    ]
    lines += [f"int {name}({', '.join(arguments)})", "{"]
    lines += [f"    const double {symbol} = mu[{k}];" for k, symbol in _used_inputs(coefficient, program)]
    lines += [f"    const double {line};" for line in _level_lines(coefficient, "c")]
    guards = set(pivot_symbols(program))
    for target, value in program.assignments:
        lines.append(f"    const double {target} = {show(value)};")
        if target in guards:
            lines.append(f"    if (!({target} > 0.0)) return 1;")
    lines += [f"    result[{k}] = {show(value)};" for k, value in enumerate(program.outputs)]
    lines += ["    return 0;", "}"]
    return "\n".join(lines) + "\n"
