"""Group normalisation, scale, shift and SiLU in one pass, for training and denoising on a CPU.

Between two convolutions of bf16 channels-last images PyTorch takes five passes and more, and its group normalisation is
slow in that layout; the convolutions themselves are fastest in it.  ``fused.c`` does the same in two passes forward
and two backward.  It is compiled at first use with the machine's C compiler and kept in the cache folder; where there is no
compiler, on a GPU, or where a shape does not suit it, the same functions are computed by PyTorch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from numeric.data import default_root
from numeric.derivatives import transformed
from numeric.results import atomic_path

SOURCE = Path(__file__).with_name("fused.c")
SWITCH = "WAVELET_SCORE_FUSED"
"""Environment variable: ``0`` keeps to PyTorch's own kernels."""
LANES = 16
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC")


def _machine() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return platform.processor() + platform.machine()


@lru_cache
def kernels(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled functions for float32 or bfloat16 images, or None where they cannot be had."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if os.environ.get(SWITCH) == "0" or compiler is None:
        return None
    kind = ["-DSINGLE"] if dtype == torch.float32 else []
    for more in (["-fopenmp"], []):
        command = [compiler, *_FLAGS, *more, *kind]
        key = hashlib.sha256("\n".join([*command, _machine(), SOURCE.read_text()]).encode()).hexdigest()[:16]
        path = default_root() / "kernels" / f"fused-{key}.so"
        try:
            if not path.exists():
                with atomic_path(path) as temporary:
                    subprocess.run(
                        [*command, str(SOURCE), "-o", str(temporary), "-lm"], check=True, capture_output=True, timeout=120
                    )
            return ctypes.CDLL(str(path))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def suits(x: Tensor) -> bool:
    """Whether the compiled functions take ``x`` ``(n, c, h, w)``: on a CPU, channels last, a multiple of 16 channels."""
    return (
        x.device.type == "cpu"
        and not transformed(x)
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.ndim == 4
        and x.shape[1] % LANES == 0
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and kernels(x.dtype) is not None
    )


def _call(name: str, x: Tensor, *arguments: Any) -> None:
    """One compiled function; tensors go in by address."""
    values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
    getattr(kernels(x.dtype), name)(ctypes.c_void_p(x.data_ptr()), *values, ctypes.c_int(torch.get_num_threads()))


def _sizes(x: Tensor) -> tuple[ctypes.c_long, ctypes.c_long, ctypes.c_long]:
    n, c, h, w = x.shape
    return ctypes.c_long(n), ctypes.c_long(h * w), ctypes.c_long(c)


def _aligned(g: Tensor, x: Tensor) -> Tensor:
    return g.to(x.dtype).contiguous(memory_format=torch.channels_last)


def _forward(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    y = torch.empty_like(x)
    _call("forward", x, a, b, y, *_sizes(x))
    return y


def _backward_sums(x: Tensor, g: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d, db, da = torch.empty_like(x), torch.empty_like(b), torch.empty_like(a)
    _call("backward_sums", x, g, a, b, d, db, da, *_sizes(x))
    return d, db, da


def _backward(x: Tensor, d: Tensor, a: Tensor, q: Tensor, r: Tensor) -> Tensor:
    _call("backward", x, d, a, q, r, *_sizes(x))
    return d


class _AffineSiLU(torch.autograd.Function):
    """``silu(a x + b)``, ``a`` and ``b`` float32 ``(n, c)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, a, b)
        return _forward(x, a, b)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, a, b = ctx.saved_tensors
        g = _aligned(g, x)
        d, db, da = _backward_sums(x, g, a, b)
        zero = torch.zeros_like(a)
        return _backward(x, d, a, zero, zero), da, db


class _NormSiLU(torch.autograd.Function):
    """``silu(group_norm(x + shift))``, ``shift`` float32 ``(n, c)``.

    With ``h = (x + shift - mean) rstd``, ``d = g silu'(w h + bias)`` and means ``<>`` over a group's pixels and channels,
    ``dx = rstd (w d - <w d> - h <w d h>)``, which is ``a d + q x + r`` with tables ``a``, ``q``, ``r`` ``(n, c)``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c = x.shape[:2]
        sums, mean, rstd = (torch.empty(n, size, dtype=torch.float32, device=x.device) for size in (c, groups, groups))
        _call("moments", x, shift, sums, mean, rstd, *_sizes(x), ctypes.c_long(groups), ctypes.c_float(eps))
        offset = shift - mean.repeat_interleave(c // groups, 1)
        rstd = rstd.repeat_interleave(c // groups, 1)
        a = rstd * weight
        b = torch.addcmul(bias, offset, a)
        ctx.save_for_backward(x, a, b, sums, offset, rstd, weight)
        ctx.groups = groups
        return _forward(x, a, b)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, sums, offset, rstd, weight = ctx.saved_tensors
        groups, (n, c, height, width) = ctx.groups, x.shape
        g = _aligned(g, x)
        d, sum_d, sum_dx = _backward_sums(x, g, a, b)
        sum_dh = torch.addcmul(sum_dx, offset, sum_d) * rstd
        means = (torch.stack([sum_d, sum_dh]) * weight).view(2, n, groups, -1).sum(3) / (height * width * (c // groups))
        first, second = means.repeat_interleave(c // groups, 2)
        q = -rstd.square() * second
        r = torch.addcmul(q * offset, rstd, first, value=-1)
        dshift = a * sum_d + q * sums + (height * width) * r if ctx.needs_input_grad[1] else None
        return _backward(x, d, a, q, r), dshift, sum_dh.sum(0), sum_d.sum(0), None, None


def _plain(*tensors: Tensor | None) -> bool:
    """Whether derivatives beyond the first cannot be asked for: no gradients at all.  Training says so with ``first_order``."""
    return not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in tensors)


def norm_silu(norm: nn.GroupNorm, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """``silu(norm(x + shift))`` for images ``(n, c, h, w)`` and ``shift`` ``(n, c)``.

    The compiled functions have first derivatives only: they are used where no gradient is asked for and in training mode.
    """
    ours = not torch.compiler.is_compiling()  # torch.compile fuses what it sees
    if ours and (norm.training or _plain(x, shift, norm.weight)) and suits(x):
        table = torch.zeros(x.shape[:2], dtype=torch.float32, device=x.device) if shift is None else shift.float()
        return _NormSiLU.apply(x, table.contiguous(), norm.weight, norm.bias, norm.num_groups, norm.eps)
    x = x if shift is None else x + shift[:, :, None, None].to(x.dtype)
    return F.silu(norm(x.contiguous() if ours and transformed(x) else x))  # its forward derivative knows one layout only


def affine_silu(x: Tensor, scale: Tensor, shift: Tensor, training: bool) -> Tensor:
    """``silu(x (1 + scale) + shift)`` for images ``(n, c, h, w)``, ``scale`` and ``shift`` ``(n, c)``."""
    if not torch.compiler.is_compiling() and (training or _plain(x, scale, shift)) and suits(x):
        return _AffineSiLU.apply(x, (1.0 + scale.float()).contiguous(), shift.float().contiguous())
    scale, shift = (t[:, :, None, None].to(x.dtype) for t in (scale, shift))
    return F.silu(x * (1 + scale) + shift)
