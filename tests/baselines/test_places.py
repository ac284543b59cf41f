"""Windows of many training images at the same place, against the plain sums over all of them."""

from __future__ import annotations

import time

import pytest
import torch

from numeric.baselines import patches, places, pspc
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.places import merged
from numeric.baselines.pspc import PSPCDenoiser
from numeric.data import ImageSet, load_mnist
from numeric.evaluation.sweep import noise_like
from numeric.noise import ve

MAKE = {
    "LS": lambda side: LocalScoreMachine(side, False, n_train=None),
    "LS circular": lambda side: LocalScoreMachine(side, False, "circular", n_train=None),
    "PSPC": lambda side: PSPCDenoiser(side, None),
}


def frames(count: int = 40) -> ImageSet:
    """Two-channel images whose frame is 0.25 and whose middle is not always there: many windows are the same."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((count, 2, 7, 6), 0.25)
    x[: count // 2, :, 2:5, 2:4] = torch.rand(count // 2, 2, 3, 2, generator=generator)
    return ImageSet(x)


def plain(machine, y, sigma, monkeypatch):
    """By the machine's own sum over all images, image by image."""
    with monkeypatch.context() as patch:
        for module in (patches, pspc):
            patch.setattr(module, "MANY", 10**9)
        return machine.estimate(y, ve(sigma))


def used(monkeypatch) -> None:
    """These few images are many."""
    for module in (patches, pspc):
        monkeypatch.setattr(module, "MANY", 1)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("sigma", [0.02, 0.3, 3.0])
def test_merged_windows_weigh_what_they_weigh_one_by_one(monkeypatch, name, side, sigma):
    """``sum_i exp(l_i) v_i`` with blank windows counted, in chunks that end anywhere, place by place and row by row."""
    used(monkeypatch)
    images = frames()
    y = (images[:5] + sigma * noise_like(images[:5], 0)).double()
    machine = MAKE[name](side).fit(images)
    expected = plain(machine, y, sigma, monkeypatch)
    seen = []
    monkeypatch.setattr(places, "merged", lambda *a: seen.append(merged(*a)) or seen[-1])
    for held in (places.HELD, 84 * 7):
        for narrow in (10**6, 0):
            monkeypatch.setattr(places, "HELD", held)
            monkeypatch.setattr(places, "NARROW", narrow)
            monkeypatch.setattr(places, "TILE", 200)
            assert torch.allclose(machine.estimate(y, ve(sigma)), expected, atol=1e-10)
    assert side > 3 or any(index is not None for index in seen)


def test_blank_windows_are_counted():
    """Four blank windows of six are one of weight four; one of six stays; the added one weighs nothing where it stands for none."""
    own = torch.tensor([0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0])
    assert merged(own, 0.5).tolist() == [1, 4, 6]
    assert torch.exp(-0.25 * own[-1]) == pytest.approx(4)
    few = torch.tensor([1.0, 2.0, 0.0, 1.0, 3.0, 1.0, 0.0])
    assert merged(few, 0.5) is None and torch.exp(-0.25 * few[-1]) == 0


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_digits_in_single_precision(mnist16, monkeypatch, name, sigma):
    """Many images by themselves; matrix products of float32 keep four digits of the pixel range."""
    y = mnist16[:6] + sigma * noise_like(mnist16[:6], 1)
    for side in (3, 9):
        machine = MAKE[name](side).fit(mnist16)
        expected = plain(machine, y.double(), sigma, monkeypatch)
        assert float((machine.estimate(y, ve(sigma)) - expected).abs().max()) < 1e-4


def test_gradients_are_those_of_the_plain_sum(mnist16, monkeypatch):
    """A derivative is asked for: the machine's own sum, by autograd and by ``torch.func``; the values are the same."""
    y = (mnist16[:1] + 0.3 * noise_like(mnist16[:1], 1)).double()
    for name in ("LS", "PSPC"):
        machine = MAKE[name](3).fit(mnist16.take(2000))
        t = y.clone().requires_grad_()
        out = machine.denoise(t, 0.3, clamp=False)
        assert torch.allclose(out.detach(), machine.denoise(y, 0.3, clamp=False), atol=1e-10)
        (row,) = torch.autograd.grad(out.sum(), t)
        pushed = torch.func.jvp(lambda z, m=machine: m.denoise(z, 0.3, clamp=False), (y,), (torch.ones_like(y),))[1]
        assert float(pushed.sum()) == pytest.approx(float(row.sum()), rel=1e-8)


def test_chunks_of_other_shares_of_blank_windows(mnist16, monkeypatch):
    """The equivariant machine's noisy images are divided alike in every chunk, however many windows are merged there."""
    x = torch.cat([0 * mnist16[:4], mnist16[:4], torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(2))])
    y = mnist16[5:17] + 0.3 * torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = LocalScoreMachine(3, n_train=None, chunk=100).fit(x).denoise(y, 0.3)
    monkeypatch.setattr("numeric.baselines.patches.BLOCK", 4 * 196**2 * 5)
    found = LocalScoreMachine(3, n_train=None, chunk=4).fit(x).denoise(y, 0.3)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_sixty_thousand_digits_take_a_third_of_the_time(monkeypatch):
    """At low noise, of a batch of digits, against the plain sum on one of them."""
    train, x = load_mnist("train", size=32, download=False), load_mnist("test", size=32, count=24, download=False)[:]
    if train.source != "MNIST":
        pytest.skip("needs the full MNIST set")
    y = x + 0.1 * noise_like(x, 0)
    for machine in (LocalScoreMachine(3, False, n_train=None), PSPCDenoiser(3, None)):
        machine.fit(train)
        start = time.process_time()
        expected = plain(machine, y[:1], 0.1, monkeypatch)
        middle = time.process_time()
        ours = machine.estimate(y, ve(0.1))
        assert (middle - start) > 3 * (time.process_time() - middle) / len(y)
        assert float((ours[:1] - expected).abs().max()) < 1e-4
