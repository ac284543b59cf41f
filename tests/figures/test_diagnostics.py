"""Cumulants against SciPy and Gaussians, ablation, and exact errors by band against whole errors and drawn noise."""

from __future__ import annotations

import json
import subprocess
import sys
from math import factorial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from numeric.data import ImageSet
from numeric.evaluation.ablation import by_band, target_errors
from numeric.evaluation.sweep import noise_like
from numeric.figures.diagnostics import (
    DiagnosticsConfig,
    draw,
    findings,
    measure,
)
from numeric.noise import ve
from numeric.scores.crossval import Ridge
from numeric.scores.cumulants import cumulants, gaussianise, moments_from_cumulants, solve_projected
from numeric.scores.families import monomial_plan
from numeric.scores.own import WaveletScore
from numeric.scores.solve import solve_block

ROOT = Path(__file__).parents[2]
PATTERNS = st.sampled_from([("independent", 1, 3), ("target", 3, 2), ("pairwise", 3, 2), ("full", 2, 2)])


def sample_moments(pattern: tuple[str, int, int], data: np.ndarray) -> torch.Tensor:
    """Moments ``(M, 1)`` of all products from data ``(q, n)``."""
    plan = monomial_plan(*pattern)
    rows = [np.prod(data ** row[:, None], axis=0).mean() for row in plan.products]
    return torch.tensor(rows, dtype=torch.float64)[:, None]


@settings(max_examples=25, deadline=None)
@given(PATTERNS, st.integers(0, 10_000))
def test_cumulants_round_trip(pattern, seed):
    """moments -> cumulants -> moments is the identity, on moments of random skewed data."""
    data = np.random.default_rng(seed).gamma(2.0, size=(pattern[1], 40))
    table = sample_moments(pattern, data)
    back = moments_from_cumulants(cumulants(table, monomial_plan(*pattern)), monomial_plan(*pattern))
    assert torch.allclose(back, table, rtol=1e-9)


def test_cumulants_are_scipys():
    """One variable: mean, variance, third central moment and kappa_4 = mu_4 - 3 mu_2^2, by ``scipy.stats.moment``."""
    x = np.random.default_rng(0).gamma(1.5, size=500)
    kappa = cumulants(sample_moments(("independent", 1, 2), x[None]), monomial_plan("independent", 1, 2))[:, 0]
    mu2, mu3, mu4 = (scipy.stats.moment(x, order=k) for k in (2, 3, 4))
    assert kappa.numpy() == pytest.approx([0, x.mean(), mu2, mu3, mu4 - 3 * mu2**2], rel=1e-9)


def test_cumulants_of_a_gamma_are_its_closed_form():
    """Exact moments of Gamma(k): kappa_r = k (r - 1)! to order 8; no sampling."""
    shape, plan = 2.5, monomial_plan("independent", 1, 4)
    table = torch.tensor([[scipy.stats.gamma.moment(r, shape) if r else 1.0] for r in range(9)], dtype=torch.float64)
    expected = [0.0] + [shape * factorial(r - 1) for r in range(1, 9)]
    assert cumulants(table, plan)[:, 0].numpy() == pytest.approx(expected, rel=1e-8)


def test_joint_cumulants_of_independent_variables_vanish():
    """Cross cumulants of independent variables are zero: product moments of exact Gamma moments, band pattern."""
    plan = monomial_plan("target", 3, 2)
    moment = [scipy.stats.gamma.moment(r, 2.0) if r else 1.0 for r in range(5)]
    table = torch.tensor([[np.prod([moment[e] for e in row])] for row in plan.products], dtype=torch.float64)
    kappa = cumulants(table, plan)[:, 0]
    crossed = torch.as_tensor((plan.products > 0).sum(1) > 1)
    assert float(kappa[crossed].abs().max()) < 1e-9 and float(kappa[~crossed].abs().max()) > 1


def test_gaussianise_leaves_a_gaussian_and_its_cumulants(mnist16):
    """Exact Gaussian moments are unchanged; on data the ablated orders become zero, the others stay."""
    plan = monomial_plan("independent", 1, 3)
    gaussian = torch.tensor([[1.0], [0.0], [0.49], [0.0], [3 * 0.49**2], [0.0], [15 * 0.49**3]], dtype=torch.float64)
    assert torch.allclose(gaussianise(gaussian, plan, range(3, 7)), gaussian)
    table = WaveletScore("independent", 3, levels=1).fit(mnist16.take(100)).central_[0]
    before, after = cumulants(table, plan), cumulants(gaussianise(table, plan, [4]), plan)
    assert float(after[4].abs().max()) < 1e-9
    assert torch.allclose(after[[1, 2, 3, 5, 6]], before[[1, 2, 3, 5, 6]], atol=1e-9)
    with pytest.raises(ValueError, match="ablate orders >= 3"):
        gaussianise(table, plan, [2, 3])


def test_fully_gaussian_moments_give_the_linear_denoiser(mnist16):
    """With all cumulants from order 3 removed the best cubic is the linear (Wiener) one: equation (21) at degree 1."""
    model = WaveletScore("independent", 3).fit(mnist16.take(200))
    block, table = model.moments_.blocks[0], model.central_[0]
    mean = model.mean_[torch.as_tensor(block.block.variables)].T
    cubic, left_out = solve_projected(gaussianise(table, block.plan, range(3, 7)), mean, block.plan, ve(0.5), 3)
    linear = solve_block(table, mean, block.plan, ve(0.5), 1, ridge=Ridge(0.0))
    assert float(left_out.max()) == 0
    assert torch.allclose(cubic.denoiser[:, :2], linear.denoiser, atol=1e-8)
    assert float(cubic.denoiser[:, 2:].abs().max()) < 1e-8


