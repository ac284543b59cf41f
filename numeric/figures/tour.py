"""What ``notebooks/tour.ipynb`` calls: the closed form beside the solver, a grid of denoised images, strips of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from analytic import ScoreCoefficient
from numeric.data import ImageSet
from numeric.denoiser import Denoiser
from numeric.evaluation.formulas import coefficients
from numeric.evaluation.sweep import image_errors, noise_like
from numeric.figures.style import STYLE
from numeric.scores.own import WaveletScore


def closed_form_against_solver(model: WaveletScore, images: ImageSet, sigma: float, bands: int = 4) -> list[str]:
    """The closed form (21) on exact moments of one coefficient a band, beside what the model's solver found (15).

    Args:
        model: independent family, fitted on ``images`` with ridge 0.
    """
    chosen = model.transform_.bands[:bands]
    places = [(band.scale, band.orientation) for band in chosen]
    formula = ScoreCoefficient("independent", model.degree).lambdify()
    solved = model.solve(sigma).blocks[0].theta
    lines = []
    for band, real in zip(chosen, coefficients(images, places, 2 * model.degree, progress=False)):
        theta = formula(real.floats[: 2 * model.degree + 1], sigma)
        difference = np.abs(theta - solved[band.indices[real.row, real.column]].numpy()).max() / np.abs(theta).max()
        lines.append(f"{real.label}: theta = {np.round(theta, 4)}, largest relative difference {difference:.1e}")
    return lines


def denoised_figure(methods: Mapping[str, Denoiser], clean: Tensor, sigmas: Sequence[float], seed: int = 0) -> Figure:
    """The first of ``clean`` ``(n, channels, height, width)`` at every VE sigma, titled by the MSE over all of them."""
    with plt.rc_context({**STYLE, "axes.grid": False}):
        rows, columns = len(methods) + 2, len(sigmas)
        figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.1 * rows), squeeze=False)
        for column, sigma in enumerate(sigmas):
            noisy = clean + sigma * noise_like(clean, seed, column)
            shown = {"clean": clean, "noisy": noisy.clamp(0, 1)}
            shown |= {name: method.denoise(noisy, sigma) for name, method in methods.items()}
            for row, (name, images) in enumerate(shown.items()):
                axes[row, column].imshow(images[0, 0], cmap="gray", vmin=0, vmax=1)
                axes[row, column].set_axis_off()
                text = rf"$\sigma$ = {sigma:g}" if row == 0 else f"{name}, MSE {image_errors(images, clean).mean():.4f}"
                axes[row, column].set_title(text, fontsize=8.5)
        figure.tight_layout()
    plt.close(figure)
    return figure


def samples_figure(samples: Mapping[str, Tensor]) -> Figure:
    """A strip of generated images per denoiser, one seed a column."""
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(len(samples), 1, figsize=(8, 1.35 * len(samples)), squeeze=False)
        for axis, (name, images) in zip(axes[:, 0], samples.items()):
            axis.imshow(np.concatenate(list(images[:, 0].clamp(0, 1).numpy()), axis=1), cmap="gray", vmin=0, vmax=1)
            axis.set_title(name, fontsize=9)
            axis.set_axis_off()
        figure.tight_layout()
    plt.close(figure)
    return figure
