"""Divergence in closed form against automatic differentiation, and log likelihood where the density is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.divergence import exact_trace, probed_trace, signs
from numeric.evaluation.likelihood import Flow, LikelihoodError, bits_per_dimension, log_likelihood, noised
from numeric.noise import ve, vp
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore
from numeric.scores.wiener_own import WienerOwnScore


def pictures(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return (0.5 + 0.3 * x + 0.2 * x.mean(1, keepdim=True) ** 3).clamp(0, 1)


@pytest.mark.parametrize(
    ("family", "degree", "shape", "options"),
    [
        ("independent", 3, (1, 8, 8), {}),
        ("independent", 2, (2, 8, 8), {"channels_coupled": True}),
        ("band", 3, (1, 8, 8), {"basis": "hermite"}),
        ("local", 2, (2, 8, 8), {"ridge_side": "score", "ridge": 1e-6}),
        ("joint", 2, (1, 8, 8), {"interactions": "pairwise"}),
        ("band", 2, (1, 7, 6), {}),
        ("local", 2, (1, 8, 8), {"mode": "symmetric"}),
        ("band", 2, (1, 8, 8), {"mode": "symmetric", "levels": 2, "synthesis": "per-level"}),
        ("local", 2, (2, 8, 8), {"wavelet": "bior2.2"}),
    ],
)
@pytest.mark.parametrize("readout", [WaveletScore, SharedWaveletScore])
def test_divergence_in_closed_form_is_the_trace_of_the_jacobian(readout, family, degree, shape, options):
    """div score = (alpha tr dD/dy - N) / sigma^2 against one backward pass a pixel."""
    if readout is SharedWaveletScore and shape == (2, 8, 8) and options.get("wavelet"):
        pytest.skip("correlated noise of two channels takes long")
    x = pictures(40, shape)
    model = readout(family, degree, **{"levels": 1, "ridge": 1e-6, **options}).fit(x)
    level = vp(0.7)
    y = level.alpha * x[:3] + level.sigma * torch.randn(
        3, *shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype
    )
    trace = exact_trace(lambda part: model.estimate(part, level), y)
    want = (level.alpha * trace - y[0].numel()) / level.sigma**2
    assert torch.allclose(model.divergence(y, level), want, rtol=1e-9, atol=1e-8)
    each = model.divergence(y, [level, 0.4, level])  # a level an image
    assert torch.allclose(each[[0, 2]], want[[0, 2]]) and not torch.allclose(each[1], want[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coordinates": "pixel", "pixel_family": "local", "of": "noisy"},
        {"family": "band", "coordinates": "wavelet"},
    ],
)
@pytest.mark.parametrize("degree", [1, 3])
def test_divergence_of_the_wiener_readout(options, degree):
    """The same for features of the Wiener estimate."""
    x = pictures(40, (1, 6, 6))
    model = WienerScore(degree=degree, levels=1, ridge=1e-3, **options).fit(x)
    level = vp(0.7)
    y = level.alpha * x[:3] + level.sigma * torch.randn(
        3, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=x.dtype
    )
    trace = exact_trace(lambda part: model.estimate(part, level), y)
    assert torch.allclose(model.jacobian_trace(y, level), trace, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 6, 6), {"family": "band"}),
        ((1, 6, 6), {"coordinates": "pixel", "of": "noisy"}),
        ((2, 4, 4), {"family": "local", "channels_coupled": True}),
    ],
)
@pytest.mark.parametrize("degree", [1, 3])
def test_divergence_of_the_own_wiener_readout(shape, options, degree):
    """Each target reads all that is linear and its own monomials of the Wiener estimate; a fit to degree 3 is asked for less too."""
    x = pictures(40, shape)
    model = WienerOwnScore(degree=3, levels=1, ridge=1e-3, **options).fit(x).set_params(degree=degree)
    level = vp(0.7)
    y = level.alpha * x[:3] + level.sigma * torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    trace = exact_trace(lambda part: model.estimate(part, level), y)
    assert torch.allclose(model.jacobian_trace(y, level), trace, rtol=1e-9, atol=1e-9)
    assert torch.allclose(model.divergence(y, level), (level.alpha * trace - y[0].numel()) / level.sigma**2, rtol=1e-9)


def test_lower_degrees_have_their_own_divergence():
    """A model fitted to degree 3 and asked for less."""
    x = pictures(40, (1, 8, 8))
    for readout in (WaveletScore, SharedWaveletScore):
        model = readout("local", 3, levels=1, ridge=1e-6).fit(x).set_params(degree=1)
        trace = exact_trace(lambda part, model=model: model.estimate(part, ve(0.5)), x[:2])
        assert torch.allclose(model.divergence(x[:2], 0.5), (trace - 64) / 0.25, rtol=1e-9)


def test_probes_are_unbiased():
    """Hutchinson's estimate within five standard errors of the exact trace; exact for a diagonal Jacobian."""
    x = pictures(40, (1, 8, 8))
    model = SharedWaveletScore("independent", 3, levels=1).fit(x)
    generator = torch.Generator().manual_seed(0)
    y = x[:2] + 0.5 * torch.randn(2, 1, 8, 8, generator=generator, dtype=x.dtype)
    single = torch.stack(
        [probed_trace(lambda p: model.estimate(p, ve(0.5)), y, signs(1, y, generator)) for _ in range(300)]
    )
    exact = model.jacobian_trace(y, ve(0.5))
    assert ((single.mean(0) - exact).abs() < 5 * single.std(0) / math.sqrt(300)).all() and (single.std(0) > 0).all()
    assert torch.allclose(
        probed_trace(lambda p: 3 * p, y, signs(1, y, generator)), torch.full((2,), 192.0, dtype=x.dtype)
    )
    assert torch.equal(model.divergence(y, 0.5, probes=2), model.divergence(y, 0.5, probes=2))


