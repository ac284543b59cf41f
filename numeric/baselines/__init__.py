"""Denoisers to hold the wavelet score against; all share :class:`numeric.denoiser.Denoiser`."""

from numeric.baselines.network import data_source, overlap_caution, trained, trained_at

__all__ = ["data_source", "overlap_caution", "trained", "trained_at"]
