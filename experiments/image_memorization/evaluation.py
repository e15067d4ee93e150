"""Choosing on the validation half and measuring on the test half; a class that came out empty is told, not scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.image_memorization.scoring import Scores
from experiments.report import Report
from plap_jax.metrics import Interval, auc, bootstrap_interval, paired_bootstrap, proportion_interval, tpr_at_fpr

Statistic = Callable[[np.ndarray, np.ndarray], Any]
STATISTICS: dict[str, Statistic] = {"auc": auc, "tpr_at_1pct_fpr": tpr_at_fpr}


@dataclass(frozen=True)
class Choice:
    """An order and a noise level, as indices."""

    order: int
    level: int

    def of(self, values: np.ndarray) -> np.ndarray:
        """``values`` ``(n orders, n levels, n)`` there: ``(n,)``."""
        return values[self.order, self.level]


def best(values: np.ndarray, positive: np.ndarray, negative: np.ndarray, *, first: int = 0) -> Choice:
    """Where ``values`` ``(n orders, n levels, n)`` separate best by AUC; the first of equals.

    The middle level of the first order where a class is empty, for then there is nothing to choose by.

    Args:
        values: higher = more memorized.
        positive, negative: ``(n,)`` booleans, of the validation half.
        first: number of the first order in ``values``.
    """
    if not positive.any() or not negative.any():
        return Choice(first, values.shape[1] // 2)
    found = auc(values[..., positive], values[..., negative])
    order, level = np.unravel_index(np.argmax(found), found.shape)
    return Choice(first + int(order), int(level))


def too_few(positive: np.ndarray, negative: np.ndarray) -> str | None:
    """Why nothing can be measured, or None: an interval needs two of each class."""
    for name, values in (("positive", positive), ("negative", negative)):
        if len(values) < 2:
            return f"{len(values)} {name} example(s) in the test half, at least 2 are needed"
    return None


def measure(
    report: Report, name: str, statistic: Statistic, positive: np.ndarray, negative: np.ndarray, seed: int
) -> Interval | None:
    """``statistic`` with its bootstrap interval as metric ``name``; null with the reason where a class is empty."""
    reason = too_few(positive, negative)
    found = None if reason else bootstrap_interval(statistic, positive, negative, seed=seed)
    report.metric(name, found, reason)
    return found


def measure_gain(report: Report, name: str, pairs: tuple[np.ndarray, ...], seed: int) -> None:
    """AUC of A − AUC of B from (positives, negatives by A, positives, negatives by B), points drawn in pairs."""
    reason = too_few(pairs[0], pairs[1])
    report.metric(name, None if reason else paired_bootstrap(auc, *pairs, seed=seed), reason)


def measure_share(report: Report, name: str, chosen: np.ndarray) -> None:
    """The share of True as metric ``name``; null where there is nothing to count."""
    if len(chosen):
        report.metric(name, proportion_interval(int(chosen.sum()), len(chosen)))
    else:
        report.metric(name, None, "nothing to count")


def levels_table(
    scores: Scores, positive: np.ndarray, negative: np.ndarray, seed: int
) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """AUC and TPR at 1 % FPR of every order and level: table rows, and the same as arrays for the figures.

    Returns:
        Rows; ``auc`` and ``tpr_at_1pct_fpr``, ``(n orders, n levels, 3)``: value, low, high, NaN without a class; and
        ``sigma`` and ``p``.
    """
    shape = (len(scores.p), len(scores.sigma), 3)
    curves = {name: np.full(shape, np.nan) for name in STATISTICS}
    rows = []
    for order, p in enumerate(scores.p):
        for level, sigma in enumerate(scores.sigma):
            values = scores.kappa[order, level]
            row = {"p": p, "sigma": sigma}
            for name, statistic in STATISTICS.items():
                if not too_few(values[positive], values[negative]):
                    found = bootstrap_interval(statistic, values[positive], values[negative], seed=seed)
                    curves[name][order, level] = found.value, found.low, found.high
                    row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append(row)
    return rows, {**curves, "sigma": scores.sigma, "p": scores.p}
