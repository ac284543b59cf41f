"""The Jacobian ``d theta / d mu`` as a function of arrays, from its straight-line program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.noise import check_level
from analytic.algebra.program import Program, compile_program
from analytic.errors import AnalyticError
from analytic.numbers.arithmetic import as_mpf, signal_and_noise, sqrt, stack
from analytic.numbers.evaluate import Evaluator

BACKENDS = ("numpy", "torch", "mpmath")


def compiled_jacobian(program: Program, backend: str) -> Callable[..., Any]:
    """The program as a function of one backend.

    Raises:
        AnalyticError: unknown backend.
    """
    if backend not in BACKENDS:
        raise AnalyticError(f"unknown backend {backend!r}: use one of {', '.join(BACKENDS)}")
    if backend == "mpmath":
        return compile_program(program, [{"sqrt": sqrt}, "mpmath"])
    return compile_program(program, [{"sqrt": sqrt}], float)


class JacobianFunction:
    """``f(moments, *level, ridge=0) -> (F, P, ...)``: see :meth:`analytic.theory.sensitivity.Sensitivity.lambdify`.

    Args:
        program: of the F x P entries, row by row, with its common subexpressions named.
        columns: P.

    It pickles as its program, which is compiled again where it is read.
    """

    def __init__(self, coefficient: Coefficient, program: Program, columns: int, backend: str) -> None:
        self.coefficient, self.program, self.columns, self.backend = coefficient, program, columns, backend
        self._function = compiled_jacobian(program, backend)
        self._plain = Evaluator(coefficient, backend, "elimination", "double", True, None)
        self.__doc__ = f"d theta / d mu of {coefficient.title}: (moments (M, ...), level) -> (F, P, ...)."

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.coefficient, self.program, self.columns, self.backend)

    def __call__(self, moments: Any, *level: Any, ridge: Any = 0) -> Any:
        tail, kind, columns = self._plain.ridge_of(moments, ridge), self.coefficient.noise.kind, self.columns
        rows = len(self.coefficient.family)
        if self.backend == "mpmath":
            check_level(kind, *level)
            a, s2 = signal_and_noise(kind, [as_mpf(value) for value in level], mpmath.sqrt, mpmath.mpf(1))
            values = self._function(*map(as_mpf, list(moments)[1:]), a, s2, *map(as_mpf, tail))
            return [values[k * columns : (k + 1) * columns] for k in range(rows)]
        self._plain(moments, *level, ridge=ridge)  # refuses bad input and a singular Gram
        if self.backend == "numpy":
            moments, level = (
                np.asarray(moments, dtype=np.float64),
                tuple(np.asarray(v, dtype=np.float64) for v in level),
            )
        else:
            moments = moments.double()
            level = tuple(v.double() if hasattr(v, "double") else moments.new_tensor(v) for v in level)
        shape = moments[0] * 0
        for value in level:
            shape = shape + value * 0
        a, s2 = signal_and_noise(kind, level, sqrt, shape + 1.0)
        values = stack([value + shape for value in self._function(*moments[1:], a, s2, *tail)], self.backend)
        return values.reshape(rows, columns, *shape.shape)
