"""The command line: what it prints is what the library computes; bad input ends with code 2 and one line."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp

from analytic import (
    Derivation,
    Divergence,
    FiniteSampleBound,
    HermiteTwin,
    Response,
    ScoreCoefficient,
    Sensitivity,
    WienerSystem,
    digit_table,
    exact_theta,
)
from analytic.cli import main
from analytic.numbers.digits import textbook
from analytic.theory.limits import Theorem


def run(capsys, *arguments: str) -> str:
    """Standard output of a command that succeeds."""
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_module_runs_as_a_command():
    """The command of the README, as a process; its LaTeX is the library's."""
    command = "coefficient --family independent --degree 3 --noise vp --latex".split()
    done = subprocess.run([sys.executable, "-m", "analytic", *command], capture_output=True, text=True, timeout=600)  # against hanging only: a busy machine is slow
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
    commands = (
        "coefficient",
        "code",
        "derive",
        "hermite",
        "wiener",
        "divergence",
        "bound",
        "theorems",
        "sensitivity",
        "evaluate",
        "digits",
    )
    for command in commands:
        assert command in text
        assert "--degree" in run(capsys, command, "--help")


@pytest.mark.parametrize(
    "command",
    ["derive --degree 5 --no-check", "coefficient --degree 5 --latex --form cofactor", "coefficient --degree 5"],
)
def test_long_sums_are_cut_unless_asked_for(capsys, command):
    """A screenful or two instead of 40 kB; what is left out is counted; ``--full`` writes every term."""
    short, full = run(capsys, *command.split()), run(capsys, *command.split(), "--full")
    assert len(short) < 16_000 < len(full) and "more terms" in short and "more terms" not in full
    count = int(re.search(r"(\d+) more terms", short)[1])
    determinant = ScoreCoefficient("independent", 5).cofactors[1]
    assert count + 40 == len(determinant.args)  # det G is the first long one
    terms = {str(term) for term in determinant.args}
    if "--latex" not in command:  # every term that is shown is one of det G
        line = next(line for line in short.splitlines() if "more terms" in line)
        shown = re.split(r" [+-] ", line.split(" = ")[1].split(" + ...")[0])
        assert {part.lstrip("-") for part in shown} <= {term.lstrip("-") for term in terms}


def test_long_fractions_are_counted_unless_asked_for(capsys):
    """Fractions of more than 200 digits, and of more than the 4,300 that Python converts."""
    command = "evaluate --law exponential --degree 7 --sigma 12345678901234567/1000000000".split()
    short, full = run(capsys, *command), run(capsys, *command, "--full")
    assert re.search(r"= \(\d+ digits\)  ~ ", short) and "digits)  ~" not in full and len(full) > 2 * len(short)
    long = "1/" + "3" * 4400
    text = run(capsys, "evaluate", "--moments", f"1,0,{long}", "--sigma", "1")
    assert "theta_1" in text and "digits)" in text


@pytest.mark.parametrize("noise", ["ve", "vp"])
def test_derive_prints_its_verdicts(capsys, noise):
    """Every step and, recomputed, whether it holds; with a ridge too; LaTeX keeps the verdicts in comments."""
    text = run(capsys, "derive", "--degree", "2", "--noise", noise, "--ridge", "raw")
    assert text.startswith(str(Derivation(ScoreCoefficient("independent", 2, noise, ridge="raw"))))
    assert text.count(": holds") == 7 and "FAILS" not in text
    latex = run(capsys, "derive", "--family", "band", "--degree", "1", "--latex")
    assert latex.count(r"\[") == 6 and latex.count("holds") == 6


def test_a_step_that_fails_ends_with_code_one(capsys, monkeypatch):
    """The verdict is computed: a wrong right-hand side is printed as FAILS and the exit code says so."""
    wrong = sp.ImmutableMatrix([0, -1, -3 * sp.Symbol("m_1", real=True)])
    monkeypatch.setattr(ScoreCoefficient, "rhs_of_stein", wrong)
    assert main(["derive", "--degree", "2"]) == 1
    assert "FAILS" in capsys.readouterr().out


