"""A device that is not the CPU, for machines without a GPU: its tensors live in memory but answer to another name.

As on a GPU, an operation that mixes such a tensor with a CPU tensor of one dimension or more is refused (indexing by a
CPU tensor excepted, which torch allows everywhere), and ``.numpy()`` must be preceded by ``.cpu()``.  The arithmetic is
the CPU's, so results can be compared to the last bits.  What this cannot show is a GPU's speed and rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")  # torch's name for tensors without memory; here they have some

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
TRANSFERS = {aten._to_copy.default, aten.copy_.default}


class PretendTensor(torch.Tensor):
    """A tensor that says it is on :data:`DEVICE`; ``inner`` holds the numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendTensor:
        out = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        out.inner = inner
        return out

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: check where its tensors are, compute on the CPU, put the result where it belongs."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, PretendTensor)]
    asked = kwargs.get("device")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    there = bool(ours) if asked is None else torch.device(asked) == DEVICE
    if ours and func not in TRANSFERS:
        checked = [args[0], *args[2:]] if func in INDEXING else tensors
        for tensor in tree_flatten(checked)[0]:
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, PretendTensor) and tensor.ndim > 0:
                raise RuntimeError(f"{func}: expected all tensors on {DEVICE}, found a CPU tensor {tuple(tensor.shape)}")
    if func is aten.copy_.default:
        there = isinstance(args[0], PretendTensor)
    known = {id(t.inner): t for t in ours}
    plain = tree_map(lambda t: t.inner if isinstance(t, PretendTensor) else t, (args, kwargs))
    result = func(*plain[0], **plain[1])
    if not there:
        return result

    def place(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else PretendTensor(value)

    return tree_map(place, result)


class _Factories(TorchDispatchMode):
    """Sends calls that name the device, such as ``torch.zeros(3, device=DEVICE)``, to :func:`run`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    """Lets ``torch.tensor(values, device=DEVICE)`` keep the values: they are put on the CPU first, then moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in (torch.tensor, torch.as_tensor) or kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = kwargs.pop("device")
        return func(*args, **kwargs).to(device)


@contextmanager
def pretend_device() -> Iterator[str]:
    """Make the device usable; gives its name."""
    with _Factories(), _Constructors():
        yield str(DEVICE)
