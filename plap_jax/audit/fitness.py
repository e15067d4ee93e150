"""Is the reference fit? Whether audited and reference images differ in kind, before any model is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler
from threadpoolctl import threadpool_limits

from plap_jax.audit.calibrated import Calibration
from plap_jax.metrics import auc

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

    Ridge regression of the side on the statistics of ``plap_jax.difficulty``, AUC by five-fold cross-validation, and
    its p-value by 199 permutations of the sides. None where a side has fewer than 20 images. Near-duplicates count
    once.

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
    with threadpool_limits(1):  # few columns: threads would mostly wait for each other
        aucs = _aucs(calibration.difficulty[chosen], side[chosen], rng)
    return Fitness(float(aucs[0]), float(np.mean(aucs >= aucs[0])))


def _aucs(statistics: np.ndarray, side: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``(1 + PERMUTATIONS,)`` cross-validated AUC of telling the sides apart, of the true sides first.

    Sides are permuted within the folds, which keeps how many of each a fold has: where sides are chance, all these
    assignments are equally likely, and the share of AUCs that are as high is an exact p-value. The folds and their
    images then stay as they are, so that one regression serves all permutations at once.
    """
    sides = np.repeat(side[:, None], 1 + PERMUTATIONS, axis=1)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(statistics, side))
    for _, rows in folds:
        sides[rows, 1:] = rng.permuted(sides[rows, 1:], axis=0)
    found = []
    for others, rows in folds:
        model = make_pipeline(RobustScaler(), Ridge(alpha=1.0))
        predicted = model.fit(statistics[others], np.where(sides[others], 1.0, -1.0)).predict(statistics[rows]).T
        mine, n = sides[rows].T, int(side[rows].sum())
        found.append(auc(predicted[mine].reshape(-1, n), predicted[~mine].reshape(-1, len(rows) - n)))
    return np.mean(found, axis=0)
