"""Table 1 as one function: trained networks and closed forms side by side, with sizes, times and errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from numeric.arguments import as_list
from numeric.baselines.configs import CONFIGS, get_config, parameter_count
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.locality import LocalityDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.network import overlap_caution, records_alone, trained, trained_label
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.plateau import images_seen, state
from numeric.baselines.schedule import Schedule
from numeric.baselines.shrinkage import WaveletShrinkage
from numeric.baselines.train import train
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import evaluate
from numeric.figures.base import FigureMaker, Parameters, family_degree, required_degree
from numeric.figures.contenders import summed_over
from numeric.figures.foresee import Work, linear_work, network_work, optimal_work, own_work, shared_work
from numeric.figures.style import STYLE, fitted_on, plus_minus, sigma_colours, sigma_handles
from numeric.noise import ve
from numeric.progress import progress_bar
from numeric.scores.readouts import READOUTS


@dataclass(kw_only=True)
class Table1Config(Parameters):
    """Parameters of Table 1.

    The fall-back's held-out digits belong to MNIST's training set, which the shipped networks have seen: there the findings say
    so, and only ``WAVELET_SCORE_DATA`` gives held-out errors of networks.

    Attributes:
        size: image side. n_train: images to fit closed forms on (None: all).
        n_eval: images per split for closed forms. n_network: for networks. n_slow: for the optimal and local denoisers.
        n_local: training images of the local machine and the PCA-locality denoiser, a fifth of them for the equivariant one; None: all
            but ``n_calibrate`` for the local machine, 500 and 100 for the others. The machines' windows are chosen at every level on ``n_calibrate`` training images that they do not sum over.
        mixtures: Gaussian mixtures, numbers of k-means components or ``"class"``.
        sigmas: VE levels. families: ``family:degree`` of the ``own`` readout; shared: of the ``shared`` one.
        networks: configurations to show (None: all eight); those not there are trained for ``steps`` steps here, or listed as
            not trained where ``steps`` is 0. batch_size: of that training. weights: folder of networks (None: those shipped).
        slow: include the optimal empirical, local and shrinkage denoisers.
    """

    name: str = "table1"
    size: int = 32
    n_train: int | None = None
    n_eval: int = 2000
    n_network: int = 250
    n_slow: int = 50
    n_local: int | None = 500
    n_calibrate: int = 10
    mixtures: Sequence[str] = ("class", "100")
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    families: Sequence[str] = ("independent:3", "band:3", "local:3")
    shared: Sequence[str] = ("independent:2", "band:2", "local:2")
    networks: Sequence[str] | None = None
    weights: str | None = None
    steps: int = 0
    batch_size: int = 32
    slow: bool = True

    notebook: ClassVar[str] = "table1"

    def check(self) -> None:
        self.mixtures = as_list(self.mixtures, str, "mixtures")
        for text in self.mixtures:
            if text != "class" and not (text.isdigit() and int(text) > 0):
                raise ValueError(f"a mixture is a number of components or 'class', got {text!r}")
        if self.networks is not None:
            self.networks = [get_config(name).name for name in self.networks]
        trained(self.size, None, self.weights)
        for text in [*self.families, *self.shared]:
            required_degree(text)

    def work(self, train: int) -> list[Work]:
        levels, images = len(self.sigmas), 2 * self.n_eval
        shared = [family_degree(text) for text in self.shared]
        networks = list(trained(self.size, None, self.weights).values())
        out = [linear_work(self.size, train, levels, images), own_work(self.size, train, len(self.families), levels, images)]
        out += [shared_work(f, [d or 1], self.size, train, levels, images) for f, d in shared]
        if self.slow:
            out.append(optimal_work(self.size, train, levels, 2 * self.n_slow))
        return [*out, network_work(self.size, networks, levels, 2 * self.n_network)]


Rows = tuple[dict[str, Denoiser], dict[str, dict[str, Any]]]
"""Label -> denoiser, and label -> its facts (kind, parameters, times, ...)."""


def _closed_forms(config: Table1Config, images: Any, progress: bool) -> Rows:
    models: dict[str, Denoiser] = {}
    facts: dict[str, dict[str, Any]] = {}
    first = config.sigmas[0]

    def add(label: str, model: Any, parameters: Callable[[], int], **options: Any) -> None:
        start, clock = time.process_time(), time.perf_counter()  # CPU time: what else runs on the machine does not count
        model.fit(images, **options)
        middle = time.process_time()
        for sigma in config.sigmas:  # solving at each noise level is part of the closed form
            model.estimate(images[:1], ve(sigma))
        end, wall = time.process_time(), time.perf_counter() - clock
        times = {"fit_seconds": middle - start, "solve_seconds": end - middle, "wall_seconds": wall}
        models[label] = model
        facts[label] = {"kind": "closed form", "parameters": parameters(), **times, "fitted_on": len(images)}

    pixels = images.shape[0] * images.shape[1] * images.shape[2]
    linear = LinearDenoiser()
    add("linear", linear, lambda: pixels * (pixels + 3) // 2, progress=progress)
    for readout, families in (("own", config.families), ("shared", config.shared)):
        for text in families:
            family, degree = family_degree(text)
            model = READOUTS[readout](family, degree)
            count = {
                "own": lambda model=model: sum(block.theta.numel() for block in model.solve(ve(first)).blocks),
                "shared": lambda model=model: model.solve(ve(first)).readout.numel(),
            }[readout]
            add(f"{model.label}, degree {degree}", model, count, progress=progress)
    for text in config.mixtures:
        mixture = GaussianMixtureDenoiser(text if text == "class" else int(text))

        def numbers(mixture: GaussianMixtureDenoiser = mixture) -> int:
            return mixture.parameter_count

        add(mixture.label, mixture, numbers)
    if config.slow:
        local, pooled = (summed_over(name, config.n_local, len(images), config.n_calibrate) for name in ("LS", "ELS"))
        masked = min(500, len(images)) if config.n_local is None else config.n_local
        holders: dict[str, tuple[Any, int]] = {
            "optimal empirical": (OptimalDenoiser().fit(images), len(images)),
            "LS machine": (LocalScoreMachine(3, False, n_train=local).fit(images), local),
            "ELS machine": (LocalScoreMachine(3, True, n_train=pooled).fit(images), pooled),
        }
        locality = LocalityDenoiser(n_train=masked)
        holders[locality.label] = (locality.fit(images, linear=linear), masked)
        for holder, _ in holders.values():
            if isinstance(holder, LocalScoreMachine):
                holder.calibrate(sigmas=config.sigmas, count=config.n_calibrate, progress=progress)
        for name, (holder, used) in holders.items():
            sides = {f"{s:g}": side for s, side in getattr(holder, "sides_", {}).items()}
            label = f"{name}, windows {'/'.join(map(str, sides.values()))}" if sides else name
            models[label] = holder
            facts[label] = {"kind": "training images", "fitted_on": used, **({"sides": sides} if sides else {})}
        bayes = WaveletShrinkage("bayes")
        models[bayes.label], facts[bayes.label] = bayes, {"kind": "no training", "fitted_on": 0}
    return models, facts


def _networks(config: Table1Config, images: Any, progress: bool) -> Rows:
    found = sorted(trained(config.size, None, config.weights).values(), key=lambda d: len(d.path.stem) if d.path else 0, reverse=True)
    alone = records_alone(config.size, config.weights)
    there = {d.record["config"]["name"]: d for d in found}  # of several seeds or widths the usual one, with the shortest file name
    models: dict[str, Denoiser] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name in config.networks or CONFIGS:
        row = get_config(name)
        fact = {
            "kind": "network",
            "blocks": len(row.channel_mult) if row.kind != "cnn" else None,
            "base_channels": row.base_channels,
            "channel_mult": list(row.channel_mult),
            "printed_steps": row.steps,
            "printed_batch": row.batch_size,
            "printed_learning_rate": row.learning_rate,
            "printed_minutes": row.printed_minutes,
            "note": row.note,
        }
        if name in there:
            denoiser: Any = there[name]
            record, source = denoiser.record, "shipped" if config.weights is None else "from a folder"
        elif config.steps:
            schedule = Schedule(config.steps, config.batch_size, row.learning_rate, config.seed)
            trainer, record = train(row, images, schedule, progress=progress)
            denoiser, source = trainer.denoiser(), "trained here"
        else:
            count = parameter_count(row.build(images.shape[0]))
            what = next((f"{state(r)}, weights not shipped" for r in alone if r["config"]["name"] == name), "not trained")
            facts[f"{row.title} ({what})"] = {**fact, "parameters": count, "source": "not trained" if what == "not trained" else "not shipped"}
            continue
        label = trained_label(row, record)
        models[label] = denoiser
        facts[label] = {
            **fact,
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


def measure(config: Table1Config, progress: bool = True) -> dict[str, Any]:
    """Fit, load or train every row and measure it; returns the record the table is drawn from."""
    images = config.images("train", config.size, config.n_train)
    splits = {"train": images.take(config.n_eval), "test": config.images("test", config.size, config.n_eval)}
    models, facts = _closed_forms(config, images, progress)
    networks, network_facts = _networks(config, images, progress)
    models |= networks
    facts = network_facts | facts
    most = {"network": config.n_network, "closed form": config.n_eval}
    limits = {label: most.get(fact["kind"], config.n_slow) for label, fact in facts.items()}
    errors: dict[str, dict[str, dict[str, Any]]] = {}
    with progress_bar(len(splits) * len(config.sigmas) * config.n_eval, "measure", progress) as bar:
        for split, part in splits.items():
            for sigma in config.sigmas:
                key = (config.seed, split == "test", round(sigma * 1e6))
                every = {label: (model, None) for label, model in models.items()}
                for row in evaluate(every, part, sigma, key=key, batch_size=250, limits=limits, bar=bar):
                    cell = {k: row[k] for k in ("mse", "se", "n")}
                    errors.setdefault(row["method"], {}).setdefault(split, {})[f"{sigma:g}"] = cell
    rows = [{"method": label, **fact, "errors": errors.get(label, {})} for label, fact in facts.items()]
    data = {"fit": images.provenance, "test": splits["test"].provenance}
    return {"data": data, "rows": [{"method": "noisy", "kind": "input", "errors": errors["noisy"]}, *rows]}


def duration(seconds: float | None) -> str:
    """``3.2 s``, ``41 min``; nothing for None."""
    return "" if seconds is None else f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.3g} min"


def cells(row: dict[str, Any]) -> dict[str, str]:
    """The text columns of a row."""
    steps, times = row.get("steps"), [row[k] for k in ("fit_seconds", "solve_seconds") if row.get(k) is not None]
    return {
        "method": row["method"] if row.get("source") != "not shipped" else f"{row['method'].partition(' (')[0]} (weights not shipped)",
        "blocks": f"{row['blocks']}" if row.get("blocks") else "",
        "base": f"{row['base_channels']}" if row.get("base_channels") else "",
        "ch_mult": ",".join(map(str, row["channel_mult"])) if row.get("channel_mult") else "",
        "parameters": f"{row['parameters']:,}" if row.get("parameters") else "",
        "images seen": f"{row['images']:,}" if steps else "",
        "of the paper's": f"{row['images'] / row['printed_steps'] / row['printed_batch']:.1%}" if steps else "",
        "plateau": ("yes" if row["trained"] else "not yet") if steps else "",
        "LR": f"{row['learning_rate']:g}" if steps else "",
        "time": duration(sum(times) if times else None),
        "paper's": duration(60 * row["printed_minutes"] if row.get("printed_minutes") else None),
    }


def frame(record: dict[str, Any], split: str = "test") -> Any:
    """The record as a pandas table, one row a method, MSE ± one standard error per sigma."""
    import pandas as pd

    lines = []
    for row in record["rows"]:
        errors = {f"MSE, sigma {s}": plus_minus(c["mse"], c["se"]) for s, c in row["errors"].get(split, {}).items()}
        lines.append({**cells(row), **errors})
    return pd.DataFrame(lines).set_index("method").fillna("")


RIGHT = {"blocks": 0.44, "base": 0.48, "ch_mult": 0.55, "parameters": 0.66, "images seen": 0.77, "LR": 0.84, "time": 0.92, "paper's": 1.0}
"""Right edges of the columns drawn, in the width of the text; the method begins at the left."""


def draw(record: dict[str, Any]) -> Any:
    """Left: the table's columns as text. Right: error of each row, held-out (open) and training (filled)."""
    rows, sigmas = record["rows"], record["parameters"]["sigmas"]
    colours = sigma_colours(sigmas)
    with plt.rc_context(STYLE):
        ratios: Any = {"width_ratios": [1.75, 1], "wspace": 0.03, "top": 0.95, "bottom": 0.1, "left": 0.01, "right": 0.99}
        figure, (text, axis) = plt.subplots(1, 2, figsize=(16.5, 0.42 * len(rows) + 1.6), gridspec_kw=ratios)
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
                    cell = row["errors"].get(split, {}).get(f"{sigma:g}")
                    if cell:
                        look: Any = {"markersize": 4.5, "capsize": 2, "color": colours[sigma], "markerfacecolor": face}
                        axis.errorbar(cell["mse"], y + place, xerr=cell["se"], fmt=marker, **look)
        for each in (text, axis):
            each.set_ylim(-0.6, len(rows) + 0.3)
        drawn = [row for row in rows if row["kind"] != "training images" and row["errors"]]
        low = min(c["mse"] for row in drawn for split in row["errors"].values() for c in split.values())
        axis.set_xscale("log")
        axis.set_xlim(low / 1.5, 0.5)  # what has memorised the training images lies to the left of this
        axis.set_yticks(range(len(rows)), [""] * len(rows))
        axis.set_xlabel("MSE per pixel (clamped)\nrows that hold the training images leave the axis to the left")
        note = "time: CPU time of fit and solves (closed forms), time of the training that was run (networks)"
        text.text(0, -0.75, f"{note}; paper's: time printed for its full schedule", fontsize=7.5, color="0.35")
        splits = (("training images", "o", None), ("held-out images", "s", "white"))
        handles = [Line2D([], [], color="0.3", marker=m, markerfacecolor=f, linestyle="", label=t) for t, m, f in splits]
        below: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.0)}
        figure.legend(handles=[*sigma_handles(sigmas), *handles], ncols=len(sigmas) + 2, fontsize=8.5, **below)
        side = record["parameters"]["size"]
        figure.suptitle(f"Table 1: networks and closed forms, {side}x{side}, {fitted_on(record)}", fontsize=10.5, y=0.985)
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
    lines += [f"not measured here: {r['method']}" for r in record["rows"] if r.get("source") == "not shipped"]
    return lines


CONFIGS_BY_TITLE = {c.title: c.name for c in CONFIGS.values()}

make_table = FigureMaker(measure, draw, findings)
