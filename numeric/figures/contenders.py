"""The methods that Table 1 and Figure "beyond" compare, each fitted when its turn comes, kept when it is done, and what is measured of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from numeric.baselines.clock import trained_on
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.locality import LocalityDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.network import trained
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.pspc import PSPCDenoiser
from numeric.baselines.settings import refined_settings
from numeric.baselines.shrinkage import WaveletShrinkage
from numeric.baselines.sides import PatchDenoiser
from numeric.data import ImageSet
from numeric.evaluation.kept import levels_path
from numeric.evaluation.sweep import measure, noise_like, paired_ratio, summary
from numeric.evaluation.symmetry import asymmetry
from numeric.figures.base import Parameters, coordinates_degree, family_degree, required_degree
from numeric.figures.foresee import Work, linear_work, network_work, optimal_work, own_work, shared_work, wiener_work
from numeric.fingerprint import code_hash, modules_of, source_hash, weights_hash
from numeric.noise import ve
from numeric.results import kept_json
from numeric.scores.own import WaveletScore
from numeric.scores.potential import PotentialScore
from numeric.scores.refined import RefinedScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        kind: ``"paper"``, ``"beyond"``, ``"peer"`` or ``"network"``. fit: returns the fitted model, ready at all noise levels, and the CPU seconds it took.
        parameters, memory: of the fitted model: numbers at one noise level; bytes of the largest system held while fitting.
        code: modules that its numbers depend on. count: held-out images.
        about: what tells it from others of its label: a refined readout's settings, the number of images that a patch machine sums over,
            the hash of a network's weights.
        facts: what a table says of it beside what is measured.
    """

    label: str
    kind: str
    fit: Callable[[], tuple[Any, float]]
    parameters: Callable[[Any], int]
    memory: Callable[[Any], int]
    code: Sequence[str]
    count: int
    about: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def _timed(model: Any, images: ImageSet, sigmas: Sequence[float]) -> tuple[Any, float]:
    """Fit, and solve at every level: that is part of a closed form."""
    start = time.process_time()
    model.fit(images)
    for sigma in sigmas:
        model.denoise(images[:1], ve(sigma))
    return model, time.process_time() - start


def _prepared(model: Any, images: ImageSet, sigmas: Sequence[float], cache: str, seconds: Callable[[Any], float]) -> tuple[Any, float]:
    """Levels that an interrupted run finished are kept, with the ``seconds`` that the model says they took."""
    start = time.process_time()
    model.fit(images)
    fit = time.process_time() - start
    model.prepare_levels(sigmas, checkpoint=levels_path(model, images, cache))
    return model, fit + seconds(model)


def _calibrated(model: Any, images: ImageSet, sigmas: Sequence[float]) -> tuple[Any, float]:
    """Fit; a patch machine chooses its side at every level on training images that it does not sum over."""
    start = time.process_time()
    model.fit(images)
    if isinstance(model, PatchDenoiser):
        model.calibrate(sigmas=sigmas, count=CALIBRATED)
    return model, time.process_time() - start


CALIBRATED = 10
"""Training images on which a patch machine's side is chosen, none of them among those it sums over."""
EQUIVARIANT = 500
"""Training images of the equivariant machine where the others take all: its time goes with their windows at all places."""


