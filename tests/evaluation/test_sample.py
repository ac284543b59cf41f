"""Sampling: orders, laws and starts against Gaussian data, where the flow is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.denoiser import Denoiser
from numeric.evaluation.sample import NoiseStream, Sampler, SamplingError, compare, ddpm_sigmas, edm_sigmas, level
from numeric.noise import ddpm_alpha_bars, ve
from numeric.scores.own import WaveletScore

SHAPE = (1, 2, 2)


@pytest.fixture
def gaussian() -> LinearDenoiser:
    """The exact denoiser of N(mean, C) on 2 x 2 pixels, eigenvalues 0.05 to 1."""
    draw = torch.Generator().manual_seed(1)
    denoiser = LinearDenoiser()
    denoiser.eigenvalues_ = torch.tensor([0.05, 0.2, 0.5, 1.0], dtype=torch.float64)
    denoiser.eigenvectors_ = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))[0]
    denoiser.mean_ = torch.tensor([0.5, -0.2, 0.1, 0.3], dtype=torch.float64)
    return denoiser


def exact_flow(gaussian: LinearDenoiser, start: torch.Tensor, high: float, low: float) -> torch.Tensor:
    """VE probability flow of Gaussian data: every eigencoordinate shrinks by sqrt((l + low^2) / (l + high^2))."""
    centred = (start.flatten(1) - gaussian.mean_) @ gaussian.eigenvectors_
    gain = ((gaussian.eigenvalues_ + low**2) / (gaussian.eigenvalues_ + high**2)).sqrt()
    return ((centred * gain) @ gaussian.eigenvectors_.T + gaussian.mean_).reshape(start.shape)


def coordinates(gaussian: LinearDenoiser, samples: torch.Tensor) -> torch.Tensor:
    return (samples.flatten(1) - gaussian.mean_) @ gaussian.eigenvectors_


@pytest.mark.parametrize("process", ["ve", "vp"])
def test_heun_converges_to_the_exact_flow_with_order_two(gaussian, process):
    """Halving the step divides the error by four (between 3.4 and 4.6), down to 2e-4 of the exact flow."""
    errors = []
    for steps in (40, 80, 160, 320):
        sampler = Sampler(
            edm_sigmas(steps, 0.05, 10), "ode", process, denoise_last=False, dtype=torch.float64, start_from="noise"
        )
        start = sampler.start(NoiseStream.from_seeds(range(20)), SHAPE)
        end = sampler.run(gaussian, NoiseStream.from_seeds(range(20)), SHAPE, progress=False)
        exact = exact_flow(gaussian, start / level(process, 10).alpha, 10, 0.05) * level(process, 0.05).alpha
        errors.append(float((end - exact).abs().max()))
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(3.4 < r < 4.6 for r in ratios), ratios
    assert errors[-1] < 2e-4


def test_vp_and_ve_are_one_flow(gaussian):
    """Equations (1), (2): from the same noise VP and VE give the same images up to the discretisation, which is O(h^2)."""

    def gap(steps: int) -> float:
        runs = [
            Sampler(edm_sigmas(steps, 0.02, 20), process=p, dtype=torch.float64).run(
                gaussian, NoiseStream.from_seeds(range(10)), SHAPE, progress=False
            )
            for p in ("ve", "vp")
        ]
        return float((runs[0] - runs[1]).abs().max())

    coarse, fine = gap(50), gap(200)
    assert fine < 1e-3 and 10 < coarse / fine < 22  # 16 for order two


def euler_maruyama(gaussian: LinearDenoiser, sigmas: list[float], process: str) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and variance of each eigencoordinate of the discretised reverse SDE, by its linear recursion."""
    eigenvalues = gaussian.eigenvalues_.numpy()
    target = (gaussian.mean_ @ gaussian.eigenvectors_).numpy()
    mean, variance = np.zeros(4), np.full(4, level(process, sigmas[0]).sigma ** 2)
    for high, low in itertools.pairwise(sigmas):
        alpha, s2 = level(process, high).alpha, level(process, high).sigma ** 2
        dt, drift = high**2 - low**2, 0.0
        if process == "vp":
            dt, drift = math.log1p(high**2) - math.log1p(low**2), 0.5
        precision = 1 / (alpha**2 * eigenvalues + s2)
        factor = 1 + dt * (drift - precision)
        mean, variance = factor * mean + dt * precision * alpha * target, factor**2 * variance + dt
    return mean, variance


