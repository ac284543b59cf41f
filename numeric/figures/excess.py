"""Excess risk: what a fit on n images costs, predicted by the trace formula and measured; and a quotable bound beside the truth.

The training images are the population: n are drawn from them with replacement, so the risk of every fit on all of them is exact,
and so is the excess over the best coefficients.  Beside it the error on held-out images, which is what one chooses by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D

from analytic.theory.finite import KINDS, FiniteSampleBound, interval_of
from numeric.arguments import as_list
from numeric.data import ImageSet
from numeric.figures.base import FigureMaker, Parameters, coordinates_degree, family_degree, required_degree
from numeric.figures.foresee import Work, own_work, shared_work, wiener_work
from numeric.figures.style import COLOURS, STYLE, fitted_on, legend_figure, plain_log, select
from numeric.fingerprint import code_hash
from numeric.noise import ve
from numeric.progress import progress_bar
from numeric.results import read_json, write_json
from numeric.scores.own import WaveletScore
from numeric.scores.readouts import READOUTS
from numeric.scores.recommend import features_of
from numeric.scores.wiener import WienerScore


@dataclass(kw_only=True)
class ExcessConfig(Parameters):
    """Parameters of the figure.

    Attributes:
        size: image side. n_train: images of the population (None: all); n_test: held out.
        counts: images to fit on. draws: training sets of each number up to ``many``; one above it.
        sigma: the noise level (VE). families, shared: ``family:degree`` of the own and the shared readout; lower degrees too.
        wiener: ``coordinates:degree`` of :class:`numeric.scores.wiener.WienerScore`, that degree alone; wiener_counts: images to fit
            it on, one training set each: every fit reads the population and the held-out images again, in its own coordinates.
        n_spread: images that the prediction reads. bound_degrees: of the bound; n_bound: images it is of; delta: its
            probability to fail.
    """

    name: str = "excess"
    size: int = 32
    n_train: int | None = None
    n_test: int = 5000
    counts: Sequence[int] = (100, 300, 1000, 3000, 10000, 60000)
    draws: int = 3
    many: int = 1000
    sigma: float = 0.25
    families: Sequence[str] = ("independent:3", "band:3", "local:2")
    shared: Sequence[str] = ("independent:2",)
    wiener: Sequence[str] = ("pixel:3",)
    wiener_counts: Sequence[int] = (1000, 3000, 10000)
    n_spread: int = 1000
    bound_degrees: Sequence[int] = (1, 2)
    n_bound: int = 60000
    delta: float = 0.05

    notebook: ClassVar[str] = "excess"

    def check(self) -> None:
        self.counts = as_list(self.counts, int, "counts")
        self.bound_degrees = as_list(self.bound_degrees, int, "bound_degrees")
        self.wiener = as_list(self.wiener, str, "wiener")
        self.wiener_counts = as_list(self.wiener_counts, int, "wiener_counts")
        for name, counts in (("counts", self.counts), ("wiener_counts", self.wiener_counts)):
            if not counts or min(counts) < 10:
                raise ValueError(f"{name} must be numbers of images >= 10, got {counts}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be > 0, got {self.sigma}")
        if self.draws < 1 or self.n_spread < 10:
            raise ValueError(f"draws must be >= 1 and n_spread >= 10, got {self.draws} and {self.n_spread}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must lie strictly between 0 and 1, got {self.delta}: it is a probability")
        for text in [*self.families, *self.shared]:
            required_degree(text)
        for text in self.wiener:
            coordinates_degree(text)

    def drawn(self, count: int) -> int:
        """Training sets of so many images."""
        return self.draws if count <= self.many else 1

    def sets(self, readout: str) -> list[tuple[int, int]]:
        """Numbers of images to fit a readout on, each with how many training sets."""
        return [(n, 1) for n in self.wiener_counts] if readout == "wiener" else [(n, self.drawn(n)) for n in self.counts]

    def work(self, train: int) -> list[Work]:
        images = train + self.n_test + sum(count * self.drawn(count) for count in self.counts)
        fits = sum(self.drawn(count) for count in self.counts) + 1
        out = [own_work(self.size, images, 2 * len(self.families), fits, 10)]
        for text in self.shared:
            name, degree = family_degree(text)
            out.append(shared_work(name, range(1, (degree or 1) + 1), self.size, images, 2 * fits, 0))
        read = len(self.wiener_counts) * (train + self.n_test) + train + sum(self.wiener_counts)
        return out + [wiener_work(*coordinates_degree(text), self.size, read, 3 * len(self.wiener_counts)) for text in self.wiener]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Readout and ``name:degree`` of every panel."""
        kinds = {"own": self.families, "shared": self.shared, "wiener": self.wiener}
        return [(readout, text) for readout, texts in kinds.items() for text in texts]


