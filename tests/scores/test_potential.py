"""The score as the gradient of a polynomial potential: conservative, its normal equations exact, and what it must reduce to."""

from __future__ import annotations

import pytest
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.evaluation.symmetry import asymmetry, jacobian
from numeric.noise import ve, vp
from numeric.scores.base import SettingsError
from numeric.scores.dense import mirror
from numeric.scores.families import FamilyError
from numeric.scores.moments import MomentError
from numeric.scores.potential import PotentialScore
from numeric.scores.wiener import WienerScore
from tests.drawn import held_out, noisy

KINDS = [("independent", "independent", "both"), ("band", "independent", "wavelet"), ("independent", "local", "pixel")]


@pytest.mark.parametrize(("family", "pixel_family", "coordinates"), KINDS)
def test_the_jacobian_is_symmetric_and_the_twin_s_is_not(family, pixel_family, coordinates, images, generator):
    y = noisy(images[:2], ve(0.4), generator)
    model = PotentialScore(family, 3, coordinates, pixel_family=pixel_family, levels=1).fit(images)
    twin = WienerScore(family, 3, coordinates, pixel_family=pixel_family, levels=1, ridge=1e-2).fit(images)
    assert asymmetry(model, y, 0.4).max() < 1e-10 < 0.01 < asymmetry(twin, y, 0.4).min()
    for one in (model, twin):  # what the potential adds to the linear denoiser is no constant
        assert (jacobian(one, y[0], 0.4) - jacobian(one, y[1], 0.4)).norm() > 1e-3


@pytest.mark.parametrize(("family", "pixel_family", "coordinates"), KINDS)
def test_the_score_is_the_gradient_of_the_potential(family, pixel_family, coordinates, images, generator):
    """By automatic differentiation, VP; and the trace of the Jacobian, a Laplacian, against the Jacobian itself."""
    level = vp(0.6)
    model = PotentialScore(family, 2, coordinates, pixel_family=pixel_family, levels=1).fit(images)
    y = noisy(images[:3], level, generator).requires_grad_()
    (gradient,) = torch.autograd.grad(model.potential(y, level).sum(), y)
    assert torch.allclose(gradient, (level.alpha * model.estimate(y, level) - y) / level.sigma**2, atol=1e-9)
    traces = torch.stack([jacobian(model, image, level).trace() for image in y.detach()])
    assert torch.allclose(model.jacobian_trace(y.detach(), level), traces, atol=1e-9)


@pytest.mark.parametrize(("family", "pixel_family", "coordinates"), KINDS)
def test_error_is_the_monte_carlo_error(family, pixel_family, coordinates, images, generator):
    """Exact expected error, on the fitted and on other images, within five standard errors of drawn noise."""
    level = vp(0.7)
    model = PotentialScore(family, 3, coordinates, pixel_family=pixel_family, levels=1, ridge=1e-4).fit(images)
    for x, moments in ((images, None), (images.flip(0).sqrt(), held_out(model, images.sqrt()))):
        many = x.repeat(30, 1, 1, 1)
        errors = (model.denoise(noisy(many, level, generator), level, clamp=False) - many).square().flatten(1).mean(1)
        error = float(errors.std() / len(errors) ** 0.5)
        assert error < 0.1 * float(errors.mean())
        assert abs(float(errors.mean()) - model.expected_mse(level, moments=moments)) < 5 * error
    assert model.expected_mse(level, moments=held_out(model, images)) == pytest.approx(model.expected_mse(level), rel=1e-9)


