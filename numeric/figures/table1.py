"""Table 1 as one function: trained networks and closed forms side by side, with sizes, times and errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from numeric.baselines import trained
from numeric.baselines.configs import CONFIGS, get_config, parameter_count
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.locality import LocalityDenoiser
from numeric.baselines.network import overlap_caution, trained_label
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.plateau import images_seen
from numeric.baselines.shrinkage import WaveletShrinkage
from numeric.baselines.train import Schedule, train
from numeric.data import load_mnist
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import evaluate
from numeric.figures.style import STYLE, sigma_colours
from numeric.results import finish_figure
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore


@dataclass
class Table1Config:
    """Parameters of Table 1.

    The fall-back's held-out digits belong to MNIST's training set, which the shipped networks have seen: there the findings say
    so, and only ``WAVELET_SCORE_DATA`` gives held-out errors of networks.

    Attributes:
        size: image side. n_train: images to fit closed forms on (None: all).
        n_eval: images per split for closed forms. n_network: for networks. n_slow: for the optimal and local denoisers.
        n_local: training images of the local machines and the PCA-locality denoiser.
        sigmas: VE levels. families: ``family:degree`` of the ``own`` readout; shared: of the ``shared`` one.
        networks: configurations to show (None: all eight); those not shipped are trained for ``steps`` steps here, or left
            out where ``steps`` is 0. batch_size: of that training.
        weights: folder of trained networks (None: those shipped).
        slow: include the optimal empirical, local and shrinkage denoisers.
    """

    size: int = 32
    n_train: int | None = None
    n_eval: int = 2000
    n_network: int = 250
    n_slow: int = 50
    n_local: int = 500
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    families: Sequence[str] = ("independent:3", "band:3", "local:3")
    shared: Sequence[str] = ("independent:2",)
    networks: Sequence[str] | None = None
    steps: int = 0
    batch_size: int = 32
    weights: str | None = None
    slow: bool = True
    seed: int = 0
    name: str = "table1"
    data_root: str | None = None
    output: str = field(default="paper_figures")

    def __post_init__(self) -> None:
        for name in self.networks or ():
            get_config(name)
        if not self.sigmas or min(self.sigmas) <= 0:
            raise ValueError(f"sigmas must be > 0, got {list(self.sigmas)}")
        for item in [*self.families, *self.shared]:
            name, _, degree = item.partition(":")
            if not name or not degree.isdigit() or int(degree) < 1:
                raise ValueError(f"a family is written name:degree, such as band:3; got {item!r}")


def _closed_forms(config: Table1Config, train_images: Any) -> tuple[dict[str, Denoiser], dict[str, dict[str, Any]]]:
    """Label -> fitted denoiser, and label -> fit time, number of fitted parameters, kind."""
    models: dict[str, Denoiser] = {}
    facts: dict[str, dict[str, Any]] = {}

    def add(label: str, model: Any, parameters: Any, n_images: int, **more: Any) -> None:
        start = time.perf_counter()
        model.fit(train_images)
        solve = time.perf_counter()
        y = train_images[:1] + 0.0
        for sigma in config.sigmas:  # solving at each noise level is part of the closed form
            model.estimate(y, _ve(sigma))
        models[label] = model
        facts[label] = {
            "kind": "closed form",
            "parameters": parameters(model) if callable(parameters) else parameters,
            "fit_seconds": solve - start,
            "solve_seconds": time.perf_counter() - solve,
            "fitted_on": n_images,
            **more,
        }

    n, pixels, linear = len(train_images), train_images.shape[1] * train_images.shape[2], LinearDenoiser()
    add("linear", linear, pixels * (pixels + 3) // 2, n)
    for item in config.families:
        name, degree = item.split(":")
        model = WaveletScore(name, int(degree))
        add(f"{model.label}, degree {degree}", model, lambda m: _theta_count(m, config.sigmas[0]), n)
    for item in config.shared:
        name, degree = item.split(":")
        shared = SharedWaveletScore(name, int(degree))
        add(f"{shared.label}, degree {degree}", shared, lambda m: int(m.solve(_ve(config.sigmas[0])).readout.numel()), n)
    if config.slow:
        machine = LocalScoreMachine(9, False, n_train=config.n_local)
        locality = LocalityDenoiser(n_train=config.n_local)
        bayes = WaveletShrinkage("bayes")
        models |= {
            "optimal empirical": OptimalDenoiser().fit(train_images),
            machine.label: machine.fit(train_images),
            locality.label: locality.fit(train_images, linear=linear),
            bayes.label: bayes,
        }
        facts |= {
            "optimal empirical": {"kind": "training images", "fitted_on": n},
            machine.label: {"kind": "training images", "fitted_on": config.n_local},
            locality.label: {"kind": "training images", "fitted_on": config.n_local},
            bayes.label: {"kind": "no training", "fitted_on": 0},
        }
    return models, facts


def _ve(sigma: float) -> Any:
    from numeric.noise import ve

    return ve(sigma)


def _theta_count(model: WaveletScore, sigma: float) -> int:
    """Numbers theta at one noise level and the model's degree."""
    solution = model.solve(_ve(sigma))
    return int(sum(block.theta.numel() for block in solution.blocks))


