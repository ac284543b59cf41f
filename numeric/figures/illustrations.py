"""Figures 1 to 4: the wavelets, their two-dimensional atoms, what each feature family sees, and the noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pywt
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from numeric.data import load_mnist
from numeric.evaluation.sweep import noise_like, standard_error
from numeric.figures.style import (
    COLOURS,
    IMAGE_STYLE,
    STYLE,
    legend_figure,
    plain_log,
    select,
    show_image,
    sigma_colours,
)
from numeric.noise import ddpm_alpha_bars, vp
from numeric.results import finish_figure
from numeric.scores.families import Family, exponents
from numeric.wavelets import ORIENTATIONS, WaveletTransform

Made = tuple[Any, dict[str, Any], list[Path]]


# ----- Figure 1 ------------------------------------------------------------------------------------------------------


def cascade(wavelet: str, depth: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scaling function phi and wavelet psi on the dyadic grid ``x = i / 2^depth``, exact there (Fig. 1).

    The values of phi at the integers are the eigenvector of the two-scale relation ``phi(x) = sqrt(2) sum_k h_k
    phi(2x - k)`` to eigenvalue 1; the relation itself then gives the half integers, the quarters, and so on, and
    ``psi(x) = sqrt(2) sum_k g_k phi(2x - k)``.

    Args:
        wavelet: an orthogonal wavelet of PyWavelets with a continuous scaling function (db2, db3, sym4, ...).

    Returns: ``(x, phi, psi)``, each ``(length * 2^depth + 1,)`` over the support ``[0, length]``, length = taps - 1.
    """
    filters = pywt.Wavelet(wavelet)
    h, g = np.sqrt(2) * np.array(filters.rec_lo), np.sqrt(2) * np.array(filters.rec_hi)
    length = len(h) - 1
    if length < 2:
        raise ValueError(f"{wavelet!r} has a discontinuous scaling function: use db2 or higher")
    i = np.arange(length + 1)
    k = 2 * i[:, None] - i[None, :]  # phi(i) = sum_j h[2i - j] phi(j)
    two_scale = np.where((k >= 0) & (k <= length), h[np.clip(k, 0, length)], 0.0)
    values, vectors = np.linalg.eig(two_scale)
    phi = vectors[:, np.argmin(abs(values - 1.0))].real
    phi = phi / phi.sum()  # partition of unity: the integers' values sum to one
    for level in range(1, depth + 1):
        step, finer = 2**level, np.zeros(length * 2**level + 1)
        finer[::2] = phi
        x2 = np.arange(1, len(finer), 2)  # 2x on the previous grid is the index itself
        for tap, weight in enumerate(h):
            source = x2 - tap * step // 2
            inside = (source >= 0) & (source < len(phi))
            finer[x2[inside]] += weight * phi[source[inside]]
        phi = finer
    psi = np.zeros_like(phi)
    doubled = 2 * np.arange(len(phi))
    for tap, weight in enumerate(g):
        source = doubled - tap * 2**depth
        inside = (source >= 0) & (source < len(phi))
        psi[inside] += weight * phi[source[inside]]
    return np.arange(len(phi)) / 2**depth, phi, psi


def unit_sum(phi: np.ndarray, depth: int) -> np.ndarray:
    """``sum_k phi(x - k)`` on the grid points of [0, 1): one everywhere, although only the integers were made to sum to one."""
    return phi[:-1].reshape(-1, 2**depth).sum(0)


def vanishing_moments(x: np.ndarray, psi: np.ndarray, tolerance: float = 1e-6) -> int:
    """How many of ``int x^k psi dx``, k = 0, 1, ..., vanish: the rectangle rule on the grid, relative to ``int |x^k psi|``.

    The dyadic sums of a refinable function are exact for the polynomials it reproduces, so the zeros are sharp.
    """
    count = 0
    while count < 20 and abs((x**count * psi).sum()) < tolerance * abs(x**count * psi).sum():
        count += 1
    return count


