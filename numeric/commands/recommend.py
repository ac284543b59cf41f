"""``python -m numeric recommend``: which family, degree and ridge some images can carry at a noise level, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    images: Annotated[Path | None, typer.Option(help=".npy or .npz file, picture or folder of pictures; MNIST if not given")] = None,
    size: Annotated[int | None, typer.Option(help="side to resize to, pixels")] = 32,
    count: Annotated[int | None, typer.Option(help="only the first so many images")] = None,
    sigma: Annotated[float, typer.Option(help="noise level (VE)")] = 0.25,
    candidate: Annotated[
        list[str] | None, typer.Option(help="readout:family:degree, such as own:local:2; repeat (default: a grid of four, to degree 3)")
    ] = None,
    groups: Annotated[int, typer.Option(help="groups of images that are left out in turn")] = 5,
    output: Annotated[Path | None, typer.Option(help="save the recommended model, fitted on all images (safetensors)")] = None,
    report_file: Annotated[Path | None, typer.Option("--report", help="also write all that was tried as JSON")] = None,
    progress: Annotated[bool, typer.Option(help="progress bar")] = True,
) -> None:
    """Predicted risk of every candidate, the lowest first, and the reason in words."""
    from numeric.commands.fit import read_images
    from numeric.noise import ve
    from numeric.results import check_output, provenance, write_json
    from numeric.scores.recommend import GRID, recommend

    level = ve(sigma)
    chosen = None if not candidate else [_candidate(text) for text in candidate]
    for path in (output, report_file):
        if path is not None:
            check_output(path)
    data = read_images(images, size, count)
    names = ", ".join(f"{c.readout} {c.family} to degree {c.degree}" for c in chosen or GRID)
    typer.echo(f"{len(data):,} images of {data.source}, {' x '.join(map(str, data.shape))}, {level}; tries {names}")
    found = recommend(data, level, chosen, groups, progress)
    typer.echo(f"{'predicted':>10} {'fitted':>10} {'gap':>9}  {'an output':>9}  setting")
    for row in found.rows:
        typer.echo(f"{row.risk:10.6f} {row.empirical:10.6f} {row.gap:9.2g}  {row.features:>9,}  {row.label}")
    typer.echo(found.reason)
    if output is not None:
        found.model.save(output)
        typer.echo(f"saved to {output}")
    if report_file is not None:
        rows = [{**vars(row), "shares": list(row.shares), "risk": row.risk} for row in found.rows]
        write_json(
            report_file,
            {"sigma": sigma, "groups": groups, "rows": rows, "reason": found.reason, "data": data.provenance, "provenance": provenance()},
        )


def _candidate(text: str) -> Any:
    from numeric.scores.recommend import Candidate

    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdigit():
        raise ValueError(f"a candidate is written readout:family:degree, such as own:local:2, got {text!r}")
    return Candidate(parts[0], parts[1], int(parts[2]), (1e-10, 1e-2) if parts[0] == "own" else (1e-6, 1e-2))
