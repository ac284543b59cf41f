"""What a network's numbers depend on: its weights in a cache's key, its images' range, and nothing of what the program around it has set."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from numeric.baselines.edm import EDM
from numeric.baselines.network import WEIGHTS, NetworkDenoiser, load_network, save_network, trained
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.train import Trainer
from numeric.data import as_image_set
from numeric.evaluation.identity import identity, state_hash
from numeric.evaluation.kept import kept_samples
from numeric.evaluation.sample import Sampler, edm_sigmas
from numeric.evaluation.sweep import sweep
from numeric.fingerprint import weights_hash
from numeric.noise import ve
from tests.training import SCHEDULE, SMALL, run_cli


def images(n: int = 6, size: int = 8, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return scale * torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(1)) + shift


def network(seed: int = 0, **options) -> NetworkDenoiser:
    built = SMALL.build(seed=seed)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + 1)))
    return NetworkDenoiser(built, EDM(0.5), **options)


# ----- caches ------------------------------------------------------------------------------------------------------------


def test_networks_in_memory_are_told_apart_by_their_weights(tmp_path):
    one, other = network(0), network(1)
    assert identity(one) == identity(network(0, label="another label")) != identity(other)
    assert identity(NetworkDenoiser(one.network, EDM(0.4)))["state"] != identity(one)["state"]
    first = sweep({"network": (one, None)}, {"test": as_image_set(images())}, [0.5], checkpoint=tmp_path / "rows.json", progress=False)
    with torch.no_grad():
        next(one.network.parameters()).mul_(2.0)
    again = sweep({"network": (one, None)}, {"test": as_image_set(images())}, [0.5], checkpoint=tmp_path / "rows.json", progress=False)
    fresh = sweep({"network": (one, None)}, {"test": as_image_set(images())}, [0.5], progress=False)
    before, kept, asked = (next(row["mse"] for row in rows if row["method"] == "network") for rows in (first, again, fresh))
    assert kept == asked != before


def test_functions_that_are_given_are_told_apart_by_what_they_hold():
    class Sides:
        def __init__(self, side: int) -> None:
            self.sides = side

        def side(self, sigma: float) -> int:
            return self.sides

    def by(sigma: float, *, k: int = 3) -> int:
        return k

    def by_five(sigma: float, *, k: int = 5) -> int:
        return k

    assert state_hash(Sides(3).side) == state_hash(Sides(3).side) != state_hash(Sides(5).side)
    assert state_hash(functools.partial(by, k=3)) == state_hash(functools.partial(by, k=3)) != state_hash(functools.partial(by, k=5))
    assert state_hash(by) != state_hash(by_five)
    assert state_hash({0.5: 3}.get) == state_hash({0.5: 3}.get) != state_hash({0.5: 5}.get)  # a method of a built-in type
    machines = [LocalScoreMachine(functools.partial(by, k=k), False).fit(images()) for k in (3, 5)]
    assert identity(machines[0]) != identity(machines[1])


def test_samples_that_start_from_another_gaussian_are_other_samples(tmp_path):
    from numeric.baselines.linear import LinearDenoiser

    train, model = as_image_set(images(30)), OptimalDenoiser().fit(images(30))
    for scale in (1.0, 0.3):
        kept_samples(
            Sampler(edm_sigmas(3), gaussian=LinearDenoiser().fit(images(30, scale=scale))), model, range(2), 1, train, tmp_path, progress=False
        )
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_a_record_that_is_being_written_is_not_read(tmp_path):
    """Files are written under a hidden name first; a killed process leaves one behind."""
    for suffix in ("json", "safetensors"):
        (tmp_path / f"cnn_32.{suffix}").write_bytes((WEIGHTS / f"cnn_32.{suffix}").read_bytes())
    before = weights_hash(tmp_path)
    (tmp_path / ".cnn_32.abcd.json").touch()
    assert len(trained(32, folder=tmp_path)) == 1 and weights_hash(tmp_path) == before


# ----- the images' range -------------------------------------------------------------------------------------------------


def test_a_network_of_other_pixels_is_clamped_to_their_range(tmp_path):
    data = as_image_set(images(20, scale=2.0, shift=-1.0))
    denoiser = Trainer(SMALL, data, SCHEDULE).denoiser()
    low, high = data.pixel_range
    assert (low, high) == denoiser.pixel_range_ and low < -0.9 and high > 0.9
    y = torch.full((1, 1, 8, 8), -0.8)
    assert float(denoiser.denoise(y, 0.01).min()) < -0.5
    path = tmp_path / "own_8.safetensors"
    save_network(path, denoiser.network, SMALL, denoiser.edm, 1, pixel_range=denoiser.pixel_range_)
    assert load_network(path).pixel_range_ == denoiser.pixel_range_
    path.with_suffix(".json").write_text(json.dumps({"data": data.provenance}))
    assert NetworkDenoiser(None, None, record={"data": data.provenance}, path=path).pixel_range_ == denoiser.pixel_range_


# ----- the program around it ---------------------------------------------------------------------------------------------


def test_another_default_dtype_changes_no_number():
    model, y = network(), images()
    wanted = model.denoise(y, 0.4)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(model.denoise(y, 0.4), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_divergences_at_a_level_an_image_are_those_of_each_level():
    model, y, levels = network(), images(3), [0.3, 0.5, 0.8]
    for probes in (2, None):
        together = model.divergence(y, levels, probes=probes)
        one = torch.cat([model.divergence(y[i : i + 1], ve(level), probes=probes) for i, level in enumerate(levels)])
        assert together.shape == (3,) and torch.allclose(together, one, rtol=1e-6)


def test_building_a_network_leaves_all_generators_alone(monkeypatch):
    def refuse(*_):
        raise AssertionError("seeds every GPU")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    state = torch.get_rng_state()
    SMALL.build(seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_odd_widths_are_refused_by_name():
    for width in (15, 0, 1):
        with pytest.raises(ValueError, match=f"base channels must be even and >= 2, got {width}"):
            SMALL.with_base_channels(width)
    assert "must be even" in run_cli("--config", "cnn", "--base-channels", "15").output


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--device", "foo", "'foo' cannot be used"), ("--threads", "-1", "--threads must be"), ("--rounds", "abc", "--rounds")],
)
def test_wrong_options_of_a_training_are_named(option, value, message):
    found = run_cli("--all" if option == "--rounds" else "--config=cnn", option, value)
    assert found.exit_code == 2 and message in found.output
