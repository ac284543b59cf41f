"""Every closed-form baseline obeys the contract of :mod:`numeric.denoiser`: shape, range, levels, types, gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.locality import LocalityDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.pspc import PSPCDenoiser
from numeric.baselines.shrinkage import WaveletShrinkage
from numeric.denoiser import Denoiser, NotFittedError
from numeric.noise import NoiseLevel, ve, vp
from numeric.scores.base import SCORE_SIGMAS, SettingsError

MAKE: dict[str, Callable[[], Denoiser]] = {
    "linear": LinearDenoiser,
    "optimal": lambda: OptimalDenoiser(chunk=5),
    "LS": lambda: LocalScoreMachine(3, False, chunk=5),
    "LS circular": lambda: LocalScoreMachine(3, False, "circular", chunk=5),
    "ELS": lambda: LocalScoreMachine(3, True, chunk=5),
    "ELS zeros": lambda: LocalScoreMachine(3, True, "zeros", chunk=5),
    "locality": lambda: LocalityDenoiser(chunk=5),
    "PSPC": lambda: PSPCDenoiser(2, chunk=5),
    "locality by rows": lambda: LocalityDenoiser(rule="row", chunk=5),
    "mixture": lambda: GaussianMixtureDenoiser(3),
    "mixture, low rank": lambda: GaussianMixtureDenoiser(2, rank=3),
    "bayes": lambda: WaveletShrinkage("bayes", "haar"),
    "bayes spun": lambda: WaveletShrinkage("bayes", "haar", 1, spins=2),
    "soft": lambda: WaveletShrinkage("soft", "haar"),
    "hard": lambda: WaveletShrinkage("hard", "haar"),
}
TRAIN = torch.rand(12, 2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
NEEDS_FIT = [name for name in MAKE if name.split()[0] not in ("bayes", "soft", "hard")]


@pytest.fixture(params=list(MAKE))
def model(request) -> Denoiser:
    return MAKE[request.param]().fit(TRAIN)


def noisy(count: int = 3, sigma: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return TRAIN[:count].double() + sigma * torch.randn(count, *TRAIN.shape[1:], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", MAKE)
def test_grid_search_needs_no_scoring(name):
    """Parameters, ``clone`` and a score of held-out images; ``score(y, noise)`` stays Tweedie's."""
    model = MAKE[name]()
    assert clone(model).get_params() == model.get_params() and "score_request" not in repr(model)
    search = GridSearchCV(model, {}, cv=2, error_score="raise").fit(TRAIN.numpy())
    assert search.best_score_ < 0 and isinstance(search.best_estimator_, type(model))
    fitted = MAKE[name]().fit(TRAIN)
    assert fitted.score(noisy(), 0.3).shape == noisy().shape
    assert fitted.score(TRAIN) == -np.mean([fitted.unclamped_mse(TRAIN, sigma) for sigma in SCORE_SIGMAS])


