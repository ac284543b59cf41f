"""Agreement with trained networks along the way: every closed form and a network denoise the same noise, step by step.

Two comparisons at every step of one sampler, from the same seeds: *on the network's path* each closed form denoises the very
state that the network is in, so that only the two fields differ; on *its own path* it denoises where it has itself come to, so
that differences add up; the last step is the image it makes.  Kamb and Ganguli (2024) and Lukoianov et al. (2025) print r^2 of
that last image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from numeric.arguments import as_list
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.network import data_source, overlap_caution
from numeric.evaluation.identity import identity
from numeric.evaluation.metrics import image_agreement
from numeric.evaluation.sample import NoiseStream, Sampler, SamplingError, Trajectory
from numeric.evaluation.sweep import FittedLater
from numeric.figures.base import FigureMaker, family_degree
from numeric.figures.fig11 import GenerateConfig, fitted_later, make_denoisers
from numeric.figures.foresee import Work, linear_work, network_work, optimal_work, own_work, shared_work
from numeric.figures.networks import wrapped
from numeric.figures.style import STYLE, fitted_on
from numeric.fingerprint import code_hash
from numeric.progress import progress_bar
from numeric.results import kept_json

MEASURES = ("r2", "determination", "mse")
RESAMPLES = 400
"""Bootstrap resamples of the seeds, for intervals of medians."""


@dataclass(kw_only=True)
class AgreementConfig(GenerateConfig):
    """Parameters of the agreement: those of Figure 11, but

    Attributes:
        n_seeds: seeds compared. mixtures: numbers of components of a Gaussian mixture.
        optimal: compare the optimal empirical denoiser too.
    """

    name: str = "agreement"
    families: Sequence[str] = ("independent:3", "local:3")
    shared: Sequence[str] = ("independent:3",)
    wiener: Sequence[str] = ("pixel:3",)
    mixtures: Sequence[int] = (40,)
    optimal: bool = True
    n_seeds: int = 32
    steps: int = 18

    notebook: ClassVar[str] = "agreement"

    def check(self) -> None:
        super().check()
        self.mixtures = as_list(self.mixtures, int, "mixtures")
        if self.n_seeds < 2:
            raise ValueError(f"n_seeds must be >= 2 for an interval over seeds, got {self.n_seeds}")
        if not self.chosen_networks():
            raise ValueError(f"there is no trained network of {self.size}x{self.size} to agree with: give weights, or another size")

    def work(self, train: int) -> list[Work]:
        levels, images = 2 * self.steps, self.n_seeds
        shared = [family_degree(text) for text in self.shared]
        return [
            linear_work(self.size, train, levels, images), own_work(self.size, train, len(self.families), levels, images),
            *(shared_work(f, [d or 1], self.size, train, self.steps, 2 * images) for f, d in shared), *self.wiener_parts(train),
            *([optimal_work(self.size, train, 2 * levels, images)] if self.optimal else []),
            network_work(self.size, list(self.chosen_networks().values()), 2 * levels, images),
        ]  # fmt: skip

    def closed_forms(self, train: Any, progress: bool) -> dict[str, FittedLater]:
        """Label -> denoiser, fitted only if its rows are not there yet: those of Figure 11, and Gaussian mixtures."""
        out = make_denoisers(self, train, progress)
        if not self.optimal:
            del out["optimal empirical"]
        for n in self.mixtures:
            label, mixture = f"Gaussian mixture, {n}", GaussianMixtureDenoiser(n)
            out[label] = fitted_later(label, mixture, train, vars(mixture).copy(), progress=progress)
        return out


def summary(values: Tensor, seed: int = 0) -> dict[str, float]:
    """Median over seeds, mean, and the bootstrap's 95 % interval of the median, of ``(n,)`` values."""
    x = values.numpy()
    drawn = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.quantile(np.median(x[drawn], 1), [0.025, 0.975])
    return {"median": float(np.median(x)), "low": float(low), "high": float(high), "mean": float(x.mean())}


