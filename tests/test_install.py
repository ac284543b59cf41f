"""Installing: which torch is taken where, and the import that mends a torchvision built for another torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def install(monkeypatch):
    """install.py with a pip that only writes down what it is asked."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.asked = []
    monkeypatch.setattr(module, "pip", lambda *a, check=True: module.asked.append([x for x in a if x[0] != "-"][1:]) or 0)
    return module


def test_a_machine_with_a_gpu_takes_the_pair_of_pip(install):
    install.install_torch("2", "0.2", gpu=True)
    assert install.asked == [["torch==2", "torchvision==0.2"]]


def test_without_a_gpu_the_cpu_pair_is_taken_together(install, monkeypatch):
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr(install.subprocess, "run", lambda command, **_: commands.append(command) or Done())
    install.install_torch("2", "0.2", gpu=False)
    assert commands[0][-3:] == ["--torch-backend=cpu", "torch==2", "torchvision==0.2"] and install.asked == [["uv"]]


def test_where_the_cpu_wheels_are_out_of_reach_no_cuda_comes_in(install, monkeypatch):
    monkeypatch.setattr(install, "cpu_pair", lambda *_: False)
    monkeypatch.setattr(install, "would_pull_cuda", lambda _: False)
    install.install_torch("2", "0.2", gpu=False)
    assert install.asked == [["torch==2"], ["torchvision==0.2"]]
    monkeypatch.setattr(install, "would_pull_cuda", lambda _: True)
    with pytest.raises(SystemExit, match="could not be reached, and pip's torch would bring CUDA packages"):
        install.install_torch("2", "0.2", gpu=False)


def imported(*lines: str) -> str:
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_import_mends_torchvision():
    out = imported(
        "import numeric.torchvision_fix, torchvision, torch",
        "from torchvision import datasets, models, transforms",
        "print(transforms.Resize(4, antialias=True)(torch.ones(1, 8, 8)).shape, datasets.MNIST.__name__)",
        "import numeric.torchvision_fix; from numeric._torchvision import import_torchvision",
        "assert import_torchvision('transforms') is transforms",
    )
    assert out.strip() == "torch.Size([1, 4, 4]) MNIST"


@pytest.mark.slow
def test_deepinv_imports_after_the_mend():
    if importlib.util.find_spec("deepinv") is None:
        pytest.skip("deepinv is not installed")
    out = imported("import numeric.torchvision_fix, deepinv", "print(deepinv.physics.Denoising.__name__)")
    assert out.split()[-1] == "Denoising"