def daubechies(
    output: str | Path,
    wavelets: Sequence[str] = ("db2", "db3", "db4", "db8"),
    highlight: str = "db2",
    depth: int = 10,
    name: str = "fig1",
) -> Made:
    """Figure 1: phi and psi of several Daubechies wavelets, the one used everywhere else drawn thick."""
    curves = {wavelet: cascade(wavelet, depth) for wavelet in wavelets}
    rows: list[dict[str, Any]] = []
    step = 2.0**-depth
    for wavelet, (x, phi, psi) in curves.items():
        rows.append(
            {
                "wavelet": wavelet,
                "support": float(x[-1]),
                "integral_phi": float(phi.sum() * step),
                "norm_phi": float((phi**2).sum() * step),
                "norm_psi": float((psi**2).sum() * step),
                "overlap": float((phi * psi).sum() * step),
                "vanishing_moments": vanishing_moments(x, psi),
                "partition_of_unity": float(abs(unit_sum(phi, depth) - 1).max()),
            }
        )
    shades = [COLOURS[c] for c in ("sky", "orange", "green", "purple", "blue", "black")]
    others = iter(shades)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.7))
        for wavelet in [*[w for w in wavelets if w != highlight], *[w for w in wavelets if w == highlight]]:
            x, phi, psi = curves[wavelet]
            main = wavelet == highlight
            colour = COLOURS["vermilion"] if main else next(others)
            for axis, curve in zip(axes, (phi, psi)):
                axis.plot(x, curve, color=colour, linewidth=2.2 if main else 1.1, label=wavelet)
        for axis, title in zip(axes, (r"scaling function $\varphi$", r"wavelet $\psi$")):
            axis.set_title(title)
            axis.set_xlabel("x")
            axis.set_xlim(-0.2, min(max(c[0][-1] for c in curves.values()), 15) + 0.2)
        figure.suptitle(f"Daubechies wavelets from their two-scale relation ({highlight} is used here)", fontsize=11.5)
        figure.tight_layout(rect=(0, 0.08, 1, 1))
        handles, labels = axes[0].get_legend_handles_labels()
        order = np.argsort([list(wavelets).index(text) for text in labels])
        legend_figure(figure, [handles[i] for i in order])
    worst = max(abs(r["integral_phi"] - 1) for r in rows)
    findings = [
        f"the integral of phi is 1 to {worst:.1e} for {', '.join(curves)}, and its integer translates sum to 1 at every grid point "
        f"to {max(r['partition_of_unity'] for r in rows):.1e}",
        "vanishing moments of psi, counted by quadrature: "
        + ", ".join(f"{r['wavelet']} {r['vanishing_moments']} (support {r['support']:g})" for r in rows),
        f"by quadrature on the grid, |phi|^2 and |psi|^2 integrate to 1 within "
        f"{max(abs(r[k] - 1) for r in rows for k in ('norm_phi', 'norm_psi')):.1e} and phi psi to 0 within "
        f"{max(abs(r['overlap']) for r in rows):.1e}",
    ]
    parameters = {"wavelets": list(wavelets), "highlight": highlight, "depth": depth}
    return finish_figure(figure, {"parameters": parameters, "wavelets": rows, "findings": findings}, output, name)


# ----- Figure 2 ------------------------------------------------------------------------------------------------------


