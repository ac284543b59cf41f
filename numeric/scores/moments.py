"""Clean-data moments in one streaming pass, and their exact noisy counterparts (equation (20)).

Every number a score coefficient needs at any noise level, VE or VP, is a linear function of mixed moments of the
*clean* coefficients.  They are accumulated once, as products of feature matrices (BLAS-3), in float64 and about a
fixed centre; afterwards a new noise level reads no data and draws no noise.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from numeric.denoiser import UNIT_RANGE, widest
from numeric.results import load_tensors, reading, save_tensors, stored
from numeric.scores.families import Block, Family, MonomialPlan, monomial_plan, product_count
from numeric.scores.passes import CoefficientSum, Pass, tensor_hash
from numeric.scores.stored import StoredSettings, whole
from numeric.scores.tables import grams, monomial_steps, translate
from numeric.scores.totals import total
from numeric.shards import Shards
from numeric.wavelets import WaveletTransform

CHUNK_BYTES = 4 * 2**20
"""Working memory of one step of the pass (feature matrices of a chunk of groups); small enough to stay in the cache."""


class MomentError(ValueError):
    """Moments cannot be accumulated, merged or read; the message names the value and the fix."""


# ----- the streaming accumulator -----------------------------------------------------------------------------------------


class BlockMoments:
    """Moment sums of one block: ``sums`` is ``(M, groups)``, about the accumulator's centre, in memory or in a file."""

    def __init__(self, block: Block, plan: MonomialPlan, device: torch.device) -> None:
        self.block, self.plan, self.device = block, plan, device
        self._sums: Tensor | None = None
        self._file: Path | None = None
        self._index: dict[str, Tensor] = {}

    @property
    def bytes(self) -> int:
        return 8 * self.plan.n_products * len(self.block.variables)

    @property
    def sums(self) -> Tensor:
        """The sums; zero before the first batch; read anew at each access if they were spilled."""
        if self._file is not None:
            return load_tensors(self._file)[0]["sums"].to(self.device)
        if self._sums is None:
            self._sums = torch.zeros(
                self.plan.n_products, len(self.block.variables), dtype=torch.float64, device=self.device
            )
        return self._sums

    @sums.setter
    def sums(self, value: Tensor) -> None:
        self._sums, self._file = value, None

    def spill(self, path: Path) -> None:
        """Move the sums to a file and free their memory."""
        save_tensors(path, {"sums": self.sums}, {})
        self._sums, self._file = None, path

    def __getstate__(self) -> dict[str, Any]:
        """Pickled whole: spilled sums are read back from their file, which another process or day may not find."""
        return {**self.__dict__, "_sums": self.sums, "_file": None, "_index": {}}

    def accumulate(self, centred: Tensor, sums: Tensor | None = None) -> None:
        """Add a batch of centred coefficients ``(channels * n_coefficients, n)``, to other sums than its own if they are given."""
        sums = self.sums if sums is None else sums
        n, basis = centred.shape[1], len(self.plan.basis)
        q = self.plan.variables
        device = centred.device
        if "variables" not in self._index:
            self._index["variables"] = torch.as_tensor(self.block.variables, device=device)
            self._index["representative"] = torch.as_tensor(self.plan.representative, device=device)
        variables, representative = self._index["variables"], self._index["representative"]
        step = max(1, int(CHUNK_BYTES // (8 * (n * (basis + q) + basis * basis + self.plan.n_products))))
        made = 0
        for start in range(0, len(variables), step):
            part = variables[start : start + step]
            if len(part) != made:
                made = len(part)
                x, phi = centred.new_empty(made, q, n), centred.new_empty(made, basis, n)
                steps = monomial_steps(x, phi, self.plan)
            torch.index_select(centred, 0, part.flatten(), out=x.view(-1, n))
            for fill in steps:
                fill()
            gram = grams(phi).flatten(1)
            sums[:, start : start + step] += gram[:, representative].T


class CleanMoments:
    """Moments of clean wavelet coefficients for one family, from one pass over the images.

    Args:
        transform: the wavelet transform.
        family: the feature family.
        degree: largest degree that will be asked for; lower degrees are nested in it.
        channels: of the images.
        centre: ``(channels * n_coefficients,)`` point about which moments are summed; by default the mean of the first
            batch. Any fixed point gives the same moments; one near the mean keeps their digits.
        device: where the sums live and the products run.
        block_bytes: split the sums into blocks of at most about so many bytes (see :meth:`fit_within`).

    Use :meth:`update` per batch, or :meth:`fit` over an iterable.  Two accumulators :meth:`merge`; the state saves to a
    file and resumes from it.
    """

    def __init__(
        self,
        transform: WaveletTransform,
        family: Family,
        degree: int,
        channels: int = 1,
        centre: Tensor | None = None,
        device: str | torch.device = "cpu",
        block_bytes: int | None = None,
    ) -> None:
        self.transform, self.family, self.degree, self.channels = transform, family, degree, channels
        self.pixel_range = UNIT_RANGE  # of the images, set by an estimator's fit
        self.block_bytes = block_bytes
        self.device = torch.device(device)
        self.count = 0
        self.centre = None if centre is None else centre.to(self.device, torch.float64)
        self.blocks: list[BlockMoments] = []
        for block in family.blocks(transform, channels):
            plan = monomial_plan(block.pattern, block.variables.shape[1], degree)
            groups = len(block.variables)
            step = groups if block_bytes is None else max(1, block_bytes // (8 * plan.n_products))
            for start in range(0, groups, step):
                part = Block(block.pattern, block.variables[start : start + step])
                self.blocks.append(BlockMoments(part, plan, self.device))

    @staticmethod
    def foreseen_bytes(transform: WaveletTransform, family: Family, degree: int, channels: int = 1) -> int:
        """Memory of the moment sums, before any of it is taken."""
        return sum(
            8 * product_count(block.pattern, block.variables.shape[1], degree) * len(block.variables)
            for block in family.blocks(transform, channels)
        )

    def update(self, images: Tensor) -> CleanMoments:
        """Add a batch of images ``(n, channels, height, width)``."""
        if images.shape[1] != self.channels:
            raise MomentError(f"expected {self.channels} channel(s), got {images.shape[1]}")
        coefficients = self.transform.forward(images.to(self.device, torch.float64)).flatten(1)
        return self.update_coefficients(coefficients)

    def update_coefficients(self, coefficients: Tensor, blocks: Sequence[BlockMoments] | None = None) -> CleanMoments:
        """Add clean coefficients ``(n, channels * n_coefficients)``, float64 on this device (to some blocks only)."""
        if not torch.isfinite(coefficients).all():
            raise MomentError("the images contain NaN or infinite pixels: remove or replace them before fitting")
        if self.centre is None:
            self.centre = coefficients.mean(0)
        centred = (coefficients - self.centre).T.contiguous()
        for block in self.blocks if blocks is None else blocks:
            block.accumulate(centred)
        if blocks is None:
            self.count += len(coefficients)
        return self

    def fit(
        self,
        batches: Iterable[Tensor],
        progress: Callable[[int], None] | None = None,
        checkpoint: str | Path | None = None,
        every: float = 30.0,
        key: Any = None,
    ) -> CleanMoments:
        """Add every batch; ``progress`` is told the number of images of each.

        Args:
            checkpoint: file that receives the sums, atomically, every ``every`` seconds (0: after each batch) and at the
                end. If it exists, the batches whose images it holds are skipped, so that a run that was killed gives the
                same sums to the last bit as one that was not: ``batches`` must be the same ones in the same order.
            key: anything JSON can hold that identifies data and batches; a checkpoint with another key is refused.

        Raises:
            MomentError: the checkpoint is of other settings, other data or other batches.
        """
        if checkpoint is None:
            for images in batches:
                self.update(images)
                if progress is not None:
                    progress(len(images))
            return self
        path, skip, last = Path(checkpoint), 0, time.monotonic()
        key = json.loads(json.dumps(key))
        if path.exists():
            skip = self._resume(path, key)
        for images in batches:
            if skip > 0:
                if len(images) > skip:
                    raise MomentError(
                        f"{path} stopped inside a batch of {len(images)} images: resume with the batch size it was made with"
                    )
                skip -= len(images)
            else:
                self.update(images)
                if time.monotonic() - last >= every:
                    self.save(path, {"checkpoint": key})
                    last = time.monotonic()
            if progress is not None:
                progress(len(images))
        if skip > 0:
            raise MomentError(f"{path} holds {skip} more images than were given: it is of other data; delete it to start again")
        self.save(path, {"checkpoint": key})
        return self

    def fit_shards(
        self, data: Shards, batch_size: int = 1000, bar: Any = None, checkpoint: str | Path | None = None, every: float = 30.0
    ) -> CleanMoments:
        """Add all images of shards (:func:`numeric.scores.totals.total`), about the mean of the first shard."""
        if self.count:
            raise MomentError("only an empty accumulator can be fitted on shards: make a new one")
        if self.centre is None:
            head = data.head
            self.centre = total(CoefficientSum(self.transform, self.channels, batch_size, self.device), head)[0] / len(head)
        for block, sums in zip(self.blocks, total(Products(self, batch_size), data, bar, checkpoint, every)):
            block.sums = sums
        self.count = len(data)
        return self

    def fit_within(
        self,
        batches: Callable[[], Iterable[Tensor]],
        memory_limit: int,
        folder: str | Path,
        progress: Callable[[int], None] | None = None,
    ) -> CleanMoments:
        """Add every batch with the sums split over as many passes as the memory limit asks for.

        Each pass holds the sums of some targets only; they go to files in ``folder`` before the next pass, and are read
        back block by block when systems are solved.  More passes read the data more often; the sums are the same bits.

        Args:
            batches: called once per pass for the same batches.
            memory_limit: bytes for the sums of a pass.
        """
        if self.count:
            raise MomentError("only an empty accumulator can be fitted in passes: make a new one")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for number, chosen in enumerate(self.passes(memory_limit)):
            for images in batches():
                if images.shape[1] != self.channels:
                    raise MomentError(f"expected {self.channels} channel(s), got {images.shape[1]}")
                coefficients = self.transform.forward(images.to(self.device, torch.float64)).flatten(1)
                self.update_coefficients(coefficients, [self.blocks[i] for i in chosen])
                if number == 0:
                    self.count += len(images)
                if progress is not None:
                    progress(len(images))
            for i in chosen:
                self.blocks[i].spill(folder / f"sums.{i}.safetensors")
        return self

    def passes(self, memory_limit: int) -> list[list[int]]:
        """Which blocks each pass of :meth:`fit_within` holds.

        Raises:
            MemoryError: a single block is larger than the limit.
        """
        out: list[list[int]] = [[]]
        room = memory_limit
        for i, block in enumerate(self.blocks):
            if block.bytes > memory_limit:
                raise MemoryError(
                    f"one block of moment sums needs {block.bytes / 2**20:.1f} MiB, the limit is {memory_limit / 2**20:.1f} MiB: "
                    "raise memory_limit or set a smaller block_bytes"
                )
            if block.bytes > room:
                out.append([])
                room = memory_limit
            out[-1].append(i)
            room -= block.bytes
        return out

    def _resume(self, path: Path, key: Any) -> int:
        """Take the sums of a checkpoint into this (empty) accumulator; returns the number of images they hold."""
        if self.count:
            raise MomentError("only an empty accumulator can take up a checkpoint: make a new one")
        kept, extra = type(self).load_with_extra(path, self.device)
        if kept.config != self.config:
            raise MomentError(
                f"{path} was made with other settings ({kept.config}, now {self.config}): use them, or delete the file"
            )
        if extra.get("checkpoint") != key:
            raise MomentError(
                f"{path} was made from other data or batches ({extra.get('checkpoint')}, now {key}): delete it to start again"
            )
        self.centre, self.count = kept.centre, kept.count
        for mine, theirs in zip(self.blocks, kept.blocks):
            mine.sums = theirs.sums
        return self.count

    def recentred(self, centre: Tensor) -> CleanMoments:
        """The same moments summed about another centre (exact up to rounding)."""
        out = CleanMoments(
            self.transform, self.family, self.degree, self.channels, centre, self.device, self.block_bytes
        )
        out.count, out.pixel_range = self.count, self.pixel_range
        shift = self.centre - out.centre  # type: ignore[operator]
        for mine, theirs in zip(self.blocks, out.blocks):
            variables = torch.as_tensor(mine.block.variables, device=self.device)
            theirs.sums = translate(mine.sums, mine.plan, shift[variables].T)
        return out

    def merge(self, other: CleanMoments) -> CleanMoments:
        """Moments of both sets of images together; with one centre this is plain addition.

        Raises:
            MomentError: the two were made with another transform, family or degree.
        """
        if self.config != other.config:
            raise MomentError(f"cannot merge moments of different settings: {self.config} and {other.config}")
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        other = other if torch.equal(self.centre, other.centre) else other.recentred(self.centre)  # type: ignore[arg-type]
        if [len(b.block.variables) for b in self.blocks] != [len(b.block.variables) for b in other.blocks]:
            raise MomentError("cannot merge moments split into different blocks: give both the same block_bytes")
        out = CleanMoments(
            self.transform, self.family, self.degree, self.channels, self.centre, self.device, self.block_bytes
        )
        out.count, out.pixel_range = self.count + other.count, widest(self.pixel_range, other.pixel_range)
        for target, left, right in zip(out.blocks, self.blocks, other.blocks):
            target.sums = left.sums + right.sums
        return out

    @property
    def config(self) -> dict[str, Any]:
        """What two accumulators must share to be merged."""
        return {
            "transform": self.transform.config,
            "family": self.family.config,
            "degree": self.degree,
            "channels": self.channels,
        }

    @property
    def mean(self) -> Tensor:
        """Mean coefficients ``(channels * n_coefficients,)``."""
        self._require_data()
        out = self.centre.clone()  # type: ignore[union-attr]
        for block in self.blocks:
            first = int(block.plan.pair[0, block.plan.linear])
            out[torch.as_tensor(block.block.targets, device=self.device)] += block.sums[first] / self.count
        return out

    def _require_data(self) -> None:
        if self.count == 0 or self.centre is None:
            raise MomentError("no images have been seen: call fit or update first")

    def central(self) -> list[Tensor]:
        """Central moments of every block, a table ``(M, groups)`` each, about :attr:`mean`."""
        return list(CentralMoments(self))

    # ----- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write the state (sums, centre, count, settings, and ``extra``) atomically as safetensors."""
        self._require_data()
        tensors = {f"sums.{i}": block.sums for i, block in enumerate(self.blocks)}
        tensors["centre"] = self.centre  # type: ignore[assignment]
        record = {"config": self.config, "count": self.count, "extra": extra or {}, "block_bytes": self.block_bytes}
        save_tensors(path, tensors, {key: json.dumps(value, sort_keys=True) for key, value in record.items()})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> CleanMoments:
        """Read a state written by :meth:`save`.

        Raises:
            MomentError: the file is truncated or not a moments file.
        """
        return cls.load_with_extra(path, device)[0]

    @classmethod
    def load_with_extra(
        cls, path: str | Path, device: str | torch.device = "cpu"
    ) -> tuple[CleanMoments, dict[str, Any]]:
        """:meth:`load`, and the ``extra`` settings that were saved beside."""
        tensors, metadata = load_tensors(path)
        if "config" not in metadata or "centre" not in tensors:
            raise MomentError(f"{path} is not a moments file: it has no settings")
        with reading(path, "moments file", MomentError):
            settings = StoredSettings(json.loads(metadata["config"]), tensors["centre"].numel())
            shapes = [tuple(tensors[f"sums.{i}"].shape) for i in range(sum(name.startswith("sums.") for name in tensors))]
            settings.check_tables(shapes)
            centre = stored(tensors, "centre", (settings.variables,), path)
            cut = json.loads(metadata.get("block_bytes", "null"))
            out = cls(settings.transform, settings.family, settings.degree, settings.channels, centre, device, cut)
            if [(block.plan.n_products, len(block.block.variables)) for block in out.blocks] != shapes:
                raise ValueError(f"its tables of moments have the shapes {shapes}, its settings ask for others")
            out.count = whole(json.loads(metadata["count"]), "number of images", 1, 2**63)
            for i, block in enumerate(out.blocks):
                block.sums = stored(tensors, f"sums.{i}", shapes[i], path).to(out.device)
            return out, dict(json.loads(metadata["extra"]))

    @property
    def spilled(self) -> bool:
        """Whether some sums are in files (after :meth:`fit_within`)."""
        return any(block._file is not None for block in self.blocks)

    @property
    def fingerprint(self) -> str:
        """Hash of the settings, for naming cached files."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]


class Products(Pass):
    """The sums of an accumulator with a centre, one tensor a block; the accumulator itself stays empty."""

    name = "moments"

    def __init__(self, moments: CleanMoments, batch: int = 1000) -> None:
        self.batch, self.device = batch, moments.device
        self._settings = (
            moments.transform, moments.family, moments.degree, moments.channels, moments.centre, moments.device, moments.block_bytes
        )  # fmt: skip
        self._moments: CleanMoments | None = moments

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_moments": None}  # made again where it is used, once

    @property
    def moments(self) -> CleanMoments:
        """The empty accumulator, whose blocks say what is summed."""
        if self._moments is None:
            self._moments = CleanMoments(*self._settings)
        return self._moments

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(block.plan.n_products, len(block.block.variables)) for block in self.moments.blocks]

    @property
    def config(self) -> Any:
        centre = self.moments.centre
        assert centre is not None
        return [self.moments.config, tensor_hash(centre)]

    def add(self, sums: Sequence[Tensor], images: Tensor) -> None:
        moments = self.moments
        coefficients = moments.transform.forward(images.to(self.device, torch.float64)).flatten(1)
        centred = (coefficients - moments.centre).T.contiguous()  # type: ignore[operator]
        for block, out in zip(moments.blocks, sums):
            block.accumulate(centred, out)


class CentralMoments(Sequence[Tensor]):
    """Central moments of an accumulator's blocks, each computed when it is asked for."""

    def __init__(self, moments: CleanMoments) -> None:
        self._moments = moments
        self._shift = moments.centre - moments.mean  # type: ignore[operator]

    def __len__(self) -> int:
        return len(self._moments.blocks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        block = self._moments.blocks[index]
        variables = torch.as_tensor(block.block.variables, device=self._shift.device)
        return translate(block.sums / self._moments.count, block.plan, self._shift[variables].T)
