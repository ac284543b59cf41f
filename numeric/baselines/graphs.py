"""A training step as one CUDA graph: hundreds of small kernels that start with a single call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Runs before the capture, in which libraries choose their algorithms and torch.compile compiles."""


class CapturedStep:
    """Forward and backward pass on inputs of fixed shapes, captured once and replayed.

    A step of these networks is a few hundred kernels of microseconds each, which a CPU cannot start as fast as a GPU runs them.
    The graph writes to the same memory at every replay: inputs are copied in, the loss and the gradients are read where they lie.

    Args:
        step: of the inputs, returns the loss and leaves gradients in the parameters, from none on (``zero_grad(set_to_none=True)``).
        inputs: an example of each, whose shapes are kept. parameters: whose gradients are made.
    """

    def __init__(self, step: Callable[..., Tensor], inputs: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.parameters, self.inputs = parameters, [tensor.clone() for tensor in inputs]
        self.device = self.inputs[0].device
        with torch.cuda.device(self.device), torch.backends.cudnn.flags(enabled=True, benchmark=True):  # "enabled" is False unless said
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    step(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = step(*self.inputs)
        self.gradients = [p.grad for p in parameters]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The loss of a batch, valid until the next call; gradients are in the parameters."""
        with torch.cuda.device(self.device):  # streams are the current card's
            for here, there in zip(self.inputs, inputs):
                here.copy_(there)
            self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients):
            parameter.grad = gradient
        return self.loss