def test_theorems_print_computed_verdicts(capsys, monkeypatch):
    """As many verdicts as theorems, and a false one is reported."""
    text = run(capsys, "theorems", "--degree", "2")
    assert text.count("holds") == 7 and text.rstrip().endswith("7 of 7 theorems hold")
    false = Theorem("false", "one is zero", (sp.Eq(sp.Symbol("x"), 1),), lambda: [sp.Integer(1)])
    monkeypatch.setattr("analytic.cli.all_theorems", lambda degree, noise: [false])
    assert main(["theorems"]) == 1
    assert "0 of 1" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["independent", "band", "local"])
def test_hermite_prints_its_proof(capsys, family):
    text = run(capsys, "hermite", "--family", family, "--degree", "1")
    assert text.strip() == str(HermiteTwin(family, 1)) and text.count("holds") == 3
    assert r"T^{\top}" in run(capsys, "hermite", "--degree", "2", "--latex")


def test_wiener_prints_its_proof(capsys):
    """Two coordinates: the text is the object's, its four claims recomputed; LaTeX keeps the verdicts in comments."""
    text = run(capsys, "wiener", "--degree", "1")
    assert text.strip() == str(WienerSystem(1)) and text.count("holds") == 4
    latex = run(capsys, "wiener", "--degree", "2", "--latex")
    assert latex.count("holds") == 4 and r"\Theta" in latex and len(latex) < 20_000


def test_divergence_and_bound_print_their_proofs(capsys):
    """The objects' texts with computed verdicts, and LaTeX with them in comments."""
    text = run(capsys, "divergence", "--degree", "2", "--noise", "vp")
    assert text.strip() == str(Divergence("independent", 2, "vp")) and text.count("holds") == 3
    text = run(capsys, "bound", "--degree", "1")
    assert text.strip() == str(FiniteSampleBound(1)) and text.count(": holds") == 5
    assert run(capsys, "bound", "--degree", "1", "--latex").count("holds") == 5
    assert r"\partial c" in run(capsys, "divergence", "--family", "band", "--degree", "2", "--latex")


def test_sensitivity_prints_the_object(capsys):
    assert run(capsys, "sensitivity", "--degree", "2", "--latex").strip() == Sensitivity("independent", 2, "ve").latex()
    text = run(capsys, "sensitivity", "--family", "band", "--degree", "2", "--moment", "110", "--moment", "210")
    assert text.strip() == str(Sensitivity("band", 2, "ve", moments=["110", "210"]))
    assert run(capsys, "sensitivity", "--standardised").strip() == str(Response(2))
    assert "int sensitivity(" in run(capsys, "sensitivity", "--degree", "1", "--language", "c")


def test_rational_moments_give_rational_coefficients(capsys):
    """In order and by name; the printed fractions are the exact coefficients, VE and VP."""
    text = run(capsys, "evaluate", "--moments", "1,1/2,1/3,1/4,1/5", "--sigma", "1/10")
    exact = exact_theta(
        ScoreCoefficient("independent", 2), [1, *[sp.Rational(1, k) for k in (2, 3, 4, 5)]], sp.Rational(1, 10)
    )
    for k, value in enumerate(exact):
        assert f"theta_{k} " in text and f"= {value} " in text
    named = "mu_4=1/5, mu_1=1/2,mu_2=1/3,mu_3=0.25"
    assert run(capsys, "evaluate", "--moments", named, "--sigma", "0.1") == text
    assert run(capsys, "evaluate", "--law", "uniform", "--sigma", "1/10") == text
    vp = run(capsys, "evaluate", "--law", "exponential", "--degree", "1", "--abar", "1/2", "--latex")
    assert r"\theta_{1} &= -1" in vp
    slopes = run(capsys, "evaluate", "--points", "0,1,3", "--degree", "1", "--sigma", "1", "--sensitivity")
    assert slopes.count("d theta_") == 4


def test_mixed_moments_by_name(capsys):
    """The band family at degree 1: two features, moments mu_ijk by name; and a ridge with its value."""
    text = run(capsys, "evaluate", "--family", "band", "--degree", "1", "--moments", "100=1/2,200=1", "--sigma", "1/2")
    assert "theta_1  (w_H) = -1 " in text  # -1 / (mu_200 + sigma^2 - mu_100^2)
    ridge = "evaluate --law gaussian --degree 1 --sigma 1 --ridge raw --lambda 2".split()
    assert "= -1/4 " in run(capsys, *ridge)


