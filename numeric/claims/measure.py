"""Measurements behind the claims: rows of per-group errors, made once and kept in ``runs/``.

A row is a dictionary of what was measured (size, sigma, split, family, readout, degree, fit, ridge, error, metric) and
``units``, the mean over each of K contiguous groups of images.  Two rows of one split have the same groups and, where noise
was drawn, the same noise, so that their comparison is paired.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

import numeric.baselines
from numeric.baselines.linear import LinearDenoiser
from numeric.data import ImageSet, load_mnist
from numeric.denoiser import Denoiser
from numeric.evaluation.metrics import SampleQuality, edge_error, edge_sharpness, frechet_distance
from numeric.evaluation.sample import NoiseStream, Sampler, SamplingError, edm_sigmas
from numeric.evaluation.sweep import image_errors, noise_like
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.results import read_json, write_json
from numeric.scores.folds import FoldedFit, fold_edges
from numeric.scores.moments import monomials
from numeric.scores.own import Solution, WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.solve import BlockSolution, feature_matrix, normal_system

Row = dict[str, Any]
FAMILIES = ("independent", "band", "local")
log = logging.getLogger(__name__)


@dataclass
class ClaimsConfig:
    """Parameters of the claims.

    Attributes:
        sizes: the smaller and the larger image side. sigmas: VE noise levels; at or above ``high_sigma`` the noise is called
            high, at or below ``low_sigma`` low to moderate (the paper's own bounds are lost from its text).
        degree: highest degree of the families. hermite_degree: of the independent family in the Hermite claim.
        n_train, n_test: images to fit on and held out (None: all). n_eval: images per split where noise is drawn.
        n_ssim: of those, for the structural similarity. n_network: of those, for trained networks.
        folds: groups of images for exact errors; groups: for drawn ones.
        ridge: of the exact fits (unit scaling). raw_ridges: strengths of the paper's ridge on raw features, per sample.
        samples: numbers of noisy samples of sampled fits.
        n_generated, steps: images generated, and steps, for the sampling claims.
        networks: labels of the trained networks to use (empty: all there are).
        shared_large: also run the shared readout (independent, degree 2) at the larger size: minutes and 2.3 GiB at 64.
        cache: folder of finished measurements.
    """

    sizes: Sequence[int] = (32, 64)
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    low_sigma: float = 0.25
    high_sigma: float = 0.5
    degree: int = 3
    hermite_degree: int = 5
    n_train: int | None = None
    n_test: int | None = None
    n_eval: int = 400
    n_ssim: int = 200
    n_network: int = 200
    folds: int = 10
    groups: int = 20
    ridge: float = 1e-10
    raw_ridges: Sequence[float] = (1e-4, 1e-2, 1.0)
    samples: Sequence[int] = (500, 4000)
    n_generated: int = 200
    steps: int = 20
    networks: Sequence[str] = ()
    shared_large: bool = False
    seed: int = 0
    data_root: str | None = None
    name: str = "claims"
    cache: str = "runs"

    def __post_init__(self) -> None:
        if len(self.sizes) != 2 or self.sizes[0] >= self.sizes[1]:
            raise ValueError(f"sizes must be two increasing image sides, such as (32, 64), got {list(self.sizes)}")
        if len(self.sigmas) < 2 or min(self.sigmas) <= 0 or list(self.sigmas) != sorted(set(self.sigmas)):
            raise ValueError(f"sigmas must be at least two increasing numbers > 0, got {list(self.sigmas)}")
        if self.degree < 2 or self.hermite_degree < self.degree:
            raise ValueError(
                f"need degree >= 2 and hermite_degree >= degree, got {self.degree} and {self.hermite_degree}"
            )
        if min(self.folds, self.groups) < 2:
            raise ValueError(f"folds and groups must be >= 2, got {self.folds} and {self.groups}")
        if min(self.n_eval, self.n_ssim, self.n_network) < self.groups:
            raise ValueError(f"n_eval, n_ssim and n_network must be at least groups={self.groups}")

    @property
    def settings(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple | list) else v for k, v in vars(self).items() if k != "cache"}

    @property
    def degrees(self) -> list[int]:
        return list(range(1, self.degree + 1))


def find(rows: Sequence[Row], **wanted: Any) -> list[float] | None:
    """Units of the one row with these fields, None if there is none.

    Raises:
        LookupError: several rows match.
    """
    hits = [r for r in rows if all(r.get(k) == v for k, v in wanted.items())]
    if len(hits) > 1:
        raise LookupError(f"{len(hits)} rows match {wanted}")
    return hits[0]["units"] if hits else None


def grouped(values: Tensor, groups: int) -> list[float]:
    """Means of per-image values ``(n,)`` over contiguous groups."""
    return [float(values[low:high].double().mean()) for low, high in fold_edges(len(values), groups)]


# ----- fits from drawn noise (the paper's own way) -----------------------------------------------------------------------


def noisy_sample(images: ImageSet, n: int, noise: NoiseLevel, key: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """``n`` pairs (noisy, clean), float64, in batches; the images in turn, each time with new noise."""
    done = 0
    while done < n:
        low = done % len(images)
        size = min(1000, n - done, len(images) - low)
        clean = images[low : low + size].double()
        yield noise.alpha * clean + noise.sigma * noise_like(clean, *key, done), clean
        done += size


def sampled_solution(
    model: WaveletScore,
    images: ImageSet,
    n: int,
    noise: NoiseLevel,
    degree: int,
    ridge: float,
    key: Sequence[int] = (0,),
) -> Solution:
    """Own-readout least squares on ``n`` noisy samples, ridge on unit-scaled features: equation (23), no exact moments.

    Raw monomials of ``v / t`` are the features, as in :func:`numeric.scores.solve.solve_block`.
    """
    reference = model.solve(noise, degree)
    batches = [
        (model.transform_.forward(y).flatten(1).T, model.transform_.forward(x).flatten(1).T)
        for y, x in noisy_sample(images, n, noise, key)
    ]
    v, w = (torch.cat(part, 1) for part in zip(*batches))
    blocks = []
    for block, exact in zip(model.moments_.blocks, reference.blocks):
        plan, size = block.plan, block.plan.closed_count(degree)
        features = feature_matrix(plan, degree, "monomial", exact.centre / exact.scale)
        variables = torch.as_tensor(block.block.variables)
        h = torch.empty(len(variables), size, dtype=torch.float64)
        step = max(1, 2**26 // (8 * n * (2 * size + variables.shape[1])))
        for start in range(0, len(variables), step):
            part = slice(start, start + step)
            u = (v[variables[part]] - exact.centre.T[part, :, None]) / exact.scale.T[part, :, None]
            phi = features[part] @ monomials(u, plan, size)
            gram, rhs = phi @ phi.transpose(1, 2) / n, (phi @ w[variables[part, 0]][:, :, None])[..., 0] / n
            norm = gram.diagonal(dim1=1, dim2=2).rsqrt()
            gram = gram * norm[:, :, None] * norm[:, None, :]
            gram.diagonal(dim1=1, dim2=2).add_(ridge)
            theta = torch.linalg.solve(gram, rhs * norm) * norm
            h[part] = torch.einsum("gfb,gf->gb", features[part], theta)
        nan = torch.full_like(h[:, 0], float("nan"))
        blocks.append(BlockSolution(plan, degree, h, exact.centre, exact.scale, h, nan, nan))
    return Solution(noise, degree, tuple(blocks))


class SampledShared(Denoiser):
    """Shared readout by ridge on ``n`` noisy samples (Sec. 3, equation (23)), features scaled to unit second moment.

    Args:
        features: a fitted :class:`~numeric.scores.shared.SharedWaveletScore`; only its features and mean are used.
    """

    def __init__(
        self,
        features: SharedWaveletScore,
        images: ImageSet,
        n: int,
        noise: NoiseLevel,
        degree: int,
        ridge: float,
        key: Sequence[int] = (0,),
    ) -> None:
        self.features, self.size = features, features.count(degree)
        gram = torch.zeros(self.size, self.size, dtype=torch.float64)
        cross = torch.zeros(self.size, len(features.mean_), dtype=torch.float64)
        for y, x in noisy_sample(images, n, noise, key):
            phi = self._phi(y, noise)
            gram.addmm_(phi, phi.T)
            cross.addmm_(phi, features.transform_.forward(x).flatten(1))
        norm = gram.diagonal().rsqrt()
        gram *= norm[:, None] * norm[None, :]
        gram.diagonal().add_(ridge)
        factor = torch.linalg.cholesky(gram)
        self.readout = torch.cholesky_solve(cross * norm[:, None], factor) * norm[:, None]

    def _phi(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        v = self.features.transform_.forward(y).flatten(1) - torch.as_tensor(noise.alpha * self.features.mean_).to(y)
        return self.features.monomials_.features(v, self.size)

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        w = self._phi(y.double(), noise).T @ self.readout
        return self.features.transform_.inverse(w.reshape(len(y), self.features.channels_, -1)).to(y)


# ----- all measurements ---------------------------------------------------------------------------------------------------


class Measurements:
    """Rows by name (:meth:`rows`), each measured when first asked for and then kept in ``cache``.

    Attributes:
        splits: size -> split -> images.
    """

    def __init__(self, config: ClaimsConfig, progress: bool = True) -> None:
        self.config, self.progress = config, progress
        self.splits = {
            size: {
                "train": load_mnist("train", size=size, count=config.n_train, root=config.data_root),
                "held-out": load_mnist("test", size=size, count=config.n_test, root=config.data_root),
            }
            for size in config.sizes
        }
        least = max(config.folds, config.n_ssim, config.n_network)
        for name, images in self.splits[config.sizes[0]].items():
            if len(images) < least:
                raise ValueError(f"{len(images)} {name} images are too few: the settings need at least {least}")
        self._memory: dict[str, list[Row]] = {}
        self._measures: dict[str, Callable[[], list[Row]]] = {}
        for size in config.sizes:
            self._measures[f"exact {size}"] = lambda size=size: self._exact(size)  # type: ignore[misc]
            self._measures[f"conditions {size}"] = lambda size=size: self._conditions(size)  # type: ignore[misc]
            self._measures[f"linear {size}"] = lambda size=size: self._linear(size)  # type: ignore[misc]
            self._measures[f"drawn {size}"] = lambda size=size: self._drawn(size)  # type: ignore[misc]
            self._measures[f"networks {size}"] = lambda size=size: self._networks(size)  # type: ignore[misc]
        self._measures |= {
            "matched noise": self._matched,
            "ridges": self._ridges,
            "sampled": self._sampled,
            "shared": self._shared,
            "shared large": self._shared_large,
            "over-complete": self._overcomplete,
            "generated": self._generated,
        }
        self.fit = lru_cache(maxsize=3)(self._fit)
        self.linear = lru_cache(maxsize=1)(self._fit_linear)

    # ----- keeping ---------------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        settings = {k: v for k, v in self.config.settings.items() if k not in ("networks", "name", "shared_large")}
        content: dict[str, Any] = {
            "settings": settings,
            "data": [s.provenance for s in self.splits[self.config.sizes[0]].values()],
        }
        if name.startswith("networks"):
            content["networks"] = sorted(self._trained(int(name.split()[1])))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def rows(self, name: str) -> list[Row]:
        """Rows of one measurement.

        Raises:
            KeyError: there is no such measurement.
        """
        if name not in self._memory:
            path = Path(self.config.cache) / self.config.name / self._key(name) / f"{name.replace(' ', '-')}.json"
            if path.exists():
                self._memory[name] = read_json(path)
            else:
                log.info("measuring %s", name)
                self._memory[name] = self._measures[name]()
                write_json(path, self._memory[name])
        return self._memory[name]

    def measure_all(self) -> None:
        """Every measurement that the claims use, one image size after the other (fits are kept in memory meanwhile)."""
        small, large = (str(size) for size in self.config.sizes)
        first = [n for n in self._measures if n.endswith(f" {small}")] + ["ridges", "sampled", "generated"]
        second = [n for n in self._measures if n.endswith(f" {large}")] + ["matched noise"]
        rest = ["shared", "over-complete"] + ["shared large"] * self.config.shared_large
        for name in [*first, *second, *rest]:
            self.rows(name)

    @property
    def small(self) -> int:
        return self.config.sizes[0]

    @property
    def large(self) -> int:
        return self.config.sizes[1]

    # ----- fits ------------------------------------------------------------------------------------------------------------

    def _fit(self, size: int, family: str) -> FoldedFit:
        degree = self.config.hermite_degree if family == "independent" else self.config.degree
        model = WaveletScore(family, degree, ridge=self.config.ridge)
        return FoldedFit(model, self.splits[size], self.config.folds, progress=self.progress)

    def _fit_linear(self, size: int) -> LinearDenoiser:
        return LinearDenoiser().fit(self.splits[size]["train"], progress=self.progress)

    def _trained(self, size: int) -> dict[str, Denoiser]:
        nets, wanted = numeric.baselines.trained(size), set(self.config.networks)
        return {k: v for k, v in nets.items() if not wanted or k in wanted}

    # ----- exact errors ------------------------------------------------------------------------------------------------------

    def _exact_rows(self, folded: FoldedFit, solutions: list[Solution], **fields: Any) -> list[Row]:
        out = []
        for split in folded.tables:
            for solution, units in zip(solutions, folded.errors(solutions, split)):
                out.append(
                    {
                        "split": split,
                        "sigma": solution.noise.effective_sigma,
                        "degree": solution.degree,
                        "error": "expected",
                        "readout": "own",
                        "units": units.tolist(),
                        **fields,
                    }
                )
        return out

    def _exact(self, size: int) -> list[Row]:
        rows = []
        for family in FAMILIES:
            fit = self.fit(size, family)
            with progress_bar(len(self.config.sigmas), f"exact errors {family} {size}", self.progress, "sigma") as bar:
                for sigma in self.config.sigmas:
                    degrees = range(1, fit.model.degree + 1)
                    rows += self._exact_rows(fit, fit.solve(as_noise(sigma), list(degrees)), size=size, family=family)
                    bar.update()
        return rows

    def _matched(self) -> list[Row]:
        """The larger images at a noise as strong beside their coefficients as the smaller images' is (sigma times the ratio
        of the sides: upsampling multiplies the coefficients of a given structure by it)."""
        rows, ratio = [], self.large / self.small
        for family in FAMILIES:
            fit = self.fit(self.large, family)
            for sigma in self.config.sigmas:
                solutions = fit.solve(as_noise(sigma * ratio), [1, self.config.degree])
                rows += [
                    {**r, "sigma": sigma} for r in self._exact_rows(fit, solutions, size=self.large, family=family)
                ]
        return rows

    def _linear(self, size: int) -> list[Row]:
        """Exact expected error of the linear denoiser: ``sum_i (s^2 / (l_i + s^2))^2 E z_i^2 + s^2 (l_i / (l_i + s^2))^2``."""
        linear, rows = self.linear(size), []
        mean, vectors, spectrum = linear.mean_, linear.eigenvectors_, linear.eigenvalues_
        for split, images in self.splits[size].items():
            second = torch.zeros(self.config.folds, len(spectrum), dtype=torch.float64)
            energy = torch.zeros(self.config.folds, dtype=torch.float64)
            for k, (low, high) in enumerate(fold_edges(len(images), self.config.folds)):
                for start in range(low, high, 1000):
                    x = images[start : min(start + 1000, high)].double().flatten(1) - mean
                    second[k] += (x @ vectors).square().sum(0) / (high - low)
                    energy[k] += x.square().sum() / (high - low)
            for sigma in self.config.sigmas:
                s2 = sigma**2
                bias, noise = (s2 / (spectrum + s2)) ** 2, s2 * (spectrum / (spectrum + s2)) ** 2
                outside = energy - second.sum(1)  # of directions in which no training image varies: gain 0
                units = (second @ bias + noise.sum() + outside) / len(mean)
                rows.append(
                    {
                        "size": size,
                        "split": split,
                        "sigma": sigma,
                        "family": "linear",
                        "error": "expected",
                        "units": units.tolist(),
                    }
                )
        return rows

    def _ridges(self) -> list[Row]:
        """Independent and band at the smaller size with the paper's ridge on raw features, on either side."""
        rows, config = [], self.config
        for family in ("independent", "band"):
            fit = self.fit(self.small, family)
            model = fit.model
            original = model.get_params()
            for side in ("score", "denoiser"):
                for strength in config.raw_ridges:
                    model.set_params(ridge=strength, ridge_side=side, ridge_scaling="raw")
                    for sigma in config.sigmas:
                        solutions = fit.solve(as_noise(sigma), config.degrees[1:])
                        rows += self._exact_rows(
                            fit, solutions, size=self.small, family=family, ridge=f"raw {strength:g}, {side} side"
                        )
            model.set_params(**original)
        return rows

    def _sampled(self) -> list[Row]:
        """Independent and band at the smaller size fitted on drawn noise (own readout), errors still exact."""
        rows, config = [], self.config
        for family in ("independent", "band"):
            fit = self.fit(self.small, family)
            for n in config.samples:
                for sigma in config.sigmas:
                    solutions = [
                        sampled_solution(
                            fit.model,
                            self.splits[self.small]["train"],
                            n,
                            as_noise(sigma),
                            degree,
                            config.ridge,
                            (config.seed, 17, round(sigma * 1e6)),
                        )
                        for degree in config.degrees[1:]
                    ]
                    rows += self._exact_rows(fit, solutions, size=self.small, family=family, fit=f"{n} noisy samples")
        return rows

    # ----- condition numbers ---------------------------------------------------------------------------------------------------

    def _conditions(self, size: int) -> list[Row]:
        """Median log10 condition number of the Gram matrices, and of the ratio monomial to Hermite, over coefficients.

        No ridge. ``unit``: features scaled to unit second moment; ``raw``: the features as they are.
        """
        rows, config = [], self.config
        rng = np.random.default_rng(config.seed)
        for family in FAMILIES:
            fit = self.fit(size, family)
            for sigma in (config.sigmas[0], config.sigmas[-1]):
                noise = as_noise(sigma)
                systems = [
                    (
                        b.plan,
                        normal_system(
                            t, fit.model.mean_[torch.as_tensor(b.block.variables)].T, b.plan, noise, config.degree
                        ),
                    )
                    for b, t in zip(fit.model.moments_.blocks, fit.model.central_)
                ]
                for degree in config.degrees[1:]:
                    values = {}
                    for basis in ("monomial", "hermite"):
                        parts: dict[str, list[Tensor]] = {"unit": [], "raw": []}
                        for plan, system in systems:
                            size_ = plan.closed_count(degree)
                            features = feature_matrix(plan, degree, basis, system.centre / system.scale)
                            gram = features @ system.gram[:, :size_, :size_] @ features.transpose(1, 2)
                            if basis == "monomial":  # of v / t here; the raw ones carry powers of t
                                powers = torch.as_tensor(plan.basis[plan.features(degree)], dtype=torch.float64)
                                unit = torch.exp(powers @ system.scale.log()).T
                            else:
                                unit = torch.ones_like(gram[:, 0])
                            norm = gram.diagonal(dim1=1, dim2=2).rsqrt()
                            for scaling, d in (("unit", norm), ("raw", unit)):
                                eigenvalues = torch.linalg.eigvalsh(gram * d[:, :, None] * d[:, None, :])
                                ratio = eigenvalues[:, -1] / eigenvalues[:, 0].clamp_min(1e-300)
                                parts[scaling].append(ratio.log10())
                        for scaling, logs in parts.items():
                            values[basis, scaling] = torch.cat(logs).clamp_max(17).numpy()
                    for scaling in ("unit", "raw"):
                        fields = {"size": size, "family": family, "sigma": sigma, "degree": degree, "scaling": scaling}
                        for basis in ("monomial", "hermite"):
                            rows.append({**fields, "basis": basis, **_median(values[basis, scaling], rng)})
                        gain = values["monomial", scaling] - values["hermite", scaling]
                        rows.append({**fields, "basis": "gain", **_median(gain, rng)})
        return rows

    # ----- drawn noise -----------------------------------------------------------------------------------------------------

    def _draws(self, size: int) -> Iterator[tuple[str, float, Tensor, Tensor]]:
        """(split, sigma, noisy, clean) of the first ``n_eval`` images; the same noise for whoever asks."""
        config = self.config
        for number, (split, images) in enumerate(self.splits[size].items()):
            clean = images[: min(config.n_eval, len(images))]
            for sigma in config.sigmas:
                yield split, sigma, clean + sigma * noise_like(clean, config.seed, number, round(sigma * 1e6)), clean

    def _scores(self, x: Tensor, clean: Tensor, ssim: bool) -> dict[str, Tensor]:
        """Per-image measures of unclamped estimates."""
        clamped = x.clamp(0, 1)
        out = {
            "mse": image_errors(clamped, clean),
            "mse unclamped": image_errors(x, clean),
            "sharpness": edge_sharpness(clamped, clean),
            "edge error": edge_error(clamped, clean),
        }
        if ssim:
            pairs = zip(clamped[: self.config.n_ssim, 0].numpy(), clean[: self.config.n_ssim, 0].numpy())
            out["ssim"] = torch.tensor([structural_similarity(a, b, data_range=1.0) for a, b in pairs])
        return out

    def _drawn(self, size: int) -> list[Row]:
        config = self.config
        models = {family: self.fit(size, family).model for family in FAMILIES}
        linear = self.linear(size)
        rows = []
        total = len(config.sigmas) * len(self.splits[size])
        with progress_bar(total, f"drawn noise {size}", self.progress, "level") as bar:
            for split, sigma, y, clean in self._draws(size):
                fields = {"size": size, "split": split, "sigma": sigma, "readout": "own", "error": "drawn"}
                for family, model in models.items():
                    for degree, x in zip(config.degrees, model.estimate_degrees(y, sigma, config.degrees)):
                        ssim = degree == config.degree
                        rows += self._score_rows(x, clean, ssim, **fields, family=family, degree=degree)
                rows += self._score_rows(linear.estimate(y, as_noise(sigma)), clean, False, **fields, family="linear")
                bar.update()
        return rows

    def _score_rows(self, x: Tensor, clean: Tensor, ssim: bool, **fields: Any) -> list[Row]:
        out = []
        for metric, values in self._scores(x, clean, ssim).items():
            out.append({**fields, "metric": metric, "images": "all", "units": grouped(values, self.config.groups)})
            if metric == "mse":  # the networks see the first images only; have everyone's error on those too
                first = grouped(values[: self.config.n_network], self.config.groups)
                out.append({**fields, "metric": metric, "images": "first", "units": first})
        return out

    def _networks(self, size: int) -> list[Row]:
        nets, rows = self._trained(size), []
        n = self.config.n_network
        for split, sigma, y, clean in self._draws(size) if nets else ():
            for label, net in nets.items():
                x = torch.cat([net.denoise(part, sigma) for part in y[:n].split(100)])
                units = grouped(image_errors(x, clean[:n]), self.config.groups)
                rows.append({"size": size, "split": split, "sigma": sigma, "family": label, "units": units})
        return rows

    # ----- the shared readout, and an over-complete basis ------------------------------------------------------------------------

    def _shared(self) -> list[Row]:
        """Shared readout at the smaller size: exact and sampled fits of independent (all degrees) and band (degree 2)."""
        config, size, rows = self.config, self.small, []
        train = self.splits[size]["train"]
        counts = sorted({*config.samples, len(train)})
        for family, degrees in (("independent", config.degrees), ("band", [2])):
            exact = SharedWaveletScore(family, max(degrees)).fit(train, progress=self.progress)
            sampled: dict[tuple[int, float], SampledShared] = {}
            with progress_bar(8 * len(config.sigmas), f"shared readout {family}", self.progress, "fit") as bar:
                for split, sigma, y, clean in self._draws(size):
                    fields = {"size": size, "split": split, "sigma": sigma, "readout": "shared", "family": family}
                    estimates = exact.estimate_degrees(y, sigma, degrees)
                    for degree, x in zip(degrees, estimates):
                        rows += self._score_rows(
                            x, clean, False, **fields, degree=degree, fit="exact", features=exact.count(degree)
                        )
                    bar.update()
                    for n in counts:
                        if (n, sigma) not in sampled:
                            key = (config.seed, 18, round(sigma * 1e6))
                            sampled[n, sigma] = SampledShared(exact, train, n, as_noise(sigma), 2, 1e-6, key)
                        x = sampled[n, sigma].estimate(y, as_noise(sigma))
                        rows += self._score_rows(
                            x, clean, False, **fields, degree=2, fit=f"{n} noisy samples", features=exact.count(2)
                        )
                        bar.update()
        return rows

    def _shared_large(self) -> list[Row]:
        """Shared readout at the larger size, independent family, degree 2, exact fit."""
        config, size, rows = self.config, self.large, []
        exact = SharedWaveletScore("independent", 2).fit(self.splits[size]["train"], progress=self.progress)
        with progress_bar(2 * len(config.sigmas), f"shared readout {size}", self.progress, "level") as bar:
            draws = sorted(self._draws(size), key=lambda d: d[1])  # both splits of a sigma share its solution
            for split, sigma, y, clean in draws:
                fields = {"size": size, "split": split, "sigma": sigma, "readout": "shared", "family": "independent"}
                x = exact.estimate_degrees(y, sigma, [2])[0]
                rows += self._score_rows(x, clean, False, **fields, degree=2, fit="exact", features=exact.count(2))
                bar.update()
        return rows

    def _overcomplete(self) -> list[Row]:
        """Independent and band, own readout, in a non-periodised basis with the pseudo-inverse (the paper's code)."""
        config, size, rows = self.config, self.small, []
        for family in ("independent", "band"):
            model = WaveletScore(family, 2, mode="symmetric", ridge=config.ridge)
            model.fit(self.splits[size]["train"], progress=self.progress)
            for split, sigma, y, clean in self._draws(size):
                fields = {"size": size, "split": split, "sigma": sigma, "readout": "own", "family": family}
                rows += self._score_rows(model.estimate(y, as_noise(sigma)), clean, False, **fields, degree=2)
        return rows

    # ----- generated images --------------------------------------------------------------------------------------------------

    def _generated(self) -> list[Row]:
        """Frechet distance of generated to held-out images, and how well a random forest tells them apart."""
        config, size, rows = self.config, self.small, []
        train, test = self.splits[size]["train"], self.splits[size]["held-out"]
        choose = torch.Generator().manual_seed(config.seed)
        pool = torch.randperm(len(train), generator=choose)[:4000]
        reference = test[torch.randperm(len(test), generator=choose)[: config.n_generated]]
        quality = SampleQuality(train[pool], seed=config.seed)
        base = quality.features(reference)
        models = {(family, d): self.fit(size, family).model for family in FAMILIES for d in (1, config.degree)}
        for clip in (True, False):
            sampler = Sampler(edm_sigmas(config.steps, 0.03, 20.0), clip_denoised=clip)
            features: dict[tuple[str, int], np.ndarray] = {}
            for (family, degree), model in models.items():
                seeds = NoiseStream.from_seeds(range(config.seed, config.seed + config.n_generated))
                row = {"family": family, "degree": degree, "clip": clip}
                try:
                    x = sampler.run(_Degree(model, degree), seeds, train.shape, self.progress)
                except SamplingError as error:
                    rows.append({**row, "metric": "diverged", "message": str(error)})
                    continue
                x = x.clamp(0, 1)
                features[family, degree] = quality.features(x)
                auc = quality.two_sample_auc(x, reference, trees=50)
                rows.append({**row, "metric": "auc", **_normal(auc["value"], auc["se"])})
            distances = {model: _bootstrap_frechet(values, base, config.seed) for model, values in features.items()}
            start = distances.get(("independent", 1))
            for (family, degree), (value, draws) in distances.items():
                row = {"family": family, "degree": degree, "clip": clip}
                rows.append({**row, "metric": "frechet", "value": value, **_percentiles(draws)})
                if start is not None and (family, degree) != ("independent", 1):
                    fall = 100 * (1 - value / start[0])
                    rows.append(
                        {**row, "metric": "frechet fall", "value": fall, **_percentiles(100 * (1 - draws / start[1]))}
                    )
        return rows


