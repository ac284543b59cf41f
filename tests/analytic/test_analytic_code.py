"""Generated source: C compiled by ``cc``, NumPy and torch executed, each against exact rationals."""

from __future__ import annotations

import ctypes
import pickle
import re
import shutil
import subprocess
from functools import lru_cache

import numpy as np
import pytest
import sympy as sp

from analytic import AnalyticError, ScoreCoefficient, Sensitivity, exact_theta, law_moments
from analytic.algebra.laws import moments_of_samples
from analytic.algebra.program import Program, compile_program
from analytic.numbers.bounded import Bounded
from analytic.numbers.doubledouble import DoubleDouble
from analytic.numbers.jacobian import JacobianFunction

CC = shutil.which("cc") or shutil.which("gcc")
CASES = [
    ("independent", 1, "ve", {}),
    ("independent", 3, "vp", {}),
    ("independent", 5, "ve", {}),
    ("independent", 3, "general", {}),
    ("independent", 3, "ve", {"basis": "hermite"}),
    ("independent", 2, "vp", {"ridge": "unit"}),
    ("independent", 2, "ve", {"ridge": "denoiser"}),
    ("band", 2, "ve", {}),
    ("band", 2, "vp", {"basis": "standardized"}),
    ("band", 3, "vp", {}),
    ("local", 2, "ve", {"neighbours": 2}),
    ("local", 1, "vp", {"interactions": "full"}),
]


def problem(family: str, degree: int, noise: str, options: dict):
    """A coefficient, exact and float64 moments, its levels and ridge, and the exact coefficients."""
    coefficient = ScoreCoefficient(family, degree, noise, **options)
    width = len(coefficient.variables)
    points = [tuple(sp.Rational((7 * i + 3 * j * j + i * j) % 11 - 5, 4) for j in range(width)) for i in range(12)]
    moments = moments_of_samples(points, coefficient.moment_exponents)
    levels = [sp.Rational(3, 4), sp.Rational(1, 2)][: len(coefficient.noise.level)]
    ridge = sp.Rational(1, 8) if coefficient.ridge else 0
    exact = [float(value) for value in exact_theta(coefficient, moments, *levels, ridge=ridge)]
    tail = [float(ridge)] if coefficient.ridge else []
    return coefficient, [float(v) for v in moments], [*map(float, levels), *tail], np.array(exact)


