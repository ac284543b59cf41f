"""What figures share: labels that do not overprint, ticks without exponents."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from numeric.figures.diagnostics import correlation_map
from numeric.figures.style import number_points, plain_log, short_number


def test_numbers_beside_points_do_not_overprint():
    """Twelve points, five of them within a few pixels: no two numbers overlap, and all lie inside the axes."""
    figure, axis = plt.subplots(figsize=(4, 2.5))
    points = [(1.0, 1.0), (1.01, 1.0), (1.0, 1.02), (1.02, 1.03), (0.99, 0.98), (2, 2), (3, 1), (1, 3), (2, 1), (2.02, 1), (3, 3), (0.5, 2)]
    axis.loglog(*zip(*points), "o")
    axis.margins(0.2)
    number_points(axis, dict(enumerate(points, 1)))
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # without the line to the point
    assert [text.get_text() for text in axis.texts] == [str(k) for k in range(1, 13)]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert all(axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1 + 20 and axis.bbox.y0 < box.y0 for box in boxes)
    plt.close(figure)


def test_numbers_stand_beside_error_bars():
    """No number touches the long bar of its own point or of another's."""
    figure, axis = plt.subplots(figsize=(4, 2.5))
    points, bars = {1: (1.0, 1.0), 2: (1.0, 0.9), 3: (1.3, 1.1)}, {1: 0.5, 2: 0.1, 3: 0.4}
    for number, (x, y) in points.items():
        axis.errorbar(x, y, yerr=bars[number], fmt="o")
    axis.set_xlim(0.5, 2.0)
    number_points(axis, points, bars)
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axis.texts]
    for number, (x, y) in points.items():
        (left, low), (_, high) = (axis.transData.transform((x, y + side * bars[number])) for side in (-1, 1))
        assert not any(box.x0 < left < box.x1 and box.y0 < high and box.y1 > low for box in boxes)
    plt.close(figure)


@pytest.mark.parametrize(("value", "text"), [(0.002, "0.002"), (30000.0, "30000"), (300000.0, "300k"), (3e6, "3M"), (1.0, "1")])
def test_tick_labels_hold_no_exponents(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize("limits", [(0.0055, 0.016), (0.001, 0.4), (0.4, 12)])
def test_a_logarithmic_axis_has_ticks(limits):
    """At least three labels, also where the axis spans less than a decade."""
    figure, axis = plt.subplots()
    axis.set_ylim(*limits)
    plain_log(axis)
    figure.canvas.draw()
    assert sum(limits[0] <= tick <= limits[1] for tick in axis.get_yticks()) >= 3
    plt.close(figure)


def test_no_table_of_numbers_says_minus_zero():
    """A fall of the error of -1e-6 per cent prints as 0.0."""
    figure, axis = plt.subplots()
    rows = [{"scale": s, "orientation": "A", "sigma": 1.0, "split": "test", "gain": g} for s, g in ((1, -1e-8), (2, -0.05))]
    correlation_map(axis, rows, [1.0], plt.Normalize(-1, 1))
    assert [text.get_text() for text in axis.texts] == ["0.0", "-5.0"]
    plt.close(figure)
