"""Restoration with deepinv: every denoiser as the prior of its plug-and-play algorithm and of its diffusion samplers.

The one free number of each algorithm (the weight of the data; for total variation and wavelets the threshold) is chosen, for
every method and task, on training images that no closed form was fitted on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor, nn

from numeric.arguments import as_list
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import data_source, overlap_caution, trained
from numeric.data import ImageSet
from numeric.evaluation.adapters import PlugAndPlay
from numeric.evaluation.restore import (
    ALGORITHMS,
    TASKS,
    WEIGHTS,
    Threshold,
    check_task,
    deepinv,
    make_physics,
    quality,
    restored,
    sampler_levels,
    splitting_levels,
)
from numeric.evaluation.sweep import standard_error
from numeric.figures.base import FigureMaker, Parameters, coordinates_degree, family_degree, required_degree
from numeric.figures.foresee import Work, linear_work, network_work, own_work, shared_work
from numeric.figures.networks import main_networks, wrapped
from numeric.figures.style import COLOURS, IMAGE_STYLE, fitted_on, legend_figure, plus_minus, select, show_image
from numeric.progress import progress_bar
from numeric.scores.readouts import READOUTS
from numeric.scores.wiener import WienerScore

COLOUR = {"PnP-HQS": COLOURS["blue"], "DiffPIR": COLOURS["vermilion"], "DPS": COLOURS["green"]}
MARKER = {"PnP-HQS": "o", "DiffPIR": "s", "DPS": "^"}
THRESHOLDS = (0.1, 0.3, 1.0, 3.0)
"""Factors between a noise level and a threshold among which training images choose."""
DIGITS = 5
NOTHING = "pseudo-inverse"


@dataclass(kw_only=True)
class RestorationConfig(Parameters):
    """Parameters of the restoration figure.

    Attributes:
        size: image side. n_train: images to fit on, the last ``n_tune`` of which choose the algorithms' weights instead.
        n_eval: held-out images. noise: standard deviation of the measurements' noise. tasks: see
            :data:`numeric.evaluation.restore.TASKS`.
        steps: noise levels of the two samplers.
        families, shared: ``family:degree`` with the own and with the shared readout. wiener: ``coordinates:degree`` of
            :class:`numeric.scores.wiener.WienerScore`.
        networks: which trained networks (None: the U-Net 4blocks_noattn, where there is one of this size; []: none).
        weights: their folder.
    """

    name: str = "restoration"
    size: int = 32
    n_train: int = 4000
    n_tune: int = 3
    n_eval: int = 12
    noise: float = 0.02
    tasks: Sequence[str] = TASKS
    steps: int = 12
    families: Sequence[str] = ("local:2",)
    shared: Sequence[str] = ("independent:2",)
    wiener: Sequence[str] = ("pixel:2",)
    networks: Sequence[str] | None = None
    weights: str | None = None

    notebook: ClassVar[str] = "restoration"

    def check(self) -> None:
        self.tasks, self.wiener = as_list(self.tasks, str, "tasks"), as_list(self.wiener, str, "wiener")
        if not self.tasks:
            raise ValueError(f"give at least one of tasks: {', '.join(TASKS)}")
        for task in self.tasks:
            check_task(task)
        for text in [*self.families, *self.shared]:
            required_degree(text)
        for text in self.wiener:
            coordinates_degree(text)
        if not 0.01 <= self.noise < 49 / 255:
            raise ValueError(f"noise must lie in [0.01, {49 / 255:.2f}), where deepinv's schedules are made for; got {self.noise}")
        if self.n_eval < 2 or self.n_tune < 1 or self.n_train < self.n_tune + 2 or self.steps < 3:
            raise ValueError(
                f"need n_eval >= 2, n_tune >= 1, n_train >= n_tune + 2 and steps >= 3, got {self.n_eval}, {self.n_tune}, "
                f"{self.n_train} and {self.steps}"
            )
        if self.size % 2 or self.size < 16:
            raise ValueError(f"size must be even and at least 16 (super-resolution halves it, SSIM has a window of 11), got {self.size}")
        self.chosen_networks()

    def chosen_networks(self) -> dict[str, Any]:
        """Label -> network."""
        if self.networks is not None:
            chosen = trained(self.size, self.networks, self.weights) if self.networks else {}
        else:
            chosen = main_networks(self.size, self.weights, ["4blocks_noattn"])
        for network in chosen.values():
            network.bf16 = True  # about 1e-3 relative, and twice as fast with its gradients
        return chosen

    def work(self, train: int) -> list[Work]:
        levels, tasks = 8 + self.steps, len(self.tasks)
        images = tasks * self.n_eval
        passes = tasks * (8 + 4 * self.steps) + tasks * self.n_tune / self.n_eval * (3 + 3 * 3) * self.steps
        features = [(2 if text.startswith("both") else 1) * int(text[-1]) * self.size**2 for text in self.wiener]
        return [
            linear_work(self.size, train, levels, images),
            own_work(self.size, train, len(self.families), levels, images),
            *(shared_work(f, [d or 1], self.size, train, levels, images) for f, d in map(family_degree, self.shared)),
            *(Work("Wiener features", levels * (1.4 * train * p**2 + p**3 / 3 + 3.0 * self.size**2 * p**2), 16.0 * p**2) for p in features),
            network_work(self.size, list(self.chosen_networks().values()), int(passes), self.n_eval),
            Work("total variation", tasks * (self.n_eval + 4 * self.n_tune) * 8 * 100 * 400.0 * self.size**2),
        ]

    def levels(self) -> list[float]:
        """Every noise level that an algorithm asks for, in pixels of [0, 1]."""
        values = [*splitting_levels(self.noise).tolist(), *(sampler_levels(self.noise, self.steps) / 2).tolist()]
        return [float(f"{value:.{DIGITS - 1}e}") for value in values]


def fitted_models(config: RestorationConfig, images: ImageSet, progress: bool) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """Label -> denoiser as deepinv calls it, and the seconds that each closed form took."""
    models: dict[str, Any] = {"linear": LinearDenoiser()}
    for readout, families in (("own", config.families), ("shared", config.shared)):
        for text in families:
            family, degree = family_degree(text)
            models[f"wavelet, {readout}: {family}, degree {degree}"] = READOUTS[readout](family, degree)
    for text in config.wiener:
        coordinates, degree = coordinates_degree(text)
        wiener = WienerScore(degree=degree, coordinates=coordinates)
        models[f"{wiener.label}, degree {degree}"] = wiener
    seconds = {}
    for label, model in models.items():
        start = time.process_time()
        model.fit(images)
        if hasattr(model, "prepare_levels"):
            model.prepare_levels(config.levels(), progress=progress)
        seconds[label] = time.process_time() - start
    return {label: PlugAndPlay(m, digits=DIGITS) for label, m in {**models, **config.chosen_networks()}.items()}, seconds


def contestants(config: RestorationConfig, models: dict[str, nn.Module]) -> list[tuple[str, str, dict[float, nn.Module]]]:
    """Method, algorithm, and what may be chosen: weight or threshold -> denoiser."""
    out: list[tuple[str, str, dict[float, nn.Module]]] = []
    for label, model in models.items():
        out += [(label, algorithm, dict.fromkeys(WEIGHTS[algorithm], model)) for algorithm in ALGORITHMS]
    peers = deepinv().models
    level = max(1, min(3, config.size.bit_length() - 4))
    for label, peer in (
        ("total variation (deepinv)", peers.TVDenoiser(n_it_max=100)),
        ("wavelet soft threshold (deepinv)", peers.WaveletDenoiser(wv="db2", level=level)),
    ):
        out.append((label, "PnP-HQS", {factor: Threshold(peer, factor) for factor in THRESHOLDS}))
    return out


def tuned(
    config: RestorationConfig, algorithm: str, choices: dict[float, nn.Module], physics: Any, pairs: tuple[Tensor, Tensor], y: Tensor
) -> tuple[float, Tensor]:
    """The choice of highest PSNR on the pairs (measurements, clean images), and what it makes of the measurements ``y``."""

    def run(value: float, data: Tensor) -> Tensor:
        weight = value if value in WEIGHTS[algorithm] else 1.0  # splitting has no weight: its choices are thresholds
        return restored(algorithm, choices[value], data, physics, config.noise, config.steps, config.seed + 1, weight)

    best = next(iter(choices))
    if len(choices) > 1:
        best = max(choices, key=lambda value: float(quality(run(value, pairs[0]), pairs[1])["psnr"].mean()))
    return best, run(best, y)


def measure(config: RestorationConfig, progress: bool = True) -> tuple[dict[str, Any], dict[tuple[str, str], Tensor]]:
    """A row for every task, method and algorithm: PSNR and SSIM on the same measurements; and the first restored images."""
    deepinv()
    train, test = config.images("train", config.size, config.n_train), config.images("test", config.size, config.n_eval)
    fit, tune, clean = train.take(len(train) - config.n_tune), train[len(train) - config.n_tune :], test[:]
    models, seconds = fitted_models(config, fit, progress)
    runs = contestants(config, models)
    rows: list[dict[str, Any]] = []
    pictures: dict[tuple[str, str], Tensor] = {}
    with progress_bar(len(config.tasks) * len(runs), "restoration", progress, "run") as bar:
        for task in config.tasks:
            physics = make_physics(task, fit.shape, config.noise, config.seed)
            y, y_tune = physics(clean), physics(tune)
            plain = physics.A_dagger(y).clamp(0.0, 1.0)
            pictures[task, "clean"], pictures[task, "measured"], pictures[task, NOTHING] = clean[:1], y[:1], plain[:1]
            rows.append(summary_row(task, NOTHING, "", quality(plain, clean)))
            for label, algorithm, choices in runs:
                start = time.process_time()
                value, out = tuned(config, algorithm, choices, physics, (y_tune, tune), y)
                row = summary_row(task, label, algorithm, quality(out, clean))
                rows.append({**row, "chosen": value, "choices": list(choices), "seconds": time.process_time() - start})
                pictures[task, f"{label}|{algorithm}"] = out[:1]
                bar.update()
    networks = {label: data_source(network) for label, network in config.chosen_networks().items()}
    data = {"fit": fit.provenance, "tune": {**train.provenance, "used": f"the last {config.n_tune} images, on which no closed form was fitted"}, "held_out": test.provenance}
    record = {"data": data, "rows": rows, "fit_seconds": seconds, "cautions": overlap_caution(networks, test.source)}
    return record, pictures


def summary_row(task: str, method: str, algorithm: str, found: dict[str, Tensor]) -> dict[str, Any]:
    """Means over images with their standard errors, and the values of each image (for paired differences)."""
    row: dict[str, Any] = {"task": task, "method": method, "algorithm": algorithm}
    for name, values in found.items():
        row |= {name: float(values.mean()), f"{name}_se": standard_error(values.double().numpy())}
        row[f"{name}_each"] = [round(float(v), 4) for v in values]
    return row


def best_of(rows: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The row of the highest PSNR among those chosen."""
    return max(select(rows, **wanted), key=lambda r: r["psnr"])