def test_projected_solve_is_the_exact_one_on_true_moments(mnist16):
    """Moments of data have a positive Gram matrix: nothing is left out and the errors are equation (15)'s."""
    model = WaveletScore("band", 2, ridge=0.0).fit(mnist16.take(200))
    exact = model.solve(0.5)
    for block, table, part in zip(model.moments_.blocks, model.central_, exact.blocks):
        mean = model.mean_[torch.as_tensor(block.block.variables)].T
        projected, left_out = solve_projected(table, mean, block.plan, ve(0.5), 2, floor=1e-12)
        assert float(left_out.max()) == 0
        assert torch.allclose(projected.expected_error, part.expected_error, rtol=1e-6)


@pytest.mark.parametrize("family", ["independent", "band", "local", "parent", "joint"])
def test_errors_by_target_sum_to_the_expected_mse(mnist16, family):
    """Errors of coefficients and of bands add up to the exact MSE per pixel, fitted and held-out (W is orthonormal)."""
    model = WaveletScore(family, 2).fit(mnist16.take(150))
    other = model.new_moments((1, 16, 16)).fit([mnist16[150:220]])
    solution = model.solve(0.5)
    for moments in (None, other):
        errors = target_errors(model, solution, moments)
        expected = model.expected_mse(0.5, moments=moments)
        assert float(errors.sum()) / 256 == pytest.approx(expected, rel=1e-9)
        assert sum(by_band(model, errors).values()) == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    config = DiagnosticsConfig(
        size=16, n_train=400, n_test=200, sigmas=[0.25, 1.0], max_degree=3, max_radius=1, ablation_degree=2, folds=4
    )
    return {"parameters": config.settings, **measure(config, progress=False)}


def test_gains_are_the_monte_carlo_ones(mnist16, record):
    """The exact training gain of the radius-1 neighbours against drawn noise (30 draws), within 4 standard errors."""
    from numeric.data import load_mnist

    train = load_mnist("train", size=16, count=400, download=False)
    wanted = {"correlation": "neighbours, radius 0 to 1", "sigma": 0.25, "split": "train", "scale": "all"}
    row = next(r for r in record["correlations"] if all(r[k] == v for k, v in wanted.items()))
    models = [WaveletScore(f, 2).fit(train) for f in ("independent", "local")]
    x, gains = ImageSet(train.raw, size=16)[:].double(), []
    for k in range(30):
        y = x + 0.25 * noise_like(x, 5, k)
        a, b = (float((m.denoise(y, 0.25, clamp=False) - x).square().mean()) for m in models)
        gains.append(1 - b / a)
    assert abs(np.mean(gains) - row["gain"]) < 4 * np.std(gains, ddof=1) / 30**0.5


def test_training_gains_of_nested_families_are_not_negative(record):
    """Each larger feature set holds the smaller one (equations (18), (22)): no band loses on the fitted data."""
    train = [r for r in record["correlations"] if r["split"] == "train"]
    assert len(train) > 50 and min(r["gain"] for r in train) > -1e-6
    ablated = [r for r in record["ablations"] if r["split"] == "train" and r["directions_left_out"] == 0]
    assert min(r["rise"] for r in ablated) > -1e-6  # nothing beats the true moments on their own data


def test_figure_and_sentences_follow_from_the_record(record, tmp_path):
    lines = findings(record)
    assert len(lines) == 2 + 1 + 3 * 2 and all("%" in line or "none" in line for line in lines)
    sound = [r for r in record["ablations"] if r["split"] == "test" and not r["directions_left_out"]]
    unsound = [r for r in record["ablations"] if r["split"] == "test" and r["directions_left_out"]]
    drawn = [y for axis in draw(record).axes for line in axis.lines for y in np.atleast_1d(line.get_ydata()) if axis.get_yscale() == "symlog"]
    heights = {round(float(y), 9) for y in drawn if np.isfinite(y)}
    for rows, there in ((sound, True), (unsound, False)):  # a projection of a matrix that is not positive is not drawn
        rows = [r for r in rows if r["scale"] == "all" and r["ablation"] != "degree 1"]
        assert all((round(100 * r["rise"], 9) in heights) is there for r in rows)
    draw(record).savefig(tmp_path / "x.png", dpi=30)
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds must be >= 2"),
        ({"max_radius": 0}, "max_radius"),
        ({"sigmas": [0.0]}, "sigmas must be > 0"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DiagnosticsConfig(**change)


def test_diagnostics_notebook_runs(tmp_path):
    """Papermill, small: figure and numbers are written, sentences computed."""
    text = json.dumps(
        {"size": 16, "n_train": 200, "n_test": 100, "sigmas": [0.5], "max_degree": 2, "max_radius": 1, "folds": 2,
         "ablation_degree": 2, "ablation_families": ["independent"], "output": str(tmp_path)}
    )  # fmt: skip
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/diagnostics.ipynb"), str(tmp_path / "o.ipynb")]
    out = subprocess.run([*command, "-y", text, "--no-progress-bar"], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    written = json.loads((tmp_path / "diagnostics.json").read_text())
    assert written["findings"] == findings(written) and len(written["data"]["fit"]["sha256"]) == 64
