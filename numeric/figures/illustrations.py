"""Figures 1 to 4: the wavelets, their two-dimensional atoms, what each feature family sees, and the noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from numeric.daubechies import cascade, unit_sum, vanishing_moments
from numeric.evaluation.sweep import image_errors, noise_like, standard_error
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.style import (
    COLOURS,
    IMAGE_STYLE,
    STYLE,
    fitted_on,
    legend_figure,
    plain_log,
    select,
    show_image,
    sigma_colours,
)
from numeric.noise import ddpm_alpha_bars, vp
from numeric.scores.families import Family, exponents
from numeric.wavelets import ORIENTATIONS, WaveletTransform

# ----- Figure 1 ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class DaubechiesConfig(Parameters):
    """Parameters of Figure 1: wavelets, the one drawn thick, and the depth of the grid, ``2^-depth``."""

    name: str = "fig1"
    wavelets: Sequence[str] = ("db2", "db3", "db4", "db8")
    highlight: str = "db2"
    depth: int = 10

    notebook: ClassVar[str] = "fig1"


def _daubechies(config: DaubechiesConfig, progress: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    curves = {wavelet: cascade(wavelet, config.depth) for wavelet in config.wavelets}
    step = 2.0**-config.depth
    rows = [
        {
            "wavelet": wavelet,
            "support": float(x[-1]),
            "integral_phi": float(phi.sum() * step),
            "norm_phi": float((phi**2).sum() * step),
            "norm_psi": float((psi**2).sum() * step),
            "overlap": float((phi * psi).sum() * step),
            "vanishing_moments": vanishing_moments(x, psi),
            "partition_of_unity": float(abs(unit_sum(phi, config.depth) - 1).max()),
        }
        for wavelet, (x, phi, psi) in curves.items()
    ]
    return {"wavelets": rows}, curves


def _draw_daubechies(record: dict[str, Any], curves: dict[str, Any]) -> Any:
    """A panel per wavelet and function, each over its own support; the scale of x is the same, so none is squeezed."""
    p, supports = record["parameters"], {r["wavelet"]: r["support"] for r in record["wavelets"]}
    with plt.rc_context(STYLE):
        ratios = [max(support, 5) for support in supports.values()]
        figure, axes = plt.subplots(
            2, len(curves), figsize=(0.55 * sum(ratios) + 1.2, 4.8), sharex="col", sharey="row", squeeze=False,
            gridspec_kw={"width_ratios": ratios},
        )  # fmt: skip
        for column, (wavelet, (x, phi, psi)) in enumerate(curves.items()):
            main = wavelet == p["highlight"]
            for axis, curve in zip(axes[:, column], (phi, psi)):
                axis.plot(x, curve, color=COLOURS["vermilion" if main else "blue"], linewidth=2.2 if main else 1.3)
                axis.axhline(0, color="0.5", linewidth=0.7)
            axes[0, column].set_title(wavelet + (" (used here)" if main else ""))
            axes[1, column].set_xlabel("x")
        axes[0, 0].set_ylabel(r"scaling function $\varphi$")
        axes[1, 0].set_ylabel(r"wavelet $\psi$")
        figure.suptitle("Daubechies wavelets from their two-scale relation", fontsize=11.5)
        figure.tight_layout()
    return figure


def _found_daubechies(record: dict[str, Any]) -> list[str]:
    rows = record["wavelets"]
    worst = max(abs(r["integral_phi"] - 1) for r in rows)
    names = ", ".join(r["wavelet"] for r in rows)
    return [
        f"the integral of phi is 1 to {worst:.1e} for {names}, and its integer translates sum to 1 at every grid point "
        f"to {max(r['partition_of_unity'] for r in rows):.1e}",
        "vanishing moments of psi, counted by quadrature: "
        + ", ".join(f"{r['wavelet']} {r['vanishing_moments']} (support {r['support']:g})" for r in rows),
        f"by quadrature on the grid, |phi|^2 and |psi|^2 integrate to 1 within "
        f"{max(abs(r[k] - 1) for r in rows for k in ('norm_phi', 'norm_psi')):.1e} and phi psi to 0 within "
        f"{max(abs(r['overlap']) for r in rows):.1e}",
    ]


daubechies = FigureMaker(_daubechies, _draw_daubechies, _found_daubechies)
"""Figure 1: phi and psi of several Daubechies wavelets, the one used everywhere else drawn thick."""


# ----- Figure 2 ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class AtomsConfig(Parameters):
    """Parameters of Figure 2: image side, wavelet and levels of the transform (None: down to a 4 x 4 scaling band)."""

    name: str = "fig2"
    size: int = 32
    wavelet: str = "db2"
    levels: int | None = None

    notebook: ClassVar[str] = "fig2"


def atom(transform: WaveletTransform, scale: int, orientation: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The centre-most atom ``(height, width)`` of a band and its place (row, column) in the band."""
    band = next(b for b in transform.bands if (b.scale, b.orientation) == (scale, orientation))
    place = (band.shape[0] // 2 - 1, band.shape[1] // 2 - 1) if min(band.shape) > 2 else (0, 0)
    unit = torch.zeros(1, 1, transform.n_coefficients, dtype=torch.float64)
    unit[..., int(band.indices[place])] = 1.0
    return transform.inverse(unit)[0, 0].numpy(), place


def _atoms(config: AtomsConfig, progress: bool = True) -> tuple[dict[str, Any], WaveletTransform, dict[Any, np.ndarray]]:
    transform = WaveletTransform(config.size, config.wavelet, config.levels)
    rows: list[dict[str, Any]] = []
    pictures = {}
    for scale in range(1, transform.levels + 1):
        for orientation in ORIENTATIONS:
            # Scaling atoms of finer scales belong to shallower transforms; only the coarsest are in the basis.
            source = WaveletTransform(config.size, config.wavelet, scale) if orientation == "A" else transform
            picture, place = atom(source, scale, orientation)
            pictures[scale, orientation] = picture
            used = np.argwhere(abs(picture) > 1e-9 * abs(picture).max())
            rows.append(
                {
                    "scale": scale,
                    "orientation": orientation,
                    "place": list(place),
                    "norm": float(np.linalg.norm(picture)),
                    "sum": float(picture.sum()),
                    "pixels": (used.max(0) - used.min(0) + 1).tolist(),
                    "in_basis": orientation != "A" or scale == transform.levels,
                }
            )
    identity = float(abs(transform.matrix @ transform.matrix.T - np.eye(transform.n_coefficients)).max())
    return {"transform": transform.config, "atoms": rows, "orthonormality": identity}, transform, pictures


def _draw_atoms(record: dict[str, Any], transform: WaveletTransform, pictures: dict[Any, np.ndarray]) -> Any:
    titles = {"A": "scaling (A)", "H": "horizontal (H)", "V": "vertical (V)", "D": "diagonal (D)"}
    with plt.rc_context(IMAGE_STYLE):
        figure, axes = plt.subplots(transform.levels, 4, figsize=(8.2, 2.15 * transform.levels + 0.5), squeeze=False)
        for (scale, orientation), picture in pictures.items():
            axis, largest = axes[scale - 1, ORIENTATIONS.index(orientation)], abs(picture).max()
            show_image(axis, picture, cmap="RdBu_r", vmin=-largest, vmax=largest)
            axis.spines[:].set_visible(True)
            axis.spines[:].set_color("0.8")
            if orientation == "A" and scale < transform.levels:
                axis.set_xlabel("not in the basis", fontsize=7.5, color="0.4", labelpad=2)
            if scale == 1:
                axis.set_title(titles[orientation])
            if orientation == "A":
                axis.set_ylabel(f"scale {scale}" + (" (finest)" if scale == 1 else ""))
        p = record["parameters"]
        title = f"{p['wavelet']} atoms at {p['size']}x{p['size']}, {transform.mode} (blue negative, red positive)"
        figure.suptitle(title, fontsize=11.5)
        figure.tight_layout()
    return figure


def _found_atoms(record: dict[str, Any]) -> list[str]:
    rows = record["atoms"]
    details = [r for r in rows if r["orientation"] != "A"]
    sides = {r["scale"]: max(max(q["pixels"]) for q in select(details, scale=r["scale"])) for r in details}
    return [
        f"the {record['parameters']['size'] ** 2:,} atoms are orthonormal: max |W W^T - I| = {record['orthonormality']:.1e}",
        f"detail atoms sum to zero within {max(abs(r['sum']) for r in details):.1e}; all have norm 1 within "
        f"{max(abs(r['norm'] - 1) for r in rows):.1e}",
        "side of a detail atom in pixels: " + ", ".join(f"scale {scale}: {side}" for scale, side in sides.items()),
    ]


atoms = FigureMaker(_atoms, _draw_atoms, _found_atoms)
"""Figure 2: scaling and detail atoms over the scales, read off the transform that all results use."""


# ----- Figure 3 ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class FamiliesConfig(Parameters):
    """Parameters of Figure 3: side of the coefficients' grid, levels, wavelet, and highest degree of the feature counts."""

    name: str = "fig3"
    size: int = 16
    levels: int = 2
    wavelet: str = "db2"
    degree: int = 3

    notebook: ClassVar[str] = "fig3"


def mallat_grid(transform: WaveletTransform) -> np.ndarray:
    """Flat coefficient indices laid out as the usual picture of the transform, ``(height, width)``, coarse at top left."""
    grid = transform.bands[0].indices
    for scale in range(transform.levels, 0, -1):
        band = {b.orientation: b.indices for b in transform.bands if b.scale == scale}
        grid = np.block([[grid, band["V"]], [band["H"], band["D"]]])
    return grid


def monomial_text(row: np.ndarray, names: Sequence[str]) -> str:
    """An exponent vector as math text."""
    parts = [name if e == 1 else f"{name}^{{{e}}}" for name, e in zip(names, row) if e]
    return r"\,".join(parts) or "1"


SEEN = (
    (Family("independent"), "(i) independent", ("w",)),
    (Family("band"), "(ii) band-tied", ("w_H", "w_V", "w_D")),
    (Family("local", radius=1), "(iii) local, r = 1", ("w", "m")),
    (Family("local", radius=2), "(iii) local, r = 2", ("w", "m")),
)
"""Families drawn: title, and names of the variables in the features written below."""


def _seen(config: FamiliesConfig, progress: bool = True) -> tuple[dict[str, Any], WaveletTransform]:
    transform = WaveletTransform(config.size, config.wavelet, config.levels)
    fine, coarse = next(b for b in transform.bands if (b.scale, b.orientation) == (1, "H")), transform.bands[0]
    detail = int(fine.indices[fine.shape[0] // 2 - 1, fine.shape[1] // 2])
    scaling = int(coarse.indices[coarse.shape[0] // 2, coarse.shape[1] // 2 - 1])
    rows = []
    for family, _, _ in SEEN:
        blocks = family.blocks(transform)
        for target in (detail, scaling):
            block = next(b for b in blocks if target in b.targets)
            variables = block.variables[list(block.targets).index(target)].tolist()
            tables = {n: exponents(block.pattern, len(variables), n) for n in range(1, config.degree + 1)}
            address = transform.addresses[target]
            rows.append(
                {
                    "family": family.label,
                    "target": [int(address["scale"]), str(address["orientation"])],
                    "pattern": block.pattern,
                    "variables": variables,
                    "neighbours": len(variables) - 1,
                    "features": {n: len(table) for n, table in tables.items()},
                    "every_feature_has_target": bool((tables[config.degree][1:, 0] >= 1).all()),
                }
            )
    return {"transform": transform.config, "interactions": "pairwise", "targets": rows}, transform


def _draw_seen(record: dict[str, Any], transform: WaveletTransform) -> Any:
    p, grid = record["parameters"], mallat_grid(transform)
    where = {int(index): place for place, index in np.ndenumerate(grid)}
    with plt.rc_context(IMAGE_STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(13, 4.9))
        for number, (axis, (_, title, names)) in enumerate(zip(axes, SEEN)):
            picture, targets = np.ones((*grid.shape, 3)) * 0.96, record["targets"][2 * number : 2 * number + 2]
            for row, colour in zip(targets, ("sky", "orange")):
                for index in row["variables"][1:]:
                    picture[where[index]] = to_rgb(COLOURS[colour])
                picture[where[row["variables"][0]]] = to_rgb(COLOURS["vermilion"])
            axis.imshow(picture, interpolation="nearest")
            _band_frames(axis, transform)
            axis.set_title(title)
            shown = exponents(targets[0]["pattern"], min(targets[0]["neighbours"] + 1, len(names)), 2)
            text = ",\\; ".join(monomial_text(row, names) for row in shown)
            counts = ", ".join(map(str, targets[0]["features"].values())) + f" features at n = 1 to {p['degree']}"
            each = "; m: each neighbour" if "m" in names else ""
            axis.set_xlabel(f"n = 2:  ${text}${each}\n{counts} (detail target)", fontsize=8.5, labelpad=6)
        title = f"What a target coefficient sees (grid of {p['size']}x{p['size']} coefficients, {p['levels']} levels)"
        figure.suptitle(title, fontsize=11.5)
        figure.tight_layout(rect=(0, 0.1, 1, 1))
        meanings = {
            "vermilion": "target (one detail, one scaling atom)",
            "sky": "also seen by the detail target",
            "orange": "also seen by the scaling target",
        }
        legend_figure(figure, [Rectangle((0, 0), 1, 1, color=COLOURS[c], label=text) for c, text in meanings.items()])
    return figure


def _found_seen(record: dict[str, Any]) -> list[str]:
    degree = record["parameters"]["degree"]
    return [
        f"{r['family']}, {'scaling' if r['target'][1] == 'A' else 'detail'} target: {r['neighbours']} other coefficients, "
        f"{r['features'][degree]} features at degree {degree}"
        + ("; every feature but the intercept holds the target" if r["every_feature_has_target"] else "")
        for r in record["targets"]
    ]


families_drawn = FigureMaker(_seen, _draw_seen, _found_seen)
"""Figure 3: which coefficients a target's features see, on the grid of coefficients, from the families' own tables."""


def _band_frames(axis: Any, transform: WaveletTransform) -> None:
    """Thin lines between coefficients, thick ones between bands, and the bands' names."""
    rows, columns = transform.shape
    axis.set_xticks(np.arange(-0.5, columns), minor=True)
    axis.set_yticks(np.arange(-0.5, rows), minor=True)
    axis.grid(True, which="minor", color="white", linewidth=0.8, alpha=1.0)
    axis.tick_params(which="both", length=0, labelleft=False, labelbottom=False)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)
    for band in transform.bands:
        r, c = band.shape
        top = r if band.orientation in "HD" else 0
        left = c if band.orientation in "VD" else 0
        axis.add_patch(Rectangle((left - 0.5, top - 0.5), c, r, fill=False, edgecolor="0.25", linewidth=1.3))
        axis.text(
            left - 0.3, top - 0.3, f"{band.orientation}{band.scale}", fontsize=7.5, va="top", ha="left", color="0.25"
        )


# ----- Figure 4 ------------------------------------------------------------------------------------------------------


def band_snr(images: Any, transform: WaveletTransform, batch_size: int = 1000) -> list[dict[str, Any]]:
    """Mean over each band of the variance of its coefficients over the images: the signal that unit noise is held against."""
    total = torch.zeros(transform.n_coefficients, dtype=torch.float64)
    square = torch.zeros_like(total)
    for batch in images.batches(batch_size):
        w = transform.forward(batch.double()).flatten(0, 1)
        total += w.sum(0)
        square += w.square().sum(0)
    count = len(images) * images.shape[0]
    variance = (square / count - (total / count) ** 2).numpy()
    return [
        {"scale": b.scale, "orientation": b.orientation, "variance": float(variance[b.start : b.stop].mean())}
        for b in transform.bands
    ]


@dataclass(kw_only=True)
class NoiseConfig(Parameters):
    """Parameters of Figure 4: image side, VE levels, images for the signal-to-noise ratios (None: all), images shown."""

    name: str = "fig4"
    size: int = 32
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    n_train: int | None = None
    n_images: int = 2
    wavelet: str = "db2"

    notebook: ClassVar[str] = "fig4"


def _noise(config: NoiseConfig, progress: bool = True) -> tuple[dict[str, Any], torch.Tensor]:
    train = config.images("train", config.size, config.n_train)
    clean = config.images("test", config.size, config.n_images)[:]
    bands = band_snr(train, WaveletTransform(train.shape[1:], config.wavelet))
    schedule, levels, first = ddpm_alpha_bars(), [], train[:1000]
    for sigma in config.sigmas:
        alpha_bar = 1.0 / (1.0 + sigma**2)  # sigma / alpha of VP equals the VE sigma
        equal = vp(alpha_bar)
        noisy = first + sigma * noise_like(first, config.seed, 0, round(sigma * 1e6))
        error = image_errors(noisy.clamp(*train.pixel_range), first).numpy()
        levels.append(
            {
                "sigma": sigma,
                "alpha_bar": alpha_bar,
                "alpha": equal.alpha,
                "vp_sigma": equal.sigma,
                "effective_sigma": equal.effective_sigma,
                "ddpm_step": int(np.abs(schedule - alpha_bar).argmin()) + 1,
                "noisy_mse": float(error.mean()),
                "noisy_mse_se": standard_error(error),
                "snr": [{**b, "snr": b["variance"] / sigma**2} for b in bands],
            }
        )
    return {"data": {"fit": train.provenance}, "ddpm_steps": len(schedule), "levels": levels}, clean


def _draw_noise(record: dict[str, Any], clean: torch.Tensor) -> Any:
    """Images at the noise levels, VE and the VP level of equal signal-to-noise ratio, and that ratio by band."""
    p, levels, count = record["parameters"], record["levels"], len(clean)
    with plt.rc_context(IMAGE_STYLE):
        columns, above = len(levels) + 1, 1.9 * count + 1.9
        figure = plt.figure(figsize=(max(1.75 * columns, 8), above + 3.9))
        outer = figure.add_gridspec(2, 1, height_ratios=[above, 3.0], hspace=0.14)
        inner = outer[0].subgridspec(count + 1, columns, hspace=0.12, wspace=0.05)
        for row in range(count + 1):
            vp_row, image = row == count, clean[row % count, 0]
            axis = figure.add_subplot(inner[row, 0])
            if vp_row:
                axis.axis("off")
                axis.text(0.5, 0.5, "the first image\nat the equal\nVP level", ha="center", va="center", fontsize=9)
            else:
                show_image(axis, image)
                axis.set_title("clean" if row == 0 else "")
            for column, level in enumerate(levels, 1):
                axis = figure.add_subplot(inner[row, column])
                noise = noise_like(image, p["seed"], 1, 0 if vp_row else row, round(level["sigma"] * 1e6))
                if vp_row:  # (0, 1) maps to (0, alpha): shown on that scale
                    show_image(axis, level["alpha"] * image + level["vp_sigma"] * noise, vmax=level["alpha"])
                    text = rf"$\bar\alpha$ = {level['alpha_bar']:.3g}, DDPM t = {level['ddpm_step']}"
                    axis.set_xlabel(text, fontsize=8, labelpad=3)
                else:
                    show_image(axis, image + level["sigma"] * noise)
                    axis.set_title(rf"VE $\sigma$ = {level['sigma']:g}" if row == 0 else "")
        axis = figure.add_subplot(outer[1])
        for level, colour in zip(levels, sigma_colours(p["sigmas"]).values()):
            names = [f"{b['orientation']}{b['scale']}" for b in level["snr"]]
            axis.plot(names, [b["snr"] for b in level["snr"]], "o-", color=colour, label=rf"$\sigma$ = {level['sigma']:g}")
        axis.axhline(1, color="0.4", linewidth=0.9)
        plain_log(axis)
        axis.grid(True, axis="y")
        axis.set_ylabel(r"signal to noise, $\overline{\mathrm{var}\,w}\,/\,\sigma^2$")
        axis.set_xlabel("band (orientation and scale, coarse to fine)")
        axis.legend(fontsize=8.5, ncols=len(levels), loc="upper right")
        source = fitted_on(record).removeprefix("fitted on ")
        title = f"Noise levels, {p['size']}x{p['size']}; signal to noise by band from\n{source}"
        figure.suptitle(title, fontsize=11, y=0.945)
    return figure


def _found_noise(record: dict[str, Any]) -> list[str]:
    bands = record["levels"][0]["snr"]
    lines = [
        f"sigma {v['sigma']:g} is VP alpha_bar {v['alpha_bar']:.4g} (nearest DDPM step {v['ddpm_step']} of {record['ddpm_steps']}); "
        f"MSE of the clamped noisy image {v['noisy_mse']:.5f} ± {v['noisy_mse_se']:.5f}; "
        f"signal exceeds noise in {sum(b['snr'] > 1 for b in v['snr'])} of {len(bands)} bands"
        for v in record["levels"]
    ]
    finest = np.mean([b["variance"] for b in select(bands, scale=1)])
    return [*lines, f"mean variance of a coefficient: {bands[0]['variance']:.3g} in the scaling band, {finest:.3g} at the finest scale"]


noise_levels = FigureMaker(_noise, _draw_noise, _found_noise)
"""Figure 4: images at the noise levels, VE and the VP level of equal signal-to-noise ratio, and that ratio by band."""
