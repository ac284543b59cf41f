"""Running error bounds: every value carries a bound on how far it is from the exact one.

The normal equations of an almost constant coefficient at little noise are so close to singular that rounding alone decides
the answer.  A formula run on :class:`Bounded` values says so: ``error`` bounds the rounding of every operation (Wilkinson's
running analysis) and, where the inputs carry an error themselves, what the formula makes of that.

The bound is first order in the unit roundoff and holds for arrays, torch tensors, floats, mpmath numbers and
:class:`analytic.numbers.doubledouble.DoubleDouble` alike; it is pessimistic, for errors that cancel are added.
"""

from __future__ import annotations

from typing import Any

import mpmath

from analytic.numbers.doubledouble import DoubleDouble, dd_sqrt, power_by_squaring

DOUBLE = 2.0**-53
LARGEST_EXACT = 2.0**53  # formulas hold integers only; to here float64 has them all
DOUBLE_DOUBLE = 2.0**-102  # 2^-105 of the sums and products, with room for the division


def unit_roundoff(value: Any) -> Any:
    """Largest relative rounding of one operation in the arithmetic of ``value``."""
    if isinstance(value, DoubleDouble):
        return DOUBLE_DOUBLE
    if hasattr(value, "_mpf_"):
        return mpmath.mpf(2) ** (1 - mpmath.mp.prec)
    return DOUBLE


def magnitude(value: Any) -> Any:
    """``|value|``, of a double-double its leading part; of a torch tensor outside its gradient."""
    value = value.high if isinstance(value, DoubleDouble) else value
    return abs(value.detach() if hasattr(value, "detach") else value)


class Bounded:
    """A value (scalar, array or double-double) and ``error >= |value - exact|`` of the same shape."""

    __slots__ = ("error", "value")
    __array_priority__ = 2000

    def __init__(self, value: Any, error: Any = 0.0) -> None:
        self.value, self.error = value, error

    @staticmethod
    def of(value: Any) -> Bounded:
        """Numbers of the formula itself are exact, but for integers that the arithmetic had to round."""
        if isinstance(value, Bounded):
            return value
        if isinstance(value, float | DoubleDouble) and magnitude(value) > LARGEST_EXACT:
            return Bounded(value, magnitude(value) * unit_roundoff(value))
        return Bounded(value)

    def _rounded(self, value: Any, error: Any) -> Bounded:
        return Bounded(value, error + unit_roundoff(value) * magnitude(value))

    def __add__(self, other: Any) -> Bounded:
        other = Bounded.of(other)
        return self._rounded(self.value + other.value, self.error + other.error)

    __radd__ = __add__

    def __neg__(self) -> Bounded:
        return Bounded(-self.value, self.error)

    def __sub__(self, other: Any) -> Bounded:
        return self + (-Bounded.of(other))

    def __rsub__(self, other: Any) -> Bounded:
        return Bounded.of(other) + (-self)

    def __mul__(self, other: Any) -> Bounded:
        other = Bounded.of(other)
        error = magnitude(self.value) * other.error + (magnitude(other.value) + other.error) * self.error
        return self._rounded(self.value * other.value, error)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Bounded:
        other = Bounded.of(other)
        value = self.value / other.value
        gap = magnitude(other.value) - other.error
        safe = gap * (gap > 0) + (gap <= 0) * 1e-300  # a divisor that may be zero leaves no bound at all
        return self._rounded(value, (self.error + magnitude(value) * other.error) / safe)

    def __rtruediv__(self, other: Any) -> Bounded:
        return Bounded.of(other) / self

    def __pow__(self, power: int) -> Bounded:
        return power_by_squaring(self, power, Bounded(1.0))

    def sqrt(self) -> Bounded:
        """Square root; its error is ``error / sqrt(value)`` at most."""
        value = self.value
        root = dd_sqrt(value) if isinstance(value, DoubleDouble) else value**0.5
        size = magnitude(root)
        return self._rounded(root, self.error / (size + (size == 0) * 1e-300))

    def __repr__(self) -> str:
        return f"Bounded({self.value!r}, {self.error!r})"


def bounded_sqrt(value: Any) -> Bounded:
    """``sqrt`` for generated code that runs on bounded values."""
    return Bounded.of(value).sqrt()
