"""Stated accuracy: named conditions instead of wrong numbers, and the table of digits that float64 loses."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from analytic import (
    AnalyticError,
    ConstantCoefficient,
    FewAtoms,
    NearlyConstant,
    NotAMomentSequence,
    NumericallySingular,
    ScoreCoefficient,
    SingularCoefficient,
    compare,
    exact_theta,
    theta_from_moments,
)
from analytic.algebra.laws import LAWS, law_moments, moments_of_samples
from analytic.numbers.bounded import Bounded
from analytic.numbers.digits import digit_loss, digit_table, textbook
from analytic.numbers.doubledouble import DoubleDouble

TINY = sp.Rational(1, 10**7)
SAMPLES = {
    "constant": [sp.Rational(7, 10)] * 3,
    "nearly constant": [sp.Rational(7, 10) - TINY, sp.Rational(7, 10), sp.Rational(7, 10) + TINY],
    "two points": [0, 1],
    "five points": [0, 1, 2, 3, 4],
    "far from zero": [1000, 1001, 1003, 1007, 1010],
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_a_result_or_a_named_condition(name, degree):
    """At any noise down to 1e-7 the vectorised formula is as good as its tolerance, or raises; never silent rubbish.

    Held against the exact solution for the moments as given (float64 numbers taken exactly) and, because rounding the
    moments counts too, against the solution for the true moments.
    """
    coefficient = ScoreCoefficient("independent", degree, "ve")
    moments = moments_of_samples(SAMPLES[name], coefficient.moment_exponents)
    floats = np.array([float(value) for value in moments])
    raised = 0
    for sigma in (1e-1, 1e-3, 1e-5, 1e-7):
        true = np.array([float(v) for v in exact_theta(coefficient, moments, sigma)])
        for options in ({}, {"precision": "double"}, {"method": "elimination"}):
            try:
                found = coefficient.lambdify("numpy", **options)(floats, sigma)
            except NumericallySingular as error:
                raised += 1
                assert error.condition and error.fix
                assert isinstance(error, NearlyConstant) == ("constant" in name)
                continue
            assert np.abs(found - true).max() < 0.05 * np.abs(true).max()
            bound, rounding = coefficient.lambdify("numpy", **options).accuracy(floats, sigma)
            assert bound + rounding <= 1e-3
            given = np.array([float(v) for v in exact_theta(coefficient, floats, sigma)])
            assert np.abs(found - given).max() <= (1.01 * bound + 1e-15) * np.abs(given).max()
    if "constant" in name and degree > 1:
        assert raised  # the case exists, or this test would show nothing


def test_without_the_check_the_rubbish_is_there():
    """The check earns its place: with tolerance=None the same evaluation is wrong by more than 100 per cent."""
    coefficient = ScoreCoefficient("independent", 4, "ve")
    floats = np.array([float(v) for v in moments_of_samples(SAMPLES["constant"], coefficient.moment_exponents)])
    wrong = []
    for sigma in (1e-3, 1e-4, 1e-5):
        exact = np.array([float(v) for v in exact_theta(coefficient, floats, sigma)])
        try:
            found = coefficient.lambdify("numpy", precision="double", tolerance=None)(floats, sigma)
        except NumericallySingular:
            continue
        wrong.append(np.abs(found - exact).max() / np.abs(exact).max())
    assert wrong and max(wrong) > 1


def test_one_bad_coefficient_among_many_is_named():
    """Vectorised: the message says how many and which; torch and NumPy alike."""
    coefficient = ScoreCoefficient("independent", 3, "ve")
    good = [float(v) for v in law_moments("exponential", 6)]
    bad = [float(v) for v in moments_of_samples(SAMPLES["nearly constant"], coefficient.moment_exponents)]
    moments = np.array([good, good, bad, good]).T
    with pytest.raises(NearlyConstant, match=r"at 1 of 4 coefficients \(first: \[2\]\)"):
        coefficient.lambdify()(moments, 1e-5)
    torch = pytest.importorskip("torch")
    with pytest.raises(NearlyConstant, match=r"first: \[2\]"):
        coefficient.lambdify("torch")(torch.as_tensor(moments), 1e-5)
    bound, rounding = coefficient.lambdify().accuracy(moments, 1e-5)
    assert bound.shape == (4,) and np.isinf(bound[2]) | (rounding[2] > 1e-3) and bound[0] < 1e-20


@pytest.mark.parametrize("precision", ["double", "double-double", 30, "exact"])
def test_named_conditions_of_the_clean_system(precision):
    """Constant pixel, two-point data, no distribution at all: the exact reason, in every arithmetic."""
    options = {"noise": "clean", "precision": precision}
    with pytest.raises(ConstantCoefficient, match="variance zero"):
        theta_from_moments([1, sp.Rational(1, 2), sp.Rational(1, 4)], **options)
    with pytest.raises(FewAtoms, match="2 points"):
        theta_from_moments([1, *[sp.Rational(1, 2)] * 4], **options)
    with pytest.raises(NotAMomentSequence, match="< 0"):
        theta_from_moments([1, 0, 1, 0, sp.Rational(1, 2)], **options) if precision != "exact" else _diagnose()


def _diagnose():
    """Exact arithmetic solves an indefinite system happily; the diagnosis is a call of its own."""
    from analytic import diagnose

    found = diagnose(ScoreCoefficient("independent", 2), [1, 0, 1, 0, sp.Rational(1, 2)])
    assert found is not None
    raise found


def test_noise_makes_two_points_regular():
    """Two-point data at s > 0: Gaussian mixtures have a regular Gram at every degree (here 5)."""
    theta = theta_from_moments([float(v) for v in law_moments("two-point", 10)], 0.5)
    exact = exact_theta(ScoreCoefficient("independent", 5), law_moments("two-point", 10), 0.5)
    np.testing.assert_allclose(theta, [float(v) for v in exact], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=4, max_size=4), st.sampled_from([float, DoubleDouble, mpmath.mpf]))
def test_running_bound_contains_the_error(integers, kind):
    """Wilkinson's running bound, in float64, double-double and mpmath: |value - exact| <= error, for + - * / sqrt **."""
    a, b, c, d = (sp.Rational(n, 7) for n in integers)
    numbers = [Bounded(kind(n)) / 7 for n in integers]
    x, y, z, t = numbers
    top, exact_top = x * y - z**3 + t, a * b - c**3 + d
    bottom, exact_bottom = (x - y) * (x - y) + 1, (a - b) ** 2 + 1
    found = top / bottom + bottom.sqrt()
    exact = exact_top / exact_bottom + sp.sqrt(exact_bottom)
    value = found.value
    if isinstance(value, DoubleDouble):
        digits = sp.Rational(*value.high.as_integer_ratio()) + sp.Rational(*float(value.low).as_integer_ratio())
    else:
        digits = sp.Rational(*float(value).as_integer_ratio()) if kind is float else sp.Float(str(value), 60)
    slack = 0 if kind is not mpmath.mpf else sp.Float("1e-14")
    assert abs(sp.N(digits - exact, 60)) <= 1.01 * float(found.error) + slack


