"""How moments move the coefficients: implicit differentiation against quotients, finite differences and generated code."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analytic import AnalyticError, FewAtoms, NotAMomentSequence, ScoreCoefficient, exact_theta
from analytic.algebra.laws import law_moments, moments_of_samples
from analytic.theory.response import Response, signal_share, standard_cumulants
from analytic.theory.sensitivity import Sensitivity

CASES = [
    ("independent", 1, {}),
    ("independent", 3, {}),
    ("independent", 5, {}),
    ("independent", 3, {"ridge": "unit"}),
    ("independent", 2, {"ridge": "raw"}),
    ("independent", 2, {"ridge": "denoiser"}),
    ("band", 2, {}),
    ("band", 3, {}),
    ("local", 2, {"neighbours": 2}),
    ("local", 2, {"neighbours": 2, "interactions": "full"}),
]


def setting(family: str, degree: int, options: dict, noise: str):
    """A coefficient, exact moments of sixty points (inside the cone of moments: some are moved), a level and a ridge."""
    coefficient = ScoreCoefficient(family, degree, noise, **options)
    width = len(coefficient.variables)
    points = [
        tuple(sp.Rational((7 * i + 3 * j * j + i**2 * (j + 1)) % 61 - 30, 16) for j in range(width)) for i in range(60)
    ]
    moments = moments_of_samples(points, coefficient.moment_exponents)
    return coefficient, moments, sp.Rational(1, 2), sp.Rational(1, 7) if coefficient.ridge else sp.Integer(0)


@pytest.mark.parametrize("noise", ["ve", "vp"])
@pytest.mark.parametrize("family, degree, options", CASES)
def test_exact_sensitivity_is_the_finite_difference(family, degree, options, noise):
    """Below (21): theta' = G^-1 (b' - G' theta), exact, against exact central differences (their error is h^2 theta''')."""
    coefficient, moments, level, ridge = setting(family, degree, options, noise)
    sensitivity = Sensitivity(coefficient)
    if len(sensitivity.exponents) > 12:
        sensitivity = Sensitivity(coefficient, moments=sensitivity.exponents[::9])
    found = sensitivity.exact(moments, level, ridge=ridge)
    assert found.shape == (len(coefficient.family), len(sensitivity.exponents))
    h = sp.Rational(1, 10**12)
    for p, row in enumerate(sensitivity.exponents):
        sides = []
        for sign in (1, -1):
            moved = list(moments)
            moved[coefficient.moment_exponents.index(row)] += sign * h
            sides.append(exact_theta(coefficient, moved, level, ridge=ridge))
        for value, up, down in zip(found.col(p), *sides):
            assert abs(sp.N((up - down) / (2 * h) - value, 40)) < 1e-15 * (1 + abs(sp.N(value, 20)))


@pytest.mark.parametrize(
    "family, degree, noise", [("independent", 1, "vp"), ("independent", 2, "ve"), ("band", 1, "general")]
)
def test_implicit_is_the_differentiated_quotient(family, degree, noise):
    """Equation (21) differentiated as a quotient is the same rational function, identically in all moments."""
    sensitivity = Sensitivity(family, degree, noise)
    difference = sensitivity.in_clean() - sensitivity.differentiated_quotient()
    assert all(sp.expand(sp.numer(sp.together(value))) == 0 for value in difference)


@pytest.mark.parametrize("family, degree", [("independent", 3), ("band", 2)])
def test_implicit_is_the_differentiated_quotient_at_rationals(family, degree):
    """The same for larger systems, at exact moments, and against the exact evaluation."""
    coefficient, moments, level, _ = setting(family, degree, {}, "ve")
    table = dict(zip(coefficient.moment_symbols[1:], moments[1:])) | {coefficient.noise.level[0]: level}
    names = [(3,)] if family == "independent" else [(1, 1, 0)]
    sensitivity = Sensitivity(coefficient, moments=names)
    exact = sensitivity.exact(moments, level)
    assert sensitivity.in_clean().xreplace(table) == exact
    assert sensitivity.differentiated_quotient().xreplace(table) == exact


def test_printed_entries_are_the_jacobian():
    """The factored numerators over powers of Delta that ``print`` and LaTeX show, multiplied out again."""
    sensitivity = Sensitivity("independent", 2, "vp")
    delta = {sp.Symbol("Delta"): sensitivity.coefficient.cofactors[1]}
    shown = {(name, moment): value for name, moment, value in sensitivity.entries()}
    for row in [(1,), (2,), (3,), (4,)]:
        for name, value in zip(sensitivity.coefficient.theta_symbols, sensitivity.by_noisy_moment(row)):
            printed = shown[name, sp.Symbol(f"m_{row[0]}", real=True)].xreplace(delta)
            assert sp.expand(sp.numer(sp.together(printed - value))) == 0
    assert "Delta" in str(sensitivity) and sensitivity._repr_latex_().startswith("$")


@pytest.mark.parametrize("backend", ["numpy", "torch", "mpmath"])
@pytest.mark.parametrize("family, degree, options, noise", [(*CASES[1], "vp"), (*CASES[3], "ve"), (*CASES[6], "vp")])
def test_compiled_jacobian(family, degree, options, noise, backend):
    """The straight-line program, lambdified, against exact rationals."""
    coefficient, moments, level, ridge = setting(family, degree, options, noise)
    sensitivity = Sensitivity(coefficient)
    exact = np.array(sensitivity.exact(moments, level, ridge=ridge).evalf(20).tolist(), dtype=float)
    function = sensitivity.lambdify(backend)
    if backend == "mpmath":
        found = np.array(function(moments, level, ridge=ridge), dtype=float)
    else:
        vector: object = np.array([float(value) for value in moments])
        if backend == "torch":
            vector = pytest.importorskip("torch").as_tensor(vector)
        found = np.asarray(function(vector, float(level), ridge=float(ridge)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


def test_compiled_jacobian_broadcasts_and_agrees_with_autograd():
    """Shape (F, P, coefficients); torch's reverse mode through the closed form is another way to the same numbers."""
    torch = pytest.importorskip("torch")
    coefficient = ScoreCoefficient("independent", 2, "ve")
    samples = np.random.default_rng(0).gamma(2.0, size=(400, 3))
    moments = np.stack([(samples**k).mean(0) for k in range(5)])
    found = Sensitivity(coefficient).lambdify()(moments, 0.5)
    assert found.shape == (3, 4, 3)
    for column in range(3):
        vector = torch.as_tensor(moments[:, column])
        slopes = torch.autograd.functional.jacobian(lambda m: coefficient.lambdify("torch")(m, 0.5), vector)
        np.testing.assert_allclose(found[:, :, column], slopes[:, 1:], rtol=1e-9, atol=1e-9)


