"""``python -m numeric generate``: images from noise by every denoiser (see :mod:`numeric.figures.fig11`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    output: Annotated[Path, typer.Option(help="folder for the figure and its numbers")] = Path("runs/figures"),
    name: Annotated[str, typer.Option(help="file name without ending")] = "fig11",
    size: Annotated[int, typer.Option(help="image side, pixels")] = 32,
    n_train: Annotated[int | None, typer.Option(help="images to fit on (default: all)")] = None,
    n_quality: Annotated[int, typer.Option(help="samples to score")] = 200,
    n_shown: Annotated[int, typer.Option(help="samples drawn in the figure")] = 8,
    steps: Annotated[int, typer.Option(help="steps from sigma_max to sigma_min")] = 30,
    method: Annotated[str, typer.Option(help="ode (Heun), sde (Euler-Maruyama) or ddim")] = "ode",
    process: Annotated[str, typer.Option(help="ve or vp")] = "ve",
    clip: Annotated[bool, typer.Option(help="clamp denoised images to the pixels' range on the way")] = True,
    family: Annotated[list[str] | None, typer.Option(help="family:degree, own readout; repeat for several")] = None,
    shared: Annotated[list[str] | None, typer.Option(help="family:degree, shared readout; repeat for several")] = None,
    network: Annotated[list[str] | None, typer.Option(help="trained network; repeat for several")] = None,
    weights: Annotated[Path | None, typer.Option(help="folder of trained networks (default: those shipped)")] = None,
    n_trained: Annotated[int, typer.Option(help="samples of trained networks")] = 100,
    seed: Annotated[int, typer.Option(help="first seed")] = 0,
    cache: Annotated[Path, typer.Option(help="folder of finished samples; an interrupted run takes up from it")] = Path(
        "runs"
    ),
) -> None:
    """Generate images from the same noise with every denoiser, score them, and draw Figure 11."""
    from numeric.figures.fig11 import GenerateConfig, make_figure

    chosen: dict[str, Any] = {"families": family, "shared": shared, "networks": network}
    config = GenerateConfig(
        size=size, n_train=n_train, n_quality=n_quality, n_shown=min(n_shown, n_quality), steps=steps, method=method,
        process=process, clip_denoised=clip, n_trained=min(n_trained, n_quality), cache=str(cache), seed=seed, name=name,
        weights=None if weights is None else str(weights), **{k: v for k, v in chosen.items() if v is not None},
    )  # fmt: skip
    _, record, paths = make_figure(config, output)
    for line in record["findings"]:
        typer.echo(line)
    typer.echo("written: " + " ".join(map(str, paths)))
