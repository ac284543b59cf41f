"""Claims that an earlier run has tested stand beside those tested again: whose they are is said, and nothing else is taken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from numeric.claims import report
from numeric.claims.config import command
from numeric.claims.page import markdown
from numeric.claims.sentences import CLAIMS
from numeric.commands.app import app
from numeric.results import FileError

ON_NETWORKS = [c.name for c in CLAIMS if c.on_networks]


@pytest.fixture
def earlier(small_run, tmp_path, monkeypatch):
    """(configuration, path of a whole run's results file); what is tested again comes from the same cache."""
    monkeypatch.setattr("numeric.baselines.network.trained", lambda size, names=None, folder=None: {})
    monkeypatch.setattr("numeric.claims.report.SIMULATIONS", 5)
    config = small_run[0]
    return config, report.make_figure(config, tmp_path / "before", progress=False)[2][2]


def test_claims_on_networks_are_those_with_networks_in_their_cells():
    assert ON_NETWORKS == ["networks better", "gap narrows", "gap at high noise"]


def test_claims_that_are_not_named_are_taken_and_said(earlier, tmp_path):
    """All claims on the page, those tested again equal to before, each of the others with command and day of its run."""
    config, path = earlier
    before = json.loads(path.read_text())
    _, record, paths = report.make_figure(config, tmp_path / "now", ["degree", "linear at 32"], progress=False, claims_from=path)
    assert json.loads(json.dumps(record["claims"])) == before["claims"]
    (origin,) = record["taken"]
    assert origin["claims"] == [c.name for c in CLAIMS if c.name not in ("degree", "linear at 32")]
    assert origin["command"] == before["command"] and origin["written"] == before["written"] and origin["code"] == before["code"]
    assert record["command"] == f"{command(config, ['degree', 'linear at 32'])} --claims-from {path}"
    text = paths[3].read_text()
    assert f"Tested on {before['written'][:10]} by `{before['command']}`" in text and text == markdown(record)
    assert record["findings"][-1].startswith(f"taken from the run of {before['written'][:10]}: local gains")

    _, third, _ = report.make_figure(config, tmp_path / "third", ["degree"], progress=False, claims_from=paths[2])
    mine, first = sorted(third["taken"], key=lambda entry: len(entry["claims"]))
    assert mine["claims"] == ["linear at 32"] and mine["command"] == record["command"]
    assert first == origin  # not of the run in between


def test_a_page_without_claims_from_takes_nothing(earlier):
    assert json.loads(earlier[1].read_text())["taken"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here; leave claims_from out"),
        ({"n_eval": 44}, "n_eval is 40 there, 44 here"),
        ({"sigmas": (0.25, 0.9)}, r"sigmas is \[0.25, 1.0\] there"),
        ({"n_train": 230}, "n_train is 240 there, 230 here"),
    ],
)
def test_claims_of_other_settings_are_refused(earlier, change, message):
    config, path = earlier
    with pytest.raises(ValueError, match=message):
        report.run_claims(replace(config, **change), ["degree"], progress=False, claims_from=path)


def test_what_cannot_stand_beside_is_named(earlier, tmp_path):
    """Nothing to take, a claim that the file lacks, other images, other rules, no file, another figure's, a damaged one."""
    config, path = earlier
    record = json.loads(path.read_text())

    def refused(error, message, names=("degree",), **change):
        there = tmp_path / "changed.json"
        there.write_text(json.dumps({**record, **change}))
        with pytest.raises(error, match=message):
            report.run_claims(config, list(names), progress=False, claims_from=there)

    refused(ValueError, "name those to test", names=[c.name for c in CLAIMS])
    refused(ValueError, "does not hold the claim 'local gains'", claims=record["claims"][:1])
    refused(ValueError, "train is .* there", data={**record["data"], "train": {}})
    refused(FileError, "the rules of the verdicts were other ones", rules="toss a coin")
    refused(FileError, "is damaged", networks=None)
    (tmp_path / "fig5.json").write_text(json.dumps({"records": []}))
    with pytest.raises(ValueError, match="holds no tested claims"):
        report.run_claims(config, ["degree"], progress=False, claims_from=tmp_path / "fig5.json")
    with pytest.raises(FileNotFoundError):
        report.run_claims(config, ["degree"], progress=False, claims_from=tmp_path / "none.json")


def test_claims_on_networks_are_of_the_networks_there_are(earlier, tmp_path):
    """A network that was trained since asks for its claims by name; one that is still in training does not."""
    config, path = earlier
    record = json.loads(path.read_text())
    waiting = {"U-Net, 8x8": {"trained": False, "images": 10, "sha256": "a"}}
    path.write_text(json.dumps({**record, "networks": waiting}))
    report.run_claims(config, ["degree"], progress=False, claims_from=path)
    path.write_text(json.dumps({**record, "networks": {"U-Net, 8x8": {"trained": True, "images": 10, "sha256": "a"}}}))
    with pytest.raises(ValueError, match=r"claims on networks .* are of U-Net, 8x8, now there are none"):
        report.run_claims(config, ["degree"], progress=False, claims_from=path)
    report.run_claims(config, ON_NETWORKS, progress=False, claims_from=path)


def test_the_command_line_takes_a_file_and_names_a_wrong_one(tmp_path):
    runner = CliRunner()
    out = runner.invoke(app, ["claims", "--claim", "degree", "--claims-from", str(tmp_path / "none.json")])
    assert out.exit_code == 2 and "none.json was not found" in out.output.replace("\n", "")
