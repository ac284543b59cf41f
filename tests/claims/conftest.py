"""One small run of all claims, for every test of this folder; the fall-back digits, tiny sizes."""

from __future__ import annotations

import warnings

import pytest

from numeric.claims import report
from numeric.claims.config import ClaimsConfig

SMALL = {
    "sizes": [8, 16], "sigmas": [0.25, 1.0], "degree": 2, "hermite_degree": 3, "n_train": 240, "n_test": 120, "n_eval": 40,
    "n_ssim": 20, "n_network": 20, "folds": 4, "groups": 4, "samples": [100], "repeats": 2, "raw_ridges": [0.1],
    "n_generated": 20, "steps": 4, "condition_limit": 300, "photograph_sizes": [8, 16], "n_patches": 66,
}  # fmt: skip


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """(configuration, record) of a run without networks."""
    cache = tmp_path_factory.mktemp("claims")
    config = ClaimsConfig(**SMALL, cache=str(cache))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr("numeric.baselines.network.trained", lambda size, names=None, folder=None: {})
        patch.setattr("numeric.claims.report.SIMULATIONS", 5)
        return config, report.run_claims(config, progress=False)
