"""The methods that Figure "beyond" compares, each fitted when its turn comes, and what is measured of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.network import trained
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.pspc import PSPCDenoiser
from numeric.baselines.settings import refined_settings
from numeric.baselines.sides import PatchDenoiser
from numeric.data import ImageSet
from numeric.evaluation.kept import levels_path
from numeric.evaluation.sweep import measure, noise_like, paired_ratio, summary
from numeric.evaluation.symmetry import asymmetry
from numeric.figures.base import coordinates_degree, required_degree
from numeric.fingerprint import modules_of
from numeric.noise import ve
from numeric.scores.own import WaveletScore
from numeric.scores.potential import PotentialScore
from numeric.scores.refined import RefinedScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        kind: a key of :data:`KINDS`. fit: returns the fitted model, ready at all noise levels, and the CPU seconds it took.
        parameters, memory: of the fitted model: numbers at one noise level; bytes of the largest system held while fitting.
        code: modules that its numbers depend on. count: held-out images.
        about: what tells it from others of its label: a refined readout's settings, the number of images that a patch machine sums over.
    """

    label: str
    kind: str
    fit: Callable[[], tuple[Any, float]]
    parameters: Callable[[Any], int]
    memory: Callable[[Any], int]
    code: Sequence[str]
    count: int
    about: Any = None


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
}
"""Denoisers that hold training images: name -> unfitted, with so many of them (optimal all)."""


def rows_of(config: Any, images: ImageSet) -> list[Row]:
    """All methods of a :class:`numeric.figures.beyond.BeyondConfig`, none of them fitted yet."""
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
    for text in config.refined:
        refined = RefinedScore(**refined_settings(text))
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
        summed = summed_over(name, config.n_local, len(images), CALIBRATED)
        model = MACHINES[name](summed)

        def kept(m: Any) -> int:
            return len(m.data_) * pixels

        rows.append(
            Row(
                model.label if name == "optimal" else f"{name}, calibrated side", "peer",
                lambda m=model: _calibrated(m, images, sigmas), kept, lambda m: 4 * kept(m), modules_of(model),  # type: ignore[misc]
                config.n_slow, None if name == "optimal" else summed,
            )
        )  # fmt: skip
    for label, network in trained(config.size, config.networks, config.weights).items():
        count = int(network.record["parameters"])
        rows.append(
            Row(
                label, "network", lambda n=network: (n, float(n.record["seconds"])), lambda _, c=count: c,  # type: ignore[misc]
                lambda _, c=count: 16 * c, ["numeric.baselines.network"], config.n_network,  # type: ignore[misc]
            )  # weights, gradients and Adam's two moments in float32
        )  # fmt: skip
    return rows


def measured(row: Row, test: ImageSet, config: Any, linear: LinearDenoiser) -> dict[str, Any]:
    """Fit one method; its errors on held-out images at every level, and its Jacobian's asymmetry at some of them.

    All methods see the same images and noise, slow ones the first of them: the ratio to the linear denoiser's error on the very
    same images is what compares methods that saw different numbers of them.
    """
    model, seconds = row.fit()
    errors: dict[str, Any] = {}
    bent: dict[str, Any] = {}
    for sigma in config.sigmas:
        key = (config.seed, 1, round(sigma * 1e6))
        methods, limits = {"row": (model, None), "linear": (linear, None)}, {"row": row.count, "linear": row.count}
        found = measure(methods, test, sigma, key=key, batch_size=250, limits=limits)
        mine, base = found["row", None], found["linear", None]
        ratio = paired_ratio(mine, base)
        errors[f"{sigma:g}"] = {k: v for k, v in summary(mine).items() if k in ("mse", "se", "n")} | {"of_linear": ratio}
        if config.n_symmetry and row.kind != "network" and row.count == config.n_eval:
            clean = test[: config.n_symmetry]
            values = asymmetry(model, clean + sigma * noise_like(clean, *key, 2), sigma)
            bent[f"{sigma:g}"] = {"mean": float(values.mean()), "n": len(values)}
    return {
        "method": row.label, "kind": row.kind, "parameters": row.parameters(model), "seconds": seconds,
        "memory": row.memory(model), "errors": errors, "asymmetry": bent,
        **({"source": model.record["data"]["source"]} if row.kind == "network" else {}),
        **({"sides": {f"{s:g}": side for s, side in model.sides_.items()}} if isinstance(model, PatchDenoiser) else {}),
    }  # fmt: skip
