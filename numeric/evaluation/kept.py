"""Samples and levels that are kept: made once for each denoiser, sampler, seeds and data, and found again by what made them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.evaluation.identity import identity
from numeric.evaluation.sample import NoiseStream, Sampler, SamplingError
from numeric.evaluation.sweep import FittedLater
from numeric.fingerprint import code_hash, modules_of
from numeric.results import load_tensors, save_tensors

WILD = 10.0
"""Grey levels beyond which a sample of images in [0, 1] is said to have left the data's range."""


def kept_samples(
    sampler: Sampler, denoiser: Denoiser, seeds: Sequence[int], shown: int, train: ImageSet, cache: str | Path, progress: bool = True
) -> tuple[Tensor, float, dict[str, Any]]:
    """Samples, from ``cache/samples`` if they are there: a file for each key of what made them, so that none erases another.

    The key holds the sampler, the seeds, the images fitted on, the code, and the denoiser's :func:`~numeric.evaluation.identity.identity`.

    Args:
        shown: the first so many seeds are run without clipping too.

    Returns: samples ``(len(seeds), channels, height, width)`` clamped to the pixels' range, the seconds they took, and what becomes
    of the shown ones without clipping (:func:`without_clipping`).
    """
    about = {
        "denoiser": identity(denoiser),
        "sampler": {f.name: str(getattr(sampler, f.name)) for f in fields(sampler) if f.name != "gaussian"},
        "gaussian": identity(sampler.gaussian) if sampler.gaussian is not None else None,
        "seeds": list(seeds),
        "shown": shown,
        "fit": train.provenance,
        "code": code_hash(__name__),
    }
    text = json.dumps(about, sort_keys=True)
    path = Path(cache) / "samples" / f"{_short_hash(text)}.safetensors"
    if path.exists():
        tensors, metadata = load_tensors(path)
        return tensors["samples"], float(metadata["seconds"]), json.loads(metadata["unclipped"])
    model = denoiser.model if isinstance(denoiser, FittedLater) else denoiser  # a linear one starts from its own Gaussian
    start = time.perf_counter()
    samples = sampler.run(model, NoiseStream.from_seeds(seeds), train.shape, progress).clamp(*train.pixel_range).float().cpu()
    seconds = time.perf_counter() - start
    unclipped = without_clipping(sampler, model, seeds[:shown], train.shape)
    if isinstance(denoiser, FittedLater):
        denoiser.forget()
    save_tensors(path, {"samples": samples}, {"seconds": repr(seconds), "unclipped": json.dumps(unclipped), "about": text})
    return samples, seconds, unclipped


def levels_path(model: Any, images: ImageSet, cache: str | Path) -> Path:
    """Where a readout that passes over its images for every noise level keeps the levels; the folder is there.

    The name holds the readout's class and settings, the images and the code: what ``prepare_levels(checkpoint=)`` would refuse is
    another file.
    """
    of = type(model)
    about = {
        "class": f"{of.__module__}.{of.__qualname__}", "settings": model.get_params(), "fit": images.provenance,
        "code": code_hash(*modules_of(model)),
    }  # fmt: skip
    path = Path(cache) / "levels" / f"{model.readout}-{_short_hash(json.dumps(about, sort_keys=True, default=str))}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_clipping(sampler: Sampler, model: Any, seeds: Sequence[int], shape: tuple[int, int, int]) -> dict[str, Any]:
    """Do samples stay finite where the denoised images are not clipped, and how far do they go?"""
    try:
        x = replace(sampler, clip_denoised=False).run(model, NoiseStream.from_seeds(seeds), shape, progress=False)
    except SamplingError as error:
        return {"finite": False, "in_range": False, "message": str(error)}
    largest = float(x.abs().max())
    return {"finite": True, "in_range": largest < WILD, "largest": largest}
