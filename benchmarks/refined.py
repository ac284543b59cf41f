"""Settings of the refined readout, chosen on training images only, and the chosen one's held-out error.

Every setting is fitted on the first 50,000 training images and judged on the last 10,000; the one of the lowest mean error
ratio to linear is fitted again on all of them and evaluated on the test images.  Made for a GPU, where a setting takes seconds::

    python -m benchmarks.refined --device cuda --settings "experts=1,256,256; experts=1,1024,1024 pixels=8000000"

Every finished row is written to ``benchmarks/refined.json`` at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.train import measure
from numeric.data import ImageSet, load_mnist
from numeric.results import provenance, write_json
from numeric.scores.refined import RefinedScore

OUTPUT = Path(__file__).with_suffix(".json")
SIGMAS = (0.1, 0.25, 0.5, 1.0)


def parsed(text: str) -> dict[str, Any]:
    """``experts=1,256 pixels=1000`` as arguments of :class:`RefinedScore`.

    Raises:
        ValueError: a name that it does not have, or no ``name=value``.
    """
    usual, out = RefinedScore().get_params(), {}
    for item in text.split():
        name, _, value = item.partition("=")
        if name not in usual or not value:
            raise ValueError(f"{item!r}: write name=value with a name among {', '.join(usual)}")
        kind = type(usual[name])
        out[name] = tuple(map(int, value.split(","))) if kind is tuple else kind(float(value)) if kind in (int, float) else value
    return out


def judged(settings: dict[str, Any], images: ImageSet, test: ImageSet, sigmas: list[float], device: str) -> dict[str, Any]:
    """Errors of one setting on ``test``, with seconds of wall clock."""
    start = time.perf_counter()
    model = RefinedScore(**settings, device=device).fit(images)
    fitted, rows = time.perf_counter() - start, {}
    for sigma in sigmas:
        start = time.perf_counter()
        model.prepare_levels([sigma])
        made = time.perf_counter() - start
        rows |= measure(model, test, [sigma], device=device)
        rows[f"{sigma:g}"]["seconds"] = made
        model.stages_.clear()  # a level is some 100 MB
    return {"settings": {**settings, "label": model.label}, "fit_seconds": fitted, "errors": rows}


def main(
    settings: Annotated[str, typer.Option(help="settings of RefinedScore, name=value by spaces, several by semicolons")] = "experts=1,256,256",
    sigmas: Annotated[str, typer.Option(help="noise levels at which settings are judged")] = "0.1,0.25",
    size: Annotated[int, typer.Option(help="side, pixels")] = 32,
    n_train: Annotated[int | None, typer.Option(help="training images (default: all); a sixth of them judges")] = None,
    n_eval: Annotated[int, typer.Option(help="test images")] = 2000,
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cpu",
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
) -> None:
    """Judge every setting on training images, evaluate the best on test images, write the results file."""
    tried, levels = [parsed(part) for part in settings.split(";") if part.strip()], [float(s) for s in sigmas.split(",")]
    train, test = load_mnist("train", size=size, count=n_train), load_mnist("test", size=size, count=n_eval)
    cut = len(train) - len(train) // 6
    fit, rest = train.subset(slice(0, cut)), train.subset(slice(cut, len(train)))
    hardware = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    command = f'python -m benchmarks.refined --settings "{settings}" --sigmas {sigmas} --size {size} --n-eval {n_eval} --device {device}'
    record: dict[str, Any] = {
        **provenance(command + ("" if n_train is None else f" --n-train {n_train}"), 0), "hardware": hardware,
        "data": {"fit": train.provenance, "test": test.provenance}, "judged": [],
    }  # fmt: skip

    def ratio(row: dict[str, Any]) -> float:
        return sum(e["mse"] / linear[s]["mse"] for s, e in row["errors"].items()) / len(levels)

    linear = measure(LinearDenoiser().fit(fit), rest, levels, device="cpu")
    for one in tried:
        try:
            row = judged(one, fit, rest, levels, device)
            row["over_linear"] = ratio(row)
        except (MemoryError, RuntimeError) as error:
            row = {"settings": one, "error": str(error).splitlines()[0]}
        record["judged"].append(row)
        typer.echo(row)
        write_json(output, record)
    good = [row for row in record["judged"] if "errors" in row]
    if good:
        best = min(good, key=ratio)["settings"]
        record["chosen"] = judged({k: v for k, v in best.items() if k != "label"}, train, test, list(SIGMAS), device)
        record["linear"] = measure(LinearDenoiser().fit(train), test, SIGMAS, device="cpu")
        typer.echo(record["chosen"])
        write_json(output, record)
        typer.echo(f"written: {output.name}")


if __name__ == "__main__":
    typer.run(main)
