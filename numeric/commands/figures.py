"""``python -m numeric figures``: run the notebooks and build the gallery (see :mod:`numeric.figures.gallery`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    only: Annotated[str, typer.Option(help="notebooks to run, such as fig1,fig5 (default: all)")] = "",
    parameters: Annotated[
        str,
        typer.Option(
            help="YAML, JSON or a file: 'fig5: {n_train: 2000}'; 'all' reaches every notebook that has the name"
        ),
    ] = "",
    full: Annotated[
        bool, typer.Option("--full", help="evaluate on many images (with the full MNIST: an hour or two)")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="notebooks at a time; the cores are shared out")] = 1,
    force: Annotated[bool, typer.Option("--force", help="run also what has not changed")] = False,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="build the page from what is there, run nothing")
    ] = False,
    notebooks: Annotated[Path, typer.Option(help="folder of the notebooks")] = Path("notebooks"),
    output: Annotated[Path, typer.Option(help="folder for figures and page")] = Path("runs/figures"),
    ship: Annotated[bool, typer.Option("--ship", help="write the tracked figures of paper_figures")] = False,
    work: Annotated[Path, typer.Option(help="folder for executed notebooks and logs")] = Path("runs/gallery"),
) -> None:
    """Run the notebooks that are out of date and build the gallery; exit code 1 if any notebook failed."""
    from numeric.figures import gallery
    from numeric.figures.page import build_page

    if ship:
        output = gallery.SHIPPED
    names = [name.strip() for name in only.split(",") if name.strip()]
    found = gallery.find_notebooks(notebooks, names)
    state: dict[str, dict[str, Any]] = {}
    if not page_only:
        state = gallery.run_all(found, output, work, given=gallery.read_parameters(parameters), full=full, jobs=jobs, force=force)
    page = build_page(output, gallery.find_notebooks(notebooks), gallery.read_state(output))
    skipped = sorted((n for n, s in state.items() if s.get("skipped")), key=gallery.order)
    failed = sorted((n for n, s in state.items() if not s["ok"]), key=gallery.order)
    if not page_only:
        typer.echo(f"ran {len(state) - len(skipped)}, unchanged {len(skipped)}, failed {len(failed)}")
    for name in failed:
        typer.echo(f"failed: {name} (log: {work / name}.log)", err=True)
    typer.echo(f"written: {page}")
    if failed:
        raise typer.Exit(1)
