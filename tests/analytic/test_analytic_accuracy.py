"""Stated accuracy: named conditions instead of wrong numbers, and the table of digits that float64 loses."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

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
    Response,
    ScoreCoefficient,
    Sensitivity,
    SingularCoefficient,
    compare,
    exact_theta,
    theta_from_moments,
)
from analytic.algebra.laws import LAWS, law_moments, moments_of_samples
from analytic.algebra.rational import first_negative, rational
from analytic.numbers.bounded import Bounded
from analytic.numbers.digits import digit_loss, digit_table, textbook
from analytic.numbers.doubledouble import DoubleDouble
from analytic.theory.response import standard_cumulants

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
        theta_from_moments([1, 0, 1, 0, sp.Rational(1, 2)], **options)


NO_LAW = [
    ([1, 0, sp.Rational(-1, 2)], r"\(1, x\)"),
    ([1, 0, 0, 0, -1], r"\(1, x\^2\)"),
    ([1, 0, 1, 0, sp.Rational(1, 2)], r"\(1, x, x\^2\)"),
    ([1, 0, 0, 1, 1], r"\(1, x, x\^2\)"),  # a zero pivot with an entry beside it
]


@pytest.mark.parametrize("moments, rows", NO_LAW)
@pytest.mark.parametrize("precision", ["double", "double-double", 30, "exact"])
def test_moments_of_no_distribution_are_refused(moments, rows, precision):
    """Also where noise makes the Gram positive: mu_2 = -1/2 at sigma = 1 would give -2.  Exact: the minor is named."""
    with pytest.raises(NotAMomentSequence, match="no distribution") as found:
        theta_from_moments(moments, 1, precision=precision)
    if precision in (30, "exact"):
        assert re.search(
            f"minor .* on {rows.replace('x, x', 'x(, x)?, x') if 'x, x' in rows else rows}", str(found.value)
        )
    with pytest.raises(NotAMomentSequence):
        digit_loss(moments, 1)
    with pytest.raises(NotAMomentSequence):
        standard_cumulants(moments)


def test_mixed_moments_of_no_distribution():
    """Band and local: correlations beyond 1, and squares of products the features do not hold (m_1^2 m_2^2 < 0)."""
    band = ScoreCoefficient("band", 2)
    points = [(1, 2, 0), (3, 1, 1), (0, 1, 2), (-1, 0, 1), (2, 2, 2)]
    moments = moments_of_samples(points, band.moment_exponents)
    assert len(exact_theta(band, moments, 1)) == 5
    moments[band.moment_exponents.index((1, 1, 0))] = sp.Integer(100)
    with pytest.raises(NotAMomentSequence, match=r"x_1"):
        exact_theta(band, moments, 1)
    local = ScoreCoefficient("local", 2, neighbours=2)
    moments = moments_of_samples(points, local.moment_exponents)
    floats = np.array([[float(value)] * 3 for value in moments])
    assert local.lambdify()(floats, 1.0).shape == (len(local.family), 3)
    place = local.moment_exponents.index((0, 2, 2))
    moments[place], floats[place, 1] = sp.Integer(-1), -1.0
    for make in (
        lambda: exact_theta(local, moments, 1),
        lambda: Sensitivity(local, moments=[(1, 0, 0)]).exact(moments, 1),
        lambda: local.lambdify("exact")(moments, 1),
        lambda: local.lambdify("mpmath")(moments, 1),
        lambda: local.lambdify()(floats, 1.0),
    ):
        with pytest.raises(NotAMomentSequence, match="no distribution"):
            make()
    with pytest.raises(NotAMomentSequence, match=r"1 of 3 coefficients \(first: \[1\]\)"):
        local.lambdify()(floats, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=6, max_size=6))
def test_first_negative_is_semidefiniteness(entries):
    """Exact elimination against SymPy's eigenvalues on small symmetric matrices; the named minor is that minor."""
    a, b, c, d, e, f = entries
    matrix = sp.Matrix([[a, b, c], [b, d, e], [c, e, f]])
    found = first_negative(matrix)
    lowest = min(np.linalg.eigvalsh(np.array(matrix, dtype=float)))
    assert (found is None) == (lowest > -1e-9)
    if found is not None:
        rows, minor = found
        assert minor < 0 and matrix.extract(rows, rows).det() == minor


def test_cumulants_of_no_distribution():
    """kappa_4 < kappa_3^2 - 2 is impossible (Pearson)."""
    with pytest.raises(NotAMomentSequence, match="He_2"):
        Response(2).theta([3, 0])


EXACT = [1, sp.Rational(1, 2), sp.Rational(34, 100), sp.Rational(1, 4), sp.Rational(1, 5)]


