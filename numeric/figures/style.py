"""Drawing shared by the figures: one consistent style, every measured point with its error bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
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


def short_number(value: float) -> str:
    """As a tick label: 0.002, 5, 30000, 300k, 3M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= max(unit, 1e5):
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def number_points(axis: Any, points: Mapping[int, tuple[float, float]], bars: Mapping[int, float] | None = None) -> None:
    """Write their numbers beside points, where no other number, point or error bar stands; call it when the axis has its limits.

    A number is put at the nearest free place around its point, with a thin line to it if that is not close by.

    Args:
        bars: half the length of a point's vertical error bar, by number.
    """
    figure = axis.figure

    def placed(of: Any) -> Any:  # in points, as the offsets are
        return axis.transData.transform(list(of)) * 72 / figure.dpi

    pixels = placed(points.values())
    lowest, highest = (placed((x, y + side * (bars or {}).get(n, 0.0)) for n, (x, y) in points.items())[:, 1] for side in (-1, 1))
    (left, bottom), (right, top) = (axis.transAxes.transform(corner) * 72 / figure.dpi for corner in ((0, 0), (1, 1)))
    taken: list[tuple[float, float, float]] = []
    around = ((6, 4), (-6, 4), (6, -5), (-6, -5), (0, 8), (0, -8), (9, 0), (-9, 0))
    places = [(x * r, y * r) for r in (1, 1.8, 2.6, 3.4, 4.2, 5.0, 6.0, 7.0) for x, y in around]
    for number, (x, y) in zip(points, pixels):
        width = 4.6 * len(str(number))

        def crowding(place: tuple[float, float], x: float = x, y: float = y, width: float = width) -> int:
            text = x + place[0], y + place[1]
            outside = not (left + width / 2 < text[0] < right and bottom + 4 < text[1] < top)
            numbers = sum(abs(text[0] - a) < (width + w) / 2 + 1.5 and abs(text[1] - b) < 9 for a, b, w in taken)
            marks = sum(abs(text[0] - a) < width / 2 + 3 and low - 6 < text[1] < high + 6 for (a, _), low, high in zip(pixels, lowest, highest))
            return 3 * numbers + 2 * outside + marks

        best = min(range(len(places)), key=lambda k: (crowding(places[k]), k))
        place = places[best]
        taken.append((x + place[0], y + place[1], width))
        line = {"arrowprops": {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 2}} if best >= len(around) else {}
        axis.annotate(str(number), points[number], xytext=place, textcoords="offset points", fontsize=7, ha="center", va="center", **line)


def plain_log(axis: Any, which: str = "y") -> None:
    """Logarithmic axis labelled 0.002, 0.005, 0.01, ... in place of powers with factors."""
    target = axis.yaxis if which == "y" else axis.xaxis
    (axis.set_yscale if which == "y" else axis.set_xscale)("log")
    low, high = axis.get_ylim() if which == "y" else axis.get_xlim()
    every: Any = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if high < 4 * low else (1.0, 2.0, 5.0)
    subs = every if high < 200 * low else (1.0, 3.0) if high < 1e4 * low else (1.0,)
    target.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=14))
    target.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: short_number(value)))
    target.set_minor_formatter(matplotlib.ticker.NullFormatter())


def sigma_lines(
    axis: Any,
    records: Sequence[dict[str, Any]],
    sigmas: Sequence[float],
    value: Callable[[dict[str, Any]], float | None],
    bar: Callable[[dict[str, Any]], float] | None = None,
    *,
    by_split: bool = True,
    faint: bool = False,
    **look: Any,
) -> None:
    """A line with error bars per sigma (and split) against the degree: the records whose ``value`` is not None.

    Args:
        value, bar: of a record; bar: half-length of its error bar. by_split: lines and markers tell the splits apart.
        faint: thin lines with crosses, for what is beside the point. look: of ``Axes.errorbar``.
    """
    colours = sigma_colours(sigmas)
    for sigma in sigmas:
        for split, (line, marker) in SPLIT_STYLE.items() if by_split else {None: ("-", "o")}.items():
            rows = [r for r in records if r["sigma"] == sigma and (split is None or r["split"] == split)]
            rows = sorted((r for r in rows if value(r) is not None), key=lambda r: r["degree"])
            if rows:
                style = {"linestyle": line, "marker": "x" if faint else marker, "markersize": 4, "capsize": 2}
                style |= {"linewidth": 0.8, "alpha": 0.65} if faint else {"linewidth": 1.4}
                style |= {"color": colours[sigma], "markerfacecolor": "white" if split == "test" else None, **look}
                axis.errorbar([r["degree"] for r in rows], [value(r) for r in rows], [bar(r) if bar else 0 for r in rows], **style)
    integer_axis(axis)


