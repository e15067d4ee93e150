"""Choosing on the validation half and measuring on the test half."""

from dataclasses import dataclass

import numpy as np

from experiments.core.report import Report
from experiments.image_memorization.scoring import Scores
from experiments.shared.measuring import STATISTICS, interval_of
from plap_jax.metrics import auc


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


def levels_table(
    scores: Scores, positive: np.ndarray, negative: np.ndarray, seed: int, clusters: np.ndarray | None = None
) -> tuple[list[dict[str, float | None]], dict[str, np.ndarray]]:
    """AUC and TPR at 1 % FPR of every order and level: table rows, and the same as arrays for the figures.

    Args:
        scores: of all images.
        positive, negative: ``(n,)`` booleans.
        seed: of the bootstrap.
        clusters: ``(n,)``, images that go together, or None.

    Returns:
        Rows; ``auc`` and ``tpr_at_1pct_fpr``, ``(n orders, n levels, 3)``: value, low, high, NaN where there are too
        few of a class; and ``sigma`` and ``p``.
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
                ends = (found.value, found.low, found.high) if found else (None, None, None)
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            rows.append(row)
    return rows, {**curves, "sigma": scores.sigma, "p": scores.p}
