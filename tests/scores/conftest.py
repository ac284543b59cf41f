"""Images on which the readouts are held against drawn noise, where a module has none of its own."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def images(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(40, 1, 6, 6, generator=generator, dtype=torch.float64) ** 2
