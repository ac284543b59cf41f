"""Videos of moving digits: what a third dimension, time, is worth beside space, on data that need no download.

The set of Srivastava, Mansimov and Salakhutdinov (2015, "Unsupervised learning of video representations using LSTMs"), made
anew: digits fly at constant speed through a square and bounce off its walls.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from numeric.imageset import ImageSet, LazyImages
from numeric.pixels import DataError


def bounce(start: np.ndarray, velocity: np.ndarray, frames: int, room: int) -> np.ndarray:
    """Positions ``(frames, ...)`` in [0, ``room``] at constant speed between walls that reflect.

    A reflected path is a straight one folded up: position ``p`` on the line is ``|(p + room) mod 2 room - room|``.
    """
    straight = start + velocity * np.arange(frames).reshape(-1, *[1] * np.ndim(start))
    return np.abs((straight + room) % (2 * room) - room) if room > 0 else np.zeros_like(straight)


class MovingDigits:
    """Videos made when they are asked for; number ``i`` depends on the seed and ``i`` alone.

    Args: see :func:`moving_digits`.
    """

    def __init__(self, digits: ImageSet, count: int, frames: int, size: int, per_video: int, speed: float, seed: int) -> None:
        self.digits, self.count, self.frames, self.size = digits, count, frames, size
        self.per_video, self.speed, self.seed = per_video, speed, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """Video ``(frames, size, size)``, uint8: the brighter digit is in front."""
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} videos, not {index}")
        generator = np.random.default_rng((self.seed, int(index)))
        _, height, width = self.digits.shape
        room = np.array([self.size - height, self.size - width])
        chosen = self.digits[generator.integers(len(self.digits), size=self.per_video)][:, 0]
        chosen = (chosen * 255).round().to(torch.uint8)
        angles = generator.uniform(0, 2 * np.pi, self.per_video)
        start = generator.uniform(0, 1, (self.per_video, 2)) * room
        velocity = self.speed * np.stack([np.sin(angles), np.cos(angles)], -1)
        out = torch.zeros(self.frames, self.size, self.size, dtype=torch.uint8)
        for digit, p, v in zip(chosen, start, velocity):
            rows, columns = (bounce(p[axis], v[axis], self.frames, room[axis]).round().astype(int) for axis in (0, 1))
            for frame, row, column in zip(out, rows, columns):
                place = frame[row : row + height, column : column + width]
                torch.maximum(place, digit, out=place)
        return out


def moving_digits(
    digits: ImageSet,
    *,
    count: int = 1000,
    frames: int = 16,
    size: int = 64,
    per_video: int = 2,
    speed: float = 3.0,
    seed: int = 0,
) -> ImageSet:
    """Videos of moving digits as an image set whose channels are the frames, ``(n, frames, size, size)``.

    Args:
        digits: what moves, such as ``load_mnist("train", size=None)``; held-out videos are those of held-out digits.
        count: videos.
        frames: of a video.
        size: side of the square they move in, pixels; digits are as large as ``digits`` hands them out.
        per_video: digits in a video.
        speed: pixels a frame, in a direction drawn for each digit.
        seed: of digits, places and directions; video ``i`` is the same whatever ``count`` is.

    Returns:
        A lazy set: a video is made when it is read.

    Raises:
        DataError: digits in colour, larger than the square or with pixels outside [0, 1], or a count that is not positive.

    Example:
        >>> import numpy as np
        >>> from numeric.data import as_image_set
        >>> from numeric.moving import moving_digits
        >>> squares = as_image_set(np.full((5, 8, 8), 255, np.uint8))
        >>> moving_digits(squares, count=3, frames=4, size=32)[:2].shape
        torch.Size([2, 4, 32, 32])
    """
    channels, height, width = digits.shape
    if channels != 1:
        raise DataError(f"moving digits are grey, got {channels} channels")
    if max(height, width) > size:
        raise DataError(f"digits of {height} x {width} pixels do not fit into {size}: give digits.resized({size // 2}), or a larger size")
    if digits.pixel_range != (0.0, 1.0):
        raise DataError(f"moving digits want pixels in [0, 1], got {digits.pixel_range}: rescale them, or give uint8")
    for name, value in (("count", count), ("frames", frames), ("per_video", per_video)):
        if value < 1:
            raise DataError(f"{name} must be >= 1, got {value}")
    if not (np.isfinite(speed) and speed >= 0):
        raise DataError(f"speed must be a finite number of pixels a frame >= 0, got {speed}")
    videos = MovingDigits(digits, count, frames, size, per_video, speed, seed)
    source = f"{per_video} moving digits of {height} x {width}, {speed:g} pixels a frame, seed {seed}, from {digits.source}"
    return ImageSet(LazyImages(videos), source=source, split=digits.split)