def summed_over(name: str, n_local: int | None, count: int, spared: int) -> int:
    """Training images that a machine sums over.

    Args:
        name: ``"ELS"`` takes a fifth, and of all :data:`EQUIVARIANT`. n_local: None: all. count: there are; spared: for calibration.
    """
    most = max(1, count - spared)
    if name != "ELS":
        return most if n_local is None else min(n_local, most)
    return min(EQUIVARIANT, most) if n_local is None else max(1, min(n_local, most) // 5)


MACHINES: dict[str, Callable[[int], Any]] = {
    "optimal": lambda count: OptimalDenoiser(),
    "LS": lambda count: LocalScoreMachine(3, False, n_train=count),
    "ELS": lambda count: LocalScoreMachine(3, True, n_train=count),
    "PSPC": lambda count: PSPCDenoiser(3, n_train=count),
    "PCA locality": lambda count: LocalityDenoiser(n_train=count),
    "BayesShrink": lambda count: WaveletShrinkage("bayes"),
}
"""Denoisers that hold training images, and one that learns nothing: name -> unfitted, summing over so many images (optimal all)."""


@dataclass(kw_only=True)
class Contest(Parameters):
    """Which methods stand side by side, and on how many images.

    Attributes:
        size: image side. n_train: images to fit on (None: all). n_eval: images of a split for closed forms; n_network: for networks and
            for refined readouts with estimators. sigmas: VE levels.
        wiener, potential: ``coordinates:degree`` of :class:`numeric.scores.wiener.WienerScore` and its conservative
            twin :class:`numeric.scores.potential.PotentialScore`; families, shared:
            ``family:degree`` of the own and the shared readout. mixtures: numbers of components, or ``"class"``. refined: of
            :class:`numeric.scores.refined.RefinedScore`: a number of components, or settings as
            :func:`numeric.baselines.settings.refined_settings` reads them.
        machines: those that hold training images, of ``optimal``, ``LS``, ``ELS``, ``PSPC``, ``PCA locality``, and ``BayesShrink``,
            which learns nothing; the side of patches is chosen at every level on training images. n_slow: images for them; n_local:
            training images of LS, PSPC and PCA locality (a fifth: ELS), at most all but ten; None: all but ten (ELS: 500).
        networks: which (None: all); weights: folder of networks (None: those shipped).
    """

    size: int = 32
    n_train: int | None = None
    n_eval: int = 2000
    n_network: int = 250
    n_slow: int = 50
    n_local: int | None = 500
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    wiener: Sequence[str] = ()
    potential: Sequence[str] = ()
    families: Sequence[str] = ()
    shared: Sequence[str] = ()
    refined: Sequence[int | str] = ()
    mixtures: Sequence[str] = ("class", "100")
    machines: Sequence[str] = tuple(MACHINES)
    networks: Sequence[str] | None = None
    weights: str | None = None

    lists: ClassVar[dict[str, Callable[[Any], Any]]] = Parameters.lists | {
        "wiener": str, "potential": str, "mixtures": str, "machines": str,
    }  # fmt: skip

    def check(self) -> None:
        self.refined = [str(text) for text in (self.refined if isinstance(self.refined, list | tuple) else [self.refined])]
        for name in ("n_train", "n_eval", "n_network", "n_slow", "n_local"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"{name} must be a number of images >= 1, got {count}")
        for name in self.machines:
            if name not in MACHINES:
                raise ValueError(f"unknown machine {name!r}: use {', '.join(MACHINES)}")
        for text in self.mixtures:
            if text != "class" and not (text.isdigit() and int(text) > 0):
                raise ValueError(f"a mixture is a number of components or 'class', got {text!r}")
        for text in [*self.wiener, *self.potential]:
            coordinates_degree(text)
        for wanted in self.refined:
            RefinedScore(**refined_settings(str(wanted))).check_settings()
        for text in [*self.families, *self.shared]:
            required_degree(text)

    def work(self, train: int, splits: int = 1) -> list[Work]:
        """What is ahead with so many images to fit on and so many splits to measure on."""
        levels, images = len(self.sigmas), splits * self.n_eval
        out = [linear_work(self.size, train, levels, images), own_work(self.size, train, len(self.families), levels, images)]
        out += [shared_work(f, [d or 1], self.size, train, levels, images) for f, d in map(family_degree, self.shared)]
        for text in [*self.wiener, *self.potential]:
            coordinates, degree = coordinates_degree(text)
            out.append(wiener_work(coordinates, degree, self.size, levels * train, levels))
        if "optimal" in self.machines:
            out.append(optimal_work(self.size, train, levels, splits * self.n_slow))
        networks = list(trained(self.size, None, self.weights).values()) if self.networks != [] else []
        return [*out, network_work(self.size, networks, levels, splits * self.n_network)]


def rows_of(config: Contest, images: ImageSet) -> list[Row]:
    """All closed forms of a comparison, none of them fitted yet."""
    sigmas, pixels = config.sigmas, images.shape[0] * images.shape[1] * images.shape[2]
    first, linear = sigmas[0], pixels * (pixels + 3) // 2  # numbers of the linear denoiser

    def closed(label: str, kind: str, model: Any, parameters: Any, memory: Any, code: str) -> Row:
        return Row(label, kind, lambda: _timed(model, images, sigmas), parameters, memory, [code], config.n_eval)

    rows = [
        closed(
            "linear", "paper", LinearDenoiser(), lambda _: linear, lambda _: 16 * pixels**2,
            "numeric.baselines.linear",
        )
    ]  # fmt: skip
    for text in config.families:
        family, degree = required_degree(text)
        own = WaveletScore(family, degree)

        def held(m: Any) -> int:
            return sum(value.nbytes for block in m.moments_.blocks for value in vars(block).values() if hasattr(value, "nbytes"))

        rows.append(
            closed(
                f"{own.label}, degree {degree}", "paper", own,
                lambda m: sum(block.theta.numel() for block in m.solve(first).blocks), held, "numeric.scores.own",
            )
        )  # fmt: skip
    for text in config.shared:
        family, degree = required_degree(text)
        shared = SharedWaveletScore(family, degree)
        rows.append(
            closed(
                f"{shared.label}, degree {degree}", "paper", shared, lambda m: m.solve(first).readout.numel(),
                lambda m: 16 * len(m.monomials_) ** 2, "numeric.scores.shared",
            )
        )  # fmt: skip
    for readout, texts, beside in ((WienerScore, config.wiener, 0), (PotentialScore, config.potential, linear)):
        for text in texts:
            coordinates, degree = coordinates_degree(text)
            wiener = readout(degree=degree, coordinates=coordinates)
            rows.append(
                Row(
                    f"{wiener.label}, degree {degree}", "beyond",
                    lambda m=wiener: _prepared(m, images, sigmas, config.cache, lambda m: sum(m.solve(s).seconds for s in sigmas)),  # type: ignore[misc]
                    lambda m, more=beside: m.solve(first).theta.numel() + more, lambda m: m.sums_bytes,  # type: ignore[misc]
                    [readout.__module__], config.n_eval,
                )
            )  # fmt: skip
    for wanted in config.refined:
        refined = RefinedScore(**refined_settings(str(wanted)))
        rows.append(
            Row(
                refined.label, "beyond",
                lambda m=refined: _prepared(m, images, sigmas, config.cache, lambda m: sum(m.seconds_.values())),  # type: ignore[misc]
                lambda m: m.parameter_count(first), lambda m: max(base.sums_bytes for base in m.bases_) + sum(4 * one.parameter_count for one in m.estimators_),
                modules_of(refined), config.n_network if refined.estimators else config.n_eval,
                refined.plain_params(),
            )
        )  # fmt: skip
    for components in config.mixtures:
        mixture = GaussianMixtureDenoiser(components if components == "class" else int(components))
        rows.append(
            closed(
                mixture.label, "peer", mixture, lambda m: m.parameter_count, lambda m: 8 * m.parameter_count, "numeric.baselines.mixture"
            )
        )  # fmt: skip
    for name in config.machines:
        model = MACHINES[name](summed_over(name, config.n_local, len(images), CALIBRATED))
        holds = not isinstance(model, WaveletShrinkage)
        summed = 0 if not holds else getattr(model, "n_train", None) or len(images)

        def kept(m: Any, holds: bool = holds) -> int:
            return len(m.data_) * pixels if holds else 0

        rows.append(
            Row(
                f"{name}, calibrated side" if isinstance(model, PatchDenoiser) else model.label, "peer",
                lambda m=model: _calibrated(m, images, sigmas), kept, lambda m, k=kept: 4 * k(m), modules_of(model),  # type: ignore[misc]
                config.n_slow, getattr(model, "n_train", None), {"holds_images": holds, "fitted_on": summed},
            )
        )  # fmt: skip
    return rows


def network_rows(config: Contest) -> list[Row]:
    """The networks of a comparison whose weights are there; none is read yet."""
    rows = []
    for label, network in trained(config.size, config.networks, config.weights).items():
        count = int(network.record["parameters"])
        rows.append(
            Row(
                label, "network", lambda n=network: (n, float(n.record["seconds"])), lambda _, c=count: c,  # type: ignore[misc]
                lambda _, c=count: 16 * c, ["numeric.baselines.network"], config.n_network,  # type: ignore[misc]
                weights_hash(network.path), {"machine": trained_on(network.record)},
            )  # weights, gradients and Adam's two moments in float32
        )  # fmt: skip
    return rows


def noise_key(config: Contest, split: str, sigma: float) -> tuple[int, int, int]:
    """What seeds the noise of a split at a level, the same for all methods."""
    return config.seed, int(split == "test"), round(sigma * 1e6)


def error_cell(errors: Any) -> dict[str, Any]:
    """Mean, standard error and number of images."""
    return {k: v for k, v in summary(errors).items() if k in ("mse", "se", "n")}


def errors_of(model: Any, count: int, part: ImageSet, split: str, config: Contest, linear: LinearDenoiser) -> dict[str, Any]:
    """Errors at every level on the first ``count`` images of a split, and the ratio to the linear denoiser's on the very same ones.

    All methods see the same images and noise, slow ones the first of them: the ratio is what compares methods that saw different numbers.
    """
    errors: dict[str, Any] = {}
    for sigma in config.sigmas:
        key = noise_key(config, split, sigma)
        methods, limits = {"row": (model, None), "linear": (linear, None)}, {"row": count, "linear": count}
        found = measure(methods, part, sigma, key=key, batch_size=250, limits=limits)
        mine, base = found["row", None], found["linear", None]
        errors[f"{sigma:g}"] = error_cell(mine) | {"of_linear": paired_ratio(mine, base)}
    return errors


def facts_of(row: Row, model: Any, seconds: float) -> dict[str, Any]:
    """What is said of a fitted method beside its errors."""
    return {
        "method": row.label, "kind": row.kind, "parameters": row.parameters(model), "seconds": seconds, "memory": row.memory(model),
        **({"source": model.record["data"]["source"]} if row.kind == "network" else {}),
        **({"sides": {f"{s:g}": side for s, side in model.sides_.items()}} if isinstance(model, PatchDenoiser) else {}),
    }  # fmt: skip


def measured(row: Row, test: ImageSet, config: Any, linear: LinearDenoiser) -> dict[str, Any]:
    """Fit one method; its errors on held-out images at every level, and its Jacobian's asymmetry at some of them."""
    model, seconds = row.fit()
    bent: dict[str, Any] = {}
    if config.n_symmetry and row.kind != "network" and row.count == config.n_eval:
        for sigma in config.sigmas:
            clean = test[: config.n_symmetry]
            noise = noise_like(clean, *noise_key(config, "test", sigma), 2)
            values = asymmetry(model, clean + sigma * noise, sigma)
            bent[f"{sigma:g}"] = {"mean": float(values.mean()), "n": len(values)}
    return {**facts_of(row, model, seconds), "errors": errors_of(model, row.count, test, "test", config, linear), "asymmetry": bent}


MEASURED_BY = ("numeric.baselines.linear", "numeric.evaluation.sweep", "numeric.evaluation.symmetry")
"""Modules that every row's numbers depend on beside this one and its own."""

Measure = Callable[[Row, LinearDenoiser], dict[str, Any]]


def kept_rows(rows: Sequence[Row], folder: str, images: ImageSet, key: Mapping[str, Any], make: Measure, config: Contest, progress: bool) -> Iterator[dict[str, Any]]:
    """Every method's numbers, in turn: from ``config.cache/folder`` if it is there, else made and kept, so that an interrupted run goes on.

    Args:
        images: fitted on. key: what the numbers depend on beside the row: data and settings. make: measures a row, given the linear
            denoiser of the images.
    """
    linear = lru_cache(lambda: LinearDenoiser().fit(images))  # only if something is left to measure
    for row in rows:
        # What measures a row, and the row's own modules: a change of one method leaves the numbers of the others alone.
        code = [source_hash(__name__), code_hash(*MEASURED_BY, *row.code)]
        about = {"method": row.label, "count": row.count, "about": row.about, **key, "code": code}

        def value(row: Row = row) -> dict[str, Any]:
            if progress:
                print(row.label, flush=True)
            return make(row, linear())

        yield {**kept_json(Path(config.cache) / folder, row.kind, about, value), **row.facts}
