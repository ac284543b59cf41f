"""Beyond the paper: a readout of nonlinear features of the Wiener estimate, in closed form, the noise integrated exactly.

The linear denoiser at a noise level gives an image; monomials of its pixels, of its wavelet coefficients or of both
(:mod:`numeric.scores.coordinates`) are the features, beside all that is linear.  Systems are made and solved in Wick-ordered
monomials (:mod:`numeric.scores.patterns`)::

    E_z :u^alpha: = t^alpha,   E[:u^alpha: x] = E[t^alpha x],   E[:u^alpha: :u^beta:] = E[t^alpha t^beta] + powers of s^2 L L^T

so the pass over the images accumulates one plain Gram matrix of clean monomials, a BLAS-3 product, and no noise is drawn.
What is not exact: nothing, given the images and the features.  What it costs: a pass for each noise level.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from numeric.derivatives import outside_transforms
from numeric.memory import free_memory, need
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.results import reading, stored
from numeric.scores.base import WaveletEstimator, plain
from numeric.scores.contraction import CROSS_BYTES
from numeric.scores.coordinates import LevelCoordinates, check_coordinates, letter_monomials
from numeric.scores.crossval import GCV_GRID, gcv_scores
from numeric.scores.dense import backward_solve, feature_variance, forward_solve, mirror, penalised_factor_
from numeric.scores.families import Family
from numeric.scores.groups import StandardErrors
from numeric.scores.influence_wiener import held_solution, wiener_delta_errors
from numeric.scores.levels import LinearMoments
from numeric.scores.moments import MomentError
from numeric.scores.monomials import MonomialSet
from numeric.scores.patterns import Groups, add_noise_
from numeric.scores.plain_readout import PlainMap, PlainReadout
from numeric.scores.stored import pixel_range, whole
from numeric.scores.totals import clear, steps
from numeric.shards import Shards, as_shards
from numeric.wavelets import WaveletTransform


@dataclass(frozen=True)
class LevelSolution:
    """The solved normal equations at one noise level and degree.

    Attributes:
        theta: ``(P, N)`` of intercept, whitened linear features and Wick-ordered monomials, for the image less its mean.
        expected_error: exact expected squared error summed over pixels, before clamping, on the fitted images.
        ridge: the lambda used. seconds: CPU time that making it took (a pass that served several levels, shared out).
    """

    theta: Tensor
    expected_error: float
    ridge: float
    seconds: float = 0.0


class WienerScore(WaveletEstimator):
    """Closed-form score on nonlinear features of the Wiener estimate, every pixel reading all features.

    Args:
        family: of the wavelet coefficients, as in :class:`numeric.scores.own.WaveletScore`.
        degree: polynomial degree; degree 1 is the linear denoiser.
        coordinates: ``"wavelet"``, ``"pixel"`` or ``"both"``: whose monomials the features are.
        of: ``"wiener"`` (of the linear estimate) or ``"noisy"`` (of the noisy image; with wavelet coordinates the features of
            :class:`numeric.scores.shared.SharedWaveletScore`).
        pixel_family: ``"independent"``, or ``"local"`` for products of neighbouring pixels within ``radius``.
        radius, interactions, channels_coupled, wavelet, levels, mode: of the families and the transform; over-complete modes
            cost no more here.
        ridge: on features centred and scaled to unit variance, the intercept free; ``"gcv"`` chooses one at each level.
        device: of the products and the solves.

    A level is made when it is first asked for, which reads the images again: :meth:`prepare_levels` makes many at once and
    :meth:`save` keeps them.  VP levels are VE levels of ``y / a``.

    Example:
        >>> import torch
        >>> from numeric import WienerScore, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model, level = WienerScore(degree=2, coordinates='pixel').fit(images).prepare_levels([0.1, 0.5]), ve(0.5)
        >>> model.denoise(images[:2], level).shape, model.count(2), model.sums_bytes, model.chosen_ridge(level), model.pixel_family_.name
        (torch.Size([2, 1, 8, 8]), 129, 133128, 1e-06, 'independent')
        >>> model.coordinates_at(0.5).sigma, type(model.plain_readout(level, 2, images)).__name__
        (0.5, 'PlainReadout')
        >>> rows, tensors = model.level_state()
        >>> model.take_levels(rows, tensors)
        >>> len(rows), model.attach(images).label
        (2, 'Wiener pixels')
    """

    readout = "wiener"
    moments_class = LinearMoments
    basis, ridge_side, ridge_scaling, synthesis = "monomial", "denoiser", "unit", "pseudo-inverse"
    noise_is_white = True  # of the pixels, whatever the basis

    def __init__(
        self,
        family: str = "independent",
        degree: int = 3,
        coordinates: str = "both",
        of: str = "wiener",
        pixel_family: str = "independent",
        radius: int = 1,
        interactions: str = "pairwise",
        channels_coupled: bool = False,
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str = "periodization",
        ridge: float | str = 1e-6,
        device: str = "cpu",
    ) -> None:
        self.family, self.degree, self.coordinates, self.of, self.pixel_family = family, degree, coordinates, of, pixel_family
        self.radius, self.interactions, self.channels_coupled = radius, interactions, channels_coupled
        self.wavelet, self.levels, self.mode, self.ridge, self.device = wavelet, levels, mode, ridge, device

    # ----- settings and fit ----------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """Name for legends."""
        kind = {"wavelet": "wavelet coefficients", "pixel": "pixels", "both": "pixels and wavelet coefficients"}[self.coordinates]
        name = "" if self.family == "independent" or self.coordinates == "pixel" else f", {self.family_.label}"
        near = ", local pixels" if self.coordinates != "wavelet" and self.pixel_family == "local" else ""
        return f"{'Wiener' if self.of == 'wiener' else 'noisy'} {kind}{name}{near}"

    @property
    def pixel_family_(self) -> Family:
        """The family of the pixels."""
        return Family(str(self.pixel_family), int(self.radius), str(self.interactions), bool(self.channels_coupled))

    @property
    def _letters(self) -> dict[str, Any]:
        return {"coordinates": self.coordinates, "of": self.of, "pixel_family": self.pixel_family}

    def check_settings(self) -> None:
        super().check_settings()
        check_coordinates(self.coordinates, self.of)
        if self.pixel_family not in ("independent", "local"):
            raise ValueError(f"unknown pixel_family {self.pixel_family!r}: use 'independent' or 'local'")
        if self.ridge == "gcv-band":
            raise ValueError("ridge='gcv-band' is of the own readout: all outputs share one system here, use 'gcv' or a number")

    def new_moments(self, shape: tuple[int, int, int], memory_limit: int | None = None) -> LinearMoments:
        self.check_settings()
        transform, pixels = self.new_transform(shape), shape[0] * shape[1] * shape[2]
        self._check_transform(transform)
        what = f"the covariance of {pixels:,} pixels and its eigenvectors"
        need(16 * pixels**2, what, "use smaller images, or WaveletScore", str(self.device))
        out = LinearMoments(
            transform, self.family_, int(self.degree), shape[0], self._letters, str(self.device),
            torch.zeros(pixels, dtype=torch.float64), torch.zeros(pixels, pixels, dtype=torch.float64),
        )  # fmt: skip
        self._check_memory(out, self._new_monomials(transform, shape[0]))
        return out

    def _check_transform(self, transform: WaveletTransform) -> None:
        """Refuse a basis that the readout cannot have, before the pass over the images."""

    def _check_memory(self, moments: LinearMoments, monomials: MonomialSet) -> None:
        squares = 8 if isinstance(self.ridge, str) else 1
        moments.check_memory(len(monomials) - monomials.variables + len(moments.mean), squares)

    @property
    def sums_bytes(self) -> int:
        """Memory of what a pass accumulates for one level, and of the system made in its place."""
        return 8 * self.count(self.moments_.degree) ** 2

    def _new_monomials(self, transform: WaveletTransform, channels: int) -> MonomialSet:
        return letter_monomials(self.coordinates, self.family_, self.pixel_family_, transform, int(self.degree), channels)

    def accumulate(self, moments: Any, data: Any, batch_size: int, bar: Any, checkpoint: Any, every: float) -> None:
        moments.fit(data, batch_size, bar, checkpoint, every)

    def fit_moments(self, moments: Any) -> Self:
        super().fit_moments(moments)
        self.fitted_settings_ |= {name: plain(getattr(self, name)) for name in ("coordinates", "of", "pixel_family")}
        return self

    def prepare(self) -> None:
        moments = self.moments_
        self.monomials_ = self._new_monomials(moments.transform, moments.channels)
        self.groups_ = Groups(self.monomials_, len(moments.mean))
        values, self._vectors = torch.linalg.eigh(moments.covariance)
        self._values = values.clamp_min(0.0)
        self.prepared_: dict[tuple[float, int, float | str], LevelSolution] = {}

    def count(self, degree: int) -> int:
        """Number of features up to a degree (they are sorted by degree).

        Raises:
            FamilyError: the degree is not between 1 and the fitted one.
        """
        return self.monomials_.count(degree) - self.monomials_.variables + len(self.moments_.mean)

    # ----- levels --------------------------------------------------------------------------------------------------------

    def coordinates_at(self, sigma: float) -> LevelCoordinates:
        """Linear features and letters at a VE level."""
        moments = self.fitted()

        def make() -> LevelCoordinates:
            shape = (moments.channels, *moments.transform.shape)
            return LevelCoordinates.at(
                sigma, self._values, self._vectors, str(self.coordinates), str(self.of), moments.transform, shape
            )

        return self.kept(("coordinates", sigma), make, lambda made: 8 * (made.letters.numel() + 2 * made.whiten.numel()))

    def _key(self, noise: NoiseLevel | float, degree: int) -> tuple[float, int, float | str]:
        ridge = self.ridge_.strength
        return float(f"{as_noise(noise).effective_sigma:.12g}"), int(degree), ridge if isinstance(ridge, str) else float(ridge)

    @outside_transforms()
    def prepare_levels(
        self,
        noises: Iterable[NoiseLevel | float],
        degrees: Sequence[int] | None = None,
        *,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> Self:
        """Make the readouts of many noise levels; each pass over the images serves as many as memory holds (four at most).

        Args:
            degrees: up to the fitted one (only that, by default); one factor serves them all.
            checkpoint: file that receives the model after every pass; levels that it holds already are not made again. Of
                shards also a folder of its name and ``.pass``, which keeps the finished sums of a pass under way.

        Raises:
            NoImagesError, MemoryError, FamilyError (degree out of range), SingularGramError.
            MomentError: the checkpoint is of other images or settings.
        """
        moments = self.fitted()
        degrees = [int(d) for d in ([self.degree] if degrees is None else degrees)]
        for degree in degrees:
            self.count(degree)
        if checkpoint is not None and Path(checkpoint).exists():
            self._adopt(Path(checkpoint))
        keys = {self._key(noise, degree): None for noise in noises for degree in degrees}
        sigmas = sorted({key[0] for key in keys if key not in self.prepared_})
        if not sigmas:
            return self
        self._check_memory(moments, self.monomials_)
        free = free_memory(str(self.device))
        at_once = 1 if free is None or isinstance(self.ridge, str) else max(1, min(4, int(free / 2 / self.sums_bytes)))
        groups = [sigmas[i : i + at_once] for i in range(0, len(sigmas), at_once)]
        each, unit = sum(map(steps, moments.sets)), "shard" if any(isinstance(s, Shards) for s in moments.sets) else "img"
        partial = None if checkpoint is None or unit == "img" else Path(f"{checkpoint}.pass")
        with (
            progress_bar(len(groups) * each, f"{self.label}, {len(sigmas)} levels", progress, unit) as bar,
            contextlib.ExitStack() as stack,
        ):
            for part in moments.sets:
                if isinstance(part, Shards):
                    stack.enter_context(part.connected())
            for group in groups:
                start = time.process_time()
                levels = [self.coordinates_at(sigma) for sigma in group]
                sums = self._sums(moments, levels, bar, partial)
                made: dict[Any, LevelSolution] = {}
                while sums:
                    level = levels[len(sums) - 1]
                    for degree, solution in zip(degrees, self._solve(level, sums.pop(), degrees)):
                        made[self._key(level.sigma, degree)] = solution
                seconds = (time.process_time() - start) / len(group)
                self.prepared_ |= {key: replace(solution, seconds=seconds) for key, solution in made.items()}
                if checkpoint is not None:
                    self.save(checkpoint)
                if partial is not None:
                    clear(partial)
        return self

    def solve(self, noise: NoiseLevel | float, degree: int | None = None) -> LevelSolution:
        """The solution at a noise level, made now if it is not prepared (which reads the images)."""
        self.fitted()
        degree = int(self.degree) if degree is None else degree
        key = self._key(noise, degree)
        if key not in self.prepared_:
            with outside_transforms():
                self.prepare_levels([noise], [degree])
        return self.prepared_[key]

    def _sums(
        self, moments: LinearMoments, levels: Sequence[LevelCoordinates], bar: Any = None, checkpoint: Path | None = None
    ) -> list[Any]:
        """What a pass over the images of some moments gives for each level, centred at the fitted mean."""
        return moments.grams(levels, self.monomials_, self.moments_.mean, bar, checkpoint)

    def _add_noise(self, level: LevelCoordinates, gram: Tensor) -> Tensor:
        return add_noise_(gram, self.groups_, level.letters_of_linear, level.covariance, level.cross, level.noise)

    def _solve(self, level: LevelCoordinates, sums: Any, degrees: Sequence[int]) -> list[LevelSolution]:
        """``(G + lambda diag(var)) theta = b`` from the clean Gram matrix, in its place; one factor for all degrees."""
        gram: Tensor = sums
        pixels, strength = len(self.moments_.mean), self.ridge_.strength
        rhs = gram[:, 1 : 1 + pixels] @ level.unwhiten.T
        clean = gram.clone() if isinstance(strength, str) else None
        self._add_noise(level, gram)
        variance = feature_variance(gram)
        if clean is not None:
            strength = self._cross_validated(clean, mirror(gram.clone()), rhs, variance)
        assert not isinstance(strength, str)
        factor = penalised_factor_(gram, variance, strength, "Gram matrix of the Wiener features")
        half = forward_solve(factor, rhs)
        out, second = [], float(self.moments_.covariance.trace())
        for degree in degrees:
            size = self.count(degree)
            theta = backward_solve(factor, half[:size])
            penalty = strength * float((variance[:size, None] * theta.square()).sum())
            out.append(LevelSolution(theta, second - float((theta * rhs[:size]).sum()) - penalty, float(strength)))
        return out

    def _cross_validated(self, clean: Tensor, noisy: Tensor, rhs: Tensor, variance: Tensor) -> float:
        """Lambda by generalised cross-validation (:func:`numeric.scores.crossval.gcv_scores`), features centred and scaled."""
        scale = variance[1:].clamp_min(torch.finfo(variance.dtype).tiny).rsqrt()
        mean = noisy[1:, 0].clone()

        def centred(matrix: Tensor) -> Tensor:
            return ((matrix[1:, 1:] - torch.outer(mean, mean)) * scale * scale[:, None])[None]

        second = self.moments_.covariance.trace()[None]
        scores = gcv_scores(centred(noisy), centred(clean), (rhs[1:] * scale[:, None])[None], second, self.moments_.count, "image")
        return float(GCV_GRID[int(scores[:, 0].argmin())])

    # ----- exact errors --------------------------------------------------------------------------------------------------

    def expected_mse(self, noise: NoiseLevel | float, degree: int | None = None, moments: Any = None) -> float:
        """Exact expected MSE per pixel, before clamping.

        Args:
            moments: of other images (held-out), made by :meth:`new_moments` and :meth:`accumulate`; by default the fitted ones.
        """
        solution, mine = self.solve(noise, degree), self.fitted()
        if moments is None:
            return solution.expected_error / len(mine.mean)
        if moments.config != mine.config:
            raise ValueError("the held-out moments have other settings than the fitted ones: make them with new_moments")
        level = self.coordinates_at(self._key(noise, 1)[0])
        (sums,) = self._sums(moments, [level])
        second = float(moments.covariance.trace() + (moments.mean - mine.mean).square().sum())
        return (second + self._excess(solution, level, sums, moments)) / len(mine.mean)

    def _excess(self, solution: LevelSolution, level: LevelCoordinates, sums: Any, moments: LinearMoments) -> float:
        """``E|D - x|^2 - E|x|^2`` about the fitted mean, summed over pixels, from the sums of a pass."""
        size, theta = len(solution.theta), solution.theta
        rhs = sums[:size, 1 : 1 + len(self.moments_.mean)] @ level.unwhiten.T
        gram = mirror(self._add_noise(level, sums))[:size, :size]
        return float((theta * (gram @ theta)).sum()) - 2.0 * float((theta * rhs).sum())

    @property
    def _targets(self) -> Tensor:
        """``(T, N)``: what the outputs are of centred pixels, an orthonormal basis."""
        return torch.eye(len(self.moments_.mean)).to(self.moments_.mean)

    def _wick_theta(self, solution: LevelSolution) -> Tensor:
        """``(P, T)`` of intercept, whitened linear features and Wick-ordered monomials."""
        return solution.theta

    def coefficients(self, noise: NoiseLevel, degree: int, like: Self) -> list[Tensor]:
        """Constant, linear map and weights of :class:`PlainReadout`, ``(1 + N + Q, N)``, solved in the coordinates of ``like``."""
        solution, level = held_solution(self, noise, degree, like)
        constant, linear, weights = PlainMap(self.monomials_, level, degree)(self._wick_theta(solution))
        return [torch.cat([constant[None], linear, weights])]

    def delta_errors(self, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None, bar: Any) -> StandardErrors:
        return wiener_delta_errors(self, images, noise, degree, outputs, bar)

    def chosen_ridge(self, noise: NoiseLevel | float, degree: int | None = None) -> float:
        """The lambda used at a noise level, for ``ridge="gcv"`` the chosen one."""
        return self.solve(noise, degree).ridge

    # ----- use -----------------------------------------------------------------------------------------------------------

    def plain_readout(self, noise: NoiseLevel | float, degree: int, like: Tensor) -> PlainReadout:
        """The readout in plain monomials, in the type and on the device of a tensor; kept."""
        solution, key = self.solve(noise, degree), self._key(noise, degree)
        dtype, device = like.dtype, like.device

        def make() -> PlainReadout:
            level, mean = self.coordinates_at(key[0]), self.moments_.mean
            constant, linear, weights = PlainMap(self.monomials_, level, degree)(solution.theta)
            return PlainReadout(mean, mean + constant, linear, level.letters.T, weights).to(torch.empty(0, dtype=dtype, device=device))

        return self.kept(("plain", key, like.dtype, like.device), make, lambda made: made.nbytes)

    def at_degrees(self, y: Tensor, noise: NoiseLevel, degrees: Sequence[int]) -> Tensor:
        like = y.detach().new_zeros(0)
        readouts = [self.plain_readout(noise, degree, like) for degree in degrees]
        centred = y.flatten(1) / noise.alpha - readouts[0].mean
        letters = self.monomials_.variables
        features = self.monomials_.features(centred @ readouts[0].letters, self.monomials_.count(max(degrees)))
        out = []
        for readout in readouts:
            nonlinear = features[1 + letters : 1 + letters + len(readout.weights)]
            out.append((readout.constant + centred @ readout.linear + nonlinear.T @ readout.weights).reshape(y.shape))
        return torch.stack(out)

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy`` in closed form: of the linear part, and one polynomial of the letters (each monomial differentiated)."""
        readout = self.plain_readout(noise, int(self.degree), y.detach().new_zeros(0))
        first = 1 + self.monomials_.variables
        stop, step = first + len(readout.weights), max(1, CROSS_BYTES // (8 * len(readout.mean)))

        def weight(monomial: np.ndarray, letter: np.ndarray) -> np.ndarray:
            pairs = zip(*(torch.from_numpy(index).split(step) for index in (monomial - first, letter)))
            parts = [(readout.weights[p] * readout.letters.T[j]).sum(1) for p, j in pairs]
            return torch.cat([*parts, readout.mean[:0]]).double().cpu().numpy()

        key = ("trace", self._key(noise, int(self.degree)), y.dtype, y.device)
        coefficients = self.kept(key, lambda: torch.from_numpy(self.monomials_.derivative_sum(weight, first, stop)), lambda c: c.nbytes)
        features = self.monomials_.features((y.flatten(1) / noise.alpha - readout.mean) @ readout.letters, stop)
        return (readout.linear.diagonal().sum() + coefficients.to(y) @ features) / noise.alpha

    # ----- files ---------------------------------------------------------------------------------------------------------

    def attach(self, images: Any, client: Any = None) -> Self:
        """Give a loaded model its images again, so that it can prepare further noise levels (a list after a merge).

        Args:
            client: as in :meth:`fit`, for a model that was fitted on shards: give the same shards.
        """
        sharded = client is not None or isinstance(images, Shards)
        self.fitted().attach(as_shards(images, client=client) if sharded else images)
        return self

    def save(self, path: str | Path) -> None:
        """Write settings, mean, covariance and the prepared levels, atomically; not the images (see :meth:`attach`)."""
        moments, (rows, tensors) = self.fitted(), self.level_state()
        extra = {"params": self.plain_params(), "pixel_range": list(self.pixel_range_), "levels": rows, "readout": self.readout}
        moments.save(path, extra, tensors)

    def level_state(self) -> tuple[list[list[Any]], dict[str, Tensor]]:
        """The prepared levels as JSON and as tensors take them; :meth:`take_levels` reads them."""
        kept = list(self.prepared_.items())
        rows = [[*key, solution.expected_error, solution.ridge, solution.seconds] for key, solution in kept]
        return rows, {f"theta{i}": solution.theta for i, (_, solution) in enumerate(kept)}

    def take_levels(
        self, rows: Sequence[Sequence[Any]], tensors: dict[str, Tensor], device: str = "cpu", path: str | Path = "the file of levels"
    ) -> None:
        """Prepared levels as :meth:`level_state` gave them; ``path`` is what errors name.

        Raises:
            ValueError: a level of another degree, numbers that are none, or a solution of another size.
        """
        for i, (sigma, degree, ridge, error, strength, seconds) in enumerate(rows):
            whole(degree, "degree of a level", 1, int(self.moments_.degree))
            if not all(isinstance(v, float | int) and math.isfinite(v) for v in (sigma, error, strength, seconds)) or sigma <= 0:
                raise ValueError(f"its level {i} has the numbers {(sigma, error, strength, seconds)}")
            theta = stored(tensors, f"theta{i}", self._theta_shape(degree), path)
            key = float(sigma), degree, ridge if isinstance(ridge, str) else float(ridge)
            self.prepared_[key] = LevelSolution(theta.to(device), float(error), float(strength), float(seconds))

    def _theta_shape(self, degree: int) -> tuple[int, ...]:
        """Shape of a solution."""
        return self.count(degree), len(self.moments_.mean)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote: the prepared levels can be used at once, others after :meth:`attach`.

        Raises:
            ValueError: the file is truncated; MomentError: it is of another readout.
        """
        moments, extra, tensors = LinearMoments.load(path, device)
        if extra.get("readout") != cls.readout:
            raise MomentError(f"{path} is of the {extra.get('readout')} readout, not of {cls.readout}: load it with its own class")
        with reading(path, "model file", MomentError):
            moments.pixel_range = pixel_range(extra["pixel_range"])
            model = cls(**{**extra["params"], "device": device})
            model.check_settings()
            model.fit_moments(moments)
            model.take_levels(extra["levels"], tensors, device)
            return model

    def _adopt(self, path: Path) -> None:
        """Take over the levels of a checkpoint of the same images and settings."""
        moments, other = self.fitted(), type(self).load(path, str(self.device))
        if (other.moments_.config, other.moments_.hashes) != (moments.config, moments.hashes):
            raise MomentError(f"{path} is of other images or settings than this model: delete it or name another file")
        self.prepared_ = {**other.prepared_, **self.prepared_}