def test_digits_prints_the_table(capsys):
    text = run(capsys, "digits", "--law", "uniform", "--degree", "4", "--sigma", "1/10")
    assert text.strip() == str(digit_table(textbook(["uniform"], [sp.Rational(1, 10)], degree=4)))
    own = run(capsys, "digits", "--moments", "1,0,1,0,3,0,15", "--sigma", "1/2", "--latex")
    assert own.count(r"\\") == 4 and "data" in own


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
        ("code --name lambda", "'lambda'", "reserved"),
        ("code --name numpy", "'numpy'", "another"),
        ("code --name int --language c", "'int'", "reserved word of C"),
        ("evaluate --moments 1,0,-1/2 --sigma 1/10", "(1, x) is -0.5", "no distribution"),
        ("evaluate --moments mu_1=0,mu_2=1,mu_2=5,mu_3=0,mu_4=30 --sigma 1", "mu_2", "once"),
        ("evaluate --moments 0=1,mu_0=1,1=0,2=1 --sigma 1 --degree 1", "mu_0", "once"),
        ("evaluate --family band --degree 1 --moments 100=1/2,200=1/9 --sigma 1", "(1, x_1)", "no distribution"),
        ("digits --moments 1,0,-1 --sigma 1", "(1, x)", "no distribution"),
        ("digits --sigma 0", "--sigma holds 0", "> 0"),
        ("digits --sigma 1,-1/2", "--sigma holds -1/2", "> 0"),
        ("evaluate --moments 1,1/2 --sigma 1", "2 values", "odd number"),
        ("evaluate --moments 1,x,1 --sigma 1", "'x'", "1/10"),
        ("evaluate --moments 1,1/0,1 --sigma 1", "'1/0'", "rational"),
        ("evaluate --moments mu_1=1,mu_7=2 --sigma 1", "mu_7", "mu_4"),
        ("evaluate --moments mu_1=1,mu_2=2 --sigma 1", "missing", "mu_3"),
        ("evaluate --moments 2,1,1 --sigma 1", "mu_0", "divide"),
        ("evaluate --moments 1,0,1", "--sigma", "such as"),
        ("evaluate --moments 1,0,1 --sigma 1 --abar 1/2", "--sigma", "--abar"),
        ("evaluate --moments 1,0,1 --sigma 0", "sigma = 0", "clean"),
        ("evaluate --moments 1,0,1 --abar 2", "got 2", "between 0 and 1"),
        ("evaluate --sigma 1", "exactly one", "--points"),
        ("evaluate --points 0,1 --noise clean", "2 points", "degree <= 1"),
        ("evaluate --points 3,3 --noise clean --degree 1", "variance zero", "add noise"),
        ("evaluate --family band --law uniform --sigma 1", "uniform", "--moments"),
        ("evaluate --law cauchy --sigma 1", "'cauchy'", "laplace"),
        ("evaluate --law gaussian --sigma 1 --lambda 1", "--lambda 1", "--ridge"),
        ("derive --noise clean", "clean", "ve or vp"),
        ("hermite --basis monomial", "monomial", "standardized"),
        ("sensitivity --moment 9", "'9'", "any of 1"),
        ("sensitivity --standardised --family band", "independent", "leave them out"),
        ("sensitivity --language rust", "'rust'", "numpy"),
        ("wiener --coordinates 0", "got 0", ">= 1"),
        ("wiener --degree 40", "81 features", "fewer"),
        ("digits --law cauchy", "'cauchy'", "laplace"),
        ("digits --moments 1,0", "2 values", "mu_2"),
        ("digits --sigma 1,y", "'y'", "1/10"),
        ("digits --start here", "'here'", "system"),
        ("theorems --degree 0", "got 0", ">= 1"),
        ("theorems --degree 99999999999999999999", "99999999999999999999", "lower degree"),
        ("digits --degree 99999999999999999999", "99999999999999999999", "lower degree"),
        ("coefficient --family local --degree 6 --interactions full", "5005 features", "pairwise"),
        ("coefficient --family local --degree 2 --latex --form clean", "27 features", "system"),
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
