"""Class-conditional form of any denoiser that is fitted to images: one for each label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numeric.data import ImageSet, as_image_set
from numeric.denoiser import Denoiser, as_noisy_images
from numeric.noise import NoiseLevel, as_levels
from numeric.progress import progress_bar


class ClassConditional(Denoiser):
    """``E[x | y, class]``: a denoiser fitted to the images of each class alone.

    Args:
        make: makes an unfitted denoiser, such as ``LinearDenoiser`` or ``lambda: WaveletScore("band", 3)``.

    Attributes:
        classes_: the labels, ascending. denoisers_: label -> fitted denoiser. priors_: label -> share of the images.

    Example:
        >>> import torch
        >>> from numeric.baselines.conditional import ClassConditional
        >>> from numeric.baselines.linear import LinearDenoiser
        >>> x, labels = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
        >>> model = ClassConditional(LinearDenoiser).fit(x, labels)
        >>> model.denoise(x[:3], 0.1, labels=[0, 1, 0]).shape, model.score(x[:3], 0.1, labels=1).shape
        (torch.Size([3, 1, 4, 4]), torch.Size([3, 1, 4, 4]))
        >>> model.given(1).label, model.label  # of one class an ordinary denoiser, for a sampler
        ('linear', 'linear, by class')
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    @property
    def label(self) -> str:
        """Name in figures."""
        return f"{getattr(self.make(), 'label', 'denoiser')}, by class"

    def fit(self, images: Any, y: Any = None, *, progress: bool = False, **options: Any) -> ClassConditional:
        """Fit one denoiser a class; ``y`` are labels ``(n,)``, by default the images' own; ``options`` go to each fit.

        Raises:
            ValueError: no labels, or not one an image.
        """
        data = as_image_set(images)
        labels = data.labels if y is None else torch.as_tensor(np.asarray(y))
        if labels is None or tuple(labels.shape) != (len(data),):
            shape = None if labels is None else tuple(labels.shape)
            raise ValueError(f"need one label for each of the {len(data)} images, got {shape}: give fit(images, labels)")
        self.classes_ = sorted(set(labels.tolist()))
        self.denoisers_: dict[Any, Any] = {}
        self.priors_: dict[Any, float] = {}
        with progress_bar(len(self.classes_), "classes", progress, "class") as bar:
            for name in self.classes_:
                index = torch.nonzero(labels == name).flatten()
                part = ImageSet(data[index], labels[index], source=data.source, split=data.split)
                self.denoisers_[name] = self.make().fit(part, **options)
                self.priors_[name] = len(index) / len(data)
                bar.update()
        self.remember(data)
        for denoiser in self.denoisers_.values():  # one class of floating images may span less
            denoiser.pixel_range_ = self.pixel_range_
        return self

    def given(self, name: Any) -> Any:
        """The denoiser of one class.

        Raises:
            ValueError: no such class. NotFittedError.
        """
        denoisers = self.learned("denoisers_")
        if name not in denoisers:
            raise ValueError(f"no class {name!r}: fitted on {', '.join(map(str, self.classes_))}")
        return denoisers[name]

    def denoise(self, y: Any, noise: Any, clamp: bool = True, *, labels: Any = None) -> Any:
        """As :meth:`numeric.denoiser.Denoiser.denoise`, given each image's label ``(n,)`` (or one for all)."""
        return self._by_class(y, noise, labels, lambda model, part, level: model.denoise(part, level, clamp))

    def score(self, y: Any, noise: Any, *, labels: Any = None) -> Any:
        """Score of the class's images, as :meth:`numeric.denoiser.Denoiser.score`."""
        return self._by_class(y, noise, labels, lambda model, part, level: model.score(part, level))

    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        raise ValueError("the class is not given: use denoise(y, noise, labels=...), or given(label) in a sampler")

    def _by_class(self, y: Any, noise: Any, labels: Any, use: Callable[[Any, Tensor, Any], Tensor]) -> Any:
        self.learned("denoisers_")
        images = as_noisy_images(y)
        if labels is None:
            raise ValueError("the class is not given: use denoise(y, noise, labels=...), or given(label) in a sampler")
        names = np.broadcast_to(np.asarray(labels), (len(images),)).tolist() if np.ndim(labels) == 0 else list(np.asarray(labels))
        if len(names) != len(images):
            raise ValueError(f"got {len(names)} labels for {len(images)} image(s): give one, or one for each")
        levels = as_levels(noise, len(images))
        parts, order = [], []
        for name in dict.fromkeys(names):
            index = [place for place, other in enumerate(names) if other == name]
            level = levels if isinstance(levels, NoiseLevel) else [levels[place] for place in index]
            parts.append(use(self.given(name), images[index], level))
            order += index
        out = torch.cat(parts)[torch.tensor(order, device=images.device).argsort()]
        return out if isinstance(y, Tensor) else out.numpy()
