"""Functions and source text from closed forms: NumPy, torch, mpmath, exact rationals and C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy.printing.c import C99CodePrinter
from sympy.printing.numpy import NumPyPrinter
from sympy.printing.pycode import PythonCodePrinter

from analytic.doubledouble import DoubleDouble, dd_sqrt
from analytic.errors import AnalyticError, NumericallySingular
from analytic.noise import check_level
from analytic.program import Program, compile_program, pivot_symbols

if TYPE_CHECKING:
    from analytic.coefficient import ScoreCoefficient

BACKENDS = ("numpy", "torch", "mpmath", "exact")
LANGUAGES = ("numpy", "torch", "c")
PRECISIONS = ("double-double", "double")
_RIDGE = {sp.Symbol("lambda", nonnegative=True): sp.Symbol("ridge")}  # lambda is a keyword of Python


@lru_cache(maxsize=64)
def _compiled(
    coefficient: ScoreCoefficient, method: str, cse: bool, backend: str, precision: str
) -> tuple[Callable[..., Any], int]:
    program = coefficient.program(method)
    guards = pivot_symbols(program)
    size = len(program.outputs)
    program = Program(program.inputs, program.assignments, (*program.outputs, *guards))
    if cse:
        program = program.with_cse()
    if backend == "mpmath":
        modules: Any = "mpmath"
    elif backend == "exact":
        modules = [{"sqrt": sp.sqrt}, "sympy"]
    elif precision == "double-double":
        modules = [{"sqrt": dd_sqrt}]
    else:
        modules = [{"sqrt": lambda value: value**0.5}]
    return compile_program(program, modules), size


def callable_of(
    coefficient: ScoreCoefficient, backend: str, method: str, precision: str, cse: bool
) -> Callable[..., Any]:
    """See :meth:`analytic.coefficient.ScoreCoefficient.lambdify`."""
    if backend not in BACKENDS:
        raise AnalyticError(f"unknown backend {backend!r}: use one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise AnalyticError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    function, size = _compiled(coefficient, method, cse, backend, precision)
    count = len(coefficient.moment_exponents)
    kind, has_ridge = coefficient.noise.kind, coefficient.ridge is not None

    def theta(moments: Any, *level: Any, ridge: Any = 0) -> Any:
        if len(moments) != count:
            raise AnalyticError(
                f"moments must hold {count} values (mu_0 = 1 first; order: ScoreCoefficient.moment_exponents), "
                f"got {len(moments)}"
            )
        if not has_ridge and _any(ridge != 0):
            raise AnalyticError(
                f'this coefficient has no ridge, got ridge={ridge}: build it with ridge="unit" or "raw"'
            )
        if _any(ridge < 0):
            raise AnalyticError(f"ridge must be >= 0, got {ridge}")
        tail = (ridge,) if has_ridge else ()
        if backend in ("mpmath", "exact"):
            return _scalar(function, size, backend, coefficient, list(moments), level, tail)
        return _array(function, size, backend, precision, kind, moments, level, tail)

    theta.__doc__ = f"theta of {coefficient.title}: (moments (M, ...), level) -> (F, ...)."
    return theta


def _any(condition: Any) -> bool:
    return bool(condition.any()) if hasattr(condition, "any") else bool(condition)


def _scalar(
    function: Any, size: int, backend: str, coefficient: ScoreCoefficient, moments: list[Any], level: Any, tail: Any
) -> list[Any]:
    if backend == "exact":
        numbers = [_exact(value) for value in moments]
        _check_first(numbers[0])
        a, s2 = coefficient.noise.values(*map(_exact, level))
        results = [sp.radsimp(sp.sympify(value)) for value in function(*numbers[1:], a, s2, *map(_exact, tail))]
    else:
        import mpmath

        check_level(coefficient.noise.kind, *level)
        numbers = [_mpf(value) for value in moments]
        _check_first(numbers[0])
        values = [_mpf(value) for value in level]
        a, s2 = _signal_and_noise(coefficient.noise.kind, values, mpmath.sqrt, mpmath.mpf(1))
        results = function(*numbers[1:], a, s2, *map(_mpf, tail))
    _check_guards(results[size:])
    return list(results[:size])


def _exact(value: Any) -> sp.Expr:
    return sp.Rational(*float(value).as_integer_ratio()) if isinstance(value, float) else sp.sympify(value)


def _mpf(value: Any) -> Any:
    import mpmath

    if isinstance(value, sp.Basic):
        value = sp.Rational(value) if value.is_Rational else value.evalf(mpmath.mp.dps + 5)
    if hasattr(value, "numerator") and hasattr(value, "denominator") and not isinstance(value, mpmath.mpf):
        return mpmath.mpf(int(value.numerator)) / int(value.denominator)
    return mpmath.mpf(value)


def _signal_and_noise(kind: str, level: Sequence[Any], sqrt: Callable[[Any], Any], one: Any) -> tuple[Any, Any]:
    if kind == "ve":
        return one, level[0] * level[0]
    if kind == "vp":
        return sqrt(level[0]), one - level[0]
    if kind == "general":
        return level[0], level[1] * level[1]
    return one, one * 0


def _array(
    function: Any, size: int, backend: str, precision: str, kind: str, moments: Any, level: Any, tail: Any
) -> Any:
    _check_levels(kind, level)
    numbers: Any
    if backend == "numpy":
        import numpy as np

        numbers = np.asarray(moments, dtype=np.float64)
        values: list[Any] = [np.asarray(value, dtype=np.float64) for value in level]
        tail = tuple(np.asarray(value, dtype=np.float64) for value in tail)
    else:
        numbers = moments.double()
        values = [numbers.new_tensor(value) if not hasattr(value, "double") else value.double() for value in level]
    if _any(numbers != numbers):
        raise AnalyticError("the moments contain NaN: recompute them from finite data")
    _check_first(numbers[0])
    one: Any = numbers[0] * 0 + 1.0
    inputs: list[Any] = list(numbers[1:])
    if precision == "double-double":
        inputs = [DoubleDouble(value) for value in inputs]
        values = [DoubleDouble(value) for value in values]
        tail = tuple(DoubleDouble.of(value) for value in tail)
        a, s2 = _signal_and_noise(kind, values, dd_sqrt, DoubleDouble(one))
    else:
        a, s2 = _signal_and_noise(kind, values, lambda value: value**0.5, one)
    results = function(*inputs, a, s2, *tail)
    results = [value.rounded() if isinstance(value, DoubleDouble) else value for value in results]
    _check_guards(results[size:])
    shape = one
    for value in [*results, *[v.high if isinstance(v, DoubleDouble) else v for v in values]]:
        shape = shape * 0 + value * 0  # the broadcast shape of moments and levels
    stacked = [value + shape for value in results[:size]]
    if backend == "numpy":
        return np.stack(stacked)
    out = stacked[0].new_empty((size, *stacked[0].shape))
    for k, value in enumerate(stacked):
        out[k] = value
    return out


def _check_levels(kind: str, level: Sequence[Any]) -> None:
    """Array levels are checked at their extremes."""
    for pick in (min, max):
        check_level(kind, *(pick(value.ravel()) if getattr(value, "ndim", 0) else value for value in level))


def _check_first(first: Any) -> None:
    if _any(abs(first - 1) > 1e-9):
        raise AnalyticError(
            f"the first moment must be mu_0 = 1, got {first}: divide the moments by the number of samples"
        )


def _check_guards(guards: Sequence[Any]) -> None:
    for guard in guards:
        positive = guard > 0
        bad = ~positive if hasattr(positive, "any") else not positive
        if _any(bad):
            count: Any = bad
            where = f" at {int(count.sum())} coefficient(s)" if hasattr(guard, "ndim") and guard.ndim else ""
            raise NumericallySingular(
                f"det G or a pivot is not positive{where}: the normal equations (16) have no unique solution "
                "in this arithmetic",
                "use a ridge, a lower degree or more noise; analytic.diagnose names the reason exactly",
            )


# -- source text -----------------------------------------------------------------------------------------------


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


def source_of(coefficient: ScoreCoefficient, language: str, method: str, name: str, cse: bool) -> str:
    """See :meth:`analytic.coefficient.ScoreCoefficient.code`."""
    if language not in LANGUAGES:
        raise AnalyticError(f"unknown language {language!r}: use one of {', '.join(LANGUAGES)}")
    if not name.isidentifier():
        raise AnalyticError(f"function name {name!r} is not an identifier")
    program = coefficient.program(method)
    if cse:
        program = program.with_cse()
    if language == "c":
        return _c_source(coefficient, program, name)
    return _python_source(coefficient, program, name, language)


def _header(coefficient: ScoreCoefficient) -> list[str]:
    order = ", ".join(str(symbol) for symbol in coefficient.moment_symbols)
    if len(order) > 60:
        order = order[:60].rsplit(",", 1)[0] + ", ... (ScoreCoefficient.moment_exponents)"
    return [f"theta = G^-1 b, equation (15): {coefficient.title}.", f"mu: {order}; theta: one value a feature."]


def _used_inputs(coefficient: ScoreCoefficient, program: Program) -> list[tuple[int, sp.Expr]]:
    expressions = [value for _, value in program.assignments] + list(program.outputs)
    needed: set[Any] = set().union(*(expression.free_symbols for expression in expressions))
    return [(k, symbol) for k, symbol in enumerate(coefficient.moment_symbols) if symbol in needed]


def _python_source(coefficient: ScoreCoefficient, program: Program, name: str, language: str) -> str:
    printer: Any = NumPyPrinter() if language == "numpy" else _TorchPrinter()

    def show(expression: sp.Expr) -> str:
        return printer.doprint(expression.xreplace(_RIDGE))

    levels = [symbol.name for symbol in coefficient.noise.level] + (["ridge=0.0"] if coefficient.ridge else [])
    lines = [f"import {language}", "", "", f"def {name}({', '.join(['mu', *levels])}):"]
    first, second = _header(coefficient)
    lines += [f'    """{first}', "", f"    {second}", '    """']
    lines += [f"    {symbol} = mu[{k}]" for k, symbol in _used_inputs(coefficient, program)]
    lines += ["    " + line for line in _level_lines(coefficient, language)]
    lines += [f"    {target} = {show(value)}" for target, value in program.assignments]
    outputs = [f"theta_{k}" for k in range(len(program.outputs))]
    lines += [f"    {target} = {show(value)}" for target, value in zip(outputs, program.outputs)]
    if language == "numpy":
        lines.append(f"    return numpy.stack(numpy.broadcast_arrays({', '.join(outputs)}))")
    else:
        lines.append(f"    values = [torch.as_tensor(value, dtype=mu.dtype) for value in ({', '.join(outputs)},)]")
        lines.append("    return torch.stack(torch.broadcast_tensors(*values))")
    return "\n".join(lines) + "\n"


def _level_lines(coefficient: ScoreCoefficient, language: str) -> list[str]:
    kind = coefficient.noise.kind
    if kind == "vp":
        root = {"numpy": "numpy.sqrt(abar)", "torch": "torch.as_tensor(abar, dtype=mu.dtype)**0.5", "c": "sqrt(abar)"}
        return [f"a = {root[language]}", "s2 = 1.0 - abar"]
    if kind == "ve":
        return ["a = 1.0", "s2 = sigma*sigma"]
    return ["s2 = s*s"] if kind == "general" else ["a = 1.0", "s2 = 0.0"]


def _c_source(coefficient: ScoreCoefficient, program: Program, name: str) -> str:
    printer = _PowerC()

    def show(expression: sp.Expr) -> str:
        return printer.doprint(expression.xreplace(_RIDGE))

    levels = [symbol.name for symbol in coefficient.noise.level] + (["ridge"] if coefficient.ridge else [])
    arguments = ["const double *mu", *(f"double {level}" for level in levels), "double *result"]
    lines = ["#include <math.h>", "", "/* " + "\n   ".join(_header(coefficient)) + " */"]
    lines += [f"void {name}({', '.join(arguments)})", "{"]
    lines += [f"    const double {symbol} = mu[{k}];" for k, symbol in _used_inputs(coefficient, program)]
    lines += [f"    const double {line};" for line in _level_lines(coefficient, "c")]
    lines += [f"    const double {target} = {show(value)};" for target, value in program.assignments]
    lines += [f"    result[{k}] = {show(value)};" for k, value in enumerate(program.outputs)]
    lines.append("}")
    return "\n".join(lines) + "\n"
