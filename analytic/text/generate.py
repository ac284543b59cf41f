"""Source text from closed forms, by SymPy's printers: NumPy, torch and C, with common subexpressions named."""

from __future__ import annotations

import keyword
from typing import Any

import sympy as sp
from sympy.printing.c import C99CodePrinter
from sympy.printing.numpy import NumPyPrinter
from sympy.printing.pycode import PythonCodePrinter

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.program import EXACT_IN_FLOAT, Program, pivot_symbols
from analytic.errors import AnalyticError

LANGUAGES = ("numpy", "torch", "c")
LANGUAGE_NAMES = {"numpy": "Python with NumPy", "torch": "Python with torch", "c": "C"}
LARGEST_INT = 2**31 - 1
C_WORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
    "alignas alignof asm bool complex constexpr false imaginary nullptr thread_local true typeof typeof_unqual "
    "static_assert".split()
)
C_TAKEN = frozenset(  # what <math.h> declares, main, and what compilers know without a header
    "main acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim floor fma "
    "fmax fmin fmod frexp gamma hypot ilogb isfinite isgreater isinf isless isnan isnormal j0 j1 jn ldexp lgamma llrint "
    "llround log log10 log1p log2 logb lrint lround modf nan nearbyint nextafter nexttoward pow remainder remquo rint "
    "round scalb scalbln scalbn signbit significand sin sinh sqrt tan tanh tgamma trunc y0 y1 yn drem finite signgam "
    "fpclassify isunordered isgreaterequal islessequal islessgreater float_t double_t "
    "abs labs llabs printf fprintf sprintf snprintf vprintf vfprintf vsprintf vsnprintf puts fputs putchar putc scanf sscanf "
    "malloc calloc realloc free exit abort memcpy memmove memset memcmp memchr strlen strcpy strncpy strcat strncat strcmp "
    "strncmp strchr strrchr strstr strspn strcspn strpbrk isalnum isalpha isblank iscntrl isdigit isgraph islower isprint "
    "ispunct isspace isupper isxdigit tolower toupper alloca bcmp bcopy bzero index rindex ffs stpcpy strdup strndup "
    "conj creal cimag carg cabs cexp clog csqrt cpow csin ccos ctan imaxabs".split()
)
_RIDGE = {sp.Symbol("lambda", nonnegative=True): sp.Symbol("ridge")}  # lambda is a keyword of Python


class _PowerC(C99CodePrinter):
    """Small integer powers as products: faster and exact to the last bit; no integer literal that an int may not hold."""

    def _print_Integer(self, expr: sp.Integer) -> str:
        return _as_double(expr, LARGEST_INT)

    def _print_Pow(self, expr: sp.Pow) -> str:
        if expr.exp.is_Integer and 2 <= int(expr.exp) <= 4 and expr.base.is_Symbol:
            return "(" + "*".join([self._print(expr.base)] * int(expr.exp)) + ")"
        return super()._print_Pow(expr)


class _NumPyPrinter(NumPyPrinter):
    """No integer that turns an array into one of Python objects."""

    def _print_Integer(self, expr: sp.Integer) -> str:
        return _as_double(expr, EXACT_IN_FLOAT)


class _TorchPrinter(PythonCodePrinter):
    """Tensors overload the operators; only the square root needs its torch name, and integers must not overflow."""

    def _print_Integer(self, expr: sp.Integer) -> str:
        return _as_double(expr, EXACT_IN_FLOAT)

    def _hprint_Pow(self, expr: Any, rational: bool = False, sqrt: str = "torch.sqrt") -> str:
        return super()._hprint_Pow(expr, rational=rational, sqrt="torch.sqrt")


def check_name(language: str, name: str) -> None:
    """Refuse a function name that the language does not take: no identifier, a reserved word, or a name the code uses.

    Raises:
        AnalyticError: names the word and the language.
    """
    if not (name.isidentifier() and name.isascii()):
        raise AnalyticError(f"function name {name!r} is not an identifier: use letters, digits and _, such as theta")
    if language == "c":
        # Two underscores, or one and a capital, belong to the compiler.
        reserved, used = name in C_WORDS, name in C_TAKEN or (name[:1] == "_" and (name[1:2] == "_" or name[1:2].isupper()))
    else:
        reserved, used = keyword.iskeyword(name), name in (language, "ArithmeticError")
    if reserved or used:
        why = "a reserved word of" if reserved else "taken in"
        raise AnalyticError(f"function name {name!r} is {why} {LANGUAGE_NAMES[language]}: use another, such as theta")


def _as_double(number: sp.Integer, largest: int) -> str:
    """An integer literal, or that of the nearest double where an integer would overflow (the compiler rounds it)."""
    value = int(number)
    return str(value) if abs(value) <= largest else f"{value}.0"


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
    check_name(language, name)
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
    printer: Any = _NumPyPrinter() if language == "numpy" else _TorchPrinter()

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
