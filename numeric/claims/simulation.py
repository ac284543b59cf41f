"""How often the rules err: verdicts on simulated effects whose truth is known.

Each scenario fixes the true effect of every cell, in standard errors of its estimate.  Estimates are means over groups with
normal, correlated errors, judged as measured ones are (Student's t from the groups' spread).  What is counted is how often each verdict
comes out; a scenario names the verdicts that are wrong under its truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.special

from numeric.claims.effects import MISSING, Effect
from numeric.claims.rules import CONTRADICTED, DEPENDS, HOLDS, UNDECIDED, judge


@dataclass(frozen=True)
class Scenario:
    """A known truth.

    Attributes:
        name: in words. quantifier: of the claim. truth: one row of true effects per setting, in standard errors.
        wrong: verdicts that are false under this truth. missing: cells of every setting whose measurement fails.
    """

    name: str
    quantifier: str
    truth: Sequence[Sequence[float]]
    wrong: Sequence[str]
    missing: Sequence[int] = field(default=())


TINY = 1e-9
"""A true effect this far above the threshold: the claim is true and as hard to tell from false as can be."""
SCENARIOS = (
    Scenario("20 cells, no effect in any", "some", [[0.0] * 20], (HOLDS, DEPENDS)),
    Scenario("20 cells, one of them barely above", "some", [[TINY] + [-2.0] * 19], (CONTRADICTED, DEPENDS)),
    Scenario("20 cells, one of them 6 errors above", "some", [[6.0] + [0.0] * 19], (CONTRADICTED, DEPENDS)),
    Scenario("20 cells, all 6 errors above but one at the threshold", "every", [[6.0] * 19 + [0.0]], (HOLDS,)),
    Scenario("20 cells, all barely above", "every", [[TINY] * 20], (CONTRADICTED, DEPENDS)),
    Scenario("20 cells, all 6 errors above", "every", [[6.0] * 20], (CONTRADICTED, DEPENDS)),
    Scenario("20 cells, all 6 errors above but one 6 below", "every", [[6.0] * 19 + [-6.0]], (HOLDS,)),
    Scenario("20 cells, all 6 errors above, one measurement failed", "every", [[6.0] * 20], (HOLDS, CONTRADICTED), (7,)),
    Scenario("20 cells, half 6 errors above, half at the threshold", "most", [[6.0] * 10 + [0.0] * 10], (HOLDS,)),
    Scenario("20 cells, 11 barely above, 9 six below", "most", [[TINY] * 11 + [-6.0] * 9], (CONTRADICTED, DEPENDS)),
    Scenario("8 cells, two at the threshold, the rest 6 above", "all but one", [[6.0] * 6 + [0.0] * 2], (HOLDS,)),
    Scenario("8 cells, one below, the rest barely above", "all but one", [[-6.0] + [TINY] * 7], (CONTRADICTED,)),
    Scenario("8 cells, all at the threshold", "all but one", [[0.0] * 8], (HOLDS,)),
    Scenario("4 settings of 8 cells, no effect in any", "every", [[0.0] * 8] * 4, (HOLDS, DEPENDS)),
    Scenario("4 settings of 8 cells, all barely above", "every", [[TINY] * 8] * 4, (CONTRADICTED, DEPENDS)),
    Scenario("4 settings of 8 cells, all barely above", "most", [[TINY] * 8] * 4, (CONTRADICTED, DEPENDS)),
    Scenario("4 settings of 8 cells, 8 above in two, 8 below in two", "every", [[8.0] * 8] * 2 + [[-8.0] * 8] * 2,
             (HOLDS, CONTRADICTED)),
    Scenario("2 settings of 8 cells, half the noise levels 8 above, half 8 below", "every", [[8.0] * 4 + [-8.0] * 4] * 2,
             (HOLDS,)),
)  # fmt: skip


def simulated_effects(
    scenario: Scenario, draws: np.ndarray, quantile: float
) -> list[Effect]:
    """Effects of one replicate from standard normal group errors ``(settings, cells, groups)``."""
    groups = draws.shape[-1]
    out = []
    for number, row in enumerate(scenario.truth):
        for cell, truth in enumerate(row):
            where = {"setting": f"setting {number}"}, {"level": cell // 4 if len(row) <= 8 else cell}
            if cell in scenario.missing:
                out.append(Effect(*where, status=MISSING, reason="simulated failure"))
                continue
            values = draws[number, cell]
            half = quantile * float(values.std(ddof=1)) / groups**0.5
            value = truth / groups**0.5 + float(values.mean())
            out.append(Effect(*where, value, value - half, value + half, groups - 1))
    return out


def rates(scenario: Scenario, replicates: int, seed: int = 0, groups: int = 10, correlation: float = 0.5) -> dict[str, Any]:
    """How often each verdict comes out: ``verdicts`` (shares), ``wrong`` (their sum over the false ones) and its ``se``."""
    rng = np.random.default_rng([seed, *scenario.name.encode()])
    quantile = float(scipy.special.stdtrit(groups - 1, 0.975))
    shape = (len(scenario.truth), len(scenario.truth[0]), groups)
    found: Counter[str] = Counter()
    for _ in range(replicates):
        common = rng.normal(size=groups)  # the same images stand behind all cells
        draws = correlation**0.5 * common + (1 - correlation) ** 0.5 * rng.normal(size=shape)
        found[judge(simulated_effects(scenario, draws, quantile), scenario.quantifier)["verdict"]] += 1
    wrong = sum(found[v] for v in scenario.wrong) / replicates
    return {
        "scenario": scenario.name,
        "quantifier": scenario.quantifier,
        "verdicts": {v: found[v] / replicates for v in (HOLDS, CONTRADICTED, UNDECIDED, DEPENDS)},
        "wrong_verdicts": list(scenario.wrong),
        "wrong": wrong,
        "se": (max(wrong * (1 - wrong), 1 / replicates) / replicates) ** 0.5,
        "replicates": replicates,
    }


def error_rates(replicates: int = 400, seed: int = 0) -> list[dict[str, Any]]:
    """:func:`rates` of every scenario."""
    return [rates(scenario, replicates, seed) for scenario in SCENARIOS]
