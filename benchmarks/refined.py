"""Settings of the refined readout, chosen on training images only, and the chosen one's held-out error.

Every setting is fitted on the first 50,000 training images and judged on the last 10,000; the one of the lowest mean error
ratio to linear is fitted again on all of them and evaluated on the test images.  One setting alone is evaluated at once.  Made for
a GPU, where a setting takes seconds::

    python -m benchmarks.refined --device cuda --settings "experts=1,256,256; experts=1,1024,1024 pixels=8000000"

Every finished row is written to ``benchmarks/refined.json`` at once; ``--page`` writes the section of ``README.md`` from it and stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.page import write_section
from numeric.baselines.clock import machine_name
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.settings import refined_settings
from numeric.baselines.train import measure
from numeric.data import ImageSet, load_mnist
from numeric.results import provenance, read_json, write_json
from numeric.scores.refined import RefinedScore

OUTPUT = Path(__file__).with_suffix(".json")


def judged(
    settings: str, images: ImageSet, test: ImageSet, sigmas: list[float], device: str,
    keep: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:  # fmt: skip
    """Errors of one setting on ``test``, with seconds of wall clock; ``keep`` receives them after every level."""
    start = time.perf_counter()
    model = RefinedScore(**refined_settings(settings), device=device).fit(images)
    rows: dict[str, Any] = {}
    out = {"settings": settings, "label": model.label, "fit_seconds": time.perf_counter() - start, "errors": rows}
    for sigma in sigmas:
        start = time.perf_counter()
        model.prepare_levels([sigma])
        made = time.perf_counter() - start
        rows |= measure(model, test, [sigma], device=device)
        rows[f"{sigma:g}"] |= {"seconds": made, "parameters": model.parameter_count(sigma)}
        model.stages_.clear()  # a level is some 100 MB
        keep(out)
    return out


def section(record: dict[str, Any]) -> str:
    """The chosen setting's errors as a table, with what they were made of."""
    chosen = record["chosen"]
    lines = ["| sigma | held-out MSE | over linear's | a level, s | numbers |", "|---|---|---|---|---|"]
    for sigma, row in chosen["errors"].items():
        over = row["mse"] / record["linear"][sigma]["mse"]
        lines.append(f"| {sigma} | {row['mse']:.6f} ± {row['se']:.6f} | {over:.3f} | {row['seconds']:,.0f} | {row['parameters']:,} |")
    fit, test, size = record["data"]["fit"], record["data"]["test"], record["data"]["fit"]["shape"][-1]
    return "\n".join(lines) + (
        f"\n\n{chosen['label'][0].upper()}{chosen['label'][1:]} (`{chosen['settings']}`), {fit['count']:,} {fit['source']} "
        f"images of {size} x {size}, {test['count']:,} test images; seconds by the clock of one {record['hardware']}."
    )


def main(
    settings: Annotated[str, typer.Option(help="settings of RefinedScore, name=value by spaces, several by semicolons")] = "experts=1,256,256",
    sigmas: Annotated[str, typer.Option(help="noise levels at which settings are judged")] = "0.1,0.25",
    final: Annotated[str, typer.Option(help="noise levels at which the chosen one is evaluated")] = "0.1,0.25,0.5,1",
    size: Annotated[int, typer.Option(help="side, pixels")] = 32,
    n_train: Annotated[int | None, typer.Option(help="training images (default: all); a sixth of them judges")] = None,
    n_eval: Annotated[int, typer.Option(help="test images")] = 2000,
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cpu",
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    page: Annotated[bool, typer.Option("--page", help="write the section of README.md from the results file, measure nothing")] = False,
) -> None:
    """Judge every setting on training images, evaluate the best on test images, write the results file."""
    if page:
        write_section("refined", section(read_json(output)))
        return
    tried = [" ".join(part.split()) for part in settings.split(";") if part.strip()]
    for one in tried:
        RefinedScore(**refined_settings(one)).check_settings()
    levels, last = ([float(s) for s in text.split(",")] for text in (sigmas, final))
    train, test = load_mnist("train", size=size, count=n_train), load_mnist("test", size=size, count=n_eval)
    cut = len(train) - len(train) // 6
    fit, rest = train.subset(slice(0, cut)), train.subset(slice(cut, len(train)))
    hardware = machine_name(device)
    command = f'python -m benchmarks.refined --settings "{settings}" --sigmas {sigmas} --final {final} --size {size} --n-eval {n_eval} --device {device}'
    record: dict[str, Any] = {
        **provenance(command + ("" if n_train is None else f" --n-train {n_train}"), 0), "hardware": hardware,
        "data": {"fit": train.provenance, "test": test.provenance}, "judged": [],
    }  # fmt: skip

    def ratio(row: dict[str, Any]) -> float:
        return sum(e["mse"] / linear[s]["mse"] for s, e in row["errors"].items()) / len(levels)

    several = len(tried) > 1
    linear = measure(LinearDenoiser().fit(fit), rest, levels, device="cpu") if several else {}
    for one in tried if several else []:
        try:
            row = judged(one, fit, rest, levels, device)
            row["over_linear"] = ratio(row)
        except (MemoryError, RuntimeError) as error:
            row = {"settings": one, "error": str(error).splitlines()[0]}
        record["judged"].append(row)
        typer.echo(row)
        write_json(output, record)
    good = [row for row in record["judged"] if "errors" in row]
    if good or not several:
        best = min(good, key=ratio)["settings"] if several else tried[0]
        record["linear"] = measure(LinearDenoiser().fit(train), test, last, device="cpu")

        def keep(row: dict[str, Any]) -> None:
            write_json(output, {**record, "chosen": row})

        record["chosen"] = judged(best, train, test, last, device, keep)
        typer.echo(record["chosen"])
        write_json(output, record)
        typer.echo(f"written: {output.name}")


if __name__ == "__main__":
    typer.run(main)