def _networks(config: Table1Config, train_images: Any, progress: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Label -> denoiser and facts of every network shown."""
    shipped = {d.record["config"]["name"]: d for d in trained(config.size, folder=config.weights).values()}
    models: dict[str, Denoiser] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name in config.networks or CONFIGS:
        row = get_config(name)
        printed = {
            "base_channels": row.base_channels,
            "channel_mult": list(row.channel_mult),
            "printed_steps": row.steps,
            "printed_batch": row.batch_size,
            "printed_learning_rate": row.learning_rate,
            "printed_minutes": row.printed_minutes,
            "note": row.note,
        }
        if name in shipped:
            denoiser: Any = shipped[name]
            record, source = denoiser.record, "shipped"
        elif config.steps:
            schedule = Schedule(config.steps, config.batch_size, row.learning_rate, config.seed)
            trainer, record = train(row, train_images, schedule, progress=progress)
            denoiser, source = trainer.denoiser(), "trained here"
        else:
            label = f"{row.title} (not trained)"
            parameters = parameter_count(row.build(train_images.shape[0]))
            facts[label] = {"kind": "network", **printed, "parameters": parameters, "source": "not trained"}
            continue
        label = trained_label(row, record)
        models[label] = denoiser
        facts[label] = {
            "kind": "network",
            **printed,
            "parameters": record["parameters"],
            "steps": record["steps"],
            "images": images_seen(record),
            "trained": bool(record.get("trained")),
            "last_doubling": record.get("last_doubling"),
            "batch": record["schedule"]["batch_size"],
            "learning_rate": record["schedule"]["learning_rate"],
            "ema": record["schedule"]["ema"],
            "fit_seconds": record["seconds"],
            "fitted_on": record["data"]["count"],
            "fitted_on_sha256": record["data"]["sha256"],
            "fitted_on_source": record["data"]["source"],
            "machine": record.get("device", "CPU"),
            "source": source,
            "command": record.get("command"),
        }
    return models, facts


def table(config: Table1Config, progress: bool = True) -> dict[str, Any]:
    """Fit, load or train every row and measure it; returns the record the table is drawn from."""
    train_images = load_mnist("train", size=config.size, count=config.n_train, root=config.data_root)
    test_images = load_mnist("test", size=config.size, root=config.data_root)
    models, facts = _closed_forms(config, train_images)
    network_models, network_facts = _networks(config, train_images, progress)
    models |= network_models
    facts = network_facts | facts
    limits = {}
    for label, fact in facts.items():
        if fact["kind"] == "network":
            limits[label] = config.n_network
        elif fact["kind"] != "closed form":
            limits[label] = config.n_slow
    errors: dict[str, dict[str, dict[str, Any]]] = {}
    for split, images in (("train", train_images), ("test", test_images)):
        for sigma in config.sigmas:
            rows = evaluate(
                {label: (model, None) for label, model in models.items()},
                images.take(config.n_eval),
                sigma,
                key=(config.seed, split == "test", round(sigma * 1e6)),
                batch_size=250,
                limits=limits,
            )
            for row in rows:
                cell = {k: row[k] for k in ("mse", "se", "n")}
                errors.setdefault(row["method"], {}).setdefault(split, {})[f"{sigma:g}"] = cell
    rows = [{"method": label, **fact, "errors": errors.get(label, {})} for label, fact in facts.items()]
    noisy = {"method": "noisy", "kind": "input", "errors": errors["noisy"]}
    return {
        "parameters": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()},
        "data": {"fit": train_images.provenance, "test": test_images.take(config.n_eval).provenance},
        "rows": [noisy, *rows],
    }


def frame(record: dict[str, Any], split: str = "test") -> Any:
    """The record as a pandas table, one row a method, MSE ± one standard error per sigma."""
    import pandas as pd

    lines = []
    for row in record["rows"]:
        line = {
            "method": row["method"],
            "kind": row["kind"],
            "parameters": f"{row['parameters']:,}" if row.get("parameters") else "",
            "images seen": f"{row['images']:,} of {row['printed_steps'] * row['printed_batch']:,}" if row.get("steps") else "",
            "plateau": ("yes" if row["trained"] else "not yet") if row.get("steps") else "",
            "batch": row.get("batch", ""),
            "LR": row.get("learning_rate", ""),
            "fit or training, s": f"{row['fit_seconds']:.1f}" if row.get("fit_seconds") is not None else "",
        }
        for sigma, cell in row["errors"].get(split, {}).items():
            line[f"MSE, sigma {sigma}"] = f"{cell['mse']:.5f} ± {cell['se']:.5f}"
        lines.append(line)
    return pd.DataFrame(lines).set_index("method").fillna("")


def draw(record: dict[str, Any]) -> Any:
    """Left: the table's columns as text. Right: error of each row, held-out (open) and training (filled)."""
    rows = record["rows"]
    sigmas = list(record["parameters"]["sigmas"])
    colours = sigma_colours(sigmas)
    positions = {row["method"]: len(rows) - 1 - i for i, row in enumerate(rows)}
    with plt.rc_context(STYLE):
        figure, (text, axis) = plt.subplots(
            1,
            2,
            figsize=(14.5, 0.42 * len(rows) + 1.6),
            gridspec_kw={"width_ratios": [1.45, 1], "wspace": 0.03, "top": 0.95, "bottom": 0.1},
        )
        text.axis("off")
        text.set_xlim(0, 1)
        columns = [(0.0, "method"), (0.62, "parameters"), (0.78, "images seen"), (0.87, "LR"), (1.0, "time")]
        for x, title in columns:
            text.text(x, len(rows) - 0.1, title, fontsize=9, weight="bold", ha="left" if x == 0 else "right")
        for row in rows:
            y = positions[row["method"]]
            seconds = row.get("fit_seconds")
            cells = [
                row["method"],
                f"{row['parameters']:,}" if row.get("parameters") else "",
                f"{row['images']:,}" if row.get("steps") else "",
                f"{row['learning_rate']:g}" if row.get("steps") else "",
                "" if seconds is None else (f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"),
            ]
            for (x, _), cell in zip(columns, cells):
                text.text(x, y, cell, fontsize=8.5, va="center", ha="left" if x == 0 else "right")
            for sigma in sigmas:
                for split, filled in (("train", True), ("test", False)):
                    cell = row["errors"].get(split, {}).get(f"{sigma:g}")
                    if cell:
                        axis.errorbar(
                            cell["mse"], y + (0.12 if filled else -0.12), xerr=cell["se"], fmt="o" if filled else "s",
                            markersize=4.5, capsize=2, color=colours[sigma], markerfacecolor=None if filled else "white",
                        )  # fmt: skip
        for each in (text, axis):
            each.set_ylim(-0.6, len(rows) + 0.3)
        drawn = [row for row in rows if row["kind"] != "training images" and row["errors"]]
        low = min(c["mse"] for row in drawn for split in row["errors"].values() for c in split.values())
        axis.set_xscale("log")
        axis.set_xlim(low / 1.5, 0.5)  # what has memorised the training images lies to the left of this
        axis.set_yticks(range(len(rows)), [""] * len(rows))
        axis.set_xlabel("MSE per pixel (clamped)\nrows that hold the training images leave the axis to the left")
        handles = [plt.Line2D([], [], color=colours[s], linewidth=3, label=rf"$\sigma={s:g}$") for s in sigmas]
        handles += [
            plt.Line2D([], [], color="0.3", marker="o", linestyle="", label="training images"),
            plt.Line2D([], [], color="0.3", marker="s", markerfacecolor="white", linestyle="", label="held-out images"),
        ]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8.5, bbox_to_anchor=(0.5, 0.0))
        fit = record["data"]["fit"]
        figure.suptitle(
            f"Table 1: networks and closed forms, {fit['shape'][-1]}x{fit['shape'][-1]}, fitted on {fit['count']:,} images of "
            f"{fit['source']}",
            fontsize=10.5,
            y=0.985,
        )
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record: which row is lowest, which lie below linear, and what training time buys."""
    lines = []
    rows = [row for row in record["rows"] if row["errors"] and row["method"] != "noisy"]
    for split in ("train", "test"):
        for sigma in record["parameters"]["sigmas"]:
            key = f"{sigma:g}"
            # What holds the training images themselves is not ranked on them.
            fair = [r for r in rows if split == "test" or r["kind"] != "training images"]
            ranked = sorted(fair, key=lambda r: r["errors"][split][key]["mse"])
            linear = next(r for r in rows if r["method"] == "linear")["errors"][split][key]
            below = [
                r["method"]
                for r in ranked
                if r["errors"][split][key]["mse"] + 2 * (r["errors"][split][key]["se"] ** 2 + linear["se"] ** 2) ** 0.5
                < linear["mse"]
            ]
            best = ranked[0]["errors"][split][key]
            lines.append(
                f"{split}, sigma {key}: lowest {ranked[0]['method']} {best['mse']:.5f} ± {best['se']:.5f}; below linear "
                f"({linear['mse']:.5f}) by two standard errors: {', '.join(below) or 'none'}"
            )
    networks = [r for r in rows if r["kind"] == "network"]
    closed = [r for r in rows if r["kind"] == "closed form"]
    if networks and closed:
        slowest = max(closed, key=lambda r: r["fit_seconds"] + r["solve_seconds"])
        fastest = min(networks, key=lambda r: r["fit_seconds"])
        total = slowest["fit_seconds"] + slowest["solve_seconds"]
        lines.append(
            f"the slowest closed form ({slowest['method']}: {total:.1f} s) took {total / fastest['fit_seconds']:.2f} of the time "
            f"of the shortest training shown ({fastest['method']}: {fastest['fit_seconds']:.0f} s)"
        )
    short = [
        f"{CONFIGS_BY_TITLE[r['method'].split(',')[0]]} {100 * r['images'] / (r['printed_steps'] * r['printed_batch']):.2g}%"
        for r in networks
    ]
    lines.append(
        "share of the paper's training images seen, by network: " + (", ".join(short) or "no network is shown")
    )
    test = record["data"]["test"]["source"]
    lines += overlap_caution({r["method"]: r["fitted_on_source"] for r in networks}, test)
    missing = [r["method"] for r in record["rows"] if r.get("source") == "not trained"]
    lines.append("not trained: " + (", ".join(missing) or "none"))
    return lines


CONFIGS_BY_TITLE = {c.title: c.name for c in CONFIGS.values()}


def make_table(
    config: Table1Config, output: str | Path, progress: bool = True
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Measure every row and write ``output/<name>.{png,pdf,json}``; returns the figure, its record and the paths."""
    with torch.random.fork_rng(devices=[]):
        result = table(config, progress)
    result["findings"] = findings(result)  # written below the table too
    return finish_figure(draw(result), result, output, config.name, config.seed)
