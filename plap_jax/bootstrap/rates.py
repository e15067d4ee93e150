"""Confidence intervals of the true positive rate at a small false positive rate, by a Bayesian bootstrap.

The threshold lies among the largest negatives. Ordinary resamples only repeat their values, so with few negatives the
threshold hardly moves: the largest of 100 is in 63 % of the resamples. Continuous weights place the quantile between
the negatives, or beyond the largest.
"""

import numpy as np
from numpy.typing import ArrayLike

from plap_jax.bootstrap.clusters import joined
from plap_jax.bootstrap.intervals import check_resampling, percentile_interval
from plap_jax.metrics import FPR, Interval, checked_sample, checked_scores, tpr_at_fpr
from plap_jax.typing import require

TAIL = 10  # largest negatives: the line through the first and last of them extrapolates beyond the first


def tpr_interval(
    scores_pos: ArrayLike,
    scores_neg: ArrayLike,
    clusters_pos: ArrayLike | None = None,
    clusters_neg: ArrayLike | None = None,
    *,
    seed: int,
    max_fpr: float = FPR,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Confidence interval of the true positive rate at a given false positive rate.

    `tpr_at_fpr` with the percentile interval of `resampled_tpr`, for P(s⁺ > q), P(s⁻ > q) = max_fpr.

    The interval contains the estimate, which is conservative: with few negatives it lies below P(s⁺ > q) on average.
    Its coverage is measured by ``python -m benchmarks.coverage_tpr``.

    Args:
        scores_pos: scores of positives, ``(n_pos,)``, n_pos ≥ 2.
        scores_neg: scores of negatives, ``(n_neg,)``, n_neg ≥ 1/max_fpr.
        clusters_pos: ``(n_pos,)`` integers, the cluster of each; None: every point is independent.
        clusters_neg: ``(n_neg,)``, likewise, both or neither; a cluster may hold both classes.
        seed: the same seed gives the same interval.
        max_fpr: the false positive rate allowed, in (0, 1].
        n_resamples: resamples drawn.
        level: coverage aimed at, in (0, 1).

    Returns:
        The interval; ``n`` counts points, or clusters.

    Raises:
        ValueError: as `tpr_at_fpr` and `clustered_bootstrap`, or clusters of one class only.
    """
    pos, neg = checked_sample(scores_pos, "scores_pos"), checked_sample(scores_neg, "scores_neg")
    check_resampling(n_resamples, level)
    both = (clusters_pos is None) == (clusters_neg is None)
    require(both, "clusters_neg", clusters_neg, "must be given with clusters_pos, or neither")
    value = float(tpr_at_fpr(pos, neg, max_fpr))
    if clusters_pos is None:
        clusters_pos, clusters_neg = np.arange(pos.size), pos.size + np.arange(neg.size)
    clusters, positive = joined(pos, neg, clusters_pos, clusters_neg)
    how = {"seed": seed, "max_fpr": max_fpr, "n_resamples": n_resamples}
    resampled = resampled_tpr(np.concatenate([pos, neg]), positive, clusters, **how)
    return percentile_interval(value, resampled, len(np.unique(clusters)), level)


def resampled_tpr(
    scores: ArrayLike,
    positive: ArrayLike,
    clusters: ArrayLike,
    *,
    seed: int,
    max_fpr: float = FPR,
    n_resamples: int = 1000,
) -> np.ndarray:
    """The true positive rate at a given false positive rate under random weights of the clusters.

    P(s⁺ > q) of weighted points, where P(s⁻ > q) = max_fpr: weights w ~ Exp(1), one for each cluster (Rubin 1981).

    Negatives in descending order s₁ ≥ … ≥ s_n have the rates u_j = Σ_{i≤j} w_i / (Σ_i w_i + w₀), which for independent
    points have the law of P(s⁻ > s_j), Beta(j, n+1−j). q is read off the line between neighbours in log u, or beyond s₁
    off the line through s₁ and s₁₀, an exponential tail. Then TPR = (g₁ + Σ w_i 1[s_i > q]) / (g₁ + g₂ + Σ w_i) over
    the positives with g ~ Γ(½): for x of m independent points Beta(x+½, m−x+½), Jeffreys's.

    Args:
        scores: ``(*batch, n)``, real: one row per detector, all with the same weights.
        positive: ``(n,)`` booleans, both classes not empty.
        clusters: ``(n,)``, the cluster of each point.
        seed: of the weights.
        max_fpr: the false positive rate allowed, in (0, 1].
        n_resamples: sets of weights.

    Returns:
        ``(*batch, n_resamples)`` float64 in (0, 1).

    Raises:
        ValueError: scores that are not finite, an empty class, or shapes that do not match.
    """
    scores, positive = checked_scores(scores, "scores"), np.asarray(positive)
    names, places = np.unique(clusters, return_inverse=True)
    per_score = scores.shape[-1:]
    flags = positive.dtype == bool and positive.shape == per_score
    require(flags, "positive", positive, f"must be one boolean per score, {per_score}")
    require(positive.any() and not positive.all(), "positive", positive, "must hold both classes")
    require(places.shape == per_score, "clusters", places.shape, f"must be one per score, {per_score}")
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(n_resamples, len(names)))[:, places]
    of_pos, of_neg = weights[:, positive], weights[:, ~positive]
    per_cluster = [members.sum() / len(np.unique(places[members])) for members in (positive, ~positive)]
    extra = per_cluster[0] * rng.gamma(0.5, size=(2, n_resamples))
    beyond = per_cluster[1] * rng.exponential(size=n_resamples)
    everyone = of_pos.sum(axis=1) + extra.sum(axis=0)
    rows = scores.reshape(-1, positive.size)
    found = np.empty((len(rows), n_resamples))
    for tpr, row in zip(found, rows, strict=True):
        order = np.argsort(-row[~positive])
        u = np.cumsum(of_neg[:, order], axis=1)
        threshold = _quantile(row[~positive][order], u / (u[:, -1] + beyond)[:, None], max_fpr)
        detected = np.einsum("rp,rp->r", of_pos, row[positive] > threshold[:, None])
        tpr[:] = (extra[0] + detected) / everyone
    return found.reshape(*scores.shape[:-1], -1)


def _quantile(descending: np.ndarray, rates: np.ndarray, rate: float) -> np.ndarray:
    """Where the line through (log rates, descending) passes log ``rate``, for each row of rates."""
    tail = min(TAIL, len(descending)) - 1
    upper = (rates < rate).sum(axis=1) - 1  # the last that lies above the quantile, −1 where none does
    first, second = np.where(upper < 0, 0, upper), np.where(upper < 0, tail, upper + 1).clip(0, len(descending) - 1)
    rows = np.arange(len(rates))
    x, y = np.log(rates[rows, first]), np.log(rates[rows, second])
    share = np.where(y > x, (np.log(rate) - x) / np.where(y > x, y - x, 1), 0)
    return descending[first] + share * (descending[second] - descending[first])
