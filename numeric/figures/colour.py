"""Colour and natural images (Appendix D): what coupling channels is worth, what neighbours are, and whether size matters.

Patches come from photographs that packages carry; whole photographs are held out.  Patches of one photograph are alike, so
beside a mean its range over the held-out photographs is shown, which a standard error over patches would hide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.shrinkage import WaveletShrinkage
from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import measure as errors_of
from numeric.evaluation.sweep import paired_ratio
from numeric.figures.base import FigureMaker, Parameters, family_degree, required_degree
from numeric.figures.foresee import Work, linear_work, own_work
from numeric.figures.style import (
    COLOURS,
    STYLE,
    legend_figure,
    plain_log,
    plus_minus,
    select,
    sigma_colours,
    sigma_handles,
)
from numeric.pictures import load_natural
from numeric.progress import progress_bar
from numeric.scores.own import WaveletScore

NEIGHBOURS = ("parent", "band", "local", "joint")
SETS = ("colour photographs", "grey photographs", "MNIST")
SET_COLOUR = dict(zip(SETS, (COLOURS["vermilion"], COLOURS["black"], COLOURS["blue"])))
SET_MARKER = dict(zip(SETS, "so^"))
OVERLAP = 32
"""Pixels between neighbouring patches that are larger than this."""
BATCH_PIXELS = 2**22
"""Pixels that a pass of an own readout holds at a time."""


@dataclass(kw_only=True)
class ColourConfig(Parameters):
    """Parameters of the colour figure.

    Attributes:
        sizes: sides of the colour patches. n_train, n_eval: patches to fit on and to evaluate on per split.
        families: ``family:degree`` with the own readout, with and without coupled channels. ridge: of all own readouts.
        degree: of the readouts in the two other comparisons.
        components, rank: of the Gaussian mixture: k-means clusters, and leading directions of each covariance (the rest of the
            variance is spread evenly).
        sigmas: VE noise levels.
        neighbour_size: side at which neighbours are compared, on all three sets of images; 0 leaves it out.
        grey_sizes: sides of the grey patches, on which the families are held against linear as the size grows; linear is fitted
            through the ``n_train`` patches' own Gram matrix where they are fewer than pixels (1.6 GiB for 1,500 of 256 x 256).
    """

    name: str = "colour"
    sizes: Sequence[int] = (32, 64)
    n_train: int = 1500
    n_eval: int = 150
    families: Sequence[str] = ("independent:3", "band:3", "local:2")
    degree: int = 2
    ridge: float = 1e-6
    components: int = 20
    rank: int = 40
    sigmas: Sequence[float] = (0.1, 0.25, 0.5)
    neighbour_size: int = 32
    grey_sizes: Sequence[int] = (32, 64, 128, 256)

    notebook: ClassVar[str] = "colour"
    lists: ClassVar[dict[str, Any]] = {**Parameters.lists, "grey_sizes": int}

    def check(self) -> None:
        for text in self.families:
            required_degree(text)
        if self.degree < 1 or self.n_train < 2 or self.n_eval < 2:
            raise ValueError(f"need degree >= 1, n_train >= 2 and n_eval >= 2, got {self.degree}, {self.n_train}, {self.n_eval}")
        if not self.sizes or not self.grey_sizes:
            raise ValueError("give at least one of sizes and of grey_sizes")

    def work(self, train: int) -> list[Work]:
        levels, images, out = len(self.sigmas), 2 * self.n_eval, []
        for size in [round(size * 3**0.5) for size in self.sizes] + list(self.grey_sizes):  # as many values as a colour patch has
            out += [linear_work(size, self.n_train, levels, images), own_work(size, train, 2 * len(self.families) + 3, levels, images)]
        return out

    def photographs(self, split: str, size: int, channels: int) -> ImageSet:
        """A fair sample of the patches of a split."""
        count = self.n_train if split == "train" else self.n_eval
        return load_natural(split, size=size, channels=channels, count=count, stride=min(size, OVERLAP), seed=self.seed)

    def readout(self, family: str, coupled: bool = False, degree: int | None = None) -> WaveletScore:
        return WaveletScore(family, degree or self.degree, channels_coupled=coupled, ridge=self.ridge)


def compared(
    models: Mapping[str, Denoiser], reference: str, splits: Mapping[str, ImageSet], config: ColourConfig, bar: Any, twins: Mapping[str, str] = {}
) -> list[dict[str, Any]]:
    """Fit every model on the ``train`` split; rows of the MSE on each split, and its paired ratio to the reference model's.

    ``per_source`` of a row are the ratios on each photograph by itself (where the images say which they come from); ``to_twin``
    the paired ratio to the model that ``twins`` names for it, an earlier one.
    """
    found: dict[tuple[str, str, float], np.ndarray] = {}
    rows = []
    for label, model in models.items():
        if isinstance(model, WaveletScore):
            model.fit(splits["train"], batch_size=max(1, BATCH_PIXELS // math.prod(splits["train"].shape)))
        elif hasattr(model, "fit"):
            model.fit(splits["train"])
        for split, images in splits.items():
            part = images.take(config.n_eval)
            for number, sigma in enumerate(config.sigmas):
                key = (config.seed, number)
                found[label, split, sigma] = errors_of({label: (model, None)}, part, sigma, key=key, batch_size=50)[label, None]
                errors, base = found[label, split, sigma], found[reference, split, sigma]
                row = {"method": label, "split": split, "sigma": sigma, "mse": float(errors.mean()), "n": errors.shape[1]}
                row["ratio"] = paired_ratio(errors, base)
                if label in twins:
                    row["to_twin"] = paired_ratio(errors, found[twins[label], split, sigma])
                if part.labels is not None and "patches" in part.source:
                    sources = np.asarray(part.labels)
                    each = [float(errors[:, sources == s].mean() / base[:, sources == s].mean()) for s in np.unique(sources)]
                    row["per_source"] = each
                rows.append(row)
        bar.update()
    return rows


def measure(config: ColourConfig, progress: bool = True) -> dict[str, Any]:
    """Three tables: colour against linear, neighbours against independent, and size."""
    colour, neighbours, sizes, data = [], [], [], {}
    steps = len(config.sizes) * (3 + 2 * len(config.families)) + 5 * len(config.grey_sizes)
    steps += (1 + len(NEIGHBOURS)) * len(SETS) * bool(config.neighbour_size)
    with progress_bar(steps, "colour", progress, "model") as bar:
        for size in config.sizes:
            splits = {split: config.photographs(split, size, 3) for split in ("train", "test")}
            data[f"colour {size}"] = {split: images.provenance for split, images in splits.items()}
            models: dict[str, Denoiser] = {"linear": LinearDenoiser(), "BayesShrink": WaveletShrinkage("bayes")}
            mixture = GaussianMixtureDenoiser(min(config.components, len(splits["train"])), config.rank, config.seed)
            models["Gaussian mixture"] = mixture
            for text in config.families:
                family, degree = family_degree(text)
                models[text] = config.readout(family, degree=degree)
                models[f"{text}, channels coupled"] = config.readout(family, coupled=True, degree=degree)
            colour += [{"size": size, **row} for row in compared(models, "linear", splits, config, bar)]
        if config.neighbour_size:
            for name in SETS:
                splits = {}
                for split in ("train", "test"):
                    if name == "MNIST":
                        count = config.n_train if split == "train" else config.n_eval
                        splits[split] = config.images(split, config.neighbour_size, count)
                    else:
                        splits[split] = config.photographs(split, config.neighbour_size, 3 if name.startswith("colour") else 1)
                data[f"neighbours, {name}"] = {split: images.provenance for split, images in splits.items()}
                models = {family: config.readout(family) for family in ("independent", *NEIGHBOURS)}
                neighbours += [{"set": name, **row} for row in compared(models, "independent", splits, config, bar)]
        for size in config.grey_sizes:
            splits = {split: config.photographs(split, size, 1) for split in ("train", "test")}
            data[f"grey {size}"] = {split: images.provenance for split, images in splits.items()}
            models = {
                "linear": LinearDenoiser(),
                "diagonal linear": config.readout("independent", degree=1),
                "independent": config.readout("independent"),
                "local linear": config.readout("local", degree=1),
                "local": config.readout("local"),
            }
            twins = {"independent": "diagonal linear", "local": "local linear"}
            sizes += [{"size": size, **row} for row in compared(models, "linear", splits, config, bar, twins)]
    return {"data": data, "colour": colour, "neighbours": neighbours, "sizes": sizes}


def percent(ratio: dict[str, Any]) -> str:
    """A ratio as a change: ``-3.1 ± 0.4 %``."""
    sign = "+" if ratio["ratio"] > 1 else ""
    return f"{sign}{plus_minus(100 * (ratio['ratio'] - 1), 100 * ratio['se'])} %"


def along(rows: Sequence[dict[str, Any]], key: str, sizes: Sequence[int]) -> str:
    """Ratios as the size grows, and whether each lies two standard errors below the one before."""
    path = [r[key]["ratio"] for r in rows]
    grows = all(b + 2 * r[key]["se"] < a for a, b, r in zip(path, path[1:], rows[1:]))
    values = ", ".join(f"{v:.2f} at {s}" for v, s in zip(path, sizes))
    return f"{values}: {'the advantage grows with size' if grows else 'no steady growth with size'}"


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record."""
    p, out = record["parameters"], []
    for size in p["sizes"]:
        for sigma in p["sigmas"]:
            rows = select(record["colour"], size=size, sigma=sigma, split="test")
            best = min((r for r in rows if r["method"] != "linear"), key=lambda r: r["mse"])
            gains = []
            for family in p["families"]:
                plain, coupled = (next(r for r in rows if r["method"] == family + more) for more in ("", ", channels coupled"))
                gains.append(f"{family} {100 * (coupled['mse'] / plain['mse'] - 1):+.1f} %")
            out.append(
                f"colour {size}x{size}, sigma {sigma:g}, held out: the best beside linear is {best['method']} "
                f"({percent(best['ratio'])} against linear, {min(best['per_source']):.2f} to {max(best['per_source']):.2f} times it "
                f"over {len(best['per_source'])} photographs); coupling channels: {', '.join(gains)}"
            )
    for name in dict.fromkeys(r["set"] for r in record["neighbours"]):
        parts = []
        for family in NEIGHBOURS:
            ratios = [r["ratio"]["ratio"] for r in select(record["neighbours"], set=name, method=family, split="test")]
            parts.append(f"{family} {100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f} %")
        out.append(f"{name}, held out, against independent over the noise levels: {', '.join(parts)}")
    for sigma in p["sigmas"]:
        for split in ("train", "test"):
            rows = [next(iter(select(record["sizes"], size=s, sigma=sigma, split=split, method="local"))) for s in p["grey_sizes"]]
            word = "training" if split == "train" else "held-out"
            start = f"grey photographs, sigma {sigma:g}, {word} patches: local over"
            out.append(f"{start} linear {along(rows, 'ratio', p['grey_sizes'])}")
            if all("to_twin" in r for r in rows):
                out.append(f"{start} its own linear features, which overfit as little, {along(rows, 'to_twin', p['grey_sizes'])}")
    memorised = [
        (size, select(record["sizes"], size=size, method="linear", sigma=sigma, split="test")[0]["mse"]
         / select(record["sizes"], size=size, method="linear", sigma=sigma, split="train")[0]["mse"])
        for sigma in p["sigmas"][:1] for size in p["grey_sizes"]
    ]  # fmt: skip
    values = ", ".join(f"{ratio:.1f} times at {size}" for size, ratio in memorised)
    out.append(
        f"but linear is fitted to {p['n_train']:,} patches whatever their size: at sigma {p['sigmas'][0]:g} its held-out error is "
        f"{values} its training error, so part of any growth is linear's own overfitting"
    )
    return out


