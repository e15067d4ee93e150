"""Intervals from the values of resamples, also for perfect separation."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from plap_jax.metrics import Interval
from plap_jax.typing import require

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def check_resampling(n_resamples: int, level: float) -> None:
    """Refuse fewer than two resamples and a level outside (0, 1).

    Raises:
        ValueError: naming ``n_resamples`` or ``level``.
    """
    require(n_resamples >= 2, "n_resamples", n_resamples, "must be at least 2")
    require(0 < level < 1, "level", level, "must lie in (0, 1)")


def unseen_rate(trials: int, level: float) -> float:
    """Upper confidence limit of a rate with no event in ``trials`` trials: 1 − (½(1−level))^{1/trials}."""
    return 1 - ((1 - level) / 2) ** (1 / trials)


def percentile_interval(
    value: float, resampled: ArrayLike, n: int, level: float = 0.95, *, trials: int | None = None
) -> Interval:
    """Percentile bootstrap interval from the values of the resamples.

    [q_{½(1−level)}, q_{½(1+level)}] of the resampled values, widened to contain ``value``.

    A statistic that is 0 or 1 in every resample has no spread, yet is still uncertain: given ``trials``, the other end
    is then `unseen_rate(trials, level)` away.

    Args:
        value: the statistic of all the data.
        resampled: ``(n_resamples,)``, the statistic of resamples; NaN where undefined, which is ignored.
        n: number of independent data, kept in the interval.
        level: coverage aimed at, in (0, 1).
        trials: independent data of the rarer class, `fewest_clusters`; None if the statistic is not a rate.

    Raises:
        ValueError: fewer than two resamples that are not NaN, or level out of range.
    """
    resampled = np.asarray(resampled, dtype=np.float64)
    known = resampled[~np.isnan(resampled)]
    require(resampled.ndim == 1 and known.size >= 2, "resampled", resampled, "must be a vector of at least 2 numbers")
    require(0 < level < 1, "level", level, "must lie in (0, 1)")
    if trials is not None and _always(value, known):
        missed = unseen_rate(trials, level)
        return Interval(float(value), *((1 - missed, 1.0) if value == 1 else (0.0, missed)), n)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), min(float(value), float(low)), max(float(value), float(high)), n)


def paired_percentile_interval(
    value_a: float,
    resampled_a: ArrayLike,
    value_b: float,
    resampled_b: ArrayLike,
    n: int,
    level: float = 0.95,
    *,
    trials: int | None = None,
) -> Interval:
    """Percentile bootstrap interval of the difference between two statistics on the same resamples.

    Of value_a − value_b: positive where A is larger. If both are 0 or 1 in every resample, the difference may be
    off by `unseen_rate(trials, level)`, within [−1, 1].

    Args:
        value_a: the statistic of all the data by A.
        resampled_a: ``(n_resamples,)`` by A.
        value_b: likewise by B.
        resampled_b: ``(n_resamples,)`` by B, of the same resamples in the same order.
        n: as in `percentile_interval`.
        level: coverage aimed at, in (0, 1).
        trials: as in `percentile_interval`.

    Raises:
        ValueError: as `percentile_interval`, or resamples of A and B that differ in number.
    """
    resampled_a, resampled_b = np.asarray(resampled_a, dtype=np.float64), np.asarray(resampled_b, dtype=np.float64)
    same = f"must be of the same resamples as resampled_a, {resampled_a.shape}"
    require(resampled_b.shape == resampled_a.shape, "resampled_b", resampled_b.shape, same)
    found = percentile_interval(value_a - value_b, resampled_a - resampled_b, n, level)
    if trials is not None and _always(value_a, resampled_a) and _always(value_b, resampled_b):
        missed = unseen_rate(trials, level)
        return Interval(found.value, max(-1.0, found.value - missed), min(1.0, found.value + missed), n)
    return found


def _always(value: float, resampled: np.ndarray) -> bool:
    """Whether it is 0, or 1, in every resample where it is defined."""
    return value in (0, 1) and bool(((resampled == value) | np.isnan(resampled)).all())
