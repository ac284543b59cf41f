"""Fits over shards: two workers against one process in one run, the overhead of many small shards, and ImageNet on paper.

On paper means: by :func:`foreseen` from the rates of this results file.  Nothing in it is typed by hand but the size of
ImageNet and of a machine, which are the command's options and are kept with the result.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.page import write_section
from numeric.cluster import connected
from numeric.data import load_mnist
from numeric.reduction import FAN_IN
from numeric.results import provenance, read_json, write_json
from numeric.scores.moments import CleanMoments, Products
from numeric.scores.own import WaveletScore
from numeric.scores.passes import merge
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.totals import sum_run
from numeric.shards import FileShard, as_shards

OUTPUT = Path(__file__).with_suffix(".json")
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


def bits(model: Any) -> list[torch.Tensor]:
    """All sums of a fit."""
    moments = model.moments_
    return [block.sums for block in moments.blocks] if isinstance(moments, CleanMoments) else [moments.gram]


@contextmanager
def timed(client: Any) -> Iterator[dict[str, float]]:
    """Wall seconds of the block, CPU seconds of this process and of the workers, and the machine's load beside it."""
    workers = sum(client.run(time.process_time).values())
    wall, cpu, out = time.perf_counter(), time.process_time(), {}
    yield out
    out |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    out["workers_cpu"] = sum(client.run(time.process_time).values()) - workers
    out["load"] = os.getloadavg()[0]


