"""Table 1 as one function: trained networks and closed forms side by side, with sizes, times and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from numeric.baselines.clock import CPU, machine_seconds, trained_on
from numeric.baselines.configs import CONFIGS, NetworkConfig, get_config, parameter_count
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import NetworkDenoiser, overlap_caution, records_alone, trained, trained_label
from numeric.baselines.plateau import images_seen, state
from numeric.baselines.schedule import Schedule
from numeric.baselines.train import train
from numeric.data import ImageSet
from numeric.evaluation.sweep import measure as noisy_errors
from numeric.figures.base import FigureMaker
from numeric.figures.contenders import (
    Contest,
    Row,
    error_cell,
    errors_of,
    facts_of,
    kept_rows,
    network_rows,
    noise_key,
    rows_of,
)
from numeric.figures.foresee import Work
from numeric.figures.style import STYLE, fitted_on, plus_minus, sigma_colours, sigma_handles


@dataclass(kw_only=True)
class Table1Config(Contest):
    """Parameters of Table 1: those of :class:`numeric.figures.contenders.Contest`, and the training of networks that are not there.

    The fall-back's held-out digits belong to MNIST's training set, which the shipped networks have seen: there the findings say
    so, and only ``WAVELET_SCORE_DATA`` gives held-out errors of networks.

    Attributes:
        networks: configurations to show (None: all eight); those not there are trained for ``steps`` steps here, or listed as
            not trained where ``steps`` is 0. batch_size: of that training.
    """

    name: str = "table1"
    families: Sequence[str] = ("independent:3", "band:3", "local:3")
    shared: Sequence[str] = ("independent:2", "band:2", "local:2")
    wiener: Sequence[str] = ("pixel:3",)
    steps: int = 0
    batch_size: int = 32

    notebook: ClassVar[str] = "table1"

    def check(self) -> None:
        super().check()
        if self.networks is not None:
            self.networks = [get_config(name).name for name in self.networks]
        trained(self.size, None, self.weights)

    def work(self, train: int, splits: int = 2) -> list[Work]:
        return super().work(train, splits)


def printed(row: NetworkConfig) -> dict[str, Any]:
    """What the paper's table says of a network."""
    return {
        "blocks": len(row.channel_mult) if row.kind != "cnn" else None,
        "base_channels": row.base_channels,
        "channel_mult": list(row.channel_mult),
        "printed_steps": row.steps,
        "printed_batch": row.batch_size,
        "printed_learning_rate": row.learning_rate,
        "printed_minutes": row.printed_minutes,
        "note": row.note,
    }


def seen(record: dict[str, Any]) -> dict[str, Any]:
    """What a network's training was, as its record says."""
    return {
        "steps": record["steps"],
        "images": images_seen(record),
        "trained": bool(record.get("trained")),
        "last_doubling": record.get("last_doubling"),
        "batch": record["schedule"]["batch_size"],
        "learning_rate": record["schedule"]["learning_rate"],
        "ema": record["schedule"]["ema"],
        "fitted_on": record["data"]["count"],
        "fitted_on_sha256": record["data"]["sha256"],
        "machine": trained_on(record),
        "machine_seconds": machine_seconds(record),
        "command": record.get("command"),
    }


def trained_here(config: Table1Config, row: NetworkConfig, images: ImageSet, progress: bool) -> Row:
    """A network whose weights are not there, trained for ``config.steps`` steps when its turn comes."""
    schedule = Schedule(config.steps, config.batch_size, row.learning_rate, config.seed)

    def fit() -> tuple[NetworkDenoiser, float]:
        trainer, record = train(row, images, schedule, progress=progress)
        denoiser = trainer.denoiser()
        denoiser.record = record
        return denoiser, record["seconds"]

    label = trained_label(row, {"steps": config.steps, "schedule": {"batch_size": config.batch_size}})
    return Row(
        label, "network", fit, lambda m: m.record["parameters"], lambda m: 16 * m.record["parameters"],
        ["numeric.baselines.network", "numeric.baselines.train"], config.n_network, [config.steps, config.batch_size],
        {**printed(row), "origin": "trained here"},
    )  # fmt: skip