@pytest.mark.parametrize("process", ["ve", "vp"])
def test_reverse_sde_on_gaussian_data(gaussian, process):
    """Sample mean and covariance within 4.5 standard errors of the exact ones of the discretised SDE; that bias is O(h)."""
    n, sigmas = 20_000, edm_sigmas(60, 0.05, 10)
    sampler = Sampler(sigmas, "sde", process, denoise_last=False, dtype=torch.float64, start_from="noise")
    generator = torch.Generator().manual_seed(5)
    y = sampler.run(gaussian, NoiseStream.from_generator(n, generator), SHAPE, progress=False)
    alpha = level(process, 0.05).alpha
    u = y.flatten(1) @ gaussian.eigenvectors_
    mean, expected = euler_maruyama(gaussian, sigmas, process)
    assert (np.abs(u.mean(0).numpy() - mean) < 4.5 * np.sqrt(expected / n)).all()
    covariance = np.cov(u.numpy().T)
    error = np.sqrt((np.outer(expected, expected) + np.diag(expected**2)) / n)  # normal samples
    assert (np.abs(covariance - np.diag(expected)) < 4.5 * error).all()
    target = (alpha**2 * gaussian.eigenvalues_ + level(process, 0.05).sigma ** 2).numpy()
    gaps = [
        np.abs(euler_maruyama(gaussian, edm_sigmas(k, 0.05, 10), process)[1] / target - 1).max()
        for k in (200, 400, 800)
    ]
    assert gaps[2] < 0.06 and all(1.6 < a / b < 2.4 for a, b in itertools.pairwise(gaps)), gaps  # weak order one


@pytest.mark.parametrize("method", ["ode", "sde"])
def test_samples_have_the_data_mean_and_covariance(gaussian, method):
    """End to end: 10,000 samples against N(mean, C), within 4.5 standard errors and 4% for what steps remain."""
    n = 10_000
    sampler = Sampler(edm_sigmas(250, 0.02, 40), method, dtype=torch.float64, denoise_last=False)
    x = sampler.run(
        gaussian, NoiseStream.from_generator(n, torch.Generator().manual_seed(2)), SHAPE, progress=False
    ).flatten(1)
    u = coordinates(gaussian, x.reshape(n, *SHAPE))
    target = gaussian.eigenvalues_ + 0.02**2
    assert (u.mean(0).abs() < 4.5 * (target / n).sqrt() + 0.02).all()
    assert ((u.var(0) / target - 1).abs() < 4.5 * math.sqrt(2 / n) + 0.04).all()


class Plain(Denoiser):
    """The same denoiser, without the linear one's knowledge of its mean and covariance."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model

    def estimate(self, y, noise):
        return self.model.estimate(y, noise)


class Silent(NoiseStream):
    """Noise that is zero: the run's mean, for a linear denoiser."""

    def draw(self, shape, dtype, device):
        return torch.zeros(len(self), *shape, dtype=dtype)


@pytest.mark.parametrize("process", ["ve", "vp"])
def test_the_start_keeps_the_mean_of_the_data(gaussian, process):
    """From ``s e`` alone the ODE loses ``sqrt((l + low^2) / (l + high^2))`` of a direction's mean; from the default start nothing.

    Without the linear denoiser's knowledge the start errs by a term in ``(l / s^2)^2``.
    """
    high, low = 4.0, 0.02
    mean = gaussian.mean_ @ gaussian.eigenvectors_

    def kept(model: Denoiser, steps: int = 200, **more) -> torch.Tensor:
        sampler = Sampler(edm_sigmas(steps, low, high), process=process, dtype=torch.float64, denoise_last=False, **more)
        y = sampler.run(model, Silent.from_seeds([0]), SHAPE, progress=False) / level(process, low).alpha
        return (y.flatten(1) @ gaussian.eigenvectors_)[0]

    lost = mean * (1 - ((gaussian.eigenvalues_ + low**2) / (gaussian.eigenvalues_ + high**2)).sqrt())
    assert torch.allclose(kept(gaussian, start_from="noise"), lost, atol=1e-3)
    assert torch.allclose(kept(Plain(gaussian)), mean, atol=0.01) and float((lost - mean).abs().max()) > 0.05
    for model, more in ((gaussian, {}), (Plain(gaussian), {"gaussian": gaussian})):
        error, finer = (float((kept(model, steps, **more) - mean).abs().max()) for steps in (200, 400))
        # The mean's path is straight in VE, which Heun follows exactly; in VP it errs by its second order in the step.
        assert error < 1e-10 if process == "ve" else (error < 1e-5 and 0.2 < finer / error < 0.3)


