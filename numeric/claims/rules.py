"""How a sentence of the paper becomes a verdict: effects with intervals, a quantifier, and written rules.

1. A *setting* is what the reader may choose: readout, fit, split, ridge, how the error is measured. A *cell* is what the
   sentence speaks about: noise level, image size, family, degree. Each cell has an effect with a 95% interval; it gives one
   p-value against "not above the threshold" and one against "not below it".
2. Within a setting the claim's quantifier says how many of its m cells must lie above the threshold: ``every`` all, ``most``
   more than half, ``some`` one, ``all but one`` exactly m - 1. That *at least k of m* do is shown by the partial conjunction
   p-value (m - k + 1) p_(k), with p_(k) the k-th smallest (Benjamini and Heller, 2008), which is valid however the cells
   depend on one another: for ``some`` it is Bonferroni's, for ``every`` the largest p-value. The claim *holds* in the setting
   if that lies below 2.5%, is *contradicted* if the same test from the other side (enough cells lie below the threshold
   for it to be false) does, and is *undecided* otherwise.
3. The claim **holds** if it holds in every setting and is **contradicted** if it is contradicted in every one. It
   **depends on** the factors that separate settings where it holds from settings where it is contradicted, both found
   with Holm's correction for the number of settings at 1.25%; or on a noise level, size, family or degree, if at
   one level of it the claim holds in every setting and at another it is contradicted in every one, corrected for all such levels
   at 1.25% (for ``every`` and ``most``). Otherwise it is **undecided**.
4. A cell whose measurement gave no number (missing) is no evidence either way and stays among the m. A cell known to be no gain
   (two denoisers that are the same, a sampler that ran to infinity) counts against the claim. Cells that could not have come out
   against the claim, and cells left out beforehand for want of memory or time, are shown and take no part. No cell is dropped
   for what was measured in it.
5. Without cells that take part the claim is **not testable**.

A wrong verdict then has a probability of at most 5% for each claim, whatever the truth; there is no correction over claims.
Single cells are called supporting or contradicting after Holm's correction within their setting.  Words in brackets in a
quotation stand for formulas that the paper's text has lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numeric.claims.effects import AGAINST, CONSTRUCTED, MISSING, SKIPPED, Effect, by_setting, describe

HOLDS, CONTRADICTED, UNDECIDED, DEPENDS, UNTESTABLE = (
    "holds",
    "contradicted",
    "undecided",
    "depends on",
    "not testable",
)
VERDICTS = (HOLDS, CONTRADICTED, UNDECIDED, DEPENDS, UNTESTABLE)
LEVEL, DEPENDENCE_LEVEL = 0.025, 0.0125


def at_least(p_values: Sequence[float], k: int) -> float:
    """p-value for "at least k of these m null hypotheses are false": ``(m - k + 1) p_(k)``, valid under any dependence.

    0 for k <= 0, 1 for k > m.
    """
    m = len(p_values)
    if k <= 0:
        return 0.0
    if k > m:
        return 1.0
    return min(1.0, (m - k + 1) * sorted(p_values)[k - 1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given."""
    out, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, place in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[place]))
        out[place] = largest
    return out


