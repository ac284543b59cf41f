"""The shared readout without its Gram matrix: preconditioned conjugate gradients, and what they would cost at full size.

In Wick-ordered monomials the noisy Gram matrix is ``Phi Phi^T / n`` of the clean images plus a sparse part of the noise, so its
products need the features ``(P, n)`` only, never ``P^2`` numbers (local, degree 3 at 64 x 64: 61,441 features, 28 GiB).  The
preconditioner is the exact linear block and the diagonal elsewhere.  A few outputs, drawn at random, are solved and every
checkpoint records the largest relative residual and the expected error of those outputs; all outputs of all images cost
``4 P n outputs`` operations an iteration, from which the time at full size is foreseen with the rate measured here.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.sparse as sp
import torch
import typer
from torch import Tensor

from numeric.data import load_mnist
from numeric.results import provenance, write_json
from numeric.scores.contraction import WhiteNoise
from numeric.scores.families import Family
from numeric.scores.monomials import MonomialSet
from numeric.wavelets import WaveletTransform

OUTPUT = Path(__file__).with_suffix(".json")
CHECKPOINTS = (1, 2, 5, 10, 20, 40, 80, 120, 160, 240, 320)
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


def noise_part(phi: Tensor, monomials: MonomialSet, sigma: float) -> sp.csr_matrix:
    """What white noise adds to the Gram matrix of Wick-ordered monomials, sparse: its sources are means over images."""
    noise = WhiteNoise(monomials)
    sources = np.sort(np.stack([noise.source_row, noise.source_column]), axis=0)
    pairs, place = np.unique(sources, axis=1, return_inverse=True)
    values = np.concatenate(
        [(phi[pairs[0, i : i + 4096]] * phi[pairs[1, i : i + 4096]]).mean(1).numpy() for i in range(0, pairs.shape[1], 4096)]
    )
    data = noise.weight * sigma ** (2.0 * noise.power) * values[place.ravel()]
    lower = sp.csr_matrix((data, (noise.row, noise.column)), shape=(len(monomials),) * 2)
    return (lower + sp.tril(lower, -1).T).tocsr()


def solve(phi: Tensor, sparse: sp.csr_matrix, rhs: Tensor, linear: int, iterations: int, tolerance: float) -> list[dict[str, Any]]:
    """Conjugate gradients for ``(Phi Phi^T / n + sparse) theta = rhs``, all columns side by side; a row a checkpoint."""
    n = phi.shape[1]

    def product(v: Tensor) -> Tensor:
        return phi @ (phi.T @ v) / n + torch.from_numpy(sparse @ v.numpy())

    block = phi[:linear] @ phi[:linear].T / n + torch.from_numpy(sparse[:linear, :linear].toarray())
    factor = torch.linalg.cholesky(block)

    def precondition(r: Tensor) -> Tensor:
        return torch.cat([torch.cholesky_solve(r[:linear], factor), r[linear:]])

    theta, residual = torch.zeros_like(rhs), rhs.clone()
    direction = precondition(residual)
    energy = (residual * direction).sum(0)
    rows, start = [], time.process_time()
    for iteration in range(1, iterations + 1):
        moved = product(direction)
        step = energy / (direction * moved).sum(0)
        theta += step * direction
        residual -= step * moved
        turned = precondition(residual)
        energy, before = (residual * turned).sum(0), energy
        direction = turned + energy / before * direction
        relative = float((residual.norm(dim=0) / rhs.norm(dim=0)).max())
        if iteration in CHECKPOINTS or relative < tolerance:
            gain = float((theta * (rhs + residual)).sum(0).mean())  # E|t|^2 less the expected error
            rows.append(
                {"iteration": iteration, "residual": relative, "gain": gain, "cpu_seconds": time.process_time() - start}
            )
            typer.echo(f"iteration {iteration}: relative residual {relative:.2e}, CPU {rows[-1]['cpu_seconds']:.0f} s")
        if relative < tolerance:
            break
    return rows


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    sizes: Annotated[str, typer.Option(help="sides, pixels")] = "16,32",
    sigma: Annotated[float, typer.Option(help="noise level")] = 0.1,
    count: Annotated[int, typer.Option(help="images")] = 2000,
    columns: Annotated[int, typer.Option(help="outputs that are solved")] = 8,
    iterations: Annotated[int, typer.Option(help="at most")] = 320,
    tolerance: Annotated[float, typer.Option(help="relative residual to stop at")] = 1e-5,
    ridge: Annotated[float, typer.Option(help="on Wick-ordered features of unit second moment")] = 1e-6,
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
) -> None:
    """Solve some outputs of local, degree 3 at several sizes; foresee all outputs at 64 x 64 on 60,000 images."""
    torch.set_num_threads(threads)
    results = []
    for size in map(int, sizes.split(",")):
        images, transform = load_mnist("train", size=size, count=count), WaveletTransform(size)
        monomials = MonomialSet.of_family(Family("local"), transform, 3)
        w = transform.forward(images[:].double()).flatten(1)
        u = w - w.mean(0)
        phi = monomials.features(u)
        sparse = noise_part(phi, monomials, sigma)
        scale = 1.0 / np.sqrt(phi.square().mean(1).numpy() + sparse.diagonal())
        sparse = (sp.diags(scale) @ sparse @ sp.diags(scale) + ridge * sp.eye(len(scale))).tocsr()
        phi *= torch.from_numpy(scale)[:, None]
        varying = np.flatnonzero(u.square().mean(0).numpy() > 1e-12)  # an output that never varies has nothing to solve
        chosen = np.random.default_rng(0).choice(varying, columns, replace=False)
        typer.echo(f"{size} x {size}: {len(monomials):,} features, {len(images):,} images, {columns} outputs")
        rows = solve(phi, sparse, phi @ u[:, chosen] / len(u), 1 + u.shape[1], iterations, tolerance)
        last = rows[-1]
        for row in rows:
            row["gain_missing"] = 1.0 - row["gain"] / last["gain"]
        rate = 4 * len(monomials) * len(u) * columns * last["iteration"] / last["cpu_seconds"]
        results.append(
            {
                "size": size, "features": len(monomials), "images": len(images), "rows": rows, "operations_per_cpu_second": rate,
                "variance": float(u[:, chosen].square().mean()),
            }
        )  # fmt: skip
    features = len(MonomialSet.of_family(Family("local"), WaveletTransform(64), 3))
    seconds = 4 * features * 60_000 * 4096 / results[-1]["operations_per_cpu_second"]
    typer.echo(f"64 x 64, {features:,} features, 60,000 images, 4,096 outputs: foreseen {seconds / 3600:.1f} CPU hours an iteration")
    command = (
        f"python -m benchmarks.iterative --sizes {sizes} --sigma {sigma:g} --count {count} --columns {columns} --iterations {iterations} "
        f"--tolerance {tolerance:g} --ridge {ridge:g} --threads {threads}"
    )
    write_json(
        output,
        {
            **provenance(command, 0), "sigma": sigma, "results": results, "foreseen_cpu_hours_an_iteration_at_64": seconds / 3600,
            "data": images.provenance,
        },
    )  # fmt: skip


if __name__ == "__main__":
    app()