def paired(row: dict[str, Any], base: dict[str, Any], name: str = "psnr") -> tuple[float, float]:
    """Mean difference over the same images, and its standard error."""
    gap = np.array(row[f"{name}_each"]) - np.array(base[f"{name}_each"])
    return float(gap.mean()), float(standard_error(gap) or 0.0)


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record."""
    out = []
    for task in record["parameters"]["tasks"]:
        rows = [r for r in record["rows"] if r["task"] == task]
        methods = [m for m in dict.fromkeys(r["method"] for r in rows) if m not in (NOTHING, "linear")]
        linear, ranked = best_of(rows, method="linear"), sorted((best_of(rows, method=m) for m in methods), key=lambda r: -r["psnr"])
        out.append(
            f"{task}: linear restores best by {linear['algorithm']}, PSNR {plus_minus(linear['psnr'], linear['psnr_se'])} dB, "
            f"SSIM {plus_minus(linear['ssim'], linear['ssim_se'])}; against it, image by image, each at its best: "
            + ", ".join(f"{r['method']} by {r['algorithm']} {plus_minus(*paired(r, linear))} dB" for r in ranked)
        )
    for algorithm in ALGORITHMS:
        wins = []
        for task in record["parameters"]["tasks"]:
            rows = select(record["rows"], task=task, algorithm=algorithm)
            winner = best_of(rows)
            closed = [r for r in rows if "U-Net" not in r["method"] and "CNN" not in r["method"] and "deepinv" not in r["method"]]
            text = f"{task} {winner['method']} ({winner['psnr']:.1f} dB)"
            if winner not in closed:
                mine = best_of(closed)
                text += f", of closed forms {mine['method']} ({mine['psnr']:.1f} dB)"
            wins.append(text)
        out.append(f"highest PSNR by {algorithm}: " + "; ".join(wins))
    return out + record["cautions"]


def short(method: str) -> str:
    """A method's name on a few lines."""
    return wrapped(method).replace(",\n", "\n").replace(": ", "\n").replace(" (", "\n(").replace(", degree", "\ndegree")


