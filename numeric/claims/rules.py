"""How a sentence of the paper becomes a verdict: effects with intervals, a quantifier, and written rules.

The rules, applied by :func:`judge` to the effects of one claim (an effect is a number whose sign favours the claim when it
is above the claim's threshold):

1. An effect *supports* the claim if its 95% interval lies above the threshold, *contradicts* it if the interval lies below,
   and is *undecided* otherwise.
2. A *setting* is what the reader may choose: readout, split, ridge, how the fit is made, how the error is measured. A *cell*
   is what the sentence speaks about: noise level, image size, family, degree. Within a setting the claim's quantifier runs
   over the cells: ``every`` cell supports; ``most``: more than half do; ``some``: one does; ``all but one``: exactly one
   does not.
3. The claim **holds** if it holds in every setting. It **depends on** the factors along which settings that differ in
   nothing else get different outcomes, if it holds in some settings only. If it holds in no setting, but at all cells of some
   noise level, size, family or degree in all settings, it **depends on** that. Otherwise it **fails**.
4. Without effects it is **not testable here**.

Intervals are of single effects, not corrected for their number.  Words in brackets in a quotation stand for formulas that
the paper's text has lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

HOLDS, FAILS, DEPENDS, UNTESTABLE = "holds", "fails", "depends on", "not testable here"
QUANTIFIERS = ("every", "most", "some", "all but one")


@dataclass(frozen=True)
class Effect:
    """One measured number for a claim.

    Attributes:
        setting, cell: see the rules above; values are strings or numbers.
        value, low, high: the effect and its 95% interval, in the claim's unit.
    """

    setting: dict[str, Any]
    cell: dict[str, Any]
    value: float
    low: float
    high: float

    def outcome(self, threshold: float = 0.0) -> str:
        """``supports``, ``contradicts`` or ``undecided``."""
        if self.low > threshold:
            return "supports"
        return "contradicts" if self.high < threshold else "undecided"

    def record(self, threshold: float = 0.0) -> dict[str, Any]:
        return {**vars(self), "outcome": self.outcome(threshold)}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how it is tested.

    Attributes:
        name: short identifier. quote: the sentence (or its part); section: where it stands.
        effect: what the number is; unit: its unit. quantifier: one of :data:`QUANTIFIERS`.
        measure: from measurements to effects. explain: from measurements and effects to sentences.
        threshold: value above which an effect supports the claim. interval: how the interval is made.
        untestable: why there may be no effects.
    """

    name: str
    quote: str
    section: str
    effect: str
    measure: Callable[[Any], list[Effect]]
    quantifier: str = "every"
    unit: str = "%"
    threshold: float = 0.0
    interval: str = "jackknife over groups of images, paired (same images, same noise)"
    explain: Callable[[Any, list[Effect]], list[str]] = field(default=lambda _m, _e: [])
    untestable: str = "no measurement"

    def __post_init__(self) -> None:
        if self.quantifier not in QUANTIFIERS:
            raise ValueError(f"unknown quantifier {self.quantifier!r}: use one of {', '.join(QUANTIFIERS)}")


def describe(fields: dict[str, Any]) -> str:
    """``own, held-out, sigma 0.5``: a setting or cell in words (names are given to bare numbers)."""
    return ", ".join(str(v) if isinstance(v, str) else f"{k} {v:g}" for k, v in fields.items())


def _quantified(outcomes: Sequence[str], quantifier: str) -> bool:
    yes = sum(o == "supports" for o in outcomes)
    if quantifier == "every":
        return yes == len(outcomes)
    if quantifier == "some":
        return yes > 0
    if quantifier == "all but one":
        return yes == len(outcomes) - 1
    return 2 * yes > len(outcomes)


def _separating_factors(held: list[dict[str, Any]], not_held: list[dict[str, Any]]) -> list[str]:
    """Factors along which two settings that differ in nothing else differ in outcome; else those that differ at all."""
    pairs = [[k for k in {**a, **b} if a.get(k) != b.get(k)] for a in held for b in not_held]
    single = sorted({d[0] for d in pairs if len(d) == 1})
    if single:
        return single
    fewest = min(len(d) for d in pairs)
    return sorted({k for d in pairs if len(d) == fewest for k in d})


