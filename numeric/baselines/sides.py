"""What denoisers by patches share: their training images, and a patch side that belongs to the noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from numeric.baselines.estimator import FittedDenoiser
from numeric.baselines.softmax import resident
from numeric.data import ImageSet, as_image_set
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import noise_like
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar

Sides = int | Mapping[float, int] | Callable[[float], int]
"""A patch side for every noise level."""
PATIENCE = 2
"""The search for a side goes up from the smallest and stops after so many sides in a row that are worse."""


class PatchDenoiser(FittedDenoiser):
    """Base of the patch machines: a subclass gives :meth:`with_side`, and :attr:`sides`, those that calibration tries.

    Args (of the subclasses):
        patch: the side, a table ``{sigma: side}`` (the nearest level on a log scale counts) such as another machine's ``sides_``, or a
            function from the effective sigma to it; :meth:`calibrate` replaces any of them.
        n_train: use the first so many training images (None: all). chunk: training images at a time.

    Attributes:
        calibration_: what :meth:`calibrate` measured, a list of ``{"sigma", "side", "mse"}``.
        sides_: effective sigma -> side that it chose.
    """

    name: Any
    """In short, for the labels of what is built on it."""
    sides: Sequence[int] = (3, 5, 7, 9, 11, 13, 17, 23, 33)

    of_fit = ("n_train",)

    def __init__(self, patch: Sides, n_train: int | None, chunk: int) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1 image, got {chunk}")
        if isinstance(patch, Mapping) and not (patch and all(0 < sigma < math.inf for sigma in patch)):
            raise ValueError(f"a table of patch sides needs levels > 0, got {dict(patch)}: write {{0.1: 3, 1.0: 9}}")
        self.patch, self.n_train, self.chunk = patch, n_train, chunk
        for sigma in patch if isinstance(patch, Mapping) else (1.0,):
            self.patch_at(sigma)

    def with_side(self, x: Tensor, side: int, precision: float) -> Tensor:
        """The estimate from noisy images in VE units, with one patch side; ``precision = 1 / sigma^2``."""
        raise NotImplementedError

    def check_side(self, side: int) -> int:
        """The side as an int, or ValueError."""
        if side < 1:
            raise ValueError(f"the patch side must be >= 1, got {side}")
        return int(side)

    def set_params(self, **params: Any) -> Any:
        """As every estimator's; a ``patch`` that is given takes the place of what :meth:`calibrate` chose."""
        super().set_params(**params)
        if "patch" in params:
            self._forget_sides()
        return self

    def _forget_sides(self) -> None:
        for name in ("sides_", "calibration_"):
            self.__dict__.pop(name, None)

    def patch_at(self, sigma: float) -> int:
        """Patch side at an effective sigma; after :meth:`calibrate` that of the nearest calibrated sigma on a log scale."""
        sides: Sides = getattr(self, "sides_", self.patch)
        if isinstance(sides, Mapping):
            return self.check_side(sides[min(sides, key=lambda s: abs(math.log(s / sigma)))])
        return self.check_side(sides(sigma) if callable(sides) else sides)

    @property
    def side_label(self) -> str:
        """The side, in the names of figures."""
        if hasattr(self, "sides_"):
            return "calibrated"
        return f"{self.patch}x{self.patch}" if isinstance(self.patch, int) else "p(sigma)"

    @property
    def parameter_count(self) -> int:
        """Numbers that an estimate reads: the pixels of all images it sums over."""
        self.learned("data_")
        return len(self.data_) * math.prod(self.data_.shape)

    def fit(self, images: Any, y: None = None, **_: Any) -> Any:
        """Keep the images (read once, where they take no more than 1 GiB); nothing else is computed."""
        data = as_image_set(images)
        self.all_: ImageSet = data
        self.data_: ImageSet = resident(data.take(self.n_train))
        self._forget_sides()
        self.remember(data)
        return self

    def calibrate(
        self,
        images: Any = None,
        sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
        *,
        target: Denoiser | None = None,
        sides: Sequence[int] | None = None,
        count: int = 30,
        seed: int = 0,
        progress: bool = False,
    ) -> Any:
        """Choose the patch side of each noise level by the least mean squared error on images that are not summed over.

        Args:
            images: to calibrate on; None: the first ``count`` training images after the ``n_train`` that are used. They must
                not be test images.
            sigmas: effective noise levels (others take the side of the nearest).
            target: a denoiser (a trained network) to be close to, as Kamb and Ganguli calibrate; None: the clean images.
            sides: to try, ascending; by default :attr:`sides` up to the image's. The search stops after two that are worse.

        Raises:
            ValueError: no images are left over, or a sigma is not positive. NotFittedError.
        """
        self.learned("data_")
        if images is None:
            used = len(self.data_)
            if used >= len(self.all_):
                raise ValueError(
                    f"all {used} training images are used, none is left to calibrate on: give calibrate(images), or a lower n_train"
                )
            x = self.all_[used : used + count]
        else:
            x = as_image_set(images).take(count)[:]
        levels = [as_noise(sigma).effective_sigma for sigma in sigmas]
        tried = list(sides if sides is not None else [s for s in self.sides if s <= min(x.shape[-2:])])
        found, measured = {}, []
        with progress_bar(len(levels) * len(tried), f"calibrating {type(self).__name__}", progress, "side") as bar:
            for sigma in levels:
                y = x + sigma * noise_like(x, seed)
                wanted = x if target is None else target.denoise(y, sigma)
                worse, best = 0, math.inf
                for side in tried:
                    with torch.no_grad():
                        out = self.clamp(self.with_side(y, self.check_side(side), 1.0 / sigma**2))
                    error = float((out - wanted).square().mean())
                    measured.append({"sigma": sigma, "side": side, "mse": error})
                    bar.update()
                    worse = 0 if error < best else worse + 1
                    if error < best:
                        best, found[sigma] = error, int(side)
                    if worse == PATIENCE:
                        break
        self.sides_, self.calibration_ = found, measured
        return self

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        self.learned("data_")
        sigma = noise.effective_sigma
        return self.with_side(y / noise.alpha, self.patch_at(sigma), 1.0 / sigma**2)


def box(length: int, side: int, circular: bool = False) -> Tensor:
    """``(length, length)`` 0-1 matrix of the pixels within a centred window; one that wraps onto itself counts each pixel once."""
    place = torch.arange(length)
    distance = (place[:, None] - place[None]).abs()
    if circular:
        distance = torch.minimum(distance, length - distance)
    return (distance <= side // 2).double()
