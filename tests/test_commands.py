"""The command line: one command, light help, errors of one line before the work, nothing longer replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from numeric.commands.app import app
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore

ROOT = Path(__file__).parents[1]
COMMANDS = ["fit", "train", "generate", "claims", "figures", "table1"]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def images(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 8, 8)))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_light(command):
    """Help without torch or NumPy; every command is listed."""
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom numeric.commands.app import app\n"
        f"out = CliRunner().invoke(app, [*{command.split()!r}, '--help'])\nprint(out.output)\n"
        "assert out.exit_code == 0 and not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert command or all(name in done.stdout for name in [*COMMANDS, "formulas"])


def test_formulas_are_the_analytic_command():
    script = [sys.executable, "-m", "numeric", "formulas", "evaluate", "--moments", "1,1/2,1/3", "--sigma", "1/10"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "theta_1  (w) = -75/7" in done.stdout
    bad = subprocess.run([*script[:4], "evaluate", "--moments", "1,x"], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2 and "error:" in bad.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda:9"], "cannot be used here"),
        (["--ridge", "foo"], "unknown ridge 'foo'"),
        (["--ridge", "-1"], "finite number >= 0, got -1"),
        (["--sigma", "0"], "sigma must be a finite number > 0, got 0"),
        (["--family", "unicorn"], "unknown family 'unicorn'"),
        (["--readout", "both"], "use own, shared or wiener"),
        (["--degree", "0"], "degree must be >= 1"),
        (["--images", "nowhere.npy"], "nowhere.npy"),
        (["--wavelet", "db99"], "unknown wavelet 'db99'"),
    ],
)
def test_bad_input_is_one_line_before_the_work(options, message, images, tmp_path, monkeypatch):
    monkeypatch.setattr("numeric.data.ImageSet.batches", lambda *_: pytest.fail("the pass was begun"))
    result = run("fit", tmp_path / "m", "--images", images, "--size", 8, *options)
    assert result.exit_code == 2 and message in " ".join(result.output.split()) and "Traceback" not in result.output
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("readout", "kind"), [("own", WaveletScore), ("shared", SharedWaveletScore), ("wiener", WienerScore)])
def test_fit_by_readout_and_the_longer_one_is_kept(readout, kind, images, tmp_path):
    arguments = ["fit", tmp_path / "m", "--images", images, "--size", 8, "--levels", 1, "--readout", readout, "--no-progress"]
    result = run(*arguments, "--degree", 2)
    assert result.exit_code == 0 and "40 images" in result.output, result.output
    model = kind.load(tmp_path / "m")
    assert model.moments_.count == 40 and f"{model.expected_mse(0.5):.6f}" in result.output
    refused = run(*arguments, "--count", 10)
    assert refused.exit_code == 2 and "--overwrite" in refused.output and kind.load(tmp_path / "m").moments_.count == 40
    assert run(*arguments, "--count", 10, "--overwrite").exit_code == 0
    assert kind.load(tmp_path / "m").moments_.count == 10
    assert not list(tmp_path.glob("*.checkpoint"))
