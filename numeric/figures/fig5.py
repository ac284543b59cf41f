"""Figures 5 and 6 as one function: fit every family once, sweep the noise levels, record and draw."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import numeric.baselines
from numeric.baselines import data_source, overlap_caution
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.data import load_mnist
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import sweep
from numeric.figures.style import ERROR_BARS, mse_against_degree, select
from numeric.fingerprint import code_hash, weights_hash
from numeric.progress import progress_bar
from numeric.results import finish_figure
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore

TITLES = {"independent": "independent", "band": "band-tied", "local": "local"}


@dataclass
class SweepConfig:
    """Parameters of Figures 5 and 6.

    Attributes:
        size: image side. n_train, n_eval: images to fit on, and to evaluate on per split (None for all).
        sigmas: VE noise levels. degrees: polynomial degrees. families: any of independent, band, local.
        shared: families to run with the shared readout too; shared_degree: its highest degree (None: as the others).
            Its memory grows with the square of the feature count: at 64 x 64 degree 2 takes 2.3 GiB, degree 3 3.7 GiB.
        radius, interactions, basis, ridge: of the estimator.
        n_optimal: images per split for the optimal empirical denoiser (its cost is images times training images);
            0 leaves it out. n_trained: images per split for trained networks; 0 leaves them out.
        seed: of the evaluation noise; seeds: noise draws per image. error_bar: drawn, over ``seeds`` or over ``images``.
        device: torch device.
    """

    size: int = 32
    n_train: int | None = None
    n_eval: int | None = None
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3)
    families: Sequence[str] = ("independent", "band", "local")
    shared: Sequence[str] = ("independent",)
    shared_degree: int | None = None
    radius: int = 1
    interactions: str = "pairwise"
    basis: str = "monomial"
    ridge: float = 1e-10
    n_optimal: int = 1000
    n_trained: int = 100
    seed: int = 0
    seeds: int = 3
    error_bar: str = "seeds"
    device: str = "cpu"
    batch_size: int = 1000
    name: str = "fig5"
    data_root: str | None = None
    cache: str = field(default="runs")

    def __post_init__(self) -> None:
        unknown = [f for f in [*self.families, *self.shared] if f not in TITLES]
        if unknown:
            raise ValueError(f"unknown family {unknown[0]!r}: use any of {', '.join(TITLES)}")
        if not self.degrees or min(self.degrees) < 1:
            raise ValueError(f"degrees must be whole numbers >= 1, got {list(self.degrees)}")
        if not self.sigmas or min(self.sigmas) <= 0:
            raise ValueError(f"sigmas must be > 0, got {list(self.sigmas)}")
        if self.error_bar not in ERROR_BARS:
            raise ValueError(f"unknown error_bar {self.error_bar!r}: use one of {', '.join(ERROR_BARS)}")
        if self.seeds < 1 or (self.seeds == 1 and self.error_bar == "seeds"):
            raise ValueError(f"seeds must be >= 2 for error bars over seeds, got {self.seeds}: or error_bar='images'")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {self.device!r} was asked for but torch sees no GPU: use device='cpu'")

    @property
    def settings(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple | list) else v for k, v in vars(self).items() if k != "cache"}


def mse_sweep(config: SweepConfig, progress: bool = True) -> dict[str, Any]:
    """Fit every method, evaluate on training and held-out images; returns the record that the figure is drawn from."""
    train = load_mnist("train", size=config.size, count=config.n_train, root=config.data_root)
    test = load_mnist("test", size=config.size, count=config.n_eval, root=config.data_root)
    degrees = sorted(set(config.degrees))
    methods: dict[str, tuple[Denoiser, Sequence[int] | None]] = {}
    fit_seconds: dict[str, float] = {}
    own = [
        WaveletScore(
            name,
            max(degrees),
            config.radius,
            config.interactions,
            basis=config.basis,
            ridge=config.ridge,
            device=config.device,
        )
        for name in config.families
    ]
    moments = [model.new_moments(train.shape) for model in own]
    with progress_bar(len(train) * len(own), "moments", progress) as bar:
        for model, accumulator in zip(own, moments):
            start = time.perf_counter()
            accumulator.fit(train.batches(config.batch_size), bar.update)
            model.fit_moments(accumulator)
            fit_seconds[model.label] = time.perf_counter() - start
            methods[model.label] = (model, degrees)
    for name in config.shared:
        within = [d for d in degrees if config.shared_degree is None or d <= config.shared_degree]
        if not within:
            continue
        shared = SharedWaveletScore(
            name, max(within), config.radius, config.interactions, basis=config.basis, device=config.device
        )
        start = time.perf_counter()
        shared.fit(train, progress=progress)
        fit_seconds[shared.label] = time.perf_counter() - start
        methods[shared.label] = (shared, within)
    start = time.perf_counter()
    linear = LinearDenoiser().fit(train, progress=progress)
    fit_seconds[linear.label] = time.perf_counter() - start
    trained = numeric.baselines.trained(config.size) if config.n_trained else {}
    baselines: dict[str, Denoiser] = {linear.label: linear}
    if config.n_optimal:
        baselines[OptimalDenoiser.label] = OptimalDenoiser().fit(train)
    baselines |= trained
    methods |= {label: (denoiser, None) for label, denoiser in baselines.items() if label not in trained}
    splits = {"train": train.take(config.n_eval), "test": test}
    shared_settings: dict[str, Any] = {
        "sigmas": list(config.sigmas),
        "seed": config.seed,
        "seeds": config.seeds,
        "batch_size": config.batch_size,
        "reference": linear.label,
        "device": config.device,
        "progress": progress,
    }
    settings = {
        **{k: v for k, v in config.settings.items() if k not in ("error_bar", "n_trained", "cache", "data_root")},
        "fitted_on": train.provenance,
        "code": code_hash("numeric.evaluation.sweep", "numeric.scores.own", "numeric.scores.shared", "numeric.baselines.optimal"),
    }
    start = time.perf_counter()
    records = sweep(
        methods,
        splits,
        limits={OptimalDenoiser.label: config.n_optimal},
        checkpoint=Path(config.cache) / f"{config.name}.json",
        settings=settings,
        **shared_settings,
    )
    if trained:
        # Apart from the rest, so that new weights cost a run of the networks only; the linear denoiser goes with them,
        # as their reference on the same images and the same noise.
        networks: dict[str, tuple[Denoiser, Sequence[int] | None]] = {
            label: (denoiser, None) for label, denoiser in {linear.label: linear, **trained}.items()
        }
        code = code_hash("numeric.evaluation.sweep", "numeric.baselines", "numeric.baselines.linear")
        found = sweep(
            networks,
            {name: split.take(config.n_trained) for name, split in splits.items()},
            checkpoint=Path(config.cache) / f"{config.name}-trained.json",
            settings={"fitted_on": train.provenance, "code": code, "weights": weights_hash()},
            **shared_settings,
        )
        records += [r for r in found if r["method"] in trained]
    expected = [
        {
            "method": model.label,
            "degree": degree,
            "sigma": sigma,
            "expected_mse_unclamped": model.expected_mse(sigma, degree),
        }
        for model in own
        for sigma in config.sigmas
        for degree in degrees
    ]
    return {
        "parameters": config.settings,
        "data": {"fit": train.provenance, **{k: v.provenance for k, v in splits.items()}},
        "families": {
            TITLES[m.family] if m.family != "local" else f"local, r = {m.radius}, {m.interactions}": m.label
            for m in own
        },
        "baselines": ["noisy", *baselines],
        "trained": list(trained),
        "cautions": overlap_caution({label: data_source(d) for label, d in trained.items()}, test.source),
        "fit_seconds": fit_seconds,
        "evaluation_seconds": time.perf_counter() - start,
        "records": records,
        "expected": expected,
    }


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
                f"{family['mse']:.5f} (± {family['se']:.5f}); {beside or 'no baseline'}"
            )
    return lines + trained_findings(result) + result.get("cautions", [])


def trained_findings(result: dict[str, Any]) -> list[str]:
    """The gap between the best family and the best trained network on held-out images, level by level."""
    trained, records, gaps = result.get("trained") or [], result["records"], []
    for sigma in sorted({r["sigma"] for r in records}):
        here = [r for r in select(records, split="test", sigma=sigma)]
        networks = [r for r in here if r["method"] in trained and "to_reference" in r]
        families = [r for r in here if r["degree"] is not None and "to_reference" in r]
        if networks and families:
            # Both are known relative to the linear denoiser on the same images, which removes the choice of images.
            network = min(networks, key=lambda r: r["to_reference"]["ratio"])
            family = min(families, key=lambda r: r["to_reference"]["ratio"])
            ratio = family["to_reference"]["ratio"] / network["to_reference"]["ratio"]
            error = ratio * math.hypot(
                *(combined_se(r["to_reference"]) / r["to_reference"]["ratio"] for r in (family, network))
            )
            gaps.append(f"{ratio:.2f} ± {error:.2f} at sigma {sigma:g} ({family['method']} over {network['method']})")
    return [f"held-out MSE of the best family over that of the best trained network: {', '.join(gaps)}"] if gaps else []


def make_figure(
    config: SweepConfig, output: str | Path, progress: bool = True
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Run the sweep and write ``output/<name>.{png,pdf,json}``; returns the figure, its record and the paths."""
    result = mse_sweep(config, progress)
    fit = result["data"]["fit"]
    title = f"Denoising MSE, {config.size}x{config.size}, fitted on {fit['count']:,} images of {fit['source']}, {config.basis} basis"
    figure = mse_against_degree(result, list(config.sigmas), title, config.error_bar)
    return finish_figure(figure, {**result, "findings": findings(result)}, output, config.name, config.seed)
