"""Closed forms on a GPU: fits on all digits, noise levels and evaluation, beside the dense products they cannot do without.

The floor of a fit is the product of the features on and below the diagonal; that of a level torch's own Cholesky factor, the
triangular solves of all outputs and the evaluation's products.  They are run by themselves, in float64 (evaluation: float32), on
matrices of the same sizes, on the same card, in the same process, where they fit.  A row is written as soon as it is measured;
one that fails is written with its message, and the run goes on.  Held-out errors are of clamped images.
"""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.page import write_section
from numeric.baselines.clock import machine_name
from numeric.data import load_mnist
from numeric.evaluation.sweep import image_errors, noise_like
from numeric.imageset import ImageSet
from numeric.memory import free_memory
from numeric.results import provenance, read_json, write_json
from numeric.scores.coordinates import wiener_settings
from numeric.scores.dense import PANEL_THERE
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore

OUTPUT = Path(__file__).with_suffix(".json")
SIGMAS = (0.1, 0.25, 0.5, 1.0)
BATCH = 1000
"""Images evaluated at a time."""
PARTS = ("own", "shared32", "wiener", "shared64")
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


class Card:
    """The device that is measured: its clock waits until its work is done."""

    def __init__(self, device: str) -> None:
        self.device, self.cuda = torch.device(device), torch.device(device).type == "cuda"
        self.name = machine_name(device)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """The result and wall seconds."""
        self.wait()
        start = time.perf_counter()
        out = call()
        self.wait()
        return out, time.perf_counter() - start

    def warm_up(self) -> None:
        """Load the libraries, so that the first row does not pay for it."""
        x = torch.eye(256, dtype=torch.float64, device=self.device)
        factor = torch.linalg.cholesky(x @ x)
        _ = torch.linalg.solve_triangular(factor, torch.linalg.eigh(x)[1], upper=False), x.float() @ x.float()
        self.wait()

    def fresh(self) -> None:
        """Give back what nobody holds, and measure the peak from here."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak_gib(self) -> float:
        """Of the card since :meth:`fresh`; on a CPU of the process."""
        if self.cuda:
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Rows:
    """Rows of the results file, written one by one."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record, self.start = path, {**record, "rows": []}, time.monotonic()
        write_json(path, self.record)

    def add(self, **row: Any) -> dict[str, Any]:
        self.record["rows"].append(row)
        write_json(self.path, self.record)
        shown = ", ".join(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        print(f"[{time.monotonic() - self.start:.0f} s] {shown}", flush=True)
        return row

    def guarded(self, card: Card, call: Callable[[], Any], **what: Any) -> Any:
        """What a call gives; a failure becomes a row (then None)."""
        message = None
        try:
            return call()
        except (MemoryError, ArithmeticError, ValueError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
            message = f"{type(error).__name__}: {error}"[:400]
        card.fresh()
        self.add(**what, what="failed", message=message)
        return None


def read(split: str, size: int, count: int | None) -> tuple[ImageSet, dict[str, Any]]:
    """Digits resized once, not at every pass, and the provenance of the files they come from."""
    images = load_mnist(split, size=size, count=count)
    out = replace(images, raw=images[:], size=None, _facts={})
    print(f"{split} {size} x {size}: {len(out):,} images, span {out.span}, sha256 {out.sha256[:12]}", flush=True)
    return out, images.provenance


def noisy_batches(clean: ImageSet, sigma: float, key: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Noisy and clean images on the device, float32, :data:`BATCH` at a time."""
    x = clean[:].float()
    y = x + sigma * noise_like(x, key, round(sigma * 1e6))
    return [(a.to(device), b.to(device)) for a, b in zip(y.split(BATCH), x.split(BATCH))]


def evaluated(card: Card, model: Any, batches: list[tuple[Tensor, Tensor]], sigma: float, degrees: Sequence[int]) -> dict[str, Any]:
    """Held-out MSE of every degree with its standard error, and the seconds of denoising all batches."""
    estimates, seconds = card.timed(lambda: [model.denoise_degrees(y, sigma, degrees) for y, _ in batches])
    errors = [torch.cat([image_errors(x[i].double(), clean.double()) for x, (_, clean) in zip(estimates, batches)]) for i in range(len(degrees))]
    return {
        "evaluation_seconds": seconds,
        "held_out_mse": [float(e.mean()) for e in errors],
        "standard_error": [float(e.std()) / math.sqrt(len(e)) for e in errors],
    }


# ----- floors ------------------------------------------------------------------------------------------------------------


def product_floor(card: Card, size: int, count: int) -> float:
    """Seconds of the lower triangle of ``Phi Phi^T`` for ``count`` columns, :data:`BATCH` at a time, on panels of rows."""
    phi = torch.randn(size, min(BATCH, count), dtype=torch.float64, device=card.device)
    gram = torch.zeros(size, size, dtype=torch.float64, device=card.device)

    def run() -> None:
        for _ in range(max(1, round(count / phi.shape[1]))):
            for start in range(0, size, PANEL_THERE):
                gram[start : start + PANEL_THERE, : start + PANEL_THERE].addmm_(phi[start : start + PANEL_THERE], phi[: start + PANEL_THERE].T)

    return card.timed(run)[1]


def level_floor(card: Card, sizes: Sequence[int], outputs: int, batches: int) -> dict[str, float]:
    """Seconds of torch's Cholesky factor, of the solves of every degree's size, and of the evaluation's products."""
    size = max(sizes)
    root = torch.randn(size, 256, dtype=torch.float64, device=card.device)
    matrix = root @ root.T
    matrix.diagonal().add_(float(size))
    rhs, phi = torch.randn(size, outputs, dtype=torch.float64, device=card.device), torch.randn(size, BATCH, device=card.device)
    factor, cholesky = card.timed(partial(torch.linalg.cholesky, matrix))
    del matrix

    def solves() -> None:
        half = torch.linalg.solve_triangular(factor, rhs, upper=False)
        for m in sizes:
            torch.linalg.solve_triangular(factor[:m, :m].T, half[:m], upper=True)

    _, solve = card.timed(solves)
    theta = rhs.float()
    _, evaluation = card.timed(lambda: [phi[:m].T @ theta[:m] for _ in range(batches) for m in sizes])
    return {"cholesky_seconds": cholesky, "solves_seconds": solve, "evaluation_seconds": evaluation}


# ----- the page ----------------------------------------------------------------------------------------------------------


def section(records: Sequence[dict[str, Any]]) -> str:
    """The part of ``README.md`` about this benchmark, from results files: each model's last row of every level."""
    base: dict[tuple[int, float], float] = {}  # degree 1 of the shared readout is the linear denoiser
    for row in (row for record in records for row in record["rows"] if row["what"] == "level" and row["part"].startswith("shared")):
        base[row["size"], row["sigma"]] = row["held_out_mse"][0]
    lines = [
        "| images | model | features | fit, s | a level, s | time over the floor | peak, GiB | held-out MSE over linear's at " + ", ".join(f"{s:g}" for s in SIGMAS) + " |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        rows = record["rows"]
        for part, size, model in dict.fromkeys((r["part"], r["size"], r["model"]) for r in rows if r["what"] == "fit"):
            mine = [r for r in rows if (r["part"], r["size"], r["model"]) == (part, size, model)]
            fit, levels = next(r for r in mine if r["what"] == "fit"), [r for r in mine if r["what"] == "level"]
            floor = [f"{r['over_floor']['all']:.2f}" for r in mine if "over_floor" in r]
            peak = max([fit["peak_gib"], *(r["peak_gib"] for r in levels)])
            seconds = sorted(r["seconds"] for r in levels)[len(levels) // 2] if levels else math.nan
            by_level = {r["sigma"]: r["held_out_mse"][-1] for r in levels}
            errors = [
                "–" if s not in by_level else f"{by_level[s] / base[size, s]:.3f}" if (size, s) in base else f"{by_level[s]:.5f}" for s in SIGMAS
            ]  # fmt: skip
            count = next((r["features"] for r in mine if "features" in r), None)
            name = {"own": "own", "wiener": "Wiener"}.get(part, "shared")
            lines.append(
                f"| {size} x {size} | {name} {model} | {f'{count:,}' if count else ''} | {fit['seconds']:.1f} | {seconds:.2f} | "
                f"{', '.join(floor)} | {peak:.1f} | {', '.join(errors)} |"
            )
    images = {r["images"] for record in records for r in record["rows"] if r["what"] == "fit"}
    cards = sorted({record["card"] for record in records})
    lines += [
        "",
        f"On one {' or '.join(cards)}, {' or '.join(f'{n:,}' for n in sorted(images))} digits, float64 (evaluation: float32); a level is all degrees of "
        "the shared readout, one of the others, the median of the levels; the floor is the dense products, factor and solves by themselves, on the same card; –: not measured.",
    ]
    return "\n".join(lines)


# ----- parts -------------------------------------------------------------------------------------------------------------


def own(card: Card, rows: Rows, train: ImageSet, test: ImageSet, family: str, degree: int) -> None:
    """The own readout: fit, levels, evaluation."""
    what = {"part": "own", "model": f"{family}:{degree}", "size": train.shape[-1]}
    card.fresh()
    model, seconds = card.timed(lambda: WaveletScore(family, degree, device=str(card.device)).fit(train))
    rows.add(**what, what="fit", seconds=seconds, images=len(train), peak_gib=card.peak_gib)
    degrees = list(range(1, degree + 1))
    for sigma in SIGMAS:
        batches = noisy_batches(test, sigma, 0, card.device)
        solution, seconds = card.timed(lambda s=sigma: model.solve(s))
        more = evaluated(card, model, batches, sigma, degrees)
        rows.add(**what, what="level", sigma=sigma, degrees=degrees, seconds=seconds, **more, peak_gib=card.peak_gib)
        del solution, batches


def shared(card: Card, rows: Rows, part: str, train: ImageSet, test: ImageSet, family: str, degree: int) -> None:
    """The shared readout: fit, levels of all degrees, evaluation; then its floor, with the model gone."""
    what = {"part": part, "model": f"{family}:{degree}", "size": train.shape[-1]}
    card.fresh()
    model, fit = card.timed(lambda: SharedWaveletScore(family, degree, device=str(card.device)).fit(train))
    degrees, outputs = list(range(1, degree + 1)), len(model.mean_)
    sizes = [model.count(d) for d in degrees]
    rows.add(**what, what="fit", features=sizes[-1], seconds=fit, images=len(train), peak_gib=card.peak_gib)
    levels = []
    for sigma in SIGMAS:
        batches = noisy_batches(test, sigma, 0, card.device)
        solutions, seconds = card.timed(partial(model.solve_degrees, sigma, degrees))
        fitted = [s.expected_error / outputs for s in solutions]
        del solutions
        more = evaluated(card, model, batches, sigma, degrees)
        levels.append(rows.add(**what, what="level", sigma=sigma, degrees=degrees, seconds=seconds, fitted_mse=fitted, **more, peak_gib=card.peak_gib))
        model.fit_moments(model.moments_)  # forgets the level, whose readouts would stay beside the next one's system
        del batches
    del model
    card.fresh()
    product = product_floor(card, sizes[-1], len(train))
    card.fresh()
    free, needed = free_memory(card.device), 3.2 * 8 * sizes[-1] ** 2 + 24 * sizes[-1] * outputs
    if free is not None and needed > free:
        message = f"levels not measured: their matrices take {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
        rows.add(**what, what="floor", product_seconds=product, over_floor={"fit": fit / product}, message=message)
        return
    one = level_floor(card, sizes, outputs, math.ceil(len(test) / BATCH))
    level_seconds = sum(r["seconds"] + r["evaluation_seconds"] for r in levels) / len(levels)
    ratios = {
        "fit": fit / product,
        "level": level_seconds / sum(one.values()),
        "all": (fit + len(levels) * level_seconds) / (product + len(levels) * sum(one.values())),
    }
    rows.add(**what, what="floor", product_seconds=product, level=one, over_floor=ratios)


def wiener_model(setting: str, device: str) -> WienerScore:
    """``coordinates:degree[:pixel_family[:radius]]``."""
    return WienerScore(**wiener_settings(setting), device=device)


def wiener(card: Card, rows: Rows, train: ImageSet, test: ImageSet, setting: str, ridges: Sequence[float], held_back: int) -> None:
    """The Wiener readout, its ridge chosen at every level on training images alone, then fitted on all of them."""
    what: dict[str, Any] = {"part": "wiener", "model": setting, "size": train.shape[-1]}
    chosen = dict.fromkeys(SIGMAS, float(ridges[0]))
    degrees = [wiener_settings(setting)["degree"]]
    if len(ridges) > 1:
        first, last = train.subset(slice(0, len(train) - held_back)), train.subset(slice(len(train) - held_back, len(train)))
        card.fresh()
        model = wiener_model(setting, str(card.device)).fit(first)
        for sigma in SIGMAS:
            batches, errors = noisy_batches(last, sigma, 1, card.device), {}
            for ridge in ridges:
                model.set_params(ridge=float(ridge))
                errors[float(ridge)] = evaluated(card, model, batches, sigma, degrees)["held_out_mse"][0]
                model.prepared_.clear()
            chosen[sigma] = min(errors, key=errors.__getitem__)
            rows.add(**what, what="ridge", sigma=sigma, chosen=chosen[sigma], errors={f"{r:g}": e for r, e in errors.items()}, fitted_on=len(first), judged_on=len(last))
        del model, batches
    card.fresh()
    model, seconds = card.timed(lambda: wiener_model(setting, str(card.device)).fit(train))
    features = model.count(degrees[0])
    rows.add(**what, what="fit", features=features, seconds=seconds, images=len(train), peak_gib=card.peak_gib)
    for sigma in SIGMAS:
        batches = noisy_batches(test, sigma, 0, card.device)
        model.set_params(ridge=chosen[sigma])
        _, seconds = card.timed(lambda s=sigma, y=batches[0][0]: model.prepare_levels([s]).plain_readout(s, degrees[0], y.new_zeros(0)))
        fitted = model.expected_mse(sigma)
        more = evaluated(card, model, batches, sigma, degrees)
        rows.add(**what, what="level", sigma=sigma, features=features, ridge=chosen[sigma], seconds=seconds, fitted_mse=fitted, **more, peak_gib=card.peak_gib)
        model.prepared_.clear()


@app.command()
def main(
    part: Annotated[list[str] | None, typer.Option(help=f"what to measure, of {', '.join(PARTS)}; may be repeated")] = None,
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    device: Annotated[str, typer.Option(help="torch device")] = "cuda",
    count: Annotated[int | None, typer.Option(help="training images (all)")] = None,
    n_eval: Annotated[int, typer.Option(help="test images")] = 10_000,
    models: Annotated[str, typer.Option(help="family:degree of shared64, separated by commas")] = "independent:3,local:2,band:3,local:3",
    settings: Annotated[str, typer.Option(help="coordinates:degree[:pixel_family[:radius]] of wiener, separated by commas")] = "pixel:3,both:3,both:5,both:7,both:3:local",
    ridges: Annotated[str, typer.Option(help="of wiener: what its ridge is chosen among, separated by commas")] = "1e-6,1e-5,1e-4,1e-3",
    size: Annotated[int, typer.Option(help="side of wiener's images, pixels")] = 32,
    small: Annotated[int, typer.Option(help="side of own's and shared32's images, pixels")] = 32,
    large: Annotated[int, typer.Option(help="side of shared64's images, pixels")] = 64,
    page: Annotated[bool, typer.Option("--page", help="measure nothing: write the section of README.md from the files gpu_*.json")] = False,
) -> None:
    """Measure the parts asked for and write the results file, row by row."""
    if page:
        write_section("gpu", section([read_json(path) for path in sorted(OUTPUT.parent.glob("gpu_*.json"))]))
        return
    if not part:
        raise typer.BadParameter(f"--part: name what to measure, some of {', '.join(PARTS)}")
    if unknown := sorted(set(part) - set(PARTS)):
        raise typer.BadParameter(f"unknown part {', '.join(unknown)}: use some of {', '.join(PARTS)}")
    card = Card(device)
    strengths = [float(r) for r in ridges.split(",")]
    sides = {"own": small, "shared32": small, "wiener": size, "shared64": large}
    found = {side: (read("train", side, count), read("test", side, n_eval)) for side in sorted({sides[p] for p in part})}
    sets = {side: (train[0], test[0]) for side, (train, test) in found.items()}
    data = {str(side): {"train": train[1], "test": test[1]} for side, (train, test) in found.items()}
    options = {"count": count, "n-eval": n_eval, "models": models, "settings": settings, "ridges": ridges, "size": size, "small": small, "large": large}
    words = [*(f"--part {name}" for name in part), f"--device {device}", *(f"--{k} {v}" for k, v in options.items() if v is not None)]
    rows = Rows(output, provenance(f"python -m benchmarks.gpu {' '.join(words)}", 0, device=device, card=card.name, data=data))
    print(f"{card.name}: {', '.join(part)} on {', '.join(f'{len(a):,} + {len(b):,} images of {s}' for s, (a, b) in sets.items())}", flush=True)
    card.warm_up()
    for name in part:
        train, test = sets[sides[name]]
        if name == "own":
            rows.guarded(card, lambda a=train, b=test: own(card, rows, a, b, "local", 3), part=name)
        elif name == "wiener":
            for setting in settings.split(","):
                held = len(train) // 6
                run = lambda a=train, b=test, s=setting, h=held: wiener(card, rows, a, b, s, strengths, h)  # noqa: E731
                rows.guarded(card, run, part=name, model=setting)
        else:
            for model in ["local:3"] if name == "shared32" else models.split(","):
                family, degree = model.split(":")
                run = lambda a=train, b=test, n=name, f=family, d=int(degree): shared(card, rows, n, a, b, f, d)  # noqa: E731
                rows.guarded(card, run, part=name, model=model)
    print(f"wrote {output}", flush=True)


if __name__ == "__main__":
    app()
