"""Cost curve of the moments: time and peak memory against pixels, images, degree, radius, family and readout.

Every configuration runs in a process of its own, so that its peak resident memory is its own:
``python -m benchmarks.scaling`` writes ``benchmarks/scaling.json`` and ``paper_figures/scaling.{png,pdf,json}``.
Images are MNIST digits, resized; the cost does not depend on what they show.  A run over fewer images than 60,000 also
gives its time scaled up to 60,000, marked ``extrapolated``: the pass is linear in images, which the rows at 32 x 32 check.  CPU time is given beside wall time, because it does not
depend on what else the machine does; the curves show CPU time.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import torch
import typer

from numeric.data import load_mnist
from numeric.figures.style import STYLE, plain_log
from numeric.fingerprint import code_hash
from numeric.results import provenance, read_json, save_figure, write_json
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore

OUTPUT = Path(__file__).with_suffix(".json")
FIGURES = Path(__file__).parents[1] / "paper_figures"
FULL = 60_000
SEED = 0  # of the noise

PLAN: list[tuple[str, int, int, int, int, str]] = [
    # family, radius, degree, size, images, readout
    ("independent", 0, 3, 32, 15_000, "own"),
    ("independent", 0, 3, 64, 60_000, "own"),
    ("local", 1, 2, 64, 60_000, "own"),
    ("independent", 0, 3, 128, 2_000, "own"),
    ("independent", 0, 3, 256, 500, "own"),
    ("local", 1, 2, 32, 4_000, "own"),
    ("local", 1, 2, 128, 1_000, "own"),
    ("local", 1, 2, 256, 250, "own"),
    ("local", 1, 1, 64, 1_000, "own"),
    ("local", 1, 3, 64, 1_000, "own"),
    ("local", 2, 2, 64, 500, "own"),
    ("local", 1, 3, 128, 500, "own"),
    ("local", 1, 3, 256, 100, "own"),
    ("band", 0, 3, 32, 4_000, "own"),
    ("band", 0, 3, 64, 2_000, "own"),
    ("band", 0, 3, 128, 1_000, "own"),
    ("band", 0, 3, 256, 250, "own"),
    ("independent", 0, 3, 32, 60_000, "own"),
    ("local", 1, 3, 32, 2_000, "own"),
    ("local", 1, 2, 32, 60_000, "own"),
    ("local", 1, 3, 64, 60_000, "own"),
    ("independent", 0, 3, 32, 60_000, "shared"),
    ("independent", 0, 2, 64, 60_000, "shared"),
    ("independent", 0, 3, 64, 60_000, "shared"),
]

app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


def peak_rss() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    family: str, radius: int, degree: int, size: int, images: int, readout: str, threads: int
) -> dict[str, Any]:
    """Fit, solve at one noise level and denoise a batch; times in seconds, memory in bytes."""
    torch.set_num_threads(threads)
    data = load_mnist("train", size=size, count=images)
    before = peak_rss()
    estimator = WaveletScore if readout == "own" else SharedWaveletScore
    model = estimator(family, degree, radius=radius)
    batch = max(50, min(1000, 2**22 // size**2))
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(data, batch_size=batch)
    fit, fit_cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    expected = model.expected_mse(0.5)
    solve = time.perf_counter() - start
    noisy = data[:batch] + 0.5 * torch.randn(
        min(batch, len(data)), 1, size, size, generator=torch.Generator().manual_seed(SEED)
    )
    start = time.perf_counter()
    model.denoise(noisy, 0.5)
    denoise = (time.perf_counter() - start) / len(noisy)
    return {
        "family": family,
        "radius": radius,
        "degree": degree,
        "readout": readout,
        "size": size,
        "images": len(data),
        "batch": batch,
        "threads": threads,
        "fit_seconds": fit,
        "fit_cpu_seconds": fit_cpu,
        "fit_seconds_at_60000": fit * FULL / len(data),
        "fit_cpu_seconds_at_60000": fit_cpu * FULL / len(data),
        "extrapolated": len(data) != FULL,
        "solve_seconds": solve,
        "denoise_seconds_per_image": denoise,
        "peak_rss": peak_rss(),
        "rss_before": before,
        "expected_mse": expected,
        "data": data.provenance,
    }


def figure(rows: list[dict[str, Any]]) -> plt.Figure:
    """Fit time per 60,000 images and peak memory, against pixels."""
    groups: dict[tuple[str, int, int, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        best = groups.setdefault((row["family"], row["radius"], row["degree"], row["readout"]), {})
        if row["size"] not in best or row["images"] > best[row["size"]]["images"]:
            best[row["size"]] = row
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), constrained_layout=True)
        colours = iter(plt.colormaps["tab10"].colors)
        for (family, radius, degree, readout), best in sorted(groups.items()):
            if len(best) < 2:
                continue
            colour = next(colours)
            name = f"{family}(r={radius})" if family == "local" else family
            name += " shared" if readout == "shared" else ""
            sizes = sorted(best)
            for axis, value in (
                (axes[0], [best[s]["fit_cpu_seconds_at_60000"] for s in sizes]),
                (axes[1], [best[s]["peak_rss"] / 2**30 for s in sizes]),
            ):
                (line,) = axis.plot([s * s for s in sizes], value, "-", lw=1, color=colour, label=f"{name}, degree {degree}")
                for s, v in zip(sizes, value):
                    full = not best[s]["extrapolated"]
                    axis.plot(s * s, v, "o", ms=5, mfc=line.get_color() if full else "white", mec=line.get_color())
        for axis, label in zip(axes, ("CPU seconds to fit 60,000 images", "peak resident memory, GiB")):
            axis.set(xscale="log", yscale="log", xlabel="pixels", ylabel=label)
            axis.set_xticks([32**2, 64**2, 128**2, 256**2], ["32²", "64²", "128²", "256²"])
            axis.minorticks_off()
            plain_log(axis, "y")
        line = axes[1].axhline(4, color="0.6", lw=0.8, ls=":", label="4 GiB")
        axes[0].legend(fontsize=8)
        axes[1].legend(handles=[line], fontsize=8)
        fig.suptitle("Time and memory of the moments; filled: measured on all 60,000 images, open: on fewer (time scaled up)", fontsize=9)
    return fig


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="results file; finished rows in it are kept (resumable)")] = OUTPUT,
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    rerun: Annotated[bool, typer.Option(help="measure everything again")] = False,
    worker: Annotated[str, typer.Option(help="internal: one configuration as JSON", hidden=True)] = "",
) -> None:
    """Measure every configuration and write the results file and the figure."""
    if worker:
        print(json.dumps(measure(*json.loads(worker), threads=threads)))
        return
    record = read_json(output) if output.exists() and not rerun else {}
    rows = record.get("rows", [])
    done = {(r["family"], r["radius"], r["degree"], r["size"], r["images"], r["readout"]) for r in rows}
    for configuration in PLAN:
        if configuration in done:
            continue
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.scaling",
                "--threads",
                str(threads),
                "--worker",
                json.dumps(configuration),
            ],
            cwd=Path(__file__).parents[1],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        row = rows[-1]
        typer.echo(
            f"{row['family']} {row['readout']} r={row['radius']} n={row['degree']} {row['size']}x{row['size']} {row['images']:,} images: "
            f"{row['fit_seconds']:.1f} s, peak {row['peak_rss'] / 2**30:.2f} GiB"
        )
        record = {
            **provenance("python -m benchmarks.scaling", SEED, threads=threads), "code": code_hash("benchmarks.scaling"),
            "data": rows[0]["data"], "rows": rows,
        }  # fmt: skip
        write_json(output, record)
    save_figure(figure(rows), FIGURES / "scaling", record)
    at_64 = [r for r in rows if r["size"] == 64 and not r["extrapolated"]]
    for row in at_64:
        verdict = "under" if row["peak_rss"] < 4 * 2**30 else "NOT under"
        typer.echo(
            f"64x64, 60,000 images, {row['family']} {row['readout']} degree {row['degree']}: {row['peak_rss'] / 2**30:.2f} GiB, {verdict} 4 GiB"
        )


if __name__ == "__main__":
    app()
