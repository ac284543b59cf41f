"""``python -m numeric generate``: images from noise by every denoiser (see :mod:`numeric.figures.fig11`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def main(
    output: Annotated[Path, typer.Option(help="folder for the figure and its numbers")] = Path("paper_figures"),
    name: Annotated[str, typer.Option(help="file name without ending")] = "fig11",
    size: Annotated[int, typer.Option(help="image side, pixels")] = 32,
    n_train: Annotated[int | None, typer.Option(help="images to fit on (default: all)")] = None,
    n_quality: Annotated[int, typer.Option(help="samples to score")] = 200,
    steps: Annotated[int, typer.Option(help="steps from sigma_max to sigma_min")] = 30,
    method: Annotated[str, typer.Option(help="ode (Heun) or sde (Euler-Maruyama)")] = "ode",
    process: Annotated[str, typer.Option(help="ve or vp")] = "ve",
    clip: Annotated[bool, typer.Option(help="clamp denoised images to [0, 1] on the way")] = True,
    family: Annotated[list[str] | None, typer.Option(help="family:degree, own readout; repeat for several")] = None,
    shared: Annotated[list[str] | None, typer.Option(help="family:degree, shared readout")] = None,
    network: Annotated[list[str] | None, typer.Option(help="trained network, by a word of its label; repeat")] = None,
    n_trained: Annotated[int, typer.Option(help="samples of trained networks")] = 100,
    seed: Annotated[int, typer.Option(help="first seed")] = 0,
    cache: Annotated[Path, typer.Option(help="folder of finished samples; an interrupted run takes up from it")] = Path(
        "runs"
    ),
) -> None:
    """Generate images from the same noise with every denoiser, score them, and draw Figure 11."""
    from numeric.figures.fig11 import FAMILIES, GenerateConfig, make_figure

    config = GenerateConfig(
        size=size,
        n_train=n_train,
        families=family or FAMILIES,
        shared=shared if shared is not None else ("independent:2",),
        n_quality=n_quality,
        steps=steps,
        method=method,
        process=process,
        clip_denoised=clip,
        networks=network or ("CNN", "4blocks_noattn"),
        n_trained=min(n_trained, n_quality),
        cache=str(cache),
        seed=seed,
        name=name,
    )
    _, record, paths = make_figure(config, output)
    for line in record["findings"]:
        typer.echo(line)
    typer.echo("written: " + " ".join(map(str, paths)))
