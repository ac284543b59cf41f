"""The pages tell the truth: every name they give can be imported and every equation can be found by its number."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "analytic/FORMULAS.md", "numeric/ARCHITECTURE.md"]
NAME = re.compile(r"`((?:analytic|numeric)(?:\.\w+)+)`")


def resolve(name: str) -> tuple[Any, Any]:
    """The object of a dotted name, and its module."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        found: Any = module
        for attribute in parts[cut:]:
            found = inspect.getattr_static(found, attribute) if inspect.isclass(found) else getattr(found, attribute)
        return found, module
    raise ImportError(name)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_on_the_page_exists(page: str) -> None:
    """Dotted names in backticks import; links and files named in the page exist."""
    text = (ROOT / page).read_text()
    names = set(NAME.findall(text))
    for name in names:
        resolve(name)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
    for target in re.findall(r"`((?:tests|benchmarks|notebooks|analytic|numeric|paper_figures)/[\w./]+\.\w+)`", text):
        assert (ROOT / target).exists(), f"{page} names {target}"


def equation_rows() -> list[tuple[str, str]]:
    rows = []
    for line in (ROOT / "analytic/FORMULAS.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1].startswith("("):
            rows += [(number, name) for number in re.findall(r"\((\d+)\)", cells[1]) for name in NAME.findall(line)]
    return rows


def test_every_equation_of_the_paper_has_a_row() -> None:
    """Equations (1) to (26)."""
    assert {int(number) for number, _ in equation_rows()} == set(range(1, 27))


def test_equations_are_found_by_searching() -> None:
    """Each numbered row names at least one object whose own, class's or module's text gives the number."""
    by_number: dict[str, list[str]] = {}
    for number, name in equation_rows():
        by_number.setdefault(number, []).append(name)
    missing = []
    for number, names in by_number.items():
        sources = [inspect.getsource(resolve(name)[1]) for name in names]
        if not any(re.search(rf"\({number}\)", source) for source in sources):
            missing.append(number)
    assert not missing, f"no module named for equations {missing} mentions their numbers"


def test_the_readme_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of the README, one after the other, in a fresh folder (the data sets by name need a download)."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) >= 3
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks:
            kept = "\n".join(line for line in block.splitlines() if not line.startswith("load_images("))
            exec(compile(kept, "README.md", "exec"), names)
    assert float((names["denoised"] - names["clean"]).square().mean()) < 0.03 and Path("runs/local.safetensors").exists()


def test_the_readme_lists_every_method() -> None:
    """Each denoiser that the package hands out is in the README's table."""
    import numeric

    text = (ROOT / "README.md").read_text()
    methods = [name for name in numeric.__all__ if name.endswith(("Denoiser", "Score", "Machine", "Shrinkage")) and name != "Denoiser"]
    assert len(methods) > 7 and [name for name in methods if f"`{name}`" not in text] == []
