"""Coordinates of the noisy image at one noise level: whitened linear features, and the letters that monomials are made of.

With ``c = y / a - mean`` (noise ``s = sigma / a``) and the images' covariance ``S = V diag(l) V^T``:

- the linear features are ``e = diag(l + s^2)^(-1/2) V^T c``: of unit covariance, and spanning all that is linear in y;
- the letters are ``u = L c``, scaled to unit variance.  ``of="noisy"``: L is the identity (pixels) or the analysis W (wavelet
  coefficients).  ``of="wiener"``: the same of the linear estimate ``A c``, ``A = V diag(l / (l + s^2)) V^T + floor``, in
  which the noise is correlated with covariance ``s^2 L L^T``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.scores.families import Family
from numeric.scores.monomials import MonomialSet
from numeric.scores.patterns import by_pattern
from numeric.wavelets import WaveletTransform

COORDINATES = ("wavelet", "pixel", "both")
OF = ("wiener", "noisy")
FLOOR = 1e-3
"""Share of the noisy image itself in a Wiener coordinate: one of (nearly) no variance is then noise, not an outlier's trace."""


def wiener_settings(text: str) -> dict[str, Any]:
    """``"both:3"`` or, with products of neighbouring pixels, ``"both:3:local"`` as arguments of a readout of the linear estimate.

    ``"both:3:local:2"`` names their radius too.

    Raises:
        ValueError: other coordinates than it takes, a degree or radius that is no whole number >= 1, or another word after them.
    """
    found = re.fullmatch(rf"({'|'.join(COORDINATES)}):(\d+)(?::(independent|local)(?::(\d+))?)?", text)
    name, degree, family, radius = found.groups("") if found else ("", "0", "", "")
    if int(degree) < 1 or int(radius or 1) < 1:
        raise ValueError(
            f"a Wiener readout is written coordinates:degree, such as both:3 (any of {', '.join(COORDINATES)}), and :local after it "
            f"for products of neighbouring pixels (:local:2 for a radius); got {text!r}"
        )
    return {"coordinates": name, "degree": int(degree), "pixel_family": family or "independent", "radius": int(radius or 1)}


def check_coordinates(coordinates: str, of: str) -> None:
    """Raise ValueError unless both are known."""
    if coordinates not in COORDINATES:
        raise ValueError(f"unknown coordinates {coordinates!r}: use 'wavelet', 'pixel' or 'both'")
    if of not in OF:
        raise ValueError(f"unknown of={of!r}: use 'wiener' (the linear estimate) or 'noisy' (the noisy image)")


def pixel_rows(shape: tuple[int, int, int], family: Family, degree: int) -> np.ndarray:
    """Monomials of pixels: powers, and for the local family products of neighbours within its radius (no wrapping).

    Families of wavelet bands have no meaning among pixels; they take powers alone.
    """
    channels, height, width = shape
    grid = np.arange(channels * height * width).reshape(shape)
    rows = [np.where(np.arange(degree) >= degree - k, grid.reshape(-1, 1), -1) for k in range(1, degree + 1)]
    radius = family.radius if family.name in ("local", "joint") else 0
    steps = [(dr, dc) for dr, dc in product(range(radius + 1), range(-radius, radius + 1)) if (dr, dc) > (0, 0) and dr < height and abs(dc) < width]
    pairs = []
    for dr, dc in steps:
        here = grid[:, : height - dr, max(0, -dc) : width - max(0, dc)]
        there = grid[:, dr:, max(0, dc) : width - max(0, -dc)]
        pairs.append(np.stack([here.ravel(), there.ravel()], axis=1))
    if family.channels_coupled:
        pairs += [np.stack([grid[a].ravel(), grid[b].ravel()], 1) for a in range(channels) for b in range(a + 1, channels)]
    for pair in pairs:
        for i, j in product(range(1, degree), repeat=2):
            if i + j <= degree:
                letters = np.concatenate([np.repeat(pair[:, [0]], i, 1), np.repeat(pair[:, [1]], j, 1)], axis=1)
                rows.append(np.concatenate([np.full((len(pair), degree - i - j), -1), letters], axis=1))
    return np.concatenate(rows)


