"""Measures beside the MSE: edges, memorisation, distance of samples from data, and agreement seed by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from torch import Tensor

from numeric.data import as_image_set

# ----- edges ---------------------------------------------------------------------------------------------------------------


def gradient_magnitude(images: Tensor) -> Tensor:
    """Sobel gradient magnitude ``(n, channels, height, width)``, the normalisation and borders of ``skimage.filters.sobel``."""
    kernel = torch.tensor([1.0, 2.0, 1.0])[:, None] * torch.tensor([1.0, 0.0, -1.0])[None, :] / 4
    weight = torch.stack([kernel, kernel.T])[:, None].to(images)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    parts = torch.nn.functional.conv2d(torch.nn.functional.pad(flat, (1, 1, 1, 1), mode="replicate"), weight)
    return (parts.square().sum(1) / 2).sqrt().reshape(images.shape)


def edge_mask(clean: Tensor, fraction: float = 0.5) -> Tensor:
    """Edge pixels of clean images: gradient of at least ``fraction`` of the image's largest, boolean in their shape."""
    gradient = gradient_magnitude(clean)
    top = gradient.flatten(1).amax(1).reshape(-1, 1, 1, 1)
    return (gradient >= fraction * top) & (gradient > 0)


def edge_sharpness(estimate: Tensor, clean: Tensor, fraction: float = 0.5) -> Tensor:
    """How much of the edges' steepness an estimate keeps, ``(n,)``: 1 for the clean image, 0 for a flat one.

    The mean Sobel gradient of the estimate over the clean image's edge pixels, over the clean image's own mean there.
    """
    mask = edge_mask(clean, fraction)
    kept = (gradient_magnitude(estimate) * mask).flatten(1).sum(1)
    return kept / (gradient_magnitude(clean) * mask).flatten(1).sum(1).clamp_min(1e-12)


def edge_error(estimate: Tensor, clean: Tensor, fraction: float = 0.5) -> Tensor:
    """Mean squared error of the Sobel gradient at the clean image's edge pixels, ``(n,)``, in squared grey levels per pixel.

    Unlike :func:`edge_sharpness` it isn't raised by noise or overshoot.
    """
    mask = edge_mask(clean, fraction)
    error = (gradient_magnitude(estimate) - gradient_magnitude(clean)).square() * mask
    return error.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


# ----- memorisation --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nearest:
    """Nearest training images: ``index (n,)``, root-mean-square ``distance (n,)`` per pixel, and ``second (n,)`` nearest."""

    index: Tensor
    distance: Tensor
    second: Tensor

    @property
    def ratio(self) -> Tensor:
        """Distance to the nearest over that to the second nearest, ``(n,)``; far below 1 is a copy of one image."""
        return self.distance / self.second.clamp_min(1e-12)

    def memorised(self, threshold: float = 1 / 3) -> float:
        """Share of samples whose ratio lies below the threshold (the criterion of Yoon et al., 2023)."""
        return float((self.ratio < threshold).double().mean())


def nearest_training_image(samples: Tensor, training: Any, chunk: int = 4000) -> Nearest:
    """Exact nearest neighbours of ``(n, channels, height, width)`` samples in pixel distance, a chunk of images at a time.

    Args:
        training: anything :func:`numeric.data.as_image_set` takes, at least two images of the samples' shape.

    Raises:
        ValueError: the shapes differ, or there is only one training image.
    """
    data = as_image_set(training)
    if tuple(samples.shape[1:]) != data.shape:
        raise ValueError(f"samples are {tuple(samples.shape[1:])}, training images {data.shape}: use one size")
    if len(data) < 2:
        raise ValueError("nearest and second nearest need at least two training images")
    query = samples.detach().cpu().double().flatten(1)
    best = torch.full((len(query), 2), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(query), 2, dtype=torch.int64)
    start = 0
    for batch in data.batches(chunk):
        distance = torch.cdist(query, batch.double().flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        joined = torch.cat([best, distance], 1)
        places = torch.cat([index, torch.arange(start, start + len(batch)).expand(len(query), -1)], 1)
        best, order = joined.topk(2, largest=False)
        index = places.gather(1, order)
        start += len(batch)
    best = best / query.shape[1] ** 0.5
    return Nearest(index[:, 0], best[:, 0], best[:, 1])


# ----- distance from the data ----------------------------------------------------------------------------------------------


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians fitted to two feature sets ``(n, features)``.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Heusel et al., 2017), the root by ``scipy.linalg.sqrtm``.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"the Frechet distance needs at least two samples a side, got {len(a)} and {len(b)}")
    ca, cb = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = scipy.linalg.sqrtm(ca @ cb)
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb) - 2 * np.trace(root).real)


