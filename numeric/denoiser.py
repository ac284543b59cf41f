"""The contract of every denoiser, stated once: ``denoise`` and, by Tweedie's formula, ``score``.

Shapes first.  ``y`` is ``(n, channels, height, width)``; ``noise`` is one level for all images or one an image
(:func:`numeric.noise.as_levels`); what comes back has the shape, type and device of ``y``.  A subclass gives
:meth:`Denoiser.estimate` for *one* level and never looks at types, ranges or levels itself.  The path from ``y`` to the
result is differentiable, so that gradients, ``torch.func.jacrev`` and samplers that need them work with every denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from numeric.derivatives import inside_vmap
from numeric.divergence import EXACT_PIXELS, exact_trace, probed_trace, signs
from numeric.noise import NoiseLevel, as_levels, ve
from numeric.pixels import native_tensor, picture_array

UNIT_RANGE = (0.0, 1.0)
"""Range of the pixels of uint8 images as they are read."""


def widest(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The smallest range that holds two."""
    return min(one[0], other[0]), max(one[1], other[1])


class NotFittedError(RuntimeError):
    """The denoiser has seen no images yet."""


class Denoiser:
    """Mixin: a subclass gives :meth:`estimate`, the posterior mean ``E[x | y]``.

    Attributes:
        shape_: ``(channels, height, width)`` of the images it was fitted on, set by :meth:`remember`; None: any.
        pixel_range_: lowest and highest value a pixel of those images can take; denoised images are clamped to it.

    Example:
        >>> import torch
        >>> from numeric import Denoiser, as_image_set, ve
        >>> class Shrink(Denoiser):  # the posterior mean of x ~ N(0, I)
        ...     def estimate(self, y, noise):
        ...         return noise.alpha * y / (noise.alpha**2 + noise.sigma**2)
        >>> y, denoiser, level = torch.ones(2, 1, 4, 4), Shrink(), ve(1.0)
        >>> denoiser.denoise(y, torch.tensor([1.0, 2.0]))[:, 0, 0, 0]
        tensor([0.5000, 0.2000])
        >>> denoiser.score(y, level)[0, 0, 0, 0], denoiser.jacobian_trace(y, level), denoiser.divergence(y, level)
        (tensor(-0.5000), tensor([8., 8.]), tensor([-8., -8.]))
        >>> denoiser.clamp(denoiser.estimate(3 * y, level)).max()
        tensor(1.)
        >>> denoiser.by_level(y, [1.0, 2.0], lambda part, level: part * level.sigma)[:, 0, 0, 0]
        tensor([1., 2.])
        >>> denoiser.remember(as_image_set(y))
        >>> denoiser.learned('shape_'), denoiser.readable(y.numpy()).shape
        ((1, 4, 4), torch.Size([2, 1, 4, 4]))
    """

    shape_: tuple[int, int, int] | None = None
    pixel_range_: tuple[float, float] = UNIT_RANGE

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``E[x | y]``, unclamped, in the shape of ``y`` ``(n, channels, height, width)``, float32 or float64."""
        raise NotImplementedError

    def denoise(self, y: Any, noise: Any, clamp: bool = True) -> Any:
        """Denoised images ``(n, channels, height, width)``.

        Args:
            y: noisy images ``alpha x + sigma e``: a tensor, or an array or PIL image (then an array comes back).
            noise: a :class:`~numeric.noise.NoiseLevel`, a number (the VE sigma), or one of either for every image.
            clamp: clamp to the pixels' range, as the paper does before computing MSE.

        Raises:
            ValueError: images of another shape than those fitted on, NaN pixels, or as many levels as there are no images.
        """

        def one_level(part: Tensor, level: NoiseLevel) -> Tensor:
            out = self.estimate(part, level)
            return self.clamp(out) if clamp else out

        return self.by_level(y, noise, one_level)

    def score(self, y: Any, noise: Any) -> Any:
        """Score ``(alpha D(y) - y) / sigma^2`` in the shape of ``y`` (Tweedie's formula)."""
        return self.by_level(y, noise, lambda part, level: (level.alpha * self.estimate(part, level) - part) / level.sigma**2)

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy`` of the unclamped estimate of every image, ``(n,)``.

        Denoisers that have it in closed form override this; here it costs a backward pass for each pixel.

        Raises:
            ValueError: too many pixels for that.
        """
        pixels = y[0].numel()
        if pixels > EXACT_PIXELS:
            raise ValueError(
                f"{type(self).__name__} has no closed-form divergence, and {pixels:,} pixels need as many backward passes: "
                "give probes=16 (Hutchinson's estimate), or smaller images"
            )
        return exact_trace(lambda part: self.estimate(part, noise), y)

    def divergence(self, y: Any, noise: Any, probes: int | None = None, generator: torch.Generator | None = None) -> Any:
        """Divergence of the score, ``(alpha tr dD/dy - pixels) / sigma^2``, of every image ``(n,)``.

        It is the Laplacian of the log density whose score this is.

        Args:
            y, noise: as in :meth:`denoise`.
            probes: how many random directions estimate it without bias, by Hutchinson; None: exactly.
            generator: of the probes (None: one of seed 0).
        """

        def one_level(part: Tensor, level: NoiseLevel) -> Tensor:
            trace = self._trace(part, level, probes, generator)
            return (level.alpha * trace - part[0].numel()) / level.sigma**2

        return self.by_level(y, noise, one_level)

    def _trace(self, y: Tensor, noise: NoiseLevel, probes: int | None, generator: torch.Generator | None) -> Tensor:
        if probes is None:
            return self.jacobian_trace(y, noise)
        if probes < 1:
            raise ValueError(f"probes must be >= 1, or None for the exact divergence, got {probes}")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        return probed_trace(lambda part: self.estimate(part, noise), y, signs(probes, y, generator))

    def clamp(self, x: Tensor) -> Tensor:
        """``x`` clamped to the pixels' range."""
        return x.clamp(*self.pixel_range_)

    def __repr__(self) -> str:
        name = f"{type(self).__name__}: {getattr(self, 'label', 'denoiser')}"
        if self.shape_ is None:
            return f"<{name}>"
        low, high = self.pixel_range_
        return f"<{name}, images {' x '.join(map(str, self.shape_))}, pixels in [{low:g}, {high:g}]>"

    # ----- what subclasses use ------------------------------------------------------------------------------------------

    def remember(self, images: Any) -> None:
        """Keep shape and pixel range of an :class:`~numeric.data.ImageSet`, at the end of a fit."""
        self.shape_, self.pixel_range_ = tuple(images.shape), tuple(images.pixel_range)

    def learned(self, name: str) -> Any:
        """The attribute ``name`` that ``fit`` sets.

        Raises:
            NotFittedError: ``fit`` has not been called.
        """
        if name not in self.__dict__:
            raise NotFittedError(f"this {type(self).__name__} has seen no images: call fit(images) first")
        return self.__dict__[name]

    def readable(self, y: Any) -> Tensor:
        """Noisy images as a tensor of the fitted shape, whatever they come as.

        Raises:
            ValueError: they are of another shape or type, or not finite.
        """
        y = as_noisy_images(y)
        check_images(y, self.shape_)
        return y

    def by_level(self, y: Any, noise: Any, use: Callable[[Tensor, NoiseLevel], Tensor], axis: int = 0) -> Any:
        """``use(images, level)`` for each distinct noise level once, put together again in the order of the images.

        Args:
            axis: which axis of what ``use`` returns runs over the images.
        """
        given = y
        y = self.readable(y)
        work = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y  # half precision is computed in float32
        levels = as_levels(noise, len(y))
        if len(y) == 0:  # what a blank image gives, without it: of the right shape whatever ``use`` returns
            out = use(work.new_zeros(1, *y.shape[1:]), levels if isinstance(levels, NoiseLevel) else ve(1.0)).narrow(axis, 0, 0)
        elif isinstance(levels, NoiseLevel):
            out = use(work, levels)
        else:
            groups: dict[NoiseLevel, list[int]] = {}
            for place, level in enumerate(levels):
                groups.setdefault(level, []).append(place)
            order = [torch.tensor(places, device=y.device) for places in groups.values()]
            parts = [use(work[places], level) for places, level in zip(order, groups)]
            out = torch.cat(parts, axis).index_select(axis, torch.cat(order).argsort())
        out = out.to(y.dtype)
        return out if isinstance(given, Tensor) else out.numpy()


def as_noisy_images(y: Any) -> Tensor:
    """``y`` as a floating tensor ``(n, channels, height, width)``: tensors, arrays, PIL images; uint8 over 255."""
    if isinstance(y, Image.Image):
        y = native_tensor(picture_array(y))[None]
    elif not isinstance(y, Tensor):
        y = native_tensor(np.asarray(y), "noisy images")
        if y.ndim == 2:  # one grey picture
            y = y[None, None]
    return y.float() / 255.0 if y.dtype == torch.uint8 else y


def check_images(y: Tensor, shape: tuple[int, int, int] | None = None) -> None:
    """Raise ValueError unless ``y`` is a finite floating ``(n, channels, height, width)`` tensor (of ``shape``, if given)."""
    if y.ndim != 4 or not y.is_floating_point():
        raise ValueError(f"expected floating images (n, channels, height, width) or uint8 ones, got {y.dtype} {tuple(y.shape)}")
    if shape is not None and tuple(y.shape[1:]) != tuple(shape):
        channels, height, width = shape
        last = tuple(y.shape[1:]) == (height, width, channels)
        raise ValueError(
            f"fitted on {channels} channel(s) of {height} x {width} pixels, got images {tuple(y.shape)}: "
            + ("they have their channels last, permute(0, 3, 1, 2) puts them first" if last else "resize them or fit again")
        )
    # Inside torch.func.vmap a test of the values is not possible (and not needed: it has been made outside).
    if not inside_vmap(y) and not bool(torch.isfinite(y).all()):
        raise ValueError("the noisy images contain NaN or infinite pixels: remove or replace them")
