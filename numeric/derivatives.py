"""Whether someone asks for derivatives of what is being computed: autograd and ``torch.func``'s transforms (jacrev, jvp, vmap).

PyTorch has no public question for the transforms: what this project uses of its inside is here, in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


def transformed(x: Tensor) -> bool:
    """Whether ``x`` is inside a transform of ``torch.func`` or carries a forward derivative."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or torch.autograd.forward_ad._current_level >= 0


def tracked(x: Tensor) -> bool:
    """Whether any derivative by ``x`` is asked for: then nothing that depends on it may be written in place."""
    return x.requires_grad or transformed(x)


def inside_vmap(x: Tensor) -> bool:
    """Whether ``x`` is a batch of ``torch.func.vmap`` under any number of other transforms."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


@contextmanager
def outside_transforms() -> Iterator[None]:
    """What is solved for a noise level is no part of a derivative by the image: ``torch.func``'s transforms do not see it.

    So a first call inside ``jacrev`` or ``jvp`` solves with plain numbers, and keeps plain numbers; one inside
    ``torch.inference_mode`` keeps tensors that later gradients can pass.
    """
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False):
        yield
