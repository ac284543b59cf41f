"""Closed forms of the wavelet score: moments, normal systems, cofactor formulas, printing.  SymPy only.

Four wings, arrows down: :mod:`analytic.algebra` (the system and its solution), :mod:`analytic.numbers` (its values and
their accuracy), :mod:`analytic.text` (how it is written) and :mod:`analytic.theory` (what follows from it).  The public
names are imported when they are first asked for, so that ``import analytic`` does not load SymPy::

    from analytic import Derivation, ScoreCoefficient, theta_from_moments
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "analytic.errors": (
        "AnalyticError",
        "ConstantCoefficient",
        "FewAtoms",
        "NearlyConstant",
        "NotAMomentSequence",
        "NumericallySingular",
        "SingularCoefficient",
        "ZeroNoise",
    ),
    "analytic.algebra.families": ("family",),
    "analytic.algebra.laws": ("law_moments",),
    "analytic.algebra.moments": ("clean_moment", "noisy_moment", "noisy_symbol"),
    "analytic.algebra.noise": ("noise_model",),
    "analytic.numbers.conditions": ("diagnose",),
    "analytic.numbers.digits": ("digit_loss", "digit_table"),
    "analytic.numbers.direct": ("theta_from_moments",),
    "analytic.numbers.exact": ("compare", "condition_number", "exact_theta"),
    "analytic.theory.approximation": ("Approximation",),
    "analytic.theory.derivation": ("Derivation",),
    "analytic.theory.divergence": ("Divergence",),
    "analytic.theory.finite": ("FiniteSampleBound",),
    "analytic.theory.hermite": ("HermiteTwin",),
    "analytic.theory.limits": ("theorems",),
    "analytic.theory.response": ("Response",),
    "analytic.theory.sensitivity": ("Sensitivity",),
    "analytic.theory.wiener": ("WienerSystem",),
    "analytic.score": ("ScoreCoefficient",),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """A public name from the room it lives in (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'analytic' has no attribute {name!r}: public names are {', '.join(__all__)}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
