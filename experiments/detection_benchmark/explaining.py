"""What taking difficulty out takes away: of generated images the pixels alone may tell which are copies.

By image, prompt unknown, four scores on the test half:

- alone: logistic regression on the statistics of difficulty, which asks no model, and learns from the labels of the
  validation half what copies look like;
- kept: the reference detector at all noise levels together, with difficulty left in;
- taken_out: its calibrated form, whose regression saw all images of the validation half, copies too;
- taken_out_of_others: the same with a regression that saw those that are no copies.

Where alone is far above .5, difficulty is part of what tells copies, and taking it out costs that part.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.core.report import Report
from experiments.detection_benchmark.evaluation import Chosen, measure, too_few
from experiments.detection_benchmark.forms import Halves
from experiments.detection_benchmark.scoring import CandidateScores
from experiments.detection_benchmark.tasks import DetectionTask
from plap_jax.adjustment import adjust

SCORES = ("alone", "kept", "taken_out", "taken_out_of_others")


def write(
    report: Report, guidance: float, task: DetectionTask, reference: CandidateScores, halves: Halves, seed: int
) -> None:
    """``difficulty/g<guidance>/<score>/auc``, with intervals over captions; None, with the reason, where too few."""
    positive, negative = task.validation & task.positive, task.validation & ~task.positive
    reason = too_few(task, positive, negative, "validation")
    measured = reason or measure(task, scores(task, reference, halves), None, seed)
    for i, name in enumerate(SCORES):
        key = f"difficulty/g{guidance:g}/{name}/auc"
        if isinstance(measured, str):
            report.metric(key, None, measured)
        else:
            report.metric(key, measured.auc_interval(i))


def scores(task: DetectionTask, reference: CandidateScores, halves: Halves) -> Chosen:
    """The four, from the labels of the validation half alone."""
    others = task.validation & ~task.positive
    levels = reference.values.T
    nothing = np.zeros((len(levels), 1))
    alone = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    alone.fit(halves.difficulty[task.validation], task.positive[task.validation])
    ways = ((nothing, task.validation), (halves.difficulty, task.validation), (halves.difficulty, others))
    ours = [adjust(levels, known, halves.digests, fitted=fitted).score for known, fitted in ways]
    values = np.stack([alone.decision_function(halves.difficulty), *ours])
    return Chosen(SCORES, np.zeros(len(SCORES), int), np.full(len(SCORES), np.nan), values)
