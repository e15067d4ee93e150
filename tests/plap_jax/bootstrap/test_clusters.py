"""Bootstrap over clusters: intervals against known truths, against points alone, and against repeated points."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from plap_jax.bootstrap import (
    bootstrap_interval,
    cluster_weights,
    clustered_bootstrap,
    clustered_paired_bootstrap,
    fewest_clusters,
    paired_bootstrap,
    paired_percentile_interval,
    percentile_interval,
    weighted_auc,
)
from plap_jax.metrics import auc, tpr_at_fpr


def test_a_resample_draws_whole_clusters_as_many_as_there_are():
    clusters = np.array(["b", "a", "b", "c", "a", "d"])
    weights = cluster_weights(clusters, seed=0, n_resamples=4000)
    assert weights.shape == (4000, 6) and weights.dtype.kind == "i"
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 4]).all()
    times = weights[:, [0, 1, 3, 5]]
    assert (times.sum(axis=1) == 4).all()
    # each cluster is drawn by a binomial of 4 trials of 1/4; five standard errors
    expected = stats.binom.pmf(np.arange(5), 4, 0.25)
    shares = np.array([(times == k).mean(axis=0) for k in range(5)]).T
    assert (abs(shares - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)).all()
    np.testing.assert_array_equal(weights, cluster_weights(clusters, seed=0, n_resamples=4000))
    assert (weights != cluster_weights(clusters, seed=1, n_resamples=4000)).any()


def test_resamples_that_lack_a_class_are_drawn_again_where_classes_are_given():
    clusters, positive = np.arange(5), np.arange(5) == 0
    kept = cluster_weights(clusters, seed=0, n_resamples=500)
    lacking = kept[:, 0] == 0
    assert 0.2 < lacking.mean() < 0.5, "(4/5)^5 is a third"
    np.testing.assert_array_equal(np.isnan(weighted_auc(np.arange(5.0), positive, kept)), lacking | (kept[:, 0] == 5))
    again = cluster_weights(clusters, positive, seed=0, n_resamples=500)
    assert len(again) == 500
    assert np.isfinite(weighted_auc(np.arange(5.0), positive, again)).all()


def test_counted_and_repeated_points_give_the_same_interval():
    """What is passed as another function is evaluated on repeated points."""
    rng = np.random.default_rng(2)
    data = rng.normal(1, 1, 30).round(1), rng.normal(0, 1, 50).round(1)
    other = rng.normal(0.5, 1, 30).round(1), rng.normal(0, 1, 50).round(1)
    clusters = rng.integers(0, 25, 30), rng.integers(10, 40, 50)
    for call, scores in ((clustered_bootstrap, data), (clustered_paired_bootstrap, (*data, *other))):
        found, slow = (call(s, *scores, *clusters, seed=3, n_resamples=200) for s in (auc, lambda p, n: auc(p, n)))
        assert found == slow
        assert found.low < found.high


def test_clusters_of_one_give_the_plain_percentile_bootstrap_width():
    rng = np.random.default_rng(5)
    pos, neg = rng.normal(1, 1, 60), rng.normal(0, 1, 90)
    plain = bootstrap_interval(auc, pos, neg, seed=0)
    found = clustered_bootstrap(auc, pos, neg, np.arange(60), 60 + np.arange(90), seed=0, n_resamples=2000)
    assert (found.value, found.n) == (plain.value, 150)
    assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.15)


def test_copies_of_the_same_score_do_not_narrow_a_clustered_interval():
    rng = np.random.default_rng(6)
    pos, neg = rng.normal(1, 1, 20), rng.normal(0, 1, 200)
    names = np.arange(20), 20 + np.arange(200)
    once = clustered_bootstrap(auc, pos, neg, *names, seed=0, n_resamples=2000)
    pos9, names9 = np.repeat(pos, 9), np.repeat(names[0], 9)
    often = clustered_bootstrap(auc, pos9, neg, names9, names[1], seed=0, n_resamples=2000)
    naive = bootstrap_interval(auc, pos9, neg, seed=0)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert naive.high - naive.low < 0.6 * (often.high - often.low)


def test_clusters_of_both_classes_are_drawn_together():
    """A positive and a negative with the same score in every cluster: they tie whatever is drawn."""
    scores = np.array([1.0, 1.0])
    found = clustered_bootstrap(auc, scores, scores, [0, 1], [0, 1], seed=0, n_resamples=50)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def correlated(rng, n_clusters: int, size: int, shift: float, n_detectors: int = 1):
    """Scores of ``n_detectors`` and clusters: each cluster of one class, 0.8 of the variance between clusters."""
    clusters = np.repeat(np.arange(2 * n_clusters), size)
    positive = clusters < n_clusters
    between, within = rng.normal(0, np.sqrt(0.8), (n_detectors, 2 * n_clusters)), np.sqrt(0.2)
    return (
        between[:, clusters] + rng.normal(0, within, (n_detectors, clusters.size)) + shift * positive,
        positive,
        clusters,
    )


def assert_covers(share, expected, repeats):
    """Within three standard errors of that many repetitions."""
    assert abs(share - expected) <= 3 * np.sqrt(expected * (1 - expected) / repeats)


REPEATS = pytest.mark.parametrize("repeats", [80, pytest.param(300, marks=pytest.mark.slow)])


@REPEATS
def test_the_clustered_interval_covers_where_that_of_points_does_not(repeats):
    """Both are nominally 95 %; 600 repetitions with other seeds gave 93 % and 52 %."""
    truth = stats.norm.cdf(1 / np.sqrt(2))
    rng = np.random.default_rng(3)
    covered = np.zeros(2)
    for repeat in range(repeats):
        scores, positive, clusters = correlated(rng, 30, 8, 1.0)
        classes = scores[0, positive], scores[0, ~positive]
        groups = clusters[positive], clusters[~positive]
        intervals = (
            clustered_bootstrap(auc, *classes, *groups, seed=repeat, n_resamples=300),
            bootstrap_interval(auc, *classes, seed=repeat, n_resamples=300),
        )
        covered += [found.low <= truth <= found.high for found in intervals]
    assert_covers(covered[0] / repeats, 0.93, repeats)
    assert covered[1] / repeats < 0.75


@REPEATS
def test_the_clustered_difference_covers_zero_where_that_of_points_does_not(repeats):
    """Two detectors of the same AUC, whose errors are common to a cluster: 600 repetitions gave 95 % and 57 %."""
    rng = np.random.default_rng(4)
    covered = np.zeros(2)
    for repeat in range(repeats):
        scores, positive, clusters = correlated(rng, 30, 8, 1.0, n_detectors=2)
        pairs = tuple(row[members] for row in scores for members in (positive, ~positive))
        groups = clusters[positive], clusters[~positive]
        intervals = (
            clustered_paired_bootstrap(auc, *pairs, *groups, seed=repeat, n_resamples=300),
            paired_bootstrap(auc, *pairs, seed=repeat, n_resamples=300),
        )
        covered += [found.low <= 0 <= found.high for found in intervals]
    assert_covers(covered[0] / repeats, 0.95, repeats)
    assert covered[1] / repeats < 0.75


def test_a_clustered_difference_is_sharper_than_two_separate_intervals():
    scores, positive, clusters = correlated(np.random.default_rng(5), 40, 4, 1.0)
    noisy = scores + np.random.default_rng(6).normal(0, 0.2, scores.shape)
    pairs = tuple(row[members] for row in (scores[0], noisy[0]) for members in (positive, ~positive))
    groups = clusters[positive], clusters[~positive]
    paired = clustered_paired_bootstrap(auc, *pairs, *groups, seed=0)
    assert paired.value == pytest.approx(auc(*pairs[:2]) - auc(*pairs[2:]))
    assert paired.n == 80
    apart = [clustered_bootstrap(auc, *pairs[i : i + 2], *groups, seed=0) for i in (0, 2)]
    assert paired.high - paired.low < 0.5 * np.hypot(*(interval.high - interval.low for interval in apart))
    same = clustered_paired_bootstrap(auc, *pairs[:2], *pairs[:2], *groups, seed=0)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_resamples_of_many_detectors_give_every_interval_and_every_difference():
    scores, positive, clusters = correlated(np.random.default_rng(7), 30, 3, 1.0, n_detectors=3)
    weights = cluster_weights(clusters, positive, seed=5, n_resamples=400)
    resampled, values = weighted_auc(scores, positive, weights), [auc(s[positive], s[~positive]) for s in scores]
    # the order of points does not matter, and positives come first here
    groups, trials = (clusters[positive], clusters[~positive]), fewest_clusters(clusters, positive)
    classes = [(s[positive], s[~positive]) for s in scores]
    for i in range(3):
        found = percentile_interval(values[i], resampled[i], 60, trials=trials)
        assert found == clustered_bootstrap(auc, *classes[i], *groups, seed=5, n_resamples=400)
    found = paired_percentile_interval(values[0], resampled[0], values[2], resampled[2], 60, trials=trials)
    assert found == clustered_paired_bootstrap(auc, *classes[0], *classes[2], *groups, seed=5, n_resamples=400)


def test_percentiles_contain_the_value_and_leave_out_what_is_undefined():
    resampled = np.append(np.linspace(0.2, 0.6, 401), np.nan)
    found = percentile_interval(0.4, resampled, 9, level=0.9)
    assert (found.low, found.high, found.n) == (pytest.approx(0.22), pytest.approx(0.58), 9)
    assert percentile_interval(0.9, resampled, 9).high == 0.9
    assert percentile_interval(0.1, resampled, 9).low == 0.1
    assert percentile_interval(1.0, [1.0, 1.0], 9).low == 1.0, "no rate, as far as it says"


@pytest.mark.parametrize("statistic", [auc, partial(tpr_at_fpr, max_fpr=0.5)])
def test_perfect_separation_leaves_room_by_clusters_not_by_points(statistic):
    pos, neg = 100 + np.arange(40.0), np.arange(60.0)
    groups = np.arange(40) // 5, 8 + np.arange(60) // 3
    off = 1 - 0.025 ** (1 / 8)
    above = clustered_bootstrap(statistic, pos, neg, *groups, seed=0, n_resamples=100)
    assert (above.low, above.value, above.high, above.n) == (pytest.approx(1 - off), 1, 1, 28)
    below = clustered_bootstrap(statistic, neg, pos, *groups[::-1], seed=0, n_resamples=100)
    assert (below.low, below.value, below.high) == (0, 0, pytest.approx(off))
    pairs = pos, neg, pos**2, neg
    same = clustered_paired_bootstrap(statistic, *pairs, *groups, seed=0, n_resamples=100)
    assert (same.low, same.value, same.high) == pytest.approx((-off, 0, off))
    opposite = clustered_paired_bootstrap(statistic, pos, neg, -pos, neg, *groups, seed=0, n_resamples=100)
    assert (opposite.low, opposite.value, opposite.high) == pytest.approx((1 - off, 1, 1))
    opposite = clustered_paired_bootstrap(statistic, -pos, neg, pos, neg, *groups, seed=0, n_resamples=100)
    assert (opposite.low, opposite.value, opposite.high) == pytest.approx((-1, -1, -1 + off))


def test_a_difference_from_a_perfect_separation_has_the_spread_of_the_other():
    perfect, other = np.ones(5), np.array([0.6, 0.7, 0.8, 0.9, 1.0])
    found = paired_percentile_interval(1.0, perfect, 0.8, other, 9, trials=8)
    apart = percentile_interval(0.8, other, 9, trials=8)
    assert (found.low, found.high) == pytest.approx((1 - apart.high, 1 - apart.low))
    assert (found.low, found.high) == pytest.approx((0.01, 0.39))


def test_the_rarer_class_counts_its_clusters():
    clusters, positive = np.array([0, 0, 1, 1, 2, 3]), np.array([True, True, True, False, False, False])
    assert fewest_clusters(clusters, positive) == fewest_clusters(clusters, ~positive) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters_pos": [0, 1]}, r"^clusters_pos=\(2,\): must be one per score, \(3,\)"),
        ({"clusters_neg": [4, 4, 4]}, r"^clusters_neg=.*must hold at least two clusters"),
        ({"n_resamples": 1}, r"^n_resamples=1: must be at least 2"),
        ({"level": 1.0}, r"^level=1(\.0)?: must lie in \(0, 1\)"),
    ],
)
def test_clusters_that_do_not_fit_are_refused(change, message):
    classes, groups = ([1, 2, 3], [0, 1, 2]), {"clusters_pos": [0, 1, 2], "clusters_neg": [3, 4, 5]}
    for call, scores in ((clustered_bootstrap, classes), (clustered_paired_bootstrap, classes * 2)):
        with pytest.raises(ValueError, match=message) as refused:
            call(auc, *scores, **(groups | {"seed": 0} | change))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cluster_weights(np.zeros((2, 3)), seed=0), r"^clusters=\(2, 3\): must be a vector"),
        (lambda: cluster_weights([3, 3, 3], seed=0), r"^clusters=array\(\[3\]\): must hold at least two clusters"),
        (
            lambda: cluster_weights([1, 2], np.ones(3, bool), seed=0),
            r"^positive=.*: must be one boolean per point",
        ),
        (lambda: cluster_weights([1, 2], np.ones(2, bool), seed=0), r"^positive=.*: must hold both classes"),
        (lambda: cluster_weights([1, 2], seed=0, n_resamples=1), r"^n_resamples=1: must be at least 2"),
        (lambda: percentile_interval(0.5, [0.5, np.nan], 3), r"^resampled=.*: must be a vector of at least 2 numbers"),
        (lambda: percentile_interval(0.5, [0.5, 0.4], 3, 95), r"^level=95: must lie in \(0, 1\)"),
        (lambda: paired_percentile_interval(1, [1, 1], 1, [1, 1, 1], 3), r"^resampled_b=\(3,\): .*same resamples"),
        (
            lambda: clustered_paired_bootstrap(auc, [1, 2], [0, 1], [1, 2, 3], [0, 1], [0, 1], [2, 3], seed=0),
            r"^pos_b=\(3,\): must score the same points as pos_a, \(2,\)",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