def _shares(effects: Sequence[Effect], name: str, threshold: float) -> dict[Any, float]:
    """Share of supporting effects at each level of a factor."""
    groups: dict[Any, list[bool]] = {}
    for e in effects:
        level = {**e.setting, **e.cell}.get(name)
        groups.setdefault(level, []).append(e.outcome(threshold) == "supports")
    return {level: sum(group) / len(group) for level, group in groups.items()}


def judge(effects: Sequence[Effect], quantifier: str = "every", threshold: float = 0.0) -> dict[str, Any]:
    """Apply the module's rules.

    Returns: ``verdict`` (one of :data:`HOLDS`, :data:`FAILS`, :data:`DEPENDS`, :data:`UNTESTABLE`), ``depends_on`` (factors),
    ``counts`` of outcomes and ``settings``: per setting whether the claim holds, with its weakest cell.
    """
    counts = {o: sum(e.outcome(threshold) == o for e in effects) for o in ("supports", "undecided", "contradicts")}
    if not effects:
        return {"verdict": UNTESTABLE, "depends_on": [], "where": [], "counts": counts, "settings": []}
    settings: list[dict[str, Any]] = []
    grouped: dict[tuple[tuple[str, Any], ...], list[Effect]] = {}
    for effect in effects:
        grouped.setdefault(tuple(effect.setting.items()), []).append(effect)
    for key, group in grouped.items():
        outcomes = [e.outcome(threshold) for e in group]
        ordered = sorted(group, key=lambda e: e.value)
        settings.append(
            {
                "setting": dict(key),
                "holds": _quantified(outcomes, quantifier),
                "supports": sum(o == "supports" for o in outcomes),
                "contradicts": sum(o == "contradicts" for o in outcomes),
                "cells": len(group),
                "weakest": ordered[0].record(threshold),
                "strongest": ordered[-1].record(threshold),
            }
        )
    held = [s["setting"] for s in settings if s["holds"]]
    not_held = [s["setting"] for s in settings if not s["holds"]]
    verdict, factors, where = FAILS, [], []
    if not not_held:
        verdict = HOLDS
    elif held:
        verdict, factors = DEPENDS, _separating_factors(held, not_held)
        where = [describe(s) for s in held]
    else:
        names = sorted({k for e in effects for k in e.cell})
        for name in names:
            levels = list(dict.fromkeys(e.cell[name] for e in effects if name in e.cell))
            good = [
                level
                for level in levels
                if all(e.outcome(threshold) == "supports" for e in effects if e.cell.get(name) == level)
            ]
            if good and len(good) < len(levels):
                verdict = DEPENDS
                factors.append(name)
                where.append("/".join(level if isinstance(level, str) else f"{name} {level:g}" for level in good))
        if not factors and 2 * counts["supports"] > len(effects):
            spread = {name: _shares(effects, name, threshold) for name in {**effects[0].setting, **effects[0].cell}}
            gaps = {name: max(s.values()) - min(s.values()) for name, s in spread.items()}
            widest = max(gaps.values())
            if widest >= 0.5:
                verdict = DEPENDS
                factors = [name for name, gap in gaps.items() if gap == widest]
                for name in factors:
                    shares = sorted(spread[name].items(), key=lambda item: -item[1])
                    where.append(", ".join(f"{describe({name: level})} in {share:.0%}" for level, share in shares))
    return {"verdict": verdict, "depends_on": factors, "where": where, "counts": counts, "settings": settings}


def verdict_text(judged: dict[str, Any]) -> str:
    """``depends on split, readout (holds: ...)``."""
    if judged["verdict"] != DEPENDS:
        return str(judged["verdict"])
    where = judged["where"]
    shown = "; ".join(where[:3]) + (f"; and {len(where) - 3} more" if len(where) > 3 else "")
    return f"depends on {', '.join(judged['depends_on'])} (holds: {shown})"


def extremes(effects: Sequence[Effect]) -> tuple[Effect, Effect]:
    """The smallest and the largest effect."""
    ordered = sorted(effects, key=lambda e: e.value)
    return ordered[0], ordered[-1]


def by_setting(effects: Sequence[Effect], *names: str) -> dict[tuple[Any, ...], list[Effect]]:
    """Effects grouped by some fields of their setting."""
    out: dict[tuple[Any, ...], list[Effect]] = {}
    for effect in effects:
        out.setdefault(tuple(effect.setting.get(n) for n in names), []).append(effect)
    return out


def all_pairs(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Neighbouring values, in order."""
    return list(itertools.pairwise(values))
