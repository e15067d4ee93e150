"""AUC of many bootstrap resamples at once, from the weights of the points, without sorting again."""

import numpy as np
from numpy.typing import ArrayLike

from plap_jax.metrics import checked_scores
from plap_jax.typing import require


def weighted_auc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """AUC with integer weights, for many resamples at once.

    Σ_{i⁺, j⁻} w_i w_j (1[s_i > s_j] + ½ 1[s_i = s_j]) / (Σ_{i⁺} w_i · Σ_{j⁻} w_j): `auc` of points repeated w times.

    Args:
        scores: ``(*batch, n)``, real: one row per detector.
        positive: ``(n,)`` booleans, both classes not empty.
        weights: ``(n_resamples, n)`` integers ≥ 0, see `cluster_weights`.

    Returns:
        ``(*batch, n_resamples)`` float64 in [0, 1], exactly `auc` of each resample; NaN if a resample lacks a class.

    Raises:
        ValueError: scores that are not finite, an empty class, shapes that do not match, weights that are not counts.
    """
    scores, positive, of_pos, of_neg = _checked(scores, positive, weights)
    rows = scores.reshape(-1, positive.size)
    pairs = of_pos.sum(axis=1) * of_neg.sum(axis=1)
    # total weight of the negatives before each rank
    before = np.zeros((len(of_neg), of_neg.shape[1] + 1))
    wins = np.empty((len(rows), len(pairs)))
    for won, row in zip(wins, rows, strict=True):
        pos, neg = row[positive], row[~positive]
        order = np.argsort(neg)
        np.cumsum(np.take(of_neg, order, axis=1), axis=1, out=before[:, 1:])
        below, up_to = (np.searchsorted(neg[order], pos, side) for side in ("left", "right"))
        beaten = np.take(before, below, axis=1)
        if np.array_equal(below, up_to):
            beaten *= 2
        else:  # ties: a negative of the same score counts once, one below twice
            beaten += np.take(before, up_to, axis=1)
        won[:] = np.einsum("rp,rp->r", of_pos, beaten)
    with np.errstate(invalid="ignore"):
        return (wins / (2 * pairs)).reshape(*scores.shape[:-1], -1)


def _checked(
    scores: ArrayLike, positive: ArrayLike, weights: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, positives, and the weights of each class in float64, where sums of counts are exact."""
    scores = checked_scores(scores, "scores")
    positive, weights = np.asarray(positive), np.asarray(weights)
    per_score = scores.shape[-1:]
    flags = positive.dtype == bool and positive.shape == per_score
    require(flags, "positive", positive, f"must be one boolean per score, {per_score}")
    require(positive.any(), "positive", positive, "must hold a positive")
    require(not positive.all(), "positive", positive, "must hold a negative")
    fitting = weights.ndim == 2 and weights.shape[1:] == per_score
    require(fitting, "weights", weights.shape, f"must be (n_resamples, n) with n = {per_score[0]} scores")
    counts = np.issubdtype(weights.dtype, np.integer) and bool((weights >= 0).all())
    require(counts, "weights", weights, "must be integers >= 0, how often each point is drawn")
    return scores, positive, weights[:, positive].astype(np.float64), weights[:, ~positive].astype(np.float64)
