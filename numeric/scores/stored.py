"""Settings read from a moments file, checked against what the file holds before anything of their size is made.

A file may come from anywhere.  Its settings say how large a transform, a family and a plan of monomials to build; those are
believed only as far as the numbers stored beside them bear them out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numeric.scores.families import Family, product_count
from numeric.video import VideoTransform
from numeric.wavelets import WaveletTransform

MAX_SIDE = 8192
"""Pixels; the matrices of one level of the transform have a side squared of numbers."""
MAX_DEGREE = 500
MAX_NEIGHBOURS = 10**8
"""Coefficients times the places of their ball, listed while a family is built."""


def whole(value: Any, name: str, least: int, most: int) -> int:
    """A whole number between bounds.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"its {name} is {value!r}")
    return value


class StoredSettings:
    """Transform, family, degree and channels of a moments file.

    Args:
        config: as read from the file.
        variables: coefficients of all channels that the file's own tensors speak of; None: as many as the transform makes.
        pixels: of all channels, where the tensors speak of them instead.

    Raises:
        ValueError, TypeError, KeyError: the settings are not those of a file with so many coefficients.
    """

    def __init__(self, config: dict[str, Any], variables: int | None, pixels: int | None = None) -> None:
        settings = dict(config["transform"])
        height, width = (whole(side, "image side", 1, MAX_SIDE) for side in settings.pop("shape"))
        most = variables if variables is not None else 8 * (pixels or 0)  # no basis here is eight times over-complete
        self.channels = whole(config["channels"], "number of channels", 1, max(1, most))
        self.degree = whole(config["degree"], "degree", 1, MAX_DEGREE)
        if settings.get("levels") is not None:
            whole(settings["levels"], "number of levels", 1, 64)
        if pixels is not None and self.channels * height * width != pixels:
            raise ValueError(f"it holds {pixels} pixels of {self.channels} x {height} x {width} ones")
        if self.channels * height * width > most:  # no transform has fewer coefficients than pixels
            raise ValueError(f"it holds {variables} coefficients of {self.channels} x {height} x {width} pixels")
        self.family = Family(**config["family"])
        radius = whole(self.family.radius, "radius", 0, MAX_SIDE)
        if self.family.name in ("local", "joint") and most * (2 * radius + 1) ** 2 > MAX_NEIGHBOURS:
            raise ValueError(f"its radius is {radius} for {most} coefficients")
        if "frames" in settings:
            if settings["frames"] != self.channels:
                raise ValueError(f"it holds {self.channels} channels of videos of {settings['frames']} frames")
            self.transform: WaveletTransform = VideoTransform((height, width), **settings)
        else:
            self.transform = WaveletTransform((height, width), **settings)
        self.variables = self.channels * self.transform.n_coefficients
        if variables is not None and self.variables != variables:
            raise ValueError(
                f"it holds {variables} coefficients, its settings make {self.channels * self.transform.n_coefficients}"
            )

    def check_tables(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise ValueError unless moment tables ``(products, groups)`` are of this family, cut between groups as they may be."""
        waiting = list(shapes)
        for block in self.family.blocks(self.transform, self.channels):
            most = product_count(block.pattern, block.variables.shape[1], self.degree)
            least = 2 * self.degree + 1 if block.pattern == "target" else most
            groups = 0
            while groups < len(block.variables):
                if not waiting:
                    raise ValueError("moments of some coefficients are missing")
                shape = waiting.pop(0)
                if len(shape) != 2 or not least <= shape[0] <= most or shape[1] < 1:
                    raise ValueError(f"a table of moments has shape {shape}, for {most} products")
                groups += shape[1]
            if groups != len(block.variables):
                raise ValueError(f"it holds moments of {groups} coefficients where {len(block.variables)} are alike")
        if waiting:
            raise ValueError(f"it holds {len(waiting)} tables of moments too many")

    def check_monomials(self) -> None:
        """Raise ValueError where the family's monomials are too many to be listed."""
        number, n = 0, self.degree
        for block in self.family.blocks(self.transform, self.channels):
            groups, q = block.variables.shape
            each = 1 + n + (q - 1) * n * (n + 1) // 2 if block.pattern in ("pairwise", "independent") else math.comb(n + q, q)
            number += groups * each * n
        if number > MAX_NEIGHBOURS:
            raise ValueError(f"its degree is {n} for {self.variables} coefficients of {self.family.label}")

    def check_gram(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless a Gram matrix can be of this family's monomials (a lower bound on their number is met)."""
        n, least = self.degree, 1 + self.variables * self.degree
        for block in self.family.blocks(self.transform, self.channels):
            q = block.variables.shape[1]
            pairwise, full = 1 + n + (q - 1) * n * (n + 1) // 2, math.comb(n - 1 + q, q)
            least = max(least, {"pairwise": pairwise, "full": full, "target": full}.get(block.pattern, 0))
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] < least:
            raise ValueError(f"it holds a matrix {shape} for at least {least} monomials")


def pixel_range(value: Any) -> tuple[float, float]:
    """Lowest and highest pixel from a file.

    Raises:
        ValueError: they are not two finite numbers in order.
    """
    low, high = (float(end) for end in value)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"its pixel range is {value}")
    return low, high
