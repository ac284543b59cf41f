"""Denoisers handed to other programs: deepinv's contract and algorithms, k-diffusion's call."""

from __future__ import annotations

import itertools

import pytest
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.evaluation.adapters import PlugAndPlay
from numeric.noise import ve
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


def sample_heun(model, x, sigmas, extra_args=None):
    """k-diffusion's sampler of that name without churn (Karras et al. 2022, algorithm 2), as it calls its models."""
    extra_args, s_in = extra_args or {}, x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i] * s_in, **extra_args)) / sigmas[i]
        dt = sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] == 0:
            x = x + d * dt
        else:
            ahead = x + d * dt
            x = x + (d + (ahead - model(ahead, sigmas[i + 1] * s_in, **extra_args)) / sigmas[i + 1]) / 2 * dt
    return x


def euler_of_epsilon(model, x, sigmas):
    """The step of diffusers' EulerDiscreteScheduler, which is given the noise in place of the clean image."""
    for now, then in itertools.pairwise(sigmas):
        epsilon = (x - model(x, now)) / now
        clean = x - now * epsilon
        x = x + (x - clean) / now * (then - now)
    return x


@pytest.mark.parametrize(("sampler", "error"), [(sample_heun, 0.005), (euler_of_epsilon, 0.03)])
def test_foreign_samplers_end_where_the_flow_of_gaussian_data_does(sampler, error):
    """In [-1, 1], from sigma 80 down to 0: the known end is ``mu + C^1/2 e``, up to what the steps leave."""
    denoiser = LinearDenoiser().fit(TRAIN)
    model = PlugAndPlay(denoiser, width=0.5, shift=0.5, sigma_data=0.5, digits=6)
    ramp = torch.linspace(0, 1, 200, dtype=torch.float64)
    sigmas = torch.cat([(80.0 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7, ramp.new_zeros(1)])
    e = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        found = sampler(model, sigmas[0] * e, sigmas)
    known = 2 * denoiser.gaussian_state(e, ve(1e-6)) - 1
    assert float((found - known).abs().max()) < error < 0.1 * float(known.std())


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


def test_the_noise_of_inpainting_does_not_follow_from_its_mask():
    """Kept pixels of standard normal noise: mean 0 and variance 1 within five standard errors, for every seed."""
    pytest.importorskip("deepinv")
    from numeric.evaluation.restore import make_physics

    for seed in (0, 3, 7):
        physics = make_physics("inpainting", (1, 32, 32), 1.0, seed)
        kept = physics(torch.zeros(1, 1, 32, 32))[physics.mask.expand(1, 1, 32, 32) > 0]
        assert abs(float(kept.mean())) < 5 / len(kept) ** 0.5
        assert abs(float(kept.var()) - 1) < 5 * (2 / len(kept)) ** 0.5
        again = make_physics("inpainting", (1, 32, 32), 1.0, seed)
        assert torch.equal(again(torch.zeros(1, 1, 32, 32))[again.mask.expand(1, 1, 32, 32) > 0], kept)
