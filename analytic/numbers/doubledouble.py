"""Double-double arithmetic: about 32 digits from pairs of float64, on whole arrays at once.

The cofactor formula (21) cancels: at degree 4 its float64 value can lose six digits and more.  Run on this type, the
*same* formula keeps them, for NumPy arrays, torch tensors and floats alike (only ``+ - * /`` of the array are used).
Dekker (1971) splitting and Knuth's two-sum.
"""

from __future__ import annotations

from typing import Any

_SPLIT = 134217729.0  # 2^27 + 1


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def _split(a: Any) -> tuple[Any, Any]:
    scaled = _SPLIT * a
    high = scaled - (scaled - a)
    return high, a - high


def _two_product(a: Any, b: Any) -> tuple[Any, Any]:
    product = a * b
    a1, a2 = _split(a)
    b1, b2 = _split(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def power_by_squaring(base: Any, power: int, one: Any) -> Any:
    """``base ** power`` by products alone, for number types that carry their own rounding; ``one`` is their unit."""
    if power < 0:
        return one / power_by_squaring(base, -power, one)
    result = None
    while power:
        if power & 1:
            result = base if result is None else result * base
        power >>= 1
        if power:
            base = base * base
    return one if result is None else result


def _takes_over(other: Any) -> bool:
    """NumPy's rule for mixed types: the one of higher priority (a running bound, :mod:`analytic.numbers.bounded`) decides."""
    return getattr(other, "__array_priority__", 0) > DoubleDouble.__array_priority__


class DoubleDouble:
    """An unevaluated sum ``high + low`` of two float64 values (or arrays of any one shape).

    Integers and floats mix in exactly; a Python integer beyond 2^53 is split into two floats.
    """

    __slots__ = ("high", "low")
    __array_priority__ = 1000

    def __init__(self, high: Any, low: Any = 0.0) -> None:
        self.high, self.low = high, low

    @staticmethod
    def of(value: Any) -> DoubleDouble:
        """A double-double from a number, an array or a double-double."""
        if isinstance(value, DoubleDouble):
            return value
        if isinstance(value, int):
            return DoubleDouble(float(value), float(value - int(float(value))))
        return DoubleDouble(value)

    def __add__(self, other: Any) -> DoubleDouble:
        if _takes_over(other):
            return NotImplemented
        other = DoubleDouble.of(other)
        s, e = _two_sum(self.high, other.high)
        t, f = _two_sum(self.low, other.low)
        s, e = _two_sum(s, e + t)
        return DoubleDouble(*_two_sum(s, e + f))

    __radd__ = __add__

    def __neg__(self) -> DoubleDouble:
        return DoubleDouble(-self.high, -self.low)

    def __sub__(self, other: Any) -> DoubleDouble:
        if _takes_over(other):
            return NotImplemented
        return self + (-DoubleDouble.of(other))

    def __rsub__(self, other: Any) -> DoubleDouble:
        return DoubleDouble.of(other) + (-self)

    def __mul__(self, other: Any) -> DoubleDouble:
        if _takes_over(other):
            return NotImplemented
        other = DoubleDouble.of(other)
        p, e = _two_product(self.high, other.high)
        return DoubleDouble(*_two_sum(p, e + (self.high * other.low + self.low * other.high)))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> DoubleDouble:
        if _takes_over(other):
            return NotImplemented
        other = DoubleDouble.of(other)
        first = self.high / other.high
        rest = self - other * DoubleDouble(first)
        second = rest.high / other.high
        rest = rest - other * DoubleDouble(second)
        third = rest.high / other.high
        return DoubleDouble(*_two_sum(first, second)) + DoubleDouble(third)

    def __rtruediv__(self, other: Any) -> DoubleDouble:
        return DoubleDouble.of(other) / self

    def __pow__(self, power: int) -> DoubleDouble:
        return power_by_squaring(self, power, DoubleDouble(1.0))

    def sqrt(self) -> DoubleDouble:
        """Square root: one Newton step from the float64 root."""
        root = self.high**0.5
        rest = self - DoubleDouble(*_two_product(root, root))
        return DoubleDouble(*_two_sum(root, rest.high / (2.0 * root)))

    def rounded(self) -> Any:
        """The nearest float64."""
        return self.high + self.low

    def __repr__(self) -> str:
        return f"DoubleDouble({self.high!r}, {self.low!r})"


def dd_sqrt(value: Any) -> DoubleDouble:
    """``sqrt`` for generated code that runs on double-doubles."""
    return DoubleDouble.of(value).sqrt()
