"""Figures of the paper from sweep records; one consistent style, every point with its error bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 10.5,
    "legend.frameon": False,
    "figure.dpi": 110,
    "pdf.fonttype": 42,
}
SPLIT_STYLE: Any = {"train": ("-", "o"), "test": ("--", "s")}


def sigma_colours(sigmas: Sequence[float]) -> dict[float, Any]:
    """One colour per noise level, dark for little noise."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(sigmas)))
    return dict(zip(sigmas, colours))


def select(records: Sequence[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Records whose fields equal the wanted values."""
    return [r for r in records if all(r.get(k) == v for k, v in wanted.items())]


def degree_panel(
    axis: Any, records: Sequence[dict[str, Any]], method: str, sigmas: Sequence[float], *, faint: bool = False
) -> None:
    """MSE against degree of one method: a line per sigma and split, one standard error as the bar."""
    colours = sigma_colours(sigmas)
    for sigma in sigmas:
        for split, (line, marker) in SPLIT_STYLE.items():
            rows = sorted(select(records, method=method, sigma=sigma, split=split), key=lambda r: r["degree"])
            if rows:
                axis.errorbar(
                    [r["degree"] for r in rows],
                    [r["mse"] for r in rows],
                    yerr=[r["se"] for r in rows],
                    linestyle=line,
                    marker="x" if faint else marker,
                    markersize=4,
                    linewidth=0.9 if faint else 1.5,
                    alpha=0.55 if faint else 1.0,
                    capsize=2,
                    color=colours[sigma],
                    markerfacecolor="white" if split == "test" else None,
                )
        rows = sorted(select(records, method=method, sigma=sigma, split="test"), key=lambda r: r["degree"])
        if len(rows) > 1:  # the change is a few per cent, less than the eye reads off a logarithmic axis
            change = 100 * (rows[-1]["mse"] / rows[0]["mse"] - 1)
            axis.annotate(
                f"{change:+.1f}%",
                (rows[-1]["degree"], rows[-1]["mse"]),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=7.5,
                va="center",
                color=colours[sigma],
                alpha=0.7 if faint else 1.0,
            )
    axis.set_yscale("log")
    axis.margins(x=0.1)
    axis.set_xlabel("polynomial degree")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))


def method_panel(axis: Any, records: Sequence[dict[str, Any]], methods: Sequence[str], sigmas: Sequence[float]) -> None:
    """MSE of methods without a degree, one column each."""
    colours = sigma_colours(sigmas)
    for sigma in sigmas:
        for offset, (split, (_, marker)) in zip((-0.12, 0.12), SPLIT_STYLE.items()):
            for position, method in enumerate(methods):
                for r in select(records, method=method, sigma=sigma, split=split):
                    axis.errorbar(
                        position + offset,
                        r["mse"],
                        yerr=r["se"],
                        marker=marker,
                        markersize=5,
                        capsize=2,
                        color=colours[sigma],
                        markerfacecolor="white" if split == "test" else None,
                    )
    axis.set_yscale("log")
    axis.set_xticks(range(len(methods)), [m.replace(" ", "\n", 1) for m in methods], fontsize=8)
    axis.set_xlim(-0.5, len(methods) - 0.5)


def _crop(
    axis: Any, records: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]], methods: Sequence[str]
) -> None:
    """Keep the scale of the families; what lies below it (memorised training images) becomes an arrow with its range."""
    low, high = min(r["mse"] for r in shown) / 2.5, max(r["mse"] for r in records) * 1.4
    axis.set_ylim(low, high)
    for position, method in enumerate(methods):
        below = [r["mse"] for r in records if r["method"] == method and r["mse"] < low]
        if below:
            text = f"{min(below):.0e}" if len(below) == 1 else f"{min(below):.0e} to {max(below):.0e}"
            axis.annotate(
                f"{len(below)} below:\n{text}",
                (position, low),
                (position, low * 2.2),
                fontsize=7,
                ha="center",
                arrowprops={"arrowstyle": "->", "color": "0.4"},
            )


def mse_against_degree(
    records: Sequence[dict[str, Any]],
    families: dict[str, str],
    baselines: Sequence[str],
    sigmas: Sequence[float],
    title: str,
) -> Figure:
    """Figures 5 and 6: one panel per family (title -> method label), the last panel for the baselines.

    The ``shared`` readout of a family, where it was run, is drawn with crosses in the same panel.  Percentages at the lines'
    ends are the change of held-out MSE from the lowest to the highest degree; family panels share one scale.
    """
    with plt.rc_context(STYLE):
        columns = 2
        rows = (len(families) + 2) // 2
        figure, axes = plt.subplots(rows, columns, figsize=(10.5, 3.9 * rows), squeeze=False)
        flat = axes.ravel()
        drawn = [r["mse"] for r in records if r["degree"] is not None]
        for number, (name, method) in enumerate(families.items()):
            axis = flat[number]
            degree_panel(axis, records, method, sigmas)
            shared = method.replace("own readout", "shared readout")
            if select(records, method=shared):
                degree_panel(axis, records, shared, sigmas, faint=True)
            axis.set_ylim(min(drawn) / 1.25, max(drawn) * 1.25)
            axis.set_title(f"({'abcdefgh'[number]}) {name}")
        last = flat[len(families)]
        method_panel(last, records, baselines, sigmas)
        last.set_title(f"({'abcdefgh'[len(families)]}) baselines")
        for axis in flat[len(families) + 1 :]:
            axis.set_visible(False)
        _crop(last, records, [r for r in records if r["degree"] is not None], baselines)
        for axis in axes[:, 0]:
            axis.set_ylabel("MSE per pixel (clamped)")
        colours = sigma_colours(sigmas)
        handles = [Line2D([], [], color=colours[s], linewidth=3, label=rf"$\sigma={s:g}$") for s in sigmas]
        handles += [
            Line2D([], [], color="0.3", linestyle="-", marker="o", label="training images"),
            Line2D(
                [],
                [],
                color="0.3",
                linestyle="--",
                marker="s",
                markerfacecolor="white",
                label="held-out images",
            ),
        ]
        if any("shared" in r["method"] for r in records):
            handles.append(
                Line2D(
                    [],
                    [],
                    color="0.3",
                    marker="x",
                    linewidth=0.9,
                    alpha=0.55,
                    label="shared readout (else own)",
                )
            )
        figure.text(
            0.5,
            0.965,
            "at each line's end: change of held-out MSE from its lowest to its highest degree",
            ha="center",
            fontsize=8.5,
            color="0.35",
        )
        figure.suptitle(title, y=1.0)
        figure.tight_layout(rect=(0, 0.06, 1, 0.985))
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8.5, columnspacing=1.2)
    return figure
