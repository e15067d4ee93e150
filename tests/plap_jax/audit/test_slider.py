"""Positions of the threshold: what is flagged there, what is said, and that they stay few."""

import numpy as np
import pytest

from plap_jax.audit.slider import LENIENT, MOST_LINES, MOST_POSITIONS, Position, slider
from plap_jax.calibration import benjamini_hochberg, conformal_p_values
from plap_jax.envelope import ThresholdRow, false_discovery_envelope


def scores(m=60, n_reference=99, n_memorized=12, seed=0):
    rng = np.random.default_rng(seed)
    score = np.concatenate([rng.normal(6, 1, n_memorized), rng.normal(0, 1, m - n_memorized)])
    p_value = conformal_p_values(score, rng.normal(0, 1, n_reference))
    rows = false_discovery_envelope(n_reference, m, n_draws=200).table(p_value)
    return rows, p_value, score, benjamini_hochberg(p_value, 0.05)


def test_each_position_flags_what_scores_at_least_as_high_as_it_says():
    rows, p_value, score, flagged = scores()
    found = slider(rows, p_value, score, flagged, 0.05)
    assert found.positions[0] == Position(0.0, None, 0, 0, 0)
    assert found.n_tested == 60
    for position in found.positions[1:]:
        np.testing.assert_array_equal(score >= position.score, p_value <= position.p)
        assert position.flagged == (score >= position.score).sum()
        assert (position.p, position.flagged, position.at_most_false, position.at_least_true) in rows
    start = found.positions[found.start]
    np.testing.assert_array_equal(score >= start.score, flagged)
    assert [one.p for one in found.positions[1:]] == [row.p for row in rows if row.p <= LENIENT]


def test_it_starts_where_nothing_is_flagged_if_nothing_is():
    rows, p_value, score, _ = scores(n_memorized=0)
    found = slider(rows, p_value, score, np.zeros(60, bool), 0.05)
    assert found.start == 0 and found.positions[0].words == "None flagged."
    assert slider([], p_value, score, np.zeros(60, bool), 0.05) is None


def test_images_that_are_not_tested_count_nowhere():
    rows, p_value, score, flagged = scores()
    more = slider(
        rows,
        np.concatenate([[np.nan], p_value, [np.nan]]),
        np.concatenate([[99.0], score, [-99.0]]),
        np.concatenate([[False], flagged, [False]]),
        0.05,
    )
    assert more == slider(rows, p_value, score, flagged, 0.05)


def test_a_threshold_beyond_the_usual_ones_is_kept_when_it_is_the_start():
    rows, p_value, score, flagged = scores(n_memorized=0)
    lenient = p_value <= 0.5
    found = slider(rows, p_value, score, lenient, 0.9)
    assert found.positions[found.start].flagged == lenient.sum() == found.positions[-1].flagged
    only = slider([ThresholdRow(0.5, 2, 2, 0)], np.full(2, 0.5), np.ones(2), np.zeros(2, bool), 0.05)
    assert [one.flagged for one in only.positions] == [0, 2]


@pytest.mark.parametrize("n_flagged", [0, 7, 2500, 4999])
def test_of_many_thresholds_some_are_kept_and_the_start_among_them(n_flagged):
    n = 5000
    p_value = np.arange(1, n + 1) / (5 * n)
    rows = [ThresholdRow(float(p), i + 1, i // 2, i + 1 - i // 2) for i, p in enumerate(p_value)]
    found = slider(rows, p_value, -p_value, np.arange(n) < n_flagged, 0.05)
    assert len(found.positions) <= MOST_POSITIONS
    assert found.positions[found.start].flagged == n_flagged
    assert [one.flagged for one in found.positions[:20]] == list(range(20))  # dense where it is strict
    assert found.positions[-1].flagged == n
    assert len(found.few) <= MOST_LINES
    assert n_flagged == 0 or found.positions[found.start] in found.few


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((20, 6, 14), "20 flagged, at most 6 of them false, so at least 14 memorized."),
        ((3, 3, 0), "3 flagged; all of them may be false."),
        ((2, 0, 2), "2 flagged, none of them false, so at least 2 memorized."),
        ((2000, 500, 1500), "2,000 flagged, at most 500 of them false, so at least 1,500 memorized."),
    ],
)
def test_what_is_said(numbers, words):
    assert Position(0.01, 1.0, *numbers).words == words
