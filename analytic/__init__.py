"""Closed forms of the wavelet score: moments, normal systems, cofactor formulas, printing.  SymPy only."""

from analytic.coefficient import ScoreCoefficient
from analytic.errors import (
    AnalyticError,
    ConstantCoefficient,
    FewAtoms,
    NotAMomentSequence,
    NumericallySingular,
    SingularCoefficient,
    ZeroNoise,
)
from analytic.exact import compare, condition_number, diagnose, exact_theta, theta_from_moments
from analytic.families import family
from analytic.moments import clean_moment, noisy_moment, noisy_symbol
from analytic.noise import noise_model

__all__ = [
    "AnalyticError",
    "ConstantCoefficient",
    "FewAtoms",
    "NotAMomentSequence",
    "NumericallySingular",
    "ScoreCoefficient",
    "SingularCoefficient",
    "ZeroNoise",
    "clean_moment",
    "compare",
    "condition_number",
    "diagnose",
    "exact_theta",
    "family",
    "noise_model",
    "noisy_moment",
    "noisy_symbol",
    "theta_from_moments",
]