class SampleQuality:
    """Scores of samples against data, every one by scikit-learn or SciPy, with bootstrap intervals.

    Args:
        images: ``(n, channels, height, width)`` data that define the features (training images).
        labels: ``(n,)`` their classes, or None for no classifier score.
        components: principal components used as features.
        seed: of the classifiers, folds and bootstrap.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None, components: int = 32, seed: int = 0) -> None:
        flat = images.detach().cpu().flatten(1).numpy()
        self.seed = seed
        self.pca = PCA(min(components, *flat.shape), random_state=seed).fit(flat)
        self.classifier: Any = None
        if labels is not None:
            self.classifier = make_pipeline(
                PCA(min(50, *flat.shape), whiten=True, random_state=seed),
                MLPClassifier((100,), alpha=1e-2, max_iter=300, random_state=seed),
            )
            self.classifier.fit(flat, labels.numpy())

    def features(self, images: Tensor) -> np.ndarray:
        """Principal components ``(n, components)``."""
        return self.pca.transform(images.detach().cpu().flatten(1).numpy())

    def frechet(self, samples: Tensor, reference: Tensor, resamples: int = 100) -> dict[str, float]:
        """Squared Frechet distance of samples from reference (held-out) images, with a bootstrap standard error.

        Both sets should be as large for every comparison: the distance of finite sets is biased upwards.
        """
        a, b = self.features(samples), self.features(reference)
        rng = np.random.default_rng(self.seed)
        draws = [
            frechet_distance(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))])
            for _ in range(resamples)
        ]
        return {"value": frechet_distance(a, b), "se": float(np.std(draws, ddof=1))}

    def two_sample_auc(self, samples: Tensor, reference: Tensor, trees: int = 200, folds: int = 5) -> dict[str, float]:
        """Classifier two-sample test (Lopez-Paz and Oquab, 2017): cross-validated AUC of a random forest told to separate
        samples from reference images on their principal components; 0.5 is indistinguishable, 1 told apart always.

        The standard error is Hanley and McNeil's (1982).
        """
        x = np.concatenate([self.features(samples), self.features(reference)])
        y = np.r_[np.ones(len(samples)), np.zeros(len(reference))]
        forest = RandomForestClassifier(trees, random_state=self.seed, min_samples_leaf=2)
        split = StratifiedKFold(folds, shuffle=True, random_state=self.seed)
        auc = float(roc_auc_score(y, cross_val_predict(forest, x, y, cv=split, method="predict_proba")[:, 1]))
        q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        m, n = len(samples), len(reference)
        variance = (auc * (1 - auc) + (m - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / (m * n)
        return {"value": auc, "se": max(variance, 0.0) ** 0.5}

    def classifier_score(self, samples: Tensor, resamples: int = 200) -> dict[str, float]:
        """``exp(E KL(p(label | x) || p(label)))`` of a classifier trained on the data's labels (Salimans et al., 2016).

        1 for samples of no or of one class, the number of classes for certain and even ones.
        """
        if self.classifier is None:
            raise ValueError("the classifier score needs labels: SampleQuality(images, labels)")
        p = np.clip(self.classifier.predict_proba(samples.detach().cpu().flatten(1).numpy()), 1e-12, 1.0)
        rng = np.random.default_rng(self.seed)

        def score(q: np.ndarray) -> float:
            return float(np.exp((q * np.log(q / q.mean(0))).sum(1).mean()))

        draws = [score(p[rng.integers(len(p), size=len(p))]) for _ in range(resamples)]
        return {"value": score(p), "se": float(np.std(draws, ddof=1))}


# ----- agreement seed by seed ----------------------------------------------------------------------------------------------


def seed_agreement(a: Tensor, b: Tensor) -> dict[str, float]:
    """Do two denoisers make the same image from the same noise?  Pearson correlation of paired samples, ``(n, ...)`` each.

    Returns: ``matched`` (mean over seeds) with ``se``; ``shuffled``, the mean over all pairs of different seeds: what two
    sets of images have in common whatever the seed.

    Raises:
        ValueError: the sets differ in shape or hold fewer than two images.
    """
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"need two sets of at least two images of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    x, y = (v.double().flatten(1) for v in (a, b))
    x, y = (v - v.mean(1, keepdim=True) for v in (x, y))
    x, y = (v / v.norm(dim=1, keepdim=True).clamp_min(1e-12) for v in (x, y))
    table = x @ y.T
    matched, n = table.diagonal(), len(table)
    return {
        "matched": float(matched.mean()),
        "se": float(matched.std() / n**0.5),
        "shuffled": float((table.sum() - matched.sum()) / (n * (n - 1))),
    }


def image_agreement(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """How alike the images of two denoisers are, image by image, ``(n, ...)`` each.

    Returns: for each image ``(n,)`` float64: ``r2``, the squared Pearson correlation of the pixels (the r^2 that Kamb and
    Ganguli (2024) and Lukoianov et al. (2025) print); ``determination``, ``1 - |a - b|^2 / |b - mean(b)|^2``, which unlike r2
    sees a wrong brightness or contrast and may be negative; ``mse`` per pixel.  An image without contrast has r2 0.

    Raises:
        ValueError: the sets differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"need two sets of images of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    x, y = (v.double().flatten(1) for v in (a, b))
    mse = (x - y).square().mean(1)
    x, y = (v - v.mean(1, keepdim=True) for v in (x, y))
    xx, yy, xy = (x * x).mean(1), (y * y).mean(1), (x * y).mean(1)
    product = xx * yy
    r2 = torch.where(product > 0, xy.square() / product.clamp_min(1e-300), torch.zeros_like(product))
    return {"r2": r2, "determination": 1 - mse / yy.clamp_min(1e-300), "mse": mse}
