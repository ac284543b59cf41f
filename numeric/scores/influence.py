"""How one image moves a fit: influence functions of the ``own`` readout, and from them the delta method's standard errors.

The coefficients solve ``H theta = b`` with ``H = G + lambda D``, where G, b and the penalty D are means over the images of what
each image alone would give with the noise integrated, ``G_i, b_i, D_i``.  To first order image i moves them by ``1 / n`` of ::

    IF_i = H^-1 (b_i - G_i theta - lambda D_i theta)            (its mean over the images is zero: the normal equations)

and with independent images ``Cov(theta) = Cov_i(IF_i) / n``, the sandwich ``H^-1 Cov_i(b_i - ...) H^-1 / n``.  It is the
covariance of the clean moments carried through ``d theta = H^-1 (db - dH theta)``, as :class:`analytic.Sensitivity` does with
symbols, without forming it: that would take moments of degree 4n.

``b_i - G_i theta = E_z[phi (x - D)]`` on the denoiser's side (``a / s^2`` times that on the score's).  Noise is white in an
orthonormal basis, so with ``tau = s / t`` the noise of a standardised coordinate (Stein's identity, letter by letter) ::

    E_z[f g] = sum_kappa  tau^(2 kappa) / kappa!  E_z[d^kappa f] E_z[d^kappa g]

and ``E_z u^p = T_p`` follows from ``T_p = m T_(p-1) + (p - 1) tau^2 T_(p-2)`` in every coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import factorial, perm, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.noise import NoiseLevel
from numeric.scores.crossval import Ridge
from numeric.scores.families import MonomialPlan
from numeric.scores.groups import StandardErrors, relative_error
from numeric.scores.solve import BlockSolution, feature_matrix, normal_system

CHUNK_BYTES = 32 * 2**20
"""Working memory of a step over some coefficients and some images."""
IMAGES = 500
"""Images of a step."""


@dataclass(frozen=True)
class Leibniz:
    """Which derivatives of the monomials of a plan meet (``B`` leading basis monomials).

    Attributes:
        slope: ``(kappa, b, source, falling)`` rows: the coefficient of ``u^b`` in ``d^kappa h`` is ``falling`` times that of
            ``u^source`` in h.
        meet: ``(alpha, kappa, left, falling)`` rows: ``d^kappa u^alpha = falling u^left``.
        powers: ``(B, q)`` exponents. factorials: ``(B,)``, ``kappa!``.
    """

    slope: np.ndarray
    meet: np.ndarray
    powers: np.ndarray
    factorials: np.ndarray


@lru_cache(maxsize=64)
def leibniz(plan: MonomialPlan, size: int) -> Leibniz:
    """The (cached) table of a plan's leading basis monomials."""
    basis = [tuple(int(e) for e in row) for row in plan.basis[:size]]
    place = {row: number for number, row in enumerate(basis)}
    meet = []
    for number, row in enumerate(basis):
        for kappa, order in place.items():
            if all(k <= e for k, e in zip(kappa, row)):
                left = place[tuple(e - k for e, k in zip(row, kappa))]
                meet.append((number, order, left, prod(perm(e, k) for e, k in zip(row, kappa))))
    table = np.array(meet, dtype=np.int64)
    slope = table[:, [1, 2, 0, 3]]
    return Leibniz(slope, table, plan.basis[:size], np.array([prod(map(factorial, row)) for row in basis], dtype=float))


def averaged_powers(mean: Tensor, deviation: Tensor, order: int) -> Tensor:
    """``T_p = E_z (mean + deviation z)^p``, p = 0 .. order, ``(order + 1, ...)``."""
    rows = [torch.ones_like(mean), mean]
    variance = deviation.square()
    for p in range(2, order + 1):
        rows.append(mean * rows[-1] + (p - 1) * variance * rows[-2])
    return torch.stack(rows[: order + 1])


