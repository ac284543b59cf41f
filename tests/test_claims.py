"""The claims' machinery: intervals, verdict rules, exact errors by folds, sampled fits, resuming; small data throughout."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from numeric.claims import report as claims
from numeric.claims.measure import ClaimsConfig, Measurements, SampledShared, sampled_solution
from numeric.claims.rules import DEPENDS, FAILS, HOLDS, UNTESTABLE, Claim, Effect, judge
from numeric.claims.sentences import CLAIMS
from numeric.commands.app import app
from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import noise_like
from numeric.noise import ve, vp
from numeric.scores.folds import FoldedFit, fold_edges, jackknife
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore

ROOT = Path(__file__).parents[1]
SMALL = {
    "sizes": [8, 16], "sigmas": [0.25, 1.0], "degree": 2, "hermite_degree": 3, "n_train": 240, "n_test": 120, "n_eval": 40,
    "n_ssim": 20, "n_network": 20, "folds": 4, "groups": 4, "samples": [100], "raw_ridges": [0.1], "n_generated": 20,
    "steps": 4,
}  # fmt: skip


# ----- intervals -----------------------------------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_its_standard_error():
    """For a mean the delete-one jackknife is s / sqrt(K) exactly, and the half width Student's quantile times it."""
    x = np.random.default_rng(0).normal(size=12)
    j = jackknife(lambda m: m, x)
    assert j["value"] == pytest.approx(x.mean()) and j["se"] == pytest.approx(x.std(ddof=1) / 12**0.5)
    assert (j["high"] - j["low"]) / 2 == pytest.approx(2.2009851600829 * j["se"])  # t, 11 degrees, 97.5%


