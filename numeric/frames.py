"""What an over-complete or biorthogonal basis needs beside its filters: inner products of atoms, and ``W^+``.

Nothing here forms a matrix of coefficients by coefficients unless it is asked for.  Atoms are products of one vector
along each axis, so their inner products are products of two numbers.  The pseudo-inverse comes from any left inverse
by an identity of Kerzman and Stein, in which only the two transforms and their adjoints are applied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from numeric.stencil import Levels, apply_levels

TOLERANCE = 1e-14
"""Relative residual at which the iteration for ``W^+`` stops."""

MAX_ITERATIONS = 2000


def axis_vectors(matrices: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Low- and high-pass vectors of every level along one axis, ``(half, length)`` each, from one-level matrices."""
    low, out = np.eye(matrices[0].shape[1]), []
    for matrix in matrices:
        both = matrix @ low
        half = len(both) // 2
        low = both[:half]
        out.append((low, both[half:]))
    return out


@dataclass(frozen=True)
class SeparableAtoms:
    """The rows of ``W`` as products ``r c^T`` of one vector along each axis.

    Attributes:
        rows: ``(R, height)`` distinct vectors along the first axis; columns: ``(C, width)`` along the second.
        row_of, column_of: ``(n_coefficients,)`` which of them an atom is made of.
    """

    rows: np.ndarray
    columns: np.ndarray
    row_of: np.ndarray
    column_of: np.ndarray

    @classmethod
    def of(cls, steps: Levels, bands: list[tuple[int, str]]) -> SeparableAtoms:
        """Atoms of the bands ``(scale, orientation)``, in that order; H is high-pass along the first axis, V along the second."""
        parts: list[list[np.ndarray]] = [[], []]
        place: list[dict[tuple[int, bool], np.ndarray]] = [{}, {}]
        for axis in (0, 1):
            start = 0
            for level, pair in enumerate(axis_vectors([step[axis] for step in steps])):
                for high, vectors in enumerate(pair):
                    parts[axis].append(vectors)
                    place[axis][level + 1, bool(high)] = np.arange(start, start + len(vectors))
                    start += len(vectors)
        row_of, column_of = [], []
        for scale, orientation in bands:
            r, c = place[0][scale, orientation in "HD"], place[1][scale, orientation in "VD"]
            row_of.append(np.repeat(r, len(c)))
            column_of.append(np.tile(c, len(r)))
        return cls(
            np.concatenate(parts[0]), np.concatenate(parts[1]), np.concatenate(row_of), np.concatenate(column_of)
        )

    def dense(self) -> np.ndarray:
        """``W``, ``(n_coefficients, height * width)``."""
        product = self.rows[self.row_of][:, :, None] * self.columns[self.column_of][:, None, :]
        return product.reshape(len(self.row_of), -1)

    @cached_property
    def _inner(self) -> tuple[np.ndarray, np.ndarray]:
        return self.rows @ self.rows.T, self.columns @ self.columns.T

    def inner(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Inner products of atoms ``i`` and ``j`` (index arrays that broadcast): entries of ``W W^T``."""
        rows, columns = self._inner
        out: np.ndarray = rows[self.row_of[i], self.row_of[j]] * columns[self.column_of[i], self.column_of[j]]
        return out


def is_isometry(matrix: np.ndarray) -> bool:
    """Whether ``A^T A = I``: the transpose is the pseudo-inverse."""
    return bool(np.abs(matrix.T @ matrix - np.eye(matrix.shape[1])).max() < 1e-10)


def composes(steps: Levels) -> bool:
    """Whether the levels' pseudo-inverses compose to ``W^+``.

    They do if one level at most is neither: those finer than it are invertible, those coarser are isometries.  So it is
    in every orthonormal and biorthogonal square basis, at one level, and with zeros beyond the border of an orthogonal wavelet.
    """
    square = [all(matrix.shape[0] == matrix.shape[1] for matrix in step) for step in steps]
    isometry = [all(is_isometry(matrix) for matrix in step) for step in steps]
    first = square.index(False) if False in square else len(steps)
    return all(isometry[first + 1 :])


def nullity(steps: Levels) -> int:
    """Dimension of the null space of ``W^T``: coefficients less pixels."""
    return sum(rows.shape[0] * columns.shape[0] - rows.shape[1] * columns.shape[1] for rows, columns in steps)


def null_space(steps: Levels, inverse_steps: Levels) -> np.ndarray:
    """Orthonormal basis ``(n_coefficients, nullity)`` of what no image has, the null space of ``W^T``.

    What a level cannot reach is ``null(R^T) x everything + range(R) x null(C^T)``.  Its approximation part goes on to
    coefficients of the coarser levels by the adjoint of any left inverse ``V`` of theirs, because ``W^T V^T = I``.

    Args:
        steps: of a frame, which has more coefficients than pixels.
        inverse_steps: transposed left inverses of the levels, of the shape of ``steps``.
    """
    parts, finer = [], 0
    for level, (rows, columns) in enumerate(steps):
        row_basis, column_basis = (np.linalg.qr(matrix, mode="complete")[0] for matrix in (rows, columns))
        n, m = rows.shape[1], columns.shape[1]
        outside = [(row_basis[:, n:], np.eye(len(columns))), (row_basis[:, :n], column_basis[:, m:])]
        grid = np.concatenate(
            [np.einsum("ia,jb->ijab", a, b).reshape(len(rows), len(columns), -1) for a, b in outside], axis=2
        )
        h, w = len(rows) // 2, len(columns) // 2
        if grid.shape[2]:
            details = [part.reshape(-1, part.shape[2]) for part in (grid[h:, :w], grid[:h, w:], grid[h:, w:])]
            coarse = apply_levels(inverse_steps[level + 1 :], grid[:h, :w])
            parts.append(np.concatenate([coarse, *details, np.zeros((finer, grid.shape[2]))]))
        finer += 3 * h * w
    return np.linalg.qr(np.concatenate(parts, axis=1))[0]


def solve_shifted_skew(skew: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    """``(I + A)^-1 w`` for every row of ``w``, where ``skew`` applies a matrix ``A = -A^T`` to rows.

    ``(I + A)^-1 = (I - A) (I - A^2)^-1``, and ``I - A^2`` is symmetric with eigenvalues of at least 1: conjugate gradients.

    Raises:
        ArithmeticError: no convergence (the basis is too ill-conditioned for float64).
    """
    z, r = torch.zeros_like(w), w.clone()
    p, square = r.clone(), (r * r).sum(-1, keepdim=True)
    goal, tiny = TOLERANCE**2 * square, torch.finfo(w.dtype).tiny
    for _ in range(MAX_ITERATIONS):
        if bool((square <= goal).all()):
            return z - skew(z)
        q = p - skew(skew(p))
        step = square / (p * q).sum(-1, keepdim=True).clamp_min(tiny)
        z.addcmul_(step, p)
        r.addcmul_(step, q, value=-1.0)
        before, square = square, (r * r).sum(-1, keepdim=True)
        p = r + (square / before.clamp_min(tiny)) * p
    raise ArithmeticError(
        f"the pseudo-inverse did not converge in {MAX_ITERATIONS} steps: use synthesis='per-level', another mode or fewer levels"
    )


@dataclass(frozen=True)
class PseudoInverse:
    """``W^+`` from ``W`` and any left inverse ``V``, as functions on rows of float64.

    ``Q = W V`` projects onto the range of ``W``, obliquely.  The orthogonal projection is ``Q (I + Q - Q^T)^-1`` (Kerzman
    and Stein, 1978), and so ``W^+ = V (I + A)^-1`` with the skew ``A = W V - V^T W^T``, which is small where ``V`` is nearly
    ``W^+``.  Unlike the normal equations this does not square the condition of ``W``.

    Attributes:
        forward, forward_adjoint: apply ``W`` and ``W^T``; left, left_adjoint: ``V`` and ``V^T``.
    """

    forward: Callable[[Tensor], Tensor]
    forward_adjoint: Callable[[Tensor], Tensor]
    left: Callable[[Tensor], Tensor]
    left_adjoint: Callable[[Tensor], Tensor]

    def _skew(self, w: Tensor) -> Tensor:
        return self.forward(self.left(w)) - self.left_adjoint(self.forward_adjoint(w))

    def apply(self, w: Tensor) -> Tensor:
        """``W^+ w``: rows of coefficients to rows of pixels."""
        return self.left(solve_shifted_skew(self._skew, w))

    def adjoint(self, x: Tensor) -> Tensor:
        """``(W^+)^T x``: rows of pixels to rows of coefficients."""
        return solve_shifted_skew(lambda w: -self._skew(w), self.left_adjoint(x))
