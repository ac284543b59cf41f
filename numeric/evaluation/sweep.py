"""Denoising MSE over noise levels, degrees, methods and noise seeds, with standard errors; resumable.

Every method sees the same noise, so that ratios and differences between methods are known far better than the means.
Two standard errors are recorded: over *images* (how far the mean may lie from that of all such images) and over noise
*seeds* (how far it moves when the noise is drawn anew on the same images).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.arguments import as_list
from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.evaluation.identity import identity
from numeric.fingerprint import code_hash
from numeric.noise import NoiseLevel, as_noise
from numeric.progress import progress_bar
from numeric.results import read_json, write_json

Methods = Mapping[str, tuple[Any, Any]]
"""Label -> (denoiser, degrees): a number, a list, an array or text; None for methods without one."""
Errors = dict[tuple[str, int | None], np.ndarray]


class FittedLater(Denoiser):
    """A denoiser that is fitted when it is first used: one whose errors are all in the cache is never fitted.

    Args:
        label: for figures. fit: returns the fitted denoiser. about: what identifies it in a cache (its class and settings).

    Attributes:
        seconds: what the fit took; None before.
    """

    def __init__(self, label: str, fit: Callable[[], Any], about: Any = None) -> None:
        self.label, self.about, self._fit, self._model = label, about, fit, None
        self.seconds: float | None = None

    @property
    def model(self) -> Any:
        if self._model is None:
            start = perf_counter()
            self._model = self._fit()
            self.seconds = perf_counter() - start
        return self._model

    def forget(self) -> None:
        """Give the fitted model's memory back; it is fitted again if it is used again."""
        self._model = None

    def denoise(self, y: Any, noise: Any, clamp: bool = True) -> Any:
        return self.model.denoise(y, noise, clamp)

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        return self.model.estimate(y, noise)

    def denoise_degrees(self, y: Tensor, noise: NoiseLevel, degrees: Sequence[int], clamp: bool = True) -> Tensor:
        return self.model.denoise_degrees(y, noise, degrees, clamp)


def noise_like(x: Tensor, *key: int) -> Tensor:
    """Standard normal noise in the shape of ``x`` from a generator seeded by the key (same key, same noise in every type)."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device, x.dtype)


def image_errors(estimate: Tensor, clean: Tensor) -> Tensor:
    """Squared error per pixel of each image, ``(n,)``."""
    return (estimate - clean).square().flatten(1).mean(1)


def measure(
    methods: Methods,
    images: ImageSet,
    noise: NoiseLevel | float,
    *,
    key: Sequence[int] = (0,),
    seeds: int = 1,
    batch_size: int = 1000,
    limits: Mapping[str, int] | None = None,
    clamp: bool = True,
    device: str = "cpu",
    bar: Any = None,
) -> Errors:
    """Squared error per pixel of every image, ``(seeds, n)``, for every method and degree at one noise level.

    Args:
        methods: label -> (denoiser, degrees); degrees None for methods without one.
        key: seeds the noise together with the number of the draw and of the batch, the same for all methods.
        seeds: how many times the noise is drawn.
        limits: label -> only the first so many images (for slow methods).

    The entry ``noisy`` is the input itself.
    """
    level, limits = as_noise(noise), limits or {}
    methods = {label: (m, None if d is None else as_list(d, int, "degrees")) for label, (m, d) in methods.items()}
    parts: dict[tuple[str, int | None], list[list[Tensor]]] = {("noisy", None): [[] for _ in range(seeds)]}
    for label, (_, degrees) in methods.items():
        for degree in degrees if degrees is not None else [None]:
            parts[label, degree] = [[] for _ in range(seeds)]
    seen = 0
    for number, clean in enumerate(images.batches(batch_size)):
        clean = clean.to(device)
        for draw in range(seeds):
            y = level.alpha * clean + level.sigma * noise_like(clean, *key, draw, number)
            noisy = (y / level.alpha).clamp(*images.pixel_range) if clamp else y / level.alpha
            parts["noisy", None][draw].append(image_errors(noisy, clean))
            for label, (denoiser, degrees) in methods.items():
                keep = min(len(clean), limits.get(label, len(images)) - seen)
                if keep <= 0:
                    continue
                if degrees is None:
                    error = image_errors(denoiser.denoise(y[:keep], level, clamp), clean[:keep])
                    parts[label, None][draw].append(error)
                else:
                    estimates = denoiser.denoise_degrees(y[:keep], level, degrees, clamp)  # type: ignore[attr-defined]
                    for degree, x in zip(degrees, estimates):
                        parts[label, degree][draw].append(image_errors(x, clean[:keep]))
            if bar is not None:
                bar.update(len(clean))
        seen += len(clean)
    return {name: np.stack([torch.cat(draw).double().cpu().numpy() for draw in draws]) for name, draws in parts.items()}


def standard_error(values: np.ndarray) -> float | None:
    """Standard error of the mean of ``(n,)`` values; None for a single one."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def summary(errors: np.ndarray) -> dict[str, Any]:
    """Mean of ``(seeds, n)`` errors with both standard errors: ``se`` over images, ``se_seeds`` over noise draws."""
    return {
        "n": errors.shape[1],
        "seeds": errors.shape[0],
        "mse": float(errors.mean()),
        "se": standard_error(errors.mean(0)) or 0.0,
        "se_seeds": standard_error(errors.mean(1)),
    }


