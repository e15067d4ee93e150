"""Bootstrap over points: intervals against known truths."""

import numpy as np
import pytest
from scipy import stats

from plap_jax.bootstrap import bootstrap_interval, paired_bootstrap
from plap_jax.metrics import auc


# BCa falls short of 95 % where an AUC is near 1 and positives are few; the floors are three standard errors below it.
@pytest.mark.parametrize(
    ("delta", "n_pos", "n_neg", "floor"),
    [
        (1.0, 80, 60, 0.92),
        pytest.param(2.5, 40, 200, 0.89, marks=pytest.mark.slow),
        pytest.param(2.5, 16, 200, 0.86, marks=pytest.mark.slow),
    ],
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
    same = paired_bootstrap(auc, pos, neg, pos, neg, seed=0, n_resamples=100)
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


def test_two_perfect_separations_differ_by_at_most_what_either_may_be_off():
    found = paired_bootstrap(auc, [2, 3, 4], [0, 1], [5, 6, 7], [1, 0], seed=0)
    off = 1 - 0.025 ** (1 / 2)
    assert (found.low, found.value, found.high) == pytest.approx((-off, 0, off))


def test_an_interval_counts_the_points_of_both_classes():
    rng = np.random.default_rng(7)
    assert bootstrap_interval(auc, rng.normal(size=9), rng.normal(size=4), seed=0, n_resamples=50).n == 13


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(auc, [1.0], [0.0, 1.0], seed=0), r"scores_pos=\(1,\): .* at least two"),
        (lambda: bootstrap_interval(auc, [1.0, 2.0], [0.0, 1.0], seed=0, level=95), r"level=95: must lie in"),
        (lambda: bootstrap_interval(auc, [1, 2], [0, 1], seed=0, n_resamples=0), r"n_resamples=0: must be"),
        (lambda: paired_bootstrap(auc, [1, 2], [0, 1], [1, 2, 3], [0, 1], seed=0), r"pos_b=\(3,\): .*pos_a"),
        (lambda: paired_bootstrap(auc, [1, 2], [0, 1], [1, 2], [0, np.inf], seed=0), r"neg_b=array\(\[inf\]\)"),
    ],
)
def test_bad_input_is_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