def test_parameters_changed_after_the_fit():
    """Checked as the constructor checks them; those that only a fit can change are named when the denoiser is used."""
    y = noisy()
    for make, change in (
        (GaussianMixtureDenoiser(3), {"rank": 1}), (LocalityDenoiser(n_train=9), {"n_train": 3}), (LocalScoreMachine(3, n_train=9), {"n_train": 3}),
        (PSPCDenoiser(3, n_train=9), {"n_train": 3}),
    ):  # fmt: skip
        model = make.fit(TRAIN)
        before, (name, value) = model.denoise(y, 0.3), next(iter(change.items()))
        old = getattr(model, name)
        with pytest.raises(SettingsError, match=f"{name} is {value} but was {old} in the fit: fit again"):
            model.set_params(**change).denoise(y, 0.3)
        assert torch.equal(model.set_params(**{name: old}).denoise(y, 0.3), before)
        assert not torch.equal(model.set_params(**change).fit(TRAIN).denoise(y, 0.3), before)
    for model, change, message in (
        (LocalityDenoiser(), {"rule": "wrong"}, "unknown rule 'wrong'"), (OptimalDenoiser(), {"chunk": 0}, "chunk must be"),
        (LinearDenoiser(), {"ridge": 1}, "no parameter 'ridge': it has none"), (WaveletShrinkage(), {"wavelet": "db"}, "unknown wavelet"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model.set_params(**change)
    assert not torch.equal(LocalityDenoiser().fit(TRAIN).set_params(threshold=0.9).denoise(y, 0.3), LocalityDenoiser().fit(TRAIN).denoise(y, 0.3))


def test_grid_search_chooses_the_better_mixture():
    """Two clusters far apart: two components have less held-out error than one, and the score is the error measured by hand."""
    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(3)) * 0.1 + (torch.arange(60) % 2 * 0.9)[:, None, None, None]
    search = GridSearchCV(GaussianMixtureDenoiser(), {"components": [1, 2]}, cv=3).fit(x.numpy())
    assert search.best_params_ == {"components": 2} and len(set(search.cv_results_["mean_test_score"])) == 2
    model = GaussianMixtureDenoiser(2).fit(x)
    y = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert model.unclamped_mse(x, 0.5) == pytest.approx(float((model.denoise(y, 0.5, clamp=False) - x).square().mean()), rel=1e-5)


@pytest.mark.parametrize("count", [12, 80])
def test_linear_held_out_error_is_exact(count):
    """Of fewer images than pixels and of more, on images never fitted: against Monte Carlo, and on the fitted ones the closed form."""
    x, other = (torch.rand(n, 2, 4, 6, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (count, 50))
    model, generator = LinearDenoiser().fit(x), torch.Generator().manual_seed(9)
    assert model.unclamped_mse(x, 0.3) == pytest.approx(model.expected_mse(0.3), rel=1e-9)
    for level in (ve(0.3), vp(0.8)):
        parts = []
        for _ in range(200):
            y = level.alpha * other + level.sigma * torch.randn(other.shape, generator=generator, dtype=torch.float64)
            parts.append(float((model.denoise(y, level, clamp=False) - other).square().mean()))
        assert abs(model.unclamped_mse(other, level) - np.mean(parts)) < 4 * np.std(parts) / 200**0.5


@pytest.mark.parametrize("noise", [ve(0.3), vp(0.8)])
def test_gradients(model, noise):
    """The gradient of every output against finite differences, in float64."""
    y = noisy(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: model.denoise(t, noise, clamp=False), (y,), eps=1e-6, atol=1e-5, fast_mode=True)
    assert torch.autograd.gradcheck(lambda t: model.score(t, noise), (y,), eps=1e-6, atol=1e-4, fast_mode=True)


def test_jacobian_by_torch_func(model):
    """``torch.func.jacrev`` is the Jacobian that autograd finds row by row."""
    y = noisy(1)

    def f(t: torch.Tensor) -> torch.Tensor:
        return model.denoise(t[None], 0.3, clamp=False).flatten()

    ours = torch.func.jacrev(f)(y[0]).flatten(1)
    t = y[0].clone().requires_grad_()
    outputs = f(t)
    for k in (0, 17, 40):
        row = torch.autograd.grad(outputs[k], t, retain_graph=True)[0].flatten()
        assert torch.allclose(ours[k], row, atol=1e-10)


def test_no_gradient_is_kept_without_asking(model):
    assert not model.denoise(noisy(), 0.3).requires_grad


def test_shape_is_remembered_and_another_refused(model):
    assert model.shape_ == (2, 4, 6)
    y = noisy()
    for other, hint in ((y.reshape(3, 2, 6, 4), "resize"), (y.reshape(3, 4, 6, 2), "permute"), (y[:, :1], "fitted on 2 channel")):
        with pytest.raises(ValueError, match=hint):
            model.denoise(other, 0.3)


def test_print_says_shape_and_range(model):
    """Two channels of 4 x 6 pixels, in [0, 1]."""
    assert repr(model) == f"<{type(model).__name__}: {model.label}, images 2 x 4 x 6, pixels in [0, 1]>"


@pytest.mark.parametrize("name", NEEDS_FIT)
def test_unfitted_is_named(name):
    with pytest.raises(NotFittedError, match=r"has seen no images: call fit\(images\) first"):
        MAKE[name]().denoise(noisy(), 0.3)


@pytest.mark.parametrize("name", list(MAKE))
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0), (-3.0, 7.0)])
def test_pixel_range_is_learned(name, low, high):
    """An affine change of the pixels changes nothing else: the error scales with the range (it was clamped to [0, 1])."""
    width = high - low
    x = TRAIN.clone()
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    base, other = MAKE[name]().fit(x), MAKE[name]().fit(low + width * x)
    assert other.pixel_range_ == pytest.approx((low, high))
    y = noisy()
    ours, theirs = other.denoise(low + width * y, width * 0.3), base.denoise(y, 0.3)
    if name in NEEDS_FIT and name != "ELS zeros":  # zeros beyond the border are not moved with the pixels
        assert torch.allclose((ours - low) / width, theirs, atol=2e-3)
    assert low <= float(ours.min()) and float(ours.max()) <= high
    assert float(ours.min()) < low + 0.4 * width and float(ours.max()) > low + 0.6 * width


