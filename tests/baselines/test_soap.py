"""SOAP: what it has in common with Adam, the symmetry that Adam lacks, and training that is taken up again."""

from __future__ import annotations

import pytest
import torch

from numeric.baselines.schedule import Schedule, options
from numeric.baselines.soap import SOAP, modes_of
from numeric.baselines.train import Trainer
from tests.training import SMALL, run_cli

SOAPED = Schedule(steps=12, batch_size=4, learning_rate=1e-3, warmup=8, optimizer="soap")


def moved(shape, gradients, **options) -> torch.Tensor:
    """Where a parameter that starts at 0 goes by a sequence of gradients."""
    parameter = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64).float())
    optimizer = SOAP([parameter], lr=0.01, **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def drawn(shape, count: int = 25, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -2, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    return [scale * torch.randn(shape, generator=generator) for _ in range(count)]


def test_vectors_see_adam():
    gradients = drawn((7,))
    parameter = torch.nn.Parameter(torch.zeros(7))
    adam = torch.optim.Adam([parameter], lr=0.01, betas=(0.95, 0.99))
    for gradient in gradients:
        parameter.grad = gradient.clone()
        adam.step()
    assert torch.allclose(moved((7,), gradients), parameter.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", [0, 1])
def test_a_rotation_of_a_mode_rotates_the_steps(mode):
    """The coordinates that a kernel's channels happen to have do not matter, as they do to Adam."""
    shape = (5, 4)
    gradients = drawn(shape)
    turn = torch.linalg.qr(torch.randn(shape[mode], shape[mode], generator=torch.Generator().manual_seed(1)))[0]

    def turned(x: torch.Tensor) -> torch.Tensor:
        return turn @ x if mode == 0 else x @ turn.T

    found, wanted = moved(shape, [turned(g) for g in gradients]), turned(moved(shape, gradients))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    adam = []
    for given in (gradients, [turned(g) for g in gradients]):
        parameter = torch.nn.Parameter(torch.zeros(shape))
        optimizer = torch.optim.Adam([parameter], lr=0.01)
        for gradient in given:
            parameter.grad = gradient.clone()
            optimizer.step()
        adam.append(parameter.detach())
    assert not torch.allclose(adam[1], turned(adam[0]), rtol=1e-2, atol=1e-3)


def test_kernels_are_seen_by_channels_and_places():
    assert modes_of((8, 4, 3, 3)) == (8, 4, 9) and modes_of((8, 4)) == (8, 4) and modes_of((8,)) == (8,)
    kernel, flat = drawn((6, 4, 3, 3)), [g.reshape(6, 4, 9) for g in drawn((6, 4, 3, 3))]
    assert torch.allclose(moved((6, 4, 3, 3), kernel).reshape(6, 4, 9), moved((6, 4, 9), flat), rtol=1e-3, atol=1e-3)
    layout = [g.contiguous(memory_format=torch.channels_last) for g in kernel]
    assert torch.allclose(moved((6, 4, 3, 3), layout), moved((6, 4, 3, 3), kernel), rtol=1e-3, atol=1e-3)


def test_a_stretched_bowl_is_left_behind_by_adam():
    """``|A (w - w*)|^2`` with A no diagonal: after as many steps SOAP is nearer."""
    generator = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    bowl, target = turn @ torch.diag(torch.logspace(0, -2, 12)) @ turn.T, torch.randn(12, 6, generator=generator)
    left = {}
    for name, make in (("adam", torch.optim.Adam), ("soap", SOAP)):
        w = torch.nn.Parameter(torch.zeros(12, 6))
        optimizer = make([w], lr=0.02)
        for _ in range(400):
            optimizer.zero_grad()
            (bowl @ (w - target)).square().sum().backward()
            optimizer.step()
        left[name] = float((w.detach() - target).norm() / target.norm())
    assert left["soap"] < 0.5 * left["adam"]


# ----- training ----------------------------------------------------------------------------------------------------------


def test_a_training_that_is_taken_up_again_is_the_uninterrupted_one(images, tmp_path):
    whole = Trainer(SMALL, images, SOAPED)
    for _ in range(24):
        whole.advance()
    first = Trainer(SMALL, images, SOAPED)
    for _ in range(13):
        first.advance()
    first.save(tmp_path / "state")
    second = Trainer(SMALL, images, SOAPED)
    second.restore(tmp_path / "state")
    for _ in range(11):
        second.advance()
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), second.network.parameters()))


def test_another_optimiser_starts_with_moments_of_its_own_and_a_rising_rate(images, tmp_path):
    from dataclasses import replace

    adam = replace(SOAPED, optimizer="adam")
    first = Trainer(SMALL, images, adam)
    for _ in range(5):
        first.advance()
    first.save(tmp_path / "state")
    second = Trainer(SMALL, images, SOAPED)
    with pytest.raises(ValueError, match="optimizer adam there, soap here"):
        second.restore(tmp_path / "state")
    second.restore(tmp_path / "state", reschedule=True)
    assert not second.optimizer.state and second.moments_from == 20
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters()))
    second.advance()
    assert 0 < second.optimizer.param_groups[0]["lr"] < SOAPED.learning_rate
    second.save(tmp_path / "state")
    third = Trainer(SMALL, images, SOAPED)
    third.restore(tmp_path / "state")
    assert third.optimizer.state and third.moments_from == 20


def test_the_command_names_the_optimiser():
    assert "--optimizer soap" in options(SOAPED.to_dict()) and "--optimizer" not in options(Schedule(1, 1, 1.0).to_dict())
    assert "unknown optimizer 'sgd': use adam or soap" in run_cli("--config", "cnn", "--optimizer", "sgd").output