def paired_ratio(errors: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Ratio of two methods' mean errors on the images both have seen, paired image by image and seed by seed.

    The standard error over images is that of the residual ``e - r e_ref`` (delta method); the one over seeds is that of
    the per-seed ratios.
    """
    n = min(errors.shape[1], reference.shape[1])
    a, b = errors[:, :n], reference[:, :n]
    ratio = float(a.mean() / b.mean())
    return {
        "ratio": ratio,
        "se": standard_error((a - ratio * b).mean(0) / b.mean()) or 0.0,
        "se_seeds": standard_error(a.mean(1) / b.mean(1)),
        "n": n,
    }


def records_of(errors: Errors, reference: str | None = None) -> list[dict[str, Any]]:
    """Records from per-image errors.

    Fields: method, degree, n, seeds, mse, se, se_seeds (:func:`summary`); for methods with degrees ``to_lowest`` and
    ``to_previous``, the paired ratios to the lowest and the next lower degree; ``to_reference``, the paired ratio to the
    ``reference`` method, where it is given and is among the methods.
    """
    out = []
    for (label, degree), values in errors.items():
        record: dict[str, Any] = {"method": label, "degree": degree, **summary(values)}
        if degree is not None:
            below = sorted(d for name, d in errors if name == label and d is not None and d <= degree)
            record["to_lowest"] = paired_ratio(values, errors[label, below[0]])
            if len(below) > 1:
                record["to_previous"] = paired_ratio(values, errors[label, below[-2]])
        if reference is not None and (reference, None) in errors:
            record["to_reference"] = paired_ratio(values, errors[reference, None])
        out.append(record)
    return out


def evaluate(
    methods: Methods, images: ImageSet, noise: NoiseLevel | float, *, reference: str | None = None, **more: Any
) -> list[dict[str, Any]]:
    """:func:`measure` summarised by :func:`records_of`: one record per method and degree.

    Example:
        >>> import torch
        >>> from numeric import LinearDenoiser, as_image_set, evaluate
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> (row,) = evaluate({'linear': (LinearDenoiser().fit(images), None)}, as_image_set(images), 0.5)[-1:]
        >>> row['method'], row['n'], 0.0 < row['mse'] < 0.25
        ('linear', 40, True)
    """
    return records_of(measure(methods, images, noise, **more), reference)


def _made_by(denoiser: Any, settings: Any) -> Any:
    """What a method's numbers are made from; None where only ``settings`` say it."""
    if settings is not None and isinstance(denoiser, FittedLater) and denoiser.about is None:
        return None
    return identity(denoiser)


def sweep(
    methods: Methods,
    splits: Mapping[str, ImageSet],
    sigmas: Any,
    *,
    seed: int = 0,
    seeds: int = 1,
    batch_size: int = 1000,
    limits: Mapping[str, int] | None = None,
    reference: str | None = None,
    checkpoint: str | Path | None = None,
    settings: Any = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """:func:`evaluate` over splits and VE noise levels.

    Args:
        sigmas: one, several, an array, or text such as ``"0.1, 0.5"``.
        seeds: noise draws per image, each with its own seed derived from ``seed``.
        reference: method that every other one is compared with, image by image.
        checkpoint: ``folder/name.json`` stands for one file ``folder/name-KEY.json`` for each key of settings, data and
            methods, which receives every finished (split, sigma); a run with the same key takes up from it, and no run
            touches another's.  Methods count by what they hold (:func:`numeric.evaluation.identity.identity`), not by label.
        settings: anything JSON can hold, part of the checkpoint's key.  It must identify those methods that are fitted later
            and do not say what they are (``FittedLater(label, fit)`` without ``about``).

    Raises:
        ValueError: no seeds, sigmas that are no numbers > 0, a file in the cache that is truncated, or a checkpoint for a method
            that cannot be told from others.
    """
    sigmas = as_list(sigmas, float, "sigmas")
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    if not sigmas or min(sigmas) <= 0:
        raise ValueError(f"sigmas must be > 0, got {sigmas}")
    key = {
        "settings": settings,
        "methods": {label: as_list(d, int, "degrees") if d is not None else None for label, (_, d) in methods.items()},
        "data": {name: split.provenance for name, split in splits.items()},
        "limits": dict(limits or {}),
        "seed": seed,
        "seeds": seeds,
        "reference": reference,
        "batch_size": batch_size,
    }
    done: dict[str, list[dict[str, Any]]] = {}
    if checkpoint is not None:
        key["made_by"] = {label: _made_by(denoiser, settings) for label, (denoiser, _) in methods.items()}
        key["code"] = code_hash(__name__)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        checkpoint = Path(checkpoint).with_name(f"{Path(checkpoint).stem}-{digest}.json")
        done = read_json(checkpoint)["done"] if checkpoint.exists() else {}
    with progress_bar(seeds * sum(map(len, splits.values())) * len(sigmas), "denoise", progress) as bar:
        for sigma in sigmas:  # outermost: what is solved at a level then serves all splits and seeds
            for split_number, (name, split) in enumerate(splits.items()):
                item = f"{name}:{sigma!r}"
                if item in done:
                    bar.update(seeds * len(split))
                    continue
                bar.set_postfix_str(f"{name}, sigma={sigma:g}")
                part = evaluate(
                    methods,
                    split,
                    sigma,
                    reference=reference,
                    key=(seed, split_number, round(sigma * 1e6)),
                    seeds=seeds,
                    batch_size=batch_size,
                    limits=limits,
                    device=device,
                    bar=bar,
                )
                done[item] = [{"split": name, "sigma": sigma, **record} for record in part]
                if checkpoint is not None:
                    write_json(checkpoint, {"key": key, "done": done})
    return [record for name in splits for sigma in sigmas for record in done[f"{name}:{sigma!r}"]]
