"""Named conditions: what went wrong, where it comes from in the mathematics, and what to do about it."""

from __future__ import annotations


class AnalyticError(ValueError):
    """Bad input; the message names the value and the fix."""


class SingularCoefficient(AnalyticError):
    """The normal equations (16) have no unique solution.

    Attributes:
        name: short identifier of the condition, e.g. ``"few-atoms"``.
        condition: the mathematical statement that makes the Gram singular.
        fix: what the caller can change.
    """

    name = "singular"

    def __init__(self, condition: str, fix: str) -> None:
        self.condition, self.fix = condition, fix
        super().__init__(f"{self.name}: {condition}. Fix: {fix}.")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.condition, self.fix))


class ConstantCoefficient(SingularCoefficient):
    """Clean data with variance zero (a constant pixel) and no noise: ``m_2 = m_1^2``, so det G = 0."""

    name = "constant-coefficient"


class FewAtoms(SingularCoefficient):
    """Clean data on r points (two-point data: r = 2) and no noise: the Hankel matrix of degree >= r has rank r."""

    name = "few-atoms"


class ZeroNoise(SingularCoefficient):
    """``s = 0``: clean data have no density in general, so the score of (11) does not exist."""

    name = "zero-noise"


class NotAMomentSequence(SingularCoefficient):
    """The numbers given are the moments of no distribution: a leading minor of the Hankel matrix is negative."""

    name = "not-a-moment-sequence"


class NumericallySingular(SingularCoefficient):
    """The Gram is invertible, but not in the arithmetic asked for: its condition number exceeds 1/eps."""

    name = "numerically-singular"


class NearlyConstant(NumericallySingular):
    """A coefficient that hardly varies, at hardly any noise: its raw moments no longer hold the digits of its variance."""

    name = "nearly-constant-coefficient"
