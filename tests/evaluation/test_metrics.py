"""What samples are scored by, against other libraries and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage
import skimage.filters
import torch
from sklearn.neighbors import NearestNeighbors

from numeric.evaluation.metrics import (
    SampleQuality,
    edge_error,
    edge_sharpness,
    frechet_distance,
    gradient_magnitude,
    nearest_training_image,
    seed_agreement,
)


def test_gradient_is_scikit_images_sobel(mnist32):
    x = mnist32[:5].double()
    theirs = np.stack([skimage.filters.sobel(image[0].numpy()) for image in x])
    assert np.allclose(gradient_magnitude(x)[:, 0].numpy(), theirs, atol=1e-12)


def test_edge_sharpness_orders_blur_and_keeps_its_scale(mnist32):
    """1 for the clean image, less for every wider Gaussian blur; it scales with contrast; the edge error grows likewise."""
    x = mnist32[:20].double()
    blurred = [torch.from_numpy(scipy.ndimage.gaussian_filter(x.numpy(), (0, 0, s, s))) for s in (0.5, 1.0, 2.0)]
    sharpness = [float(edge_sharpness(image, x).mean()) for image in (x, *blurred)]
    assert sharpness[0] == pytest.approx(1) and all(a > b + 0.02 for a, b in itertools.pairwise(sharpness))
    assert torch.allclose(edge_sharpness(0.3 * x, x), torch.full((20,), 0.3, dtype=torch.float64))
    errors = [float(edge_error(image, x).mean()) for image in (x, *blurred)]
    assert errors[0] == 0 and all(a < b for a, b in itertools.pairwise(errors))


def test_nearest_training_image_is_scikit_learns(mnist16):
    """Chunked and exact: the same neighbours as scikit-learn's brute force, whatever the chunk; copies are memorised."""
    train, query = mnist16.take(500), mnist16[500:530]
    found = nearest_training_image(query, train, chunk=70)
    distance, index = (
        NearestNeighbors(n_neighbors=2, algorithm="brute").fit(train[:].flatten(1)).kneighbors(query.flatten(1))
    )
    assert np.array_equal(found.index.numpy(), index[:, 0])
    assert np.allclose(torch.stack([found.distance, found.second], 1).numpy() * 16, distance, atol=1e-5)
    assert found.memorised() < 0.2
    copies = train[:10] + 0.01 * torch.randn(10, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert nearest_training_image(copies, train).memorised() == 1
    assert nearest_training_image(copies, train).index.tolist() == list(range(10))
    with pytest.raises(ValueError, match="use one size"):
        nearest_training_image(torch.zeros(1, 1, 8, 8), train)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    """Diagonal Gaussians: |m|^2 + sum (s_a - s_b)^2, recovered from 200,000 samples within 3%."""
    rng = np.random.default_rng(0)
    sa, sb, mean = np.array([1.0, 2.0, 0.5]), np.array([1.5, 1.0, 0.5]), np.array([0.3, 0.0, -0.4])
    a, b = rng.normal(size=(200_000, 3)) * sa, rng.normal(size=(200_000, 3)) * sb + mean
    assert frechet_distance(a, b) == pytest.approx(float((mean**2).sum() + ((sa - sb) ** 2).sum()), rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_sample_quality_tells_digits_from_noise(mnist16):
    """Real held-out digits: AUC about 0.5, many classes; noise of their mean and spread: AUC near 1, far in Frechet distance."""
    quality = SampleQuality(mnist16[:1000], mnist16.labels[:1000], seed=3)
    shuffled = 1000 + torch.randperm(1000, generator=torch.Generator().manual_seed(0))  # writers follow one another
    real, other = mnist16[shuffled[:250]], mnist16[shuffled[250:500]]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0)) * real.std() + real.mean()
    same, different = quality.two_sample_auc(real, other, trees=50), quality.two_sample_auc(noise, other, trees=50)
    assert abs(same["value"] - 0.5) < 4 * same["se"] and different["value"] > 0.95
    assert quality.frechet(noise, other, 20)["value"] > 5 * quality.frechet(real, other, 20)["value"]
    assert (
        quality.classifier_score(real)["value"]
        > 5
        > 1.5
        > quality.classifier_score(real[:1].expand(50, -1, -1, -1))["value"]
    )
    with pytest.raises(ValueError, match="needs labels"):
        SampleQuality(mnist16[:50]).classifier_score(real)


def test_seed_agreement(mnist16):
    x = mnist16[:40]
    same = seed_agreement(x, 2 * x + 1)
    assert same["matched"] == pytest.approx(1) and same["shuffled"] < 0.8
    rolled = seed_agreement(x, x.roll(1, 0))
    assert abs(rolled["matched"] - rolled["shuffled"]) < 4 * rolled["se"] + 0.03
    with pytest.raises(ValueError, match="two sets"):
        seed_agreement(x, x[:3])
