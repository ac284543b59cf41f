"""The figure of the closed forms (numeric.figures.formulas): its numbers against other routes, on few images."""

from __future__ import annotations

import json
import warnings
from functools import partial

import numpy as np
import pytest
import sympy as sp

from analytic import NearlyConstant
from analytic.theory.response import signal_share
from numeric.data import FallbackDataWarning, load_mnist
from numeric.evaluation.formulas import exact_moments, named_conditions, theorem_table
from numeric.figures.formulas import FormulasConfig, findings, make_figure


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = FormulasConfig(
        size=16, n_train=300, places=[[2, "H"], [1, "D"]], points=5, digit_degree=3, digit_sigmas=[0.5]
    )
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", FallbackDataWarning)
        patch.setattr("numeric.figures.base.load_mnist", partial(load_mnist, download=False))
        return config, *make_figure(config, tmp_path_factory.mktemp("figures"), progress=False)


def test_exact_moments_are_the_moments():
    """Rational raw moments of values on the grid, against float64 means; exact where the values are dyadic."""
    values = np.random.default_rng(0).normal(size=200)
    exact = exact_moments(values, 6)
    assert all(isinstance(value, sp.Rational) for value in exact) and exact[0] == 1
    np.testing.assert_allclose([float(v) for v in exact], [(values**p).mean() for p in range(7)], rtol=0, atol=1e-7)
    assert exact_moments(np.array([0.5, 1.0, -0.25]), 2)[1:] == [sp.Rational(5, 12), sp.Rational(21, 48)]


def test_record_and_files(run):
    """Numbers, provenance and files; every sentence is computed from the record."""
    config, _, record, paths = run
    assert [p.suffix for p in paths] == [".png", ".pdf", ".json"] and all(p.stat().st_size > 1000 for p in paths)
    stored = json.loads(paths[-1].read_text())
    assert stored["data"]["fit"]["count"] == 300 and "sha256" in stored["data"]["fit"]
    assert stored["findings"] == findings(record) and stored["parameters"]["points"] == config.points
    assert len(record["coefficients"]) == 2


def test_curves(run):
    """VP is VE, the linear coefficient tends to -1 / s^2, and the cumulants say what He_2 and He_3 do at high noise."""
    config, _, record, _ = run
    sigma = config.sigmas
    for curve in record["coefficients"]:
        assert curve["vp_is_ve"] < 1e-9 and curve["error_at_lowest_sigma"] < 1e-9
        variance = curve["variance"]
        assert -(sigma[-1] ** 2 + variance) * curve["ve"][1, -1] == pytest.approx(1, abs=0.05)
        assert curve["rho"][0] == pytest.approx(float(signal_share("ve", float(sigma[0]), variance=variance)))
        rho = curve["rho"][-1]
        for k in (2, 3):
            predicted = curve["cumulants"][k - 2] * rho ** ((k + 1) / 2) / np.prod(np.arange(1, k + 1))
            assert curve["standard"][k, -1] == pytest.approx(predicted, rel=0.1, abs=1e-5)


def test_conditions_and_theorems_are_computed():
    rows = named_conditions()
    assert [row["condition"] for row in rows] == [
        "ConstantCoefficient",
        "FewAtoms",
        "ZeroNoise",
        "NotAMomentSequence",
        NearlyConstant.__name__,
    ]
    assert {row["recomputed"] for row in theorem_table(2)} == {"holds"}


@pytest.mark.parametrize(
    "options, named",
    [({"degree": 2}, "got 2"), ({"sigma_low": 0}, "sigma_low"), ({"digit_sigmas": [0]}, "digit_sigmas")],
)
def test_bad_parameters_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        FormulasConfig(**options)