def networks_of(config: Table1Config, images: ImageSet, progress: bool) -> list[Row | dict[str, Any]]:
    """The table's networks in its order: rows to measure, and the entries of those that cannot be."""
    entries: list[Row | dict[str, Any]] = []
    there = {row.label: row for row in network_rows(replace(config, networks=None))}
    found = sorted(trained(config.size, None, config.weights).items(), key=lambda d: len(d[1].path.stem) if d[1].path else 0, reverse=True)
    usual = {d.record["config"]["name"]: (label, d) for label, d in found}  # of several seeds or widths the one with the shortest file name
    alone = records_alone(config.size, config.weights)
    for name in config.networks or CONFIGS:
        row = get_config(name)
        if name in usual:
            label, denoiser = usual[name]
            facts = {**printed(row), **seen(denoiser.record), "origin": "shipped" if config.weights is None else "from a folder"}
            entries.append(replace(there[label], label=trained_label(row, denoiser.record), facts=facts))
        elif config.steps:
            entries.append(trained_here(config, row, images, progress))
        else:
            entry = {"kind": "network", **printed(row), "parameters": parameter_count(row.build(images.shape[0])), "errors": {}}
            record = next((r for r in alone if r["config"]["name"] == name), None)
            if record is None:
                entries.append({"method": f"{row.title} (not trained)", **entry, "origin": "not trained"})
            else:
                known = {**seen(record), "seconds": record["seconds"], "recorded": record.get("errors", {})}
                method = f"{row.title} ({state(record)}, weights not shipped)"
                entries.append({"method": method, **entry, **known, "origin": "not shipped"})
    return entries


def measure(config: Table1Config, progress: bool = True) -> dict[str, Any]:
    """Fit, load or train every row and measure it on both splits; a finished row is kept in the cache."""
    images = config.images("train", config.size, config.n_train)
    splits = {"train": images.take(config.n_eval), "test": config.images("test", config.size, config.n_eval)}
    data = {"fit": images.provenance, "test": splits["test"].provenance}

    def make(row: Row, linear: LinearDenoiser) -> dict[str, Any]:
        model, seconds = row.fit()
        errors = {split: errors_of(model, row.count, part, split, config, linear) for split, part in splits.items()}
        more = seen(model.record) if row.kind == "network" else {"fitted_on": len(images)}
        return {**facts_of(row, model, seconds), **more, "errors": errors}

    entries = [*networks_of(config, images, progress), *rows_of(config, images)]
    key = {"data": data} | {k: config.settings[k] for k in ("size", "sigmas", "seed")}
    kept = kept_rows([e for e in entries if isinstance(e, Row)], "table1", images, key, make, config, progress)
    rows = [next(kept) if isinstance(entry, Row) else entry for entry in entries]
    noisy: dict[str, Any] = {}
    for split, part in splits.items():
        for sigma in config.sigmas:
            found = noisy_errors({}, part, sigma, key=noise_key(config, split, sigma), batch_size=250)
            noisy.setdefault(split, {})[f"{sigma:g}"] = error_cell(found["noisy", None])
    return {"data": data, "rows": [{"method": "noisy", "kind": "input", "errors": noisy}, *rows]}


def duration(seconds: float | None) -> str:
    """``3.2 s``, ``41 min``; nothing for None."""
    return "" if seconds is None else f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.3g} min"


