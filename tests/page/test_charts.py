"""What a page is drawn of: intervals, ticks, lines, text."""

import re

import numpy as np
import pytest

from vit_jax.page import curves, results
from vit_jax.page.charts import Line, chart, ticks
from vit_jax.page.html import Html, element, table


def test_wilson_intervals():
    """Of Brown, Cai and DasGupta 2001's formula; never outside of what can be."""
    assert results.wilson(0.7, 100) == pytest.approx((0.60415, 0.78107), abs=1e-4)
    low, high = results.wilson(0.0, 10)
    assert low == 0 and high == pytest.approx(0.2775, abs=1e-3)
    assert results.wilson(1.0, 10) == pytest.approx((1 - 0.2775, 1), abs=1e-3)


def test_time_is_images_over_speed():
    logged = [{"step": 10, "split": "train", "epoch": 1, "images_per_second": 100.0},
              {"step": 20, "split": "train", "epoch": 2, "images_per_second": 200.0},
              {"step": 30, "split": "validation", "epoch": 3, "top1": 0.5}]  # fmt: skip
    steps, seconds = curves.training_seconds(logged, batch_size=50)
    assert steps.tolist() == [0, 10, 20, 30] and seconds.tolist() == [0, 5, 7.5, 10]
    assert curves.training_seconds(logged[2:], 50)[1].max() == 0
    assert curves.training_seconds([], 50)[1].max() == 0


def test_many_points_become_few():
    x, y = curves.thinned(np.arange(1000.0), np.ones(1000), most=100)
    assert len(x) == 100 and x[0] == 4.5 and set(y) == {1.0}
    assert curves.thinned(np.array([]), np.array([])) == ((), ())


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 4.47), (-3, 12_345), (0.7, 0.70001), (1e-9, 3e-9)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 9 and all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in found)
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_charts_draw_every_line_within_their_bounds():
    drawn = chart("Top-1", "epoch", [Line("a", (0.0, 1.0, 2.0), (5.0, 7.0, 6.0), 0), Line("b", (1.0,), (9.0,), 9)])
    points = [tuple(map(float, pair.split(","))) for part in re.findall(r'points="([^"]+)"', drawn)
              for pair in part.split()]  # fmt: skip
    assert len(points) == 4 and all(0 <= x <= 360 and 0 <= y <= 230 for x, y in points)
    assert "a: 6 at 2" in drawn and "b: 9 at 1" in drawn
    assert "no such figures" in chart("Top-1", "epoch", [Line("a", (), (), 0)])


def test_text_is_escaped_unless_it_is_html():
    assert element("p", "a<b", Html("<i>"), class_='"') == '<p class="&quot;">a&lt;b<i></p>'
    assert "&lt;b&gt;" in table("<b>", ["<b>", "x"], [["<b>", "<b>"]]) and "<b>" not in table("<b>", ["<b>"], [["<b>"]])
    element("p", "\ud800").encode()  # half a pair
