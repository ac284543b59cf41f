"""Dense symmetric algebra on the lower triangle against SciPy, and at the sizes where SciPy's own dsyrk crashes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import scipy.linalg
import torch

from numeric.scores import dense
from numeric.scores.dense import SingularGramError, add_gram, backward_solve, cholesky_, forward_solve, mirror

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("panel", [3, 7, 64])
@pytest.mark.parametrize("size", [1, 6, 7, 20])
def test_panels_agree_with_scipy(panel, size, monkeypatch, generator):
    """Product, factor and both solves, for panels that divide the size and panels that do not; leading blocks too."""
    monkeypatch.setattr(dense, "PANEL", panel)
    phi = torch.randn(size, 50, generator=generator, dtype=torch.float64)
    gram = torch.zeros(size, size, dtype=torch.float64)
    add_gram(gram, phi[:, :20])
    add_gram(gram, phi[:, 20:])
    whole = phi @ phi.T
    assert torch.allclose(mirror(gram.clone()), whole, atol=1e-12)
    factor = cholesky_(gram.clone())
    assert torch.allclose(factor.tril(), torch.from_numpy(scipy.linalg.cholesky(whole.numpy(), lower=True)), atol=1e-10)
    rhs = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    half = forward_solve(factor, rhs)
    assert torch.allclose(backward_solve(factor, half), torch.linalg.solve(whole, rhs), atol=1e-9)
    lead = max(1, size // 2)  # the factor of a leading block is the leading block of the factor
    assert torch.allclose(backward_solve(factor, half[:lead]), torch.linalg.solve(whole[:lead, :lead], rhs[:lead]), atol=1e-9)


def test_a_singular_matrix_is_named():
    with pytest.raises(SingularGramError, match="the Gram of 5 features is singular"):
        cholesky_(torch.ones(5, 5, dtype=torch.float64) - 1e-3 * torch.eye(5, dtype=torch.float64), "Gram")


LARGE = """
import sys, torch
from numeric.scores.dense import *
size, threads = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
generator = torch.Generator().manual_seed(0)
phi = torch.randn(size, 1088, generator=generator, dtype=torch.float64)
gram = torch.zeros(size, size, dtype=torch.float64)
add_gram(gram, phi)
gram.diagonal().add_(size)
rhs = torch.randn(size, 8, generator=generator, dtype=torch.float64)
factor = cholesky_(gram)
x = backward_solve(factor, forward_solve(factor, rhs))
residual = phi @ (phi.T @ x) + size * x - rhs   # the system itself, without its matrix
print(float(residual.abs().max() / rhs.abs().max()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [15_409, 25_000])
def test_large_systems_with_one_and_two_threads(size, threads):
    """15,409 rows are where dsyrk of SciPy's OpenBLAS kills the process with two threads; 25,000 are band n=3 at 64 x 64."""
    done = subprocess.run([sys.executable, "-c", LARGE, str(size), str(threads)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    assert float(done.stdout) < 1e-10