def test_jackknife_interval_of_a_ratio_covers():
    """95% intervals of a ratio of paired means cover the true ratio in 95% of 1,000 draws, within 4 binomial errors."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        a = 2 + 0.3 * rng.normal(size=10)
        b = 0.5 * a + 0.1 * rng.normal(size=10)
        j = jackknife(lambda x, y: y / x, a, b)
        hits += j["low"] < 0.5 < j["high"]
    assert abs(hits / 1000 - 0.95) < 4 * (0.95 * 0.05 / 1000) ** 0.5


@given(st.integers(2, 40), st.integers(2, 12))
def test_folds_partition_the_images(count, folds):
    """Contiguous, disjoint, complete, sizes within one of another."""
    if count < folds:
        with pytest.raises(ValueError, match="too few"):
            fold_edges(count, folds)
        return
    edges = fold_edges(count, folds)
    assert [i for a, b in edges for i in range(a, b)] == list(range(count))
    assert max(b - a for a, b in edges) - min(b - a for a, b in edges) <= 1


# ----- exact errors by folds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["independent", "band", "local"])
@pytest.mark.parametrize("noise", [ve(0.4), vp(0.7)])
def test_fold_errors_average_to_the_exact_expected_error(mnist16, family, noise):
    """Exact errors by fold average to ``E|x|^2 - 2 theta.E[phi x] + theta.G theta`` on all images, fitted and held-out."""
    splits = {"train": mnist16.take(120), "held-out": ImageSet(mnist16.raw[120:200], size=16)}
    fit = FoldedFit(WaveletScore(family, 2), splits, 4, progress=False)
    solutions = fit.solve(noise, [1, 2])
    whole = WaveletScore(family, 2).fit(splits["train"])
    other = whole.new_moments((1, 16, 16)).fit(splits["held-out"].batches())
    for degree, train, held_out in zip((1, 2), fit.errors(solutions, "train"), fit.errors(solutions, "held-out")):
        assert train.mean() == pytest.approx(whole.expected_mse(noise, degree), rel=1e-9)
        assert held_out.mean() == pytest.approx(whole.expected_mse(noise, degree, other), rel=1e-9)


def test_fold_error_is_the_monte_carlo_mean(mnist16):
    """The exact held-out error of one fold against drawn noise, 60 draws, within 4 standard errors."""
    splits = {"train": mnist16.take(200), "held-out": ImageSet(mnist16.raw[200:240], size=16)}
    fit = FoldedFit(WaveletScore("band", 2), splits, 2, progress=False)
    exact = fit.errors(fit.solve(ve(0.5), [2]), "held-out")[0, 1]
    x = splits["held-out"][20:40].double()
    draws = []
    for k in range(60):
        y = x + 0.5 * noise_like(x, 3, k)
        draws.append(float((fit.model.denoise(y, 0.5, clamp=False) - x).square().mean()))
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws, ddof=1) / 60**0.5


# ----- sampled fits ----------------------------------------------------------------------------------------------------------


def test_sampled_fits_approach_the_exact_minimum_from_above(mnist16):
    """Equation (23) against (15): no sampled own fit beats the exact expected training error, and the excess falls like 1/n."""
    train = mnist16.take(200)
    fit = FoldedFit(WaveletScore("band", 2), {"train": train}, 2, progress=False)
    best = float(fit.errors(fit.solve(ve(0.5), [2]), "train").mean())
    excess = []
    for n in (200, 3200):
        solution = sampled_solution(fit.model, train, n, ve(0.5), 2, 1e-10)
        excess.append(float(fit.errors([solution], "train").mean()) - best)
    assert excess[0] > excess[1] > 0 and 5 < excess[0] / excess[1] < 50  # 16 for a variance


def test_sampled_shared_readout_approaches_the_exact_one(mnist16):
    """The paper's sampled ridge (23) against its exact-noise limit (Wick's theorem) on the same drawn images, within 3%."""
    train = mnist16.take(300)
    exact = SharedWaveletScore("independent", 1).fit(train)
    few, many = (SampledShared(exact, train, n, ve(0.5), 1, 1e-8) for n in (600, 30_000))
    x = train[:100].double()
    y = x + 0.5 * noise_like(x, 9)
    errors = [float((d.denoise(y, 0.5, clamp=False) - x).square().mean()) for d in (exact, few, many)]
    assert errors[0] < errors[2] < 1.03 * errors[0] and errors[1] > 1.2 * errors[0]


# ----- verdicts --------------------------------------------------------------------------------------------------------------


def _effect(value: float, half: float = 0.5, cell: float = 0.1, **setting: str) -> Effect:
    return Effect(setting, {"sigma": cell}, value, value - half, value + half)


def test_verdict_rules():
    """Rules 1 to 4 of ``claims_rules`` on made-up effects."""
    assert judge([])["verdict"] == UNTESTABLE
    up, down = _effect(1, split="train"), _effect(-1, split="held-out")
    assert judge([up])["verdict"] == HOLDS and judge([down])["verdict"] == FAILS
    assert judge([_effect(0.2, split="train")])["counts"]["undecided"] == 1
    mixed = judge([up, down])
    assert (mixed["verdict"], mixed["depends_on"], mixed["where"]) == (DEPENDS, ["split"], ["train"])
    by_noise = judge([_effect(1, cell=0.1, split="train"), _effect(-1, cell=1.0, split="train")])
    assert (by_noise["verdict"], by_noise["depends_on"], by_noise["where"]) == (DEPENDS, ["sigma"], ["sigma 0.1"])
    assert judge([up], threshold=2)["verdict"] == FAILS
    cells = [_effect(v, cell=c, split="train") for c, v in enumerate((1, 1, -1))]
    assert [judge(cells, q)["settings"][0]["holds"] for q in ("every", "most", "some", "all but one")] == [
        False, True, True, True,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown quantifier 'few'"):
        Claim("x", "q", "1", "e", lambda m: [], "few")


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from(["a", "b"]), st.sampled_from([1.0, 2.0])), min_size=1))
def test_verdicts_are_consistent(values):
    """Holds iff every effect supports (quantifier every); a claim no effect supports fails; settings count all effects."""
    effects = [_effect(v, 0.1, cell, split=split) for v, split, cell in values]
    judged, outcomes = judge(effects), [e.outcome() for e in effects]
    assert (judged["verdict"] == HOLDS) == all(o == "supports" for o in outcomes)
    if "supports" not in outcomes:
        assert judged["verdict"] == FAILS
    assert sum(s["cells"] for s in judged["settings"]) == len(effects)
    assert (judged["verdict"] == DEPENDS) == bool(judged["depends_on"])


# ----- whole runs ------------------------------------------------------------------------------------------------------------


class Mean(Denoiser):
    """Returns half the noisy image: a stand-in for a trained network."""

    label = "half"

    def estimate(self, y, noise):
        return y / 2


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    cache = tmp_path_factory.mktemp("claims")
    config = ClaimsConfig(**SMALL, cache=str(cache))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr("numeric.baselines.trained", lambda size: {})
        return config, claims.run_claims(config, progress=False)


def test_all_claims_run_and_every_verdict_follows_from_its_effects(small_run):
    """Verdicts are computed: judging the recorded effects again gives the recorded verdicts."""
    _, record = small_run
    assert [c["name"] for c in record["claims"]] == [c.name for c in CLAIMS]
    for claim in record["claims"]:
        effects = [Effect(e["setting"], e["cell"], e["value"], e["low"], e["high"]) for e in claim["effects"]]
        again = judge(effects, claim["quantifier"], claim["threshold"])
        assert (again["verdict"], again["counts"]) == (claim["verdict"], claim["counts"])
        assert all(e["low"] <= e["value"] <= e["high"] or np.isclose(e["low"], e["high"]) for e in claim["effects"])
    untested = {c["name"] for c in record["claims"] if c["verdict"] == UNTESTABLE}
    assert untested == {"networks better", "gap narrows", "gap at high noise"}


def test_nested_families_do_not_raise_the_expected_training_error(small_run):
    """Why the paper's band-tied sentence fails here: w^k lies in the span of (22), so no exact training effect is a rise."""
    band = next(c for c in small_run[1]["claims"] if c["name"] == "band often worse")
    wanted = {"readout": "own", "split": "train", "fit": "exact moments", "error": "expected", "basis": "orthonormal"}
    exact = [e for e in band["effects"] if wanted.items() <= e["setting"].items() and "unit" in e["setting"]["ridge"]]
    assert len(exact) == 4 and all(e["value"] < 1e-6 for e in exact)
    assert any("cannot rise" in line for line in band["explanation"])


