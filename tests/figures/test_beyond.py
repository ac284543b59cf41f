"""Figure "beyond" and Table 1's rows that hold training images: same images and noise, sides chosen on training images."""

from __future__ import annotations

import shutil

import pytest

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import WEIGHTS
from numeric.evaluation.sweep import measure as measured_errors
from numeric.figures.beyond import BeyondConfig, findings, frame, measure
from numeric.figures.contenders import CALIBRATED, EQUIVARIANT, rows_of, summed_over
from numeric.figures.style import fitted_on
from numeric.figures.table1 import Table1Config, cells, make_table
from numeric.figures.table1 import frame as table_frame
from numeric.figures.table1 import measure as measure_table
from numeric.pictures import load_images
from numeric.results import read_json, write_json

TOY = {"size": 16, "n_train": 150, "n_eval": 30, "n_network": 5, "n_slow": 6, "sigmas": (0.25,), "families": (), "shared": ()}


def test_every_method_sees_the_same_images(tmp_path):
    config = BeyondConfig(
        **TOY, n_local=20, wiener=("pixel:1",), potential=("pixel:1",), refined=(2,), mixtures=("class",), networks=(), n_symmetry=0, cache=str(tmp_path)
    )
    record = measure(config, progress=False)
    rows = {row["method"]: row for row in record["rows"]}
    assert len(rows) == 11 and len(list(tmp_path.rglob("*.json"))) == 11
    cell = {name: row["errors"]["0.25"] for name, row in rows.items()}
    assert cell["linear"]["of_linear"]["ratio"] == 1.0 and cell["linear"]["n"] == 30
    # Degree 1 is the linear denoiser up to its ridge, on the same noise.
    for name in ("Wiener pixels, degree 1", "potential of Wiener pixels, degree 1"):
        assert cell[name]["of_linear"]["ratio"] == pytest.approx(1.0, abs=1e-3)
    assert {name for name, c in cell.items() if c["n"] == 6} == {
        "optimal empirical", "PCA locality", "BayesShrink", *(f"{name}, calibrated side" for name in ("LS", "ELS", "PSPC"))
    }  # fmt: skip
    assert all(row["sides"]["0.25"] >= 1 for name, row in rows.items() if "calibrated" in name)
    again = measure(config, progress=False)
    assert again == record  # from the cache
    record["parameters"] = {"sigmas": (0.25,)}
    text = "\n".join(findings(record))
    assert "the first 6 or 30 of the same ones" in text and "chosen on training images" in text
    assert len(frame(record)) == 11


def test_photographs_stand_for_digits(tmp_path):
    """Another data set by name: whole photographs held out, no network that has seen digits alone, and linear fitted on the patches."""
    toy = {**TOY, "n_train": 300, "mixtures": (), "refined": (), "machines": ()}
    config = BeyondConfig(**toy, dataset="natural", wiener=("pixel:2",), n_symmetry=0, cache=str(tmp_path))
    config.check()
    record = measure(config, progress=False)
    assert [row["kind"] for row in record["rows"]] == ["paper", "beyond"]
    fit, test = (record["data"][name]["source"].split(" (")[0].removeprefix("patches of ").split(", ") for name in ("fit", "test"))
    assert not set(fit) & set(test) and fitted_on(record) == f"fitted on 300 images of patches of {fit[0]} and others"
    linear = LinearDenoiser().fit(load_images("natural", "train", size=16, channels=1, count=300))
    test_images = load_images("natural", "test", size=16, channels=1, count=30)
    errors = measured_errors({"linear": (linear, None)}, test_images, 0.25, key=(0, 1, 250_000), batch_size=250)
    assert record["rows"][0]["errors"]["0.25"]["mse"] == pytest.approx(float(errors["linear", None].mean()), rel=1e-6)
    with pytest.raises(ValueError, match="neither a folder nor the name of a set"):
        BeyondConfig(**toy, dataset="phtographs").images("train", 16)


def test_unknown_machines_and_mixtures_are_named():
    with pytest.raises(ValueError, match="unknown machine 'KNN': use optimal, LS, ELS, PSPC, PCA locality, BayesShrink"):
        BeyondConfig(machines=("KNN",)).check()
    with pytest.raises(ValueError, match="number of components or 'class', got 'ten'"):
        Table1Config(mixtures=("ten",)).check()
    with pytest.raises(ValueError, match="n_local must be a number of images >= 1, got -3"):
        Table1Config(n_local=-3)


def test_table_names_the_windows_that_calibration_chose(tmp_path):
    config = Table1Config(**TOY, n_local=20, wiener=(), mixtures=("3",), networks=("cnn",), cache=str(tmp_path))
    rows = {row["method"]: row for row in measure_table(config, progress=False)["rows"]}
    for name in ("LS", "ELS", "PSPC"):
        row = rows[f"{name}, calibrated side"]
        assert cells(row)["method"] == f"{name}, calibrated side {row['sides']['0.25']}"
    assert rows["Gaussian mixture, 3 k-means components"]["parameters"] > 3 * 256