def method_rows(
    axis: Any,
    rows: Sequence[tuple[str, Sequence[dict[str, Any]]]],
    sigmas: Sequence[float],
    value: Callable[[dict[str, Any]], float | None],
    bar: Callable[[dict[str, Any]], float],
    low: float = 0.0,
) -> None:
    """One horizontal row per method ``(text, records)``: the value of every record, training above held-out.

    Args:
        low: the axis starts here; what lies below it (memorised training images) becomes an arrow with its range.
    """
    colours, drawn = sigma_colours(sigmas), []
    for position, (_, records) in enumerate(rows):
        found = [(r, v) for r, v in ((r, value(r)) for r in records) if v is not None]
        for r, v in found:
            if v >= low:
                drawn += [v - bar(r), v + bar(r)] if v > bar(r) else [v]
                held_out = r["split"] == "test"
                axis.errorbar(
                    v, position + (0.17 if held_out else -0.17), xerr=bar(r), marker=SPLIT_STYLE[r["split"]][1], markersize=4.5,
                    capsize=2, color=colours[r["sigma"]], markerfacecolor="white" if held_out else None,
                )  # fmt: skip
        below = [v for _, v in found if v < low]
        if below:
            span = " to ".join(f"{v:.1g}" for v in sorted({min(below), max(below)}))
            inside: Any = {"transform": axis.get_yaxis_transform(), "va": "center", "color": "0.3", "fontsize": 7}
            axis.text(0.004, position - 0.17, "\N{LEFTWARDS ARROW}", **inside)
            axis.text(0.99, position - 0.17, f"{len(below)} further left: {span}", ha="right", **inside)
        if position % 2:
            axis.axhspan(position - 0.5, position + 0.5, color="0.5", alpha=0.07, linewidth=0)
    if drawn:
        axis.set_xlim(max(low, min(drawn) / 1.3), max(drawn) * 1.3)
    plain_log(axis, "x")
    axis.set_yticks(range(len(rows)), [text for text, _ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(False, axis="y")


def fitted_on(record: dict[str, Any]) -> str:
    """``fitted on 60,000 images of MNIST``, from the data of a record (of its first size)."""
    data = record["data"]
    fit = data["fit"] if "fit" in data else next(iter(data.values()))["fit"]
    first, *others = fit["source"].split(", ")  # patches of many photographs
    return f"fitted on {fit['count']:,} images of {first}{' and others' if others else ''}"


def plus_minus(value: float, error: float | None) -> str:
    """``0.0015512 ± 0.0000013``: as many decimals as the error has a first digit at, and one more (never ± 0.00000)."""
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def split_handles() -> list[Line2D]:
    """Legend entries of the two splits."""
    white = {"test": "white"}
    return [
        Line2D([], [], color="0.3", linestyle=line, marker=marker, markersize=4.5, markerfacecolor=white.get(split), label=SPLIT_NAME[split])
        for split, (line, marker) in SPLIT_STYLE.items()
    ]


def sigma_handles(sigmas: Sequence[float]) -> list[Line2D]:
    """Legend entries of the noise levels."""
    colours = sigma_colours(sigmas)
    return [Line2D([], [], color=colours[s], linewidth=3, label=rf"$\sigma={s:g}$") for s in sigmas]


def legend_figure(figure: Figure, handles: Sequence[Any], note: str = "") -> None:
    """A legend along the bottom edge, with a line of explanation under it."""
    height = figure.get_figheight()
    place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.26 / height), "ncols": min(len(handles), 7)}
    figure.legend(handles=handles, fontsize=8.5, columnspacing=1.4, **place)
    if note:
        figure.text(0.5, 0.12 / height, note, ha="center", fontsize=8, color="0.35")
