"""The networks that a figure shows where none are named, and their labels on two lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from numeric.baselines.network import NetworkDenoiser, trained

MAIN = ("cnn", "4blocks_noattn")
"""The CNN and the U-Net of the paper's first row: shown even while they are in training."""


def main_networks(
    size: int, folder: str | None = None, names: Sequence[str] = MAIN, *, with_trained: bool = False
) -> dict[str, NetworkDenoiser]:
    """Label -> network, of those that there are for images of ``size`` pixels a side; none is missed.

    Args:
        folder: of weights (None: those shipped). names: of configurations.
        with_trained: with every other that has stopped improving (:mod:`numeric.baselines.plateau`).

    Raises:
        ValueError: the folder that was given is not there, or holds no network of this size.
    """
    every = trained(size, None, folder)
    return {
        label: network
        for label, network in every.items()
        if network.record["config"]["name"] in names or (with_trained and network.record.get("trained"))
    }


def wrapped(label: str) -> str:
    """A network's label with what it has seen on a second line; any other label as it is.

    Example:
        >>> from numeric.figures.networks import wrapped
        >>> print(wrapped("CNN, trained on 512,032 images"))
        CNN,
        trained on 512,032 images
    """
    return re.sub(r", (in training|trained on )", r",\n\1", label)
