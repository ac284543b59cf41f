"""The training command: the same numbers after a kill, clear errors, records that name what made them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

import numeric.baselines.train as train_module
from numeric.baselines.configs import NetworkConfig
from numeric.baselines.network import trained
from numeric.baselines.train import Schedule, Trainer, check_memory, milestones, saved_bytes, step_generator, train
from numeric.commands.app import app
from numeric.data import ImageSet
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


def test_other_settings_or_data_are_not_resumed(images, tmp_path):
    path = tmp_path / "c.safetensors"
    train(SMALL, images, dataclasses.replace(SCHEDULE, steps=1), checkpoint=path, progress=False)
    for config, data, schedule in [
        (SMALL, images, dataclasses.replace(SCHEDULE, seed=1)),
        (SMALL, images.take(20), SCHEDULE),
        (dataclasses.replace(SMALL, base_channels=12), images, SCHEDULE),
    ]:
        with pytest.raises(ValueError, match="another configuration, schedule, seed or data"):
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
    assert record["loss"][0][1] == pytest.approx(1, abs=0.3)
    assert sum(v for _, v in record["loss"][-10:]) / 10 < 0.7
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


def test_milestones_double():
    assert milestones(300) == [25, 50, 100, 200, 300]
    assert milestones(10) == [10]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"ema": 1.0}, "ema"),
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
    assert list(trained(8, folder=tmp_path)) == ["U-Net 2blocks_noattn (2 steps)"]


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
        shared=["independent:1"], networks=["cnn", "1block_noattn"], steps=2, batch_size=4,
    )  # fmt: skip
    _, record, paths = make_table(config, tmp_path, progress=False)
    rows = {row["method"]: row for row in record["rows"]}
    assert {p.suffix for p in paths} == {".png", ".pdf", ".json"} and all(p.is_file() for p in paths)
    assert rows["CNN (2 steps)"]["source"] == "trained here" and rows["CNN (2 steps)"]["parameters"] == 73_921
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
    from numeric.figures.table1 import _networks

    models, facts = _networks(skipped, ImageSet(torch.rand(3, 1, 16, 16)), False)
    assert models == {} and next(iter(facts.values()))["source"] == "not trained"
