"""Joint moments of all coefficients: ``E[phi phi^T]`` over the monomials of every coefficient, in one pass over the images."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.data import ImageSet
from numeric.denoiser import UNIT_RANGE, widest
from numeric.memory import free_memory
from numeric.results import load_tensors, reading, save_tensors, stored
from numeric.scores.contraction import CorrelatedNoise, WhiteNoise, conjugate, translation
from numeric.scores.dense import add_gram, mirror
from numeric.scores.families import Family
from numeric.scores.moments import MomentError
from numeric.scores.monomials import MonomialSet
from numeric.scores.passes import CoefficientSum, Pass, batch_bytes, float64_on, tensor_hash
from numeric.scores.stored import StoredSettings, whole
from numeric.scores.totals import total
from numeric.shards import Shards
from numeric.wavelets import WaveletTransform


@dataclass
class JointProducts(Pass):
    """Sums of the products of all monomials about a centre, ``(P, P)`` on and below the diagonal."""

    transform: WaveletTransform
    monomials: MonomialSet
    centre: Tensor
    batch: int = 1000
    device: str | torch.device = "cpu"
    name = "products"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(len(self.monomials),) * 2]

    @property
    def config(self) -> Any:
        rows = torch.from_numpy(self.monomials.rows)
        return [self.transform.config, len(self.monomials), tensor_hash(rows, self.centre)]

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        coefficients = self.transform.forward(float64_on(images, self.device)).flatten(1)
        add_gram(sums[0], self.monomials.features(coefficients - self.centre))


class JointMoments:
    """Gram matrix of the monomials of all clean coefficients about their mean, float64.

    Args:
        transform, family, degree, channels: what the monomials are of.
        device: where the products of the pass run and the matrix lives.

    Attributes:
        gram: ``(P, P)``, whole, normalised by ``count``; ``gram[1 : 1 + n, 1 : 1 + n]`` is the covariance.
        mean: ``(n,)`` of the ``channels * n_coefficients`` coefficients.
        count: images seen.
        monomials: the :class:`~numeric.scores.monomials.MonomialSet`.

    Memory is ``8 P^2`` bytes.
    """

    def __init__(
        self, transform: WaveletTransform, family: Family, degree: int, channels: int = 1, device: str = "cpu"
    ) -> None:
        self.transform, self.family, self.degree, self.channels = transform, family, degree, channels
        self.device = torch.device(device)
        self.pixel_range = UNIT_RANGE  # of the images, set by an estimator's fit
        self.monomials = MonomialSet.of_family(family, transform, degree, channels)
        self.gram = torch.empty(0, 0, dtype=torch.float64)
        self.mean = np.zeros(0)
        self.count = 0
        self._noise: WhiteNoise | CorrelatedNoise | None = None

    # ----- the pass ------------------------------------------------------------------------------------------------------

    def check_memory(self, squares: int = 2) -> None:
        """Raise MemoryError unless ``squares`` matrices of the Gram's size are free, and what solving takes beside them."""
        size, n = len(self.monomials), self.monomials.variables
        needed = 8 * (squares * size**2 + 3 * size * n)
        free = free_memory(self.device)
        if free is not None and needed > free:
            raise MemoryError(
                f"{size:,} shared features need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: "
                "use a lower degree, a smaller family or the 'own' readout"
            )

    def fit(
        self,
        data: ImageSet | Shards,
        batch_size: int = 1000,
        bar: Any = None,
        checkpoint: str | Path | None = None,
        every: float = 30.0,
    ) -> JointMoments:
        """Two passes over the images: their mean, then the products about it (BLAS-3).

        Args:
            checkpoint: file that receives the sums, atomically, about every ``every`` seconds (less often if writing takes
                long) and at the end; if it exists the fit takes up where it stopped, with the same bits. Of shards: a folder.

        Raises:
            MomentError: the checkpoint is of other settings, data or batches.
        """
        size = len(self.monomials)
        # Bound the feature matrix of a batch as well as the batch of images.
        step = max(1, min(batch_size, batch_bytes(self.device) // (8 * size)))
        first = CoefficientSum(self.transform, self.channels, batch_size, self.device)
        if isinstance(data, Shards):
            mean = total(first, data, bar, checkpoint, every)[0] / len(data)
            work = JointProducts(self.transform, self.monomials, mean, step, self.device)
            return self._finish(total(work, data, bar, checkpoint, every)[0], mean, len(data))
        key = None if checkpoint is None else json.loads(json.dumps({"data": data.provenance, "batch": step}))
        seen, centre, sums = 0, None, None
        if checkpoint is not None and Path(checkpoint).exists():
            seen, centre, sums = self._resume(Path(checkpoint), key)
        if centre is None:
            centre = total(first, data, bar)[0] / len(data)
            sums = torch.zeros(size, size, dtype=torch.float64, device=self.device)
        elif bar is not None:
            bar.update(len(data) + seen)
        assert sums is not None
        work = JointProducts(self.transform, self.monomials, centre, step, self.device)
        last, pause = time.monotonic(), every
        for start in range(seen, len(data), step):
            batch = data[start : start + step]
            work.add([sums], batch)
            if bar is not None:
                bar.update(len(batch))
            now = time.monotonic()
            if checkpoint is not None and (now - last >= pause or start + step >= len(data)):
                self._checkpoint(Path(checkpoint), key, min(start + step, len(data)), centre, sums)
                last = time.monotonic()
                pause = max(every, 20 * (last - now))  # writing large sums stays below a twentieth of the time
        return self._finish(sums, centre, len(data))

    def _finish(self, sums: Tensor, centre: Tensor, count: int) -> JointMoments:
        self.gram, self.mean, self.count = mirror(sums.div_(count)), centre.cpu().numpy(), count
        return self

    def _checkpoint(self, path: Path, key: Any, seen: int, centre: Tensor, sums: Tensor) -> None:
        record = {"joint": self.config, "key": key, "seen": seen}
        save_tensors(path, {"sums": sums, "centre": centre}, {"checkpoint": json.dumps(record, sort_keys=True)})

    def _resume(self, path: Path, key: Any) -> tuple[int, Tensor, Tensor]:
        tensors, metadata = load_tensors(path)
        if "checkpoint" not in metadata:
            raise MomentError(f"{path} is not a checkpoint of a shared fit: delete it or give another file")
        with reading(path, "checkpoint of a shared fit", MomentError):
            record = json.loads(metadata["checkpoint"])
            size, n = len(self.monomials), self.monomials.variables
            seen = whole(record["seen"], "number of images", 0, 2**63)
            made, made_key = record["joint"], record["key"]
        if made != json.loads(json.dumps(self.config)):
            raise MomentError(f"{path} was made with other settings ({made}): use them, or delete the file")
        if made_key != key:
            raise MomentError(f"{path} was made from other data or batches ({made_key}, now {key}): delete it to start again")
        centre, sums = stored(tensors, "centre", (n,), path), stored(tensors, "sums", (size, size), path)
        return seen, centre.to(self.device), sums.to(self.device)

    # ----- moving and merging --------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """What two sets of moments must share to be merged."""
        return {
            "transform": self.transform.config,
            "family": self.family.config,
            "degree": self.degree,
            "channels": self.channels,
        }

    def _copy(self, gram: Tensor, mean: np.ndarray, count: int) -> JointMoments:
        out = JointMoments.__new__(JointMoments)
        out.__dict__.update(self.__dict__)
        out.gram, out.mean, out.count = gram, mean, count
        return out

    def about(self, mean: np.ndarray) -> JointMoments:
        """The same moments of monomials centred elsewhere: the binomial theorem in every variable."""
        if np.array_equal(mean, self.mean):
            return self
        moved = conjugate(translation(self.monomials, self.mean - mean), self.gram.cpu().numpy().copy())
        return self._copy(torch.from_numpy(moved).to(self.gram.device), mean, self.count)

    def merge(self, other: JointMoments) -> JointMoments:
        """Moments of both sets of images together: moved to the common mean and added.

        Raises:
            MomentError: the two were made with other settings, or for images of another shape.
        """
        if self.config != other.config:
            different = ", ".join(
                f"{k} {self.config[k]} and {other.config[k]}" for k in self.config if self.config[k] != other.config[k]
            )
            raise MomentError(f"cannot merge moments of different settings: {different}")
        count = self.count + other.count
        mean = (self.count * self.mean + other.count * other.mean) / count
        gram = self.about(mean).gram * (self.count / count)
        gram += other.about(mean).gram.to(gram.device) * (other.count / count)
        out = self._copy(gram, mean, count)
        out.pixel_range = widest(self.pixel_range, other.pixel_range)
        return out

    # ----- noise ---------------------------------------------------------------------------------------------------------

    @property
    def covariance(self) -> np.ndarray | None:
        """Covariance of the coefficients of unit pixel noise, ``(n, n)``; None: the identity."""
        one = self.transform.noise_covariance
        return None if one is None else np.kron(np.eye(self.channels), one)

    @property
    def noise(self) -> WhiteNoise | CorrelatedNoise:
        """What integrates the noise; prepared once."""
        if self._noise is None:
            covariance = self.covariance
            self._noise = (
                WhiteNoise(self.monomials)
                if covariance is None
                else CorrelatedNoise(self.monomials, covariance, f"{self.transform.kind} basis {self.transform}")
            )
        return self._noise

    def wick_gram(self, alpha: float, sigma: float, size: int) -> Tensor:
        """Exact ``E[:phi: :phi:^T]`` of the leading Wick-ordered noisy monomials, on and below the diagonal (at least)."""
        clean = self.gram[:size, :size]
        if alpha == 1.0:
            out = clean.clone()
        else:
            powers = torch.as_tensor(alpha ** self.monomials.degrees[:size].astype(float), device=clean.device)
            out = clean * powers
            out *= powers[:, None]
        self.noise.add_to(out, self.gram, alpha, sigma, self.monomials.degrees)
        return out

    # ----- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write settings and moments (safetensors with JSON metadata), atomically; ``8 P^2`` bytes."""
        record = {"joint": self.config, "images": self.count, "extra": extra or {}}
        tensors = {"gram": self.gram, "mean": torch.from_numpy(self.mean)}
        save_tensors(path, tensors, {key: json.dumps(value, sort_keys=True) for key, value in record.items()})

    @classmethod
    def load_with_extra(cls, path: str | Path, device: str = "cpu") -> tuple[JointMoments, dict[str, Any]]:
        """Read what :meth:`save` wrote, and the ``extra`` settings saved beside.

        Raises:
            MomentError: the file holds something else.
            ValueError: it is truncated.
        """
        tensors, metadata = load_tensors(path)
        if "checkpoint" in metadata:
            raise MomentError(f"{path} is the checkpoint of an unfinished fit: give it as fit(..., checkpoint=) to go on")
        if "joint" not in metadata:
            raise MomentError(f"{path} is not a file of the shared readout: WaveletScore.load reads those of the own readout")
        with reading(path, "file of the shared readout", MomentError):
            settings = StoredSettings(json.loads(metadata["joint"]), tensors["mean"].numel())
            settings.check_gram(tuple(tensors["gram"].shape))
            out = cls(settings.transform, settings.family, settings.degree, settings.channels, device)
            out.gram = stored(tensors, "gram", (len(out.monomials),) * 2, path).to(out.device)
            out.mean = stored(tensors, "mean", (settings.variables,), path).numpy()
            out.count = whole(json.loads(metadata["images"]), "number of images", 1, 2**63)
            return out, dict(json.loads(metadata["extra"]))