def test_claims_resume_and_networks_are_added_later(small_run, monkeypatch):
    """Finished measurements are read, not made again; a network that is shipped later makes its claims testable."""
    config, record = small_run
    monkeypatch.setattr(Measurements, "_drawn", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(Measurements, "_exact", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("numeric.baselines.trained", lambda size: {"half": Mean()} if size == 8 else {})
    names = ["degree", "networks better", "gap narrows", "gap at high noise"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = claims.run_claims(config, names, progress=False)
    assert again["claims"][0] == record["claims"][0]
    better = again["claims"][1]
    assert better["verdict"] == FAILS and better["effects"][0]["cell"]["network"] == "half"


def test_figure_and_page_are_written_from_the_record(small_run, tmp_path):
    """The page quotes every sentence with its computed verdict; the table has a row per claim and setting."""
    record = small_run[1]
    full = {**record, "command": "test", "seed": 0}
    page = claims.markdown(full)
    for claim in record["claims"]:
        assert f"> {claim['quote']} (Section {claim['section']})" in page and f"**{claim['text']}**" in page
    assert len(claims.table(full)) == sum(len(c["settings"]) for c in record["claims"])
    assert len(claims.findings(full)) == len(CLAIMS)
    claims.draw(full).savefig(tmp_path / "x.png", dpi=30)
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (64, 32)}, "two increasing image sides"),
        ({"sigmas": (0.5,)}, "at least two increasing"),
        ({"degree": 1}, "degree >= 2"),
        ({"folds": 1}, "must be >= 2"),
        ({"n_eval": 5}, "at least groups=20"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ClaimsConfig(**change)


def test_command_line():
    runner = CliRunner()
    assert runner.invoke(app, ["claims", "--help"]).exit_code == 0
    listed = runner.invoke(app, ["claims", "--list"])
    assert listed.exit_code == 0 and len(listed.output.strip().splitlines()) == len(CLAIMS)
    bad = runner.invoke(app, ["claims", "--claim", "unicorns"])
    assert bad.exit_code == 2 and "unknown claim" in bad.output


def test_claims_notebook_runs(tmp_path):
    """Papermill, two claims, small: figure, page and numbers are written."""
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/claims.ipynb"), str(tmp_path / "out.ipynb")]
    numbers = {"sizes": [8, 16], "sigmas": [0.25, 1.0], "n_train": 240, "n_test": 240}
    text = json.dumps({**numbers, "claims": ["local reliable", "linear at 64"], "n_eval": 40, "output": str(tmp_path),
                       "n_network": 20, "networks": ["none"], "cache": str(tmp_path / "runs")})  # fmt: skip
    out = subprocess.run([*command, "-y", text, "--no-progress-bar"], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    record = json.loads((tmp_path / "claims.json").read_text())
    assert {p.name for p in tmp_path.glob("claims.*")} == {"claims.png", "claims.pdf", "claims.json", "claims.md"}
    assert [c["name"] for c in record["claims"]] == ["local reliable", "linear at 64"]
    assert record["findings"] == claims.findings(record) and len(record["data"]["train"]["sha256"]) == 64
