"""Effects: the measured numbers that speak for or against a claim, with intervals and one-sided p-values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import scipy.special

QUANTIFIERS = ("every", "most", "some", "all but one")
MEASURED, MISSING, AGAINST, CONSTRUCTED, SKIPPED = (
    "measured",
    "missing",
    "against",
    "by construction",
    "not measured",
)
STATUSES = (MEASURED, MISSING, AGAINST, CONSTRUCTED, SKIPPED)


@dataclass(frozen=True)
class Effect:
    """One number for a claim; its sign favours the claim when it is above the claim's threshold.

    Attributes:
        setting: what the reader may choose (readout, fit, split, ridge, error); cell: what the sentence speaks about (noise
            level, size, family, degree). Values are strings or numbers.
        value, low, high: the effect and its 95% interval, in the claim's unit; None where there is no number.
        df: degrees of freedom of Student's t behind the interval; None: normal.
        status: ``measured``; ``missing``: the measurement was made and gave no number, a cell without evidence either way,
            so that ``every`` cannot hold; ``against``: known without an interval not to be above the threshold (two
            denoisers that are one, a sampler that ran to infinity); ``by construction``: could not have come out against
            the claim (nested families on the images they were fitted on), shown but no evidence; ``not measured``: left
            out before any number was seen, because it does not fit the machine. The last two take no part in the verdict.
        reason: why it is not simply measured.
    """

    setting: dict[str, Any]
    cell: dict[str, Any]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    df: float | None = None
    status: str = MEASURED
    reason: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}: use one of {', '.join(STATUSES)}")
        numbers = (self.value, self.low, self.high)
        if self.status == MEASURED and not all(x is not None and math.isfinite(x) for x in numbers):
            object.__setattr__(self, "status", MISSING)
            object.__setattr__(self, "reason", self.reason or "the measurement gave no finite number")
        if not all(x is None or math.isfinite(x) for x in numbers):
            for name in ("value", "low", "high"):
                object.__setattr__(self, name, None)

    @property
    def counts(self) -> bool:
        """Whether it takes part in the verdict."""
        return self.status in (MEASURED, MISSING, AGAINST)

    def _t(self, threshold: float) -> float:
        """Distance to the threshold in standard errors, those of the side of the interval that faces it."""
        assert self.value is not None and self.low is not None and self.high is not None
        distance = self.value - threshold
        half = self.value - self.low if distance > 0 else self.high - self.value
        if half <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        quantile = scipy.special.stdtrit(self.df, 0.975) if self.df is not None else scipy.special.ndtri(0.975)
        return distance / (half / float(quantile))

    def p_values(self, threshold: float = 0.0) -> tuple[float, float]:
        """One-sided p-values of "not above the threshold" and of "not below it"."""
        if self.status == AGAINST:
            return 1.0, 0.0
        if self.status != MEASURED:
            return 1.0, 1.0
        t = self._t(threshold)
        if math.isinf(t):
            return (0.0, 1.0) if t > 0 else (1.0, 0.0)
        above = float(scipy.special.stdtr(self.df, -t) if self.df is not None else scipy.special.ndtr(-t))
        return above, 1.0 - above

    def record(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if v is not None and v != ""}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how it is tested.

    Attributes:
        name: short identifier. quote: the sentence (or its part); section: where it stands.
        effect: what the number is; unit: its unit. quantifier: one of :data:`QUANTIFIERS`.
        measure: from measurements to effects. explain: from measurements and effects to sentences.
        threshold: value above which an effect supports the claim. interval: how the interval is made.
        on_networks: whether it speaks of trained networks, and is not testable before there is one.
    """

    name: str
    quote: str
    section: str
    effect: str
    measure: Callable[[Any], list[Effect]]
    quantifier: str = "every"
    unit: str = "%"
    threshold: float = 0.0
    interval: str = "jackknife over groups of images, paired (same images, same noise), with the spread over repeated sampled fits"
    explain: Callable[[Any, list[Effect]], list[str]] = field(default=lambda _m, _e: [])
    on_networks: bool = False

    def __post_init__(self) -> None:
        if self.quantifier not in QUANTIFIERS:
            raise ValueError(f"unknown quantifier {self.quantifier!r}: use one of {', '.join(QUANTIFIERS)}")


def describe(fields: dict[str, Any]) -> str:
    """``own, held-out, sigma 0.5``: a setting or cell in words (names are given to bare numbers)."""
    return ", ".join(str(v) if isinstance(v, str) else f"{k} {v:g}" for k, v in fields.items())


def measured(effects: Sequence[Effect]) -> list[Effect]:
    """Those with a number."""
    return [e for e in effects if e.value is not None]


def extremes(effects: Sequence[Effect]) -> tuple[Effect, Effect]:
    """The smallest and the largest effect that has a number.

    Raises:
        ValueError: none has.
    """
    ordered = sorted(measured(effects), key=lambda e: e.value or 0.0)
    if not ordered:
        raise ValueError("no effect has a number")
    return ordered[0], ordered[-1]


def by_setting(effects: Sequence[Effect], *names: str) -> dict[tuple[Any, ...], list[Effect]]:
    """Effects grouped by some fields of their setting (by all of them, where none is named)."""
    out: dict[tuple[Any, ...], list[Effect]] = {}
    for effect in effects:
        key = tuple(effect.setting.get(n) for n in names) if names else tuple(effect.setting.items())
        out.setdefault(key, []).append(effect)
    return out


def all_pairs(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Neighbouring values, in order."""
    return list(itertools.pairwise(values))
