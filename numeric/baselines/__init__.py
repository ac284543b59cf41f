"""Denoisers to hold the wavelet score against; all share :class:`numeric.denoiser.Denoiser`."""

from numeric.baselines.network import trained

__all__ = ["trained"]