def test_noise_for_each_image(model):
    y, levels = noisy(), [0.2, 0.5, 0.2]
    together = model.denoise(y, torch.tensor(levels, dtype=torch.float64))
    alone = torch.cat([model.denoise(image[None], s) for image, s in zip(y, levels)])
    assert torch.allclose(together, alone, atol=1e-10)
    mixed = model.denoise(y, [ve(0.2), vp(0.5), NoiseLevel(2.0, 0.3)])
    assert torch.allclose(mixed[1:2], model.denoise(y[1:2], vp(0.5)), atol=1e-10)


def test_types(model):
    """Half precision is worked out in float32; arrays come back as arrays; the type is that of the input."""
    y = noisy()
    full = model.denoise(y.float(), 0.3)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(model.denoise(y.to(dtype), 0.3), model.denoise(y.to(dtype).float(), 0.3).to(dtype))
    assert isinstance(model.denoise(y.numpy(), 0.3), np.ndarray) and full.dtype == torch.float32
    assert torch.allclose(full.double(), model.denoise(y, 0.3), atol=1e-4)


def test_vp_is_ve_at_the_effective_sigma(model):
    """Equation (1): dividing by alpha turns a VP level into the VE level sigma / alpha; Tweedie's formula ties the score to it."""
    level, y = vp(0.7), noisy()
    ours = model.estimate(y, level)
    assert torch.allclose(ours, model.estimate(y / level.alpha, ve(level.effective_sigma)), atol=1e-10)
    assert torch.allclose((y + level.sigma**2 * model.score(y, level)) / level.alpha, ours, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LocalScoreMachine(4), "odd"),
        (lambda: LocalScoreMachine(3, border="mirror"), "unknown border 'mirror'"),
        (lambda: LocalityDenoiser(threshold=2), r"threshold must be in \[0, 1\], got 2"),
        (lambda: WaveletShrinkage("sure"), "unknown shrinkage 'sure'"),
        (lambda: WaveletShrinkage(wavelet="db99"), "unknown wavelet 'db99'"),
        (lambda: WaveletShrinkage(spins=0), "spins must be >= 1"),
        (lambda: OptimalDenoiser(0), "chunk must be >= 1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_images_give_none(model):
    """An empty batch, at one level or a level for each of its no images: nothing, of the right shape."""
    none = noisy()[:0]
    for noise in (0.3, vp(0.7), torch.zeros(0), []):
        assert model.denoise(none, noise).shape == model.score(none, noise).shape == none.shape
        assert model.divergence(none, noise).shape == (0,)
