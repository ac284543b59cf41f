"""Condition numbers of the Gram matrices: of every coefficient's system, and of the one system of the shared readout."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from numeric.claims.config import SHARED_RIDGE, Row
from numeric.noise import as_noise
from numeric.progress import progress_bar
from numeric.scores.conditioning import scaled_grams
from numeric.scores.contraction import rescaled, translation
from numeric.scores.groups import fold_edges
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.solve import hermite_coefficients

MOST_DECADES = 17.0
"""Condition numbers are cut off here: float64 knows no larger ones."""
SHARED_GROUPS = 4
"""Disjoint groups of images whose shared Gram matrices give the interval of its condition number."""


def own_conditions(m: Any, size: int, family: str) -> list[Row]:
    """Median log10 condition number of the Gram matrices, and of the ratio monomial to Hermite, over coefficients.

    No ridge. ``unit``: features scaled to unit second moment; ``raw``: the features as they are.
    """
    rows, config = [], m.config
    rng = np.random.default_rng(config.seed)
    fit = m.fit(size, family)
    for sigma in (config.sigmas[0], config.sigmas[-1]):
        for degree in config.degrees[1:]:
            values = {}
            for basis in ("monomial", "hermite"):
                parts: dict[str, list[Tensor]] = {"unit": [], "raw": []}
                for grams in scaled_grams(fit.model, sigma, degree, basis):
                    for scaling, logs in parts.items():
                        logs.append(decades(grams[scaling]))
                for scaling, logs in parts.items():
                    values[basis, scaling] = torch.cat(logs).numpy()
            for scaling in ("unit", "raw"):
                fields = {"family": family, "sigma": sigma, "degree": degree, "scaling": scaling}
                for basis in ("monomial", "hermite"):
                    rows.append({**fields, "basis": basis, **median(values[basis, scaling], rng)})
                gain = values["monomial", scaling] - values["hermite", scaling]
                rows.append({**fields, "basis": "gain", **median(gain, rng)})
    return rows


def shared_conditions(m: Any, size: int, family: str, top: int) -> list[Row]:
    """Log10 condition number of the shared Gram matrix (exact noise, no ridge), mean over disjoint groups of training images."""
    config, train, rows = m.config, m.splits[size]["train"], []
    degrees = list(range(2, top + 1))
    found: dict[tuple[Any, ...], list[float]] = {}
    total = SHARED_GROUPS * 2 * len(degrees)
    with progress_bar(total, f"conditioning, shared, {family} {size}", m.progress, "matrix") as bar:
        for low, high in fold_edges(len(train), SHARED_GROUPS):
            model = SharedWaveletScore(family, max(degrees), ridge=SHARED_RIDGE).fit(train[low:high])
            for sigma in (config.sigmas[0], config.sigmas[-1]):
                for degree in degrees:
                    centred = model.noisy_gram(as_noise(sigma), degree)
                    for basis in ("monomial", "hermite"):
                        gram = in_basis(model, centred, basis, degree)
                        norm = gram.diagonal().rsqrt()
                        for scaling, matrix in (("unit", gram * norm[:, None] * norm), ("raw", gram)):
                            value = float(decades(matrix[None])[0])
                            found.setdefault((sigma, degree, scaling, basis), []).append(value)
                    bar.update()
    for sigma, degree, scaling in dict.fromkeys(key[:3] for key in found):
        fields = {"family": family, "sigma": sigma, "degree": degree, "scaling": scaling}
        values = {basis: np.array(found[sigma, degree, scaling, basis]) for basis in ("monomial", "hermite")}
        values["gain"] = values["monomial"] - values["hermite"]
        rows += [{**fields, "basis": basis, **mean(v)} for basis, v in values.items()]
    return rows


def in_basis(model: SharedWaveletScore, centred: np.ndarray, basis: str, degree: int) -> Tensor:
    """The Gram matrix of raw monomials, or of Hermite polynomials of standardised coefficients (VE noise).

    Args:
        centred: that of the noisy monomials about the mean.
    """
    if basis == "monomial":
        change = translation(model.monomials_, model.mean_, len(centred))
    else:
        sd = np.sqrt(centred.diagonal()[1 : 1 + len(model.mean_)])
        change = rescaled(model.monomials_, hermite_coefficients(model.monomials_.degree), sd, len(centred))
    return torch.as_tensor(change @ (change @ centred).T)


def decades(gram: Tensor) -> Tensor:
    """Log10 of the condition number of symmetric matrices ``(g, p, p)``, at most :data:`MOST_DECADES`."""
    eigenvalues = torch.linalg.eigvalsh(gram)
    least = eigenvalues[:, -1] * 10.0**-MOST_DECADES
    return (eigenvalues[:, -1] / torch.maximum(eigenvalues[:, 0], least)).log10()


def median(values: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Median with a 95% percentile bootstrap over coefficients."""
    out = scipy.stats.bootstrap((values,), np.median, n_resamples=499, method="percentile", rng=rng, batch=50)
    low, high = out.confidence_interval
    return {"value": float(np.median(values)), "low": float(low), "high": float(high)}


def mean(values: np.ndarray) -> dict[str, float]:
    """Mean with Student's interval over groups of images."""
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    value = float(values.mean())
    return {"value": value, "low": value - half, "high": value + half, "df": len(values) - 1}
