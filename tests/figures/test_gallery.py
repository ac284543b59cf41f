"""The gallery: it runs what changed, ships nothing unasked, and its page says what failed."""

from __future__ import annotations

import ast
import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

import numeric.figures.gallery as gallery
from numeric.commands.app import app
from numeric.figures.base import notebook_defaults
from numeric.fingerprint import _written as written
from numeric.fingerprint import code_hash, imports, meaning, modules_behind

ROOT = Path(__file__).parents[2]
CODE = """import json
from pathlib import Path

from numeric.results import provenance, write_json
Path(output).mkdir(exist_ok=True)
if fail:
    raise ValueError("asked to <fail>")
record = {"findings": [f"value {value} <b>& more</b>"], "data": {"fit": {"source": "a & b", "count": 5, "sha256": "0" * 64}}}
write_json(Path(output) / "NAME.json", {**provenance("cmd", 3), **record})
"""


def make_notebook(folder: Path, name: str, value: int = 1) -> None:
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": [f"# Title of {name} <i>"]},
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "b",
            "metadata": {"tags": ["parameters"]},
            "outputs": [],
            "source": [f'value = {value}\noutput = "out"\nfail = False'],
        },
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "c",
            "metadata": {},
            "outputs": [],
            "source": [CODE.replace("NAME", name)],
        },
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.ipynb").write_text(json.dumps(content))


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A folder of two small notebooks; executions counted, the kernel's work done without a kernel."""
    for name in ("fig2", "fig10"):
        make_notebook(tmp_path / "notebooks", name)
    ran = []

    def execute(notebook, parameters, output, work, threads):
        ran.append(notebook.name)
        values = {"value": 1, "fail": False, **parameters, "output": str(output)}
        try:
            exec(notebook.sources()[1], values)
        except ValueError as error:
            return {"ok": False, "seconds": 0.0, "files": [], "message": str(error)}
        return {"ok": True, "seconds": 0.0, "files": [f"{notebook.name}.json"], "message": ""}

    monkeypatch.setattr(gallery, "execute", execute)
    monkeypatch.setattr(gallery, "data_identity", lambda root=None: Path(root or "data").name)
    return tmp_path, ran


def run(folder: Path, *arguments: str):
    places = ["--notebooks", folder / "notebooks", "--work", folder / "work"]
    places += ["--output", folder / "out"] if "--output" not in arguments else []
    return CliRunner().invoke(app, ["figures", *arguments, *map(str, places)])


class Page(HTMLParser):
    """Collects tags, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def test_gallery_runs_only_what_changed(quick):
    folder, ran = quick
    assert run(folder).exit_code == 0 and ran == ["fig2", "fig10"]  # by number, not by letter
    assert run(folder).exit_code == 0 and len(ran) == 2
    run(folder, "--only", "fig10", "--force")
    assert ran[2:] == ["fig10"]
    run(folder, "--parameters", "fig2: {value: 7}")
    assert ran[3:] == ["fig2"] and "value 7" in (folder / "out" / "fig2.json").read_text()
    run(folder, "--parameters", "fig2: {value: 7}")
    assert len(ran) == 4
    make_notebook(folder / "notebooks", "fig10", value=2)  # its source changed
    run(folder, "--parameters", "fig2: {value: 7}")
    assert ran[4:] == ["fig10"]
    (folder / "out" / "fig10.json").unlink()  # its result is gone
    run(folder, "--parameters", "all: {value: 7, unheard_of: 1}")
    assert ran[5:] == ["fig10"]


def test_shipped_figures_are_not_made_again(quick, monkeypatch):
    """A fresh clone: results and state.json of the shipped folder are copied, until code, parameters or results change."""
    folder, ran = quick
    shipped = folder / "shipped"
    run(folder, "--output", str(shipped))
    (shipped / "fig2.png").write_bytes(b"picture")
    assert len(ran) == 2 and (shipped / "state.json").is_file()
    monkeypatch.setattr(gallery.run_all, "__kwdefaults__", {**gallery.run_all.__kwdefaults__, "shipped": shipped})
    assert run(folder).exit_code == 0 and len(ran) == 2
    assert (folder / "out" / "fig2.png").read_bytes() == b"picture"
    assert (folder / "out" / "fig10.json").read_bytes() == (shipped / "fig10.json").read_bytes()
    run(folder, "--parameters", "fig2: {value: 7}")  # other parameters: made here, the shipped one stays as it is
    assert ran[2:] == ["fig2"] and "value 1" in (shipped / "fig2.json").read_text()
    run(folder)  # and back: the shipped one again, for nothing
    assert len(ran) == 3 and "value 1" in (folder / "out" / "fig2.json").read_text()
    (shipped / "fig10.json").write_text("{}")  # not what the notebook wrote
    (folder / "out" / "fig10.json").unlink()
    run(folder)
    assert ran[3:] == ["fig10"]


def test_other_data_in_the_same_place_are_other_figures(quick, monkeypatch):
    """``data_root`` is a parameter of a notebook: what lies there is part of the key, not the folder's name alone."""
    folder, ran = quick
    for notebook in (folder / "notebooks").glob("*.ipynb"):
        notebook.write_text(notebook.read_text().replace("value = ", "data_root = None\\nvalue = "))
    there = {None: "usual", "mine": "first"}
    monkeypatch.setattr(gallery, "data_identity", lambda root=None: there[root])
    options = ("--only", "fig2", "--parameters", "fig2: {data_root: mine}")
    assert run(folder, *options).exit_code == 0 and run(folder, *options).exit_code == 0 and ran == ["fig2"]
    there["mine"] = "second"
    run(folder, *options)
    assert ran == ["fig2", "fig2"]


