"""Figure 7: every family, own and shared readout, as a ratio to the linear denoiser, at two image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from numeric.figures.fig5 import SweepConfig, combined_se, mse_sweep
from numeric.figures.style import (
    SPLIT_NAME,
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
    split_handles,
    title_of,
)
from numeric.results import finish_figure


@dataclass
class LinearConfig:
    """Parameters of Figure 7.

    Attributes:
        sizes: image sides. n_train: images to fit on (None: all). n_eval: images per split, one number or one per size.
        shared_degrees: highest degree of the shared readout at each size, 0 to leave it out. Its memory grows with the
            square of its features: at 64 x 64 degree 3 takes 3.7 GiB (5.5 with the other methods of the
            figure) and minutes per noise level on one core.
        sigmas, degrees, families, radius, interactions, ridge, seed, seeds, error_bar: as for Figure 5.
    """

    sizes: Sequence[int] = (32, 64)
    n_train: int | None = None
    n_eval: Sequence[int | None] | int | None = (1000, 300)
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3)
    families: Sequence[str] = ("independent", "band", "local")
    shared: Sequence[str] = ("independent",)
    shared_degrees: Sequence[int] = (3, 1)
    radius: int = 1
    interactions: str = "pairwise"
    ridge: float = 1e-10
    seed: int = 0
    seeds: int = 3
    error_bar: str = "seeds"
    data_root: str | None = None
    name: str = "fig7"
    cache: str = field(default="runs")

    def __post_init__(self) -> None:
        if len(self.shared_degrees) != len(self.sizes):
            raise ValueError(f"give one of shared_degrees per size: {list(self.sizes)} but {list(self.shared_degrees)}")
        if isinstance(self.n_eval, Sequence) and len(self.n_eval) != len(self.sizes):
            raise ValueError(f"give one n_eval, or one per size: {list(self.sizes)} but {list(self.n_eval)}")
        for number in range(len(self.sizes)):
            self.sweep(number)

    def sweep(self, number: int) -> SweepConfig:
        """The sweep of one size; without the optimal denoiser and networks, which are in Figures 5 and 6."""
        shared = self.shared_degrees[number]
        return SweepConfig(
            size=self.sizes[number],
            n_train=self.n_train,
            n_eval=self.n_eval[number] if isinstance(self.n_eval, Sequence) else self.n_eval,
            sigmas=self.sigmas,
            degrees=self.degrees,
            families=self.families,
            shared=self.shared if shared else (),
            shared_degree=shared or None,
            radius=self.radius,
            interactions=self.interactions,
            ridge=self.ridge,
            n_optimal=0,
            n_trained=0,
            seed=self.seed,
            seeds=self.seeds,
            error_bar=self.error_bar,
            name=f"{self.name}-{self.sizes[number]}",
            data_root=self.data_root,
            cache=self.cache,
        )


def findings(results: dict[int, dict[str, Any]]) -> list[str]:
    """Which methods beat the linear denoiser, where, and whether the ratio is better at the larger size."""
    lines = []
    for size, result in results.items():
        for split in ("train", "test"):
            for method in dict.fromkeys(r["method"] for r in result["records"] if r["degree"] is not None):
                rows = select(result["records"], method=method, split=split)
                top = max(r["degree"] for r in rows)
                parts, better = [], 0
                for r in select(rows, degree=top):
                    ratio, error = r["to_reference"]["ratio"], combined_se(r["to_reference"])
                    better += ratio + 2 * error < 1
                    parts.append(f"{ratio:.3f} ± {error:.3f} at sigma {r['sigma']:g}")
                lines.append(
                    f"{size}x{size}, {SPLIT_NAME[split]}, {method}, degree {top}: below linear by two standard errors at "
                    f"{better} of {len(parts)} noise levels (ratio {', '.join(parts)})"
                )
    if len(results) > 1:
        small, large = min(results), max(results)
        for method in dict.fromkeys(r["method"] for r in results[large]["records"] if r["degree"] is not None):
            closer, seen = 0, 0
            for r in select(results[large]["records"], method=method, split="test"):
                other = select(
                    results[small]["records"], method=method, split="test", sigma=r["sigma"], degree=r["degree"]
                )
                if other:
                    seen += 1
                    closer += r["to_reference"]["ratio"] < other[0]["to_reference"]["ratio"]
            lines.append(
                f"{method}: held-out ratio to linear smaller at {large} than at {small} in {closer} of {seen} settings"
            )
    return lines


def draw(results: dict[int, dict[str, Any]], config: LinearConfig) -> Any:
    """A row per size, a column per method: ratio to the linear denoiser against the degree."""
    methods = list(
        dict.fromkeys(r["method"] for v in results.values() for r in v["records"] if r["degree"] is not None)
    )
    colours = sigma_colours(config.sigmas)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(results),
            len(methods),
            figsize=(2.9 * len(methods) + 0.8, 2.9 * len(results) + 1.3),
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        for row, (size, result) in enumerate(results.items()):
            for column, method in enumerate(methods):
                axis = axes[row, column]
                for sigma in config.sigmas:
                    for split, (line, marker) in SPLIT_STYLE.items():
                        found = select(result["records"], method=method, sigma=sigma, split=split)
                        found.sort(key=lambda r: r["degree"])
                        axis.errorbar(
                            [r["degree"] for r in found],
                            [r["to_reference"]["ratio"] for r in found],
                            yerr=[bar_of(r["to_reference"], config.error_bar) for r in found],
                            linestyle=line,
                            marker=marker,
                            markersize=4,
                            linewidth=1.4,
                            capsize=2,
                            color=colours[sigma],
                            markerfacecolor="white" if split == "test" else None,
                        )
                axis.axhline(1.0, color="0.25", linewidth=1.0)
                integer_axis(axis)
                if row == 0:
                    axis.set_title(title_of(method).replace(", own", "\nown").replace(", shared", "\nshared"))
                if row == len(results) - 1:
                    axis.set_xlabel("polynomial degree")
            axes[row, 0].set_ylabel(f"{size}x{size}: MSE over\nthat of the linear denoiser")
        plain_log(axes[0, 0])
        axes[0, 0].set_xlim(min(config.degrees) - 0.2, max(config.degrees) + 0.2)
        axes[0, 0].yaxis.set_major_locator(plt.MaxNLocator(8))
        fit = next(iter(results.values()))["data"]["fit"]
        figure.suptitle(
            f"Against the linear denoiser, fitted on {fit['count']:,} images of {fit['source']} (below 1: better than linear)",
            fontsize=11.5,
        )
        figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
        legend_figure(
            figure,
            sigma_handles(config.sigmas) + split_handles(),
            error_bar_text(config.error_bar, config.seeds, paired=True),
        )
    return figure


def make_figure(
    config: LinearConfig, output: str | Path, progress: bool = True
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Run the sweeps and write ``output/<name>.{png,pdf,json}``; returns the figure, its record and the paths."""
    results = {size: mse_sweep(config.sweep(number), progress) for number, size in enumerate(config.sizes)}
    record = {
        "parameters": {k: v for k, v in vars(config).items() if k != "cache"},
        "data": {size: result["data"] for size, result in results.items()},
        "records": [{"size": size, **r} for size, result in results.items() for r in result["records"]],
    }
    return finish_figure(draw(results, config), {**record, "findings": findings(results)}, output, config.name, config.seed)
