"""Denoisers that a readout is given to build on, as scikit-learn's stacking takes its estimators: checked, fitted, named in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import clone

from numeric.data import ImageSet
from numeric.denoiser import Denoiser


def check_estimators(estimators: Any) -> None:
    """Raise ValueError unless they are a list of denoisers that can be fitted."""
    if isinstance(estimators, Denoiser) or not all(isinstance(one, Denoiser) and hasattr(one, "fit") for one in estimators):
        raise ValueError(f"estimators must be a list of denoisers with fit, got {estimators!r}: such as (PSPCDenoiser(5),)")


def fitted(estimators: Sequence[Any], images: ImageSet) -> list[Any]:
    """Clones of them, fitted; those given are left as they are."""
    return [clone(one).fit(images) for one in estimators]


def written(estimator: Any) -> str:
    """Class and settings of an estimator, as files name it; what a file says is left as it is.

    Raises:
        ValueError: a setting is a function, which no file can tell from others.
    """
    if isinstance(estimator, str):
        return estimator
    settings = estimator.get_params(deep=False)
    for name, value in settings.items():
        if callable(value):
            raise ValueError(f"{type(estimator).__name__} has the function {name}={value!r}, which a file cannot hold: give a table of levels")
    return f"{type(estimator).__name__}({', '.join(f'{name}={value!r}' for name, value in sorted(settings.items()))})"
