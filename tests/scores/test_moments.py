"""Moments: exactness of the streaming sums, translation and noise integration (equation (20))."""

from __future__ import annotations

from math import comb, prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from numeric.noise import NoiseLevel, ddpm_alpha_bars, ve, vp
from numeric.scores.families import Family, FamilyError, closure, exponents, monomial_plan, product_count
from numeric.scores.moments import CleanMoments, MomentError
from numeric.scores.tables import heat, translate
from numeric.wavelets import WaveletTransform

PATTERNS = [("independent", 1, 5), ("target", 3, 3), ("pairwise", 4, 3), ("full", 3, 3)]


def empirical(x: torch.Tensor, plan) -> torch.Tensor:
    """Moments ``(M, 1)`` of samples ``(q, n)`` by brute force."""
    return torch.stack([torch.prod(x.T ** torch.as_tensor(row), dim=1).mean() for row in plan.products])[:, None]


@pytest.mark.parametrize(
    ("pattern", "variables", "degree", "count"),
    [
        ("independent", 1, 4, 5),
        ("target", 3, 1, 2),
        ("target", 3, 2, comb(4, 3) + 1),
        ("target", 3, 3, comb(5, 3) + 1),
        ("pairwise", 9, 3, 4 + 8 * 6),
        ("full", 9, 3, 220),
    ],
)
def test_feature_counts(pattern, variables, degree, count):
    """n + 1; C(n+2, 3) + 1 (equation (22)); pairwise and full counts of the local family."""
    rows = exponents(pattern, variables, degree)
    assert len(rows) == count == len(np.unique(rows, axis=0))
    assert rows.sum(1).max() == degree and rows[0].sum() == 0
    if pattern == "target":
        assert (rows[1:, 0] >= 1).all()


@pytest.mark.parametrize("pattern", ["independent", "target", "pairwise", "full"])
@pytest.mark.parametrize("variables", [1, 3, 5])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_moment_count_is_foreseen(pattern, variables, degree):
    """The memory foreseen before a fit is what the fit takes (an upper bound for band-tied)."""
    listed = monomial_plan(pattern, 1 if pattern == "independent" else variables, degree).n_products
    foreseen = product_count(pattern, variables, degree)
    assert listed <= foreseen if pattern == "target" else listed == foreseen


@pytest.mark.parametrize(("pattern", "variables", "degree"), PATTERNS)
def test_closure_and_products_hold_every_divisor(pattern, variables, degree):
    plan = monomial_plan(pattern, variables, degree)
    products = {tuple(row) for row in plan.products}
    for rows in (closure(pattern, variables, degree), plan.products):
        members = {tuple(row) for row in rows}
        for row in members:
            for i in range(variables):
                if row[i]:
                    assert (*row[:i], row[i] - 1, *row[i + 1 :]) in members
    assert all(tuple(a + b) in products for a in plan.basis for b in plan.basis)
    assert np.array_equal(plan.products[plan.pair], plan.basis[:, None] + plan.basis[None])


@pytest.mark.parametrize(("pattern", "variables", "degree"), PATTERNS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_translation_is_the_binomial_theorem(pattern, variables, degree, seed):
    generator = torch.Generator().manual_seed(seed)
    plan = monomial_plan(pattern, variables, degree)
    x = torch.randn(variables, 50, generator=generator, dtype=torch.float64)
    shift = torch.randn(variables, 1, generator=generator, dtype=torch.float64)
    moved = translate(empirical(x, plan), plan, shift)
    assert torch.allclose(moved, empirical(x + shift, plan), rtol=1e-9, atol=1e-9)
    assert torch.allclose(translate(moved, plan, -shift), empirical(x, plan), rtol=1e-8, atol=1e-8)


def double_factorial_moment(p: int) -> float:
    return 0.0 if p % 2 else float(prod(range(p - 1, 0, -2)))


@given(alpha=st.floats(0.05, 2), sigma=st.floats(0.01, 3))
@settings(max_examples=25, deadline=None)
def test_heat_is_the_binomial_sum_of_equation_20(alpha, sigma):
    """m_p = sum_q C(p, q) a^q s^(p-q) mu_q E[z^(p-q)], E[z^2l] = (2l-1)!!."""
    plan = monomial_plan("independent", 1, 5)
    mu = empirical(torch.linspace(-1, 2, 40, dtype=torch.float64)[None], plan)
    ours = heat(mu, plan, alpha, sigma)[:, 0]
    for p in range(11):
        direct = sum(
            comb(p, q) * alpha**q * sigma ** (p - q) * float(mu[q, 0]) * double_factorial_moment(p - q)
            for q in range(p + 1)
        )
        assert float(ours[p]) == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize(("pattern", "variables", "degree"), PATTERNS)
@pytest.mark.parametrize("coloured", [False, True])
def test_heat_against_monte_carlo(pattern, variables, degree, coloured):
    """Equation (20) for mixed moments; six standard errors of a Monte Carlo mean, white and correlated noise."""
    generator = torch.Generator().manual_seed(3)
    plan = monomial_plan(pattern, variables, degree)
    x = torch.rand(variables, 6, generator=generator, dtype=torch.float64) - 0.3
    root = torch.eye(variables, dtype=torch.float64)
    if coloured:
        root = root + 0.3 * torch.randn(variables, variables, generator=generator, dtype=torch.float64)
    exact = heat(empirical(x, plan), plan, 0.8, 0.6, (root @ root.T)[:, :, None] if coloured else None)[:, 0]
    draws = 40_000
    z = torch.einsum("ij,jnk->ink", root, torch.randn(variables, 6, draws, generator=generator, dtype=torch.float64))
    v = 0.8 * x[:, :, None] + 0.6 * z
    powers = torch.stack([v**k for k in range(int(plan.products.max()) + 1)])
    worst = 0.0
    for row, value in zip(plan.products, exact):
        sample = torch.ones(6, draws, dtype=torch.float64)
        for i, k in enumerate(row):
            sample = sample * powers[k, i]
        per_draw = sample.mean(0)
        error = float(per_draw.std() / draws**0.5)
        worst = max(worst, abs(float(per_draw.mean() - value)) / max(error, 1e-12))
    assert worst < 6


@pytest.mark.parametrize(
    "family", [Family("independent"), Family("band"), Family("local", 1), Family("parent"), Family("joint")]
)
def test_streaming_sums_are_the_moments(family, generator):
    transform = WaveletTransform(16, levels=2)
    images = torch.rand(37, 1, 16, 16, generator=generator, dtype=torch.float64)
    moments = CleanMoments(transform, family, 2).fit(images.split(10))
    w = transform.forward(images)[:, 0]
    assert torch.allclose(moments.mean, w.mean(0), atol=1e-13)
    for block, table in zip(moments.blocks, moments.central()):
        for group in (0, len(block.block.variables) - 1):
            x = (w - w.mean(0))[:, block.block.variables[group]].T
            assert torch.allclose(table[:, [group]], empirical(x, block.plan), atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), min_size=2, max_size=2, unique=True), same_centre=st.booleans())
