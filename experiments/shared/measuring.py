"""A statistic with its interval as a metric; a class that came out empty is told, not scored."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.core.report import Report
from plap_jax.bootstrap import (
    bootstrap_interval,
    clustered_bootstrap,
    clustered_paired_bootstrap,
    paired_bootstrap,
    tpr_interval,
)
from plap_jax.metrics import FPR, Interval, auc, fewest_negatives, proportion_interval, tpr_at_fpr

Statistic = Callable[[np.ndarray, np.ndarray], Any]
# of the positives, of the negatives: the training image that each belongs to
Clusters = tuple[np.ndarray, np.ndarray]
STATISTICS: dict[str, Statistic] = {"auc": auc, "tpr_at_1pct_fpr": tpr_at_fpr}


def too_few(positive: np.ndarray, negative: np.ndarray, clusters: Clusters | None = None) -> str | None:
    """Why nothing can be measured, or None: it needs two of each class, scores that differ, two clusters of each."""
    for name, values in (("positive", positive), ("negative", negative)):
        if len(values) < 2:
            return f"{len(values)} {name} example(s) in the test half, at least 2 are needed"
    if np.ptp(np.concatenate([positive, negative])) == 0:
        return "all scores are equal"
    if clusters is not None and min(len(np.unique(of_class)) for of_class in clusters) < 2:
        return "all of a class belong to one training image"
    return None


def few_negatives(n: int, unit: str = "example") -> str | None:
    """Why no TPR at 1 % FPR is told of ``n`` independent negatives, or None; of points in clusters, n counts these."""
    needed = fewest_negatives()
    return None if n >= needed else f"{n} negative {unit}(s), at least {needed} are needed for a rate of {FPR:g}"


def measure(
    report: Report,
    name: str,
    statistic: Statistic,
    positive: np.ndarray,
    negative: np.ndarray,
    seed: int,
    clusters: Clusters | None = None,
) -> Interval | None:
    """``statistic`` with its interval as metric ``name``; null with the reason where there are too few of a class."""
    found, reason = interval_of(statistic, positive, negative, seed, clusters)
    report.metric(name, found, reason)
    return found


def interval_of(
    statistic: Statistic,
    positive: np.ndarray,
    negative: np.ndarray,
    seed: int,
    clusters: Clusters | None = None,
) -> tuple[Interval | None, str | None]:
    """The interval, or None and why: over images, or over ``clusters`` (of the positives, of the negatives)."""
    reason = too_few(positive, negative, clusters)
    if statistic is tpr_at_fpr:
        told = (len(negative),) if clusters is None else (len(np.unique(clusters[1])), "cluster")
        reason = reason or few_negatives(*told)
    if reason:
        return None, reason
    if statistic is tpr_at_fpr:
        return tpr_interval(positive, negative, *(clusters or ()), seed=seed), None
    if clusters is None:
        return bootstrap_interval(statistic, positive, negative, seed=seed), None
    return clustered_bootstrap(statistic, positive, negative, *clusters, seed=seed), None


def measure_gain(
    report: Report, name: str, pairs: tuple[np.ndarray, ...], seed: int, clusters: Clusters | None = None
) -> None:
    """AUC of A − AUC of B from (positives, negatives by A, positives, negatives by B), drawn in pairs.

    What is drawn are images, or ``clusters`` of them (of the positives, of the negatives).
    """
    reason = too_few(pairs[0], pairs[1], clusters)
    if reason:
        report.metric(name, None, reason)
    elif clusters is None:
        report.metric(name, paired_bootstrap(auc, *pairs, seed=seed))
    else:
        report.metric(name, clustered_paired_bootstrap(auc, *pairs, *clusters, seed=seed))


def measure_share(report: Report, name: str, chosen: np.ndarray) -> None:
    """The share of True as metric ``name``; null where there is nothing to count."""
    if len(chosen):
        report.metric(name, proportion_interval(int(chosen.sum()), len(chosen)))
    else:
        report.metric(name, None, "nothing to count")