def test_a_moment_moves_the_score():
    """dc/dmu_p at a point: the score itself, with one moment changed by h."""
    coefficient = ScoreCoefficient("independent", 2, "ve")
    moments, level, h = law_moments("exponential", 4), sp.Rational(1, 2), sp.Rational(1, 10**8)
    table = dict(zip(coefficient.moment_symbols[1:], moments[1:])) | {coefficient.noise.level[0]: level}
    slope = coefficient.in_clean(Sensitivity(coefficient, moments=[3]).score_slope()[0]).xreplace(table)
    w = coefficient.variables[0]
    moved = moments[:3] + [moments[3] + h] + moments[4:]
    plain, changed = (exact_theta(coefficient, values, level) for values in (moments, moved))
    for y in (-1, 0, 3):
        rise = sum((q - p) * y**k for k, (p, q) in enumerate(zip(plain, changed))) / h
        assert abs(float(rise - slope.subs(w, y))) < 1e-6


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Sensitivity("independent", 2, moments=[9]), "9"),
        (lambda: Sensitivity("band", 2, moments=["11x"]), "11x"),
        (lambda: Sensitivity("independent", 2, basis="hermite"), "hermite"),
        (lambda: Sensitivity("band", 3).jacobian, "11 features"),
        (lambda: Sensitivity("local", 3).program(), "moments="),
        (lambda: Response(2).jacobian([1]), "got 1"),
        (lambda: Response(3).polynomial(9), "got 9"),
        (lambda: Response(4).closed_form(), "jacobian"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(AnalyticError, match=named):
        make()


# -- the standardised form ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_response_at_the_gaussian(degree):
    """Gram-Charlier: at the Gaussian kappa_p moves He_(p-1) alone, by 1/(p-1)!."""
    jacobian = Response(degree).jacobian()
    for k in range(degree + 1):
        for p in range(3, 2 * degree + 1):
            assert jacobian[k, p - 3] == (sp.Rational(1, sp.factorial(k)) if p == k + 1 else 0)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.fractions("-1/3", "1/3", max_denominator=9), min_size=4, max_size=4))