def gaussian(count: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    pixels = math.prod(shape)
    mixing = np.random.default_rng(3).standard_normal((pixels, pixels)) / math.sqrt(pixels) * 0.4
    e = torch.randn(count, pixels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.5 + e @ torch.from_numpy(mixing)).reshape(count, *shape)


def known(train: torch.Tensor, y: torch.Tensor, sigma: float) -> np.ndarray:
    flat = train.flatten(1).numpy()
    covariance = np.cov(flat.T, bias=True) + sigma**2 * np.eye(flat.shape[1])
    return multivariate_normal(flat.mean(0), covariance).logpdf(y.flatten(1).numpy())


@pytest.mark.parametrize("count", [300, 20])  # of full rank, and of fewer images than pixels
def test_linear_likelihood_is_the_gaussian_density(count):
    """The flow of Gaussian data, from any sigma_max, and the density itself, against SciPy."""
    train = gaussian(count, (2, 4, 4), 0)
    y = noised(gaussian(3, (2, 4, 4), 1), 0.2, torch.Generator().manual_seed(0))
    model = LinearDenoiser().fit(train)
    want = known(train, y, 0.2)
    assert np.allclose(model.log_density(y, ve(0.2)).numpy(), want, rtol=1e-9)
    errors = [np.abs(log_likelihood(model, y, Flow(0.2, 20.0, steps)).numpy() - want).max() for steps in (20, 40)]
    assert errors[1] < 1e-3 and errors[0] > 10 * errors[1]  # of order 4
    assert np.allclose(log_likelihood(model, y, Flow(0.2, 2.0, 40)).numpy(), want, atol=1e-3)


def test_shared_readout_of_degree_1_has_the_gaussian_density():
    """Closed-form divergence through the ODE; from the denoiser's own Gaussian at sigma_max, and from the exact one."""
    train = gaussian(300, (1, 4, 4), 0)
    y = noised(gaussian(3, (1, 4, 4), 1), 0.2, torch.Generator().manual_seed(0))
    model = SharedWaveletScore("independent", 1, levels=1, ridge=1e-12).fit(train)
    want = known(train, y, 0.2)
    exact = log_likelihood(model, y, Flow(0.2, 20.0, 24), prior=LinearDenoiser().fit(train))
    assert np.allclose(exact.numpy(), want, atol=5e-3)
    own = log_likelihood(model, y, Flow(0.2, 20.0, 24))
    assert np.allclose(own.numpy(), want, atol=3e-2) and not np.allclose(own.numpy(), exact.numpy(), atol=1e-12)
    probed = log_likelihood(model, y, Flow(0.2, 20.0, 10, probes=16), prior=LinearDenoiser().fit(train))
    assert np.abs(probed.numpy() - want).max() < 3.0  # nats; the probes' own error


def test_own_readout_has_the_density_of_a_known_mixture():
    """Independent coefficients, each a mixture of two Gaussians: the flow of degree 7 comes to its density, degree 1 does not.

    Degree 3 denoises better than degree 1 and has the worse likelihood here: least squares at each level do not add up to it.
    """
    generator = torch.Generator().manual_seed(0)
    n = 50_000
    side = (torch.rand(n, 4, generator=generator, dtype=torch.float64) < 0.5).double() * 2 - 1
    w = 0.5 * side + 0.25 * torch.randn(n, 4, generator=generator, dtype=torch.float64)
    model = WaveletScore("independent", 1, wavelet="haar", levels=1)
    transform = model.new_transform((1, 2, 2))
    x = transform.inverse(w[:, None])
    sigma, test = 0.3, 400
    y = noised(x[-test:], sigma, generator)
    v = transform.forward(y)[:, 0]
    spread = math.hypot(0.25, sigma)
    parts = [torch.distributions.Normal(m, spread).log_prob(v) for m in (-0.5, 0.5)]
    truth = (torch.logaddexp(*parts) - math.log(2)).sum(1)
    gaps = []
    for degree in (1, 7):
        fitted = WaveletScore("independent", degree, wavelet="haar", levels=1, basis="hermite").fit(x[:-test])
        density = log_likelihood(fitted, y, Flow(sigma, 20.0, 24))
        gaps.append(float((truth - density).mean()))
    assert gaps[0] > 0.05 and abs(gaps[1]) < 0.03, gaps  # nats an image, the Kullback-Leibler divergence


def test_flow_of_the_empirical_denoiser_has_the_kernel_density():
    """The optimal denoiser's density is known, and its score is not linear: automatic differentiation, then the ODE."""
    x, generator = gaussian(6, (1, 2, 3), 0), torch.Generator().manual_seed(0)
    model = OptimalDenoiser().fit(x)
    y = noised(x[:3], 0.3, generator)
    normal = [multivariate_normal(m.flatten().numpy(), 0.09 * np.eye(6)).pdf(y.flatten(1).numpy()) for m in x]
    assert np.allclose(model.log_density(y, ve(0.3)).numpy(), np.log(np.mean(normal, 0)), rtol=1e-9)
    flowed = log_likelihood(model, y, Flow(0.3, 20.0, 60), prior=LinearDenoiser().fit(x))
    assert np.abs(flowed.numpy() - np.log(np.mean(normal, 0))).max() < 5e-3


def test_mixture_flow_has_the_mixture_density():
    """Gaussian mixture with its own log density, against SciPy and through the ODE with its closed-form trace."""
    x = torch.cat([gaussian(60, (1, 2, 3), 0), 2 + gaussian(40, (1, 2, 3), 1)])
    labels = torch.tensor([0] * 60 + [1] * 40)
    model = GaussianMixtureDenoiser("class").fit(x, labels)
    y = noised(x[[0, 70, 99]], 0.3, torch.Generator().manual_seed(0))
    parts = [np.log(len(p) / 100) + known(p, y, 0.3) for p in (x[:60], x[60:])]
    want = np.logaddexp(*parts)
    assert np.allclose(model.log_density(y, ve(0.3)).numpy(), want, atol=1e-4)  # the components are kept in float32
    flowed = log_likelihood(model, y, Flow(0.3, 60.0, 60), prior=LinearDenoiser().fit(x))
    assert np.abs(flowed.numpy() - want).max() < 2e-2


def test_bits():
    """A uniform density over [0, 1] needs 8 bits a pixel of 256 levels."""
    assert torch.allclose(bits_per_dimension(torch.zeros(3), 64), torch.full((3,), 8.0))
    assert torch.allclose(bits_per_dimension(torch.full((1,), -64 * math.log(2.0)), 64, width=2.0), torch.tensor([8.0]))


def test_bad_input_is_named():
    x = pictures(10, (1, 8, 8))
    model = WaveletScore(levels=1, degree=1)
    with pytest.raises(RuntimeError, match="has seen no images"):
        model.divergence(x, 0.5)
    model.fit(x)
    for arguments, message in (((1.0, 0.5), "need 0 < sigma_min < sigma_max"), ((0.1, 1.0, 0), "steps must be >= 1")):
        with pytest.raises(ValueError, match=message):
            Flow(*arguments)
    with pytest.raises(ValueError, match="probes must be >= 1"):
        model.divergence(x, 0.5, probes=0)
    assert log_likelihood(model, x[:0], Flow(steps=2)).shape == (0,)
    for arguments in ({"pixels": 0}, {"pixels": 64, "levels": 0}, {"pixels": 64, "width": 0.0}):
        with pytest.raises(ValueError, match="pixels and levels must be >= 1 and width > 0"):
            bits_per_dimension(torch.zeros(1), **arguments)
    with pytest.raises(ValueError, match="fitted on 1 channel"):
        log_likelihood(model, torch.zeros(2, 3, 8, 8))

    class Wild(WaveletScore):
        def estimate(self, y, noise):
            return 1e200 * y**3

    with pytest.raises((LikelihoodError, ValueError), match="infinite"):
        log_likelihood(Wild(levels=1, degree=1).fit(x), x, Flow(steps=4))
