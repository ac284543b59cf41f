"""Figures 5 and 6: denoising MSE against degree and noise level, every family with both readouts, beside the baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import data_source, overlap_caution, trained
from numeric.baselines.optimal import OptimalDenoiser
from numeric.evaluation.sweep import FittedLater, Methods, sweep
from numeric.figures.base import FigureMaker, Parameters, family_degree
from numeric.figures.earlier import EarlierRun
from numeric.figures.foresee import Work, linear_work, network_work, optimal_work, own_work, shared_work
from numeric.figures.style import (
    STYLE,
    bar_of,
    error_bar_text,
    fitted_on,
    legend_figure,
    method_rows,
    plain_log,
    plus_minus,
    select,
    sigma_handles,
    sigma_lines,
    split_handles,
    title_of,
)
from numeric.fingerprint import code_hash, weights_hash
from numeric.origins import taken_findings, taken_note
from numeric.results import kept_json
from numeric.scores.readouts import READOUTS
from numeric.scores.solve import BASES

SPLITS = ("train", "test")
FEW = 20_000
"""Fewer images than this (the fall-back digits): the shared local family stops at degree 2, unless ``"local:3"`` is asked for."""


@dataclass(kw_only=True)
class SweepConfig(Parameters):
    """Parameters of Figures 5 and 6.

    Attributes:
        size: image side. n_train, n_eval: images to fit on, and to evaluate on per split (None for all).
        sigmas: VE noise levels. degrees: polynomial degrees.
        families: with the own readout; shared: with the shared one. ``"local:2"`` stops at degree 2, as the shared local one does
            where there are fewer than 20,000 images to fit on.
        shared_degree: highest degree of the shared readout (None: as the others). Its memory grows with the square of the
            feature count: at 64 x 64 independent degree 2 takes 2.3 GiB, degree 3 3.7 GiB.
        radius, interactions, basis, ridge: of the estimators (the shared one has its own ridge).
        n_optimal: images per split for the optimal empirical denoiser (its cost is images times training images);
            0 leaves it out. n_trained: images per split for trained networks; 0 leaves them out.
        networks: which of them (None: all). weights: folder of trained networks (None: those shipped).
        seeds: noise draws per image. error_bar: drawn, over ``seeds`` or over ``images``.
        rows_from: results file of an earlier run with the same images and noise; the families and the optimal denoiser that it
            holds are taken from it, the networks are measured (:mod:`numeric.figures.earlier`).
        device: torch device.
    """

    name: str = "fig5"
    size: int = 32
    n_train: int | None = None
    n_eval: int | None = None
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3)
    families: Sequence[str] = ("independent", "band", "local")
    shared: Sequence[str] = ("independent", "band", "local")
    shared_degree: int | None = None
    radius: int = 1
    interactions: str = "pairwise"
    basis: str = "monomial"
    ridge: float = 1e-10
    n_optimal: int = 1000
    n_trained: int = 50
    networks: Sequence[str] | None = None
    weights: str | None = None
    seeds: int = 3
    error_bar: str = "seeds"
    rows_from: str | None = None
    device: str = "cpu"
    batch_size: int = 1000

    notebook: ClassVar[str] = "fig5"

    def check(self) -> None:
        if not self.families and not self.shared:
            raise ValueError("give at least one family, with the own readout (families) or the shared one (shared)")
        if self.basis not in BASES:
            raise ValueError(f"unknown basis {self.basis!r}: use one of {', '.join(BASES)}")
        if self.n_trained:
            trained(self.size, self.networks, self.weights)
        self.earlier()

    def earlier(self) -> EarlierRun | None:
        """What rows are taken from, if they are."""
        settings = {name: getattr(self, name) for name in ("size", "seed", "seeds", "batch_size", "radius", "interactions", "basis", "ridge")}
        return None if self.rows_from is None else EarlierRun(self.rows_from, settings, self.sigmas, SPLITS)

    def wanted(self, train: int) -> dict[tuple[str, str], list[int]]:
        """(readout, family) -> degrees, with so many images to fit on."""
        out = {}
        for readout, families in (("own", self.families), ("shared", self.shared)):
            for text in families:
                family, highest = family_degree(text, self.shared_degree if readout == "shared" else None)
                if (readout, text) == ("shared", "local") and train < FEW:
                    highest = min(highest or 2, 2)
                degrees = [d for d in sorted(set(self.degrees)) if highest is None or d <= highest]
                if degrees:
                    out[readout, family] = degrees
        return out

    def options(self, readout: str) -> dict[str, Any]:
        """Of the estimator of a panel (the shared readout has its own ridge)."""
        options = {"radius": self.radius, "interactions": self.interactions, "basis": self.basis, "device": self.device}
        return {**options, **({"ridge": self.ridge} if readout == "own" else {})}

    def model(self, readout: str, family: str, degrees: Sequence[int]) -> Any:
        """The estimator of a panel, not fitted."""
        return READOUTS[readout](family, max(degrees), **self.options(readout))

    def work(self, train: int) -> list[Work]:
        levels, images, earlier = len(self.sigmas) * self.seeds, 2 * (self.n_eval or 10_000), self.earlier()

        def there(method: str, degrees: Sequence[int | None], count: int | None = None) -> bool:
            return earlier is not None and earlier.has(method, degrees, count)

        left = {key: degrees for key, degrees in self.wanted(train).items() if not there(self.model(*key, degrees).label, degrees)}
        own, shared = sum(r == "own" for r, _ in left), [(f, d) for (r, f), d in left.items() if r == "shared"]
        out = [linear_work(self.size, train, levels, images)]
        if own:
            out.append(own_work(self.size, train, own, levels, images))
        out += [shared_work(f, d, self.size, train, len(self.sigmas), self.seeds * images, self.radius) for f, d in shared]
        if self.n_optimal and not there(OptimalDenoiser.label, [None], self.n_optimal):
            out.append(optimal_work(self.size, train, levels, 2 * self.n_optimal))
        if self.n_trained:
            networks = trained(self.size, self.networks, self.weights).values()
            out.append(network_work(self.size, list(networks), levels, 2 * self.n_trained))
        return out


def measure(config: SweepConfig, progress: bool = True) -> dict[str, Any]:
    """Fit every method, evaluate on training and held-out images; returns the record that the figure is drawn from.

    Every method has its own finished file in the cache, with the linear denoiser as its reference on the same images and the
    same noise, so that a new one costs no other, and one that is finished is not even fitted.
    """
    train = config.images("train", config.size, config.n_train)
    test = config.images("test", config.size, config.n_eval)
    splits = dict(zip(SPLITS, (train.take(config.n_eval), test)))
    data = {"fit": train.provenance, **{k: v.provenance for k, v in splits.items()}}
    earlier = config.earlier()
    linear = FittedLater(LinearDenoiser.label, lambda: LinearDenoiser().fit(train, progress=progress))
    records: list[dict[str, Any]] = []
    expected: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}

    def run(name: str, methods: Methods, code: Sequence[str], count: int | None = None, **settings: Any) -> None:
        found = sweep(
            {linear.label: (linear, None), **methods},
            splits if count is None else {name: split.take(count) for name, split in splits.items()},
            config.sigmas,
            seed=config.seed, seeds=config.seeds, batch_size=config.batch_size, reference=linear.label, device=config.device,
            progress=progress, checkpoint=Path(config.cache) / "sweeps" / f"{name}.json",
            settings={**settings, "fitted_on": train.provenance, "code": code_hash("numeric.evaluation.sweep", *code)},
        )  # fmt: skip
        known = {r["method"] for r in records}
        records.extend(r for r in found if r["method"] in methods or r["method"] not in known)
        for model in (linear, *(m for m, _ in methods.values())):
            if isinstance(model, FittedLater) and model.seconds is not None:
                seconds[model.label] = model.seconds

    taken: list[str] = []

    def take(method: str, degrees: Sequence[int | None], count: int | None = None) -> bool:
        """Take a method's rows from the earlier run, if it has them."""
        if earlier is None or not earlier.has(method, degrees, count):
            return False
        taken.append(method)
        records.extend(r for r in earlier.rows if r["method"] == method)
        expected.extend(r for r in earlier.expected if r["method"] == method)
        return True

    if earlier is not None:
        earlier.same_images(data)
        run("linear", {linear.label: (linear, None)}, ["numeric.baselines.linear"])
        earlier.agree(records, linear.label)
    panels: dict[str, dict[str, str]] = {}
    for (readout, family), degrees in config.wanted(len(train)).items():
        options, model = config.options(readout), config.model(readout, family, degrees)
        panels.setdefault(family, {})[readout] = model.label
        if take(model.label, degrees):
            continue
        later = FittedLater(model.label, partial(model.fit, train, progress=progress))
        run(f"{family}-{readout}", {model.label: (later, degrees)}, [f"numeric.scores.{readout}"], **options, readout=readout, family=family)
        if readout == "own":
            settings = {**options, "family": family, "degrees": degrees, "sigmas": config.sigmas, "fitted_on": train.provenance}
            key = {**settings, "code": code_hash("numeric.scores.own")}
            expected += kept_json(Path(config.cache) / "sweeps", f"{family}-expected", key, partial(expected_errors, later, degrees, config.sigmas))
        later.forget()
    if config.n_optimal and not take(OptimalDenoiser.label, [None], config.n_optimal):
        optimal = FittedLater(OptimalDenoiser.label, lambda: OptimalDenoiser().fit(train))
        run("optimal", {optimal.label: (optimal, None)}, ["numeric.baselines.optimal"], config.n_optimal)
    networks = trained(config.size, config.networks, config.weights) if config.n_trained else {}
    for label, network in networks.items():
        weights = weights_hash(network.path)
        run("network", {label: (network, None)}, ["numeric.baselines.network"], config.n_trained, weights=weights)
    return {
        "data": data,
        "taken": earlier.taken(taken) if earlier is not None else [],
        "panels": panels,
        "trained": list(networks),
        "cautions": overlap_caution({label: data_source(d) for label, d in networks.items()}, test.source),
        "fit_seconds": seconds,
        "records": records,
        "expected": expected,
    }


