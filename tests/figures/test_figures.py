"""What the figures show, against other implementations, and the gallery that collects them."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import pywt
import torch
import yaml
from typer.testing import CliRunner

import numeric.figures.gallery as gallery
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.commands.app import app
from numeric.data import ImageSet
from numeric.daubechies import cascade, unit_sum, vanishing_moments
from numeric.evaluation.sweep import noise_like
from numeric.figures.against_linear import LinearConfig
from numeric.figures.agreement import AgreementConfig
from numeric.figures.base import FigureMaker, notebook_defaults
from numeric.figures.conditioning import HermiteConfig
from numeric.figures.denoised import DenoisedConfig
from numeric.figures.diagnostics import DiagnosticsConfig
from numeric.figures.fig5 import SweepConfig
from numeric.figures.fig5 import make_figure as make_fig5
from numeric.figures.fig11 import GenerateConfig
from numeric.figures.foresee import LongRunWarning, features, foresee
from numeric.figures.formulas import FormulasConfig
from numeric.figures.illustrations import (
    AtomsConfig,
    DaubechiesConfig,
    FamiliesConfig,
    NoiseConfig,
    band_snr,
    families_drawn,
    mallat_grid,
    monomial_text,
)
from numeric.figures.style import plus_minus
from numeric.figures.table1 import Table1Config
from numeric.fingerprint import _written as written
from numeric.fingerprint import code_hash, imports, meaning, modules_behind
from numeric.noise import ve
from numeric.results import keep_larger, read_json, write_json
from numeric.scores.conditioning import gram_conditions
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.tables import monomials
from numeric.wavelets import WaveletTransform

matplotlib.use("Agg")
ROOT = Path(__file__).parents[2]


# ----- Figures 1 to 4 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wavelet", ["db2", "db3", "db4", "sym4"])
def test_cascade_against_pywavelets(wavelet):
    """PyWavelets iterates from a delta and tends to phi and psi; ours is exact on the grid, so theirs comes ever closer."""
    errors = []
    for depth in (5, 9):
        theirs = pywt.Wavelet(wavelet).wavefun(level=depth)
        _, phi, psi = cascade(wavelet, depth)
        assert len(theirs[0]) == len(phi)
        apart = [
            min(np.abs(np.roll(a, shift) - b).max() for shift in range(-4, 5)) for a, b in zip(theirs[:2], (phi, psi))
        ]  # their curves may lie some grid steps aside
        errors.append(apart)
    assert all(late < 0.5 * early for early, late in zip(*errors))
    assert max(errors[1]) < 0.06


@pytest.mark.parametrize(("wavelet", "moments"), [("db2", 2), ("db3", 3), ("db4", 4), ("sym5", 5), ("coif1", 2)])
def test_scaling_function_identities(wavelet, moments):
    """Integer translates of phi sum to one at every x; psi has the vanishing moments of its order."""
    x, phi, psi = cascade(wavelet, 8)
    assert np.allclose(unit_sum(phi, 8), 1.0, atol=1e-9)
    assert phi.sum() / 2**8 == pytest.approx(1.0, abs=1e-9)
    assert vanishing_moments(x, psi) == moments
    with pytest.raises(ValueError, match="discontinuous"):
        cascade("haar")


def test_grid_is_the_usual_picture_of_the_transform(generator):
    x = torch.rand(1, 1, 16, 16, generator=generator, dtype=torch.float64)
    transform = WaveletTransform(16, "db2", 2)
    ours = transform.forward(x)[0, 0].numpy()[mallat_grid(transform)]
    pyramid = pywt.wavedec2(x[0, 0].numpy(), "db2", mode="periodization", level=2)
    a, fine = pyramid[0], pyramid[1:]
    for h, v, d in fine:
        a = np.block([[a, v], [h, d]])
    assert np.allclose(ours, a, atol=1e-10)


def test_families_figure_counts(tmp_path):
    """Feature counts of the drawn targets: n + 1; C(n+2, 3) + 1; intercept, powers and pairs with every neighbour."""
    _, record, paths = families_drawn(FamiliesConfig(), tmp_path)
    rows = {(r["family"], r["target"][1] == "A"): r for r in record["targets"]}
    assert [rows["independent", False]["features"][n] for n in (1, 2, 3)] == [2, 3, 4]
    assert [rows["band", False]["features"][n] for n in (1, 2, 3)] == [2, 5, 11]
    assert rows["band", True]["neighbours"] == 0  # scaling atoms take the independent form
    assert rows["local(r=1, pairwise)", False]["features"][3] == 4 + 8 * 6
    assert rows["local(r=2, pairwise)", True]["neighbours"] == 15  # a 5 x 5 ball on a 4 x 4 band wraps onto itself
    assert all(p.exists() for p in paths) and json.loads(paths[-1].read_text())["findings"] == record["findings"]
    assert monomial_text(np.array([2, 1]), ("w", "m")) == r"w^{2}\,m"


def test_band_snr_is_the_variance_of_pywavelets_coefficients(generator):
    images = ImageSet(torch.rand(50, 1, 8, 8, generator=generator))
    bands = band_snr(images, WaveletTransform(8, "db2", 1), batch_size=7)
    theirs = [pywt.dwt2(x[0].double().numpy(), "db2", mode="periodization") for x in images[:]]
    expected = np.var([t[1][1] for t in theirs], axis=0).mean()
    (found,) = [b["variance"] for b in bands if b["orientation"] == "V"]
    assert found == pytest.approx(expected, rel=1e-6)


# ----- Figures 8 to 10 --------------------------------------------------------------------------------------------------


def test_raw_condition_numbers_against_sampled_noise(generator):
    """Condition number of ``E[phi phi^T]`` of raw monomials against the same matrix from drawn noise (equation (9))."""
    x = torch.rand(40, 1, 8, 8, generator=generator, dtype=torch.float64)
    model = WaveletScore("independent", 2, levels=1).fit(ImageSet(x))
    exact = gram_conditions(model, 0.5, 2, "monomial", "raw")
    many = x.repeat(2000, 1, 1, 1)
    w = model.transform_.forward(many + 0.5 * noise_like(many, 7))[:, 0, :6].T
    phi = monomials(w[:, None], model.moments_.blocks[0].plan)
    sampled = torch.linalg.cond(phi @ phi.transpose(1, 2) / phi.shape[2]).numpy()
    assert exact[:6] == pytest.approx(sampled, rel=0.1)
    unit = gram_conditions(model, 0.5, 2, "monomial", "unit")
    assert unit == pytest.approx(model.set_params(ridge=0.0).condition_numbers(0.5, 2).numpy(), rel=1e-6)
    hermite = gram_conditions(model, 0.5, 2, "hermite", "unit")
    assert np.median(hermite) < np.median(unit)


def test_raw_ridge_on_hermite_features_is_ridge_regression(mnist16):
    """Equation (23) with Hermite features: the denoiser's theta is ridge regression on He_k(u) from sampled noise."""
    data = mnist16.take(300)
    model = WaveletScore("independent", 2, basis="hermite", ridge=0.3, ridge_side="denoiser", ridge_scaling="raw").fit(
        data
    )
    solved = model.solve(ve(0.5)).blocks[0]
    many = data[:].double().repeat(200, 1, 1, 1)
    places = [5, 6, 9, 10]  # scaling coefficients in the middle of the image
    v = model.transform_.forward(many + 0.5 * noise_like(many, 3))[:, 0, places]
    w = model.transform_.forward(many)[:, 0, places]
    for column, k in enumerate(places):
        u = (v[:, column] - solved.centre[0, k]) / solved.scale[0, k]
        phi = torch.stack([torch.ones_like(u), u, u**2 - 1])
        gram = phi @ phi.T / len(u) + 0.3 * torch.eye(3, dtype=u.dtype)
        products = phi * w[:, column]
        sampled = torch.linalg.solve(gram, products.mean(1))
        error = products.std(1) / len(u) ** 0.5 / 1.3
        assert ((solved.theta[k] - sampled).abs() < 6 * error).all()
        assert error[:2].max() < 0.02 * solved.theta[k, :2].abs().max()  # tight enough to tell the conventions apart


