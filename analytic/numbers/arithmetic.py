"""What differs between the arithmetics a closed form runs in: NumPy, torch, mpmath, exact rationals, double-double, bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from analytic.numbers.bounded import Bounded, bounded_sqrt
from analytic.numbers.doubledouble import DoubleDouble, dd_sqrt


def sqrt(value: Any) -> Any:
    """Square root in whatever arithmetic the compiled function runs."""
    if isinstance(value, Bounded):
        return bounded_sqrt(value)
    return dd_sqrt(value) if isinstance(value, DoubleDouble) else value**0.5


def quiet(backend: str) -> Any:
    """Divisions by zero and overflows are judged by the error bound, not announced by NumPy."""
    if backend != "numpy":
        return contextlib.nullcontext()
    return np.errstate(all="ignore")


def as_float(value: Any) -> Any:
    value = value.value if isinstance(value, Bounded) else value
    return value.rounded() if isinstance(value, DoubleDouble) else value


def stack(values: list[Any], backend: str) -> Any:
    if backend == "numpy":
        return np.stack(values)
    out = values[0].new_empty((len(values), *values[0].shape))
    for k, value in enumerate(values):
        out[k] = value
    return out


def exact_number(value: Any) -> sp.Expr:
    return sp.Rational(*float(value).as_integer_ratio()) if isinstance(value, float) else sp.sympify(value)


def as_mpf(value: Any) -> Any:
    if isinstance(value, sp.Basic):
        value = sp.Rational(value) if value.is_Rational else value.evalf(mpmath.mp.dps + 5)
    if hasattr(value, "numerator") and hasattr(value, "denominator") and not isinstance(value, mpmath.mpf):
        return mpmath.mpf(int(value.numerator)) / int(value.denominator)
    return mpmath.mpf(value)


def any_of(condition: Any) -> bool:
    return bool(condition.any()) if hasattr(condition, "any") else bool(condition)


def signal_and_noise(kind: str, level: Sequence[Any], root: Callable[[Any], Any], one: Any) -> tuple[Any, Any]:
    if kind == "ve":
        return one, level[0] * level[0]
    if kind == "vp":
        return root(level[0]), one - level[0]
    if kind == "general":
        return level[0], level[1] * level[1]
    return one, one * 0