class _Degree(Denoiser):
    """A fitted estimator held at a lower degree."""

    def __init__(self, model: WaveletScore, degree: int) -> None:
        self.model, self.degree, self.label = model, degree, f"{model.family}, degree {degree}"

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        return self.model.estimate_degrees(y, noise, [self.degree])[0]


def _median(values: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Median with a 95% percentile bootstrap over coefficients."""
    out = scipy.stats.bootstrap((values,), np.median, n_resamples=499, method="percentile", rng=rng, batch=50)
    low, high = out.confidence_interval
    return {"value": float(np.median(values)), "low": float(low), "high": float(high)}


def _bootstrap_frechet(a: np.ndarray, b: np.ndarray, seed: int, resamples: int = 100) -> tuple[float, np.ndarray]:
    """Frechet distance and its bootstrap draws; one seed gives the same resampled places, so that draws are paired."""
    rng = np.random.default_rng(seed)
    places = [(rng.integers(len(a), size=len(a)), rng.integers(len(b), size=len(b))) for _ in range(resamples)]
    return frechet_distance(a, b), np.array([frechet_distance(a[i], b[j]) for i, j in places])


def _percentiles(draws: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _normal(value: float, se: float) -> dict[str, float]:
    return {"value": value, "low": value - 1.96 * se, "high": value + 1.96 * se}