def quantified(pairs: Sequence[tuple[float, float]], quantifier: str) -> tuple[float, float]:
    """p-values for the claim and for its contrary, from ``Effect.p_values`` of the cells of a setting."""
    above, below, m = [p for p, _ in pairs], [p for _, p in pairs], len(pairs)
    if quantifier == "every":
        return at_least(above, m), at_least(below, 1)
    if quantifier == "some":
        return at_least(above, 1), at_least(below, m)
    if quantifier == "all but one":
        false = min(at_least(below, 2), at_least(above, m))  # two fall short, or none does
        return max(at_least(above, m - 1), at_least(below, 1)), min(1.0, 2 * false)
    return at_least(above, m // 2 + 1), at_least(below, m - m // 2)


def outcomes(effects: Sequence[Effect], threshold: float = 0.0) -> list[str]:
    """``supports``, ``contradicts`` or ``undecided`` for the cells of one setting, by Holm; the status of those without.

    The effects of one setting, in order.
    """
    used = [e for e in effects if e.counts]
    pairs = [e.p_values(threshold) for e in used]
    adjusted = iter(zip(holm([p for p, _ in pairs]), holm([p for _, p in pairs])))
    out = []
    for effect in effects:
        if not effect.counts:
            out.append(effect.status)
            continue
        above, below = next(adjusted)
        if effect.status == MISSING:
            out.append(MISSING)
        elif effect.status == AGAINST:
            out.append("contradicts")
        else:
            out.append("supports" if above <= LEVEL else "contradicts" if below <= LEVEL else "undecided")
    return out


def _verdict(p: tuple[float, float], level: float = LEVEL) -> str:
    return HOLDS if p[0] <= level else CONTRADICTED if p[1] <= level else UNDECIDED


def _separating_factors(held: list[dict[str, Any]], not_held: list[dict[str, Any]]) -> list[str]:
    """Factors along which two settings that differ in nothing else differ in outcome; else those that differ at all."""
    pairs = [[k for k in {**a, **b} if a.get(k) != b.get(k)] for a in held for b in not_held]
    single = sorted({d[0] for d in pairs if len(d) == 1})
    if single:
        return single
    fewest = min(len(d) for d in pairs)
    return sorted({k for d in pairs if len(d) == fewest for k in d})


def _level_name(name: str, level: Any) -> str:
    return level if isinstance(level, str) else f"{name} {level:g}"


def _by_level(effects: Sequence[Effect], quantifier: str, threshold: float) -> dict[str, dict[Any, str]]:
    """For each cell factor with several levels: level -> verdict that is the same in every setting, else undecided."""
    names = sorted({k for e in effects for k in e.cell})
    levels = {name: list(dict.fromkeys(e.cell[name] for e in effects if name in e.cell)) for name in names}
    levels = {name: values for name, values in levels.items() if len(values) > 1}
    tests = sum(map(len, levels.values()))
    out: dict[str, dict[Any, str]] = {}
    for name, values in levels.items():
        out[name] = {}
        for value in values:
            groups = by_setting([e for e in effects if e.cell.get(name) == value])
            ps = [quantified([e.p_values(threshold) for e in group], quantifier) for group in groups.values()]
            both = max(p for p, _ in ps), max(p for _, p in ps)
            out[name][value] = _verdict(both, DEPENDENCE_LEVEL / tests)
    return out


def _split_levels(effects: Sequence[Effect], quantifier: str, threshold: float) -> tuple[list[str], list[str]]:
    """Cell factors of which one level holds and another is contradicted, and where it holds, in words."""
    factors, where = [], []
    for name, levels in _by_level(effects, quantifier, threshold).items():
        good = [level for level, verdict in levels.items() if verdict == HOLDS]
        if good and CONTRADICTED in levels.values():
            factors.append(name)
            where.append("/".join(_level_name(name, level) for level in good))
    return factors, where


def judge(effects: Sequence[Effect], quantifier: str = "every", threshold: float = 0.0) -> dict[str, Any]:
    """Apply the module's rules.

    Returns: ``verdict`` (one of :data:`VERDICTS`), ``depends_on`` (factors), ``where`` it holds and ``where_not`` (where some of
    both are to be told), ``counts`` of outcomes and
    ``settings``: each with its own verdict, p-values, weakest and strongest cell.
    """
    counts = dict.fromkeys(("supports", "undecided", "contradicts", MISSING, CONSTRUCTED, SKIPPED), 0)
    settings: list[dict[str, Any]] = []
    for group in by_setting(effects).values():
        found = outcomes(group, threshold)
        for outcome in found:
            counts[outcome] += 1
        used = [e for e in group if e.counts]
        numbers = sorted((e for e in (used or group) if e.value is not None), key=lambda e: e.value or 0.0)
        p = quantified([e.p_values(threshold) for e in used], quantifier) if used else None
        verdict = _verdict(p) if p else UNTESTABLE
        inside = quantifier in ("every", "most") and verdict == CONTRADICTED
        settings.append(
            {
                "setting": group[0].setting,
                "verdict": verdict,
                "p": list(p) if p else None,
                "outcomes": {o: found.count(o) for o in counts if found.count(o)},
                "cells": len(used),
                "holds_at": _split_levels(used, quantifier, threshold)[1] if inside else [],
                "weakest": numbers[0].record() if numbers else None,
                "strongest": numbers[-1].record() if numbers else None,
                "reasons": sorted({e.reason for e in group if e.reason}),
            }
        )
    out = {"verdict": UNTESTABLE, "depends_on": [], "where": [], "where_not": [], "counts": counts, "settings": settings}
    tested = [s for s in settings if s["p"] is not None]
    if not tested:
        return out
    if all(s["verdict"] == HOLDS for s in tested):
        return {**out, "verdict": HOLDS}
    held_p, false_p = holm([s["p"][0] for s in tested]), holm([s["p"][1] for s in tested])
    held = [s["setting"] for s, p in zip(tested, held_p) if p <= DEPENDENCE_LEVEL]
    contradicted = [s["setting"] for s, p in zip(tested, false_p) if p <= DEPENDENCE_LEVEL]
    if held and contradicted:
        factors, places = _separating_factors(held, contradicted), ([describe(s) for s in part] for part in (held, contradicted))
        return {**out, "verdict": DEPENDS, "depends_on": factors, **dict(zip(("where", "where_not"), places))}
    if quantifier in ("every", "most"):
        factors, where = _split_levels([e for e in effects if e.counts], quantifier, threshold)
        if factors:
            return {**out, "verdict": DEPENDS, "depends_on": factors, "where": where}
    if all(s["verdict"] == CONTRADICTED for s in tested):
        return {**out, "verdict": CONTRADICTED}
    where, where_not = ([describe(s["setting"]) for s in tested if s["verdict"] == v] for v in (HOLDS, CONTRADICTED))
    return {**out, "verdict": UNDECIDED, "where": where, "where_not": where_not}


def by_readout(effects: Sequence[Effect], quantifier: str = "every", threshold: float = 0.0) -> dict[str, dict[str, Any]]:
    """The verdict on each readout alone (empty where the effects name none)."""
    readouts = dict.fromkeys(e.setting["readout"] for e in effects if "readout" in e.setting)
    keep = ("verdict", "depends_on", "where", "where_not", "counts")
    out = {}
    for readout in readouts:
        judged = judge([e for e in effects if e.setting.get("readout") == readout], quantifier, threshold)
        out[readout] = {k: judged[k] for k in keep}
    return out


def verdict_text(judged: dict[str, Any]) -> str:
    """``depends on split, readout (holds: ...)``."""
    parts = []
    for what, places in (("holds", judged["where"]), ("contradicted", judged["where_not"])):
        if places:
            shown = "; ".join(places[:3]) + (f"; and {len(places) - 3} more" if len(places) > 3 else "")
            parts.append(f"{what}: {shown}")
    text = str(judged["verdict"])
    if judged["verdict"] == DEPENDS:
        text += f" {', '.join(judged['depends_on'])}"
    return f"{text} ({'; '.join(parts)})" if parts else text


