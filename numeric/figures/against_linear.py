"""Figure 7: every family, own and shared readout, as a ratio to the linear denoiser, at two image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt

from numeric.arguments import as_list
from numeric.figures import fig5
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.fig5 import SweepConfig, combined_se
from numeric.figures.foresee import Work
from numeric.figures.style import (
    SPLIT_NAME,
    STYLE,
    bar_of,
    error_bar_text,
    fitted_on,
    legend_figure,
    plain_log,
    select,
    sigma_handles,
    sigma_lines,
    split_handles,
    title_of,
)


@dataclass(kw_only=True)
class LinearConfig(Parameters):
    """Parameters of Figure 7.

    Attributes:
        sizes: image sides. n_train: images to fit on (None: all). n_eval: images per split, one number or one per size.
        shared: families with the shared readout (``"local:2"`` stops at degree 2); shared_large: those of every size but the
            first, where their memory grows with the square of the feature count.
        sigmas, degrees, families, radius, interactions, ridge, seeds, error_bar: as for Figure 5.
    """

    name: str = "fig7"
    sizes: Sequence[int] = (32, 64)
    n_train: int | None = None
    n_eval: Sequence[int | None] | int | None = (1000, 300)
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3)
    families: Sequence[str] = ("independent", "band", "local")
    shared: Sequence[str] = ("independent", "band", "local")
    shared_large: Sequence[str] = ("independent:1",)
    radius: int = 1
    interactions: str = "pairwise"
    ridge: float = 1e-10
    seeds: int = 3
    error_bar: str = "seeds"

    notebook: ClassVar[str] = "fig7"

    def check(self) -> None:
        self.shared_large = as_list(self.shared_large, str, "shared_large")
        self.n_eval = list(self.n_eval) if isinstance(self.n_eval, Sequence) else [self.n_eval] * len(self.sizes)
        if len(self.n_eval) != len(self.sizes):
            raise ValueError(f"give one n_eval, or one per size: {self.sizes} but {self.n_eval}")
        for number in range(len(self.sizes)):
            self.sweep(number)

    def sweep(self, number: int) -> SweepConfig:
        """The sweep of one size; without the optimal denoiser and networks, which are in Figures 5 and 6."""
        alike = ("n_train", "sigmas", "degrees", "families", "radius", "interactions", "ridge", "seeds", "error_bar", "seed")
        return SweepConfig(
            **{name: getattr(self, name) for name in (*alike, "data_root", "cache")},
            size=self.sizes[number],
            n_eval=self.n_eval[number],  # type: ignore[index]
            shared=self.shared_large if number else self.shared,
            n_optimal=0,
            n_trained=0,
            name=f"{self.name}-{self.sizes[number]}",
        )

    def work(self, train: int) -> list[Work]:
        return [part for number in range(len(self.sizes)) for part in self.sweep(number).work(train)]


def measure(config: LinearConfig, progress: bool = True) -> dict[str, Any]:
    """The sweep of every size."""
    results = {size: fig5.measure(config.sweep(number), progress) for number, size in enumerate(config.sizes)}
    return {
        "data": {size: result["data"] for size, result in results.items()},
        "records": [{"size": size, **r} for size, result in results.items() for r in result["records"]],
    }


def findings(record: dict[str, Any]) -> list[str]:
    """Which methods beat the linear denoiser, where, and whether the ratio is better at the larger size."""
    lines, sizes = [], record["parameters"]["sizes"]
    families = [r for r in record["records"] if r["degree"] is not None]
    for size in sizes:
        for split in ("train", "test"):
            here = select(families, size=size, split=split)
            for method in dict.fromkeys(r["method"] for r in here):
                top = max(r["degree"] for r in select(here, method=method))
                pairs = [(r["sigma"], r["to_reference"]) for r in select(here, method=method, degree=top)]
                better = sum(pair["ratio"] + 2 * combined_se(pair) < 1 for _, pair in pairs)
                parts = [f"{pair['ratio']:.3f} ± {combined_se(pair):.3f} at sigma {sigma:g}" for sigma, pair in pairs]
                lines.append(
                    f"{size}x{size}, {SPLIT_NAME[split]}, {method}, degree {top}: below linear by two standard errors at "
                    f"{better} of {len(parts)} noise levels (ratio {', '.join(parts)})"
                )
    small, large = min(sizes), max(sizes)
    for method in dict.fromkeys(r["method"] for r in select(families, size=large) if small != large):
        closer, seen = 0, 0
        for r in select(families, size=large, method=method, split="test"):
            other = select(families, size=small, method=method, split="test", sigma=r["sigma"], degree=r["degree"])
            seen += bool(other)
            closer += bool(other) and r["to_reference"]["ratio"] < other[0]["to_reference"]["ratio"]
        if seen:
            lines.append(
                f"{method}: held-out ratio to linear smaller at {large} than at {small} in {closer} of {seen} settings"
            )
    return lines


def draw(record: dict[str, Any]) -> Any:
    """A row per size, a column per method: ratio to the linear denoiser against the degree."""
    p = record["parameters"]
    families = [r for r in record["records"] if r["degree"] is not None]
    methods = list(dict.fromkeys(r["method"] for r in families))
    shape: Any = (len(p["sizes"]), len(methods))
    shared: Any = {"squeeze": False, "sharex": True, "sharey": True}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(*shape, figsize=(2.45 * shape[1] + 0.8, 2.9 * shape[0] + 1.3), **shared)
        for row, size in enumerate(p["sizes"]):
            for axis, method in zip(axes[row], methods):
                mine = select(families, size=size, method=method)
                sigma_lines(
                    axis, mine, p["sigmas"], lambda r: r["to_reference"]["ratio"],
                    lambda r: bar_of(r["to_reference"], p["error_bar"]),
                )  # fmt: skip
                axis.axhline(1.0, color="0.25", linewidth=1.0)
                if not mine:
                    axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", va="center", color="0.5")
                if row == 0:
                    axis.set_title(title_of(method).replace(", own", "\nown").replace(", shared", "\nshared"))
                if row == len(p["sizes"]) - 1:
                    axis.set_xlabel("polynomial degree")
            axes[row, 0].set_ylabel(f"{size}x{size}: MSE over\nthat of the linear denoiser")
        plain_log(axes[0, 0])
        axes[0, 0].set_xlim(min(p["degrees"]) - 0.2, max(p["degrees"]) + 0.2)
        axes[0, 0].yaxis.set_major_locator(plt.MaxNLocator(8))
        figure.suptitle(f"Against the linear denoiser, {fitted_on(record)} (below 1: better than linear)", fontsize=11.5)
        figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
        note = error_bar_text(p["error_bar"], p["seeds"], paired=True)
        legend_figure(figure, sigma_handles(p["sigmas"]) + split_handles(), note)
    return figure


make_figure = FigureMaker(measure, draw, findings)
