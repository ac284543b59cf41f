"""Beyond the paper: closed forms on nonlinear features of the Wiener estimate, beside the paper's, peers and networks.

Error against parameters, fitting time and memory, on held-out images and one noise (networks on the first of them), and a table of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from numeric.baselines.clock import CPU
from numeric.baselines.network import overlap_caution, trained
from numeric.figures.base import FigureMaker
from numeric.figures.contenders import Contest, kept_rows, measured, network_rows, rows_of
from numeric.figures.style import COLOURS, STYLE, fitted_on, number_points, plain_log, plus_minus
from numeric.imageset import ImageSet
from numeric.pictures import load_images

KINDS = {
    "paper": ("closed form of the paper", COLOURS["blue"], "o"),
    "beyond": ("closed form beyond the paper", COLOURS["vermilion"], "D"),
    "peer": ("other closed form", COLOURS["green"], "s"),
    "network": ("network", COLOURS["purple"], "^"),
}


@dataclass(kw_only=True)
class BeyondConfig(Contest):
    """Parameters of the comparison: those of :class:`numeric.figures.contenders.Contest`, and

    Attributes:
        dataset: ``"mnist"``, or what :func:`numeric.load_images` knows, such as ``"natural"`` (patches of photographs) or a folder, in grey;
            networks stand beside it only where ``weights`` names a folder of them.
        n_symmetry: held-out images at which the Jacobian's asymmetry is measured; 0 leaves it out.
    """

    name: str = "beyond"
    dataset: str = "mnist"
    wiener: Sequence[str] = ("pixel:3", "both:3")
    families: Sequence[str] = ("local:3",)
    shared: Sequence[str] = ("independent:3",)
    refined: Sequence[int | str] = (100,)
    n_symmetry: int = 1

    notebook: ClassVar[str] = "beyond"

    def check(self) -> None:
        super().check()
        if self.networks is None and self.weights is None and self.dataset != "mnist":
            self.networks = []  # those shipped have seen digits alone
        trained(self.size, self.networks, self.weights)

    def images(self, split: str, size: int, count: int | None = None) -> ImageSet:
        """The first ``count`` grey images of the data set's split at a size."""
        if self.dataset == "mnist":
            return super().images(split, size, count)
        return load_images(self.dataset, split, size=size, channels=1, count=count, root=self.data_root)


def measure(config: BeyondConfig, progress: bool = True) -> dict[str, Any]:
    """Every method on the same held-out images and noise; a finished method is kept in the cache."""
    images, test = config.images("train", config.size, config.n_train), config.images("test", config.size, config.n_eval)
    data = {"fit": images.provenance, "test": test.provenance}
    key = {"data": data} | {k: config.settings[k] for k in ("size", "sigmas", "seed", "n_symmetry")}
    methods = [*rows_of(config, images), *network_rows(config)]
    rows = kept_rows(methods, "beyond", images, key, lambda row, linear: measured(row, test, config, linear), config, progress)
    return {"data": data, "rows": list(rows)}


def on_gpu(row: dict[str, Any]) -> bool:
    """Whether a row's time is a GPU's, at least in part: it does not compare with that of the others."""
    return row.get("machine", CPU) != CPU


def frame(record: dict[str, Any]) -> Any:
    """The record as a pandas table, one row a method."""
    import pandas as pd

    lines = []
    for row in record["rows"]:
        errors = {f"MSE, sigma {s}": plus_minus(c["mse"], c["se"]) for s, c in row["errors"].items()}
        errors |= {f"of linear, sigma {s}": f"{c['of_linear']['ratio']:.3f}" for s, c in row["errors"].items()}
        bent = {f"asymmetry, sigma {s}": f"{c['mean']:.3f}" for s, c in row["asymmetry"].items()}
        size = {"parameters": f"{row['parameters']:,}", "seconds": f"{row['seconds']:.1f}", "MiB": f"{row['memory'] / 2**20:.1f}"}
        lines.append({"method": row["method"], **size, "machine": row.get("machine", CPU), **errors, **bent})
    return pd.DataFrame(lines).set_index("method").fillna("")


AXES = (("parameters", "parameters at one noise level", 1), ("seconds", "fit at all levels, s", 1), ("memory", "memory of the fit, MiB", 2**20))