def made_by(readout: str, text: str) -> tuple[str, list[int], Callable[[], Any]]:
    """Name and degrees of a row of the figure, and what makes an unfitted estimator of it."""
    if readout == "wiener":
        coordinates, degree = coordinates_degree(text)
        return coordinates, [degree], lambda: WienerScore(degree=degree, coordinates=coordinates)
    family, degree = required_degree(text)
    return family, list(range(1, degree + 1)), lambda: READOUTS[readout](family, degree)


def moments_of(model: Any, images: ImageSet, bar: Any = None) -> Any:
    """Moments of images with a model's settings."""
    moments = model.new_moments(images.shape)
    model.accumulate(moments, images, 1000, bar, None, 30.0)
    return moments


def curves(config: ExcessConfig, readout: str, text: str, train: ImageSet, test: ImageSet, progress: bool) -> list[dict[str, Any]]:
    """One family's rows: for each degree and number of images, risks measured and predicted."""
    family, degrees, make = made_by(readout, text)
    noise = ve(config.sigma)
    random = np.random.default_rng(config.seed)
    total = len(train) + len(test) + sum(count * draws for count, draws in config.sets(readout))
    rows: list[dict[str, Any]] = []
    with progress_bar(make().passes * total, f"{readout} {family}", progress) as bar:
        model = make().fit_moments(moments_of(make(), train, bar))
        held_out = moments_of(model, test, bar)
        spread = train.subset(np.sort(random.choice(len(train), min(config.n_spread, len(train)), replace=False)))
        options: Any = {} if readout == "own" else {"outputs": []}
        found = {d: model.standard_errors(noise, spread, d, **options) for d in degrees}
        best = {d: model.expected_mse(noise, d) for d in degrees}
        features = {d: features_of(model, d) for d in degrees}
        for count, sets in config.sets(readout):
            draws: dict[int, list[dict[str, float]]] = {d: [] for d in degrees}
            for _ in range(sets):
                chosen = train.subset(np.sort(random.integers(len(train), size=count)))
                fit = make().fit_moments(moments_of(model, chosen, bar))
                for d in degrees:
                    draws[d].append(
                        {
                            "train": fit.expected_mse(noise, d),
                            "excess": fit.expected_mse(noise, d, model.moments_) - best[d],
                            "held_out": fit.expected_mse(noise, d, held_out),
                        }
                    )
            for d in degrees:
                share = len(train) / count
                rows.append(
                    {
                        "readout": readout, "family": family, "degree": d, "n": count, "features": features[d], "best": best[d],
                        "draws": draws[d], "predicted_excess": found[d].excess * share, "predicted_optimism": found[d].optimism * share,
                        **{key: float(np.mean([draw[key] for draw in draws[d]])) for key in ("train", "excess", "held_out")},
                    }
                )  # fmt: skip
    return rows


