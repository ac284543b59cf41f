"""The two readouts of the paper's features by name."""

from __future__ import annotations

from typing import Any

from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore

READOUTS: dict[str, Any] = {"own": WaveletScore, "shared": SharedWaveletScore}
