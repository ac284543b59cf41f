"""The pages of the site, gathered from where they live: mkdocs calls :func:`on_files` before it reads them, :func:`on_post_build` at the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import analytic
import numeric
from numeric.figures.gallery import SHIPPED, find_notebooks
from numeric.figures.page import section
from numeric.results import read_json

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "analytic/FORMULAS.md", "numeric/ARCHITECTURE.md", "benchmarks/README.md")
SHOWN = (".png", ".pdf", ".json", ".html")
FIRST_LINE = {
    "numeric": "Wavelet scores evaluated on data, full denoisers and baselines: `from numeric import WaveletScore`.",
    "analytic": "Closed forms of the wavelet score, in SymPy alone: `from analytic import ScoreCoefficient`.",
}


def entries(package: Any) -> str:
    """Every public name of a package, sorted, as mkdocstrings' directive, below a table of them."""
    names = {name: f"{package._WHERE[name]}.{name}" for name in sorted(package.__all__, key=str.lower)}
    index = "\n".join(f"- [`{name}`][{path}]: {first_sentence(getattr(package, name))}" for name, path in names.items())
    parts = "\n\n".join(f"::: {path}" for path in names.values())
    return f"# {package.__name__}\n\n{FIRST_LINE[package.__name__]}\n\n{index}\n\n{parts}\n"


def first_sentence(item: Any) -> str:
    """The first line of a docstring, its reStructuredText roles as plain code."""
    line = (item.__doc__ or "").strip().splitlines()[0]
    return line.replace(":class:", "").replace(":func:", "").replace("``", "`")


def notebook_page() -> str:
    """Every notebook: its title, what it says it does, its figure and the sentences computed in the run that drew it."""
    parts = ["# Figures and notebooks\n", "Each notebook is run by `papermill notebooks/NAME.ipynb out.ipynb`, or all by `make figures`.\n"]
    for notebook in find_notebooks(ROOT / "notebooks"):
        text = notebook.sources("markdown")[0].split("\n", 1)
        parts.append(f"## {notebook.title}\n\n`notebooks/{notebook.name}.ipynb`\n\n{text[1].strip() if len(text) > 1 else ''}\n")
        record = SHIPPED / f"{notebook.name}.json"
        if record.with_suffix(".png").is_file():
            parts.append(f"[![{notebook.title}](paper_figures/{notebook.name}.png)](paper_figures/{notebook.name}.png)\n")
        if record.is_file():
            found = read_json(record).get("findings", [])
            parts.append("\n".join("- " + str(line).replace("*", r"\*").replace("_", r"\_").replace("|", r"\|") for line in found) + "\n")
    return "\n".join(parts)


def gallery_page() -> str:
    """A page that says what the gallery is, and opens it."""
    count = sum(section(path, SHIPPED, {}, {}) is not None for path in SHIPPED.glob("*.json"))
    return (
        "# Gallery\n\n"
        f"[The gallery](paper_figures/index.html) shows all {count} shipped figures with their tables, their findings, and the data, "
        "command, seed and versions that each was made with; PDF and JSON are beside each.\n"
    )


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's pages under their own paths, so that their links hold, and the generated ones."""
    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    for path in sorted(SHIPPED.iterdir()):
        if path.suffix in SHOWN and path.name != "state.json":
            files.append(File.generated(config, f"paper_figures/{path.name}", abs_src_path=str(path)))
    for package in (numeric, analytic):
        files.append(File.generated(config, f"api/{package.__name__}.md", content=entries(package)))
    files.append(File.generated(config, "notebooks.md", content=notebook_page()))
    files.append(File.generated(config, "gallery.md", content=gallery_page()))
    return files


def on_post_build(config: Any) -> None:
    """Tables that the gallery links to as Markdown stay Markdown (mkdocs would make pages of them)."""
    for path in SHIPPED.glob("*.md"):
        shutil.copyfile(path, Path(config["site_dir"]) / "paper_figures" / path.name)