def compared(images: Tensor, target: Tensor, pixel_range: tuple[float, float]) -> list[dict[str, Any]]:
    """Agreement at every step, of ``(steps, n, channels, height, width)`` denoised images, clamped to the pixels' range."""
    rows = []
    for a, b in zip(images.clamp(*pixel_range), target.clamp(*pixel_range)):
        found = image_agreement(a, b)
        rows.append({name: summary(found[name]) for name in MEASURES})
    return rows


def on_path(denoiser: Any, path: Trajectory, process: Any) -> Tensor:
    """The denoised images of a denoiser in the states of another's run, in the shape of ``path.denoised``."""
    return torch.stack([process(denoiser, y, sigma) for y, sigma in zip(path.states, path.sigmas)])


def rows_of(label: str, model: Any, sampler: Sampler, paths: dict[str, Trajectory], train: Any, seeds: range) -> list[dict[str, Any]]:
    """The rows of one fitted denoiser: with every network but itself, on the network's path and on its own."""
    own: Trajectory | None = None
    message, rows = "", []
    try:
        own = sampler.trajectory(model, NoiseStream.from_seeds(seeds), train.shape, progress=False)
    except SamplingError as error:
        message = str(error)
    for name, path in paths.items():
        if name == label:
            continue
        row: dict[str, Any] = {"method": label, "network": name}
        row["on_its_path"] = compared(on_path(model, path, sampler.denoised), path.denoised, train.pixel_range)
        if own is None:
            row["failed"] = message
        else:
            row["on_own_path"] = compared(own.denoised, path.denoised, train.pixel_range)
            other = path.samples.roll(1, 0)  # another seed's image: what all images have in common
            row["other_seeds"] = compared(own.samples[None], other[None], train.pixel_range)[0]
        rows.append(row)
    return rows


def measure(config: AgreementConfig, progress: bool = True) -> dict[str, Any]:
    """Run the networks, then every closed form in their states and on its own; the rows of a finished method are kept in the cache."""
    train = config.images("train", config.size, config.n_train)
    sampler, networks = config.sampler(), config.chosen_networks()
    seeds = range(config.seed, config.seed + config.n_seeds)
    paths: dict[str, Trajectory] = {}

    def kept(label: str, denoiser: Any) -> list[dict[str, Any]]:
        key = {
            "method": label, "about": identity(denoiser), "fit": train.provenance, "seeds": config.n_seeds, "seed": config.seed,
            "sampler": {f.name: str(getattr(sampler, f.name)) for f in fields(sampler)}, "code": code_hash(__name__),
            "networks": {name: identity(network) for name, network in networks.items()},
        }  # fmt: skip

        def make() -> list[dict[str, Any]]:
            for name, network in networks.items():  # the networks' paths, once, and only if a method is left to compare
                if name not in paths:
                    paths[name] = sampler.trajectory(network, NoiseStream.from_seeds(seeds), train.shape, progress=progress)
            model = denoiser.model if isinstance(denoiser, FittedLater) else denoiser
            return rows_of(label, model, sampler, paths, train, seeds)

        return kept_json(Path(config.cache) / "agreement", label.replace(" ", "-").replace(",", ""), key, make)

    rows: list[dict[str, Any]] = []
    closed = config.closed_forms(train, progress)
    with progress_bar(len(networks) + len(closed), "paths", progress, "method") as bar:
        for label, denoiser in {**networks, **closed}.items():
            rows += kept(label, denoiser)
            if isinstance(denoiser, FittedLater):
                denoiser.forget()  # only one is held
            bar.update()
    return {
        "data": {"fit": train.provenance},
        "sigmas": [float(s) for s in sampler.sigmas],
        "networks": list(networks),
        "rows": rows,
        "cautions": overlap_caution({label: data_source(n) for label, n in networks.items()}, train.source),
    }


