"""The paper's claims put to the test: a number, an interval, a setting and a computed verdict for each sentence.

``python -m numeric claims --help`` runs it from the command line; ``notebooks/claims.ipynb`` shows the same.  The sentences
are in :mod:`numeric.claims.sentences`, the rules of the verdict in :mod:`numeric.claims.rules`, how often they err in
:mod:`numeric.claims.simulation`, what is measured in :mod:`numeric.claims.measure`, how it is shown in :mod:`numeric.claims.page` and
:mod:`numeric.claims.forest`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numeric.claims import rules
from numeric.claims.config import ClaimsConfig, command
from numeric.claims.earlier import EarlierClaims
from numeric.claims.effects import SKIPPED, Claim, by_setting
from numeric.claims.forest import draw
from numeric.claims.measure import NOT_YET, Measurements
from numeric.claims.page import findings, markdown
from numeric.claims.sentences import CLAIMS
from numeric.claims.simulation import error_rates
from numeric.data import load_mnist
from numeric.fingerprint import code_hash
from numeric.progress import progress_bar
from numeric.results import atomic_path, keep_larger, provenance, save_figure

RULES = (rules.__doc__ or "").strip()
SIMULATIONS = 300
"""Replicates of each scenario of :mod:`numeric.claims.simulation` whose error rates the page shows."""


def judged_claim(claim: Claim, measurements: Measurements) -> dict[str, Any]:
    """Effects, verdict and explanation of one claim."""
    effects = claim.measure(measurements)
    judged = rules.judge(effects, claim.quantifier, claim.threshold)
    tested = judged["verdict"] != rules.UNTESTABLE
    records = []
    for group in by_setting(effects).values():
        records += [
            {**e.record(), "outcome": o} for e, o in zip(group, rules.outcomes(group, claim.threshold))
        ]
    fields = {
        k: getattr(claim, k)
        for k in ("name", "quote", "section", "effect", "quantifier", "unit", "threshold", "interval")
    }
    readouts = rules.by_readout(effects, claim.quantifier, claim.threshold)
    untestable = measurements.untrained_text() if claim.on_networks else "not testable here: no measurement"
    text = rules.verdict_text(judged) if tested or effects else untestable
    if any(NOT_YET in e.reason for e in effects):
        text = f"so far: {text}"
    return {
        **fields,
        **judged,
        "text": text,
        "readouts": {name: {**part, "text": rules.verdict_text(part)} for name, part in readouts.items()},
        "explanation": claim.explain(measurements, effects) if tested else [],
        "not_measured": list(dict.fromkeys(e.reason for e in effects if e.status == SKIPPED)),
        "effects": records,
    }


def run_claims(
    config: ClaimsConfig,
    names: Sequence[str] | None = None,
    progress: bool = True,
    finished_only: bool = False,
    claims_from: str | Path | None = None,
) -> dict[str, Any]:
    """Test all claims, or those named; measurements already made by the same settings, data and code are taken from the cache.

    Args:
        finished_only: measure nothing more; what is not in the cache is listed as not measured.
        claims_from: results file of an earlier run, whose claims stand for those that are not named
            (:mod:`numeric.claims.earlier`).

    Raises:
        ValueError: an unknown claim or network is named; or the claims of the earlier run cannot stand beside these.
        FileNotFoundError, FileError: there is no such earlier run, or its file is damaged.
    """
    known = {c.name: c for c in CLAIMS}
    unknown = [n for n in names or () if n not in known]
    if unknown:
        raise ValueError(f"unknown claim {unknown[0]!r}: use any of {', '.join(known)}")
    chosen = [known[n] for n in names] if names else list(CLAIMS)
    rest = [c for c in CLAIMS if c not in chosen]
    start = time.perf_counter()
    earlier = EarlierClaims(claims_from, rest, config) if claims_from is not None else None
    measurements = Measurements(config, progress, finished_only)
    data = {name: images.provenance for name, images in measurements.splits[config.sizes[0]].items()}
    networks = measurements.network_records()
    if earlier is not None:
        earlier.agree(data, networks, RULES)
    if not names:  # one size after the other, so that no family is fitted twice
        measurements.measure_all()
    tested = []
    with progress_bar(len(chosen), "claims", progress, "claim") as bar:
        for claim in chosen:
            bar.set_postfix_str(claim.name)
            tested.append(judged_claim(claim, measurements))
            bar.update()
    order = [c.name for c in CLAIMS]
    return {
        "parameters": config.settings,
        "data": data,
        "code": code_hash(__name__),
        "networks": networks,
        "finished_only": finished_only,
        "rules": RULES,
        "error_rates": error_rates(SIMULATIONS, config.seed),
        "seconds": time.perf_counter() - start,
        "claims": sorted(tested + earlier.claims, key=lambda c: order.index(c["name"])) if earlier is not None else tested,
        "taken": earlier.taken if earlier is not None else [],
    }


def make_figure(
    config: ClaimsConfig,
    output: str | Path,
    names: Sequence[str] | None = None,
    progress: bool = True,
    finished_only: bool = False,
    claims_from: str | Path | None = None,
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Test the claims and write ``output/<name>.{png,pdf,json,md}``; returns the figure, its record and the paths.

    Raises:
        FileError: what is there was made from more images, or holds more claims; and as :func:`run_claims`.
    """
    there = Path(output) / f"{config.name}.json"
    if there.is_file():
        images = config.n_train if config.n_train is not None else len(load_mnist("train", size=config.sizes[0], root=config.data_root))
        keep_larger(there, images, claims=len(CLAIMS if claims_from is not None else names or CLAIMS))
    result = run_claims(config, names, progress, finished_only, claims_from)
    line = command(config, names) + (f" --claims-from {shlex.quote(str(claims_from))}" if claims_from is not None else "")
    record = {**provenance(line, config.seed), **result}
    record["findings"] = findings(record)
    figure = draw(record)
    paths = save_figure(figure, Path(output) / config.name, record)
    page = Path(output) / f"{config.name}.md"
    with atomic_path(page) as temporary:
        temporary.write_text(markdown(record), encoding="utf-8")
    return figure, record, [*paths, page]