@pytest.mark.parametrize("sigma", [0.7, 20.0])
def test_the_gaussian_state_is_the_flow_from_infinite_noise(gaussian, sigma):
    """At any sigma it has the law ``N(mu, C + s^2)`` and lies on the flow of the state at a far larger sigma."""
    noise = NoiseStream.from_seeds(range(20))
    e = noise.draw(SHAPE, torch.float64, "cpu")
    far = exact_flow(gaussian, gaussian.gaussian_state(e, ve(1e6)), 1e6, sigma)
    assert torch.allclose(gaussian.gaussian_state(e, ve(sigma)), far, atol=1e-8 * 1e6)
    plain = Sampler([sigma, 0.1], dtype=torch.float64).start(NoiseStream.from_seeds(range(20)), SHAPE, Plain(gaussian))
    if sigma == 20.0:  # 3 l^2 / (8 s^4) of s e, and (l / s^2)^3 of the mean
        assert torch.allclose(plain, gaussian.gaussian_state(e, ve(sigma)), atol=1e-4)
        assert not torch.allclose(plain, sigma * e, atol=0.1)


def test_gaussian_start_at_a_low_sigma_gives_the_data(gaussian):
    """One step below the start, the whole law is there: covariance of the state within 4.5 standard errors."""
    n = 20_000
    noise = NoiseStream.from_generator(n, torch.Generator().manual_seed(4))
    y = Sampler([0.5, 0.1], dtype=torch.float64, gaussian=gaussian).start(noise, SHAPE)
    u, target = coordinates(gaussian, y), gaussian.eigenvalues_ + 0.25
    assert (u.mean(0).abs() < 4.5 * (target / n).sqrt()).all()
    assert ((u.var(0) / target - 1).abs() < 4.5 * math.sqrt(2 / n)).all()


def test_ddim_is_the_exact_flow_to_first_order_and_the_same_in_ve_and_vp(gaussian):
    """Equation (12) of Song, Meng and Ermon: halving the step halves the error; the process changes nothing."""
    errors = []
    for steps in (50, 100, 200):
        ends = []
        for process in ("ve", "vp"):
            sampler = Sampler(edm_sigmas(steps, 0.05, 10), "ddim", process, denoise_last=False, dtype=torch.float64)
            ends.append(sampler.run(gaussian, NoiseStream.from_seeds(range(5)), SHAPE, progress=False))
        ends[1] /= level("vp", 0.05).alpha
        assert torch.allclose(ends[0], ends[1], atol=1e-10)
        start = sampler.start(NoiseStream.from_seeds(range(5)), SHAPE, gaussian) / level("vp", 10).alpha
        errors.append(float((ends[0] - exact_flow(gaussian, start, 10, 0.05)).abs().max()))
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(errors)), errors


