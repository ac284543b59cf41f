"""Drawing shared by the figures: one consistent style, every measured point with its error bar."""

from __future__ import annotations

import textwrap
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
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
}
IMAGE_STYLE: Any = {**STYLE, "axes.grid": False}
SPLIT_STYLE: Any = {"train": ("-", "o"), "test": ("--", "s")}
SPLIT_NAME = {"train": "training images", "test": "held-out images"}
ERROR_BARS = ("seeds", "images")
# Okabe and Ito's colours, told apart with every common colour-vision deficiency.
COLOURS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}


def sigma_colours(sigmas: Sequence[float]) -> dict[float, Any]:
    """One colour per noise level, dark for little noise."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(sigmas)))
    return dict(zip(sigmas, colours))


def title_of(label: str) -> str:
    """A method's label as the paper names it."""
    return label.replace("band,", "band-tied,", 1) if label.startswith("band,") else label


def select(records: Sequence[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Records whose fields equal the wanted values."""
    return [r for r in records if all(r.get(k) == v for k, v in wanted.items())]


def bar_of(record: dict[str, Any], error_bar: str) -> float:
    """Half-length of a record's error bar: one standard error over noise seeds or over images."""
    return float((record.get("se_seeds") if error_bar == "seeds" else record["se"]) or 0.0)


def error_bar_text(error_bar: str, seeds: int, paired: bool = False) -> str:
    """What an error bar means, for a legend."""
    over = f"{seeds} noise seeds" if error_bar == "seeds" else "images"
    return f"bars: ± 1 standard error over {over}" + (", paired" if paired else "")


def show_image(axis: Any, image: Any, **options: Any) -> None:
    """A grey image in [0, 1] without ticks or frame."""
    axis.imshow(image, **{"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest", **options})
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def integer_axis(axis: Any) -> None:
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))


def plain_log(axis: Any, which: str = "y") -> None:
    """Logarithmic axis labelled 0.002, 0.005, 0.01, ... in place of powers with factors."""
    target = axis.yaxis if which == "y" else axis.xaxis
    (axis.set_yscale if which == "y" else axis.set_xscale)("log")
    low, high = axis.get_ylim() if which == "y" else axis.get_xlim()
    subs = (1.0, 2.0, 5.0) if high < 200 * low else (1.0, 3.0) if high < 1e4 * low else (1.0,)
    target.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=14))
    target.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    target.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _lines(
    axis: Any,
    records: Sequence[dict[str, Any]],
    method: str,
    sigmas: Sequence[float],
    error_bar: str,
    field: str | None,
    faint: bool,
) -> None:
    """A line per sigma and split against the degree: the MSE, or with ``field`` a paired ratio as a change in per cent."""
    colours = sigma_colours(sigmas)
    for sigma in sigmas:
        for split, (line, marker) in SPLIT_STYLE.items():
            rows = sorted(select(records, method=method, sigma=sigma, split=split), key=lambda r: r["degree"])
            rows = [r for r in rows if field is None or field in r]
            if not rows:
                continue
            values = [r["mse"] if field is None else 100 * (r[field]["ratio"] - 1) for r in rows]
            bars = [bar_of(r, error_bar) if field is None else 100 * bar_of(r[field], error_bar) for r in rows]
            axis.errorbar(
                [r["degree"] for r in rows],
                values,
                yerr=bars,
                linestyle=line,
                marker="x" if faint else marker,
                markersize=4.5 if faint else 4,
                linewidth=0.9 if faint else 1.5,
                alpha=0.7 if faint else 1.0,
                capsize=2,
                color=colours[sigma],
                markerfacecolor="white" if split == "test" else None,
            )


def degree_panel(
    axis: Any,
    records: Sequence[dict[str, Any]],
    method: str,
    sigmas: Sequence[float],
    *,
    error_bar: str = "images",
    faint: bool = False,
) -> None:
    """MSE against degree of one method: a line per sigma and split."""
    _lines(axis, records, method, sigmas, error_bar, None, faint)
    plain_log(axis)
    integer_axis(axis)


