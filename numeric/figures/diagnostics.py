"""What each correlation and each moment is worth, exactly, from moments alone (Section 5.2's diagnostics).

Two maps, both of exact expected squared errors, from moments alone, on the fitted data and on held-out data:

- *correlations*: how much the error of every scale and orientation falls when a family may use the orientations at its
  place (alone, or given its neighbours), its neighbours by radius, a higher degree, or the coefficient one scale above;
- *moments*: how much it rises when the system is solved with some cumulants of the clean data replaced by a Gaussian's,
  which are zero from the third on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import SymLogNorm

from numeric.evaluation.ablation import FamilyFit, falls
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.style import STYLE, fitted_on, select, sigma_colours
from numeric.noise import as_noise
from numeric.progress import progress_bar
from numeric.scores.own import WaveletScore

ROUNDING = 1e-9
"""A change of the error by less than this part of itself is rounding: of scaling atoms, say, which have no other orientation."""

# ----- configuration ---------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class DiagnosticsConfig(Parameters):
    """Parameters of the diagnostics.

    Attributes:
        size: image side. n_train, n_test: images (None: all). sigmas: VE noise levels.
        degree: of the families compared. max_degree: highest degree of the degree map.
        max_radius: highest radius of the neighbour map (pairwise interactions).
        folds: parts of the images of each split, for standard errors (moments of parts add up).
        ablation_degree: of the families whose moments are ablated.
        ridge: of the fits compared.
    """

    name: str = "diagnostics"
    size: int = 32
    n_train: int | None = None
    n_test: int | None = None
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    degree: int = 2
    max_degree: int = 4
    max_radius: int = 2
    folds: int = 8
    ablation_degree: int = 3
    ablation_families: Sequence[str] = ("independent", "band", "local")
    ridge: float = 1e-10

    notebook: ClassVar[str] = "diagnostics"

    def check(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds must be >= 2 for a standard error, got {self.folds}")
        if self.degree < 1 or self.max_degree < 2 or self.ablation_degree < 2:
            raise ValueError("degrees: need degree >= 1, max_degree >= 2 and ablation_degree >= 2")
        if self.max_radius < 1:
            raise ValueError(f"max_radius must be >= 1, got {self.max_radius}")


def correlation_rows(config: DiagnosticsConfig, fits: dict[str, FamilyFit], sigma: float) -> list[dict[str, Any]]:
    """Value of every correlation at one sigma (all exact)."""
    noise, degree = as_noise(sigma), config.degree
    independent = {d: fits["independent"].errors(noise, d) for d in range(1, config.max_degree + 1)}
    rows = []
    for d in range(2, config.max_degree + 1):
        rows += falls(independent[d - 1], independent[d], correlation=f"degree {d - 1} to {d}", sigma=sigma)
    below = independent[degree]
    for name, label in (("band", "orientations at one place"), ("parent", "parent, one scale above")):
        rows += falls(below, fits[name].errors(noise, degree), correlation=label, sigma=sigma)
    previous = below
    for radius in range(1, config.max_radius + 1):
        errors = fits[f"local {radius}"].errors(noise, degree)
        rows += falls(previous, errors, correlation=f"neighbours, radius {radius - 1} to {radius}", sigma=sigma)
        previous = errors
    near = fits["local 1"].errors(noise, degree)
    rows += falls(
        near, fits["joint"].errors(noise, degree), correlation="orientations, given neighbours of radius 1", sigma=sigma
    )
    return rows


def ablation_rows(config: DiagnosticsConfig, fits: dict[str, FamilyFit], sigma: float) -> list[dict[str, Any]]:
    """Rise of the error at one sigma when cumulants are replaced by Gaussian ones (``gain`` is negative for a rise)."""
    noise, n = as_noise(sigma), config.ablation_degree
    rows = []
    for name in config.ablation_families:
        fit = fits["local 1" if name == "local" else name]
        full = fit.errors(noise, n)
        linear = fit.errors(noise, 1)
        top = 2 * n
        kinds = {f"without order {k}": [k] for k in range(3, top + 1)}
        kinds |= {f"Gaussian from order {k}": list(range(k, top + 1)) for k in range(3, top + 1)}
        for label, orders in kinds.items():
            errors, lost = fit.ablated(noise, n, orders)
            for row in falls(full, errors, family=name, ablation=label, sigma=sigma):
                rows.append({**row, "rise": -row["gain"], "directions_left_out": lost})
        for row in falls(full, linear, family=name, ablation="degree 1", sigma=sigma):
            rows.append({**row, "rise": -row["gain"], "directions_left_out": 0.0})
    return rows


def measure(config: DiagnosticsConfig, progress: bool = True) -> dict[str, Any]:
    """Both maps, all sigmas; returns the record the figure is drawn from."""
    train, test = config.images("train", config.size, config.n_train), config.images("test", config.size, config.n_test)
    if len(test) < 2 * config.folds:
        raise ValueError(f"{len(test)} held-out images are too few for {config.folds} folds: use more, or fewer folds")
    n, a = config.degree, config.ablation_degree
    ablated = set(config.ablation_families)
    wanted = {
        "independent": WaveletScore("independent", max(config.max_degree, n, a), ridge=config.ridge),
        "band": WaveletScore("band", max(n, a) if "band" in ablated else n, ridge=config.ridge),
        "parent": WaveletScore("parent", n, ridge=config.ridge),
        "joint": WaveletScore("joint", n, 1, ridge=config.ridge),
    }
    for radius in range(1, config.max_radius + 1):
        degree = max(n, a) if radius == 1 and "local" in ablated else n
        wanted[f"local {radius}"] = WaveletScore("local", degree, radius, ridge=config.ridge)
    fits = {name: FamilyFit(model, train, test, config.folds, progress) for name, model in wanted.items()}
    correlations: list[dict[str, Any]] = []
    ablations: list[dict[str, Any]] = []
    with progress_bar(len(config.sigmas), "noise levels", progress, "sigma") as bar:
        for sigma in config.sigmas:
            correlations += correlation_rows(config, fits, sigma)
            ablations += ablation_rows(config, fits, sigma)
            bar.update()
    return {
        "readout": "own",
        "data": {"fit": train.provenance, "test": test.provenance},
        "correlations": correlations,
        "ablations": ablations,
    }


# ----- figure and sentences --------------------------------------------------------------------------------------------------


def _bands(rows: Sequence[dict[str, Any]]) -> list[tuple[Any, str]]:
    found = list(dict.fromkeys((r["scale"], r["orientation"]) for r in rows))
    return sorted(found, key=lambda b: (b[0] == "all", b[0] if b[0] != "all" else 0, "HVDA".find(b[1])))


def correlation_map(axis: Any, rows: Sequence[dict[str, Any]], sigmas: Sequence[float], norm: Any) -> Any:
    """Fall of the held-out error in per cent by band (down) and sigma (across), as a coloured table."""
    bands = _bands(rows)
    chosen = [[select(rows, sigma=s, split="test", scale=b[0], orientation=b[1])[0] for s in sigmas] for b in bands]
    table = 100 * np.array([[r["gain"] for r in line] for line in chosen])
    image = axis.imshow(table, cmap="RdBu", norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        colour = "white" if abs(value) > 15 else "black"
        axis.text(j, i, f"{round(value, 1) + 0.0:.1f}", ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(sigmas)), [f"{s:g}" for s in sigmas], fontsize=8)
    axis.axhline(len(bands) - 1.5, color="black", linewidth=0.8)
    axis.set_xlabel(r"noise $\sigma$", fontsize=8.5)
    return image


def ablation_panel(axis: Any, rows: Sequence[dict[str, Any]], sigmas: Sequence[float], orders: Sequence[int]) -> None:
    """Rise of the held-out error by the order of the cumulants lost.

    Points whose ablated Gram matrix is not positive are left out: there the system has no solution of its own, only one
    projected on the directions that are left, whose error means nothing. The panel says how many.
    """
    left_out = 0
    for sigma, colour in sigma_colours(sigmas).items():
        for kind, line, marker in (("without order {}", "", "o"), ("Gaussian from order {}", "-", "s")):
            found = [(k, select(rows, ablation=kind.format(k), sigma=sigma)[0]) for k in orders]
            keep = [1.0 if not r["directions_left_out"] else float("nan") for _, r in found]  # a line breaks there
            left_out += sum(k != 1.0 for k in keep)
            axis.errorbar(
                [k + 0.06 * (line == "") for k, _ in found], [100 * r["rise"] * k for (_, r), k in zip(found, keep)],
                yerr=[100 * r["se"] for _, r in found], linestyle=line, marker=marker, capsize=2, linewidth=1.2, color=colour,
                markersize=5 if line == "" else 3.5, markerfacecolor="white" if line == "" else colour,
                label=rf"$\sigma={sigma:g}$" if line else None,
            )  # fmt: skip
    axis.grid(alpha=0.25)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_xticks(orders)
    axis.set_xlim(min(orders) - 0.3, max(orders) + 0.3)
    axis.set_xlabel("order of the cumulants replaced by a Gaussian's (zero)")
    text = f"{left_out} of {2 * len(orders) * len(sigmas)} left out:\nablated Gram matrix not positive"
    axis.text(0.98, 0.97, text if left_out else "", transform=axis.transAxes, ha="right", va="top", fontsize=7.5, color="0.35")


def draw(record: dict[str, Any]) -> Any:
    """Maps over scale and orientation (rows) and sigma (columns), held-out; below, the rise of the error by moment order."""
    rows, p = record["correlations"], record["parameters"]
    sigmas = p["sigmas"]
    names, bands = list(dict.fromkeys(r["correlation"] for r in rows)), _bands(rows)
    labels = ["whole image" if s == "all" else f"{o}, scale {s}" for s, o in bands]
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure = plt.figure(figsize=(2.35 * len(names) + 1.6, 9.6))
        outer = figure.add_gridspec(2, 1, height_ratios=[1.25, 1], hspace=0.36)
        grid = outer[0].subgridspec(1, len(names), wspace=0.08)
        norm = SymLogNorm(1.0, vmin=-60, vmax=60, base=10)
        for number, name in enumerate(names):
            axis = figure.add_subplot(grid[number])
            image = correlation_map(axis, select(rows, correlation=name), sigmas, norm)
            axis.set_yticks(range(len(bands)), labels if number == 0 else [""] * len(bands), fontsize=8)
            axis.set_title(name.replace(", ", ",\n").replace("degree ", "degree\n"), fontsize=9)
        bar = figure.colorbar(image, ax=figure.axes, fraction=0.012, pad=0.01)
        bar.set_label("fall of the exact expected error, % (held-out)", fontsize=8.5)
        lower = outer[1].subgridspec(1, len(p["ablation_families"]), wspace=0.2)
        for number, family in enumerate(p["ablation_families"]):
            axis = figure.add_subplot(lower[number])
            mine = select(record["ablations"], family=family, split="test", scale="all")
            ablation_panel(axis, mine, sigmas, range(3, 2 * p["ablation_degree"] + 1))
            axis.set_title(f"{family}, degree {p['ablation_degree']}")
            if number == 0:
                axis.set_ylabel("rise of the exact expected error, %\n(held-out, whole image)")
                title = "filled: this order and above, open: this order alone"
                place: Any = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.16), "ncols": len(sigmas)}
                axis.legend(fontsize=8, title=title, title_fontsize=8, **place)
        what = f"Value of each correlation (degree {p['degree']} unless named) and of each moment, own readout"
        figure.suptitle(f"{what}, {p['size']}x{p['size']}, {fitted_on(record)}", fontsize=11, y=0.965)
    return figure


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record: most valuable correlation by sigma, and the moment whose loss costs most."""
    lines = []
    rows, names = record["correlations"], list(dict.fromkeys(r["correlation"] for r in record["correlations"]))
    for sigma in record["parameters"]["sigmas"]:
        whole = {n: select(rows, correlation=n, sigma=sigma, split="test", scale="all")[0] for n in names}
        order = sorted(names, key=lambda n: -whole[n]["gain"])
        lines.append(
            f"sigma {sigma:g}, held-out, fall of the error: "
            + ", ".join(f"{n} {100 * whole[n]['gain']:.2f} ± {100 * whole[n]['se']:.2f}%" for n in order)
        )
    harmful = [
        f"{r['correlation']} at {r['orientation']} scale {r['scale']}, sigma {r['sigma']:g} ({100 * r['gain']:.2f}%)"
        for r in rows
        if r["split"] == "test" and r["scale"] != "all" and r["gain"] < -max(2 * r["se"], ROUNDING)
    ]
    lines.append(
        "bands whose held-out error a correlation raises by more than two standard errors: "
        + (f"{len(harmful)}, {', '.join(harmful[:6])}{' ...' if len(harmful) > 6 else ''}" if harmful else "none")
    )
    for family in record["parameters"]["ablation_families"]:
        for sigma in record["parameters"]["sigmas"]:
            here = select(record["ablations"], family=family, sigma=sigma, split="test", scale="all")
            single = [r for r in here if r["ablation"].startswith("without")]
            sound = [r for r in single if not r["directions_left_out"]]
            worst = max(sound, key=lambda r: r["rise"], default=None)
            told = "no order can be lost alone"
            if worst is not None:
                told = f"the costliest order to lose is {worst['ablation'].split()[-1]} ({100 * worst['rise']:+.2f} ± {100 * worst['se']:.2f}% error)"
            rest = [f"{r['ablation'].split()[-1]} ({100 * r['directions_left_out']:.1f}% of directions)" for r in single if r not in sound]
            lines.append(
                f"{family}, sigma {sigma:g}: {told}" + (f"; left out, Gram matrix not positive: order {', '.join(rest)}" if rest else "")
            )
    return lines


make_figure = FigureMaker(measure, draw, findings)
