"""Properties that hold for any data: merging, positivity, nesting, VP against VE, resuming after a kill, bounded memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from numeric.noise import NoiseLevel, ve
from numeric.scores.crossval import Ridge
from numeric.scores.families import Family
from numeric.scores.moments import CleanMoments, MomentError
from numeric.scores.own import WaveletScore
from numeric.scores.solve import averaged_gram, normal_system
from numeric.wavelets import WaveletError, WaveletTransform

ROOT = Path(__file__).parents[2]
FAMILIES = st.sampled_from(["independent", "band", "local"])
SEEDS = st.integers(0, 10**6)


def draw(seed: int, n: int = 24, channels: int = 1, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator, dtype=torch.float64) ** 2


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, family=FAMILIES, cut=st.integers(1, 23))
def test_halves_add_up_to_the_whole_bit_for_bit(seed, family, cut):
    """With one centre, merging is the addition of the same sums: equal bits where batches are equal; else to 1e-13."""
    x, transform = draw(seed), WaveletTransform(8, levels=1)
    centre = torch.full((64,), 0.3, dtype=torch.float64)

    def moments(*parts):
        return CleanMoments(transform, Family(family), 2, centre=centre).fit(parts)

    merged, streamed = moments(x[:cut]).merge(moments(x[cut:])), moments(x[:cut], x[cut:])
    whole = moments(x)
    for a, b, c in zip(merged.blocks, streamed.blocks, whole.blocks):
        assert torch.equal(a.sums, b.sums)
        assert torch.allclose(a.sums, c.sums, rtol=1e-13, atol=1e-12)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, family=FAMILIES, sigma=st.floats(0.1, 3))
def test_gram_is_positive_and_holds_the_averaged_one(seed, family, sigma):
    """Moment positivity, and G - Z = E_x Cov_z(phi) >= 0 for the features averaged over the noise."""
    model = WaveletScore(family, 2, levels=1).fit(draw(seed))
    for block, table in zip(model.moments_.blocks, model.central_):
        mean = model.mean_[torch.as_tensor(block.block.variables)].T
        system = normal_system(table, mean, block.plan, ve(sigma), 2)
        averaged = averaged_gram(table, block.plan, ve(sigma), 2, system.scale, None)
        for matrix in (system.gram, averaged, system.gram - averaged):
            assert torch.linalg.eigvalsh(matrix).min() > -1e-9 * system.gram.abs().max()


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, family=FAMILIES, sigma=st.floats(0.1, 3), alpha=st.floats(0.2, 1))
def test_nesting_levels_and_bases(seed, family, sigma, alpha):
    """Nested degrees never raise the exact error at ridge 0; VP at (a, s) is VE at s/a; monomial = Hermite at ridge 0."""
    x = draw(seed, 60)
    hermite = WaveletScore(family, 2, levels=1, ridge=0.0, basis="hermite").fit(x)
    assert hermite.expected_mse(sigma, 2) <= hermite.expected_mse(sigma, 1) + 1e-12
    level = NoiseLevel(alpha, sigma)
    assert hermite.expected_mse(level) == pytest.approx(hermite.expected_mse(level.effective_sigma), rel=1e-7)
    monomial = WaveletScore(family, 2, levels=1, ridge=0.0).fit_moments(hermite.moments_)
    assert torch.allclose(hermite.denoise(x[:3], sigma, False), monomial.denoise(x[:3], sigma, False), atol=1e-6)


@pytest.mark.parametrize("side", ["score", "denoiser"])
@pytest.mark.parametrize("ridge", ["gcv", "gcv-band"])
@pytest.mark.parametrize("scaling", ["unit", "raw"])
def test_cross_validated_ridge_on_few_images(side, ridge, scaling):
    """On held-out images, from moments, never worse than the fixed 1e-10 by more than a tenth; one lambda per band."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(460, 1, 3, 3, generator=generator, dtype=torch.float64) ** 2
    smooth = torch.nn.functional.interpolate(smooth, size=8, mode="bilinear")
    train, test = smooth[:60], smooth[60:]
    options = {"levels": 1, "ridge_side": side, "ridge_scaling": scaling}
    chosen, fixed = (
        WaveletScore("local", 2, ridge=ridge, **options).fit(train),
        WaveletScore("local", 2, levels=1).fit(train),
    )
    held_out = chosen.new_moments((1, 8, 8)).fit([test])
    for sigma in (0.1, 0.5):
        assert chosen.expected_mse(sigma, moments=held_out) < 1.1 * fixed.expected_mse(sigma, moments=held_out)
    lambdas = chosen.chosen_ridge(0.5)
    if ridge == "gcv":
        assert len(set(lambdas.tolist())) > 1
    else:
        assert all(len(set(lambdas[b.start : b.stop].tolist())) == 1 for b in chosen.transform_.bands)


