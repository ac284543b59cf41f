"""Every notebook is thin and clean, and runs by papermill on the fall-back data with tiny parameters."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from numeric.figures.gallery import FULL, Notebook, find_notebooks, order, parameters_for

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted((p.stem for p in FOLDER.glob("*.ipynb")), key=order)
PACKAGES = {"analytic", "numeric", "pathlib", "pandas", "IPython", "sympy", "numpy", "matplotlib", "fractions"}
MOST_LINES = {"tour": 75}
"""Lines of code outside the parameters cell (45 where nothing is said): logic belongs in the packages, a tour shows calls."""

TINY: dict[str, Any] = {
    "size": 16,
    "sizes": [8, 16],
    "n_train": 120,
    "n_test": 60,
    "n_eval": 40,
    "n_optimal": 10,
    "n_trained": 4,
    "n_network": 4,
    "n_generated": 12,
    "n_quality": 12,
    "n_shown": 3,
    "seeds": 2,
    "sigmas": [0.25, 1.0],
    "degrees": [1, 2],
    "steps": 4,
    "samples": [60, 120],
}
"""Values for parameters of these names, in any notebook that has them."""
OWN: dict[str, dict[str, Any]] = {
    "fig1": {"depth": 5},
    "fig2": {"size": 16},
    "fig5": {"families": ["independent", "band"], "shared": ["independent"], "shared_degree": 1},
    "fig6": {"families": ["independent", "local"]},
    "fig7": {"n_eval": [40, 20], "shared": ["band:2"], "families": ["independent"]},
    "formulas": {"places": [[2, "A"], [1, "H"]], "digit_degree": 4, "digit_sigmas": [1.0]},
    "table1": {"n_slow": 4, "n_local": 60, "networks": ["cnn"], "families": ["independent:1"], "shared": []},
    "diagnostics": {
        "max_degree": 2,
        "max_radius": 1,
        "ablation_degree": 2,
        "ablation_families": ["independent"],
        "folds": 2,
    },
    "claims": {
        "n_network": 20,
        "n_train": 400,
        "n_test": 240,
        "raw_ridges": [1e-2],
        "photograph_sizes": [8, 16],
        "n_patches": 66,
        "claims": ["degree", "linear at 32"],
    },
    "fig8": {"shared_degree": 1},
    "fig9": {"n_images": 1, "sigmas": [0.5], "shared_degrees": [2, 0]},
    "fig10": {"n_images": 1, "sigmas": [0.5], "shared_degrees": [1, 0]},
    "likelihood": {"families": ["independent:1", "band:2"], "shared": ["independent:1"]},
    "colour": {"families": ["independent:2"], "grey_sizes": [8, 16], "neighbour_size": 8, "components": 3, "rank": 5},
    "video": {"digit_size": 6, "frames": 4, "speeds": [1.0, 2.0], "n_train": 40, "n_eval": 10, "degree": 1},
    "restoration": {"n_eval": 3, "n_tune": 2, "families": ["independent:1"], "shared": [], "wiener": [], "networks": []},
    "agreement": {"families": ["band:2"], "shared": ["independent:1"], "wiener": [], "mixtures": [2], "networks": ["cnn"], "n_seeds": 3, "size": 32},
    "excess": {
        "counts": [30, 60], "draws": 1, "families": ["band:2"], "shared": ["independent:1"], "wiener": ["pixel:2"], "wiener_counts": [60],
        "n_spread": 30, "n_bound": 200, "bound_degrees": [1],
    },
    "approximation": {"laws": ["two-atom", "mixture-2d"], "degree": 12, "degree_2d": 3, "first": 1, "sigmas": [1.0]},
    "beyond": {"refined": [20, "components=1 readouts=pixel:2 experts=1,4 pixels=5e3 side=3 dims=4"]},
    "fig11": {"families": ["independent:1", "band:2"], "shared": ["independent:1"], "wiener": ["pixel:1"], "potential": ["pixel:1"], "size": 16},
}


PICTURES = {"tour": 2}
"""Figures that a notebook shows (1 where nothing is said): each once, as the value of its cell."""


def options(notebook: Notebook, folder: Path) -> dict[str, Any]:
    """Tiny parameters of a notebook, everything written below ``folder``."""
    values = {
        **TINY,
        "output": str(folder / "figures"),
        "cache": str(folder / "runs"),
        "data_root": str(folder / "none"),
    }
    return {k: v for k, v in values.items() if k in notebook.parameters} | OWN.get(notebook.name, {})


@pytest.fixture
def fallback_only(monkeypatch, tmp_path):
    """No data but the fall-back: no data variable, an empty data folder, and mirrors that cannot be reached."""
    monkeypatch.delenv("WAVELET_SCORE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_thin_and_clean(name):
    """A tagged parameters cell, no outputs or counts, imports from the packages only, few lines, no own functions of length."""
    notebook = Notebook.read(FOLDER / f"{name}.ipynb")
    content = notebook.content
    assert content["nbformat"] == 4 and content["metadata"]["kernelspec"]["name"] == "python3"
    assert content["cells"][0]["cell_type"] == "markdown" and notebook.title != name
    tagged = [c for c in content["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1 and notebook.parameters
    lines = 0
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None, "clear the outputs before committing"
        source = "".join(cell["source"])
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            foreign = {m.split(".")[0] for m in modules} - PACKAGES
            assert not foreign, f"{name} imports {foreign}"
        if cell not in tagged:
            lines += sum(bool(text.strip()) and not text.strip().startswith("#") for text in source.splitlines())
    assert lines <= MOST_LINES.get(name, 45), f"{lines} lines of code: move logic into a module"


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, tmp_path, fallback_only):
    """papermill executes it with tiny parameters; what it writes names its data, versions and computed findings."""
    import papermill

    notebook = Notebook.read(FOLDER / f"{name}.ipynb")
    given = options(notebook, tmp_path)
    papermill.execute_notebook(
        str(notebook.path), str(tmp_path / "out.ipynb"), parameters=given, cwd=str(ROOT), progress_bar=False
    )
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES.get(name, 1)
    if "output" not in notebook.parameters:
        return
    written = {p.name for p in (tmp_path / "figures").iterdir()}
    assert written, "the notebook has an output parameter but wrote nothing there"
    assert not [n for n in written if n.startswith(".")], "a temporary file was left behind"
    for path in (tmp_path / "figures").glob("*.json"):
        record = json.loads(path.read_text())
        assert {"command", "versions", "written"} <= set(record)
        assert record["findings"] and all(isinstance(line, str) and line for line in record["findings"])
        if path.with_suffix(".png").exists():
            assert path.with_suffix(".png").stat().st_size > 5000
    if name == "fig5":
        check_fig5(json.loads((tmp_path / "figures" / "fig5.json").read_text()))


def check_fig5(record: dict[str, Any]) -> None:
    """Measured MSE against its exact expectation before clamping, on the fall-back data."""
    assert "fall-back" in record["data"]["fit"]["source"] and record["data"]["fit"]["count"] == 120
    assert len(record["data"]["fit"]["sha256"]) == 64 and record["parameters"]["seeds"] == 2
    rows = [r for r in record["records"] if r["method"] == "independent, own readout" and r["split"] == "train"]
    expected = {
        (r["sigma"], r["degree"]): r["expected_mse_unclamped"]
        for r in record["expected"]
        if r["method"] == "independent, own readout"
    }
    assert len(rows) == len(expected) == 4
    for sigma in (0.25, 1.0):
        assert expected[sigma, 2] <= expected[sigma, 1]  # nested features at one noise level
    for r in rows:  # clamping only helps, and by little; the 40 evaluated images are the first of the 120 fitted ones
        assert 0.4 * expected[r["sigma"], r["degree"]] < r["mse"] < expected[r["sigma"], r["degree"]] + 8 * r["se"]


def test_full_parameters_exist():
    """What ``--full`` sets are parameters that the notebooks have."""
    for notebook in find_notebooks(FOLDER):
        assert parameters_for(notebook, {}, full=True) == FULL.get(notebook.name, {})