@pytest.mark.parametrize("backend, precision", [("numpy", "double"), ("numpy", "double-double"), ("mpmath", "double")])
@pytest.mark.parametrize("ridge", ["raw", "unit", "denoiser"])
@pytest.mark.parametrize("noise", ["ve", "vp"])
def test_every_ridge_in_every_arithmetic(noise, ridge, backend, precision):
    """Equations (16) and (23): exact and lambdified coefficients agree, VE and VP, wherever the ridge enters."""
    coefficient = ScoreCoefficient("independent", 2, noise, ridge=ridge)
    moments = law_moments("exponential", 4)
    exact = [float(v) for v in exact_theta(coefficient, moments, sp.Rational(1, 3), ridge=sp.Rational(1, 5))]
    function = coefficient.lambdify(backend, precision=precision)
    given = moments if backend == "mpmath" else [float(v) for v in moments]
    level, lam = (sp.Rational(1, 3), sp.Rational(1, 5)) if backend == "mpmath" else (1 / 3, 0.2)
    np.testing.assert_allclose(np.array(function(given, level, ridge=lam), dtype=float), exact, rtol=1e-12)


# -- digits ------------------------------------------------------------------------------------------------------------


def test_losses_are_what_a_plain_comparison_finds():
    """One record against :func:`analytic.compare`, another path: exact rationals, float64, condition, 50 digits."""
    moments = law_moments("exponential", 8)
    record = digit_loss(moments, sp.Rational(1, 10), degrees=[4], bases=["monomial"])[0]
    plain = compare(ScoreCoefficient("independent", 4, "ve"), moments, sp.Rational(1, 10))
    assert record.mpmath_error < 1e-40 and plain.mpmath_error < 1e-40
    assert record.condition < plain.condition  # unit second moments condition better than raw features
    for error in (record.coefficient_error, plain.error):
        assert error < 1e-15 * plain.condition
    assert record.lost == pytest.approx(np.log10(record.error / 2.0**-53), abs=1e-9) or record.error == 0


