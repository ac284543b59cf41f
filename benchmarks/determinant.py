"""Determinants and cofactor forms of symbolic Hankel systems: which method, up to which degree.

    python -m benchmarks.determinant                # writes benchmarks/determinant.json

Every method computes the same expanded polynomials (compared before timing).  ``determinant``: det G alone.  ``solution``:
det G and all numerators of equation (21).  A method is not tried at the next degree once it took longer than the limit.
Times are processor seconds, the best of up to three runs; ratios are to ``laplace``, the method of :mod:`analytic.algebra.cofactor`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import sympy as sp
import typer
from sympy.polys.matrices import DomainMatrix
from sympy.polys.rings import ring

from analytic.algebra.cofactor import cofactor_solution
from analytic.algebra.hankel import hankel_matrix, hankel_rhs
from numeric.results import provenance, write_json

OUTPUT = Path(__file__).with_suffix(".json")
OURS = "laplace"


def _domain(matrix: sp.MatrixBase) -> DomainMatrix:
    symbols = sorted(matrix.free_symbols, key=str)
    domain, *_ = ring(symbols, sp.QQ)
    rows = [[domain.from_expr(matrix[j, k]) for k in range(matrix.shape[1])] for j in range(matrix.shape[0])]
    return DomainMatrix(rows, matrix.shape, domain.to_domain())


def determinant_methods() -> dict[str, Callable[[sp.MatrixBase], sp.Expr]]:
    """Name -> function from a matrix to its expanded determinant."""
    return {
        OURS: lambda g: cofactor_solution(g, sp.zeros(g.shape[0], 1))[1],
        "berkowitz": lambda g: sp.expand(g.det(method="berkowitz")),
        "bareiss": lambda g: sp.expand(g.det(method="bareiss")),
        "sympy laplace": lambda g: sp.expand(g.det(method="laplace")),
        "domain matrix": lambda g: _domain(g).det().as_expr(),
    }


def _domain_solution(gram: sp.MatrixBase, rhs: sp.MatrixBase) -> tuple[list[sp.Expr], sp.Expr]:
    """Fraction-free solve over the polynomial ring, brought to the denominator det G."""
    joined = _domain(sp.Matrix(gram).row_join(rhs))
    left, right = joined[:, : gram.shape[0]], joined[:, gram.shape[0] :]
    adjugate, determinant = left.adj_det()
    return [value.as_expr() for value in (adjugate * right).to_list_flat()], determinant.as_expr()


def _cramer(gram: sp.MatrixBase, rhs: sp.MatrixBase, method: str) -> tuple[list[sp.Expr], sp.Expr]:
    """F + 1 determinants, one for each numerator."""
    tops = []
    for k in range(gram.shape[0]):
        changed = gram.as_mutable()
        changed[:, k] = rhs
        tops.append(sp.expand(changed.det(method=method)))
    return tops, sp.expand(gram.det(method=method))


def solution_methods() -> dict[str, Callable[[sp.MatrixBase, sp.MatrixBase], tuple[list[sp.Expr], sp.Expr]]]:
    """Name -> function from (G, b) to the numerators and det G."""
    return {
        OURS: cofactor_solution,
        "berkowitz": lambda g, b: _cramer(g, b, "berkowitz"),
        "bareiss": lambda g, b: _cramer(g, b, "bareiss"),
        "domain matrix": _domain_solution,
    }


def _flat(result: Any) -> list[sp.Expr]:
    return [*result[0], result[1]] if isinstance(result, tuple) else [result]


def measure(task: str, degrees: list[int], limit: float, repeats: int) -> list[dict[str, Any]]:
    """One record for every degree and method that was tried."""
    methods: dict[str, Any] = determinant_methods() if task == "determinant" else solution_methods()
    records, active = [], dict(methods)
    for degree in degrees:
        gram, rhs = hankel_matrix(degree), hankel_rhs(degree)
        arguments = (gram,) if task == "determinant" else (gram, rhs)
        reference: list[sp.Expr] | None = None
        ours = 0.0
        for name, method in list(active.items()):
            seconds = []
            while len(seconds) < repeats and sum(seconds) < limit:
                sp.core.cache.clear_cache()
                start = time.process_time()
                result = method(*arguments)
                seconds.append(time.process_time() - start)
            found = _flat(result)
            reference = found if reference is None else reference
            if any(sp.expand(x - y) != 0 for x, y in zip(found, reference)):
                raise ArithmeticError(f"{name} disagrees at degree {degree}")
            best = min(seconds)
            ours = best if name == OURS else ours
            terms = sum(len(sp.Add.make_args(value)) for value in found)
            records.append(
                {
                    "task": task,
                    "degree": degree,
                    "method": name,
                    "seconds": best,
                    "ratio": best / ours,
                    "runs": len(seconds),
                    "terms": terms,
                }
            )
            print(f"{task:12} n = {degree}  {name:14} {best:9.4f} s  {best / ours:8.1f} x  ({terms} terms)", flush=True)
            if best > limit:
                del active[name]
    return records


def fresh_process(degree: int = 5, noise: str = "vp") -> dict[str, Any]:
    """Processor seconds for the Hankel system and cofactor form in a process that has done nothing else."""
    code = (
        "import time; start = time.process_time(); from analytic import ScoreCoefficient; ready = time.process_time(); "
        f"c = ScoreCoefficient('independent', {degree}, '{noise}'); c.gram, c.rhs, c.noisy_moments, c.theta; "
        "print(ready - start, time.process_time() - ready)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    load, derive = map(float, done.stdout.split())
    return {"degree": degree, "noise": noise, "import_seconds": load, "derive_seconds": derive}


def main(
    degrees: Annotated[int, typer.Option(help="Highest degree.", min=1)] = 7,
    limit: Annotated[float, typer.Option(help="Seconds after which a method is dropped.")] = 1.5,
    repeats: Annotated[int, typer.Option(help="Runs of which the best counts.", min=1)] = 3,
    output: Annotated[Path, typer.Option(help="JSON file.")] = OUTPUT,
) -> None:
    """Time the determinant methods on symbolic Hankel systems and write the ratios."""
    span = list(range(1, degrees + 1))
    records = measure("determinant", span, limit, repeats) + measure("solution", span, limit, repeats)
    fresh = fresh_process()
    print(f"degree 5 VP, Hankel system and cofactor form in a fresh process: {fresh['derive_seconds']:.2f} s")
    write_json(
        output,
        {
            **provenance(f"python -m benchmarks.determinant --degrees {degrees} --limit {limit} --repeats {repeats}"),
            "fresh_process": fresh,
            "records": records,
        },
    )


if __name__ == "__main__":
    typer.run(main)