def compared(turns: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Medians over the turns of one process (a) and two workers (b).

    ``speed_up_wall``: seconds of a over seconds of b; where others use the machine it says how the system shares it out.
    ``speed_up_cpu``: CPU seconds of a over those that one of the two workers took, without what idle workers take by
    themselves (measured while a ran), the workers' halves and the asking process one after the other: what two quiet cores
    would see at best.
    ``asker_cpu_share``: CPU of the asking process (client, scheduler, and the work on the sums that one process does too) in b.
    """
    pairs = list(zip(turns["process"], turns["workers"]))
    work = [max(0.0, b["workers_cpu"] - a["workers_cpu"] / a["wall"] * b["wall"]) for a, b in pairs]
    return {
        "speed_up_wall": float(np.median([a["wall"] / b["wall"] for a, b in pairs])),
        "speed_up_cpu": float(np.median([a["cpu"] / (w / 2 + b["cpu"]) for (a, b), w in zip(pairs, work)])),
        "workers_cpu_over_process_cpu": float(np.median([w / a["cpu"] for (a, _), w in zip(pairs, work)])),
        "asker_cpu_share": float(np.median([b["cpu"] / (w + b["cpu"]) for (_, b), w in zip(pairs, work)])),
    }


def against_one_process(count: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """The same shards summed by this process and by two workers, in turn; wall seconds of each, and whether bits agree."""
    rows = []
    train = load_mnist("train", size=size, count=count)
    with tempfile.TemporaryDirectory() as folder, connected("local:2") as client:
        paths = []
        for i, start in enumerate(range(0, len(train), 1000)):
            paths.append(Path(folder) / f"part{i:04d}.npy")
            np.save(paths[-1], train[start : start + 1000].numpy())
        for model in (WaveletScore("local", degree=3), SharedWaveletScore("independent", degree=3)):
            turns: dict[str, list[dict[str, float]]] = {"process": [], "workers": []}
            kept: dict[str, Any] = {}
            model.fit(paths[:2], client=client)  # workers have imported what they need
            for _ in range(repeats):
                for name, who in (("process", "local:0"), ("workers", client)):
                    with timed(client) as found:
                        kept[name] = bits(model.fit(paths, client=who))
                    turns[name].append(found)
            same = all(torch.equal(a, b) for a, b in zip(kept["process"], kept["workers"]))
            rows.append(
                {
                    "readout": model.readout, "model": model.label, "degree": model.degree, "images": len(train), "size": size,
                    "shards": len(paths), "turns": turns, **compared(turns), "same_bits": same,
                }
            )  # fmt: skip
            typer.echo(", ".join(f"{key} {rows[-1][key]}" for key in ("model", "speed_up_wall", "speed_up_cpu", "asker_cpu_share", "same_bits")))
    return rows


def small_shards(number: int) -> dict[str, Any]:
    """``number`` files of one image: in this process, by two workers, and the same images as one array."""
    images = np.random.default_rng(0).random((number, 8, 8)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, connected("local:2") as client:
        paths = []
        for i in range(number):
            paths.append(Path(folder) / f"{i:05d}.npy")
            np.save(paths[-1], images[i : i + 1])
        seconds: dict[str, dict[str, float]] = {}
        kept = {}
        for name, who in (("process", "local:0"), ("workers", client)):
            model = WaveletScore().fit(paths[:8], client=who)
            with timed(client) as seconds[name]:
                kept[name] = bits(model.fit(paths, client=who))
            typer.echo(f"{number:,} small shards, {name}: {seconds[name]['wall']:.1f} s, CPU {seconds[name]['cpu'] + seconds[name]['workers_cpu']:.1f} s")
        with timed(client) as seconds["one_array"]:
            WaveletScore().fit(images)
        tasks = len(as_shards(paths).runs)
    # The scheduler and the client live in this process: its CPU time is what they cost, whatever else the machine does.
    asker = seconds["workers"]["cpu"] / tasks
    reading = (seconds["process"]["cpu"] - seconds["one_array"]["cpu"]) / number
    return {
        "shards": number, "tasks": tasks, "seconds": seconds, "scheduler_cpu_per_task": asker, "opening_cpu_per_shard": reading,
        "same_bits": all(torch.equal(a, b) for a, b in zip(kept["process"], kept["workers"])),
    }  # fmt: skip


def rates(size: int, count: int) -> list[dict[str, Any]]:
    """One thread on colour images of ``size`` pixels: CPU seconds an image, of reading alone and of the sums, bytes and merging.

    The images are drawn: what a pass costs does not depend on the pixels.
    """
    rows = []
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", pixels)
        shard = FileShard(Path(folder) / "x.npy")
        for settings in ({"family": "independent", "degree": 3}, {"family": "band", "degree": 3}, {"family": "local", "degree": 2}):
            model = WaveletScore(**settings)
            moments = model.new_moments((3, size, size))
            transform = moments.transform
            moments.centre = transform.forward(torch.from_numpy(pixels[:2]).double() / 255).flatten(1).mean(0)
            work = Products(moments, 64)
            sum_run(work, [shard], [None], None, True)  # plans are made once
            start, wall = time.process_time(), time.perf_counter()
            sums = sum_run(work, [shard], [None], None, True)
            cpu, wall = time.process_time() - start, time.perf_counter() - wall
            bytes_ = sum(a.nbytes for a in sums.arrays)
            start = time.process_time()
            merge([sums] * FAN_IN)
            merging = (time.process_time() - start) / FAN_IN
            rows.append(
                {
                    "model": model.label, **settings, "size": size, "images": count, "cpu_seconds_per_image": cpu / count,
                    "wall_seconds_per_image": wall / count, "sums_bytes": bytes_, "merge_cpu_seconds": merging,
                }
            )  # fmt: skip
            typer.echo(f"{model.label} at {size} pixels: {1000 * cpu / count:.1f} ms an image, sums of {bytes_ / 2**20:.0f} MiB")
    return rows


def transfer_rate(megabytes: int = 64) -> dict[str, float]:
    """Bytes a second of an array that goes from one worker process to the other, through sockets of this machine."""
    with connected("local:2") as client:
        first, second = list(client.scheduler_info()["workers"])
        for _ in range(2):  # the first one opens the connection
            made = client.submit(np.ones, megabytes * 2**17, workers=[first], pure=False)
            made.result()
            start = time.perf_counter()
            client.submit(len, made, workers=[second], pure=False).result()
            seconds = time.perf_counter() - start
    return {"bytes": megabytes * 2**20, "seconds": seconds, "bytes_per_second": megabytes * 2**20 / seconds}


def foreseen(row: dict[str, Any], overhead: float, network: float, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A pass over a large set on several machines, from measured rates.

    Args:
        row: of :func:`rates`. overhead: seconds of the scheduler for a task, which here sums one shard. network: bytes a second into a machine.
        plan: ``images``, ``image_bytes`` (as read), ``shards``, ``cores`` of a machine, ``machines``.

    Returns: for each number of machines: ``hours``, what the time is made of, bytes read, bytes of sums moved, and memory of
        a machine and of the process that asks.

    A run's sums are moved at most once at each height of the tree (``S n / (F - 1)`` in all above the leaves); the merges of a
    height run side by side, the last ones alone.  Cores work apart, as the two workers of this file do.
    """
    size, shards, out = row["sums_bytes"], plan["shards"], []
    moved = size * sum(math.ceil(shards / FAN_IN**h) for h in range(math.ceil(math.log(shards, FAN_IN))))
    for machines in plan["machines"]:
        cores = machines * plan["cores"]
        rounds = math.ceil(shards / cores)  # a core sums whole shards
        summing = rounds * plan["images"] / shards * row["cpu_seconds_per_image"]
        across = moved * (1 - 1 / machines) / network / machines
        last = math.log(max(2, min(cores, shards)), FAN_IN) * FAN_IN * (row["merge_cpu_seconds"] + (size / network if machines > 1 else 0.0))
        merging = moved / size * row["merge_cpu_seconds"] / cores
        total = summing + across + last + merging + overhead * shards
        out.append(
            {
                "machines": machines, "cores": cores, "hours": total / 3600,
                "seconds": {"sums": summing, "transfers": across, "merges": merging, "last_merges": last, "scheduler": overhead * shards},
                "bytes_read": plan["images"] * plan["image_bytes"], "bytes_moved": moved * (1 - 1 / machines),
                "memory_of_a_machine": plan["cores"] * (2 + FAN_IN) * size, "memory_of_the_asker": 3 * size,
            }
        )  # fmt: skip
    return out


def section(record: dict[str, Any]) -> str:
    """The part of ``README.md`` about this benchmark, written from a results file."""
    plan, small, lines = record["plan"], record["small_shards"], []
    for row in record["two_workers"]:
        lines.append(
            f"- {row['model']}, degree {row['degree']}, {row['images']:,} digits in {row['shards']} shards: one process takes {row['speed_up_wall']:.2f} "
            f"times as long as two workers by the clock of a machine that others used too (load {row['turns']['workers'][0]['load']:.0f} on "
            f"{record['machine']['processor_count']} processors), {row['speed_up_cpu']:.2f} times by CPU time; the same bits: {'yes' if row['same_bits'] else 'no'}."
        )
    seconds = small["seconds"]
    lines.append(
        f"- {small['shards']:,} shards of one image, {small['tasks']:,} tasks: {1000 * small['opening_cpu_per_shard']:.1f} ms of CPU a shard to open, hash and add it, and "
        f"{1000 * small['scheduler_cpu_per_task']:.1f} ms a task for client and scheduler ({seconds['process']['cpu']:.0f} s in one process, "
        f"{seconds['workers']['cpu']:.0f} s of the asking process with two workers, {seconds['one_array']['cpu']:.2f} s for one array of the same images)."
    )
    read = record["imagenet"][0]["foreseen"][0]["bytes_read"]
    lines += [
        "",
        f"On paper, from these rates: a pass over {plan['images']:,} images of {plan['side']} x {plan['side']} colour pixels in {plan['shards']:,} shards "
        f"({read / 2**40:.2g} TiB of 8-bit pixels, read once; decoding pictures is not in it), machines of {plan['cores']} cores, {record['network'] * 8 / 1e9:.2g} Gbit/s into a "
        "machine (the lesser of the plan's network and what two processes here exchanged). A machine holds, for each core, the sums it adds to, those it puts together, and what it sends.",
        "",
        "| family, own readout | ms an image and core | sums | machines | hours | of it transfers and merges | bytes of sums moved | memory of a machine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["imagenet"]:
        for at in row["foreseen"]:
            s = at["seconds"]
            rest = (s["transfers"] + s["merges"] + s["last_merges"]) / 3600
            lines.append(
                f"| {row['model'].split(',')[0] if '(' not in row['model'] else row['family']}, degree {row['degree']} | {1000 * row['cpu_seconds_per_image']:.1f} | "
                f"{row['sums_bytes'] / 2**20:.0f} MiB | {at['machines']} | {at['hours']:.3f} | {rest:.3f} | {at['bytes_moved'] / 2**30:,.0f} GiB | "
                f"{at['memory_of_a_machine'] / 2**30:.1f} GiB |"
            )
    return "\n".join(lines)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    count: Annotated[int, typer.Option(help="MNIST images of the comparison")] = 20_000,
    size: Annotated[int, typer.Option(help="their side, pixels")] = 32,
    repeats: Annotated[int, typer.Option(help="turns of the comparison")] = 3,
    small: Annotated[int, typer.Option(help="small shards")] = 10_000,
    side: Annotated[int, typer.Option(help="side of the images on paper")] = 256,
    images: Annotated[int, typer.Option(help="number of the images on paper (ImageNet's training set)")] = 1_281_167,
    shards: Annotated[int, typer.Option(help="their shards, a task each: as many as the cores of the largest cluster")] = 1600,
    cores: Annotated[int, typer.Option(help="cores of a machine on paper")] = 16,
    network_gbit: Annotated[float, typer.Option(help="network of a machine on paper, Gbit/s; the rate between processes here if that is less")] = 10.0,
    paper: Annotated[bool, typer.Option("--paper", help="measure nothing: foresee from the rates of the results file")] = False,
    measured: Annotated[int, typer.Option(help="images of that side to measure the rates on")] = 128,
) -> None:
    """Measure, foresee, and write the results file and the section of ``README.md``."""
    torch.set_num_threads(1)
    if paper:
        measured_before = read_json(output)
        found = [{key: value for key, value in row.items() if key != "foreseen"} for row in measured_before["imagenet"]]
        turns, overhead, transfer = measured_before["two_workers"], measured_before["small_shards"], measured_before["transfer"]
        if found[0]["size"] != side:
            raise ValueError(f"{output} has the rates of images of {found[0]['size']} pixels: measure again for {side}")
    else:
        turns, overhead = against_one_process(count, size, repeats), small_shards(small)
        found, transfer = rates(side, measured), transfer_rate()
    network = min(network_gbit * 1e9 / 8, transfer["bytes_per_second"])
    plan = {
        "images": images, "side": side, "image_bytes": 3 * side**2, "shards": shards, "cores": cores, "machines": [1, 10, 100],
        "network_gbit": network_gbit,
    }  # fmt: skip
    record = measured_before if paper else {
        **provenance(f"python -m benchmarks.cluster --count {count} --size {size} --repeats {repeats} --small {small} --measured {measured}", 0),
        "data": load_mnist("train", size=size, count=count).provenance,
        "two_workers": turns, "small_shards": overhead, "transfer": transfer,
    }  # fmt: skip
    each = overhead["scheduler_cpu_per_task"]
    record |= {"network": network, "plan": plan, "imagenet": [{**row, "foreseen": foreseen(row, each, network, plan)} for row in found]}
    write_json(output, record)
    if output == OUTPUT:
        write_section("cluster", section(record))
    typer.echo(section(record))


if __name__ == "__main__":
    app()
