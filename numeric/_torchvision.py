"""Make torchvision importable beside a CPU-only torch; import torchvision through this module only.

torchvision's default wheel carries operators compiled against CUDA.  Beside a CPU build of torch they fail to
load, and the import stops at ``operator torchvision::nms does not exist``, although data sets, transforms and
utilities need none of them.  Registering the *schemas* of the two missing operators (no implementation: calling
one still raises) lets the import pass.  Nothing is defined where the import works by itself.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # must outlive the import, or the schemas vanish with it


def import_torchvision(submodule: str = "") -> ModuleType:
    """Return ``torchvision`` or ``torchvision.<submodule>``, defining missing operator schemas if needed.

    Raises:
        ImportError: torchvision is not installed (install it with the project: ``make setup``).
    """
    global _library
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[module]  # drop the half-imported package before trying again
    if _library is None:
        _library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _library.define(operator + _SCHEMA)
    return importlib.import_module(name)
