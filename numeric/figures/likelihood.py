"""Held-out log likelihood of every denoiser in bits per dimension, beside its denoising error at the same noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.mixture import GaussianMixtureDenoiser
from numeric.baselines.network import data_source, overlap_caution, trained
from numeric.baselines.optimal import OptimalDenoiser
from numeric.evaluation.likelihood import Flow, LikelihoodError, bits_per_dimension, log_likelihood
from numeric.evaluation.sweep import image_errors, noise_like, paired_ratio, standard_error
from numeric.figures.base import FigureMaker, Parameters, family_degree, required_degree
from numeric.figures.foresee import Work, linear_work, network_work, own_work, shared_work
from numeric.figures.networks import main_networks, wrapped
from numeric.figures.style import STYLE, fitted_on, legend_figure, plain_log, plus_minus, sigma_colours, sigma_handles
from numeric.noise import ve
from numeric.progress import progress_bar
from numeric.scores.readouts import READOUTS


@dataclass(kw_only=True)
class LikelihoodConfig(Parameters):
    """Parameters of the likelihood figure.

    Attributes:
        size: image side. n_train, n_eval: images to fit on (None: all) and held-out images.
        sigmas: levels whose densities are compared.
        families, shared: ``family:degree`` with the own and with the shared readout.
        components, rank: of the Gaussian mixture (k-means clusters, or "class"; leading directions of each covariance).
        steps, sigma_max: of the flow. probes: random directions of a network's trace.
        networks: which trained networks (None: :func:`numeric.figures.networks.main_networks` and those that have stopped improving; []: none).
        weights: their folder. n_network: images for each of them.
    """

    name: str = "likelihood"
    size: int = 32
    n_train: int | None = None
    n_eval: int = 60
    sigmas: Sequence[float] = (0.1, 0.3)
    families: Sequence[str] = ("independent:1", "independent:2", "independent:3", "band:2", "local:2")
    shared: Sequence[str] = ("independent:2",)
    components: int | str = "class"
    rank: int | None = None
    steps: int = 10
    sigma_max: float = 10.0
    networks: Sequence[str] | None = None
    weights: str | None = None
    n_network: int = 4
    probes: int = 1

    notebook: ClassVar[str] = "likelihood"

    def check(self) -> None:
        for text in [*self.families, *self.shared]:
            required_degree(text)
        if self.n_eval < 2 or (self.n_network and not 2 <= self.n_network <= self.n_eval):
            raise ValueError(
                f"need 2 <= n_network <= n_eval, got {self.n_network} and {self.n_eval}: 0 leaves networks out"
            )
        for sigma in self.sigmas:
            Flow(sigma, self.sigma_max, self.steps, self.probes)
        self.chosen_networks()

    def work(self, train: int) -> list[Work]:
        levels = len(self.sigmas) * (2 * self.steps + 1)  # each used twice, for the denoiser and for its trace
        shared = [family_degree(text) for text in self.shared]
        networks = list(self.chosen_networks().values())
        return [
            linear_work(self.size, train, levels, 2 * self.n_eval),
            own_work(self.size, train, len(self.families), levels, 4 * self.n_eval),
            *(shared_work(family, [degree or 1], self.size, train, levels, 4 * self.n_eval) for family, degree in shared),
            # A probe is a pass forward and one backward, which costs two; four evaluations a step.
            network_work(self.size, networks, len(self.sigmas) * 4 * self.steps * (2 + 2 * self.probes), self.n_network),
        ]

    def chosen_networks(self) -> dict[str, Any]:
        """Label -> network."""
        if not self.n_network or (self.networks is not None and not self.networks):
            return {}
        if self.networks is not None:
            return dict(trained(self.size, self.networks, self.weights))
        return dict(main_networks(self.size, self.weights, with_trained=True))


def bits_of(model: Any, y: Tensor, flow: Flow, prior: LinearDenoiser) -> Tensor:
    """Bits per dimension of images at ``flow.sigma_min``, ``(n,)``: by the density itself where the model has one, else the flow."""
    if hasattr(model, "log_density"):
        density = model.log_density(y, ve(flow.sigma_min))
    else:
        density = log_likelihood(model, y, flow, prior=prior)
    return bits_per_dimension(density.double(), y[0].numel())


def measure(config: LikelihoodConfig, progress: bool = True) -> dict[str, Any]:
    """Bits and errors of every method on the same noisy held-out images, each paired with the linear denoiser's."""
    train, test = config.images("train", config.size, config.n_train), config.images("test", config.size, config.n_eval)
    linear, networks = LinearDenoiser().fit(train, progress=progress), config.chosen_networks()
    models: dict[str, Any] = {"linear": linear, "optimal empirical": OptimalDenoiser()}
    mixture = GaussianMixtureDenoiser(config.components, rank=config.rank)
    models[mixture.label] = mixture
    for readout, families in (("own", config.families), ("shared", config.shared)):
        for text in families:
            family, degree = family_degree(text)
            models[f"{family}, degree {degree}, {readout}"] = READOUTS[readout](family, degree)
    clean = test[:].double()
    rows: list[dict[str, Any]] = []
    reference: dict[float, tuple[Tensor, Tensor]] = {}
    with progress_bar(len(config.sigmas) * (len(models) + len(networks)), "likelihood", progress, "method") as bar:
        for label, model in {**models, **networks}.items():
            if label in models and model is not linear:
                model.fit(train)
            n = config.n_network if label in networks else len(clean)
            for number, sigma in enumerate(config.sigmas):
                x = clean[:n]
                y = x + sigma * noise_like(clean, config.seed, number)[:n]
                flow = Flow(sigma, config.sigma_max, config.steps, config.probes if label in networks else None)
                row: dict[str, Any] = {"method": label, "sigma": sigma, "n": n, "exact": hasattr(model, "log_density")}
                with torch.no_grad():
                    errors = image_errors(model.denoise(y, sigma), x)
                bits: Tensor | None = None
                try:
                    bits = bits_of(model, y, flow, linear)
                except LikelihoodError as error:
                    row["message"] = str(error)
                if model is linear and bits is not None:
                    reference[sigma] = bits, errors
                    by_flow = bits_per_dimension(log_likelihood(linear, y, flow), y[0].numel())
                    row["flow_error"] = float((by_flow - bits).abs().max())
                base_bits, base_errors = (part[:n] for part in reference[sigma])
                row["mse"] = float(errors.mean())
                row["mse_to_linear"] = paired_ratio(errors.numpy()[None], base_errors.numpy()[None])
                if bits is not None:
                    gap = (bits - base_bits).numpy()
                    row |= {"bits": float(bits.mean()), "bits_se": standard_error(bits.numpy())}
                    row |= {"gap": float(gap.mean()), "gap_se": standard_error(gap)}
                rows.append(row)
                bar.update()
            if label not in networks and model is not linear:
                models[label] = None  # its moments go
    sources = {label: data_source(network) for label, network in networks.items()}
    return {
        "data": {"fit": train.provenance, "held_out": test.provenance},
        "rows": rows,
        "cautions": overlap_caution(sources, test.source),
    }


