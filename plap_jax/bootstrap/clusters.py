"""Bootstrap over clusters of dependent points: n copies of one image carry less information than n images.

A resample draws as many clusters as there are, with replacement, with all their points. To compare many scores of
the same points, use the same resamples: `cluster_weights` once, `weighted_auc` of all scores, then
`percentile_interval` of each and `paired_percentile_interval` of any two.
"""

import numpy as np
from numpy.typing import ArrayLike

from plap_jax.bootstrap.intervals import (
    Statistic,
    check_resampling,
    paired_percentile_interval,
    percentile_interval,
)
from plap_jax.bootstrap.weighted import weighted_auc
from plap_jax.metrics import Interval, auc, checked_sample
from plap_jax.typing import require


def cluster_weights(
    clusters: ArrayLike, positive: ArrayLike | None = None, *, seed: int, n_resamples: int = 1000
) -> np.ndarray:
    """How often each point occurs in each bootstrap resample of clusters.

    w_ri = how often resample r draws the cluster of point i; a resample draws as many clusters as there are.

    Args:
        clusters: ``(n,)`` integers or names, the cluster of each point.
        positive: ``(n,)`` booleans: resamples that lack one of the classes are drawn again. None: they are kept.
        seed: the same seed gives the same resamples of the same clusters.
        n_resamples: resamples drawn.

    Returns:
        ``(n_resamples, n)`` integers ≥ 0.

    Raises:
        ValueError: fewer than two clusters, flags of another shape, an empty class, or fewer than two
            resamples.
    """
    clusters = np.asarray(clusters)
    require(clusters.ndim == 1, "clusters", clusters.shape, "must be a vector")
    names, places = np.unique(clusters, return_inverse=True)
    require(len(names) >= 2, "clusters", names, "must hold at least two clusters")
    require(n_resamples >= 2, "n_resamples", n_resamples, "must be at least 2")
    holding = [np.arange(len(names))]
    if positive is not None:
        positive = np.asarray(positive)
        flags = positive.dtype == bool and positive.shape == clusters.shape
        require(flags, "positive", positive, f"must be one boolean per point, {clusters.shape}")
        require(positive.any() and not positive.all(), "positive", positive, "must hold both classes")
        holding = [np.unique(places[members]) for members in (positive, ~positive)]
    rng = np.random.default_rng(seed)
    times = np.empty((0, len(names)), dtype=np.int64)
    while len(times) < n_resamples:  # one draw has both classes with probability > ⅓, however few their clusters are
        more = _draws(rng, len(names), n_resamples - len(times))
        kept = np.logical_and.reduce([more[:, members].any(axis=1) for members in holding])
        times = np.concatenate([times, more[kept]])
    return times[:, places]


def fewest_clusters(clusters: ArrayLike, positive: ArrayLike) -> int:
    """The number of independent data of the rarer class.

    min(number of clusters with a positive, number of clusters with a negative).

    Args:
        clusters: ``(n,)``, the cluster of each point.
        positive: ``(n,)`` booleans.
    """
    clusters, positive = np.asarray(clusters), np.asarray(positive)
    return min(len(np.unique(clusters[members])) for members in (positive, ~positive))


