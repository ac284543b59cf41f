"""numeric: wavelet scores evaluated on data, full denoisers and baselines (see README.md)."""
