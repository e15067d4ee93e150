"""ROC measures against brute force over pairs and thresholds; intervals against known truths."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from plap_jax.metrics import (
    auc,
    bootstrap_interval,
    clustered_bootstrap,
    mean_interval,
    paired_bootstrap,
    proportion_interval,
    tpr_at_fpr,
)

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


# BCa falls short of 95 % where an AUC is near 1 and positives are few; the floors are three standard errors below it.
@pytest.mark.parametrize(
    ("delta", "n_pos", "n_neg", "floor"), [(1.0, 80, 60, 0.92), (2.5, 40, 200, 0.89), (2.5, 16, 200, 0.86)]
)
def test_the_bootstrap_covers_the_auc_of_shifted_normals(delta, n_pos, n_neg, floor):
    repeats = 400
    truth = stats.norm.cdf(delta / np.sqrt(2))
    rng = np.random.default_rng(1)
    covered = 0
    for repeat in range(repeats):
        pos, neg = rng.normal(delta, 1, n_pos), rng.normal(0, 1, n_neg)
        interval = bootstrap_interval(auc, pos, neg, seed=repeat, n_resamples=400)
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= truth <= interval.high
    assert floor <= covered / repeats <= 0.98


def test_perfect_separation_leaves_room_for_what_was_not_seen():
    pos, neg = np.arange(40) + 100.0, np.arange(200.0)
    above, below = (bootstrap_interval(auc, *scores, seed=0) for scores in ((pos + 200, neg), (neg - 500, pos)))
    assert (above.value, above.high) == (1, 1) and above.low == pytest.approx(0.025 ** (1 / 40))
    assert (below.value, below.low) == (0, 0) and below.high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert stats.binomtest(40, 40).proportion_ci(method="exact").low == pytest.approx(above.low)


def test_a_paired_difference_is_sharper_than_two_separate_intervals():
    rng = np.random.default_rng(2)
    pos, neg = rng.normal(1, 1, 150), rng.normal(0, 1, 150)
    pos_b, neg_b = pos + rng.normal(0, 0.2, 150), neg + rng.normal(0, 0.2, 150)
    paired = paired_bootstrap(auc, pos, neg, pos_b, neg_b, seed=0)
    assert paired.value == pytest.approx(auc(pos, neg) - auc(pos_b, neg_b))
    assert paired.low <= 0 <= paired.high, "noise of 0.2 changes no AUC of such a sample significantly"
    apart = [bootstrap_interval(auc, *scores, seed=0) for scores in ((pos, neg), (pos_b, neg_b))]
    unpaired_width = np.hypot(*(interval.high - interval.low for interval in apart))
    assert paired.high - paired.low < 0.5 * unpaired_width


def test_a_detector_does_not_differ_from_itself_and_does_from_noise():
    rng = np.random.default_rng(3)
    pos, neg = rng.normal(1, 1, 100), rng.normal(0, 1, 100)
    same = paired_bootstrap(tpr_at_fpr, pos, neg, pos, neg, seed=0, n_resamples=100)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    noise_pos, noise_neg = rng.normal(size=100), rng.normal(size=100)
    assert paired_bootstrap(auc, pos, neg, noise_pos, noise_neg, seed=0).low > 0
    assert paired_bootstrap(auc, noise_pos, noise_neg, pos, neg, seed=0).high < 0


def test_the_seed_and_nothing_else_decides_the_resamples():
    rng = np.random.default_rng(4)
    pos, neg = rng.normal(1, 1, 40), rng.normal(0, 1, 50)
    first, again, other = (bootstrap_interval(auc, pos, neg, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_a_wider_level_gives_a_wider_interval():
    rng = np.random.default_rng(5)
    pos, neg = rng.normal(1, 1, 40), rng.normal(0, 1, 50)
    narrow, wide = (bootstrap_interval(auc, pos, neg, seed=0, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_students_interval_covers_the_mean_of_few_normal_values():
    rng = np.random.default_rng(6)
    intervals = [mean_interval(values) for values in rng.normal(3, 2, (2000, 5))]
    covered = np.mean([interval.low <= 3 <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97


def test_equal_values_have_an_interval_without_width():
    interval = mean_interval([0.5, 0.5, 0.5])
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_intervals_are_written_as_json():
    rng = np.random.default_rng(7)
    interval = bootstrap_interval(auc, rng.normal(size=9), rng.normal(size=4), seed=0, n_resamples=50)
    assert json.loads(json.dumps(interval.as_dict())) == interval.as_dict()
    assert set(interval.as_dict()) == {"value", "low", "high", "n"}
    assert interval.n == 13


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc([], [1.0]), r"scores_pos=\(0,\): must hold at least one score"),
        (lambda: auc([1.0], [np.nan, 1.0]), r"scores_neg=array\(\[nan\]\): must be finite"),
        (lambda: auc(np.ones((2, 3)), np.ones((3, 3))), r"scores_neg=\(3, 3\): must have the batch shape"),
        (lambda: tpr_at_fpr([1.0], [0.0], 1.5), r"max_fpr=1.5: must lie in \[0, 1\]"),
        (lambda: bootstrap_interval(auc, [1.0], [0.0, 1.0], seed=0), r"scores_pos=\(1,\): .* at least two"),
        (lambda: bootstrap_interval(auc, [1.0, 2.0], [0.0, 1.0], seed=0, level=95), r"level=95: must lie in"),
        (lambda: bootstrap_interval(auc, [1, 2], [0, 1], seed=0, n_resamples=0), r"n_resamples=0: must be"),
        (lambda: paired_bootstrap(auc, [1, 2], [0, 1], [1, 2, 3], [0, 1], seed=0), r"pos_b=\(3,\): .*pos_a"),
        (lambda: paired_bootstrap(auc, [1, 2], [0, 1], [1, 2], [0, np.inf], seed=0), r"neg_b=array\(\[inf\]\)"),
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


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_auc_of_resamples_by_counting_equals_that_by_sorting(decimals: int) -> None:
    rng = np.random.default_rng(2)
    pos, neg = rng.normal(1, 1, 35).round(decimals), rng.normal(0, 1, 80).round(decimals)
    by_counting = bootstrap_interval(auc, pos, neg, seed=4, n_resamples=300)
    by_sorting = bootstrap_interval(lambda p, n: auc(p, n), pos, neg, seed=4, n_resamples=300)
    assert by_counting == by_sorting
    other = rng.normal(0.5, 1, 35), rng.normal(0, 1, 80)
    paired = [paired_bootstrap(f, pos, neg, *other, seed=4, n_resamples=300) for f in (auc, lambda p, n: auc(p, n))]
    assert paired[0] == paired[1]


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
    fitting = {"scores_pos": [1, 2, 3], "scores_neg": [0, 1, 2], "clusters_pos": [0, 1, 2], "clusters_neg": [3, 4, 5]}
    with pytest.raises(ValueError, match=message):
        clustered_bootstrap(auc, **(fitting | {"seed": 0} | change))


def test_two_perfect_separations_differ_by_at_most_what_either_may_be_off():
    found = paired_bootstrap(auc, [2, 3, 4], [0, 1], [5, 6, 7], [1, 0], seed=0)
    off = 1 - 0.025 ** (1 / 2)
    assert (found.low, found.value, found.high) == pytest.approx((-off, 0, off))
