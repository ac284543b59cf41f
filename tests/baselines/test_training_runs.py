"""Whole runs: what is published, gone on from, and recorded; the training command."""

from __future__ import annotations

import dataclasses
import json
import shlex

import pytest
import torch
import typer
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from numeric.baselines.configs import CONFIGS, TRAINING_ORDER, get_config
from numeric.baselines.network import records_alone, trained
from numeric.baselines.runs import Run, all_runs, foresee, publish, train_all
from numeric.baselines.schedule import RESTART_STEPS, Schedule, options
from numeric.baselines.train import Trainer, train
from numeric.commands.app import app
from numeric.data import ImageSet
from numeric.results import load_tensors
from tests.training import SCHEDULE, SMALL, run_cli

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_run_that_another_process_trains_is_not_removed(tmp_path):
    """``--overwrite`` waits for the lock before it removes anything."""
    arguments = ["--config", "2blocks_noattn", "--base-channels", "4", "--size", "16", "--n-train", "8", "--steps", "1"]
    arguments += ["--n-eval", "2", "--n-curve", "2", "--output", str(tmp_path)]
    assert run_cli(*arguments).exit_code == 0
    there = {path: path.read_bytes() for path in tmp_path.rglob("2blocks*") if path.suffix != ".lock"}
    with FileLock(next(tmp_path.rglob("*.lock"))):
        found = run_cli(*arguments, "--overwrite")
    assert found.exit_code == 2 and "another process is training" in found.output
    assert len(there) == 3 and all(path.read_bytes() == content for path, content in there.items())


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path, images):
    path = tmp_path / "state.safetensors"
    trainer = Trainer(SMALL, images, SCHEDULE)
    trainer.save(path)
    good = path.read_bytes()
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"not finite at step 0.*keeps the last good ones"):
        trainer.save(path)
    assert path.read_bytes() == good