def test_bad_parameters_of_figures_are_named():
    with pytest.raises(ValueError, match="ridge must be > 0"):
        HermiteConfig(ridge=0.0)
    with pytest.raises(ValueError, match="n_images <= n_eval"):
        DenoisedConfig(n_images=5, n_eval=2)


# ----- the gallery ------------------------------------------------------------------------------------------------------

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
    """`make -n clean` names no folder that holds trained networks, checkpoints, users' figures or claims."""
    done = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    removed = done.stdout.split()
    assert "runs/sweeps" in removed
    assert not {"runs", "runs/", "runs/train", "runs/figures", "runs/claims"} & set(removed) and "find" not in removed


# ----- what figures share -------------------------------------------------------------------------------------------------

CONFIGS = {
    "fig1": DaubechiesConfig, "fig2": AtomsConfig, "fig3": FamiliesConfig, "fig4": NoiseConfig, "fig5": SweepConfig,
    "fig7": LinearConfig, "fig8": HermiteConfig, "fig9": DenoisedConfig, "fig11": GenerateConfig, "table1": Table1Config,
    "diagnostics": DiagnosticsConfig, "formulas": FormulasConfig,
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_records_name_every_parameter_that_differs(name):
    """The recorded command holds what differs from the notebook's defaults, and nothing else; YAML gives the values back."""
    config = CONFIGS[name]
    defaults = notebook_defaults(ROOT / "notebooks" / f"{name}.ipynb")
    own = {k: v for k, v in defaults.items() if k in {f.name for f in fields(config)}}
    assert set(defaults) - set(own) <= {"output", "shown_degree"}, "a parameter of the notebook that its figure does not have"
    plain = config(**own)
    assert plain.command == f"papermill notebooks/{name}.ipynb out.ipynb"
    changes = {"size": 24, "sigmas": [0.2], "seed": 7, "ridge": 1e-3, "degrees": [1, 2], "shared": ["independent:1"], "depth": 4}
    changes = {k: v for k, v in changes.items() if k in own}
    command = shlex.split(replace(plain, **changes).command)
    assert command[:3] == ["papermill", f"notebooks/{name}.ipynb", "out.ipynb"]
    assert yaml.safe_load(command[4]) == changes


def test_parameters_as_users_write_them():
    """A number, a string, an array where a list is wanted; what cannot be read is named."""
    a = SweepConfig(sigmas=0.5, degrees="1, 2", families="local", shared=(), seeds=2)
    b = SweepConfig(sigmas=np.array([0.5]), degrees=torch.tensor([1, 2]), families=["local"], shared=[], seeds=2)
    assert a.settings == b.settings and a.sigmas == [0.5] and a.degrees == [1, 2] and a.families == ["local"]
    for change, message in (
        ({"sigmas": "high"}, "sigmas must be numbers, got 'high'"),
        ({"degrees": 1.5}, "degrees must be whole numbers, got 1.5"),
        ({"families": "wave"}, "unknown family 'wave'"),
        ({"sigmas": []}, "sigmas must be > 0"),
        ({"families": [], "shared": []}, "at least one family"),
        ({"basis": "legendre"}, "unknown basis 'legendre'"),
        ({"networks": "CNNN"}, "no network is called 'CNNN'.*cnn"),
        ({"weights": "/nowhere"}, "no folder of weights '/nowhere'"),
    ):
        with pytest.raises(ValueError, match=message):
            SweepConfig(**change)


def test_a_recorded_command_makes_the_same_numbers(tmp_path):
    """In a fresh folder, by the command's own words: Figure 5, with families, seeds and degrees that are not the defaults."""
    config = SweepConfig(
        size=8, n_train=60, n_eval=20, n_optimal=5, n_trained=0, sigmas=0.5, degrees=[1, 2], families="band", shared="band:1",
        seeds=2, seed=3, error_bar="images", cache=str(tmp_path / "runs"),
    )  # fmt: skip
    _, record, _ = make_fig5(config, tmp_path / "first", progress=False)
    (tmp_path / "fresh" / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "fig5.ipynb", tmp_path / "fresh" / "notebooks")
    words = [sys.executable, "-m", *shlex.split(record["command"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path / "fresh", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    again = read_json(tmp_path / "fresh" / "runs" / "figures" / "fig5.json")
    assert again["records"] == record["records"] and again["command"] == record["command"]
    assert {r["degree"] for r in again["records"] if r["method"] == "band, own readout"} == {1, 2}


@pytest.mark.parametrize("path", sorted((ROOT / "paper_figures").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_commands_still_mean_what_they_did(path):
    """A command names what differs from the notebook's defaults: where those have changed since, it would make another figure."""
    record = read_json(path)
    words = shlex.split(record.get("command", "")) if isinstance(record, dict) else []
    if words[:1] != ["papermill"]:
        pytest.skip("not a figure's record")
    run = {**notebook_defaults(ROOT / words[1]), **(yaml.safe_load(words[4]) if len(words) > 4 else {})}
    both = run.keys() & record["parameters"].keys()
    assert len(both) > 1 and {k: run[k] for k in both} == {k: record["parameters"][k] for k in both}


def test_a_parameter_that_no_notebook_has_is_in_the_command_too(tmp_path, monkeypatch):
    """The size of a batch decides which noise an image sees: the record's command sets it, in Python."""
    few = {"size": 8, "n_train": 30, "n_eval": 10, "n_optimal": 0, "n_trained": 0, "sigmas": 0.5, "degrees": 1, "families": "independent"}
    monkeypatch.chdir(tmp_path)
    records = {}
    for batch in (4, 1000):
        config = SweepConfig(**few, shared=[], seeds=2, batch_size=batch)
        _, records[batch], _ = make_fig5(config, tmp_path / str(batch), progress=False)
    assert records[4]["records"] != records[1000]["records"] and records[1000]["command"].startswith("papermill")
    words = shlex.split(records[4]["command"])
    assert words[:2] == ["python", "-c"]
    shutil.rmtree(tmp_path / "runs")
    exec(words[2], {})
    again = read_json(tmp_path / "runs" / "figures" / "fig5.json")
    assert again["records"] == read_json(tmp_path / "4" / "fig5.json")["records"] and again["command"] == records[4]["command"]


def test_a_finished_sweep_fits_nothing(tmp_path, monkeypatch):
    """The second run of Figure 5 takes errors and expected errors from its cache; another ridge measures again."""
    config = {"size": 8, "n_train": 60, "n_eval": 20, "n_optimal": 5, "n_trained": 0, "sigmas": 0.5, "degrees": [1, 2], "seeds": 2}
    config |= {"families": "band", "shared": "band:1", "cache": str(tmp_path / "runs")}
    _, first, _ = make_fig5(SweepConfig(**config), tmp_path / "a", progress=False)
    for kind in (WaveletScore, SharedWaveletScore, LinearDenoiser, OptimalDenoiser):
        monkeypatch.setattr(kind, "fit", lambda self, *args, **options: pytest.fail(f"{type(self).__name__} fitted again"))
    _, second, _ = make_fig5(SweepConfig(**config), tmp_path / "b", progress=False)
    assert second["records"] == first["records"] and second["expected"] == first["expected"]
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        make_fig5(SweepConfig(**config, ridge=1e-3), tmp_path / "c", progress=False)


FEW_ROWS = {"size": 8, "n_train": 60, "n_eval": 20, "n_optimal": 5, "n_trained": 0, "sigmas": [0.25, 0.5], "degrees": [1, 2], "seeds": 2}
FEW_ROWS |= {"families": "band", "shared": "band:1"}


@pytest.fixture(scope="module")
def earlier_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    make_fig5(SweepConfig(**FEW_ROWS, cache=str(folder / "runs")), folder, progress=False)
    return folder / "fig5.json"


def test_rows_of_an_earlier_run_are_taken_and_said(tmp_path, monkeypatch, earlier_run):
    """With rows_from only the linear denoiser and what is new are fitted; the numbers are those of a run that measures all."""
    there, fitted = read_json(earlier_run), []
    for kind in (WaveletScore, SharedWaveletScore, OptimalDenoiser):
        monkeypatch.setattr(kind, "fit", lambda self, *args, fit=kind.fit, **options: fitted.append(self.label) or fit(self, *args, **options))
    take = FEW_ROWS | {"rows_from": str(earlier_run), "cache": str(tmp_path / "runs")}
    _, same, _ = make_fig5(SweepConfig(**take), tmp_path / "a", progress=False)

    def by_row(record):
        return {(r["method"], r["degree"], r["split"], r["sigma"]): r for r in record["records"]}

    assert not fitted and by_row(same) == by_row(there) and same["expected"] == there["expected"] and same["panels"] == there["panels"]
    (origin,) = same["taken"]
    assert {k: origin[k] for k in ("written", "code", "command")} == {k: there[k] for k in ("written", "code", "command")}
    assert origin["methods"] == ["band, own readout", "band, shared readout", "optimal empirical"]
    assert any(text.startswith(f"taken from the run of {there['written'][:10]}: band, own readout") for text in same["findings"])
    more = {**take, "families": "band, independent", "sigmas": [0.5], "n_optimal": 4, "rows_from": str(tmp_path / "a" / "fig5.json")}
    _, more_rows, _ = make_fig5(SweepConfig(**more), tmp_path / "b", progress=False)
    assert set(fitted) == {"independent, own readout", "optimal empirical"}
    _, all_rows, _ = make_fig5(SweepConfig(**{**more, "rows_from": None, "cache": str(tmp_path / "all")}), tmp_path / "c", progress=False)
    assert by_row(more_rows) == by_row(all_rows)
    assert more_rows["taken"] == [{**origin, "methods": ["band, own readout", "band, shared readout"]}]  # not of the run in between


def test_rows_of_another_run_are_refused(tmp_path, earlier_run):
    """Another seed or ridge is an error before the work, other images before the fit, another error of the linear denoiser after it."""
    take = FEW_ROWS | {"rows_from": str(earlier_run), "cache": str(tmp_path / "runs")}
    for change in ({"seed": 1}, {"ridge": 1e-3}, {"size": 16}, {"seeds": 3}):
        with pytest.raises(ValueError, match=f"{next(iter(change))} is .* there, .* here; leave rows_from out"):
            SweepConfig(**(take | change))
    with pytest.raises(ValueError, match=r"fit is .*60.* there, .*50.* here"):
        make_fig5(SweepConfig(**{**take, "n_train": 50}), tmp_path, progress=False)
    record = read_json(earlier_run)
    next(r for r in record["records"] if r["method"] == "linear" and r["sigma"] == 0.5)["mse"] *= 1.001
    write_json(tmp_path / "moved.json", record)
    with pytest.raises(ValueError, match=r"error of linear at sigma 0.5 .* leave rows_from out"):
        make_fig5(SweepConfig(**{**take, "rows_from": str(tmp_path / "moved.json")}), tmp_path, progress=False)
    (tmp_path / "cut.json").write_text(earlier_run.read_text()[:500])
    write_json(tmp_path / "other.json", {"records": [{"method": "linear"}]})
    for name in ("cut", "other"):
        with pytest.raises(ValueError, match=rf"{name}.json is (truncated|damaged)"):
            SweepConfig(**{**take, "rows_from": str(tmp_path / f"{name}.json")})
    with pytest.raises(FileNotFoundError):
        SweepConfig(**{**take, "rows_from": str(tmp_path / "none.json")})


def test_rows_that_are_taken_are_not_foreseen(earlier_run):
    ahead = [w.what for w in SweepConfig(**FEW_ROWS).work(60)]
    assert ahead == ["linear", "own readouts", "band, shared, degree 1", "optimal empirical"]
    assert [w.what for w in SweepConfig(**FEW_ROWS, rows_from=str(earlier_run)).work(60)] == ["linear"]


def test_results_hold_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [float("nan"), np.float64("inf"), 1.5], "t": torch.tensor([float("-inf")]), "n": (1, None)})
    text = (tmp_path / "a.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert read_json(tmp_path / "a.json") == {"x": [None, None, 1.5], "t": [None], "n": [1, None]}
    for path in (ROOT / "paper_figures").glob("*.json"):
        assert not re.search(r"\b(NaN|Infinity)\b", path.read_text()), path.name


def test_nothing_larger_is_replaced(tmp_path):
    """A figure of more images, and a page of more claims, stay: the error comes before the work and says what to do."""
    make = FigureMaker(lambda c, _: {"data": {"fit": {"count": c.n_train, "split": "train"}, "test": {"count": 999, "split": "test"}}}, lambda _: plt.figure(figsize=(1, 1)), lambda _: [])
    make(NoiseConfig(n_train=60), tmp_path, progress=False)
    before = (tmp_path / "fig4.json").read_bytes()
    with pytest.raises(ValueError, match=r"fig4.json was made from 60 images, this run has 50: nothing larger is replaced"):
        make(NoiseConfig(n_train=50), tmp_path, progress=False)
    assert (tmp_path / "fig4.json").read_bytes() == before
    make(NoiseConfig(n_train=60), tmp_path, progress=False)  # as many: held-out images are not counted
    make(NoiseConfig(n_train=50), tmp_path / "other", progress=False)
    make(NoiseConfig(n_train=50, name="fig4.small"), tmp_path, progress=False)
    make(NoiseConfig(n_train=70, seed=1), tmp_path, progress=False)
    assert read_json(tmp_path / "fig4.json")["data"]["fit"]["count"] == 70
    write_json(tmp_path / "claims.json", {"claims": [1, 2, 3], "data": {"train": {"count": 10, "split": "train"}}})
    keep_larger(tmp_path / "claims.json", 10, claims=3)
    with pytest.raises(ValueError, match="from 3 claims, this run has 2"):
        keep_larger(tmp_path / "claims.json", 10, claims=2)
    (tmp_path / "claims.json").write_text("{")
    with pytest.raises(ValueError, match="truncated or not JSON"):
        keep_larger(tmp_path / "claims.json", 10)


def test_errors_are_printed_with_the_digits_they_have():
    assert plus_minus(0.00155123, 0.0000013) == "0.0015512 ± 0.0000013"
    assert plus_minus(2.5, 0.25) == "2.50 ± 0.25" and plus_minus(123.4, 17) == "123 ± 17"
    assert plus_minus(0.5, None) == "0.5" and plus_minus(0.5, 0.0) == "0.5"


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


# ----- foresight ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "degree"), [("independent", 3), ("band", 2), ("local", 2), ("local", 3)])
def test_foreseen_features_are_those_that_are_made(family, degree):
    """Within 15 % at 16 x 16, where bands wrap onto themselves, and exact for independent features."""
    made = SharedWaveletScore(family, degree).new_moments((1, 16, 16))
    found = len(made.monomials)
    assert features(family, degree, 16 * 16) == pytest.approx(found, rel=1e-9 if family == "independent" else 0.15)


def test_long_runs_are_warned_of(capsys):
    """Foreseen before the work: seconds without a word of warning, hours with one that says what would take less."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", LongRunWarning)
        foresee(SweepConfig(size=8, n_eval=50, n_optimal=0, n_trained=0, shared=[], seeds=2).work(100))
    assert "about 0 s" in capsys.readouterr().out
    with pytest.warns(LongRunWarning, match="a lower degree or a smaller family take less"):
        foresee(SweepConfig(size=128, shared="local:3").work(60_000))
    assert foresee([]) == ""


def test_shared_local_stops_at_degree_2_on_few_images():
    """As said in the figure; asked for by name, degree 3 is run."""
    assert SweepConfig().wanted(60_000)["shared", "local"] == [1, 2, 3]
    assert SweepConfig().wanted(4_000)["shared", "local"] == [1, 2] and SweepConfig().wanted(4_000)["own", "local"] == [1, 2, 3]
    assert SweepConfig(shared="local:3").wanted(4_000)["shared", "local"] == [1, 2, 3]
    assert SweepConfig(shared_degree=1).wanted(4_000)["shared", "local"] == [1]


@pytest.mark.parametrize("kind", [GenerateConfig, AgreementConfig])
def test_the_wiener_readouts_of_samples_are_foreseen(kind):
    """A pass over all images for every level of the sampler is the longest part: it is said before the work starts."""

    def ahead(**more):
        return {w.what: w.operations for w in kind(**({"wiener": [], "potential": []} | more)).work(60_000)}

    assert not any("Wiener" in what for what in ahead())
    few, many = (ahead(wiener=["pixel:3"], steps=steps)["Wiener pixel, degree 3"] for steps in (9, 18))
    assert many == 2 * few > ahead()["linear"] and "Wiener both, degree 2" in ahead(potential=["both:2"])


def test_networks_that_stopped_improving_are_sampled(tmp_path):
    """By default the CNN and 4blocks_noattn, and whatever network's record says that it is trained."""
    for name in ("cnn", "1block_noattn", "2blocks_noattn"):
        for suffix in ("json", "safetensors"):
            shutil.copy(ROOT / "numeric" / "baselines" / "weights" / f"{name}_32.{suffix}", tmp_path)
    for name, is_trained in (("cnn", False), ("1block_noattn", False), ("2blocks_noattn", True)):
        record = read_json(tmp_path / f"{name}_32.json")
        write_json(tmp_path / f"{name}_32.json", {**record, "trained": is_trained})
    chosen = GenerateConfig(weights=str(tmp_path)).chosen_networks()
    assert {n.record["config"]["name"] for n in chosen.values()} == {"cnn", "2blocks_noattn"}
