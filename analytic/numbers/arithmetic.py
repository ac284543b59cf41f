"""What differs between the arithmetics a closed form runs in: NumPy, torch, mpmath, exact rationals, double-double, bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np

from analytic.algebra.rational import rational
from analytic.numbers.bounded import Bounded, bounded_sqrt, unit_roundoff
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


def as_mpf(value: Any) -> Any:
    """The nearest mpf of the working precision; no float64 in between."""
    number = rational(value)
    if number.is_Rational:
        return mpmath.mpf(int(number.p)) / int(number.q)
    return mpmath.mpf(number.evalf(mpmath.mp.dps + 5)._mpf_)


def bounded_mpf(value: Any) -> Bounded:
    """The nearest mpf, with how far it is from the number meant."""
    nearest, number = as_mpf(value), rational(value)
    if not number.is_Rational:
        return Bounded(nearest, abs(nearest) * unit_roundoff(nearest))
    gap = abs(number - rational(nearest))
    return Bounded(nearest, as_mpf(gap) * 2)


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