def test_response_is_the_finite_difference(values):
    """d theta_k / d kappa_p away from the Gaussian, degree 3, against exact central differences."""
    response, h = Response(3), sp.Rational(1, 10**10)
    try:
        jacobian = response.jacobian(values)
    except (FewAtoms, NotAMomentSequence):
        assume(False)  # cumulants of no density
    scale = 1 + max(abs(value) for value in jacobian) ** 3
    for p in range(4):
        up, down = list(values), list(values)
        up[p], down[p] = values[p] + h, values[p] - h
        difference = (response.theta(up) - response.theta(down)) / (2 * h) - jacobian.col(p)
        assert max(abs(float(value)) for value in difference) < 1e-12 * float(scale) ** 2


def test_response_closed_form_and_elasticity():
    """The written-out entries at values are the solved ones; elasticities are logarithmic derivatives."""
    values = [sp.Rational(1, 2), sp.Rational(3, 4)]
    response = Response(2)
    table = dict(zip(response.cumulants, values))
    assert response.closed_form().xreplace(table) == response.jacobian(values)
    theta, elasticity = response.theta(values), response.elasticity(values)
    assert elasticity[2, 0] == values[0] * response.jacobian(values)[2, 0] / theta[2]
    assert elasticity[0, 0] == 0  # theta_0 = 0 and stays 0


@pytest.mark.parametrize("noise, level", [("ve", "1/2"), ("vp", "3/10")])
def test_noise_hides_higher_cumulants(noise, level):
    """kappa_p(noisy) = rho^(p/2) kappa_p(clean): from the moments, against the share of the signal."""
    clean = standard_cumulants(law_moments("exponential", 6))
    assert clean == [2, 6, 24, 120]  # (p - 1)!
    noisy = standard_cumulants(law_moments("exponential", 6), noise, sp.Rational(level))
    rho = signal_share(noise, sp.Rational(level), variance=1)
    for p, (left, right) in enumerate(zip(noisy, clean), 3):
        assert sp.simplify(left - right * rho ** sp.Rational(p, 2)) == 0


def test_response_predicts_the_change_of_the_score():
    """R_p(u), the polynomial: adding epsilon of the p-th cumulant changes sd * c by epsilon R_p to first order."""
    response, epsilon = Response(3), sp.Rational(1, 10**9)
    u = sp.Symbol("u", real=True)
    hermite = [1, u, u**2 - 1, u**3 - 3 * u]
    for order in (3, 4, 5, 6):
        values = [epsilon if p == order else 0 for p in range(3, 7)]
        change = sum((a - b) * he for a, b, he in zip(response.theta(values), response.theta(), hermite)) / epsilon
        for point in (-2, sp.Rational(1, 3), 1):
            assert abs(float((change - response.polynomial(order)).subs(u, point))) < 1e-7
