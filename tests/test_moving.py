"""Moving digits: straight paths between reflecting walls, the same video whatever is asked for beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from numeric.data import DataError, as_image_set
from numeric.moving import bounce, moving_digits

DIGITS = as_image_set(np.random.default_rng(0).integers(1, 256, (9, 6, 6), dtype=np.uint8))


def test_bouncing_is_stepping_with_reflection():
    """The folded line against a particle that is turned at the walls, step by step."""
    generator = np.random.default_rng(1)
    for _ in range(50):
        room, p, v = generator.integers(3, 20), generator.uniform(0, 3), generator.uniform(-2.9, 2.9)
        path, position, velocity = bounce(np.float64(p), np.float64(v), 40, room), p, v
        for step in path:
            assert step == pytest.approx(position, abs=1e-9)
            position += velocity
            if not 0 <= position <= room:
                position = -position if position < 0 else 2 * room - position
                velocity = -velocity
    assert np.array_equal(bounce(np.zeros(2), np.ones(2), 3, 0), np.zeros((3, 2)))


def test_one_digit_is_the_same_in_every_frame():
    videos = moving_digits(DIGITS, count=20, frames=12, size=17, per_video=1)
    known = {digit.numpy().tobytes() for digit in DIGITS.raw[:, 0]}
    for video in videos.raw[:]:
        for frame in video:
            rows, columns = (torch.nonzero(frame.any(axis)).flatten() for axis in (1, 0))
            assert frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy().tobytes() in known
    still = moving_digits(DIGITS, count=3, frames=5, size=17, speed=0)[:]
    assert torch.equal(still, still[:, :1].expand_as(still))


def test_a_step_is_as_long_as_the_speed():
    """Away from walls the centre moves by the speed, up to the rounding to pixels."""
    video = moving_digits(as_image_set(np.full((1, 4, 4), 255, np.uint8)), count=40, frames=2, size=200, per_video=1, speed=30)[:]
    grid = torch.arange(200.0)
    mass = video.sum((2, 3))
    centre = torch.stack([(video.sum(3) * grid).sum(2) / mass, (video.sum(2) * grid).sum(2) / mass], -1)
    length = (centre[:, 1] - centre[:, 0]).norm(dim=-1)
    inside = ((centre > 32) & (centre < 168)).all(-1).all(-1)
    assert inside.sum() > 10 and float((length[inside] - 30).abs().max()) < 1.5


def test_a_video_depends_on_its_number_and_the_seed():
    some, more = moving_digits(DIGITS, count=4, size=20), moving_digits(DIGITS, count=9, size=20)
    assert torch.equal(some[:], more[:4]) and torch.equal(more[[3]], some[-1:]) and some.shape == (16, 20, 20)
    assert not torch.equal(moving_digits(DIGITS, count=4, size=20, seed=1)[:], some[:])
    assert some.sha256 == more.take(4).sha256 and "seed 0" in some.provenance["source"]
    assert moving_digits(DIGITS.resized(3), size=8, count=1).shape == (16, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 5}, "6 x 6 pixels do not fit into 5"),
        ({"count": 0}, "count must be >= 1, got 0"),
        ({"frames": 0}, "frames must be >= 1"),
        ({"per_video": 0}, "per_video must be >= 1"),
        ({"speed": float("nan")}, "speed must be a finite number"),
    ],
)
def test_bad_requests_are_named(change, message):
    with pytest.raises(DataError, match=message):
        moving_digits(DIGITS, **change)
    with pytest.raises(DataError, match="grey, got 3 channels"):
        moving_digits(as_image_set(np.zeros((2, 3, 8, 8), np.uint8)))


def test_frames_are_channels_to_every_estimator():
    """Coupled frames denoise better than each frame for itself, on videos that were not fitted on."""
    from numeric.scores.own import WaveletScore

    videos = moving_digits(DIGITS, count=150, frames=4, size=16, speed=0.5)
    clean = moving_digits(DIGITS, count=100, frames=4, size=16, speed=0.5, seed=1)[:]
    y = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    error = {
        coupled: float((WaveletScore("independent", 2, channels_coupled=coupled).fit(videos).denoise(y, 0.5) - clean).square().mean())
        for coupled in (False, True)
    }
    assert error[True] < 0.9 * error[False]


def test_digits_outside_the_unit_range_are_refused():
    for scale, shift in ((255.0, 0.0), (2.0, -1.0)):
        digits = as_image_set(scale * torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + shift)
        with pytest.raises(DataError, match=r"want pixels in \[0, 1\]"):
            moving_digits(digits, count=2, size=20)
