"""The command line: what it prints is what the library computes; bad input ends with code 2 and one line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from analytic import ScoreCoefficient
from analytic.cli import main


def run(capsys, *arguments: str) -> str:
    """Standard output of a command that succeeds."""
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_module_runs_as_a_command():
    """The command of the README, as a process; its LaTeX is the library's."""
    command = "coefficient --family independent --degree 3 --noise vp --latex".split()
    done = subprocess.run([sys.executable, "-m", "analytic", *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.strip() == ScoreCoefficient("independent", 3, "vp").latex()


@pytest.mark.parametrize("family", ["independent", "band", "band-tied", "local"])
def test_coefficient_prints_the_object(capsys, family):
    assert run(capsys, "coefficient", "--family", family, "--degree", "1").strip() == str(ScoreCoefficient(family, 1))


def test_generated_code_computes_theta(capsys):
    """Equation (21) as printed NumPy source, executed, against the lambdified formula."""
    source = run(capsys, "code", "--degree", "2", "--noise", "vp", "--name", "f")
    space: dict = {}
    exec(source, space)
    moments = np.array([1.0, 0.3, 1.2, 0.9, 4.0])
    expected = ScoreCoefficient("independent", 2, "vp").lambdify()(moments, 0.6)
    np.testing.assert_allclose(space["f"](moments, 0.6), expected, rtol=1e-12)


def test_help_names_every_command(capsys):
    text = run(capsys)
    assert text == run(capsys, "--help")
    for command in ("coefficient", "code"):
        assert command in text
        assert "--degree" in run(capsys, command, "--help")


@pytest.mark.parametrize(
    "arguments, named, fix",
    [
        ("coefficient --degree 0", "got 0", ">= 1"),
        ("coefficient --degree x", "'x'", "a number such as"),
        ("coefficient --family tree", "'tree'", "independent, band, local"),
        ("coefficient --noise foo", "'foo'", "ve, vp"),
        ("coefficient --basis fourier", "'fourier'", "hermite"),
        ("coefficient --ridge 3", "'3'", "unit"),
        ("coefficient --form big", "'big'", "cofactor"),
        ("coefficient --family local --radius -1", "-1", ">= 0"),
        ("coefficient --family local --neighbours 30", "30", "0..8"),
        ("code --language rust", "'rust'", "numpy"),
        ("code --method guess", "'guess'", "cofactor"),
        ("code --name 3x", "'3x'", "identifier"),
        ("bake", "'bake'", "--help"),
        ("coefficient --colour red", "--colour", "--help"),
    ],
)
def test_bad_input_is_one_line_and_code_two(capsys, arguments, named, fix):
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err and fix in captured.err
