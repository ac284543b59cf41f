"""Denoising MSE over noise levels, degrees and methods, with standard errors; resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.results import read_json, write_json


def noise_like(x: Tensor, *key: int) -> Tensor:
    """Standard normal noise in the shape of ``x`` from a generator seeded by the key (same key, same noise)."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


class _Mean:
    """Running mean and standard error of per-image values."""

    def __init__(self) -> None:
        self.n, self.total, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        values = values.double()
        self.n += len(values)
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def record(self) -> dict[str, float]:
        mean = self.total / self.n
        variance = max(self.squares / self.n - mean**2, 0.0) * self.n / max(self.n - 1, 1)
        return {"n": self.n, "mse": mean, "se": (variance / self.n) ** 0.5}


def image_errors(estimate: Tensor, clean: Tensor) -> Tensor:
    """Squared error per pixel of each image, ``(n,)``."""
    return (estimate - clean).square().flatten(1).mean(1)


def evaluate(
    methods: Mapping[str, tuple[Denoiser, Sequence[int] | None]],
    images: ImageSet,
    noise: NoiseLevel | float,
    *,
    key: Sequence[int] = (0,),
    batch_size: int = 1000,
    limits: Mapping[str, int] | None = None,
    clamp: bool = True,
    device: str = "cpu",
    bar: Any = None,
) -> list[dict[str, Any]]:
    """MSE per pixel and its standard error over images, for every method at one noise level.

    Args:
        methods: label -> (denoiser, degrees); degrees None for methods without one.
        key: seeds the noise together with the batch number, so that every method sees the same noise.
        limits: label -> evaluate only the first so many images (for slow methods); ``n`` records it.

    Returns: one record per method and degree: method, degree, n, mse, se.  The row ``noisy`` is the input itself.
    """
    level, limits = as_noise(noise), limits or {}
    sums: dict[tuple[str, int | None], _Mean] = {("noisy", None): _Mean()}
    for label, (_, degrees) in methods.items():
        for degree in degrees if degrees is not None else [None]:
            sums[label, degree] = _Mean()
    seen = 0
    for number, clean in enumerate(images.batches(batch_size)):
        clean = clean.to(device)
        y = level.alpha * clean + level.sigma * noise_like(clean, *key, number)
        noisy = (y / level.alpha).clamp(0, 1) if clamp else y / level.alpha
        sums["noisy", None].add(image_errors(noisy, clean))
        for label, (denoiser, degrees) in methods.items():
            keep = min(len(clean), limits.get(label, len(images)) - seen)
            if keep <= 0:
                continue
            if degrees is None:
                sums[label, None].add(image_errors(denoiser.denoise(y[:keep], level, clamp), clean[:keep]))
            else:
                for degree, x in zip(degrees, denoiser.denoise_degrees(y[:keep], level, degrees, clamp)):  # type: ignore[attr-defined]
                    sums[label, degree].add(image_errors(x, clean[:keep]))
        seen += len(clean)
        if bar is not None:
            bar.update(len(clean))
    return [{"method": label, "degree": degree, **mean.record} for (label, degree), mean in sums.items()]


def sweep(
    methods: Mapping[str, tuple[Denoiser, Sequence[int] | None]],
    splits: Mapping[str, ImageSet],
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    batch_size: int = 1000,
    limits: Mapping[str, int] | None = None,
    checkpoint: str | Path | None = None,
    settings: Any = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """:func:`evaluate` over splits and VE noise levels.

    Args:
        checkpoint: JSON file that receives every finished (split, sigma); a run with the same settings takes up from it.
        settings: anything JSON can hold that identifies the methods (family parameters, ...), part of the checkpoint's key.
    """
    key = {
        "settings": settings,
        "methods": {label: list(d) if d is not None else None for label, (_, d) in methods.items()},
        "data": {name: split.provenance for name, split in splits.items()},
        "limits": dict(limits or {}),
        "seed": seed,
        "batch_size": batch_size,
    }
    key = json.loads(json.dumps(key))
    done: dict[str, list[dict[str, Any]]] = {}
    if checkpoint is not None and Path(checkpoint).exists():
        stored = read_json(checkpoint)
        if stored.get("key") == key:
            done = stored["done"]
    records = []
    with progress_bar(sum(map(len, splits.values())) * len(sigmas), "denoise", progress) as bar:
        for split_number, (name, split) in enumerate(splits.items()):
            for sigma in sigmas:
                item = f"{name}:{sigma!r}"
                if item in done:
                    bar.update(len(split))
                else:
                    bar.set_postfix_str(f"{name}, sigma={sigma:g}")
                    part = evaluate(
                        methods,
                        split,
                        sigma,
                        key=(seed, split_number, round(sigma * 1e6)),
                        batch_size=batch_size,
                        limits=limits,
                        device=device,
                        bar=bar,
                    )
                    done[item] = [{"split": name, "sigma": sigma, **record} for record in part]
                    if checkpoint is not None:
                        write_json(checkpoint, {"key": key, "done": done})
                records += done[item]
    return records
