"""What a readout of Wiener coordinates knows of its images: mean, covariance, and where to read them again.

The coordinates depend on the noise level, so their moments need a pass over the images for each level.  The images stay by
reference (:class:`~numeric.data.ImageSet`, in memory or on disk); what is saved is mean and covariance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from numeric.data import ImageSet, as_image_set
from numeric.denoiser import UNIT_RANGE, widest
from numeric.memory import free_memory
from numeric.results import load_tensors, reading, save_tensors, stored
from numeric.scores.coordinates import LevelCoordinates
from numeric.scores.dense import add_gram, mirror
from numeric.scores.families import Family
from numeric.scores.moments import MomentError
from numeric.scores.monomials import MonomialSet
from numeric.scores.passes import Look, Pass, PixelProducts, batch_bytes, float64_on, tensor_hash
from numeric.scores.stored import StoredSettings, whole
from numeric.scores.totals import look, total
from numeric.shards import Shards
from numeric.wavelets import WaveletTransform


class NoImagesError(RuntimeError):
    """A noise level was asked for that is not prepared, and the images are not at hand."""


@dataclass
class LevelGrams(Pass):
    """Sums of the products of intercept, linear features and nonlinear monomials, ``(P, P)`` on and below the diagonal, by level."""

    levels: Sequence[LevelCoordinates]
    monomials: MonomialSet
    centre: Tensor
    batch: int = 500
    device: str | torch.device = "cpu"
    name = "levels"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(self.size,) * 2] * len(self.levels)

    @property
    def size(self) -> int:
        """Number of features, P."""
        return len(self.monomials) - self.monomials.variables + len(self.centre)

    @property
    def fitting_batch(self) -> int:
        """Images whose features take :func:`~numeric.scores.passes.batch_bytes`, at most 2,048."""
        return max(1, min(2048, batch_bytes(self.device) // (8 * self.size)))

    @property
    def config(self) -> Any:
        """Levels by their coordinates' numbers, which hold the covariance."""
        parts = [tensor for level in self.levels for tensor in (level.letters, level.whiten)]
        return [len(self.levels), tensor_hash(self.centre, torch.from_numpy(self.monomials.rows), *parts)]

    def centred(self, images: Tensor) -> Tensor:
        """Images less the centre, ``(n, N)`` float64."""
        return float64_on(images, self.device).flatten(1) - self.centre

    def features(self, centred: Tensor, level: LevelCoordinates) -> Tensor:
        """Intercept, linear features and nonlinear monomials of centred images ``(n, N)``, ``(P, n)``."""
        linear = 1 + len(self.centre)
        phi = centred.new_empty(self.size, len(centred))
        phi[0] = 1.0
        torch.mm(level.whiten, centred.T, out=phi[1:linear])
        self.monomials.products_(phi[linear:], level.letters @ centred.T)
        return phi

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        centred = self.centred(images)
        for gram, level in zip(sums, self.levels):
            add_gram(gram, self.features(centred, level))


