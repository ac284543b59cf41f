"""The wavelet score: closed forms against Monte Carlo, regression, other bases, other readouts and other levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.data import as_image_set
from numeric.denoiser import NotFittedError
from numeric.noise import ve, vp
from numeric.scores.families import FamilyError
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.solve import SingularGramError

FAMILIES = ["independent", "band", "local", "parent", "joint"]


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_error_is_the_monte_carlo_error(family, mnist16, generator):
    """E|x|^2 - 2 theta.E[phi x] + theta.G theta, exact, within six standard errors of drawn noise."""
    model = WaveletScore(family, degree=2).fit(mnist16)
    x = mnist16[:].double()
    for sigma in (0.1, 1.0):
        y = x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        errors = (model.denoise(y, sigma, clamp=False) - x).square().flatten(1).mean(1)
        # The exact figure averages noise at fixed images; the spread over images overstates this standard error.
        standard_error = float(errors.std() / len(errors) ** 0.5)
        assert abs(float(errors.mean()) - model.expected_mse(sigma)) < 6 * standard_error


@pytest.mark.parametrize("family", ["independent", "band", "local"])
def test_coefficients_are_the_sampled_regression_in_the_limit(family, generator):
    """Equation (15) solves the population problem: least squares on many noise draws tends to it (Lemma C.3)."""
    images = torch.rand(12, 1, 8, 8, generator=generator, dtype=torch.float64) ** 3
    model = WaveletScore(family, degree=2, levels=1, ridge=0.0, basis="hermite").fit(images)
    repeated = images.repeat(3000, 1, 1, 1)
    y = repeated + 0.4 * torch.randn(repeated.shape, generator=generator, dtype=torch.float64)
    v, w = model.transform_.forward(y)[:, 0], model.transform_.forward(repeated)[:, 0]
    solution = model.solve(0.4)
    block, part = model.moments_.blocks[-1], solution.blocks[-1]
    for group in (0, 5):
        u = (v[:, block.block.variables[group]].T - part.centre[:, [group]]) / part.scale[:, [group]]
        features = np.stack(
            [np.prod([u[i].numpy() ** k for i, k in enumerate(row)], axis=0) for row in block.plan.basis[1:]], axis=1
        )
        keep = [i for i in range(features.shape[1]) if family != "band" or block.plan.basis[1 + i, 0] >= 1]
        if family == "band":  # raw band-tied monomials all hold the raw target
            raw = v[:, block.block.variables[group]].T.numpy()
            rows = block.plan.basis[1:][keep]
            features = np.stack([np.prod([raw[i] ** k for i, k in enumerate(row)], axis=0) for row in rows], axis=1)
        target = w[:, block.block.variables[group, 0]].numpy()
        fitted = LinearRegression().fit(features, target)
        sampled = np.mean((fitted.predict(features) - target) ** 2)
        exact = float(part.expected_error[group])
        assert sampled == pytest.approx(exact, rel=0.03)
        assert exact <= sampled * 1.03


@pytest.mark.parametrize("family", FAMILIES)
def test_vp_is_ve_after_division(family, mnist16, generator):
    """VP at (a, s) is VE at s/a after dividing y by a."""
    model = WaveletScore(family, degree=3).fit(mnist16)
    level = vp(0.7)
    y = level.alpha * mnist16[:20].double() + level.sigma * torch.randn(20, 1, 16, 16, generator=generator).double()
    direct = model.denoise(y, level, clamp=False)
    by_ve = model.denoise(y / level.alpha, ve(level.effective_sigma), clamp=False)
    assert torch.allclose(direct, by_ve, atol=1e-7)
    assert torch.allclose(model.score(y, level), (level.alpha * direct - y) / level.sigma**2, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_monomial_and_hermite_span_one_space(family, mnist16, generator):
    """At ridge 0 the predictions agree (Section 3); in ill-conditioned systems conditioning does not."""
    y = mnist16[:20].double() + 0.5 * torch.randn(20, 1, 16, 16, generator=generator).double()
    models = [WaveletScore(family, degree=3, basis=basis, ridge=0.0).fit(mnist16) for basis in ("monomial", "hermite")]
    a, b = (m.denoise(y, 0.5, clamp=False) for m in models)
    assert torch.allclose(a, b, atol=1e-6)
    monomial, hermite = (m.condition_numbers(0.5).median() for m in models)
    assert hermite < monomial


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_nested_degrees_never_raise_the_exact_error(family, sigma, mnist16):
    model = WaveletScore(family, degree=3, ridge=0.0, basis="hermite").fit(mnist16)
    errors = [model.expected_mse(sigma, degree) for degree in (1, 2, 3)]
    assert errors[0] >= errors[1] - 1e-12 and errors[1] >= errors[2] - 1e-12


def test_degree_one_is_the_diagonal_wiener_filter(mnist16, generator):
    """theta_1 = -1 / (a^2 var + s^2): the linear score, on every coefficient."""
    model = WaveletScore("independent", degree=1, ridge=0.0).fit(mnist16)
    level = vp(0.6)
    w = model.transform_.forward(mnist16[:].double())[:, 0]
    expected = -1 / (level.alpha**2 * w.var(0, correction=0) + level.sigma**2)
    theta = model.solve(level).blocks[0].theta
    order = model.moments_.blocks[0].block.targets
    assert torch.allclose(theta[:, 1], expected[order], rtol=1e-8)
    assert torch.allclose(theta[:, 0], -(expected * level.alpha * w.mean(0))[order], rtol=1e-7, atol=1e-9)


def test_shared_degree_one_is_the_linear_denoiser(mnist16, generator):
    """At degree 1 the shared readout is the Wiener denoiser of equations (25), (26)."""
    y = mnist16[:20].double() + 0.5 * torch.randn(20, 1, 16, 16, generator=generator).double()
    shared = SharedWaveletScore(degree=1, ridge=0.0).fit(mnist16)
    linear = LinearDenoiser().fit(mnist16)
    assert torch.allclose(shared.denoise(y, 0.5, False), linear.denoise(y, 0.5, False), atol=1e-8)
    assert shared.expected_mse(0.5) == pytest.approx(linear.expected_mse(0.5), rel=1e-9)


@pytest.mark.parametrize("family", ["independent", "band", "local"])
def test_shared_exact_error_is_the_monte_carlo_error(family, generator):
    """Wick contraction inside and across factors, against drawn noise."""
    images = torch.rand(30, 1, 8, 8, generator=generator, dtype=torch.float64) ** 2
    model = SharedWaveletScore(family, degree=3, levels=1, ridge=1e-3).fit(images)
    x = images.repeat(300, 1, 1, 1)
    level = vp(0.5)
    y = level.alpha * x + level.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    errors = (model.denoise(y, level, clamp=False) - x).square().flatten(1).mean(1)
    error = float(errors.std() / len(errors) ** 0.5)
    assert abs(float(errors.mean()) - model.expected_mse(level)) < 6 * error


def test_shared_is_never_worse_than_own_on_its_own_data(mnist16):
    """The shared features contain the own ones, so the exact training error at (nearly) no ridge is no larger."""
    own = WaveletScore("independent", 2).fit(mnist16)
    shared = SharedWaveletScore("independent", 2, ridge=1e-10).fit(mnist16)
    for degree in (1, 2):
        assert shared.expected_mse(0.5, degree) <= own.expected_mse(0.5, degree)


def test_pixel_ridge_is_wavelet_ridge_and_synthesis(generator):
    """Lemma C.1 by direct solution: the dense ridge to pixels equals the ridge to coefficients, synthesised."""
    from numeric.wavelets import WaveletTransform

    transform = WaveletTransform(8, levels=1)
    x = torch.rand(200, 64, generator=generator, dtype=torch.float64)
    w_matrix = torch.from_numpy(transform.matrix)
    noisy = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    v = noisy @ w_matrix.T
    phi = torch.cat([torch.ones(200, 1, dtype=torch.float64), v, v**2], 1)
    system = phi.T @ phi + 2.0 * torch.eye(129, dtype=torch.float64)
    pixels = torch.linalg.solve(system, phi.T @ x)
    coefficients = torch.linalg.solve(system, phi.T @ (x @ w_matrix.T))
    assert torch.allclose(pixels, coefficients @ w_matrix, atol=1e-10)


def test_ridge_limits(mnist16, generator):
    """A huge ridge returns y / a on the score side (16) and zero on the denoiser side (23)."""
    y = torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64)
    score_side = WaveletScore(degree=2, ridge=1e14, ridge_side="score").fit(mnist16)
    denoiser_side = WaveletScore(degree=2, ridge=1e14, ridge_side="denoiser").fit(mnist16)
    level = vp(0.5)
    assert torch.allclose(score_side.denoise(y, level, False), y / level.alpha, atol=1e-6)
    assert denoiser_side.denoise(y, level, False).abs().max() < 1e-6
    small = [
        WaveletScore(degree=2, ridge=1e-12, ridge_side=side).fit(mnist16).denoise(y, level, False)
        for side in ("score", "denoiser")
    ]
    assert torch.allclose(*small, atol=1e-4)


def test_held_out_error_from_moments_is_the_monte_carlo_error(mnist16, generator):
    model = WaveletScore("local", degree=2).fit(mnist16.take(1500))
    held_out = as_image_set(mnist16[torch.arange(1500, 2000)])
    moments = model.new_moments(held_out.shape).fit(held_out.batches())
    x = held_out[:].double()
    y = x + 0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    errors = (model.denoise(y, 0.5, clamp=False) - x).square().flatten(1).mean(1)
    exact = model.expected_mse(0.5, moments=moments)
    assert abs(float(errors.mean()) - exact) < 6 * float(errors.std() / len(errors) ** 0.5)
    own = model.new_moments(held_out.shape).fit(mnist16.take(1500).batches())
    assert model.expected_mse(0.5, moments=own) == pytest.approx(model.expected_mse(0.5), rel=1e-9)


def test_over_complete_basis_denoises(mnist16, generator):
    """mode='symmetric' with correlated noise: exact coefficient error against Monte Carlo, and W^+ synthesis."""
    model = WaveletScore("band", degree=2, mode="symmetric", levels=2).fit(mnist16)
    x = mnist16[:].double()
    y = x + 0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    estimate = model.denoise(y, 0.5, clamp=False)
    assert (estimate - x).square().mean() < 0.3 * (y - x).square().mean()
    solution, block = model.solve(0.5), model.moments_.blocks[-1]
    v, w = model.transform_.forward(y)[:, 0], model.transform_.forward(x)[:, 0]
    from numeric.scores.tables import monomials

    part = solution.blocks[-1]
    index = torch.as_tensor(block.block.variables)
    u = (v.T[index] - part.centre.T[:, :, None]) / part.scale.T[:, :, None]
    predicted = torch.bmm(part.denoiser[:, None], monomials(u, block.plan, part.denoiser.shape[1]))[:, 0]
    errors = (predicted - w.T[index[:, 0]]).square().sum(0)
    assert abs(float(errors.mean() - part.expected_error.sum())) < 6 * float(errors.std() / len(errors) ** 0.5)


def test_float32_evaluation_keeps_the_digits(mnist16, generator):
    model = WaveletScore("local", degree=3).fit(mnist16)
    y = mnist16[:200] + 0.25 * torch.randn(200, 1, 16, 16, generator=generator)
    single, double = model.denoise(y, 0.25), model.denoise(y.double(), 0.25)
    assert (single.double() - double).square().mean() < 1e-8


@settings(max_examples=8, deadline=None)
@given(sigma=st.floats(0.05, 3), seed=st.integers(0, 1000))
def test_gram_is_positive_semidefinite(sigma, seed):
    """Noisy Hankel matrices are positive definite for any data (moment positivity)."""
    from numeric.noise import NoiseLevel
    from numeric.scores.solve import normal_system

    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model = WaveletScore("independent", degree=3, levels=1).fit(images)
    system = normal_system(
        model.central_[0], model.mean_[None], model.moments_.blocks[0].plan, NoiseLevel(1.0, sigma), 3
    )
    assert torch.linalg.eigvalsh(system.gram).min() > -1e-12


def test_saved_model_gives_the_same_images(tmp_path, mnist16, generator):
    model = WaveletScore("band", degree=2, basis="hermite", ridge=1e-6).fit(mnist16)
    model.save(tmp_path / "model.safetensors")
    loaded = WaveletScore.load(tmp_path / "model.safetensors")
    y = torch.rand(4, 1, 16, 16, generator=generator)
    assert loaded.get_params() == model.get_params()
    assert torch.equal(loaded.denoise(y, 0.3), model.denoise(y, 0.3))


def test_colour_images_couple_channels(generator):
    """Appendix D: a coefficient that also sees the other channels does better on correlated channels."""
    grey = torch.rand(300, 1, 8, 8, generator=generator)
    images = torch.cat([grey, grey**2, 1 - grey], 1)
    single = WaveletScore("independent", 2, levels=1).fit(images)
    coupled = WaveletScore("independent", 2, levels=1, channels_coupled=True, interactions="pairwise").fit(images)
    assert coupled.expected_mse(0.5) < 0.9 * single.expected_mse(0.5)
    assert coupled.denoise(images, 0.5).shape == images.shape


def test_optimal_denoiser_is_the_posterior_mean(generator):
    """Softmax over the training images, chunked or not, against a direct sum."""
    x = torch.rand(50, 1, 4, 4, generator=generator, dtype=torch.float64)
    y = x[:7] + 0.3 * torch.randn(7, 1, 4, 4, generator=generator, dtype=torch.float64)
    distance = (y[:, None] - x.float().double()[None]).square().sum((2, 3, 4))
    weight = torch.softmax(-distance / (2 * 0.3**2), 1)
    direct = torch.einsum("ij,jchw->ichw", weight, x.float().double())
    for chunk in (7, 1000):
        assert torch.allclose(OptimalDenoiser(chunk).fit(x).denoise(y, 0.3, False), direct, atol=1e-10)
    level = vp(0.5)
    model = OptimalDenoiser().fit(x)
    assert torch.allclose(
        model.denoise(level.alpha * y, level, False), model.denoise(y, level.effective_sigma, False), atol=1e-10
    )


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x: WaveletScore().denoise(x, 0.5), NotFittedError, "call fit"),
        (lambda x: SharedWaveletScore().denoise(x, 0.5), NotFittedError, "call fit"),
        (lambda x: WaveletScore(degree=0).fit(x), FamilyError, "degree must be >= 1, got 0"),
        (lambda x: WaveletScore(degree=2).fit(x).solve(0.5, 3), FamilyError, "1..2"),
        (lambda x: WaveletScore(basis="chebyshev").fit(x), ValueError, "unknown basis 'chebyshev'"),
        (lambda x: WaveletScore(ridge=-1).fit(x).solve(0.5), ValueError, "ridge must be a finite number >= 0, got -1"),
        (lambda x: WaveletScore(ridge_side="both").fit(x).solve(0.5), ValueError, "unknown ridge side 'both'"),
        (lambda x: WaveletScore().fit(x).denoise(x, -0.5), ValueError, "sigma must be a finite number > 0, got -0.5"),
        (lambda x: WaveletScore().fit(x).denoise(x * torch.nan, 0.5), ValueError, "NaN"),
        (lambda x: WaveletScore().fit(x).denoise(x[:, 0], 0.5), ValueError, "expected floating images"),
        (lambda x: WaveletScore().fit(x).denoise(torch.cat([x, x], 1), 0.5), ValueError, "fitted on 1 channel"),
        (
            lambda x: WaveletScore("local", 8, radius=4, interactions="full").new_moments((1, 512, 512)),
            MemoryError,
            "GiB",
        ),
        (lambda x: OptimalDenoiser(0), ValueError, "chunk must be >= 1"),
    ],
)
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call(torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_singular_gram_is_named_and_ridge_lifts_it():
    """A constant image set at tiny noise: high-degree monomials are collinear to float64."""
    images = torch.full((4, 1, 8, 8), 0.7)
    with pytest.raises(SingularGramError, match=r"singular to float64 \(first: A scale 1 at"):
        WaveletScore(degree=5, levels=1, ridge=0.0).fit(images).solve(1e-4)
    WaveletScore(degree=5, levels=1, ridge=1e-8).fit(images).solve(1e-4)
