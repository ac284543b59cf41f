"""Install wavelet-score into the environment that runs this file, with a torch that fits the machine.

On Linux the default torch wheel brings several GB of CUDA packages.  Where there is no NVIDIA GPU this script first asks
pip what it *would* install; if that includes CUDA packages it installs PyTorch's CPU build through uv's
``--torch-backend=cpu``, which knows where those wheels are.  On a machine with a GPU (or with ``--gpu``) pip's default is
taken.  torch goes in first, so that installing the project finds its requirement satisfied.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pip(*arguments: str, check: bool = True) -> int:
    """Run this environment's pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=check).returncode


def would_pull_cuda(requirement: str) -> bool:
    """Whether pip's own choice for the requirement brings CUDA packages."""
    handle, name = tempfile.mkstemp(suffix=".json")
    os.close(handle)
    try:
        if pip("install", "--quiet", "--dry-run", "--report", name, requirement, check=False):
            return True
        installs = json.loads(Path(name).read_text())["install"]
        return any(item["metadata"]["name"].lower().startswith(("nvidia-", "triton", "cuda-")) for item in installs)
    finally:
        Path(name).unlink(missing_ok=True)


def install_torch(version: str, gpu: bool) -> None:
    """Install torch: pip's choice with a GPU or where it is a CPU build, PyTorch's CPU build otherwise."""
    requirement = f"torch=={version}"
    if gpu or not would_pull_cuda(requirement):
        pip("install", "--quiet", requirement)
        return
    print(
        "No NVIDIA GPU found and pip's torch would bring CUDA packages: taking PyTorch's CPU build.",
        flush=True,
    )
    pip("install", "--quiet", "uv")
    uv = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        sys.executable,
        "--torch-backend=cpu",
    ]
    if subprocess.run([*uv, requirement]).returncode:
        sys.exit(
            f"PyTorch's CPU wheels of torch {version} could not be reached. Install a CPU build of torch into this environment as "
            "PyTorch's 'Get started' page says, or run install.py --gpu to accept the CUDA packages, then run this again."
        )


def main() -> None:
    """Install torch, torchvision and the project with its test and notebook extras, then import both once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="2.13.0", help="torch version (default %(default)s)")
    parser.add_argument("--torchvision", default="0.28.0", help="matching torchvision version (default %(default)s)")
    parser.add_argument("--gpu", action="store_true", help="take the CUDA build (default: only if nvidia-smi is here)")
    options = parser.parse_args()
    if sys.prefix == sys.base_prefix:
        sys.exit("Run this inside a virtual environment (make setup creates one): it installs packages.")
    install_torch(options.torch, options.gpu or shutil.which("nvidia-smi") is not None)
    # torchvision's own requirement is exactly this torch; --no-deps keeps pip from looking for another build of it.
    pip("install", "--quiet", "--no-deps", f"torchvision=={options.torchvision}")
    pip("install", "--quiet", "--editable", f"{HERE}[test]")
    check = "import numeric.data, analytic; from numeric._torchvision import import_torchvision as i; i('transforms'); import torch; print('torch', torch.__version__)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=HERE)


if __name__ == "__main__":
    main()
