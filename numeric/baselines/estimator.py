"""Denoisers that are fitted to images, as scikit-learn takes them: parameters, ``clone``, and a score of held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from numeric.data import as_image_set
from numeric.noise import NoiseLevel, ve
from numeric.scores.base import Selectable, SettingsError


class FittedDenoiser(Selectable, BaseEstimator):
    """A :class:`~numeric.denoiser.Denoiser` whose constructor keeps its arguments under their names.

    ``GridSearchCV`` needs no ``scoring``: :meth:`score` of images without a noise level is what it maximises.

    Example:
        >>> import torch
        >>> from sklearn.model_selection import GridSearchCV
        >>> from numeric import GaussianMixtureDenoiser
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
        >>> search = GridSearchCV(GaussianMixtureDenoiser(rank=2), {'components': [1, 20]}, cv=2).fit(images)
        >>> search.best_params_, search.best_estimator_.score(images) < 0
        ({'components': 1}, True)
        >>> mixture = search.best_estimator_.set_params(components=3)
        >>> mixture.denoise(images, 0.5)
        Traceback (most recent call last):
        numeric.scores.base.SettingsError: components is 3 but was 1 in the fit: fit again, or set it back
        >>> mixture.fit(images).unclamped_mse(images, 0.5) > 0
        True
    """

    of_fit: tuple[str, ...] = ()
    """Parameters that only a fit can change."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters, checked as the constructor checks them.

        Raises:
            ValueError: what the constructor refuses, or no parameter of that name.
        """
        known = self.get_params(deep=False)
        for name in params.keys() - known.keys():
            raise ValueError(f"{type(self).__name__} has no parameter {name!r}: it has {', '.join(known) or 'none'}")
        type(self)(**{**known, **params})
        return super().set_params(**params)

    def remember(self, images: Any) -> None:
        super().remember(images)
        self.fitted_settings_ = {name: getattr(self, name) for name in self.of_fit}

    def by_level(self, y: Any, noise: Any, use: Callable[[Tensor, NoiseLevel], Tensor], axis: int = 0) -> Any:
        """As every denoiser's; a parameter that was changed after the fit and that only a fit can change is a named error."""
        for name, fitted in self.__dict__.get("fitted_settings_", {}).items():
            if getattr(self, name) != fitted:
                raise SettingsError(f"{name} is {getattr(self, name)!r} but was {fitted!r} in the fit: fit again, or set it back")
        return super().by_level(y, noise, use, axis)

    def _errors_on(self, images: Any, sigmas: Sequence[float]) -> list[float]:
        return [self.unclamped_mse(images, sigma) for sigma in sigmas]

    def unclamped_mse(self, images: Any, noise: NoiseLevel | float) -> float:
        """MSE per pixel on clean images, before clamping: of one draw of noise an image, the same draw for every denoiser."""
        data, level = as_image_set(images), noise if isinstance(noise, NoiseLevel) else ve(noise)
        generator, total = torch.Generator().manual_seed(0), 0.0
        for clean in data.batches(500):
            y = level.alpha * clean + level.sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
            total += float((self.denoise(y, level, clamp=False) - clean).double().square().flatten(1).mean(1).sum())
        return total / len(data)
