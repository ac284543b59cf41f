"""Whole runs of the claims on small data: verdicts from effects, caches, networks, page, figure, command, notebook."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from numeric.claims import forest, page, report
from numeric.claims.config import ClaimsConfig, Skipped, command, find
from numeric.claims.effects import AGAINST, Effect
from numeric.claims.measure import MEASUREMENTS, Measurements
from numeric.claims.rules import CONTRADICTED, UNTESTABLE, VERDICTS, judge
from numeric.claims.sentences import CLAIMS
from numeric.commands.app import app
from numeric.denoiser import Denoiser

ROOT = Path(__file__).parents[2]


class Half(Denoiser):
    """Returns half the noisy image: a stand-in for a network, with a record."""

    label = "half"

    def __init__(self, trained: bool) -> None:
        self.record = {"trained": trained, "images": 1000}

    def estimate(self, y, noise):
        return y / 2


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    monkeypatch.setattr("numeric.baselines.network.trained", lambda size, names=None, folder=None: {})
    monkeypatch.setattr("numeric.claims.report.SIMULATIONS", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _effects(claim):
    keys = {f.name for f in dataclasses.fields(Effect)}
    return [Effect(**{k: v for k, v in e.items() if k in keys}) for e in claim["effects"]]


def test_all_claims_run_and_every_verdict_follows_from_its_effects(small_run):
    """Verdicts are computed: judging the recorded effects again gives the recorded verdicts."""
    _, record = small_run
    assert [c["name"] for c in record["claims"]] == [c.name for c in CLAIMS]
    for claim in record["claims"]:
        again = judge(_effects(claim), claim["quantifier"], claim["threshold"])
        assert (again["verdict"], again["counts"]) == (claim["verdict"], claim["counts"])
        assert claim["verdict"] in VERDICTS
        assert all(e["low"] <= e["value"] <= e["high"] for e in claim["effects"] if "value" in e)
    untested = {c["name"] for c in record["claims"] if c["verdict"] == UNTESTABLE}
    assert untested == {"networks better", "gap narrows", "gap at high noise"}


def test_claims_are_tested_on_both_readouts_and_with_sampled_fits(small_run):
    """Every sentence on degree, coupling, band-tying and linear names own and shared, exact and sampled fits."""
    names = ("degree", "local gains", "local coupling", "local reliable", "noise and dependence", "band often worse", "linear at 32")
    claims = {c["name"]: c for c in small_run[1]["claims"]}
    for name in names:
        settings = {(e["setting"]["readout"], e["setting"]["fit"]) for e in claims[name]["effects"]}
        fits = {"exact fit", "100 noisy samples"}
        assert settings == {("own", f) for f in fits} | {("shared", f) for f in fits | {"240 noisy samples"}}
        assert set(claims[name]["readouts"]) == {"own", "shared"}
    assert {e["setting"]["readout"] for e in claims["Hermite conditioning"]["effects"]} == {"own", "shared"}


def test_at_degree_1_the_shared_readouts_are_one_denoiser(small_run):
    """Local coupling with the shared readout: at degree 1 every family is the linear denoiser, so nothing helps."""
    claim = next(c for c in small_run[1]["claims"] if c["name"] == "local coupling")
    first = [e for e in claim["effects"] if e["setting"]["readout"] == "shared" and e["cell"]["degree"] == 1 and "value" in e]
    assert len(first) == 12 and all(e["status"] == AGAINST and abs(e["value"]) < 1e-6 for e in first)
    assert claim["readouts"]["shared"]["verdict"] == CONTRADICTED


def test_powers_of_noisy_wavelet_coefficients_are_the_shared_readout(small_run):
    """Two routes to one machine: Wick-ordered sums per level, and the clean moments of the shared readout (another ridge, 1e-6)."""
    m = Measurements(small_run[0], progress=False, finished_only=True)
    for split in ("train", "held-out"):
        for sigma in m.config.sigmas:
            wanted = {"split": split, "sigma": sigma, "metric": "mse", "images": "all", "degree": 3}
            one = find(m.rows("coordinates", 8, "noisy", "wavelet"), **wanted)
            other = find(m.shared_rows(8, "independent"), **wanted)
            assert isinstance(one, np.ndarray) and one == pytest.approx(other, rel=1e-3)
    claim = next(c for c in small_run[1]["claims"] if c["name"] == "wavelets or pixels")
    assert {e["setting"]["powers of"] for e in claim["effects"]} == {"noisy coefficients", "Wiener estimates"}
    pixel, wavelet = (find(m.rows("coordinates", 8, "wiener", c), split="held-out", sigma=1.0, metric="mse", images="all") for c in ("pixel", "wavelet"))
    effect = next(e for e in claim["effects"] if e["setting"]["powers of"] == "Wiener estimates" and e["setting"]["split"] == "held-out" and e["cell"]["sigma"] == 1.0)
    assert effect["value"] == pytest.approx(100 * (1 - wavelet.mean() / pixel.mean()))


def test_photographs_are_the_units_of_their_claim(small_run):
    """The effect on growing photographs is the change of linear's disadvantage, photographs weighing the same; held-out ones are five."""
    m = Measurements(small_run[0], progress=False, finished_only=True)
    claim = next(c for c in small_run[1]["claims"] if c["name"] == "advantage grows on photographs")
    assert len(claim["effects"]) == 2 * 2 * 2  # splits, families, sigmas
    means = {}
    for size in (8, 16):
        for family in ("linear", "local"):
            units = find(m.rows("photographs", size), split="held-out", sigma=0.25, family=family)
            assert units.shape == (1, 5)
            means[size, family] = units.mean()
    wanted = [100 * (1 - means[size, "local"] / means[size, "linear"]) for size in (8, 16)]
    cell = {"family": "local", "step": "8 to 16", "sigma": 0.25, "degree": 2}
    (effect,) = (e for e in claim["effects"] if e["setting"]["split"] == "held-out" and e["cell"] == cell)
    assert effect["value"] == pytest.approx(wanted[1] - wanted[0], abs=1e-9) and effect["low"] < effect["value"] < effect["high"]
    assert any("held-out photographs, local" in line for line in claim["explanation"])
    assert m.key("photographs", 8)["data"] != m.key("photographs", 16)["data"]


