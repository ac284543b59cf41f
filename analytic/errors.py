"""Named conditions: what went wrong, where it comes from in the mathematics, and what to do about it."""

from __future__ import annotations


class AnalyticError(ValueError):
    """Bad input; the message names the value and the fix.

    >>> from analytic import AnalyticError, theta_from_moments
    >>> try:
    ...     theta_from_moments([1, 0, 1], -1)
    ... except AnalyticError as error:
    ...     print(str(error).split(":")[0])
    sigma must be > 0, got -1
    """


class SingularCoefficient(AnalyticError):
    """The normal equations (16) have no unique solution.

    Attributes:
        name: short identifier of the condition, e.g. ``"few-atoms"``.
        condition: the mathematical statement that makes the Gram singular.
        fix: what the caller can change.

    >>> from analytic import SingularCoefficient
    >>> print(SingularCoefficient('det G = 0', 'add noise'))
    singular: det G = 0. Fix: add noise.
    """

    name = "singular"

    def __init__(self, condition: str, fix: str) -> None:
        self.condition, self.fix = condition, fix
        super().__init__(f"{self.name}: {condition}. Fix: {fix}.")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.condition, self.fix))


class ConstantCoefficient(SingularCoefficient):
    """Clean data with variance zero (a constant pixel) and no noise: ``m_2 = m_1^2``, so det G = 0.

    >>> from analytic import ScoreCoefficient, diagnose
    >>> type(diagnose(ScoreCoefficient('independent', 1), [1, 2, 4])).__name__
    'ConstantCoefficient'
    """

    name = "constant-coefficient"


class FewAtoms(SingularCoefficient):
    """Clean data on r points (two-point data: r = 2) and no noise: the Hankel matrix of degree >= r has rank r.

    >>> from analytic import ScoreCoefficient, diagnose, law_moments
    >>> type(diagnose(ScoreCoefficient('independent', 2), [1, 0, 1, 0, 1])).__name__  # -1 and 1
    'FewAtoms'
    """

    name = "few-atoms"


class ZeroNoise(SingularCoefficient):
    """``s = 0``: clean data have no density in general, so the score of (11) does not exist.

    >>> from analytic import ZeroNoise, theta_from_moments
    >>> try:
    ...     theta_from_moments([1, 0, 1], 0)
    ... except ZeroNoise as error:
    ...     print(error.name)
    zero-noise
    """

    name = "zero-noise"


class NotAMomentSequence(SingularCoefficient):
    """The numbers given are the moments of no distribution: a leading minor of the Hankel matrix is negative.

    >>> from analytic import ScoreCoefficient, diagnose
    >>> type(diagnose(ScoreCoefficient('independent', 1), [1, 2, 3])).__name__  # a variance of -1
    'NotAMomentSequence'
    """

    name = "not-a-moment-sequence"


class NumericallySingular(SingularCoefficient):
    """The Gram is invertible, but not in the arithmetic asked for: its condition number exceeds 1/eps.

    >>> from analytic import NumericallySingular, SingularCoefficient
    >>> issubclass(NumericallySingular, SingularCoefficient), NumericallySingular.name
    (True, 'numerically-singular')
    """

    name = "numerically-singular"


class NearlyConstant(NumericallySingular):
    """A coefficient that hardly varies, at hardly any noise: its raw moments no longer hold the digits of its variance.

    >>> from analytic import NearlyConstant, NumericallySingular
    >>> issubclass(NearlyConstant, NumericallySingular), NearlyConstant.name
    (True, 'nearly-constant-coefficient')
    """

    name = "nearly-constant-coefficient"
