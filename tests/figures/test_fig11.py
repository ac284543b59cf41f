"""Figure 11 and the command that generates: samples are kept by what made them, bad parameters named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from numeric.baselines.linear import LinearDenoiser
from numeric.commands.app import app
from numeric.evaluation.kept import kept_samples
from numeric.evaluation.sample import Sampler, edm_sigmas
from numeric.evaluation.sweep import FittedLater
from numeric.figures.fig11 import GenerateConfig, findings
from numeric.scores.own import WaveletScore

ROOT = Path(__file__).parents[2]


def test_fig11_notebook_runs(tmp_path):
    """Papermill, small: the figure, its numbers, and findings that follow from them."""
    lists = "{families: ['independent:1', 'local:2'], shared: []}"
    numbers = {"n_train": 300, "size": 16, "n_shown": 3, "n_quality": 20, "n_trained": 4, "steps": 6}
    options = [word for key, value in numbers.items() for word in ("-p", key, str(value))]
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/fig11.ipynb"), str(tmp_path / "out.ipynb")]
    subprocess.run(
        [*command, *options, "-y", lists, "-p", "output", str(tmp_path), "-p", "cache", str(tmp_path / "runs")],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    record = json.loads((tmp_path / "fig11.json").read_text())
    assert {p.name for p in tmp_path.glob("fig11.*")} == {"fig11.png", "fig11.pdf", "fig11.json"}
    rows = {r["method"]: r for r in record["scores"]}
    assert {
        "training images",
        "independent, degree 1, own",
        "local, degree 2, own",
        "linear",
        "optimal empirical",
    } <= set(rows)
    # The optimal empirical denoiser's flow ends on training images (Li et al., 2024); the linear one's does not.
    assert rows["optimal empirical"]["memorised"] > 0.9 > 0.1 > rows["linear"]["memorised"]
    assert record["findings"] == findings(record)
    assert "copy a training image: optimal empirical" in "\n".join(record["findings"])


def test_finished_samples_are_kept(tmp_path, mnist16):
    """An interrupted Figure 11 takes up from the samples it has: the same images, and the denoiser is not run again."""
    sampler, train = Sampler(edm_sigmas(3, 0.03)), mnist16.take(50)

    def kept(denoiser, train=train, sampler=sampler, seeds=range(3)):
        return kept_samples(sampler, denoiser, seeds, 2, train, tmp_path, progress=False)

    about = {"class": "numeric.baselines.linear.LinearDenoiser", "settings": None}
    linear = FittedLater("linear", lambda: LinearDenoiser().fit(train), about)
    first, seconds, unclipped = kept(linear)
    never = FittedLater("another label", lambda: pytest.fail("it was fitted again"), about)
    again, same, _ = kept(never)
    assert torch.equal(first, again) and seconds == same and len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert unclipped["finite"]
    # Other settings of the denoiser, sampler, seeds or data are other samples, under whatever label; none erases another's.
    wavelet = FittedLater("linear", lambda: WaveletScore("independent", 1).fit(train), {**about, "settings": 1})
    assert not torch.equal(kept(wavelet)[0], first)
    kept(linear, sampler=dataclasses.replace(sampler, start_from="noise"))
    kept(linear, train=train.take(40))
    kept(linear, seeds=range(1, 4))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    assert torch.equal(kept(never)[0], first)
    with pytest.raises(ValueError, match="cannot be kept in a cache"):
        kept(FittedLater("linear", lambda: LinearDenoiser().fit(train)))
    kept(LinearDenoiser().fit(train))  # a fitted one is known by what it holds
    kept(LinearDenoiser().fit(train.take(40)))
    kept(LinearDenoiser().fit(train))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 7


def test_a_network_with_other_weights_is_sampled_anew(tmp_path, mnist16):
    """The key of kept samples holds the hash of the weights file: same configuration, size and label, other weights."""
    from numeric.baselines.configs import get_config
    from numeric.baselines.edm import EDM
    from numeric.baselines.network import load_network, save_network

    sampler = Sampler(edm_sigmas(2, 0.03))
    network, train, found = get_config("cnn"), mnist16.take(50), []
    path = tmp_path / "cnn_16.safetensors"
    for seed in (0, 1):
        built, draw = network.build(1), torch.Generator().manual_seed(seed)
        for weight in built.parameters():  # the last layer begins at zero
            weight.data.add_(0.05 * torch.randn(weight.shape, generator=draw))
        save_network(tmp_path / f"{seed}.safetensors", built, network, EDM(0.5), 1)
    for seed in (0, 1, 0):
        path.write_bytes((tmp_path / f"{seed}.safetensors").read_bytes())
        found.append(kept_samples(sampler, load_network(path), range(2), 2, train, tmp_path / "runs", False)[0])
    assert not torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert len(list((tmp_path / "runs").rglob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": ["local"]}, "family:degree"),
        ({"families": ["wave:2"]}, "unknown family 'wave'"),
        ({"n_shown": 9, "n_quality": 5}, "n_shown <= n_quality"),
        ({"process": "xx"}, "unknown process"),
    ],
)
def test_bad_parameters_of_figure_11_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**change)


def test_generate_command_line():
    runner = CliRunner()
    assert runner.invoke(app, ["generate", "--help"]).exit_code == 0
    bad = runner.invoke(app, ["generate", "--method", "euler"])
    assert bad.exit_code == 2 and "unknown method" in bad.output
