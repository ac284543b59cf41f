"""Effects of the sentences that hold the wavelet models against the linear denoiser and trained networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from numeric.claims.config import FAMILIES, SPLITS, Skipped, find
from numeric.claims.effects import Effect
from numeric.claims.machines import Machine, best_errors, effect, errors, fall, machines, per_setting
from numeric.claims.measure import Measurements

CLAMPED = (Machine("own", None, "clamped"), Machine("shared", None, "clamped"))
GAP_SHARE = 0.1
"""A gap has narrowed noticeably if more than this share of it is closed."""


# ----- linear --------------------------------------------------------------------------------------------------------------


def against_linear(m: Measurements, size: int, sign: int) -> list[Effect]:
    """Fall (sign 1) or rise (sign -1) of the error from the linear denoiser to the best wavelet model of degree 2 and more."""
    out = []
    for machine, split in machines(m):
        for sigma in m.config.sigmas:
            linear = errors(m, machine, size, split, "linear", sigma)
            rows = best_errors(m, machine, size, split, FAMILIES, sigma)
            out += effect(machine.setting(split), {"sigma": sigma}, lambda l, *w: sign * fall(l, min(w)), linear, *rows)
    return out


def linear_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    """Where the difference comes from: own readouts at degree 1 are diagonal, shared ones are the linear denoiser."""
    lines = per_setting(m, effects)
    exact = Machine("own", None, "expected")
    for size in m.config.sizes:
        if isinstance(errors(m, exact, size, "train", "local", m.config.sigmas[0], 1), Skipped) or isinstance(
            errors(m, exact, size, "train", "linear", m.config.sigmas[0]), Skipped
        ):
            continue
        parts = []
        for sigma in m.config.sigmas:
            linear = np.mean(np.asarray(errors(m, exact, size, "train", "linear", sigma)))
            local = [
                np.mean(np.asarray(errors(m, exact, size, "train", "local", sigma, d))) for d in (1, m.config.degree)
            ]
            parts.append(f"sigma {sigma:g}: {100 * (local[0] / linear - 1):+.0f}% and {100 * (local[1] / linear - 1):+.0f}%")
        lines.append(
            f"{size}x{size}, own readout, local at degrees 1 and {m.config.degree} above (+) or below (-) the linear "
            f"denoiser, which reads all coefficients linearly: {'; '.join(parts)}"
        )
    shared = CLAMPED[1]
    gaps = []
    for split in SPLITS:
        for sigma in m.config.sigmas:
            pair = errors(m, shared, m.small, split, "local", sigma, 1), errors(m, shared, m.small, split, "linear", sigma)
            if all(isinstance(u, np.ndarray) for u in pair):
                gaps.append(abs(fall(float(np.mean(np.asarray(pair[1]))), float(np.mean(np.asarray(pair[0]))))))
    if gaps:
        lines.append(
            f"{m.small}x{m.small}, shared readout at degree 1 is the linear denoiser: their errors differ by at most {max(gaps):.2g}%"
        )
    return lines


def linear_growth_effects(m: Measurements) -> list[Effect]:
    """Advantage over linear, larger minus smaller size, each family and degree."""
    out = []
    for machine, split in machines(m):
        for family in FAMILIES:
            for sigma in m.config.sigmas:
                for degree in m.config.degrees[1:]:
                    rows = []
                    for size in m.config.sizes:
                        rows += [
                            errors(m, machine, size, split, "linear", sigma),
                            errors(m, machine, size, split, family, sigma, degree),
                        ]
                    cell = {"family": family, "sigma": sigma, "degree": degree}
                    out += effect(machine.setting(split), cell, lambda a, b, c, d: fall(c, d) - fall(a, b), *rows)
    return out


# ----- trained networks ----------------------------------------------------------------------------------------------------


def _networks(m: Measurements) -> list[tuple[int, str]]:
    return [(size, label) for size in m.config.sizes for label in m.trained_networks(size)]


def _network(m: Measurements, size: int, label: str, split: str, sigma: float) -> Any:
    return find(m.rows("networks", size), split=split, sigma=sigma, family=label)


def trained_effects(m: Measurements) -> list[Effect]:
    """Fall from the best wavelet model to the network."""
    out = []
    for size, label in _networks(m):
        for machine in CLAMPED:
            for split in SPLITS:
                for sigma in m.config.sigmas:
                    net = _network(m, size, label, split, sigma)
                    rows = best_errors(m, machine, size, split, FAMILIES, sigma, images="first")
                    cell = {"network": label, "size": size, "sigma": sigma}
                    out += effect(machine.setting(split), cell, lambda n, *w: fall(min(w), n), net, *rows)
    return out


def narrowed(start: float, end: float, net: float) -> float:
    """How much more than :data:`GAP_SHARE` of the gap from ``start`` to the network is closed at ``end``, per cent of ``start``.

    Linear in the errors, hence defined and with a valid interval however small the gap is.  Where the network is no better than
    ``start`` there is no gap to narrow, and the lack of one counts against.
    """
    gap = start - net
    return 100.0 * min((start - end) - GAP_SHARE * gap, gap) / start


def gap_effects(m: Measurements) -> list[Effect]:
    out = []
    for size, label in _networks(m):
        for machine in CLAMPED:
            for split in SPLITS:
                for sigma in (s for s in m.config.sigmas if s <= m.config.low_sigma):
                    rows = _ends(m, machine, size, split, sigma)
                    cell = {"network": label, "size": size, "sigma": sigma}
                    net = _network(m, size, label, split, sigma)
                    out += effect(machine.setting(split), cell, narrowed, *rows, net)
    return out


def _ends(m: Measurements, machine: Machine, size: int, split: str, sigma: float) -> list[Any]:
    """Independent degree 1 and local at top degree, on the networks' images."""
    ends = (("independent", 1), ("local", m.config.degree))
    return [errors(m, machine, size, split, family, sigma, d, images="first") for family, d in ends]


def retained_effects(m: Measurements) -> list[Effect]:
    """What is left of the gap at local top degree beside the network's error, highest sigma minus lowest, points."""

    def advantage(low: float, low_net: float, high: float, high_net: float) -> float:
        return fall(high, high_net) - fall(low, low_net)

    out = []
    for size, label in _networks(m):
        for machine in CLAMPED:
            for split in SPLITS:
                rows = []
                for sigma in (m.config.sigmas[0], m.config.sigmas[-1]):
                    rows += [_ends(m, machine, size, split, sigma)[1], _network(m, size, label, split, sigma)]
                cell = {"network": label, "size": size}
                out += effect(machine.setting(split), cell, advantage, *rows)
    return out