def letter_monomials(
    coordinates: str, family: Family, pixel_family: Family, transform: WaveletTransform, degree: int, channels: int
) -> MonomialSet:
    """The monomials of the letters, grouped by their exponents; pixels come before wavelet coefficients."""
    shape = (channels, *transform.shape)
    parts, count = [np.full((1, degree), -1)], 0
    if coordinates != "wavelet":
        parts.append(pixel_rows(shape, pixel_family, degree))
        count = int(np.prod(shape))
    if coordinates != "pixel":
        wavelet = MonomialSet.of_family(family, transform, degree, channels)
        rows = wavelet.rows[1:]
        parts.append(np.where(rows >= 0, rows + count, -1))
        count += wavelet.variables
    return MonomialSet(by_pattern(np.concatenate(parts)), count)


def linear_estimate(sigma: float, values: Tensor, vectors: Tensor, floor: float = FLOOR) -> Tensor:
    """A, ``(N, N)``, from the eigenvalues and eigenvectors of the images' covariance."""
    return (vectors * (values / (values + sigma**2) + floor)) @ vectors.T


def analysed(image: Tensor, coordinates: str, transform: WaveletTransform, shape: tuple[int, int, int]) -> Tensor:
    """Pixels, wavelet coefficients or both of a linear map to images ``(N, m)``, ``(q, m)``."""
    parts = [] if coordinates == "wavelet" else [image]
    if coordinates != "pixel":
        parts.append(transform.forward(image.T.reshape(-1, *shape)).flatten(1).T)
    return torch.cat(parts)


@dataclass(frozen=True)
class LevelCoordinates:
    """Linear features and letters at one noise level.

    Attributes:
        sigma: the VE level.
        whiten: ``(N, N)``, ``e = whiten c``; unwhiten: its inverse, ``c = unwhiten e``.
        noise: ``(N,)`` the noise's variance in e (it is white there, but not of one size).
        letters: ``(q, N)``, ``u = letters c``.
    """

    sigma: float
    whiten: Tensor
    unwhiten: Tensor
    noise: Tensor
    letters: Tensor

    @classmethod
    def at(
        cls, sigma: float, values: Tensor, vectors: Tensor, coordinates: str, of: str, transform: WaveletTransform,
        shape: tuple[int, int, int], floor: float = FLOOR,
    ) -> LevelCoordinates:  # fmt: skip
        """From the eigenvalues ``(N,)`` and eigenvectors ``(N, N)`` (columns) of the images' covariance."""
        total = values + sigma**2
        root = total.sqrt()
        image = linear_estimate(sigma, values, vectors, floor) if of == "wiener" else torch.eye(len(values)).to(values)
        letters = analysed(image, coordinates, transform, shape)
        spread = ((letters @ vectors) * root).square().sum(1).sqrt()
        letters = letters / spread.clamp_min(torch.finfo(values.dtype).tiny)[:, None]
        return cls(sigma, (vectors / root).T, vectors * root, sigma**2 / total, letters)

    @property
    def letters_of_linear(self) -> Tensor:
        """``(q, N)``, ``u = letters_of_linear e``."""
        return self.letters @ self.unwhiten

    @property
    def unit_covariance(self) -> Tensor:
        """Covariance ``L L^T`` of the letters of white noise of variance 1, ``(q, q)``."""
        return self.letters @ self.letters.T

    @property
    def covariance(self) -> Tensor:
        """Covariance of the letters' noise, ``s^2 L L^T``, ``(q, q)``."""
        return self.sigma**2 * self.unit_covariance

    @property
    def cross(self) -> Tensor:
        """Covariance of the linear features' noise with the letters', ``(N, q)``."""
        return self.sigma**2 * (self.whiten @ self.letters.T)