def change_panel(
    axis: Any,
    records: Sequence[dict[str, Any]],
    method: str,
    sigmas: Sequence[float],
    *,
    error_bar: str = "images",
    faint: bool = False,
) -> None:
    """Change of MSE against the lowest degree in per cent, paired image by image: the effect the logarithmic axis hides."""
    _lines(axis, records, method, sigmas, error_bar, "to_lowest", faint)
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.set_xlabel("polynomial degree")
    integer_axis(axis)


def method_rows(
    axis: Any,
    records: Sequence[dict[str, Any]],
    rows: Sequence[tuple[str, str, int | None]],
    sigmas: Sequence[float],
    *,
    error_bar: str = "images",
    ratio: bool = False,
) -> None:
    """One horizontal row per method ``(text, method, degree)``: its MSE, or its paired ratio to the reference method."""
    colours = sigma_colours(sigmas)
    for position, (_, method, degree) in enumerate(rows):
        for offset, (split, (_, marker)) in zip((-0.06, 0.24), SPLIT_STYLE.items()):
            for sigma in sigmas:
                for r in select(records, method=method, degree=degree, sigma=sigma, split=split):
                    if ratio and "to_reference" not in r:
                        continue
                    axis.errorbar(
                        r["to_reference"]["ratio"] if ratio else r["mse"],
                        position + offset,
                        xerr=bar_of(r["to_reference"] if ratio else r, error_bar),
                        marker=marker,
                        markersize=4.5,
                        capsize=2,
                        color=colours[sigma],
                        markerfacecolor="white" if split == "test" else None,
                        clip_on=True,
                    )
        if position % 2:
            axis.axhspan(position - 0.5, position + 0.5, color="0.5", alpha=0.07, linewidth=0)
    plain_log(axis, "x")
    axis.set_yticks(range(len(rows)), [text for text, _, _ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(False, axis="y")


def _arrows_for_hidden(axis: Any, values: Sequence[Sequence[float]], low: float) -> None:
    """Start the axis at ``low``; what lies below (memorised training images) becomes an arrow with its range."""
    axis.set_xlim(left=low)
    plain_log(axis, "x")
    for position, row in enumerate(values):
        below = [v for v in row if v < low]
        if below:
            span = f"{min(below):.0e}" if len(below) == 1 else f"{min(below):.0e} to {max(below):.0e}"
            axis.annotate(
                f"{len(below)} further left: {span}",
                (low, position - 0.34),
                (14, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
                color="0.3",
                arrowprops={"arrowstyle": "->", "color": "0.4"},
            )


def split_handles() -> list[Line2D]:
    """Legend entries of the two splits."""
    return [
        Line2D(
            [],
            [],
            color="0.3",
            linestyle=line,
            marker=marker,
            markersize=4.5,
            markerfacecolor="white" if split == "test" else None,
            label=SPLIT_NAME[split],
        )
        for split, (line, marker) in SPLIT_STYLE.items()
    ]


def sigma_handles(sigmas: Sequence[float]) -> list[Line2D]:
    """Legend entries of the noise levels."""
    colours = sigma_colours(sigmas)
    return [Line2D([], [], color=colours[s], linewidth=3, label=rf"$\sigma={s:g}$") for s in sigmas]


def mse_against_degree(result: dict[str, Any], sigmas: Sequence[float], title: str, error_bar: str = "seeds") -> Figure:
    """Figures 5 and 6: a column per family (MSE above, its change against the lowest degree below), then the baselines.

    The ``shared`` readout of a family, where it was run, is drawn with crosses in the same panels.  The baselines' right
    panel is the ratio to the linear denoiser on the same images.
    """
    records, families = result["records"], result["families"]
    drawn = [r for r in records if r["degree"] is not None]
    best = min(
        (r for r in drawn if r["split"] == "test" and "own readout" in r["method"]),
        key=lambda r: (-r["degree"], sum(q["mse"] for q in select(drawn, method=r["method"], degree=r["degree"]))),
        default=None,
    )
    rows = [(m, m, None) for m in result["baselines"]]
    if best is not None:
        rows.insert(2, (f"{best['method']},\ndegree {best['degree']}", best["method"], best["degree"]))
    columns = max(len(families), 1)
    with plt.rc_context(STYLE):
        bottom = 0.34 * len(rows) + 0.2
        height = 3.2 + 2.3 + bottom + 2.2
        figure = plt.figure(figsize=(max(3.6 * columns, 8.5), height))
        outer = figure.add_gridspec(
            2,
            1,
            height_ratios=[5.5, bottom],
            hspace=0.65 / (5.5 + bottom) * 2.4,
            left=0.09,
            right=0.985,
            top=1 - 0.62 / height,
            bottom=1.15 / height,
        )
        upper = outer[0].subgridspec(2, columns, height_ratios=[3.2, 2.3], hspace=0.12, wspace=0.08)
        axes = [[figure.add_subplot(upper[i, j]) for j in range(columns)] for i in range(2)]
        changes = [100 * (r["to_lowest"]["ratio"] - 1) for r in drawn]
        for column, (name, method) in enumerate(families.items()):
            shared = method.replace("own readout", "shared readout")
            for axis, panel in zip((axes[0][column], axes[1][column]), (degree_panel, change_panel)):
                panel(axis, records, method, sigmas, error_bar=error_bar)
                if select(records, method=shared):
                    panel(axis, records, shared, sigmas, error_bar=error_bar, faint=True)
                axis.set_xlim(min(r["degree"] for r in drawn) - 0.2, max(r["degree"] for r in drawn) + 0.2)
                if column:
                    axis.tick_params(labelleft=False)
            axes[0][column].tick_params(labelbottom=False)
            axes[0][column].set_ylim(min(r["mse"] for r in drawn) / 1.2, max(r["mse"] for r in drawn) * 1.2)
            span = max(changes) - min(changes) or 1.0
            axes[1][column].set_ylim(min(changes) - 0.08 * span, max(changes) + 0.08 * span)
            axes[0][column].set_title(f"({'abcdefgh'[column]}) {name}")
        axes[0][0].set_ylabel("MSE per pixel (clamped)")
        lowest = min((r["degree"] for r in drawn), default=1)
        axes[1][0].set_ylabel(f"change against\ndegree {lowest}, per cent")
        lower = outer[1].subgridspec(1, 2, wspace=0.06, width_ratios=[1, 0.85])
        left, right = figure.add_subplot(lower[0]), figure.add_subplot(lower[1])
        method_rows(left, records, rows, sigmas, error_bar=error_bar)
        method_rows(right, records, rows, sigmas, error_bar=error_bar, ratio=True)
        right.tick_params(labelleft=False)
        right.axvline(1.0, color="0.4", linewidth=0.8)
        low = min(r["mse"] for r in drawn) / 2.5
        mine = [select(records, method=m, degree=d) for _, m, d in rows]
        trained = [r["mse"] for r in records if r["method"] in result.get("trained", ())]
        _arrows_for_hidden(left, [[r["mse"] for r in row] for row in mine], min([low, *(v / 1.3 for v in trained)]))
        ratios = [[r["to_reference"]["ratio"] for r in row if "to_reference" in r] for row in mine]
        most = [v for row, (_, m, _) in zip(ratios, rows) if m != "optimal empirical" for v in row]
        _arrows_for_hidden(right, ratios, min([*most, 1.0]) / 1.4)
        letter = "abcdefgh"[columns]
        left.set_title(f"({letter}) baselines: MSE per pixel (clamped)")
        right.set_title("ratio to the linear denoiser, same images")
        handles: list[Any] = sigma_handles(sigmas) + split_handles()
        if any("shared" in r["method"] for r in records):
            handles.append(
                Line2D([], [], color="0.3", marker="x", linewidth=0.9, label="shared readout (all others: own)")
            )
        figure.suptitle(title, y=1 - 0.12 / height, fontsize=11.5)
        legend_figure(figure, handles, error_bar_text(error_bar, drawn[0]["seeds"]) + "; changes and ratios are paired")
    return figure


def legend_figure(figure: Figure, handles: Sequence[Any], note: str = "") -> None:
    """A legend along the bottom edge, with a line of explanation under it."""
    height = figure.get_figheight()
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.26 / height),
        ncols=min(len(handles), 7),
        fontsize=8.5,
        columnspacing=1.4,
    )
    if note:
        figure.text(0.5, 0.12 / height, note, ha="center", fontsize=8, color="0.35")


def wrapped(text: str, width: int) -> str:
    """Text broken into lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(text, width))