def test_ddpm_step_has_the_posterior_variance(gaussian):
    """``eta = 1``: one DDIM step's noise is DDPM's ``(1 - abar') / (1 - abar) (1 - abar / abar')`` (Ho et al., 2020, (7))."""
    high, low, n = 2.0, 1.0, 20_000
    sampler = Sampler([high, low], "ddim", "vp", eta=1.0, dtype=torch.float64)
    y, z = torch.zeros(n, *SHAPE, dtype=torch.float64), NoiseStream.from_generator(n, torch.Generator().manual_seed(1))
    out = sampler._ddim_step(y, y, high, low, lambda: z.draw(SHAPE, torch.float64, "cpu"))
    bar, bar_below = level("vp", high).alpha ** 2, level("vp", low).alpha ** 2
    target = (1 - bar_below) / (1 - bar) * (1 - bar / bar_below)
    assert float(out.var()) == pytest.approx(target, rel=4.5 * math.sqrt(2 / (4 * n)))
    bars = ddpm_alpha_bars()
    sigmas = ddpm_sigmas(50)
    assert len(sigmas) == 50 and sigmas[-1] == pytest.approx(math.sqrt(1 / bars[0] - 1))
    assert sigmas[0] == pytest.approx(math.sqrt(1 / bars[-1] - 1))


@pytest.mark.parametrize("process", ["ve", "vp"])
def test_churn_keeps_the_law(gaussian, process):
    """Karras et al., Algorithm 2: noise added and taken away leaves ``N(mu, C)``: 10,000 samples, 4.5 standard errors and 4 %."""
    n = 10_000
    sampler = Sampler(edm_sigmas(100, 0.02, 20), process=process, churn=30.0, dtype=torch.float64, denoise_last=False)
    x = sampler.run(gaussian, NoiseStream.from_generator(n, torch.Generator().manual_seed(2)), SHAPE, progress=False)
    u, target = coordinates(gaussian, x / level(process, 0.02).alpha), gaussian.eigenvalues_ + 0.02**2
    assert (u.mean(0).abs() < 4.5 * (target / n).sqrt() + 0.01).all()
    assert ((u.var(0) / target - 1).abs() < 4.5 * math.sqrt(2 / n) + 0.04).all()
    plain = Sampler(edm_sigmas(100, 0.02, 20), process=process, dtype=torch.float64, denoise_last=False)
    same = plain.run(gaussian, NoiseStream.from_generator(n, torch.Generator().manual_seed(2)), SHAPE, progress=False)
    assert not torch.allclose(x, same, atol=0.1)


@pytest.mark.parametrize("method", ["ode", "sde", "ddim"])
def test_intermediates(gaussian, method):
    """States and denoised images of every level, of the very run that :meth:`run` does."""
    sampler = Sampler(edm_sigmas(7), method, dtype=torch.float64)
    path = sampler.trajectory(gaussian, NoiseStream.from_seeds([0, 1]), SHAPE, progress=False)
    end = sampler.run(gaussian, NoiseStream.from_seeds([0, 1]), SHAPE, progress=False)
    assert torch.equal(path.samples, end) and torch.equal(path.denoised[-1], end)
    assert path.states.shape == path.denoised.shape == (8, 2, *SHAPE) and path.sigmas == tuple(edm_sigmas(7))
    for sigma, y, x in zip(path.sigmas, path.states, path.denoised):
        assert torch.allclose(x, gaussian.estimate(y, ve(sigma)))


def test_the_noise_of_a_seed_does_not_depend_on_the_type(gaussian):
    draws = [NoiseStream.from_seeds([5]).draw((1, 8, 8), d, "cpu") for d in (torch.float64, torch.float32, torch.bfloat16)]
    assert torch.equal(draws[0].float(), draws[1]) and torch.equal(draws[1].bfloat16(), draws[2])
    runs = [
        Sampler(edm_sigmas(10), dtype=d).run(gaussian, NoiseStream.from_seeds([5]), SHAPE, progress=False)
        for d in (torch.float64, torch.float32, torch.bfloat16)
    ]
    assert [r.dtype for r in runs] == [torch.float64, torch.float32, torch.bfloat16]
    assert torch.allclose(runs[0].float(), runs[1], atol=1e-4) and torch.equal(runs[1].bfloat16(), runs[2])


def test_clipping_is_to_the_range_of_the_pixels(gaussian):
    """Images in [-1, 1]: a clipped sample may be negative (issue: it was clamped to [0, 1])."""
    x = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = LinearDenoiser().fit(x)
    out = Sampler(edm_sigmas(10), clip_denoised=True).run(model, NoiseStream.from_seeds(range(9)), (1, 4, 4), progress=False)
    assert -1 <= float(out.min()) < -0.3 and 0.3 < float(out.max()) <= 1


