"""What the data can carry: the recommended setting against the best of the grid on held-out images, its prediction, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from numeric import recommend
from numeric.noise import vp
from numeric.scores import recommend as module
from numeric.scores.own import WaveletScore
from numeric.scores.recommend import GRID, READOUTS, Candidate
from tests.threads import torch_threads


@pytest.fixture(scope="module")
def digits(mnist16):
    return mnist16.resized(8)


def held_out_errors(found, train, test, noise):
    """Exact held-out error of every setting that was tried."""
    errors = {}
    for key in {(r.readout, r.family, r.ridge) for r in found.rows}:
        top = max(r.degree for r in found.rows if (r.readout, r.family, r.ridge) == key)
        model = READOUTS[key[0]](key[1], top, ridge=key[2]).fit(train)
        moments = model.new_moments(test.shape)
        model.accumulate(moments, test, 1000, None, None, 30.0)
        errors |= {(*key, d): model.expected_mse(noise, d, moments) for d in range(1, top + 1)}
    return errors


@pytest.mark.parametrize("count", [30, 100, 300, 1000])
def test_the_recommended_setting_is_within_two_per_cent_of_the_best(digits, count):
    """Held out on 1,000 other digits, among everything that was tried; and the prediction is near what is measured."""
    train, test = digits.take(count), digits.subset(range(1000, 2000))
    found = recommend(train, 0.5)
    errors = held_out_errors(found, train, test, 0.5)
    for readouts in (("own", "shared"), ("own",)):  # the own ones among themselves too
        best = next(r for r in found.rows if r.readout in readouts)
        tried = {key: error for key, error in errors.items() if key[0] in readouts}
        assert tried[best.readout, best.family, best.ridge, best.degree] <= 1.02 * min(tried.values())
    best = found.best
    mine = errors[best.readout, best.family, best.ridge, best.degree]
    assert max(errors.values()) > 1.05 * min(errors.values())  # choosing matters here
    if count >= 300:  # what is left is the spread of the digits themselves
        assert best.risk == pytest.approx(mine, rel=0.08)
    assert found.model.expected_mse(0.5) == pytest.approx(best.empirical, rel=1e-9)


@pytest.mark.slow
def test_at_the_size_people_use(mnist32, mnist32_test):
    """The whole grid at 32 x 32 on 400 digits, two threads: within 2 % of the best on held-out digits."""
    with torch_threads(2):
        found = recommend(mnist32.take(400), 0.25)
        errors = held_out_errors(found, mnist32.take(400), mnist32_test, 0.25)
        best = found.best
        assert errors[best.readout, best.family, best.ridge, best.degree] <= 1.02 * min(errors.values())


def test_few_images_carry_less(digits):
    """An overgrown family: ten digits and 52 coefficients an output; the gap says so, and more images lift the degree."""
    grid = [Candidate("own", "local", 3, (1e-10,))]
    few, many = recommend(digits.take(12), 0.5, grid, groups=3), recommend(digits.take(2000), 0.5, grid)
    assert few.best.degree < many.best.degree == 3
    assert few.rows[-1].gap > 10 * many.rows[0].gap
    assert "Degree" in few.reason and "12 images" in few.reason


def test_the_gap_is_the_predicted_optimism(digits):
    """Few coefficients, many images: the groups' gap and the trace formula of the delta method agree."""
    images = digits.subset(np.random.default_rng(0).permutation(2000)[:1500])  # shuffled: groups have nothing else in common
    found = recommend(images, vp(0.8), [Candidate("own", "band", 2, (1e-10,))], groups=10)
    row = next(r for r in found.rows if r.degree == 2)
    model = WaveletScore("band", 2).fit(images)
    assert row.gap == pytest.approx(model.standard_errors(vp(0.8), images).optimism, rel=0.35)
    assert row.empirical == pytest.approx(model.expected_mse(vp(0.8)), rel=1e-10)


def test_the_reason_says_what_was_compared(digits):
    found = recommend(digits.take(60), 0.3)
    assert len(found.rows) == sum(c.degree * len(c.ridges) for c in GRID)
    assert all(a.risk <= b.risk for a, b in zip(found.rows, found.rows[1:]))
    assert found.best.label in found.reason and "60 images" in found.reason and "another family" in found.reason
    y = digits[:3] + 0.3 * torch.ones(3, 1, 8, 8)
    assert found.model.denoise(y, 0.3).shape == y.shape
    more, error = found.against(found.rows[-1])
    assert more > 0 and error > 0 and found.against(found.best) == (0.0, 0.0)


def test_small_systems_are_solved_on_one_thread(digits, monkeypatch):
    """Two threads spin at each of thousands of short steps of an own readout; a shared one's large factor takes all there are."""
    seen: dict[str, set[int]] = {}
    for kind in READOUTS.values():

        def noted(self, *arguments, original=kind.solve, **options):
            seen.setdefault(self.readout, set()).add(torch.get_num_threads())
            return original(self, *arguments, **options)

        monkeypatch.setattr(kind, "solve", noted)
    with torch_threads(2):
        recommend(digits.take(20), 0.5, [Candidate("own", "band", 2), Candidate("shared", "independent", 1)])
        assert torch.get_num_threads() == 2
    assert seen == {"own": {1}, "shared": {2}}


def test_large_shared_readouts_are_left_out_and_named(digits, monkeypatch):
    monkeypatch.setattr(module, "MOST_FEATURES", 192)
    found = recommend(digits.take(20), 1.0)
    assert {r.readout for r in found.rows} == {"own"} and "193 features" in found.reason


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"noise": 0.0}, "sigma must be"),
        ({"groups": 1}, "groups must be"),
        ({"groups": 30}, "50 images are too few for 30"),
        ({"candidates": []}, "nothing to choose"),
        ({"candidates": [("own", "band")]}, r"Candidate\('own', 'local', 3\), got \('own', 'band'\)"),
    ],
)
def test_bad_input_is_named(digits, arguments, named):
    with pytest.raises(ValueError, match=named):
        recommend(digits.take(50), **{"noise": 0.5, **arguments})


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Candidate("own", "global"), "global"),
        (lambda: Candidate("none", "local"), "none"),
        (lambda: Candidate("own", "local", 0), "degree >= 1"),
        (lambda: Candidate("own", "local", 2, (-1.0,)), "ridge must be"),
    ],
)
def test_bad_candidates_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_command(tmp_path):
    """``python -m numeric recommend``: table, reason, model and report; wrong values end with code 2 before any work."""
    import json

    from typer.testing import CliRunner

    from numeric.commands.app import app

    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).random((40, 8, 8)).astype(np.float32))
    base = ["recommend", "--images", str(images), "--size", "8", "--no-progress"]
    run = CliRunner().invoke(
        app, [*base, "--candidate", "own:independent:2", "--output", str(tmp_path / "m.safetensors"), "--report", str(tmp_path / "r.json")]
    )
    assert run.exit_code == 0, run.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["rows"]) == 4 and report["reason"] in run.output
    assert WaveletScore.load(tmp_path / "m.safetensors").family == "independent"
    for extra, named in (
        (["--candidate", "local"], "readout:family:degree"), (["--candidate", "own:x:2"], "unknown family"), (["--sigma", "-1"], "sigma must be"),
        (["--groups", "39"], "too few"),
    ):  # fmt: skip
        run = CliRunner().invoke(app, [*base, *extra])
        assert run.exit_code == 2 and named in run.output + run.stderr, run.output
