"""Dense symmetric matrices of tens of thousands of rows: products, Cholesky and solves on the lower triangle, in place.

Written with torch's products on panels: the same code on a CPU and on a GPU, near the speed of the machine's matrix product,
and without the symmetric rank-k update of SciPy's BLAS, which crashes the process from about 15,000 rows with two threads.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

PANEL = 1024
"""Rows of a panel on a CPU."""
PANEL_THERE = 2048
"""The same on a GPU, which steps and small products keep waiting."""


class SingularGramError(ArithmeticError):
    """A Gram matrix is singular to working precision; the message names the coefficients and the fix."""


def panel(matrix: Tensor) -> int:
    """Rows of a panel on the device of a matrix."""
    return PANEL if matrix.device.type == "cpu" else PANEL_THERE


def add_gram(gram: Tensor, phi: Tensor) -> None:
    """``gram += phi phi^T`` on and below the diagonal (half of the work); ``phi`` is ``(P, n)``."""
    rows = panel(gram)
    for start in range(0, len(gram), rows):
        stop = start + rows
        gram[start:stop, :stop].addmm_(phi[start:stop], phi[:stop].T)


def mirror(matrix: Tensor) -> Tensor:
    """Copy the triangle below the diagonal to the one above, in place."""
    rows = panel(matrix)
    for start in range(0, len(matrix), rows):
        stop = start + rows
        corner = matrix[start:stop, start:stop].tril()
        matrix[start:stop, start:stop] = corner + corner.tril(-1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
    return matrix


def cholesky_(matrix: Tensor, what: str = "matrix") -> Tensor:
    """The lower Cholesky factor in the place of the lower triangle; what lies above the diagonal means nothing afterwards.

    Raises:
        SingularGramError: not positive definite to float64.
    """
    size, rows = len(matrix), panel(matrix)
    for start in range(0, size, rows):
        stop = min(start + rows, size)
        below, done = matrix[start:, start:stop], matrix[start:, :start]
        if start:
            below.addmm_(done, matrix[start:stop, :start].T, alpha=-1.0)
        factor, flag = torch.linalg.cholesky_ex(below[: stop - start])
        if int(flag):
            raise SingularGramError(
                f"the {what} of {size:,} features is singular to float64: use a ridge > 0 (such as 1e-8)"
            )
        below[: stop - start] = factor
        if stop < size:
            below[stop - start :] = torch.linalg.solve_triangular(factor.T, below[stop - start :], upper=True, left=False)
    return matrix


def forward_solve(factor: Tensor, rhs: Tensor) -> Tensor:
    """``L^-1 rhs`` for the lower factor, ``(P, outputs)``."""
    out, rows = rhs.clone(), panel(rhs)
    for start in range(0, len(out), rows):
        stop = start + rows
        if start:
            out[start:stop].addmm_(factor[start:stop, :start], out[:start], alpha=-1.0)
        out[start:stop] = torch.linalg.solve_triangular(factor[start:stop, start:stop], out[start:stop], upper=False)
    return out


def backward_solve(factor: Tensor, rhs: Tensor) -> Tensor:
    """``L^-T rhs``; ``rhs`` may be shorter than the factor: then of its leading block."""
    out, size, rows = rhs.clone(), len(rhs), panel(rhs)
    for start in reversed(range(0, size, rows)):
        stop = min(start + rows, size)
        if stop < size:
            out[start:stop].addmm_(factor[stop:size, start:stop].T, out[stop:], alpha=-1.0)
        out[start:stop] = torch.linalg.solve_triangular(factor[start:stop, start:stop].T, out[start:stop], upper=True)
    return out


def feature_variance(gram: Tensor) -> Tensor:
    """``(P,)``, from a Gram matrix (on and below the diagonal) whose first feature is the constant: 0 for that one."""
    variance = gram.diagonal() - gram[:, 0].square()
    variance[0] = 0.0
    return variance


def penalised_factor_(gram: Tensor, variance: Tensor, strength: float, what: str) -> Tensor:
    """The Cholesky factor of ``G + lambda diag(variance)``, in its place; features that are always zero get a theta of zero."""
    diagonal = gram.diagonal()
    dead = diagonal <= 0
    diagonal.add_(strength * variance).add_(dead.to(gram))
    return cholesky_(gram, what)


def sparse_quadratic(t: sp.csr_matrix, gram: Tensor) -> np.ndarray:
    """``diag(T G T^T)`` for a sparse T and a symmetric G known on and below the diagonal, ``(P,)``."""
    t.sort_indices()
    counts, out = np.diff(t.indptr), np.zeros(t.shape[0])
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        places = t.indptr[rows][:, None] + np.arange(count)
        columns, values = t.indices[places], t.data[places]
        high = np.maximum(columns[:, :, None], columns[:, None, :])
        low = np.minimum(columns[:, :, None], columns[:, None, :])
        parts = gram[torch.as_tensor(high, device=gram.device), torch.as_tensor(low, device=gram.device)].cpu().numpy()
        out[rows] = np.einsum("ri,rij,rj->r", values, parts, values)
    return out


def root_mean_squares(maps: sp.csr_matrix, gram: Tensor) -> np.ndarray:
    """Root mean squares of features, 1 for those that are always zero (a Haar detail across a repeated border sample)."""
    square = sparse_quadratic(maps, gram)
    return np.sqrt(np.where(square > 0, square, 1.0))


def add_penalty_(gram: Tensor, strength: float, root: sp.csr_matrix) -> None:
    """``G += lambda B B^T`` on and below the diagonal; the first column of B may be dense, the others are sparse."""
    first = torch.as_tensor(root[:, [0]].toarray()[:, 0], device=gram.device)
    if bool(first.any()):
        gram.addr_(first, first, alpha=strength)
    rest = root[:, 1:]
    square = sp.tril(rest @ rest.T).tocoo()
    index = (torch.as_tensor(square.row.astype(np.int64), device=gram.device), torch.as_tensor(square.col.astype(np.int64), device=gram.device))
    gram.index_put_(index, torch.as_tensor(strength * square.data, device=gram.device), accumulate=True)
