"""The methods that Figure "beyond" compares, each fitted when its turn comes, and what is measured of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import trained
from numeric.data import ImageSet
from numeric.evaluation.sweep import evaluate, noise_like
from numeric.evaluation.symmetry import asymmetry
from numeric.fingerprint import code_hash
from numeric.noise import ve
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore
from numeric.scores.wiener import WienerScore


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        kind: a key of :data:`KINDS`. fit: returns the fitted model, ready at all noise levels, and the CPU seconds it took.
        parameters, memory: of the fitted model: numbers at one noise level; bytes of the largest system held while fitting.
        code: modules that its numbers depend on. count: held-out images.
    """

    label: str
    kind: str
    fit: Callable[[], tuple[Any, float]]
    parameters: Callable[[Any], int]
    memory: Callable[[Any], int]
    code: Sequence[str]
    count: int


def _timed(model: Any, images: ImageSet, sigmas: Sequence[float]) -> tuple[Any, float]:
    """Fit, and solve at every level: that is part of a closed form."""
    start = time.process_time()
    model.fit(images)
    for sigma in sigmas:
        model.denoise(images[:1], ve(sigma))
    return model, time.process_time() - start


def _prepared(model: WienerScore, images: ImageSet, sigmas: Sequence[float], path: Path) -> tuple[Any, float]:
    """Levels that an interrupted run finished are kept, with the time they took."""
    start = time.process_time()
    path.parent.mkdir(parents=True, exist_ok=True)
    model.fit(images)
    fit = time.process_time() - start
    model.prepare_levels(sigmas, checkpoint=path)
    return model, fit + sum(model.solve(sigma).seconds for sigma in sigmas)


def split(text: str) -> tuple[str, int]:
    """``"local:3"`` as ``("local", 3)``."""
    name, _, degree = text.partition(":")
    return name, int(degree)


def rows_of(config: Any, images: ImageSet) -> list[Row]:
    """All methods of a :class:`numeric.figures.beyond.BeyondConfig`, none of them fitted yet."""
    sigmas, pixels = config.sigmas, images.shape[0] * images.shape[1] * images.shape[2]
    first = sigmas[0]

    def closed(label: str, kind: str, model: Any, parameters: Any, memory: Any, code: str) -> Row:
        return Row(label, kind, lambda: _timed(model, images, sigmas), parameters, memory, [code], config.n_eval)

    rows = [
        closed(
            "linear", "paper", LinearDenoiser(), lambda _: pixels * (pixels + 3) // 2, lambda _: 16 * pixels**2,
            "numeric.baselines.linear",
        )
    ]  # fmt: skip
    for text in config.families:
        family, degree = split(text)
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
        family, degree = split(text)
        shared = SharedWaveletScore(family, degree)
        rows.append(
            closed(
                f"{shared.label}, degree {degree}", "paper", shared, lambda m: m.solve(first).readout.numel(),
                lambda m: 16 * len(m.monomials_) ** 2, "numeric.scores.shared",
            )
        )  # fmt: skip
    key = code_hash("numeric.scores.wiener")[:12]
    for text in config.wiener:
        coordinates, degree = split(text)
        wiener = WienerScore(degree=degree, coordinates=coordinates)
        path = Path(config.cache) / "beyond" / f"{coordinates}{degree}-{config.size}-{len(images)}-{key}.safetensors"
        rows.append(
            Row(
                f"{wiener.label}, degree {degree}", "beyond",
                lambda m=wiener, p=path: _prepared(m, images, sigmas, p),  # type: ignore[misc]
                lambda m: m.solve(first).theta.numel(), lambda m: m.sums_bytes, ["numeric.scores.wiener"],
                config.n_eval,
            )
        )  # fmt: skip
    for components in config.mixtures:
        from numeric.baselines.mixture import GaussianMixtureDenoiser

        mixture = GaussianMixtureDenoiser(components if components == "class" else int(components))

        def size(m: Any) -> int:
            return sum(c.vectors.numel() + c.eigenvalues.numel() + c.mean.numel() + 1 for c in m.components_)

        rows.append(closed(mixture.label, "peer", mixture, size, lambda m: 8 * size(m), "numeric.baselines.mixture"))
    for label, network in trained(config.size, config.networks, config.weights).items():
        count = int(network.record["parameters"])
        rows.append(
            Row(
                label, "network", lambda n=network: (n, float(n.record["seconds"])), lambda _, c=count: c,  # type: ignore[misc]
                lambda _, c=count: 16 * c, ["numeric.baselines.network"], config.n_network,  # type: ignore[misc]
            )  # weights, gradients and Adam's two moments in float32
        )  # fmt: skip
    return rows


def measured(row: Row, test: ImageSet, config: Any) -> dict[str, Any]:
    """Fit one method; its errors on held-out images at every level, and its Jacobian's asymmetry at some of them."""
    model, seconds = row.fit()
    errors: dict[str, Any] = {}
    bent: dict[str, Any] = {}
    for sigma in config.sigmas:
        key = (config.seed, 1, round(sigma * 1e6))
        found = evaluate({row.label: (model, None)}, test, sigma, key=key, batch_size=250)
        errors |= {f"{sigma:g}": {k: r[k] for k in ("mse", "se", "n")} for r in found if r["method"] == row.label}
        if config.n_symmetry and row.kind != "network":
            clean = test[: config.n_symmetry]
            values = asymmetry(model, clean + sigma * noise_like(clean, *key, 2), sigma)
            bent[f"{sigma:g}"] = {"mean": float(values.mean()), "n": len(values)}
    return {
        "method": row.label, "kind": row.kind, "parameters": row.parameters(model), "seconds": seconds,
        "memory": row.memory(model), "errors": errors, "asymmetry": bent,
        **({"source": model.record["data"]["source"]} if row.kind == "network" else {}),
    }  # fmt: skip
