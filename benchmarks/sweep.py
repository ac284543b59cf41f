"""The whole sweep (noise levels x degrees x families) by exact moments and by regression on sampled noise, in one run.

Ours: one pass of clean moments per family at the highest degree; each noise level and degree is then a solve.
(i) scikit-learn ``PolynomialFeatures`` + ``Ridge`` per coefficient on drawn noise, fitted anew at each noise level and
degree.  Its time is measured on a random subset of coefficients and scaled up (``extrapolated``); at a small size it is
also run whole, which checks the scaling.  Its memory is that of one coefficient's design matrix.
(ii) the paper's readout: one dense ridge from all features to all pixels, on drawn noise.  Where its Gram does not fit
the memory given, the figure says so instead.

All see the same images; held-out MSE is on the same test images with the same noise.  The subset's errors are compared
with ours on the same subset of coefficients.  (i) fits the same features as ours, so the two errors differ only by what
sampled noise costs.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from numeric.data import ImageSet, as_image_set, load_mnist
from numeric.evaluation.sweep import noise_like
from numeric.noise import ve
from numeric.results import provenance, write_json
from numeric.scores.families import Family, exponents
from numeric.scores.own import WaveletScore
from numeric.scores.shared import shared_monomials
from numeric.wavelets import WaveletTransform

OUTPUT = Path(__file__).with_suffix(".json")
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> dict[str, float]:
    """Wall and CPU seconds; the CPU time does not depend on what else the machine does."""
    return {"seconds": time.perf_counter() - start[0], "cpu_seconds": time.process_time() - start[1]}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def coefficients(images: ImageSet, transform: WaveletTransform) -> np.ndarray:
    """Clean coefficients ``(n, n_coefficients)``, float64."""
    return torch.cat([transform.forward(b.double())[:, 0] for b in images.batches()]).numpy()


class SampledRidge:
    """scikit-learn on one coefficient: PolynomialFeatures of its variables, the family's columns, scaled, Ridge."""

    def __init__(self, pattern: str, degree: int, strength: float) -> None:
        self.pattern, self.degree, self.strength = pattern, degree, strength

    def design(self, v: np.ndarray, fit: bool) -> np.ndarray:
        if fit:
            self.polynomial = PolynomialFeatures(self.degree, include_bias=False).fit(v)
            wanted = {tuple(r) for r in exponents(self.pattern, v.shape[1], self.degree)}
            self.keep = [i for i, p in enumerate(self.polynomial.powers_) if tuple(p) in wanted]
        x = self.polynomial.transform(v)[:, self.keep]
        if fit:
            self.scaler = StandardScaler().fit(x)
        self.bytes = 2 * x.nbytes
        return self.scaler.transform(x)

    def fit(self, v: np.ndarray, w: np.ndarray) -> SampledRidge:
        self.ridge = Ridge(alpha=self.strength * len(v)).fit(self.design(v, True), w)
        return self

    def predict(self, v: np.ndarray) -> np.ndarray:
        return self.ridge.predict(self.design(v, False))


