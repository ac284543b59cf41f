"""Effects of the sentences on conditioning and on generated images."""

from __future__ import annotations

import math
from typing import Any

from numeric.claims.config import FAMILIES
from numeric.claims.effects import AGAINST, MISSING, SKIPPED, Effect
from numeric.claims.measure import Measurements


def _conditions(m: Measurements, size: int) -> list[dict[str, Any]]:
    return [r for family in FAMILIES for r in m.condition_rows(size, family)]


def hermite_effects(m: Measurements) -> list[Effect]:
    """Log10 of the condition number, monomial minus Hermite."""
    out = []
    for size in m.config.sizes:
        for r in _conditions(m, size):
            if "skipped" in r:
                cell: dict[str, Any] = {k: r[k] for k in ("family", "size", "degree") if k in r}
                out.append(Effect({"readout": r["readout"]}, cell, status=SKIPPED, reason=r["skipped"]))
            elif r["basis"] == "gain":
                cell = {k: r[k] for k in ("family", "size", "sigma", "degree")}
                setting = {"readout": r["readout"], "scaling": f"{r['scaling']} features"}
                out.append(Effect(setting, cell, r["value"], r["low"], r["high"], r.get("df")))
    return out


def condition_text(m: Measurements, effects: list[Effect]) -> list[str]:
    lines = []
    for size in m.config.sizes:
        for readout in ("own", "shared"):
            for scaling in ("unit", "raw"):
                part = [r for r in _conditions(m, size) if r.get("scaling") == scaling and r["readout"] == readout]
                if not part:
                    continue
                text = ", ".join(
                    f"{basis} 1e{min(r['value'] for r in part if r['basis'] == basis):.1f} to "
                    f"1e{max(r['value'] for r in part if r['basis'] == basis):.1f}"
                    for basis in ("monomial", "hermite")
                )
                lines.append(f"{size}x{size}, {readout} readout, {scaling} features: condition number {text}")
    return lines


def design_effects(m: Measurements) -> list[Effect]:
    """Change of the log10 condition number from the smaller to the larger size, signed so that a fall is positive."""
    out = []
    names = ("readout", "family", "sigma", "degree", "scaling", "basis")
    small = {tuple(r[k] for k in names): r for r in _conditions(m, m.small) if "basis" in r}
    for r in _conditions(m, m.large):
        if "skipped" in r:
            cell: dict[str, Any] = {k: r[k] for k in ("family", "degree") if k in r}
            out.append(Effect({"readout": r["readout"]}, cell, status=SKIPPED, reason=f"{m.large}x{m.large}: {r['skipped']}"))
            continue
        other = small.get(tuple(r[k] for k in names))
        if r["basis"] == "gain" or other is None:
            continue
        value = other["value"] - r["value"]
        below = math.hypot(other["value"] - other["low"], r["high"] - r["value"])
        above = math.hypot(other["high"] - other["value"], r["value"] - r["low"])
        setting = {"readout": r["readout"], "basis": r["basis"], "scaling": f"{r['scaling']} features"}
        cell = {k: r[k] for k in ("family", "sigma", "degree")}
        out.append(Effect(setting, cell, value, value - below, value + above, r.get("df")))
    return out


# ----- generated images ------------------------------------------------------------------------------------------------------


def _clip(clip: bool) -> dict[str, Any]:
    return {"readout": "own", "sampler": "denoised images clipped" if clip else "not clipped"}


def _samples(m: Measurements, clip: bool, metric: str) -> dict[tuple[str, int], dict[str, Any]]:
    rows = [r for r in m.rows("generated", m.small) if "skipped" not in r]
    return {(r["family"], r["degree"]): r for r in rows if r["clip"] == clip and r["metric"] == metric}


def _left_out(m: Measurements) -> list[Effect]:
    skipped = [r["skipped"] for r in m.rows("generated", m.small) if "skipped" in r]
    return [Effect({"readout": "own"}, {}, status=SKIPPED, reason=reason) for reason in skipped]


def sampling_effects(m: Measurements) -> list[Effect]:
    """Fall of the energy distance from independent degree 1 to band-tied at the top degree; a sampler that diverges is a failure."""
    out = _left_out(m)
    if out:
        return out
    for clip in (True, False):
        gone, top = _samples(m, clip, "diverged"), ("band", m.config.degree)
        where = _clip(clip), {"degree": m.config.degree}
        found = _samples(m, clip, "energy fall").get(top)
        if found is not None:
            out.append(Effect(*where, found["value"], found["low"], found["high"]))
        elif top in gone and ("independent", 1) not in gone:
            out.append(Effect(*where, status=AGAINST, reason=f"diverged: {gone[top]['message']}"))
        else:
            out.append(Effect(*where, status=MISSING, reason="the sampler of independent degree 1 diverged too"))
    return out


def sampling_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    lines = []
    for clip in (True, False):
        part, gone = _samples(m, clip, "energy"), _samples(m, clip, "diverged")
        text = ", ".join(f"{f} degree {d} {r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for (f, d), r in part.items())
        lost = "; ran to infinity: " + ", ".join(f"{f} degree {d}" for f, d in gone) if gone else ""
        lines.append(f"{'clipped' if clip else 'not clipped'}: energy distance to held-out images {text or 'none'}{lost}")
    return lines


def quality_low_effects(m: Measurements) -> list[Effect]:
    """AUC of a classifier that tells samples from held-out images; missing where the sampler made no image."""
    out = _left_out(m)
    if out:
        return out
    for clip in (True, False):
        scores, gone = _samples(m, clip, "auc"), _samples(m, clip, "diverged")
        for family in FAMILIES:
            for degree in (1, m.config.degree):
                where = _clip(clip), {"family": family, "degree": degree}
                row = scores.get((family, degree))
                if row is not None:
                    out.append(Effect(*where, row["value"], row["low"], row["high"]))
                else:
                    out.append(Effect(*where, status=MISSING, reason=f"diverged: {gone[family, degree]['message']}"))
    return out