def expected_errors(later: FittedLater, degrees: Sequence[int], sigmas: Sequence[float]) -> list[dict[str, Any]]:
    """Exact expected MSE of an own readout before clamping, from its moments."""
    return [
        {"method": later.label, "degree": d, "sigma": s, "expected_mse_unclamped": later.model.expected_mse(s, d)}
        for s in sigmas
        for d in degrees
    ]


def notes(result: dict[str, Any]) -> list[str]:
    """What was not run: families that stop below the highest degree, and readouts left out; what an earlier run measured."""
    tops: dict[str, int] = {}
    for r in result["records"]:
        if r["degree"] is not None:
            tops[r["method"]] = max(r["degree"], tops.get(r["method"], 0))
    panels = result.get("panels", {})
    out = [f"{method}: to degree {top} only" for method, top in tops.items() if top < max(tops.values())]
    out += [] if any("shared" in labels for labels in panels.values()) or not panels else ["shared readout not run"]
    return out + taken_note(result)


def combined_se(paired: dict[str, Any]) -> float:
    """The larger of the two standard errors of a paired ratio."""
    return max(paired["se"], paired["se_seeds"] or 0.0)


def step_findings(records: Sequence[dict[str, Any]]) -> list[str]:
    """Does the MSE fall with every degree?  Steps are paired, image by image; marked where within two standard errors."""
    lines = []
    for method in dict.fromkeys(r["method"] for r in records if r["degree"] is not None):
        rises, steps = [], [r for r in select(records, method=method) if "to_previous" in r]
        for r in steps:
            step = r["to_previous"]
            if step["ratio"] > 1:
                unsure = ", within two standard errors" if step["ratio"] - 1 <= 2 * combined_se(step) else ""
                rises.append(
                    f"degree {r['degree']} at sigma {r['sigma']:g} ({r['split']}, {step['ratio'] - 1:+.2%}{unsure})"
                )
        if steps:
            lines.append(f"{method}: MSE " + (f"rises at {', '.join(rises)}" if rises else "falls with every degree"))
    return lines


