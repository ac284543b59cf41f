"""``python -m numeric table1``: the networks and closed forms of Table 1, measured (see :mod:`numeric.figures.table1`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def main(
    output: Annotated[Path, typer.Option(help="folder for the figure and its numbers")] = Path("runs/figures"),
    size: Annotated[int, typer.Option(help="image side, pixels")] = 32,
    n_train: Annotated[int | None, typer.Option(help="images to fit closed forms on (default: all)")] = None,
    n_eval: Annotated[int, typer.Option(help="images per split for closed forms")] = 2000,
    n_network: Annotated[int, typer.Option(help="images per split for networks")] = 250,
    network: Annotated[list[str] | None, typer.Option(help="configuration to show; repeat (default: all)")] = None,
    weights: Annotated[Path | None, typer.Option(help="folder of trained networks (default: those shipped)")] = None,
    steps: Annotated[int, typer.Option(help="train networks that are not there for so many steps")] = 0,
    slow: Annotated[bool, typer.Option(help="also the machines that hold training images, and BayesShrink")] = True,
    n_local: Annotated[int | None, typer.Option(help="training images of LS, PSPC and PCA locality; 0: all")] = 500,
    seed: Annotated[int, typer.Option(help="of the noise")] = 0,
    name: Annotated[str, typer.Option(help="file name without ending")] = "table1",
) -> None:
    """Parameters, training and denoising errors of networks and closed forms, as a table, a figure and a results file."""
    from numeric.figures.contenders import MACHINES
    from numeric.figures.table1 import Table1Config, make_table

    config = Table1Config(
        size=size, n_train=n_train, n_eval=n_eval, n_network=n_network, networks=network, steps=steps,
        n_local=n_local or None, machines=tuple(MACHINES) if slow else (), weights=None if weights is None else str(weights), seed=seed, name=name,
    )  # fmt: skip
    _, record, paths = make_table(config, output)
    for line in record["findings"]:
        typer.echo(line)
    typer.echo("written: " + " ".join(map(str, paths)))
