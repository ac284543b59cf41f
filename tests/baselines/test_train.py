"""The training command: the same numbers after a kill, clear errors, records that name what made them."""

from __future__ import annotations

import dataclasses
import gc
import json
import shlex

import pytest
import torch
import typer
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import numeric.baselines.train as train_module
from numeric.baselines.configs import CONFIGS, TRAINING_ORDER, NetworkConfig, get_config
from numeric.baselines.edm import EDM
from numeric.baselines.network import records_alone, trained
from numeric.baselines.plateau import count_after, is_trained, last_doubling
from numeric.baselines.runs import Run, all_runs, foresee, publish, train_all
from numeric.baselines.schedule import RESTART_STEPS, Schedule, options
from numeric.baselines.train import Trainer, check_memory, saved_bytes, step_generator, train
from numeric.commands.app import app
from numeric.data import ImageSet, LazyImages
from numeric.results import load_tensors

SMALL = NetworkConfig("2blocks_noattn", base_channels=8, channel_mult=(1, 2))
SCHEDULE = Schedule(steps=12, batch_size=4, learning_rate=1e-3)


@pytest.fixture
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(4)
    return ImageSet((torch.rand(30, 1, 8, 8, generator=generator) * 255).to(torch.uint8))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def test_weights_and_record_are_replaced_together(images, tmp_path, monkeypatch):
    """Killed while the errors of new weights are measured: the old weights stay beside the old record."""
    run = Run(get_config("cnn"), 8, Schedule(1, 4, 1e-3), tmp_path)

    def advance(steps):
        longer = dataclasses.replace(run, schedule=Schedule(steps, 4, 1e-3))
        train(run.config, images, longer.schedule, held_out=images.take(3), checkpoint=run.checkpoint, resume=True, progress=False)
        return longer

    publish(advance(1), images.take(4), images.take(4))
    before = run.weights.read_bytes(), run.record.read_bytes()
    longer = advance(2)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("numeric.baselines.runs.measure", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(longer, images.take(4), images.take(4))
    assert (run.weights.read_bytes(), run.record.read_bytes()) == before and len(list(tmp_path.glob("*cnn*"))) == 2
    assert publish(longer, images.take(4), images.take(4))["images"] == 8 and run.weights.read_bytes() != before[0]


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
    monkeypatch.setattr(train_module, "free_memory", lambda: 20 * sum(p.numel() for p in network.parameters()) * 2)
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
def test_at_the_size_people_use(name, mnist32_test):
    """Two threads, 32 pixels, batches of 128, the CPU schedule: the loss falls and the fused step is PyTorch's."""
    torch.set_num_threads(2)
    config = get_config(name)
    schedule = Schedule.cpu(config, batch_size=128, steps=40, until_trained=False)
    _, record = train(config, mnist32_test, schedule, progress=False)
    assert record["loss"][-1][1] < 0.9 * record["loss"][0][1]


def test_training_curves_are_drawn(tmp_path, images):
    """The figure of a folder of networks: curves, states and the linear denoiser's error, computed from the records."""
    from numeric.figures.training import TrainingConfig, findings, make_figure

    run = Run(get_config("cnn"), 8, Schedule(700, 4, 1e-3), tmp_path)
    train(run.config, images, run.schedule, held_out=images, checkpoint=run.checkpoint, progress=False)
    publish(run, images, images)
    config = TrainingConfig(sizes=[8], weights=str(tmp_path), n_train=20, name="curves")
    config.images = lambda split, size, count=None: images.take(count)  # type: ignore[method-assign]
    _, record, paths = make_figure(config, tmp_path / "out", progress=False)
    row = record["rows"][0]
    assert {p.suffix for p in paths} == {".png", ".pdf", ".json"}
    assert [p["images"] for p in row["curve"]] == [1000, 1416, 2000, 2800] and not row["trained"]
    told = findings(record)
    assert "CNN: in training (2,800 images); the last doubling of images lowered" in told[0]
    assert "of the linear denoiser's" in told[0] and told[-1].startswith("0 of 1 networks count as trained")
    with pytest.raises(ValueError, match="no network is called 'unet'"):
        TrainingConfig(sizes=[8], weights=str(tmp_path), networks="unet")


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


def test_all_of_table_1_from_checkpoints(images, tmp_path):
    """Two rounds; a second call finds nothing to do; a longer one goes on from the checkpoints; a run taken is left alone."""
    order = (("2blocks_noattn", 8), ("cnn", 8))

    def make(steps: int, **more):
        return all_runs(tmp_path, lambda c: Schedule(steps, 4, 1e-3, seed=c.seed, **more), order)

    def go(runs, **more):
        options = {"n_eval": 4, "n_curve": 3, "progress": False, "say": lambda text: None}
        return [
            (r["config"]["name"], r["images"]) for r in train_all(runs, lambda size: (images, images), **options, **more)
        ]

    assert go(make(3), rounds=[5]) == [("2blocks_noattn", 8), ("cnn", 8), ("2blocks_noattn", 12), ("cnn", 12)]
    assert go(make(3)) == []
    with FileLock(make(4)[0].checkpoint.with_suffix(".lock")):
        assert go(make(4)) == [("cnn", 16)]
    with pytest.raises(ValueError, match=r"learning_rate 0\.001 there"):
        go(all_runs(tmp_path, lambda c: Schedule(5, 4, 2e-3, seed=c.seed), order))
    assert list(trained(8, folder=tmp_path)) == ["U-Net 2blocks_noattn, in training (12 images)", "CNN, in training (16 images)"]
    left = foresee(make(10)[1], images)
    assert left.done == 16 and left.at_most == 40 and left.seconds == pytest.approx(24 / left.images_per_second)
    assert {name for name, _ in TRAINING_ORDER} == set(CONFIGS)


def test_runs_of_other_widths_seeds_and_data_have_their_own_files(tmp_path):
    def stem(config, seed=0, n_train=None):
        return Run(config, 32, Schedule(1, 1, 1.0, seed), tmp_path, n_train).stem

    usual = get_config("2blocks_noattn")
    assert stem(usual) == "2blocks_noattn_32" and stem(usual, 3) == "2blocks_noattn_32_seed3"
    assert stem(usual.with_base_channels(8), n_train=50) == "2blocks_noattn_32_width8_50images"
    assert stem(get_config("4blocks_noattn_denser"), 1) == "4blocks_noattn_denser_32"


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


def run_cli(*arguments: str):
    return CliRunner().invoke(app, ["train", *arguments])


def test_command_line_writes_weights_and_record(tmp_path, monkeypatch, images):
    monkeypatch.setattr("numeric.data.load_mnist", lambda *_, size, **__: images.resized(size))
    options = [
        "--config",
        "2blocks_noattn",
        "--size",
        "8",
        "--steps",
        "2",
        "--batch-size",
        "3",
        "--output",
        str(tmp_path),
    ]
    result = run_cli(*options, "--n-eval", "5", "--n-curve", "3", "--device", "cpu")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "2blocks_noattn_8.json").read_text())
    assert record["command"].startswith(
        "python -m numeric train --config 2blocks_noattn --size 8 --steps 2 --batch-size 3"
    )
    assert record["data"]["sha256"] == images.sha256 and record["versions"]["torch"] == torch.__version__
    assert set(record["errors"]) == {"train", "test"} and record["held_out_curve"][-1]["step"] == 2
    assert list(trained(8, folder=tmp_path)) == ["U-Net 2blocks_noattn, in training (6 images)"]
    more = [*options, "--n-eval", "5", "--n-curve", "3", "--device", "cpu"]
    again = run_cli(*more)
    assert again.exit_code == 2 and "--resume" in again.output and "--overwrite" in again.output
    before = (tmp_path / "2blocks_noattn_8.json").read_text()
    assert run_cli(*more, "--seed", "5").exit_code == 0 and (tmp_path / "2blocks_noattn_8_seed5.json").exists()
    assert (tmp_path / "2blocks_noattn_8.json").read_text() == before
    longer = [*more, "--steps", "4", "--resume"]
    with Run(get_config("2blocks_noattn"), 8, SCHEDULE, tmp_path).lock():
        taken = run_cli(*longer)
    assert taken.exit_code == 2 and "another process is training" in taken.output
    assert run_cli(*longer).exit_code == 0
    assert json.loads((tmp_path / "2blocks_noattn_8.json").read_text())["images"] == 12
    shipped = run_cli(*longer, "--publish", str(tmp_path / "shipped"))
    assert shipped.exit_code == 0 and (tmp_path / "shipped" / "2blocks_noattn_8.safetensors").exists()
    assert run_cli(*more, "--overwrite").exit_code == 0  # shorter, and asked for
    assert json.loads((tmp_path / "2blocks_noattn_8.json").read_text())["images"] == 6
    refused = run_cli(*more, "--publish", str(tmp_path / "shipped"))
    assert refused.exit_code == 2 and "nothing longer is replaced" in refused.output


