"""Closed forms of the wavelet score: moments, normal systems, cofactor formulas, printing.  SymPy only."""

from analytic.coefficient import ScoreCoefficient
from analytic.derivation import Derivation
from analytic.digits import digit_loss, digit_table
from analytic.errors import (
    AnalyticError,
    ConstantCoefficient,
    FewAtoms,
    NearlyConstant,
    NotAMomentSequence,
    NumericallySingular,
    SingularCoefficient,
    ZeroNoise,
)
from analytic.exact import compare, condition_number, diagnose, exact_theta, theta_from_moments
from analytic.families import family
from analytic.hermite import HermiteTwin
from analytic.laws import law_moments
from analytic.limits import theorems
from analytic.moments import clean_moment, noisy_moment, noisy_symbol
from analytic.noise import noise_model
from analytic.response import Response
from analytic.sensitivity import Sensitivity

__all__ = [
    "AnalyticError",
    "ConstantCoefficient",
    "Derivation",
    "FewAtoms",
    "HermiteTwin",
    "NearlyConstant",
    "NotAMomentSequence",
    "NumericallySingular",
    "Response",
    "ScoreCoefficient",
    "Sensitivity",
    "SingularCoefficient",
    "ZeroNoise",
    "clean_moment",
    "compare",
    "condition_number",
    "diagnose",
    "digit_loss",
    "digit_table",
    "exact_theta",
    "family",
    "law_moments",
    "noise_model",
    "noisy_moment",
    "noisy_symbol",
    "theorems",
    "theta_from_moments",
]
