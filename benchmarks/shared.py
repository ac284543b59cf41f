"""The shared readout against the floor of the machine: a fit and four noise levels, beside the dense products they cannot do without.

The floor of a level is one Cholesky factor, the triangular solves for all outputs and the evaluation's product; that of a fit
is the product of the features on and below the diagonal.  They are run by themselves on matrices of the same sizes, in the
same process, right after what they are compared with.  Read the ratios, of CPU time on a machine that does other work.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from numeric.data import load_mnist
from numeric.evaluation.sweep import noise_like
from numeric.results import provenance, write_json
from numeric.scores.dense import PANEL
from numeric.scores.shared import SharedWaveletScore

OUTPUT = Path(__file__).with_suffix(".json")
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = call()
    return out, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def floor_of_fit(size: int, count: int) -> Callable[[], Any]:
    """The lower triangle of ``Phi Phi^T`` for ``count`` columns, 1,024 at a time, by torch's own product."""
    phi, gram = torch.randn(size, PANEL, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)

    def run() -> None:
        for _ in range(max(1, round(count / PANEL))):
            for start in range(0, size, PANEL):
                gram[start : start + PANEL, : start + PANEL].addmm_(phi[start : start + PANEL], phi[: start + PANEL].T)

    return run


def floor_of_level(size: int, outputs: int, images: int) -> Callable[[], Any]:
    """torch's Cholesky, two triangular solves and the product with the features of the evaluated images."""
    matrix = torch.eye(size, dtype=torch.float64)
    rhs, phi = torch.randn(size, outputs, dtype=torch.float64), torch.randn(size, images)

    def run() -> None:
        factor = torch.linalg.cholesky(matrix)
        theta = torch.cholesky_solve(rhs, factor)
        _ = phi.T @ theta.float()

    return run


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    family: Annotated[str, typer.Option(help="feature family")] = "local",
    degree: Annotated[int, typer.Option(help="largest degree; lower ones are solved with it")] = 3,
    size: Annotated[int, typer.Option(help="side, pixels")] = 32,
    count: Annotated[int, typer.Option(help="images to fit on")] = 3000,
    n_eval: Annotated[int, typer.Option(help="images to evaluate")] = 500,
    threads: Annotated[int, typer.Option(help="torch threads")] = 2,
) -> None:
    """Time the fit and four noise levels, all degrees, beside their floor, and write the results file."""
    torch.set_num_threads(threads)
    train, test = load_mnist("train", size=size, count=count), load_mnist("test", size=size, count=n_eval)
    model = SharedWaveletScore(family, degree)
    _, fit = timed(lambda: model.fit(train))
    features, outputs = len(model.monomials_), len(model.mean_)
    _, fit_floor = timed(floor_of_fit(features, len(train)))
    rows, clean, degrees = [], test[:], list(range(1, degree + 1))
    for sigma in (0.1, 0.25, 0.5, 1.0):
        y = clean + sigma * noise_like(clean, 0, round(sigma * 1e6))
        solutions, solve = timed(lambda s=sigma: model.solve_degrees(s, degrees))
        estimates, evaluation = timed(lambda s=sigma, y=y: model.denoise_degrees(y, s, degrees))
        rows.append(
            {
                "sigma": sigma,
                "solve": solve,
                "evaluation": evaluation,
                "held_out_mse": [float((x - clean).square().mean()) for x in estimates],
                "fitted_mse": [s.expected_error / outputs for s in solutions],
            }
        )
        typer.echo(f"sigma {sigma}: {degree} degrees solved in {solve['wall']:.1f} s ({solve['cpu']:.1f} CPU), evaluated in {evaluation['wall']:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _, level_floor = timed(floor_of_level(features, outputs, len(test)))
    ratios = {}
    for clock in ("wall", "cpu"):
        levels = sum(r["solve"][clock] + r["evaluation"][clock] for r in rows)
        ratios[clock] = {
            "fit": fit[clock] / fit_floor[clock],
            "level": levels / (4 * level_floor[clock]),
            "all": (fit[clock] + levels) / (fit_floor[clock] + 4 * level_floor[clock]),
        }
    command = f"python -m benchmarks.shared --family {family} --degree {degree} --size {size} --count {count} --n-eval {n_eval} --threads {threads}"
    write_json(
        output,
        {
            **provenance(command, 0), "features": features, "images": len(train), "fit": fit, "fit_floor": fit_floor,
            "level_floor": level_floor, "levels": rows, "over_floor": ratios, "peak_gib": peak, "data": train.provenance,
        },
    )  # fmt: skip
    typer.echo(f"{features:,} features; time over the floor, by wall clock and CPU: {ratios['wall']['all']:.2f}, {ratios['cpu']['all']:.2f}; peak {peak:.1f} GiB")


if __name__ == "__main__":
    app()