def test_runs_do_not_go_to_the_shipped_folder_by_default():
    """Notebooks, commands and `make fig5` write to runs/; only `--ship` writes the tracked figures (issue of a replaced figure)."""
    for notebook in gallery.find_notebooks(ROOT / "notebooks"):
        defaults = notebook_defaults(notebook.path)
        assert str(defaults.get("output", "runs/x")).startswith("runs/"), notebook.name
    for command in ("figures", "generate", "claims", "table1"):
        help_ = " ".join(CliRunner().invoke(app, [command, "--help"]).output.split())
        assert "[default: paper_figures" not in help_ and "[default: runs" in help_


def test_clean_keeps_what_cannot_be_had_again():
    """`make -n clean` names no folder that holds trained networks, checkpoints, finished parts of runs, users' figures or claims."""
    done = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    removed = done.stdout.split()
    assert "runs/gallery" in removed
    assert not {"runs", "runs/", "runs/train", "runs/figures", "runs/claims", "runs/sweeps", "runs/samples"} & set(removed) and "find" not in removed


@pytest.mark.parametrize(("given", "expected"), [({}, ("3", "3")), ({"OMP_NUM_THREADS": "1"}, ("1", "1")), ({"MKL_NUM_THREADS": "2"}, ("3", "2"))])
def test_threads_that_the_user_sets_hold_for_every_library(given, expected, monkeypatch, tmp_path):
    """One library with more threads than the others waits for cores that they hold: MKL follows OpenMP unless it is set too."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = {}

    def ran(command, **options):
        seen.update(options["env"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(gallery.subprocess, "run", ran)
    make_notebook(tmp_path / "notebooks", "fig2")
    notebook = gallery.Notebook.read(tmp_path / "notebooks" / "fig2.ipynb")
    assert gallery.execute(notebook, {}, tmp_path / "out", tmp_path / "work", 3)["ok"]
    assert (seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"]) == expected


def test_gallery_goes_on_after_a_failure_and_says_so(quick):
    folder, ran = quick
    result = run(folder, "--parameters", "fig2: {fail: true}")
    assert result.exit_code == 1 and ran == ["fig2", "fig10"] and "failed: fig2" in result.output
    page = Page((folder / "out" / "index.html").read_text())
    assert "asked to <fail>" in page.text and "Title of fig10" in page.text
    assert run(folder).exit_code == 0 and ran[2:] == ["fig2"]  # a failed one is run again


def test_gallery_page_escapes_and_links(quick):
    folder, _ = quick
    run(folder)
    (folder / "out" / "fig2.png").write_bytes(b"png")
    rows = [{"claim": "<script>", "verdict": "holds", "value": 0.123456, "nested": {"a": 1}}]
    (folder / "out" / "claims.json").write_text(json.dumps({"findings": ["x < y"], "claims": rows}))
    run(folder, "--page-only")
    page = Page((folder / "out" / "index.html").read_text())
    assert "b" not in page.tags and "script" not in page.tags and "i" not in page.tags
    assert "value 1 <b>& more</b>" in page.text and "5 of a & b" in page.text and "seed 3" in page.text
    assert "<script>" in page.text and "0.1235" in page.text and "nested" not in page.text
    assert {"fig2.png", "fig2.json", "fig10.json", "claims.json"} <= set(page.links)
    assert not [link for link in page.links if link.startswith(("/", "http"))]
    assert all((folder / "out" / link).exists() for link in page.links if not link.startswith("#"))


def test_gallery_names_bad_input(quick):
    folder, _ = quick
    assert "no notebook 'fig3'" in run(folder, "--only", "fig3").output
    assert "has no parameter" in " ".join(run(folder, "--parameters", "fig2: {sise: 1}").output.split())
    assert run(folder, "--parameters", "fig3: {value: 1}").exit_code == 2


def test_fingerprint_follows_imports_and_ignores_comments():
    behind = modules_behind(["numeric.figures.fig5"])
    assert {"numeric.figures.fig5", "numeric.scores.moments", "numeric.wavelets", "numeric.baselines.linear"} <= set(behind)
    assert "numeric.figures.fig11" not in behind
    assert imports("import os\nfrom numeric.noise import ve") == {"numeric.noise", "numeric.noise.ve"}
    assert meaning('def f():\n    """Doc."""\n    return 1  # note') == meaning("def f():\n    return 1\n")
    assert meaning("x = 1") != meaning("x = 2")
    assert code_hash("numeric.noise") != code_hash("numeric.scores.families")


def test_a_fingerprint_is_the_same_in_every_python():
    """What newer Pythons' trees have more, empty lists and empty parts of f-strings, is not part of the meaning; these texts are 3.11's."""
    assert meaning("def f(x): return x") == (
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x')]), body=[Return(value=Name(id='x', ctx=Load()))])])"
    )
    assert meaning("f'{x:{y}}'") == (
        "Module(body=[Expr(value=JoinedStr(values=[FormattedValue(value=Name(id='x', ctx=Load()), conversion=-1, "
        "format_spec=JoinedStr(values=[FormattedValue(value=Name(id='y', ctx=Load()), conversion=-1)]))]))])"
    )
    tree = ast.parse("f'{x}'")
    tree.body[0].value.values.append(ast.Constant(""))
    assert written(tree) == meaning("f'{x}'") != meaning("f'{x} '")
