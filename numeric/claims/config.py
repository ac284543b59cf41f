"""Parameters of the claims, the command that repeats them, and the rows that measurements consist of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Row = dict[str, Any]
"""What was measured (size, sigma, split, family, degree, metric ...) with ``units (repeats, groups)``: the mean over each
group of images, for each repeat of a fit from drawn noise (one repeat otherwise).  Rows of one split have the same groups and, where
noise was drawn, the same noise, so that their comparison is paired.  A row that was left out beforehand has ``skipped``, the reason,
in place of units."""
FAMILIES = ("independent", "band", "local")
SPLITS = ("train", "held-out")
SHARED_RIDGE = 1e-6


@dataclass(frozen=True)
class ClaimsConfig:
    """Parameters of the claims.

    Attributes:
        sizes: the smaller and the larger image side. sigmas: VE noise levels; at or above ``high_sigma`` the noise is called
            high, at or below ``low_sigma`` low to moderate (the paper's own bounds are lost from its text).
        degree: highest degree of the families. hermite_degree: of the independent family in the Hermite claim.
        n_train, n_test: images to fit on and held out (None: all). n_eval: images per split where noise is drawn.
        n_ssim: of those, for the structural similarity. n_network: of those, for trained networks.
        folds: groups of images for exact errors; groups: for drawn ones.
        ridge: of the exact fits (unit scaling). raw_ridges: strengths of the paper's ridge on raw features, per sample.
        samples: numbers of noisy samples of sampled fits; the shared readout is also fitted on one for each training image.
        repeats: noise draws of every sampled fit, so that intervals hold the fit's own noise.
        n_generated, steps: images generated, and steps, for the sampling claims.
        networks: names of trained networks to use (none: all there are), by the rule of :func:`numeric.baselines.trained`.
        weights: folder to read them from (None: inside the package).
        shared_large: also run the shared readout at the larger size.
        exact_limit, sampled_limit: most multiply-adds (images times features squared) of one exact or sampled fit of the
            shared readout; what is above, or does not fit the memory, is listed as not measured.
        condition_limit: most features of a shared Gram matrix whose condition number is computed.
        photograph_sizes: sides of the patches of photographs. n_patches: patches to fit on.
        cache: folder of finished measurements.
    """

    sizes: Sequence[int] = (32, 64)
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    low_sigma: float = 0.25
    high_sigma: float = 0.5
    degree: int = 3
    hermite_degree: int = 5
    n_train: int | None = None
    n_test: int | None = None
    n_eval: int = 400
    n_ssim: int = 200
    n_network: int = 200
    folds: int = 10
    groups: int = 20
    ridge: float = 1e-10
    raw_ridges: Sequence[float] = (1e-4, 1e-2, 1.0)
    photograph_sizes: Sequence[int] = (32, 64, 128, 256)
    n_patches: int = 1000
    samples: Sequence[int] = (500, 4000)
    repeats: int = 4
    n_generated: int = 200
    steps: int = 20
    networks: Sequence[str] = ()
    weights: str | None = None
    shared_large: bool = False
    exact_limit: float = 2e13
    sampled_limit: float = 1e12
    condition_limit: int = 3200
    seed: int = 0
    data_root: str | None = None
    name: str = "claims"
    cache: str = "runs"

    def __post_init__(self) -> None:
        for f in fields(self):  # one form for lists and tuples, so that equal settings have one key
            if isinstance(getattr(self, f.name), list):
                object.__setattr__(self, f.name, tuple(getattr(self, f.name)))
        if isinstance(self.networks, str):
            object.__setattr__(self, "networks", (self.networks,))
        if len(self.sizes) != 2 or self.sizes[0] >= self.sizes[1]:
            raise ValueError(f"sizes must be two increasing image sides, such as (32, 64), got {list(self.sizes)}")
        if len(self.sigmas) < 2 or min(self.sigmas) <= 0 or list(self.sigmas) != sorted(set(self.sigmas)):
            raise ValueError(f"sigmas must be at least two increasing numbers > 0, got {list(self.sigmas)}")
        if len(self.photograph_sizes) < 2 or list(self.photograph_sizes) != sorted(set(self.photograph_sizes)) or self.n_patches < 2:
            raise ValueError(
                f"photograph_sizes must be two or more increasing sides, and n_patches >= 2, got {list(self.photograph_sizes)} and {self.n_patches}"
            )
        if self.degree < 2 or self.hermite_degree < self.degree:
            raise ValueError(
                f"need degree >= 2 and hermite_degree >= degree, got {self.degree} and {self.hermite_degree}"
            )
        if min(self.folds, self.groups) < 2:
            raise ValueError(f"folds and groups must be >= 2, got {self.folds} and {self.groups}")
        if min(self.n_eval, self.n_ssim, self.n_network) < self.groups:
            counts = f"{self.n_eval}, {self.n_ssim} and {self.n_network}"
            raise ValueError(f"n_eval, n_ssim and n_network must be at least groups={self.groups}, got {counts}: raise them, or lower groups")
        if self.repeats < 2:
            raise ValueError(f"repeats must be >= 2, got {self.repeats}: one fit does not show its own noise")
        if self.n_generated < 10 or not self.samples or min(self.samples) < 1:
            raise ValueError(
                f"need n_generated >= 10 and samples >= 1, got {self.n_generated} and {list(self.samples)}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """All parameters but the folders of this machine, as JSON takes them."""
        out = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("cache", "data_root", "weights")}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in out.items()}

    @property
    def degrees(self) -> list[int]:
        return list(range(1, self.degree + 1))


OPTION = {"sigmas": "sigma", "networks": "network", "sizes": "size", "raw_ridges": "raw-ridge", "photograph_sizes": "photograph-size", "samples": "sample"}
"""Names of the command line's repeatable options."""


def command(config: ClaimsConfig, claims: Sequence[str] | None = None) -> str:
    """The command line that repeats these numbers, every parameter written out (folders of this machine are not)."""
    words = ["python", "-m", "numeric", "claims"]
    for name, value in config.settings.items():
        option = "--" + OPTION.get(name, name).replace("_", "-")
        if isinstance(value, bool):
            words += [option] if value else []
        elif isinstance(value, list):
            words += [word for item in value for word in (option, str(item))]
        elif value is not None:
            words += [option, str(value)]
    if config.weights is not None:
        words += ["--weights", "FOLDER"]
    for claim in claims or ():
        words += ["--claim", claim]
    return shlex.join(words)


class Skipped(str):
    """Why something was not measured, in place of its units."""


Units = np.ndarray | Skipped | None


def find(rows: Sequence[Row], **wanted: Any) -> Units:
    """Units ``(repeats, groups)`` of the one row with these fields, why it was skipped, or None if there is no such row.

    A skipped row stands for every row that has its fields.

    Raises:
        LookupError: several rows match.
    """
    skipped = [r for r in rows if "skipped" in r and _agrees(r, wanted)]
    if skipped:
        return Skipped(skipped[0]["skipped"])
    hits = [r for r in rows if "skipped" not in r and all(r.get(k) == v for k, v in wanted.items())]
    if len(hits) > 1:
        raise LookupError(f"{len(hits)} rows match {wanted}")
    return np.atleast_2d(np.asarray(hits[0]["units"], dtype=float)) if hits else None


def _agrees(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(wanted[k] == v for k, v in row.items() if k in wanted)