def bounds(config: ExcessConfig, train: ImageSet, progress: bool) -> list[dict[str, Any]]:
    """The bound, what the trace formula predicts and the truth, at the coefficient of largest variance in every band."""
    model = WaveletScore("independent", 1)
    moments = moments_of(model, train)
    transform, size = moments.transform, moments.transform.n_coefficients
    values = torch.cat([transform.forward(batch.double()).flatten(1)[:, :size] for batch in train.batches(1000)]).numpy()
    side = transform.shape
    atoms = transform.forward(torch.eye(side[0] * side[1], dtype=torch.float64).reshape(-1, 1, *side))[:, 0].T.numpy()
    random, low, high = np.random.default_rng(config.seed + 1), *train.pixel_range
    chosen = random.integers(len(train), size=config.n_bound)
    rows = []
    with progress_bar(len(transform.bands) * len(config.bound_degrees), "bound", progress) as bar:
        for band in transform.bands:
            place = int(band.indices.ravel()[values[:, band.indices.ravel()].var(0).argmax()])
            interval = interval_of(atoms[place], low, high)
            sample = values[chosen, place]
            for degree in config.bound_degrees:
                bound = FiniteSampleBound(degree)
                found = {kind: bound.evaluate(sample, *interval, config.sigma, delta=config.delta, kind=kind) for kind in KINDS}
                truth = bound.excess(found[KINDS[0]].theta, values[:, place], *interval, config.sigma)[1]
                rows.append(
                    {
                        "band": f"{band.orientation}{band.scale}", "degree": degree, "n": config.n_bound, "excess": truth,
                        "mmse": float(values[:, place].var()), **{kind: found[kind].denoiser if found[kind].eta < 1 else None for kind in KINDS},
                    }
                )  # fmt: skip
                bar.update(1)
    return rows


def measure(config: ExcessConfig, progress: bool = True) -> dict[str, Any]:
    """Every family in turn; a finished one is kept in the cache."""
    train, test = config.images("train", config.size, config.n_train), config.images("test", config.size, config.n_test)
    data = {"fit": train.provenance, "test": test.provenance}
    settings = {k: config.settings[k] for k in ("counts", "wiener_counts", "draws", "many", "sigma", "n_spread", "seed")}
    rows: list[dict[str, Any]] = []

    def kept(key: dict[str, Any], make: Any) -> Any:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        path = Path(config.cache) / "excess" / f"{name}.json"
        if not path.is_file():
            write_json(path, {"key": key, "rows": make()})
        return read_json(path)["rows"]

    for readout, text in config.rows:
        key = {"readout": readout, "family": text, "data": data, **settings, "code": code_hash("numeric.figures.excess")}
        rows += kept(key, lambda r=readout, t=text: curves(config, r, t, train, test, progress))
    of_bound = {k: config.settings[k] for k in ("bound_degrees", "n_bound", "delta", "sigma", "seed")}
    bound = kept({"data": data, **of_bound, "code": code_hash("numeric.figures.excess")}, lambda: bounds(config, train, progress))
    return {"data": data, "rows": rows, "bound": bound}


def _name(row: dict[str, Any]) -> str:
    return f"{row['family']}, {row['readout']}"


