"""The closed forms on real moments: coefficient curves against noise, responses and lost digits of a few coefficients.

Everything is computed by :mod:`analytic` from exact rational moments of MNIST's wavelet coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import factorial
from typing import Any, ClassVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from matplotlib.figure import Figure
from torch import Tensor

from analytic import (
    AnalyticError,
    Response,
    ScoreCoefficient,
    digit_loss,
    digit_table,
    exact_theta,
    theorems,
    theta_from_moments,
)
from analytic.numbers.digits import DigitTable, textbook
from analytic.theory.response import standard_cumulants
from numeric.data import ImageSet
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.style import STYLE, fitted_on
from numeric.progress import progress_bar
from numeric.wavelets import WaveletTransform

GRID = 2**32
"""Coefficients are rounded to multiples of 1 / GRID, so that their moments are exact rationals of moderate size."""

NAMES = {"A": "scaling", "H": "horizontal", "V": "vertical", "D": "diagonal"}


@dataclass(kw_only=True)
class FormulasConfig(Parameters):
    """Parameters of the figure.

    Attributes:
        size: image side; n_train: images (None: all); wavelet: PyWavelets name.
        places: (scale, orientation) of the coefficients shown; of each band the one with the largest variance is taken.
        degree: of the curves, 3 or more. sigma_low, sigma_high, points: of the noise axis s / a.
        digit_degree: highest degree of the table of lost digits; digit_sigmas: its VE levels.
    """

    name: str = "formulas"
    size: int = 32
    n_train: int | None = None
    wavelet: str = "db2"
    places: Sequence[tuple[int, str]] = ((3, "A"), (3, "H"), (2, "V"), (1, "D"))
    degree: int = 3
    sigma_low: float = 0.05
    sigma_high: float = 5.0
    points: int = 41
    digit_degree: int = 10
    digit_sigmas: Sequence[float] = (0.1, 1.0)

    notebook: ClassVar[str] = "formulas"

    def check(self) -> None:
        self.places = tuple((int(scale), str(orientation)) for scale, orientation in self.places)
        if self.degree < 3:
            raise ValueError(f"degree must be >= 3 (skewness and kurtosis are shown), got {self.degree}")
        if not 0 < self.sigma_low < self.sigma_high or self.points < 2:
            given = f"{self.sigma_low}, {self.sigma_high}, {self.points}"
            raise ValueError(f"the noise axis needs 0 < sigma_low < sigma_high and 2 points, got {given}")
        if self.digit_degree < 1:
            raise ValueError(f"digit_degree must be >= 1, got {self.digit_degree}")

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"places": [list(place) for place in self.places]}

    @property
    def sigmas(self) -> np.ndarray:
        """Noise levels s / a, (points,)."""
        return np.geomspace(self.sigma_low, self.sigma_high, self.points)


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


def coefficients(images: ImageSet, config: FormulasConfig, progress: bool = True) -> list[RealCoefficient]:
    """The chosen coefficients with their exact moments, from one pass over the images."""
    transform = WaveletTransform(images.shape[1:], config.wavelet)
    parts: list[Tensor] = []
    with progress_bar(len(images), "coefficients", progress) as bar:
        for batch in images.batches(1000):
            parts.append(transform.forward(batch.double()).flatten(1))
            bar.update(len(batch))
    values = torch.cat(parts)
    order = 2 * max(config.degree, config.digit_degree)
    found = []
    for scale, orientation in config.places:
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


def curves(real: RealCoefficient, config: FormulasConfig) -> dict[str, Any]:
    """Coefficients against noise, VE and VP, raw and standardised, with the accuracy of their evaluation.

    ``raw``: ``theta_k`` on ``w^k``, (F, S).  ``standard``: ``sd * theta`` on ``He_k(u)``, (F, S).  VP levels have the same
    s / a.  ``cumulants``: clean, standardised, kappa_3 up; ``rho``: the signal's share of the variance, (S,).
    """
    sigma = config.sigmas
    abar = 1 / (1 + sigma**2)
    size = 2 * config.degree + 1
    moments = real.floats[:size, None]
    ve = ScoreCoefficient("independent", config.degree, "ve").lambdify()
    vp = ScoreCoefficient("independent", config.degree, "vp").lambdify()
    hermite = ScoreCoefficient("independent", config.degree, "ve", basis="hermite").lambdify()
    variance = float(real.moments[2] - real.moments[1] ** 2)
    deviation = np.sqrt(variance + sigma**2)
    raw_ve, raw_vp = ve(moments, sigma), vp(moments, abar)
    bound, rounding = ve.accuracy(moments, sigma)
    carried = raw_vp * np.sqrt(abar) ** (np.arange(config.degree + 1)[:, None] + 1)
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


def response_norms(curve: dict[str, Any], config: FormulasConfig) -> np.ndarray:
    """``rho^(p/2) |R_p|``: rms change of ``sd * c`` under the Gaussian per unit clean cumulant p = 3..2n, (2n - 2, S)."""
    response = Response(config.degree)
    out = np.empty((2 * config.degree - 2, config.points))
    weights = np.array([factorial(k) for k in range(config.degree + 1)], dtype=float)
    orders = np.arange(3, 2 * config.degree + 1)
    for i, rho in enumerate(curve["rho"]):
        noisy = [sp.Rational(round(k * rho ** (p / 2) * 10**6), 10**6) for p, k in zip(orders, curve["cumulants"])]
        jacobian = np.array(response.jacobian(noisy).evalf().tolist(), dtype=float)
        out[:, i] = np.sqrt((weights[:, None] * jacobian**2).sum(0)) * rho ** (orders / 2)
    return out


def mnist_digits(real: Sequence[RealCoefficient], config: FormulasConfig) -> DigitTable:
    """Digits that float64 loses on the real coefficients, by basis and degree."""
    records = []
    for coefficient in real:
        for sigma in config.digit_sigmas:
            level = sp.Rational(str(sigma))
            records += digit_loss(coefficient.moments[: 2 * config.digit_degree + 1], level, law=coefficient.label)
    return digit_table(records)


def textbook_digits(config: FormulasConfig) -> DigitTable:
    """The same on the Gaussian, uniform, Laplace and exponential laws."""
    sigmas = [sp.Rational(str(sigma)) for sigma in config.digit_sigmas]
    return digit_table(textbook(sigmas=sigmas, degree=config.digit_degree))


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


def measure(config: FormulasConfig, progress: bool = True) -> dict[str, Any]:
    """Everything the figure and its sentences are made of."""
    images = config.images("train", config.size, config.n_train)
    real = coefficients(images, config, progress)
    found = [curves(coefficient, config) for coefficient in real]
    formula = ScoreCoefficient("independent", config.degree, "ve")
    for coefficient, curve in zip(real, found):
        curve["response"] = response_norms(curve, config)
        lowest = sp.Rational(*float(config.sigma_low).as_integer_ratio())
        exact = [float(value) for value in exact_theta(formula, coefficient.moments[: 2 * config.degree + 1], lowest)]
        apart = max(abs(value - curve["ve"][k, 0]) for k, value in enumerate(exact))
        curve["error_at_lowest_sigma"] = apart / max(abs(value) for value in exact)
    digits = mnist_digits(real, config)
    table = {"table": digits.rows(), "records": [record.record() for record in digits.records]}
    return {"data": {"fit": images.provenance}, "sigma": config.sigmas, "coefficients": found, "digits": table}


def draw(result: dict[str, Any]) -> Figure:
    """Three rows: theta_k for VE, theta_k for VP, and the standardised view (skewness, kurtosis, response, digits)."""
    sigma, found = np.asarray(result["sigma"]), result["coefficients"]
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(found)))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(3, 4, figsize=(15, 10), constrained_layout=True)
        for row, noise in enumerate(("ve", "vp")):
            for k in range(4):
                axis, sign = axes[row, k], -1 if k == 1 else 1  # theta_1 is negative throughout
                for curve, colour in zip(found, colours):
                    axis.plot(sigma, sign * curve[noise][k], color=colour, label=curve["label"], linewidth=1.6)
                axis.set_xscale("log")
                if all((sign * np.asarray(curve[noise][k]) > 0).all() for curve in found):
                    axis.set_yscale("log")
                else:
                    top = max(float(np.abs(curve[noise][k]).max()) for curve in found)
                    linear = 10.0 ** (np.floor(np.log10(top)) - (2 if k < 3 else 3))
                    axis.set_yscale("symlog", linthresh=linear, linscale=0.8)
                    axis.axhline(0, color="0.6", linewidth=0.7)
                    axis.text(0.99, 0.01, f"linear below {linear:g}", transform=axis.transAxes, ha="right", fontsize=7)
                axis.set_title(rf"${'-' if sign < 0 else ''}\theta_{k}$, {noise.upper()}")
                axis.set_xlabel(r"$\sigma$" if noise == "ve" else r"$s / a$")
        for axis, k, what in ((axes[2, 0], 2, "skewness"), (axes[2, 1], 3, "excess kurtosis")):
            for curve, colour in zip(found, colours):
                rho, kappa = np.asarray(curve["rho"]), curve["cumulants"][k - 2]
                axis.plot(sigma, curve["standard"][k], color=colour, linewidth=1.6)
                axis.plot(sigma, kappa * rho ** ((k + 1) / 2) / factorial(k), "--", color=colour, linewidth=1)
            axis.set_xscale("log")
            axis.set_yscale("symlog", linthresh=0.03)
            axis.axhline(0, color="0.6", linewidth=0.7)
            axis.set_title(rf"$\vartheta_{k}$ on $He_{k}(u)$; dashed: {what} $\kappa_{k + 1}/{k}!$", fontsize=9.5)
            axis.set_xlabel(r"$\sigma$")
        axis = axes[2, 2]
        shades = matplotlib.colormaps["plasma"](np.linspace(0.05, 0.8, len(found[-1]["response"])))
        for p, (line, colour) in enumerate(zip(np.asarray(found[-1]["response"]), shades), 3):
            axis.plot(sigma, line, color=colour, label=rf"$p = {p}$")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(1e-8, float(np.asarray(found[-1]["response"]).min())))
        axis.set_title(f"response to cumulant p:\n{found[-1]['label']}", fontsize=9.5)
        axis.set_xlabel(r"$\sigma$")
        axis.legend(fontsize=8)
        _digits_panel(axes[2, 3], result["digits"]["records"], [c["label"] for c in found], colours)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        title = f"Closed-form score coefficients, degree {result['parameters']['degree']}, independent family, exact moments of"
        figure.suptitle(f"{title} {fitted_on(result).removeprefix('fitted on ')}", fontsize=12)
    return figure


def _digits_panel(axis: Any, records: Sequence[dict[str, Any]], labels: Sequence[str], colours: Any) -> None:
    level = records[0]["level"]
    for label, colour in zip(labels, colours):
        for basis, style in (("monomial", "-o"), ("hermite", ":s")):
            rows = [r for r in records if (r["law"], r["basis"], r["level"]) == (label, basis, level)]
            lost = [min(r["lost"], 16.0) for r in rows]
            axis.plot([r["degree"] for r in rows], lost, style, color=colour, markersize=3, linewidth=1.2)
    for loss in (3, 6, 9):
        axis.axhline(loss, color="0.7", linewidth=0.7, zorder=0)
    axis.set_title(f"digits float64 loses at $\\sigma$ = {level}\nfull: monomial, dotted: Hermite", fontsize=9.5)
    axis.set_xlabel("degree")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))


def findings(result: dict[str, Any]) -> list[str]:
    """Sentences read off the numbers."""
    sigma, lines = np.asarray(result["sigma"]), []
    for curve in result["coefficients"]:
        kappa = curve["cumulants"]
        theta = np.asarray(curve["standard"])
        small = []
        for k in (2, 3):
            above = np.flatnonzero(np.abs(theta[k]) >= 0.01)
            last = int(above[-1]) + 1 if len(above) else 0
            small.append(f"{sigma[last]:.2g}" if last < len(sigma) else f"beyond {sigma[-1]:g}")
        agree = all(np.sign(theta[k, -1]) == np.sign(kappa[k - 2]) for k in (2, 3) if abs(theta[k, -1]) > 1e-12)
        lines.append(
            f"{curve['label']}: skewness {kappa[0]:+.2f}, excess kurtosis {kappa[1]:+.2f}; at the highest noise the signs of "
            f"its quadratic and cubic parts are {'those' if agree else 'NOT those'} of the skewness and kurtosis; these parts "
            f"stay below 0.01 from sigma {small[0]} and {small[1]} on"
        )
    worst = max(c["vp_is_ve"] for c in result["coefficients"])
    error = max(c["error_at_lowest_sigma"] for c in result["coefficients"])
    bound = max(c["accuracy"]["arithmetic"] + c["accuracy"]["rounding_of_moments"] for c in result["coefficients"])
    lines.append(
        f"VP at the same s/a is VE after dividing by a, to {worst:.1e}; at the lowest sigma the float64 values are the exact "
        f"rationals to {error:.1e} (stated accuracy over the curves: {bound:.1e})"
    )
    rows = result["digits"]["table"]
    for loss in (3, 6, 9):
        for basis in ("monomial", "hermite"):
            degrees = [row[f"loses {loss}"] for row in rows if row["basis"] == basis]
            reached = [d for d in degrees if d is not None]
            lines.append(
                f"{loss} digits lost in the {basis} basis: "
                + (f"from degree {min(reached)}, " if reached else f"at no degree to {rows[0]['highest degree']}, ")
                + f"{len(reached)} of {len(degrees)} (coefficient, level) pairs"
            )
    return lines


make_figure = FigureMaker(measure, draw, findings)