SCRIPT = """
import sys, time, torch
from numeric.scores.own import WaveletScore
from numeric.data import ImageSet
x = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(3))
class Slow(torch.utils.data.Dataset):
    def __len__(self): return 80
    def __getitem__(self, i):
        if i % 10 == 9 and len(sys.argv) > 2: time.sleep(0.3)
        return x[i]
model = WaveletScore("band", 2, levels=1)
model.fit(Slow(), batch_size=10, checkpoint=sys.argv[1], checkpoint_seconds=0)
"""


def test_a_killed_fit_takes_up_where_it_stopped(tmp_path):
    """SIGKILL in the middle; the resumed sums equal the uninterrupted ones bit for bit; other data are refused."""
    path = tmp_path / "sums.safetensors"
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), "slow"], cwd=ROOT, env={**os.environ})
    while child.poll() is None and not (path.exists() and CleanMoments.load(path).count >= 20):
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    stopped = CleanMoments.load(path).count
    assert 20 <= stopped < 80
    x = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(3))

    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 80

        def __getitem__(self, i):
            return x[i]

    model = WaveletScore("band", 2, levels=1).fit(Slow(), batch_size=10, checkpoint=path)
    whole = WaveletScore("band", 2, levels=1).fit(x, batch_size=10)
    assert model.moments_.count == 80
    assert all(torch.equal(a.sums, b.sums) for a, b in zip(model.moments_.blocks, whole.moments_.blocks))
    with pytest.raises(MomentError, match="other data or batches"):
        WaveletScore("band", 2, levels=1).fit(x.flip(0), batch_size=10, checkpoint=path)
    with pytest.raises(MomentError, match="other data or batches"):
        WaveletScore("band", 2, levels=1).fit(Slow(), batch_size=20, checkpoint=path)
    with pytest.raises(MomentError, match="other settings"):
        WaveletScore("band", 3, levels=1).fit(Slow(), batch_size=10, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated"):
        WaveletScore("band", 2, levels=1).fit(Slow(), batch_size=10, checkpoint=path)


def test_passes_under_a_memory_limit_give_the_same_sums(tmp_path):
    """Targets split over several passes, sums in files: the same errors and images; too small a limit is foreseen."""
    x = draw(1, 40)
    whole = WaveletScore("local", 2, levels=1).fit(x, batch_size=16)
    total = sum(b.bytes for b in whole.moments_.blocks)
    split = WaveletScore("local", 2, levels=1).fit(x, batch_size=16, memory_limit=total // 3, folder=tmp_path)
    assert len(split.moments_.passes(total // 3)) >= 3 and split.moments_.spilled and split.moments_.count == 40
    assert all(b._sums is None for b in split.moments_.blocks)
    assert split.expected_mse(0.5) == pytest.approx(whole.expected_mse(0.5), rel=1e-12)
    assert torch.allclose(split.denoise(x, 0.5), whole.denoise(x, 0.5), atol=1e-12)
    split.save(tmp_path / "model.safetensors")
    assert WaveletScore.load(tmp_path / "model.safetensors").expected_mse(0.5) == split.expected_mse(0.5)
    with pytest.raises(MemoryError, match="one block of moment sums needs"):
        WaveletScore("local", 2, levels=1).fit(x, memory_limit=100)
    with pytest.raises(ValueError, match="either checkpoint or memory_limit"):
        WaveletScore("local", 2, levels=1).fit(x, memory_limit=10**6, checkpoint=tmp_path / "c")


def test_a_new_level_draws_no_noise_and_reads_no_data(monkeypatch):
    """After the fit every noise level, VE and VP, is a solve from moments."""
    x = draw(2, 40)
    model = WaveletScore("band", 2, levels=1).fit(x)
    x.fill_(torch.nan)
    del x

    def forbidden(*_, **__):
        raise AssertionError("noise was drawn or data were read")

    for name in ("randn", "rand", "normal", "randn_like"):
        monkeypatch.setattr(torch, name, forbidden)
    monkeypatch.setattr("numeric.data.ImageSet.__getitem__", forbidden)
    for level in (ve(0.1), ve(0.77), NoiseLevel(0.6, 0.8)):
        assert np.isfinite(model.expected_mse(level))


@pytest.mark.parametrize("correlated", [True, False])
def test_colour_with_a_known_answer(correlated):
    """Appendix D at degree 1: two channels with covariance c I_2 + d (1 - I_2) in every coefficient; the coupled error is
    the two-variable Wiener error, the uncoupled one the scalar Wiener error, both from the sample covariance."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4000, 2, 8, 8, generator=generator, dtype=torch.float64)
    x = torch.stack([base[:, 0], (0.8 * base[:, 0] + 0.6 * base[:, 1]) if correlated else base[:, 1]], 1)
    coupled = WaveletScore("independent", 1, levels=1, ridge=0.0, channels_coupled=True).fit(x)
    single = WaveletScore("independent", 1, levels=1, ridge=0.0).fit(x)
    w = coupled.transform_.forward(x)
    w = (w - w.mean(0)).permute(2, 1, 0)
    covariance = w @ w.transpose(1, 2) / len(x)
    s2, eye = 0.25, torch.eye(2, dtype=torch.float64)
    joint = covariance - covariance @ torch.linalg.solve(covariance + s2 * eye, covariance)
    variance = covariance.diagonal(dim1=1, dim2=2)
    scalar = (variance * s2 / (variance + s2)).mean()
    assert coupled.expected_mse(0.5) == pytest.approx(float(joint.diagonal(dim1=1, dim2=2).mean()), rel=1e-9)
    assert single.expected_mse(0.5) == pytest.approx(float(scalar), rel=1e-9)
    assert (coupled.expected_mse(0.5) < 0.9 * single.expected_mse(0.5)) == correlated


def test_command_line_fits_saves_and_reports(tmp_path, monkeypatch):
    from numeric.commands.app import app

    np.save(tmp_path / "x.npy", draw(3, 30).numpy())
    arguments = [str(tmp_path / "m.safetensors"), "--images", str(tmp_path / "x.npy"), "--size", "8", "--degree", "2"]
    report = ["--report", str(tmp_path / "r.json"), "--levels", "1", "--no-progress", "--ridge", "gcv"]
    result = CliRunner().invoke(app, ["fit", *arguments, *report])
    assert result.exit_code == 0, result.output
    assert "expected MSE" in result.output and (tmp_path / "r.json").exists()
    assert WaveletScore.load(tmp_path / "m.safetensors").ridge == "gcv"
    whole = CliRunner().invoke(app, ["fit", *arguments, *report, "--mode", "symmetric"])
    assert whole.exit_code == 0 and "expected MSE" in whole.output, whole.output
    monkeypatch.setattr("numeric.scores.contraction.CROSS_LIMIT", 10)
    large = CliRunner().invoke(app, ["fit", *arguments, *report, "--mode", "symmetric"])
    assert large.exit_code == 0 and "no exact pixel errors" in large.output and "take too long" in large.output
    bad = CliRunner().invoke(app, ["fit", *arguments, "--degree", "0", "--no-progress"])
    assert bad.exit_code == 2 and "degree must be >= 1" in bad.output
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:200])
    cut = CliRunner().invoke(app, ["fit", *arguments, "--no-progress"])
    assert cut.exit_code == 2 and "truncated" in cut.output


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: WaveletScore(levels=4).fit(draw(0, size=12)), WaveletError, "4 levels are too many for 12x12"),
        (lambda: WaveletScore(wavelet="db99").fit(draw(0)), WaveletError, "unknown wavelet 'db99'"),
        (lambda: Ridge("aic"), ValueError, "unknown ridge 'aic'"),
        (lambda: WaveletScore().fit(draw(0).long()), ValueError, "uint8 or floating"),
        (lambda: WaveletScore().fit(draw(0)).denoise(draw(0, channels=3), 0.5), ValueError, "fitted on 1 channel"),
        (lambda: WaveletScore().fit(draw(0)).denoise(draw(0).long(), 0.5), ValueError, "floating"),
    ],
)
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_truncated_model_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    WaveletScore(levels=1).fit(draw(0)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated"):
        WaveletScore.load(path)
