"""What tells one denoiser from another in a cache: never its label, always what its numbers are made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from types import BuiltinMethodType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.fingerprint import code_hash, modules_of, weights_hash


def identity(denoiser: Any) -> dict[str, Any]:
    """Class and settings of a denoiser that is fitted later, weights of a network, or all that a fitted one holds; and its code.

    Raises:
        ValueError: a denoiser that is fitted later and does not say what it is, or one that holds what cannot be read.
    """
    of = type(denoiser)
    name = f"{of.__module__}.{of.__qualname__}"
    path = getattr(denoiser, "path", None)
    about: dict[str, Any]
    if path is not None:
        about = {"class": name, "weights": weights_hash(path), "bf16": bool(getattr(denoiser, "bf16", False))}
    elif hasattr(denoiser, "about"):
        if denoiser.about is None:
            raise ValueError(f"{of.__name__} cannot be kept in a cache: say what it is, FittedLater(label, fit, about)")
        about = denoiser.about
    else:
        return {"class": name, "state": state_hash(denoiser), "code": code_hash(*modules_of(denoiser))}
    return {**about, "code": code_hash(about["class"].rpartition(".")[0])}


def state_hash(value: Any) -> str:
    """sha256 of parameters and all that was learnt, whatever was asked of the object since.

    Private attributes and cached properties follow from the others, and do not count.  An object whose numbers are made from what it
    holds privately says so by a method ``made_of()``, whose result counts in place of its attributes.

    Raises:
        ValueError: it holds something that cannot be told from others of its kind.
    """
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any, above: set[int]) -> Iterator[bytes | memoryview]:
    of = type(value)
    yield f"{of.__module__}.{of.__qualname__}".encode()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Path | Enum | torch.dtype | torch.device | np.generic):
        yield repr(value).encode()
    elif isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().resolve_conj().resolve_neg() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        yield f"{array.dtype} {tuple(array.shape)}".encode()
        yield array.contiguous().reshape(-1).view(torch.uint8).numpy().data  # not copied: a Gram matrix may fill half the memory
    elif hasattr(value, "sha256"):  # image sets
        yield value.sha256.encode()
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        yield from _parts([value.__code__, cells, value.__defaults__, value.__kwdefaults__], above)
    elif isinstance(value, partial):
        yield from _parts([value.func, value.args, value.keywords], above)
    elif isinstance(value, MethodType):
        yield from _parts([value.__func__, value.__self__], above)
    elif isinstance(value, BuiltinMethodType):
        yield value.__qualname__.encode()
        yield from _parts(getattr(value.__self__, "__name__", None) or value.__self__, above)
    elif isinstance(value, CodeType):
        yield value.co_code
        yield from _parts([value.co_consts, value.co_names], above)
    elif id(value) in above:  # a cycle
        yield b"again"
    else:
        above = above | {id(value)}
        if isinstance(value, Mapping):
            for key in value:
                yield from _parts(key, above)
                yield from _parts(value[key], above)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from _parts(item, above)
        elif isinstance(value, set | frozenset):
            yield from sorted(state_hash(item).encode() for item in value)
        elif hasattr(value, "made_of"):
            yield from _parts(value.made_of(), above)
        else:
            yield from _attributes(value, above)


def _attributes(value: Any, above: set[int]) -> Iterator[bytes | memoryview]:
    of = type(value)
    if not hasattr(value, "__dict__"):
        raise ValueError(f"a {of.__name__} cannot be told from others in a cache: give settings= that name what makes the numbers")
    if isinstance(value, torch.nn.Module):
        yield from _parts(value.state_dict(), above)
    for name in sorted(vars(value)):
        if not name.startswith("_") and not isinstance(getattr(of, name, None), cached_property):
            yield name.encode()
            yield from _parts(vars(value)[name], above)
