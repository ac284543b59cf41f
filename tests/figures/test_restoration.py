"""Restoration: the algorithms against what is known exactly, and the figure's record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import numeric.torchvision_fix  # noqa: F401  (before deepinv)
from numeric.baselines.linear import LinearDenoiser
from numeric.data import ImageSet, load_mnist
from numeric.evaluation.adapters import PlugAndPlay

pytest.importorskip("deepinv")

from numeric.evaluation.restore import TASKS, RestoreError, make_physics, quality, restored, sampler_levels
from numeric.figures import restoration
from numeric.figures.restoration import RestorationConfig, contestants, make_figure, tuned
from tests.threads import torch_threads

IMAGES = torch.rand(90, 1, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(3) / 16


def config(**changes: object) -> RestorationConfig:
    small = {"size": 16, "n_train": 60, "n_tune": 2, "n_eval": 3, "steps": 4, "networks": [], "wiener": [], "shared": [], "families": ["independent:1"]}
    return RestorationConfig(**{**small, **changes})


@pytest.mark.parametrize("task", TASKS)
def test_splitting_is_the_posterior_mean_of_gaussian_images(task):
    """Images that are Gaussian with a known covariance: the linear prior comes near to the exact posterior mean in PSNR.

    The posterior mean ``m + C A^T (A C A^T + s^2)^-1 (y - A m)`` is the least squared error of all; nothing beats it on average.
    """
    linear = LinearDenoiser().fit(IMAGES)
    mean, vectors, values = linear.mean_.float(), linear.eigenvectors_.float(), linear.eigenvalues_.float().clamp_min(0)
    generator = torch.Generator().manual_seed(2)
    x = (mean + (torch.randn(40, len(values), generator=generator) * values.sqrt()) @ vectors.T).reshape(-1, 1, 16, 16)
    physics = make_physics(task, (1, 16, 16), 0.05)
    y = physics(x)
    matrix = physics.A(torch.eye(256).reshape(256, 1, 16, 16)).flatten(1).T  # (measurements, pixels)
    covariance = (vectors * values) @ vectors.T
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + 0.05**2 * torch.eye(len(matrix)))
    best = (mean + (y.flatten(1) - mean @ matrix.T) @ gain.T).reshape(x.shape)
    ours = restored("PnP-HQS", PlugAndPlay(linear), y, physics, 0.05, 4, 1, 1.0)
    error = float((ours - x.clamp(0, 1)).square().mean())
    floor = float((best.clamp(0, 1) - x.clamp(0, 1)).square().mean())
    plain = float((physics.A_dagger(y).clamp(0, 1) - x.clamp(0, 1)).square().mean())
    assert 0.9 * floor < error < 0.5 * plain


def test_the_samplers_share_their_levels():
    """DPS and DiffPIR call the denoiser at the same levels, to five digits: a closed form solves each once."""
    seen: dict[str, set[str]] = {}

    class Listening(PlugAndPlay):
        def forward(self, x, sigma, **options):
            seen[self.name].add(f"{float(torch.as_tensor(sigma).flatten()[0]):.4e}")
            return super().forward(x, sigma, **options)

    linear = LinearDenoiser().fit(IMAGES)
    physics = make_physics("inpainting", (1, 16, 16), 0.05)
    y = physics(IMAGES[:2])
    for name in ("DiffPIR", "DPS"):
        model = Listening(linear)
        model.name, seen[name] = name, set()
        out = restored(name, model, y, physics, 0.05, 5, 1, 3.0)
        assert torch.equal(out, restored(name, model, y, physics, 0.05, 5, 1, 3.0)) and out.shape == y.shape  # by seed
    assert seen["DPS"] == seen["DiffPIR"] and len(seen["DPS"]) == 5
    wanted = {f"{value / 2:.4e}" for value in sampler_levels(0.05, 5).tolist()}
    assert len(wanted & seen["DPS"]) >= 4


def test_the_weight_is_chosen_on_the_training_images():
    """Of two priors one of which is far off, the pairs choose the other, whatever the held-out measurements are."""
    good = PlugAndPlay(LinearDenoiser().fit(IMAGES))
    physics = make_physics("deblurring", (1, 16, 16), 0.05)
    y = physics(IMAGES[:2])
    bad = PlugAndPlay(LinearDenoiser().fit(1 - IMAGES.flip(3)))
    value, out = tuned(config(noise=0.05), "PnP-HQS", {0.1: bad, 0.3: good}, physics, (y, IMAGES[:2]), y)
    assert value == 0.3 and torch.equal(out, restored("PnP-HQS", good, y, physics, 0.05, 4, 1, 1.0))


def test_record_and_picture(monkeypatch, tmp_path):
    """Every method and algorithm has a row; sentences and figure follow from it, with the pictures or without."""
    monkeypatch.setattr(RestorationConfig, "images", lambda self, split, size, count=None: ImageSet(IMAGES[:60] if split == "train" else IMAGES[60:63]))
    settings = config(tasks=["super-resolution"], wiener=["pixel:2"])
    figure, record, paths = make_figure(settings, tmp_path, progress=False)
    rows = record["rows"]
    assert len(rows) == 1 + 3 * 3 + 2 and {r["task"] for r in rows} == {"super-resolution"}
    linear = [r for r in rows if r["method"] == "linear"]
    assert {r["algorithm"] for r in linear} == {"PnP-HQS", "DiffPIR", "DPS"}
    assert all(r["psnr"] == pytest.approx(sum(r["psnr_each"]) / 3, abs=1e-3) for r in rows)
    text = " ".join(record["findings"])
    assert "linear restores best by" in text and "total variation" in text
    restoration.draw(record)
    assert (tmp_path / "restoration.png").stat().st_size > 5000 and record["data"]["fit"]["count"] == 58
    del figure, paths


def test_an_image_that_runs_to_infinity_is_black():
    class Wild(torch.nn.Module):
        def forward(self, x, sigma):
            return torch.cat([x[:1] * float("inf"), x[1:]])

    physics = make_physics("inpainting", (1, 16, 16), 0.05)
    out = restored("PnP-HQS", Wild(), physics(IMAGES[:2]), physics, 0.05, 4, 1, 1.0)
    assert float(out[0].abs().max()) == 0.0 and float(out[1].max()) > 0.1
    assert float(quality(out, IMAGES[:2])["psnr"].min()) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["dehazing"]}, "unknown task 'dehazing'"),
        ({"families": ["local"]}, "family:degree"),
        ({"wiener": ["pixels:3"]}, "coordinates:degree"),
        ({"noise": 0.5}, "noise must lie in"),
        ({"n_eval": 1}, "n_eval >= 2"),
        ({"size": 15}, "size must be even"),
        ({"networks": ["nosuch"]}, "nosuch"),
    ],
)
def test_bad_parameters_are_named_before_any_work(changes, message):
    with pytest.raises((ValueError, RestoreError), match=message):
        config(**changes)


def test_only_deepinv_own_peers_have_thresholds():
    runs = contestants(config(), {"linear": PlugAndPlay(LinearDenoiser().fit(IMAGES))})
    assert [(label, algorithm) for label, algorithm, _ in runs][3:] == [
        ("total variation (deepinv)", "PnP-HQS"), ("wavelet soft threshold (deepinv)", "PnP-HQS"),
    ]  # fmt: skip


@pytest.mark.slow
def test_closed_forms_restore_digits_at_the_size_people_use(tmp_path: Path):
    """32x32 digits, two threads: every method far above the pseudo-inverse in inpainting, and Wiener features above linear."""
    settings = RestorationConfig(
        tasks=["inpainting"], n_eval=16, steps=8, families=["local:2"], wiener=["pixel:2"], n_train=min(4000, len(load_mnist("train")))
    )
    with torch_threads(2):
        _, record, _ = make_figure(settings, tmp_path, progress=False)
    best = {}
    for row in record["rows"]:
        best[row["method"]] = max(best.get(row["method"], 0.0), row["psnr"])
    plain = best.pop("pseudo-inverse")
    assert all(value > plain + 3 for value in best.values())
    assert best["Wiener pixels, degree 2"] > best["linear"]
