"""The claims as a forest plot: one panel for each unit, a row per claim, readout, fit and split."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from numeric.claims import rules
from numeric.figures.style import STYLE
from numeric.origins import taken_note

COLOURS = {
    rules.HOLDS: "#1b7837",
    rules.CONTRADICTED: "#b2182b",
    rules.UNDECIDED: "#4575b4",
    rules.DEPENDS: "#d95f02",
    rules.UNTESTABLE: "0.55",
}
UNITS = {"%": "effect (%)", "points": "effect (percentage points)", "decades": "effect (decades of the condition number)", "AUC": "AUC"}
ROW = 0.2
"""Inches a row."""


def _rows(claim: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Effects with a number by readout, fit and split; where a claim has neither in variety, by what it does vary."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for e in claim["effects"]:
        if "value" in e:
            keys = [k for k in ("readout", "fit", "split", "sampler", "scaling") if k in e["setting"]]
            groups.setdefault(", ".join(str(e["setting"][k]) for k in keys), []).append(e)
    return list(groups.items())


def _draw_effects(axis: Any, y: float, effects: list[dict[str, Any]], colour: str, threshold: float) -> None:
    values = [e["value"] for e in effects]
    axis.plot(values, np.full(len(values), y), "|", color=colour, alpha=0.45, markersize=6, zorder=2)
    for e, marker in ((min(effects, key=lambda e: e["value"]), "o"), (max(effects, key=lambda e: e["value"]), "s")):
        axis.plot([e["low"], e["high"]], [y, y], color=colour, linewidth=1.6, zorder=3)
        face = colour if e["outcome"] == "supports" else "white"
        axis.plot(e["value"], y, marker, color=colour, markersize=4.6, markerfacecolor=face, zorder=4)
    if threshold:
        axis.plot([threshold] * 2, [y - 0.45, y + 0.45], color="black", linewidth=1.1, zorder=1)


def _draw_unit(axis: Any, unit: str, claims: list[dict[str, Any]]) -> None:
    parts = [(claim, _rows(claim)) for claim in claims]
    total = sum(1 + len(rows) for _, rows in parts)
    y, ticks = total - 1, []
    for claim, rows in parts:
        colour = COLOURS[claim["verdict"]]
        axis.axhspan(y - 0.5, y + 0.5, color="0.93", zorder=1.5, linewidth=0)
        verdict = " ".join([claim["verdict"], ", ".join(claim["depends_on"])]).strip()
        axis.text(
            0.005, y, f"{claim['name']}: {verdict}   (quantifier: {claim['quantifier']})",
            transform=axis.get_yaxis_transform(), fontsize=8.2, va="center", weight="bold", color=colour,
        )  # fmt: skip
        y -= 1
        for name, effects in rows:
            ticks.append((y, name))
            _draw_effects(axis, y, effects, colour, claim["threshold"])
            y -= 1
    edges = [v for claim in claims for e in claim["effects"] if "value" in e for v in (e["low"], e["high"])]
    if unit != "AUC":  # has no zero that means anything
        axis.set_xscale("symlog", linthresh=1.0, linscale=0.8)
        axis.axvline(0, color="black", linewidth=0.8, zorder=1)
        if edges:
            axis.set_xlim(1.4 * min(*edges, -1.0), 1.6 * max(*edges, 1.0))
            # A label at the very end would be cut at the edge of the figure.
            low, high = axis.get_xlim()
            axis.set_xticks([t for t in axis.get_xticks() if low / 1.2 < t < high / 1.2])
    axis.set_yticks([y for y, _ in ticks], [n for _, n in ticks], fontsize=7.4)
    axis.set_ylim(-0.7, total - 0.3)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(UNITS.get(unit, f"effect ({unit})"))


def draw(record: dict[str, Any]) -> Any:
    """Forest plot: every effect a tick, the weakest and strongest of a row with intervals; units are never mixed on an axis."""
    units = list(dict.fromkeys(claim["unit"] for claim in record["claims"]))
    groups = [[claim for claim in record["claims"] if claim["unit"] == unit] for unit in units]
    heights = [sum(1 + len(_rows(claim)) for claim in group) + 3 for group in groups]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(units), 1, figsize=(11.5, ROW * sum(heights) + 1.6), squeeze=False, height_ratios=heights,
            layout="constrained",
        )  # fmt: skip
        for axis, unit, group in zip(axes[:, 0], units, groups):
            _draw_unit(axis, unit, group)
        handles = [Line2D([], [], color=c, linewidth=4, label=v) for v, c in COLOURS.items()]
        handles += [
            Line2D([], [], color="0.3", marker="o", linewidth=1.6, label="weakest cell, 95% interval"),
            Line2D([], [], color="0.3", marker="s", linewidth=1.6, label="strongest cell"),
            Line2D([], [], color="0.3", marker="|", linestyle="", label="other cells"),
            Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="open: does not support, or could not come out otherwise"),
        ]
        fit = record["data"]["train"]
        figure.suptitle(
            f"Claims of the paper, tested on {fit['count']:,} training and {record['data']['held-out']['count']:,} held-out images of "
            f"{fit['source']}; right of the black line supports the claim (short lines: its threshold)"
            + "".join(f"\n{note}" for note in taken_note(record, "claims")),
            fontsize=10,
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure
