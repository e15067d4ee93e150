"""ROC measures against brute force over pairs and thresholds; intervals against known truths."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from plap_jax.metrics import auc, mean_interval, proportion_interval, tpr_at_fpr

tied_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(tied_scores, tied_scores)
def test_auc_counts_pairs_and_halves_ties(pos, neg):
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in pos for b in neg]
    assert auc(pos, neg) == pytest.approx(np.mean(wins), abs=1e-12)


@given(tied_scores, tied_scores, st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]))
def test_tpr_is_the_best_of_all_thresholds_within_the_allowed_fpr(pos, neg, max_fpr):
    pos, neg = np.array(pos), np.array(neg)
    rates = [((pos > cut).mean(), (neg > cut).mean()) for cut in np.arange(-4, 4) + 0.5]
    assert tpr_at_fpr(pos, neg, max_fpr) == max(tpr for tpr, fpr in rates if fpr <= max_fpr)


def test_tpr_never_uses_the_nearest_roc_point_beyond_the_allowed_fpr():
    # Of 160 negatives 1 or 2 may be wrong: FPR 0.625 % or 1.25 %. The second is nearer to 1 %, and too much.
    neg = np.array([2.5, 1.5] + [0.0] * 158)
    pos = np.array([3.0, 2.0, 2.0] + [1.0] * 7)
    assert tpr_at_fpr(pos, neg, 0.01) == 0.3
    assert tpr_at_fpr(pos, neg, 0.0125) == 1.0


def test_tpr_allows_the_share_meant_where_floating_point_falls_short():
    neg, pos = np.arange(100.0), np.array([70.5])
    assert 0.29 * 100 < 29
    assert tpr_at_fpr(pos, neg, 0.29) == 1.0
    assert tpr_at_fpr(pos, neg, 0.28) == 0.0


@pytest.mark.parametrize("statistic", [auc, tpr_at_fpr])
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
        (lambda: tpr_at_fpr([1.0], [0.0], 1.5), r"max_fpr=1.5: must lie in \[0, 1\]"),
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