@dataclass
class BlockInfluence:
    """Influence of images on one solved block; sums over the images that were seen.

    Args:
        table, mean: clean central moments ``(M, g)`` and means ``(q, g)`` of the fit; solution: at ``noise``.
        basis, ridge: as it was solved; the strengths in ``solution.ridge`` and the coordinates are held where they are.
    """

    table: Tensor
    mean: Tensor
    solution: BlockSolution
    noise: NoiseLevel
    basis: str
    ridge: Ridge
    count: int = 0
    sums: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        part, plan, noise = self.solution, self.solution.plan, self.noise
        self.system = normal_system(self.table, self.mean, plan, noise, part.degree)
        rho = self.system.centre / part.scale
        self.features = feature_matrix(plan, part.degree, self.basis, rho)  # (g, F, B)
        gram = self.features @ self.system.gram @ self.features.transpose(1, 2)
        powers = torch.as_tensor(plan.basis[plan.features(part.degree)], dtype=gram.dtype, device=gram.device)
        self.unit = torch.exp(powers @ part.scale.log()).T if self.basis == "monomial" else torch.ones_like(gram[:, 0])
        strength = torch.zeros_like(part.expected_error) if part.ridge is None else part.ridge
        raw = self.ridge.scaling == "raw"
        penalty = self.unit**-2.0 if raw else gram.diagonal(dim1=1, dim2=2)
        theta = part.theta * self.unit  # of features of v / t
        self.charge = strength[:, None] * theta  # what D_i's diagonal is multiplied by
        self.charged = bool(strength.any())
        # From the score's side to the denoiser's: D = (v + s^2 c) / a.
        self.factor = noise.sigma**2 / noise.alpha if self.ridge.side == "score" else 1.0
        system = gram + torch.diag_embed(strength[:, None] * penalty)
        norm = system.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(gram.dtype).tiny).rsqrt()
        scaling = norm[:, :, None] * norm[:, None, :]
        inverse = torch.linalg.inv(system * scaling) * scaling
        self.inverse = 0.5 * (inverse + inverse.transpose(1, 2))
        self.gram = gram
        # The gradient of the expected error by theta; it vanishes without a ridge.
        h = self.padded
        slope = 2.0 * (torch.einsum("gij,gj->gi", self.system.gram, h) - self.system.cross)
        self.gradient = torch.einsum("gfb,gb->gf", self.features, slope) * self.factor
        self.table_of = leibniz(plan, h.shape[1])
        groups, size = theta.shape
        self.sums = [gram.new_zeros(groups, size), gram.new_zeros(groups, size, size), gram.new_zeros(groups, size)]

    @property
    def padded(self) -> Tensor:
        """Denoiser coefficients about the clean mean, ``(g, B)``."""
        out = self.solution.denoiser.clone()
        out[:, 0] -= self.system.clean_mean
        return out

    def slopes(self, rows: slice) -> Tensor:
        """Coefficients of ``tau^kappa d^kappa D / kappa!^(1/2)`` by kappa, ``(g, B, B)``."""
        t, h = self.table_of, self.padded[rows]
        out = h.new_zeros(len(h), h.shape[1], h.shape[1])
        kappa, b, source, falling = (torch.as_tensor(column, device=h.device) for column in t.slope.T)
        out[:, kappa, b] = h[:, source] * falling.to(h)
        return out * self.weights(rows)[:, :, None]

    def weights(self, rows: slice) -> Tensor:
        """``tau^kappa / kappa!^(1/2)``, ``(g, B)``."""
        powers = torch.as_tensor(self.table_of.powers, dtype=self.table.dtype, device=self.table.device)
        tau = self.noise.sigma / self.solution.scale[:, rows]
        return torch.exp(powers @ tau.log()).T * torch.as_tensor(self.table_of.factorials, device=tau.device).rsqrt()

    def squares(self, m: Tensor, tau: Tensor, rows: slice) -> Tensor:
        """The penalty's weights, ``E_z psi^2`` of every feature and image, ``(g, F, n)``; m, tau: ``(g, q, n)``, ``(g, q, 1)``."""
        if self.ridge.scaling == "raw":  # the same for every image
            return (self.unit[rows] ** -2.0)[:, :, None]
        plan, degree = self.solution.plan, self.solution.degree
        every = plan.features(degree)
        if self.basis == "monomial":  # powers of v / t = u + rho
            shifted = m + (self.system.centre / self.solution.scale).T[rows, :, None]
            table = averaged_powers(shifted, tau.expand_as(m), 2 * degree)
            out = m.new_ones(len(m), len(every), m.shape[2])
            for column, b in enumerate(every):
                for j in np.flatnonzero(plan.basis[b]):
                    out[:, column] *= table[2 * int(plan.basis[b, j]), :, j]
            return out
        size = plan.closed_count(degree)
        square = torch.einsum("gfb,gfc->gfbc", self.features[rows], self.features[rows]).flatten(2)
        exponents = (plan.basis[:size, None] + plan.basis[None, :size]).reshape(-1, plan.variables)
        table = averaged_powers(m, tau.expand_as(m), 2 * degree)
        products = m.new_ones(len(m), len(exponents), m.shape[2])
        for column, row in enumerate(exponents):
            for j in np.flatnonzero(row):
                products[:, column] *= table[int(row[j]), :, j]
        return square @ products

    def add(self, centred: Tensor, variables: Tensor, loss: Tensor, optimism: Tensor) -> None:
        """Images by their clean coefficients less the fitted means, ``(channels * n_coefficients, n)``.

        Args:
            loss: ``(n,)``, to which each image's own error and its pull on all others' is added, and optimism: ``IF . r``.
        """
        h, n, t = self.padded, centred.shape[1], self.table_of
        q, size = variables.shape[1], h.shape[1]
        step = max(1, CHUNK_BYTES // (8 * n * (4 * size + (self.solution.degree + 1) * q)))
        for start in range(0, len(variables), step):
            rows = slice(start, start + step)
            x = centred[variables[rows]]  # (g, q, n)
            inverse_scale = (1.0 / self.solution.scale[:, rows]).T[:, :, None]
            tau = self.noise.sigma * inverse_scale
            m = self.noise.alpha * x * inverse_scale
            powers = averaged_powers(m, tau.expand_as(m), self.solution.degree)
            phi = m.new_ones(len(x), size, n)  # E_z u^alpha
            for b, row in enumerate(t.powers):
                for j in np.flatnonzero(row):
                    phi[:, b] *= powers[int(row[j]), :, j]
            weights = self.weights(rows)[:, :, None]
            error = torch.bmm(self.slopes(rows), phi).neg_()  # E_z d^kappa (x - D), times the root of its weight
            error[:, 0] += x[:, 0]
            loss += error.square().sum((0, 1))
            error *= weights
            residual = torch.zeros_like(phi)  # E_z[u^alpha (x - D)]
            for alpha, kappa, left, falling in t.meet.tolist():
                residual[:, alpha].addcmul_(phi[:, left], error[:, kappa], value=float(falling))
            pull = torch.bmm(self.features[rows], residual)
            right = pull / self.factor
            if self.charged:
                right = right - self.charge[rows, :, None] * self.squares(m, tau, rows)
            influence = torch.bmm(self.inverse[rows], right)  # of theta, in features of v / t
            loss += torch.einsum("gf,gfn->n", self.gradient[rows], influence)
            optimism += self.factor * (pull * influence).sum((0, 1))
            self.sums[0][rows] += influence.sum(2)
            self.sums[1][rows] += torch.bmm(influence, influence.transpose(1, 2))
            self.sums[2][rows] += influence.square().square().sum(2)
        self.count += n

    @property
    def covariance(self) -> Tensor:
        """``Cov_i(IF_i)`` of the coefficients of features of ``v / t``, ``(g, F, F)``."""
        mean = self.sums[0] / self.count
        return (self.sums[1] / self.count - mean[:, :, None] * mean[:, None, :]) * (self.count / (self.count - 1.0))

    def errors(self, images: int) -> tuple[Tensor, Tensor, float]:
        """Standard errors of theta and their relative standard errors, ``(g, F)``, and the summed excess risk."""
        covariance = self.covariance
        variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0)
        relative = relative_error(variance, self.sums[2] / self.count, self.count)
        excess = float(torch.einsum("gij,gij->", self.gram, covariance)) * self.factor**2 / images
        return (variance / images).sqrt() / self.unit, relative, excess


