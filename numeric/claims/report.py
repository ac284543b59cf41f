"""The paper's claims put to the test: a number, an interval, a setting and a computed verdict for each sentence.

``python -m numeric claims --help`` runs it from the command line; ``notebooks/claims.ipynb`` shows the same.  The sentences
and their effects are in :mod:`numeric.claims.sentences`, the rules of the verdict in :mod:`numeric.claims.rules`, what is measured
in :mod:`numeric.claims.measure`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from numeric.claims import rules
from numeric.claims.measure import ClaimsConfig, Measurements
from numeric.claims.sentences import CLAIMS
from numeric.figures.style import STYLE
from numeric.progress import progress_bar
from numeric.results import atomic_path, provenance, save_figure

COLOURS = {rules.HOLDS: "#1b7837", rules.DEPENDS: "#d95f02", rules.FAILS: "#762a83", rules.UNTESTABLE: "0.55"}


def test_claim(claim: rules.Claim, measurements: Measurements) -> dict[str, Any]:
    """Effects, verdict and explanation of one claim."""
    effects = claim.measure(measurements)
    judged = rules.judge(effects, claim.quantifier, claim.threshold)
    fields = {
        k: getattr(claim, k)
        for k in ("name", "quote", "section", "effect", "quantifier", "unit", "threshold", "interval")
    }
    return {
        **fields,
        **judged,
        "text": rules.verdict_text(judged) if effects else f"{rules.UNTESTABLE}: {claim.untestable}",
        "explanation": claim.explain(measurements, effects) if effects else [],
        "effects": [e.record(claim.threshold) for e in effects],
    }


test_claim.__test__ = False  # type: ignore[attr-defined]  # the name is for readers, not for pytest


def run_claims(config: ClaimsConfig, names: Sequence[str] | None = None, progress: bool = True) -> dict[str, Any]:
    """Test all claims, or those named; measurements already made with these settings and data are taken from the cache.

    Raises:
        ValueError: an unknown claim is named.
    """
    known = {c.name: c for c in CLAIMS}
    unknown = [n for n in names or () if n not in known]
    if unknown:
        raise ValueError(f"unknown claim {unknown[0]!r}: use any of {', '.join(known)}")
    chosen = [known[n] for n in names] if names else list(CLAIMS)
    start = time.perf_counter()
    measurements = Measurements(config, progress)
    if not names:  # one size after the other, so that no family is fitted twice
        measurements.measure_all()
    tested = []
    with progress_bar(len(chosen), "claims", progress, "claim") as bar:
        for claim in chosen:
            bar.set_postfix_str(claim.name)
            tested.append(test_claim(claim, measurements))
            bar.update()
    return {
        "parameters": config.settings,
        "data": {name: images.provenance for name, images in measurements.splits[config.sizes[0]].items()},
        "rules": (rules.__doc__ or "").strip(),
        "seconds": time.perf_counter() - start,
        "claims": tested,
    }


# ----- reading the record --------------------------------------------------------------------------------------------------


def interval_text(effect: dict[str, Any]) -> str:
    return f"{effect['value']:+.3g} [{effect['low']:+.3g}, {effect['high']:+.3g}]"


def ridge_of(setting: dict[str, Any], config: dict[str, Any]) -> str:
    """The ridge of a setting, in words."""
    if "ridge" in setting:
        return str(setting["ridge"]).removeprefix("ridge ")
    return "1e-06, unit scaling" if setting.get("readout") == "shared" else f"{config['ridge']:g}, unit scaling"


def table(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per claim and setting, for pandas: the weakest and the strongest cell with their intervals."""
    out = []
    for claim in record["claims"]:
        for s in claim["settings"]:
            rest = {k: v for k, v in s["setting"].items() if k not in ("readout", "split", "ridge")}
            out.append(
                {
                    "claim": claim["name"],
                    "verdict": claim["verdict"],
                    "readout": s["setting"].get("readout", ""),
                    "split": s["setting"].get("split", "train" if "scaling" in s["setting"] else ""),
                    "ridge": "none" if "scaling" in s["setting"] else ridge_of(s["setting"], record["parameters"]),
                    "setting": rules.describe(rest),
                    "holds": s["holds"],
                    "supporting cells": f"{s['supports']} of {s['cells']}",
                    "weakest": f"{interval_text(s['weakest'])} {claim['unit']}",
                    "at": rules.describe(s["weakest"]["cell"]),
                    "strongest": f"{interval_text(s['strongest'])} {claim['unit']}",
                }
            )
    return out


