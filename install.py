"""Install wavelet-score into the environment that runs this file, with a torch that fits the machine.

On Linux the default torch wheel brings several GB of CUDA packages.  Where there is no NVIDIA GPU this script takes PyTorch's
CPU builds of torch and torchvision as a pair, through uv's ``--torch-backend=cpu``, which knows where those wheels are.  Where
they cannot be reached it asks pip what it *would* install: a torch without CUDA packages is taken, and torchvision's default
wheel beside it, whose import ``numeric.torchvision_fix`` mends (said at the end).  On a machine with a GPU (or with ``--gpu``)
pip's default is taken.  torch goes in first, so that installing the project finds its requirement satisfied.
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


def cpu_pair(*requirements: str) -> bool:
    """Install PyTorch's CPU builds with uv; False where they cannot be reached (nothing is installed then)."""
    if pip("install", "--quiet", "uv", check=False):
        return False
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--torch-backend=cpu"]
    environment = {**os.environ, "UV_HTTP_RETRIES": "0"}
    return subprocess.run([*uv, *requirements], env=environment, capture_output=True).returncode == 0


def install_torch(torch: str, torchvision: str, gpu: bool) -> None:
    """Install torch and torchvision: pip's choice with a GPU, PyTorch's CPU pair otherwise, else what has no CUDA packages."""
    pair = f"torch=={torch}", f"torchvision=={torchvision}"
    if gpu:
        pip("install", "--quiet", *pair)
        return
    if cpu_pair(*pair):
        return
    if would_pull_cuda(pair[0]):
        sys.exit(
            f"PyTorch's CPU wheels of torch {torch} could not be reached, and pip's torch would bring CUDA packages. Install a CPU "
            "build of torch into this environment as PyTorch's 'Get started' page says, or run install.py --gpu to accept the "
            "CUDA packages, then run this again."
        )
    pip("install", "--quiet", pair[0])
    # torchvision's own requirement is exactly this torch; --no-deps keeps pip from looking for another build of it.
    pip("install", "--quiet", "--no-deps", pair[1])


def torchvision_imports() -> bool:
    """Whether ``import torchvision`` works by itself in a new interpreter."""
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, cwd=HERE).returncode == 0


def main() -> None:
    """Install torch, torchvision and the project with its test and notebook extras, then import both once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="2.13.0", help="torch version (default %(default)s)")
    parser.add_argument("--torchvision", default="0.28.0", help="matching torchvision version (default %(default)s)")
    parser.add_argument("--gpu", action="store_true", help="take the CUDA build (default: only if nvidia-smi is here)")
    options = parser.parse_args()
    if sys.prefix == sys.base_prefix:
        sys.exit("Run this inside a virtual environment (make setup creates one): it installs packages.")
    install_torch(options.torch, options.torchvision, options.gpu or shutil.which("nvidia-smi") is not None)
    pip("install", "--quiet", "--editable", f"{HERE}[test]")
    check = "import analytic, numeric.data, numeric.torchvision_fix, torch; print('torch', torch.__version__)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=HERE)
    if not torchvision_imports():
        print(
            "torchvision here is built for another torch and cannot be imported by itself. This project mends that where it needs "
            "it; in your own programs write 'import numeric.torchvision_fix' before 'import torchvision' or 'import deepinv'."
        )


if __name__ == "__main__":
    main()