def test_merge_is_associative_and_equals_the_whole(cuts, same_centre):
    """Moments of parts add up to those of the whole, with one centre or several."""
    transform = WaveletTransform(8, levels=1)
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    centre = torch.zeros(64, dtype=torch.float64) if same_centre else None
    i, j = sorted(cuts)
    parts = [
        CleanMoments(transform, Family("band"), 2, centre=centre).update(p)
        for p in (images[:i], images[i:j], images[j:])
    ]
    whole = CleanMoments(transform, Family("band"), 2, centre=centre).update(images)
    left, right = parts[0].merge(parts[1]).merge(parts[2]), parts[0].merge(parts[1].merge(parts[2]))
    assert left.count == right.count == whole.count
    for a, b, c in zip(left.central(), right.central(), whole.central()):
        assert torch.allclose(a, b, atol=1e-12) and torch.allclose(a, c, atol=1e-12)


def test_interrupted_pass_resumes_to_the_same_sums(tmp_path, generator):
    transform = WaveletTransform(8, levels=1)
    batches = list(torch.rand(4, 10, 1, 8, 8, generator=generator))
    whole = CleanMoments(transform, Family("local"), 2).fit(batches)
    CleanMoments(transform, Family("local"), 2).fit(batches[:2]).save(tmp_path / "half.safetensors")
    resumed = CleanMoments.load(tmp_path / "half.safetensors").fit(batches[2:])
    assert resumed.count == whole.count
    assert all(torch.equal(a.sums, b.sums) for a, b in zip(resumed.blocks, whole.blocks))


def test_small_bands_have_distinct_neighbours():
    """A ball wider than its band wraps onto itself; no coefficient may appear twice."""
    for block in Family("local", radius=2).blocks(WaveletTransform(16, levels=2)):
        assert all(len(set(row)) == len(row) for row in block.variables.tolist())


def test_every_target_once():
    transform = WaveletTransform(16, levels=2)
    for name in ("independent", "band", "local", "parent", "joint"):
        targets = np.concatenate([b.targets for b in Family(name).blocks(transform, channels=2)])
        assert sorted(targets) == list(range(512))


def test_schedule_and_levels():
    bars = ddpm_alpha_bars()
    assert len(bars) == 1000 and (np.diff(bars) < 0).all() and bars[0] == pytest.approx(1 - 1e-4)
    level = vp(0.36)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1) and ve(0.4).effective_sigma == 0.4


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ve(0), ValueError, "sigma must be a finite number > 0, got 0"),
        (lambda: ve(float("nan")), ValueError, "sigma"),
        (lambda: vp(1.0), ValueError, "alpha_bar must lie strictly between 0 and 1, got 1.0"),
        (lambda: NoiseLevel(0.0, 1.0), ValueError, "alpha must be"),
        (lambda: exponents("full", 2, 0), FamilyError, "degree must be >= 1, got 0"),
        (lambda: Family("global"), FamilyError, "unknown family 'global'"),
        (lambda: Family("local", radius=-1), FamilyError, "radius must be >= 0, got -1"),
        (lambda: Family("local", interactions="some"), FamilyError, "unknown interactions 'some'"),
        (lambda: CleanMoments(WaveletTransform(8), Family(), 2).mean, MomentError, "no images have been seen"),
        (
            lambda: CleanMoments(WaveletTransform(8), Family(), 2).update(torch.full((1, 1, 8, 8), torch.nan)),
            MomentError,
            "NaN",
        ),
        (
            lambda: CleanMoments(WaveletTransform(8), Family(), 2).merge(
                CleanMoments(WaveletTransform(8), Family(), 3)
            ),
            MomentError,
            "different settings",
        ),
    ],
)
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_truncated_moments_file_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    CleanMoments(WaveletTransform(8), Family(), 1).update(torch.rand(2, 1, 8, 8)).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="truncated"):
        CleanMoments.load(path)
