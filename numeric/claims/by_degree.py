"""Effects of the sentences on the polynomial degree and the image size."""

from __future__ import annotations

import math

import numpy as np

from numeric.claims.config import FAMILIES, SPLITS, find
from numeric.claims.effects import SKIPPED, Effect, all_pairs, by_setting, describe, extremes, measured
from numeric.claims.machines import NESTED, Machine, effect, errors, fall, machines
from numeric.claims.measure import Measurements
from numeric.noise import as_noise


def degree_effects(m: Measurements) -> list[Effect]:
    """Fall of the error per step of the degree."""
    out = []
    for machine, split in machines(m):
        constructed = NESTED if machine.minimises_training_error and split == "train" else ""
        for size in m.config.sizes:
            for family in FAMILIES:
                for sigma in m.config.sigmas:
                    for low, high in all_pairs(m.config.degrees):
                        rows = [errors(m, machine, size, split, family, sigma, d) for d in (low, high)]
                        cell = {"family": family, "size": size, "sigma": sigma, "step": f"degree {low} to {high}"}
                        out += effect(machine.setting(split), cell, fall, *rows, constructed=constructed)
    return out


def degree_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    lines = []
    nested = [e for e in effects if e.reason == NESTED]
    if nested:
        lines.append(f"{NESTED}: smallest fall there {extremes(nested)[0].value:+.4f}%")
    for group in by_setting([e for e in effects if e.counts]).values():
        rises = [e for e in group if e.high is not None and e.high < 0]
        if rises:
            worst = extremes(rises)[0]
            lines.append(
                f"{describe(worst.setting)}: {len(rises)} of {len(group)} steps raise the error, most "
                f"{-(worst.value or 0):.2f}% at {describe(worst.cell)}"
            )
    return lines


def pronounced_effects(m: Measurements) -> list[Effect]:
    """Fall from degree 1, local minus the best other family."""

    def excess(i1: float, i3: float, b1: float, b3: float, l1: float, l3: float) -> float:
        return fall(l1, l3) - max(fall(i1, i3), fall(b1, b3))

    out = []
    for machine, split in machines(m):
        for size in m.config.sizes:
            for sigma in m.config.sigmas:
                for degree in m.config.degrees[1:]:
                    rows = [errors(m, machine, size, split, f, sigma, d) for f in FAMILIES for d in (1, degree)]
                    cell = {"size": size, "sigma": sigma, "degree": degree}
                    out += effect(machine.setting(split), cell, excess, *rows)
    return out


def growth_effects(m: Measurements) -> list[Effect]:
    """Fall from degree 1, larger minus smaller size: at the same sigma, and at sigma in proportion to the side."""

    def growth(a: float, b: float, c: float, d: float) -> float:
        return fall(c, d) - fall(a, b)

    out = []
    for machine, split in machines(m):
        for family in FAMILIES:
            for sigma in m.config.sigmas:
                for degree in m.config.degrees[1:]:
                    rows = [
                        errors(m, machine, size, split, family, sigma, d) for size in m.config.sizes for d in (1, degree)
                    ]
                    cell = {"family": family, "sigma": sigma, "degree": degree}
                    out += effect(machine.setting(split, noise="the same sigma"), cell, growth, *rows)
    exact, top = Machine("own", None, "expected"), m.config.degree
    for split in SPLITS:
        for family in FAMILIES:
            large = m.rows("matched noise", m.large, family, m.large / m.small)
            for sigma in m.config.sigmas:
                rows = [errors(m, exact, m.small, split, family, sigma, d) for d in (1, top)]
                rows += [find(large, split=split, sigma=sigma, degree=d) for d in (1, top)]
                setting = exact.setting(split, noise="sigma in proportion to the side")
                out += effect(setting, {"family": family, "sigma": sigma, "degree": top}, growth, *rows)
    return out


def growth_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    groups = by_setting(measured(effects), "noise", "readout", "fit", "error")
    ratio = m.large / m.small
    lines = [
        f"{readout}, {fit}, {error}, {noise}: median difference {np.median([e.value for e in part]):+.2f} points"
        for (noise, readout, fit, error), part in groups.items()
    ]
    return [
        *lines,
        f"sigma in proportion to the side is sigma times {ratio:g} at {m.large}x{m.large}: upsampling multiplies the coefficients of "
        f"a given structure by {ratio:g}, so this keeps their signal-to-noise ratio; the part of the gain that is left then is not "
        "due to the lower effective noise of the larger image",
    ]


def hermite_degree_effects(m: Measurements) -> list[Effect]:
    """Fall of the error per step of the degree, independent family, averaged over sigmas (geometric mean of the ratios)."""

    def mean_fall(*means: float) -> float:
        ratios = [after / before for before, after in zip(means[::2], means[1::2])]
        return 100 * (1 - math.exp(float(np.mean(np.log(ratios)))))

    out: list[Effect] = []
    sigmas = m.config.sigmas
    for machine in (Machine("own", None, "expected"), Machine("shared", None, "clamped")):
        for split in SPLITS:
            for size in m.config.sizes:
                setting, part = machine.setting(split, size=f"{size}x{size}"), []
                for low, high in all_pairs(range(1, m.config.hermite_degree + 1)):
                    rows = [errors(m, machine, size, split, "independent", s, d) for s in sigmas for d in (low, high)]
                    part += effect(setting, {"step": f"degree {low} to {high}"}, mean_fall, *rows)
                left_out = [e for e in part if e.status == SKIPPED]
                if left_out:  # "all but one" is a sentence about all steps
                    part = [Effect(e.setting, e.cell, status=SKIPPED, reason=left_out[0].reason) for e in part]
                out += part
    return out


def hermite_degree_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    fit, worst = m.fit(m.small, "independent"), 0.0
    for sigma in m.config.sigmas:
        for degree in m.config.degrees:
            monomial = fit.model.solve(as_noise(sigma), degree).expected_error
            fit.model.set_params(basis="hermite")
            worst = max(worst, abs(fit.model.solve(as_noise(sigma), degree).expected_error / monomial - 1))
            fit.model.set_params(basis="monomial")
    lines = [
        "Hermite and raw polynomials span one space: own readout at ridge "
        f"{m.config.ridge:g}, their exact errors differ by at most {worst:.1e} (relative), so what the figure shows is the degree"
    ]
    for group in by_setting(measured(effects)).values():
        steps = ", ".join(f"{e.cell['step']} {e.value:+.2f}%" for e in group)
        lines.append(f"{describe(group[0].setting)}: {steps}")
    return lines
