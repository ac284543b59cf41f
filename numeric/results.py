"""Results files: written atomically, each naming the command, seed, data hash and versions that made it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class FileError(ValueError):
    """A file does not hold what it should; the message names the file and the fix."""


@contextmanager
def reading(path: str | Path, what: str, error: type[ValueError] = FileError) -> Iterator[None]:
    """Whatever the content of a file makes fail inside the block becomes one error that names the file.

    Errors of the class ``error`` and of the system (OSError, MemoryError) pass as they are.
    """
    try:
        yield
    except error:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RuntimeError) as problem:
        reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
        raise error(f"{path} is damaged or no {what} ({reason}): delete it and make it again") from problem


def existing_file(path: str | Path) -> Path:
    """The path, if a file is there.

    Raises:
        FileNotFoundError: nothing is there. FileError: it is a folder. PermissionError: it may not be read.
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(f"{path} is a folder: give the file")
    if not path.exists():
        raise FileNotFoundError(f"{path} was not found")
    return readable(path)


def readable(path: Path) -> Path:
    """The path; raises PermissionError, before a reader calls the file damaged, if this user may not read it."""
    if path.exists() and not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(f"{path} may not be read by this user: change its permissions, or copy it")
    return path


def stored(tensors: Mapping[str, Tensor], name: str, shape: Sequence[int], path: str | Path) -> Tensor:
    """A tensor of numbers that a file must hold, as float64.

    Raises:
        FileError: it is missing, of another shape, of integers, or holds NaN or infinite numbers.
    """
    if name not in tensors:
        raise FileError(f"{path} is damaged: it lacks {name!r}; delete it and make it again")
    tensor = tensors[name]
    if tuple(tensor.shape) != tuple(shape):
        raise FileError(f"{path} is damaged: {name!r} has shape {tuple(tensor.shape)}, its settings ask for {tuple(shape)}")
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        raise FileError(f"{path} is damaged: {name!r} holds {tensor.dtype}, not floating numbers")
    tensor = tensor.double()
    if tensor.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):  # no mask as large as the tensor
        raise FileError(f"{path} is damaged: {name!r} holds NaN or infinite numbers; delete it and make it again")
    return tensor


def check_output(path: str | Path) -> Path:
    """Make sure, before the work whose result goes there, that a file can be written; its folder is made.

    Raises:
        FileError: ``path`` is a folder, or its folder is a file. OSError: the folder cannot be made or written in.
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(f"{path} is a folder: give the name of a file to write")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise FileError(f"{path} cannot be written: {above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: the folder {above} may not be written in; give another")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Raises:
        FileError: ``path`` is a folder. OSError: nothing can be written there; what was at ``path`` is as it was.
    """
    path = check_output(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("wavelet-score", "numpy", "scipy", "sympy", "PyWavelets", "torch", "torchvision")
    out = {"python": platform.python_version()}
    for name in names:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def provenance(command: str | None = None, seed: int | None = None, **more: Any) -> dict[str, Any]:
    """The record every results file carries."""
    command = command or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "command": command,
        "seed": seed,
        "versions": versions(),
        "machine": {
            "processor_count": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "system": platform.system(),
        },
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **more,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"cannot write {type(value).__name__} to JSON")


def _finite(value: Any) -> Any:
    """``value`` in JSON's own types, with null for numbers that are not finite (JSON has none such)."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return _finite(_plain(value))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically: arrays and tensors as lists, numbers that are not finite as null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        FileError: the file is truncated or not JSON, or a folder. FileNotFoundError: it is not there.
    """
    try:
        return json.loads(existing_file(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"{path} is truncated or not JSON ({error}): delete it and run again") from error


def keep_larger(path: str | Path, images: int, **sizes: int) -> None:
    """Refuse, before the work, to replace a results file made from more images by one made from fewer.

    Args:
        path: of the JSON file to be written. images: training images that the new one will be made from, at most.
        sizes: ``claims=3``: neither may the file hold a longer list of that name.

    Raises:
        FileError: what is there was made from more, or is damaged.
    """
    if not Path(path).is_file():
        return
    there = read_json(path)
    there = there if isinstance(there, dict) else {}
    pairs = [("images", _most_images(there.get("data")), images)]
    pairs += [(name, len(there.get(name) or ()), count) for name, count in sizes.items()]
    for what, old, new in pairs:
        if old > new:
            raise FileError(
                f"{path} was made from {old:,} {what}, this run has {new:,}: nothing larger is replaced; give another output folder or "
                "name, or delete it first"
            )


def _most_images(data: Any) -> int:
    """The largest ``count`` among descriptions of training images (:attr:`numeric.data.ImageSet.provenance`), however nested."""
    if not isinstance(data, dict):
        return 0
    own = data["count"] if isinstance(data.get("count"), int) and data.get("split") == "train" else 0
    return max([own, *map(_most_images, data.values())])


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors atomically as safetensors with string metadata."""
    with atomic_path(path) as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata)
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{path} could not be written ({error}): what was there before is as it was") from error


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata; no code in it is run, and no more is allocated than the file holds.

    Raises:
        FileError: the file is truncated or not safetensors, or a folder. FileNotFoundError: it is not there.
    """
    path = existing_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise FileError(
            f"{path} is truncated or not a safetensors file ({error}): delete it and make it again"
        ) from error


def save_figure(figure: Any, path: str | Path, record: dict[str, Any]) -> list[Path]:
    """Write a figure as ``path.png`` and ``path.pdf`` and its numbers as ``path.json``, and close it.

    A notebook then shows it once, as the value of a cell, and not again as a figure left open.
    """
    import matplotlib.pyplot as plt

    base = Path(path)
    written = []
    for suffix in (".png", ".pdf"):
        target = base.with_name(base.name + suffix)
        with atomic_path(target) as temporary:
            options = {"metadata": {"CreationDate": None}} if suffix == ".pdf" else {}
            figure.savefig(temporary, dpi=160, bbox_inches="tight", **options)
        written.append(target)
    target = base.with_name(base.name + ".json")
    write_json(target, record)
    plt.close(figure)
    return [*written, target]


def kept_json(folder: str | Path, name: str, key: dict[str, Any], make: Callable[[], Any]) -> Any:
    """What ``make`` returns (plain JSON types), from ``folder/name-<hash of key>.json`` if it is there, else made and kept there.

    Args:
        key: everything the value depends on, as plain types; another key has another file, so that no run erases another's.
    """
    text = json.dumps(key, sort_keys=True)
    path = Path(folder) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        write_json(path, {"key": json.loads(text), "value": make()})
    return read_json(path)["value"]
