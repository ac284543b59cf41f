"""The shared readout (the paper's own machine): exact fits, and fits on a finite number of noisy samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from numeric.claims.config import SHARED_RIDGE, Row
from numeric.claims.drawn import draws, score_rows
from numeric.claims.exact import fit_name, noisy_sample
from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.memory import free_memory
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.scores.dense import add_gram, cholesky_, mirror
from numeric.scores.families import Family
from numeric.scores.monomials import MonomialSet
from numeric.scores.shared import SharedWaveletScore
from numeric.wavelets import WaveletTransform

BATCH_BYTES = 2**28
"""Features of samples held at a time."""


class SharedFeatures:
    """The features of the shared readout on images of one shape, without a fit: monomials of coefficients less their mean.

    Args:
        images: of one channel; their mean is the centre.
    """

    def __init__(self, images: ImageSet, family: str, degree: int) -> None:
        self.channels = images.shape[0]
        self.transform = WaveletTransform(images.shape[1:])
        self.monomials = MonomialSet.of_family(Family(family), self.transform, degree, self.channels)
        total = torch.zeros(images.shape, dtype=torch.float64)
        for batch in images.batches(1000):
            total += batch.double().sum(0)
        self.mean = self.coefficients(total[None] / len(images))[0]

    def coefficients(self, images: Tensor) -> Tensor:
        return self.transform.forward(images).flatten(1)

    def __call__(self, y: Tensor, noise: NoiseLevel, size: int) -> Tensor:
        """The first ``size`` features of noisy images, ``(size, n)``."""
        return self.monomials.features(self.coefficients(y) - noise.alpha * self.mean.to(y), size)


class SampledShared(Denoiser):
    """Shared readout by ridge on ``n`` noisy samples (Sec. 3, equation (23)), features scaled to unit second moment.

    With fewer samples than features the dual system, of the samples' inner products, gives the same readout.

    Args:
        degree: of the estimate, at most that of the features; :meth:`at` gives lower ones from the same samples.
        key: of the noise. start: first image of the sample.
    """

    def __init__(
        self,
        features: SharedFeatures,
        images: ImageSet,
        n: int,
        noise: NoiseLevel,
        degree: int,
        ridge: float,
        key: Sequence[int] = (0,),
        start: int = 0,
    ) -> None:
        self.features, self.ridge, self.n, self.noise, self.degree = features, ridge, n, noise, degree
        size = features.monomials.count(degree)
        self.dual = n < size
        pairs = noisy_sample(images, n, noise, key, start, max(1, min(1000, BATCH_BYTES // (8 * size))))
        if self.dual:
            parts = [(features(y, noise, size), features.coefficients(x)) for y, x in pairs]
            self._phi = torch.cat([phi for phi, _ in parts], 1)
            self._target = torch.cat([w for _, w in parts])
            self._norm = self._phi.square().sum(1).rsqrt()
            self._phi *= self._norm[:, None]
        else:
            self._gram = torch.zeros(size, size, dtype=torch.float64)
            self._target = torch.zeros(size, len(features.mean), dtype=torch.float64)
            for y, x in pairs:
                phi = features(y, noise, size)
                add_gram(self._gram, phi)
                self._target.addmm_(phi, features.coefficients(x))
            mirror(self._gram)
            self._norm = self._gram.diagonal().rsqrt()
            self._gram *= self._norm[:, None]
            self._gram *= self._norm
            self._target *= self._norm[:, None]

    @cached_property
    def readout(self) -> Tensor:
        """Of the degree."""
        return self.at(self.degree)

    def at(self, degree: int) -> Tensor:
        """Readout ``(features, coefficients)`` of a degree."""
        size = self.features.monomials.count(degree)
        system = self._phi[:size].T @ self._phi[:size] if self.dual else self._gram[:size, :size].clone()
        system.diagonal().add_(self.ridge)
        factor = cholesky_(system, "Gram matrix of noisy samples").tril_()
        theta = torch.cholesky_solve(self._target if self.dual else self._target[:size], factor)
        if self.dual:
            theta = self._phi[:size] @ theta
        return theta * self._norm[:size, None]

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        if noise != self.noise:
            raise ValueError(f"fitted on samples at {self.noise}, asked for {noise}: fit again")
        return self.estimate_with(self.readout, y)

    def estimate_with(self, readout: Tensor, y: Tensor) -> Tensor:
        """The unclamped estimate of a readout of :meth:`at`."""
        parts = []
        for part in y.split(max(1, BATCH_BYTES // (8 * len(readout)))):
            w = self.features(part.double(), self.noise, len(readout)).T @ readout
            parts.append(self.features.transform.inverse(w.reshape(len(part), self.features.channels, -1)).to(y))
        return torch.cat(parts)


def feature_counts(size: int, family: str, degree: int) -> list[int]:
    """Features of the shared readout at degrees 1 to ``degree``, without a fit (one channel)."""
    monomials = MonomialSet.of_family(Family(family), WaveletTransform((size, size)), degree)
    return [monomials.count(d) for d in range(1, degree + 1)]


def too_long(count: int, n: int, limit: float, exact: bool) -> str:
    """Why a fit of ``count`` features takes too long: more multiply-adds than ``limit``; empty if it doesn't."""
    work = float(n) * count**2 if exact or n >= count else float(n) ** 2 * count
    if work <= limit:
        return ""
    what, option = ("images", "exact") if exact else ("samples", "sampled")
    return f"{count:,} features on {n:,} {what} are {work:.1e} multiply-adds, above the {option} limit of {limit:.1e}"


