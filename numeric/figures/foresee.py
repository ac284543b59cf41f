"""How long a figure will take on this machine and how much memory it holds, roughly, before it starts."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import torch

from numeric.baselines.configs import get_config
from numeric.baselines.network import NetworkDenoiser
from numeric.memory import free_memory

LONG = 600.0
"""Seconds above which a run is warned of."""
EFFICIENCY = 0.6
"""Share of the speed of a matrix product that a whole fit or evaluation reaches (between .5 and .8 measured)."""


class LongRunWarning(UserWarning):
    """A figure that takes more than ten minutes, or more memory than is free."""


@dataclass(frozen=True)
class Work:
    """One part of a figure: floating-point operations, and bytes held while it runs."""

    what: str
    operations: float
    memory: float = 0.0


def features(family: str, degree: int, pixels: int, radius: int = 1) -> int:
    """Features of the shared readout, about (exact for independent and pairwise local ones of large images)."""
    if family == "band":
        return pixels // 3 * (comb(degree + 3, 3) - 1) + 1
    pairs = ((2 * radius + 1) ** 2 - 1) // 2 if family in ("local", "joint") else int(family == "parent")
    return pixels * (degree + pairs * degree * (degree - 1) // 2) + 1


def shared_work(family: str, degrees: Sequence[int], size: int, fit: int, levels: int, images: int, radius: int = 1) -> Work:
    """Fit of a shared readout, and its solves and estimates at some noise levels on some images."""
    pixels, p = size**2, features(family, max(degrees), size**2, radius)
    solves = sum(features(family, d, pixels, radius) ** 3 / 3 + 2.0 * features(family, d, pixels, radius) ** 2 * pixels for d in degrees)
    uses = sum(1.0 * features(family, d, pixels, radius) * pixels * images for d in degrees)  # single precision: twice as fast
    return Work(f"{family}, shared, degree {max(degrees)}", 1.0 * fit * p**2 + levels * (solves + uses), 8.0 * (2 * p**2 + 3 * p * pixels))


def wiener_work(coordinates: str, degree: int, size: int, read: int, solves: int) -> Work:
    """A readout of the Wiener estimate (of powers): images read at a level, and its systems solved."""
    pixels = size**2
    p = pixels * (1 + (degree - 1) * (2 if coordinates == "both" else 1)) + 1
    return Work(f"Wiener {coordinates}, degree {degree}", 1.0 * read * p**2 + solves * (p**3 / 3 + 4.0 * p**2 * pixels), 8.0 * 4 * p**2)


def linear_work(size: int, fit: int, levels: int = 0, images: int = 0) -> Work:
    """The linear denoiser: covariance, eigenvectors, and its estimates (:func:`numeric.baselines.linear.eigenpairs`)."""
    d = size**2
    if fit < d:  # the images' own Gram matrix
        return Work("linear", 3.0 * fit**2 * d + 9.0 * fit**3 + 4.0 * levels * images * fit * d, 8.0 * (2 * fit * d + 5 * fit**2))
    return Work("linear", 1.0 * fit * d**2 + 9.0 * d**3 + 4.0 * levels * images * d**2, 8.0 * 4 * d**2)


def own_work(size: int, fit: int, families: int, levels: int, images: int) -> Work:
    """The own readouts: some dozens of monomials a coefficient."""
    return Work("own readouts", 400.0 * families * size**2 * (fit + levels * images), 4.0 * fit * size**2)


def optimal_work(size: int, fit: int, levels: int, images: int) -> Work:
    """The optimal empirical denoiser: every noisy image against every training image."""
    return Work("optimal empirical", 4.0 * size**2 * fit * levels * images, 4.0 * fit * size**2)


def network_work(size: int, networks: Sequence[NetworkDenoiser], levels: int, images: int) -> Work:
    """Networks: every weight meets the pixels of its level, of which each has a quarter of those above it."""
    operations = 0.0
    for network in networks:
        weights = [m * m for m in get_config(network.record["config"]["name"]).channel_mult]
        share = sum(w / 4**i for i, w in enumerate(weights)) / sum(weights)
        operations += 2.0 * network.record["parameters"] * share * size**2
    return Work("networks", operations * levels * images)


def speed(side: int = 600) -> float:
    """Floating-point operations a second of a float64 matrix product, measured now (the best of three)."""
    a = torch.ones(side, side, dtype=torch.float64)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2.0 * side**3 / best


def told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def foresee(work: Sequence[Work]) -> str:
    """Print what is coming: the time if nothing is in the cache, the longest parts, the memory.

    Warns:
        LongRunWarning: above ten minutes, or more memory than is free.
    """
    if not work:
        return ""
    rate, memory, free = EFFICIENCY * speed(), max(part.memory for part in work), free_memory()
    seconds = sum(part.operations for part in work) / rate
    longest = sorted(work, key=lambda part: -part.operations)[:3]
    parts = ", ".join(f"{part.what} {told(part.operations / rate)}" for part in longest)
    text = f"foreseen, if nothing is finished already: about {told(seconds)} on this machine ({parts}), {memory / 2**30:.1f} GiB"
    print(text, flush=True)
    if seconds > LONG or (free is not None and memory > free):
        have = "" if free is None else f" ({free / 2**30:.1f} GiB are free)"
        warnings.warn(f"{text}{have}: fewer images, a lower degree or a smaller family take less", LongRunWarning, stacklevel=3)
    return text
