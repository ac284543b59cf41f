"""The closed forms on real moments: coefficient curves against noise, responses and lost digits of a few coefficients.

Everything is computed by :mod:`analytic` from exact rational moments of MNIST's wavelet coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any, ClassVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
from matplotlib.figure import Figure

from analytic import ScoreCoefficient, exact_theta
from numeric.evaluation.formulas import coefficients, curves, lost_digits, response_norms
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.style import STYLE, fitted_on


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


def measure(config: FormulasConfig, progress: bool = True) -> dict[str, Any]:
    """Everything the figure and its sentences are made of."""
    images = config.images("train", config.size, config.n_train)
    order = 2 * max(config.degree, config.digit_degree)
    real = coefficients(images, config.places, order, config.wavelet, progress)
    found = [curves(coefficient, config.degree, config.sigmas) for coefficient in real]
    formula = ScoreCoefficient("independent", config.degree, "ve")
    for coefficient, curve in zip(real, found):
        curve["response"] = response_norms(curve, config.degree)
        lowest = sp.Rational(*float(config.sigma_low).as_integer_ratio())
        exact = [float(value) for value in exact_theta(formula, coefficient.moments[: 2 * config.degree + 1], lowest)]
        apart = max(abs(value - curve["ve"][k, 0]) for k, value in enumerate(exact))
        curve["error_at_lowest_sigma"] = apart / max(abs(value) for value in exact)
    digits = lost_digits(real, config.digit_sigmas, config.digit_degree)
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
