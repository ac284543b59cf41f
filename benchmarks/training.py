"""Training on a GPU: images a second of every network at the printed batch size, and what the printed schedules would take.

Three ways in one run: PyTorch's own steps, as the ``train`` command runs them, the step captured as one CUDA graph, and captured with
``torch.compile``.  The first step of each (which compiles, chooses algorithms and captures) is given by itself.
``python -m benchmarks.training --device cuda`` writes ``benchmarks/training.json`` after every row.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from numeric.baselines.clock import machine_name
from numeric.baselines.configs import CONFIGS, TRAINING_ORDER, get_config
from numeric.baselines.schedule import Schedule
from numeric.baselines.train import Trainer
from numeric.data import ImageSet, load_mnist
from numeric.results import provenance, write_json

OUTPUT = Path(__file__).with_suffix(".json")
WAYS = {"eager": (False, False), "captured": (False, True), "compiled": (True, True)}
"""Name: compiled, captured."""


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measured(name: str, way: str, images: ImageSet, device: str, batch: int, steps: int) -> dict[str, Any]:
    """First step's seconds, images a second after it, and peak memory of one network trained in one way."""
    config, (compiled, captured) = get_config(name), WAYS[way]
    gpu = device.startswith("cuda")
    schedule = Schedule.printed(config, device, batch_size=batch, bf16=True, compile=compiled)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(config, images, schedule, capture=captured and gpu)
    start = time.perf_counter()
    trainer.advance()
    wait(device)
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(steps):
        trainer.advance()
    wait(device)
    rate = steps * batch / (time.perf_counter() - start)
    return {
        "network": name, "size": images.shape[-1], "way": way, "batch": batch, "first_step_seconds": first, "images_per_second": rate,
        "printed_schedule_minutes": config.steps * config.batch_size / rate / 60,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpu else None,
    }  # fmt: skip


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cuda",
    networks: Annotated[str, typer.Option(help="names, separated by commas (default: Table 1 in its order)")] = "",
    sizes: Annotated[str, typer.Option(help="image sides, separated by commas")] = "32",
    ways: Annotated[str, typer.Option(help="eager, captured, compiled")] = "eager,captured,compiled",
    batch: Annotated[int, typer.Option(help="images a step")] = 2048,
    steps: Annotated[int, typer.Option(help="timed steps")] = 20,
    n_train: Annotated[int | None, typer.Option(help="training images (default: all)")] = None,
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
) -> None:
    """Measure, print and write the results file after every row."""
    names = [get_config(n.strip()).name for n in networks.split(",") if n.strip()] or list(dict.fromkeys(n for n, _ in TRAINING_ORDER))
    chosen = [w.strip() for w in ways.split(",")]
    if unknown := [w for w in chosen if w not in WAYS]:
        raise ValueError(f"unknown way {unknown[0]!r}: use one of {', '.join(WAYS)}")
    command = f"python -m benchmarks.training --device {device} --networks {','.join(names)} --sizes {sizes} --ways {ways} --batch {batch} --steps {steps}"
    hardware = machine_name(device)
    rows: list[dict[str, Any]] = []
    for size in (int(s) for s in sizes.split(",")):
        images = load_mnist("train", size=size, count=n_train)
        for name in names:
            for way in chosen:
                try:
                    rows.append(measured(name, way, images, device, batch, steps))
                except (MemoryError, RuntimeError) as error:
                    rows.append({"network": name, "size": size, "way": way, "batch": batch, "error": str(error).splitlines()[0]})
                typer.echo({k: v for k, v in rows[-1].items()})
                whole = sum(r["printed_schedule_minutes"] for r in rows if r["way"] == chosen[-1] and r["network"] in CONFIGS and "error" not in r)
                record = {**provenance(command, 0), "hardware": hardware, "rows": rows, "printed_schedules_minutes": whole}
                write_json(output, {**record, "data": images.provenance})
                if device.startswith("cuda"):
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
