"""A readout of the Wiener estimate as it is evaluated: in plain monomials, from its Wick-ordered solution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from numeric.scores.contraction import wick_map
from numeric.scores.coordinates import LevelCoordinates
from numeric.scores.monomials import MonomialSet
from numeric.scores.sparse import sparse_product


@dataclass(frozen=True)
class PlainReadout:
    """``D = constant + c linear + monomials(c letters)^T weights`` for ``c = y / a - mean``.

    Attributes:
        mean, constant: ``(N,)``; linear: ``(N, N)``; letters: ``(N, q)``; weights: ``(Q, N)`` of the nonlinear plain monomials.
    """

    mean: Tensor
    constant: Tensor
    linear: Tensor
    letters: Tensor
    weights: Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in vars(self).values())

    def to(self, like: Tensor) -> PlainReadout:
        """In the type and on the device of a tensor."""
        return PlainReadout(*(t.to(like) for t in vars(self).values()))


class PlainMap:
    """From coefficients of intercept, whitened linear features and Wick-ordered monomials to those of plain monomials."""

    def __init__(self, monomials: MonomialSet, level: LevelCoordinates, degree: int) -> None:
        self.level, self.letters, self.size = level, monomials.variables, monomials.count(degree)
        unit = level.unit_covariance.cpu().numpy()
        # Columns of the inverse Wick map: theta . :phi: = theta . M^-1 phi.
        self.map = wick_map(monomials, level.sigma, unit, self.size, sign=-1.0).T.tocsr()

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Constant ``(k,)``, of ``c`` ``(N, k)`` and of the nonlinear monomials ``(Q, k)``, from ``(P, k)``."""
        letters, linear = self.letters, 1 + len(self.level.whiten)
        wick = theta.new_zeros(self.size, theta.shape[1])
        wick[0], wick[1 + letters :] = theta[0], theta[linear:]
        found = sparse_product(self.map, wick)
        straight = self.level.whiten.T @ theta[1:linear] + self.level.letters.T @ found[1 : 1 + letters]
        return found[0], straight, found[1 + letters :]
