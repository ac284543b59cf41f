"""numeric: wavelet scores evaluated on data, full denoisers and baselines (see README.md).

The public names are imported when they are first asked for, so that ``import numeric`` loads nothing heavy::

    from numeric import WaveletScore, load_mnist, ve, vp
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "numeric.data": ("ImageSet", "as_image_set", "load_mnist"),
    "numeric.moving": ("moving_digits",),
    "numeric.pictures": ("load_images", "load_natural"),
    "numeric.shards": ("Shards", "as_shards"),
    "numeric.denoiser": ("Denoiser",),
    "numeric.noise": ("NoiseLevel", "ddpm_alpha_bars", "ve", "vp"),
    "numeric.wavelets": ("WaveletTransform",),
    "numeric.video": ("VideoTransform",),
    "numeric.scores.own": ("WaveletScore",),
    "numeric.scores.video": ("VideoScore",),
    "numeric.scores.recommend": ("recommend",),
    "numeric.scores.shared": ("SharedWaveletScore",),
    "numeric.scores.wiener": ("WienerScore",),
    "numeric.scores.wiener_own": ("WienerOwnScore",),
    "numeric.scores.potential": ("PotentialScore",),
    "numeric.scores.refined": ("RefinedScore",),
    "numeric.evaluation.adapters": ("PlugAndPlay",),
    "numeric.evaluation.likelihood": ("Flow", "bits_per_dimension", "log_likelihood"),
    "numeric.evaluation.sample": ("NoiseStream", "Sampler", "ddpm_sigmas", "edm_sigmas"),
    "numeric.evaluation.sweep": ("evaluate",),
    "numeric.baselines.linear": ("LinearDenoiser",),
    "numeric.baselines.optimal": ("OptimalDenoiser",),
    "numeric.baselines.shrinkage": ("WaveletShrinkage",),
    "numeric.baselines.locality": ("LocalityDenoiser",),
    "numeric.baselines.mixture": ("GaussianMixtureDenoiser",),
    "numeric.baselines.conditional": ("ClassConditional",),
    "numeric.baselines.patches": ("LocalScoreMachine",),
    "numeric.baselines.pspc": ("PSPCDenoiser",),
    "numeric.baselines.network": ("NetworkDenoiser", "load_network", "trained"),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """A public name from the room it lives in (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'numeric' has no attribute {name!r}: public names are {', '.join(__all__)}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