def test_nested_families_are_no_evidence(small_run):
    """w^k lies in the span of (22): exact training errors cannot rise, and are kept out of the verdict."""
    band = next(c for c in small_run[1]["claims"] if c["name"] == "band often worse")
    nested = [e for e in band["effects"] if e["status"] == "by construction"]
    assert len(nested) == 4 and all(e["value"] < 1e-6 and e["setting"]["split"] == "train" for e in nested)
    assert any("cannot rise" in line for line in band["explanation"])


def test_results_hold_no_nan(small_run, tmp_path):
    """The whole record is JSON without NaN or Infinity."""
    assert json.loads(json.dumps(small_run[1], allow_nan=False))["claims"]


# ----- caches --------------------------------------------------------------------------------------------------------------


def test_settings_a_b_a_keep_each_other_s_rows(small_run, monkeypatch):
    """Another seed is another file: going back to the first settings measures nothing."""
    config, _ = small_run
    first = Measurements(config, progress=False)
    other = Measurements(dataclasses.replace(config, sigmas=(0.5, 1.0)), progress=False)
    assert other.rows("linear", 8) != first.rows("linear", 8)
    files = {p.name for p in first.path("linear", 8).parent.glob("linear-8-*.json")}
    assert len(files) == 2
    monkeypatch.setitem(MEASUREMENTS, "linear", dataclasses.replace(MEASUREMENTS["linear"], make=_fails_like("linear")))
    again = Measurements(config, progress=False)
    assert again.rows("linear", 8) == first.rows("linear", 8)


def _fails_like(name):
    def make(*_):
        pytest.fail("measured again")

    make.__module__ = MEASUREMENTS[name].make.__module__
    return make


@pytest.mark.parametrize("what", ["settings", "data", "code"])
def test_keys_hold_what_made_the_rows(small_run, monkeypatch, what):
    """Settings, images and code are in the key; a parameter that a measurement does not declare is not there for it to read."""
    config = small_run[0]
    before = Measurements(config, progress=False).key("exact", 8, "band")
    if what == "settings":
        config = dataclasses.replace(config, ridge=1e-3)
    elif what == "data":
        config = dataclasses.replace(config, n_train=200)
    else:
        monkeypatch.setattr("numeric.claims.measure._code", lambda *_: "other code")
    after = Measurements(config, progress=False).key("exact", 8, "band")
    assert {k for k in after if after[k] != before[k]} == {what}
    unrelated = dataclasses.replace(small_run[0], n_generated=30, shared_large=True)
    monkeypatch.undo()
    assert Measurements(unrelated, progress=False).key("exact", 8, "band") == before
    with pytest.raises(AttributeError):
        monkeypatch.setitem(MEASUREMENTS, "x", dataclasses.replace(MEASUREMENTS["linear"], make=lambda m: m.config.seed))
        Measurements(small_run[0], progress=False).rows("x")


