"""Pictures of evidence: points where their values put them, strips as high as their evidence."""

import re

import numpy as np
import pytest

from plap_jax.audit.drawings import CELL, HALF, MOST, scatter_drawing, strip
from tests.helpers.audit_page import N_FLAGGED, N_REFERENCE, N, a_page, a_scatter, written


def test_points_lie_where_their_values_put_them():
    scatter = a_scatter()
    drawn = scatter_drawing(scatter)
    points = {one["name"]: one for one in drawn["points"]}
    assert len(points) == N and not drawn["is_part"]
    assert sum(one["flagged"] for one in points.values()) == N_FLAGGED == drawn["n_flagged"]
    x, y = (np.array([points[name][axis] for name in scatter.names]) for axis in "xy")
    for places, values in ((x, scatter.expected), (y, -scatter.measured)):
        slope, offset = np.polyfit(values, places, 1)
        assert slope > 0
        np.testing.assert_allclose(places, slope * values + offset, atol=0.02)
    # A point above the line has more than images as hard.
    (x1, y1), (x2, y2) = drawn["equal"]
    line = y1 + (x - x1) * (y2 - y1) / (x2 - x1)
    np.testing.assert_array_equal(y < line, scatter.measured > scatter.expected)
    assert drawn["n_above"] == N_FLAGGED
    assert drawn["reference"].count("M") == N_REFERENCE
    for places, low, high in ((x, "left", "right"), (y, "top", "bottom")):
        assert drawn[low] < places.min() and places.max() < drawn[high]


def test_of_many_points_some_are_drawn_the_highest_and_lowest_among_them():
    drawn = scatter_drawing(a_scatter(10_000, 5_000))
    assert len(drawn["points"]) == MOST["audited"] + MOST["flagged"] and drawn["is_part"]
    assert drawn["reference"].count("M") == MOST["reference"]
    assert {"image_0.png", "image_9999.png"} <= {one["name"] for one in drawn["points"]}
    assert drawn["n_audited"] == 10_000 and drawn["n_reference"] == 5_000


def test_evidence_that_does_not_vary_and_a_line_out_of_sight_are_drawn():
    flat = a_scatter(3, 0)
    flat.measured[:], flat.expected[:] = 5.0, 1.0
    drawn = scatter_drawing(flat)
    assert drawn["equal"] is None and drawn["reference"] == ""
    assert len({(one["x"], one["y"]) for one in drawn["points"]}) == 1


def test_bars_are_as_high_as_the_evidence_cut_at_four_and_none_where_it_was_left_out():
    drawn = strip(np.array([2.0, -1.0, np.nan, 40.0, -40.0, 0.0]), (0.05, 0.2, 0.6))
    bars = {
        (int((float(x) - CELL / 2) / CELL), float(y)): -float(height)
        for kind in ("up", "down")
        for x, y, height in re.findall(r"M([\d.]+) ([\d.]+)v(-?[\d.]+)", drawn[kind])
    }
    upper, lower = sorted({y for _, y in bars})
    assert bars == {
        (0, upper): HALF / 2,
        (1, upper): -HALF / 4,
        (0, lower): HALF,
        (1, lower): -HALF,
        (2, lower): 0,
    }
    assert lower - upper >= 2 * HALF  # they cannot touch
    assert drawn["words"] == "σ = 0.05, 0.2, 0.6. κ₁: +2.0, −1.0, left out; contrast: +40.0, −40.0, +0.0"
    assert "v-" in drawn["up"] and drawn["up"].count("M") == 3 and drawn["down"].count("M") == 2


@pytest.mark.parametrize(
    "part", ["<title>σ = 0.05, 0.2, 0.6. κ₁: ", 'href="#diamond"', "explains 61\N{NO-BREAK SPACE}%"]
)
def test_they_stand_in_the_page(tmp_path, part):
    assert part in written(tmp_path, a_page())
