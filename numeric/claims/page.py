"""The record of the claims in words: a table, one sentence a claim, and the page."""

from __future__ import annotations

from typing import Any

from numeric.claims import rules
from numeric.claims.config import SHARED_RIDGE
from numeric.claims.effects import CONSTRUCTED, MISSING, SKIPPED
from numeric.origins import taken_findings


def number_text(effect: dict[str, Any] | None) -> str:
    """``+1.5 [+1.4, +1.6]``, or why there is no number."""
    if effect is None:
        return "-"
    if "value" not in effect:
        return f"{effect['status']}: {effect.get('reason', '')}"
    return f"{effect['value']:+.3g} [{effect['low']:+.3g}, {effect['high']:+.3g}]"


def ridge_of(setting: dict[str, Any], config: dict[str, Any]) -> str:
    """The ridge of a setting, in words."""
    if "ridge" in setting:
        return str(setting["ridge"]).removeprefix("ridge ")
    if "scaling" in setting:
        return "none"
    return f"{SHARED_RIDGE if setting.get('readout') == 'shared' else config['ridge']:g}, unit scaling"


def _cells_text(s: dict[str, Any]) -> str:
    outcomes = s["outcomes"]
    text = f"{outcomes.get('supports', 0)} of {s['cells']}"
    if outcomes.get("contradicts"):
        text += f", {outcomes['contradicts']} against"
    if outcomes.get(MISSING):
        text += f", {outcomes[MISSING]} missing"
    for status in (CONSTRUCTED, SKIPPED):
        if outcomes.get(status):
            text += f" (+{outcomes[status]} {status})"
    return text