@dataclass
class LinearMoments:
    """Mean and covariance of the pixels, and the images.

    Attributes:
        transform, family, degree, channels, letters: settings (``letters``: coordinates, of, pixel family as JSON takes them).
        mean: ``(N,)``; covariance: ``(N, N)``, float64, of ``N = channels * height * width`` pixels.
        count: images seen.
        sets: the images, by reference; empty after loading a file until :meth:`attach`.
        pixel_range: of the images, set by an estimator's fit.
    """

    transform: WaveletTransform
    family: Family
    degree: int
    channels: int
    letters: dict[str, Any]
    device: str
    mean: Tensor
    covariance: Tensor
    count: int = 0
    sets: tuple[ImageSet | Shards, ...] = ()
    hashes: tuple[str, ...] = ()
    pixel_range: tuple[float, float] = UNIT_RANGE

    @property
    def config(self) -> dict[str, Any]:
        """What two sets of moments must share to be merged or compared."""
        return {
            "transform": self.transform.config, "family": self.family.config, "degree": self.degree,
            "channels": self.channels, "letters": self.letters,
        }  # fmt: skip

    def fit(
        self, data: ImageSet | Shards, batch_size: int, bar: Any, checkpoint: str | Path | None, every: float
    ) -> LinearMoments:
        """One pass; a checkpoint that is there and of the same images saves it. Of shards it is a folder.

        Raises:
            MomentError: the checkpoint is of other images or settings.
        """
        if isinstance(data, Shards):
            near = data.first.to(self.device, torch.float64).flatten(1)[0]
            return self._finish(near, total(PixelProducts(near, batch_size, self.device), data, bar, checkpoint, every), data)
        key = {"config": self.config, "data": data.provenance}
        if checkpoint is not None and Path(checkpoint).exists():
            tensors, metadata = load_tensors(checkpoint)
            with reading(checkpoint, "checkpoint of a fit", MomentError):
                found = json.loads(metadata.get("checkpoint", "null"))
            if found != json.loads(json.dumps(key)):
                raise MomentError(f"{checkpoint} is no checkpoint of these images and settings ({found}): delete it or name another")
            shape = tuple(self.mean.shape)
            mean, covariance = stored(tensors, "mean", shape, checkpoint), stored(tensors, "covariance", shape * 2, checkpoint)
            self._seen(mean.to(self.device), covariance.to(self.device), data)
            if bar is not None:
                bar.update(len(data))
        else:
            shift = data[:1].to(self.device, torch.float64).flatten(1)[0]
            self._finish(shift, total(PixelProducts(shift, batch_size, self.device), data, bar), data)
            if checkpoint is not None:
                save_tensors(checkpoint, {"mean": self.mean, "covariance": self.covariance}, {"checkpoint": json.dumps(key)})
        return self

    def _finish(self, shift: Tensor, sums: Sequence[Tensor], data: ImageSet | Shards) -> LinearMoments:
        first = sums[0] / len(data)
        return self._seen(first + shift, mirror(sums[1]).div_(len(data)).sub_(torch.outer(first, first)), data)

    def _seen(self, mean: Tensor, covariance: Tensor, data: ImageSet | Shards) -> LinearMoments:
        self.mean, self.covariance, self.count, self.sets, self.hashes = mean, covariance, len(data), (data,), (data.sha256,)
        return self

    def attach(self, images: Any) -> None:
        """Give the images again after loading; shards as the shards that were fitted.

        Raises:
            MomentError: they are not the ones that were fitted.
        """
        sets: tuple[ImageSet | Shards, ...]
        if isinstance(images, Shards):
            look(images)
            total(Look(), images)
            sets = (images,)
        else:
            listed = isinstance(images, (list, tuple))
            several = listed and (len(self.hashes) > 1 or all(isinstance(part, ImageSet) for part in images))  # after a merge
            sets = tuple(as_image_set(part) for part in (images if several else [images]))
        hashes = tuple(part.sha256 for part in sets)
        shape = (self.channels, *self.transform.shape)
        if hashes != self.hashes or sum(map(len, sets)) != self.count or any(part.shape != shape for part in sets):
            raise MomentError(
                f"these are not the {self.count:,} images {shape} that this model was fitted on "
                f"(sha256 {', '.join(h[:12] for h in hashes)}, fitted {', '.join(h[:12] for h in self.hashes)})"
            )
        self.sets = sets

    def merge(self, other: LinearMoments) -> LinearMoments:
        """Of both sets of images.

        Raises:
            MomentError: the settings differ.
        """
        if self.config != other.config:
            raise MomentError(f"cannot merge moments of different settings: {self.config} and {other.config}")
        count = self.count + other.count
        p, q = self.count / count, other.count / count
        between = self.mean - other.mean.to(self.mean)
        covariance = p * self.covariance + q * other.covariance.to(self.covariance) + p * q * torch.outer(between, between)
        return LinearMoments(
            self.transform, self.family, self.degree, self.channels, self.letters, self.device,
            p * self.mean + q * other.mean.to(self.mean), covariance, count,
            (*self.sets, *other.sets) if self.sets and other.sets else (), (*self.hashes, *other.hashes),
            widest(self.pixel_range, other.pixel_range),
        )  # fmt: skip

    # ----- passes at noise levels ----------------------------------------------------------------------------------------

    def check_memory(self, features: int, squares: int) -> None:
        """Raise MemoryError unless ``squares`` matrices of ``features`` squared are free, and what stands beside them."""
        pixels = len(self.mean)
        letters = self.transform.n_coefficients * self.channels + pixels
        needed = 8 * (squares * features**2 + (2 * pixels + letters) * features) + batch_bytes(self.device)
        free = free_memory(self.device)
        if free is not None and needed > free:
            raise MemoryError(
                f"{features:,} features need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: use a lower degree, "
                "family='independent', one kind of coordinates or readout='own'"
            )

    def total(self, work: Pass, bar: Any = None, checkpoint: str | Path | None = None) -> list[Tensor]:
        """The sums of a pass over the images.

        Raises:
            NoImagesError: the images were not given again after loading.
            MomentError: the memory that the images lie in was written to since the fit.
        """
        if not self.sets:
            raise NoImagesError("a new noise level needs the images, which a saved model does not hold: call attach(images) first")
        for part, known in zip(self.sets, self.hashes):
            if isinstance(part, ImageSet) and isinstance(part.raw, Tensor) and part.hashed_again() != known:
                raise MomentError(
                    "the images have changed since the fit (the array that they share memory with was written to): fit again, or fit on a copy"
                )
        sums: list[Tensor] = []
        for part in self.sets:
            more = total(work, part, bar, checkpoint)
            sums = [mine.add_(its) for mine, its in zip(sums, more)] if sums else more
        return sums

    def grams(
        self, levels: Sequence[LevelCoordinates], monomials: MonomialSet, centre: Tensor, bar: Any = None,
        checkpoint: str | Path | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """Whole clean Gram matrices ``E[phi phi^T]`` at several levels in one pass over the images (BLAS-3), centred at ``centre``."""
        work = LevelGrams(levels, monomials, centre, device=self.device)
        work.batch = work.fitting_batch
        out = self.total(work, bar, checkpoint)
        for gram in out:
            mirror(gram.div_(self.count))
        return out

    # ----- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, extra: dict[str, Any] | None = None, tensors: dict[str, Tensor] | None = None) -> None:
        """Write settings, mean and covariance, and more tensors beside, atomically."""
        record = {"wiener": {**self.config, "hashes": self.hashes}, "images": self.count, "extra": extra or {}}
        content = {"mean": self.mean, "covariance": self.covariance, **(tensors or {})}
        save_tensors(path, content, {key: json.dumps(value, sort_keys=True) for key, value in record.items()})

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> tuple[LinearMoments, dict[str, Any], dict[str, Tensor]]:
        """What :meth:`save` wrote: moments, ``extra`` and the other tensors.

        Raises:
            MomentError: the file holds something else; ValueError: it is truncated.
        """
        tensors, metadata = load_tensors(path)
        if "wiener" not in metadata:
            what = "the checkpoint of a fit: give it as fit(..., checkpoint=)" if "checkpoint" in metadata else "of another readout"
            raise MomentError(f"{path} is {what}")
        with reading(path, "file of Wiener features", MomentError):
            found, pixels = json.loads(metadata["wiener"]), tensors["mean"].numel()
            mean, covariance = stored(tensors, "mean", (pixels,), path), stored(tensors, "covariance", (pixels, pixels), path)
            settings = StoredSettings(found, None, pixels)
            settings.check_monomials()
            letters, hashes = dict(found["letters"]), tuple(found["hashes"])
            if not all(isinstance(name, str) for name in (*letters.values(), *hashes)):
                raise ValueError(f"its letters are {letters}")
            moments = cls(
                settings.transform, settings.family, settings.degree, settings.channels, letters, device, mean.to(device),
                covariance.to(device), whole(json.loads(metadata["images"]), "number of images", 1, 2**63), (), hashes,
            )  # fmt: skip
            others = {name: tensor for name, tensor in tensors.items() if name not in ("mean", "covariance")}
            return moments, dict(json.loads(metadata["extra"])), others