def test_weights_are_in_the_key(small_run, monkeypatch, tmp_path):
    """Other weights under the same name are measured anew."""
    keys = []
    for content in (b"one", b"two"):
        (tmp_path / "w").write_bytes(content)
        net = Half(True)
        net.path = tmp_path / "w"
        monkeypatch.setattr("numeric.baselines.network.trained", lambda size, names=None, folder=None, net=net: {"half": net})
        keys.append(Measurements(small_run[0], progress=False).path("networks", 8))
    assert keys[0] != keys[1]


def test_finished_only_measures_nothing_and_says_what_is_left(small_run, tmp_path):
    """From an empty cache every claim is untested, each naming what has not been measured; from a full one nothing changes."""
    config, record = small_run
    empty = report.run_claims(dataclasses.replace(config, cache=str(tmp_path)), progress=False, finished_only=True)
    assert {c["verdict"] for c in empty["claims"]} == {UNTESTABLE} and not list(tmp_path.iterdir())
    assert all(any("not measured yet" in r for r in c["not_measured"]) for c in empty["claims"] if "network" not in c["effect"])
    page.markdown({**empty, "command": "test", "seed": 0})
    full = report.run_claims(config, ["local coupling"], progress=False, finished_only=True)
    assert full["claims"][0] == next(c for c in record["claims"] if c["name"] == "local coupling")


# ----- networks ------------------------------------------------------------------------------------------------------------


def test_claims_on_networks_wait_for_training(small_run, monkeypatch):
    """A network whose record says in training (or nothing) makes the claim "not testable yet"; a trained one makes it testable."""
    names = ["networks better", "gap narrows", "gap at high noise"]
    monkeypatch.setattr("numeric.baselines.network.trained", lambda size, names=None, folder=None: {"half": Half(False)})
    waiting = report.run_claims(small_run[0], names, progress=False)
    for claim in waiting["claims"]:
        assert claim["verdict"] == UNTESTABLE and claim["text"].startswith("not testable yet") and "half at 8" in claim["text"]
    assert waiting["networks"]["half, 8x8"]["trained"] is False
    monkeypatch.setattr(
        "numeric.baselines.network.trained", lambda size, names=None, folder=None: {"half": Half(True)} if size == 8 else {}
    )
    tested = report.run_claims(small_run[0], names, progress=False)
    better = tested["claims"][0]
    assert better["verdict"] == CONTRADICTED and better["effects"][0]["cell"]["network"] == "half"
    assert all(len(c["effects"]) > 0 for c in tested["claims"])


def test_a_name_that_no_network_has_ends_the_run_at_once(small_run, monkeypatch):
    """By the rule of ``trained``: found at one size is enough, found at none is its error."""

    def trained(size, names=None, folder=None):
        nets = {"half": Half(True)} if size == 8 else {}
        missing = [n for n in names or () if n not in nets]
        if missing:
            raise ValueError(f"no network {missing[0]!r}: there are {', '.join(nets) or 'none'}")
        return nets

    monkeypatch.setattr("numeric.baselines.network.trained", trained)
    found = Measurements(dataclasses.replace(small_run[0], networks="half"), progress=False)
    assert list(found.trained_networks(8)) == ["half"] and found.trained_networks(16) == {}
    with pytest.raises(ValueError, match="no network 'CNNN': there are half"):
        Measurements(dataclasses.replace(small_run[0], networks=("half", "CNNN")), progress=False)


# ----- page, figure, command -----------------------------------------------------------------------------------------------


