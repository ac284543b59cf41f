"""Shared by the tests of training: small random images."""

from __future__ import annotations

import pytest
import torch

from numeric.data import ImageSet


@pytest.fixture
def images() -> ImageSet:
    """30 random images of 8 x 8 eight-bit pixels."""
    generator = torch.Generator().manual_seed(4)
    return ImageSet((torch.rand(30, 1, 8, 8, generator=generator) * 255).to(torch.uint8))