def test_table_and_figure_measure_the_same(tmp_path):
    """Table 1 and Figure "beyond" on the same images and noise: every method that both hold has the same held-out error."""
    shared = {**TOY, "n_local": 20, "wiener": ("pixel:2",), "mixtures": ("class",), "networks": ("cnn",), "cache": str(tmp_path)}
    table = {row["method"]: row for row in measure_table(Table1Config(**shared), progress=False)["rows"]}
    figure = measure(BeyondConfig(**{**shared, "networks": ()}, refined=(), n_symmetry=0), progress=False)["rows"]
    assert len(figure) == 9
    for row in figure:
        assert row["errors"] == table[row["method"]]["errors"]["test"]
    assert table["optimal empirical"]["holds_images"] and not table["BayesShrink"]["holds_images"] and table["BayesShrink"]["parameters"] == 0


def test_machines_take_all_images_but_those_of_calibration(tmp_path):
    """``n_local=None``; the equivariant machine stays at its own number; a number given is a bound, and a fifth of it for ELS."""
    assert [summed_over(name, None, 1000, 10) for name in ("LS", "PSPC", "ELS")] == [990, 990, EQUIVARIANT]
    assert [summed_over(name, None, 60_000, 10) for name in ("PSPC", "ELS")] == [59_990, EQUIVARIANT]
    assert [summed_over(name, 500, 1000, 10) for name in ("LS", "PSPC", "ELS")] == [500, 500, 100]
    assert [summed_over(name, None, 50, 10) for name in ("LS", "ELS")] == [40, 40] and summed_over("LS", 500, 50, 10) == 40
    config = BeyondConfig(**TOY, n_local=None, machines=("LS", "PSPC"), wiener=(), refined=(), mixtures=(), networks=(), cache=str(tmp_path))
    images = config.images("train", 16, 150)
    for row in rows_of(config, images)[1:]:
        model, _ = row.fit()
        assert len(model.data_) == 150 - CALIBRATED and 0.25 in model.sides_
    table = Table1Config(**TOY, n_local=None, wiener=(), mixtures=(), networks=("cnn",), cache=str(tmp_path))
    rows = {row["method"].split(",")[0]: row for row in measure_table(table, progress=False)["rows"]}
    assert rows["LS"]["fitted_on"] == 140 and rows["ELS"]["fitted_on"] == min(EQUIVARIANT, 140)
    other = BeyondConfig(**TOY, n_local=20, machines=("LS",), wiener=(), refined=(), mixtures=(), networks=(), cache=str(tmp_path))
    before, after = ({r.label: r.about for r in rows_of(c, images)} for c in (config, other))  # what tells rows apart in the cache
    assert before["linear"] is None and before["LS, calibrated side"] == 140 and after["LS, calibrated side"] == 20
    assert [r.about for r in rows_of(BeyondConfig(**TOY, machines=("optimal",), networks=()), images) if r.label == "optimal empirical"] == [None]


def test_settings_that_share_a_label_do_not_share_numbers(tmp_path):
    """Two refined readouts of one label are told apart in the cache, and a second run takes both from it."""
    texts = [f"components=1 readouts=pixel:2 experts=1 pixels=2000 side=3 dims=4 ridge={ridge}" for ridge in (1, 10_000)]
    config = BeyondConfig(
        **TOY, machines=(), wiener=(), mixtures=(), networks=(), n_symmetry=0, refined=texts, cache=str(tmp_path)
    )
    first, again = (measure(config, progress=False)["rows"][-2:] for _ in range(2))
    assert first[0]["method"] == first[1]["method"] and first == again
    assert abs(first[0]["errors"]["0.25"]["mse"] / first[1]["errors"]["0.25"]["mse"] - 1) > 1e-4
    assert len(list((tmp_path / "levels").iterdir())) == 2


def test_a_network_without_weights_stands_in_the_table_by_its_record(tmp_path):
    """Images seen, schedule and errors come from the record; the row is neither ranked nor measured."""
    record = read_json(WEIGHTS / "cnn_32.json")
    write_json(tmp_path / "weights" / "cnn_16.json", {**record, "size": 16, "weights": "left out: 31 MB"})
    write_json(tmp_path / "weights" / "1block_noattn_16.json", {**read_json(WEIGHTS / "1block_noattn_32.json"), "size": 16})
    shutil.copy(WEIGHTS / "1block_noattn_32.safetensors", tmp_path / "weights" / "1block_noattn_16.safetensors")
    toy = {**TOY, "mixtures": (), "machines": (), "wiener": (), "families": ("independent:1",)}
    config = Table1Config(**toy, networks=("cnn", "2blocks_noattn"), weights=str(tmp_path / "weights"), cache=str(tmp_path))
    _, made, _ = make_table(config, tmp_path / "figures", progress=False)
    rows = {row["method"].split(" (")[0]: row for row in made["rows"]}
    row = rows["CNN"]
    assert (row["images"], row["errors"], row["recorded"]) == (record["images"], {}, record["errors"])
    shown = table_frame(made)
    (line,) = (line for name, line in shown.iterrows() if name.startswith("CNN"))
    assert line["images seen"] == f"{record['images']:,}" and line["MSE, sigma 0.25"].startswith(f"{record['errors']['test']['0.25']['mse']:.4f}"[:6])
    assert "errors recorded" in line.name and cells(rows["U-Net 2blocks_noattn"])["images seen"] == ""
    assert not any("lowest CNN" in text for text in made["findings"]) and any("not measured here: CNN" in text for text in made["findings"])
