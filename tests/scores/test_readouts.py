"""The estimators' side of the contract: range, shape, settings after a fit, gradients, noise per image, types, files."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from numeric.denoiser import Denoiser, NotFittedError
from numeric.noise import as_levels, ve, vp
from numeric.scores.base import SettingsError
from numeric.scores.cache import SolutionCache
from numeric.scores.own import WaveletScore
from numeric.scores.potential import PotentialScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore
from numeric.scores.wiener_own import WienerOwnScore

READOUTS = [WaveletScore, SharedWaveletScore]


def draw(count: int = 40, channels: int = 1, size: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 3, 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear") ** 2


def small(kind, **options):
    return kind("independent", 2, levels=1, **options)


# ----- the range of the pixels (issue letter B) ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READOUTS)
@pytest.mark.parametrize(("scale", "shift", "bounds"), [(2.0, -1.0, (-1.0, 1.0)), (255.0, 0.0, (0.0, 255.0))])
def test_images_in_another_range_are_denoised_alike(kind, scale, shift, bounds, tmp_path):
    """x -> scale x + shift with the noise scaled too: the same denoised images, clamped to the range of the data."""
    x = draw()
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    noise = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    ridge = {"ridge_side": "denoiser", "ridge": 1e-9} if kind is SharedWaveletScore else {}
    plain_, other = small(kind, **ridge).fit(x), small(kind, **ridge).fit(scale * x + shift)
    assert other.pixel_range_ == bounds and plain_.pixel_range_ == (0.0, 1.0)
    assert f"pixels in [{bounds[0]:g}, {bounds[1]:g}]" in repr(other)
    there = other.denoise(scale * (x + noise) + shift, 0.3 * scale)
    assert torch.allclose((there - shift) / scale, plain_.denoise(x + noise, 0.3), atol=1e-5)
    assert float(there.min()) >= bounds[0] and float(there.max()) <= bounds[1]
    other.save(tmp_path / "m")
    assert kind.load(tmp_path / "m").pixel_range_ == bounds


def test_a_file_without_a_range_is_of_unit_images(tmp_path):
    model = small(WaveletScore).fit(draw())
    model.moments_.save(tmp_path / "old", extra=model.get_params())  # as files were written before they named the range
    assert WaveletScore.load(tmp_path / "old").pixel_range_ == (0.0, 1.0)


# ----- shape (C) and settings (D) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READOUTS)
def test_another_shape_is_refused(kind):
    x = torch.rand(30, 1, 16, 8, dtype=torch.float64)
    model = small(kind).fit(x)
    for wrong in (x.transpose(2, 3), x.reshape(30, 2, 8, 8), x.permute(0, 2, 3, 1)):
        with pytest.raises(ValueError, match="fitted on 1 channel"):
            model.denoise(wrong, 0.5)
    colour = small(kind).fit(torch.rand(30, 3, 8, 8))
    with pytest.raises(ValueError, match="channels last"):
        colour.denoise(torch.rand(2, 8, 8, 3), 0.5)


@pytest.mark.parametrize("kind", READOUTS)
@pytest.mark.parametrize("change", [{"wavelet": "haar"}, {"family": "band"}, {"degree": 3}, {"radius": 2}, {"levels": 2}])
def test_a_setting_changed_after_the_fit_is_named(kind, change, tmp_path):
    """What was fitted is what is used and saved: a conflict is an error at every use, and setting it back mends it."""
    model, x = small(kind).fit(draw()), draw(4)
    before = {name: getattr(model, name) for name in change}
    first = model.denoise(x, 0.5)
    model.set_params(**change)
    for use in (lambda: model.denoise(x, 0.5), lambda: model.save(tmp_path / "m"), lambda: model.expected_mse(0.5)):
        with pytest.raises(SettingsError, match=next(iter(change))):
            use()
    assert torch.equal(model.set_params(**before).denoise(x, 0.5), first)


@pytest.mark.parametrize("kind", READOUTS)
def test_what_needs_no_new_fit_may_change(kind, tmp_path):
    """Ridge, basis and a lower degree act on the solve: they are used at once, and saved."""
    x = draw()
    model = small(kind).fit(x)
    model.set_params(ridge=1e-3, basis="hermite", degree=1)
    fresh = kind("independent", 1, levels=1, ridge=1e-3, basis="hermite").fit(x)
    assert torch.allclose(model.denoise(x, 0.5), fresh.denoise(x, 0.5), atol=1e-9)
    model.save(tmp_path / "m")
    assert torch.equal(kind.load(tmp_path / "m").denoise(x, 0.5), model.denoise(x, 0.5))


def test_moments_of_another_family_or_basis_are_refused():
    moments = WaveletScore("band", 2, levels=1).fit(draw()).moments_
    with pytest.raises(SettingsError, match="another family"):
        WaveletScore("independent", 2, levels=1).fit_moments(moments)
    with pytest.raises(SettingsError, match="another transform"):
        WaveletScore("band", 2, levels=1, wavelet="haar").fit_moments(moments)


@pytest.mark.parametrize("kind", READOUTS)
def test_moments_carry_the_pixel_range(kind):
    """Moments of another estimator's fit, or merged: denoised images are clamped to those images' range, not to [0, 1]."""
    signed = kind("independent", 2, levels=1).fit(2 * draw() - 1)
    moments = signed.moments_
    taken = kind("independent", 2, levels=1).fit_moments(moments)
    assert taken.pixel_range_ == (-1.0, 1.0) and torch.equal(taken.denoise(-draw(4), 0.1), signed.denoise(-draw(4), 0.1))
    assert kind("independent", 2, levels=1).fit_moments(moments.merge(kind("independent", 2, levels=1).fit(255 * draw()).moments_)).pixel_range_ == (-1.0, 255.0)
    other = {WaveletScore: SharedWaveletScore, SharedWaveletScore: WaveletScore}[kind]
    with pytest.raises(SettingsError, match=f"{other.readout} readout takes"):
        other("independent", 2, levels=1).fit_moments(moments)


# ----- gradients (O) ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READOUTS)
@pytest.mark.parametrize("family", ["independent", "local"])
def test_gradients_of_denoiser_and_score(kind, family):
    """gradcheck (central differences) and jacrev, forward and reverse, of the estimate and of the score."""
    model = kind(family, 3, levels=1).fit(draw(60))
    y = (draw(2, seed=3) + 0.2).requires_grad_()
    for function in (lambda t: model.denoise(t, 0.5, clamp=False), lambda t: model.score(t, vp(0.6))):
        assert torch.autograd.gradcheck(function, y, fast_mode=True)
    one = y.detach()[:1]
    jacobian = torch.func.jacrev(lambda t: model.denoise(t, 0.5, clamp=False))(one).reshape(64, 64)
    h = 1e-6 * torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    differences = (model.denoise(one + h, 0.5, clamp=False) - model.denoise(one - h, 0.5, clamp=False)) / 2e-6
    assert torch.allclose(jacobian, differences.reshape(64, 64).T, atol=1e-7)
    assert torch.allclose(model.denoise(y, 0.5).detach(), model.denoise(y.detach(), 0.5), atol=1e-12)


@pytest.mark.parametrize("kind", [*READOUTS, WienerScore, WienerOwnScore, PotentialScore])
@pytest.mark.parametrize("transform", ["jacrev", "jvp", "vmap"])
def test_a_first_call_inside_a_transform(kind, transform):
    """Nothing is solved yet: the solution is made of plain numbers, and the next call without a transform is right."""
    x, y = draw(), draw(2, seed=5)
    model, fresh = (kind("independent", 2, levels=1, wavelet="haar").fit(x) for _ in range(2))

    def one(image):
        return model.denoise(image[None], 0.5, clamp=False)[0]

    if transform == "jacrev":
        slope = torch.func.jacrev(one)(y[0]).reshape(64, 64) @ y[1].flatten()
    elif transform == "jvp":
        slope = torch.func.jvp(one, (y[0],), (y[1],))[1].flatten()
    else:
        slope = torch.func.vmap(lambda t: torch.func.jvp(one, (t,), (y[1],))[1])(y[:1]).flatten()
    step = 1e-5 * y[1]
    assert torch.allclose(slope, ((fresh.denoise(y[:1] + step, 0.5, clamp=False) - fresh.denoise(y[:1] - step, 0.5, clamp=False)) / 2e-5).flatten(), atol=1e-6)
    assert torch.equal(model.denoise(y, 0.5), fresh.denoise(y, 0.5)) and model.expected_mse(0.5) == pytest.approx(fresh.expected_mse(0.5))


# ----- noise per image (P), types (Q) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READOUTS)
def test_a_noise_level_for_each_image(kind, monkeypatch):
    """Each image as if it came alone; equal levels are solved once; degrees keep their order."""
    model, x = small(kind).fit(draw()), draw(5, seed=2)
    sigmas = torch.tensor([0.5, 0.1, 0.5, 1.0, 0.1], dtype=torch.float64)
    each = torch.cat([model.denoise(x[i : i + 1], float(s)) for i, s in enumerate(sigmas)])
    for given in (sigmas, sigmas.reshape(5, 1, 1, 1), sigmas.numpy(), sigmas.tolist(), [ve(float(s)) for s in sigmas]):
        assert torch.allclose(model.denoise(x, given), each, atol=1e-12)
    several = model.denoise_degrees(x, sigmas, [2, 1])
    assert torch.allclose(several[0], each, atol=1e-12)
    assert torch.allclose(several[1], torch.cat([model.denoise_degrees(x[i : i + 1], float(s), [1])[0] for i, s in enumerate(sigmas)]), atol=1e-12)
    seen = []
    inner = type(model).at_degrees
    monkeypatch.setattr(type(model), "at_degrees", lambda self, y, noise, degrees: seen.append(noise) or inner(self, y, noise, degrees))
    model.score(x, sigmas)
    assert sorted(level.sigma for level in seen) == [0.1, 0.5, 1.0]
    with pytest.raises(ValueError, match="3 noise levels for 5 image"):
        model.denoise(x, [0.1, 0.2, 0.3])


def test_levels_are_read_from_anything_with_a_value():
    for one in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5]), [0.5], ve(0.5)):
        assert as_levels(one, 3) == ve(0.5)


@pytest.mark.parametrize("kind", READOUTS)
def test_types_of_noisy_images(kind):
    """Arrays give arrays, half precision is computed in float32, uint8 is over 255, big-endian and reversed ones are read."""
    from PIL import Image

    model, x = small(kind).fit(draw()), draw(4, seed=5).float()
    right = model.denoise(x, 0.3)
    array = model.denoise(x.numpy(), 0.3)
    assert isinstance(array, np.ndarray) and np.array_equal(array, right.numpy())
    for odd in (x.numpy().astype(">f4"), x.numpy()[::-1].copy()[::-1], np.asarray(x.numpy(), order="F"), x.numpy().astype(np.longdouble)):
        assert np.allclose(model.denoise(odd, 0.3), right.numpy(), atol=1e-6)
    for half in (torch.float16, torch.bfloat16):
        out = model.denoise(x.to(half), 0.3)
        assert out.dtype == half and torch.equal(out, model.denoise(x.to(half).float(), 0.3).to(half))
    stored = (x * 255).round().to(torch.uint8)
    assert torch.equal(model.denoise(stored, 0.3), model.denoise(stored.float() / 255, 0.3))
    picture = Image.fromarray(stored[0, 0].numpy())
    assert np.array_equal(model.denoise(picture, 0.3), model.denoise(stored[:1], 0.3).numpy())
    assert model.denoise(x[:0], 0.3).shape == (0, 1, 8, 8)
    with pytest.raises(ValueError, match="uint8 or floating"):
        model.denoise("picture.png", 0.3)


@pytest.mark.parametrize("kind", READOUTS)
def test_parameters_of_numpy_and_torch_types(kind, tmp_path):
    """NumPy scalars and torch.device as parameters: files, checkpoints, clones and grid search take them."""
    x = draw()
    model = kind("independent", np.int64(2), levels=np.int32(1), ridge=np.float64(1e-6), device=torch.device("cpu"))
    model.fit(x, checkpoint=tmp_path / "c")
    model.save(tmp_path / "m")
    loaded = kind.load(tmp_path / "m")
    assert torch.equal(loaded.denoise(x, 0.3), model.denoise(x, 0.3)) and loaded.ridge == 1e-6
    assert clone(model).degree == 2
    search = GridSearchCV(model, {"ridge": np.array([1e6, 1e-6]), "degree": [1, 2]}, cv=2).fit(x)
    assert search.best_params_["ridge"] == 1e-6  # with no scorer named: minus the exact held-out error
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("kind", READOUTS)
def test_score_of_clean_images_is_minus_the_held_out_error(kind):
    """scikit-learn's score(X): against Monte Carlo at the same levels, within five standard errors."""
    train, test = draw(60), draw(50, seed=9)
    model = small(kind).fit(train)
    generator, errors = torch.Generator().manual_seed(4), []
    for sigma in (0.1, 0.25, 0.5, 1.0):
        many = test.repeat(40, 1, 1, 1)
        y = many + sigma * torch.randn(many.shape, generator=generator, dtype=many.dtype)
        errors.append((model.denoise(y, sigma, clamp=False) - many).square().flatten(1).mean(1))
    mean = torch.stack(errors).mean(0)
    spread = float(torch.stack(errors).view(4, 40, 50).std(1).square().sum(0).mean().sqrt() / 4 / 2000**0.5)
    assert abs(float(mean.mean()) + model.score(test)) < 5 * spread


