"""The delta method for the ``shared`` readout (:mod:`numeric.scores.influence` says what it is).

All of it is written in Wick-ordered monomials ``:phi:``, whose average over the noise is the clean monomial, f for one image.

- One output, or one random combination w of all: ``r_i = E_z[:phi: (x - D).w]``, from the table of ways to take letters out of
  monomials, for each image; then ``IF_i = H^-1 r_i``, two triangular solves.
- The error of an image, and its pull on the fit's error, is a quadratic form ``E_z[:phi:^T A :phi:] = f^T Q f``; Q is made once.
- The excess risk ``tr(G Cov(theta))`` sums over all outputs; random signs w make it the mean of ``IF_i . G IF_i``.

The scale of the features in a penalty is held where it was fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from numeric.divergence import signs
from numeric.noise import NoiseLevel
from numeric.scores.contraction import CROSS_BYTES, WhiteNoise, wick_map
from numeric.scores.dense import backward_solve, cholesky_, forward_solve, mirror
from numeric.scores.groups import StandardErrors, relative_error
from numeric.scores.influence import error_of_mean
from numeric.scores.monomials import MonomialSet

MOST_NUMBERS = 2**22
"""Coefficients of a shared readout (features times outputs) whose standard errors are given without asking for some of them."""
PROBES = 4
PROBED_IMAGES = 2000
"""Random signs, and images, that the excess risk is estimated with."""


class Contracted:
    """``E_z[:phi: (x - D)]`` of single images, for white noise.

    With w_kappa = ``sigma^(2 |kappa|) kappa!`` and the takings t of letters kappa out of monomials,
    ``E_z[:phi_m: :phi_l:] = sum_kappa w_kappa (sum_(t of m) ways f_left) (sum_(t of l) ways f_left)``.
    """

    def __init__(self, monomials: MonomialSet, sigma: float, size: int) -> None:
        takings = monomials.takings
        self.takings = takings.chosen(takings.monomial < size)
        self.size = size
        ways = self.takings.ways * sigma ** (2.0 * self.takings.order) * WhiteNoise.factorials(self.takings.taken)
        columns = np.arange(len(ways))
        self.collect = sp.csr_matrix((ways, (self.takings.monomial, columns)), shape=(size, len(ways)))

    @property
    def images(self) -> int:
        """How many images at a time."""
        return max(1, CROSS_BYTES // (16 * len(self.takings.ways)))

    def residual(self, f: np.ndarray, theta: np.ndarray, target: np.ndarray) -> np.ndarray:
        """``(P, n)`` from the averaged monomials ``(P, n)``, one output's coefficients ``(P,)`` and clean values ``(n,)``."""
        t = self.takings
        spread = sp.csr_matrix((t.ways * theta[t.monomial], (t.kind, t.left)), shape=(self.size, self.size))
        slopes = spread @ f
        return f * target - self.collect @ (slopes[t.kind] * f[t.left])


def quadratic_of(noise: WhiteNoise, form: Tensor, sigma: float) -> Tensor:
    """Q of ``E_z[:phi:^T A :phi:] = f^T Q f`` for a symmetric A ``(P, P)``, which is overwritten; symmetric in its sum only."""
    keep = noise.row < len(form)
    row, column = (torch.as_tensor(a[keep]) for a in (noise.row, noise.column))
    scale = noise.weight[keep] * sigma ** (2.0 * noise.power[keep]) * np.where(noise.row[keep] == noise.column[keep], 1.0, 2.0)
    values = form[row, column] * torch.as_tensor(scale)
    where = (torch.as_tensor(noise.source_row[keep]), torch.as_tensor(noise.source_column[keep]))
    return form.index_put_(where, values, accumulate=True)


