"""``python -m numeric claims``: test the paper's sentences (see :mod:`numeric.claims.report`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer


def main(
    output: Annotated[Path, typer.Option(help="folder for the figure, the page and the numbers")] = Path("runs/claims"),
    name: Annotated[str, typer.Option(help="file name without ending")] = "claims",
    claim: Annotated[list[str] | None, typer.Option(help="claim to test; repeat for several (default: all)")] = None,
    size: Annotated[list[int] | None, typer.Option(help="image side; give two (default: 32 and 64)")] = None,
    sigma: Annotated[list[float] | None, typer.Option(help="noise level; repeat for several")] = None,
    low_sigma: Annotated[float, typer.Option(help="noise is low to moderate up to here")] = 0.25,
    high_sigma: Annotated[float, typer.Option(help="noise is high from here on")] = 0.5,
    degree: Annotated[int, typer.Option(help="highest degree of the families")] = 3,
    hermite_degree: Annotated[int, typer.Option(help="highest degree of the independent family")] = 5,
    n_train: Annotated[int | None, typer.Option(help="images to fit on (default: all)")] = None,
    n_test: Annotated[int | None, typer.Option(help="held-out images (default: all)")] = None,
    n_eval: Annotated[int, typer.Option(help="images per split where noise is drawn")] = 400,
    n_ssim: Annotated[int, typer.Option(help="of those, for the structural similarity")] = 200,
    n_network: Annotated[int, typer.Option(help="of those, for trained networks")] = 200,
    folds: Annotated[int, typer.Option(help="groups of images for exact errors")] = 10,
    groups: Annotated[int, typer.Option(help="groups of images for drawn errors")] = 20,
    ridge: Annotated[float, typer.Option(help="of the own readout's fits, unit scaling")] = 1e-10,
    raw_ridge: Annotated[list[float] | None, typer.Option(help="the paper's ridge on raw features; repeat")] = None,
    photograph_size: Annotated[list[int] | None, typer.Option(help="side of patches of photographs; repeat")] = None,
    n_patches: Annotated[int, typer.Option(help="patches of photographs to fit on")] = 1000,
    sample: Annotated[list[int] | None, typer.Option(help="noisy samples of a sampled fit; repeat")] = None,
    repeats: Annotated[int, typer.Option(help="noise draws of every sampled fit")] = 4,
    n_generated: Annotated[int, typer.Option(help="images to generate")] = 200,
    steps: Annotated[int, typer.Option(help="steps of the sampler")] = 20,
    network: Annotated[
        list[str] | None, typer.Option(help="trained network to use, by name; repeat (default: all there are)")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="folder of trained networks (default: those of the package)")
    ] = None,
    shared_large: Annotated[bool, typer.Option("--shared-large", help="shared readout at the larger size too")] = False,
    exact_limit: Annotated[float, typer.Option(help="most multiply-adds of an exact shared fit")] = 2e13,
    sampled_limit: Annotated[float, typer.Option(help="most multiply-adds of one sampled shared fit")] = 1e12,
    condition_limit: Annotated[int, typer.Option(help="most features of a shared condition number")] = 3200,
    seed: Annotated[int, typer.Option(help="of noise and samples")] = 0,
    cache: Annotated[
        Path, typer.Option(help="folder of finished measurements; an interrupted run takes up from it")
    ] = Path("runs"),
    finished_only: Annotated[
        bool, typer.Option("--finished-only", help="measure nothing more; list the rest as not measured")
    ] = False,
    claims_from: Annotated[
        Path | None,
        typer.Option(help="results file of an earlier run of the same settings and images: the claims that no --claim names are taken from it"),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="list the claims and stop")] = False,
) -> None:
    """Test the paper's sentences: effects with intervals and computed verdicts, as a page, a figure and a results file."""
    from numeric.claims.config import ClaimsConfig
    from numeric.claims.report import make_figure
    from numeric.claims.sentences import CLAIMS

    if list_:
        for c in CLAIMS:
            typer.echo(f"{c.name}: {c.quote} (Section {c.section})")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plain = ClaimsConfig()
    config = ClaimsConfig(
        sizes=size or plain.sizes,
        sigmas=sigma or plain.sigmas,
        low_sigma=low_sigma,
        high_sigma=high_sigma,
        degree=degree,
        hermite_degree=hermite_degree,
        n_train=n_train,
        n_test=n_test,
        n_eval=n_eval,
        n_ssim=n_ssim,
        n_network=n_network,
        folds=folds,
        groups=groups,
        ridge=ridge,
        raw_ridges=raw_ridge or plain.raw_ridges,
        photograph_sizes=photograph_size or plain.photograph_sizes,
        n_patches=n_patches,
        samples=sample or plain.samples,
        repeats=repeats,
        n_generated=n_generated,
        steps=steps,
        networks=network or (),
        weights=str(weights) if weights is not None else None,
        shared_large=shared_large,
        exact_limit=exact_limit,
        sampled_limit=sampled_limit,
        condition_limit=condition_limit,
        seed=seed,
        name=name,
        cache=str(cache),
    )
    _, record, paths = make_figure(config, output, claim, finished_only=finished_only, claims_from=claims_from)
    for line in record["findings"]:
        typer.echo(line)
    typer.echo("written: " + " ".join(map(str, paths)))
