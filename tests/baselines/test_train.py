"""Training: the same numbers after a kill, the plateau, schedules, clear errors."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch

import numeric.baselines.train as train_module
from numeric.baselines.configs import NetworkConfig, get_config
from numeric.baselines.edm import EDM
from numeric.baselines.plateau import count_after, is_trained, last_doubling
from numeric.baselines.schedule import Schedule
from numeric.baselines.train import Trainer, check_memory, saved_bytes, step_generator, train
from numeric.data import ImageSet, LazyImages
from numeric.results import load_tensors
from tests.training import SCHEDULE, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def same(a: Trainer, b: Trainer) -> bool:
    pairs = zip([*a.network.parameters(), *a.average.parameters()], [*b.network.parameters(), *b.average.parameters()])
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_killed_run_resumes_with_the_same_numbers(images, tmp_path, monkeypatch, bf16):
    """12 steps at once are 5 steps, a kill, and 7 more from the checkpoint: weights, average and loss curve, bit for bit."""
    schedule = dataclasses.replace(SCHEDULE, bf16=bf16)
    whole, record = train(SMALL, images, schedule, held_out=images.take(5), progress=False)
    real, path = Trainer.advance, tmp_path / "c.safetensors"

    def dies(self):
        if self.step == 5:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Trainer, "advance", dies)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, images, schedule, held_out=images.take(5), checkpoint=path, checkpoint_seconds=0, progress=False)
    monkeypatch.setattr(Trainer, "advance", real)
    assert load_tensors(path)[1]["step"] == "5"
    again, resumed = train(
        SMALL, images, schedule, held_out=images.take(5), checkpoint=path, resume=True, progress=False
    )
    assert again.step == 12 and same(whole, again)
    assert resumed["loss"] == record["loss"]
    assert [c["mse"] for c in resumed["held_out_curve"]] == [c["mse"] for c in record["held_out_curve"]]


def test_a_finished_run_can_go_further(images, tmp_path):
    """A longer --steps takes up the checkpoint of a shorter run and gives what one long run gives."""
    path = tmp_path / "c.safetensors"
    train(SMALL, images, dataclasses.replace(SCHEDULE, steps=5), checkpoint=path, progress=False)
    further, _ = train(SMALL, images, SCHEDULE, checkpoint=path, resume=True, progress=False)
    whole, _ = train(SMALL, images, SCHEDULE, progress=False)
    assert same(further, whole)


def test_an_earlier_run_is_not_replaced(images, tmp_path):
    """``train`` without ``resume`` leaves a checkpoint as it is and says what to do."""
    path = tmp_path / "c.safetensors"
    train(SMALL, images, dataclasses.replace(SCHEDULE, steps=2), checkpoint=path, progress=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="holds an earlier run: resume=True"):
        train(SMALL, images, dataclasses.replace(SCHEDULE, steps=1), checkpoint=path, progress=False)
    assert path.read_bytes() == before


def test_curves_do_not_depend_on_where_a_run_was_cut(images, tmp_path):
    """Loss and held-out curves of 70 steps in one go and of 30, then 70: the same numbers at the same image counts."""
    path, held_out = tmp_path / "c.safetensors", images.take(5)
    tiny = NetworkConfig("cnn", kind="cnn", base_channels=8, channel_mult=(1,), depth=1)
    long = dataclasses.replace(SCHEDULE, steps=70, batch_size=40)
    train(tiny, images, dataclasses.replace(long, steps=30), held_out=held_out, checkpoint=path, progress=False)
    _, cut = train(tiny, images, long, held_out=held_out, checkpoint=path, resume=True, progress=False)
    _, whole = train(tiny, images, long, held_out=held_out, progress=False)
    assert cut["loss"] == whole["loss"] and len(whole["loss"]) > 10
    counts = [point["images"] for point in cut["held_out_curve"]]
    assert counts == [1000, 1200, 1440, 2000, 2800]  # 1200: where the first part ended
    # Points are at or after 1000, 1414.2, 2000, the next step of 40 images; the end is always measured.
    assert [p["mse"] for p in cut["held_out_curve"] if p["images"] != 1200] == [
        p["mse"] for p in whole["held_out_curve"]
    ]


def test_another_schedule_is_taken_up_only_if_asked(images, tmp_path):
    """The record of a rescheduled run lists both schedules and where the second began."""
    path = tmp_path / "c.safetensors"
    train(SMALL, images, dataclasses.replace(SCHEDULE, steps=2), checkpoint=path, progress=False)
    other = dataclasses.replace(SCHEDULE, steps=2, batch_size=8, learning_rate=2e-3, warmup=10, decay_after=5)
    with pytest.raises(ValueError, match=r"batch_size 4 there, 8 here.*--reschedule"):
        train(SMALL, images, other, checkpoint=path, resume=True, progress=False)
    trainer, record = train(SMALL, images, other, checkpoint=path, resume=True, reschedule=True, progress=False)
    assert record["images"] == 2 * 4 + 8 == trainer.images_seen
    assert [(p["from_images"], p["schedule"]["batch_size"]) for p in record["phases"]] == [(0, 4), (8, 8)]
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * (5 / 8) ** 0.5)


def test_training_on_images_read_as_needed(images):
    """A lazy image set gives the weights that the same images in memory give."""
    lazy = ImageSet(LazyImages(images.raw.numpy()[:, 0]))
    a, _ = train(SMALL, images, SCHEDULE, progress=False)
    b, _ = train(SMALL, lazy, SCHEDULE, progress=False)
    assert same(a, b)
    exact = (images.raw.float() / 255).double()  # stored in float64; networks train in float32
    c, _ = train(SMALL, ImageSet(LazyImages(exact.numpy())), SCHEDULE, progress=False)
    assert same(a, c)


def test_other_settings_or_data_are_not_resumed(images, tmp_path):
    path = tmp_path / "c.safetensors"
    train(SMALL, images, dataclasses.replace(SCHEDULE, steps=1), checkpoint=path, progress=False)
    for config, data, schedule in [
        (SMALL, images, dataclasses.replace(SCHEDULE, seed=1)),
        (SMALL, images.take(20), SCHEDULE),
        (dataclasses.replace(SMALL, base_channels=12), images, SCHEDULE),
    ]:
        with pytest.raises(ValueError, match="another configuration, seed or data"):
            train(config, data, schedule, checkpoint=path, resume=True, progress=False)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        train(SMALL, images, SCHEDULE, checkpoint=path, resume=True, progress=False)


def test_each_step_draws_its_own_batch():
    a, b = torch.randn(3, generator=step_generator(0, 1)), torch.randn(3, generator=step_generator(0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.randn(3, generator=step_generator(0, 2)))
    assert not torch.equal(a, torch.randn(3, generator=step_generator(1, 1)))


def test_training_lowers_the_loss(images):
    """Flat images of random brightness: the untrained loss is 1 per pixel by construction (c_out), and then it falls."""
    flat = ImageSet(torch.linspace(0, 1, 30)[:, None, None, None].expand(30, 1, 8, 8).contiguous())
    schedule = Schedule(steps=60, batch_size=16, learning_rate=3e-3)
    _, record = train(SMALL, flat, schedule, progress=False)
    assert record["loss"][-1][1] < 0.7
    assert record["loss"][0][0] == 960 and record["loss"][0][1] < 1.3  # mean of all 60 steps
    assert record["images_per_second"] > 0 and record["steps"] == 60 and record["parameters"] > 1000


def test_average_weights(images):
    """ema = 0 is the last weights; else ``m <- d m + (1 - d) w`` with ``d = min(ema, (1 + t) / (10 + t))``."""
    trainer = Trainer(SMALL, images, dataclasses.replace(SCHEDULE, ema=0.0))
    trainer.advance()
    assert all(torch.equal(a, b) for a, b in zip(trainer.average.parameters(), trainer.network.parameters()))
    trainer = Trainer(SMALL, images, dataclasses.replace(SCHEDULE, ema=0.5))
    start = next(trainer.network.parameters()).detach().clone()
    trainer.advance()
    d = 2 / 11
    expected = d * start + (1 - d) * next(trainer.network.parameters()).detach()
    assert torch.allclose(next(trainer.average.parameters()), expected, atol=1e-7)


def test_a_time_limit_is_recorded_as_steps(images):
    _, record = train(SMALL, images, dataclasses.replace(SCHEDULE, steps=10_000, max_minutes=1e-9), progress=False)
    assert record["steps"] == 1


def test_memory_is_foreseen(images, monkeypatch):
    """The error names a batch size that fits, and the count grows as the images do."""
    network = SMALL.build()
    trainer = Trainer(SMALL, images, SCHEDULE)
    each = saved_bytes(network, trainer.edm, (1, 8, 8))
    assert 3.5 * each < saved_bytes(network, trainer.edm, (1, 16, 16)) < 4.5 * each
    monkeypatch.setattr(train_module, "free_memory", lambda device: 20 * sum(p.numel() for p in network.parameters()) * 2)
    with pytest.raises(MemoryError, match=r"use --batch-size \d+ or less"):
        check_memory(network, trainer.edm, (1, 8, 8), 10**6, "cpu")


def test_a_diverging_run_stops(images):
    trainer = Trainer(SMALL, images, SCHEDULE)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower --learning-rate"):
        trainer.advance()


def test_training_goes_on_where_compiling_fails(images, monkeypatch):
    """A compiler that fails at the first step costs a warning; the numbers are those without it."""

    def broken(network):
        def call(*_):
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="torch.compile does not work here"):
        a, _ = train(SMALL, images, dataclasses.replace(SCHEDULE, steps=2, compile=True), progress=False)
    b, _ = train(SMALL, images, dataclasses.replace(SCHEDULE, steps=2), progress=False)
    assert same(a, b)


@pytest.mark.slow
def test_a_compiled_network_trains_alike(images):
    """torch.compile on this machine: the loss after ten steps is that without, to the rounding of float32."""
    a, first = train(SMALL, images, dataclasses.replace(SCHEDULE, steps=10, compile=True), progress=False)
    _, second = train(SMALL, images, dataclasses.replace(SCHEDULE, steps=10), progress=False)
    assert a._forward is not a.network and first["loss"][0][1] == pytest.approx(second["loss"][0][1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["4blocks_noattn", "cnn"])
def test_at_the_size_people_use(name, mnist32_test, two_threads):
    """Two threads, 32 pixels, batches of 128, the CPU schedule: the loss falls and the fused step is PyTorch's."""
    config = get_config(name)
    schedule = Schedule.cpu(config, batch_size=128, steps=40, until_trained=False)
    _, record = train(config, mnist32_test, schedule, progress=False)
    assert record["loss"][-1][1] < 0.9 * record["loss"][0][1]


