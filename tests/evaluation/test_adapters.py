"""Denoisers handed to other programs: deepinv's contract and algorithms, k-diffusion's call."""

from __future__ import annotations

import pytest
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.evaluation.adapters import PlugAndPlay
from numeric.scores.own import WaveletScore

TRAIN = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float().cumsum(3) / 8


@pytest.mark.parametrize("make", [LinearDenoiser, lambda: WaveletScore("independent", 2, levels=1)])
def test_forward_is_the_denoiser_whatever_the_form_of_sigma(make):
    denoiser = make().fit(TRAIN)
    model, y = PlugAndPlay(denoiser), TRAIN[:3] + 0.2
    expected = denoiser.denoise(y, 0.3, clamp=False)
    for sigma in (0.3, torch.tensor(0.3), torch.full((3,), 0.3), torch.full((3, 1, 1, 1), 0.3), [0.3, 0.3, 0.3]):
        assert torch.allclose(model(y, sigma), expected, atol=1e-6)
    mixed = model(y, torch.tensor([0.1, 0.3, 0.5]))
    assert torch.allclose(mixed[1:2], expected[1:2], atol=1e-6) and not torch.allclose(mixed[:1], expected[:1], atol=1e-3)
    t = y.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x, 0.3), (t,), fast_mode=True)
    with pytest.raises(ValueError, match="sigma must be a finite number > 0"):
        model(y, 0.0)
    with pytest.raises(ValueError, match="width must be > 0"):
        PlugAndPlay(denoiser, width=0)


def test_other_pixel_values():
    """A sampler in [-1, 1] on a denoiser of [0, 1]: the same images, the noise twice as wide."""
    denoiser = LinearDenoiser().fit(TRAIN)
    y = TRAIN[:3] + 0.2
    ours = PlugAndPlay(denoiser, width=0.5, shift=0.5)(2 * y - 1, 0.6)
    assert torch.allclose(ours, 2 * denoiser.denoise(y, 0.3, clamp=False) - 1, atol=1e-5)


def test_deepinv_restores_with_it():
    """deepinv's half-quadratic splitting, inpainting with our Wiener denoiser: far below filling with the mean."""
    import numeric.torchvision_fix  # noqa: F401  (before deepinv)

    pytest.importorskip("deepinv")
    from deepinv.optim import HQS
    from deepinv.optim.data_fidelity import L2
    from deepinv.optim.prior import PnP
    from deepinv.physics import GaussianNoise, Inpainting

    generator = torch.Generator().manual_seed(1)
    x, denoiser = TRAIN[40:44], LinearDenoiser().fit(TRAIN[:40])
    mask = (torch.rand(1, 8, 8, generator=generator) > 0.3).float()
    physics = Inpainting(img_size=(1, 8, 8), mask=mask, noise_model=GaussianNoise(0.01))
    y = physics(x)
    solver = HQS(data_fidelity=L2(), prior=PnP(denoiser=PlugAndPlay(denoiser)), stepsize=20.0, sigma_denoiser=0.05, max_iter=100)
    with torch.no_grad():
        restored = solver(y, physics)
    filled = y + (1 - mask) * denoiser.mean_.float().reshape(1, 1, 8, 8)
    hidden = (1 - mask).expand_as(x) > 0
    assert float((restored - x)[hidden].square().mean()) < 0.5 * float((filled - x)[hidden].square().mean())
