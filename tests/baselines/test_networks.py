"""Networks as denoisers: gradients, a sigma an image, the rule for their names; the fused normalisation against PyTorch's."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from numeric.baselines import fused
from numeric.baselines.configs import CONFIGS, get_config
from numeric.baselines.edm import EDM
from numeric.baselines.network import NetworkDenoiser, save_network, trained
from numeric.baselines.plateau import state
from numeric.figures.table1 import Table1Config
from numeric.noise import ve, vp
from tests.threads import torch_threads

NAMES = ("2blocks_noattn", "cnn")


def network(name: str, seed: int = 0) -> nn.Module:
    """A network of which no layer is zero."""
    out = CONFIGS[name].build(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in out.parameters():
            if not p.any():
                p.normal_(0, 0.1, generator=generator)
    return out


def images(n: int = 3, size: int = 8, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.fixture(params=NAMES)
def denoiser(request) -> NetworkDenoiser:
    return NetworkDenoiser(network(request.param).to(memory_format=torch.channels_last), EDM())


def test_gradients_flow_to_the_images(denoiser):
    """gradcheck of denoise and score in float64; no graph and no gradient of the weights where none is asked for."""
    y = images(2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: denoiser.denoise(v, 0.5, clamp=False), (y,), fast_mode=True)
    assert torch.autograd.gradcheck(lambda v: denoiser.score(v, vp(0.6)), (y,), fast_mode=True)
    denoiser.denoise(y, 0.5).sum().backward()
    assert y.grad is not None and all(p.grad is None for p in denoiser.network.parameters())
    assert not denoiser.denoise(images(), 0.5).requires_grad


def test_transforms_of_torch_func(denoiser):
    """jacrev, jacfwd and vmap agree with one another and with plain calls."""
    y = images(1, dtype=torch.float64)
    reverse = torch.func.jacrev(lambda v: denoiser.denoise(v, 0.5, clamp=False))(y)
    forward = torch.func.jacfwd(lambda v: denoiser.denoise(v, 0.5, clamp=False))(y)
    assert reverse.shape == (1, 1, 8, 8, 1, 1, 8, 8) and torch.allclose(reverse, forward, atol=1e-12)
    y = images()
    each = torch.func.vmap(lambda v: denoiser.denoise(v[None], 0.5)[0])(y)
    assert torch.allclose(each, denoiser.denoise(y, 0.5), atol=1e-5)


def test_a_sigma_an_image(denoiser, monkeypatch):
    """Levels that differ are denoised together, and give what each gives alone; VP at alpha is VE at sigma / alpha."""
    y, levels = images(4), [ve(0.1), vp(0.5), ve(1.0), ve(0.1)]
    alone = torch.cat([denoiser.denoise(y[i : i + 1], level) for i, level in enumerate(levels)])
    scores = torch.cat([denoiser.score(y[i : i + 1], level) for i, level in enumerate(levels)])
    calls = []
    forward = type(denoiser.network).forward
    monkeypatch.setattr(type(denoiser.network), "forward", lambda *a: calls.append(1) or forward(*a))
    assert torch.allclose(denoiser.denoise(y, levels), alone, atol=1e-5) and len(calls) == 1
    assert torch.allclose(denoiser.score(y, levels), scores, rtol=1e-4, atol=1e-3)
    sigmas = torch.tensor([0.1, 0.4, 0.1, 2.0])
    assert torch.allclose(denoiser.denoise(y, sigmas)[1:2], denoiser.denoise(y[1:2], 0.4), atol=1e-5)
    with pytest.raises(ValueError, match="3 noise levels for 4 image"):
        denoiser.denoise(y, sigmas[:3])


def test_one_rule_for_names(tmp_path):
    """Configuration, title, label or file, in capitals or not, one or several; what matches nothing is an error with the list."""
    for name, file, more in (("cnn", "cnn_8", {}), ("2blocks_noattn", "2blocks_noattn_8", {"images": 5000, "trained": True}),
                             ("2blocks_noattn", "2blocks_noattn_8_seed1", {"images": 5000, "trained": True})):  # fmt: skip
        save_network(tmp_path / f"{file}.safetensors", CONFIGS[name].build(), CONFIGS[name], EDM(), 1)
        record = {"config": {"name": name}, "size": 8, "steps": 10, "schedule": {"batch_size": 100}, **more}
        (tmp_path / f"{file}.json").write_text(json.dumps(record))
    unet = "U-Net 2blocks_noattn, trained on 5,000 images"
    labels = [unet, f"{unet} [2blocks_noattn_8_seed1]", "CNN, in training (1,000 images)"]
    assert list(trained(8, folder=tmp_path)) == labels
    for names in ("CNN", ["cnn"], "CNN, in training (1,000 images)", "cnn_8"):
        assert list(trained(8, names, tmp_path)) == labels[2:]
    assert list(trained(8, ["cnn", "u-net 2BLOCKS_noattn"], tmp_path)) == labels
    assert list(trained(8, "2blocks_noattn_8_seed1", tmp_path)) == labels[1:2]
    for names in ("CNNN", ["cnn", "4blocks_noattn"], ["blocks"]):
        with pytest.raises(ValueError, match=r"no network is called .*: 2blocks_noattn, 2blocks_noattn, cnn"):
            trained(8, names, tmp_path)
    assert get_config("CNN") is get_config("cnn") is CONFIGS["cnn"] and get_config("u-net 2blocks_noattn").name == "2blocks_noattn"
    assert Table1Config(networks=["CNN", "U-Net 1block_noattn"]).networks == ["cnn", "1block_noattn"]
    with pytest.raises(ValueError, match="no folder of weights"):
        trained(8, folder=tmp_path / "nowhere")
    assert state({"steps": 3, "schedule": {"batch_size": 2}}) == "in training (6 images)"


# ----- fused normalisation ---------------------------------------------------------------------------------------------


@pytest.fixture
def compiled():
    if fused.kernels(torch.float32) is None:
        pytest.skip("there is no C compiler here")


def in_layout(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5
    return x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("shape", [(3, 16, 5, 7), (2, 48, 4, 4), (1, 128, 1, 1)])
@pytest.mark.parametrize("threads", [1, 2])
def test_normalisation_is_pytorchs(compiled, shape, threads):
    """Values and all four gradients of silu(group_norm(x + shift)), float32, against PyTorch in float64; wide range of inputs."""
    with torch_threads(threads):
        norm = nn.GroupNorm(shape[1] // 4, shape[1], eps=1e-6)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        x, shift = in_layout(shape, torch.float32, 0), torch.randn(shape[:2]).requires_grad_()
        assert fused.suits(x)
        g = torch.randn(shape)
        got = torch.autograd.grad(fused.norm_silu(norm, x, shift), (x, shift, norm.weight, norm.bias), g)
        exact = nn.GroupNorm(shape[1] // 4, shape[1], eps=1e-6).double()
        exact.load_state_dict(norm.state_dict())
        xd, sd = x.detach().double().requires_grad_(), shift.detach().double().requires_grad_()
        y = F.silu(exact(xd + sd[:, :, None, None]))
        want = torch.autograd.grad(y, (xd, sd, exact.weight, exact.bias), g.double())
        assert torch.allclose(fused.norm_silu(norm, x, shift).double(), y, atol=1e-5)
        for a, b in zip(got, want):
            assert (a - b).norm() <= 1e-5 * (b.norm() + 1)


def test_scale_and_shift_are_pytorchs(compiled):
    x, scale, shift = in_layout((3, 32, 6, 6), torch.float32, 2), torch.randn(3, 32), 30 * torch.randn(3, 32)
    scale.requires_grad_(), shift.requires_grad_()
    y = fused.affine_silu(x, scale, shift, True)
    want = F.silu(x * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
    g = torch.randn_like(y)
    assert torch.allclose(y, want, rtol=1e-6, atol=1e-6)
    for a, b in zip(torch.autograd.grad(y, (x, scale, shift), g), torch.autograd.grad(want, (x, scale, shift), g)):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-4)


def test_a_bf16_step_is_as_exact_as_pytorchs(compiled, monkeypatch):
    """Gradients of a whole network in bf16, fused, lie no further from those in float32 than PyTorch's own bf16 does."""

    def gradients(bf16: bool, on: bool) -> torch.Tensor:
        net = network("2blocks_noattn").train().to(memory_format=torch.channels_last)
        if not on:
            monkeypatch.setattr(fused, "suits", lambda x: False)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = net(images(4, 16), torch.linspace(-1, 0, 4))
        monkeypatch.undo()
        out.float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    exact = gradients(False, False)
    assert (gradients(False, True) - exact).norm() < 1e-4 * exact.norm()
    ours, theirs = ((gradients(True, on) - exact).norm() / exact.norm() for on in (True, False))
    assert ours < 1.2 * theirs + 1e-3 and ours < 0.05


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bf16", [False, True])
def test_networks_are_one_graph(name, bf16):
    """torch.compile, which training uses on a GPU, sees a whole network without a break, in training mode too."""
    torch.compiler.reset()
    net, x, c = network(name).train().to(memory_format=torch.channels_last), images(2, 16), torch.zeros(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        got, want = torch.compile(net, backend="eager", fullgraph=True)(x, c), net(x, c)
    assert (got.float() - want.float()).norm() < (0.05 if bf16 else 1e-5) * want.float().norm()
    torch.compiler.reset()


def test_without_a_compiler(monkeypatch):
    """The switch and a missing compiler leave PyTorch's functions; second derivatives in eval mode go through those."""
    x, norm = in_layout((1, 16, 4, 4), torch.float32, 3), nn.GroupNorm(4, 16).eval()
    fused.kernels.cache_clear()
    monkeypatch.setenv(fused.SWITCH, "0")
    assert not fused.suits(x)
    fused.kernels.cache_clear()
    monkeypatch.delenv(fused.SWITCH)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("numeric.baselines.fused.shutil.which", lambda name: None)
    assert not fused.suits(x)
    fused.kernels.cache_clear()
    first = torch.autograd.grad(fused.norm_silu(norm, x).square().sum(), x, create_graph=True)[0]
    assert torch.autograd.grad(first.square().sum(), x)[0].any()


def test_the_compiled_code_is_part_of_a_results_key(tmp_path, monkeypatch):
    """A change in the C file changes the code hash of networks, and of nothing that does not use them."""
    from numeric import fingerprint

    before = [fingerprint.code_hash(name) for name in ("numeric.baselines.network", "numeric.noise")]
    module = tmp_path / "fused.py"
    module.write_text(fused.SOURCE.with_suffix(".py").read_text())
    module.with_suffix(".c").write_text(fused.SOURCE.read_text() + "/* changed */")
    real = fingerprint._file
    monkeypatch.setattr(fingerprint, "_file", lambda name: module if name == "numeric.baselines.fused" else real(name))
    after = [fingerprint.code_hash(name) for name in ("numeric.baselines.network", "numeric.noise")]
    assert after[0] != before[0] and after[1] == before[1]


def test_a_figure_shows_the_main_networks_and_those_that_have_stopped_improving(tmp_path):
    """Where none are named; what is not there is not missed, and a folder that was given must hold some."""
    from numeric.figures.networks import MAIN, main_networks

    names = {network.record["config"]["name"] for network in trained(32).values() if network.record.get("trained")}
    shown = [network.record["config"]["name"] for network in main_networks(32, with_trained=True).values()]
    assert set(shown) == names | set(MAIN) and len(shown) == len(set(shown))
    assert {network.record["config"]["name"] for network in main_networks(32).values()} == set(MAIN)
    assert main_networks(20, names=["cnn"]) == {}
    with pytest.raises(ValueError, match="no folder of weights"):
        main_networks(32, str(tmp_path / "nowhere"))
