"""Closed forms as functions: NumPy, torch, mpmath and exact rationals, each result with its accuracy checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from analytic.algebra.coefficient import Coefficient
from analytic.algebra.noise import check_level
from analytic.algebra.program import Program, compile_program, pivot_symbols
from analytic.algebra.rational import rational
from analytic.errors import AnalyticError, NearlyConstant, NumericallySingular
from analytic.numbers.arithmetic import any_of, as_float, as_mpf, bounded_mpf, quiet, signal_and_noise, sqrt, stack
from analytic.numbers.bounded import DOUBLE, Bounded, magnitude
from analytic.numbers.conditions import clean_values, refuse_no_law_of_arrays
from analytic.numbers.doubledouble import DoubleDouble

BACKENDS = ("numpy", "torch", "mpmath", "exact")
PRECISIONS = ("double-double", "double")


@lru_cache(maxsize=64)
def _compiled(
    coefficient: Coefficient, method: str, cse: bool, backend: str, precision: str
) -> tuple[Callable[..., Any], int]:
    program = coefficient.program(method)
    guards = pivot_symbols(program)
    size = len(program.outputs)
    program = Program(program.inputs, program.assignments, (*program.outputs, *guards))
    if cse:
        program = program.with_cse()
    if backend == "exact":
        return compile_program(program, [{"sqrt": sp.sqrt}, "sympy"]), size
    if backend == "mpmath":
        return compile_program(program, [{"sqrt": sqrt}, "mpmath"]), size
    whole: Any = DoubleDouble.of if precision == "double-double" else float
    return compile_program(program, [{"sqrt": sqrt}], whole), size


class Evaluator:
    """``f(moments, *level, ridge=0) -> theta``, shape (F, ...): see :meth:`ScoreCoefficient.lambdify`.

    Methods:
        accuracy: the relative errors that are certain not to be exceeded: of the arithmetic, and of the rounding of the
            moments to float64.
    """

    def __init__(
        self,
        coefficient: Coefficient,
        backend: str = "numpy",
        method: str = "auto",
        precision: str = "double-double",
        cse: bool = True,
        tolerance: float | None = 1e-3,
    ) -> None:
        if backend not in BACKENDS:
            raise AnalyticError(f"unknown backend {backend!r}: use one of {', '.join(BACKENDS)}")
        if precision not in PRECISIONS:
            raise AnalyticError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}")
        if tolerance is not None and not 0 < tolerance:
            raise AnalyticError(f"tolerance must be > 0, or None for no check, got {tolerance}")
        self.coefficient, self.backend, self.precision, self.tolerance = coefficient, backend, precision, tolerance
        self._settings = (coefficient, backend, method, precision, cse, tolerance)
        self._function, self._size = _compiled(coefficient, method, cse, backend, precision)
        self.__doc__ = f"theta of {coefficient.title}: (moments (M, ...), level) -> (F, ...)."

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what made it; the formula is compiled again where it is read."""
        return type(self), self._settings

    def __call__(self, moments: Any, *level: Any, ridge: Any = 0) -> Any:
        tail = self.ridge_of(moments, ridge)
        if self.backend in ("mpmath", "exact"):
            return self._scalar(list(moments), level, tail)
        if self.tolerance is not None:
            self._refuse_no_law(moments)
        theta, guards, errors, seen = self._array(moments, level, tail, checked=self.tolerance is not None)
        if self.tolerance is not None:
            self._refuse_inaccurate(errors, seen, moments)
        _check_guards(guards)
        return theta

    def accuracy(self, moments: Any, *level: Any, ridge: Any = 0) -> tuple[Any, Any]:
        """Relative errors ``(arithmetic, rounding)`` of every coefficient, shape (...) each; numpy and torch.

        Both are bounds on ``max_k |error_k| / max_k |theta_k|``, infinite where the Gram cannot be told from a singular
        one.  ``arithmetic``: of the rounding of the evaluation, for the numbers as given.  ``rounding``: of what the
        rounding of moments, level and ridge to float64 (half a unit in the last place each) makes of the coefficients,
        carried through the elimination.  It adds errors that may cancel: at high degree it refuses results that are
        better than it can know.
        """
        if self.backend in ("mpmath", "exact"):
            raise AnalyticError(f"accuracy is of the numpy and torch backends, this one is {self.backend!r}")
        _, _, errors, seen = self._array(moments, level, self.ridge_of(moments, ridge), checked=True)
        return errors, seen

    def ridge_of(self, moments: Any, ridge: Any) -> tuple[Any, ...]:
        """The ridge as the last arguments of the compiled function; refuses moments of the wrong length."""
        count = len(self.coefficient.moment_exponents)
        if len(moments) != count:
            raise AnalyticError(
                f"moments must hold {count} values (mu_0 = 1 first; order: ScoreCoefficient.moment_exponents), "
                f"got {len(moments)}"
            )
        has_ridge = self.coefficient.ridge is not None
        value = ridge if getattr(ridge, "ndim", 0) else rational(ridge)
        if not has_ridge and any_of(value != 0):
            raise AnalyticError(
                f'this coefficient has no ridge, got ridge={ridge}: build it with ridge="unit" or "raw"'
            )
        if any_of(value < 0):
            raise AnalyticError(f"ridge must be >= 0, got {ridge}")
        return (ridge,) if has_ridge else ()

    # -- one coefficient, exactly or in mpmath ---------------------------------------------------------------------

    def _scalar(self, moments: list[Any], level: Any, tail: Any) -> list[Any]:
        function, size, noise = self._function, self._size, self.coefficient.noise
        if self.backend == "exact":
            clean_values(self.coefficient, moments)
            numbers = [rational(value) for value in moments]
            a, s2 = noise.values(*level)
            results = [sp.radsimp(sp.sympify(value)) for value in function(*numbers[1:], a, s2, *map(rational, tail))]
            _check_guards(results[size:])
            return list(results[:size])
        check_level(noise.kind, *level)
        _check_first(as_mpf(moments[0]))
        if self.tolerance is not None:
            clean_values(self.coefficient, moments)
        wrap = as_mpf if self.tolerance is None else bounded_mpf
        a, s2 = signal_and_noise(noise.kind, [wrap(value) for value in level], sqrt, wrap(1))
        results = function(*map(wrap, moments[1:]), a, s2, *map(wrap, tail))
        _check_guards([value.value if isinstance(value, Bounded) else value for value in results[size:]])
        if self.tolerance is None:
            return list(results[:size])
        theta = [Bounded.of(value).value for value in results[:size]]
        error = max(Bounded.of(value).error for value in results[:size])
        top = max(abs(value) for value in theta)
        if error > self.tolerance * top:
            raise NumericallySingular(
                f"{mpmath.mp.dps} digits leave the coefficients a relative error of up to "
                f"{mpmath.nstr(error / top if top else error, 2)}, more than the tolerance {self.tolerance:g}",
                "use more digits, or precision='exact'",
            )
        return theta

    # -- arrays ----------------------------------------------------------------------------------------------------

    def _array(self, moments: Any, level: Sequence[Any], tail: Any, checked: bool) -> tuple[Any, ...]:
        """``theta (F, ...)``, what must be positive and, where checked, both errors of :meth:`accuracy`."""
        kind = self.coefficient.noise.kind
        _check_levels(kind, level)
        numbers: Any
        if self.backend == "numpy":
            numbers = as_floats(moments)
            values: list[Any] = [as_floats(value) for value in level]
            tail = tuple(as_floats(value) for value in tail)
        else:
            numbers = moments.double()
            values = [numbers.new_tensor(value) if not hasattr(value, "double") else value.double() for value in level]
        if any_of(numbers != numbers):
            raise AnalyticError("the moments contain NaN: recompute them from finite data")
        _check_first(numbers[0])
        shape = numbers[0] * 0
        for value in [*values, *(v for v in tail if hasattr(v, "shape"))]:
            shape = shape + value * 0  # the broadcast shape of moments and levels
        still = shape if self.backend == "numpy" else shape.detach()
        extended = self.precision == "double-double"

        def run(function: Any, extended: bool, wrap: Callable[[Any, bool], Any]) -> list[Any]:
            """A compiled program; ``wrap(value, given)`` makes its inputs, ``given`` where a float64 was rounded to."""

            def number(value: Any, given: bool = True) -> Any:
                return wrap(DoubleDouble.of(value) if extended else value, given)

            a, s2 = signal_and_noise(kind, [number(v) for v in values], sqrt, number(shape + 1.0, False))
            return function(*map(number, numbers[1:]), a, s2, *map(number, tail))

        with quiet(self.backend):
            results = run(self._function, extended, lambda v, _: Bounded(v, still) if checked else v)
            plain = [as_float(value) + shape for value in results]
            theta, guards = stack(plain[: self._size], self.backend), plain[self._size :]
            if not checked:
                return theta, guards, None, None
            bound = self._relative(results, theta, still)
            # The rounding of what was given, carried through the elimination (its bounds are tighter than the cofactors').
            carried = run(self._carrier, True, lambda v, given: Bounded(v, magnitude(v) * DOUBLE * given + still))
            return theta, guards, bound, self._relative(carried, theta, still)

    def _refuse_no_law(self, moments: Any) -> None:
        moments = moments.detach().double().cpu().numpy() if hasattr(moments, "detach") else moments
        numbers = as_floats(moments)
        if np.isnan(numbers).any():
            raise AnalyticError("the moments contain NaN: recompute them from finite data")
        _check_first(numbers[0])
        refuse_no_law_of_arrays(self.coefficient, numbers)

    def _relative(self, results: Sequence[Any], theta: Any, shape: Any) -> Any:
        """``max_k |error_k| / max_k |theta_k|``, infinite where no digit is certain."""
        worst = Bounded.of(results[0]).error + shape
        for value in results[1 : self._size]:
            error = Bounded.of(value).error
            worst = worst + (error - worst) * (error > worst)
        if self.backend == "numpy":
            top = abs(theta).max(0) - worst
            return np.where(worst == 0, 0.0, np.where(top > 0, worst / np.where(top > 0, top, 1.0), np.inf))
        top = abs(theta.detach()).amax(0) - worst
        found = (worst / top).masked_fill(~(top > 0), float("inf"))
        return found.masked_fill(worst == 0, 0.0)

    @property
    def _carrier(self) -> Callable[..., Any]:
        """The program, by elimination, that carries the rounding of the moments; always in double-double."""
        return _compiled(self.coefficient, "elimination", True, self.backend, "double-double")[0]

    def _refuse_inaccurate(self, bound: Any, seen: Any, moments: Any) -> None:
        bad = ~(bound + seen <= self.tolerance)
        if not any_of(bad):
            return
        flat, worst = bad.reshape(-1), (bound + seen).reshape(-1)
        places = [k for k in range(len(flat)) if bool(flat[k])] if len(flat) > 1 else []
        shown = f" at {len(places)} of {len(flat)} coefficients (first: {places[:3]})" if places else ""
        first = places[0] if places else 0
        because = (
            "det G (or a pivot) cannot be told from zero"
            if not bool(bound.reshape(-1)[first] <= self.tolerance)
            else "the rounding of the moments to float64 decides them"
        )
        text = (
            f"the coefficients have a relative error of {float(worst[first]):.1e}, more than the tolerance "
            f"{self.tolerance:g}{shown}: {because}"
        )
        fix = (
            "use a ridge, a lower degree or more noise, exact moments with precision='exact', or moments about the "
            "mean; analytic.diagnose names an exact reason"
        )
        values = moments.reshape(len(moments), -1) if hasattr(moments, "reshape") else [[v] for v in moments]
        column = first if len(values[0]) > first else 0
        if self._nearly_constant([row[column] for row in values]):
            raise NearlyConstant("the target's variance is less than 1e-6 of its second moment, and " + text, fix)
        raise NumericallySingular(text, fix)

    def _nearly_constant(self, moments: list[Any]) -> bool:
        """Whether the raw moments have lost the digits of the target's variance: the raw noise level does not count."""
        width = len(self.coefficient.variables)
        rows = self.coefficient.moment_exponents
        first, second = (rows.index((power, *(0,) * (width - 1))) for power in (1, 2))
        mean, square = float(moments[first]), float(moments[second])
        return square > 0 and abs(square - mean**2) < 1e-6 * square