def gain_findings(records: Sequence[dict[str, Any]]) -> list[str]:
    """By how much the highest degree lowers the held-out MSE of each method, smallest to largest over sigma."""
    lines = []
    for method in dict.fromkeys(r["method"] for r in records if r["degree"] is not None):
        rows = [r for r in select(records, method=method) if r["split"] == "test"]
        top = max((r["degree"] for r in rows), default=0)
        last = [r for r in rows if r["degree"] == top and top > min(q["degree"] for q in rows)]
        if last:
            changes = ", ".join(f"{r['to_lowest']['ratio'] - 1:+.1%} at sigma {r['sigma']:g}" for r in last)
            lines.append(f"{method}: held-out MSE at degree {top} against the lowest degree: {changes}")
    return lines


def trained_findings(result: dict[str, Any]) -> list[str]:
    """The gap between the best family and the best network on held-out images, level by level."""
    names, records, gaps = result.get("trained") or [], result["records"], []
    for sigma in sorted({r["sigma"] for r in records}):
        here = [r for r in select(records, split="test", sigma=sigma) if "to_reference" in r]
        networks, families = [r for r in here if r["method"] in names], [r for r in here if r["degree"] is not None]
        if networks and families:
            # Both are known relative to the linear denoiser on the same images, which removes the choice of images.
            network, family = (min(rows, key=lambda r: r["to_reference"]["ratio"]) for rows in (networks, families))
            ratio = family["to_reference"]["ratio"] / network["to_reference"]["ratio"]
            error = ratio * math.hypot(
                *(combined_se(r["to_reference"]) / r["to_reference"]["ratio"] for r in (family, network))
            )
            gaps.append(f"{ratio:.2f} ± {error:.2f} at sigma {sigma:g} ({family['method']} over {network['method']})")
    return [f"held-out MSE of the best family over that of the best network: {', '.join(gaps)}"] if gaps else []


