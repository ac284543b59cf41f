"""Image restoration by deepinv's physics and algorithms, with any denoiser of this package as the prior (extra ``[restore]``).

Measurements are ``y = A x + noise e`` for a linear ``A`` (:data:`TASKS`).  Three of deepinv's algorithms restore them, as its
authors wrote them: half-quadratic splitting with a denoiser in the place of the prior's proximal step (DPIR, Zhang et al.
2021), DiffPIR (Zhu et al. 2023) and diffusion posterior sampling (DPS, Chung et al. 2023).  The two samplers visit the same
noise levels, so that a closed form solves each level once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TASKS = ("inpainting", "deblurring", "super-resolution")
KEPT_PIXELS = 0.5
"""Share of the pixels that inpainting sees."""
BLUR_SIGMA = 1.2
"""Standard deviation of the Gaussian blur, pixels."""
FACTOR = 2
"""Of super-resolution: a quarter of the pixels is measured, after a bicubic filter."""
VE_SIGMA = (0.001, 80.0)
"""``sigma_min`` and ``sigma_max`` of deepinv's variance exploding diffusion, ``sigma(t) = min (max / min)^t``."""


class RestoreError(ValueError):
    """The restoration cannot be done as asked; the message names the value and the fix."""


def deepinv() -> Any:
    """The package, imported when it is first needed.

    Raises:
        ImportError: it is not installed; the message says how.
    """
    import numeric.torchvision_fix  # noqa: F401  (before deepinv, which imports torchvision)

    try:
        import deepinv as found
    except ImportError as error:
        raise ImportError(f"restoration needs deepinv: pip install 'wavelet-score[restore]' ({error})") from error
    return found


def check_task(task: str) -> str:
    """The name of a task, or an error that lists them."""
    if task not in TASKS:
        raise RestoreError(f"unknown task {task!r}: use any of {', '.join(TASKS)}")
    return task


def make_physics(task: str, shape: tuple[int, int, int], noise: float, seed: int = 0) -> Any:
    """deepinv's operator of a task for images of ``(channels, height, width)``, with Gaussian noise of a standard deviation."""
    physics = deepinv().physics
    check_task(task)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(1, *shape[1:], generator=generator) < KEPT_PIXELS if task == "inpainting" else None
    model = physics.GaussianNoise(noise, rng=generator)  # after the mask in one stream: of equal seeds, the noise would follow from the mask
    if mask is not None:
        return physics.Inpainting(img_size=shape, mask=mask.float().expand(shape), noise_model=model)
    if task == "deblurring":
        return physics.BlurFFT(img_size=shape, filter=physics.blur.gaussian_blur(sigma=(BLUR_SIGMA, BLUR_SIGMA)), noise_model=model)
    return physics.Downsampling(img_size=shape, filter="bicubic", factor=FACTOR, noise_model=model)


class Threshold(nn.Module):
    """deepinv's denoisers that take a threshold in place of a noise level (total variation, wavelets): ``threshold = factor sigma``."""

    def __init__(self, denoiser: nn.Module, factor: float) -> None:
        super().__init__()
        self.denoiser, self.factor = denoiser, factor

    def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
        return self.denoiser(x, self.factor * torch.as_tensor(sigma, dtype=x.dtype))


def splitting_levels(noise: float) -> Tensor:
    """The noise levels of :func:`splitting`, falling, ``(8,)``."""
    found: Tensor = deepinv().optim.dpir.get_DPIR_params(noise)[0]
    return found


def sampler_levels(noise: float, steps: int) -> Tensor:
    """The noise levels that deepinv's DiffPIR visits, falling, for pixels in [-1, 1], ``(steps,)``."""
    found = deepinv().sampling.DiffPIR(model=None, data_fidelity=None, sigma=noise, max_iter=steps)
    return found.sigmas[found.seq]


def splitting(model: nn.Module, y: Tensor, physics: Any, noise: float, steps: int, seed: int, weight: float = 1.0) -> Tensor:
    """Plug-and-play half-quadratic splitting with the schedule of DPIR: eight levels from 49/255 to the noise's."""
    with torch.no_grad():
        return deepinv().optim.DPIR(sigma=noise, denoiser=model)(y, physics)


def diffpir(model: nn.Module, y: Tensor, physics: Any, noise: float, steps: int, seed: int, weight: float = 7.0) -> Tensor:
    """DiffPIR; ``weight`` is its lambda."""
    inv = deepinv()
    sampler = inv.sampling.DiffPIR(model, inv.optim.data_fidelity.L2(), sigma=noise, max_iter=steps, lambda_=weight)
    with torch.random.fork_rng(devices=[y.device] if y.is_cuda else []):  # it draws from the global generator of y's device
        torch.default_generator.manual_seed(seed)
        if y.is_cuda:
            with torch.cuda.device(y.device):
                torch.cuda.manual_seed(seed)
        return sampler(y, physics)


def dps(model: nn.Module, y: Tensor, physics: Any, noise: float, steps: int, seed: int, weight: float = 1.0) -> Tensor:
    """Diffusion posterior sampling, variance exploding, by ancestral steps through the levels of DiffPIR and to 0 noise.

    ``weight`` multiplies the guidance ``grad |y - A D(x)|^2 / (2 (noise^2 + sigma^2))`` (deepinv's ``"annealed"`` form).
    """
    sampling, (low, high) = deepinv().sampling, VE_SIGMA
    times = (sampler_levels(noise, steps).double() / low).log() / math.log(high / low)
    solver = sampling.DDPMSolver(timesteps=torch.cat([times, times.new_zeros(1)]), rng=torch.Generator().manual_seed(seed))
    sampler = sampling.DPS(model, schedule="ve", solver=solver, weight=weight, guidance="annealed")
    return sampler(y, physics, denoise_output=False).to(y.dtype).detach()


Algorithm = Callable[..., Tensor]
ALGORITHMS: dict[str, Algorithm] = {"PnP-HQS": splitting, "DiffPIR": diffpir, "DPS": dps}
WEIGHTS: dict[str, tuple[float, ...]] = {"PnP-HQS": (1.0,), "DiffPIR": (2.0, 7.0, 20.0), "DPS": (3.0, 10.0, 30.0)}
"""Weights of the data among which training images choose."""


def restored(algorithm: str, model: nn.Module, y: Tensor, physics: Any, noise: float, steps: int, seed: int, weight: float) -> Tensor:
    """Images restored from measurements, clamped to [0, 1]; an image that ran to infinity is black."""
    out = ALGORITHMS[algorithm](model, y, physics, noise, steps, seed, weight).detach()
    finite = torch.isfinite(out).flatten(1).all(1).reshape(-1, 1, 1, 1)
    return torch.where(finite, out, torch.zeros_like(out)).clamp(0.0, 1.0)


def quality(images: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """PSNR (dB) and SSIM of every restored image, ``(n,)`` each, by deepinv's metrics."""
    metric = deepinv().metric
    return {"psnr": metric.PSNR()(images, clean), "ssim": metric.SSIM()(images, clean)}