def test_figure_and_page_are_written_from_the_record(small_run, tmp_path):
    """The page quotes every sentence with its computed verdict and shows the rules' error rates; one axis for each unit."""
    record = small_run[1]
    full = {**record, "command": "test", "seed": 0}
    text = page.markdown(full)
    for claim in record["claims"]:
        assert f"> {claim['quote']} (Section {claim['section']})" in text and f"**{claim['text']}**" in text
    summary = text.split("## Rules")[0].splitlines()
    assert {line.count("|") for line in summary if line.startswith("|")} == {8}  # no cell breaks a column
    for scenario in record["error_rates"]:
        assert f"| {scenario['scenario']} |" in text
    assert len(page.table(full)) == sum(len(c["settings"]) for c in record["claims"])
    assert len(page.findings(full)) == len(CLAIMS)
    figure = forest.draw(full)
    assert len(figure.axes) == len({c["unit"] for c in record["claims"]})
    figure.savefig(tmp_path / "x.png", dpi=30)
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (64, 32)}, "two increasing image sides"),
        ({"sigmas": (0.5,)}, "at least two increasing"),
        ({"degree": 1}, "degree >= 2"),
        ({"folds": 1}, "must be >= 2"),
        ({"n_eval": 5}, "at least groups=20"),
        ({"repeats": 1}, "repeats must be >= 2"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ClaimsConfig(**change)


def test_a_skipped_row_stands_for_all_rows_with_its_fields():
    rows = [{"degree": 2, "skipped": "too large"}, {"degree": 1, "sigma": 0.5, "units": [[1.0, 2.0]]}]
    assert find(rows, degree=2, sigma=0.5) == Skipped("too large") and find(rows, degree=1, sigma=1.0) is None
    assert find(rows, degree=1, sigma=0.5).shape == (1, 2)


def test_command_line():
    runner = CliRunner()
    assert runner.invoke(app, ["claims", "--help"]).exit_code == 0
    listed = runner.invoke(app, ["claims", "--list"])
    assert listed.exit_code == 0 and len(listed.output.strip().splitlines()) == len(CLAIMS)
    bad = runner.invoke(app, ["claims", "--claim", "unicorns"])
    assert bad.exit_code == 2 and "unknown claim" in bad.output


def test_the_recorded_command_reproduces_the_numbers(tmp_path, monkeypatch):
    """A record's command, run in a fresh folder, gives the same effects: every parameter is in it."""
    config = ClaimsConfig(
        sizes=(8, 16), sigmas=(0.3, 0.9), degree=2, hermite_degree=2, n_train=150, n_test=90, n_eval=30, n_ssim=20, n_network=20,
        folds=3, groups=5, samples=(80,), repeats=2, shared_large=True, seed=3, cache=str(tmp_path / "a"), ridge=1e-8,
    )  # fmt: skip
    names = ["linear at 32"]
    record = report.run_claims(config, names, progress=False)
    words = shlex.split(command(config, names))
    assert "--shared-large" in words and {f"--{k}" for k in ("seed", "ridge", "repeats", "sample", "exact-limit")} <= set(words)
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    out = CliRunner().invoke(app, words[3:])
    assert out.exit_code == 0, out.output
    again = json.loads(Path("runs/claims/claims.json").read_text())
    mine = json.loads(json.dumps(record["claims"][0]["effects"]))
    assert torch.allclose(_numbers(again["claims"][0]["effects"]), _numbers(mine), rtol=1e-6, atol=1e-9)
    assert again["command"] == shlex.join(words) and again["parameters"] == json.loads(json.dumps(record["parameters"]))
    assert Path("runs/claims/claims.md").exists() and not Path("paper_figures").exists()


def _numbers(effects):
    return torch.tensor([[e[k] for k in ("value", "low", "high")] for e in effects if "value" in e], dtype=torch.float64)


@pytest.mark.slow
def test_claims_notebook_runs(tmp_path):
    """Papermill, two claims, small: figure, page and numbers are written."""
    arguments = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/claims.ipynb"), str(tmp_path / "out.ipynb")]
    numbers = {"sizes": [8, 16], "sigmas": [0.25, 1.0], "n_train": 240, "n_test": 240, "degree": 2, "hermite_degree": 2}
    text = json.dumps({**numbers, "claims": ["local reliable", "linear at 64"], "n_eval": 40, "output": str(tmp_path),
                       "n_network": 20, "cache": str(tmp_path / "runs"), "samples": [100], "repeats": 2})  # fmt: skip
    out = subprocess.run([*arguments, "-y", text, "--no-progress-bar"], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    record = json.loads((tmp_path / "claims.json").read_text())
    assert {p.name for p in tmp_path.glob("claims.*")} == {"claims.png", "claims.pdf", "claims.json", "claims.md"}
    assert [c["name"] for c in record["claims"]] == ["local reliable", "linear at 64"]
    assert record["findings"] == page.findings(record) and len(record["data"]["train"]["sha256"]) == 64
