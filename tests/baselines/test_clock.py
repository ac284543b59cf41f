"""How long a training took, machine by machine: GPU minutes are told apart from a CPU's, in records, checkpoints and tables."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numeric.baselines.clock import machine_seconds, trained_on
from numeric.baselines.network import WEIGHTS, trained
from numeric.baselines.train import Trainer, train
from numeric.figures import beyond, table1
from numeric.results import load_tensors, save_tensors
from tests.training import SCHEDULE, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


@given(
    st.lists(st.tuples(st.sampled_from(["cpu", "cuda", "cuda:1"]), st.integers(1, 5000)), min_size=1, max_size=5),
    st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
)
def test_times_of_older_records_follow_from_their_phases(parts, paces):
    """Each phase has the seconds between its own points of the curve; all of them add up to the record's."""
    phases, curve, images, seconds = [], [], 0, 0.0
    spent = {"CPU": 0.0, "GPU": 0.0}
    for (device, count), pace in zip(parts, paces):
        phases.append({"schedule": {"device": device}, "from_images": images})
        images, seconds = images + count, seconds + count * pace
        spent["GPU" if device.startswith("cuda") else "CPU"] += count * pace
        curve.append({"images": images, "seconds": seconds})
    record = {"phases": phases, "images": images, "seconds": seconds, "held_out_curve": curve, "device": "CPU"}
    assert machine_seconds(record) == pytest.approx({name: value for name, value in spent.items() if value})
    assert trained_on(record) == ", ".join(dict.fromkeys("GPU" if device != "cpu" else "CPU" for device, _ in parts))


def test_the_time_of_a_phase_without_its_point_is_in_proportion_to_its_images():
    phases = [{"schedule": {"device": "cuda"}, "from_images": 0}, {"schedule": {"device": "cpu"}, "from_images": 300}]
    record = {"phases": phases, "images": 1000, "seconds": 50.0, "held_out_curve": [], "device": "NVIDIA H200"}
    assert machine_seconds(record) == pytest.approx({"NVIDIA H200": 15.0, "CPU": 35.0})
    assert machine_seconds({"schedule": {"device": "cpu", "batch_size": 2}, "steps": 5, "seconds": 3.0}) == {"CPU": 3.0}


def test_a_checkpoint_that_changes_its_machine_keeps_both_times(images, tmp_path, monkeypatch):
    """The schedule is the same, so no phase tells of it; and an older checkpoint, which knows its seconds alone, is taken up too."""
    path = tmp_path / "c.safetensors"
    monkeypatch.setattr("numeric.baselines.train.machine_name", lambda device: "Card")
    _, first = train(SMALL, images, SCHEDULE, checkpoint=path, stop_at=20, progress=False)
    monkeypatch.undo()
    assert first["machine_seconds"] == {"Card": first["seconds"]} and trained_on(first) == "GPU"
    trainer, record = train(SMALL, images, SCHEDULE, checkpoint=path, resume=True, progress=False)
    assert len(record["phases"]) == 1 and list(record["machine_seconds"]) == ["Card", "CPU"] and trained_on(record) == "GPU, CPU"
    assert record["machine_seconds"]["Card"] == first["seconds"] < record["seconds"] == pytest.approx(sum(record["machine_seconds"].values()))

    tensors, meta = load_tensors(path)
    seconds = json.loads(meta.pop("machine_seconds"))
    for extra in (meta["extra"], "{}"):
        save_tensors(path, tensors, {**meta, "seconds": repr(sum(seconds.values())), "extra": extra})
        old = Trainer(SMALL, images, SCHEDULE)
        old.restore(path)
        assert old.step == trainer.step and old.machine_seconds == pytest.approx(seconds if extra != "{}" else {"CPU": sum(seconds.values())})


def test_shipped_records_name_the_machines_of_their_training():
    """The sum is the record's; none of them says whose machine wrote it instead."""
    records = [json.loads(path.read_text()) for path in sorted(WEIGHTS.glob("*.json"))]
    for record in (record for record in records if "config" in record):
        assert "device" not in record and sum(record["machine_seconds"].values()) == pytest.approx(record["seconds"])
        devices = {phase["schedule"]["device"] for phase in record["phases"]}
        assert {"CPU" if d == "cpu" else "GPU" for d in devices} <= set(trained_on(record).split(", "))


def test_tables_tell_a_gpus_time(tmp_path):
    """Table 1 and figure beyond name it, from the records and not from the cache; closed forms are held against a CPU's training alone."""
    small = {
        "size": 32, "n_train": 40, "n_eval": 4, "n_network": 2, "sigmas": [0.5], "wiener": (), "mixtures": (), "refined": (), "machines": (),
        "families": ["independent:1"], "shared": [], "cache": str(tmp_path),
    }  # fmt: skip
    there = {network.record["config"]["name"]: network.record for network in trained(32).values()}
    names = [next(name for name, record in there.items() if trained_on(record) == kind) for kind in ("CPU", "GPU")]
    config = table1.Table1Config(**small, networks=names)
    for _ in range(2):  # measured, then from the cache
        record = {**table1.measure(config, progress=False), "parameters": {"sigmas": [0.5]}}
        on_cpu, on_gpu = (next(row for row in record["rows"] if row["method"].startswith(table1.get_config(name).title)) for name in names)
        assert [bool(table1.cells(row)[f"{kind} time"]) for row in (on_cpu, on_gpu) for kind in ("CPU", "GPU")] == [True, False, False, True]
        assert on_gpu["machine_seconds"] == there[names[1]]["machine_seconds"]
    (told,) = (line for line in table1.findings(record) if "the slowest closed form" in line)
    assert on_cpu["method"] in told and on_gpu["method"] not in told
    # Where all were trained on a GPU nothing is compared.
    assert not any("slowest closed" in line for line in table1.findings({**record, "rows": [row for row in record["rows"] if row is not on_cpu]}))

    (tmp_path / "kept").mkdir()
    rows = beyond.measure(beyond.BeyondConfig(**{**small, "cache": str(tmp_path / "kept")}, networks=names, n_symmetry=0), progress=False)["rows"]
    assert {row["method"].split(",")[0]: beyond.on_gpu(row) for row in rows if row["kind"] == "network"} == {
        table1.get_config(name).title: kind == "GPU" for name, kind in zip(names, ("CPU", "GPU"))
    }
    assert not any(beyond.on_gpu(row) for row in rows if row["kind"] != "network")
    shown = beyond.draw({"rows": rows, "parameters": {"sigmas": [0.5], "size": 32}, "data": record["data"]})
    assert any("GPU" in text.get_text() for text in shown.legends[0].get_texts())
