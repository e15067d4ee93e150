"""Choosing on the validation half and measuring on the test half; a class that came out empty is told, not scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.image_memorization.scoring import Scores
from experiments.report import Report
from plap_jax.bootstrap import bootstrap_interval, clustered_bootstrap, clustered_paired_bootstrap, paired_bootstrap
from plap_jax.metrics import Interval, auc, proportion_interval, tpr_at_fpr

Statistic = Callable[[np.ndarray, np.ndarray], Any]
# of the positives, of the negatives: the training image that each belongs to
Clusters = tuple[np.ndarray, np.ndarray]
STATISTICS: dict[str, Statistic] = {"auc": auc, "tpr_at_1pct_fpr": tpr_at_fpr}


@dataclass(frozen=True)
class Choice:
    """An order and a noise level, as indices."""

    order: int
    level: int
    validation_auc: float | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """``values`` ``(n orders, n levels, n)`` there: ``(n,)``."""
        return values[self.order, self.level]


def best(values: np.ndarray, positive: np.ndarray, negative: np.ndarray, *, first: int = 0) -> Choice:
    """Where ``values`` ``(n orders, n levels, n)`` separate best by AUC; the first of equals.

    The middle level of the first order, and no AUC, where a class is empty: then there is nothing to choose by, and
    what is measured there is not to be reported.

    Args:
        values: higher = more memorized.
        positive, negative: ``(n,)`` booleans, of the validation half.
        first: number of the first order in ``values``.
    """
    if not positive.any() or not negative.any():
        return Choice(first, values.shape[1] // 2)
    found = auc(values[..., positive], values[..., negative])
    order, level = np.unravel_index(np.argmax(found), found.shape)
    return Choice(first + int(order), int(level), float(found.max()))


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


NOT_CHOSEN = "a class is empty in the validation half, so that no noise level could be chosen"


def measure_choice(report: Report, prefix: str, choice: Choice, scores: Scores) -> None:
    """The chosen level and order, and the AUC on the validation half by which they were chosen; null without."""
    reason = NOT_CHOSEN if choice.validation_auc is None else None
    numbers = {
        "sigma": scores.sigma[choice.level],
        "p": scores.p[choice.order],
        "validation_auc": choice.validation_auc,
    }
    for name, number in numbers.items():
        report.metric(f"{prefix}/{name}", None if reason else number, reason)


def measure(
    report: Report,
    name: str,
    statistic: Statistic,
    positive: np.ndarray,
    negative: np.ndarray,
    seed: int,
    clusters: Clusters | None = None,
) -> Interval | None:
    """``statistic`` with its bootstrap interval as metric ``name``; null with the reason where a class is empty."""
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
    if reason:
        return None, reason
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


def levels_table(
    scores: Scores, positive: np.ndarray, negative: np.ndarray, seed: int, clusters: np.ndarray | None = None
) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """AUC and TPR at 1 % FPR of every order and level: table rows, and the same as arrays for the figures.

    Args:
        scores: of all images.
        positive, negative: ``(n,)`` booleans.
        seed: of the bootstrap.
        clusters: ``(n,)``, images that go together, or None.

    Returns:
        Rows; ``auc`` and ``tpr_at_1pct_fpr``, ``(n orders, n levels, 3)``: value, low, high, NaN without a class; and
        ``sigma`` and ``p``.
    """
    shape = (len(scores.p), len(scores.sigma), 3)
    groups = None if clusters is None else (clusters[positive], clusters[negative])
    curves = {name: np.full(shape, np.nan) for name in STATISTICS}
    rows = []
    for order, p in enumerate(scores.p):
        for level, sigma in enumerate(scores.sigma):
            values = scores.kappa[order, level]
            row = {"p": p, "sigma": sigma}
            for name, statistic in STATISTICS.items():
                found, _ = interval_of(statistic, values[positive], values[negative], seed, groups)
                if found is not None:
                    curves[name][order, level] = found.value, found.low, found.high
                    row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append(row)
    return rows, {**curves, "sigma": scores.sigma, "p": scores.p}