def findings(record: dict[str, Any]) -> list[str]:
    """One computed sentence per claim."""
    lines = []
    for claim in record["claims"]:
        line = f"{claim['name']}: {claim['text']}"
        if claim["settings"]:
            worst = min((s["weakest"] for s in claim["settings"]), key=lambda e: e["value"])
            best = max((s["strongest"] for s in claim["settings"]), key=lambda e: e["value"])
            line += (
                f"; {claim['counts']['supports']} of {len(claim['effects'])} effects support it, "
                f"{claim['counts']['contradicts']} contradict it; {interval_text(worst)} to {interval_text(best)} {claim['unit']}"
            )
        lines.append(line)
    return lines


def markdown(record: dict[str, Any]) -> str:
    """The whole record as a page: summary, rules, and one section per claim."""
    p, data = record["parameters"], record["data"]
    lines = [
        "# The paper's claims, tested",
        "",
        f"Computed by `{record['command']}`, seed {record['seed']}, fitted on {data['train']['count']:,} images of "
        f"{data['train']['source']}, {data['held-out']['count']:,} held out (sha256 {data['train']['sha256'][:12]}, "
        f"{data['held-out']['sha256'][:12]}); "
        f"sizes {p['sizes'][0]} and {p['sizes'][1]}, sigmas {', '.join(f'{s:g}' for s in p['sigmas'])}, degrees to {p['degree']}, "
        f"{p['folds']} folds for exact errors, {p['groups']} groups of the first {p['n_eval']:,} images for drawn ones. "
        "Nothing on this page is typed in by hand.",
        "",
        "| claim | section | verdict | supporting effects | range of the effect, 95% intervals |",
        "|---|---|---|---|---|",
    ]
    for claim in record["claims"]:
        spread = ""
        if claim["settings"]:
            worst = min((s["weakest"] for s in claim["settings"]), key=lambda e: e["value"])
            best = max((s["strongest"] for s in claim["settings"]), key=lambda e: e["value"])
            spread = f"{interval_text(worst)} to {interval_text(best)} {claim['unit']}"
        lines.append(
            f"| {claim['name']} | {claim['section']} | {claim['text']} | {claim['counts']['supports']} of {len(claim['effects'])} "
            f"| {spread} |"
        )
    lines += ["", "## Rules", "", record["rules"], ""]
    rows = table(record)
    for claim in record["claims"]:
        lines += [
            f"## {claim['name']}",
            "",
            f"> {claim['quote']} (Section {claim['section']})",
            "",
            f"**{claim['text']}**",
            "",
        ]
        threshold = f", above {claim['threshold']:.3g}" if claim["threshold"] else ""
        lines.append(
            f"Effect: {claim['effect']} ({claim['unit']}{threshold}); quantifier: {claim['quantifier']}; interval: 95%, {claim['interval']}."
        )
        mine = [r for r in rows if r["claim"] == claim["name"]]
        if mine:
            columns = [c for c in mine[0] if c not in ("claim", "verdict")]
            lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += [
                "| "
                + " | ".join(
                    ("yes" if v else "no") if isinstance(v, bool) else str(v) for c, v in r.items() if c in columns
                )
                + " |"
                for r in mine
            ]
        if claim["explanation"]:
            lines += ["", "What explains it (computed):", ""] + [f"- {line}" for line in claim["explanation"]]
        lines.append("")
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Any:
    """Forest plot: a row per claim, readout and split; every effect a tick, the weakest and strongest with intervals."""
    rows: list[tuple[str, dict[str, Any] | None, list[dict[str, Any]]]] = []
    for claim in record["claims"]:
        rows.append((claim["name"], claim, []))
        groups: dict[str, list[dict[str, Any]]] = {}
        for e in claim["effects"]:
            # Rows by readout and split; where a claim has neither in variety, by what it does vary.
            keys = [k for k in ("readout", "split", "sampler", "scaling") if k in e["setting"]]
            groups.setdefault(", ".join(str(e["setting"][k]) for k in keys), []).append(e)
        rows += [(name, None, effects) for name, effects in groups.items()]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(11.5, 0.235 * len(rows) + 1.9))
        top = len(rows) - 1
        ticks, current = [], record["claims"][0]
        for number, (name, claim, effects) in enumerate(rows):
            y = top - number
            if claim is not None:
                current = claim
                axis.axhspan(y - 0.5, y + 0.5, color="0.93", zorder=1.5, linewidth=0)
                axis.text(
                    0.005,
                    y,
                    f"{name}: {claim['verdict']}"
                    + (f" {', '.join(claim['depends_on'])}" if claim["depends_on"] else "")
                    + f"   (effect in {claim['unit']}{', quantifier: ' + claim['quantifier']})",
                    transform=axis.get_yaxis_transform(),
                    fontsize=8.2,
                    va="center",
                    weight="bold",
                    color=COLOURS[claim["verdict"]],
                )
                continue
            colour = COLOURS[current["verdict"]]
            ticks.append((y, name))
            values = [e["value"] for e in effects]
            axis.plot(values, np.full(len(values), y), "|", color=colour, alpha=0.45, markersize=6, zorder=2)
            for e, marker in (
                (min(effects, key=lambda e: e["value"]), "o"),
                (max(effects, key=lambda e: e["value"]), "s"),
            ):
                axis.plot([e["low"], e["high"]], [y, y], color=colour, linewidth=1.6, zorder=3)
                face = colour if e["outcome"] == "supports" else "white"
                axis.plot(e["value"], y, marker, color=colour, markersize=4.6, markerfacecolor=face, zorder=4)
            if current["threshold"]:
                axis.plot([current["threshold"]] * 2, [y - 0.45, y + 0.45], color="black", linewidth=1.1, zorder=1)
        axis.set_xscale("symlog", linthresh=1.0, linscale=0.8)
        axis.axvline(0, color="black", linewidth=0.8, zorder=1)
        axis.set_yticks([y for y, _ in ticks], [n for _, n in ticks], fontsize=7.8)
        axis.set_ylim(-0.7, len(rows) - 0.3)
        axis.grid(axis="y", visible=False)
        edges = [v for c in record["claims"] for e in c["effects"] for v in (e["low"], e["high"])]
        if edges:
            axis.set_xlim(1.4 * min(*edges, -1.0), 1.6 * max(*edges, 1.0))
        axis.set_xlabel(
            "effect in the claim's unit (linear between -1 and 1, logarithmic beyond); right of the black line it supports the claim"
        )
        handles = [Line2D([], [], color=c, linewidth=4, label=v) for v, c in COLOURS.items()]
        handles += [
            Line2D([], [], color="0.3", marker="o", linewidth=1.6, label="weakest cell, 95% interval"),
            Line2D([], [], color="0.3", marker="s", linewidth=1.6, label="strongest cell"),
            Line2D([], [], color="0.3", marker="|", linestyle="", label="other cells"),
            Line2D(
                [], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="open: does not support"
            ),
        ]
        fit = record["data"]["train"]
        axis.set_title(
            f"Claims of the paper, tested on {fit['count']:,} training and {record['data']['held-out']['count']:,} held-out images of "
            f"{fit['source']}",
            fontsize=10.5,
            pad=40,
        )
        axis.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=4, fontsize=8)
        figure.tight_layout()
    return figure


def make_figure(
    config: ClaimsConfig,
    output: str | Path,
    names: Sequence[str] | None = None,
    progress: bool = True,
    command: str | None = None,
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Test the claims and write ``output/<name>.{png,pdf,json,md}``; returns the figure, its record and the paths."""
    result = run_claims(config, names, progress)
    command = command or f"papermill notebooks/{config.name}.ipynb out.ipynb"
    record = {**provenance(command, config.seed), **result}
    record["findings"] = findings(record)
    figure = draw(record)
    paths = save_figure(figure, Path(output) / config.name, record)
    page = Path(output) / f"{config.name}.md"
    with atomic_path(page) as temporary:
        temporary.write_text(markdown(record), encoding="utf-8")
    return figure, record, [*paths, page]
