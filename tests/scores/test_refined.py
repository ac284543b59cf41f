"""Mixture, then features: stages of local experts are least squares, do no harm, vanish on Gaussian data and help on others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from torch.autograd import forward_ad

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.pspc import PSPCDenoiser
from numeric.data import load_mnist
from numeric.denoiser import NotFittedError
from numeric.evaluation.identity import identity
from numeric.fingerprint import code_hash, modules_of
from numeric.noise import NoiseLevel, ve, vp
from numeric.results import FileError, load_tensors, save_tensors
from numeric.scores.coordinates import wiener_settings
from numeric.scores.experts import apply_stage, features, fit_stage, responsibilities, window
from numeric.scores.gaussians import PrincipalMixture
from numeric.scores.levels import NoImagesError
from numeric.scores.moments import MomentError
from numeric.scores.refined import RefinedScore
from numeric.scores.wiener import WienerScore
from numeric.shards import as_shards
from tests.pretend_device import pretend_device
from tests.threads import torch_threads

SMALL = {"components": 3, "directions": 20, "experts": (1, 4), "pixels": 6000, "side": 3, "dims": 4, "folds": 2}


def bars(count: int, generator: torch.Generator, side: int = 8) -> torch.Tensor:
    """Images of one bright row or column: far from Gaussian."""
    x = torch.zeros(count, 1, side, side)
    place = torch.randint(side, (count,), generator=generator)
    upright = torch.rand(count, generator=generator) < 0.5
    rows = torch.arange(count)
    x[rows[upright], 0, place[upright]] = 1.0
    x[rows[~upright], 0, :, place[~upright]] = 1.0
    return x


def noisy_bars(count: int, generator: torch.Generator) -> torch.Tensor:
    """Bars of random brightness on a smooth ground: no two images alike."""
    x = bars(count, generator) * (0.5 + 0.5 * torch.rand(count, 1, 1, 1, generator=generator))
    ramp = torch.linspace(-1, 1, 8)
    slopes = 0.2 * torch.randn(2, count, 1, 1, 1, generator=generator)
    return x + slopes[0] * ramp[:, None] + slopes[1] * ramp


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return bars(600, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(images) -> RefinedScore:
    return RefinedScore(**SMALL).fit(images).prepare_levels([0.4])


def maps_of(images, generator):
    noisy = images + 0.4 * torch.randn(images.shape, generator=generator)
    return [noisy, LinearDenoiser().fit(images).estimate(noisy, ve(0.4))]


def stage_of(maps, clean, experts, ridge=1e-9):
    generator = torch.Generator().manual_seed(1)
    return fit_stage(maps, clean, (3, 3), 3, experts, 4, 0.3, ridge, 10**6, generator)


def test_windows_are_what_a_loop_cuts(generator):
    x = torch.randn(2, 3, 5, 4, generator=generator)
    padded = torch.nn.functional.pad(x, (1,) * 4, mode="replicate")
    for number, row, column in ((0, 0, 0), (1, 4, 3), (1, 2, 1)):
        place = torch.tensor([number * 20 + row * 4 + column])
        expected = padded[number, :, row : row + 3, column : column + 3].flatten()
        assert torch.equal(window(x, 3, place)[0], expected)
        assert torch.equal(window(x, 3)[place[0]], expected)


def test_one_expert_is_the_least_squares_of_all_windows(images, generator):
    """Against NumPy's lstsq."""
    clean = images.double()
    maps = [clean + 0.4 * torch.randn(clean.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    stage = stage_of(maps, clean, 1)
    f, target = features(maps, (3, 3)).numpy(), clean.flatten().numpy()
    weights = np.linalg.lstsq(f, target, rcond=None)[0]
    assert np.abs(apply_stage(stage, maps).flatten().numpy() - f @ weights).max() < 1e-6


def test_a_stage_is_no_worse_than_its_start_and_within_its_bound(images, generator):
    """sum |x - D|^2 <= sum_k sum r_k |x - e - W_k f|^2 <= sum |x - e|^2, on the pixels that it was fitted to."""
    maps = maps_of(images, generator)
    stage = stage_of(maps, images, 6, ridge=1.0)
    r, f = responsibilities(stage, window(maps[-1], 3)), features(maps, (3, 3))
    assert torch.allclose(r.sum(1), torch.ones(len(r)), atol=1e-5) and r.amax(1).mean() < 0.999
    target = (images - maps[-1]).flatten()
    bound = float((r * (target[:, None] - f @ stage.weights[:, :, 0].T).square()).sum())
    error = float((apply_stage(stage, maps) - images).square().sum())
    assert error <= bound <= float(target.square().sum())


def test_one_component_is_the_linear_denoiser(images, generator):
    """A mixture of one, and the whole model without stages or features: the exact Gaussian posterior mean."""
    noisy, level = images[:5].double() + torch.randn(5, 1, 8, 8, generator=generator, dtype=torch.float64), vp(0.6)
    linear = LinearDenoiser().fit(images.double())
    mixture = PrincipalMixture.fit(images.flatten(1).double(), linear.mean_, linear.eigenvectors_[:, -10:], 1, 50.0, 0)
    start = linear.estimate(noisy, level)
    assert torch.allclose(mixture.estimate(noisy.flatten(1), start.flatten(1), level), start.flatten(1), atol=1e-10)
    plain = RefinedScore(readouts=(), components=1, experts=()).fit(images.double())
    same = WienerScore(degree=1, coordinates="pixel").fit(images.double())
    assert torch.allclose(plain.estimate(noisy, level), same.estimate(noisy, level), atol=1e-9)


def test_without_pooling_it_is_the_mixture_of_the_same_clusters(images, generator):
    """All directions, a prior worth no image: GaussianMixtureDenoiser by the labels of the same k-means."""
    x = (images + 0.05 * torch.randn(images.shape, generator=generator)).double()
    linear = LinearDenoiser().fit(x)
    mean, basis = linear.mean_, linear.eigenvectors_
    mixture = PrincipalMixture.fit(x.flatten(1), mean, basis, 3, 1e-12, 0)
    labels = KMeans(3, n_init=1, max_iter=25, random_state=0).fit_predict(((x.flatten(1) - mean) @ basis).numpy())
    other = GaussianMixtureDenoiser("class").fit(x, labels)
    noisy = x[:6] + 0.5 * torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    found = mixture.estimate(noisy.flatten(1), linear.estimate(noisy, ve(0.5)).flatten(1), ve(0.5))
    assert torch.allclose(found, other.estimate(noisy, ve(0.5)).flatten(1), atol=1e-5)


def test_on_gaussian_data_it_is_the_exact_posterior_mean(generator):
    """The stages add their sampling error only, which falls as images are added."""
    mix = 0.3 * torch.randn(64, 64, generator=generator) / 8
    away = []
    for count in (1000, 8000):
        x = (torch.randn(count, 64, generator=generator) @ mix + 0.5).reshape(-1, 1, 8, 8)
        model = RefinedScore(**{**SMALL, "components": 1, "pixels": 10**6}).fit(x)
        noisy = x[:500] + 0.3 * torch.randn(500, 1, 8, 8, generator=generator)
        covariance = mix.T @ mix
        exact = 0.5 + (noisy.flatten(1) - 0.5) @ torch.linalg.solve(covariance + 0.09 * torch.eye(64), covariance)
        away.append(float((model.estimate(noisy, ve(0.3)).flatten(1) - exact).square().mean()))
    least = float(torch.trace(covariance - covariance @ torch.linalg.solve(covariance + 0.09 * torch.eye(64), covariance))) / 64
    assert away[1] < 0.3 * away[0] and away[1] < 0.03 * least


def test_it_beats_linear_and_mixture_on_held_out_bars(model, generator):
    test = bars(300, generator)
    error, spread = model.held_out_mse(test, 0.4)
    linear = LinearDenoiser().fit(bars(2000, generator))
    start = RefinedScore(**{**SMALL, "experts": ()}).fit(bars(600, generator))
    noisy = test + 0.4 * torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    rival = float((linear.denoise(noisy, 0.4) - test).square().mean())
    assert error + 5 * spread < min(rival, start.held_out_mse(test, 0.4)[0])
    # The figure is a mean over images: another draw of the noise agrees with it within their standard errors.
    other, more = model.held_out_mse(test, 0.4, seed=1)
    assert abs(error - other) < 5 * (spread**2 + more**2) ** 0.5


def test_vp_is_ve_and_types_are_kept(model, images, generator):
    noisy, level = images[:4] + 0.4 * torch.randn(4, 1, 8, 8, generator=generator), NoiseLevel(0.5, 0.2)
    assert torch.allclose(model.denoise(0.5 * noisy, level), model.denoise(noisy, 0.4), atol=1e-6)
    assert torch.allclose(model.denoise(noisy.double(), 0.4).float(), model.denoise(noisy, 0.4), atol=1e-4)
    assert len(model.stages_) == 1
    score = model.score(noisy, 0.4)
    assert torch.allclose(noisy + 0.16 * score, model.estimate(noisy, ve(0.4)), atol=1e-5)


@pytest.mark.parametrize("transform", ["jacrev", "jvp", "vmap"])
def test_a_first_call_inside_a_transform(model, images, transform):
    """The level is made of plain numbers there, the same that it is made of outside, and the next call is right."""
    fresh, (x, other) = RefinedScore(**SMALL).fit(images), images[:2].clone()

    def slope(one):
        def of(image):
            return one.denoise(image[None], 0.4, clamp=False)[0]

        if transform == "jacrev":
            return torch.func.jacrev(of)(x).reshape(64, 64) @ other.flatten()
        along = torch.func.jvp(of, (x,), (other,))[1] if transform == "jvp" else None
        return along if along is not None else torch.func.vmap(lambda t: torch.func.jvp(of, (t,), (other,))[1])(x[None])

    assert torch.equal(slope(fresh), slope(model))
    assert torch.equal(fresh.denoise(images[:3], 0.4), model.denoise(images[:3], 0.4))


@pytest.mark.parametrize("of", ["model", "patches"])
def test_gradient_is_the_finite_difference(of, images, generator, request):
    """Through the estimates and, where there are any, through given estimators."""
    one = request.getfixturevalue(of)
    y = (images[:1] + 0.4 * torch.randn(1, 1, 8, 8, generator=generator)).double().requires_grad_()
    direction, step = torch.randn(1, 1, 8, 8, generator=generator, dtype=torch.float64), 1e-5
    total = lambda z: one.estimate(z, ve(0.4)).square().sum()  # noqa: E731
    slope = float((torch.autograd.grad(total(y), y)[0] * direction).sum())
    change = float((total(y + step * direction) - total(y - step * direction)).detach())
    assert slope == pytest.approx(change / (2 * step), rel=1e-4)


def test_a_file_gives_back_the_same_bits(model, images, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = RefinedScore.load(path)
    assert torch.equal(again.denoise(images[:9], 0.4), model.denoise(images[:9], 0.4))
    assert again.get_params() == model.get_params() and again.parameter_count(0.4) == model.parameter_count(0.4)
    with pytest.raises(NoImagesError, match=r"sigma 0\.7 is not prepared"):
        again.denoise(images[:1], 0.7)
    tensors, metadata = load_tensors(path)
    tensors.pop("mixture.basis")
    save_tensors(path, tensors, metadata)
    with pytest.raises(FileError, match=r"lacks 'mixture\.basis'"):
        RefinedScore.load(path)
    WienerScore(degree=2).fit(images).save(path)
    with pytest.raises(MomentError, match="of the wiener readout, not of refined"):
        RefinedScore.load(path)


def test_a_checkpoint_saves_the_levels_that_are_made(model, images, tmp_path):
    path = tmp_path / "levels.safetensors"
    model.save(path)
    fresh = RefinedScore(**SMALL).fit(images).prepare_levels([0.4], checkpoint=path)
    assert fresh.seconds_ == model.seconds_  # taken over, not made again
    fresh.prepare_levels([0.4, 0.8], checkpoint=path)
    assert sorted(RefinedScore.load(path).stages_) == [0.4, 0.8]
    with pytest.raises(MomentError, match="other images or settings"):
        RefinedScore(**{**SMALL, "ridge": 3.0}).fit(images).prepare_levels([0.4], checkpoint=path)


def test_grid_search_needs_no_scoring(images):
    """Without a noise level the score is minus the held-out error, the mean over the usual levels."""
    model = RefinedScore(readouts=(), components=2, experts=(2,), pixels=500, side=3, dims=2)
    search = GridSearchCV(model, {"softness": [0.5, 1.0]}, cv=2, error_score="raise").fit(images[:40].numpy())
    best = search.best_estimator_
    assert search.best_score_ < 0 and set(search.best_params_) == {"softness"}
    assert best.score(images[:20]) == pytest.approx(-np.mean([best.held_out_mse(images[:20], s)[0] for s in (0.1, 0.25, 0.5, 1.0)]))
    assert best.score(images[:2], 0.5).shape == images[:2].shape


def test_shards_and_clusters_are_refused_with_what_to_do_instead(images):
    for given in ({"images": images, "client": "local:0"}, {"images": as_shards(images, shard_size=100)}):
        with pytest.raises(ValueError, match=r"many times .* fit it in this process on a sample"):
            RefinedScore(**SMALL).fit(**given)


def test_memory_is_foreseen_before_the_images_are_read(images, monkeypatch):
    monkeypatch.setattr("numeric.memory.free_memory", lambda *_: 10**5)
    with pytest.raises(MemoryError, match=r"600 images of 64 pixels need about 0\.0 GiB"):
        RefinedScore(**SMALL).fit(images)


def test_memory_of_estimators_images_is_foreseen(images, monkeypatch):
    """One that sums over images holds all 600, and those outside each of two folds: 1,200 of 64 numbers; a linear one holds none."""
    asked: list[float] = []
    monkeypatch.setattr("numeric.scores.refined.need", lambda size, *_: asked.append(size))
    for estimator in (LinearDenoiser(), PSPCDenoiser(5, n_train=100), PSPCDenoiser(5)):
        RefinedScore(**{**SMALL, "folds": 2, "estimators": (estimator,)}).fit(images)
    assert asked[1] - asked[0] == 4 * 64 * 300 and asked[2] - asked[0] == 4 * 64 * 1200


def test_fewer_distinct_windows_than_experts_have_finite_shares():
    """Centres without pixels have finite shares: what a file may hold."""
    x = torch.ones(6, 1, 4, 4) * torch.tensor([0.0, 1.0]).repeat(3).reshape(-1, 1, 1, 1)
    maps = [x, x.flip(0)]
    stage = fit_stage(maps, x, (1, 1), 1, 5, 1, 1.0, 1.0, 96, torch.Generator().manual_seed(0))
    assert bool(stage.log_weights.isfinite().all()) and bool(apply_stage(stage, maps).isfinite().all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 4}, "side must be odd, got 4"), ({"components": 0}, "components must be >= 1"), ({"dims": 2.5}, "whole, got 2.5"),
        ({"experts": (2, 0)}, "at least one expert"), ({"folds": 1}, "folds must be >= 2, got 1"),
        ({"readouts": "pixel:3"}, r"write \('pixel:3',\)"), ({"readouts": ("pixel:1",)}, "degree >= 2"), ({"readouts": ("x:3",)}, "got 'x:3'"),
        ({"spread": 0}, "spread must be >= 1"), ({"estimators": PSPCDenoiser(3)}, r"such as \(PSPCDenoiser"),
        ({"estimators": ("PSPC:3",)}, "list of denoisers with fit"),
        ({"folds": 700}, "600 images in 700 folds"),
        ({"ridge": -1.0}, "ridge must be a finite number > 0"), ({"components": 900}, "fewer components"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_the_work(settings, message, images):
    with pytest.raises(ValueError, match=message):
        RefinedScore(**{**SMALL, **settings}).fit(images)


def test_it_must_be_fitted():
    with pytest.raises(NotFittedError, match="call fit"):
        RefinedScore().denoise(torch.zeros(1, 1, 8, 8), 0.4)


def test_it_starts_from_each_readout_fitted_on_all_images(images, generator):
    """Without stages the estimate is the last readout's own, the file's too; the others are maps beside it (Wiener features)."""
    texts = ("pixel:2", "both:3:local")
    model = RefinedScore(readouts=texts, components=1, experts=()).fit(images)
    noisy = images[:3] + 0.4 * torch.randn(3, 1, 8, 8, generator=generator)
    expected = [WienerScore(**wiener_settings(text)).fit(images).estimate(noisy, ve(0.4)) for text in texts]
    assert torch.allclose(model.estimate(noisy, ve(0.4)), expected[1], atol=1e-5) and not torch.allclose(expected[0], expected[1], atol=1e-3)
    with_stage = RefinedScore(**{**SMALL, "readouts": texts, "components": 1}).fit(images).prepare_levels([0.4])
    maps = with_stage._estimates(with_stage.bases_, None, [], noisy, ve(0.4))
    assert len(maps) == 4 and torch.allclose(maps[2], expected[0], atol=1e-5)


def test_folds_are_estimated_from_the_others(images):
    """Each image is in the part of one fold and in the rest of all others."""
    model = RefinedScore(**{**SMALL, "folds": 4, "pixels": 10**6}).fit(images)
    assert [len(fold.images) for fold in model.folds_] == [150] * 4 and [fold.moments.count for fold in model.folds_] == [450] * 4
    for fold in model.folds_:
        both = torch.cat([fold.images[:], fold.moments.sets[0][:]]).flatten(1)
        assert torch.equal(both.sum(0), images.flatten(1).sum(0))
    few = RefinedScore(**{**SMALL, "pixels": 640}).fit(images)  # one pixel in four of so many images as are needed
    assert sum(len(fold.images) for fold in few.folds_) == 40


PATCHES = {**SMALL, "readouts": ("pixel:2",), "estimators": (LocalScoreMachine(3, False, n_train=None), PSPCDenoiser({0.4: 3}, n_train=None))}


@pytest.fixture(scope="module")
def patches(images) -> RefinedScore:
    return RefinedScore(**PATCHES).fit(images).prepare_levels([0.4])


def test_given_estimators_are_maps_and_the_last_is_the_start(images, generator):
    noisy = images[:3] + 0.4 * torch.randn(3, 1, 8, 8, generator=generator)
    model = RefinedScore(**{**PATCHES, "experts": ()}).fit(images)
    expected = [one.fit(images).estimate(noisy, ve(0.4)) for one in map(clone, PATCHES["estimators"])]
    assert torch.equal(model.estimate(noisy, ve(0.4)), expected[1])
    maps = model._estimates(model.bases_, model.mixture_, model.estimators_, noisy, ve(0.4))
    assert len(maps) == 6 and torch.equal(maps[4], expected[0])
    assert model.label == "Wiener pixels n=2, mixture of 3, LS, PSPC, then 0 stages of experts"
    # VP is VE of y / a there too
    scaled = NoiseLevel(0.5, 0.2)
    assert torch.allclose(model.estimate(0.5 * noisy, scaled), expected[1], atol=1e-6)


def test_estimators_never_saw_the_images_of_their_fold(patches):
    """A patch machine that holds an image returns it: those of a fold hold all others."""
    for fold in patches.folds_:
        seen = {row.numpy().tobytes() for one in fold.estimators for row in one.data_[:]}
        rest = {row.numpy().tobytes() for row in fold.moments.sets[0][:]}
        assert seen == rest and all(len(one.data_) == fold.moments.count for one in fold.estimators)
    assert all(len(one.data_) == 600 for one in patches.estimators_)
    assert not any(hasattr(one, "data_") for one in patches.estimators)  # those given are left as they are


def test_stages_on_patch_machines_are_better_than_either(generator):
    """Held out, beyond the standard error of the difference on the same noise; the number of parameters counts the images held."""
    x, test = (noisy_bars(count, generator) for count in (600, 200))
    both, alone = RefinedScore(**PATCHES).fit(x), RefinedScore(**{**PATCHES, "estimators": ()}).fit(x)
    noisy = test + 0.4 * torch.randn(test.shape, generator=generator)

    def errors(one):
        return (one.denoise(noisy, 0.4) - test).square().flatten(1).mean(1)

    mine = errors(both)
    for rival in (alone, *both.estimators_):
        gain = errors(rival) - mine
        assert float(gain.mean()) > 3 * float(gain.std() / len(gain) ** 0.5)
    assert both.parameter_count(0.4) > 2 * 600 * 64 > alone.parameter_count(0.4)


def test_a_file_names_its_estimators_and_asks_for_the_images(patches, images, tmp_path):
    path, machines = tmp_path / "model.safetensors", PATCHES["estimators"]
    patches.save(path)
    again = RefinedScore.load(path, estimators=machines, images=images)
    noisy = images[:3] + 0.4 * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.denoise(noisy, 0.4), patches.denoise(noisy, 0.4)) and again.label == patches.label
    for given, error, message in (
        ({}, ValueError, r"fitted with the estimators .*LocalScoreMachine\(.*patch=3"),
        ({"estimators": machines[:1], "images": images}, ValueError, "given are"),
        ({"estimators": (LocalScoreMachine(5, False, n_train=None), machines[1]), "images": images}, ValueError, "given are"),
        ({"estimators": machines}, ValueError, "need the images of the fit"),
        ({"estimators": machines, "images": images.flip(0)}, MomentError, "not those that .* was fitted to"),
    ):
        with pytest.raises(error, match=message):
            RefinedScore.load(path, **given)
    fresh = RefinedScore(**PATCHES).fit(images).prepare_levels([0.4], checkpoint=path)
    assert fresh.seconds_ == patches.seconds_  # taken over
    with pytest.raises(MomentError, match="other images or settings"):
        RefinedScore(**{**PATCHES, "estimators": machines[::-1]}).fit(images).prepare_levels([0.4], checkpoint=path)
    function = RefinedScore(**{**SMALL, "experts": (), "estimators": (PSPCDenoiser(lambda sigma: 3),)}).fit(images)
    for refused in (function.save, lambda path: function.prepare_levels([0.4], checkpoint=path)):
        with pytest.raises(ValueError, match=r"function patch=.* give a table"):
            refused(tmp_path / "function.safetensors")
    assert function.stages_ == {}  # refused before the level is made


def test_the_code_behind_estimators_is_part_of_a_key(patches, model):
    assert modules_of(patches) == ["numeric.baselines.patches", "numeric.baselines.pspc", "numeric.scores.refined"]
    assert modules_of(model) == ["numeric.scores.refined"]
    assert identity(patches)["code"] == code_hash(*modules_of(patches)) != identity(model)["code"]


@pytest.mark.slow
def test_real_digits_lie_a_third_below_linear(mnist32, mnist32_test):
    with torch_threads(2):
        model = RefinedScore(components=20, directions=100, experts=(1, 32), pixels=200_000).fit(mnist32)
        test = mnist32_test[:200]
        error, spread = model.held_out_mse(test, 0.25)
        noisy = test + 0.25 * torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
        linear = float((LinearDenoiser().fit(mnist32).denoise(noisy, 0.25) - test).square().mean())
        assert error + 3 * spread < 2 / 3 * linear


@pytest.mark.slow
def test_patch_machines_on_all_digits_are_refined_below_either(mnist32_test):
    """sigma 0.1, all training images, two threads: paired on the same images and noise, beyond three standard errors."""
    machines = (LocalScoreMachine(3, False, n_train=None), PSPCDenoiser({0.1: 5}, n_train=None))
    with torch_threads(2):
        model = RefinedScore(components=20, directions=100, experts=(1, 16), pixels=500_000, spread=1, estimators=machines).fit(load_mnist("train", size=32, download=False))
        test = mnist32_test[:100]
        noisy = test + 0.1 * torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
        mine = (model.denoise(noisy, 0.1) - test).square().flatten(1).mean(1)
        for one in model.estimators_:
            gain = (one.denoise(noisy, 0.1) - test).square().flatten(1).mean(1) - mine
            assert float(gain.mean()) > 3 * float(gain.std()) / len(gain) ** 0.5


def test_every_number_is_the_same_on_another_device(images, model, tmp_path):
    """Fit, a level, estimates, error and files on a device that is not the CPU (tests.pretend_device) give the CPU's numbers."""
    y = images[:5].double() + 0.4 * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected, error = model.denoise(y, 0.4), model.held_out_mse(images[:30], 0.4)
    model.save(tmp_path / "here")
    with pretend_device() as device:
        there = RefinedScore(**SMALL, device=device).fit(images).prepare_levels([0.4])
        found = there.denoise(y.to(device), 0.4)
        assert found.device.type != "cpu" and there.held_out_mse(images[:30], 0.4) == pytest.approx(error, rel=1e-5)
        assert torch.allclose(found.cpu(), expected, atol=1e-6)
        moved = RefinedScore.load(tmp_path / "here", device).denoise(y.to(device), 0.4)
        assert torch.allclose(moved.cpu(), expected, atol=1e-9)
        there.save(tmp_path / "there")
    assert torch.allclose(RefinedScore.load(tmp_path / "there").denoise(y, 0.4), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("both:3", ("both", 3, "independent", 1)), ("pixel:5:local", ("pixel", 5, "local", 1)), ("wavelet:2:local:2", ("wavelet", 2, "local", 2)),
        ("pixel:0", None), ("pixel", None), ("x:3", None), ("both:3:near", None), ("both:3:local:0", None), ("both:3:local:1:1", None),
    ],
)  # fmt: skip
def test_readouts_are_read_from_text(text, settings):
    if settings is None:
        with pytest.raises(ValueError, match=f"got '{text}'"):
            wiener_settings(text)
    else:
        assert wiener_settings(text) == dict(zip(("coordinates", "degree", "pixel_family", "radius"), settings))


def test_forward_and_backward_derivatives_of_a_stage_agree(images, generator):
    """Pixels are divided among experts where no derivative is asked for; with one, by autograd or by dual numbers, the estimate is the same."""
    maps = maps_of(images[:20], generator)
    stage = stage_of(maps, images[:20], 6, ridge=1.0)
    plain, along = apply_stage(stage, maps), torch.randn(maps[1].shape, generator=generator)
    last = maps[1].clone().requires_grad_()
    value = apply_stage(stage, [maps[0], last])
    assert torch.allclose(value, plain, atol=1e-6)
    slope = (torch.autograd.grad((value * along).sum(), last)[0] * along).sum()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(maps[1], along)
        found, tangent = forward_ad.unpack_dual(apply_stage(stage, [maps[0], dual]))
    assert torch.allclose(found, plain, atol=1e-6) and tangent is not None
    assert float((tangent * along).sum()) == pytest.approx(float(slope), rel=1e-4)