def findings(result: dict[str, Any]) -> list[str]:
    """Sentences read off the records: does the MSE fall with the degree, by how much, and which method is lowest where."""
    records = result["records"]
    lines = step_findings(records) + gain_findings(records)
    for split in sorted({r["split"] for r in records}):
        for sigma in sorted({r["sigma"] for r in records}):
            here = select(records, split=split, sigma=sigma)
            family = min((r for r in here if r["degree"] is not None), key=lambda r: r["mse"])
            rest = [r for r in here if r["degree"] is None and r["method"] != "noisy"]
            beside = ", ".join(
                f"{r['method']} {r['mse']:.4g}" + (f" (first {r['n']} images)" if r["n"] < family["n"] else "")
                for r in rest
            )
            lines.append(
                f"{split}, sigma {sigma:g}: lowest family {family['method']} at degree {family['degree']}, "
                f"{plus_minus(family['mse'], family['se'])}; {beside or 'no baseline'}"
            )
    return lines + trained_findings(result) + notes(result) + taken_findings(result) + result.get("cautions", [])


def best_of(records: Sequence[dict[str, Any]], readout: str) -> tuple[str, int] | None:
    """Method and degree of a readout with the lowest MSE on the training images (geometric mean over sigma)."""
    rows = [r for r in records if r["degree"] is not None and f"{readout} readout" in r["method"] and r["split"] == "train"]
    found = {(r["method"], r["degree"]) for r in rows}

    def mean(key: tuple[str, int]) -> float:
        return float(np.mean([math.log(r["mse"]) for r in select(rows, method=key[0], degree=key[1])]))

    return min(found, key=mean, default=None)


