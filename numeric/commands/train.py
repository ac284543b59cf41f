"""``python -m numeric train``: train a network of Table 1, or all of them (see :mod:`numeric.baselines.train`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    config: Annotated[str, typer.Option(help="a configuration; see --list")] = "",
    list_: Annotated[bool, typer.Option("--list", help="show the configurations with their parameter counts")] = False,
    all_: Annotated[bool, typer.Option("--all", help="every network of Table 1, each from its checkpoint")] = False,
    publish: Annotated[Path | None, typer.Option(help="write the weights of this run's checkpoint to this folder now")] = None,
    record_alone: Annotated[
        bool, typer.Option("--record-alone", help="with --publish: leave out weights that are too large to ship; record, curve and errors only")
    ] = False,
    schedule: Annotated[str, typer.Option(help="printed, cpu, or auto: printed on a GPU, cpu on a CPU")] = "auto",
    size: Annotated[int, typer.Option(help="image side, pixels")] = 32,
    steps: Annotated[int | None, typer.Option(help="training steps at most (default: the schedule's)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per step (default: the schedule's)")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="the highest (default: the schedule's)")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, the paper's (default), or soap")] = None,
    warmup: Annotated[int | None, typer.Option(help="images over which the learning rate rises")] = None,
    decay_after: Annotated[int | None, typer.Option(help="images after which it falls; 0: constant")] = None,
    late_batch_size: Annotated[int | None, typer.Option(help="images per step from then on; 0: as before")] = None,
    base_channels: Annotated[int | None, typer.Option(help="another width")] = None,
    max_minutes: Annotated[float, typer.Option(help="stop early after so many minutes")] = math.inf,
    n_train: Annotated[int | None, typer.Option(help="training images (default: all)")] = None,
    n_eval: Annotated[int, typer.Option(help="images per split for the final errors")] = 2000,
    n_curve: Annotated[int, typer.Option(help="held-out images followed in training")] = 1000,
    ema: Annotated[float | None, typer.Option(help="decay of the averaged weights; 0: the last weights")] = None,
    ema_power: Annotated[float | None, typer.Option(help="average with weights t^power instead")] = None,
    bf16: Annotated[bool | None, typer.Option("--bf16/--float32", help="bfloat16 arithmetic (default: the schedule's)")] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile the network")] = None,
    until_trained: Annotated[bool | None, typer.Option(help="stop at the plateau (default: the schedule's)")] = None,
    foresee: Annotated[bool, typer.Option(help="with --all: time every network first, and say how long all will take")] = True,
    rounds: Annotated[str, typer.Option(help="with --all: image counts to bring all networks to first, such as 300000")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads (0: torch's choice)")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="take up the checkpoint in the output folder")] = False,
    reschedule: Annotated[bool, typer.Option("--reschedule", help="take it up with another schedule, and record both")] = False,
    start_from: Annotated[
        Path | None, typer.Option(help="folder of published weights that a run without a checkpoint goes on from")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="start anew over an earlier run")] = False,
    output: Annotated[Path, typer.Option(help="folder for weights, record and checkpoint")] = Path("runs/train"),
    seed: Annotated[int | None, typer.Option(help="of weights, batches and noise (default: the configuration's)")] = None,
    root: Annotated[str | None, typer.Option(help="data folder (or set $WAVELET_SCORE_DATA)")] = None,
) -> None:
    """Train one network of Table 1, or with --all every one of them; write weights and record to OUTPUT.

    Examples: `train --config cnn`; `train --all --device cuda` (the printed schedules); `train --all --rounds 300000` on a CPU, in
    as many processes as there are cores: each takes the next network that no other is at.
    """
    import torch
    from filelock import Timeout

    from numeric.arguments import as_list
    from numeric.baselines import runs
    from numeric.baselines import train as training
    from numeric.baselines.configs import NetworkConfig, get_config
    from numeric.baselines.schedule import Schedule
    from numeric.data import load_mnist
    from numeric.scores.base import usable_device

    if list_:
        training.configuration_table()
        return
    if threads < 0:
        raise ValueError(f"--threads must be a number of CPU threads, or 0 for torch's choice, got {threads}")
    if threads:
        torch.set_num_threads(threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else usable_device(device)
    kind = ("printed" if device.startswith("cuda") else "cpu") if schedule == "auto" else schedule
    if kind not in ("printed", "cpu"):
        raise ValueError(f"--schedule {schedule}: use printed, cpu or auto")
    given: dict[str, Any] = {
        "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "optimizer": optimizer, "warmup": warmup, "decay_after": decay_after,
        "late_batch_size": 0 if batch_size is not None and late_batch_size is None else late_batch_size,
        "ema": ema, "ema_power": 0.0 if ema is not None and ema_power is None else ema_power, "bf16": bf16, "compile": compile_,
        "until_trained": until_trained if until_trained is not None or steps is None else False, "seed": seed,
    }  # fmt: skip
    given = {k: v for k, v in given.items() if v is not None} | {"device": device, "max_minutes": max_minutes}

    def make(network: NetworkConfig) -> Schedule:
        return Schedule.printed(network, **given) if kind == "printed" else Schedule.cpu(network, **given)

    if record_alone and publish is None:
        raise ValueError("--record-alone leaves the weights out of what --publish FOLDER writes: give --publish")
    if start_from is not None and start_from.resolve() == output.resolve():
        raise ValueError(f"--start-from and --output are the same folder, {output}: what is gone on from would be written over; name another --output")
    cache: dict[int, Any] = {}

    def data(side: int) -> Any:
        if side not in cache:
            cache.clear()
            cache[side] = tuple(load_mnist(s, size=side, count=n_train if s == "train" else None, root=root) for s in ("train", "test"))
        return cache[side]

    if all_:
        if config or base_channels is not None or n_train is not None or publish is not None:
            raise ValueError("--all trains every configuration as it is: leave out --config, --base-channels, --n-train, --publish")
        limits = as_list(rounds, float, "--rounds (image counts, such as 300000)") if rounds.strip() else []
        everything = runs.all_runs(output, make, start_from=start_from)
        if foresee:
            _foresee(everything, data)
        for record in runs.train_all(
            everything, data, rounds=limits, n_eval=n_eval, n_curve=n_curve, reschedule=reschedule, say=typer.echo
        ):
            _tell(record)
        return
    network = get_config(config)
    if base_channels is not None:
        network = network.with_base_channels(base_channels)
    run = runs.Run(network, size, make(network), output, n_train, start_from)
    if start_from is not None and run.start is None:
        raise ValueError(f"--start-from: {start_from / run.weights.name} was not found")
    if publish is None:
        try:
            with run.lock():
                run.prepare(resume, overwrite)  # under the lock: it may remove what another process is writing
                images, test = data(size)
                training.train(
                    network, images, run.schedule, held_out=test.take(n_curve), checkpoint=run.checkpoint, resume=resume,
                    reschedule=reschedule, start_from=run.start,
                )  # fmt: skip
        except Timeout:
            raise ValueError(f"another process is training {run.checkpoint}: wait for it, or choose another --output") from None
    elif run.checkpoint.exists():
        images, test = data(size)
    else:
        raise ValueError(f"--publish: there is no checkpoint {run.checkpoint}")
    record = runs.publish(run, images.take(n_eval), test.take(n_eval), folder=publish, record_alone=record_alone)
    _tell(record)
    folder = publish or output
    typer.echo(f"written: {folder / run.record.name}, weights {record['weights']}" if record_alone else f"written: {folder / run.weights.name} {run.record.name}")


def _foresee(everything: list[Any], data: Any) -> None:
    """Print what is left of each run and how long it will take at most."""
    from numeric.baselines.runs import finished, foresee, so_far

    total = 0.0
    for run in everything:
        if finished(so_far(run), run.schedule):
            typer.echo(f"{run.stem}: done")
            continue
        left = foresee(run, data(run.size)[0])
        total += left.seconds
        stop = " (less if it stops improving)" if run.schedule.until_trained else ""
        typer.echo(
            f"{run.stem}: {left.done:,} of {left.at_most:,} images, {left.images_per_second:,.0f} images/s: {_duration(left.seconds)}{stop}"
        )
    typer.echo(f"foreseen for all, one after the other: {_duration(total)}")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _tell(record: dict[str, Any]) -> None:
    """What was trained and how well, in a few lines."""
    from numeric.baselines.clock import machine_seconds
    from numeric.baselines.configs import get_config
    from numeric.baselines.plateau import state
    from numeric.figures.style import plus_minus

    drop = record["last_doubling"]
    spent = " and ".join(f"{seconds:.0f} s on {machine}" for machine, seconds in machine_seconds(record).items())
    typer.echo(
        f"{get_config(record['config']['name']).title} at {record['size']} pixels, {record['parameters']:,} parameters: {state(record)}, "
        f"{record['steps']:,} steps in {spent} ({record['images_per_second']:.0f} images/s)"
        + ("" if drop is None else f"; the last doubling {'lowered' if drop >= 0 else 'raised'} the held-out error by {100 * abs(drop):.1f} %")
    )
    for sigma, e in record["errors"]["test"].items():
        typer.echo(f"  sigma {sigma}: held-out MSE {plus_minus(e['mse'], e['se'])} ({e['n']} images)")
