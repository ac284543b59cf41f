"""Rows of a figure that was made before, for the methods that need not be measured again.

Closed forms of large images take hours, and a newly trained network minutes.  A figure that is made with ``rows_from`` takes the
rows of its closed forms from a results file and measures the rest; whose rows were taken, and what made them, is recorded.  Noise
and images are a function of the settings, so the rows belong together if those agree; the linear denoiser, measured both times,
is the proof.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from numeric import origins
from numeric.results import FileError, read_json, reading

Row = dict[str, Any]
AGREE = 1e-5
"""Largest relative difference between the two measurements of the linear denoiser: single precision on other threads."""


class EarlierRun:
    """The results file of a figure of denoising errors (:mod:`numeric.figures.fig5`), to take rows from.

    Args:
        path: the file. settings: the parameters that the rows depend on, as now asked for.
        sigmas, splits: the rows that are wanted.

    Attributes:
        rows, expected: its errors and exact expected errors at those noise levels.

    Raises:
        FileError: it is damaged or holds no such rows. FileNotFoundError: there is none.
        ValueError: it is the file of another figure, or was made with another setting.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], sigmas: Collection[float], splits: Collection[str]) -> None:
        self.path, self.sigmas, self.splits, record = Path(path), sigmas, splits, read_json(path)
        if not isinstance(record, dict) or "records" not in record:
            raise ValueError(f"{path} holds no denoising errors by method and degree: give the results file of Figure 5 or 6")
        with reading(path, "record of denoising errors"):
            self.rows, self.expected = ([r for r in record[name] if r["sigma"] in sigmas] for name in ("records", "expected"))
            for r in self.rows:
                _ = r["method"], r["degree"], r["split"], int(r["n"]), float(r["mse"])
            here = {name: record["parameters"][name] for name in settings}
            self._data, self._origin = record["data"], {"taken": record.get("taken", []), **origins.made_by(record)}
        origins.same(self.path, settings, here, "rows", "rows_from")

    def same_images(self, data: Mapping[str, Any]) -> None:
        """Make sure that the rows are of these images: name -> provenance (:attr:`numeric.data.ImageSet.provenance`).

        Raises:
            ValueError: they are of others.
        """
        origins.same(self.path, data, self._data, "rows", "rows_from")

    def has(self, method: str, degrees: Collection[int | None], count: int | None = None) -> bool:
        """Whether a method was measured at just these degrees (its rows compare with the lowest), everywhere that is wanted.

        Args:
            count: on so many images of each split (None: on however many).
        """
        mine = [r for r in self.rows if r["method"] == method]
        everywhere = set(product(degrees, self.splits, self.sigmas))
        return {(r["degree"], r["split"], r["sigma"]) for r in mine} == everywhere and all(count in (None, r["n"]) for r in mine)

    def agree(self, rows: Sequence[Row], method: str) -> None:
        """Make sure that a method's rows, measured again, are those of the file.

        Raises:
            FileError: they differ by more than :data:`AGREE`: other noise, other images or a program that changed.
        """
        before = {(r["split"], r["sigma"]): r["mse"] for r in self.rows if r["method"] == method}
        for r in rows:
            mse = before.get((r["split"], r["sigma"]), math.nan)
            if r["method"] == method and not abs(r["mse"] / mse - 1) <= AGREE:
                raise FileError(
                    f"no rows can be taken from {self.path}: the error of {method} at sigma {r['sigma']:g} ({r['split']}) is {mse:.8g} "
                    f"there and {r['mse']:.8g} now; leave rows_from out"
                )

    def taken(self, methods: Sequence[str]) -> list[dict[str, Any]]:
        """Who made the rows of the methods taken, for the new record; rows that were taken before keep their origin."""
        return origins.taken(methods, self._origin, "methods")
