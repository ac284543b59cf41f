"""Least squares on windows of several estimates, the same at every pixel, by experts that a soft partition calls upon.

At pixel x let ``f_x`` be 1 and the windows around x of some maps (the noisy image and estimates of the clean one), e the last of
these estimates and ``z_x`` the leading principal coordinates of e's window.  A *stage* returns

    D_x = e_x + sum_k r_k(z_x) W_k^T f_x,    r_k(z) = max(s_k - s_(5), 0) / sum,    s(z) = softmax_k(log pi_k - |z - c_k|^2 / (2 tau)),

with centres ``c_k`` of k-means and ``s_(5)`` the fifth largest share: at most four experts are called upon at a pixel, and one that
leaves the four has come to weigh nothing, so that D is continuous.  Each ``W_k`` is the ridge solution of the weighted least squares
of ``x - e`` with weights r_k:

    (sum r_k f f^T + lam diag(var)) W_k = sum r_k f (x - e)^T,

``lam`` in pixels and var the variance of f over all of them, the intercept free.

The weights sum to one and a square is convex, so the stage's error on its own pixels is at most
``sum_k sum r_k |x - e - W_k^T f|^2 <= sum |x - e|^2``: no stage is worse than the estimate it starts from.  One expert is the
linear least squares of all windows.  Nothing is learnt by gradients; every step is an eigendecomposition, k-means or a solve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from numeric.derivatives import tracked

NEAREST = 4
"""Experts that are called upon at a pixel."""
BLOCK = 2**16
"""Pixels worked on at a time (their windows and responsibilities are held); eight times as many on a GPU."""


@dataclass(frozen=True)
class Stage:
    """One fitted stage.

    Attributes:
        sides: window side of each map, odd (0: the map is not read). side: of the key's window on the last map.
        mean, basis: ``(q,)``, ``(q, dims)`` of the key. centres: ``(K, dims)``. log_weights: ``(K,)``. tau: width.
        weights: ``(K, d, channels)`` for ``f = (1, windows)``.
    """

    sides: tuple[int, ...]
    side: int
    mean: Tensor
    basis: Tensor
    centres: Tensor
    log_weights: Tensor
    tau: Tensor
    weights: Tensor

    def to(self, like: Tensor) -> Stage:
        """In the type and on the device of a tensor."""
        return Stage(self.sides, self.side, *(getattr(self, name).to(like) for name in TENSORS))

    @property
    def count(self) -> int:
        """Numbers of the stage."""
        return sum(getattr(self, name).numel() for name in TENSORS)


TENSORS = ("mean", "basis", "centres", "log_weights", "tau", "weights")


def _block(like: Tensor) -> int:
    return BLOCK if like.device.type == "cpu" else 8 * BLOCK


def window(image: Tensor, side: int, place: Tensor | None = None) -> Tensor:
    """Windows ``(pixels, channels * side^2)`` around pixels of ``(n, channels, height, width)``, the border's pixels repeated.

    Args:
        place: pixels as positions in ``n * height * width``; None: all of them.
    """
    reach, (height, width) = side // 2, image.shape[-2:]
    padded = F.pad(image, (reach,) * 4, mode="replicate") if reach else image
    view = padded.unfold(2, side, 1).unfold(3, side, 1)  # (n, channels, height, width, side, side)
    if place is None:
        return view.permute(0, 2, 3, 1, 4, 5).reshape(-1, image.shape[1] * side**2)
    number, inside = place // (height * width), place % (height * width)
    return view[number, :, inside // width, inside % width].flatten(1)


def features(maps: Sequence[Tensor], sides: Sequence[int], place: Tensor | None = None) -> Tensor:
    """``f = (1, windows)`` of the maps, ``(pixels, d)``."""
    parts = [window(m, side, place) for m, side in zip(maps, sides) if side]
    return torch.cat([parts[0].new_ones(len(parts[0]), 1), *parts], 1)


def nearest(stage: Stage, key: Tensor) -> tuple[Tensor, Tensor]:
    """``r_k`` of key windows ``(pixels, q)`` above zero, and their k: both ``(pixels, at most NEAREST)``."""
    z = (key - stage.mean) @ stage.basis
    logits = torch.addmm(stage.log_weights - 0.5 / stage.tau * stage.centres.square().sum(1), z, stage.centres.T / stage.tau)
    share, expert = logits.softmax(1).topk(min(NEAREST + 1, logits.shape[1]), 1)
    if share.shape[1] > NEAREST:  # the last is subtracted but for a trace of it: five equal centres still share the pixel
        share, expert = share[:, :NEAREST] - (1 - 1e-6) * share[:, NEAREST:], expert[:, :NEAREST]
    return share / share.sum(1, keepdim=True), expert


def responsibilities(stage: Stage, key: Tensor) -> Tensor:
    """``r_k`` of key windows ``(pixels, q)`` for all experts: ``(pixels, K)``."""
    share, expert = nearest(stage, key)
    return torch.zeros_like(share[:, :1]).expand(-1, len(stage.centres)).scatter(1, expert, share)


def by_expert(stage: Stage, key: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    """For each expert that is called upon: its number, the pixels that do, and its ``r_k`` there."""
    share, expert = nearest(stage, key)
    calls, order = expert.flatten().sort(stable=True)
    counts = torch.bincount(calls, minlength=len(stage.centres)).cpu().tolist()
    parts = zip((order // expert.shape[1]).split(counts), share.flatten()[order].split(counts))
    return [(k, rows, weight) for k, (rows, weight) in enumerate(parts) if len(rows)]


def apply_stage(stage: Stage, maps: Sequence[Tensor]) -> Tensor:
    """``D`` from maps ``(n, channels, height, width)``, the last of which is refined; the same shape, differentiable."""
    stage = stage.to(maps[-1])
    height, width = maps[-1].shape[-2:]
    channels, step = maps[-1].shape[1], max(1, _block(maps[-1]) // (height * width))
    parts = []
    for start in range(0, len(maps[-1]), step):
        part = [m[start : start + step] for m in maps]
        key, f = window(part[-1], stage.side), features(part, stage.sides)
        if tracked(maps[-1]):  # all experts at all pixels: no transform need know which are called upon
            r = responsibilities(stage, key)
            added = torch.stack([(r * (f @ stage.weights[:, :, c].T)).sum(1) for c in range(channels)], 1)
        else:
            added = f.new_zeros(len(f), channels)
            for k, rows, weight in by_expert(stage, key):
                added.index_add_(0, rows, weight[:, None] * (f[rows] @ stage.weights[k]))
        parts.append(part[-1] + added.reshape(-1, height, width, channels).permute(0, 3, 1, 2))
    return torch.cat(parts)


def fit_stage(
    maps: Sequence[Tensor], clean: Tensor, sides: Sequence[int], side: int, experts: int, dims: int, softness: float, ridge: float,
    pixels: int, generator: torch.Generator,
) -> Stage:  # fmt: skip
    """Fit one stage to ``pixels`` pixels drawn from all of the maps' and the clean images'.

    Args:
        softness: tau in units of the mean squared distance to the nearest centre, for each of the ``dims`` coordinates.
    """
    total = clean.shape[0] * clean.shape[2] * clean.shape[3]
    draw = torch.randperm(total, generator=generator)[:pixels].to(clean.device)
    sample = window(maps[-1], side, draw[: 2**16])
    mean = sample.mean(0)
    _, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(sample.T.double(), correction=0)))
    basis = vectors[:, -dims:].to(sample).contiguous()
    z = (sample - mean) @ basis
    seed = int(torch.randint(2**31, (1,), generator=generator))
    clusters = KMeans(experts, n_init=1, init="random", max_iter=30, random_state=seed).fit(z.cpu().numpy())
    centres = torch.from_numpy(clusters.cluster_centers_).to(z)
    # A centre that no pixel is near (fewer distinct windows than experts) keeps a finite, negligible share.
    weights = (torch.from_numpy(np.bincount(clusters.labels_, minlength=experts)).to(z) / len(z)).clamp_min(1e-30)
    tau = torch.as_tensor(max(softness * clusters.inertia_ / len(z) / z.shape[1], 1e-12)).to(z)
    empty = z.new_zeros(experts, 1, clean.shape[1])
    stage = Stage(tuple(sides), side, mean, basis, centres, weights.log(), tau, empty)
    d = 1 + sum(m.shape[1] * s**2 for m, s in zip(maps, sides))
    sums = torch.zeros(experts, d + clean.shape[1], d + clean.shape[1], dtype=torch.float64, device=clean.device)
    for place in draw.split(_block(clean)):
        target = window(clean, 1, place) - window(maps[-1], 1, place)
        both = torch.cat([features(maps, sides, place), target], 1)
        for k, rows, weight in by_expert(stage, window(maps[-1], side, place)):
            part = both[rows]
            sums[k] += part.T @ (part * weight[:, None])
    gram, rhs = sums[:, :d, :d], sums[:, :d, d:]
    pooled = gram.sum(0) / gram[:, 0, 0].sum()
    variance = (pooled.diagonal() - pooled[0].square()).clamp_min(0.0)
    # What never varies has weight zero, and an expert without pixels adds nothing.
    system = gram + torch.diag(ridge * variance + (variance <= 1e-12).double() * 1e-12)
    # Cholesky, not torch.linalg.solve: its batched LU calls DLASWP of MKL wrongly with two threads.
    return replace(stage, weights=torch.cholesky_solve(rhs, torch.linalg.cholesky(system)).to(z).clone(memory_format=torch.contiguous_format))
