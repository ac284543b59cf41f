"""Figures 9 and 10: held-out images denoised by one family at every noise level and degree, with the MSE of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from numeric.evaluation.sweep import image_errors, noise_like, paired_ratio, summary
from numeric.figures.base import FigureMaker, Parameters, family_degree
from numeric.figures.foresee import Work, own_work, shared_work
from numeric.figures.style import IMAGE_STYLE, fitted_on, plus_minus, select, show_image, title_of
from numeric.scores.readouts import READOUTS

Pictures = dict[tuple[int, float], list[Tensor]]


@dataclass(kw_only=True)
class DenoisedConfig(Parameters):
    """Parameters of Figures 9 and 10.

    Attributes:
        family: of the estimators. sizes: image sides. n_train: images to fit on (None: all).
        shared: highest degree of the shared readout at each size, beside the own one; 0 leaves it out.
        n_images: digits drawn, the first held-out ones. n_eval: held-out images that the mean errors are measured on.
    """

    name: str = "fig9"
    family: str = "independent"
    sizes: Sequence[int] = (32, 64)
    n_train: int | None = None
    n_images: int = 1
    n_eval: int = 500
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3)
    shared_degrees: Sequence[int] = (3, 0)
    radius: int = 1
    interactions: str = "pairwise"
    ridge: float = 1e-10

    notebook: ClassVar[str] = "fig9"
    lists: ClassVar[dict[str, Any]] = {**Parameters.lists, "shared_degrees": int}

    def check(self) -> None:
        family_degree(self.family)
        if not 1 <= self.n_images <= self.n_eval:
            raise ValueError(f"need 1 <= n_images <= n_eval, got {self.n_images} and {self.n_eval}")
        if len(self.shared_degrees) != len(self.sizes):
            raise ValueError(f"give one of shared_degrees per size: {self.sizes} but {self.shared_degrees}")

    def work(self, train: int) -> list[Work]:
        levels, out = len(self.sigmas), []
        for size, highest in zip(self.sizes, self.shared_degrees):
            out.append(own_work(size, train, 1, levels, self.n_eval))
            if highest:
                degrees = [d for d in self.degrees if d <= highest]
                out.append(shared_work(self.family, degrees, size, train, levels, self.n_eval, self.radius))
        return out


def measure(config: DenoisedConfig, progress: bool = True) -> tuple[dict[str, Any], Pictures]:
    """Records of every image shown, and for each (size, sigma) the rows of pictures: clean and noisy, then every estimate."""
    pictures: Pictures = {}
    records: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    data, columns = {}, []
    for size, highest in zip(config.sizes, config.shared_degrees):
        train = config.images("train", size, config.n_train)
        test = config.images("test", size, config.n_eval)
        data[size] = {"fit": train.provenance, "test": test.provenance}
        clean, models = test[:], {}
        for readout, top in (("own", max(config.degrees)), ("shared", highest)):
            degrees = [d for d in config.degrees if d <= top]
            if degrees:
                options = {"ridge": config.ridge} if readout == "own" else {}
                model = READOUTS[readout](config.family, max(degrees), config.radius, config.interactions, **options)
                models[readout] = (model.fit(train, progress=progress), degrees)
        for sigma in config.sigmas:
            y = clean + sigma * noise_like(clean, config.seed, round(sigma * 1e6))
            found = {("", "clean"): clean, ("", "noisy"): y.clamp(*test.pixel_range)}
            for readout, (model, degrees) in models.items():
                estimates = model.denoise_degrees(y, sigma, degrees)
                found |= {(readout, f"degree {d}"): x for d, x in zip(degrees, estimates)}
            pictures[size, sigma] = [x[: config.n_images] for x in found.values()]
            columns.append({"size": size, "sigma": sigma, "columns": list(found)})
            errors = {key: image_errors(x, clean).double().numpy()[None] for key, x in found.items()}
            for (readout, column), values in errors.items():
                if column == "clean":
                    continue
                fields = {"size": size, "sigma": sigma, "readout": readout, "column": column}
                records += [{**fields, "image": i, "mse": float(values[0, i])} for i in range(config.n_images)]
                lowest = errors[readout or "own", f"degree {min(config.degrees)}"]
                means.append({**fields, **summary(values), "to_lowest": paired_ratio(values, lowest)})
    label = model.label.split(", own")[0].split(", shared")[0]
    return {"method": label, "data": data, "columns": columns, "images": records, "means": means}, pictures


def draw(record: dict[str, Any], pictures: Pictures) -> Any:
    """A block per size: a row per noise level and image, clean, noisy and every estimate, each above its difference to clean.

    Neighbouring degrees look alike, so the second line of every row is the estimate less the clean image, at the row's own
    scale (blue too dark, red too bright).
    """
    p = record["parameters"]
    errors = {(r["size"], r["sigma"], r["image"], r["readout"], r["column"]): r["mse"] for r in record["images"]}
    columns = {(c["size"], c["sigma"]): [tuple(key) for key in c["columns"]] for c in record["columns"]}
    most = [max(len(columns[size, s]) for s in p["sigmas"]) for size in p["sizes"]]
    with plt.rc_context(IMAGE_STYLE):
        rows = len(p["sigmas"]) * p["n_images"]
        figure = plt.figure(figsize=(1.0 * sum(most) + 0.9, 2.25 * rows + 0.9))
        width, height = figure.get_size_inches()
        outer = figure.add_gridspec(
            len(p["sigmas"]), len(p["sizes"]), hspace=0.06, wspace=0.05, left=0.6 / width, right=0.995, top=1 - 0.95 / height,
            bottom=0.01, width_ratios=most,
        )  # fmt: skip
        for i, sigma in enumerate(p["sigmas"]):
            for j, size in enumerate(p["sizes"]):
                keys = columns[size, sigma]
                inner = outer[i, j].subgridspec(2 * p["n_images"], most[j], hspace=0.17, wspace=0.04)
                for image in range(p["n_images"]):
                    shown = [x[image, 0] for x in pictures[size, sigma]]
                    scale = max(float((x - shown[0]).abs().quantile(0.995)) for x in shown[2:])
                    for column, (readout, name) in enumerate(keys):
                        axis = figure.add_subplot(inner[2 * image, column])
                        show_image(axis, shown[column])
                        if column:
                            axis.set_xlabel(f"{errors[size, sigma, image, readout, name]:.4g}", fontsize=7.5, labelpad=1.5)
                        if i == 0 and image == 0:
                            axis.set_title(f"{readout}\n{name}".replace("degree", "n =").strip(), fontsize=8.5)
                        if j == 0 and column == 0:
                            axis.set_ylabel(rf"$\sigma={sigma:g}$" if image == 0 else "", fontsize=10)
                        if column > 1:
                            below = figure.add_subplot(inner[2 * image + 1, column])
                            show_image(below, shown[column] - shown[0], cmap="RdBu_r", vmin=-scale, vmax=scale)
                        elif column == 0:
                            below = figure.add_subplot(inner[2 * image + 1, 0:2])
                            below.axis("off")
                            text = f"estimate - clean\n(-{scale:.2f} blue\nto {scale:.2f} red)"
                            below.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.35")
        for j, size in enumerate(p["sizes"]):
            box = outer[0, j].get_position(figure)
            place = ((box.x0 + box.x1) / 2, 1 - 0.5 / height)
            figure.text(*place, f"{size}x{size}", ha="center", fontsize=10.5, weight="bold")
        title = f"Held-out digits denoised, {title_of(record['method'] + ',').rstrip(',')}, {fitted_on(record)}; below each, its MSE"
        figure.suptitle(title, fontsize=10.5, y=1 - 0.1 / height, va="top")
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Mean held-out MSE of the lowest and highest degree of each readout, and how it goes with the size."""
    lines, p = [], record["parameters"]
    for size in p["sizes"]:
        for readout in dict.fromkeys(r["readout"] for r in select(record["means"], size=size) if r["readout"]):
            parts, mine = [], select(record["means"], size=size, readout=readout)
            names = list(dict.fromkeys(r["column"] for r in mine))
            for sigma in p["sigmas"]:
                noisy, low, high = (
                    select(record["means"], size=size, sigma=sigma, readout=r, column=c)[0]
                    for r, c in (("", "noisy"), (readout, names[0]), (readout, names[-1]))
                )
                pair = high["to_lowest"]
                change = f" ({plus_minus(100 * (pair['ratio'] - 1), 100 * pair['se'])} %)" if low is not high else ""
                parts.append(f"sigma {sigma:g}: {noisy['mse']:.4g} noisy, {low['mse']:.4g} to {high['mse']:.4g}{change}")
            lines.append(
                f"{size}x{size}, mean MSE of {mine[0]['n']} held-out images, {readout} readout, {names[0]} to {names[-1]}: "
                + "; ".join(parts)
            )
    small, large, top = min(p["sizes"]), max(p["sizes"]), f"degree {max(p['degrees'])}"
    if small != large:
        mean = {(r["size"], r["sigma"]): r["mse"] for r in select(record["means"], readout="own", column=top)}
        ratios = [mean[large, s] / mean[small, s] for s in p["sigmas"]]
        lines.append(
            f"MSE per pixel at {large} over that at {small} (own readout, {top}, one sigma, smoother images): "
            + ", ".join(f"{r:.2f} at sigma {s:g}" for r, s in zip(ratios, p["sigmas"]))
            + (" (lower at the larger size throughout)" if np.max(ratios) < 1 else "")
        )
    return lines


make_figure = FigureMaker(measure, draw, findings)