def taken(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """Seconds of a fit or training on a CPU and on a GPU, whose minutes are another's; None: not run there."""
    spent = row.get("machine_seconds")
    if spent is None:
        return row.get("seconds"), None
    return spent.get(CPU), sum(seconds for machine, seconds in spent.items() if machine != CPU) or None


def cells(row: dict[str, Any]) -> dict[str, str]:
    """The text columns of a row."""
    steps, method, (on_cpu, on_gpu) = row.get("steps"), row["method"], taken(row)
    if row.get("origin") == "not shipped":
        method = f"{method.partition(' (')[0]} (weights not shipped{', errors recorded' if row.get('recorded') else ''})"
    if row.get("sides"):
        method += f" {'/'.join(map(str, row['sides'].values()))}"
    return {
        "method": method,
        "blocks": f"{row['blocks']}" if row.get("blocks") else "",
        "base": f"{row['base_channels']}" if row.get("base_channels") else "",
        "ch_mult": ",".join(map(str, row["channel_mult"])) if row.get("channel_mult") else "",
        "parameters": f"{row['parameters']:,}" if row.get("parameters") else "",
        "images seen": f"{row['images']:,}" if steps else "",
        "of the paper's": f"{row['images'] / row['printed_steps'] / row['printed_batch']:.1%}" if steps else "",
        "plateau": ("yes" if row["trained"] else "not yet") if steps else "",
        "LR": f"{row['learning_rate']:g}" if steps else "",
        "CPU time": duration(on_cpu),
        "GPU time": duration(on_gpu),
        "paper's": duration(60 * row["printed_minutes"] if row.get("printed_minutes") else None),
    }


def errors_shown(row: dict[str, Any], split: str) -> dict[str, Any]:
    """Sigma -> error of a row; of a network whose weights are not shipped, the one its training measured, on noise of its own."""
    found: dict[str, Any] = (row["errors"] or row.get("recorded") or {}).get(split, {})
    return found


def frame(record: dict[str, Any], split: str = "test") -> Any:
    """The record as a pandas table, one row a method, MSE ± one standard error per sigma, and its ratio to linear's on the same images."""
    import pandas as pd

    lines = []
    for row in record["rows"]:
        found = errors_shown(row, split)
        errors = {f"MSE, sigma {s}": plus_minus(c["mse"], c["se"]) for s, c in found.items()}
        errors |= {f"of linear, sigma {s}": f"{c['of_linear']['ratio']:.3f}" for s, c in found.items() if "of_linear" in c}
        lines.append({**cells(row), **errors})
    return pd.DataFrame(lines).set_index("method").fillna("")


RIGHT = {
    "blocks": 0.44, "base": 0.48, "ch_mult": 0.54, "parameters": 0.63, "images seen": 0.73, "LR": 0.785, "CPU time": 0.86, "GPU time": 0.935, "paper's": 1.0,
}  # fmt: skip
"""Right edges of the columns drawn, in the width of the text; the method begins at the left."""


def draw(record: dict[str, Any]) -> Any:
    """Left: the table's columns as text. Right: error of each row, held-out (open) and training (filled)."""
    rows, sigmas = record["rows"], record["parameters"]["sigmas"]
    colours = sigma_colours(sigmas)
    with plt.rc_context(STYLE):
        height = 0.32 * len(rows) + 1.7
        ratios: Any = {"width_ratios": [1.75, 1], "wspace": 0.03, "top": 1 - 0.4 / height, "bottom": 1 / height, "left": 0.01, "right": 0.99}
        figure, (text, axis) = plt.subplots(1, 2, figsize=(16.5, height), gridspec_kw=ratios)
        text.axis("off")
        text.set_xlim(0, 1)
        for x, title in ((0.0, "method"), *((x, title) for title, x in RIGHT.items())):
            text.text(x, len(rows) - 0.1, title, fontsize=9, weight="bold", ha="left" if x == 0 else "right")
        for y, row in zip(range(len(rows) - 1, -1, -1), rows):
            shown = cells(row)
            text.text(0.0, y, shown["method"], fontsize=8.5, va="center")
            for title, x in RIGHT.items():
                text.text(x, y, shown[title], fontsize=8.5, va="center", ha="right")
            for split, marker, place, face in (("train", "o", 0.12, None), ("test", "s", -0.12, "white")):
                for sigma in sigmas:
                    cell = errors_shown(row, split).get(f"{sigma:g}")
                    if cell:
                        look: Any = {"alpha": 1.0 if row["errors"] else 0.5, "markersize": 4.5, "capsize": 2, "color": colours[sigma], "markerfacecolor": face}
                        axis.errorbar(cell["mse"], y + place, xerr=cell["se"], fmt=marker, **look)
        for each in (text, axis):
            each.set_ylim(-0.6, len(rows) + 0.3)
        drawn = [row for row in rows if not row.get("holds_images")]
        low = min(c["mse"] for row in drawn for split in ("train", "test") for c in errors_shown(row, split).values())
        axis.set_xscale("log")
        axis.set_xlim(low / 1.5, 0.5)  # what has memorised the training images lies to the left of this
        axis.set_yticks(range(len(rows)), [""] * len(rows))
        axis.set_xlabel("MSE per pixel (clamped)\nrows that hold the training images leave the axis to the left")
        note = "time: CPU time of fit and solves (closed forms), time of the training that was run (networks)"
        faint = "; faint: as its training measured it, on other noise" if any(row.get("recorded") for row in rows) else ""
        text.text(0, -0.75, f"{note}; paper's: time printed for its full schedule{faint}", fontsize=7.5, color="0.35")
        splits = (("training images", "o", None), ("held-out images", "s", "white"))
        handles = [Line2D([], [], color="0.3", marker=m, markerfacecolor=f, linestyle="", label=t) for t, m, f in splits]
        below: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.05 / height)}
        figure.legend(handles=[*sigma_handles(sigmas), *handles], ncols=len(sigmas) + 2, fontsize=8.5, **below)
        side = record["parameters"]["size"]
        figure.suptitle(f"Table 1: networks and closed forms, {side}x{side}, {fitted_on(record)}", fontsize=10.5, y=1 - 0.1 / height)
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record: which row is lowest, which do not lie below linear, and what training time buys."""
    lines = []
    rows = [row for row in record["rows"] if row["errors"] and row["method"] != "noisy"]
    for split in ("train", "test"):
        for sigma in record["parameters"]["sigmas"]:
            key = f"{sigma:g}"
            # What holds the training images themselves is not ranked on them.
            fair = [r for r in rows if split == "test" or not r.get("holds_images")]
            of_linear = {r["method"]: r["errors"][split][key]["of_linear"] for r in fair}
            ranked = sorted(fair, key=lambda r: of_linear[r["method"]]["ratio"])
            level = [name for r in ranked if (of := of_linear[name := r["method"]])["ratio"] + 2 * of["se"] >= 1 and name != "linear"]
            best, linear = (r["errors"][split][key] for r in (ranked[0], next(r for r in rows if r["method"] == "linear")))
            lines.append(
                f"{split}, sigma {key}: lowest {ranked[0]['method']} {best['mse']:.5f} ± {best['se']:.5f}, {best['of_linear']['ratio']:.3f} of "
                f"linear's on the same images (on all {linear['mse']:.5f}); not below linear by two standard errors: {', '.join(level) or 'none'}"
            )
    networks = [r for r in rows if r["kind"] == "network"]
    closed = [r for r in rows if r["kind"] == "paper"]
    on_cpu = [r for r in networks if r["machine"] == CPU]
    if on_cpu:
        slowest, fastest = max(closed, key=lambda r: r["seconds"]), min(on_cpu, key=lambda r: r["seconds"])
        lines.append(
            f"the slowest closed form of the paper ({slowest['method']}: {slowest['seconds']:.1f} s) took "
            f"{slowest['seconds'] / fastest['seconds']:.2g} of the time of the shortest training shown that a CPU did alone "
            f"({fastest['method']}: {fastest['seconds']:.0f} s)"
        )
    short = [
        f"{CONFIGS_BY_TITLE[r['method'].split(',')[0]]} {100 * r['images'] / (r['printed_steps'] * r['printed_batch']):.2g}%"
        for r in networks
    ]
    lines.append(
        "share of the paper's training images seen, by network: " + (", ".join(short) or "no network is shown")
    )
    test = record["data"]["test"]["source"]
    lines += overlap_caution({r["method"]: r["source"] for r in networks}, test)
    missing = [r["method"] for r in record["rows"] if r.get("origin") == "not trained"]
    lines.append("not trained: " + (", ".join(missing) or "none"))
    lines += [f"not measured here: {r['method']}" for r in record["rows"] if r.get("origin") == "not shipped"]
    return lines


CONFIGS_BY_TITLE = {c.title: c.name for c in CONFIGS.values()}

make_table = FigureMaker(measure, draw, findings)