def draw(record: dict[str, Any], pictures: dict[tuple[str, str], Tensor] | None = None) -> Any:
    """Above: one held-out image, each method by its best algorithm. Below: PSNR and SSIM of every method and algorithm."""
    p, rows = record["parameters"], record["rows"]
    tasks = p["tasks"]
    methods = [m for m in dict.fromkeys(r["method"] for r in rows) if m != NOTHING]
    with plt.rc_context(IMAGE_STYLE):
        strip = 1.35 * len(tasks) + 0.35 if pictures else 0.0
        panel = 0.42 * len(methods) + 0.45
        height = strip + 2 * panel + 2.1
        figure = plt.figure(figsize=(12.5, height))
        if pictures:
            columns = ["clean", "measured", NOTHING, *methods]
            place: Any = {"left": 0.075, "right": 0.995, "top": 1 - 0.95 / height, "bottom": 1 - (0.95 + strip - 0.35) / height}
            grid = figure.add_gridspec(len(tasks), len(columns), wspace=0.06, hspace=0.14, **place)
            for line, task in enumerate(tasks):
                for column, name in enumerate(columns):
                    axis = figure.add_subplot(grid[line, column])
                    best = None if column < 3 else best_of(rows, task=task, method=name)
                    key = (task, name if best is None else f"{name}|{best['algorithm']}")
                    show_image(axis, pictures[key][0, 0].numpy())
                    if line == 0:
                        axis.set_title(short(name), fontsize=7)
                    if column == 0:
                        axis.set_ylabel(task, fontsize=8.5)
                    if best is not None:
                        axis.set_xlabel(f"{best['algorithm']} {best['psnr_each'][0]:.1f} dB", fontsize=6.5, labelpad=1)
        place = {"left": 0.19, "right": 0.985, "top": 1 - (strip + 1.3) / height, "bottom": 1.05 / height}
        grid = figure.add_gridspec(2, len(tasks), wspace=0.06, hspace=0.28, **place)
        for line, (name, unit) in enumerate((("psnr", "PSNR, dB"), ("ssim", "SSIM"))):
            for column, task in enumerate(tasks):
                axis = figure.add_subplot(grid[line, column])
                plain = select(rows, task=task, method=NOTHING)[0]
                axis.axvline(plain[name], color="0.5", linewidth=0.9, linestyle=":")
                for number, method in enumerate(methods):
                    for row in select(rows, task=task, method=method):
                        shift = 0.24 * (list(ALGORITHMS).index(row["algorithm"]) - 1)
                        axis.errorbar(
                            row[name], number + shift, xerr=1.96 * (row[f"{name}_se"] or 0.0), color=COLOUR[row["algorithm"]],
                            marker=MARKER[row["algorithm"]], markersize=4.5, capsize=2, linewidth=1.2,
                        )  # fmt: skip
                    if number % 2:
                        axis.axhspan(number - 0.5, number + 0.5, color="0.5", alpha=0.07, linewidth=0)
                axis.set_yticks(range(len(methods)), [wrapped(m) for m in methods] if column == 0 else [])
                axis.set_ylim(len(methods) - 0.5, -0.5)
                axis.grid(True, axis="x", alpha=0.25)
                axis.set_title(f"({'abcdefghi'[line * len(tasks) + column]}) {task}: {unit}", fontsize=10)
        figure.suptitle(
            f"Restoration by deepinv, {p['size']}x{p['size']}, measurement noise {p['noise']:g}, {len(rows[0]['psnr_each'])} held-out images, "
            f"{fitted_on(record)}",
            fontsize=11, y=1 - 0.12 / height,
        )  # fmt: skip
        handles = [plt.Line2D([], [], color=COLOUR[a], marker=MARKER[a], label=a) for a in ALGORITHMS]
        handles.append(plt.Line2D([], [], color="0.5", linestyle=":", label="pseudo-inverse of the measurements"))
        legend_figure(figure, handles, "bars: 95% intervals over images (right is better)")
    return figure


make_figure = FigureMaker(measure, draw, findings)