def shared_delta_errors(
    model: Any, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None = None, bar: Any = None
) -> StandardErrors:
    """The delta method for a fitted :class:`numeric.scores.shared.SharedWaveletScore`.

    Raises:
        ValueError: too many coefficients to give the standard errors of all, or an output that is not there.
    """
    moments, n, size = model.fitted(), len(model.mean_), model.count(degree)
    if outputs is None and size * n > MOST_NUMBERS:
        raise ValueError(
            f"the shared readout has {size:,} x {n:,} coefficients: name those whose theta is wanted, outputs=[0, 5], "
            "or outputs=[] for the error of expected_mse and the excess alone"
        )
    wanted = list(range(n)) if outputs is None else [int(j) for j in outputs]
    if wanted and not (min(wanted) >= 0 and max(wanted) < n):
        raise ValueError(f"outputs must lie in 0..{n - 1}, got {wanted}")
    a, s = noise.alpha, noise.sigma
    solution = model.solve(noise, degree)
    theta = torch.as_tensor(
        wick_map(moments.monomials, s, None, size).T @ (solution.readout / solution.scale[:, None]).cpu().numpy()
    )
    theta[0] -= torch.as_tensor(model.mean_)
    powers = torch.as_tensor(a ** moments.monomials.degrees[:size].astype(float))
    gram = mirror(moments.wick_gram(a, s, size)).cpu()
    system = model.normal_equations(noise, size)
    factor = cholesky_(system.gram, "shared Gram matrix").cpu()

    def solved(right: Tensor) -> Tensor:
        return backward_solve(factor, forward_solve(factor, right))

    # The gradient of the expected error, zero without a ridge, and what it makes of an image's pull on theta.
    pull = solved(2.0 * (gram @ theta - moments.gram[:size, 1 : 1 + n].cpu() * powers[:, None]))
    form = theta @ theta.T
    crossed = pull @ theta.T
    form -= 0.5 * (crossed + crossed.T)
    form = quadratic_of(moments.noise, form, s)
    linear = pull - 2.0 * theta

    contracted = Contracted(moments.monomials, s, size)
    unwick = system.unwick
    sums = torch.zeros(3, size, len(wanted), dtype=torch.float64)
    probes = signs(PROBES, theta[0], torch.Generator().manual_seed(0))
    excess, optimism, losses, probed = 0.0, 0.0, [], 0
    means_of = torch.zeros(2, PROBES, size, dtype=torch.float64)  # of r and of IF, whose mean a ridge moves from zero
    for batch in images.batches(contracted.images):
        clean = model.transform_.forward(batch.to(torch.float64)).flatten(1) - torch.as_tensor(model.mean_)
        f = moments.monomials.features(clean, size) * powers[:, None]
        losses.append(clean.square().sum(1) + ((linear.T @ f) * clean.T).sum(0) + ((form @ f) * f).sum(0))
        for place, j in enumerate(wanted):
            right = torch.as_tensor(contracted.residual(f.numpy(), theta[:, j].numpy(), clean[:, j].numpy()))
            influence = torch.as_tensor(unwick.T @ solved(right).numpy())
            for order, power in enumerate((1, 2, 4)):
                sums[order, :, place] += influence.pow(power).sum(1)
        if probed < PROBED_IMAGES:
            for k, probe in enumerate(probes):
                right = torch.as_tensor(contracted.residual(f.numpy(), (theta @ probe).numpy(), (clean @ probe).numpy()))
                influence = solved(right)
                optimism += float((right * influence).sum())
                excess += float((influence * (gram @ influence)).sum())
                means_of[0, k] += right.sum(1)
                means_of[1, k] += influence.sum(1)
            probed += len(batch)
        if bar is not None:
            bar.update(len(batch))
    pulls, moved = means_of / probed
    excess = (excess / probed - float((moved.T * (gram @ moved.T)).sum())) / PROBES
    optimism = (optimism / probed - float((pulls * moved).sum())) / PROBES
    count = len(images)
    means = sums / count
    variance = (means[1] - means[0].square()).clamp_min(0.0) * (count / (count - 1.0))
    relative = relative_error(variance, means[2], count)
    pixels, fitted = float(n), moments.count
    return StandardErrors(
        "delta", fitted, ((variance / fitted).sqrt(),), (relative,),
        *error_of_mean(torch.cat(losses) / pixels, fitted), excess / pixels / fitted,
        2.0 * optimism / pixels / fitted,
    )  # fmt: skip