@pytest.mark.parametrize(("family", "pixel_family", "coordinates"), KINDS[::2])
def test_normal_equations_are_those_of_monte_carlo_least_squares(family, pixel_family, coordinates, images, generator):
    """A and b of the least squares of E|D - x|^2 against drawn noise, entry by entry, in units of their standard error.

    The gradients are automatic ones of Wick-ordered monomials; the targets are ``-s^-2 grad m . (linear - x)``.
    """
    x, sigma, draws = images[:10, :, :4, :4], 0.5, 240
    model = PotentialScore(family, 2, coordinates, pixel_family=pixel_family, levels=1).fit(x)
    level, monomials = model.coordinates_at(sigma), model.potential_.monomials
    (gram,) = model.moments_.grams([level], model.monomials_, model.moments_.mean)
    system, rhs = model._system(level, mirror(model._add_noise(level, gram)))

    def wick(c):
        """:u^alpha: of a centred image, from plain monomials and the pairings of their letters (degree 3 at most)."""
        phi, k = monomials.features(c[None] @ level.letters.T)[:, 0], level.covariance
        rows = torch.from_numpy(monomials.rows)
        three, two = rows[:, 0] >= 0, (rows[:, 0] < 0) & (rows[:, 1] >= 0)
        taken = torch.zeros_like(phi)
        for one, i, j in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
            taken = taken + torch.where(three, k[rows[:, i], rows[:, j]] * phi[1 + rows[:, one]], 0.0)
        return (phi - taken - torch.where(two, k[rows[:, 1], rows[:, 2]], 0.0))[1:]

    many = x.repeat(draws, 1, 1, 1)
    y = many + sigma * torch.randn(many.shape, generator=generator, dtype=x.dtype)
    slopes = torch.func.vmap(torch.func.jacfwd(wick))(y.flatten(1) - model.moments_.mean)  # (n, Q, N)
    away = (LinearDenoiser().fit(x).estimate(y, ve(sigma)) - many).flatten(1)
    b = -(slopes @ away[:, :, None])[:, :, 0].reshape(draws, len(x), -1).mean(1) / sigma**2
    a = torch.stack([torch.einsum("nqp,nrp->qr", part, part) / len(x) for part in slopes.split(len(x))])
    for drawn, exact in ((b, rhs), (a.tril(), system.tril())):
        error = drawn.std(0) / draws**0.5
        scaled = ((drawn.mean(0) - exact).abs() / error)[error > 1e-9]
        # A half-normal's mean is 0.80 (of b, of correlated entries); fewer draws of products this skewed underrate some errors.
        assert len(scaled) > 20 and scaled.max() < 7 and 0.5 < scaled.mean() < 1.3


def test_a_potential_of_degree_two_is_the_linear_denoiser(images, generator):
    linear, y = LinearDenoiser().fit(images), noisy(images, ve(0.4), generator)
    for coordinates in ("pixel", "wavelet", "both"):
        model = PotentialScore(degree=3, coordinates=coordinates, levels=1).fit(images)
        assert (model.denoise_degrees(y, 0.4, [1])[0] - linear.denoise(y, 0.4)).abs().max() < 1e-8
        assert model.expected_mse(0.4, 1) == pytest.approx(linear.expected_mse(0.4), rel=1e-9)
        assert model.expected_mse(0.4, 1) > model.expected_mse(0.4, 2) > model.expected_mse(0.4, 3)


def test_gaussian_data_have_the_exact_score(generator):
    """The potential beyond degree 2 is left with chance: its coefficients' error, one a monomial, falls as images are added."""
    root = torch.randn(16, 16, generator=generator, dtype=torch.float64) * 0.3
    covariance, away = root.T @ root, []
    for count in (2000, 32000):
        x = (torch.randn(count, 16, generator=generator, dtype=torch.float64) @ root).reshape(-1, 1, 4, 4)
        y = noisy(x[:200], ve(0.5), generator)
        exact = y.flatten(1) @ torch.linalg.solve(covariance + 0.25 * torch.eye(16, dtype=torch.float64), covariance)
        model = PotentialScore(degree=3, levels=1).fit(x)
        away.append(float((model.denoise(y, 0.5, clamp=False).flatten(1) - exact).square().mean()))
        assert model.expected_mse(0.5) == pytest.approx(model.expected_mse(0.5, 1), rel=200 / count)
    assert away[1] < 0.2 * away[0] and away[1] < 0.003 * model.expected_mse(0.5)


