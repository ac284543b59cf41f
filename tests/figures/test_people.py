"""The figures on likelihood and on colour: their numbers against direct computation, and their parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.data import ImageSet
from numeric.evaluation.likelihood import Flow, bits_per_dimension, log_likelihood
from numeric.evaluation.sweep import noise_like
from numeric.figures import colour, likelihood
from numeric.figures.colour import ColourConfig, along, compared
from numeric.figures.foresee import linear_work
from numeric.figures.likelihood import LikelihoodConfig, bits_of
from numeric.noise import ve
from numeric.pictures import load_natural
from numeric.scores.own import WaveletScore


class Counter:
    """A progress bar."""

    count = 0

    def update(self, n: int = 1) -> None:
        self.count += n


def test_ratios_over_photographs_are_those_of_their_patches():
    """Paired ratio and its range by photograph, against errors computed one by one."""
    config = ColourConfig(n_train=60, n_eval=30, sigmas=[0.2], ridge=1e-6)
    splits = {split: load_natural(split, size=8, channels=3, count=60) for split in ("train", "test")}
    models = {"linear": LinearDenoiser(), "independent": WaveletScore(degree=1, levels=1, ridge=1e-6)}
    bar = Counter()
    models["degree 2"] = WaveletScore(degree=2, levels=1, ridge=1e-6)
    rows = compared(models, "linear", splits, config, bar, {"degree 2": "independent"})
    assert bar.count == 3 and len(rows) == 6
    part = splits["test"].take(30)
    clean = part[:]
    y = clean + 0.2 * noise_like(clean, config.seed, 0, 0, 0)
    errors = {k: (m.denoise(y, 0.2) - clean).square().flatten(1).mean(1).numpy() for k, m in models.items()}
    row = next(r for r in rows if r["method"] == "independent" and r["split"] == "test")
    assert row["mse"] == pytest.approx(errors["independent"].mean(), rel=1e-5)
    assert row["ratio"]["ratio"] == pytest.approx(errors["independent"].mean() / errors["linear"].mean(), rel=1e-5)
    labels = np.asarray(part.labels)
    each = [errors["independent"][labels == s].mean() / errors["linear"][labels == s].mean() for s in np.unique(labels)]
    assert row["per_source"] == pytest.approx(each, rel=1e-5) and len(each) > 1
    assert all(r["ratio"]["ratio"] == 1.0 for r in rows if r["method"] == "linear")
    twin = next(r for r in rows if r["method"] == "degree 2" and r["split"] == "test")["to_twin"]
    assert twin["ratio"] == pytest.approx(errors["degree 2"].mean() / errors["independent"].mean(), rel=1e-5)
    assert all(("to_twin" in r) == (r["method"] == "degree 2") for r in rows)


@pytest.mark.parametrize(("count", "size"), [(40, 8), (40, 4)])
def test_linears_memory_is_foreseen_as_the_denoiser_asks_for_it(count, size, monkeypatch):
    """Fewer images than pixels and more: what the figure says beforehand is what the fit makes sure of, within a quarter."""
    asked = []
    monkeypatch.setattr("numeric.baselines.linear.need", lambda needed, what, advice: asked.append(needed))
    LinearDenoiser().fit(torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0)))
    assert linear_work(size, count).memory == pytest.approx(asked[0], rel=0.25)


def test_growth_is_said_of_what_grows():
    """Two standard errors at each step."""
    falling = [{"ratio": {"ratio": r, "se": 0.01}} for r in (0.9, 0.8, 0.7)]
    assert along(falling, "ratio", [8, 16, 32]) == "0.90 at 8, 0.80 at 16, 0.70 at 32: the advantage grows with size"
    falling[1]["ratio"]["se"] = 0.06
    assert along(falling, "ratio", [8, 16, 32]).endswith("no steady growth with size")


def test_growing_patches_tell_nonlinearity_from_overfitting():
    """What local is worth over its own linear features is in the record, and said, at every size; old records are drawn too."""
    config = ColourConfig(sizes=[8], n_train=60, n_eval=10, sigmas=[0.2], neighbour_size=0, grey_sizes=[8, 16], families=["independent:1"], components=2)
    record = {**colour.measure(config, progress=False), "parameters": config.settings}
    rows = {(r["size"], r["method"]): r for r in record["sizes"] if r["split"] == "test"}
    for size in (8, 16):
        expected = rows[size, "local"]["mse"] / rows[size, "local linear"]["mse"]
        assert rows[size, "local"]["to_twin"]["ratio"] == pytest.approx(expected, rel=1e-6)
    lines = colour.findings(record)
    assert sum("over its own linear features" in line for line in lines) == 2
    colour.draw(record)
    for row in record["sizes"]:
        row.pop("to_twin", None)
    assert not any("over its own linear features" in line for line in colour.findings(record))
    colour.draw(record)


def test_coupled_channels_find_what_channels_share():
    """Grey pictures as colour: three noisy views of one coefficient, so that degree 1 with coupling has the error of sigma / sqrt(3)."""
    grey = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    colour_images = grey.expand(-1, 3, -1, -1)
    coupled = WaveletScore("independent", 1, levels=1, ridge=1e-10, channels_coupled=True).fit(colour_images)
    single = WaveletScore("independent", 1, levels=1, ridge=1e-10).fit(grey)
    assert coupled.expected_mse(0.3) == pytest.approx(single.expected_mse(0.3 / 3**0.5), rel=1e-6)


def test_bits_of_a_model_with_a_density_are_exact():
    x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = LinearDenoiser().fit(x)
    own = WaveletScore("independent", 2, levels=1, ridge=1e-6).fit(x)
    flow = Flow(0.3, 10.0, 6)
    assert torch.equal(bits_of(linear, x[:3], flow, linear), bits_per_dimension(linear.log_density(x[:3], ve(0.3)), 16))
    assert torch.equal(
        bits_of(own, x[:3], flow, linear), bits_per_dimension(log_likelihood(own, x[:3], flow, prior=linear), 16)
    )


def test_likelihood_record_is_paired(monkeypatch):
    """Gaps are differences on the same images; the sentences name the best method."""
    x = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(
        LikelihoodConfig,
        "images",
        lambda self, split, size, count=None: ImageSet(x[:80] if split == "train" else x[80:90]),
    )
    config = LikelihoodConfig(
        size=8, n_eval=10, sigmas=[0.3], families=["independent:1"], shared=[], components=2, steps=8, n_network=0
    )
    record = {**likelihood.measure(config, progress=False), "parameters": config.settings}
    rows = {r["method"]: r for r in record["rows"]}
    own, linear = rows["independent, degree 1, own"], rows["linear"]
    assert own["gap"] == pytest.approx(own["bits"] - linear["bits"], abs=1e-9) and linear["gap"] == 0.0
    assert linear["flow_error"] < 1e-2 and linear["exact"] and not own["exact"]
    text = " ".join(likelihood.findings(record))
    best = min((r for r in record["rows"] if r["method"] != "linear"), key=lambda r: r["gap"])
    assert f"the best other is {best['method']}" in text
    likelihood.draw(record)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LikelihoodConfig(families=["local"]), "family:degree"),
        (lambda: LikelihoodConfig(sigmas=[30.0]), "sigma_min < sigma_max"),
        (lambda: LikelihoodConfig(n_eval=1), "n_network <= n_eval"),
        (lambda: LikelihoodConfig(networks=["nosuch"]), "nosuch"),
        (lambda: ColourConfig(families=["local"]), "family:degree"),
        (lambda: ColourConfig(n_train=1), "n_train >= 2"),
        (lambda: ColourConfig(sizes=[]), "at least one of sizes"),
        (lambda: ColourConfig(sigmas=[-1.0]), "sigmas must be > 0"),
    ],
)
def test_bad_parameters_are_named_before_any_work(make, message):
    with pytest.raises(ValueError, match=message):
        make()
