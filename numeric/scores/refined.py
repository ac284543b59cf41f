"""Beyond the paper: a mixture, then features of its estimate; stages of least squares, no gradient step.

At a noise level estimates of the clean image are made in closed form from the noisy one: linear, readouts of monomials of the
linear estimate (:class:`~numeric.scores.wiener.WienerScore`), the posterior mean of a Gaussian mixture
(:class:`~numeric.scores.gaussians.PrincipalMixture`) and what other denoisers say that are given, such as patch machines.  Stages of
experts on their windows (:mod:`numeric.scores.experts`) follow, the same at every pixel, each starting from what the one before
returned.

What is exact: these estimates, given the images they were fitted on.  What is not: the stages, for which noise is drawn.
They are fitted to estimates of images that had no part in them: the images are divided into folds and each fold is estimated from
the others (on their own images their errors are too low to learn from), while what is returned starts from estimates
fitted on all images.  On Gaussian data the
linear estimate is the posterior mean and the stages add nothing but their sampling error.  Nor is the field a gradient: where the
experts of a window change its Jacobian is far from symmetric (:mod:`numeric.evaluation.symmetry` measures it), the more so the
lower ``softness``.
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from numeric.data import ImageSet, as_image_set
from numeric.derivatives import outside_transforms
from numeric.memory import RESIDENT, need
from numeric.noise import NoiseLevel, as_noise, ve
from numeric.progress import progress_bar
from numeric.results import reading, stored
from numeric.scores.base import Selectable, plain, unchanged
from numeric.scores.coordinates import wiener_settings
from numeric.scores.experts import TENSORS, Stage, apply_stage, fit_stage
from numeric.scores.gaussians import PrincipalMixture
from numeric.scores.given import check_estimators, fitted, written
from numeric.scores.levels import LinearMoments, NoImagesError
from numeric.scores.moments import MomentError
from numeric.scores.stored import pixel_range
from numeric.scores.wiener import WienerScore
from numeric.shards import Shards

BATCH = 500
"""Noisy images that are estimated at a time."""
LISTS = ("readouts", "experts", "estimators")
"""Parameters that are sequences."""


@dataclass(frozen=True)
class Fold:
    """Images, and what all others say of the linear estimate, the mixture and the given estimators."""

    moments: LinearMoments
    mixture: PrincipalMixture | None
    estimators: list[Any]
    images: ImageSet


class RefinedScore(Selectable, BaseEstimator):
    """Closed-form estimates refined by stages of local experts.

    Args:
        readouts: of the linear estimate, each ``coordinates:degree`` or ``coordinates:degree:local`` as in
            :func:`numeric.scores.coordinates.wiener_settings`; ``()`` for none.
        components, directions, pooling: of the mixture (1: none, since it is the linear estimate); leading directions; images that
            the prior of a component's covariance is worth.
        experts: experts of each stage, one after another; ``()`` returns the last of the estimates, the mixture's where there is one.
        pixels: drawn to fit a stage to. side: of the windows of the noisy image and of the last estimate; the others' are two
            pixels less, the linear one's 3. dims: principal coordinates of a window that the partition sees. softness: of it.
        ridge: in pixels (see :mod:`numeric.scores.experts`).
        folds: parts of the images, drawn at random, each estimated from the others where the stages are fitted.
        spread: a stage sees so many images that one in so many of their pixels is drawn (neighbours say nearly the same); 1 sees the
            fewest images, which is what slow estimators ask for.
        estimators: denoisers with ``fit``, such as :class:`numeric.PSPCDenoiser`, whose estimates the stages read too: clones of them are
            fitted to all images and to those outside each fold. The stages start from the last one's.
        seed: of that draw, of k-means and of the stages' noise. device: of everything but k-means and the drawing of noise, whose
            numbers are the same on every device.

    A level is made when it is first asked for and needs the images then: :meth:`prepare_levels` makes many and :meth:`save` keeps
    them.  VP levels are VE levels of ``y / a``.

    Example:
        >>> import tempfile, torch
        >>> from numeric import RefinedScore
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = RefinedScore(readouts=(), components=2, experts=(2,), pixels=2000, side=3, dims=2).fit(images)
        >>> model.prepare_levels([0.5]).denoise(images[:2], 0.5).shape, model.label, model.parameter_count(0.5) > 0
        (torch.Size([2, 1, 8, 8]), 'mixture of 2, then 1 stage of experts', True)
        >>> mse, error = model.held_out_mse(1 - images, 0.5)
        >>> 0.0 < mse < 0.3, model.check_settings()
        (True, None)
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     model.save(file.name)
        ...     print(RefinedScore.load(file.name).label)
        mixture of 2, then 1 stage of experts
        >>> model.plain_params()["experts"]
        [2]
    """

    readout = "refined"

    def __init__(
        self,
        readouts: Sequence[str] = ("pixel:3",),
        components: int = 100,
        directions: int = 300,
        pooling: float = 50.0,
        experts: Sequence[int] = (1, 256, 256),
        pixels: int = 2_000_000,
        side: int = 7,
        dims: int = 16,
        softness: float = 1.0,
        ridge: float = 10.0,
        folds: int = 3,
        spread: int = 4,
        estimators: Sequence[Any] = (),
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.readouts, self.components, self.directions = readouts, components, directions
        self.pooling, self.experts, self.pixels, self.side, self.dims = pooling, experts, pixels, side, dims
        self.softness, self.ridge, self.folds, self.spread, self.estimators = softness, ridge, folds, spread, estimators
        self.seed, self.device = seed, device

    @property
    def label(self) -> str:
        """Name for legends."""
        starts = [f"{base.label} n={base.degree}" for base in self._new_bases() if base.degree > 1]
        starts += [f"mixture of {self.components}"] * (self.components > 1) + [getattr(one, "name", one.label) for one in self.estimators]
        return f"{', '.join(starts) or 'linear estimate'}, then {len(self.experts)} stage{'s' * (len(self.experts) != 1)} of experts"

    def check_settings(self) -> None:
        """Raise ValueError for parameters that cannot be used, before any work."""
        for name in ("components", "directions", "pixels", "dims", "side", "folds", "spread"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be >= 1 and whole, got {value!r}: use one such as {name}=3")
        if self.side % 2 == 0:
            raise ValueError(f"side must be odd, got {self.side}: windows are centred at a pixel")
        if not all(isinstance(k, numbers.Integral) and k >= 1 for k in self.experts):
            raise ValueError(f"every stage needs at least one expert, got {tuple(self.experts)}: use whole numbers such as (1, 256)")
        for name in ("pooling", "softness", "ridge"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)}")
        if self.folds < 2:
            raise ValueError(f"folds must be >= 2, got {self.folds}: each is estimated from the others")
        if isinstance(self.readouts, str):
            raise ValueError(f"readouts must be a list, got {self.readouts!r}: write ({self.readouts!r},)")
        check_estimators(self.estimators)
        for base in self._new_bases():
            base.check_settings()
            if self.readouts and base.degree < 2:
                raise ValueError(f"readouts must be of degree >= 2, got {tuple(self.readouts)}: the linear estimate is always there")

    # ----- fit -----------------------------------------------------------------------------------------------------------

    def fit(self, images: Any, y: None = None, *, batch_size: int = 1000, progress: bool = False, client: Any = None) -> Self:
        """Covariance and mixture of all images, and of those outside each fold; the stages follow when a level is prepared.

        Raises:
            MemoryError: foreseen; the message names the amount.
            ValueError: settings that cannot be used, or too few images for them; shards or a client (k-means and the stages
                read the images many times, and in this process).
        """
        self.check_settings()
        if client is not None or isinstance(images, Shards):
            raise ValueError(
                f"{type(self).__name__} reads its images many times (k-means, and the windows of every fold), which shards on a "
                "cluster do not give: fit it in this process on a sample, such as as_image_set(path).take(60000) without client=, or use "
                "WienerScore, whose passes run over shards"
            )
        data = as_image_set(images)
        folds = self._divided(data)
        least = min((len(rest) for rest, _ in folds), default=0)
        if len(folds) < self.folds or least < self.components:
            raise ValueError(
                f"{len(data)} images in {self.folds} folds leave {least} to make estimates of {self.components} components from: "
                "give more images, or fewer components"
            )
        self._check_memory(len(data), sum(len(part) for _, part in folds), math.prod(data.shape))
        first = self._new_bases()[0].fit(data, batch_size=batch_size, progress=progress)
        self.bases_, self.mixture_ = self._bases(first.moments_), self._new_mixture(first.moments_, data)
        self.estimators_ = fitted(self.estimators, data)
        self.folds_: list[Fold] | None = []
        for rest, part in folds if self.experts else []:
            moments = self._new_bases()[0].fit(rest, batch_size=batch_size, progress=progress).moments_
            self.folds_.append(Fold(moments, self._new_mixture(moments, rest), fitted(self.estimators, rest), part))
        self.stages_: dict[float, list[Stage]] = {}
        self.seconds_: dict[float, float] = {}
        self.fitted_settings_ = self._settings()
        self.remember(data)
        return self

    def _settings(self) -> dict[str, Any]:
        """All parameters but the given estimators, as a file holds them."""
        params = self.get_params(deep=False)
        del params["estimators"]
        return {name: list(value) if name in LISTS else plain(value) for name, value in params.items()}

    def _fitted(self) -> list[WienerScore]:
        """The readouts.

        Raises:
            NotFittedError: no images have been seen. SettingsError: a parameter was changed after the fit.
        """
        bases: list[WienerScore] = self.learned("bases_")
        unchanged(self.fitted_settings_, self._settings())
        return bases

    def _divided(self, data: ImageSet) -> list[tuple[ImageSet, ImageSet]]:
        """For every fold the images of all others, and its own as far as the stages see them: a share of each one's pixels is drawn."""
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(int(self.seed))).numpy()
        seen = math.ceil(int(self.spread) * int(self.pixels) / math.prod(data.shape[1:]) / int(self.folds))
        parts = [part for part in np.array_split(order, int(self.folds)) if len(part)]
        if len(parts) < 2:
            return []
        others = [np.sort(np.concatenate(parts[:k] + parts[k + 1 :])) for k in range(len(parts))]
        return [(data.subset(rest), data.subset(np.sort(part[:seen]))) for rest, part in zip(others, parts)]

    def _new_mixture(self, moments: LinearMoments, images: ImageSet) -> PrincipalMixture | None:
        """The mixture of images whose covariance is known."""
        if self.components == 1:
            return None
        basis = torch.linalg.eigh(moments.covariance)[1][:, -int(self.directions) :].contiguous()
        x = torch.cat([batch.flatten(1) for batch in images.batches()]).to(str(self.device))
        return PrincipalMixture.fit(x, moments.mean, basis, int(self.components), float(self.pooling), int(self.seed))

    def _check_memory(self, count: int, seen: int, pixels: int) -> None:
        """Raise MemoryError unless what stands beside the readout of the linear estimate is free: float32, for k-means and the stages."""
        rank = min(int(self.directions), pixels)
        mixture = (pixels + rank) * count + 4 * (int(self.folds) + 1) * int(self.components) * rank**2 if self.components > 1 else 0
        maps = (2 * self._starts + 3) * seen * pixels  # in parts and put together; clean and noisy images, and a stage's estimate
        sets = [count] + [count - count // int(self.folds)] * int(self.folds) * bool(self.experts)
        holding = [one for one in self.estimators if hasattr(one, "chunk")]  # what sums over images in chunks keeps its own copy
        kept = [pixels * min(getattr(one, "n_train", None) or n, n) for one in holding for n in sets]
        held = sum(k for k in kept if 4 * k <= RESIDENT)
        need(4 * (held + max(mixture, maps)), f"{count:,} images of {pixels:,} pixels", "give fewer images, or fewer pixels")

    def _new_bases(self) -> list[WienerScore]:
        """The readouts of the linear estimate, unfitted; without any, the linear estimate itself."""
        kinds = [wiener_settings(text) for text in self.readouts] or [{"coordinates": "pixel", "degree": 1}]
        return [WienerScore(**kind, device=str(self.device)) for kind in kinds]

    def _bases(self, moments: LinearMoments) -> list[WienerScore]:
        """The readouts of images whose mean and covariance are known."""
        shape, bases = (moments.channels, *moments.transform.shape), self._new_bases()
        names = ("mean", "covariance", "count", "sets", "hashes", "pixel_range")
        known = {name: getattr(moments, name) for name in names}
        return [base.fit_moments(replace(base.new_moments(shape), **known)) for base in bases]

    @staticmethod
    def _prepare(bases: Sequence[WienerScore], sigma: float) -> None:
        """Solve the readouts of a level, the first one's linear estimate too."""
        for place, base in enumerate(bases):
            base.prepare_levels([sigma], sorted({int(base.degree)} | ({1} if place == 0 else set())))

    # ----- levels --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _key(noise: NoiseLevel | float) -> float:
        return float(f"{as_noise(noise).effective_sigma:.12g}")

    @outside_transforms()
    def prepare_levels(
        self, noises: Iterable[NoiseLevel | float], *, checkpoint: str | Path | None = None, progress: bool = False
    ) -> Self:
        """Make the readouts of many noise levels.

        Args:
            checkpoint: file that receives the model after every level; levels that it holds already are not made again.

        Raises:
            NoImagesError: after :meth:`load`, for a level that was not saved.
            MomentError: the checkpoint is of other images or settings. ValueError: an estimator's setting is a function, which no
                checkpoint can hold.
        """
        self._fitted()
        if checkpoint is not None:
            self.plain_params()  # what a file cannot hold is refused before the levels are made
            if Path(checkpoint).exists():
                self._adopt(Path(checkpoint))
        keys = [key for key in dict.fromkeys(map(self._key, noises)) if key not in self.stages_]
        with progress_bar(len(keys), f"{self.label}, {len(keys)} levels", progress, "level") as bar:
            for key in keys:
                start = time.process_time()
                self.stages_[key] = self._fit_level(key, progress)
                self.seconds_[key] = time.process_time() - start
                if checkpoint is not None:
                    self.save(checkpoint)
                bar.update()
        return self

    def _fit_level(self, sigma: float, progress: bool = False) -> list[Stage]:
        if self.folds_ is None:
            raise NoImagesError(f"sigma {sigma:g} is not prepared and the images are not at hand: fit again, or ask for a saved level")
        self._prepare(self.bases_, sigma)
        if not self.experts:
            return []
        generator, parts, cleans = torch.Generator().manual_seed(int(self.seed)), [], []
        seen = sum(len(fold.images) for fold in self.folds_)
        with progress_bar(seen, f"estimates at sigma {sigma:g}", progress, "image") as bar:
            for fold in self.folds_:
                bases, clean = self._bases(fold.moments), fold.images[:]
                self._prepare(bases, sigma)
                noisy = (clean + sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)).to(str(self.device))
                for y in noisy.split(BATCH):
                    parts.append(self._estimates(bases, fold.mixture, fold.estimators, y, ve(sigma)))
                    bar.update(len(y))
                cleans.append(clean.to(str(self.device)))
        maps, clean, stages = [torch.cat(part) for part in zip(*parts)], torch.cat(cleans), []
        for experts in self.experts:
            stage = fit_stage(
                maps, clean, self._sides(len(maps)), int(self.side), int(experts), self._key_dims(maps[0].shape[1]),
                float(self.softness), float(self.ridge), int(self.pixels), generator,
            )  # fmt: skip
            stages.append(stage)
            if len(stages) < len(self.experts):
                maps = self._next(maps, apply_stage(stage, maps))
        return stages

    @property
    def _starts(self) -> int:
        """Number of maps before the first stage: the noisy image and the estimates."""
        return 2 + len(self.readouts) + (self.components > 1) + len(self.estimators)

    def _sides(self, count: int) -> tuple[int, ...]:
        """Window side of each map: noisy, linear, others, last."""
        return (int(self.side), min(3, int(self.side)), *[max(1, int(self.side) - 2)] * (count - 3), int(self.side))[-count:]

    def _key_dims(self, channels: int) -> int:
        """Principal coordinates of the last map's window that the partition sees."""
        return min(int(self.dims), channels * int(self.side) ** 2)

    def _next(self, maps: list[Tensor], estimate: Tensor) -> list[Tensor]:
        """The maps of the following stage: its estimate in the place of the last stage's."""
        return [*maps[: self._starts], estimate]

    def _estimates(
        self, bases: Sequence[WienerScore], mixture: PrincipalMixture | None, estimators: Sequence[Any], y: Tensor, noise: NoiseLevel
    ) -> list[Tensor]:
        """Noisy image and the estimates, from a noisy image in VE units; the last is where the stages start."""
        maps = [y, bases[0].at_degrees(y, noise, [1])[0]]
        maps += [base.at_degrees(y, noise, [int(base.degree)])[0] for base in bases if base.degree > 1]
        if mixture is not None:
            linear = maps[1].flatten(1)
            maps.append(mixture.estimate(y.flatten(1), linear, noise).reshape(y.shape))
        return maps + [one.estimate(y, noise) for one in estimators]

    # ----- use -----------------------------------------------------------------------------------------------------------

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        self._fitted()
        key = self._key(noise)
        if key not in self.stages_:
            with outside_transforms():
                self.prepare_levels([key])
        maps = self._estimates(self.bases_, self.mixture_, self.estimators_, y / noise.alpha, ve(key))
        for stage in self.stages_[key]:
            maps = self._next(maps, apply_stage(stage, maps))
        return maps[-1]

    def held_out_mse(self, images: Any, noise: NoiseLevel | float, seed: int = 0) -> tuple[float, float]:
        """MSE per pixel, clamped, on images that were not fitted, and its standard error over them; one noise draw."""
        data, level = as_image_set(images), as_noise(noise)
        generator, errors = torch.Generator().manual_seed(seed), []
        for x in data.batches(500):
            y = level.alpha * x + level.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            error = self.denoise(y.to(str(self.device)), level) - x.to(str(self.device))
            errors.append(error.square().flatten(1).mean(1).double())
        each = torch.cat(errors)
        return float(each.mean()), float(each.std() / len(each) ** 0.5) if len(each) > 1 else math.nan

    def _errors_on(self, images: Any, sigmas: Sequence[float]) -> list[float]:
        return [self.held_out_mse(images, sigma)[0] for sigma in sigmas]

    def parameter_count(self, noise: NoiseLevel | float) -> int:
        """Numbers that an estimate at one noise level reads, all images that an estimator holds among them."""
        self.prepare_levels([noise])
        key = self._key(noise)
        base = sum(solution.theta.numel() for one in self.bases_ for level, solution in one.prepared_.items() if level[0] == key)
        parts = self.mixture_.components if self.mixture_ is not None else []
        given = [getattr(one, "parameter_count", 0) for one in self.estimators_]
        held = sum(count(noise) if callable(count) else count for count in given)
        return base + sum(part.count for part in parts) + sum(stage.count for stage in self.stages_[key]) + held

    # ----- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write settings, estimates and the prepared levels, atomically; not the images, and of the given estimators their settings."""
        bases = self._fitted()
        rows: list[Any] = []
        tensors: dict[str, Tensor] = {}
        for number, base in enumerate(bases):
            some, theirs = base.level_state()
            rows.append(some)
            tensors |= {f"readout{number}.{name}": tensor for name, tensor in theirs.items()}
        levels = [[key, self.seconds_[key]] for key in self.stages_]
        for number, stages in enumerate(self.stages_.values()):
            for place, stage in enumerate(stages):
                tensors |= {f"stage{number}.{place}.{name}": getattr(stage, name) for name in TENSORS}
        if self.mixture_ is not None:
            tensors |= self.mixture_.tensors()
        extra = {"readout": self.readout, "params": self.plain_params(), "levels": rows, "stages": levels, "pixel_range": list(self.pixel_range_)}
        bases[0].moments_.save(path, extra, tensors)

    def plain_params(self) -> dict[str, Any]:
        """The parameters as a file holds them; of the given estimators class and settings, as text."""
        return {**self._settings(), "estimators": [written(one) for one in self.estimators]}

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", *, estimators: Sequence[Any] = (), images: Any = None) -> Self:
        """Read what :meth:`save` wrote, to a device; other levels than the saved ones need another fit.

        Args:
            estimators, images: where it was fitted with estimators: the same ones, and the images of the fit, on which they are
                fitted again (a patch machine is its images, which the file does not hold).

        Raises:
            ValueError: the file's estimators are others than the given ones. MomentError: the images are others than those of the fit.
        """
        model = cls._read(path, device)
        wanted, given = list(model.estimators), [written(one) for one in estimators]
        if wanted != given:
            raise ValueError(f"{path} was fitted with the estimators {wanted}, given are {given}: load(path, estimators=..., images=...)")
        model.estimators = tuple(estimators)
        if estimators and images is None:
            raise ValueError(f"{path} has estimators, which need the images of the fit: load(path, estimators=..., images=...)")
        if estimators:
            data = as_image_set(images)
            if (data.sha256,) != tuple(model.bases_[0].moments_.hashes):
                raise MomentError(f"the images are not those that {path} was fitted to: give load() the same ones in the same order")
            model.estimators_ = fitted(estimators, data)
        return model

    @classmethod
    def _read(cls, path: str | Path, device: str) -> Self:
        """The file without estimators; ``estimators`` holds their settings as text.

        Raises:
            MomentError: the file is of another readout. FileError: it is damaged: settings that cannot be, a tensor that is missing,
                of another shape than they ask for, of no floating numbers, or not finite.
        """
        moments, extra, tensors = LinearMoments.load(path, device)
        if extra.get("readout") != cls.readout:
            raise MomentError(f"{path} is of the {extra.get('readout')} readout, not of {cls.readout}: load it with its own class")
        with reading(path, "model file"):
            model = cls(**{**extra["params"], **{name: tuple(extra["params"][name]) for name in LISTS}, "device": device})
            model.estimators, named = (), model.estimators
            model.check_settings()
            model.estimators, model.estimators_ = named, []
            moments.pixel_range = pixel_range(extra["pixel_range"])
            model.bases_ = model._bases(moments)
            for number, (base, rows) in enumerate(zip(model.bases_, extra["levels"], strict=True)):
                name = f"readout{number}."
                base.take_levels(rows, {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}, device, path)
            model.mixture_ = PrincipalMixture.read(tensors, moments.mean, int(model.components), int(model.directions), path) if model.components > 1 else None
            model.stages_, model.seconds_, model.folds_ = {}, {}, None
            for number, (key, seconds) in enumerate(extra["stages"]):
                if not all(isinstance(v, float | int) and math.isfinite(v) for v in (key, seconds)) or key <= 0:
                    raise ValueError(f"its level {number} has the numbers {(key, seconds)}")
                model.stages_[float(key)] = model._stored_stages(moments.channels, f"stage{number}", tensors, path)
                model.seconds_[float(key)] = float(seconds)
        model.pixel_range_ = moments.pixel_range
        model.shape_ = (moments.channels, *moments.transform.shape)
        model.fitted_settings_ = model._settings()
        return model

    def _stored_stages(self, channels: int, name: str, tensors: dict[str, Tensor], path: str | Path) -> list[Stage]:
        """The stages of one level in a file; their windows follow from the settings."""
        out, dims, window = [], self._key_dims(channels), channels * int(self.side) ** 2
        for place, experts in enumerate(map(int, self.experts)):
            sides = self._sides(self._starts + (place > 0))
            shapes = {
                "mean": (window,), "basis": (window, dims), "centres": (experts, dims), "log_weights": (experts,), "tau": (),
                "weights": (experts, 1 + channels * sum(side**2 for side in sides), channels),
            }  # fmt: skip
            found = {key: stored(tensors, f"{name}.{place}.{key}", shapes[key], path) for key in TENSORS}
            if float(found["tau"]) <= 0:
                raise ValueError(f"the width of its {name}.{place} is {float(found['tau'])}")
            kept = (found[key].to(tensors[f"{name}.{place}.{key}"].dtype) for key in TENSORS)
            out.append(Stage(sides, int(self.side), *kept))
        return out

    def _adopt(self, path: Path) -> None:
        """Take over the levels of a checkpoint of the same images and settings."""
        other = type(self)._read(path, str(self.device))
        mine, theirs = self.bases_[0].moments_, other.bases_[0].moments_
        if self.plain_params() != other.plain_params() or (theirs.config, theirs.hashes) != (mine.config, mine.hashes):
            raise MomentError(f"{path} is of other images or settings than this model: delete it or name another file")
        for base, found in zip(self.bases_, other.bases_):
            base.prepared_ = {**found.prepared_, **base.prepared_}
        self.stages_, self.seconds_ = {**other.stages_, **self.stages_}, {**other.seconds_, **self.seconds_}