def test_one_pixel_is_the_shared_readout(generator):
    """Where one pixel alone varies every field is a gradient: the twin's estimate and error."""
    x = torch.full((200, 1, 2, 2), 0.5, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.rand(200, generator=generator, dtype=torch.float64) ** 3
    settings = {"degree": 3, "coordinates": "pixel", "levels": 1, "ridge": 1e-12}
    model, twin = PotentialScore(**settings).fit(x), WienerScore(**settings).fit(x)
    assert model.expected_mse(0.3) == pytest.approx(twin.expected_mse(0.3), rel=1e-8)
    assert torch.allclose(model.denoise(x, 0.3, clamp=False), twin.denoise(x, 0.3, clamp=False), atol=1e-6)


def test_vp_is_ve_types_and_degrees(images, generator):
    model, level = PotentialScore(levels=1).fit(images), vp(0.64)
    y = noisy(images[:4], level, generator)
    assert torch.allclose(model.denoise(y, level), model.denoise(y / 0.8, 0.75), atol=1e-12)
    assert len(model.prepared_) == 1
    two = PotentialScore(degree=2, levels=1).fit(images)
    assert torch.allclose(model.denoise_degrees(y, level, [2])[0], two.denoise(y, level), atol=1e-7)
    assert model.denoise(y.float(), level).dtype == torch.float32
    assert (model.denoise(y.float(), level) - model.denoise(y, level)).abs().max() < 1e-3
    assert torch.autograd.gradcheck(lambda z: model.denoise(z, 0.5, clamp=False)[:, 0, :2, :2], y[:1].requires_grad_())


def test_files_merge_and_bad_input(images, generator, tmp_path):
    whole = PotentialScore(levels=1).fit(images)
    first, second = (PotentialScore(levels=1).fit(part) for part in images.split(20))
    y = noisy(images[:3], ve(0.5), generator)
    assert torch.allclose(first.merge(second).denoise(y, 0.5), whole.denoise(y, 0.5), atol=1e-7)
    whole.save(tmp_path / "model")
    again = PotentialScore.load(tmp_path / "model")
    assert torch.equal(again.denoise(y, 0.5), whole.denoise(y, 0.5)) and again.expected_mse(0.5) == whole.expected_mse(0.5)
    with pytest.raises(MomentError, match="of the potential readout, not of wiener"):
        WienerScore.load(tmp_path / "model")
    with pytest.raises(ValueError, match="ridge='gcv' is not of the potential readout"):
        PotentialScore(ridge="gcv").fit(images)
    with pytest.raises(FamilyError, match=r"degree must lie in 1\.\.3"):
        whole.prepare_levels([0.5], [4])
    with pytest.raises(SettingsError, match="coordinates is 'pixel'"):
        whole.set_params(coordinates="pixel").denoise(y, 0.5)


def test_the_log_density_reads_images_as_every_denoiser_does(images):
    """Arrays, eight bits and a noise level for each image; another shape of as many pixels is refused, as the closed forms' is."""
    model = PotentialScore(degree=2, coordinates="pixel", levels=1).fit(images)
    want = model.potential(images[:3], 0.5)
    assert torch.equal(torch.from_numpy(model.potential(images[:3].numpy(), 0.5)), want)
    eight = (images[:3] * 255).to(torch.uint8)
    assert torch.allclose(model.potential(eight, 0.5).double(), want, atol=0.2) and model.potential(images[:0], 0.5).shape == (0,)
    each = model.potential(images[:3], [0.5, 0.3, 0.5])
    assert torch.equal(each[[0, 2]], model.potential(images[[0, 2]], 0.5)) and torch.equal(each[1:2], model.potential(images[1:2], 0.3))
    for one in (LinearDenoiser().fit(images), GaussianMixtureDenoiser(3).fit(images), OptimalDenoiser().fit(images)):
        assert torch.equal(one.log_density(images[:3].numpy(), 0.5), one.log_density(images[:3], ve(0.5)))
        with pytest.raises(ValueError, match=r"fitted on 1 channel\(s\) of 6 x 6 pixels"):
            one.log_density(images[:3].reshape(3, 1, 4, 9), 0.5)
    with pytest.raises(ValueError, match=r"fitted on 1 channel\(s\) of 6 x 6 pixels"):
        model.potential(images[:3].reshape(3, 1, 4, 9), 0.5)
