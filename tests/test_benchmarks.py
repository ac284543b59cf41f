"""Benchmarks that cannot be run here: their files, their page, and a run at toy size."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from benchmarks import gpu, refined
from benchmarks.page import PAGE, write_section
from numeric.baselines.settings import refined_settings
from numeric.results import read_json

runner = CliRunner()


def test_the_page_shows_what_the_results_files_hold(tmp_path):
    """The section of ``benchmarks/README.md`` about the GPU is the one made from ``gpu_*.json``; a page without marks is refused."""
    records = [read_json(path) for path in sorted(gpu.OUTPUT.parent.glob("gpu_*.json"))]
    text = gpu.section(records)
    assert records and text in PAGE.read_text()
    rows = [row for record in records for row in record["rows"] if row["what"] == "level" and row["model"] == "local:3" and row["size"] == 64]
    ratio = rows[0]["held_out_mse"][-1] / rows[0]["held_out_mse"][0]
    assert "| 64 x 64 | shared local:3 | 61,441 | " in text and f"{ratio:.3f}" in text
    (tmp_path / "page.md").write_text("nothing\n")
    with pytest.raises(ValueError, match="has no marks <!-- gpu -->"):
        write_section("gpu", text, tmp_path / "page.md")


def test_closed_forms_are_measured_row_by_row(tmp_path):
    """Every part on a CPU at toy size: fit, four levels, floor; degree 1 of the shared readout errs as linear, degree 2 less on more images."""
    path = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--count", "120", "--n-eval", "20", "--small", "8", "--large", "8", "--size", "8"]
    parts = [word for part in gpu.PARTS for word in ("--part", part)]
    result = runner.invoke(gpu.app, [*parts, *words, "--models", "independent:2", "--settings", "pixel:2", "--ridges", "1e-6,1e-3", "--output", str(path)])
    assert result.exit_code == 0, result.output
    record = json.loads(path.read_text())
    assert record["command"].startswith("python -m benchmarks.gpu --part own --part shared32") and str(tmp_path) not in record["command"]
    found = {(row["part"], row["what"]) for row in record["rows"]}
    assert found == {
        (part, what) for part in gpu.PARTS for what in ("fit", "level", *(["floor"] if "shared" in part else ["ridge"] if part == "wiener" else []))
    }
    for row in record["rows"]:
        if row["what"] == "ridge":
            assert row["errors"][f"{row['chosen']:g}"] == min(row["errors"].values()) and row["fitted_on"] + row["judged_on"] == 120
    refused = runner.invoke(gpu.app, ["--device", "cpu"])
    assert refused.exit_code == 2 and "--part" in refused.output


def test_settings_of_the_refined_readout_are_read(tmp_path):
    """``name=value`` by the types of the estimator's parameters; the setting of the lower error over linear is evaluated on test images."""
    assert refined_settings("experts=1,8 pixels=2e4 softness=0.5 readouts=both:5,pixel:3:local") == {
        "experts": (1, 8), "pixels": 20_000, "softness": 0.5, "readouts": ("both:5", "pixel:3:local")
    }  # fmt: skip
    assert refined_settings("100") == {"components": 100} and refined_settings("readouts=none") == {"readouts": ()}
    machines = refined_settings("estimators=LS:3,PSPC:0.1=5/1=23 spread=1")["estimators"]
    assert [one.label for one in machines] == ["LS machine 3x3, broken border", "PSPC p(sigma)"]
    assert [one.n_train for one in machines] == [None, None] and [machines[1].patch_at(s) for s in (0.05, 0.2, 4.0)] == [5, 5, 23]
    for wrong in ("ELS:3", "LS:", "LS:4", "LS:0=3", "PSPC:0.1=5,1=7", "PSPC:0.1", "PSPC:0.1=0", "PSPC:1..2=3"):
        with pytest.raises(ValueError, match=r"patch|PSPC"):
            refined_settings(f"estimators={wrong}")
    for wrong, named in (("expert=3", "expert=3"), ("experts=1,x", "is no number: write experts=1,256,256"), ("experts", "write name=value")):
        with pytest.raises(ValueError, match=named):
            refined_settings(wrong)
    path = tmp_path / "refined.json"
    common = "components=1 pixels=4000 side=3 dims=4 readouts=none"
    refined.main(f"experts=2 {common}; experts=1 {common}", "0.5", "0.5,1", 8, 240, 20, "cpu", path)
    record = json.loads(path.read_text())
    best = min(record["judged"], key=lambda row: row["over_linear"])
    assert record["chosen"]["settings"] == best["settings"] and set(record["chosen"]["errors"]) == {"0.5", "1"}
    refined.main(f"experts=1 {common}", "0.5", "0.5", 8, 240, 20, "cpu", path)  # one setting alone is not judged
    table = refined.section(json.loads(path.read_text())).splitlines()
    error = json.loads(path.read_text())["chosen"]["errors"]["0.5"]["mse"]
    assert table[2].startswith(f"| 0.5 | {error:.6f} ± ") and "readouts=none" in table[-1]
    assert json.loads(path.read_text())["judged"] == [] and json.loads(path.read_text())["chosen"]["errors"]["0.5"]["parameters"] > 0
