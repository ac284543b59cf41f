"""Shared fixtures: real MNIST moments (full set if there, else the announced fall-back), small random data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from numeric.data import FallbackDataWarning, ImageSet, load_mnist
from tests.threads import torch_threads


def _mnist(split: str, size: int, count: int) -> ImageSet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackDataWarning)
        return load_mnist(split, size=size, count=count, download=False)


@pytest.fixture(scope="session")
def mnist16() -> ImageSet:
    """2,000 training digits at 16 x 16."""
    return _mnist("train", 16, 2000)


@pytest.fixture(scope="session")
def mnist32() -> ImageSet:
    """2,000 training digits at 32 x 32."""
    return _mnist("train", 32, 2000)


@pytest.fixture(scope="session")
def mnist32_test() -> ImageSet:
    """500 held-out digits at 32 x 32."""
    return _mnist("test", 32, 500)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, so that numbers do not depend on how work is shared."""
    with torch_threads(1):
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As many threads as people use at least."""
    with torch_threads(2):
        yield