def clustered_bootstrap(
    statistic: Statistic,
    scores_pos: ArrayLike,
    scores_neg: ArrayLike,
    clusters_pos: ArrayLike,
    clusters_neg: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Confidence interval of an AUC-like statistic when points come in dependent clusters.

    Percentile bootstrap of statistic(pos, neg) over clusters, which are drawn with all their points.

    Resamples without one of the classes are redrawn. If every resample gives 0 or 1 (perfect separation), the other end
    is Clopper and Pearson's, opposite 1 (½(1−level))^{1/n}, where n is the number of clusters with a positive or with a
    negative, whichever is smaller.

    Args:
        statistic: as in `bootstrap_interval`; `auc` is computed for all resamples at once, any other is called on
            vectors, once per resample. For `tpr_at_fpr` use `tpr_interval`.
        scores_pos: scores of positives, ``(n_pos,)``, n_pos ≥ 2.
        scores_neg: scores of negatives, ``(n_neg,)``, n_neg ≥ 2.
        clusters_pos: ``(n_pos,)`` integers, the cluster of each.
        clusters_neg: ``(n_neg,)``, likewise; a cluster may hold both classes.
        seed: the same seed gives the same interval.
        n_resamples: resamples drawn.
        level: coverage aimed at, in (0, 1); with few clusters it is lower.

    Returns:
        The interval; ``n`` counts clusters.

    Raises:
        ValueError: as `bootstrap_interval`, clusters of another shape than the scores, or fewer than two clusters
            with a positive or with a negative.
    """
    pos, neg = checked_sample(scores_pos, "scores_pos"), checked_sample(scores_neg, "scores_neg")
    check_resampling(n_resamples, level)
    clusters, positive = joined(pos, neg, clusters_pos, clusters_neg)
    weights = cluster_weights(clusters, positive, seed=seed, n_resamples=n_resamples)
    value, resampled = float(statistic(pos, neg)), _resampled(statistic, pos, neg, weights)
    n, trials = len(np.unique(clusters)), fewest_clusters(clusters, positive)
    return percentile_interval(value, resampled, n, level, trials=trials)


def clustered_paired_bootstrap(
    statistic: Statistic,
    pos_a: ArrayLike,
    neg_a: ArrayLike,
    pos_b: ArrayLike,
    neg_b: ArrayLike,
    clusters_pos: ArrayLike,
    clusters_neg: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Confidence interval of the difference between two detectors when points come in dependent clusters.

    Percentile bootstrap of statistic(pos_a, neg_a) − statistic(pos_b, neg_b), the same clusters drawn for both.

    Args:
        statistic: as in `clustered_bootstrap`.
        pos_a: scores of the positives by A, ``(n_pos,)``.
        neg_a: scores of the negatives by A, ``(n_neg,)``.
        pos_b: scores by B of the same positives in the same order.
        neg_b: scores by B of the same negatives in the same order.
        clusters_pos: ``(n_pos,)`` integers, the cluster of each.
        clusters_neg: ``(n_neg,)``, likewise; a cluster may hold both classes.
        seed: the same seed gives the same interval.
        n_resamples: resamples drawn.
        level: coverage aimed at, in (0, 1); with few clusters it is lower.

    Returns:
        The interval of the difference A − B, positive where A is larger; ``n`` counts clusters. If both separate
        perfectly in every resample, the difference may still be off by Clopper and Pearson's end, as in
        `clustered_bootstrap`.

    Raises:
        ValueError: as `clustered_bootstrap`, or A and B differ in length.
    """
    pos_a, neg_a = checked_sample(pos_a, "pos_a"), checked_sample(neg_a, "neg_a")
    pos_b, neg_b = checked_sample(pos_b, "pos_b"), checked_sample(neg_b, "neg_b")
    require(pos_b.size == pos_a.size, "pos_b", pos_b.shape, f"must score the same points as pos_a, {pos_a.shape}")
    require(neg_b.size == neg_a.size, "neg_b", neg_b.shape, f"must score the same points as neg_a, {neg_a.shape}")
    check_resampling(n_resamples, level)
    clusters, positive = joined(pos_a, neg_a, clusters_pos, clusters_neg)
    weights = cluster_weights(clusters, positive, seed=seed, n_resamples=n_resamples)
    of_a, of_b = (
        (float(statistic(pos, neg)), _resampled(statistic, pos, neg, weights))
        for pos, neg in ((pos_a, neg_a), (pos_b, neg_b))
    )
    n, trials = len(np.unique(clusters)), fewest_clusters(clusters, positive)
    return paired_percentile_interval(*of_a, *of_b, n, level, trials=trials)


def _draws(rng: np.random.Generator, n_clusters: int, n_resamples: int) -> np.ndarray:
    """``(n_resamples, n_clusters)``: how often each cluster is drawn, ``n_clusters`` draws in each row."""
    drawn = rng.integers(n_clusters, size=(n_resamples, n_clusters)) + n_clusters * np.arange(n_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_resamples * n_clusters).reshape(n_resamples, n_clusters)


def joined(
    pos: np.ndarray, neg: np.ndarray, clusters_pos: ArrayLike, clusters_neg: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters and classes of the positives and then the negatives, both ``(n_pos + n_neg,)``."""
    groups_pos, groups_neg = np.asarray(clusters_pos), np.asarray(clusters_neg)
    for name, groups, scores in (("clusters_pos", groups_pos, pos), ("clusters_neg", groups_neg, neg)):
        require(groups.shape == scores.shape, name, groups.shape, f"must be one per score, {scores.shape}")
        require(len(np.unique(groups)) >= 2, name, np.unique(groups), "must hold at least two clusters")
    return np.concatenate([groups_pos, groups_neg]), np.arange(pos.size + neg.size) < pos.size


def _resampled(statistic: Statistic, pos: np.ndarray, neg: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The statistic of every resample, ``(n_resamples,)``."""
    if statistic is auc:
        return weighted_auc(np.concatenate([pos, neg]), np.arange(pos.size + neg.size) < pos.size, weights)
    of_pos, of_neg = weights[:, : pos.size], weights[:, pos.size :]
    pairs = zip(of_pos, of_neg, strict=True)
    return np.array([float(statistic(np.repeat(pos, i), np.repeat(neg, j))) for i, j in pairs])