# ----- files, pickles (K), caches (X), checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READOUTS)
def test_pickles_hold_everything(kind):
    model, x = small(kind).fit(draw()), draw(3)
    assert torch.equal(pickle.loads(pickle.dumps(model)).denoise(x, 0.5), model.denoise(x, 0.5))


def test_a_pickle_of_a_fit_within_a_memory_limit_works_in_another_process(tmp_path):
    """Spilled sums are read back when pickling: their temporary folder does not outlive the process."""
    script = f"""
import pickle, sys, torch
sys.path.insert(0, {str(tmp_path)!r})
from numeric import WaveletScore
x = torch.load({str(tmp_path / "x.pt")!r})
model = WaveletScore("local", 2, levels=1).fit(x, memory_limit=200_000)
assert model.moments_.spilled
pickle.dump((model, model.denoise(x, 0.5)), open({str(tmp_path / "m.pkl")!r}, "wb"))
"""
    torch.save(draw(20), tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", script], check=True)
    model, result = pickle.loads((tmp_path / "m.pkl").read_bytes())
    model._solutions = SolutionCache()  # nothing kept: the moments themselves must be there
    assert torch.equal(model.denoise(draw(20), 0.5), result)


def test_solutions_are_kept_by_bytes():
    """Twenty levels of a small model are solved once; a cache keeps no more bytes than it may."""
    model = small(WaveletScore).fit(draw())
    first = [model.solve(0.1 * k) for k in range(1, 21)]
    assert all(model.solve(0.1 * k) is solution for k, solution in enumerate(first, 1))
    cache = SolutionCache(100)
    for k in range(10):
        cache.put(k, str(k), 30)
    assert [k for k in range(10) if k in cache] == [7, 8, 9]


def test_twenty_levels_of_a_large_readout_are_kept_where_memory_allows(monkeypatch):
    """A shared local readout of degree 3 at 32 x 32 is 120 MiB a level: all of 20 with 16 GiB free; 8 where little is."""
    size = 15_361 * 1024 * 8
    for free, kept in ((16 * 2**30, 20), (2**30, 8), (None, 8)):
        cache = SolutionCache()
        for k in range(20):
            held = min(k, kept) * size
            monkeypatch.setattr("numeric.scores.cache.free_memory", lambda _device, free=free, held=held: free and free - held)
            cache.put(k, k, size)
        assert sum(k in cache for k in range(20)) == kept


def test_shared_fit_takes_up_a_checkpoint(tmp_path, monkeypatch):
    """Killed after some batches and taken up: the same bits; other data are refused."""
    x, path = draw(100), tmp_path / "c"
    whole = SharedWaveletScore("band", 2, levels=1).fit(x, batch_size=10)
    from numeric.scores import joint

    calls, inner = [], joint.add_gram

    def dies(gram, phi):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        inner(gram, phi)

    monkeypatch.setattr(joint, "add_gram", dies)
    with pytest.raises(KeyboardInterrupt):
        SharedWaveletScore("band", 2, levels=1).fit(x, batch_size=10, checkpoint=path, checkpoint_seconds=0)
    monkeypatch.setattr(joint, "add_gram", lambda gram, phi: calls.append(2) or inner(gram, phi))
    resumed = SharedWaveletScore("band", 2, levels=1).fit(x, batch_size=10, checkpoint=path)
    assert calls.count(2) < 10 and torch.equal(resumed.moments_.gram, whole.moments_.gram)
    with pytest.raises(ValueError, match="other data or batches"):
        SharedWaveletScore("band", 2, levels=1).fit(x[:50], batch_size=10, checkpoint=path)
    with pytest.raises(ValueError, match="unfinished fit"):
        SharedWaveletScore.load(path)


@pytest.mark.parametrize("kind", READOUTS)
def test_nothing_fitted_and_the_wrong_partner_are_named(kind):
    with pytest.raises(NotFittedError, match="call fit"):
        kind().divergence(draw(2), 0.5)
    model, other = kind(levels=1).fit(draw()), {WaveletScore: SharedWaveletScore, SharedWaveletScore: WaveletScore}[kind]
    with pytest.raises(SettingsError, match=f"cannot merge with a {other.__name__}"):
        model.merge(other(levels=1).fit(draw()))
    for degree in ("3", 2.5, [1], True):
        with pytest.raises(ValueError, match="degree must be a whole number"):
            kind("independent", degree).fit(draw())
    for level in ("high", None):
        with pytest.raises(ValueError, match="no noise level: give a number"):
            model.denoise(draw(2), level)


# ----- bad input before the work (Y) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READOUTS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:7"}, "cannot be used here"),
        ({"device": "quantum"}, "cannot be used here"),
        ({"ridge": -1}, "finite number >= 0, got -1"),
        ({"ridge": "foo"}, "unknown ridge 'foo'"),
        ({"basis": "chebyshev"}, "unknown basis"),
        ({"ridge_side": "both"}, "unknown ridge side"),
        ({"radius": "1"}, "radius must be a whole number, got '1'"),
    ],
)
def test_bad_parameters_are_named_before_a_batch_is_read(kind, options, message, monkeypatch):
    monkeypatch.setattr("numeric.data.ImageSet.batches", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match=message):
        small(kind, **options).fit(draw())


class Half(Denoiser):
    """The estimate y / 2."""

    def estimate(self, y, noise):
        return y / 2


def test_a_denoiser_is_ten_lines():
    x = torch.full((2, 1, 4, 4), 3.0)
    assert float(Half().denoise(x, 0.5).max()) == 1.0 and float(Half().denoise(x, 0.5, clamp=False).max()) == 1.5
    assert torch.allclose(Half().score(x, [0.5, 1.0])[:, 0, 0, 0], torch.tensor([-6.0, -1.5]))
