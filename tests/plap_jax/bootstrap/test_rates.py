"""Intervals of a TPR at a small FPR: the laws behind them, known truths, clusters and ties."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from plap_jax.bootstrap import percentile_interval, resampled_tpr, tpr_interval
from plap_jax.metrics import tpr_at_fpr

ONES, GROUPS = np.ones(5), np.arange(100) // 2
LAWS = pytest.mark.parametrize("of_law", [stats.norm, stats.gumbel_r, stats.gumbel_l], ids=lambda law: law.name)


def apart(pos, neg):
    """Scores, classes, and a cluster for every point."""
    scores = np.concatenate([pos, neg])
    return scores, np.arange(scores.size) < pos.size, np.arange(scores.size)


def test_a_tpr_of_known_threshold_has_the_law_of_jeffreys():
    """All negatives equal, 30 of 40 positives above them: what is left is Beta(30½, 10½)."""
    data = apart(np.where(np.arange(40) < 30, 2.0, -2.0), np.zeros(100))
    found = resampled_tpr(*data, seed=0, n_resamples=2000)
    assert stats.kstest(found, stats.beta(30.5, 10.5).cdf).pvalue > 1e-3


def test_the_rates_of_the_negatives_are_those_of_order_statistics():
    """With j negatives above half of the positives these are detected where P(s⁻ > s_j) < 1 %, of law Beta(j, n+1−j).

    Positives sit just below the j-th negative, the next is far away: the quantile comes below them if u_{j} < 1 % and
    u_{j+1} is hardly above.
    """
    j, n = 3, 200
    neg = -np.arange(float(n))
    pos = np.full(300, neg[j - 1] + 1e-9)
    found = resampled_tpr(*apart(pos, neg), seed=0, n_resamples=2000)
    expected = stats.beta(j, n + 1 - j).cdf(0.01)
    assert np.mean(found > 0.5) == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / 2000))


def test_beyond_the_largest_negative_an_exponential_tail_is_followed():
    """Exact quantiles of an exponential law as negatives: the quantile that is found has its median at the true one."""
    n = 150
    neg = -np.log((np.arange(n) + 0.5) / n)
    cuts = np.linspace(3, 9, 1000)
    found = resampled_tpr(*apart(cuts, neg), seed=0, n_resamples=2000)
    threshold = 9 - 6 * found
    assert np.median(threshold) == pytest.approx(-np.log(0.01), abs=0.15)
    assert np.mean(threshold > neg.max()) > 0.1, "the tail is needed"


def hundred_of_each(of_law, tpr, n):
    """n samples of 100 positives and 100 negatives, ``tpr`` of the positives above the true 1 % point."""
    rng = np.random.default_rng(0)
    pos = rng.normal(of_law.isf(0.01) + stats.norm.ppf(tpr), 1, (n, 100))
    return pos, of_law.rvs(size=(n, 100), random_state=rng)


def assert_covers(intervals, truth):
    """In 95 % of them, less three standard errors of that share."""
    share = np.mean([found.low <= truth <= found.high for found in intervals])
    assert share > 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(intervals))


@LAWS
def test_intervals_of_few_negatives_cover_the_truth(of_law):
    """Plain resamples cover 80 to 90 %, see benchmarks/coverage_tpr.py. All samples have the same weights: fast."""
    pos, neg = hundred_of_each(of_law, 0.9, 2000)
    columns = np.arange(200)
    resampled = resampled_tpr(np.hstack([pos, neg]), columns < 100, columns, seed=0, n_resamples=300)
    values = tpr_at_fpr(pos, neg)
    found = [percentile_interval(float(v), of_it, 200, 0.95) for v, of_it in zip(values, resampled, strict=True)]
    assert found[7] == tpr_interval(pos[7], neg[7], seed=0, n_resamples=300)
    assert all(one.low <= one.value <= one.high for one in found)
    assert_covers(found, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("tpr", [0.1, 0.5, 0.9, 0.99])
@LAWS
def test_intervals_with_weights_of_their_own_cover_every_rate(of_law, tpr):
    samples = zip(*hundred_of_each(of_law, tpr, 1000), strict=True)
    assert_covers([tpr_interval(*data, seed=seed) for seed, data in enumerate(samples)], tpr)


def test_copies_of_the_same_scores_do_not_narrow_an_interval_over_clusters():
    rng = np.random.default_rng(1)
    pos, neg = rng.normal(2, 1, 60), rng.normal(0, 1, 200)
    groups = np.arange(60), 60 + np.arange(200)
    once = tpr_interval(pos, neg, *groups, seed=0)
    assert once == tpr_interval(pos, neg, seed=0) and once.n == 260
    often = tpr_interval(*(np.repeat(x, 5) for x in (pos, neg, *groups)), seed=0)
    assert often.n == 260
    assert often.high - often.low > 0.8 * (once.high - once.low)
    naive = tpr_interval(np.repeat(pos, 5), np.repeat(neg, 5), seed=0)
    assert naive.high - naive.low < 0.7 * (once.high - once.low)


def test_perfect_separation_leaves_room():
    found = tpr_interval(1000 + np.arange(40.0), np.arange(200.0), seed=0)
    assert found.value == found.high == 1
    assert found.low == pytest.approx(stats.beta(40.5, 0.5).ppf(0.025), abs=0.03)


def test_every_detector_of_a_batch_has_the_weights_of_the_first():
    rng = np.random.default_rng(2)
    scores, positive, clusters = rng.normal(size=(2, 3, 300)), np.arange(300) < 100, np.arange(300) // 2
    found = resampled_tpr(scores, positive, clusters, seed=0, n_resamples=50)
    assert found.shape == (2, 3, 50)
    np.testing.assert_array_equal(resampled_tpr(scores[1, 2], positive, clusters, seed=0, n_resamples=50), found[1, 2])
    # what is monotone in the score and linear among neighbours changes nothing
    np.testing.assert_array_equal(resampled_tpr(3 * scores - 1, positive, clusters, seed=0, n_resamples=50), found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(tpr_interval, ONES, np.zeros(99), seed=0), r"scores_neg=\(99,\): must hold 100 negatives"),
        (partial(tpr_interval, ONES, np.zeros(100), seed=0, level=1.0), r"level=1.0: must lie in \(0, 1\)"),
        (
            partial(tpr_interval, ONES, np.zeros(100), clusters_neg=GROUPS, seed=0),
            r"clusters_neg=array.*: must be given",
        ),
        (partial(tpr_interval, ONES, np.zeros(100), GROUPS[:5], seed=0), "clusters_neg=None: must be given"),
        (partial(resampled_tpr, np.ones(4), np.ones(4, bool), np.arange(4), seed=0), "positive=.*: must hold both"),
        (
            partial(resampled_tpr, np.ones(4), np.arange(3) < 1, np.arange(4), seed=0),
            "positive=.*: must be one b",
        ),
        (partial(resampled_tpr, np.ones(4), np.arange(4) < 1, np.arange(3), seed=0), r"clusters=\(3,\): must be one"),
    ],
)
def test_bad_input_is_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