def test_counts_are_a_factor_apart():
    counts = [count_after(0)]
    while counts[-1] < 8000:
        counts.append(count_after(counts[-1]))
    assert counts == [1000, 1415, 2000, 2829, 4000, 5657, 8000]
    assert count_after(1500, 8) == 1543  # 1000 * 2^(5/8) = 1542.2


def test_the_plateau():
    """Error falling as images^-a: a doubling lowers it by 1 - 2^-a, whatever the points; trained where that is below 2 %."""

    def curve(power: float, counts: list[int]) -> list[dict]:
        return [{"images": n, "mse": {"0.1": n**-power, "1": 3 * n**-power}} for n in counts]

    counts = [100_000 * 2 ** (k // 2) + 41_421 * 2 ** (k // 2) * (k % 2) for k in range(6)]
    for power in (0.01, 0.028, 0.03, 0.3):
        found = last_doubling(curve(power, counts))
        assert found == pytest.approx(1 - 2**-power, rel=0.03)
        assert is_trained(curve(power, counts)) == (power < 0.029)
    assert last_doubling(curve(0.1, counts[:1])) is None and last_doubling([]) is None
    assert not is_trained(curve(0.0, [1000, 2000, 4000]))  # too early to say
    off = last_doubling(curve(0.3, [*counts, 700_000]))  # its half lies between two points
    assert off == pytest.approx(1 - 2**-0.3, rel=0.03)


def test_schedules():
    """Linear rise, then one over a square root; the power average weighs step t as t^power."""
    s = Schedule(10, 4, 1e-2, warmup=16, decay_after=100, ema_power=2.0)
    assert [s.rate(n) for n in (0, 12, 96, 400)] == pytest.approx([2.5e-3, 1e-2, 1e-2, 5e-3])
    assert SCHEDULE.rate(0) == SCHEDULE.rate(10**9) == 1e-3
    weights = torch.zeros(50, dtype=torch.float64)
    for t in range(1, 51):
        d = s.average_decay(t)
        weights = d * weights
        weights[t - 1] = 1 - d
    # The weight of step t is t^3 - (t - 1)^3 over 50^3, which is 3 t^2 to leading order.
    t = torch.arange(1, 51, dtype=torch.float64)
    assert torch.allclose(weights, (t**3 - (t - 1) ** 3) / 50**3, atol=1e-12)
    late = dataclasses.replace(s, late_batch_size=16)
    assert [late.batch(n) for n in (0, 99, 100)] == [4, 4, 16] and s.batch(100) == 4 and late.images == 40
    printed = Schedule.printed(get_config("4blocks_noattn"))
    assert (printed.steps, printed.batch_size, printed.learning_rate) == (10_000, 2048, 1e-3)
    assert printed.rate(10**7) == 1e-3 and not printed.until_trained


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"ema": 1.0}, "ema"),
        ({"late_batch_size": 64}, "needs decay_after"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"device": "cuda:0"}, "no GPU"),
    ],
)
def test_bad_schedules_are_named(change, message):
    if "device" in change and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SCHEDULE, **change)


def test_measuring_what_a_step_keeps_keeps_nothing(images):
    """The graph of the measurement is gone afterwards: kept, its accumulators would tie later steps to the stream they were made on."""
    network = SMALL.build()

    def alive() -> list[torch.Tensor]:
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]

    before = [weakref.ref(tensor) for tensor in alive()]  # what other tests left behind may go in between
    assert saved_bytes(network, EDM(), images.shape) > 0
    known = {id(ref()) for ref in before}
    assert not [tensor.shape for tensor in alive() if id(tensor) not in known]
