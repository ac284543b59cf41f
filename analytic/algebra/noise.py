"""Noise ``y = a x + s e``: variance exploding, variance preserving, general and none (equations (1) and (20))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from analytic.algebra.rational import rational
from analytic.errors import AnalyticError, ZeroNoise

SIGMA = sp.Symbol("sigma", positive=True)
ABAR = sp.Symbol("abar", positive=True)
A = sp.Symbol("a", positive=True)
S = sp.Symbol("s", positive=True)
KINDS = ("ve", "vp", "general", "clean")


@dataclass(frozen=True)
class Noise:
    """A noise model, symbolic in its level.

    Attributes:
        kind: ``"ve"`` (a = 1, s = sigma), ``"vp"`` (a = sqrt(abar), s = sqrt(1 - abar), equation (20)),
            ``"general"`` (free a and s) or ``"clean"`` (a = 1, s = 0: the limit system).
        a: signal scale; s2: noise variance; level: the free symbols, in the order in which values are given.
    """

    kind: str
    a: sp.Expr
    s2: sp.Expr
    level: tuple[sp.Symbol, ...]

    @property
    def s(self) -> sp.Expr:
        """Noise standard deviation."""
        return sp.sqrt(self.s2)

    def values(self, *level: Any) -> tuple[Any, Any]:
        """``(a, s2)`` as SymPy numbers for given level values.

        Raises:
            AnalyticError: wrong number of values, sigma < 0, or abar outside (0, 1).
            ZeroNoise: sigma = 0 (or s = 0, or abar = 1).
        """
        check_level(self.kind, *level)
        table = dict(zip(self.level, map(rational, level)))
        return self.a.subs(table), self.s2.subs(table)


def noise_model(kind: str | Noise) -> Noise:
    """The noise model of a name.

    Raises:
        AnalyticError: unknown name.

    >>> from analytic import noise_model
    >>> noise_model('vp').a, noise_model('ve').s2
    (sqrt(abar), sigma**2)
    """
    if isinstance(kind, Noise):
        return kind
    key = str(kind).lower()
    if key == "ve":
        return Noise("ve", sp.Integer(1), SIGMA**2, (SIGMA,))
    if key == "vp":
        return Noise("vp", sp.sqrt(ABAR), 1 - ABAR, (ABAR,))
    if key == "general":
        return Noise("general", A, S**2, (A, S))
    if key == "clean":
        return Noise("clean", sp.Integer(1), sp.Integer(0), ())
    raise AnalyticError(f"unknown noise {kind!r}: use one of {', '.join(KINDS)}")


def check_level(kind: str, *level: Any) -> None:
    """Refuse levels without a score.  Scalars only; arrays are checked element by element by the caller.

    Raises:
        AnalyticError: wrong number of values; sigma < 0 or not finite; abar outside (0, 1); a <= 0.
        ZeroNoise: s = 0.
    """
    names = [symbol.name for symbol in noise_model(kind).level]
    if len(level) != len(names):
        wanted = ", ".join(names) or "no level"
        raise AnalyticError(f"noise {kind!r} takes {wanted}, got {len(level)} value(s)")
    for name, value in zip(names, level):
        try:
            number = rational(value)
        except AnalyticError as error:
            raise AnalyticError(
                f"{name} must be a finite number, got {value}: use a large one for the limit, or analytic.theory.limits"
            ) from error
        if name == "abar":
            if number == 1:
                raise ZeroNoise("abar = 1 is s = 0", 'use abar < 1, or noise="clean" for the limit system')
            if not 0 < number < 1:
                raise AnalyticError(
                    f"abar must lie strictly between 0 and 1, got {value}: it is the cumulative product of 1 - beta"
                )
        elif name in ("sigma", "s"):
            if number == 0:
                raise ZeroNoise(f"{name} = 0", f'use {name} > 0, or noise="clean" for the limit system')
            if number < 0:
                raise AnalyticError(f"{name} must be > 0, got {value}: it is a standard deviation")
        elif number <= 0:
            raise AnalyticError(f"{name} must be > 0, got {value}: it scales the clean data")
