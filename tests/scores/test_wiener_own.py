"""The own form of the Wiener readout: linear in all and a family of one's own, by Schur complements, exact."""

from __future__ import annotations

import pytest
import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.noise import ve, vp
from numeric.scores.levels import LevelGrams
from numeric.scores.wiener import WienerScore
from numeric.scores.wiener_own import WienerOwnScore
from tests.drawn import held_out, noisy


@pytest.mark.parametrize(
    ("coordinates", "family", "of"), [("wavelet", "band", "wiener"), ("pixel", "independent", "wiener"), ("wavelet", "local", "noisy")]
)
def test_error_is_the_monte_carlo_error(coordinates, family, of, images, generator):
    """Exact expected error on the fitted and on other images, within five standard errors of drawn noise."""
    level = vp(0.6)
    model = WienerOwnScore(family, 3, coordinates, of, levels=1, ridge=1e-3).fit(images)
    for x, moments in ((images, None), (images.sqrt(), held_out(model, images.sqrt()))):
        many = x.repeat(30, 1, 1, 1)
        errors = (model.denoise(noisy(many, level, generator), level, clamp=False) - many).square().flatten(1).mean(1)
        error = float(errors.std() / len(errors) ** 0.5)
        assert error < 0.1 * float(errors.mean())
        assert abs(float(errors.mean()) - model.expected_mse(level, moments=moments)) < 5 * error
    # Two codes for one number: the normal equations, and a pass over the same images as if they were others.
    assert model.expected_mse(level, moments=held_out(model, images)) == pytest.approx(model.expected_mse(level), rel=1e-9)


@pytest.mark.parametrize("coordinates", ["wavelet", "pixel"])
def test_errors_lie_between_linear_and_shared(coordinates, images):
    """More features, less error on the fitted images: linear, then own, then all features for all; degree 1 is linear."""
    own = WienerOwnScore("local", 3, coordinates, levels=1, ridge=1e-8).fit(images)
    shared = WienerScore("local", 3, coordinates, pixel_family="local", levels=1, ridge=1e-8).fit(images)
    linear = LinearDenoiser().fit(images)
    own.prepare_levels([0.4], [1, 2, 3])
    errors = [own.expected_mse(0.4, d) for d in (1, 2, 3)]
    assert errors[0] == pytest.approx(linear.expected_mse(0.4), rel=1e-6)
    assert errors[0] > errors[1] > errors[2] > shared.expected_mse(0.4)
    assert torch.allclose(own.denoise_degrees(images[:3], 0.4, [1])[0], linear.denoise(images[:3], 0.4), atol=1e-6)


def test_one_target_is_the_regression_on_its_features(generator):
    """Of a 2 x 2 image every pixel sees every pixel: own and shared have the same features, so one estimator by two codes."""
    x = torch.rand(60, 1, 2, 2, generator=generator, dtype=torch.float64) ** 2
    own = WienerOwnScore(coordinates="pixel", degree=2, levels=1, ridge=1e-10).fit(x)
    y = noisy(x, ve(0.3), generator)
    assert own.blocks_[0].numbers.shape == (4, 7)  # four squares and the products with the three neighbours
    # With the 3 products of the others as well, shared can only be better.
    shared = WienerScore("local", 2, "pixel", pixel_family="local", levels=1, ridge=1e-10).fit(x)
    assert shared.count(2) == 1 + 4 + 4 + 6
    assert own.expected_mse(0.3) >= shared.expected_mse(0.3)
    work = LevelGrams([], own.monomials_, own.moments_.mean)
    phi = work.features(x.flatten(1) - own.moments_.mean, own.coordinates_at(0.3))
    assert phi.shape == (15, 60) and own.denoise(y, 0.3).shape == y.shape


def test_save_load_gradients_and_vp(images, generator, tmp_path):
    model = WienerOwnScore(levels=1).fit(images).prepare_levels([0.5], [2, 3])
    model.save(tmp_path / "m")
    loaded = WienerOwnScore.load(tmp_path / "m")
    y = noisy(images[:3], ve(0.5), generator)
    assert torch.equal(loaded.denoise_degrees(y, 0.5, [2, 3]), model.denoise_degrees(y, 0.5, [2, 3]))
    level = vp(0.8)  # sigma / alpha = 0.5
    assert torch.allclose(model.denoise(level.alpha * y, level), model.denoise(y, 0.5), atol=1e-12)
    assert torch.autograd.gradcheck(lambda z: model.denoise(z, 0.5, clamp=False)[:, 0, :2, :2], y[:1].requires_grad_())
    with pytest.raises(ValueError, match="of the wiener-own readout"):
        WienerScore.load(tmp_path / "m")


def test_bad_input(images):
    for options, message in (
        ({"coordinates": "both"}, "no own form"),
        ({"ridge": "gcv"}, "not of the own Wiener form"),
        ({"mode": "symmetric"}, "over-complete"),
        ({"wavelet": "bior2.2"}, "non-orthogonal: coefficients' errors add up in an orthonormal basis of an orthogonal wavelet"),
    ):
        with pytest.raises(ValueError, match=message):
            WienerOwnScore(**options, levels=1).fit(images)
