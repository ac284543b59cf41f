"""Figure 8: Hermite against monomial features of the independent family: MSE under a ridge, and condition numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from numeric.evaluation.sweep import measure as measure_errors
from numeric.evaluation.sweep import noise_like, paired_ratio, summary
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.fig5 import combined_se
from numeric.figures.foresee import Work, own_work, shared_work
from numeric.figures.style import (
    STYLE,
    bar_of,
    error_bar_text,
    fitted_on,
    legend_figure,
    plain_log,
    select,
    sigma_colours,
    sigma_handles,
    sigma_lines,
)
from numeric.progress import progress_bar
from numeric.scores.conditioning import gram_conditions
from numeric.scores.crossval import RIDGE_SCALINGS
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.solve import BASES, SingularGramError


@dataclass(kw_only=True)
class HermiteConfig(Parameters):
    """Parameters of Figure 8.

    Attributes:
        sizes: image sides. n_train, n_eval: images to fit on, and to evaluate on per split (None: all).
        ridge: lambda of the compared fits (the paper's is not in its text); ridge_side: ``"denoiser"`` is the paper's (23).
        shared_degree: highest degree of the shared readout, compared at the first size; 0 leaves it out.
        seeds: noise draws per image; error_bar: over ``seeds`` or over ``images``.
    """

    name: str = "fig8"
    sizes: Sequence[int] = (32, 64)
    n_train: int | None = None
    n_eval: int | None = 1000
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3, 4, 5)
    ridge: float = 1e-2
    ridge_side: str = "denoiser"
    shared_degree: int = 3
    seeds: int = 3
    error_bar: str = "seeds"

    notebook: ClassVar[str] = "fig8"

    def check(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"ridge must be > 0 (at 0 both bases are one estimator), got {self.ridge}")

    def work(self, train: int) -> list[Work]:
        fits, levels, images = 4, len(self.sigmas), 2 * self.seeds * (self.n_eval or 10_000)
        out = [own_work(size, train, fits, levels, images) for size in self.sizes]
        degrees = [d for d in self.degrees if d <= self.shared_degree]
        if degrees:
            out.append(shared_work("independent", degrees, self.sizes[0], train, fits * levels, images))
        return out


Models = dict[tuple[str, str, str], tuple[Any, list[int]]]
"""(readout, basis, ridge scaling) -> (fitted model, degrees)."""


def make_models(config: HermiteConfig, size: int, train: Any, progress: bool) -> tuple[WaveletScore, Models]:
    """The own fit without ridge, and both bases under both scalings of the ridge, from one pass of moments a readout."""
    degrees = sorted(set(config.degrees))
    base = WaveletScore("independent", max(degrees)).fit(train, progress=progress)
    models: Models = {}
    within = [d for d in degrees if d <= config.shared_degree] if size == config.sizes[0] else []
    shared = SharedWaveletScore("independent", max(within)).fit(train, progress=progress) if within else None
    for basis in BASES:
        for scaling in RIDGE_SCALINGS:
            options: Any = {"basis": basis, "ridge": config.ridge, "ridge_side": config.ridge_side, "ridge_scaling": scaling}
            own = WaveletScore("independent", max(degrees), **options).fit_moments(base.moments_)
            models["own", basis, scaling] = (own, degrees)
            if shared is not None:
                joint = SharedWaveletScore("independent", max(within), **options).fit_moments(shared.moments_)
                models["shared", basis, scaling] = (joint, within)
    return base, models


def error_records(errors: dict[Any, np.ndarray], models: Models, **fields: Any) -> list[dict[str, Any]]:
    """A record per readout, basis, scaling and degree; Hermite ones with their paired ratio to the monomial ones."""
    out = []
    for (readout, basis, scaling), (_, degrees) in models.items():
        for degree in degrees:
            values = errors[f"{readout}, {basis}, {scaling}", degree]
            record = {"readout": readout, "basis": basis, "ridge_scaling": scaling, "degree": degree, **fields, **summary(values)}
            if basis == "hermite":
                record["to_monomial"] = paired_ratio(values, errors[f"{readout}, monomial, {scaling}", degree])
            out.append(record)
    return out


def condition_records(base: WaveletScore, degrees: Sequence[int], **fields: Any) -> list[dict[str, Any]]:
    """Quantiles over the coefficients of :func:`gram_conditions`, by degree, basis and scaling; None where infinite."""
    out = []
    for degree in degrees:
        for basis in BASES:
            for scaling in RIDGE_SCALINGS:
                values = gram_conditions(base, fields["sigma"], degree, basis, scaling)
                quantiles = [float(v) for v in np.quantile(values, [0.1, 0.5, 0.9, 1.0], method="nearest")]
                named = zip(("tenth", "median", "ninetieth", "largest"), [v if np.isfinite(v) else None for v in quantiles])
                out.append({**fields, "degree": degree, "basis": basis, "scaling": scaling, **dict(named)})
    return out


def measure(config: HermiteConfig, progress: bool = True) -> dict[str, Any]:
    """Fit both bases under both scalings of the ridge, measure, pair, and count condition numbers."""
    records: list[dict[str, Any]] = []
    conditions: list[dict[str, Any]] = []
    agreement: list[dict[str, Any]] = []
    data: dict[int, Any] = {}
    degrees = sorted(set(config.degrees))
    for size in config.sizes:
        train, test = config.images("train", size, config.n_train), config.images("test", size, config.n_eval)
        data[size] = {"fit": train.provenance, "test": test.provenance}
        base, models = make_models(config, size, train, progress)
        options: Any = {"ridge": 0.0, "ridge_side": config.ridge_side}
        plain = {b: WaveletScore("independent", max(degrees), basis=b, **options).fit_moments(base.moments_) for b in BASES}
        splits = {"train": train.take(config.n_eval), "test": test}
        total = config.seeds * sum(map(len, splits.values())) * len(config.sigmas)
        methods = {", ".join(key): value for key, value in models.items()}
        with progress_bar(total, f"denoise {size}x{size}", progress) as bar:
            for sigma in config.sigmas:
                for number, (split, images) in enumerate(splits.items()):
                    key = (config.seed, number, round(sigma * 1e6))
                    errors = measure_errors(methods, images, sigma, key=key, seeds=config.seeds, bar=bar)
                    records += error_records(errors, models, size=size, split=split, sigma=sigma)
                conditions += condition_records(base, degrees, size=size, sigma=sigma)
                agreement += [
                    {"size": size, "sigma": sigma, "degree": degree, **_agree(plain, test, sigma, degree)} for degree in degrees
                ]
    return {"data": data, "records": records, "conditions": conditions, "agreement_at_ridge_0": agreement}


def _agree(models: dict[str, WaveletScore], images: Any, sigma: float, degree: int) -> dict[str, Any]:
    """Largest pixel difference of the two bases' estimates at ridge 0, or the reason why there is none."""
    clean = images[:100]
    y = clean.double() + sigma * noise_like(clean.double(), 0, round(sigma * 1e6))
    try:
        first, second = (models[basis].estimate_degrees(y, sigma, [degree]) for basis in BASES)
    except SingularGramError as error:
        return {"largest_difference": None, "singular": str(error)}
    return {"largest_difference": float((first - second).abs().max())}


def findings(result: dict[str, Any]) -> list[str]:
    """Does Hermite improve the conditioning and the MSE, at which degree, and by how much."""
    lines, p = [], result["parameters"]
    solved = [r["largest_difference"] for r in result["agreement_at_ridge_0"] if r["largest_difference"] is not None]
    singular = len(result["agreement_at_ridge_0"]) - len(solved)
    lines.append(
        "at ridge 0 the two bases are one estimator: "
        + (f"their estimates differ by at most {max(solved):.1e} in a pixel ({len(solved)} settings" if solved else "(0 settings")
        + (f"; {singular} are singular to float64)" if singular else ")")
    )
    top = max(p["degrees"])
    for size in p["sizes"]:
        for scaling in RIDGE_SCALINGS:
            parts = []
            for sigma in p["sigmas"]:
                found = select(result["conditions"], size=size, scaling=scaling, sigma=sigma, degree=top)
                medians = {r["basis"]: r["median"] for r in found}
                if all(medians.values()):
                    parts.append(f"{medians['monomial']:.2g} against {medians['hermite']:.2g} at sigma {sigma:g}")
            lines.append(
                f"{size}x{size}, own readout, {scaling} features, degree {top}: median condition number of monomials against "
                f"Hermite {', '.join(parts) or 'infinite'}"
            )
    for size, readout in panels(result):
        for scaling in RIDGE_SCALINGS:
            rows = select(result["records"], size=size, readout=readout, ridge_scaling=scaling, basis="hermite", split="test")
            rows = [r for r in rows if r["degree"] > 1]
            pairs = [(r["to_monomial"]["ratio"], 2 * combined_se(r["to_monomial"])) for r in rows]
            better, worse = sum(ratio + e < 1 for ratio, e in pairs), sum(ratio - e > 1 for ratio, e in pairs)
            last = [r for r in rows if r["degree"] == max(q["degree"] for q in rows)]
            parts = [f"{r['to_monomial']['ratio'] - 1:+.2%} at sigma {r['sigma']:g}" for r in last]
            if rows:
                lines.append(
                    f"{size}x{size}, {readout} readout, ridge {p['ridge']:g} on {scaling} features, degrees above 1: held-out MSE of "
                    f"Hermite below that of monomials by two standard errors in {better}, above in {worse} of {len(rows)} settings "
                    f"(degree {last[0]['degree']}: {', '.join(parts)})"
                )
    return lines


def panels(result: dict[str, Any]) -> list[tuple[int, str]]:
    """(size, readout) of every row of the figure."""
    return list(dict.fromkeys((r["size"], r["readout"]) for r in result["records"]))


def draw(result: dict[str, Any]) -> Any:
    """A row per size and readout: held-out MSE under the raw ridge, Hermite over monomial, condition numbers (own only)."""
    p, rows = result["parameters"], panels(result)
    colours, sigmas = sigma_colours(p["sigmas"]), p["sigmas"]
    look: dict[str, Any] = {
        "monomial": {"linestyle": "-", "marker": "o"},
        "hermite": {"linestyle": "--", "marker": "^", "markerfacecolor": "white"},
    }
    titles = (
        f"held-out MSE, ridge {p['ridge']:g} on raw features", "MSE of Hermite against monomial, per cent",
        "condition number, raw features (median)", "condition number, unit-scaled features (median)",
    )  # fmt: skip
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(rows), 4, figsize=(14, 3.0 * len(rows) + 1.2), squeeze=False, sharex=True)
        for (mse, change, raw, unit), (size, readout) in zip(axes, rows):
            here = select(result["records"], size=size, readout=readout)
            for basis in BASES:
                mine = select(here, basis=basis, ridge_scaling="raw", split="test")
                bar: Any = lambda r: bar_of(r, p["error_bar"])  # noqa: E731
                sigma_lines(mse, mine, sigmas, lambda r: r["mse"], bar, by_split=False, **look[basis])
                for axis, scaling in ((raw, "raw"), (unit, "unit")):
                    for sigma in sigmas if readout == "own" else ():
                        found = select(result["conditions"], size=size, basis=basis, scaling=scaling, sigma=sigma)
                        found = [r for r in found if r["median"] is not None]
                        points = [r["degree"] for r in found], [r["median"] for r in found]
                        axis.plot(*points, markersize=4, color=colours[sigma], **look[basis])
            for scaling in RIDGE_SCALINGS:
                mine = select(here, basis="hermite", ridge_scaling=scaling)
                sigma_lines(
                    change, mine, sigmas, lambda r: 100 * (r["to_monomial"]["ratio"] - 1),
                    lambda r: 100 * bar_of(r["to_monomial"], p["error_bar"]), faint=scaling == "unit",
                )  # fmt: skip
            change.axhline(0, color="0.3", linewidth=0.9)
            plain_log(mse)
            mse.set_ylabel(f"{size}x{size}, {readout} readout")
            if readout == "own":
                raw.set_yscale("log")
                plain_log(unit)
            for axis in (raw, unit) if readout != "own" else ():
                axis.set_axis_off()
                axis.text(
                    0.5, 0.5, "condition numbers are of the own readout,\nwhich has a system for each coefficient",
                    transform=axis.transAxes, ha="center", va="center", color="0.5", fontsize=8.5,
                )  # fmt: skip
        for axis, title in zip(axes[0], titles):
            axis.set_title(title, fontsize=9.5)
        for axis in axes[-1]:
            axis.set_xlabel("polynomial degree")
        handles = [*sigma_handles(sigmas), *(Line2D([], [], color="0.3", markersize=4.5, label=b, **look[b]) for b in BASES)]
        kinds: Any = (("raw, training", {}), ("raw, held-out", {"linestyle": "--"}), ("unit-scaled", {"linewidth": 0.8, "marker": "x"}))
        axes[0, 1].legend(handles=[Line2D([], [], color="0.3", label=text, **style) for text, style in kinds], fontsize=7.5)
        figure.suptitle(f"Hermite and monomial features, independent family, {fitted_on(result)}", fontsize=11.5)
        figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
        legend_figure(figure, handles, error_bar_text(p["error_bar"], p["seeds"]) + "; the comparison is paired")
    return figure


make_figure = FigureMaker(measure, draw, findings)
