"""Measurements behind the claims: each made once, kept in a file of its own that names everything that made it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numeric.baselines
from numeric.baselines.linear import LinearDenoiser
from numeric.claims import conditions, coordinates, drawn, exact, photographs, readout, samples
from numeric.claims.config import FAMILIES, ClaimsConfig, Row
from numeric.data import load_mnist
from numeric.denoiser import Denoiser
from numeric.fingerprint import code_hash, files_hash
from numeric.results import read_json, write_json
from numeric.scores.folds import FoldedFit
from numeric.scores.own import WaveletScore

log = logging.getLogger(__name__)
NOT_YET = "not measured yet"
FIT = ("degree", "hermite_degree", "ridge", "folds")
DRAWS = ("sigmas", "n_eval", "n_ssim", "n_network", "groups", "seed")


@dataclass(frozen=True)
class Measurement:
    """What makes some rows.

    Attributes:
        make: from the view below and the arguments to rows.
        uses: parameters that it may read (others are not there to be read), all of them part of the key.
        code: modules whose code makes the numbers beside that of ``make`` (what the view hands out), and all they import.
    """

    make: Callable[..., list[Row]]
    uses: tuple[str, ...]
    code: tuple[str, ...] = ("numeric.scores.folds", "numeric.baselines.linear")


MEASUREMENTS: dict[str, Measurement] = {
    "exact": Measurement(exact.exact, (*FIT, "sigmas")),
    "matched noise": Measurement(exact.matched, (*FIT, "sigmas")),
    "linear": Measurement(exact.linear, ("folds", "sigmas")),
    "ridges": Measurement(exact.ridges, (*FIT, "sigmas", "raw_ridges")),
    "sampled": Measurement(exact.sampled, (*FIT, "sigmas", "repeats", "seed")),
    "conditions": Measurement(conditions.own_conditions, (*FIT, "sigmas", "seed")),
    "shared conditions": Measurement(conditions.shared_conditions, ("sigmas",)),
    "drawn": Measurement(drawn.drawn, (*FIT, *DRAWS)),
    "networks": Measurement(drawn.networks, DRAWS, ("numeric.baselines",)),
    "over-complete": Measurement(drawn.overcomplete, ("ridge", *DRAWS)),
    "shared": Measurement(readout.shared, DRAWS),
    "sampled shared": Measurement(readout.sampled_shared, ("repeats", *DRAWS)),
    "coordinates": Measurement(coordinates.coordinates, DRAWS),
    "photographs": Measurement(photographs.photographs, ("n_patches", "n_eval", "sigmas", "seed"), ()),
    "generated": Measurement(samples.generated, (*FIT, "n_generated", "steps", "seed")),
}


class View:
    """What a measurement sees of :class:`Measurements`: fits, images, and only the parameters that are in its key."""

    def __init__(self, measurements: Measurements, uses: Sequence[str]) -> None:
        settings = {name: getattr(measurements.config, name) for name in uses}
        if "degree" in settings:
            settings["degrees"] = measurements.config.degrees
        self.config = SimpleNamespace(**settings)
        self.splits, self.progress = measurements.splits, measurements.progress
        self.fit, self.linear = measurements.fit, measurements.linear
        self.trained_networks = measurements.trained_networks


class Measurements:
    """Rows by name and arguments (:meth:`rows`), each measured when first asked for and then kept in ``cache``.

    Args:
        finished_only: measure nothing; what is not in the cache is "not measured yet".

    Attributes:
        splits: size -> split -> images.
    """

    def __init__(self, config: ClaimsConfig, progress: bool = True, finished_only: bool = False) -> None:
        self.config, self.progress, self.finished_only = config, progress, finished_only
        self.networks = self._find_networks()  # a wrong name ends here, before the long work
        self.splits = {
            size: {
                "train": load_mnist("train", size=size, count=config.n_train, root=config.data_root),
                "held-out": load_mnist("test", size=size, count=config.n_test, root=config.data_root),
            }
            for size in config.sizes
        }
        least = max(config.folds, config.n_ssim, config.n_network)
        for name, images in self.splits[config.sizes[0]].items():
            if len(images) < least:
                raise ValueError(f"{len(images)} {name} images are too few: the settings need at least {least}")
        self._memory: dict[tuple[Any, ...], list[Row]] = {}
        self.fit = lru_cache(maxsize=3)(self._fit)
        self.linear = lru_cache(maxsize=1)(self._fit_linear)
        self.shared_top = lru_cache(maxsize=None)(self._shared_top)  # free memory moves; the answer must not

    # ----- keeping ---------------------------------------------------------------------------------------------------------

    def key(self, name: str, *arguments: Any) -> dict[str, Any]:
        """Everything that makes the rows: settings, images, code, and the weights of the networks."""
        measurement = MEASUREMENTS[name]
        sizes = [a for a in arguments if a in self.config.sizes] or self.config.sizes
        content: dict[str, Any] = {
            "measurement": [name, *arguments],
            "settings": {k: v for k, v in self.config.settings.items() if k in measurement.uses},
            "data": [images.provenance for size in sizes for images in self.splits[size].values()],
            "code": _code(measurement.make.__module__, *measurement.code),
        }
        if name == "photographs":  # these images alone
            counts = {"train": self.config.n_patches, "held-out": self.config.n_eval}
            parts = [part for split, count in counts.items() for part in photographs.patches(split, *arguments, count, self.config.seed)]
            content["data"] = [part.provenance for part in parts]
        if name == "networks":
            nets = self.trained_networks(*arguments)
            content["weights"] = {label: _weights(net) for label, net in nets.items()}
        return json.loads(json.dumps(content))

    def path(self, name: str, *arguments: Any) -> Path:
        """The file of a measurement: one for each key, so that other settings never take its place."""
        digest = hashlib.sha256(json.dumps(self.key(name, *arguments), sort_keys=True).encode()).hexdigest()[:16]
        words = "-".join(str(part) for part in (name, *arguments)).replace(" ", "-")
        return Path(self.config.cache) / "claims" / "measured" / f"{words}-{digest}.json"

    def rows(self, name: str, *arguments: Any) -> list[Row]:
        """Rows of one measurement.

        Raises:
            KeyError: there is no such measurement.
        """
        place = (name, *arguments)
        if place not in self._memory:
            path = self.path(name, *arguments)
            if path.exists():
                self._memory[place] = read_json(path)["rows"]
            elif self.finished_only:
                self._memory[place] = [{"skipped": f"{' '.join(map(str, place))}: {NOT_YET}"}]
            else:
                log.info("measuring %s", " ".join(map(str, place)))
                measurement = MEASUREMENTS[name]
                rows = measurement.make(View(self, measurement.uses), *arguments)
                write_json(path, {"made_by": self.key(name, *arguments), "rows": rows})
                self._memory[place] = rows
        return self._memory[place]

    def plan(self) -> list[tuple[Any, ...]]:
        """Every measurement that the claims use: the smaller size first, fits on drawn samples last."""
        config, (small, large) = self.config, self.config.sizes
        plan: list[tuple[Any, ...]] = []
        for size in config.sizes:
            plan += [("exact", size, f) for f in FAMILIES] + [("linear", size), ("drawn", size)]
            if size == large:
                plan += [("matched noise", size, f, large / small) for f in FAMILIES]
            plan += [("conditions", size, f) for f in FAMILIES] + [("networks", size)]
            if size == small:
                plan += [("ridges", size, f) for f in ("independent", "band")] + [("generated", size)]
                plan += [("over-complete", size, f) for f in ("independent", "band")]
                plan += [("coordinates", size, of, kind) for of in coordinates.OF for kind in coordinates.COORDINATES]
            plan += [item for f in FAMILIES for item in self._shared_items(size, f)]
        plan += [("photographs", size) for size in config.photograph_sizes]
        plan += [("sampled", small, f, n) for n in config.samples for f in FAMILIES]
        last = ("sampled", "sampled shared")
        return [i for i in plan if i[0] not in last] + [i for kind in last for i in plan if i[0] == kind]

    def _shared_items(self, size: int, family: str) -> list[tuple[Any, ...]]:
        items: list[tuple[Any, ...]] = []
        top = self.shared_top(size, family)[0]
        items += [("shared", size, family, top)] if top else []
        top = self.condition_top(size, family)[0]
        items += [("shared conditions", size, family, top)] if top > 1 else []
        for n in self.shared_samples:
            top = self.shared_top(size, family, n)[0]
            items += [("sampled shared", size, family, n, sigma, top) for sigma in self.config.sigmas] if top else []
        return items

    def measure_all(self) -> None:
        """Make every measurement of :meth:`plan` that is not there (none, for ``finished_only``)."""
        plan = [] if self.finished_only else self.plan()
        missing = [item for item in plan if not self.path(*item).exists()]
        if missing:
            log.info("%d of %d measurements to make, kept in %s", len(missing), len(plan), Path(self.config.cache) / "claims")
        for item in plan:
            self.rows(*item)

    @property
    def small(self) -> int:
        return self.config.sizes[0]

    @property
    def large(self) -> int:
        return self.config.sizes[1]

    @property
    def shared_sizes(self) -> list[int]:
        """Sizes at which the shared readout is measured."""
        return list(self.config.sizes) if self.config.shared_large else [self.small]

    @property
    def shared_samples(self) -> list[int]:
        """Numbers of noisy samples of the shared readout's sampled fits: those asked for, and one for each training image."""
        return sorted({*self.config.samples, len(self.splits[self.small]["train"])})

    # ----- the shared readout: what can be afforded -----------------------------------------------------------------------

    def _shared_top(self, size: int, family: str, n: int | None = None) -> tuple[int, dict[int, str]]:
        """Highest degree that the limits of time and memory allow, and why not for those above.

        Args:
            n: noisy samples; None for the exact fit. What is already measured is allowed whatever memory is free now.
        """
        config = self.config
        if size not in self.shared_sizes:
            why = f"the shared readout at {size}x{size} is measured with shared-large only"
            return 0, dict.fromkeys(self._counts(size, family, n), why)
        images, limit = len(self.splits[size]["train"]), config.exact_limit if n is None else config.sampled_limit
        why_not: dict[int, str] = {}
        for degree, count in sorted(self._counts(size, family, n).items(), reverse=True):
            if degree == 1:  # the linear denoiser alone: nothing to compare it with
                break
            item: tuple[Any, ...] = ("shared", size, family, degree)
            if n is not None:
                item = ("sampled shared", size, family, n, config.sigmas[0], degree)
            reason = readout.too_long(count, images if n is None else n, limit, n is None)
            if not reason and not self.path(*item).exists():
                reason = readout.too_large(count, size)
            if not reason:
                return degree, why_not
            why_not[degree] = reason
        return 0, {**why_not, 1: why_not[2]}

    def condition_top(self, size: int, family: str) -> tuple[int, dict[int, str]]:
        """The same for condition numbers of the shared Gram matrix (0: none above degree 1)."""
        if size not in self.shared_sizes:
            return self.shared_top(size, family)
        limit, counts = self.config.condition_limit, self._counts(size, family, 0)
        why = {d: f"{c:,} features are above the condition limit of {limit:,}" for d, c in counts.items() if c > limit}
        return max([d for d in counts if d > 1 and d not in why], default=0), why

    def shared_rows(self, size: int, family: str, n: int | None = None, sigma: float | None = None) -> list[Row]:
        """Rows of the shared readout's exact fit, or of the one on ``n`` samples at a noise level, and what was left out."""
        top, why = self.shared_top(size, family, n)
        item = ("shared", size, family, top) if n is None else ("sampled shared", size, family, n, sigma, top)
        return (self.rows(*item) if top else []) + [{"degree": d, "skipped": reason} for d, reason in why.items()]

    def condition_rows(self, size: int, family: str) -> list[Row]:
        """Condition numbers of both readouts, with ``readout``, and what was left out."""
        top, why = self.condition_top(size, family)
        shared = self.rows("shared conditions", size, family, top) if top > 1 else []
        shared = shared + [{"degree": d, "skipped": reason} for d, reason in why.items() if d > 1]
        own = self.rows("conditions", size, family)
        fields = {"size": size, "family": family}
        return [{**fields, **r, "readout": name} for name, rows in (("own", own), ("shared", shared)) for r in rows]

    def _counts(self, size: int, family: str, n: int | None = None) -> dict[int, int]:
        """Features at each degree that is asked for; the exact independent fit goes as high as the Hermite claim."""
        degree = self.config.hermite_degree if family == "independent" and n is None else self.config.degree
        return dict(enumerate(_feature_counts(size, family, degree), start=1))

    # ----- fits ------------------------------------------------------------------------------------------------------------

    def _fit(self, size: int, family: str) -> FoldedFit:
        degree = self.config.hermite_degree if family == "independent" else self.config.degree
        model = WaveletScore(family, degree, ridge=self.config.ridge)
        return FoldedFit(model, self.splits[size], self.config.folds, progress=self.progress)

    def _fit_linear(self, size: int) -> LinearDenoiser:
        return LinearDenoiser().fit(self.splits[size]["train"], progress=self.progress)

    def _find_networks(self) -> dict[int, dict[str, Denoiser]]:
        """Networks of every size by the one rule of names; a name must match at one size at least."""
        config = self.config
        found = numeric.baselines.trained_at(config.sizes, config.networks or None, config.weights)
        return {size: dict(networks) for size, networks in found.items()}

    def trained_networks(self, size: int) -> dict[str, Denoiser]:
        """Those networks of a size whose records say that they are trained."""
        return {label: net for label, net in self.networks[size].items() if _record(net).get("trained") is True}

    def network_records(self) -> dict[str, dict[str, Any]]:
        """For the results file: each network's state and the hash of its weights."""
        out = {}
        for size, nets in self.networks.items():
            for label, net in nets.items():
                record = _record(net)
                state = {"trained": record.get("trained") is True, "images": record.get("images")}
                out[f"{label}, {size}x{size}"] = {**state, "sha256": _weights(net)}
        return out

    def untrained_text(self) -> str:
        """Why claims on networks cannot be tested yet."""
        waiting = [f"{label} at {size}" for size, nets in self.networks.items() for label in nets]
        if not waiting:
            return "not testable: there is no trained network of these sizes"
        return f"not testable yet: by their records these networks are in training: {', '.join(waiting)}"


def _record(net: Any) -> dict[str, Any]:
    return getattr(net, "record", None) or {}


def _weights(net: Any) -> str | None:
    """Hash of a network's weights file."""
    path = getattr(net, "path", None)
    return files_hash([Path(path)]) if path is not None else None


_feature_counts = lru_cache(maxsize=64)(readout.feature_counts)


@lru_cache(maxsize=64)
def _code(*modules: str) -> str:
    return code_hash(*modules)
