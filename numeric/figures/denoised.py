"""Figures 9 and 10: held-out images denoised by one family at every noise level and degree, with the MSE of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from numeric.data import load_mnist
from numeric.evaluation.sweep import image_errors, noise_like, paired_ratio, summary
from numeric.figures.style import IMAGE_STYLE, show_image, title_of
from numeric.results import finish_figure
from numeric.scores.own import WaveletScore


@dataclass
class DenoisedConfig:
    """Parameters of Figures 9 and 10.

    Attributes:
        family: of the estimator (``own`` readout). sizes: image sides. n_train: images to fit on (None: all).
        n_images: digits drawn, the first held-out ones. n_eval: held-out images that the mean errors are measured on.
    """

    family: str = "independent"
    sizes: Sequence[int] = (32, 64)
    n_train: int | None = None
    n_images: int = 2
    n_eval: int = 500
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3)
    radius: int = 1
    interactions: str = "pairwise"
    ridge: float = 1e-10
    seed: int = 0
    data_root: str | None = None
    name: str = "fig9"

    def __post_init__(self) -> None:
        if not 1 <= self.n_images <= self.n_eval:
            raise ValueError(f"need 1 <= n_images <= n_eval, got {self.n_images} and {self.n_eval}")


def denoise_all(
    config: DenoisedConfig, progress: bool = True
) -> tuple[dict[str, Any], dict[tuple[int, float], list[Tensor]]]:
    """Records of every image shown, and for each (size, sigma) the columns clean, noisy, degree by degree."""
    pictures, records, means, data, label = {}, [], [], {}, ""
    for size in config.sizes:
        train = load_mnist("train", size=size, count=config.n_train, root=config.data_root)
        test = load_mnist("test", size=size, count=config.n_eval, root=config.data_root)
        data[size] = {"fit": train.provenance, "test": test.provenance}
        model = WaveletScore(
            config.family, max(config.degrees), config.radius, config.interactions, ridge=config.ridge
        ).fit(train, progress=progress)
        label, clean = model.label, test[:]
        for sigma in config.sigmas:
            y = clean + sigma * noise_like(clean, config.seed, round(sigma * 1e6))
            columns = [clean, y.clamp(0, 1), *model.denoise_degrees(y, sigma, list(config.degrees))]
            names = ["clean", "noisy", *(f"degree {d}" for d in config.degrees)]
            pictures[size, sigma] = [c[: config.n_images] for c in columns]
            errors = {name: image_errors(c, clean).double().numpy() for name, c in zip(names[1:], columns[1:])}
            lowest = errors[f"degree {min(config.degrees)}"][None]
            for name, values in errors.items():
                records += [
                    {"size": size, "sigma": sigma, "image": i, "column": name, "mse": float(values[i])}
                    for i in range(config.n_images)
                ]
                mean = {"size": size, "sigma": sigma, "column": name, **summary(values[None])}
                means.append({**mean, "to_lowest": paired_ratio(values[None], lowest)})
    parameters = {k: v for k, v in vars(config).items()}
    return {"parameters": parameters, "method": label, "data": data, "images": records, "means": means}, pictures


def draw(result: dict[str, Any], pictures: dict[tuple[int, float], list[Tensor]]) -> Any:
    """A group of columns per size, a row per noise level and image; the MSE stands under each image."""
    p = result["parameters"]
    sizes, sigmas, count = list(p["sizes"]), list(p["sigmas"]), p["n_images"]
    names = ["clean", "noisy", *(f"n = {d}" for d in p["degrees"])]
    errors = {(r["size"], r["sigma"], r["image"], r["column"]): r["mse"] for r in result["images"]}
    across = len(names) * len(sizes)
    with plt.rc_context(IMAGE_STYLE):
        figure = plt.figure(figsize=(1.12 * across + 0.9, 1.3 * len(sigmas) * count + 0.9))
        outer = figure.add_gridspec(
            len(sigmas),
            len(sizes),
            hspace=0.08,
            wspace=0.05,
            left=0.6 / figure.get_figwidth(),
            right=0.995,
            top=1 - 0.8 / figure.get_figheight(),
            bottom=0.02,
        )
        for i, sigma in enumerate(sigmas):
            for j, size in enumerate(sizes):
                inner = outer[i, j].subgridspec(count, len(names), hspace=0.2, wspace=0.04)
                for row in range(count):
                    for column, name in enumerate(names):
                        axis = figure.add_subplot(inner[row, column])
                        show_image(axis, pictures[size, sigma][column][row, 0])
                        key = "noisy" if column == 1 else name.replace("n =", "degree")
                        if column:
                            text = f"{errors[size, sigma, row, key]:.3g}"
                            axis.set_xlabel(text, fontsize=7.5, labelpad=1.5)
                        if i == 0 and row == 0:
                            axis.set_title(name, fontsize=9)
                        if j == 0 and column == 0 and row == 0:
                            axis.set_ylabel(rf"$\sigma={sigma:g}$", fontsize=10)
        for j, size in enumerate(sizes):
            box = outer[0, j].get_position(figure)
            figure.text(
                (box.x0 + box.x1) / 2,
                1 - 0.47 / figure.get_figheight(),
                f"{size}x{size}",
                ha="center",
                fontsize=10.5,
                weight="bold",
            )
        fit = result["data"][sizes[0]]["fit"]
        figure.suptitle(
            f"Held-out digits denoised, {title_of(result['method'])}, fitted on {fit['count']:,} images of {fit['source']}; below each, its MSE",
            fontsize=10.5,
            y=1 - 0.1 / figure.get_figheight(),
            va="top",
        )
    return figure


def findings(result: dict[str, Any]) -> list[str]:
    """Mean held-out MSE of the lowest and highest degree, and the share of images that the highest degree improves."""
    lines, p = [], result["parameters"]
    for size in p["sizes"]:
        parts = []
        for sigma in p["sigmas"]:
            rows = {r["column"]: r for r in result["means"] if (r["size"], r["sigma"]) == (size, sigma)}
            low, high = (rows[f"degree {d(p['degrees'])}"] for d in (min, max))
            pair = high["to_lowest"]
            parts.append(
                f"sigma {sigma:g}: {rows['noisy']['mse']:.4g} noisy, {low['mse']:.4g} to {high['mse']:.4g} "
                f"({pair['ratio'] - 1:+.1%} ± {pair['se']:.1%})"
            )
        lines.append(
            f"{size}x{size}, mean MSE of {high['n']} held-out images, degree {min(p['degrees'])} to {max(p['degrees'])}: "
            + "; ".join(parts)
        )
    if len(p["sizes"]) > 1:
        small, large = min(p["sizes"]), max(p["sizes"])
        mean = {(r["size"], r["sigma"], r["column"]): r["mse"] for r in result["means"]}
        top = f"degree {max(p['degrees'])}"
        ratios = [mean[large, s, top] / mean[small, s, top] for s in p["sigmas"]]
        lines.append(
            f"MSE per pixel at {large} over that at {small} (degree {max(p['degrees'])}, one sigma, smoother images): "
            + ", ".join(f"{r:.2f} at sigma {s:g}" for r, s in zip(ratios, p["sigmas"]))
            + (" (lower at the larger size throughout)" if np.max(ratios) < 1 else "")
        )
    return lines


def make_figure(
    config: DenoisedConfig, output: str | Path, progress: bool = True
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Denoise and write ``output/<name>.{png,pdf,json}``; returns the figure, its record and the paths."""
    result, pictures = denoise_all(config, progress)
    return finish_figure(draw(result, pictures), {**result, "findings": findings(result)}, output, config.name, config.seed)
