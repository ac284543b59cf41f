"""Generated images against held-out ones: energy distances with known coverage, and a classifier two-sample test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.claims.config import FAMILIES, Row
from numeric.denoiser import Denoiser
from numeric.evaluation.metrics import SampleQuality
from numeric.evaluation.sample import NoiseStream, Sampler, SamplingError, edm_sigmas
from numeric.noise import NoiseLevel
from numeric.scores.own import WaveletScore


class _Degree(Denoiser):
    """A fitted estimator held at a lower degree."""

    def __init__(self, model: WaveletScore, degree: int) -> None:
        self.model, self.degree, self.label = model, degree, f"{model.family}, degree {degree}"

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        return self.model.denoise_degrees(y, noise, [self.degree], clamp=False)[0]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances ``(len(a), len(b))`` of feature rows."""
    return torch.cdist(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)).numpy()


class EnergyDistance:
    """Unbiased energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|`` of two samples (Szekely and Rizzo, 2013), and its values
    with each sample left out in turn.

    The U-statistic has no bias, unlike the Frechet distance, whose bias at a few hundred images is larger than most differences.

    Attributes:
        value: the distance. without_x ``(n,)``, without_y ``(m,)``: the distance without one sample.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        n, m = len(x), len(y)
        if min(n, m) < 3:
            raise ValueError(f"the energy distance needs at least 3 samples a side, got {n} and {m}")
        cross, xx, yy = distances(x, y), distances(x, x), distances(y, y)
        between, within_x, within_y = cross.sum(), xx.sum(), yy.sum()

        def of(total: Any, sum_x: Any, sum_y: Any, n: int, m: int) -> Any:
            return 2 * total / (n * m) - sum_x / (n * (n - 1)) - sum_y / (m * (m - 1))

        self.value = float(of(between, within_x, within_y, n, m))
        self.without_x = of(between - cross.sum(1), within_x - 2 * xx.sum(1), within_y, n - 1, m)
        self.without_y = of(between - cross.sum(0), within_x, within_y - 2 * yy.sum(1), n, m - 1)


def jackknife_pair(value: float, without_x: np.ndarray, without_y: np.ndarray) -> dict[str, float]:
    """95% interval of a statistic of two independent samples from its delete-one values: the variances of both sides add up."""
    variance = sum((len(d) - 1) / len(d) * np.square(d - d.mean()).sum() for d in (without_x, without_y))
    half = 1.959963984540054 * float(variance) ** 0.5
    return {"value": value, "low": value - half, "high": value + half}


def fall_between(before: EnergyDistance, after: EnergyDistance) -> dict[str, float]:
    """Fall of the energy distance in per cent, seeds and held-out images left out of both at once (they are paired)."""

    def fall(a: Any, b: Any) -> Any:
        return 100.0 * (1.0 - b / a)

    return jackknife_pair(
        float(fall(before.value, after.value)),
        fall(before.without_x, after.without_x),
        fall(before.without_y, after.without_y),
    )


def generated(m: Any, size: int) -> list[Row]:
    """Energy distance of generated to held-out images, its fall, and how well a random forest tells them apart."""
    config, rows = m.config, []
    train, test = m.splits[size]["train"], m.splits[size]["held-out"]
    choose = torch.Generator().manual_seed(config.seed)
    pool = torch.randperm(len(train), generator=choose)[:4000]
    reference = test[torch.randperm(len(test), generator=choose)[: config.n_generated]]
    quality = SampleQuality(train[pool], seed=config.seed)
    base = quality.features(reference)
    models = {(family, d): m.fit(size, family).model for family in FAMILIES for d in (1, config.degree)}
    for clip in (True, False):
        sampler = Sampler(edm_sigmas(config.steps, 0.03, 20.0), clip_denoised=clip)
        found: dict[tuple[str, int], EnergyDistance] = {}
        for (family, degree), model in models.items():
            seeds = NoiseStream.from_seeds(range(config.seed, config.seed + config.n_generated))
            row = {"family": family, "degree": degree, "clip": clip}
            try:
                x = sampler.run(_Degree(model, degree), seeds, train.shape, m.progress)
            except SamplingError as error:
                rows.append({**row, "metric": "diverged", "message": str(error)})
                continue
            x = x.clamp(0, 1)
            distance = found[family, degree] = EnergyDistance(quality.features(x), base)
            rows.append(
                {**row, "metric": "energy", **jackknife_pair(distance.value, distance.without_x, distance.without_y)}
            )
            auc = quality.two_sample_auc(x, reference, trees=50)
            half = 1.96 * auc["se"]
            rows.append(
                {**row, "metric": "auc", "value": auc["value"], "low": auc["value"] - half, "high": auc["value"] + half}
            )
        start = found.get(("independent", 1))
        for (family, degree), distance in found.items():
            if start is not None and (family, degree) != ("independent", 1):
                row = {"family": family, "degree": degree, "clip": clip}
                rows.append({**row, "metric": "energy fall", **fall_between(start, distance)})
    return rows
