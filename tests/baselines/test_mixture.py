"""Gaussian mixture denoisers against their definition, other libraries and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.mixture import (
    Component,
    GaussianMixtureDenoiser,
    component_mean,
    log_joint,
    responsibilities,
)
from numeric.data import ImageSet
from numeric.evaluation.sweep import noise_like
from numeric.noise import NoiseLevel, ve, vp


def some(count: int = 3, pixels: int = 6, rest: float = 0.02) -> list[Component]:
    """Components of rank 4 in 6 pixels, of unlike weights."""
    rng = torch.Generator().manual_seed(0)
    out = []
    for k in range(count):
        vectors = torch.linalg.qr(torch.randn(pixels, 4, generator=rng, dtype=torch.float64))[0]
        mean = torch.randn(pixels, generator=rng, dtype=torch.float64)
        eigenvalues = torch.rand(4, generator=rng, dtype=torch.float64) + 0.1
        out.append(Component((k + 1) / (count * (count + 1) / 2), mean, vectors, eigenvalues, rest))
    return out


def covariance(c: Component) -> np.ndarray:
    v = c.vectors.numpy()
    return (v * (c.eigenvalues.numpy() - c.rest)) @ v.T + c.rest * np.eye(len(v))


@pytest.mark.parametrize("noise", [ve(0.05), ve(0.7), vp(0.4), NoiseLevel(2.0, 1.0)])
@pytest.mark.parametrize("rest", [0.0, 0.02])
def test_responsibilities_and_posterior_mean_against_scipy(noise, rest):
    """``log_joint`` is SciPy's log-density, the posterior mean the direct solve with the dense covariance."""
    components = some(rest=rest)
    y = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    joint = log_joint(y, noise, components).numpy()
    for k, c in enumerate(components):
        noisy = noise.alpha**2 * covariance(c) + noise.sigma**2 * np.eye(6)
        mean = noise.alpha * c.mean.numpy()
        expected = np.log(c.weight) + scipy.stats.multivariate_normal(mean, noisy).logpdf(y.numpy())
        assert np.allclose(joint[:, k], expected, rtol=1e-8)
        direct = c.mean.numpy() + noise.alpha * (y.numpy() - mean) @ np.linalg.solve(noisy, covariance(c))
        assert np.allclose(component_mean(y, noise, c).numpy(), direct, atol=1e-10)
    assert torch.allclose(responsibilities(y, noise, components).sum(1), torch.ones(5).double())


def test_score_is_the_gradient_of_the_log_density(generator):
    """Tweedie: ``score = grad log p`` of the noisy mixture, by autograd through ``logsumexp``."""
    x = torch.rand(60, 1, 3, 4, generator=generator)
    model = GaussianMixtureDenoiser(3).fit(x)
    y = (x[:4] + 0.3).double().requires_grad_()
    log_p = torch.logsumexp(log_joint(y.flatten(1), vp(0.6), model.components_), 1).sum()
    (gradient,) = torch.autograd.grad(log_p, y)
    assert torch.allclose(model.score(y, vp(0.6)), gradient, atol=1e-7)


def test_divergence_in_closed_form_is_autograds(generator):
    x = torch.rand(60, 1, 3, 4, generator=generator)
    for model in (GaussianMixtureDenoiser(3).fit(x), GaussianMixtureDenoiser(2, rank=4).fit(x)):
        y = (x[:4] + 0.3 * noise_like(x[:4], 1)).double()
        jacobian = torch.func.jacrev(lambda t, m=model: m.estimate(t[None], vp(0.6))[0].flatten())
        traces = torch.stack([jacobian(image).flatten(1).diagonal().sum() for image in y])
        assert torch.allclose(model.jacobian_trace(y, vp(0.6)), traces, atol=1e-6)
        joint = log_joint(y.flatten(1), vp(0.6), model.components_)
        assert torch.allclose(model.log_density(y, vp(0.6)), joint.logsumexp(1))


def test_one_component_is_the_linear_denoiser(generator):
    x = torch.rand(40, 2, 3, 4, generator=generator)
    y = (x[:5] + 0.2 * noise_like(x[:5], 0)).double()
    one = GaussianMixtureDenoiser(1).fit(x)
    assert torch.allclose(one.estimate(y, ve(0.2)), LinearDenoiser().fit(x).estimate(y, ve(0.2)), atol=1e-5)


