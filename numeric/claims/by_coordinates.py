"""Which coordinates matter at which noise: the same powers of pixels and of wavelet coefficients, noisy or Wiener estimates."""

from __future__ import annotations

from typing import Any

import numpy as np

from numeric.claims.config import SPLITS, find
from numeric.claims.coordinates import COORDINATES, DEGREE, OF
from numeric.claims.effects import Effect
from numeric.claims.machines import effect, fall
from numeric.claims.measure import Measurements


def _errors(m: Measurements, of: str, coordinates: str, split: str, sigma: float) -> Any:
    rows = m.rows("coordinates", m.small, of, coordinates)
    return find(rows, split=split, sigma=sigma, coordinates=coordinates, metric="mse", images="all")


def coordinates_effects(m: Measurements) -> list[Effect]:
    """Fall of the error from powers of pixels to as many powers of wavelet coefficients."""
    out = []
    for of, name in OF.items():
        for split in SPLITS:
            for sigma in m.config.sigmas:
                pair = [_errors(m, of, c, split, sigma) for c in COORDINATES]
                setting = {"readout": "shared", "fit": "exact fit", "split": split, "error": "clamped", "powers of": name}
                out += effect(setting, {"sigma": sigma}, fall, *pair)
    return out


def coordinates_explanation(m: Measurements, effects: list[Effect]) -> list[str]:
    """The errors themselves, held out, level by level."""
    lines = []
    for of, name in OF.items():
        parts = []
        for sigma in m.config.sigmas:
            pair = [_errors(m, of, c, "held-out", sigma) for c in COORDINATES]
            if all(isinstance(u, np.ndarray) for u in pair):
                parts.append(f"sigma {sigma:g}: {np.mean(pair[0]):.5f} and {np.mean(pair[1]):.5f}")
        if parts:
            lines.append(f"{m.small}x{m.small}, degree {DEGREE}, {name}, held-out MSE with pixels and with wavelets: {'; '.join(parts)}")
    return lines