def too_large(count: int, size: int) -> str:
    """Why a fit does not fit the memory that is free; empty if it does."""
    needed, free = 8 * (2 * count**2 + 3 * count * size**2), free_memory()
    if free is None or needed <= 0.9 * free:
        return ""
    return f"{count:,} features need {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"


def shared(m: Any, size: int, family: str, top: int) -> list[Row]:
    """Exact fit: clamped errors on drawn noise at degrees 1 to ``top``."""
    fields: dict[str, Any] = {"size": size, "family": family, "fit": "exact"}
    degrees, rows = list(range(1, top + 1)), []
    model = SharedWaveletScore(family, top, ridge=SHARED_RIDGE).fit(m.splits[size]["train"], progress=m.progress)
    levels = sorted(draws(m, size), key=lambda d: d[1])  # both splits of a noise level share its solution
    with progress_bar(len(levels), f"shared readout {family} {size}", m.progress, "level") as bar:
        for split, sigma, y, clean in levels:
            for degree, x in zip(degrees, model.denoise_degrees(y, sigma, degrees, clamp=False)):
                more = {"split": split, "sigma": sigma, "degree": degree, "features": model.count(degree)}
                rows += score_rows(m, x, clean, degree > 1, **fields, **more)
            bar.update()
    return rows


def sampled_shared(m: Any, size: int, family: str, n: int, sigma: float, top: int) -> list[Row]:
    """The paper's own fit on ``n`` noisy samples, repeated with other noise (and, below all of them, other images)."""
    config, train = m.config, m.splits[size]["train"]
    fields: dict[str, Any] = {"size": size, "family": family, "fit": fit_name(n), "sigma": sigma}
    features = SharedFeatures(train, family, top)
    found: dict[tuple[Any, ...], list[Row]] = {}
    with progress_bar(config.repeats, f"shared {family} {size}, {n} samples, {sigma:g}", m.progress, "fit") as bar:
        for repeat in range(config.repeats):
            key = (config.seed, 18, repeat, round(sigma * 1e6))
            fit = SampledShared(features, train, n, as_noise(sigma), top, SHARED_RIDGE, key, repeat * n)
            readouts = {degree: fit.at(degree) for degree in range(1, top + 1)}
            for split, level, y, clean in draws(m, size):
                if level != sigma:
                    continue
                for degree, readout in readouts.items():
                    x = fit.estimate_with(readout, y)
                    more = {"split": split, "degree": degree, "features": len(readout)}
                    for row in score_rows(m, x, clean, False, **fields, **more):
                        found.setdefault((split, degree, row["metric"], row["images"]), []).append(row)
            bar.update()
    return [{**same[0], "units": [row["units"][0] for row in same]} for same in found.values()]
