"""Beyond the paper: a mixture, then features of its estimate; stages of least squares, no gradient step.

At a noise level three estimates of the clean image are made in closed form from the noisy one: linear, the readout of monomials
of the linear estimate (:class:`~numeric.scores.wiener.WienerScore`) and the posterior mean of a Gaussian mixture
(:class:`~numeric.scores.gaussians.PrincipalMixture`).  Stages of experts on their windows (:mod:`numeric.scores.experts`) follow,
the same at every pixel, each starting from what the one before returned.

What is exact: the three estimates, given the images they were fitted on.  What is not: the stages, for which noise is drawn, on
images held out from the fit of the three (whose errors on their own images are too low to learn from).  On Gaussian data the
linear estimate is the posterior mean and the stages add nothing but their sampling error.  Nor is the field a gradient: where the
experts of a window change its Jacobian is far from symmetric (:mod:`numeric.evaluation.symmetry` measures it), the more so the
lower ``softness``.
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from numeric.data import ImageSet, as_image_set
from numeric.derivatives import outside_transforms
from numeric.memory import need
from numeric.noise import NoiseLevel, as_noise, ve
from numeric.progress import progress_bar
from numeric.results import reading, stored
from numeric.scores.base import Selectable, plain
from numeric.scores.experts import TENSORS, Stage, apply_stage, fit_stage
from numeric.scores.gaussians import Component, PrincipalMixture
from numeric.scores.levels import LinearMoments, NoImagesError
from numeric.scores.moments import MomentError
from numeric.scores.stored import pixel_range, whole
from numeric.scores.wiener import WienerScore
from numeric.shards import Shards


class RefinedScore(Selectable, BaseEstimator):
    """Closed-form estimates refined by stages of local experts.

    Args:
        degree, coordinates: of the readout of the linear estimate; degree 1 leaves it out.
        components, directions, pooling: of the mixture (1: none, since it is the linear estimate); leading directions; images that
            the prior of a component's covariance is worth.
        experts: experts of each stage, one after another; ``()`` returns the mixture's estimate.
        pixels: drawn to fit a stage to. side: of the windows of the noisy image and of the last estimate; the others' are two
            pixels less, the linear one's 3. dims: principal coordinates of a window that the partition sees. softness: of it.
        ridge: in pixels (see :mod:`numeric.scores.experts`).
        held: share of the images that the stages are fitted to, drawn at random, the others making the three estimates.
        seed: of that draw, of k-means and of the stages' noise. device: of everything but k-means and the drawing of noise, whose
            numbers are the same on every device.

    A level is made when it is first asked for and needs the images then: :meth:`prepare_levels` makes many and :meth:`save` keeps
    them.  VP levels are VE levels of ``y / a``.

    Example:
        >>> import tempfile, torch
        >>> from numeric import RefinedScore
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = RefinedScore(degree=1, components=2, experts=(2,), pixels=2000, side=3, dims=2).fit(images)
        >>> model.prepare_levels([0.5]).denoise(images[:2], 0.5).shape, model.label, model.parameter_count(0.5) > 0
        (torch.Size([2, 1, 8, 8]), 'mixture of 2, then 1 stages of experts', True)
        >>> mse, error = model.held_out_mse(1 - images, 0.5)
        >>> 0.0 < mse < 0.3, model.check_settings()
        (True, None)
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     model.save(file.name)
        ...     print(RefinedScore.load(file.name).label)
        mixture of 2, then 1 stages of experts
    """

    readout = "refined"

    def __init__(
        self,
        degree: int = 3,
        coordinates: str = "pixel",
        components: int = 100,
        directions: int = 300,
        pooling: float = 50.0,
        experts: Sequence[int] = (1, 256, 256),
        pixels: int = 2_000_000,
        side: int = 7,
        dims: int = 16,
        softness: float = 1.0,
        ridge: float = 10.0,
        held: float = 1 / 6,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.degree, self.coordinates, self.components, self.directions = degree, coordinates, components, directions
        self.pooling, self.experts, self.pixels, self.side, self.dims = pooling, experts, pixels, side, dims
        self.softness, self.ridge, self.held, self.seed, self.device = softness, ridge, held, seed, device

    @property
    def label(self) -> str:
        """Name for legends."""
        start = f"mixture of {self.components}" if self.components > 1 else "linear estimate"
        return f"{start}, then {len(self.experts)} stages of experts"

    def check_settings(self) -> None:
        """Raise ValueError for parameters that cannot be used, before any work."""
        for name in ("degree", "components", "directions", "pixels", "dims", "side"):
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
        if not 0 < self.held < 1:
            raise ValueError(f"held must lie strictly between 0 and 1, got {self.held}: it is the share that fits the stages")
        self._new_base().check_settings()

    # ----- fit -----------------------------------------------------------------------------------------------------------

    def fit(self, images: Any, y: None = None, *, batch_size: int = 1000, progress: bool = False, client: Any = None) -> Self:
        """Covariance and mixture of one part of the images; the stages follow when a level is prepared.

        Raises:
            MemoryError: foreseen; the message names the amount.
            ValueError: settings that cannot be used, or too few images for them; shards or a client (k-means and the stages
                read the images many times, and in this process).
        """
        self.check_settings()
        if client is not None or isinstance(images, Shards):
            raise ValueError(
                f"{type(self).__name__} reads its images many times (k-means, and the windows of those held out), which shards on a "
                "cluster do not give: fit it in this process on a sample, such as as_image_set(path).take(60000) without client=, or use "
                "WienerScore, whose passes run over shards"
            )
        data = as_image_set(images)
        part, held = self._parts(data)
        if len(part) < self.components or len(held) < 1:
            raise ValueError(
                f"{len(data)} images are {len(part)} to make estimates of {self.components} components from and {len(held)} for the "
                "stages: give more images, or fewer components"
            )
        self._check_memory(len(part), len(held), math.prod(data.shape))
        self.base_ = self._new_base()
        self.base_.fit(part, batch_size=batch_size, progress=progress)
        self.mixture_: PrincipalMixture | None = None
        if self.components > 1:
            basis = torch.linalg.eigh(self.base_.moments_.covariance)[1][:, -int(self.directions) :]
            x = torch.cat([batch.flatten(1) for batch in part.batches()]).to(str(self.device))
            mean = self.base_.moments_.mean
            self.mixture_ = PrincipalMixture.fit(x, mean, basis, int(self.components), float(self.pooling), int(self.seed))
        self.held_: ImageSet | None = held
        self.stages_: dict[float, list[Stage]] = {}
        self.seconds_: dict[float, float] = {}
        self.remember(data)
        return self

    def _check_memory(self, part: int, held: int, pixels: int) -> None:
        """Raise MemoryError unless what stands beside the readout of the linear estimate is free: float32, for k-means and the stages."""
        rank = min(int(self.directions), pixels)
        mixture = (pixels + rank) * part + 4 * int(self.components) * rank**2 if self.components > 1 else 0
        maps = (2 * self._starts + 3) * held * pixels  # in parts and put together; clean and noisy images, and a stage's estimate
        what = f"{part + held:,} images of {pixels:,} pixels"
        need(4 * max(mixture, maps), what, "give fewer images, or a smaller share held")

    def _new_base(self) -> WienerScore:
        return WienerScore(degree=int(self.degree), coordinates=str(self.coordinates), device=str(self.device))

    def _parts(self, data: ImageSet) -> tuple[ImageSet, ImageSet]:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(int(self.seed)))
        cut = round(len(data) * self.held)
        return data.subset(order[cut:].sort().values.numpy()), data.subset(order[:cut].sort().values.numpy())

    # ----- levels --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _key(noise: NoiseLevel | float) -> float:
        return float(f"{as_noise(noise).effective_sigma:.12g}")

    def prepare_levels(
        self, noises: Iterable[NoiseLevel | float], *, checkpoint: str | Path | None = None, progress: bool = False
    ) -> Self:
        """Make the readouts of many noise levels.

        Args:
            checkpoint: file that receives the model after every level; levels that it holds already are not made again.

        Raises:
            NoImagesError: after :meth:`load`, for a level that was not saved.
            MomentError: the checkpoint is of other images or settings.
        """
        self.learned("base_")
        if checkpoint is not None and Path(checkpoint).exists():
            self._adopt(Path(checkpoint))
        keys = [key for key in dict.fromkeys(map(self._key, noises)) if key not in self.stages_]
        with progress_bar(len(keys), f"{self.label}, {len(keys)} levels", progress, "level") as bar:
            for key in keys:
                start = time.process_time()
                self.stages_[key] = self._fit_level(key)
                self.seconds_[key] = time.process_time() - start
                if checkpoint is not None:
                    self.save(checkpoint)
                bar.update()
        return self

    def _fit_level(self, sigma: float) -> list[Stage]:
        if self.held_ is None:
            raise NoImagesError(f"sigma {sigma:g} is not prepared and the images are not at hand: fit again, or ask for a saved level")
        generator, clean = torch.Generator().manual_seed(int(self.seed)), self.held_[:]
        self.base_.prepare_levels([sigma], [1, int(self.degree)])
        noisy = (clean + sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)).to(str(self.device))
        clean = clean.to(str(self.device))
        parts = [self._estimates(y, ve(sigma)) for y in noisy.split(1000)]
        maps, stages = [torch.cat(part) for part in zip(*parts)], []
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
        return 2 + (self.degree > 1) + (self.components > 1)

    def _sides(self, count: int) -> tuple[int, ...]:
        """Window side of each map: noisy, linear, others, last."""
        return (int(self.side), min(3, int(self.side)), *[max(1, int(self.side) - 2)] * (count - 3), int(self.side))[-count:]

    def _key_dims(self, channels: int) -> int:
        """Principal coordinates of the last map's window that the partition sees."""
        return min(int(self.dims), channels * int(self.side) ** 2)

    def _next(self, maps: list[Tensor], estimate: Tensor) -> list[Tensor]:
        """The maps of the following stage: its estimate in the place of the last stage's."""
        return [*maps[: self._starts], estimate]

    def _estimates(self, y: Tensor, noise: NoiseLevel) -> list[Tensor]:
        """Noisy image and the estimates, from a noisy image in VE units; the last is where the stages start."""
        degrees = [1, int(self.degree)] if self.degree > 1 else [1]
        maps = [y, *self.base_.at_degrees(y, noise, degrees)]
        if self.mixture_ is not None:
            linear = maps[1].flatten(1)
            maps.append(self.mixture_.estimate(y.flatten(1), linear, noise).reshape(y.shape))
        return maps

    # ----- use -----------------------------------------------------------------------------------------------------------

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        self.learned("base_")
        key = self._key(noise)
        if key not in self.stages_:
            with outside_transforms():
                self.prepare_levels([key])
        maps = self._estimates(y / noise.alpha, ve(key))
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
        """Numbers that an estimate at one noise level reads."""
        self.prepare_levels([noise])
        key = self._key(noise)
        base = sum(self.base_.solve(key, d).theta.numel() for d in {1, int(self.degree)})
        parts = self.mixture_.components if self.mixture_ is not None else []
        return base + sum(part.count for part in parts) + sum(stage.count for stage in self.stages_[key])

    # ----- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write settings, estimates and the prepared levels, atomically; not the images."""
        base: WienerScore = self.learned("base_")
        rows, tensors = base.level_state()
        levels = [[key, self.seconds_[key]] for key in self.stages_]
        for number, stages in enumerate(self.stages_.values()):
            for place, stage in enumerate(stages):
                tensors |= {f"stage{number}.{place}.{name}": getattr(stage, name) for name in TENSORS}
        if self.mixture_ is not None:
            parts = self.mixture_.components
            tensors |= {
                "mixture.basis": self.mixture_.basis, "mixture.weights": torch.tensor([c.weight for c in parts], dtype=torch.float64),
                **{f"mixture.{name}": torch.stack([getattr(c, name) for c in parts]) for name in ("mean", "vectors", "eigenvalues")},
            }  # fmt: skip
        params = {name: list(value) if name == "experts" else plain(value) for name, value in self.get_params().items()}
        extra = {"readout": self.readout, "params": params, "levels": rows, "stages": levels, "pixel_range": list(self.pixel_range_)}
        base.moments_.save(path, extra, tensors)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote, to a device; other levels than the saved ones need another fit.

        Raises:
            MomentError: the file is of another readout. FileError: it is damaged: settings that cannot be, a tensor that is missing,
                of another shape than they ask for, of no floating numbers, or not finite.
        """
        moments, extra, tensors = LinearMoments.load(path, device)
        if extra.get("readout") != cls.readout:
            raise MomentError(f"{path} is of the {extra.get('readout')} readout, not of {cls.readout}: load it with its own class")
        with reading(path, "model file"):
            model = cls(**{**extra["params"], "experts": tuple(extra["params"]["experts"]), "device": device})
            model.check_settings()
            moments.pixel_range = pixel_range(extra["pixel_range"])
            model.base_ = model._new_base()
            model.base_.check_settings()
            model.base_.fit_moments(moments)
            model.base_.take_levels(extra["levels"], tensors, device, path)
            model.mixture_ = model._stored_mixture(moments, tensors, path) if model.components > 1 else None
            model.stages_, model.seconds_, model.held_ = {}, {}, None
            for number, (key, seconds) in enumerate(extra["stages"]):
                if not all(isinstance(v, float | int) and math.isfinite(v) for v in (key, seconds)) or key <= 0:
                    raise ValueError(f"its level {number} has the numbers {(key, seconds)}")
                model.stages_[float(key)] = model._stored_stages(moments.channels, f"stage{number}", tensors, path)
                model.seconds_[float(key)] = float(seconds)
        model.pixel_range_ = moments.pixel_range
        model.shape_ = (moments.channels, *moments.transform.shape)
        return model

    def _stored_mixture(self, moments: LinearMoments, tensors: dict[str, Tensor], path: str | Path) -> PrincipalMixture:
        """The mixture in a file, as large as settings and mean allow."""
        count = tensors["mixture.weights"].numel()
        whole(count, "number of components", 1, int(self.components))
        pixels = len(moments.mean)
        rank = min(int(self.directions), pixels)
        shapes = {"weights": (count,), "mean": (count, rank), "vectors": (count, rank, rank), "eigenvalues": (count, rank)}
        weights, *parts = (stored(tensors, f"mixture.{name}", shape, path) for name, shape in shapes.items())
        if float(weights.min()) <= 0 or float(parts[2].min()) < 0:
            raise ValueError("its mixture has weights or variances below zero")
        basis = stored(tensors, "mixture.basis", (pixels, rank), path)
        return PrincipalMixture(moments.mean, basis, [Component(*part) for part in zip(weights.tolist(), *parts)])

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
        other = type(self).load(path, str(self.device))
        mine, theirs = self.base_.moments_, other.base_.moments_
        same = {**self.get_params(), "experts": list(self.experts)} == {**other.get_params(), "experts": list(other.experts)}
        if not same or (theirs.config, theirs.hashes) != (mine.config, mine.hashes):
            raise MomentError(f"{path} is of other images or settings than this model: delete it or name another file")
        self.base_.prepared_ = {**other.base_.prepared_, **self.base_.prepared_}
        self.stages_, self.seconds_ = {**other.stages_, **self.stages_}, {**other.seconds_, **self.seconds_}