def test_hermite_loses_fewer_digits_where_the_law_is_near_gaussian():
    """Appendix A.2: at a degree where monomials have lost digits, the Hermite basis has lost fewer, on every law here."""
    table = digit_table(textbook(["uniform", "exponential"], [sp.Rational(1, 2)], degree=8))
    for law in ("uniform", "exponential"):
        last = {r.basis: r for r in table.records if r.law == law and r.degree == 8}
        assert last["hermite"].condition < last["monomial"].condition
        assert last["hermite"].lost < last["monomial"].lost
    gaussian = digit_loss(law_moments("gaussian", 16, shift=3), 1, bases=["monomial", "hermite"])
    at = {(r.basis, r.degree): r for r in gaussian}
    assert at["hermite", 8].condition == pytest.approx(1.0)  # orthonormal
    assert at["monomial", 8].condition > 1e6 and at["monomial", 8].lost > at["hermite", 8].lost + 2


def test_rounded_moments_lose_digits_that_no_basis_brings_back():
    """``start="moments"``: raw moments rounded to float64 first cost the Hermite basis its advantage."""
    moments = law_moments("uniform", 12, shift=3)
    lost = {
        start: digit_loss(moments, sp.Rational(1, 10), degrees=[6], bases=["hermite"], start=start)[0].lost
        for start in ("system", "moments")
    }
    assert lost["system"] < 4 < lost["moments"]


def test_vp_loses_what_ve_loses_at_the_same_noise():
    """VP at abar is VE at sigma^2 = (1 - abar) / abar: one conditioning (abar = 4/5 is sigma = 1/2)."""
    moments = law_moments("exponential", 8)
    vp = digit_loss(moments, sp.Rational(4, 5), noise="vp")
    ve = digit_loss(moments, sp.Rational(1, 2))
    assert [r.condition for r in vp] == pytest.approx([r.condition for r in ve])


def test_table_reads_its_records():
    """Rows, text, LaTeX and HTML of the table: first degrees by hand from the records."""
    table = digit_table(textbook(["exponential"], [sp.Rational(1, 10)], degree=7))
    for row in table.rows():
        mine = [r for r in table.records if r.basis == row["basis"]]
        first = min((r.degree for r in mine if r.lost >= 3), default=None)
        assert row["loses 3"] == first
    lines = str(table).splitlines()
    assert len(lines) == 2 + 3 + 1 and "2^-53" in lines[-1]
    assert table.latex().count(r"\\") == 4 and table._repr_html_().count("<tr>") == 4
    assert any(row["loses 3"] is not None for row in table.rows())


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: digit_loss([1, 0, 1], 1, degrees=[2]), "mu_4"),
        (lambda: digit_loss([1, 0, 1], 1, bases=["fourier"]), "fourier"),
        (lambda: digit_loss([1, 0, 1], 1, start="end"), "'end'"),
        (lambda: law_moments("cauchy", 4), "'cauchy'"),
        (lambda: digit_table([]), "no records"),
        (lambda: ScoreCoefficient("independent", 1).lambdify(tolerance=0), "tolerance"),
        (lambda: digit_loss([1, 0, 1, 0, 1, 0, 1], "x"), "finite"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises((AnalyticError, ValueError), match=named):
        make()


@pytest.mark.parametrize("name", sorted(LAWS))
def test_laws_have_their_moments(name):
    """Raw moments against quadrature or draws' definition: SymPy's own distributions."""
    from sympy import stats

    variable = {
        "gaussian": lambda: stats.Normal("x", 0, 1),
        "uniform": lambda: stats.Uniform("x", 0, 1),
        "laplace": lambda: stats.Laplace("x", 0, 1),
        "exponential": lambda: stats.Exponential("x", 1),
        "two-point": lambda: stats.Bernoulli("x", sp.Rational(1, 2)),
    }[name]()
    for order, value in enumerate(law_moments(name, 4, shift=2, scale=3)):
        assert sp.simplify(stats.E((2 + 3 * variable) ** order) - value) == 0


def test_singular_conditions_are_one_kind_of_error():
    for kind in (ConstantCoefficient, FewAtoms, NearlyConstant, NotAMomentSequence, NumericallySingular):
        assert issubclass(kind, SingularCoefficient) and issubclass(kind, ValueError)
