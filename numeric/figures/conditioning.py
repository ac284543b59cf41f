"""Figure 8: Hermite against monomial features of the independent family: MSE under a ridge, and condition numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D

from numeric.data import load_mnist
from numeric.evaluation.sweep import measure, noise_like, paired_ratio, summary
from numeric.figures.style import (
    SPLIT_STYLE,
    STYLE,
    bar_of,
    error_bar_text,
    integer_axis,
    legend_figure,
    plain_log,
    select,
    sigma_colours,
    sigma_handles,
)
from numeric.noise import as_noise
from numeric.progress import progress_bar
from numeric.results import finish_figure
from numeric.scores.crossval import RIDGE_SCALINGS
from numeric.scores.own import WaveletScore
from numeric.scores.solve import BASES, SingularGramError, feature_matrix, normal_system


@dataclass
class HermiteConfig:
    """Parameters of Figure 8.

    Attributes:
        sizes: image sides. n_train, n_eval: images to fit on, and to evaluate on per split (None: all).
        ridge: lambda of the compared fits (the paper's is not in its text); ridge_side: ``"denoiser"`` is the paper's (23).
        seeds: noise draws per image; error_bar: over ``seeds`` or over ``images``.
    """

    sizes: Sequence[int] = (32, 64)
    n_train: int | None = None
    n_eval: int | None = 1000
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3, 4, 5)
    ridge: float = 1e-2
    ridge_side: str = "denoiser"
    seed: int = 0
    seeds: int = 3
    error_bar: str = "seeds"
    data_root: str | None = None
    name: str = "fig8"

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"ridge must be > 0 (at 0 both bases are one estimator), got {self.ridge}")
        if not self.degrees or min(self.degrees) < 1:
            raise ValueError(f"degrees must be whole numbers >= 1, got {list(self.degrees)}")


def gram_conditions(model: WaveletScore, sigma: float, degree: int, basis: str, scaling: str) -> np.ndarray:
    """Condition number of every coefficient's Gram matrix ``G = E[phi phi^T]`` without ridge (equation (9)).

    Args:
        basis: ``"monomial"`` or ``"hermite"``.
        scaling: ``"raw"`` features as they are, or ``"unit"`` features divided to unit second moment.

    Returns: ``(n_coefficients,)``; infinite where the smallest eigenvalue is not positive in float64.
    """
    out = []
    for block, table in zip(model.moments_.blocks, model.central_):
        variables = torch.as_tensor(block.block.variables)
        system = normal_system(table, model.mean_[variables].T, block.plan, as_noise(sigma), degree)
        features = feature_matrix(block.plan, degree, basis, system.centre / system.scale)
        gram = features @ system.gram @ features.transpose(1, 2)
        if scaling == "unit":
            norm = gram.diagonal(dim1=1, dim2=2).rsqrt()
        elif basis == "monomial":  # features are of v / t: back to powers of v
            powers = torch.as_tensor(block.plan.basis[block.plan.features(degree)], dtype=gram.dtype)
            norm = torch.exp(powers @ system.scale.log()).T
        else:
            norm = torch.ones_like(gram[:, 0])
        values = torch.linalg.eigvalsh(gram * norm[:, :, None] * norm[:, None, :])
        out.append((values[:, -1] / values[:, 0]).where(values[:, 0] > 0, torch.inf))
    return torch.cat(out).numpy()


def compare(config: HermiteConfig, progress: bool = True) -> dict[str, Any]:
    """Fit both bases under both scalings of the ridge, measure, pair, and count condition numbers."""
    records: list[dict[str, Any]] = []
    conditions: list[dict[str, Any]] = []
    agreement: list[dict[str, Any]] = []
    data: dict[int, Any] = {}
    degrees = sorted(set(config.degrees))
    for size in config.sizes:
        train = load_mnist("train", size=size, count=config.n_train, root=config.data_root)
        test = load_mnist("test", size=size, count=config.n_eval, root=config.data_root)
        data[size] = {"fit": train.provenance, "test": test.provenance}
        base = WaveletScore("independent", max(degrees)).fit(train, progress=progress)

        def model(basis: str, ridge: float, scaling: str = "unit", base: WaveletScore = base) -> WaveletScore:
            settings: dict[str, Any] = {"ridge": ridge, "ridge_side": config.ridge_side, "ridge_scaling": scaling}
            return WaveletScore("independent", max(degrees), basis=basis, **settings).fit_moments(base.moments_)

        methods = {f"{basis}, {s}": (model(basis, config.ridge, s), degrees) for basis in BASES for s in RIDGE_SCALINGS}
        plain = {basis: model(basis, 0.0) for basis in BASES}
        splits = {"train": train.take(config.n_eval), "test": test}
        total = config.seeds * sum(map(len, splits.values())) * len(config.sigmas)
        with progress_bar(total, f"denoise {size}x{size}", progress) as bar:
            for sigma in config.sigmas:
                for number, (split, images) in enumerate(splits.items()):
                    key = (config.seed, number, round(sigma * 1e6))
                    errors = measure(methods, images, sigma, key=key, seeds=config.seeds, bar=bar)
                    for label, _ in methods.items():
                        basis, scaling = label.split(", ")
                        for degree in degrees:
                            record = {
                                "size": size,
                                "split": split,
                                "sigma": sigma,
                                "basis": basis,
                                "ridge_scaling": scaling,
                                "degree": degree,
                                **summary(errors[label, degree]),
                            }
                            if basis == "hermite":
                                monomial = errors[f"monomial, {scaling}", degree]
                                record["to_monomial"] = paired_ratio(errors[label, degree], monomial)
                            records.append(record)
                for degree in degrees:
                    for basis in BASES:
                        for scaling in RIDGE_SCALINGS:
                            values = gram_conditions(base, sigma, degree, basis, scaling)
                            quantiles = np.quantile(values, [0.1, 0.5, 0.9, 1.0], method="nearest")
                            conditions.append(
                                {"size": size, "sigma": sigma, "degree": degree, "basis": basis, "scaling": scaling}
                                | dict(zip(("tenth", "median", "ninetieth", "largest"), map(_finite, quantiles)))
                            )
                    agreement.append(
                        {"size": size, "sigma": sigma, "degree": degree, **_agree(plain, test, sigma, degree)}
                    )
    return {
        "parameters": vars(config),
        "data": data,
        "records": records,
        "conditions": conditions,
        "agreement_at_ridge_0": agreement,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


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
        f"at ridge 0 the two bases are one estimator: their estimates differ by at most {max(solved, default=float('nan')):.1e} "
        f"in a pixel ({len(solved)} settings" + (f"; {singular} are singular to float64)" if singular else ")")
    )
    top = max(p["degrees"])
    for size in p["sizes"]:
        for scaling in RIDGE_SCALINGS:
            parts = []
            for sigma in p["sigmas"]:
                medians = {
                    r["basis"]: r["median"]
                    for r in select(result["conditions"], size=size, scaling=scaling, sigma=sigma, degree=top)
                }
                if all(medians.values()):
                    parts.append(f"{medians['monomial']:.2g} against {medians['hermite']:.2g} at sigma {sigma:g}")
            lines.append(
                f"{size}x{size}, {scaling} features, degree {top}: median condition number of monomials against Hermite "
                + ", ".join(parts)
            )
        for scaling in RIDGE_SCALINGS:
            better, worse, parts = 0, 0, []
            rows = [
                r
                for r in select(result["records"], size=size, ridge_scaling=scaling, basis="hermite", split="test")
                if r["degree"] > 1
            ]
            for r in rows:
                pair = r["to_monomial"]
                error = max(pair["se"], pair["se_seeds"] or 0.0)
                better += pair["ratio"] + 2 * error < 1
                worse += pair["ratio"] - 2 * error > 1
                if r["degree"] == top:
                    parts.append(f"{pair['ratio'] - 1:+.2%} at sigma {r['sigma']:g}")
            lines.append(
                f"{size}x{size}, ridge {p['ridge']:g} on {scaling} features, degrees above 1: held-out MSE of Hermite below that of "
                f"monomials by two standard errors in {better}, above in {worse} of {len(rows)} settings (degree {top}: {', '.join(parts)})"
            )
    return lines


def draw(result: dict[str, Any]) -> Any:
    """A row per size: held-out MSE under the raw ridge, Hermite over monomial, condition numbers raw and unit-scaled."""
    p = result["parameters"]
    colours = sigma_colours(p["sigmas"])
    look: dict[str, Any] = {
        "monomial": {"linestyle": "-", "marker": "o"},
        "hermite": {"linestyle": "--", "marker": "^", "markerfacecolor": "white"},
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(p["sizes"]), 4, figsize=(14, 3.1 * len(p["sizes"]) + 1.2), squeeze=False, sharex=True
        )
        for row, size in enumerate(p["sizes"]):
            here = select(result["records"], size=size)
            for sigma in p["sigmas"]:
                for basis in BASES:
                    rows = select(here, basis=basis, ridge_scaling="raw", split="test", sigma=sigma)
                    axes[row, 0].errorbar(
                        [r["degree"] for r in rows],
                        [r["mse"] for r in rows],
                        yerr=[bar_of(r, p["error_bar"]) for r in rows],
                        markersize=4,
                        capsize=2,
                        color=colours[sigma],
                        **look[basis],
                    )
                    for column, scaling in ((2, "raw"), (3, "unit")):
                        found = select(result["conditions"], size=size, basis=basis, scaling=scaling, sigma=sigma)
                        found = [r for r in found if r["median"] is not None]
                        x = [r["degree"] for r in found]
                        axes[row, column].plot(
                            x, [r["median"] for r in found], markersize=4, color=colours[sigma], **look[basis]
                        )
                for scaling in RIDGE_SCALINGS:
                    for split, (line, marker) in SPLIT_STYLE.items():
                        rows = select(here, basis="hermite", ridge_scaling=scaling, split=split, sigma=sigma)
                        axes[row, 1].errorbar(
                            [r["degree"] for r in rows],
                            [100 * (r["to_monomial"]["ratio"] - 1) for r in rows],
                            yerr=[100 * bar_of(r["to_monomial"], p["error_bar"]) for r in rows],
                            linestyle=line,
                            marker="x" if scaling == "unit" else marker,
                            markersize=4,
                            linewidth=0.8 if scaling == "unit" else 1.4,
                            alpha=0.65 if scaling == "unit" else 1.0,
                            capsize=2,
                            color=colours[sigma],
                            markerfacecolor="white" if split == "test" else None,
                        )
            axes[row, 1].axhline(0, color="0.3", linewidth=0.9)
            plain_log(axes[row, 0])
            axes[row, 0].set_ylabel(f"{size}x{size}\nheld-out MSE per pixel")
            axes[row, 1].set_ylabel("per cent")
            for column in (2, 3):
                if column == 3:
                    plain_log(axes[row, column])
                else:
                    axes[row, column].set_yscale("log")
                axes[row, column].set_ylabel("condition number (median)")
            integer_axis(axes[row, 0])
        for axis, title in zip(
            axes[0],
            (
                f"MSE, ridge {p['ridge']:g} on raw features",
                "MSE of Hermite against monomial",
                "Gram matrix, raw features",
                "Gram matrix, unit-scaled features",
            ),
        ):
            axis.set_title(title)
        for axis in axes[-1]:
            axis.set_xlabel("polynomial degree")
        handles: list[Any] = sigma_handles(p["sigmas"])
        handles += [Line2D([], [], color="0.3", markersize=4.5, label=b, **look[b]) for b in BASES]
        axes[0, 1].legend(
            handles=[
                Line2D([], [], color="0.3", label="raw, training"),
                Line2D([], [], color="0.3", linestyle="--", label="raw, held-out"),
                Line2D([], [], color="0.3", linewidth=0.8, marker="x", label="unit-scaled"),
            ],
            fontsize=7.5,
            loc="best",
        )
        fit = result["data"][p["sizes"][0]]["fit"]
        figure.suptitle(
            f"Hermite and monomial features, independent family, own readout, fitted on {fit['count']:,} images of {fit['source']}",
            fontsize=11.5,
        )
        figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
        legend_figure(figure, handles, error_bar_text(p["error_bar"], p["seeds"]) + "; the comparison is paired")
    return figure


def make_figure(
    config: HermiteConfig, output: str | Path, progress: bool = True
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Compare the bases and write ``output/<name>.{png,pdf,json}``; returns the figure, its record and the paths."""
    result = compare(config, progress)
    return finish_figure(draw(result), {**result, "findings": findings(result)}, output, config.name, config.seed)
