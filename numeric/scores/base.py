"""What every wavelet estimator shares: settings, the fit, the face (``denoise``, ``score``, several degrees), files, caches.

A readout is a subclass that names its moments (:meth:`WaveletEstimator.new_moments`) and solves its normal equations
(``solve`` and :meth:`WaveletEstimator.at_degrees`).
"""

from __future__ import annotations

import numbers
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from numeric.cluster import check_client
from numeric.data import ImageSet, as_image_set
from numeric.denoiser import UNIT_RANGE, Denoiser, NotFittedError
from numeric.derivatives import outside_transforms
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.results import reading
from numeric.scores.cache import SolutionCache
from numeric.scores.crossval import Ridge
from numeric.scores.families import Family
from numeric.scores.groups import GROUPS, StandardErrors, jackknife_errors
from numeric.scores.stored import pixel_range
from numeric.scores.totals import look, steps
from numeric.shards import Shards, as_shards
from numeric.wavelets import WaveletTransform

BASES = ("monomial", "hermite")
SCORE_SIGMAS = (0.1, 0.25, 0.5, 1.0)
"""Noise levels of :meth:`WaveletEstimator.score` without one, where scikit-learn asks for a number."""
SETTINGS = ("family", "radius", "interactions", "channels_coupled", "wavelet", "levels", "mode", "synthesis", "device")
"""Parameters that the moments depend on: changing one after a fit asks for another fit."""


class SettingsError(ValueError):
    """A parameter was changed after the fit that only a fit can change; the message names it and the fix."""


