"""Baselines beside closed forms, each other and other libraries; preconditioning beside Gaussian data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from numeric.baselines import trained
from numeric.baselines.cnn import CNN
from numeric.baselines.configs import CONFIGS, get_config, parameter_count
from numeric.baselines.edm import EDM
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import NetworkDenoiser, load_network, save_network
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalityDenoiser, LocalScoreMachine
from numeric.baselines.plateau import images_seen
from numeric.baselines.shrinkage import WaveletShrinkage
from numeric.baselines.unet import UNet
from numeric.data import ImageSet
from numeric.evaluation.sweep import noise_like
from numeric.noise import NoiseLevel, ve, vp
from numeric.scores.shared import SharedWaveletScore


@pytest.fixture
def images(generator) -> ImageSet:
    return ImageSet(torch.rand(12, 1, 6, 6, generator=generator, dtype=torch.float32))


def noisy(images: ImageSet, sigma: float, count: int = 4) -> torch.Tensor:
    x = images[:count]
    return x + sigma * noise_like(x, 7)


# ----- linear ----------------------------------------------------------------------------------------------------------


def test_linear_is_the_gaussian_posterior_mean(images):
    """(25), (26) against ``mu + C (C + s^2 I)^-1 (y - mu)`` with C from NumPy; one fit serves every noise level."""
    model = LinearDenoiser().fit(images)
    x = images[:].double().flatten(1).numpy()
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    for sigma in (0.05, 0.4, 3.0):
        y = noisy(images, sigma).double()
        flat = y.flatten(1).numpy()
        direct = mean + (flat - mean) @ np.linalg.solve(covariance + sigma**2 * np.eye(len(mean)), covariance)
        assert np.allclose(model.estimate(y, ve(sigma)).flatten(1).numpy(), direct, atol=1e-10)
        trace = np.trace(
            covariance - covariance @ np.linalg.solve(covariance + sigma**2 * np.eye(len(mean)), covariance)
        )
        assert model.expected_mse(sigma) == pytest.approx(trace / len(mean), rel=1e-9)


def test_linear_in_chunks_is_linear_at_once(images):
    one, many = LinearDenoiser().fit(images), LinearDenoiser().fit(images, batch_size=5)
    assert torch.allclose(one.eigenvalues_, many.eigenvalues_, atol=1e-12)


def test_shared_readout_at_degree_one_is_linear(images):
    """Lemma C.1: the shared readout at degree 1 is the Wiener denoiser."""
    data = ImageSet(torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    shared = SharedWaveletScore("independent", 1, levels=1, ridge=1e-12).fit(data)
    y = noisy(data, 0.3)
    assert torch.allclose(
        shared.estimate(y.double(), ve(0.3)), LinearDenoiser().fit(data).estimate(y.double(), ve(0.3)), atol=1e-6
    )


# ----- optimal and local -----------------------------------------------------------------------------------------------


def direct_posterior(x: torch.Tensor, y: torch.Tensor, sigma: float) -> torch.Tensor:
    d2 = (y.flatten(1)[:, None] - x.flatten(1)[None]).square().sum(2)
    return (torch.softmax(-d2 / (2 * sigma**2), 1) @ x.flatten(1)).reshape(y.shape)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_chunks_change_nothing(images, sigma):
    """Running softmax against softmax over all images at once, for every machine that sums in chunks."""
    y = noisy(images, sigma).double()
    data = ImageSet(images[:].double())
    assert torch.allclose(
        OptimalDenoiser(chunk=5).fit(data).estimate(y, ve(sigma)),
        direct_posterior(data[:].double(), y, sigma),
        atol=1e-6,
    )
    for make in (
        lambda c: LocalScoreMachine(3, False, chunk=c),
        lambda c: LocalScoreMachine(3, True, chunk=c),
        lambda c: LocalityDenoiser(0.1, chunk=c),
    ):
        one, many = make(100).fit(data).estimate(y, ve(sigma)), make(5).fit(data).estimate(y, ve(sigma))
        assert torch.allclose(one, many, atol=1e-10)


def test_a_window_as_wide_as_the_image_is_the_optimal_denoiser(images):
    """Kamb and Ganguli: the LS machine at full patch size is the ideal score machine; so is ELS with broken borders."""
    y, sigma = noisy(images, 0.4).double(), 0.4
    expected = direct_posterior(images[:].double(), y, sigma)
    for machine in (
        LocalScoreMachine(11, False, "zeros"),
        LocalScoreMachine(11, True, "broken"),  # every pixel is a border class of its own: nothing is pooled
        LocalityDenoiser(threshold=0.0),
    ):
        assert torch.allclose(machine.fit(images).estimate(y, ve(sigma)), expected, atol=1e-5)


@pytest.mark.parametrize("border", ["circular", "zeros", "broken"])
@pytest.mark.parametrize("equivariant", [True, False])
def test_local_machine_against_its_definition(images, border, equivariant):
    """The sum over training windows written out with loops."""
    y, sigma, side = noisy(images, 0.5, 1).double()[0, 0], 0.5, 3
    x = images[:4].double()[:, 0]
    machine = LocalScoreMachine(side, equivariant, border, chunk=3).fit(images.take(4))
    got = machine.estimate(y[None, None], ve(sigma))[0, 0]

    def window(image, i, j):
        rows = [[(i + a, j + b) for b in (-1, 0, 1)] for a in (-1, 0, 1)]

        def value(r, c):
            if border == "circular":
                return float(image[r % 6, c % 6])
            return float(image[r, c]) if 0 <= r < 6 and 0 <= c < 6 else 0.0

        return np.array([[value(r, c) for r, c in row] for row in rows])

    def place(i):
        return "low" if i == 0 else "high" if i == 5 else "inside"

    for i, j in [(0, 0), (0, 3), (2, 4), (5, 5)]:
        weights, values = [], []
        for image in x:
            for k in range(6) if equivariant else [i]:
                for l in range(6) if equivariant else [j]:
                    if border == "broken" and equivariant and (place(i), place(j)) != (place(k), place(l)):
                        continue
                    distance = np.square(window(y, i, j) - window(image, k, l)).sum()
                    weights.append(-distance / (2 * sigma**2))
                    values.append(float(image[k, l]))
        weights = np.exp(np.array(weights) - max(weights))
        assert float(got[i, j]) == pytest.approx(float(weights @ values / weights.sum()), abs=1e-6)


@given(st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_circular_machine_is_translation_equivariant(down, right):
    """Shifting the noisy image shifts the output (ELS, periodic border)."""
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    machine = LocalScoreMachine(3, True, "circular").fit(x)
    y = (x[:2] + 0.3 * noise_like(x[:2], 1)).double()
    shifted = machine.estimate(y.roll((down, right), (2, 3)), ve(0.3))
    assert torch.allclose(shifted, machine.estimate(y, ve(0.3)).roll((down, right), (2, 3)), atol=1e-10)


def test_one_pixel_window_forgets_neighbours(images):
    """p = 1 pools single pixels: on two-valued pixels the ELS machine is the posterior mean of a two-point prior."""
    binary = (images[:] > 0.5).float()
    q, sigma = float(binary.mean()), 0.7
    y = (binary[:2] + sigma * noise_like(binary[:2], 2)).double()
    on = q * torch.exp(-((y - 1) ** 2) / (2 * sigma**2))
    off = (1 - q) * torch.exp(-(y**2) / (2 * sigma**2))
    got = LocalScoreMachine(1, True, "circular").fit(binary).estimate(y, ve(sigma))
    assert torch.allclose(got, on / (on + off), atol=1e-6)


def test_locality_mask_of_independent_pixels_is_the_pixel_itself():
    """With a diagonal covariance the Wiener matrix is diagonal: each pixel listens to itself only."""
    generator = torch.Generator().manual_seed(0)
    data = ImageSet(torch.randn(50, 1, 4, 4, generator=generator))
    linear = LinearDenoiser()
    linear.mean_, linear.eigenvalues_ = torch.zeros(16).double(), torch.linspace(1, 2, 16).double()
    linear.eigenvectors_ = torch.eye(16).double()
    model = LocalityDenoiser().fit(data, linear=linear)
    assert torch.equal(model.mask(0.5), torch.eye(16))
    x = data[:].double().flatten(1)
    y = x[:3] + 0.5
    weight = torch.softmax(-((y[:, None] - x[None]) ** 2) / (2 * 0.25), 1)
    got = model.estimate(y.reshape(3, 1, 4, 4), ve(0.5)).flatten(1)
    assert torch.allclose(got, (weight * x[None]).sum(1), atol=1e-6)


# ----- shrinkage -------------------------------------------------------------------------------------------------------


def test_soft_threshold_by_hand(generator):
    """One level: the details of the orthonormal transform shrink by ``factor sigma``, the approximation is kept."""
    y = torch.rand(2, 1, 8, 8, generator=generator).double()
    out = WaveletShrinkage("soft", levels=1, factor=1.5).estimate(y, ve(0.2)).numpy()
    a, details = pywt.dwt2(y.numpy(), "db2", "periodization")
    a2, details2 = pywt.dwt2(out, "db2", "periodization")
    assert np.allclose(a, a2)
    for before, after in zip(details, details2):
        assert np.allclose(after, np.sign(before) * np.maximum(np.abs(before) - 0.3, 0))


def test_no_threshold_changes_nothing(generator):
    y = torch.rand(2, 3, 16, 16, generator=generator).double()
    assert torch.allclose(WaveletShrinkage("hard", factor=0.0).estimate(y, ve(0.3)), y)


def test_shrinkage_denoises_mnist(mnist32_test):
    x = mnist32_test[:50]
    y = x + 0.25 * noise_like(x, 0)
    before = float((y.clamp(0, 1) - x).square().mean())
    for method in ("bayes", "soft"):
        model = WaveletShrinkage(method)
        after = float((model.denoise(y, 0.25) - x).square().mean())
        assert after < before, (method, before, after)


# ----- one interface ---------------------------------------------------------------------------------------------------


def all_denoisers(images: ImageSet) -> list:
    net = get_config("2blocks_noattn").build(seed=1)
    nn.init.normal_(net.output.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return [
        LinearDenoiser().fit(images),
        OptimalDenoiser().fit(images),
        LocalScoreMachine(3, False).fit(images),
        LocalScoreMachine(3, True).fit(images),
        LocalityDenoiser().fit(images),
        WaveletShrinkage("bayes"),
        WaveletShrinkage("soft"),
        NetworkDenoiser(net, EDM.measured(images)),
    ]


def test_vp_is_ve_at_the_effective_sigma(images):
    """Equation (1): dividing by alpha turns a VP level into the VE level sigma / alpha, for every baseline."""
    level = vp(0.7)
    for model in all_denoisers(images):
        y = images[:3] * level.alpha + level.sigma * noise_like(images[:3], 5)
        ours = model.estimate(y, level)
        theirs = model.estimate(y / level.alpha, ve(level.effective_sigma))
        assert torch.allclose(ours, theirs, atol=2e-5), type(model).__name__
        score = model.score(y, level)
        assert torch.allclose((y + level.sigma**2 * score) / level.alpha, ours, atol=2e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LocalScoreMachine(4), "odd"),
        (lambda: LocalScoreMachine(3, border="mirror"), "unknown border 'mirror'"),
        (lambda: LocalityDenoiser(threshold=2), r"threshold must be in \[0, 1\], got 2"),
        (lambda: WaveletShrinkage("sure"), "unknown shrinkage 'sure'"),
        (lambda: get_config("5blocks"), "4blocks_noattn"),
        (lambda: EDM(sigma_data=0.0), "sigma_data must be > 0"),
        (lambda: UNet()(torch.zeros(1, 1, 12, 12), torch.zeros(1)), "multiples of 8"),
        (lambda: EDM.measured(ImageSet(torch.ones(3, 1, 4, 4))), "same value"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ----- preconditioning -------------------------------------------------------------------------------------------------


@given(st.floats(0.002, 80.0), st.floats(0.05, 3.0))
@settings(max_examples=50, deadline=None)
def test_edm_identities(sigma, sigma_data):
    """Karras et al. (2022), appendix B.6: ``lambda c_out^2 = 1``, unit-variance input, and c_out^2 the least it can be."""
    edm, s = EDM(sigma_data=sigma_data), torch.tensor([sigma], dtype=torch.float64)
    c_in, c_out, c_skip = edm.c_in(s), edm.c_out(s), edm.c_skip(s)
    assert torch.allclose(edm.weight(s) * c_out**2, torch.ones(1).double())
    assert torch.allclose(c_in**2 * (s**2 + sigma_data**2), torch.ones(1).double())
    assert torch.allclose((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * s**2, c_out**2)
    for other in (c_skip * 0.99, c_skip * 1.01):
        assert float((1 - other) ** 2 * sigma_data**2 + other**2 * s**2) >= float(c_out**2)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_training_target_has_unit_variance_on_gaussian_data(sigma, generator):
    """Monte Carlo on 40,000 Gaussian pixels: target mean 0 and variance 1 within 5 standard errors."""
    edm = EDM(sigma_data=0.6)
    x = 0.6 * torch.randn(40, 1, 32, 32, generator=generator)
    s = torch.full((40,), sigma)
    y = x + sigma * torch.randn(x.shape, generator=generator)
    target = edm.target(x, y, s)
    error = 5 / target.numel() ** 0.5
    assert abs(float(target.mean())) < error
    assert abs(float(target.var()) - 1) < error * 2**0.5


def test_measured_sigma_data_normalises_real_data(mnist16):
    """``E[target^2] = 1`` holds for any data about its mean pixel, not only Gaussian: MNIST, exact sums, 1% for the noise."""
    edm = EDM.measured(mnist16)
    x = edm.scale * (mnist16[:] - edm.shift)
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.square().mean()) == pytest.approx(edm.sigma_data**2, rel=1e-5)
    sigma = torch.full((len(x),), 0.7)
    y = x + 0.7 * noise_like(x, 0)
    assert float(edm.target(x, y, sigma).square().mean()) == pytest.approx(1, rel=0.01)


def gaussian_images(count: int, generator: torch.Generator) -> tuple[ImageSet, torch.Tensor]:
    """Smooth Gaussian images 4 x 4 with a known covariance and mean 0.5."""
    grid = torch.arange(4).double()
    line = torch.exp(-((grid[:, None] - grid[None]) ** 2) / 4)
    covariance = 0.04 * torch.kron(line, line)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(16).double())
    x = 0.5 + torch.randn(count, 16, generator=generator, dtype=torch.float64) @ root.T
    return ImageSet(x.reshape(-1, 1, 4, 4).float()), covariance


def test_the_linear_denoiser_is_the_optimum_of_the_edm_loss(generator):
    """Over affine networks F at one sigma the least-squares optimum of the EDM loss, through D, is the Wiener denoiser.

    The expectation is exact: regress the target on the input with population moments.  Cov(target, z) and Cov(z) follow from
    C and s; D must be ``mu + C (C + s^2)^-1 (y - mu)`` to rounding.
    """
    _, c = gaussian_images(2, generator)
    edm = EDM(sigma_data=0.37, shift=0.5)
    s = torch.tensor(0.6, dtype=torch.float64)
    c = edm.scale**2 * c
    eye = torch.eye(16).double()
    skip, out, into = edm.c_skip(s), edm.c_out(s), edm.c_in(s)
    cov_target_z = into * (c - skip * (c + s**2 * eye)) / out
    f = cov_target_z @ torch.linalg.inv(into**2 * (c + s**2 * eye))
    d = skip * eye + out * f * into
    assert torch.allclose(d, c @ torch.linalg.inv(c + s**2 * eye), atol=1e-10)


def test_a_trained_network_approaches_the_linear_denoiser(generator):
    """Gaussian data, one sigma, a one-layer network: Adam on the EDM loss comes within 3% of the Wiener error.

    The exact denoiser is the optimum: the trained network's population error cannot fall below it.
    """
    _, covariance = gaussian_images(2, generator)
    edm = EDM(sigma_data=0.4, shift=0.5)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(16).double()).float()
    layer = nn.Linear(16, 16)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)

    def network(x, _):
        return layer(x.flatten(1)).reshape(x.shape)

    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    data_sigma = 0.25
    s = torch.full((512,), edm.scale * data_sigma)
    for step in range(400):
        if step == 300:
            optimizer.param_groups[0]["lr"] = 1e-3
        x = 0.5 + (torch.randn(512, 16, generator=generator) @ root.T).reshape(-1, 1, 4, 4)
        loss = edm.loss(network, x, s, torch.randn(x.shape, generator=generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Population error of the affine map D, from the covariance alone.
    s1 = s[:1].double()
    weight = layer.weight.detach().double()
    d = edm.c_skip(s1) * torch.eye(16).double() + edm.c_out(s1) * weight * edm.c_in(s1)
    rest = torch.eye(16).double() - d
    bias = edm.c_out(s1) * layer.bias.detach().double() / edm.scale
    error = float((rest @ covariance @ rest.T + data_sigma**2 * d @ d.T).trace() + bias.square().sum()) / 16
    eigenvalues = torch.linalg.eigvalsh(covariance)
    best = float((eigenvalues * data_sigma**2 / (eigenvalues + data_sigma**2)).mean())
    assert best * (1 - 1e-9) <= error < 1.03 * best


@pytest.mark.slow
def test_a_trained_unet_approaches_the_linear_denoiser_on_gaussian_data(generator):
    """All noise levels at once, the CNN on Gaussian images: held-out error within 15% of the exact one at every sigma."""
    from numeric.baselines.configs import NetworkConfig
    from numeric.baselines.train import Schedule, train

    data, covariance = gaussian_images(20_000, generator)
    fresh, _ = gaussian_images(4_000, generator)
    config = NetworkConfig("cnn", kind="cnn", base_channels=32, channel_mult=(1,), depth=3)
    trainer, _ = train(config, data, Schedule(1500, 256, 2e-3), progress=False)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    for sigma in (0.1, 0.25, 0.5):
        x = fresh[:]
        y = x + sigma * noise_like(x, 1)
        error = float((trainer.denoiser().denoise(y, sigma, clamp=False) - x).square().mean())
        best = float((eigenvalues * sigma**2 / (eigenvalues + sigma**2)).mean())
        assert 0.97 * best < error < 1.15 * best, (sigma, error, best)


# ----- networks --------------------------------------------------------------------------------------------------------


def test_an_untrained_network_is_the_skip_connection(images):
    """The last convolution starts at zero, so D starts as ``c_skip``: the best one-number linear denoiser."""
    edm = EDM.measured(images)
    for config in CONFIGS.values():
        if config.base_channels > 32:
            continue
        size = 8
        y = torch.rand(2, 1, size, size)
        skip = edm.c_skip(torch.tensor(edm.scale * 0.3))
        expected = edm.shift + skip * (y - edm.shift)
        assert torch.allclose(NetworkDenoiser(config.build(), edm).estimate(y, ve(0.3)), expected, atol=1e-6)


def test_the_seven_rows_of_table_1():
    unets = [c for c in CONFIGS.values() if c.kind == "unet"]
    assert len(unets) == 7 and all(c.batch_size == 2048 and c.layers_per_block == 1 for c in unets)
    a, b = CONFIGS["4blocks_noattn"], CONFIGS["4blocks_noattn_denser"]
    assert (a.base_channels, a.channel_mult, a.steps) == (b.base_channels, b.channel_mult, b.steps) and b.note
    assert CONFIGS["1block_wide128_noattn"].base_channels == 32 and "128" in CONFIGS["1block_wide128_noattn"].note
    counts = [parameter_count(CONFIGS[n].build()) for n in ("1block_noattn", "2blocks_noattn", "4blocks_noattn")]
    assert counts == sorted(counts)


def test_receptive_field_of_the_cnn():
    """A change outside the stated window changes no output pixel; one inside does."""
    net = CNN(width=8, depth=2)
    nn.init.normal_(net.output.weight)
    reach = net.receptive_field // 2
    x = torch.zeros(1, 1, 21, 21, requires_grad=True)
    net(x, torch.zeros(1))[0, 0, 10, 10].backward()
    touched = torch.nonzero(x.grad[0, 0])
    assert (touched - 10).abs().max() == reach


def test_the_same_network_serves_32_and_64():
    for name in ("cnn", "2blocks_noattn"):
        net = CONFIGS[name].build()
        for size in (32, 64):
            assert net(torch.zeros(1, 1, size, size), torch.zeros(1)).shape == (1, 1, size, size)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    CONFIGS["cnn"].build(seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_weights_round_trip_and_listing(tmp_path, images):
    config, edm = CONFIGS["2blocks_noattn"], EDM.measured(images)
    network = config.build(seed=3)
    nn.init.normal_(network.output.weight)
    path = tmp_path / "2blocks_noattn_8.safetensors"
    save_network(path, network, config, edm, 1, torch.float32)
    (tmp_path / "2blocks_noattn_8.json").write_text(
        json.dumps({"config": {"name": config.name}, "size": 8, "steps": 1500, "schedule": {"batch_size": 2}})
    )
    (tmp_path / "other.json").write_text("{}")
    found = trained(8, folder=tmp_path)
    assert list(found) == ["U-Net 2blocks_noattn, in training (3,000 images)"]
    assert trained(16, folder=tmp_path) == {}
    y = torch.rand(2, 1, 8, 8)
    expected = NetworkDenoiser(network, edm).estimate(y, NoiseLevel(0.8, 0.3))
    assert torch.allclose(next(iter(found.values())).estimate(y, NoiseLevel(0.8, 0.3)), expected, atol=1e-6)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated"):
        load_network(path)


@pytest.mark.parametrize("size", [32, 64])
def test_shipped_networks_reproduce_their_records(size, mnist32_test):
    """The error in each shipped record, measured again on fewer images with other noise, within 5 standard errors."""
    found = trained(size)
    if not found:
        pytest.skip(f"no network shipped at {size} pixels")
    x = mnist32_test.resized(size)[:64]
    y = x + 0.5 * noise_like(x, 11)
    for label, denoiser in found.items():
        assert f"{images_seen(denoiser.record):,} images" in label and denoiser.record["command"].startswith(
            "python -m numeric"
        )
        each = (denoiser.denoise(y, 0.5) - x).square().flatten(1).mean(1)
        stated = denoiser.record["errors"]["test"]["0.5"]
        error = (float(each.var()) / len(each) + stated["se"] ** 2) ** 0.5
        assert abs(float(each.mean()) - stated["mse"]) < 5 * error, label