def test_by_class_is_scikit_learns_mixture(mnist16):
    """Means and covariances of the classes; responsibilities of the noisy image from scikit-learn's own density."""
    images = mnist16.take(1500)
    model = GaussianMixtureDenoiser("class").fit(images)
    x = images[:].flatten(1).double().numpy()
    theirs = GaussianMixture(10, covariance_type="full", reg_covar=0.0)
    labels = images.labels.numpy()
    theirs.weights_ = np.bincount(labels) / len(labels)
    theirs.means_ = np.stack([x[labels == k].mean(0) for k in range(10)])
    noisy = np.stack([np.cov(x[labels == k].T, bias=True) + 0.25 * np.eye(256) for k in range(10)])
    theirs.covariances_, theirs.precisions_cholesky_ = noisy, np.linalg.cholesky(np.linalg.inv(noisy))
    y = images[:30].double() + 0.5 * noise_like(images[:30], 3)
    ours = model.responsibilities(y, 0.5)
    assert np.allclose(ours.numpy(), theirs.predict_proba(y.flatten(1).numpy()), atol=1e-4)
    assert float(ours.max()) > 0.9 and ours.shape == (30, 10)


def test_posterior_mean_is_optimal_on_its_own_data():
    """Monte Carlo: on draws from the mixture, ``E[(x - D(y)) g(y)] = 0`` for several g, within 4.5 standard errors."""
    rng, components = np.random.default_rng(0), some(rest=0.0)
    n, noise = 100_000, vp(0.5)
    k = rng.choice(3, n, p=[c.weight for c in components])
    x = np.empty((n, 6))
    for j, c in enumerate(components):
        m = int((k == j).sum())
        x[k == j] = c.mean.numpy() + (rng.normal(size=(m, 4)) * c.eigenvalues.sqrt().numpy()) @ c.vectors.numpy().T
    y = torch.from_numpy(noise.alpha * x + noise.sigma * rng.normal(size=x.shape))
    model = GaussianMixtureDenoiser(3)
    model.components_ = components
    residual = torch.from_numpy(x) - model.estimate(y.reshape(n, 1, 2, 3), noise).flatten(1)
    for g in (torch.ones_like(y), y, y**2, torch.tanh(y.roll(1, 1)), model.estimate(y.reshape(n, 1, 2, 3), noise).flatten(1)):
        product = residual * g
        z = product.mean(0) / (product.std(0) / n**0.5)
        assert float(z.abs().max()) < 4.5, z


def test_low_rank_keeps_the_trace_and_tends_to_full(mnist16):
    images = mnist16.take(800)
    full, low = GaussianMixtureDenoiser(4, seed=1).fit(images), GaussianMixtureDenoiser(4, rank=20, seed=1).fit(images)
    for a, b in zip(full.components_, low.components_):
        assert b.vectors.shape == (256, 20) and b.rest > 0
        assert float(a.eigenvalues.sum()) == pytest.approx(float(b.eigenvalues.sum()) + (256 - 20) * b.rest)
        assert torch.allclose(covariance_of(b).diagonal().sum(), covariance_of(a).diagonal().sum(), rtol=1e-4)
    nearly = GaussianMixtureDenoiser(4, rank=255, seed=1).fit(images)
    y = images[:20] + 0.3 * noise_like(images[:20], 0)
    assert torch.allclose(nearly.denoise(y, 0.3), full.denoise(y, 0.3), atol=1e-3)


def covariance_of(c: Component) -> torch.Tensor:
    v = c.vectors.double()
    return (v * (c.eigenvalues - c.rest)) @ v.T + c.rest * torch.eye(len(v)).double()


def test_more_components_help_and_the_mixture_beats_linear(mnist32, mnist32_test):
    """DESIGN section 11 in small: 20 components on 2,000 digits are below the linear denoiser, held out."""
    x = mnist32_test[:200]
    y = x + 0.5 * noise_like(x, 0)
    errors = {
        name: float((model.fit(mnist32).denoise(y, 0.5) - x).square().mean())
        for name, model in (("linear", LinearDenoiser()), ("mixture", GaussianMixtureDenoiser(20, rank=60)))
    }
    assert errors["mixture"] < 0.95 * errors["linear"], errors


def test_same_seed_same_fit_and_labels_may_be_given(mnist16):
    images = mnist16.take(300)
    a, b = GaussianMixtureDenoiser(5, seed=2).fit(images), GaussianMixtureDenoiser(5, seed=2).fit(images)
    assert torch.equal(a.assignment_, b.assignment_)
    odd = GaussianMixtureDenoiser("class").fit(images[:], images.labels % 2)
    assert len(odd.components_) == 2 and torch.equal(odd.assignment_, images.labels % 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: GaussianMixtureDenoiser(0), "components must be a number >= 1 or 'class', got 0"),
        (lambda x: GaussianMixtureDenoiser("kmeans"), "got 'kmeans'"),
        (lambda x: GaussianMixtureDenoiser(rank=0), "rank must be >= 1"),
        (lambda x: GaussianMixtureDenoiser(50).fit(x), "50 components need at least as many images, got 20"),
        (lambda x: GaussianMixtureDenoiser("class").fit(x), "one label for each of the 20 images, got None"),
        (lambda x: GaussianMixtureDenoiser("class").fit(x, [1, 2]), r"of the 20 images, got \(2,\)"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(ImageSet(torch.rand(20, 1, 3, 3)))