def unchanged(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise SettingsError for a parameter that is another now than when a model was fitted."""
    for name, value in then.items():
        if now[name] != value:
            raise SettingsError(f"{name} is {now[name]!r} but was {value!r} when this model was fitted: fit again, or set it back")


def plain(value: Any) -> Any:
    """A parameter as JSON takes it: NumPy scalars as numbers, devices as strings."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, torch.device) else value


def usable_device(device: Any) -> str:
    """The device as a string.

    Raises:
        ValueError: torch does not know it, or has none.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used here: use 'cpu' ({str(error).splitlines()[0]})") from error
    return str(device)


def read_by(images: Any, client: Any = None) -> ImageSet | Shards:
    """Images as a set that this process reads, or with a client (and of shards) as shards that it reads."""
    if client is None and not isinstance(images, Shards):
        return as_image_set(images)
    check_client(client)
    return as_shards(images, client=client)


class Selectable(Denoiser):
    """A denoiser that scikit-learn's model selection can judge without a ``scoring``: give :meth:`_errors_on`."""

    def score(self, y: Any, noise: Any = None) -> Any:
        """Score ``(alpha D(y) - y) / sigma^2`` in the shape of ``y`` (Tweedie's formula).

        Without a noise level ``y`` are clean images, and the result is what scikit-learn's model selection maximises: minus
        the MSE per pixel on them before clamping, the mean over the VE levels :data:`SCORE_SIGMAS`; exact where there is an
        ``expected_mse``, else of drawn noise.
        """
        if noise is not None:
            return super().score(y, noise)
        return -float(np.mean(self._errors_on(y, SCORE_SIGMAS)))

    def _errors_on(self, images: Any, sigmas: Sequence[float]) -> list[float]:
        """MSE per pixel on clean images at VE levels, before clamping."""
        raise NotImplementedError


class WaveletEstimator(Selectable, BaseEstimator):
    """Base of the estimators; the parameters are documented with :class:`numeric.scores.own.WaveletScore`.

    Example:
        >>> import tempfile, torch
        >>> from numeric import WaveletScore, as_image_set, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = WaveletScore('independent', degree=2).fit(images)
        >>> y, level = images[:3], ve(0.5)
        >>> model.denoise(y, level).shape, model.estimate(y, level).shape, model.score(y, level).shape, model.score(images) < 0
        (torch.Size([3, 1, 8, 8]), torch.Size([3, 1, 8, 8]), torch.Size([3, 1, 8, 8]), True)
        >>> model.estimate_degrees(y, level, [1, 2]).shape, model.at_degrees(y, level, [2]).shape
        (torch.Size([2, 3, 1, 8, 8]), torch.Size([1, 3, 1, 8, 8]))
        >>> model.denoise_degrees(y, level, [1, 2]).shape
        torch.Size([2, 3, 1, 8, 8])
        >>> model.solve(level).degree, model.expected_mse(level, degree=1) > model.expected_mse(level, degree=2)
        (2, True)
        >>> both = model.merge(WaveletScore('independent', degree=2).fit(1 - images))
        >>> both.fitted().count, both.label, both.family_.name, both.ridge_.strength
        (80, 'independent, own readout', 'independent', 1e-10)
        >>> both.plain_params()['degree'], both.new_transform((1, 8, 8)).levels
        (2, 1)
        >>> held_out = model.new_moments((1, 8, 8))  # what another error is computed from
        >>> model.accumulate(held_out, as_image_set(1 - images), 10, None, None, 30.0)
        >>> abs(model.expected_mse(level, moments=held_out) - model.expected_mse(level, **model.seen(as_image_set(1 - images)))) < 1e-12
        True
        >>> again = WaveletScore('independent', degree=2).fit_moments(held_out)
        >>> again.check_settings(), again.prepare(), again.kept('a key', lambda: 3, lambda made: 8)
        (None, None, 3)
        >>> errors = model.standard_errors(level, images)
        >>> type(errors).__name__, type(model.delta_errors(as_image_set(images), level, 2, None, None)).__name__
        ('StandardErrors', 'StandardErrors')
        >>> [theta.shape[1] for theta in model.coefficients(level, 2, model)]
        [3]
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     model.save(file.name)
        ...     print(WaveletScore.load(file.name).label)
        independent, own readout
    """

    readout: str
    moments_class: Any
    family: str
    degree: int
    radius: int
    interactions: str
    channels_coupled: bool
    wavelet: str
    levels: int | None
    mode: str
    synthesis: str
    basis: str
    ridge: float | str
    ridge_side: str
    ridge_scaling: str
    device: str

    # ----- settings ------------------------------------------------------------------------------------------------------

    @property
    def family_(self) -> Family:
        """The feature family of the present parameters."""
        return Family(str(self.family), int(self.radius), str(self.interactions), bool(self.channels_coupled))

    @property
    def ridge_(self) -> Ridge:
        """The ridge of the present parameters."""
        return Ridge(plain(self.ridge), str(self.ridge_side), str(self.ridge_scaling))

    @property
    def label(self) -> str:
        """Name for legends, with the readout."""
        return f"{self.family_.label}, {self.readout} readout"

    def plain_params(self) -> dict[str, Any]:
        """The parameters as JSON takes them."""
        return {name: plain(value) for name, value in self.get_params().items()}

    def check_settings(self) -> None:
        """Raise ValueError for parameters that cannot be used, before any work."""
        for name in ("degree", "radius", "levels"):
            value = getattr(self, name)
            if not (isinstance(value, numbers.Integral) or (name == "levels" and value is None)) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, got {value!r}: use one such as {name}=2")
        if self.basis not in BASES:
            raise ValueError(f"unknown basis {self.basis!r}: use 'monomial' or 'hermite'")
        _ = self.ridge_, self.family_
        usable_device(self.device)

    def new_transform(self, shape: tuple[int, int, int]) -> WaveletTransform:
        """The wavelet transform of images of ``(channels, height, width)``."""
        levels = None if self.levels is None else int(self.levels)
        return WaveletTransform((shape[1], shape[2]), str(self.wavelet), levels, str(self.mode), str(self.synthesis))

    # ----- fitting -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def new_moments(self, shape: tuple[int, int, int], memory_limit: int | None = None) -> Any:
        """An empty accumulator for images of ``(channels, height, width)``.

        Raises:
            MemoryError: the memory foreseen is more than is free.
        """

    @abstractmethod
    def accumulate(self, moments: Any, data: Any, batch_size: int, bar: Any, checkpoint: Any, every: float) -> None:
        """Add all images to the moments."""

    #: how often a fit reads the images
    passes = 1
    #: what features are of has white noise in every basis
    noise_is_white = False

    def fit(
        self,
        images: Any,
        y: None = None,
        *,
        batch_size: int = 1000,
        progress: bool = False,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 30.0,
        client: Any = None,
    ) -> Self:
        """Stream over clean images once; every noise level afterwards needs small solves only.

        Args:
            images: anything :func:`numeric.data.as_image_set` takes; with a client, and of :class:`numeric.shards.Shards`,
                anything that :func:`numeric.shards.as_shards` takes.
            batch_size: images held in memory at a time.
            progress: show a progress bar.
            checkpoint: file that receives the moment sums, atomically, every ``checkpoint_seconds`` and at the end; if it
                exists the fit takes up where it stopped, with the same bits as an uninterrupted one. Of shards: a folder.
            client: who sums the shards of the images: a ``dask.distributed.Client``, the address of a scheduler, ``"local:N"``
                (N processes here) or ``"local:0"`` (this process). The sums are the same bits whoever makes them. Needs
                ``pip install "wavelet-score[cluster]"``; by default the images are read in this process, not in shards.

        Raises:
            ShardError: a shard cannot be read; ClusterError: the cluster cannot be reached, or went away.
            MomentError: the checkpoint is of other data, batches or settings.
            MemoryError: foreseen; the message names the amount and the ways out.
        """
        self.check_settings()
        data = read_by(images, client)
        if isinstance(data, Shards):
            return self._fit_shards(data, batch_size, progress, checkpoint, checkpoint_seconds)
        moments = self.new_moments(data.shape)
        with progress_bar(self.passes * len(data), f"{self.readout} moments {self.family_.label}", progress) as bar:
            self.accumulate(moments, data, batch_size, bar, checkpoint, checkpoint_seconds)
        moments.pixel_range = data.pixel_range
        return self.fit_moments(moments)

    def _fit_shards(self, data: Shards, batch_size: int, progress: bool, checkpoint: Any, every: float) -> Self:
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        with (
            data.connected(),
            progress_bar(self.passes * steps(data), f"{self.readout} moments {self.family_.label}", progress, "shard") as bar,
        ):
            look(data)
            moments = self.new_moments(data.shape)
            self.accumulate(moments, data, batch_size, bar, checkpoint, every)
        moments.pixel_range = data.pixel_range
        return self.fit_moments(moments)

    def fit_moments(self, moments: Any) -> Self:
        """Use moments made earlier (merged, or of another estimator), with their images' pixel range.

        Raises:
            SettingsError: they are of another readout, family, degree or transform than this estimator's.
        """
        if not isinstance(moments, self.moments_class):
            raise SettingsError(
                f"the {self.readout} readout takes {self.moments_class.__name__}, got {type(moments).__name__}: "
                f"give it those of a {type(self).__name__}(...).fit(images)"
            )
        shape = (moments.channels, *moments.transform.shape)
        wanted = {"family": self.family_.config, "transform": self.new_transform(shape).config}
        for name, mine in wanted.items():
            theirs = getattr(moments, name).config
            if mine != theirs:
                raise SettingsError(
                    f"the moments are of another {name} than this estimator's ({theirs}, wanted {mine}): give it their settings"
                )
        if moments.degree < self.degree:
            raise SettingsError(f"the moments reach degree {moments.degree}, this estimator wants {self.degree}: fit again")
        self.moments_, self.transform_, self.shape_ = moments, moments.transform, shape
        self.fitted_settings_ = {name: plain(getattr(self, name)) for name in SETTINGS}
        self.pixel_range_ = moments.pixel_range
        self._solutions = SolutionCache(device=str(self.device))
        self.prepare()
        return self

    def prepare(self) -> None:
        """What a readout derives from fresh moments (nothing, by default)."""

    def fitted(self) -> Any:
        """The moments.

        Raises:
            NotFittedError: no images have been seen.
            SettingsError: a parameter that the moments depend on was changed after the fit.
        """
        if not hasattr(self, "moments_"):
            raise NotFittedError(f"this {type(self).__name__} has seen no images: call fit(images) first")
        unchanged(self.fitted_settings_, {name: plain(getattr(self, name)) for name in self.fitted_settings_})
        if self.degree > self.moments_.degree:
            raise SettingsError(f"degree is {self.degree}, fitted were degrees up to {self.moments_.degree}: fit again")
        return self.moments_

    def merge(self, other: Self) -> Self:
        """The estimator of both sets of images together.

        Raises:
            MomentError: the two were made with other settings, or for images of another shape.
        """
        if not isinstance(other, type(self)):
            raise SettingsError(f"cannot merge with a {type(other).__name__}: give another {type(self).__name__}")
        return type(self)(**self.get_params()).fit_moments(self.fitted().merge(other.fitted()))

    # ----- use -----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def at_degrees(self, y: Tensor, noise: NoiseLevel, degrees: Sequence[int]) -> Tensor:
        """Unclamped estimates at one noise level, ``(len(degrees), n, channels, height, width)``."""

    @abstractmethod
    def expected_mse(self, noise: NoiseLevel | float, degree: int | None = None, moments: Any = None) -> float:
        """Exact expected MSE per pixel, before clamping, from moments alone (of other images, if they are given)."""

    def coefficients(self, noise: NoiseLevel, degree: int, like: Self) -> list[Tensor]:
        """The coefficients at a level, in coordinates that another fit, ``like``, sets: what standard errors are of."""
        raise ValueError(f"the {self.readout} readout has no standard errors")

    def delta_errors(self, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None, bar: Any) -> StandardErrors:
        """:meth:`standard_errors` by the delta method."""
        raise ValueError(f"the {self.readout} readout has no standard errors")

    def standard_errors(
        self,
        noise: NoiseLevel | float,
        images: Any,
        degree: int | None = None,
        method: str = "delta",
        groups: int = GROUPS,
        outputs: Sequence[int] | None = None,
        progress: bool = False,
    ) -> StandardErrors:
        """Standard errors of every coefficient theta and of :meth:`expected_mse` of the fit, images being independent.

        Of a readout of the Wiener estimate theta is named by its coordinates, which the images set too: its errors are in the
        fitted ones, held; the expected MSE moves with both (:mod:`numeric.scores.influence_wiener`), as does D(y)
        (:func:`numeric.scores.groups.estimate_errors`).

        Args:
            images: the delta method needs any images of the kind the model was fitted on (their spread is what it reads); the
                jackknife fits again without each of ``groups`` contiguous groups, so it wants those it was fitted on.
            method: ``"delta"`` (:mod:`numeric.scores.influence`; a ridge chosen from the data is held) or ``"jackknife"``
                (:mod:`numeric.scores.groups`; it is chosen anew).
            outputs: of readouts whose theta is large (shared, Wiener): the coefficients or pixels whose theta is wanted, ``[]`` for
                the errors only.

        Raises:
            ValueError: an unknown method (the delta method of the potential too), images that do not fit, or an over-complete
                basis, whose noise is correlated.
            NoImagesError: a loaded readout of the Wiener estimate without its images.
            SettingsError: Hermite features: their coordinates move with the data.
        """
        fitted, level = self.fitted(), as_noise(noise)
        degree = int(self.degree) if degree is None else degree
        if method not in ("delta", "jackknife"):
            raise ValueError(f"unknown method {method!r}: use 'delta' or 'jackknife'")
        if getattr(self, "basis", "monomial") != "monomial":
            raise SettingsError(
                f"standard errors are of basis='monomial', this model has {self.basis!r}, whose coordinates move with the data: "
                "set basis='monomial' (no other fit is needed)"
            )
        if not (self.noise_is_white or self.transform_.is_orthonormal):
            raise ValueError(f"standard errors need an orthonormal basis, {self.transform_} is not: use {self.transform_.to_orthonormal}")
        data = as_image_set(images)
        if data.shape != self.shape_:
            raise ValueError(f"the images are {data.shape}, the model was fitted on {self.shape_}: give images of that shape")
        if len(data) < 2:
            raise ValueError("standard errors are read off the spread between images, got one image: give two or more")
        if method == "delta":
            with progress_bar(len(data), f"standard errors {fitted.family.label}", progress) as bar:
                return self.delta_errors(data, level, degree, outputs, bar)
        if len(data) != fitted.count:
            raise ValueError(f"the jackknife wants the {fitted.count:,} images of the fit, got {len(data):,}")

        def theta_of(model: Any) -> list[Tensor]:
            if outputs is not None and not len(outputs):
                return []  # of a Wiener estimate they cost a pass
            return [t if outputs is None else t[:, list(outputs)] for t in model.coefficients(level, degree, self)]

        return jackknife_errors(self, data, level, degree, groups, theta_of, progress)

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        return self.at_degrees(y, noise, [int(self.degree)])[0]

    def estimate_degrees(self, y: Any, noise: Any, degrees: Sequence[int]) -> Any:
        """Unclamped estimates at several degrees at once, ``(len(degrees), n, channels, height, width)``.

        The features of the highest degree hold those of the lower ones, so they are evaluated once.
        """
        self.fitted()
        return self.by_level(y, noise, lambda part, level: self.at_degrees(part, level, degrees), axis=1)

    def denoise_degrees(self, y: Any, noise: Any, degrees: Sequence[int], clamp: bool = True) -> Any:
        """:meth:`denoise` at several degrees at once."""
        self.fitted()

        def one_level(part: Tensor, level: NoiseLevel) -> Tensor:
            out = self.at_degrees(part, level, degrees)
            return self.clamp(out) if clamp else out

        return self.by_level(y, noise, one_level, axis=1)

    def denoise(self, y: Any, noise: Any, clamp: bool = True) -> Any:
        self.fitted()
        return super().denoise(y, noise, clamp)

    denoise.__doc__ = Denoiser.denoise.__doc__

    def score(self, y: Any, noise: Any = None) -> Any:
        self.fitted()
        return super().score(y, noise)

    score.__doc__ = Selectable.score.__doc__

    def _errors_on(self, images: Any, sigmas: Sequence[float]) -> list[float]:
        seen = self.seen(as_image_set(images))
        return [self.expected_mse(sigma, **seen) for sigma in sigmas]

    def seen(self, data: Any) -> dict[str, Any]:
        """What :meth:`expected_mse` takes for its error on other images: one pass over them, at this model's settings."""
        moments = self.new_moments(data.shape)
        self.accumulate(moments, data, 1000, None, None, 30.0)
        return {"moments": moments}

    def kept(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """A solution from the cache, or made and kept."""
        self.fitted()
        if key in self._solutions:
            return self._solutions[key]
        with outside_transforms():
            value = make()
        return self._solutions.put(key, value, size(value))

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text = BaseEstimator.__repr__(self, N_CHAR_MAX)
        if not hasattr(self, "moments_"):
            return text
        low, high = self.pixel_range_
        shape = " x ".join(map(str, self.shape_ or ()))
        return f"{text} fitted on {self.moments_.count:,} images {shape}, pixels in [{low:g}, {high:g}]"

    # ----- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write settings and moments (safetensors with JSON metadata), atomically."""
        self.fitted().save(path, extra={"params": self.plain_params(), "pixel_range": list(self.pixel_range_)})

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file is truncated, of another readout, or the checkpoint of an unfinished fit.
        """
        moments, extra = cls.moments_class.load_with_extra(path, device)
        if "checkpoint" in extra:
            raise ValueError(f"{path} is the checkpoint of an unfinished fit: give it as fit(..., checkpoint=) to go on")
        with reading(path, "model file"):
            params = extra.get("params", {k: v for k, v in extra.items() if k != "pixel_range"})
            model = cls(**{**params, "device": device})
            model.check_settings()
            # Files without a range are of images in [0, 1].
            moments.pixel_range = pixel_range(extra.get("pixel_range", UNIT_RANGE))
            model.fit_moments(moments)
        return model
