"""The wavelet score: fit once on clean images, then denoise or score at any noise level (equations (6), (15), (16))."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from numeric.data import ImageSet
from numeric.derivatives import tracked
from numeric.memory import free_memory
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.scores.base import SETTINGS, WaveletEstimator, read_by
from numeric.scores.groups import StandardErrors
from numeric.scores.influence import own_delta_errors
from numeric.scores.moments import CentralMoments, CleanMoments
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.solve import BlockSolution, held_out_error, solve_block
from numeric.scores.tables import monomials
from numeric.shards import Shards

EVALUATION_BYTES = 24 * 2**20
"""Working memory of one chunk of feature evaluation; small enough to stay near the cache."""


@dataclass(frozen=True)
class Solution:
    """All blocks solved at one noise level and degree."""

    noise: NoiseLevel
    degree: int
    blocks: tuple[BlockSolution, ...]

    @property
    def expected_error(self) -> float:
        """Exact expected squared error summed over coefficients, before clamping, on the fitted data."""
        return float(sum(block.expected_error.sum() for block in self.blocks))

    @property
    def nbytes(self) -> int:
        """Memory of all its arrays."""
        return sum(v.nbytes for block in self.blocks for v in vars(block).values() if isinstance(v, Tensor))


class WaveletScore(WaveletEstimator):
    """Analytic score in a wavelet basis, ``own`` readout: each coefficient sees only its own features.

    Args:
        family: ``independent``, ``band``, ``local``, ``parent`` or ``joint``.
        degree: polynomial degree; lower ones can be asked of the fitted object too.
        radius, interactions: of the local family.
        channels_coupled: couple colour channels at one atom.
        wavelet, levels, mode, synthesis: of the :class:`~numeric.wavelets.WaveletTransform`.
        basis: ``monomial`` or ``hermite`` features (one space, two conditionings).
        ridge, ridge_side, ridge_scaling: see :class:`numeric.scores.crossval.Ridge`; ``ridge="gcv"`` chooses lambda at each noise
            level and coefficient by generalised cross-validation from the moments, ``"gcv-band"`` one per band.
        device: torch device of the moments and solves.

    Example:
        >>> import torch
        >>> from numeric import WaveletScore, ve, vp
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = WaveletScore(family='local', degree=2).fit(images)
        >>> model.denoise(images[:2], ve(0.5)).shape, model.score(images[:2], vp(0.9)).shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
        >>> model.jacobian_trace(images[:2], ve(0.5)).shape
        torch.Size([2])
        >>> model.condition_numbers(0.5).shape, model.chosen_ridge(0.5)[0]
        (torch.Size([64]), tensor(1.0000e-10, dtype=torch.float64))
        >>> over = WaveletScore('independent', 1, mode='symmetric').fit(images)  # an over-complete basis
        >>> over.expected_mse(0.5, joint=over.joint(images)) > 0
        True
    """

    readout = "own"
    moments_class = CleanMoments
    _images: ImageSet | Shards | None = None
    _joint: SharedWaveletScore | None = None

    def __init__(
        self,
        family: str = "independent",
        degree: int = 3,
        radius: int = 1,
        interactions: str = "pairwise",
        channels_coupled: bool = False,
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str = "periodization",
        synthesis: str = "pseudo-inverse",
        basis: str = "monomial",
        ridge: float | str = 1e-10,
        ridge_side: str = "score",
        ridge_scaling: str = "unit",
        device: str = "cpu",
    ) -> None:
        self.family, self.degree, self.radius, self.interactions = family, degree, radius, interactions
        self.channels_coupled = channels_coupled
        self.wavelet, self.levels, self.mode, self.synthesis = wavelet, levels, mode, synthesis
        self.basis, self.ridge, self.ridge_side, self.ridge_scaling = basis, ridge, ridge_side, ridge_scaling
        self.device = device

    # ----- fitting -----------------------------------------------------------------------------------------------------

    def new_moments(self, shape: tuple[int, int, int], memory_limit: int | None = None) -> CleanMoments:
        """An empty accumulator for images of ``(channels, height, width)``.

        Raises:
            MemoryError: the memory foreseen is more than is free (without a memory limit).
        """
        self.check_settings()
        transform, family, degree = self.new_transform(shape), self.family_, int(self.degree)
        needed = CleanMoments.foreseen_bytes(transform, family, degree, shape[0])
        if memory_limit is not None:
            return CleanMoments(
                transform, family, degree, shape[0], device=self.device, block_bytes=max(1, memory_limit // 8)
            )
        free = free_memory(str(self.device))
        if free is not None and needed * 3 > free:
            raise MemoryError(
                f"{family.label} at degree {self.degree} on {shape} images needs about {needed * 3 / 2**30:.1f} GiB, "
                f"{free / 2**30:.1f} GiB are free: lower the degree or radius, use interactions='pairwise', or fit(..., memory_limit=)"
            )
        return CleanMoments(transform, family, degree, shape[0], device=self.device)

    def accumulate(self, moments: Any, data: Any, batch_size: int, bar: Any, checkpoint: Any, every: float) -> None:
        if isinstance(data, Shards):
            moments.fit_shards(data, batch_size, bar, checkpoint, every)
            return
        key = None if checkpoint is None else {"data": data.provenance, "batch_size": batch_size}
        moments.fit(data.batches(batch_size), None if bar is None else bar.update, checkpoint, every, key)

    def fit(
        self,
        images: Any,
        y: None = None,
        *,
        batch_size: int = 1000,
        progress: bool = False,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 30.0,
        memory_limit: int | None = None,
        folder: str | Path | None = None,
        client: Any = None,
    ) -> Self:
        """One streaming pass over clean images (see :meth:`numeric.scores.base.WaveletEstimator.fit`), or several.

        Args:
            memory_limit: bytes that the moment sums may take. Targets are then split over several passes over the
                data, and their sums kept in files under ``folder`` (a temporary folder by default) until they are solved.
        """
        data = read_by(images, client)
        if memory_limit is None:
            super().fit(
                data, y, batch_size=batch_size, progress=progress, checkpoint=checkpoint,
                checkpoint_seconds=checkpoint_seconds,
            )  # fmt: skip
            return self._keep(data)
        if isinstance(data, Shards):
            raise ValueError("give either client or memory_limit: shards are summed in one pass")
        if checkpoint is not None:
            raise ValueError("give either checkpoint or memory_limit: a fit in several passes keeps its sums in files already")
        moments = self.new_moments(data.shape, memory_limit)
        with progress_bar(len(moments.passes(memory_limit)) * len(data), f"moments {moments.family.label}", progress) as bar:
            if folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="wavelet-score-")  # removed with this estimator
                folder = self._folder.name
            moments.fit_within(lambda: data.batches(batch_size), memory_limit, folder, bar.update)
        moments.pixel_range = data.pixel_range
        return self.fit_moments(moments)._keep(data)

    def _keep(self, data: ImageSet | Shards) -> Self:
        """Remember the images, by reference, where :meth:`expected_mse` will have to read them again."""
        if not self.transform_.is_orthonormal:
            self._images = data
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Pickled whole: sums that were spilled to files are read back (:class:`numeric.scores.moments.BlockMoments`)."""
        state = dict(super().__getstate__())
        for name in ("_images", "_joint"):
            state.pop(name, None)
        if state.pop("_folder", None) is not None:
            state.pop("central_")  # it reads the files
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "moments_"):
            self._images = self._joint = None
            if not hasattr(self, "central_"):
                self.prepare()

    def prepare(self) -> None:
        self._images = self._joint = None
        # Spilled sums are read back block by block, so that the limit holds while solving too.
        moments = self.moments_
        self.central_: Sequence[Tensor] = CentralMoments(moments) if moments.spilled else moments.central()
        self.mean_ = moments.mean

    def _names(self, targets: Any) -> list[str]:
        addresses, size = self.transform_.addresses, self.transform_.n_coefficients
        return [
            "{3} scale {0} at ({1}, {2})".format(*addresses[int(t) % size])
            + (f" channel {int(t) // size}" if self.moments_.channels > 1 else "")
            for t in targets
        ]

    def _covariance(self, variables: Any) -> Tensor | None:
        if self.transform_.is_orthonormal:
            return None
        size = self.transform_.n_coefficients
        local, channel = variables % size, variables // size
        k = self.transform_.covariance(local[:, :, None], local[:, None, :]) * (channel[:, :, None] == channel[:, None, :])
        return torch.as_tensor(k, dtype=torch.float64, device=self.device).permute(1, 2, 0)

    def _bands(self, targets: Any) -> np.ndarray:
        """Band number of every target, channels apart."""
        size, bands = self.transform_.n_coefficients, self.transform_.bands
        stops = np.array([band.stop for band in bands])
        return np.searchsorted(stops, targets % size, side="right") + len(bands) * (targets // size)

    def solve(self, noise: NoiseLevel | float, degree: int | None = None, condition: bool = False) -> Solution:
        """Solve all coefficients at a noise level from the moments alone; no image is read and no noise drawn.

        Args:
            degree: up to the fitted degree (the default).
            condition: also compute condition numbers.

        Raises:
            NotFittedError, FamilyError (degree out of range), SingularGramError.
        """
        moments, level, ridge = self.fitted(), as_noise(noise), self.ridge_
        degree = int(self.degree) if degree is None else degree

        def make() -> Solution:
            blocks = []
            for block, table in zip(moments.blocks, self.central_):
                variables = block.block.variables
                blocks.append(
                    solve_block(
                        table,
                        self.mean_[torch.as_tensor(variables, device=self.mean_.device)].T,
                        block.plan,
                        level,
                        degree,
                        self.basis,
                        ridge,
                        self._covariance(variables),
                        self._names(variables[:, 0]),
                        condition,
                        moments.count,
                        self._bands(variables[:, 0]),
                    )
                )
            return Solution(level, degree, tuple(blocks))

        return self.kept((level, degree, condition, self.basis, ridge), make, lambda solution: solution.nbytes)

    # ----- use ---------------------------------------------------------------------------------------------------------

    def at_degrees(self, y: Tensor, noise: NoiseLevel, degrees: Sequence[int]) -> Tensor:
        moments = self.fitted()
        solutions = [self.solve(noise, degree) for degree in degrees]
        v = self.transform_.forward(y).flatten(1).T.contiguous()
        differentiable = tracked(v)
        out = None if differentiable else torch.empty(len(degrees), *v.shape, dtype=v.dtype, device=v.device)
        pieces, targets = [], []
        for index, block in enumerate(moments.blocks):
            parts = [solution.blocks[index] for solution in solutions]
            widest = max(parts, key=lambda p: p.denoiser.shape[1])
            size = widest.denoiser.shape[1]
            h = torch.zeros(len(block.block.variables), len(parts), size, dtype=torch.float64, device=self.device)
            for k, part in enumerate(parts):
                h[:, k, : part.denoiser.shape[1]] = part.denoiser
            h = h.to(v)
            centre = widest.centre.T[:, :, None].to(v)
            inverse = (1.0 / widest.scale).T[:, :, None].to(v)
            variables = torch.as_tensor(block.block.variables, device=v.device)
            step = max(1, EVALUATION_BYTES // (v.element_size() * max(v.shape[1], 1) * (size + variables.shape[1])))
            for start in range(0, len(variables), step):
                part_ = slice(start, start + step)
                u = (v[variables[part_]] - centre[part_]) * inverse[part_]
                phi = monomials(u, block.plan, size)
                values = torch.bmm(h[part_], phi).permute(1, 0, 2)
                if out is None:  # written in place there is nothing to differentiate
                    pieces.append(values)
                    targets.append(variables[part_, 0])
                else:
                    out[:, variables[part_, 0]] = values
        if out is None:
            out = torch.cat(pieces, 1).index_select(1, torch.cat(targets).argsort())
        images = out.transpose(1, 2).reshape(len(degrees) * y.shape[0], moments.channels, self.transform_.n_coefficients)
        return self.transform_.inverse(images).reshape(len(degrees), *y.shape)

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy`` in closed form: the sum of the polynomials' derivatives by their own coefficients.

        In an over-complete basis ``D = W^- h(W y)``, so ``tr dD/dy = sum dh_i/dv_j P_ji`` with the projection
        ``P = W W^-``: derivatives by the neighbours count as well.
        """
        moments, solution, projection = self.fitted(), self.solve(noise), self.transform_.projection
        size = self.transform_.n_coefficients
        v = self.transform_.forward(y).flatten(1).T
        out = torch.zeros_like(v[0])
        for block, part in zip(moments.blocks, solution.blocks):
            variables, count = block.block.variables, part.denoiser.shape[1]
            target = variables[:, 0]
            slopes = torch.zeros_like(part.denoiser)
            for i in range(1 if projection is None else variables.shape[1]):
                if projection is None:
                    weight: Any = 1.0
                else:
                    same = variables[:, i] // size == target // size
                    weight = torch.as_tensor(projection[variables[:, i] % size, target % size] * same)[:, None].to(slopes)
                slopes += part.plan.differentiated(part.denoiser, i) / part.scale[i][:, None] * weight
            index = torch.as_tensor(variables, device=v.device)
            centre, scale = part.centre.T[:, :, None].to(v), part.scale.T[:, :, None].to(v)
            step = max(1, EVALUATION_BYTES // (v.element_size() * v.shape[1] * (count + variables.shape[1])))
            for start in range(0, len(variables), step):
                rows = slice(start, start + step)
                phi = monomials((v[index[rows]] - centre[rows]) / scale[rows], block.plan, count)
                out = out + torch.einsum("gb,gbn->n", slopes[rows].to(v), phi)
        return out

    def expected_mse(
        self,
        noise: NoiseLevel | float,
        degree: int | None = None,
        moments: CleanMoments | None = None,
        joint: Any = None,
    ) -> float:
        """Exact expected MSE per pixel, before clamping, from moments alone.

        Args:
            moments: of other data (held-out), with this estimator's settings; by default the fitted ones.
            joint: moments of all coefficients together, which an over-complete basis needs because errors of overlapping
                atoms do not add up: :meth:`joint` of images, or a fitted :class:`numeric.scores.shared.SharedWaveletScore` of
                the same family and degree.  The error is that on the images it was fitted on.  None: of the fitted images,
                which are then read once more and must still be there (not so after :meth:`load`, a merge or a pickle).

        Raises:
            ValueError: an over-complete basis, and the fitted images are not at hand or have changed.
            MemoryError: the joint moments are more than is free; foreseen.
        """
        fitted, level = self.fitted(), as_noise(noise)
        if joint is None and not self.transform_.is_orthonormal:
            joint = self._joint_of_fitted(moments)
        if joint is not None:
            return joint.expected_mse_of(self, level, degree)
        solution = self.solve(level, degree)
        pixels = fitted.channels * self.transform_.shape[0] * self.transform_.shape[1]
        if moments is None:
            return solution.expected_error / pixels
        if moments.config != fitted.config:
            raise ValueError(
                "the held-out moments have other settings than the fitted ones: make them with new_moments"
            )
        total, mean = 0.0, moments.mean
        for block, part, table in zip(fitted.blocks, solution.blocks, moments.central()):
            variables = torch.as_tensor(block.block.variables, device=mean.device)
            total += float(held_out_error(part, table, mean[variables].T, level).sum())
        return total / pixels

    def coefficients(self, noise: NoiseLevel, degree: int, like: Self) -> list[Tensor]:
        """Theta of every block in monomials of the noisy coefficients, ``(groups, features)`` each."""
        return [block.theta for block in self.solve(noise, degree).blocks]

    def delta_errors(self, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None, bar: Any) -> StandardErrors:
        if outputs is not None:
            raise ValueError("outputs= is of the shared readout: the own one has few enough coefficients to give all")
        return own_delta_errors(self, images, noise, degree, bar)

    def joint(self, images: Any, **options: Any) -> SharedWaveletScore:
        """Moments of all coefficients together of these images, for :meth:`expected_mse` in an over-complete basis.

        Args:
            options: of the fit (``batch_size``, ``progress``).

        Raises:
            MemoryError: they are more than is free; foreseen.
        """
        self.fitted()
        settings = {name: getattr(self, name) for name in ("degree", *SETTINGS)}
        try:
            return SharedWaveletScore(**settings).fit(images, **options)
        except MemoryError as error:
            amount = str(error).partition(": use ")[0]  # what follows is advice for users of the shared readout
            raise MemoryError(
                f"the exact pixel error in the {self.transform_.kind} basis {self.transform_} needs the moments of all coefficients "
                f"together: {amount}: use a lower degree, a smaller family, {self.transform_.to_orthonormal}, or the error measured on "
                "noisy images (numeric.evaluate)"
            ) from error

    def _joint_of_fitted(self, held_out: Any) -> SharedWaveletScore:
        if held_out is not None or self._images is None:
            raise ValueError(
                f"in the {self.transform_.kind} basis {self.transform_} the pixel error needs the moments of all coefficients "
                "together, of images that are not at hand: pass joint=model.joint(images)"
            )
        if self._joint is None:
            joint = self.joint(self._images)
            if not np.allclose(joint.mean_, self.mean_.cpu().numpy(), rtol=1e-9, atol=1e-9 * float(self.mean_.abs().max())):
                raise ValueError("the images have changed since the fit: pass joint=model.joint(images) with those meant")
            self._joint = joint
        return self._joint

    def seen(self, data: Any) -> dict[str, Any]:
        return super().seen(data) if self.transform_.is_orthonormal else {"joint": self.joint(data)}

    def condition_numbers(self, noise: NoiseLevel | float, degree: int | None = None) -> Tensor:
        """Condition number of every coefficient's solved system, ``(channels * n_coefficients,)``."""
        solution = self.solve(noise, degree, condition=True)
        out = torch.empty(len(self.mean_), dtype=torch.float64, device=self.mean_.device)
        for block, part in zip(self.fitted().blocks, solution.blocks):
            out[torch.as_tensor(block.block.targets, device=out.device)] = part.condition
        return out

    def chosen_ridge(self, noise: NoiseLevel | float, degree: int | None = None) -> Tensor:
        """The lambda of every coefficient at a noise level, ``(channels * n_coefficients,)``."""
        solution = self.solve(noise, degree)
        out = torch.empty(len(self.mean_), dtype=torch.float64, device=self.mean_.device)
        for block, part in zip(self.fitted().blocks, solution.blocks):
            out[torch.as_tensor(block.block.targets, device=out.device)] = part.ridge  # type: ignore[assignment]
        return out