def test_same_seed_same_samples_whatever_the_batch(gaussian):
    sampler = Sampler(edm_sigmas(10), "sde")
    all_ = sampler.run(gaussian, NoiseStream.from_seeds([3, 4, 5]), SHAPE, progress=False)
    again = sampler.run(gaussian, NoiseStream.from_seeds([3, 4, 5]), SHAPE, progress=False)
    alone = sampler.run(gaussian, NoiseStream.from_seeds([5]), SHAPE, progress=False)
    assert torch.equal(all_, again)
    assert torch.allclose(all_[2:], alone, atol=1e-6)
    assert not torch.allclose(all_[0], all_[1], atol=1e-3)


def test_denoisers_are_compared_on_the_same_noise(mnist16):
    """At degree 1 on one pixel-wise-independent level the same noise gives the same start; one denoiser twice, the same end."""
    images = mnist16.take(300)
    model = WaveletScore("independent", 1).fit(images)
    linear = LinearDenoiser().fit(images)
    out = compare({"a": model, "b": linear, "c": model}, [0, 1], images.shape, Sampler(edm_sigmas(8)), progress=False)
    assert torch.equal(out["a"], out["c"]) and out["a"].shape == (2, 1, 16, 16)
    assert not torch.allclose(out["a"], out["b"], atol=1e-2)


class Exploding(Denoiser):
    label = "exploding"

    def estimate(self, y, noise):
        return 1e30 * y**3


def test_a_state_that_blows_up_is_named_and_clipping_helps():
    with pytest.raises(SamplingError, match=r"exploding: the state became infinite at sigma=7.8.*clip_denoised"):
        Sampler(edm_sigmas(5)).run(Exploding(), NoiseStream.from_seeds([0]), SHAPE, progress=False)
    clipped = Sampler(edm_sigmas(5), clip_denoised=True)
    assert torch.isfinite(clipped.run(Exploding(), NoiseStream.from_seeds([0]), SHAPE, progress=False)).all()


class Overflowing(Denoiser):
    """A high power of a large state: beyond the largest number."""

    label = "overflowing"

    def estimate(self, y, noise):
        return 1e30 * y**31


def test_a_prediction_that_blows_up_inside_a_step_is_named():
    """The denoiser must not be the one that complains of an image with infinities."""
    with pytest.raises(SamplingError, match=r"overflowing: the state became infinite at sigma=.*clip_denoised"):
        Sampler([3.0, 0.1]).run(Overflowing(), NoiseStream.from_seeds([0]), SHAPE, progress=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: edm_sigmas(0), "steps must be >= 1, got 0"),
        (lambda: edm_sigmas(5, 2.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: edm_sigmas(5, rho=0), "rho must be > 0"),
        (lambda: Sampler([1.0]), "at least two noise levels"),
        (lambda: Sampler([0.1, 1.0]), "must decrease"),
        (lambda: Sampler([1.0, 0.0]), "finite and > 0"),
        (lambda: Sampler([1.0, 0.1], start_from="data"), "unknown start_from 'data'"),
        (lambda: Sampler([1.0, 0.1], gaussian=3), "gaussian must be a fitted LinearDenoiser, got int"),
        (lambda: Sampler([1.0, 0.1], eta=0.5), "eta must be in .* belongs to method='ddim'"),
        (lambda: Sampler([1.0, 0.1], "sde", churn=5), "churn must be >= 0 and belongs to method='ode'"),
        (lambda: ddpm_sigmas(1), "between 2 and train_steps=1000, got 1"),
        (lambda: Sampler([1.0, 0.1], "euler"), "unknown method 'euler'"),
        (lambda: Sampler([1.0, 0.1], process="x"), "unknown process 'x'"),
        (lambda: NoiseStream.from_seeds([]), "no seeds"),
        (lambda: NoiseStream.from_generator(0, torch.Generator()), "number of samples must be >= 1"),
        (lambda: Sampler([1.0, 0.1]).start(NoiseStream.from_seeds([0]), (2, 2)), "channels, height, width"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(SamplingError, match=message):
        make()