def draw(record: dict[str, Any]) -> Any:
    """A panel a family: excess against n, measured and predicted; held-out errors of all; the bound beside the truth."""
    rows, p = record["rows"], record["parameters"]
    names = list(dict.fromkeys(map(_name, rows)))
    shades = [COLOURS[c] for c in ("blue", "vermilion", "green", "purple", "orange", "sky")]
    with plt.rc_context(STYLE):
        columns = max(3, -(-(len(names) + 2) // 2))
        figure, axes = plt.subplots(2, columns, figsize=(4.1 * columns, 7.2))
        panels = list(axes.flat)
        for axis, name in zip(panels, names):
            mine = [r for r in rows if _name(r) == name]
            for degree in sorted({r["degree"] for r in mine}):
                here = select(mine, degree=degree)
                n, colour = [r["n"] for r in here], shades[degree - 1]
                axis.plot(n, [r["predicted_excess"] for r in here], color=colour, linewidth=1.2)
                for r in here:
                    axis.plot([r["n"]] * len(r["draws"]), [d["excess"] for d in r["draws"]], "o", color=colour, markersize=4)
            axis.set(xscale="log", yscale="log", title=f"{name} readout: excess risk", xlabel="images")
        held, bounded = panels[len(names)], panels[len(names) + 1]
        for name, colour in zip(names, shades):
            mine = [r for r in rows if _name(r) == name]
            for degree in sorted({r["degree"] for r in mine}):
                line = (":", "--", "-", "-.")[(degree - 1) % 4]
                here = select(mine, degree=degree)
                held.plot([r["n"] for r in here], [r["held_out"] for r in here], line, color=colour, linewidth=1.2, marker=".")
        held.set(xscale="log", title="held-out error (dotted, dashed, full: degrees 1, 2, 3)", xlabel="images")
        plain_log(held)
        held.legend(handles=[Line2D([], [], color=c, label=name) for name, c in zip(names, shades)], fontsize=7.5)
        for degree, marker in zip(p["bound_degrees"], "os^D"):
            here = [r for r in record["bound"] if r["degree"] == degree]
            for kind, colour in zip(("excess", *KINDS), ("0.2", COLOURS["orange"], COLOURS["blue"])):
                points = [(k, r[kind]) for k, r in enumerate(here) if r[kind] is not None]
                bounded.plot([k for k, _ in points], [v for _, v in points], marker, color=colour, markersize=5)
        bands = list(dict.fromkeys(r["band"] for r in record["bound"]))
        bounded.set_xticks(range(len(bands)), bands)
        bounded.set(yscale="log", title=f"the bound on {p['n_bound']:,} images (grey: the truth)", xlabel="band (its coefficient of largest variance)")
        marks = [Line2D([], [], color="0.3", marker=m, linestyle="", label=f"degree {d}") for d, m in zip(p["bound_degrees"], "os^D")]
        tints = [Line2D([], [], color=c, marker="o", linestyle="", label=k) for k, c in zip(KINDS, (COLOURS["orange"], COLOURS["blue"]))]
        bounded.legend(handles=marks + tints, fontsize=7.5)
        for axis in panels[len(names) + 2 :]:
            axis.set_axis_off()
        figure.suptitle(f"What n images cost, sigma {p['sigma']:g}, population: {fitted_on(record).removeprefix('fitted on ')}", fontsize=11.5)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        top = max(r["degree"] for r in rows)
        handles = [Line2D([], [], color=shades[d - 1], marker="o", label=f"degree {d}") for d in range(1, top + 1)]
        legend_figure(figure, handles, "points: training sets drawn, excess exact on the population; lines: tr(G Cov(theta)), Cov the sandwich")
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Where the trace formula holds, which method is best with n images, and how loose the bound is."""
    lines, rows = [], record["rows"]
    for name in dict.fromkeys(map(_name, rows)):
        mine = [r for r in rows if _name(r) == name]
        for degree in sorted({r["degree"] for r in mine}):
            here = select(mine, degree=degree)
            ratios = ", ".join(f"{r['excess'] / r['predicted_excess']:.2f} at {r['n']:,}" for r in here)
            one = here[0]["predicted_excess"] * here[0]["n"]
            lines.append(
                f"{name} readout, degree {degree} ({here[0]['features']:,} coefficients an output): predicted excess {one:.3g} / n, "
                f"{one / here[0]['best']:.3g} times the best error {here[0]['best']:.5f} over n; measured over predicted {ratios}"
            )
    for count in sorted({r["n"] for r in rows}):
        ranked = sorted(select(rows, n=count), key=lambda r: r["held_out"])
        own = [r for r in ranked if r["readout"] == "own"]
        text = "; ".join(f"{_name(r)}, degree {r['degree']} ({r['held_out']:.5f})" for r in (ranked[0], own[0]) if r) if own else _name(ranked[0])
        absent = [name for name in dict.fromkeys(map(_name, rows)) if name not in map(_name, ranked)]
        lines.append(
            f"{count:,} images: lowest held-out error {text}" + (" (all; own readouts)" if own else "")
            + (f"; not fitted on so many: {', '.join(absent)}" if absent else "")
        )  # fmt: skip
    for degree in record["parameters"]["bound_degrees"]:
        here = select(record["bound"], degree=degree)
        for kind in KINDS:
            loose = [r[kind] / r["excess"] for r in here if r[kind] is not None]
            share = [r[kind] / r["mmse"] for r in here if r[kind] is not None]
            lines.append(
                f"bound ({kind}, delta {record['parameters']['delta']:g}) on {record['parameters']['n_bound']:,} images, degree {degree}: "
                + (
                    f"it says something in {len(loose)} of {len(here)} bands; {min(loose):.3g} to {max(loose):.3g} times the true excess of the "
                    f"drawn fit (median {np.median(loose):.3g}), median {np.median(share):.2g} of the coefficient's variance"
                    if loose
                    else f"it says nothing in any of {len(here)} bands (eta >= 1)"
                )
            )
    return lines


make_figure = FigureMaker(measure, draw, findings)