def compiled(source: str, name: str, folder) -> ctypes._CFuncPtr:
    """Compile C source, warnings as errors, and load the function."""
    code, library = folder / f"{name}.c", folder / f"{name}.so"
    code.write_text(source)
    flags = "-std=c99 -O2 -Wall -Wextra -Werror -shared -fPIC".split()
    done = subprocess.run([CC, *flags, str(code), "-o", str(library), "-lm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return getattr(ctypes.CDLL(str(library)), name)


def call(function, moments: list[float], levels: list[float], size: int) -> tuple[int, np.ndarray]:
    vector, result = (ctypes.c_double * len(moments))(*moments), (ctypes.c_double * size)()
    status = function(vector, *map(ctypes.c_double, levels), result)
    return status, np.array(result[:])


@pytest.mark.skipif(CC is None, reason="no C compiler")
@pytest.mark.parametrize("family, degree, noise, options, cse", [(*c, True) for c in CASES] + [(*CASES[1], False)])
def test_c_compiles_and_is_the_exact_result(family, degree, noise, options, cse, tmp_path):
    """C99 without warnings; theta to float64's accuracy (equation (21))."""
    coefficient, moments, levels, exact = problem(family, degree, noise, options)
    function = compiled(coefficient.code("c", cse=cse), "theta", tmp_path)
    status, found = call(function, moments, levels, len(exact))
    assert status == 0
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * np.abs(exact).max())


@pytest.mark.skipif(CC is None, reason="no C compiler")
def test_c_says_where_it_is_singular(tmp_path):
    """Two-point data at no noise: status 1 and the result untouched, no NaN."""
    function = compiled(ScoreCoefficient("independent", 2, "clean").code("c"), "theta", tmp_path)
    status, found = call(function, [1.0, 0.5, 0.5, 0.5, 0.5], [], 3)
    assert status == 1 and (found == 0).all()


@pytest.mark.skipif(CC is None, reason="no C compiler")
def test_c_sensitivity(tmp_path):
    """The Jacobian in C, row by row, against exact rationals."""
    coefficient, moments, levels, _ = problem("independent", 2, "vp", {})
    sensitivity = Sensitivity(coefficient)
    exact = np.array(sensitivity.exact([sp.Rational(*v.as_integer_ratio()) for v in moments], levels[0]).evalf(20))
    status, found = call(compiled(sensitivity.code("c"), "sensitivity", tmp_path), moments, levels, exact.size)
    assert status == 0
    np.testing.assert_allclose(found.reshape(exact.shape), exact.astype(float), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("language", ["numpy", "torch"])
@pytest.mark.parametrize("family, degree, noise, options", CASES[1::2])
def test_python_source_is_the_exact_result(family, degree, noise, options, language):
    """The printed source, executed: one coefficient, and a batch of three that broadcasts."""
    coefficient, moments, levels, exact = problem(family, degree, noise, options)
    torch = pytest.importorskip("torch") if language == "torch" else None
    space: dict = {}
    exec(coefficient.code(language, name="f"), space)

    def array(values):
        return np.array(values) if torch is None else torch.as_tensor(values, dtype=torch.float64)

    found = np.asarray(space["f"](array(moments), *levels))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * np.abs(exact).max())
    batch = np.asarray(space["f"](array([[m] * 3 for m in moments]), *levels))
    np.testing.assert_allclose(batch, np.stack([found] * 3, axis=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("language", ["numpy", "torch"])
def test_python_source_refuses_a_singular_system(language):
    """The generated function raises where det G is not positive; it returns no NaN."""
    torch = pytest.importorskip("torch") if language == "torch" else None
    space: dict = {}
    exec(ScoreCoefficient("independent", 2, "clean").code(language), space)
    moments = [1.0, 0.5, 0.5, 0.5, 0.5]
    with pytest.raises(ArithmeticError, match="singular"):
        space["theta"](np.array(moments) if torch is None else torch.tensor(moments, dtype=torch.float64))


def test_common_subexpressions_are_named_once():
    """CSE shortens the source and leaves no product of three symbols that occurs twice (degree 4, VP)."""
    coefficient = ScoreCoefficient("independent", 4, "vp")
    with_cse, without = coefficient.program().with_cse(), coefficient.program()

    def operations(program) -> int:
        return sum(sp.count_ops(value) for _, value in program.assignments) + sum(map(sp.count_ops, program.outputs))

    assert operations(with_cse) < operations(without)
    assert len({value for _, value in with_cse.assignments if not value.is_Atom}) == len(
        [value for _, value in with_cse.assignments if not value.is_Atom]
    )


# -- whole numbers that no int holds ---------------------------------------------------------------------------------


def whole_numbers(source: str) -> list[int]:
    """Integer literals of a source text (no exponents, indices or parts of names and of decimal numbers)."""
    return [int(found) for found in re.findall(r"(?<![\w.])(\d{8,})(?![\w.])", source)]


@lru_cache
def plain_source(language: str) -> str:
    return ScoreCoefficient("independent", 17, "ve").code(language, cse=False, name="f")


LARGEST = {"c": 2**31 - 1, "numpy": 2**53, "torch": 2**53}


@pytest.mark.parametrize("language", LARGEST)
def test_no_literal_overflows(language):
    """Degree 17 and beyond: (2p - 1)!! and binomials pass 2^63."""
    source = plain_source(language)
    assert "6332659870762850625.0" in source  # 33!!
    assert max(whole_numbers(source), default=0) <= LARGEST[language]


@pytest.mark.slow
@pytest.mark.parametrize("language", LARGEST)
def test_no_literal_overflows_in_other_programs(language):
    """The standardised bases, and the Jacobian."""
    for item in (
        ScoreCoefficient("independent", 17, basis="hermite"),
        ScoreCoefficient("independent", 17, basis="standardized"),
        Sensitivity("independent", 17),
    ):
        source = item.code(language)
        assert "6332659870762850625.0" in source
        assert max(whole_numbers(source), default=0) <= LARGEST[language]


@pytest.mark.parametrize(
    "language", ["numpy", "torch", pytest.param("c", marks=pytest.mark.skipif(CC is None, reason="-"))]
)
def test_degree_seventeen_is_the_exact_result(language, tmp_path):
    """The exponential law at sigma 2.3: theta_1 = -.1704903 (integers that overflowed gave -.1705178, with status 0)."""
    torch = pytest.importorskip("torch") if language == "torch" else None
    coefficient = ScoreCoefficient("independent", 17, "ve")
    moments = law_moments("exponential", 34)
    exact = np.array([float(value) for value in exact_theta(coefficient, moments, 2.3)])
    floats, source = [float(value) for value in moments], plain_source(language)
    if language == "c":
        status, found = call(compiled(source, "f", tmp_path), floats, [2.3], len(exact))
        assert status == 0
    else:
        space: dict = {}
        exec(source, space)
        found = np.asarray(
            space["f"](np.array(floats) if torch is None else torch.tensor(floats, dtype=torch.float64), 2.3)
        )
        assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    assert exact[1] == pytest.approx(-0.1704903, abs=1e-7)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("precision", ["double", "double-double"])
def test_lambdified_whole_numbers(backend, precision):
    """The same integers in lambdified functions, value and bound: float64 or double-double, NumPy or torch."""
    torch = pytest.importorskip("torch")
    number = 3 * 10**30 + 7  # no double holds it, a double-double does
    x = sp.Symbol("x")
    function = compile_program(
        Program((x,), (), (number * x,)), [], float if precision == "double" else DoubleDouble.of
    )
    array = np.array([1 / 3]) if backend == "numpy" else torch.tensor([1 / 3], dtype=torch.float64)
    given = DoubleDouble.of(array) if precision == "double-double" else array
    exact = number * sp.Rational(*(1 / 3).as_integer_ratio())
    (found,) = function(given)
    (bounded,) = function(Bounded(given, array * 0))
    value = bounded.value
    parts = [value.high, value.low] if isinstance(value, DoubleDouble) else [value]
    gap = abs(sum((sp.Rational(*float(part[0]).as_integer_ratio()) for part in parts), sp.Integer(0)) - exact)
    assert gap <= sp.Rational(*float(bounded.error[0]).as_integer_ratio())
    digits = 1e-15 if precision == "double" else 1e-30
    assert float(bounded.error[0]) <= digits * 1e30
    found = found.rounded() if isinstance(found, DoubleDouble) else found
    assert float(found[0]) == pytest.approx(float(exact), rel=1e-15)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_whole_numbers_of_a_lambdified_jacobian(backend):
    """2^63 and more in the Jacobian's function: torch refuses such integers, NumPy would make arrays of objects of them."""
    torch = pytest.importorskip("torch")
    coefficient, number = ScoreCoefficient("independent", 1, "ve"), 3 * 10**30
    inputs = coefficient.program().inputs
    function = JacobianFunction(coefficient, Program(inputs, (), (number * inputs[0], number * inputs[1])), 1, backend)
    moments = np.array([1.0, 0.5, 1.25]) if backend == "numpy" else torch.tensor([1.0, 0.5, 1.25], dtype=torch.float64)
    found = np.asarray(function(moments, 0.5))
    assert found.dtype == np.float64 and found.tolist() == [[0.5 * number], [1.25 * number]]


@pytest.mark.slow
def test_the_jacobian_of_degree_seventeen_is_the_exact_result():
    """The exponential law at sigma 2.3, four moments, every backend."""
    torch = pytest.importorskip("torch")
    sensitivity = Sensitivity(ScoreCoefficient("independent", 17), moments=[(1,), (2,), (17,), (34,)])
    moments = law_moments("exponential", 34)
    exact = np.array(sensitivity.exact(moments, sp.Rational(23, 10)).tolist(), dtype=float)
    floats = [float(value) for value in moments]
    for backend, given in (("numpy", np.array(floats)), ("torch", torch.tensor(floats, dtype=torch.float64)), ("mpmath", moments)):
        found = np.array(sensitivity.lambdify(backend)(given, 2.3), dtype=float)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())


EVALUATED = {
    "theta": lambda backend: ScoreCoefficient("independent", 2, "vp").lambdify(backend),
    "double": lambda backend: ScoreCoefficient("band", 1, "vp", ridge="unit").lambdify(backend, precision="double", tolerance=None),
    "jacobian": lambda backend: Sensitivity("independent", 2, "vp").lambdify(backend),
}


@pytest.mark.parametrize("what", EVALUATED)
@pytest.mark.parametrize("backend", ["numpy", "torch", "mpmath"])
def test_evaluators_pickle(what, backend):
    """Functions of arrays go to other processes: what comes back gives the same bits and refuses the same input."""
    torch = pytest.importorskip("torch")
    function = EVALUATED[what](backend)
    again = pickle.loads(pickle.dumps(function))
    width = len(function.coefficient.variables)
    points = [tuple(sp.Integer(v) for v in row[:width]) for row in ((0, 1, 2), (1, 0, 0), (2, 2, 1), (-1, 1, 3), (3, -2, 0))]
    moments = [float(value) for value in moments_of_samples(points, function.coefficient.moment_exponents)]
    given = {"numpy": np.array(moments), "torch": torch.tensor(moments, dtype=torch.float64), "mpmath": moments}[backend]
    assert np.array_equal(np.array(function(given, 0.5), dtype=float), np.array(again(given, 0.5), dtype=float))
    assert again.__doc__ == function.__doc__
    with pytest.raises(AnalyticError, match="moments must hold"):
        again(given[:-1], 0.5)


@pytest.mark.parametrize(
    "language, name",
    [
        ("numpy", "lambda"),
        ("numpy", "numpy"),
        ("torch", "torch"),
        ("torch", "None"),
        ("c", "int"),
        ("c", "sqrt"),
        ("c", "printf"),
        ("c", "abs"),
        ("c", "_Bool"),
        ("numpy", "ArithmeticError"),
        ("c", "é"),
    ],
)
def test_reserved_names_are_refused(language, name):
    """A function called ``int`` or ``numpy`` would not compile, or would hide what its own code calls."""
    with pytest.raises(AnalyticError, match="function name"):
        ScoreCoefficient("independent", 1).code(language, name=name)


@pytest.mark.skipif(CC is None, reason="no C compiler")
@pytest.mark.parametrize("name", ["mu", "lambda", "numpy", "result", "m_1"])
def test_other_names_compile(name, tmp_path):
    """Names of its own arguments, and words of Python, are fine in C."""
    coefficient, moments, levels, exact = problem("independent", 1, "ve", {})
    status, found = call(compiled(coefficient.code("c", name=name), name, tmp_path), moments, levels, len(exact))
    assert status == 0 and np.allclose(found, exact)