def as_floats(values: Any) -> np.ndarray:
    """Numbers as float64, each rounded once, whatever they are written as (``"1/3"``, ``Decimal("0.1")``, mpf).

    Raises:
        AnalyticError: what is no number.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError):
        objects = np.asarray(values, dtype=object)
        return np.array([float(rational(value)) for value in objects.ravel()]).reshape(objects.shape)


def _check_levels(kind: str, level: Sequence[Any]) -> None:
    """Array levels are checked at their extremes."""
    for pick in (min, max):
        check_level(kind, *(pick(value.ravel()) if getattr(value, "ndim", 0) else value for value in level))


def _check_first(first: Any) -> None:
    if any_of(abs(first - 1) > 1e-9):
        raise AnalyticError(
            f"the first moment must be mu_0 = 1, got {first}: divide the moments by the number of samples"
        )


def _check_guards(guards: Sequence[Any]) -> None:
    for guard in guards:
        positive = guard > 0
        bad = ~positive if hasattr(positive, "any") else not positive
        if any_of(bad):
            count: Any = bad
            where = f" at {int(count.sum())} coefficient(s)" if hasattr(guard, "ndim") and guard.ndim else ""
            raise NumericallySingular(
                f"det G or a pivot is not positive{where}: the normal equations (16) have no unique solution "
                "in this arithmetic",
                "use a ridge, a lower degree or more noise; analytic.diagnose names the reason exactly",
            )
