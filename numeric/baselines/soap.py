"""SOAP: Adam in the eigenbasis of each kernel's gradient covariances (Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam").

Small networks on a CPU spend their time in convolutions; what the optimiser does with a gradient costs next to nothing beside
them.  Late in training, where Adam creeps along directions in which the loss hardly bends, SOAP rescales those as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

LARGEST_MODE = 1024
"""A mode of a kernel that is longer keeps its own coordinates: its eigenvectors would cost more than they bring."""


def modes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """A parameter's shape as SOAP sees it: a kernel ``(out, in, height, width)`` as ``(out, in, height * width)``."""
    return (*shape[:2], shape[2] * shape[3]) if len(shape) == 4 else tuple(shape)


def rotated(x: Tensor, bases: dict[int, Tensor], back: bool = False) -> Tensor:
    """``x`` with every mode in the coordinates of its basis (columns), or from them back."""
    for mode, basis in bases.items():
        x = torch.tensordot(x, basis, dims=([mode], [1 if back else 0])).movedim(-1, mode)
    return x


class SOAP(torch.optim.Optimizer):
    """Adam's moments, the second one taken in slowly turning eigenbases of the gradients' covariance along every mode of a kernel.

    Vectors (biases, gains of normalisations) have no such basis: they see Adam.

    Args:
        parameters: to train. lr: learning rate, as Adam's. betas: decays of both moments, the second also of the covariances.
        eps: added to the root of the second moment. every: steps between two turns of the bases (one step of orthogonal iteration).

    Example:
        >>> import torch
        >>> from numeric.baselines.soap import SOAP
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = SOAP(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[layer.weight])
        ['basis0', 'basis1', 'covariance0', 'covariance1', 'exp_avg', 'exp_avg_sq', 'step']
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.95, 0.99), eps: float = 1e-8, every: int = 10
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "every": every})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step from the gradients that lie in the parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict) -> None:
        (first, second), state = group["betas"], self.state[parameter]
        gradient = parameter.grad.float().reshape(modes_of(parameter.shape)).contiguous()  # type: ignore[union-attr]
        turning = [m for m, size in enumerate(gradient.shape) if gradient.ndim > 1 and 1 < size <= LARGEST_MODE]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            for mode in turning:
                state[f"covariance{mode}"] = along(gradient, mode)
                state[f"basis{mode}"] = torch.linalg.eigh(state[f"covariance{mode}"])[1].contiguous()
        state["step"] += 1
        t = int(state["step"])
        bases = {mode: state[f"basis{mode}"] for mode in turning}
        average = state["exp_avg"].lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].mul_(second).add_(rotated(gradient, bases).square(), alpha=1 - second)
        if t > 1 or not turning:  # the first bases are of one gradient alone: Adam in them would move each direction as far as it may
            scale = (square / (1 - second**t)).sqrt() + group["eps"]
            move = rotated(rotated(average, bases) / scale, bases, back=True)
            parameter.sub_(move.reshape(parameter.shape), alpha=group["lr"] / (1 - first**t))
        for mode in turning:
            covariance = state[f"covariance{mode}"].lerp_(along(gradient, mode), 1 - second)
            if t % group["every"] == 0:
                state[f"basis{mode}"] = torch.linalg.qr(covariance @ bases[mode])[0].contiguous()  # as a file gives it back


def along(gradient: Tensor, mode: int) -> Tensor:
    """Products of a gradient with itself along one mode, summed over the others."""
    flat = gradient.movedim(mode, 0).flatten(1)
    return flat @ flat.T