def table(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per claim and setting, for pandas: its verdict, the weakest and the strongest cell with their intervals."""
    out = []
    for claim in record["claims"]:
        for s in claim["settings"]:
            shown = ("readout", "fit", "split", "ridge")
            rest = {k: v for k, v in s["setting"].items() if k not in shown}
            verdict = s["verdict"] if s["p"] is not None else "no evidence"
            if s["holds_at"]:
                verdict += f" (holds at {'; '.join(s['holds_at'])})"
            out.append(
                {
                    "claim": claim["name"],
                    "verdict": claim["verdict"],
                    "readout": s["setting"].get("readout", ""),
                    "fit": s["setting"].get("fit", ""),
                    "split": s["setting"].get("split", "train" if "scaling" in s["setting"] else ""),
                    "ridge": ridge_of(s["setting"], record["parameters"]),
                    "setting": rules.describe(rest),
                    "here": verdict,
                    "supporting cells": _cells_text(s),
                    "weakest": number_text(s["weakest"]),
                    "at": rules.describe(s["weakest"]["cell"]) if s["weakest"] else "",
                    "strongest": number_text(s["strongest"]),
                }
            )
    return out


def _range(claim: dict[str, Any]) -> str:
    numbers = [e for e in claim["effects"] if "value" in e]
    if not numbers:
        return ""
    worst, best = min(numbers, key=lambda e: e["value"]), max(numbers, key=lambda e: e["value"])
    return f"{number_text(worst)} to {number_text(best)} {claim['unit']}"


def _readouts(claim: dict[str, Any]) -> str:
    return "; ".join(f"{name} readout: {part['text']}" for name, part in claim["readouts"].items())


def findings(record: dict[str, Any]) -> list[str]:
    """One computed sentence per claim."""
    lines = []
    for claim in record["claims"]:
        line = f"{claim['name']}: {claim['text']}"
        if claim["effects"]:
            c = claim["counts"]
            parts = [f"{c['supports']} effects support it", f"{c['contradicts']} contradict it", f"{c['undecided']} leave it open"]
            parts += [f"{c[status]} are {status}" for status in (MISSING, CONSTRUCTED, SKIPPED) if c[status]]
            line += f"; {', '.join(parts)}; {_range(claim)}"
            if len(claim["readouts"]) > 1:
                line += f"; {_readouts(claim)}"
        lines.append(line)
    return lines + taken_findings(record, "claims")


def _head(text: str) -> str:
    """A verdict without the settings it was found in, which stand in the claim's own section."""
    return text.partition(" (")[0].partition(":")[0]


def _anchor(name: str) -> str:
    """The link that a page's heading gets where Markdown is shown."""
    return "".join(c for c in name.lower().replace(" ", "-") if c.isalnum() or c == "-")


def _origins(record: dict[str, Any]) -> list[str]:
    """Which claims an earlier run tested, and what made it."""
    lines = [
        f"Tested on {entry['written'][:10]} by `{entry['command']}`, seed {entry['seed']}, code {entry['code'][:12]}, and not again "
        f"here, on the same settings and images: {', '.join(entry['claims'])}."
        for entry in record.get("taken", [])
    ]
    return [text for line in lines for text in (line, "")]


def _summary(record: dict[str, Any]) -> list[str]:
    lines = [
        "What each verdict rests on stands in the claim's own section below.",
        "",
        "| claim | section | verdict | own readout | shared readout | supporting / contradicting / undecided | range, 95% intervals |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in record["claims"]:
        c = claim["counts"]
        readouts = [_head(claim["readouts"].get(name, {"text": "-"})["text"]) for name in ("own", "shared")]
        lines.append(
            f"| [{claim['name']}](#{_anchor(claim['name'])}) | {claim['section']} | {_head(claim['text'])} | {readouts[0]} | {readouts[1]} "
            f"| {c['supports']} / {c['contradicts']} / {c['undecided']} | {_range(claim)} |"
        )
    return lines


def _error_rates(record: dict[str, Any]) -> list[str]:
    rates = record["error_rates"]
    lines = [
        "## How often the rules err",
        "",
        f"Simulated effects with known truths, 10 groups of images, errors of the cells correlated at 0.5, {rates[0]['replicates']} replicates "
        "each; 'errors above' are standard errors of an effect. The share of wrong verdicts is at most 5% by the rules.",
        "",
        "| quantifier | truth | holds | contradicted | undecided | depends on | wrong verdicts | share wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rates:
        shares = " | ".join(f"{share:.1%}" for share in r["verdicts"].values())
        lines.append(
            f"| {r['quantifier']} | {r['scenario']} | {shares} | {', '.join(r['wrong_verdicts'])} | {r['wrong']:.1%} ± {r['se']:.1%} |"
        )
    return lines


def _claim_lines(claim: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"## {claim['name']}", "", f"> {claim['quote']} (Section {claim['section']})", "", f"**{claim['text']}**", ""]
    if len(claim["readouts"]) > 1:
        lines += [f"{_readouts(claim)}.", ""]
    threshold = f", above {claim['threshold']:.3g}" if claim["threshold"] else ""
    lines.append(
        f"Effect: {claim['effect']} ({claim['unit']}{threshold}); quantifier: {claim['quantifier']}; interval: 95%, {claim['interval']}."
    )
    if rows:
        columns = [c for c in rows[0] if c not in ("claim", "verdict")]
        lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(r[c]) for c in columns) + " |" for r in rows]
    lines += [f"\nMissing or against without an interval: {reason}." for reason in _reasons(claim)]
    if claim["not_measured"]:
        lines += ["", "Not measured:", ""] + [f"- {reason}" for reason in claim["not_measured"]]
    if claim["explanation"]:
        lines += ["", "What explains it (computed):", ""] + [f"- {line}" for line in claim["explanation"]]
    return [*lines, ""]


def _reasons(claim: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(e["reason"] for e in claim["effects"] if e["status"] in (MISSING, "against")))


def markdown(record: dict[str, Any]) -> str:
    """The whole record as a page: summary, rules with their error rates, and one section per claim."""
    p, data = record["parameters"], record["data"]
    lines = [
        "# The paper's claims, tested",
        "",
        f"Computed by `{record['command']}`, seed {record['seed']}, fitted on {data['train']['count']:,} images of "
        f"{data['train']['source']}, {data['held-out']['count']:,} held out (sha256 {data['train']['sha256'][:12]}, "
        f"{data['held-out']['sha256'][:12]}; code {record['code'][:12]}); "
        f"sizes {p['sizes'][0]} and {p['sizes'][1]}, sigmas {', '.join(f'{s:g}' for s in p['sigmas'])}, degrees to {p['degree']}, "
        f"{p['folds']} folds for exact errors, {p['groups']} groups of the first {p['n_eval']:,} images for drawn ones, "
        f"{p['repeats']} noise draws of every sampled fit. Nothing on this page is typed in by hand."
        + (" Made from finished measurements only; each claim lists what has not been measured yet." if record["finished_only"] else ""),
        "",
        *_origins(record),
        *_summary(record),
        "",
        "## Rules",
        "",
        record["rules"],
        "",
        *_error_rates(record),
        "",
    ]
    rows = table(record)
    for claim in record["claims"]:
        lines += _claim_lines(claim, [r for r in rows if r["claim"] == claim["name"]])
    return "\n".join(lines)
