"""Shared readouts of powers of pixels and of wavelet coefficients, noisy ones or of the Wiener estimate, on drawn noise."""

from __future__ import annotations

from typing import Any

from numeric.claims.config import SHARED_RIDGE, Row
from numeric.claims.drawn import draws, score_rows
from numeric.progress import progress_bar
from numeric.scores.wiener import WienerScore

DEGREE = 3
"""Degree of the powers; every family is the linear denoiser at degree 1."""
OF = {"noisy": "noisy coefficients", "wiener": "Wiener estimates"}
COORDINATES = ("pixel", "wavelet")


def coordinates(m: Any, size: int, of: str, kind: str) -> list[Row]:
    """Clamped errors on drawn noise of :class:`~numeric.scores.wiener.WienerScore`, powers to degree :data:`DEGREE`, shared readout."""
    rows: list[Row] = []
    model = WienerScore("independent", DEGREE, coordinates=kind, of=of, ridge=SHARED_RIDGE)
    model.fit(m.splits[size]["train"], progress=m.progress)
    levels = sorted(draws(m, size), key=lambda d: d[1])  # both splits of a noise level share its solution
    with progress_bar(len(levels), f"{kind} of {of} {size}", m.progress, "level") as bar:
        for split, sigma, y, clean in levels:
            fields = {"size": size, "split": split, "sigma": sigma, "of": of, "coordinates": kind, "degree": DEGREE}
            rows += score_rows(m, model.denoise(y, sigma, clamp=False), clean, False, **fields)
            bar.update()
    return rows