def atom(transform: WaveletTransform, scale: int, orientation: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The centre-most atom ``(height, width)`` of a band and its place (row, column) in the band."""
    band = next(b for b in transform.bands if (b.scale, b.orientation) == (scale, orientation))
    place = (band.shape[0] // 2 - 1, band.shape[1] // 2 - 1) if min(band.shape) > 2 else (0, 0)
    unit = torch.zeros(1, 1, transform.n_coefficients, dtype=torch.float64)
    unit[..., int(band.indices[place])] = 1.0
    return transform.inverse(unit)[0, 0].numpy(), place


def atoms(
    output: str | Path, size: int = 32, wavelet: str = "db2", levels: int | None = None, name: str = "fig2"
) -> Made:
    """Figure 2: scaling and detail atoms over the scales, read off the transform that all results use."""
    transform = WaveletTransform(size, wavelet, levels)
    rows: list[dict[str, Any]] = []
    pictures = {}
    for scale in range(1, transform.levels + 1):
        for orientation in ORIENTATIONS:
            # Scaling atoms of finer scales belong to shallower transforms; only the coarsest are in the basis.
            source = WaveletTransform(size, wavelet, scale) if orientation == "A" else transform
            picture, place = atom(source, scale, orientation)
            pictures[scale, orientation] = picture
            used = np.argwhere(abs(picture) > 1e-9 * abs(picture).max())
            extent = used.max(0) - used.min(0) + 1
            rows.append(
                {
                    "scale": scale,
                    "orientation": orientation,
                    "place": list(place),
                    "norm": float(np.linalg.norm(picture)),
                    "sum": float(picture.sum()),
                    "pixels": extent.tolist(),
                    "in_basis": orientation != "A" or scale == transform.levels,
                }
            )
    titles = {"A": "scaling (A)", "H": "horizontal (H)", "V": "vertical (V)", "D": "diagonal (D)"}
    with plt.rc_context(IMAGE_STYLE):
        figure, axes = plt.subplots(transform.levels, 4, figsize=(8.2, 2.15 * transform.levels + 0.5), squeeze=False)
        for (scale, orientation), picture in pictures.items():
            axis = axes[scale - 1, ORIENTATIONS.index(orientation)]
            largest = abs(picture).max()
            axis.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(True)
            axis.spines[:].set_color("0.8")
            if orientation == "A" and scale < transform.levels:
                axis.set_xlabel("not in the basis", fontsize=7.5, color="0.4", labelpad=2)
            if scale == 1:
                axis.set_title(titles[orientation])
            if orientation == "A":
                axis.set_ylabel(f"scale {scale}" + (" (finest)" if scale == 1 else ""))
        figure.suptitle(
            f"{wavelet} atoms at {size}x{size}, {transform.mode} (blue negative, red positive)", fontsize=11.5
        )
        figure.tight_layout()
    identity = abs(transform.matrix @ transform.matrix.T - np.eye(transform.n_coefficients)).max()
    details = [r for r in rows if r["orientation"] != "A"]
    findings = [
        f"the {transform.n_coefficients:,} atoms are orthonormal: max |W W^T - I| = {identity:.1e}",
        f"detail atoms sum to zero within {max(abs(r['sum']) for r in details):.1e}; all have norm 1 within "
        f"{max(abs(r['norm'] - 1) for r in rows):.1e}",
        "side of a detail atom in pixels: "
        + ", ".join(
            f"scale {s}: {max(max(r['pixels']) for r in select(details, scale=s))}"
            for s in range(1, transform.levels + 1)
        ),
    ]
    record = {"parameters": transform.config, "atoms": rows, "orthonormality": float(identity), "findings": findings}
    return finish_figure(figure, record, output, name)


# ----- Figure 3 ------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class _Seen:
    family: Family
    title: str
    names: tuple[str, ...]


def families_drawn(
    output: str | Path, size: int = 16, levels: int = 2, wavelet: str = "db2", degree: int = 3, name: str = "fig3"
) -> Made:
    """Figure 3: which coefficients a target's features see, on the grid of coefficients, from the families' own tables."""
    transform = WaveletTransform(size, wavelet, levels)
    grid = mallat_grid(transform)
    where = {int(index): (r, c) for (r, c), index in np.ndenumerate(grid)}
    fine = next(b for b in transform.bands if (b.scale, b.orientation) == (1, "H"))
    detail = int(fine.indices[fine.shape[0] // 2 - 1, fine.shape[1] // 2])
    coarse = transform.bands[0]
    scaling = int(coarse.indices[coarse.shape[0] // 2, coarse.shape[1] // 2 - 1])
    seen = [
        _Seen(Family("independent"), "(i) independent", ("w",)),
        _Seen(Family("band"), "(ii) band-tied", ("w_H", "w_V", "w_D")),
        _Seen(Family("local", radius=1), "(iii) local, r = 1", ("w", "m")),
        _Seen(Family("local", radius=2), "(iii) local, r = 2", ("w", "m")),
    ]
    rows = []
    with plt.rc_context(IMAGE_STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(13, 4.9))
        for axis, item in zip(axes, seen):
            picture = np.ones((*grid.shape, 3)) * 0.96
            blocks = item.family.blocks(transform)
            for target, near_colour, own_colour in ((detail, "sky", "vermilion"), (scaling, "orange", "vermilion")):
                block = next(b for b in blocks if target in b.targets)
                variables = block.variables[list(block.targets).index(target)].tolist()
                for index in variables[1:]:
                    picture[where[index]] = to_rgb(COLOURS[near_colour])
                picture[where[target]] = to_rgb(COLOURS[own_colour])
                table = exponents(block.pattern, len(variables), degree)
                address = transform.addresses[target]
                rows.append(
                    {
                        "family": item.family.label,
                        "target": [int(address["scale"]), str(address["orientation"])],
                        "pattern": block.pattern,
                        "variables": variables,
                        "neighbours": len(variables) - 1,
                        "features": {n: len(exponents(block.pattern, len(variables), n)) for n in range(1, degree + 1)},
                        "every_feature_has_target": bool((table[1:, 0] >= 1).all()),
                    }
                )
            axis.imshow(picture, interpolation="nearest")
            _band_frames(axis, transform)
            axis.set_title(item.title)
            detail_row = rows[-2]
            shown = exponents(detail_row["pattern"], min(detail_row["neighbours"] + 1, len(item.names)), 2)
            text = ",\\; ".join(monomial_text(row, item.names) for row in shown)
            counts = ", ".join(map(str, detail_row["features"].values())) + f" features at n = 1 to {degree}"
            each = "; m: each neighbour" if "m" in item.names else ""
            axis.set_xlabel(f"n = 2:  ${text}${each}\n{counts} (detail target)", fontsize=8.5, labelpad=6)
        figure.suptitle(
            f"What a target coefficient sees (grid of {size}x{size} coefficients, {levels} levels)", fontsize=11.5
        )
        figure.tight_layout(rect=(0, 0.1, 1, 1))
        handles: list[Any] = [
            Rectangle((0, 0), 1, 1, color=COLOURS[c], label=text)
            for c, text in (
                ("vermilion", "target (one detail, one scaling atom)"),
                ("sky", "also seen by the detail target"),
                ("orange", "also seen by the scaling target"),
            )
        ]
        legend_figure(figure, handles)
    findings = [
        f"{r['family']}, {'scaling' if r['target'][1] == 'A' else 'detail'} target: {r['neighbours']} other coefficients, "
        f"{r['features'][degree]} features at degree {degree}"
        + ("; every feature but the intercept holds the target" if r["every_feature_has_target"] else "")
        for r in rows
    ]
    parameters = {**transform.config, "degree": degree, "interactions": "pairwise"}
    return finish_figure(figure, {"parameters": parameters, "targets": rows, "findings": findings}, output, name)


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


def noise_levels(
    output: str | Path,
    size: int = 32,
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
    n_train: int | None = None,
    n_images: int = 2,
    wavelet: str = "db2",
    seed: int = 0,
    data_root: str | None = None,
    name: str = "fig4",
) -> Made:
    """Figure 4: images at the noise levels, VE and the VP level of equal signal-to-noise ratio, and that ratio by band."""
    train = load_mnist("train", size=size, count=n_train, root=data_root)
    clean = load_mnist("test", size=size, count=n_images, root=data_root)[:]
    transform = WaveletTransform(train.shape[1:], wavelet)
    bands = band_snr(train, transform)
    schedule = ddpm_alpha_bars()
    levels: list[dict[str, Any]] = []
    for sigma in sigmas:
        alpha_bar = 1.0 / (1.0 + sigma**2)  # sigma / alpha of VP equals the VE sigma
        equal = vp(alpha_bar)
        noise = noise_like(train[:1000], seed, 0, round(sigma * 1e6))
        error = (((train[:1000] + sigma * noise).clamp(0, 1)) - train[:1000]).square().flatten(1).mean(1).numpy()
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
    with plt.rc_context(IMAGE_STYLE):
        columns = len(sigmas) + 1
        figure = plt.figure(figsize=(max(1.75 * columns, 8), 1.9 * n_images + 1.9 + 3.9))
        outer = figure.add_gridspec(2, 1, height_ratios=[1.9 * n_images + 1.9, 3.0], hspace=0.14)
        inner = outer[0].subgridspec(n_images + 1, columns, hspace=0.12, wspace=0.05)
        for row in range(n_images + 1):
            image = clean[min(row, n_images - 1), 0]
            for column in range(columns):
                axis = figure.add_subplot(inner[row, column])
                vp_row = row == n_images
                if vp_row:
                    image = clean[0, 0]
                if column == 0:
                    if vp_row:
                        axis.axis("off")
                        axis.text(
                            0.5, 0.5, "the first image\nat the equal\nVP level", ha="center", va="center", fontsize=9
                        )
                        continue
                    show_image(axis, image)
                    axis.set_title("clean" if row == 0 else "")
                    continue
                level = levels[column - 1]
                noise = noise_like(image, seed, 1, 0 if vp_row else row, round(level["sigma"] * 1e6))
                if vp_row:  # (0, 1) maps to (0, alpha): shown on that scale
                    show_image(axis, level["alpha"] * image + level["vp_sigma"] * noise, vmax=level["alpha"])
                    axis.set_xlabel(
                        rf"$\bar\alpha$ = {level['alpha_bar']:.3g}, DDPM t = {level['ddpm_step']}",
                        fontsize=8,
                        labelpad=3,
                    )
                else:
                    show_image(axis, image + level["sigma"] * noise)
                    axis.set_title(rf"VE $\sigma$ = {level['sigma']:g}" if row == 0 else "")
        axis = figure.add_subplot(outer[1])
        names = [f"{b['orientation']}{b['scale']}" for b in bands]
        for level, colour in zip(levels, sigma_colours(sigmas).values()):
            values = [b["snr"] for b in level["snr"]]
            axis.plot(names, values, "o-", color=colour, label=rf"$\sigma$ = {level['sigma']:g}")
        axis.axhline(1, color="0.4", linewidth=0.9)
        plain_log(axis)
        axis.grid(True, axis="y")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylabel(r"signal to noise, $\overline{\mathrm{var}\,w}\,/\,\sigma^2$")
        axis.set_xlabel("band (orientation and scale, coarse to fine)")
        axis.legend(fontsize=8.5, ncols=len(sigmas), loc="upper right")
        source = f"{len(train):,} images of {train.source}"
        figure.suptitle(f"Noise levels, {size}x{size}; signal to noise by band from\n{source}", fontsize=11, y=0.945)
    finest = [b for b in bands if b["scale"] == 1]
    findings = [
        f"sigma {v['sigma']:g} is VP alpha_bar {v['alpha_bar']:.4g} (nearest DDPM step {v['ddpm_step']} of {len(schedule)}); MSE of "
        f"the clamped noisy image {v['noisy_mse']:.5f} ± {v['noisy_mse_se']:.5f}; "
        f"signal exceeds noise in {sum(b['snr'] > 1 for b in v['snr'])} of {len(bands)} bands"
        for v in levels
    ]
    findings.append(
        f"mean variance of a coefficient: {bands[0]['variance']:.3g} in the scaling band, "
        f"{np.mean([b['variance'] for b in finest]):.3g} at the finest scale"
    )
    record = {
        "parameters": {
            "size": size,
            "sigmas": list(sigmas),
            "n_train": n_train,
            "n_images": n_images,
            "wavelet": wavelet,
        },
        "data": {"fit": train.provenance},
        "levels": levels,
        "findings": findings,
    }
    return finish_figure(figure, record, output, name, seed)