def count_of(row: dict[str, Any]) -> str:
    """``60 images``."""
    return f"{row['n']:,} image{'' if row['n'] == 1 else 's'}"


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record."""
    out = []
    for sigma in record["parameters"]["sigmas"]:
        rows = [r for r in record["rows"] if r["sigma"] == sigma]
        linear = next(r for r in rows if r["method"] == "linear")
        done = sorted((r for r in rows if "gap" in r and r is not linear), key=lambda r: r["gap"])
        best = done[0]
        out.append(
            f"sigma {sigma:g}: the linear denoiser's Gaussian needs {plus_minus(linear['bits'], linear['bits_se'])} bits per dimension; "
            f"the best other is {best['method']}, {plus_minus(best['gap'], best['gap_se'])} from it"
            f"{f' on the first {count_of(best)}' if best['n'] < linear['n'] else ''} "
            f"(the flow's own error there is {linear['flow_error']:.1g})"
        )
        own = [r for r in done if r["method"].endswith("own")]
        if own:
            better = [r["method"] for r in own if r["gap"] + 2 * (r["gap_se"] or 0.0) < 0]
            out.append(
                f"sigma {sigma:g}: own readouts from {own[0]['method']} ({plus_minus(own[0]['gap'], own[0]['gap_se'])}) to "
                f"{own[-1]['method']} ({plus_minus(own[-1]['gap'], own[-1]['gap_se'])}); "
                f"{len(better)} of {len(own)} are better than linear by two standard errors"
            )
        denoise = min((r for r in rows if r is not linear), key=lambda r: r["mse_to_linear"]["ratio"])
        if denoise["method"] != best["method"]:
            out.append(f"sigma {sigma:g}: the best denoiser of one step is {denoise['method']}, another one")
        out += [f"sigma {sigma:g}: {r['message']}" for r in rows if "message" in r]
    return out + record["cautions"]


def draw(record: dict[str, Any]) -> Any:
    """A row per method: bits per dimension against linear (left), and the denoising error as a ratio to linear's (right)."""
    p, rows = record["parameters"], record["rows"]
    methods = [m for m in dict.fromkeys(r["method"] for r in rows) if m != "linear"]
    colours = sigma_colours(p["sigmas"])
    with plt.rc_context(STYLE):
        height = 0.36 * len(methods) + 2.2
        figure, axes = plt.subplots(1, 2, figsize=(10.5, height), sharey=True, gridspec_kw={"wspace": 0.06})
        figure.subplots_adjust(left=0.27, right=0.985, top=1 - 0.75 / height, bottom=1.15 / height)
        within = sorted(
            abs(r["gap"]) for r in rows if "gap" in r and r["method"] not in ("linear", "optimal empirical")
        )
        limit = 1.25 * (within[-1] if within else 1.0) + 1e-3
        for place, method in enumerate(methods):
            for shift, sigma in enumerate(p["sigmas"]):
                r = next(r for r in rows if r["method"] == method and r["sigma"] == sigma)
                at = place + 0.24 * (shift - (len(p["sigmas"]) - 1) / 2)
                style: Any = {"marker": "o", "markersize": 4.5, "capsize": 2, "color": colours[sigma]}
                if "gap" not in r:
                    axes[0].text(0.99, at, "the flow runs to infinity", transform=axes[0].get_yaxis_transform(), ha="right", va="center",
                                 fontsize=7.5, color=colours[sigma])  # fmt: skip
                elif abs(r["gap"]) > limit:
                    axes[0].text(0.99, at, f"{r['gap']:+.3g} →", transform=axes[0].get_yaxis_transform(), ha="right", va="center",
                                 fontsize=7.5, color=colours[sigma])  # fmt: skip
                else:
                    axes[0].errorbar(r["gap"], at, xerr=r["gap_se"] or 0.0, **style)
                ratio = r["mse_to_linear"]
                axes[1].errorbar(ratio["ratio"], at, xerr=ratio["se"] or 0.0, **style)
            if place % 2:
                for axis in axes:
                    axis.axhspan(place - 0.5, place + 0.5, color="0.5", alpha=0.07, linewidth=0)
        plain_log(axes[1], "x")
        axes[0].set_xlim(-limit, limit)
        axes[0].axvline(0.0, color="0.4", linewidth=0.8)
        axes[1].axvline(1.0, color="0.4", linewidth=0.8)
        axes[0].set_yticks(range(len(methods)), [wrapped(m) for m in methods])
        axes[0].set_ylim(len(methods) - 0.5, -0.5)
        for axis in axes:
            axis.grid(False, axis="y")
        axes[0].set_title("(a) bits per dimension more than linear (left is better)")
        axes[1].set_title("(b) denoising MSE, ratio to linear")
        figure.suptitle(
            f"Held-out likelihood of noisy images, {p['size']}x{p['size']}, {fitted_on(record)}",
            fontsize=11,
            y=1 - 0.12 / height,
        )
        most = max(rows, key=lambda r: r["n"])
        fewer: dict[str, list[str]] = {}
        for r in rows:
            if r["n"] < most["n"] and (name := r["method"].split(",")[0]) not in fewer.setdefault(count_of(r), []):
                fewer[count_of(r)].append(name)
        note = f"bars: ± 1 standard error over {count_of(most)}" + "".join(f", of {', '.join(names)} over the first {n}" for n, names in fewer.items())
        legend_figure(figure, sigma_handles(p["sigmas"]), f"{note}; paired with linear")
    return figure


make_figure = FigureMaker(measure, draw, findings)
