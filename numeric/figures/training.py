"""Training curves: held-out error of every network against the images it has seen, and whether it has stopped improving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt

from numeric.baselines.configs import get_config
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import records_alone, trained_at, trained_label
from numeric.baselines.plateau import LEAST_IMAGES, SIGMAS, TOLERANCE, images_seen, last_doubling, mean_mse, state
from numeric.baselines.train import measure as held_out_errors
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.style import STYLE


@dataclass(kw_only=True)
class TrainingConfig(Parameters):
    """Parameters of the training curves.

    Attributes:
        sizes: image sides, one panel each. networks: which (None: all). weights: folder of networks (None: those shipped).
        n_train: images that the linear denoiser, drawn for comparison, is fitted on (None: all; 0: leave it out).
    """

    name: str = "training"
    sizes: Sequence[int] = (32, 64)
    networks: Sequence[str] | None = None
    weights: str | None = None
    n_train: int | None = None

    notebook: ClassVar[str] = "training"

    def check(self) -> None:
        trained_at(self.sizes, self.networks, self.weights)


def _curve(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Points of a record's curve with their image counts (older records count steps)."""
    batch = record["schedule"]["batch_size"]
    return [{"images": p.get("images", p.get("step", 0) * batch), "mse": p["mse"]} for p in record["held_out_curve"]]


def measure(config: TrainingConfig, progress: bool = True) -> dict[str, Any]:
    """Curves from the networks' records, and the linear denoiser's error on the same images and noise."""
    rows, linear, data = [], {}, {}
    for size, networks in trained_at(config.sizes, config.networks, config.weights).items():
        alone = records_alone(size, config.weights) if config.networks is None else []
        for label, record in [(label, network.record) for label, network in networks.items()] + [("", record) for record in alone]:
            rows.append(
                {
                    "network": label or f"{trained_label(get_config(record['config']['name']), record)}, weights not shipped",
                    "weights": bool(label),
                    "title": get_config(record["config"]["name"]).title,
                    "size": size,
                    "images": images_seen(record),
                    "trained": bool(record.get("trained")),
                    "state": state(record),
                    "last_doubling": last_doubling(_curve(record)),
                    "held_out_images": record["held_out_curve_images"],
                    "phases": record.get("phases") or [{"from_images": 0, "schedule": record["schedule"]}],
                    "command": record["command"],
                    "curve": _curve(record),
                }
            )
        if config.n_train != 0 and networks:
            images = config.images("train", size, config.n_train)
            count = max(row["held_out_images"] for row in rows if row["size"] == size)
            test = config.images("test", size, count)
            model = LinearDenoiser().fit(images, progress=progress)
            errors = {k: v["mse"] for k, v in held_out_errors(model, test, SIGMAS).items()}
            linear[str(size)] = {"mse": errors, "mean": mean_mse({"mse": errors}), "held_out_images": count}
            data[str(size)] = {"fit": images.provenance, "test": test.provenance}
    return {"rows": rows, "linear": linear, "data": data, "tolerance": TOLERANCE, "least_images": LEAST_IMAGES}


def draw(record: dict[str, Any]) -> Any:
    """One panel a size: mean held-out MSE against images seen, both logarithmic; a ring where a network is trained."""
    sizes = record["parameters"]["sizes"]
    titles = list(dict.fromkeys(row["title"] for row in record["rows"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(sizes), figsize=(5.4 * len(sizes), 4.2), squeeze=False, layout="constrained")
        for axis, size in zip(axes[0], sizes):
            for row in (r for r in record["rows"] if r["size"] == size and r["curve"]):
                colour = f"C{titles.index(row['title'])}"
                x, y = [p["images"] for p in row["curve"]], [mean_mse(p) for p in row["curve"]]
                axis.plot(x, y, marker=".", color=colour, label=row["title"])
                if row["trained"]:
                    axis.plot(x[-1], y[-1], marker="o", markersize=10, markerfacecolor="none", color=colour)
            if str(size) in record["linear"]:
                axis.axhline(record["linear"][str(size)]["mean"], color="0.4", linestyle="--", label="linear denoiser")
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_title(f"{size}x{size}")
            axis.set_xlabel("training images seen, with repetitions")
        axes[0, 0].set_ylabel(f"held-out MSE, mean over $\\sigma$ = {', '.join(f'{s:g}' for s in SIGMAS)}")
        handles = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels())}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize=8)
        figure.suptitle(
            f"Training of the networks (a ring: the last doubling of images lowered the error by less than {100 * record['tolerance']:g} %, "
            f"after {record['least_images']:,} images at least)",
            fontsize=10,
        )
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Per network: its state, its last doubling, and how it stands to the linear denoiser."""
    lines = []
    for row in record["rows"]:
        drop = row["last_doubling"]
        text = f"{row['size']}x{row['size']}, {row['title']}: {row['state']}{'' if row['weights'] else ' (its weights are not shipped)'}"
        if drop is not None:
            text += f"; the last doubling of images {'lowered' if drop >= 0 else 'raised'} its mean held-out MSE by {100 * abs(drop):.1f} %"
        linear = record["linear"].get(str(row["size"]))
        if linear and row["curve"] and row["held_out_images"] == linear["held_out_images"]:
            text += f"; {mean_mse(row['curve'][-1]) / linear['mean']:.3f} of the linear denoiser's"
        lines.append(text)
    done = sum(row["trained"] for row in record["rows"])
    lines.append(
        f"{done} of {len(record['rows'])} networks count as trained: less than {100 * record['tolerance']:g} % in the last doubling, and "
        f"at least {record['least_images']:,} images"
    )
    return lines


make_figure = FigureMaker(measure, draw, findings)
