"""When a network counts as trained: its held-out error has stopped falling.

The mean squared error at :data:`SIGMAS` on held-out images, with the averaged weights and the same noise each time, is followed
at image counts a factor of sqrt(2) apart.  A network is *trained* when the last doubling of images lowered the mean of the four
by less than 2 %, and *in training* until then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

SIGMAS = (0.1, 0.25, 0.5, 1.0)
TOLERANCE = 0.02
LEAST_IMAGES = 100_000
"""No network counts as trained before: the first steps of a cautious schedule lower the error little."""


def count_after(images: int, per_doubling: int = 2, first: int = 1000) -> int:
    """The first of the counts ``first 2^(k / per_doubling)`` that lies above ``images``; the same for every length of training."""
    k = 0 if images < first else math.floor(per_doubling * math.log2(images / first) + 1e-9) + 1
    count = math.ceil(first * 2 ** (k / per_doubling))
    return count if count > images else math.ceil(first * 2 ** ((k + 1) / per_doubling))


def images_seen(record: dict[str, Any]) -> int:
    """Images a record's network was trained on, with repetitions."""
    return int(record["images"]) if "images" in record else int(record["steps"] * record["schedule"]["batch_size"])


def mean_mse(point: dict[str, Any]) -> float:
    """Mean over the noise levels of one point of a curve, ``{"images", "mse": {sigma: value}}``."""
    return sum(point["mse"].values()) / len(point["mse"])


def last_doubling(curve: Sequence[dict[str, Any]]) -> float | None:
    """By what part of itself the last doubling of images lowered the mean error (log-linear between points), or None.

    Example:
        >>> from numeric.baselines.plateau import last_doubling
        >>> curve = [{"images": n, "mse": {"0.5": e}} for n, e in ((1000, 0.2), (2000, 0.1), (4000, 0.09))]
        >>> round(last_doubling(curve), 3)
        0.1
    """
    if len(curve) < 2 or curve[-1]["images"] < 2 * curve[0]["images"]:
        return None
    half = curve[-1]["images"] / 2
    after = next(i for i, point in enumerate(curve) if point["images"] >= half)
    b = curve[after]
    before = mean_mse(b)
    if b["images"] > half:
        a = curve[after - 1]
        share = math.log(half / a["images"]) / math.log(b["images"] / a["images"])
        before = (1 - share) * mean_mse(a) + share * mean_mse(b)
    return 1 - mean_mse(curve[-1]) / before


def is_trained(curve: Sequence[dict[str, Any]]) -> bool:
    """Whether the last doubling lowered the mean error by less than :data:`TOLERANCE`, after :data:`LEAST_IMAGES` at least."""
    if not curve or curve[-1]["images"] < LEAST_IMAGES:
        return False
    drop = last_doubling(curve)
    return drop is not None and drop < TOLERANCE


def state(record: dict[str, Any]) -> str:
    """``trained on 1,000,000 images`` or ``in training (300,000 images)``: what figures and claims call a network."""
    count = f"{images_seen(record):,} images"
    return f"trained on {count}" if record.get("trained") else f"in training ({count})"
