"""Is the reference fit? Whether audited and reference images differ in kind, before any model is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, permutation_test_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from plap_jax.audit.calibrated import Calibration

FEWEST = 20  # images of each side; fewer tell nothing
MOST = 1000  # of each side, those with the smallest rows in a random order
PERMUTATIONS = 199
LEVEL = 0.01  # of the test
DIFFERENT = 0.6  # AUC from which a difference matters


@dataclass(frozen=True)
class Fitness:
    """How well the statistics of images alone tell audited from reference images.

    Attributes:
        auc: of a classifier on images it was not fitted to; 0.5: not at all.
        p_value: of a permutation test; small: they differ in kind.
    """

    auc: float
    p_value: float

    @property
    def warning(self) -> str | None:
        """In words, where the two sides differ."""
        if self.p_value > LEVEL or self.auc < DIFFERENT:
            return None
        return (
            "the reference differs in kind from the audited images: their pixels alone, without any model, tell them "
            f"apart (AUC {self.auc:.2f}, p = {self.p_value:.2g}); p-values hold only for images of the reference's kind"
        )


def fitness(calibration: Calibration, n_audited: int) -> Fitness | None:
    """Tries to tell audited from reference images by their difficulty alone, never by the model's evidence.

    A ridge classifier on the statistics of ``plap_jax.difficulty``, AUC by five-fold cross-validation, p-value by
    permutation of the sides. None where a side has fewer than 20 images. Near-duplicates count once.

    Args:
        calibration: of all images, the audited ones first.
        n_audited: their number.
    """
    rng = np.random.default_rng(0)
    side = np.arange(len(calibration.stays)) < n_audited
    rows = [rng.permutation(np.flatnonzero(calibration.stays & (side == which)))[:MOST] for which in (True, False)]
    if min(len(chosen) for chosen in rows) < FEWEST:
        return None
    chosen = np.concatenate(rows)
    model = make_pipeline(RobustScaler(), RidgeClassifier(alpha=1.0))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    how = {"scoring": "roc_auc", "cv": folds, "n_permutations": PERMUTATIONS, "random_state": 0}
    auc, _, p_value = permutation_test_score(model, calibration.difficulty[chosen], side[chosen], **how)
    return Fitness(float(auc), float(p_value))
