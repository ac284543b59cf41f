"""What a readout of Wiener coordinates knows of its images: mean, covariance, and where to read them again.

The coordinates depend on the noise level, so their moments need a pass over the images for each level.  The images stay by
reference (:class:`~numeric.data.ImageSet`, in memory or on disk); what is saved is mean and covariance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from numeric.data import ImageSet, as_image_set
from numeric.denoiser import UNIT_RANGE, widest
from numeric.memory import free_memory
from numeric.results import load_tensors, save_tensors
from numeric.scores.coordinates import LevelCoordinates
from numeric.scores.dense import add_gram, mirror
from numeric.scores.families import Family
from numeric.scores.moments import MomentError
from numeric.scores.monomials import MonomialSet
from numeric.wavelets import WaveletTransform

BATCH_BYTES = 2**27
"""Features of one batch."""


class NoImagesError(RuntimeError):
    """A noise level was asked for that is not prepared, and the images are not at hand."""


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
    sets: tuple[ImageSet, ...] = ()
    hashes: tuple[str, ...] = ()
    pixel_range: tuple[float, float] = UNIT_RANGE

    @property
    def config(self) -> dict[str, Any]:
        """What two sets of moments must share to be merged or compared."""
        return {
            "transform": self.transform.config, "family": self.family.config, "degree": self.degree,
            "channels": self.channels, "letters": self.letters,
        }  # fmt: skip

    def fit(self, data: ImageSet, batch_size: int, bar: Any, checkpoint: str | Path | None, every: float) -> LinearMoments:
        """One pass; a checkpoint that is there and of the same images saves it.

        Raises:
            MomentError: the checkpoint is of other images or settings.
        """
        key = {"config": self.config, "data": data.provenance}
        if checkpoint is not None and Path(checkpoint).exists():
            tensors, metadata = load_tensors(checkpoint)
            found = json.loads(metadata.get("checkpoint", "null"))
            if found != json.loads(json.dumps(key)):
                raise MomentError(f"{checkpoint} is no checkpoint of these images and settings ({found}): delete it or name another")
            mean, covariance = tensors["mean"].to(self.device), tensors["covariance"].to(self.device)
            if bar is not None:
                bar.update(len(data))
        else:
            shift = data[:1].to(self.device, torch.float64).flatten(1)[0]
            total, second = torch.zeros_like(shift), torch.zeros(len(shift), len(shift), dtype=shift.dtype, device=shift.device)
            for batch in data.batches(batch_size):
                x = batch.to(self.device, torch.float64).flatten(1) - shift
                total += x.sum(0)
                add_gram(second, x.T)
                if bar is not None:
                    bar.update(len(batch))
            first = total / len(data)
            mean, covariance = first + shift, mirror(second).div_(len(data)).sub_(torch.outer(first, first))
            if checkpoint is not None:
                save_tensors(checkpoint, {"mean": mean, "covariance": covariance}, {"checkpoint": json.dumps(key)})
        self.mean, self.covariance, self.count, self.sets, self.hashes = mean, covariance, len(data), (data,), (data.sha256,)
        return self

    def attach(self, images: Any) -> None:
        """Give the images again after loading.

        Raises:
            MomentError: they are not the ones that were fitted.
        """
        sets = tuple(as_image_set(part) for part in (images if isinstance(images, (list, tuple)) else [images]))
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
        needed = 8 * (squares * features**2 + (2 * pixels + letters) * features) + BATCH_BYTES
        free = free_memory() if torch.device(self.device).type == "cpu" else None
        if free is not None and needed > free:
            raise MemoryError(
                f"{features:,} features need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: use a lower degree, "
                "family='independent', one kind of coordinates or readout='own'"
            )

    def features(self, centred: Tensor, level: LevelCoordinates, monomials: MonomialSet) -> Tensor:
        """Intercept, linear features and nonlinear monomials of centred images ``(n, N)``, ``(P, n)``."""
        phi = monomials.features(centred @ level.letters.T)
        head = torch.cat([phi[:1], level.whiten @ centred.T])
        return torch.cat([head, phi[1 + monomials.variables :]])

    def batches(self, step: int, centre: Tensor, bar: Any = None) -> Iterator[Tensor]:
        """Images less ``centre``, ``(n, N)`` float64, ``step`` at a time.

        Raises:
            NoImagesError: the images were not given again after loading.
        """
        if not self.sets:
            raise NoImagesError("a new noise level needs the images, which a saved model does not hold: call attach(images) first")
        for part in self.sets:
            for batch in part.batches(step):
                yield batch.to(self.device, torch.float64).flatten(1) - centre
                if bar is not None:
                    bar.update(len(batch))

    def grams(
        self, levels: Sequence[LevelCoordinates], monomials: MonomialSet, centre: Tensor, bar: Any = None
    ) -> list[Tensor]:
        """Whole clean Gram matrices ``E[phi phi^T]`` at several levels in one pass over the images (BLAS-3), centred at ``centre``."""
        size = len(monomials) - monomials.variables + len(centre)
        out = [torch.zeros(size, size, dtype=torch.float64, device=self.device) for _ in levels]
        for centred in self.batches(max(1, min(2048, BATCH_BYTES // (8 * size))), centre, bar):
            for gram, level in zip(out, levels):
                add_gram(gram, self.features(centred, level, monomials))
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
        found = json.loads(metadata["wiener"])
        settings = dict(found["transform"])
        transform = WaveletTransform(tuple(settings.pop("shape")), **settings)
        moments = cls(
            transform, Family(**found["family"]), found["degree"], found["channels"], found["letters"], device,
            tensors.pop("mean").to(device), tensors.pop("covariance").to(device), int(metadata["images"]), (), tuple(found["hashes"]),
        )  # fmt: skip
        return moments, json.loads(metadata["extra"]), tensors
