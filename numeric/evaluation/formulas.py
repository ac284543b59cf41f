"""The closed forms on real moments: exact moments of wavelet coefficients, curves of theta against noise, lost digits.

Everything is computed by :mod:`analytic` from exact rational moments of the images' coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import factorial
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from analytic import AnalyticError, Response, ScoreCoefficient, digit_loss, digit_table, theorems, theta_from_moments
from analytic.numbers.digits import DigitTable, textbook
from analytic.theory.response import standard_cumulants
from numeric.data import ImageSet
from numeric.progress import progress_bar
from numeric.wavelets import WaveletTransform

GRID = 2**32
"""Coefficients are rounded to multiples of 1 / GRID, so that their moments are exact rationals of moderate size."""

NAMES = {"A": "scaling", "H": "horizontal", "V": "vertical", "D": "diagonal"}


@dataclass(frozen=True)
class RealCoefficient:
    """One wavelet coefficient of the data: a label, its address and exact moments ``mu_0 = 1 ..``."""

    label: str
    scale: int
    orientation: str
    row: int
    column: int
    moments: tuple[sp.Rational, ...]

    @property
    def floats(self) -> np.ndarray:
        """The moments in float64."""
        return np.array([float(value) for value in self.moments])


def exact_moments(values: np.ndarray, order: int) -> list[sp.Rational]:
    """Exact raw moments of values rounded to multiples of 1 / :data:`GRID`, orders 0 to ``order``."""
    integers = [round(Fraction(float(v)) * GRID) for v in values]
    powers, out = [1] * len(integers), [sp.Integer(1)]
    for p in range(1, order + 1):
        powers = [a * b for a, b in zip(powers, integers)]
        out.append(sp.Rational(sum(powers), len(integers) * GRID**p))
    return out


def coefficients(
    images: ImageSet, places: Sequence[tuple[int, str]], order: int, wavelet: str = "db2", progress: bool = True
) -> list[RealCoefficient]:
    """Of each band (scale, orientation) the coefficient of largest variance, with exact moments, from one pass over the images.

    Raises:
        ValueError: a band that the transform does not have.
    """
    transform = WaveletTransform(images.shape[1:], wavelet)
    parts: list[Tensor] = []
    with progress_bar(len(images), "coefficients", progress) as bar:
        for batch in images.batches(1000):
            parts.append(transform.forward(batch.double()).flatten(1))
            bar.update(len(batch))
    values = torch.cat(parts)
    found = []
    for scale, orientation in places:
        band = next((b for b in transform.bands if (b.scale, b.orientation) == (scale, orientation)), None)
        if band is None:
            shown = ", ".join(f"({b.scale}, {b.orientation})" for b in transform.bands)
            raise ValueError(f"no band (scale, orientation) = ({scale}, {orientation}): use any of {shown}")
        inside = int(values[:, band.start : band.stop].var(0).argmax())
        row, column = divmod(inside, band.shape[1])
        moments = exact_moments(values[:, band.start + inside].numpy(), order)
        label = f"{NAMES[orientation]}, scale {scale} ({row}, {column})"
        found.append(RealCoefficient(label, scale, orientation, row, column, tuple(moments)))
    return found


def curves(real: RealCoefficient, degree: int, sigma: np.ndarray) -> dict[str, Any]:
    """Coefficients against noise, VE and VP, raw and standardised, with the accuracy of their evaluation.

    ``raw``: ``theta_k`` on ``w^k``, (F, S).  ``standard``: ``sd * theta`` on ``He_k(u)``, (F, S).  VP levels have the same
    s / a.  ``cumulants``: clean, standardised, kappa_3 up; ``rho``: the signal's share of the variance, (S,).
    """
    abar = 1 / (1 + sigma**2)
    size = 2 * degree + 1
    moments = real.floats[:size, None]
    ve = ScoreCoefficient("independent", degree, "ve").lambdify()
    vp = ScoreCoefficient("independent", degree, "vp").lambdify()
    hermite = ScoreCoefficient("independent", degree, "ve", basis="hermite").lambdify()
    variance = float(real.moments[2] - real.moments[1] ** 2)
    deviation = np.sqrt(variance + sigma**2)
    raw_ve, raw_vp = ve(moments, sigma), vp(moments, abar)
    bound, rounding = ve.accuracy(moments, sigma)
    carried = raw_vp * np.sqrt(abar) ** (np.arange(degree + 1)[:, None] + 1)
    return {
        "label": real.label,
        "ve": raw_ve,
        "vp": raw_vp,
        "standard": hermite(moments, sigma) * deviation,
        "rho": variance / (variance + sigma**2),
        "cumulants": [float(value) for value in standard_cumulants(real.moments[:size])],
        "mean": float(real.moments[1]),
        "variance": variance,
        "accuracy": {"arithmetic": float(bound.max()), "rounding_of_moments": float(rounding.max())},
        "vp_is_ve": float((np.abs(carried - raw_ve).max(0) / np.abs(raw_ve).max(0)).max()),
    }


def response_norms(curve: dict[str, Any], degree: int) -> np.ndarray:
    """``rho^(p/2) |R_p|``: rms change of ``sd * c`` under the Gaussian per unit clean cumulant p = 3..2n, (2n - 2, S)."""
    response = Response(degree)
    out = np.empty((2 * degree - 2, len(curve["rho"])))
    weights = np.array([factorial(k) for k in range(degree + 1)], dtype=float)
    orders = np.arange(3, 2 * degree + 1)
    for i, rho in enumerate(curve["rho"]):
        noisy = [sp.Rational(round(k * rho ** (p / 2) * 10**6), 10**6) for p, k in zip(orders, curve["cumulants"])]
        jacobian = np.array(response.jacobian(noisy).evalf().tolist(), dtype=float)
        out[:, i] = np.sqrt((weights[:, None] * jacobian**2).sum(0)) * rho ** (orders / 2)
    return out


def lost_digits(real: Sequence[RealCoefficient], sigmas: Sequence[float], degree: int) -> DigitTable:
    """Digits that float64 loses on the real coefficients, by basis and degree."""
    records = []
    for coefficient in real:
        for sigma in sigmas:
            level = sp.Rational(str(sigma))
            records += digit_loss(coefficient.moments[: 2 * degree + 1], level, law=coefficient.label)
    return digit_table(records)


def textbook_digits(sigmas: Sequence[float], degree: int) -> DigitTable:
    """The same on the Gaussian, uniform, Laplace and exponential laws."""
    return digit_table(textbook(sigmas=[sp.Rational(str(sigma)) for sigma in sigmas], degree=degree))


def theorem_table(degree: int = 3) -> list[dict[str, str]]:
    """Name, statement and verdict, computed now, of every theorem of :mod:`analytic.theory.limits`."""
    return [
        {"theorem": t.name, "statement": t.statement, "recomputed": "holds" if t.holds else "FAILS"}
        for t in theorems(degree)
    ]


def named_conditions() -> list[dict[str, str]]:
    """What the closed form says of data for which it has no value."""
    half, tiny = sp.Rational(1, 2), 1e-7
    near = [float(np.mean((0.7 + tiny * np.array([-1, 0, 1])) ** p)) for p in range(7)]
    cases: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = [
        ("constant pixel, no noise", [1, half, half**2], (), {"noise": "clean"}),
        ("two-point data, no noise, degree 2", [1, half, half, half, half], (), {"noise": "clean"}),
        ("clean data and a VE level of zero", [1, 0, 1], (0,), {}),
        ("numbers that are no moments", [1, 0, 1, 0, half], (), {"noise": "clean"}),
        ("nearly constant pixel, sigma = 1e-5, degree 3", near, (1e-5,), {}),
    ]
    rows = []
    for name, moments, level, options in cases:
        try:
            theta_from_moments(moments, *level, **options)
            rows.append({"case": name, "condition": "none: regular"})
        except AnalyticError as error:
            rows.append({"case": name, "condition": type(error).__name__, "message": str(error)})
    return rows
