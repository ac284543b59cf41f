"""Effects of the sentences on coupling: local, band-tied, and what they do to edges and visual quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numeric.claims.config import FAMILIES, SHARED_RIDGE, SPLITS, find
from numeric.claims.effects import Effect, all_pairs, by_setting, describe, extremes, measured
from numeric.claims.machines import NESTED, Machine, effect, errors, fall, machines, range_text
from numeric.claims.measure import Measurements

PAIR = ("independent", "band")


# ----- local coupling ----------------------------------------------------------------------------------------------------


def local_effects(m: Measurements) -> list[Effect]:
    """Fall from independent to local."""
    out = []
    for machine, split in machines(m):
        constructed = NESTED if machine.minimises_training_error and split == "train" else ""
        for size in m.config.sizes:
            for sigma in m.config.sigmas:
                for degree in m.config.degrees:
                    rows = [errors(m, machine, size, split, f, sigma, degree) for f in ("independent", "local")]
                    cell = {"size": size, "sigma": sigma, "degree": degree}
                    out += effect(machine.setting(split), cell, fall, *rows, constructed=constructed)
    return out


def reliable_effects(m: Measurements) -> list[Effect]:
    """Fall from the better of the other families to local, degrees from 2."""
    out = []
    for machine, split in machines(m):
        for size in m.config.sizes:
            for sigma in m.config.sigmas:
                for degree in m.config.degrees[1:]:
                    rows = [errors(m, machine, size, split, f, sigma, degree) for f in FAMILIES]
                    cell = {"size": size, "sigma": sigma, "degree": degree}
                    out += effect(machine.setting(split), cell, lambda i, b, l: fall(min(i, b), l), *rows)
    return out


def noise_effects(m: Measurements) -> list[Effect]:
    """Gain of a coupled family over the independent one, lower sigma minus the next one."""
    out = []
    for machine, split in machines(m):
        for size in m.config.sizes:
            for family in ("band", "local"):
                for low, high in all_pairs(m.config.sigmas):
                    for degree in m.config.degrees[1:]:
                        rows = [
                            errors(m, machine, size, split, f, s, degree)
                            for s in (low, high)
                            for f in ("independent", family)
                        ]
                        sigmas = f"sigma {low:g} against {high:g}"
                        cell = {"family": family, "size": size, "sigmas": sigmas, "degree": degree}
                        out += effect(
                            machine.setting(split), cell, lambda a, b, c, d: fall(a, b) - fall(c, d), *rows
                        )
    return out


# ----- band-tied against independent -------------------------------------------------------------------------------------


def _rise(independent: float, band: float) -> float:
    return 100.0 * (band / independent - 1.0)


def band_effects(m: Measurements) -> list[Effect]:
    """Rise of the error from independent to band-tied in every variant of the fit that might explain the paper's sentence."""
    config, out = m.config, []
    own_ridge, shared_ridge = (f"ridge {r:g}, unit scaling" for r in (config.ridge, SHARED_RIDGE))
    for machine, split in machines(m):
        ridge = own_ridge if machine.readout == "own" else shared_ridge
        constructed = NESTED if machine.minimises_training_error and split == "train" else ""
        for size in config.sizes:
            for sigma in config.sigmas:
                for d in config.degrees[1:]:
                    rows = [errors(m, machine, size, split, f, sigma, d) for f in PAIR]
                    setting = machine.setting(split, ridge=ridge, basis="orthonormal")
                    cell = {"size": size, "sigma": sigma, "degree": d}
                    out += effect(setting, cell, _rise, *rows, constructed=constructed)
    exact, clamped = Machine("own", None, "expected"), Machine("own", None, "clamped")
    raw = {f: m.rows("ridges", m.small, f) for f in PAIR}
    over = {f: m.rows("over-complete", m.small, f) for f in PAIR}
    for split in SPLITS:
        for sigma in config.sigmas:
            for ridge in dict.fromkeys(r.get("ridge", "on raw features") for r in raw["band"]):
                for d in config.degrees[1:]:
                    rows = [find(raw[f], split=split, sigma=sigma, degree=d, ridge=ridge) for f in PAIR]
                    setting = exact.setting(split, ridge=f"ridge {ridge}", basis="orthonormal")
                    out += effect(setting, {"size": m.small, "sigma": sigma, "degree": d}, _rise, *rows)
            rows = [find(over[f], split=split, sigma=sigma, metric="mse", images="all") for f in PAIR]
            setting = clamped.setting(split, ridge=own_ridge, basis="over-complete")
            out += effect(setting, {"size": m.small, "sigma": sigma, "degree": 2}, _rise, *rows)
    return out


def band_high_effects(m: Measurements) -> list[Effect]:
    return [e for e in band_effects(m) if e.cell["sigma"] >= m.config.high_sigma]


def band_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    lines = []
    nested = [e for e in effects if e.reason == NESTED]
    if nested:
        lines.append(
            "the band-tied monomials contain w^k, hence the independent family: with exact moments and a negligible ridge the "
            f"expected training error cannot rise (measured: {range_text(nested)}), so those cells are no evidence"
        )
    rest = [e for e in measured(effects) if e.counts]
    lines += [f"{describe(part[0].setting)}: {_rises(part)}" for part in by_setting(rest).values()]
    for n in m.shared_samples:
        counts = {
            f: next(
                (r.get("features") for r in m.shared_rows(m.small, f, n, m.config.sigmas[0]) if r.get("degree") == 2), None
            )
            for f in PAIR
        }
        if counts["band"] and counts["independent"]:
            lines.append(
                f"shared readout on {n:,} samples, degree 2: {counts['band']:,} band-tied features against "
                f"{counts['independent']:,} independent ones, {counts['band'] / n:.2f} and {counts['independent'] / n:.2f} a "
                "sample: the variance of the least-squares fit grows with that"
            )
    return lines


def _rises(part: Sequence[Effect]) -> str:
    rises = [e for e in part if e.low is not None and e.low > 0]
    if not rises:
        return f"no rise beyond its interval ({range_text(part)})"
    worst = extremes(rises)[1]
    return f"rises in {len(rises)} of {len(part)} cells, most {worst.value:+.2f}% at {describe(worst.cell)}"


# ----- edges and visual quality ------------------------------------------------------------------------------------------


def _drawn_machines(m: Measurements) -> list[tuple[Machine, str]]:
    return [(machine, split) for machine, split in machines(m) if machine.error == "clamped"]


def edge_effects(m: Measurements) -> list[Effect]:
    """Two readings of sharper: the edges' gradient kept, and its error."""
    out = []
    for machine, split in _drawn_machines(m):
        for size in m.config.sizes:
            for sigma in m.config.sigmas:
                for d in m.config.degrees[1:]:
                    for metric in ("sharpness", "edge error"):
                        units = [errors(m, machine, size, split, f, sigma, d, metric) for f in PAIR]
                        setting: dict[str, Any] = machine.setting(split, metric=metric)
                        statistic = _rise if metric == "sharpness" else fall
                        out += effect(setting, {"size": size, "sigma": sigma, "degree": d}, statistic, *units)
    return out


def quality_effects(m: Measurements) -> list[Effect]:
    """Gain in structural similarity at the top degree (exact fits)."""
    out = []
    for machine, split in _drawn_machines(m):
        if machine.samples is not None:
            continue
        for size in m.config.sizes:
            for sigma in m.config.sigmas:
                units = [errors(m, machine, size, split, f, sigma, m.config.degree, "ssim") for f in PAIR]
                cell = {"size": size, "sigma": sigma}
                out += effect(machine.setting(split), cell, lambda i, b: 100 * (b - i), *units)
    return out
