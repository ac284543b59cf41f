"""The wavelet transform against PyWavelets and ptwt: a batch of 1,000 images at 64 x 64, db2, 4 levels, forward and inverse.

Timings are medians of interleaved repeats (each round runs every method once, so that all see the same machine), and the
ratios are medians of the per-round ratios.  ptwt has no periodization; its ``periodic`` mode does slightly more work
(its bands overlap).  CPU time is given beside, because it does not depend on what else the machine does.  Peak memory is
what one call adds to the process.  ptwt is optional: ``pip install "wavelet-score[bench]"``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pywt
import torch
import typer

from numeric.results import provenance, write_json
from numeric.wavelets import WaveletTransform

OUTPUT = Path(__file__).with_suffix(".json")
LEVELS, WAVELET = 4, "db2"
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


def methods(dtype: torch.dtype, count: int, size: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Direction -> method -> call."""
    x = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    array, grey = x[:, 0].numpy(), x[:, 0]
    transform = WaveletTransform(size, WAVELET, LEVELS)
    kept: dict[str, Any] = {}

    def once(key: str, make: Callable[[], Any]) -> Any:
        if key not in kept:
            kept[key] = make()
        return kept[key]

    options: dict[str, Any] = {"mode": "periodization", "axes": (-2, -1)}
    forward = {
        "ours": lambda: transform.forward(x),
        "pywt": lambda: pywt.wavedec2(array, WAVELET, level=LEVELS, **options),
    }
    inverse = {
        "ours": lambda: transform.inverse(once("ours", forward["ours"])),
        "pywt": lambda: pywt.waverec2(once("pywt", forward["pywt"]), WAVELET, **options),
    }
    try:
        import ptwt
    except ImportError:
        return {"forward": forward, "inverse": inverse}
    forward["ptwt"] = lambda: ptwt.wavedec2(grey, WAVELET, mode="periodic", level=LEVELS)
    inverse["ptwt"] = lambda: ptwt.waverec2(once("ptwt", forward["ptwt"]), WAVELET)
    return {"forward": forward, "inverse": inverse}


def peak(call: Callable[[], Any]) -> int | None:
    """Resident memory a call takes at its peak beyond what was there before, bytes (Linux; None elsewhere)."""

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
        before = status("VmRSS")
        call()
        return max(0, status("VmHWM") - before)
    except OSError:
        return None


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    repeats: Annotated[int, typer.Option(help="rounds")] = 21,
    count: Annotated[int, typer.Option(help="images")] = 1000,
    size: Annotated[int, typer.Option(help="side, pixels")] = 64,
    threads: Annotated[int, typer.Option(help="torch threads (PyWavelets has one)")] = 1,
) -> None:
    """Time all methods in both precisions and write the results file."""
    torch.set_num_threads(threads)
    rows = []
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        for direction, calls in methods(dtype, count, size).items():
            times: dict[str, list[float]] = {method: [] for method in calls}
            cpu: dict[str, list[float]] = {method: [] for method in calls}
            for call in calls.values():
                call()
            for _ in range(repeats):
                for method, call in calls.items():
                    start, start_cpu = time.perf_counter(), time.process_time()
                    call()
                    times[method].append(time.perf_counter() - start)
                    cpu[method].append(time.process_time() - start_cpu)
            for method, values in times.items():
                rows.append(
                    {
                        "dtype": name,
                        "direction": direction,
                        "method": method,
                        "median_ms": 1e3 * float(np.median(values)),
                        "fastest_ms": 1e3 * min(values),
                        "cpu_median_ms": 1e3 * float(np.median(cpu[method])),
                        "time_over_ours": float(np.median(np.array(values) / np.array(times["ours"]))),
                        "cpu_over_ours": float(np.median(np.array(cpu[method]) / np.array(cpu["ours"]))),
                        "peak_mib": None if (used := peak(calls[method])) is None else used / 2**20,
                    }
                )
                row = rows[-1]
                typer.echo(
                    f"{name} {direction} {method}: {row['median_ms']:.1f} ms, {row['time_over_ours']:.2f} of ours "
                    f"({row['cpu_over_ours']:.2f} by CPU time), peak {row['peak_mib'] or 0:.0f} MiB"
                )
    slower = [f"{r['dtype']} {r['direction']} {r['method']}" for r in rows if r["time_over_ours"] < 1]
    record = {
        "images": count,
        "size": size,
        "wavelet": WAVELET,
        "levels": LEVELS,
        "rows": rows,
        "faster_than_ours": slower,
        "provenance": provenance("python -m benchmarks.transform", seed=0),
    }
    write_json(output, record)
    typer.echo("at least as fast as all" if not slower else f"slower than: {', '.join(slower)}")


if __name__ == "__main__":
    app()
