"""The figures on finite samples and on approximation: their numbers against direct computation, caches, and their parameters."""

from __future__ import annotations

import warnings

import pytest

from numeric.data import FallbackDataWarning
from numeric.figures import approximation, excess
from numeric.figures.approximation import ApproximationConfig
from numeric.figures.excess import ExcessConfig
from numeric.results import read_json
from numeric.scores.own import WaveletScore


def test_excess_is_exact_and_kept(tmp_path, monkeypatch):
    """Excess is never negative and falls like 1 / n as predicted; a second run measures nothing; the bound lies above the truth."""
    settings = {
        "size": 8, "n_train": 400, "n_test": 60, "counts": [100, 1600], "families": ["band:2"], "shared": ["independent:1"],
        "wiener": ["pixel:2"], "wiener_counts": [1600], "n_spread": 200,
        "n_bound": 3000, "bound_degrees": [1], "draws": 2, "many": 10**6, "cache": str(tmp_path), "data_root": str(tmp_path / "none"),
    }  # fmt: skip
    config = ExcessConfig(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackDataWarning)
        record = {**excess.measure(config, progress=False), "parameters": config.settings}
        train = config.images("train", 8, 400)
    for row in record["rows"]:
        assert len(row["draws"]) == (1 if row["readout"] == "wiener" else 2) and min(d["excess"] for d in row["draws"]) > 0
        if row["n"] > row["features"] * 2:  # the first order
            assert 0.3 < row["excess"] / row["predicted_excess"] < 3
    assert {(r["readout"], r["family"], r["degree"], r["features"]) for r in record["rows"]} >= {("wiener", "pixel", 2, 129)}
    few, many = (next(r for r in record["rows"] if r["n"] == n and r["readout"] == "own" and r["degree"] == 2) for n in config.counts)
    assert few["excess"] > 4 * many["excess"] and few["predicted_excess"] == pytest.approx(16 * many["predicted_excess"])
    assert few["best"] == pytest.approx(WaveletScore("band", 2).fit(train).expected_mse(0.25), rel=1e-9)
    assert all(r["bernstein"] > r["excess"] > 0 for r in record["bound"])
    text = " ".join(excess.findings(record))
    assert "measured over predicted" in text and "lowest held-out error" in text and "true excess" in text
    excess.draw(record)
    monkeypatch.setattr(excess, "curves", None)  # the cache has all of it
    monkeypatch.setattr(excess, "bounds", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackDataWarning)
        assert excess.measure(config, progress=False)["rows"] == record["rows"]
    assert len(list((tmp_path / "excess").glob("*.json"))) == 4


def test_approximation_record(tmp_path):
    """Its errors are those of the class, its files are written, its theory is named."""
    from analytic import Approximation

    config = ApproximationConfig(laws=["two-atom", "mixture-2d"], sigmas=[1.0], degree=25, degree_2d=3, first=5)
    _, record, _ = approximation.make_figure(config, tmp_path, progress=False)
    kept = read_json(tmp_path / "approximation.json")
    found = Approximation("two-atom", 1.0, 25)
    row = next(r for r in kept["records"] if r["law"] == "two-atom" and r["degree"] == 5)
    assert row["error"] == pytest.approx(found.errors[5] / found.scale, rel=1e-12)
    assert "theory 3.14" in " ".join(record["findings"]) and (tmp_path / "approximation.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: ExcessConfig(counts=[5]), ">= 10"),
        (lambda: ExcessConfig(sigma=0.0), "sigma"),
        (lambda: ExcessConfig(families=["local"]), "name:degree"),
        (lambda: ExcessConfig(wiener_counts=[]), "wiener_counts"),
        (lambda: ExcessConfig(wiener=["local:3"]), "coordinates:degree"),
        (lambda: ExcessConfig(delta=1.5), "probability"),
        (lambda: ExcessConfig(draws=0), "draws"),
        (lambda: ApproximationConfig(laws=["cauchy"]), "cauchy"),
        (lambda: ApproximationConfig(degree=100), "1..60"),
    ],
)
def test_bad_parameters_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
