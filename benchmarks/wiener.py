"""The Wiener readout against the floor of the machine: a noise level, from pass to readout, beside the products it needs.

The floor is what no code for this estimator can do without: the product that makes whitened features and letters of a batch,
that of the features on and below the diagonal, for every batch; then one Cholesky factor and two triangular solves for all
outputs.  They are run by themselves on matrices of the same sizes, in the same process, right after.  Read the ratios, of CPU
time on a machine that does other work.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.shared import timed
from numeric.data import load_mnist
from numeric.results import provenance, write_json
from numeric.scores.dense import PANEL
from numeric.scores.levels import LevelGrams
from numeric.scores.wiener import WienerScore

OUTPUT = Path(__file__).with_suffix(".json")
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


def floor_of_pass(features: int, inputs: int, pixels: int, count: int, batch: int) -> Callable[[], Any]:
    """For every batch of ``count`` images: ``(inputs, pixels)`` by the batch, and the lower triangle of ``Phi Phi^T``."""
    maps, images = torch.randn(inputs, pixels, dtype=torch.float64), torch.randn(pixels, batch, dtype=torch.float64)
    phi, gram = torch.randn(features, batch, dtype=torch.float64), torch.zeros(features, features, dtype=torch.float64)

    def run() -> None:
        for start in range(0, count, batch):
            n = min(batch, count - start)
            _ = maps @ images[:, :n]
            for row in range(0, features, PANEL):
                gram[row : row + PANEL, : row + PANEL].addmm_(phi[row : row + PANEL, :n], phi[: row + PANEL, :n].T)

    return run


def floor_of_solve(features: int, outputs: int) -> Callable[[], Any]:
    """torch's Cholesky and two triangular solves."""
    matrix, rhs = torch.eye(features, dtype=torch.float64), torch.randn(features, outputs, dtype=torch.float64)
    return lambda: torch.cholesky_solve(rhs, torch.linalg.cholesky(matrix))


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    coordinates: Annotated[str, typer.Option(help="wavelet, pixel or both")] = "both",
    degree: Annotated[int, typer.Option(help="degree")] = 3,
    size: Annotated[int, typer.Option(help="side, pixels")] = 32,
    count: Annotated[int, typer.Option(help="images to fit on")] = 20000,
    threads: Annotated[int, typer.Option(help="torch threads")] = 2,
) -> None:
    """Time one noise level beside its floor, and write the results file."""
    torch.set_num_threads(threads)
    train = load_mnist("train", size=size, count=count)
    model = WienerScore(degree=degree, coordinates=coordinates)
    _, fit = timed(lambda: model.fit(train))
    pixels, features = len(model.moments_.mean), model.count(degree)
    batch = LevelGrams([], model.monomials_, model.moments_.mean).fitting_batch
    _, level = timed(lambda: model.prepare_levels([0.25]))
    _, passed = timed(floor_of_pass(features, pixels + model.monomials_.variables, pixels, len(train), batch))
    _, solved = timed(floor_of_solve(features, pixels))
    floor = {clock: passed[clock] + solved[clock] for clock in ("wall", "cpu")}
    ratios = {clock: level[clock] / floor[clock] for clock in floor}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    command = f"python -m benchmarks.wiener --coordinates {coordinates} --degree {degree} --size {size} --count {count} --threads {threads}"
    write_json(
        output,
        {
            **provenance(command, 0), "features": features, "images": len(train), "fit": fit, "level": level, "pass_floor": passed,
            "solve_floor": solved, "over_floor": ratios, "peak_gib": peak, "data": train.provenance,
        },
    )  # fmt: skip
    typer.echo(
        f"{features:,} features of {len(train):,} images: {level['cpu']:.1f} s of CPU a level ({passed['cpu']:.1f} + {solved['cpu']:.1f} its floor); "
        f"over the floor by wall clock and CPU: {ratios['wall']:.2f}, {ratios['cpu']:.2f}; peak {peak:.1f} GiB"
    )


if __name__ == "__main__":
    app()
