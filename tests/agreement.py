"""Delta method and jackknife held against each other, for every readout."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch


def check_agreement(model: Any, images: Any, noise: Any, **options: Any) -> None:
    """Theta (all coefficients together) and the expected MSE within their own error."""
    delta = model.standard_errors(noise, images, **options)
    jackknife = model.standard_errors(noise, images, method="jackknife", groups=40, **options)
    one = torch.cat([theta.flatten() for theta in delta.theta])
    other = torch.cat([theta.flatten() for theta in jackknife.theta])
    errors = [torch.cat([e.flatten() for e in found.theta_error]) for found in (delta, jackknife)]
    varies = one > 1e-9 * one.max()  # coefficients of what is zero in every image have no error but rounding
    one, other, errors = one[varies], other[varies], [e[varies] for e in errors]
    gaps = (other / one).log() / (errors[0] ** 2 + errors[1] ** 2).sqrt()
    assert float((gaps.abs() < 3).double().mean()) > 0.98
    # 40 groups leave 11 % each; the coefficients are far from independent, so their median is left 10 %.
    assert float((other / one).median()) == pytest.approx(1.0, abs=0.1)
    gap = math.log(jackknife.expected_mse / delta.expected_mse)
    assert abs(gap) < 3 * math.hypot(delta.expected_mse_error, jackknife.expected_mse_error)
