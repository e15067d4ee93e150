"""The histogram of an audit's scores."""

import itertools
import re

import numpy as np
import pytest

from plap_jax.audit.histogram import BINS, HEIGHT, Histogram, drawing, nice_ticks
from tests.helpers.audit_page import a_page, written


def test_the_histogram_is_that_of_numpy(tmp_path):
    rng = np.random.default_rng(1)
    audited, reference = rng.normal(0.6, 0.1, 500), rng.normal(0.4, 0.1, 300)
    drawn = drawing(Histogram(audited, reference, threshold=0.7))
    both = np.concatenate([audited, reference])
    edges = np.linspace(both.min(), both.max(), BINS + 1)
    expected = [np.histogram(values, edges)[0] for values in (audited, reference)]
    occupied = (expected[0] + expected[1]) > 0
    assert [n for _, n, _ in drawn["table"]] == expected[0][occupied].tolist()
    assert [n for _, _, n in drawn["table"]] == expected[1][occupied].tolist()
    assert drawn["n_flagged"] == (audited >= 0.7).sum()
    foot = drawn["bottom"]
    assert max(round(bar["y"] + bar["height"], 1) for bar in drawn["bars"]) == foot
    heights = np.array([bar["height"] for bar in drawn["bars"]]) / expected[0][expected[0] > 0]
    assert np.ptp(heights) < 0.01 * heights.mean() + 0.01  # proportional to the counts
    assert drawn["place"](0.7) == drawn["threshold"] and drawn["place"](9) == drawn["right"]
    steps = [float(y) for y in re.findall(r"V(-?[\d.]+)", drawn["outline"])]
    heights = (foot - np.array(steps[:-1])) / expected[1].clip(1e-9)
    assert (
        np.ptp(heights[expected[1] > 0]) < 0.01 * heights[expected[1] > 0].mean() + 0.01
    )  # proportional to the counts
    assert all(0 <= bar["y"] <= HEIGHT for bar in drawn["bars"])


def test_a_few_far_scores_stand_in_the_outermost_bins(tmp_path):
    scores = np.append(np.linspace(0, 1, 1000), [1e3, 1e4])
    drawn = drawing(Histogram(scores))
    assert drawn["clipped"]
    assert sum(n for _, n, _ in drawn["table"]) == 1002
    assert drawn["table"][-1][1] == 2
    assert "outermost bins also hold" in written(tmp_path, a_page(histogram=Histogram(scores)))


@pytest.mark.parametrize(("low", "high"), [(0.33, 0.86), (-1, 1), (0, 12.3), (-2e6, 5e6), (1.001, 1.002)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = nice_ticks(low, high, 6)
    assert 3 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    (step,) = {float(f"{b - a:.6g}") for a, b in itertools.pairwise(ticks)}
    assert f"{step:.0e}"[0] in "125"
    assert step == float(f"{step:.0e}")
    assert "-0" not in [f"{tick:g}" for tick in ticks]
