"""Approximation: the best polynomial of degree n against the true posterior mean, where that is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from analytic.errors import AnalyticError
from analytic.theory.approximation import BASES, FLOOR, LAWS, Approximation
from numeric.arguments import as_list
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.style import STYLE, integer_axis, legend_figure, select, sigma_colours, sigma_handles
from numeric.progress import progress_bar


@dataclass(kw_only=True)
class ApproximationConfig(Parameters):
    """Parameters of the figure; nothing is drawn, no data are read.

    Attributes:
        laws: names of :data:`analytic.theory.approximation.LAWS`. sigmas: VE levels.
        degree: largest in one coordinate; degree_2d: in two.
        first: smallest degree of the fitted rates.
    """

    name: str = "approximation"
    laws: Sequence[str] = tuple(LAWS)
    sigmas: Sequence[float] = (0.25, 0.5, 1.0, 2.0)
    degree: int = 40
    degree_2d: int = 9
    first: int = 11

    notebook: ClassVar[str] = "approximation"

    def check(self) -> None:
        self.laws = as_list(self.laws, str, "laws")
        for law in self.laws:
            if law not in LAWS:
                raise ValueError(f"unknown law {law!r}: use any of {', '.join(LAWS)}")
        if not (1 <= self.degree <= 60 and 1 <= self.degree_2d <= 20):
            raise ValueError(f"degree must lie in 1..60 and degree_2d in 1..20, got {self.degree} and {self.degree_2d}")


def measure(config: ApproximationConfig, progress: bool = True) -> dict[str, Any]:
    """Errors of every degree, what double precision reaches in both bases, and fitted rates."""
    records, rates = [], []
    with progress_bar(len(config.laws) * len(config.sigmas), "approximation", progress) as bar:
        for law in config.laws:
            flat = LAWS[law][1].dimension == 1
            degree = config.degree if flat else config.degree_2d
            for sigma in config.sigmas:
                found = Approximation(law, sigma, degree)
                for n, error in enumerate(found.errors):
                    reached = {basis: found.reached(n, basis) / found.scale if n else float(error / found.scale) for basis in BASES}
                    records.append({"law": law, "sigma": sigma, "degree": n, "error": float(error / found.scale), **reached})
                for power in (0.5, 1.0):
                    try:
                        fit = found.rate(power, config.first if flat else 1)
                    except AnalyticError:
                        continue
                    rates.append({"law": law, "sigma": sigma, **vars(fit), "theory": np.pi * sigma if law == "two-atom" and power == 0.5 else None})
                bar.update(1)
    return {"laws": {law: LAWS[law][0] for law in config.laws}, "records": records, "rates": rates}


def best_rate(record: dict[str, Any], law: str, sigma: float) -> dict[str, Any] | None:
    """The power of n that fits better; None where rounding leaves fewer than three degrees."""
    return min(select(record["rates"], law=law, sigma=sigma), key=lambda r: r["residual"], default=None)


def draw(record: dict[str, Any]) -> Any:
    """A panel a law: relative error against degree; below, what fits in double precision in the two bases lose over it."""
    p, laws = record["parameters"], list(record["laws"])
    colours = sigma_colours(p["sigmas"])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(laws), figsize=(3.0 * len(laws) + 0.6, 6.4), squeeze=False)
        for column, law in enumerate(laws):
            top, low = axes[:, column]
            for sigma in p["sigmas"]:
                rows = [r for r in select(record["records"], law=law, sigma=sigma) if r["error"] > FLOOR]
                n = np.array([r["degree"] for r in rows])
                top.plot(n, [r["error"] for r in rows], "o", color=colours[sigma], markersize=3)
                fit = best_rate(record, law, sigma)
                if fit is not None:
                    scale = rows[-1]["error"]  # drawn through the last point above rounding
                    x = np.linspace(fit["degrees"][0], n[-1], 100)
                    top.plot(x, scale * np.exp(-fit["rate"] * (x ** fit["power"] - n[-1] ** fit["power"])), color=colours[sigma], linewidth=0.9)
                for basis, line in zip(BASES, ("-", "--")):
                    ratio = [max(r[basis] / r["error"] - 1, 1e-16) for r in rows]
                    low.plot(n, ratio, line, color=colours[sigma], linewidth=1.1)
            top.set_title(law, fontsize=10)
            for axis in (top, low):
                axis.set_yscale("log")
                integer_axis(axis)
                axis.set_xlabel("polynomial degree")
            top.set_ylim(bottom=FLOOR)
        axes[0, 0].set_ylabel("error of the best polynomial\nover the variance of the posterior mean")
        axes[1, 0].set_ylabel("excess of the fit in double precision\nover that error")
        figure.suptitle("Best polynomials against the true posterior mean; lines: fitted rates", fontsize=11.5)
        figure.tight_layout(rect=(0, 0.08, 1, 1))
        styles: Any = zip(BASES, ("-", "--"))
        kinds = [Line2D([], [], color="0.3", linestyle=line, label=basis) for basis, line in styles]
        legend_figure(figure, [*sigma_handles(p["sigmas"]), *kinds], f"errors below {FLOOR:g} of the variance are rounding and left out")
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Error at degrees 1, 3 and 5, rates, and where monomials lose to Hermite polynomials."""
    lines, p = [], record["parameters"]
    for law, what in record["laws"].items():
        parts = []
        for sigma in p["sigmas"]:
            errors = {r["degree"]: r["error"] for r in select(record["records"], law=law, sigma=sigma)}
            parts.append(f"{', '.join(f'{errors[n]:.2g}' for n in (1, 3, 5) if n in errors)} at sigma {sigma:g}")
        lines.append(f"{law} ({what}): error at degrees 1, 3, 5 over the variance of the posterior mean {'; '.join(parts)}")
        rates = []
        for sigma in p["sigmas"]:
            fit = best_rate(record, law, sigma)
            if fit is not None:
                root = "sqrt(n)" if fit["power"] == 0.5 else "n"
                theory = f" (theory {fit['theory']:.3g})" if fit["theory"] else ""
                rates.append(f"exp(-{fit['rate']:.3g} {root}){theory} at sigma {sigma:g}")
        lines.append(f"{law}: fitted rates {'; '.join(rates) or 'none: too few degrees above rounding'}")
    worse: dict[str, int] = {}
    for basis in BASES:
        lost = [r["degree"] for r in record["records"] if FLOOR < r["error"] and r[basis] > 1.01 * r["error"]]
        worse[basis] = min(lost, default=0)
    lines.append(
        "fitted in double precision, features of unit second moment, no ridge: "
        + "; ".join(f"{basis} features lose 1 % of the error to rounding from degree {n or 'none'} on" for basis, n in worse.items())
    )
    return lines


make_figure = FigureMaker(measure, draw, findings)