def draw(result: dict[str, Any]) -> Any:
    """A panel per family, own and shared readout side by side (MSE above, its change against the lowest degree below).

    The last panel holds the best of each readout (on training images), the baselines and the networks: MSE, and its ratio to
    the linear denoiser on the same images.
    """
    p, records, panels = result["parameters"], result["records"], result["panels"]
    sigmas, error_bar = p["sigmas"], p["error_bar"]
    drawn = [r for r in records if r["degree"] is not None]
    methods = ["noisy", LinearDenoiser.label]
    rows = [(m, select(records, method=m)) for m in methods]
    for readout in READOUTS:
        best = best_of(drawn, readout)
        if best is not None:
            text = title_of(best[0]).replace(", own", ",\nown").replace(", shared", ",\nshared") + f", degree {best[1]}"
            rows.append((text, select(records, method=best[0], degree=best[1])))
    rows += [(m, select(records, method=m)) for m in [OptimalDenoiser.label, *result["trained"]] if select(records, method=m)]
    columns = [(family, readout, label) for family, labels in panels.items() for readout, label in labels.items()]
    letters, count = iter("abcdefgh"), max(len(columns), 1)
    with plt.rc_context(STYLE):
        lower_height = 0.36 * len(rows) + 0.3
        height = 6.2 + lower_height + 2.1
        figure = plt.figure(figsize=(max(2.35 * count, 9.5), height))
        outer = figure.add_gridspec(
            2, 1, height_ratios=[6.2, lower_height], hspace=2.2 / (6.2 + lower_height), left=0.075, right=0.985,
            top=1 - 0.95 / height, bottom=1.05 / height,
        )  # fmt: skip
        upper = outer[0].subgridspec(2, count, height_ratios=[3.4, 2.6], hspace=0.1, wspace=0.08)
        axes = [[figure.add_subplot(upper[i, j]) for j in range(count)] for i in range(2)]
        changes = [100 * (r["to_lowest"]["ratio"] - 1) for r in drawn]
        span = max(changes) - min(changes) or 1.0
        degrees = [r["degree"] for r in drawn]
        for column, (family, readout, label) in enumerate(columns):
            top, below = axes[0][column], axes[1][column]
            mine = select(drawn, method=label)
            sigma_lines(top, mine, sigmas, lambda r: r["mse"], lambda r: bar_of(r, error_bar))
            sigma_lines(
                below, mine, sigmas, lambda r: 100 * (r["to_lowest"]["ratio"] - 1), lambda r: 100 * bar_of(r["to_lowest"], error_bar)
            )
            below.axhline(0, color="0.4", linewidth=0.8)
            top.set_ylim(min(r["mse"] for r in drawn) / 1.2, max(r["mse"] for r in drawn) * 1.2)
            plain_log(top)
            below.set_ylim(min(changes) - 0.08 * span, max(changes) + 0.08 * span)
            below.set_xlabel("polynomial degree")
            top.tick_params(labelbottom=False, labelleft=not column)
            below.tick_params(labelleft=not column)
            for axis in (top, below):
                axis.set_xlim(min(degrees) - 0.2, max(degrees) + 0.2)
            top.set_title(f"{readout} readout", fontsize=9.5)
            if (family, readout) == next((f, r) for f, r, _ in columns if f == family):
                name = label.split(", own")[0].split(", shared")[0]
                place = top.get_position()
                figure.text(place.x0, place.y1 + 0.42 / height, f"({next(letters)}) {title_of(name + ',').rstrip(',')}", fontsize=11)
        axes[0][0].set_ylabel("MSE per pixel (clamped)")
        axes[1][0].set_ylabel(f"change against\ndegree {min(degrees)}, per cent")
        lower = outer[1].subgridspec(1, 3, wspace=0.04, width_ratios=[0.28, 1, 0.85])  # room for the methods' names
        left, right = figure.add_subplot(lower[1]), figure.add_subplot(lower[2])
        networks = [r["mse"] for r in records if r["method"] in result["trained"]]
        low = min([min(r["mse"] for r in drawn) / 1.5, *(v / 1.3 for v in networks)])
        method_rows(left, rows, sigmas, lambda r: r["mse"], lambda r: bar_of(r, error_bar), low)
        ratios = [r["to_reference"]["ratio"] for r in records if "to_reference" in r and r["method"] != OptimalDenoiser.label]
        method_rows(
            right, rows, sigmas, lambda r: r["to_reference"]["ratio"] if "to_reference" in r else None,
            lambda r: bar_of(r["to_reference"], error_bar), min([*ratios, 1.0]) / 1.4,
        )  # fmt: skip
        right.tick_params(labelleft=False)
        right.axvline(1.0, color="0.4", linewidth=0.8)
        left.set_title(f"({next(letters)}) best of each readout, baselines: MSE per pixel (clamped)", fontsize=10)
        right.set_title("ratio to the linear denoiser, same images", fontsize=10)
        title = f"Denoising MSE, {p['size']}x{p['size']}, {fitted_on(result)}, {p['basis']} basis"
        figure.suptitle(title, y=1 - 0.1 / height, fontsize=11.5)
        note = error_bar_text(error_bar, drawn[0]["seeds"]) + "; changes and ratios are paired; best: on training images"
        note = "; ".join([note, *notes(result)])
        legend_figure(figure, sigma_handles(sigmas) + split_handles(), note)
    return figure


make_figure = FigureMaker(measure, draw, findings)
