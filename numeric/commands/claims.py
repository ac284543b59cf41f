"""``python -m numeric claims``: test the paper's sentences (see :mod:`numeric.claims.report`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    output: Annotated[Path, typer.Option(help="folder for the figure, the page and the numbers")] = Path(
        "paper_figures"
    ),
    name: Annotated[str, typer.Option(help="file name without ending")] = "claims",
    claim: Annotated[list[str] | None, typer.Option(help="claim to test; repeat for several (default: all)")] = None,
    n_train: Annotated[int | None, typer.Option(help="images to fit on (default: all)")] = None,
    n_test: Annotated[int | None, typer.Option(help="held-out images (default: all)")] = None,
    n_eval: Annotated[int, typer.Option(help="images per split where noise is drawn")] = 400,
    network: Annotated[
        list[str] | None, typer.Option(help="trained network to use; repeat (default: all shipped)")
    ] = None,
    sigma: Annotated[list[float] | None, typer.Option(help="noise level; repeat for several")] = None,
    shared_large: Annotated[bool, typer.Option(help="shared readout at the larger size too (minutes, 2.3 GiB)")] = False,
    seed: Annotated[int, typer.Option(help="of noise and samples")] = 0,
    cache: Annotated[
        Path, typer.Option(help="folder of finished measurements; an interrupted run takes up from it")
    ] = Path("runs"),
    list_: Annotated[bool, typer.Option("--list", help="list the claims and stop")] = False,
) -> None:
    """Test the paper's sentences: effects with intervals and computed verdicts, as a page, a figure and a results file."""
    from numeric.claims.measure import ClaimsConfig
    from numeric.claims.report import make_figure
    from numeric.claims.sentences import CLAIMS

    if list_:
        for c in CLAIMS:
            typer.echo(f"{c.name}: {c.quote} (Section {c.section})")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    more: dict[str, Any] = {"sigmas": tuple(sigma)} if sigma else {}
    config = ClaimsConfig(
        n_train=n_train,
        n_test=n_test,
        n_eval=n_eval,
        networks=tuple(network or ()),
        shared_large=shared_large,
        seed=seed,
        name=name,
        cache=str(cache),
        **more,
    )
    _, record, paths = make_figure(config, output, claim, command=f"python -m numeric claims --n-eval {n_eval}")
    for line in record["findings"]:
        typer.echo(line)
    typer.echo("written: " + " ".join(map(str, paths)))
