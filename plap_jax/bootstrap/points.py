"""Bootstrap over independent points, the two classes resampled separately."""

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from plap_jax.bootstrap.intervals import Statistic, check_resampling, unseen_rate
from plap_jax.metrics import Interval, auc, checked_sample
from plap_jax.typing import require

# Scores that a bootstrap holds at a time: 2^20 in float64 are 8 MiB, which still fit the cache.
RESAMPLED_SCORES = 2**20


def bootstrap_interval(
    statistic: Statistic,
    scores_pos: ArrayLike,
    scores_neg: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Confidence interval of an AUC-like statistic of independent points, by the BCa bootstrap (Efron 1987).

    Bias-corrected and accelerated, because near 1 an AUC is skewed and plain percentiles cover too little. Measured on
    shifted normals, 200 negatives, nominal 95 %: AUC 0.5 with 40 positives 94 %, AUC 0.96 with 40 positives 93 %, with
    16 positives 87 % (percentiles: 93 %, 91 %, 84 %). If BCa is undefined, percentiles are used. If every resample
    gives 0 or 1 (perfect separation), the other end is Clopper and Pearson's, opposite 1
    (½(1−level))^{1/n}, for n = min(n_pos, n_neg).

    Args:
        statistic: ``(*batch, n_pos), (*batch, n_neg) -> (*batch,)`` with values in [0, 1], as `auc` (not for
            `tpr_at_fpr`: see `tpr_interval`); a function of plain vectors becomes one by
            ``np.vectorize(f, signature="(n),(m)->()")``.
        scores_pos: scores of positives, ``(n_pos,)``, n_pos ≥ 2.
        scores_neg: scores of negatives, ``(n_neg,)``, n_neg ≥ 2.
        seed: the same seed gives the same interval.
        n_resamples: resamples drawn.
        level: coverage aimed at, in (0, 1).

    Raises:
        ValueError: as `auc`, fewer than two scores in a class, or n_resamples or level out of range.
    """
    pos, neg = checked_sample(scores_pos, "scores_pos"), checked_sample(scores_neg, "scores_neg")
    found = _bootstrap(_of_rows(statistic, pos, neg), pos.size, neg.size, seed, n_resamples, level)
    if found.low == found.high and found.value in (0, 1):
        missed = unseen_rate(min(pos.size, neg.size), level)
        ends = (1 - missed, 1.0) if found.value == 1 else (0.0, missed)
        return Interval(found.value, *ends, found.n)
    return found


def paired_bootstrap(
    statistic: Statistic,
    pos_a: ArrayLike,
    neg_a: ArrayLike,
    pos_b: ArrayLike,
    neg_b: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Confidence interval of the difference between two detectors on the same points, by the BCa bootstrap.

    Of statistic(pos_a, neg_a) − statistic(pos_b, neg_b). The same points are drawn for both, so what the two scores
    have in common cancels.

    Args:
        statistic: as in `bootstrap_interval`.
        pos_a: scores of the positives by A, ``(n_pos,)``.
        neg_a: scores of the negatives by A, ``(n_neg,)``.
        pos_b: scores by B of the same positives in the same order.
        neg_b: scores by B of the same negatives in the same order.
        seed: the same seed gives the same interval.
        n_resamples: resamples drawn.
        level: coverage aimed at, in (0, 1).

    Returns:
        The interval of the difference A − B: positive where A is larger. If both separate perfectly in every
        resample, the difference may still be off by Clopper and Pearson's end.

    Raises:
        ValueError: as `bootstrap_interval`, or A and B differ in length.
    """
    pos_a, neg_a = checked_sample(pos_a, "pos_a"), checked_sample(neg_a, "neg_a")
    pos_b, neg_b = checked_sample(pos_b, "pos_b"), checked_sample(neg_b, "neg_b")
    require(pos_b.size == pos_a.size, "pos_b", pos_b.shape, f"must score the same points as pos_a, {pos_a.shape}")
    require(neg_b.size == neg_a.size, "neg_b", neg_b.shape, f"must score the same points as neg_a, {neg_a.shape}")

    by_a, by_b = _of_rows(statistic, pos_a, neg_a), _of_rows(statistic, pos_b, neg_b)
    found = _bootstrap(lambda i, j: by_a(i, j) - by_b(i, j), pos_a.size, neg_a.size, seed, n_resamples, level)
    values = float(statistic(pos_a, neg_a)), float(statistic(pos_b, neg_b))
    if found.low == found.high and values[0] == values[1] and values[0] in (0, 1):
        missed = unseen_rate(min(pos_a.size, neg_a.size), level)
        return Interval(found.value, -missed, missed, found.n)
    return found


def _bootstrap(statistic: Statistic, n_pos: int, n_neg: int, seed: int, n_resamples: int, level: float) -> Interval:
    """BCa interval of a statistic of row indices: ``(*batch, n_pos), (*batch, n_neg) -> (*batch,)``."""
    check_resampling(n_resamples, level)
    rows = np.arange(n_pos), np.arange(n_neg)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # With equal resamples the correction is NaN, which is handled below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            rows,
            lambda i, j, axis: statistic(i, j),
            n_resamples=n_resamples,
            batch=max(1, RESAMPLED_SCORES // (n_pos + n_neg)),
            vectorized=True,
            axis=-1,
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    value, ends = float(statistic(*rows)), np.asarray(result.confidence_interval)
    if not np.isfinite(ends).all():
        ends = np.quantile(result.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(value, float(ends[0])), max(value, float(ends[1])), n_pos + n_neg)


def _of_rows(statistic: Statistic, pos: np.ndarray, neg: np.ndarray) -> Statistic:
    """``statistic(pos[i], neg[j])`` as a function of the rows i, j; the AUC without sorting every resample.

    A resample repeats values of the sample: its AUC follows from counting how often each occurs.
    """
    if statistic is not auc:
        return lambda i, j: statistic(pos[i], neg[j])
    places = stats.rankdata(np.concatenate([pos, neg]), method="dense").astype(int) - 1
    n_values = int(places.max()) + 1
    place_pos, place_neg = places[: pos.size], places[pos.size :]

    def counted(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        of_pos, of_neg = _counts(place_pos[i], n_values), _counts(place_neg[j], n_values)
        # twice the pairs won by the positive, in integers: a tie counts one
        beaten = 2 * np.cumsum(of_neg, axis=-1) - of_neg
        return (of_pos * beaten).sum(axis=-1) / (2 * i.shape[-1] * j.shape[-1])

    return counted


def _counts(places: np.ndarray, n_values: int) -> np.ndarray:
    """How often each of 0 … n_values−1 occurs along the last axis: ``(*batch, n) -> (*batch, n_values)``."""
    batch = places.shape[:-1]
    offsets = n_values * np.arange(np.prod(batch, dtype=int)).reshape(*batch, 1)
    return np.bincount((places + offsets).ravel(), minlength=offsets.size * n_values).reshape(*batch, n_values)
