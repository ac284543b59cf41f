"""Errors on patches of photographs, photograph by photograph, as the patches grow: linear and own readouts of degree 2."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from numeric.baselines.linear import LinearDenoiser
from numeric.claims.config import SPLITS, Row
from numeric.data import ImageSet
from numeric.evaluation.sweep import image_errors, noise_like
from numeric.pictures import COLOUR, GREY, HELD_OUT, load_natural
from numeric.progress import progress_bar
from numeric.scores.own import WaveletScore

DEGREE = 2
MODELS = ("linear", "independent", "local")
STRIDE = 32
"""Pixels between neighbouring patches that are larger than this."""
RIDGE = 1e-6
"""Of the own readouts, unit scaling: there are few photographs."""


@lru_cache(maxsize=64)
def patches(split: str, size: int, count: int, seed: int) -> tuple[ImageSet, ...]:
    """Grey patches of every photograph of a split, ``count`` of all together at most, as evenly as there are."""
    names = [name for name in (*COLOUR, *GREY) if (name in HELD_OUT) == (split == "held-out")]
    each = max(2, count // len(names))
    return tuple(load_natural(size=size, channels=1, count=each, stride=min(size, STRIDE), photographs=[name], seed=seed) for name in names)


def photographs(m: Any, size: int) -> list[Row]:
    """Clamped errors on drawn noise; the units of a row are its photographs, in one order for every size."""
    config, rows = m.config, []
    fitted = torch.cat([part[:] for part in patches("train", size, config.n_patches, config.seed)])
    models = {"linear": LinearDenoiser().fit(fitted)}
    models |= {family: WaveletScore(family, DEGREE, ridge=RIDGE).fit(fitted, batch_size=100) for family in MODELS[1:]}
    with progress_bar(len(SPLITS) * len(config.sigmas), f"photographs {size}", m.progress, "level") as bar:
        for number, split in enumerate(SPLITS):
            parts = [part[:] for part in patches(split, size, config.n_eval, config.seed)]
            clean = torch.cat(parts)
            for sigma in config.sigmas:
                y = clean + sigma * noise_like(clean, config.seed, 40 + number, round(sigma * 1e6))
                for family, model in models.items():
                    found = torch.cat([model.denoise(part, sigma) for part in y.split(50)])
                    units = [float(e.double().mean()) for e in image_errors(found, clean).split([len(part) for part in parts])]
                    rows.append({"size": size, "split": split, "sigma": sigma, "family": family, "units": [units]})
                bar.update()
    return rows
