"""Preconditioning, loss weighting and noise distribution of Karras et al. (2022, "EDM", table 1), in one class.

The network F sees ``D(y; s) = c_skip y + c_out F(c_in y, c_noise)``.  With ``d = sigma_data``::

    c_skip = d^2 / (s^2 + d^2)    c_out = s d / sqrt(s^2 + d^2)    c_in = 1 / sqrt(s^2 + d^2)    c_noise = ln(s) / 4
    lambda = (s^2 + d^2) / (s d)^2 = 1 / c_out^2                   ln s ~ N(-1.2, 1.2^2)

**Units.**  EDM's images lie in [-1, 1], ours in [0, 1] with sigma in the same units.  The network works on
``scale (x - shift)`` with ``scale = 2``: EDM's units, so that its noise distribution keeps its published numbers.  In our
units the median training sigma is exp(-1.2) / 2 = 0.15, and two thirds lie between 0.045 and 0.5.  ``shift`` is the mean
pixel (one number, measured; EDM's would be 1/2), because MNIST is mostly black: the formulas above normalise exactly when
``E|x|^2`` per pixel is ``d^2``, so ``sigma_data`` is measured about that shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from numeric.data import ImageSet

Network = Callable[[Tensor, Tensor], Tensor]
"""``(images (n, c, h, w), c_noise (n,)) -> (n, c, h, w)``."""


def _per_image(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class EDM:
    """Preconditioned training of a denoiser.

    Attributes:
        sigma_data: standard deviation of a pixel about ``shift``, in the network's units.
        scale, shift: the network sees ``scale (x - shift)`` and noise ``scale sigma``.
        p_mean, p_std: ``ln(scale sigma) ~ N(p_mean, p_std^2)`` in training.
    """

    sigma_data: float = 0.5
    scale: float = 2.0
    shift: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        for name in ("sigma_data", "scale", "p_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @classmethod
    def measured(cls, images: ImageSet, scale: float = 2.0, p_mean: float = -1.2, p_std: float = 1.2) -> EDM:
        """``shift`` and ``sigma_data`` from the mean and standard deviation of all pixels of all images (one pass)."""
        total = square = count = 0.0
        for batch in images.batches(5000):
            x = batch.double()
            total, square, count = total + float(x.sum()), square + float(x.square().sum()), count + x.numel()
        mean = total / count
        deviation = math.sqrt(max(square / count - mean**2, 0.0))
        if deviation == 0.0:
            raise ValueError("every pixel of the training images has the same value: there is nothing to learn")
        return cls(scale * deviation, scale, mean, p_mean, p_std)

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    # Everything below is in the network's units.

    def c_skip(self, sigma: Tensor) -> Tensor:
        """Share of the noisy image passed on: the optimal one-number linear denoiser."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        """Root mean square of what is left to predict, ``x - c_skip y``."""
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        """Brings the input to unit variance."""
        return 1.0 / (sigma**2 + self.sigma_data**2).sqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told of the noise level."""
        return sigma.log() / 4.0

    def weight(self, sigma: Tensor) -> Tensor:
        """``lambda(sigma) = 1 / c_out^2``: every noise level weighs the same in the loss of an untrained network."""
        return 1.0 / self.c_out(sigma) ** 2

    def sample_sigma(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Training noise levels ``(count,)``, on the generator's device."""
        device = generator.device if generator is not None else None
        return (self.p_mean + self.p_std * torch.randn(count, generator=generator, device=device)).exp()

    def target(self, x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        """What the network should output for clean ``x`` and noisy ``y``: ``(x - c_skip y) / c_out``."""
        sigma = _per_image(sigma)
        return (x - self.c_skip(sigma) * y) / self.c_out(sigma)

    def precondition(self, network: Network, y: Tensor, sigma: Tensor) -> Tensor:
        """``D(y; sigma)`` in the network's units, ``(n, c, h, w)``; ``sigma`` is ``(n,)``."""
        s = _per_image(sigma)
        return self.c_skip(s) * y + self.c_out(s) * network(self.c_in(s) * y, self.c_noise(sigma))

    def loss(
        self,
        network: Network,
        images: Tensor,
        sigma: Tensor,
        noise: Tensor,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """Weighted denoising loss of each image, ``(n,)``: ``lambda |D(x + sigma e; sigma) - x|^2`` per pixel.

        ``images`` are in data units; ``sigma`` ``(n,)`` and the standard normal ``noise`` are the network's.  Because
        ``lambda c_out^2 = 1`` this is ``|F - target|^2``, which is how it is computed.
        ``memory_format``: layout of what the network is given.
        """
        x = self.scale * (images - self.shift)
        y = x + _per_image(sigma) * noise
        inputs = (self.c_in(_per_image(sigma)) * y).contiguous(memory_format=memory_format)
        output = network(inputs, self.c_noise(sigma))
        return (output.float() - self.target(x, y, sigma)).square().flatten(1).mean(1)

    # Data units again.

    def denoise(self, network: Network, y: Tensor, sigma: float | Tensor) -> Tensor:
        """``E[x | y]`` for VE images ``y = x + sigma e`` in data units; ``sigma`` a number, or ``(n,)``."""
        level = (self.scale * torch.as_tensor(sigma, dtype=y.dtype, device=y.device)).expand(len(y))
        return self.precondition(network, self.scale * (y - self.shift), level) / self.scale + self.shift
