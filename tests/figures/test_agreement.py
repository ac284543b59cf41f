"""Agreement of closed forms with networks along the way: against other libraries, and where the answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from numeric.baselines.linear import LinearDenoiser
from numeric.data import ImageSet
from numeric.evaluation.metrics import image_agreement
from numeric.evaluation.sample import NoiseStream
from numeric.figures import agreement
from numeric.figures.agreement import AgreementConfig
from numeric.noise import ve
from numeric.scores.wiener import WienerScore


def test_image_agreement_against_scipy_and_scikit_learn(generator):
    a, b = (torch.rand(5, 2, 3, 4, generator=generator) for _ in range(2))
    found = image_agreement(a, b)
    for i, (x, y) in enumerate(zip(a.flatten(1).numpy(), b.flatten(1).numpy())):
        assert float(found["r2"][i]) == pytest.approx(pearsonr(x, y).statistic ** 2, rel=1e-5)
        assert float(found["determination"][i]) == pytest.approx(r2_score(y, x), rel=1e-5)
        assert float(found["mse"][i]) == pytest.approx(float(((x - y) ** 2).mean()), rel=1e-5)
    flat = image_agreement(torch.zeros(1, 1, 2, 2), a[:1, :1, :2, :2])
    assert float(flat["r2"][0]) == 0.0 and float(flat["determination"][0]) < 0
    with pytest.raises(ValueError, match="one shape"):
        image_agreement(a, b[:4])


@pytest.fixture
def config(monkeypatch, generator, tmp_path):
    """A 'network' that is the linear denoiser, on 8x8 images: linear must agree with it everywhere."""
    images = ImageSet(torch.rand(200, 1, 8, 8, generator=generator) ** 2)
    network = LinearDenoiser().fit(images)
    network.path = tmp_path / "weights.safetensors"
    network.path.write_bytes(b"stand-in")
    network.record = {"data": {"source": "here"}, "config": {"name": "cnn"}, "parameters": 1}
    monkeypatch.setattr(AgreementConfig, "images", lambda self, split, size, count=None: images)
    monkeypatch.setattr(AgreementConfig, "chosen_networks", lambda self: {"stand-in": network})
    monkeypatch.setattr(agreement, "data_source", lambda network: "here")
    monkeypatch.setattr(agreement, "overlap_caution", lambda sources, source: [])
    options = {"wiener": ["pixel:2"], "mixtures": [3], "n_seeds": 6, "steps": 5, "families": ["band:2"], "shared": ["independent:2"], "cache": str(tmp_path)}
    return SimpleNamespace(images=images, network=network, config=AgreementConfig(size=8, **options))


def test_a_twin_agrees_everywhere_and_others_do_not(config):
    record = {**agreement.measure(config.config, progress=False), "parameters": config.config.settings}
    rows = {r["method"]: r for r in record["rows"]}
    assert len(rows) == 6 and len(record["sigmas"]) == 6  # five steps
    for path in ("on_its_path", "on_own_path"):
        assert all(step["r2"]["median"] > 1 - 1e-6 and step["mse"]["median"] < 1e-8 for step in rows["linear"][path])
    assert rows["linear"]["other_seeds"]["r2"]["median"] < 0.9
    for other in ("optimal empirical", "band, degree 2, own"):
        assert rows[other]["on_its_path"][2]["r2"]["median"] < 0.999
    text = " ".join(agreement.findings(record))
    assert "nearest first: linear 1.000" in text
    agreement.draw(record)
    assert "other seeds" in " ".join(agreement.frame(record).columns)


def test_levels_of_the_sampler_are_prepared_together_and_kept(config, tmp_path):
    """A readout that passes over the images makes all levels at once; the next run reads them and passes over none."""
    def made() -> WienerScore:
        return next(later for label, later in config.config.closed_forms(config.images, False).items() if label.startswith("Wiener")).model

    levels = {round(s, 9) for s in config.config.sampler().sigmas}
    first = made()
    assert {round(key[0], 9) for key in first.prepared_} == levels and len(list((tmp_path / "levels").iterdir())) == 1
    again = made()
    assert {key: solution.seconds for key, solution in again.prepared_.items()} == {key: s.seconds for key, s in first.prepared_.items()}
    y = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first.denoise(y, max(levels)), again.denoise(y, max(levels)))


def test_the_network_s_states_are_what_is_denoised(config):
    """Another route to the numbers on the network's path: its trajectory by hand, and each step's images compared directly."""
    record = agreement.measure(config.config, progress=False)
    path = config.config.sampler().trajectory(config.network, NoiseStream.from_seeds(range(6)), (1, 8, 8), progress=False)
    label, later = next(pair for pair in config.config.closed_forms(config.images, False).items() if pair[0].startswith("band"))
    model = later.model
    row = next(r for r in record["rows"] if r["method"] == label)
    for step, state, target, sigma in zip(row["on_its_path"], path.states, path.denoised, path.sigmas):
        image = model.denoise(state, ve(sigma))
        error = (image - target).double().square().mean((1, 2, 3))
        assert step["mse"]["median"] == pytest.approx(float(np.median(error.numpy())), rel=1e-6)
        assert step["mse"]["low"] <= step["mse"]["median"] <= step["mse"]["high"]


def test_finished_methods_are_kept_and_other_settings_do_not_take_their_place(config, monkeypatch):
    first = agreement.measure(config.config, progress=False)
    monkeypatch.setattr(agreement, "rows_of", lambda *args: pytest.fail("measured again"))
    assert agreement.measure(config.config, progress=False) == first
    config.network.path.write_bytes(b"other weights")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        agreement.measure(config.config, progress=False)


def test_bad_parameters_are_named(monkeypatch):
    with pytest.raises(ValueError, match="n_seeds"):
        AgreementConfig(n_seeds=1)
    monkeypatch.setattr(AgreementConfig, "chosen_networks", lambda self: {})
    with pytest.raises(ValueError, match="no trained network of 32x32"):
        AgreementConfig()
