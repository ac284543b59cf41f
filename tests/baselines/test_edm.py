"""Baselines beside closed forms, each other and other libraries; preconditioning beside Gaussian data."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from numeric.baselines import trained, trained_at
from numeric.baselines.cnn import CNN
from numeric.baselines.configs import CONFIGS, parameter_count
from numeric.baselines.edm import EDM
from numeric.baselines.network import NetworkDenoiser, load_network, save_network
from numeric.baselines.plateau import images_seen
from numeric.data import ImageSet
from numeric.evaluation.sweep import noise_like
from numeric.noise import NoiseLevel, ve


@pytest.fixture
def images(generator) -> ImageSet:
    return ImageSet(torch.rand(12, 1, 6, 6, generator=generator, dtype=torch.float32))


def noisy(images: ImageSet, sigma: float, count: int = 4) -> torch.Tensor:
    x = images[:count]
    return x + sigma * noise_like(x, 7)


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
    with pytest.raises(ValueError, match=r"networks of 8 x 8 pixels are in the folder .* none for 16 x 16"):
        trained(16, folder=tmp_path)
    assert trained(16, [], tmp_path) == {}
    several = trained_at([8, 16], folder=tmp_path)  # one size is enough
    assert list(several[8]) == list(found) and several[16] == {}
    (tmp_path / "empty").mkdir()
    for sizes, names, message in (([8, 16], ["cnn"], "no network is called 'cnn'"), ([8, 16], None, "no networks are in the folder")):
        with pytest.raises(ValueError, match=message):
            trained_at(sizes, names, tmp_path if names else tmp_path / "empty")
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
