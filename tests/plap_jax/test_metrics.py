"""ROC measures against brute force over pairs and thresholds; intervals against known truths."""

import json
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from plap_jax.calibration import conformal_p_values
from plap_jax.metrics import allowed_negatives, auc, fewest_negatives, mean_interval, proportion_interval, tpr_at_fpr

tied_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(tied_scores, tied_scores)
def test_auc_counts_pairs_and_halves_ties(pos, neg):
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in pos for b in neg]
    assert auc(pos, neg) == pytest.approx(np.mean(wins), abs=1e-12)


@given(tied_scores, tied_scores, st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_tpr_is_the_best_of_all_thresholds_that_the_rule_allows(pos, neg, max_fpr):
    pos, neg = np.array(pos), np.resize(np.array(neg), max(len(neg), fewest_negatives(max_fpr)))
    thresholds = [(np.sum(neg > cut), np.mean(pos > cut)) for cut in np.arange(-5, 4) + 0.5]
    assert tpr_at_fpr(pos, neg, max_fpr) == max(tpr for k, tpr in thresholds if (k + 1) / (len(neg) + 1) <= max_fpr)


@given(st.lists(st.integers(-9, 9), min_size=100, max_size=420), tied_scores)
def test_detected_are_those_whose_conformal_p_value_is_small(neg, pos):
    assert tpr_at_fpr(pos, neg) == np.mean(conformal_p_values(np.array(pos), np.array(neg)) <= 0.01)


@pytest.mark.parametrize(("n", "k"), [(100, 0), (198, 0), (199, 1), (200, 1), (298, 1), (299, 2), (999, 9)])
def test_so_many_negatives_may_lie_above_the_threshold(n, k):
    """k/n ≤ 0.01 would allow one more of 100, 200 and 300."""
    assert allowed_negatives(n) == k
    neg = np.arange(float(n))
    assert tpr_at_fpr([n - k - 0.5, n - k - 1.5], neg) == 0.5
    assert tpr_at_fpr([n - k - 1.0], neg) == 0.0, "a tie with the threshold counts against the detector"


def test_a_new_negative_passes_as_rarely_as_promised():
    """Of 150 negatives, at the largest; with k/n ≤ 0.01 one may pass, and a new one does so in 2/151."""
    rng = np.random.default_rng(0)
    passed = [tpr_at_fpr(rng.random(1000), rng.random(150)) for _ in range(1000)]
    assert np.mean(passed) == pytest.approx(1 / 151, abs=5 * np.std(passed) / np.sqrt(1000))


def test_tpr_is_not_told_of_too_few_negatives():
    assert [fewest_negatives(rate) for rate in (0.01, 0.3, 1)] == [100, 4, 1]
    with pytest.raises(ValueError, match=r"^scores_neg=\(99,\): must hold 100 negatives for a rate of 0.01$"):
        tpr_at_fpr([1.0], np.zeros(99))


def test_tpr_allows_the_share_meant_where_floating_point_falls_short():
    neg, pos = np.arange(99.0), np.array([70.5])
    assert 0.29 * 100 < 29
    assert tpr_at_fpr(pos, neg, 0.29) == 1.0
    assert tpr_at_fpr(pos, neg, 0.28) == 0.0


@pytest.mark.parametrize("statistic", [auc, partial(tpr_at_fpr, max_fpr=0.1)])
def test_a_batch_gives_what_its_rows_give(statistic):
    rng = np.random.default_rng(0)
    pos, neg = rng.integers(0, 9, (2, 3, 20)), rng.integers(0, 6, (2, 3, 15))
    rows = [[statistic(pos[i, j], neg[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(statistic(pos, neg), rows, rtol=1e-14)


def test_students_interval_covers_the_mean_of_few_normal_values():
    rng = np.random.default_rng(6)
    intervals = [mean_interval(values) for values in rng.normal(3, 2, (2000, 5))]
    covered = np.mean([interval.low <= 3 <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97


def test_equal_values_have_an_interval_without_width():
    interval = mean_interval([0.5, 0.5, 0.5])
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_intervals_are_written_as_json():
    interval = mean_interval([1.0, 2.0, 4.0])
    assert json.loads(json.dumps(interval.as_dict())) == interval.as_dict()
    assert set(interval.as_dict()) == {"value", "low", "high", "n"}
    assert interval.n == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc([], [1.0]), r"scores_pos=\(0,\): must hold at least one score"),
        (lambda: auc([1.0], [np.nan, 1.0]), r"scores_neg=array\(\[nan\]\): must be finite"),
        (lambda: auc(np.ones((2, 3)), np.ones((3, 3))), r"scores_neg=\(3, 3\): must have the batch shape"),
        (lambda: tpr_at_fpr([1.0], [0.0], 1.5), r"max_fpr=1.5: must lie in \(0, 1\]"),
        (lambda: mean_interval([1.0]), r"values=\(1,\): must be a vector of at least two values"),
        (lambda: mean_interval([1.0, 2.0], level=1.0), r"level=1.0: must lie in \(0, 1\)"),
    ],
)
def test_bad_input_is_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (3, 10), (5, 5)])
def test_exact_interval_of_a_share_leaves_its_level_outside(successes: int, n: int) -> None:
    found = proportion_interval(successes, n, level=0.9)
    assert (found.value, found.n) == (successes / n, n)
    # by the definition of Clopper and Pearson: each end is where the other side's tail has 5 %
    if successes:
        assert stats.binom.sf(successes - 1, n, found.low) == pytest.approx(0.05)
    else:
        assert found.low == 0
    if successes < n:
        assert stats.binom.cdf(successes, n, found.high) == pytest.approx(0.05)
    else:
        assert found.high == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 0), "^n=0: must be >= 1"), ((4, 3), r"^successes=4: must lie in 0 … 3"), ((1, 2, 1.0), r"^level=1(\.0)?: ")],
)
def test_a_share_of_nothing_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        proportion_interval(*arguments)
