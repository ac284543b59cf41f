"""LaTeX of one expression, with the field's names for the symbols."""

from __future__ import annotations

from typing import Any

import sympy as sp

from analytic.algebra.noise import ABAR

NAMES = {ABAR: r"\bar{\alpha}"}


def tex(expression: Any) -> str:
    """:func:`sympy.latex` with ``abar`` written as alpha-bar."""
    return sp.latex(expression, symbol_names=NAMES)
