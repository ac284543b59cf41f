"""Denoisers to hold the wavelet score against; all share :class:`numeric.denoiser.Denoiser`."""
