"""``python -m numeric train``: train a network of Table 1 (see :mod:`numeric.baselines.train`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def main(
    config: Annotated[str, typer.Option(help="a configuration; see --list")] = "",
    list_: Annotated[bool, typer.Option("--list", help="show the configurations with their parameter counts")] = False,
    size: Annotated[int, typer.Option(help="image side, pixels")] = 32,
    steps: Annotated[int | None, typer.Option(help="training steps (default: the paper's)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per step (default: the paper's)")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="constant (default: the paper's)")] = None,
    base_channels: Annotated[int | None, typer.Option(help="another width")] = None,
    max_minutes: Annotated[float, typer.Option(help="stop early after so many minutes")] = math.inf,
    n_train: Annotated[int | None, typer.Option(help="training images (default: all)")] = None,
    n_eval: Annotated[int, typer.Option(help="images per split for the final errors")] = 2000,
    n_curve: Annotated[int, typer.Option(help="held-out images followed in training")] = 256,
    ema: Annotated[float, typer.Option(help="decay of the averaged weights; 0: the last weights")] = 0.995,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 arithmetic")] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile the network")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads (0: torch's choice)")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="take up the checkpoint in the output folder")] = False,
    output: Annotated[Path, typer.Option(help="folder for weights, record and checkpoint")] = Path("runs/train"),
    seed: Annotated[int, typer.Option(help="of weights, batches and noise")] = 0,
    root: Annotated[str | None, typer.Option(help="data folder (or set $WAVELET_SCORE_DATA)")] = None,
) -> None:
    """Train one network of Table 1 and write OUTPUT/NAME_SIZE.safetensors with its record NAME_SIZE.json."""
    import torch

    from numeric.baselines import train as training
    from numeric.baselines.configs import get_config
    from numeric.baselines.network import load_network, save_network
    from numeric.data import load_mnist
    from numeric.results import provenance, write_json

    SIGMAS, measure = training.SIGMAS, training.measure
    if list_:
        training.configuration_table()
        return
    if threads:
        torch.set_num_threads(threads)
    network = get_config(config)
    if base_channels is not None:
        network = network.with_base_channels(base_channels)
    schedule = training.Schedule(
        steps if steps is not None else network.steps,
        batch_size if batch_size is not None else network.batch_size,
        learning_rate if learning_rate is not None else network.learning_rate,
        seed,
        ema,
        bf16,
        compile_,
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device,
        max_minutes,
    )
    images = load_mnist("train", size=size, count=n_train, root=root)
    test = load_mnist("test", size=size, count=n_eval, root=root)
    checkpoint = output / "checkpoints" / f"{network.name}_{size}.safetensors"
    trainer, record = training.train(
        network, images, schedule, held_out=test.take(n_curve), checkpoint=checkpoint, resume=resume
    )
    base = output / f"{network.name}_{size}"
    weights = base.with_name(base.name + ".safetensors")
    save_network(weights, trainer.average, network, trainer.edm, images.shape[0])
    shipped = load_network(weights)  # errors of the file as it is read back, not of what was in memory
    errors = {
        "train": measure(shipped, images.take(n_eval), SIGMAS),
        "test": measure(shipped, test, SIGMAS),
    }
    command = (
        f"python -m numeric train --config {network.name} --size {size} --steps {trainer.step} "
        f"--batch-size {schedule.batch_size} --learning-rate {schedule.learning_rate:g} --ema {ema:g} --seed {seed}"
        + (f" --base-channels {base_channels}" if base_channels is not None else "")
        + (f" --n-train {n_train}" if n_train is not None else "")
        + (" --bf16" if bf16 else "")
        + (" --compile" if compile_ else "")
        + f" --device {schedule.device}"
    )
    machine = torch.cuda.get_device_name() if schedule.device.startswith("cuda") else "CPU"
    write_json(
        base.with_name(base.name + ".json"),
        {**provenance(command, seed), "device": machine, **record, "errors": errors, "weights_dtype": "float16"},
    )
    typer.echo(
        f"{network.title}, {record['parameters']:,} parameters: {trainer.step:,} steps of {schedule.batch_size} in "
        f"{trainer.seconds:.0f} s ({record['images_per_second']:.0f} images/s on {machine})"
    )
    for sigma, e in errors["test"].items():
        typer.echo(f"  sigma {sigma}: held-out MSE {e['mse']:.5f} ± {e['se']:.5f} ({e['n']} images)")
    typer.echo(f"written: {weights} {base.with_name(base.name + '.json').name}")
