"""Errors on drawn noise: clamped estimates, edges, structural similarity; own readout, linear, networks, an over-complete basis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from numeric.claims.config import FAMILIES, Row
from numeric.evaluation.metrics import edge_error, edge_sharpness
from numeric.evaluation.sweep import image_errors, noise_like
from numeric.noise import as_noise
from numeric.progress import progress_bar
from numeric.scores.groups import fold_edges
from numeric.scores.own import WaveletScore


def grouped(values: Tensor, groups: int) -> list[float]:
    """Means of per-image values ``(n,)`` over contiguous groups."""
    return [float(values[low:high].double().mean()) for low, high in fold_edges(len(values), groups)]


def draws(m: Any, size: int) -> Iterator[tuple[str, float, Tensor, Tensor]]:
    """(split, sigma, noisy, clean) of the first ``n_eval`` images; the same noise for whoever asks."""
    config = m.config
    for number, (split, images) in enumerate(m.splits[size].items()):
        clean = images[: min(config.n_eval, len(images))]
        for sigma in config.sigmas:
            yield split, sigma, clean + sigma * noise_like(clean, config.seed, number, round(sigma * 1e6)), clean


def score_rows(m: Any, x: Tensor, clean: Tensor, ssim: bool, **fields: Any) -> list[Row]:
    """Rows of the measures of unclamped estimates; everything but ``mse unclamped`` is of the clamped ones."""
    config, clamped, out = m.config, x.clamp(0, 1), []
    measures = {
        "mse": image_errors(clamped, clean),
        "mse unclamped": image_errors(x, clean),
        "sharpness": edge_sharpness(clamped, clean),
        "edge error": edge_error(clamped, clean),
    }
    if ssim:
        pairs = zip(clamped[: config.n_ssim, 0].numpy(), clean[: config.n_ssim, 0].numpy())
        measures["ssim"] = torch.tensor([structural_similarity(a, b, data_range=1.0) for a, b in pairs])
    for metric, values in measures.items():
        out.append({**fields, "metric": metric, "images": "all", "units": [grouped(values, config.groups)]})
        if metric == "mse":  # the networks see the first images only; have everyone's error on those too
            first = grouped(values[: config.n_network], config.groups)
            out.append({**fields, "metric": metric, "images": "first", "units": [first]})
    return out


def drawn(m: Any, size: int) -> list[Row]:
    """Own readouts and the linear denoiser."""
    config, linear, rows = m.config, m.linear(size), []
    models = {family: m.fit(size, family).model for family in FAMILIES}
    with progress_bar(len(config.sigmas) * len(m.splits[size]), f"drawn noise {size}", m.progress, "level") as bar:
        for split, sigma, y, clean in draws(m, size):
            fields = {"size": size, "split": split, "sigma": sigma}
            for family, model in models.items():
                for degree, x in zip(config.degrees, model.denoise_degrees(y, sigma, config.degrees, clamp=False)):
                    rows += score_rows(m, x, clean, degree == config.degree, **fields, family=family, degree=degree)
            rows += score_rows(m, linear.estimate(y, as_noise(sigma)), clean, False, **fields, family="linear")
            bar.update()
    return rows


def networks(m: Any, size: int) -> list[Row]:
    """The networks whose records say that they are trained."""
    nets, rows, n = m.trained_networks(size), [], m.config.n_network
    for split, sigma, y, clean in draws(m, size) if nets else ():
        for label, net in nets.items():
            x = torch.cat([net.denoise(part, sigma) for part in y[:n].split(100)])
            units = grouped(image_errors(x, clean[:n]), m.config.groups)
            rows.append({"size": size, "split": split, "sigma": sigma, "family": label, "units": [units]})
    return rows


def overcomplete(m: Any, size: int, family: str) -> list[Row]:
    """Own readout in a non-periodised basis with the pseudo-inverse (the paper's code), degree 2."""
    model = WaveletScore(family, 2, mode="symmetric", ridge=m.config.ridge)
    model.fit(m.splits[size]["train"], progress=m.progress)
    rows = []
    for split, sigma, y, clean in draws(m, size):
        fields = {"size": size, "split": split, "sigma": sigma, "family": family, "degree": 2}
        rows += score_rows(m, model.estimate(y, as_noise(sigma)), clean, False, **fields)
    return rows
