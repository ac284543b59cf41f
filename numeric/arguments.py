"""What a user may write where a list is wanted: a number, a string, an array or a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def as_list(value: Any, kind: Callable[[Any], T], name: str = "value") -> list[T]:
    """``value`` as a list of ``kind`` (``float``, ``int`` or ``str``).

    One number or name is a list of one; a string is split at its commas; arrays and tensors of any shape are read flat.

    Raises:
        ValueError: an item that is not of the kind, or a fraction where a whole number is wanted.

    Example:
        >>> as_list("0.1, 0.5", float), as_list(3, int), as_list("local", str)
        ([0.1, 0.5], [3], ['local'])
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Iterable) else [value]
    out: list[T] = []
    for item in items:
        if isinstance(item, list | tuple):
            out += as_list(item, kind, name)
            continue
        try:
            read = kind(item.strip() if isinstance(item, str) else item)
            if kind is int and float(item) != read:
                raise ValueError
        except (TypeError, ValueError):
            wanted = {float: "numbers", int: "whole numbers"}.get(kind, "names")  # type: ignore[call-overload]
            raise ValueError(f"{name} must be {wanted}, got {item!r}") from None
        out.append(read)
    return out
