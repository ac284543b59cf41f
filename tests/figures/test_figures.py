"""What the figures show, against other implementations, and what all of them share."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import pywt
import torch
import yaml

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.optimal import OptimalDenoiser
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
    with pytest.raises(ValueError, match=r"table1.json holds no denoising errors .* give the results file of Figure 5 or 6"):
        SweepConfig(**{**take, "rows_from": str(ROOT / "paper_figures" / "table1.json")})


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
