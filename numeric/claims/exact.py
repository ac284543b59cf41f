"""Exact expected errors of the own readout and the linear denoiser, group by group: no noise is drawn to evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from numeric.claims.config import Row
from numeric.data import ImageSet
from numeric.evaluation.sweep import noise_like
from numeric.noise import NoiseLevel, as_noise
from numeric.scores.folds import FoldedFit
from numeric.scores.groups import fold_edges
from numeric.scores.own import Solution, WaveletScore
from numeric.scores.solve import BlockSolution, feature_matrix
from numeric.scores.tables import monomials


def noisy_sample(
    images: ImageSet, n: int, noise: NoiseLevel, key: Sequence[int], start: int = 0, batch_size: int = 1000
) -> Iterator[tuple[Tensor, Tensor]]:
    """``n`` pairs (noisy, clean), float64, in batches; the images in turn from ``start`` on, each time with new noise."""
    done = 0
    while done < n:
        low = (start + done) % len(images)
        size = min(batch_size, n - done, len(images) - low)
        clean = images[low : low + size].double()
        yield noise.alpha * clean + noise.sigma * noise_like(clean, *key, done), clean
        done += size


def sampled_solution(
    model: WaveletScore,
    images: ImageSet,
    n: int,
    noise: NoiseLevel,
    degree: int,
    ridge: float,
    key: Sequence[int] = (0,),
    start: int = 0,
) -> Solution:
    """Own-readout least squares on ``n`` noisy samples, ridge on unit-scaled features: equation (23), no exact moments.

    Raw monomials of ``v / t`` are the features, as in :func:`numeric.scores.solve.solve_block`.
    """
    reference = model.solve(noise, degree)
    batches = [
        (model.transform_.forward(y).flatten(1).T, model.transform_.forward(x).flatten(1).T)
        for y, x in noisy_sample(images, n, noise, key, start)
    ]
    v, w = (torch.cat(part, 1) for part in zip(*batches))
    blocks = []
    for block, exact in zip(model.moments_.blocks, reference.blocks):
        plan, size = block.plan, block.plan.closed_count(degree)
        features = feature_matrix(plan, degree, "monomial", exact.centre / exact.scale)
        variables = torch.as_tensor(block.block.variables)
        h = torch.empty(len(variables), size, dtype=torch.float64)
        step = max(1, 2**26 // (8 * n * (2 * size + variables.shape[1])))
        for low in range(0, len(variables), step):
            part = slice(low, low + step)
            u = (v[variables[part]] - exact.centre.T[part, :, None]) / exact.scale.T[part, :, None]
            phi = features[part] @ monomials(u, plan, size)
            gram, rhs = phi @ phi.transpose(1, 2) / n, (phi @ w[variables[part, 0]][:, :, None])[..., 0] / n
            norm = gram.diagonal(dim1=1, dim2=2).rsqrt()
            gram = gram * norm[:, :, None] * norm[:, None, :]
            gram.diagonal(dim1=1, dim2=2).add_(ridge)
            theta = torch.linalg.solve(gram, rhs * norm) * norm
            h[part] = torch.einsum("gfb,gf->gb", features[part], theta)
        nan = torch.full_like(h[:, 0], float("nan"))
        blocks.append(BlockSolution(plan, degree, h, exact.centre, exact.scale, h, nan, nan))
    return Solution(noise, degree, tuple(blocks))


def exact_rows(folded: FoldedFit, solutions: list[Solution], **fields: Any) -> list[Row]:
    """A row for every split and solution (of one noise level)."""
    out = []
    for split in folded.tables:
        for solution, units in zip(solutions, folded.errors(solutions, split)):
            out.append(
                {
                    "split": split,
                    "sigma": solution.noise.effective_sigma,
                    "degree": solution.degree,
                    "units": [units.tolist()],
                    **fields,
                }
            )
    return out


def exact(m: Any, size: int, family: str) -> list[Row]:
    """Every degree and noise level."""
    fit, rows = m.fit(size, family), []
    for sigma in m.config.sigmas:
        degrees = range(1, fit.model.degree + 1)
        rows += exact_rows(fit, fit.solve(as_noise(sigma), list(degrees)), size=size, family=family)
    return rows


def matched(m: Any, size: int, family: str, ratio: float) -> list[Row]:
    """The larger images at a noise as strong beside their coefficients as the smaller images' is (sigma times the ratio
    of the sides: upsampling multiplies the coefficients of a given structure by it)."""
    fit, rows = m.fit(size, family), []
    for sigma in m.config.sigmas:
        solutions = fit.solve(as_noise(sigma * ratio), [1, m.config.degree])
        rows += [{**r, "sigma": sigma} for r in exact_rows(fit, solutions, size=size, family=family)]
    return rows


def linear(m: Any, size: int) -> list[Row]:
    """Exact expected error of the linear denoiser: ``sum_i (s^2 / (l_i + s^2))^2 E z_i^2 + s^2 (l_i / (l_i + s^2))^2``."""
    fitted, rows = m.linear(size), []
    mean, vectors, spectrum = fitted.mean_, fitted.eigenvectors_, fitted.eigenvalues_
    for split, images in m.splits[size].items():
        second = torch.zeros(m.config.folds, vectors.shape[1], dtype=torch.float64)
        rest = torch.zeros(m.config.folds, dtype=torch.float64)
        for k, (low, high) in enumerate(fold_edges(len(images), m.config.folds)):
            for start in range(low, high, 1000):
                x = images[start : min(start + 1000, high)].double().flatten(1) - mean
                z = x @ vectors
                second[k] += z.square().sum(0) / (high - low)
                rest[k] += (x.square().sum() - z.square().sum()) / (high - low)  # outside the span of the images fitted on
        for sigma in m.config.sigmas:
            s2 = sigma**2
            bias, noise = (s2 / (spectrum + s2)) ** 2, s2 * (spectrum / (spectrum + s2)) ** 2
            units = (second @ bias + rest + noise.sum()) / len(mean)
            rows.append({"size": size, "split": split, "sigma": sigma, "family": "linear", "units": [units.tolist()]})
    return rows


def ridges(m: Any, size: int, family: str) -> list[Row]:
    """The paper's ridge on raw features, on either side of the equation."""
    rows, fit = [], m.fit(size, family)
    original = fit.model.get_params()
    for side in ("score", "denoiser"):
        for strength in m.config.raw_ridges:
            fit.model.set_params(ridge=strength, ridge_side=side, ridge_scaling="raw")
            for sigma in m.config.sigmas:
                solutions = fit.solve(as_noise(sigma), m.config.degrees[1:])
                rows += exact_rows(fit, solutions, size=size, family=family, ridge=f"raw {strength:g}, {side} side")
    fit.model.set_params(**original)
    return rows


def sampled(m: Any, size: int, family: str, n: int) -> list[Row]:
    """Fits on ``n`` drawn noisy samples, repeated with other images and noise; their errors are still exact."""
    rows, config, fit = [], m.config, m.fit(size, family)
    train = m.splits[size]["train"]
    for sigma in config.sigmas:
        repeats: list[list[Row]] = []
        for repeat in range(config.repeats):
            key = (config.seed, 17, repeat, round(sigma * 1e6))
            solutions = [
                sampled_solution(fit.model, train, n, as_noise(sigma), d, config.ridge, key, repeat * n)
                for d in config.degrees
            ]
            repeats.append(exact_rows(fit, solutions, size=size, family=family, fit=fit_name(n)))
        for same in zip(*repeats):
            rows.append({**same[0], "units": [row["units"][0] for row in same]})
    return rows


def fit_name(n: int) -> str:
    """``4,000 noisy samples``: how a fit from drawn noise is named."""
    return f"{n:,} noisy samples"