class SampledSharedRidge:
    """The paper's readout on drawn noise: all monomials of all coefficients, one dense ridge to all coefficients."""

    def __init__(self, rows: np.ndarray, strength: float) -> None:
        self.rows, self.strength = rows, strength

    def features(self, v: np.ndarray) -> np.ndarray:
        padded = np.concatenate([(v - self.mean) / self.scale, np.ones((len(v), 1))], axis=1)
        return np.prod([padded[:, column] for column in self.rows.T], axis=0)

    def fit(self, v: np.ndarray, w: np.ndarray) -> SampledSharedRidge:
        self.mean, self.scale = v.mean(0), v.std(0)
        gram = np.zeros((len(self.rows), len(self.rows)))
        cross = np.zeros((len(self.rows), w.shape[1]))
        for start in range(0, len(v), 1000):
            phi = self.features(v[start : start + 1000])
            gram += phi.T @ phi
            cross += phi.T @ w[start : start + 1000]
        norm = 1 / np.sqrt(gram.diagonal())
        gram *= norm[:, None] * norm[None, :]
        gram[np.diag_indices(len(gram))] += self.strength
        self.readout = norm[:, None] * np.linalg.solve(gram, norm[:, None] * cross)
        return self

    def predict(self, v: np.ndarray) -> np.ndarray:
        return np.concatenate([self.features(part) @ self.readout for part in np.array_split(v, max(1, len(v) // 500))])


def compare(
    size: int,
    train: ImageSet,
    test: ImageSet,
    sigmas: list[float],
    degrees: list[int],
    families: list[str],
    subset: int | None,
    memory: int,
    strength: float,
    seed: int,
) -> list[dict[str, Any]]:
    """All methods on one size; one record per family."""
    transform = WaveletTransform(size)
    w_train, w_test = coefficients(train, transform), coefficients(test, transform)
    ready = as_image_set(train[: len(train)])  # resized before the clock starts, as the others' coefficients are made
    rng = np.random.default_rng(seed)
    out = []
    for name in families:
        family = Family(name)
        WaveletScore(name, max(degrees)).fit(ready.take(1000)).solve(sigmas[0])  # warm-up
        start = clock()
        model = WaveletScore(name, max(degrees)).fit(ready)
        fit = since(start)
        start = clock()
        for sigma in sigmas:
            for degree in degrees:
                model.solve(sigma, degree)
        ours = {"fit": fit, "solve": since(start), "peak_rss_gib": peak_gib()}
        ours["seconds"] = fit["seconds"] + ours["solve"]["seconds"]
        ours["cpu_seconds"] = fit["cpu_seconds"] + ours["solve"]["cpu_seconds"]

        owner = {int(v[0]): (b.pattern, v) for b in family.blocks(transform) for v in b.variables}
        every = np.arange(transform.n_coefficients)
        chosen = every if subset is None else np.sort(rng.choice(every, size=min(subset, len(every)), replace=False))
        factor = len(every) / len(chosen)
        sampled_time = {"seconds": 0.0, "cpu_seconds": 0.0}
        design_bytes, cells, shared_rows = 0, [], []
        for number, sigma in enumerate(sigmas):
            draw_start = clock()
            v_train = w_train + sigma * noise_like(torch.from_numpy(w_train), seed, number, 0).numpy()
            drawing = since(draw_start)
            for key in sampled_time:
                sampled_time[key] += drawing[key]
            v_test = w_test + sigma * noise_like(torch.from_numpy(w_test), seed, number, 1).numpy()
            y_test = transform.inverse(torch.from_numpy(v_test)[:, None])
            for degree in degrees:
                start = clock()
                fitted = {}
                for target in chosen:
                    pattern, variables = owner[int(target)]
                    fitted[int(target)] = SampledRidge(pattern, degree, strength).fit(
                        v_train[:, variables], w_train[:, target]
                    )
                took = since(start)
                for key in sampled_time:
                    sampled_time[key] += factor * took[key]
                design_bytes = max(design_bytes, max(f.bytes for f in fitted.values()))
                theirs = [(fitted[int(t)].predict(v_test[:, owner[int(t)][1]]) - w_test[:, t]) ** 2 for t in chosen]
                estimate = transform.forward(model.estimate_degrees(y_test, ve(sigma), [degree])[0])[:, 0].numpy()
                mine = (estimate[:, chosen] - w_test[:, chosen]) ** 2
                difference = mine.mean(1) - np.stack(theirs, 1).mean(1)  # paired by image
                cells.append(
                    {
                        "sigma": sigma,
                        "degree": degree,
                        "ours_mse": float(mine.mean()),
                        "sampled_mse": float(np.mean(theirs)),
                        "difference_se": float(difference.std(ddof=1) / math.sqrt(len(difference))),
                        "ours_mse_all_coefficients": float(np.mean((estimate - w_test) ** 2)),
                    }
                )
                count = len(shared_monomials(family, transform, degree))
                needed = 3 * 8 * count**2
                row: dict[str, Any] = {"sigma": sigma, "degree": degree, "features": count, "gram_gib": needed / 2**30}
                if needed > memory:
                    row["infeasible"] = f"{needed / 2**30:.1f} GiB of Gram and factor, {memory / 2**30:.1f} GiB given"
                else:
                    start = clock()
                    shared = SampledSharedRidge(shared_monomials(family, transform, degree), 1e-6).fit(v_train, w_train)
                    row |= since(start)
                    row["mse"] = float(np.mean((shared.predict(v_test) - w_test) ** 2))
                shared_rows.append(row)
        out.append(
            {
                "size": size,
                "family": name,
                "train": train.provenance,
                "test": test.provenance,
                "ours": ours,
                "sampled_sklearn": {
                    **sampled_time,
                    "extrapolated": subset is not None,
                    "coefficients_timed": len(chosen),
                    "coefficients": len(every),
                    "design_matrix_gib": design_bytes / 2**30,
                    "peak_rss_gib": peak_gib(),
                },
                "ratio_wall": sampled_time["seconds"] / ours["seconds"],
                "ratio_cpu": sampled_time["cpu_seconds"] / ours["cpu_seconds"],
                "cells": cells,
                "sampled_shared": shared_rows,
            }
        )
        typer.echo(
            f"{size}x{size} {name}: ours {ours['seconds']:.1f} s, scikit-learn {sampled_time['seconds']:.0f} s"
            f"{' (extrapolated)' if subset is not None else ''}: ratio {out[-1]['ratio_wall']:.0f} wall, {out[-1]['ratio_cpu']:.0f} CPU"
        )
    return out


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals of a sweep and the computed verdict."""
    ours = sum(r["ours"]["seconds"] for r in records)
    theirs = sum(r["sampled_sklearn"]["seconds"] for r in records)
    cpu = sum(r["sampled_sklearn"]["cpu_seconds"] for r in records) / sum(r["ours"]["cpu_seconds"] for r in records)
    cells = [c for r in records for c in r["cells"]]
    worse = [c for c in cells if c["ours_mse"] > c["sampled_mse"] + 2 * c["difference_se"]]
    shared = [row for r in records for row in r["sampled_shared"]]
    feasible = [row for row in shared if "seconds" in row]
    return {
        "size": records[0]["size"],
        "extrapolated": records[0]["sampled_sklearn"]["extrapolated"],
        "ours_seconds": ours,
        "sampled_sklearn_seconds": theirs,
        "ratio_wall": theirs / ours,
        "ratio_cpu": cpu,
        "at_least_50x": theirs / ours >= 50 and cpu >= 50,
        "cells": len(cells),
        "cells_ours_lower": sum(c["ours_mse"] <= c["sampled_mse"] for c in cells),
        "cells_ours_worse_by_2_se": len(worse),
        "mean_mse_ours": float(np.mean([c["ours_mse"] for c in cells])),
        "mean_mse_sampled": float(np.mean([c["sampled_mse"] for c in cells])),
        "shared_seconds_feasible_cells": sum(row["seconds"] for row in feasible),
        "shared_feasible": len(feasible),
        "shared_infeasible": len(shared) - len(feasible),
        "shared_largest_gram_gib": max(row["gram_gib"] for row in shared),
    }


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
    size: Annotated[int, typer.Option(help="side of the main sweep, pixels")] = 32,
    n_train: Annotated[int, typer.Option(help="training images")] = 4000,
    n_test: Annotated[int, typer.Option(help="held-out images")] = 1000,
    subset: Annotated[int, typer.Option(help="coefficients timed for scikit-learn at the main size")] = 8,
    small: Annotated[int, typer.Option(help="side of the sweep that is run whole")] = 8,
    sigma: Annotated[list[float], typer.Option(help="noise levels")] = [0.1, 0.25, 0.5, 1.0],  # noqa: B006
    memory_gib: Annotated[float, typer.Option(help="memory given to the dense shared ridge")] = 1.0,
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    seed: Annotated[int, typer.Option(help="seed of the noise and of the subset")] = 0,
) -> None:
    """Run the sweep both ways at the main size (scikit-learn on a subset) and at the small size (whole)."""
    torch.set_num_threads(threads)
    families = ["independent", "band", "local"]
    record: dict[str, Any] = {}
    for label, side, part, images in (
        ("whole", small, None, 2000),
        ("check", small, subset, 2000),
        ("main", size, subset, n_train),
    ):
        train, test = load_mnist("train", size=side, count=images), load_mnist("test", size=side, count=n_test)
        rows = compare(side, train, test, sigma, [1, 2, 3], families, part, int(memory_gib * 2**30), 1e-10, seed)
        record[label] = {"summary": summary(rows), "families": rows}
    whole, check = record["whole"]["summary"], record["check"]["summary"]
    record["extrapolation_over_measured"] = check["sampled_sklearn_seconds"] / whole["sampled_sklearn_seconds"]
    record["provenance"] = provenance(" ".join(["python -m benchmarks.sweep", *sys.argv[1:]]), seed=seed)
    write_json(output, record)
    main_ = record["main"]["summary"]
    typer.echo(
        f"{size}x{size} sweep: {main_['ratio_wall']:.0f}x faster by wall clock, {main_['ratio_cpu']:.0f}x by CPU time "
        f"({'at least' if main_['at_least_50x'] else 'NOT'} 50x); held-out MSE lower or equal in {main_['cells_ours_lower']} of "
        f"{main_['cells']} cells, worse by 2 SE in {main_['cells_ours_worse_by_2_se']}; scaled-up over measured time at "
        f"{small}x{small}: {record['extrapolation_over_measured']:.2f}"
    )


if __name__ == "__main__":
    app()