def own_delta_errors(model: Any, images: Any, noise: NoiseLevel, degree: int, bar: Any = None) -> StandardErrors:
    """The delta method for an ``own`` readout, in one pass over the images (any of the kind it was fitted on).

    Args:
        model: a fitted :class:`numeric.scores.own.WaveletScore` with an orthonormal basis.
    """
    moments, solution = model.fitted(), model.solve(noise, degree)
    mean = model.mean_
    blocks = [
        BlockInfluence(table, mean[torch.as_tensor(block.block.variables)].T, part, noise, model.basis, model.ridge_)
        for block, part, table in zip(moments.blocks, solution.blocks, model.central_)
    ]
    variables = [torch.as_tensor(block.block.variables, device=mean.device) for block in moments.blocks]
    losses, optimisms = [], []
    for batch in images.batches(IMAGES):
        coefficients = model.transform_.forward(batch.to(mean.device, torch.float64)).flatten(1)
        centred = (coefficients - mean).T.contiguous()
        loss, optimism = mean.new_zeros(len(batch)), mean.new_zeros(len(batch))
        for block, where in zip(blocks, variables):
            block.add(centred, where, loss, optimism)
        losses.append(loss)
        optimisms.append(optimism)
        if bar is not None:
            bar.update(len(batch))
    found = [block.errors(moments.count) for block in blocks]
    pixels = len(mean)
    return StandardErrors(
        "delta", moments.count, tuple(theta for theta, _, _ in found), tuple(error for _, error, _ in found),
        *error_of_mean(torch.cat(losses) / pixels, moments.count), sum(excess for _, _, excess in found) / pixels,
        2.0 * float(torch.cat(optimisms).mean()) / pixels / moments.count,
    )  # fmt: skip


def error_of_mean(values: Tensor, images: int) -> tuple[float, float]:
    """Standard error of the mean over ``images`` of what ``values`` are a sample of, and its relative standard error."""
    gaps = values - values.mean()
    square = gaps.square().sum() / (len(values) - 1.0)
    return float(square / images) ** 0.5, float(relative_error(square, gaps.pow(4).mean(), len(values)))