def _bars(axis: Any, row: dict[str, Any], at: float, colour: Any, marker: str, split: str) -> None:
    each = row.get("per_source") if split == "test" else None
    if each:
        axis.plot([min(each), max(each)], [at, at], color=colour, linewidth=1, alpha=0.6)
    axis.errorbar(
        row["ratio"]["ratio"], at, xerr=row["ratio"]["se"], marker=marker, markersize=4.5, capsize=2, color=colour,
        markerfacecolor="white" if split == "test" else None,
    )  # fmt: skip


def draw(record: dict[str, Any]) -> Any:
    """(a) colour against linear, a panel a size; (b) neighbours against independent; (c) against linear as the size grows."""
    p = record["parameters"]
    methods: list[str] = [m for m in dict.fromkeys(r["method"] for r in record["colour"]) if m != "linear"]
    colours, columns = sigma_colours(p["sigmas"]), len(p["sizes"])
    middle = p["sigmas"][len(p["sigmas"]) // 2]
    with plt.rc_context(STYLE):
        height = 0.34 * len(methods) + 5.6
        figure = plt.figure(figsize=(max(4.2 * columns + 1.6, 9.5), height))
        place: Any = {"left": 0.17, "right": 0.985, "top": 1 - 0.75 / height, "bottom": 1.25 / height, "hspace": 0.42}
        outer = figure.add_gridspec(2, 1, height_ratios=[0.34 * len(methods) + 0.3, 2.6], **place)
        upper = outer[0].subgridspec(1, columns, wspace=0.06)
        for column, size in enumerate(p["sizes"]):
            axis = figure.add_subplot(upper[column])
            for number, method in enumerate(methods):
                for shift, sigma in enumerate(p["sigmas"]):
                    row = select(record["colour"], size=size, method=method, sigma=sigma, split="test")[0]
                    _bars(axis, row, number + 0.22 * (shift - (len(p["sigmas"]) - 1) / 2), colours[sigma], "s", "test")
                if number % 2:
                    axis.axhspan(number - 0.5, number + 0.5, color="0.5", alpha=0.07, linewidth=0)
            axis.axvline(1.0, color="0.4", linewidth=0.8)
            plain_log(axis, "x")
            axis.set_yticks(range(len(methods)), methods if column == 0 else [""] * len(methods))
            axis.set_ylim(len(methods) - 0.5, -0.5)
            axis.grid(False, axis="y")
            axis.set_title(f"({'abcd'[column]}) colour {size}x{size}: MSE over linear's, held out")
        lower = outer[1].subgridspec(1, 2, wspace=0.3)
        left, right = figure.add_subplot(lower[0]), figure.add_subplot(lower[1])
        names = list(dict.fromkeys(r["set"] for r in record["neighbours"]))
        for shift, name in enumerate(names):
            for number, family in enumerate(NEIGHBOURS):
                row = select(record["neighbours"], set=name, method=family, sigma=middle, split="test")[0]
                left.errorbar(
                    number + 0.18 * (shift - 1), 100 * (row["ratio"]["ratio"] - 1), yerr=100 * row["ratio"]["se"], capsize=2, markersize=5,
                    color=SET_COLOUR[name], marker=SET_MARKER[name], linestyle="none", label=name if number == 0 else None,
                )  # fmt: skip
        left.axhline(0.0, color="0.4", linewidth=0.8)
        left.set_xticks(range(len(NEIGHBOURS)), NEIGHBOURS)
        left.set_ylabel("MSE against independent, per cent")
        left.set_title(f"({'abcde'[columns]}) what neighbours are worth, sigma {middle:g}, held out")
        if names:
            left.legend(fontsize=8)
        for sigma in p["sigmas"]:
            for split, line, marker in (("train", "-", "o"), ("test", "--", "s")):
                rows = select(record["sizes"], sigma=sigma, split=split, method="local")
                right.errorbar(
                    [r["size"] for r in rows], [r["ratio"]["ratio"] for r in rows], yerr=[r["ratio"]["se"] for r in rows], color=colours[sigma],
                    linestyle=line, marker=marker, markersize=4.5, capsize=2, markerfacecolor="white" if split == "test" else None,
                )  # fmt: skip
            rows = [r for r in select(record["sizes"], sigma=sigma, split="test", method="local") if "to_twin" in r]
            right.plot([r["size"] for r in rows], [r["to_twin"]["ratio"] for r in rows], ":", color=colours[sigma], marker="^", markersize=4)
        right.axhline(1.0, color="0.4", linewidth=0.8)
        right.set_xscale("log", base=2)
        right.set_xticks(p["grey_sizes"], [str(s) for s in p["grey_sizes"]])
        right.set_xlabel("side of a grey patch (solid: training, dashed: held out,\ndotted: held out, over local linear)")
        plain_log(right)
        right.set_ylabel("MSE over linear's")
        right.set_title(f"({'abcdef'[columns + 1]}) local, degree {p['degree']}: does size help?")
        figure.suptitle(
            f"Own readouts on photographs (family:degree), fitted to {p['n_train']:,} patches", fontsize=11, y=1 - 0.12 / height
        )
        note = "thick bars: ± 1 standard error over patches, paired; thin bars: range over held-out photographs"
        legend_figure(figure, sigma_handles(p["sigmas"]), note)
    return figure


make_figure = FigureMaker(measure, draw, findings)