def test_measuring_what_a_step_keeps_keeps_nothing(images):
    """The graph of the measurement is gone afterwards: kept, its accumulators would tie later steps to the stream they were made on."""
    network = SMALL.build()

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    before = alive()
    assert saved_bytes(network, EDM(), images.shape) > 0
    assert alive() == before


def test_the_recorded_command_makes_the_same_weights(tmp_path, monkeypatch, images):
    """A record names the commands of a run of two schedules; run in a fresh folder they give the same file."""
    monkeypatch.setattr("numeric.data.load_mnist", lambda *_, size, **__: images.resized(size))
    few = ["--n-eval", "4", "--n-curve", "3", "--threads", "1"]
    base = ["--config", "cnn", "--size", "8", "--seed", "2", *few, "--output", str(tmp_path / "a")]
    assert run_cli(*base, "--steps", "2", "--batch-size", "3", "--ema", "0.9", "--float32").exit_code == 0
    more = ["--steps", "4", "--batch-size", "4", "--warmup", "8", "--decay-after", "12", "--late-batch-size", "6"]
    assert run_cli(*base, *more, "--resume", "--reschedule").exit_code == 0
    record = json.loads((tmp_path / "a" / "cnn_8_seed2.json").read_text())
    assert record["images"] == 20 and record["command"].count("python -m numeric train ") == 2
    for command in record["command"].split(" && "):
        words = command.removeprefix("python -m numeric train ").split()
        result = run_cli(*words, "--threads", "1", "--output", str(tmp_path / "b"))
        assert result.exit_code == 0, result.output
    a, b = (load_tensors(tmp_path / x / "cnn_8_seed2.safetensors")[0] for x in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    again = json.loads((tmp_path / "b" / "cnn_8_seed2.json").read_text())
    assert again["images"] == record["images"] and again["loss"] == record["loss"] and again["command"] == record["command"]
    assert again["errors"] == record["errors"]
    assert [point["mse"] for point in again["held_out_curve"]] == [point["mse"] for point in record["held_out_curve"]]


@given(
    images=st.integers(0, 10**8), power=st.floats(0, 20).map(lambda v: round(v, 3)), rate=st.floats(1e-6, 1.0), bf16=st.booleans()
)
def test_the_recorded_options_are_those_of_the_schedule(images, power, rate, bf16):
    """What `options` writes, the command line reads back to the same schedule, a million images too."""
    schedule = Schedule(3, 8, rate, warmup=images, decay_after=images, ema_power=power, bf16=bf16)
    command = typer.main.get_command(app)
    train_command = command.commands["train"]
    read = train_command.make_context("train", shlex.split(options(schedule.to_dict()))).params
    assert (read["warmup"], read["decay_after"], read["ema_power"], read["bf16"]) == (images, images, power, bf16)
    assert read["learning_rate"] == rate


def test_going_on_from_published_weights(tmp_path, monkeypatch, images):
    """Without its checkpoint a run goes on from its weights: images, curves and phases follow on, and the recorded commands repeat it."""
    monkeypatch.setattr("numeric.data.load_mnist", lambda *_, size, **__: images.resized(size))
    monkeypatch.chdir(tmp_path)
    few = ["--n-eval", "4", "--n-curve", "3", "--threads", "1"]
    base = ["--config", "cnn", "--size", "8", "--batch-size", "3", "--ema", "0.9", "--float32", *few]
    assert run_cli(*base, "--steps", "2").exit_code == 0
    (tmp_path / "runs/train/checkpoints/cnn_8.safetensors").unlink()
    more = [*base, "--steps", "5", "--output", "on"]
    missing = run_cli(*more, "--start-from", "nowhere")
    assert missing.exit_code == 2 and "cnn_8.safetensors was not found" in " ".join(missing.output.split())
    same = run_cli(*more, "--overwrite", "--start-from", "on")
    assert same.exit_code == 2 and "the same folder" in " ".join(same.output.split())
    assert run_cli(*more, "--start-from", "runs/train").exit_code == 0
    record = json.loads((tmp_path / "on/cnn_8.json").read_text())
    assert (record["images"], record["steps"]) == (15, 5)
    assert [phase["from_images"] for phase in record["phases"]] == [0, 6] and len(record["phases"][1]["weights"]) == 64
    assert [point["images"] for point in record["held_out_curve"]] == [6, 15]
    for number, command in enumerate(record["command"].split(" && ")):
        assert ("--start-from runs/train --output runs/train-again" in command) == (number == 1)
        words = command.removeprefix("python -m numeric train ").split()
        assert run_cli(*words, "--threads", "1", *(["--overwrite"] if number == 0 else [])).exit_code == 0
    a, b = (load_tensors(tmp_path / folder / "cnn_8.safetensors")[0] for folder in ("on", "runs/train-again"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_record_is_published_without_its_weights(tmp_path, monkeypatch, images):
    """Weights that are too large to ship are measured and left out; the record says so, and no older weights stay beside it."""
    monkeypatch.setattr("numeric.data.load_mnist", lambda *_, size, **__: images.resized(size))
    monkeypatch.chdir(tmp_path)
    few = ["--config", "cnn", "--size", "8", "--batch-size", "3", "--steps", "4", "--n-eval", "4", "--n-curve", "3", "--threads", "1"]
    assert run_cli(*few).exit_code == 0
    refused = run_cli(*few, "--record-alone")
    assert refused.exit_code == 2 and "give --publish" in " ".join(refused.output.split())
    assert run_cli(*few, "--publish", "out").exit_code == 0
    whole = json.loads((tmp_path / "out/cnn_8.json").read_text())
    told = run_cli(*few, "--publish", "out", "--record-alone")
    record = json.loads((tmp_path / "out/cnn_8.json").read_text())
    assert told.exit_code == 0 and "left out" in told.output and record["weights"].startswith("left out: ") and "weights" not in whole
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"cnn_8.json"}
    assert (record["errors"], record["held_out_curve"]) == (whole["errors"], whole["held_out_curve"])
    assert [r["config"]["name"] for r in records_alone(8, tmp_path / "out")] == ["cnn"]


@pytest.mark.parametrize("warmup, rise", [(0, RESTART_STEPS), (4, RESTART_STEPS), (40, 40)])
def test_the_rate_rises_anew_where_the_moments_are_lost(tmp_path, images, warmup, rise):
    """From published weights Adam starts with empty moments: the warm-up comes once more, a checkpoint on the way goes on with it."""
    schedule = dataclasses.replace(SCHEDULE, warmup=warmup * SCHEDULE.batch_size, decay_after=2 * SCHEDULE.batch_size)
    run, b = Run(SMALL, 8, schedule, tmp_path / "a"), schedule.batch_size
    train(SMALL, images, schedule, checkpoint=run.checkpoint, progress=False)
    publish(run, images, images)

    def rates(trainer, steps):
        out = []
        for _ in range(steps):
            trainer.advance()
            out.append(trainer.optimizer.param_groups[0]["lr"])
        return out

    again = Trainer(SMALL, images, schedule)
    again.start_from(run.weights)
    seen = again.images_seen
    without = dataclasses.replace(schedule, warmup=0)
    expected = [without.rate(seen + k * b) * min((k + 1) / rise, 1) for k in range(6)]
    assert seen == schedule.steps * b and rates(again, 2) == pytest.approx(expected[:2])
    again.save(tmp_path / "on.safetensors")
    on = Trainer(SMALL, images, schedule)
    on.restore(tmp_path / "on.safetensors")
    assert rates(on, 4) == pytest.approx(expected[2:])


def test_going_on_from_weights_of_another_kind_is_refused(tmp_path, images):
    """Seed, data and preconditioning of published weights must be those of the run."""
    run = Run(SMALL, 8, SCHEDULE, tmp_path / "a")
    train(SMALL, images, SCHEDULE, checkpoint=run.checkpoint, progress=False)
    publish(run, images, images)
    for other, schedule, name in ((images, dataclasses.replace(SCHEDULE, seed=1), "seed"), (images.take(20), SCHEDULE, "edm")):
        with pytest.raises(ValueError, match=f"another {name}"):
            Trainer(SMALL, other, schedule).start_from(run.weights)
    on = Run(SMALL, 8, SCHEDULE, tmp_path / "b", start_from=tmp_path / "a")
    assert foresee(on, images).done == 48 and on.start == run.weights
    assert list(train_all([on], lambda _: (images, images), n_eval=4, n_curve=3, progress=False)) == []  # it has its 12 steps


def test_training_all_from_the_command_line(tmp_path, monkeypatch, images):
    """Foreseen time first, then every network in order; ``--config`` beside ``--all`` is refused."""
    monkeypatch.setattr("numeric.data.load_mnist", lambda *_, size, **__: images.resized(8))
    monkeypatch.setattr("numeric.baselines.runs.TRAINING_ORDER", (("cnn", 8), ("1block_noattn", 8)))
    monkeypatch.setattr("numeric.baselines.runs.all_runs.__defaults__", ((("cnn", 8), ("1block_noattn", 8)),))
    options = ["--all", "--steps", "2", "--batch-size", "3", "--output", str(tmp_path), "--n-eval", "4", "--n-curve", "3"]
    result = run_cli(*options)
    assert result.exit_code == 0, result.output
    told = result.output
    assert told.index("foreseen for all") < told.index("CNN at 8 pixels") < told.index("U-Net 1block_noattn at 8 pixels")
    assert "cnn_8: done" in run_cli(*options).output
    assert run_cli("--all", "--config", "cnn").exit_code == 2


def test_command_line_errors():
    unknown = run_cli("--config", "unet")
    assert unknown.exit_code == 2 and "4blocks_noattn" in unknown.output and "1block_wide128" in unknown.output
    assert run_cli("--config", "cnn", "--steps", "0").exit_code == 2


def test_list_shows_parameter_counts():
    from numeric.baselines.configs import CONFIGS, parameter_count

    out = run_cli("--list").output
    assert all(f"{parameter_count(CONFIGS[name].build()):,}"[:5] in out for name in ("cnn", "4blocks_noattn"))


def test_table_1_on_little_data(tmp_path):
    """Every row is measured or says why not; the linear row is the exact expectation within 5 standard errors."""
    from numeric.figures.table1 import Table1Config, frame, make_table

    config = Table1Config(
        size=16, n_train=200, n_eval=60, n_network=10, n_slow=5, n_local=20, sigmas=[0.5], families=["independent:2"],
        shared=["independent:1"], networks=["cnn", "1block_noattn"], steps=2, batch_size=4, wiener=["pixel:2"], mixtures=["3"], cache=str(tmp_path / "runs"),
    )  # fmt: skip
    _, record, paths = make_table(config, tmp_path, progress=False)
    _, again, _ = make_table(config, tmp_path, progress=False)
    assert again["rows"] == record["rows"]  # every row from the cache: times too
    rows = {row["method"]: row for row in record["rows"]}
    cnn = "CNN, in training (8 images)"
    assert {p.suffix for p in paths} == {".png", ".pdf", ".json"} and all(p.is_file() for p in paths)
    assert rows[cnn]["origin"] == "trained here" and rows[cnn]["parameters"] == 73_921
    linear, shared = rows["linear"], rows["independent, shared readout, degree 1"]
    assert linear["errors"]["test"]["0.5"]["mse"] == pytest.approx(shared["errors"]["test"]["0.5"]["mse"], rel=1e-3)
    assert rows["optimal empirical"]["errors"]["train"]["0.5"]["mse"] < linear["errors"]["train"]["0.5"]["mse"]
    assert len(frame(record)) == len(record["rows"])
    told = "\n".join(record["findings"])
    assert "not trained: none" in told and "test, sigma 0.5: lowest" in told
    with pytest.raises(ValueError, match="name:degree"):
        Table1Config(families=["band"])
    with pytest.raises(ValueError, match="unknown configuration"):
        Table1Config(networks=["resnet"])
    skipped = Table1Config(networks=["4blocks_wide64_noattn"], steps=0, size=16)
    from numeric.figures.table1 import networks_of

    (entry,) = networks_of(skipped, ImageSet(torch.rand(3, 1, 16, 16)), False)
    assert isinstance(entry, dict) and entry["origin"] == "not trained" and entry["errors"] == {}