def draw(record: dict[str, Any]) -> Any:
    """A row of panels for each noise level; below them the table, whose numbers name the points."""
    rows, sigmas = record["rows"], record["parameters"]["sigmas"]
    with plt.rc_context(STYLE):
        height = 2.15 * len(sigmas) + 0.19 * len(rows) + 1.6
        figure = plt.figure(figsize=(11, height))
        heights = [2.15] * len(sigmas) + [0.19 * (len(rows) + 3)]
        grid = figure.add_gridspec(
            len(heights), 3, height_ratios=heights, top=1 - 0.75 / height, bottom=0.15 / height, left=0.075, right=0.985, hspace=0.3, wspace=0.16,
        )  # fmt: skip
        for line, sigma in enumerate(sigmas):
            for column, (field, title, unit) in enumerate(AXES):
                axis = figure.add_subplot(grid[line, column])
                points, bars = {}, {}  # what learns nothing has no place on these axes
                for number, row in enumerate(rows, 1):
                    _, colour, marker = KINDS[row["kind"]]
                    cell = row["errors"][f"{sigma:g}"]
                    x = row[field] / unit
                    if row["parameters"]:
                        look: Any = {"color": colour, "markersize": 5, "capsize": 2, "linewidth": 1, "markerfacecolor": "white" if on_gpu(row) else colour}
                        axis.errorbar(x, cell["mse"], yerr=cell["se"], fmt=marker, **look)
                        points[number], bars[number] = (x, cell["mse"]), cell["se"]
                axis.set_yscale("log")
                axis.margins(y=0.14)
                plain_log(axis, "y")
                plain_log(axis, "x")
                number_points(axis, points, bars)
                if column == 0:
                    axis.set_ylabel(f"MSE, $\\sigma={sigma:g}$")
                if line == len(sigmas) - 1:
                    axis.set_xlabel(title)
        table = figure.add_subplot(grid[-1, :])
        table.axis("off")
        table.set_ylim(len(rows) + 2.5, -0.5)
        table.set_xlim(0, 1)
        places = [0.53, 0.59, 0.65, 0.7, *(0.78 + 0.073 * k for k in range(len(sigmas)))]
        heads = ["parameters", "fit, s", "MiB", "images", *(f"$\\sigma={s:g}$" for s in sigmas)]
        table.text(0.0, 0.6, "method (held-out MSE per pixel)", fontsize=8, weight="bold")
        for x, text in zip(places, heads):
            table.text(x, 0.6, text, fontsize=8, weight="bold", ha="right")
        best = {s: min(row["errors"][f"{s:g}"]["of_linear"]["ratio"] for row in rows) for s in sigmas}
        for y, row in enumerate(rows, 1):
            colour = KINDS[row["kind"]][1]
            text = f"{y}  {row['method']}"
            table.text(0.0, y + 0.6, text, fontsize=min(7.5, 7.5 * 80 / len(text)), color=colour)  # a long name still ends before its numbers
            cells = [f"{row['parameters']:,}", f"{'GPU ' if on_gpu(row) else ''}{row['seconds']:,.0f}", f"{row['memory'] / 2**20:,.0f}"]
            found = [row["errors"][f"{s:g}"] for s in sigmas]
            cells.append(f"{found[0]['n']:,}")
            looks = ["normal"] * 4 + ["bold" if c["of_linear"]["ratio"] == best[s] else "normal" for c, s in zip(found, sigmas)]
            for x, text, look in zip(places, [*cells, *(f"{c['mse']:.5f}" for c in found)], looks):
                table.text(x, y + 0.6, text, fontsize=7.5, ha="right", weight=look)
        note = "bold: lowest in proportion to linear's error on the same images; what has no parameters has no point above"
        table.text(0.0, len(rows) + 1.9, note, fontsize=7, color="0.4")
        shown = [k for k in KINDS if any(row["kind"] == k for row in rows)]
        handles = [Line2D([], [], color=KINDS[k][1], marker=KINDS[k][2], linestyle="", label=KINDS[k][0]) for k in shown]
        if any(on_gpu(row) for row in rows):
            _, colour, marker = KINDS["network"]
            look = {"color": colour, "marker": marker, "markerfacecolor": "white", "linestyle": ""}
            handles.append(Line2D([], [], label="network, trained on a GPU (its seconds are no CPU's)", **look))
        figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1 - 0.3 / height), ncols=len(handles), fontsize=8.5)
        side = record["parameters"]["size"]
        figure.suptitle(f"Held-out error against size, time and memory, {side}x{side}, {fitted_on(record)}", fontsize=10.5, y=1 - 0.12 / height)
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Who is lowest at each level, how far the best Wiener closed form is from it and below linear, and how bent its field is."""
    rows, lines = record["rows"], []
    linear = next(row for row in rows if row["method"] == "linear")
    for sigma in record["parameters"]["sigmas"]:
        key = f"{sigma:g}"
        ranked = sorted(rows, key=lambda row: row["errors"][key]["of_linear"]["ratio"])
        ours = [row for row in ranked if row["kind"] == "beyond"]
        text = f"sigma {key}: lowest of linear's error on the same images {ranked[0]['method']}"
        text += f" ({ranked[0]['errors'][key]['of_linear']['ratio']:.3f})"
        if ours:
            mine = ours[0]["errors"][key]
            ratio, se = mine["of_linear"]["ratio"], mine["of_linear"]["se"]
            text += (
                f"; {ours[0]['method']} {plus_minus(mine['mse'], mine['se'])}, {abs(1 - ratio):.0%} {'below' if ratio <= 1 else 'above'} linear "
                f"({linear['errors'][key]['mse']:.5f}), place {ranked.index(ours[0]) + 1} of {len(ranked)}"
            )
            level = [
                row["method"] for row in ranked
                if row["kind"] != "beyond"
                and abs(row["errors"][key]["of_linear"]["ratio"] - ratio) < 2 * (row["errors"][key]["of_linear"]["se"] ** 2 + se**2) ** 0.5
            ]  # fmt: skip
            text += f"; within two standard errors of it: {', '.join(level) or 'none'}"
        lines.append(text)
    counts = sorted({next(iter(row["errors"].values()))["n"] for row in rows})
    lines.append(
        f"held-out images: the first {' or '.join(f'{n:,}' for n in counts)} of the same ones, the same noise; methods are ranked by "
        "their error over linear's on the very images that they saw"
    )
    for row in rows:
        if "sides" in row:
            chosen = ", ".join(f"{side} at sigma {s}" for s, side in row["sides"].items())
            lines.append(f"{row['method']}: chosen on training images, {chosen}")
    for row in rows:
        if row["asymmetry"]:
            values = ", ".join(f"{c['mean']:.2f} at sigma {s}" for s, c in row["asymmetry"].items())
            lines.append(f"{row['method']}: antisymmetric over symmetric part of the Jacobian {values}")
    sources = {row["method"]: row["source"] for row in rows if row["kind"] == "network"}
    return lines + overlap_caution(sources, record["data"]["test"]["source"])


make_figure = FigureMaker(measure, draw, findings)
