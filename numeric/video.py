"""A separable three-dimensional wavelet transform: :class:`~numeric.wavelets.WaveletTransform` in space, a second wavelet in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pywt
import torch
from torch import Tensor

from numeric.wavelets import WaveletError, WaveletTransform, analysis_matrix


def time_matrix(frames: int, wavelet: str | None, levels: int | None) -> tuple[np.ndarray, list[range]]:
    """Orthonormal analysis matrix of time ``(frames, frames)``, and which rows belong to each of its bands, coarsest first.

    Args:
        wavelet: orthogonal; None leaves the frames as they are.
        levels: None: as many as leave two scaling coefficients, and as ``2^levels`` divides the frames.

    Raises:
        WaveletError: no orthogonal wavelet of that name, or frames that ``2^levels`` does not divide.
    """
    if wavelet is None:
        return np.eye(frames), [range(frames)]
    if wavelet not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(wavelet).orthogonal:
        raise WaveletError(f"time_wavelet must be an orthogonal wavelet such as 'haar' or 'db2', or None, got {wavelet!r}")
    if levels is None:
        levels = max((j for j in range(1, 20) if frames % 2**j == 0 and frames >> j >= 2), default=0)
    if levels < 1 or frames % 2**levels or frames >> levels < 1:
        raise WaveletError(
            f"{frames} frames cannot be halved {levels} times: give a number of frames that 2^levels divides, or time_wavelet=None"
        )
    matrix, low = np.eye(frames), frames
    bands: list[range] = []
    for _ in range(levels):
        step = analysis_matrix(wavelet, low, "periodization")
        matrix[:low] = step @ matrix[:low]
        bands.insert(0, range(low // 2, low))
        low //= 2
    return matrix, [range(low), *bands]


class VideoTransform(WaveletTransform):
    """Wavelet transform of videos ``(n, frames, height, width)``: in space frame by frame, then in time across the frames.

    The matrix of time is orthonormal, so that white noise stays white and everything exact about the spatial transform
    (noise covariance, synthesis) stays exact.  A coefficient's channel is its place in time: scaling coefficients of time
    first, then its details from coarse to fine.

    Args:
        shape: ``(height, width)``. frames: of a video.
        time_wavelet: orthogonal wavelet in time, or None for the frames themselves. time_levels: see :func:`time_matrix`.
        wavelet, levels, mode, synthesis: of space, as :class:`~numeric.wavelets.WaveletTransform` takes them.

    Raises:
        WaveletError: a wavelet that is not orthogonal in time, or frames that cannot be halved so often.

    Example:
        >>> import torch
        >>> from numeric import VideoTransform
        >>> transform = VideoTransform((8, 8), frames=4, time_wavelet="haar", time_levels=1)
        >>> still = torch.rand(1, 1, 8, 8, dtype=torch.float64).expand(2, 4, 8, 8)
        >>> w = transform.forward(still)
        >>> w.shape, bool(w[:, 2:].abs().max() < 1e-12)  # a still picture has no detail in time
        (torch.Size([2, 4, 64]), True)
        >>> torch.allclose(transform.inverse(w), still)
        True
        >>> transform.frames_near(0, radius=1), transform.frames_near(3, radius=1)  # within one band of time
        ([1], [2])
        >>> transform.config["frames"]
        4
    """

    def __init__(
        self,
        shape: int | tuple[int, int],
        frames: int,
        time_wavelet: str | None = "haar",
        time_levels: int | None = None,
        **space: Any,
    ) -> None:
        super().__init__(shape, **space)
        self.frames, self.time_wavelet, self.time_levels = int(frames), time_wavelet, time_levels
        self.time, self.time_bands = time_matrix(self.frames, time_wavelet, time_levels)

    def __repr__(self) -> str:
        return f"Video{super().__repr__()[7:-1]}, frames={self.frames}, time_wavelet={self.time_wavelet!r})"

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments, for results files."""
        return {**super().config, "frames": self.frames, "time_wavelet": self.time_wavelet, "time_levels": self.time_levels}

    def frames_near(self, place: int, radius: int) -> list[int]:
        """Places within ``radius`` of one in the same band of time (which does not wrap: a video's end is not its start)."""
        band = next(band for band in self.time_bands if place in band)
        return [p for p in range(place - radius, place + radius + 1) if p != place and p in band]

    def _in_time(self, values: Tensor, matrix: np.ndarray) -> Tensor:
        if values.shape[1] != self.frames:
            raise WaveletError(f"expected videos of {self.frames} frames, got {tuple(values.shape)}")
        if self.time_wavelet is None:
            return values
        return torch.tensordot(torch.as_tensor(matrix).to(values), values, dims=([1], [1])).movedim(0, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Videos ``(n, frames, height, width)`` to coefficients ``(n, frames, n_coefficients)``."""
        self._check(images)
        return self._in_time(super().forward(images), self.time)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(n, frames, n_coefficients)`` to videos."""
        return super().inverse(self._in_time(coefficients, self.time.T))
