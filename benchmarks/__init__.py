"""Ratios against other methods, each measured in one run: ``python -m benchmarks.NAME``."""
