"""How well scores separate two classes: AUC and TPR at low FPR, and intervals that need no resampling.

Higher scores mean "positive" (memorized). Everything runs on the host in float64. The two measures work on the
last axis and keep the others, so one call evaluates all resamples of a bootstrap.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from plap_jax.typing import require

FPR = 0.01  # the false positive rate at which detectors are reported


@dataclass(frozen=True)
class Interval:
    """A value with a two-sided confidence interval, all in the units of the value.

    Attributes:
        value: the estimate from all the data.
        low: lower end.
        high: upper end.
        n: number of independent data behind it (both classes together).
    """

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """``{"value", "low", "high", "n"}``, as `metrics.json` holds it."""
        return asdict(self)


def auc(scores_pos: ArrayLike, scores_neg: ArrayLike) -> np.ndarray | float:
    """Area under the ROC curve: how often a positive scores above a negative.

    AUC = P(s⁺ > s⁻) + ½ P(s⁺ = s⁻) over all pairs (Mann–Whitney U / n⁺n⁻).

    Args:
        scores_pos: scores of positives, ``(*batch, n_pos)``, real.
        scores_neg: scores of negatives, ``(*batch, n_neg)``.

    Returns:
        ``(*batch,)`` float64 in [0, 1], a float without batch; 1 when every positive is above every negative.

    Raises:
        ValueError: an empty class, a score that is not finite, or batches that differ.
    """
    pos, neg = _two_classes(scores_pos, scores_neg)
    n_pos, n_neg = pos.shape[-1], neg.shape[-1]
    ranks = stats.rankdata(np.concatenate([pos, neg], axis=-1), axis=-1)
    wins = ranks[..., :n_pos].sum(axis=-1) - n_pos * (n_pos + 1) / 2
    return _plain(wins / (n_pos * n_neg))


def tpr_at_fpr(scores_pos: ArrayLike, scores_neg: ArrayLike, max_fpr: float = FPR) -> np.ndarray | float:
    """True positive rate at a guaranteed false positive rate: the share of positives detected.

    P(s⁺ > τ) at the smallest τ with (k+1)/(n+1) ≤ max_fpr, where k of the n negatives lie above τ.

    A new negative then exceeds τ with probability at most max_fpr, whatever the distribution of the scores; k/n ≤
    max_fpr would hold for these n alone. τ is the (k+1)-th largest negative, so ties count against the detector. No
    interpolation.

    Args:
        scores_pos: scores of positives, ``(*batch, n_pos)``, real.
        scores_neg: scores of negatives, ``(*batch, n_neg)``, n_neg ≥ 1/max_fpr.
        max_fpr: the false positive rate allowed, in (0, 1].

    Returns:
        ``(*batch,)`` float64 in [0, 1], a float without batch.

    Raises:
        ValueError: as `auc`, max_fpr outside (0, 1], or fewer than 1/max_fpr negatives.
    """
    require(0 < max_fpr <= 1, "max_fpr", max_fpr, "must lie in (0, 1]")
    pos, neg = _two_classes(scores_pos, scores_neg)
    n_neg, needed = neg.shape[-1], fewest_negatives(max_fpr)
    require(n_neg >= needed, "scores_neg", neg.shape, f"must hold {needed} negatives for a rate of {max_fpr:g}")
    passing = int(allowed_negatives(n_neg, max_fpr))
    if passing == n_neg:
        return _plain(np.ones(pos.shape[:-1]))
    threshold = np.partition(neg, n_neg - 1 - passing, axis=-1)[..., n_neg - 1 - passing]
    return _plain(np.mean(pos > threshold[..., None], axis=-1))


def fewest_negatives(max_fpr: float = FPR) -> int:
    """The fewest negatives with which a rate of ``max_fpr`` can be measured: ⌈1/max_fpr⌉."""
    return math.ceil(round(1 / max_fpr, 9))


def allowed_negatives(n_neg: ArrayLike, max_fpr: float = FPR) -> np.ndarray:
    """The largest k with (k+1)/(n_neg+1) ≤ max_fpr; −1 if there is none. Integers, of the shape of ``n_neg``."""
    # rounded because 0.29 * 100 is 28.999999999999996 in floating point
    return np.floor(np.round(max_fpr * (np.asarray(n_neg) + 1), 9)).astype(int) - 1


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of independent values with Student's confidence interval.

    x̄ ± t_{(1+level)/2, n−1} · sd/√n, in the units of the values.

    Args:
        values: independent repeats, ``(n,)``, n ≥ 2, real.
        level: coverage, in (0, 1).

    Raises:
        ValueError: fewer than two values, a value that is not finite, or level out of range.
    """
    values = checked_sample(values, "values")
    require(0 < level < 1, "level", level, "must lie in (0, 1)")
    mean = values.mean()
    half = stats.t.ppf(0.5 + level / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return Interval(float(mean), float(mean - half), float(mean + half), values.size)


def proportion_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """A rate with its exact confidence interval (Clopper & Pearson 1934), whose coverage is at least ``level``.

    Raises:
        ValueError: n below 1, successes outside 0 … n, or level out of range.
    """
    require(n >= 1, "n", n, "must be >= 1")
    require(0 <= successes <= n, "successes", successes, f"must lie in 0 … {n}")
    require(0 < level < 1, "level", level, "must lie in (0, 1)")
    ends = stats.binomtest(int(successes), int(n)).proportion_ci(confidence_level=level, method="exact")
    return Interval(successes / n, float(ends.low), float(ends.high), int(n))


def checked_scores(values: ArrayLike, name: str) -> np.ndarray:
    """``values`` in float64: at least one on the last axis, all finite.

    Raises:
        ValueError: naming ``name``: no scores, NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    require(array.ndim >= 1 and array.shape[-1] > 0, name, array.shape, "must hold at least one score")
    finite = np.isfinite(array)
    require(bool(finite.all()), name, array[~finite], "must be finite (no NaN, no infinity)")
    return array


def checked_sample(values: ArrayLike, name: str) -> np.ndarray:
    """``values`` in float64: a vector of at least two, all finite.

    Raises:
        ValueError: as `checked_scores`, another shape, or fewer than two.
    """
    array = checked_scores(values, name)
    require(array.ndim == 1 and array.size >= 2, name, array.shape, "must be a vector of at least two values")
    return array


def _two_classes(pos: ArrayLike, neg: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    pos, neg = checked_scores(pos, "scores_pos"), checked_scores(neg, "scores_neg")
    allowed = f"must have the batch shape of scores_pos, {pos.shape[:-1]}"
    require(neg.shape[:-1] == pos.shape[:-1], "scores_neg", neg.shape, allowed)
    return pos, neg


def _plain(value: np.ndarray) -> np.ndarray | float:
    """A float if there is no batch, so that it can be written as JSON."""
    return float(value) if np.ndim(value) == 0 else value
