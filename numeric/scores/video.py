"""The wavelet score of videos: time is one more direction of the transform and of the families' neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from numeric.scores.base import plain
from numeric.scores.families import Family
from numeric.scores.own import WaveletScore
from numeric.video import VideoTransform

TIME_SETTINGS = ("time_wavelet", "time_levels", "time_radius")


class VideoScore(WaveletScore):
    """Analytic score of videos ``(n, frames, height, width)``, ``own`` readout, in a separable three-dimensional basis.

    A coefficient sees its family's neighbours in space, and the coefficients of the same atom at neighbouring places in
    time.  Noise is integrated exactly, as for images, because the transform is orthonormal in time.

    Args:
        family, degree, radius, interactions: as of :class:`~numeric.scores.own.WaveletScore`; ``family="independent"`` has no
            neighbours in space.
        time_wavelet: orthogonal wavelet in time; None: the frames themselves. time_levels: of it.
        time_radius: places in time, of the same band, that a coefficient sees on either side; 0: none.
        wavelet, levels, mode, synthesis, basis, ridge, ridge_side, ridge_scaling, device: as of ``WaveletScore``.

    Example:
        >>> import numpy as np
        >>> from numeric import VideoScore, as_image_set, moving_digits
        >>> squares = as_image_set(np.full((5, 4, 4), 255, np.uint8))
        >>> videos = moving_digits(squares, count=60, frames=4, size=8, per_video=1, speed=1.0)
        >>> space = VideoScore("local", 1, time_wavelet=None, time_radius=0).fit(videos)
        >>> both = VideoScore("local", 1, time_wavelet="haar", time_radius=1).fit(videos)
        >>> both.expected_mse(0.5) < space.expected_mse(0.5)
        True
        >>> both.denoise(videos[:2], 0.5).shape, both.label
        (torch.Size([2, 4, 8, 8]), 'local(r=1, pairwise)+1 in time, own readout')
    """

    channels_coupled = False

    def __init__(
        self,
        family: str = "local",
        degree: int = 2,
        time_wavelet: str | None = "haar",
        time_levels: int | None = None,
        time_radius: int = 1,
        radius: int = 1,
        interactions: str = "pairwise",
        wavelet: str = "db2",
        levels: int | None = None,
        mode: str = "periodization",
        synthesis: str = "pseudo-inverse",
        basis: str = "monomial",
        ridge: float | str = 1e-6,
        ridge_side: str = "score",
        ridge_scaling: str = "unit",
        device: str = "cpu",
    ) -> None:
        super().__init__(
            family, degree, radius, interactions, False, wavelet, levels, mode, synthesis, basis, ridge, ridge_side, ridge_scaling, device
        )
        self.time_wavelet, self.time_levels, self.time_radius = time_wavelet, time_levels, time_radius

    @property
    def family_(self) -> Family:
        """The feature family of the present parameters."""
        return replace(super().family_, time_radius=int(self.time_radius))

    def new_transform(self, shape: tuple[int, int, int]) -> VideoTransform:
        """The transform of videos of ``(frames, height, width)``."""
        space = {"wavelet": str(self.wavelet), "levels": self.levels, "mode": str(self.mode), "synthesis": str(self.synthesis)}
        return VideoTransform((shape[1], shape[2]), shape[0], self.time_wavelet, self.time_levels, **space)

    def joint(self, images: Any, **options: Any) -> Any:
        """Not of videos.

        Raises:
            ValueError: always; the message says what to use.
        """
        raise ValueError(
            f"the exact pixel error of videos needs {self.transform_.to_orthonormal}, {self.transform_} is {self.transform_.kind}: "
            "use such sizes, or the error measured on noisy videos (numeric.evaluate)"
        )

    def fit_moments(self, moments: Any) -> Self:
        super().fit_moments(moments)
        self.fitted_settings_ |= {name: plain(getattr(self, name)) for name in TIME_SETTINGS}
        return self
