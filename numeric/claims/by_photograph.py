"""Effects of the sentence on growing images, tested where images are natural: on photographs, each a unit."""

from __future__ import annotations

import numpy as np

from numeric.claims.config import SPLITS, Units, find
from numeric.claims.effects import Effect, all_pairs
from numeric.claims.machines import effect, fall, per_setting
from numeric.claims.measure import Measurements
from numeric.claims.photographs import DEGREE, MODELS


def _errors(m: Measurements, size: int, split: str, family: str, sigma: float) -> Units:
    return find(m.rows("photographs", size), split=split, family=family, sigma=sigma)


def photograph_effects(m: Measurements) -> list[Effect]:
    """Advantage over linear on photographs, each size minus the next smaller one."""
    out = []
    for split in SPLITS:
        setting = {"readout": "own", "fit": "exact fit", "split": split, "error": "clamped", "images": "photographs"}
        for family in MODELS[1:]:
            for small, large in all_pairs(m.config.photograph_sizes):
                for sigma in m.config.sigmas:
                    rows = [_errors(m, size, split, f, sigma) for size in (small, large) for f in ("linear", family)]
                    cell = {"family": family, "step": f"{small} to {large}", "sigma": sigma, "degree": DEGREE}
                    out += effect(setting, cell, lambda a, b, c, d: fall(c, d) - fall(a, b), *rows)
    return out


def photograph_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    """The advantages themselves, and how much of them is linear's own overfitting, which grows with the size."""
    lines = per_setting(m, effects)
    for family in MODELS[1:]:
        for sigma in m.config.sigmas:
            parts = []
            for size in m.config.photograph_sizes:
                wanted = (("held-out", "linear"), ("held-out", family), ("train", "linear"))
                found = [_errors(m, size, split, f, sigma) for split, f in wanted]
                means = [float(u.mean()) for u in found if isinstance(u, np.ndarray)]
                if len(means) == 3:
                    gain, ratio = fall(means[0], means[1]), means[0] / means[2]
                    parts.append(f"{gain:+.1f}% at {size} (linear's held-out error {ratio:.1f} times its training error)")
            if parts:
                lines.append(f"held-out photographs, {family} degree {DEGREE} below linear, sigma {sigma:g}: {'; '.join(parts)}")
    lines.append(f"linear is fitted to about {m.config.n_patches:,} patches whatever their size, so a growing gain is in part its overfitting")
    return lines
