"""Chosen on the validation half, measured on the test half, all detectors on the same resamples of captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.detection_benchmark.scoring import CandidateScores
from experiments.detection_benchmark.tasks import DetectionTask
from experiments.shared.measuring import few_negatives
from plap_jax.bootstrap import (
    cluster_weights,
    fewest_clusters,
    paired_percentile_interval,
    percentile_interval,
    resampled_tpr,
    weighted_auc,
)
from plap_jax.metrics import Interval, auc, tpr_at_fpr

MIN_PER_CLASS = 2  # units, and captions, of each class


@dataclass(frozen=True)
class Chosen:
    """Every detector at the candidate that is best on the validation half.

    Attributes:
        names: of the detectors.
        candidate: ``(n detectors,)``, index of the candidate.
        validation_auc: ``(n detectors,)``.
        values: ``(n detectors, n units)`` at that candidate.
    """

    names: tuple[str, ...]
    candidate: np.ndarray
    validation_auc: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Measured:
    """All detectors on the units of one cell, and on the same resamples of them.

    Attributes:
        names: of the detectors.
        auc, tpr: ``(n detectors,)``; tpr at 1 % FPR, None where too few captions have negatives.
        auc_resampled, tpr_resampled: ``(n detectors, n resamples)``, likewise.
        no_tpr: why tpr is None, or None.
        n_clusters: captions.
        trials: captions of the class that has fewer.
    """

    names: tuple[str, ...]
    auc: np.ndarray
    tpr: np.ndarray | None
    auc_resampled: np.ndarray
    tpr_resampled: np.ndarray | None
    no_tpr: str | None
    n_clusters: int
    trials: int

    def auc_interval(self, i: int) -> Interval:
        """Of detector i."""
        return percentile_interval(self.auc[i], self.auc_resampled[i], self.n_clusters, trials=self.trials)

    def tpr_interval(self, i: int) -> Interval | None:
        """Of detector i."""
        if self.tpr is None or self.tpr_resampled is None:
            return None
        return percentile_interval(self.tpr[i], self.tpr_resampled[i], self.n_clusters)

    def difference(self, i: int, j: int) -> Interval:
        """AUC of i minus AUC of j, the same captions drawn for both."""
        of_i, of_j = ((self.auc[k], self.auc_resampled[k]) for k in (i, j))
        return paired_percentile_interval(*of_i, *of_j, self.n_clusters, trials=self.trials)


def choose(task: DetectionTask, scored: Mapping[str, CandidateScores]) -> Chosen | str:
    """Each detector's candidate of highest AUC on the validation half, the first of equals; or why there is none."""
    positive, negative = task.validation & task.positive, task.validation & ~task.positive
    reason = too_few(task, positive, negative, "validation")
    if reason:
        return reason
    found = []
    for one in scored.values():
        values = task.of_units(one.values)
        aucs = auc(values[:, positive], values[:, negative])
        best = int(np.argmax(aucs))
        found.append((best, float(aucs[best]), values[best]))
    candidate, aucs, values = zip(*found, strict=True)
    return Chosen(tuple(scored), np.asarray(candidate), np.asarray(aucs), np.stack(values))


def measure(task: DetectionTask, chosen: Chosen, copies: tuple[int, ...] | None, seed: int) -> Measured | str:
    """AUC and TPR at 1 % FPR on the test half, and on resamples of its captions; or why there is nothing to measure."""
    positive, negative = task.test_classes(copies)
    reason = too_few(task, positive, negative, "test")
    if reason:
        return reason
    members = positive | negative
    scores, is_positive, clusters = chosen.values[:, members], positive[members], task.clusters[members]
    weights = cluster_weights(clusters, is_positive, seed=seed)
    no_tpr = few_negatives(len(np.unique(task.clusters[negative])), "caption")
    return Measured(
        names=chosen.names,
        auc=auc(scores[:, is_positive], scores[:, ~is_positive]),
        tpr=None if no_tpr else tpr_at_fpr(scores[:, is_positive], scores[:, ~is_positive]),
        auc_resampled=weighted_auc(scores, is_positive, weights),
        tpr_resampled=None if no_tpr else resampled_tpr(scores, is_positive, clusters, seed=seed),
        no_tpr=no_tpr,
        n_clusters=len(np.unique(clusters)),
        trials=fewest_clusters(clusters, is_positive),
    )


def too_few(task: DetectionTask, positive: np.ndarray, negative: np.ndarray, half: str) -> str | None:
    """Why nothing can be measured, or None."""
    for name, members in (("memorized", positive), ("other", negative)):
        n, captions = int(members.sum()), len(np.unique(task.clusters[members]))
        if min(n, captions) < MIN_PER_CLASS:
            needed = f"at least {MIN_PER_CLASS} needed"
            return f"{n} {name} {task.name}(s) of {captions} caption(s) in the {half} half, {needed}"
    return None