def draw(record: dict[str, Any]) -> Any:
    """A row per network: r^2 on its path, r^2 on the closed form's own path, MSE on its path, against the noise level."""
    names, sigmas = record["networks"], record["sigmas"]
    methods = list(dict.fromkeys(r["method"] for r in record["rows"]))
    colours = dict(zip(methods, [plt.get_cmap("tab10")(i % 10) for i in range(len(methods))]))
    kinds = (("on_its_path", "r2", "in the network's states"), ("on_own_path", "r2", "each on its own path"), ("on_its_path", "mse", "in the network's states"))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(names), 3, figsize=(12.5, 3.1 * len(names) + 1.5), squeeze=False, sharex=True)
        for line, name in zip(axes, names):
            for axis, (path, measure_, title) in zip(line, kinds):
                for row in (r for r in record["rows"] if r["network"] == name and path in r):
                    values = {k: [step[measure_][k] for step in row[path]] for k in ("median", "low", "high")}
                    style = "--" if row["method"] in names else "-"
                    axis.plot(sigmas, values["median"], style, color=colours[row["method"]], label=row["method"], linewidth=1.4)
                    axis.fill_between(sigmas, values["low"], values["high"], color=colours[row["method"]], alpha=0.15, linewidth=0)
                axis.set_xscale("log")
                if measure_ == "mse":
                    axis.set_yscale("log")
                axis.set_title(("median r$^2$ of denoised images, " if measure_ == "r2" else "median MSE per pixel, ") + title, fontsize=9)
            line[0].set_ylabel(wrapped(name), fontsize=8.5)
        axes[0, 0].invert_xaxis()
        for axis in axes[-1]:
            axis.set_xlabel("noise level sigma, from noise to image")
        handles: dict[str, Any] = {}
        for axis in axes.flat:
            handles |= {text: handle for handle, text in zip(*axis.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=4, fontsize=8)
        figure.suptitle(
            f"Agreement with trained networks along the way, {record['parameters']['n_seeds']} seeds, {fitted_on(record)} (bands: 95 % over seeds)",
            fontsize=11,
        )
        figure.tight_layout(rect=(0, (0.25 + 0.22 * -(-len(handles) // 4)) / figure.get_figheight(), 1, 1))
    return figure


def frame(record: dict[str, Any]) -> Any:
    """The final images as a pandas table: median r^2 and MSE, on the closed form's own path, with other seeds beside them."""
    import pandas as pd

    lines = []
    for row in record["rows"]:
        line = {"network": row["network"], "method": row["method"]}
        if "failed" in row:
            lines.append({**line, "r2": row["failed"]})
            continue
        last = row["on_own_path"][-1]
        for name in MEASURES:
            line[name] = f"{last[name]['median']:.3g} [{last[name]['low']:.3g}, {last[name]['high']:.3g}]"
        lines.append({**line, "r2, other seeds": f"{row['other_seeds']['r2']['median']:.3g}"})
    return pd.DataFrame(lines).set_index(["network", "method"]).fillna("")


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record: which closed form is nearest to each network, along the way and at the end."""
    lines = []
    for name in record["networks"]:
        rows = [r for r in record["rows"] if r["network"] == name and r["method"] not in record["networks"]]
        along = sorted(rows, key=lambda r: -np.mean([step["r2"]["median"] for step in r["on_its_path"]]))
        told = ", ".join(f"{r['method']} {np.mean([step['r2']['median'] for step in r['on_its_path']]):.3f}" for r in along)
        lines.append(f"{name}: median r^2 in its states, mean over steps, nearest first: {told}")
        ended = sorted((r for r in rows if "on_own_path" in r), key=lambda r: -r["on_own_path"][-1]["r2"]["median"])
        told = ", ".join(
            f"{r['method']} {r['on_own_path'][-1]['r2']['median']:.3f} [{r['on_own_path'][-1]['r2']['low']:.3f}, "
            f"{r['on_own_path'][-1]['r2']['high']:.3f}] (other seeds {r['other_seeds']['r2']['median']:.3f})"
            for r in ended
        )
        lines.append(f"{name}: median r^2 of the final images from the same seed: {told}")
        failed = [r["method"] for r in rows if "failed" in r]
        if failed:
            lines.append(f"{name}: did not come to an end on their own path: {', '.join(failed)}")
    return lines + record.get("cautions", [])


make_figure = FigureMaker(measure, draw, findings)
