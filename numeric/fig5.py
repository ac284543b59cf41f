"""Figures 5 and 6 as one function: fit every family once, sweep the noise levels, record and draw."""

from __future__ import annotations

import importlib
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.data import load_mnist
from numeric.denoiser import Denoiser
from numeric.estimator import WaveletScore
from numeric.figures import mse_against_degree, select
from numeric.progress import progress_bar
from numeric.results import provenance, save_figure
from numeric.shared import SharedWaveletScore
from numeric.sweep import sweep

TITLES = {"independent": "independent", "band": "band-tied", "local": "local"}


@dataclass
class SweepConfig:
    """Parameters of Figures 5 and 6.

    Attributes:
        size: image side. n_train, n_eval: images to fit on, and to evaluate on per split (None for all).
        sigmas: VE noise levels. degrees: polynomial degrees. families: any of independent, band, local.
        shared: families to run with the shared readout too. radius, interactions, basis, ridge: of the estimator.
        n_optimal: images per split for the optimal empirical denoiser (its cost is images times training images).
        seed: of the evaluation noise. device: torch device.
    """

    size: int = 32
    n_train: int | None = None
    n_eval: int | None = None
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degrees: Sequence[int] = (1, 2, 3)
    families: Sequence[str] = ("independent", "band", "local")
    shared: Sequence[str] = ("independent",)
    radius: int = 1
    interactions: str = "pairwise"
    basis: str = "monomial"
    ridge: float = 1e-10
    n_optimal: int = 1000
    seed: int = 0
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
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {self.device!r} was asked for but torch sees no GPU: use device='cpu'")

    @property
    def settings(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple | list) else v for k, v in vars(self).items() if k != "cache"}


def trained_baselines(size: int) -> dict[str, Denoiser]:
    """Trained networks shipped for this image size; empty where there are none."""
    module = importlib.import_module("numeric.baselines")
    return module.trained(size) if hasattr(module, "trained") else {}


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
        shared = SharedWaveletScore(name, max(degrees), config.radius, config.interactions, basis=config.basis)
        start = time.perf_counter()
        shared.fit(train, progress=progress)
        fit_seconds[shared.label] = time.perf_counter() - start
        methods[shared.label] = (shared, degrees)
    start = time.perf_counter()
    linear = LinearDenoiser().fit(train, progress=progress)
    fit_seconds[linear.label] = time.perf_counter() - start
    optimal = OptimalDenoiser().fit(train)
    baselines: dict[str, Denoiser] = {
        linear.label: linear,
        optimal.label: optimal,
        **trained_baselines(config.size),
    }
    methods |= {label: (denoiser, None) for label, denoiser in baselines.items()}
    limits = {label: config.n_optimal for label in baselines if label != linear.label}
    splits = {"train": train.take(config.n_eval), "test": test}
    start = time.perf_counter()
    records = sweep(
        methods,
        splits,
        list(config.sigmas),
        seed=config.seed,
        batch_size=config.batch_size,
        limits=limits,
        checkpoint=Path(config.cache) / f"{config.name}.json",
        settings={**config.settings, "fitted_on": train.provenance},
        device=config.device,
        progress=progress,
    )
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
        "fit_seconds": fit_seconds,
        "evaluation_seconds": time.perf_counter() - start,
        "records": records,
        "expected": expected,
    }


def findings(result: dict[str, Any]) -> list[str]:
    """Sentences read off the records: does the MSE fall with the degree, and which method is lowest where.

    A step counts as a rise where it exceeds two standard errors of the two means.  That is generous to the families: the
    noise is common to all degrees, so that paired differences are known better than the means.
    """
    records, lines = result["records"], []
    splits = sorted({r["split"] for r in records})
    for method in dict.fromkeys(r["method"] for r in records if r["degree"] is not None):
        rises = []
        for split in splits:
            for sigma in sorted({r["sigma"] for r in records}):
                rows = sorted(select(records, method=method, split=split, sigma=sigma), key=lambda r: r["degree"])
                for low, high in itertools.pairwise(rows):
                    if high["mse"] > low["mse"] + 2 * math.hypot(low["se"], high["se"]):
                        rises.append(f"degree {high['degree']} at sigma {sigma:g} ({split})")
                    elif high["mse"] > low["mse"]:
                        rises.append(
                            f"degree {high['degree']} at sigma {sigma:g} ({split}, within two standard errors)"
                        )
        lines.append(f"{method}: " + (f"rises at {', '.join(rises)}" if rises else "falls with every degree"))
    for split in splits:
        for sigma in sorted({r["sigma"] for r in records}):
            family = min(
                (r for r in select(records, split=split, sigma=sigma) if r["degree"] is not None),
                key=lambda r: r["mse"],
            )
            rest = [r for r in select(records, split=split, sigma=sigma, degree=None) if r["method"] != "noisy"]
            beside = ", ".join(f"{r['method']} {r['mse']:.5f}" for r in rest)
            lines.append(
                f"{split}, sigma {sigma:g}: lowest family {family['method']} at degree {family['degree']}, "
                f"{family['mse']:.5f} (± {family['se']:.5f}); {beside or 'no baseline'}"
            )
    return lines


def make_figure(
    config: SweepConfig, output: str | Path, progress: bool = True
) -> tuple[Any, dict[str, Any], list[Path]]:
    """Run the sweep and write ``output/<name>.{png,pdf,json}``; returns the figure, its record and the paths."""
    result = mse_sweep(config, progress)
    fit = result["data"]["fit"]
    title = f"Denoising MSE, {config.size}x{config.size}, fitted on {fit['count']:,} images of {fit['source']}, {config.basis} basis"
    figure = mse_against_degree(result["records"], result["families"], result["baselines"], list(config.sigmas), title)
    command = f"papermill notebooks/{config.name}.ipynb out.ipynb"
    record = {**provenance(command, config.seed), **result}
    return figure, record, save_figure(figure, Path(output) / config.name, record)