@pytest.mark.parametrize(
    "number",
    [
        lambda value: Decimal(int(value.p)) / int(value.q),
        lambda value: str(Decimal(int(value.p)) / int(value.q)),
        lambda value: str(value),
        lambda value: Fraction(int(value.p), int(value.q)),
    ],
    ids=["Decimal", "decimal text", "fraction text", "Fraction"],
)
def test_exact_inputs_stay_exact(number):
    """14450/9737 from 1, .5, .34, .25, .2 at .5, whatever the numbers are written in, and by every exact door."""
    given, level = [number(sp.Rational(value)) for value in EXACT], number(sp.Rational(1, 2))
    coefficient = ScoreCoefficient("independent", 2)
    exact = exact_theta(coefficient, EXACT, sp.Rational(1, 2))
    assert exact[0] == sp.Rational(14450, 9737)
    assert theta_from_moments(given, level, precision="exact") == exact
    assert coefficient.lambdify("exact")(given, level) == exact
    assert compare(coefficient, given, level).exact == exact
    with mpmath.workdps(40):
        found = coefficient.lambdify("mpmath")(given, level)
        assert abs(found[0] - mpmath.mpf(14450) / 9737) < mpmath.mpf(10) ** -37


@pytest.mark.parametrize("precision", ["exact", 30, "double-double", "double"])
def test_numbers_and_ridges_are_read_alike_in_every_precision(precision):
    """(G + lambda diag G) theta = b of 1, 1/10, 1/3 at 1/2 with lambda = 1/10 is 24/167, -264/167, however that is written."""
    for ridge in ("1/10", Decimal("0.1"), Fraction(1, 10), sp.Rational(1, 10)):
        found = theta_from_moments([1, "1/10", Fraction(1, 3)], "1/2", ridge=ridge, precision=precision)
        assert [float(value) for value in found] == pytest.approx([24 / 167, -264 / 167], rel=1e-14)
    for ridge, message in ((-1, "ridge must be >= 0"), ("-1/10", "ridge must be >= 0"), ("x", "finite real"), (float("nan"), "finite real")):
        with pytest.raises(AnalyticError, match=message):
            theta_from_moments([1, 0, 3], 1, ridge=ridge, precision=precision)
    for moments in ([1, "1/0", 3], [1, None, 3], [1, 1j, 3], [1, "a", 3]):
        with pytest.raises(AnalyticError, match="finite"):
            theta_from_moments(moments, 1, precision=precision)


@pytest.mark.parametrize(
    "value, exact",
    [
        (0.1, sp.Rational(*(0.1).as_integer_ratio())),
        (np.float32(0.1), sp.Rational(*float(np.float32(0.1)).as_integer_ratio())),
        (np.longdouble(1) / 3, sp.Rational(*(np.longdouble(1) / 3).as_integer_ratio())),
        (np.int64(2**62 + 1), sp.Integer(2**62 + 1)),
        (sp.Float("0.1", 50), None),
        (mpmath.mpf("-0.75"), sp.Rational(-3, 4)),
        (sp.sqrt(2), sp.sqrt(2)),
        ("1e-3", sp.Rational(1, 1000)),
    ],
)
def test_no_number_is_rounded_on_the_way_in(value, exact):
    """Binary numbers are the dyadic rationals they are, at their own precision."""
    found = rational(value)
    if exact is None:  # 50 digits of 1/10 are closer to it than a double
        assert 0 < abs(found - sp.Rational(1, 10)) < sp.Rational(1, 10**50)
    else:
        assert found == exact


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), Decimal("NaN"), mpmath.mpf("inf"), "x", 1j, sp.Symbol("x"), None]
)
def test_what_is_no_number_is_named(value):
    with pytest.raises(AnalyticError, match="finite real numbers"):
        rational(value)


def test_levels_are_not_rounded_either():
    """sigma = 1e-400 and abar = 1 - 1e-30 are levels; as floats they would be 0 and 1."""
    assert exact_theta(ScoreCoefficient("independent", 1), [1, 0, 1], Fraction(1, 10**400))[1] < 0
    value = 1 - Fraction(1, 10**30)
    assert exact_theta(ScoreCoefficient("independent", 1, "vp"), [1, 0, 1], value)[1] == -1


@pytest.mark.parametrize(
    "degree, law, theta",
    [
        (20, "laplace", None),
        pytest.param(30, "laplace", -1.14383, marks=pytest.mark.slow),
        pytest.param(45, "gaussian", -100 / 101, marks=pytest.mark.slow),
    ],
)
def test_the_exact_result_does_not_depend_on_its_remarks(degree, law, theta):
    """50 digits find the system singular; the condition number and the exact result are there all the same."""
    found = compare(ScoreCoefficient("independent", degree), law_moments(law, 2 * degree), sp.Rational(1, 10))
    assert 1e40 < found.condition < 1e300
    if theta is not None:
        assert float(found.exact[1]) == pytest.approx(theta, abs=1e-5)
        assert found.mpmath_error == np.inf and found.mpmath50 == []


def test_an_arithmetic_that_fails_is_a_remark():
    """Moments beyond float64's range: the exact result stands, float64 has none."""
    found = compare(ScoreCoefficient("independent", 1), [1, 0, 10**400], 1)
    assert found.exact[1] == sp.Rational(-1, 10**400 + 1) and found.float64 == [] and found.error == np.inf


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
