"""Any denoiser here in the form in which other programs call one: ``model(x, sigma)``.

:class:`PlugAndPlay` is a ``torch.nn.Module`` with deepinv's contract (``forward(x, sigma)``: VE noise, sigma a number or one an
image, differentiable) and k-diffusion's (``model(x, sigma)``).  A scheduler of diffusers wants the noise in place of the clean
image: ``(x - model(x, sigma)) / sigma``.  None of them is imported: their algorithms and samplers ask for nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from numeric.denoiser import Denoiser


class PlugAndPlay(nn.Module):
    """A denoiser as a module, for plug-and-play restoration and foreign samplers.

    Args:
        denoiser: fitted. clamp: clamp to the pixels' range (off: samplers and proximal steps want the posterior mean itself).
        width: the caller's pixel values times ``width`` plus ``shift`` are the denoiser's; 0.5 and 0.5 serve a sampler that
            works in [-1, 1] with a denoiser fitted in [0, 1].
        digits: round noise levels to so many significant digits, so that samplers whose levels differ in the last bits of
            single precision share the closed form's solution; None: as they come.

    Attributes:
        sigma_data: standard deviation that k-diffusion's wrappers may ask for, None if not given.

    Example:
        >>> import torch
        >>> from numeric.baselines.linear import LinearDenoiser
        >>> from numeric.evaluation.adapters import PlugAndPlay
        >>> model = PlugAndPlay(LinearDenoiser().fit(torch.rand(20, 1, 4, 4)))
        >>> model(torch.rand(3, 1, 4, 4), torch.tensor([0.1, 0.2, 0.1])).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        clamp: bool = False,
        width: float = 1.0,
        shift: float = 0.0,
        sigma_data: float | None = None,
        digits: int | None = None,
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width must be > 0, got {width}")
        if digits is not None and digits < 1:
            raise ValueError(f"digits must be >= 1 or None, got {digits}")
        self.denoiser, self.clamp, self.width, self.shift, self.sigma_data = denoiser, clamp, width, shift, sigma_data
        self.digits = digits

    def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
        """``E[clean | x]`` of ``x = clean + sigma e``, ``(n, channels, height, width)``.

        Args:
            sigma: a number, a scalar tensor, or one an image in any shape such as ``(n, 1, 1, 1)``; not differentiated.

        Raises:
            ValueError: another shape than the denoiser was fitted on, or ``sigma <= 0``.

        Example:
            >>> import torch
            >>> from numeric import LinearDenoiser, PlugAndPlay
            >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            >>> PlugAndPlay(LinearDenoiser().fit(images)).forward(images[:2], sigma=0.3).shape
            torch.Size([2, 1, 8, 8])
        """
        levels = torch.as_tensor(sigma).detach().double().cpu() * self.width
        if self.digits is not None:
            levels = levels.new_tensor([float(f"{level:.{self.digits - 1}e}") for level in levels.flatten()]).reshape(levels.shape)
        y = x if self.width == 1.0 and self.shift == 0.0 else self.width * x + self.shift
        out = self.denoiser.denoise(y, levels, clamp=self.clamp)
        return out if y is x else (out - self.shift) / self.width
