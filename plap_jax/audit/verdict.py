"""How sure: p-values against images known not to be in the training data, or a ranking without error control."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from plap_jax.audit.settings import Score
from plap_jax.audit.stream import Scored
from plap_jax.calibration import (
    adjusted_p_values,
    benjamini_hochberg,
    conformal_p_values,
    fewest_discoveries,
    robust_z,
    smallest_reference,
)
from plap_jax.typing import Estimate

NO_CONTROL = "no error control"


@dataclass(frozen=True)
class Verdict:
    """What is said about n images, in the order in which they were scored.

    Attributes:
        name: of the score.
        score, stderr, low, high: ``(n,)``, with the ends of the 95 % interval over the directions.
        z: ``(n,)`` robust z-scores against the reference, or against all audited images where there is none.
        reference: ``(n_ref,)`` scores, or None.
        fdr: the false-discovery rate that is held, or None: no error control.
        p_value, q_value: ``(n,)``, or None.
        flagged: ``(n,)`` booleans, or None.
    """

    name: Score
    score: np.ndarray
    stderr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    z: np.ndarray
    reference: np.ndarray | None
    fdr: float | None
    p_value: np.ndarray | None = None
    q_value: np.ndarray | None = None
    flagged: np.ndarray | None = None

    @property
    def order(self) -> np.ndarray:
        """Indices from the highest score to the lowest."""
        return np.argsort(-self.score, kind="stable")

    @property
    def threshold(self) -> float | None:
        """The lowest score that is flagged."""
        if self.flagged is None or not self.flagged.any():
            return None
        return float(self.score[self.flagged].min())

    @property
    def fewest(self) -> int | None:
        """Either none is flagged, or at least so many are."""
        return None if self.fdr is None else fewest_discoveries(len(self.score), len(self.reference), self.fdr)

    @property
    def needed(self) -> int | None:
        """The smallest reference with which a single image could be flagged."""
        return None if self.fdr is None else smallest_reference(len(self.score), 1, self.fdr)

    @property
    def lines(self) -> list[str]:
        """The result in words, the most important first."""
        n = len(self.score)
        if self.fdr is None:
            against = "the audited images themselves" if self.reference is None else "the model's own generations"
            return [f"{n} images ranked, z-scores against {against}: {NO_CONTROL}"]
        n_ref = len(self.reference)
        held = f"false-discovery rate {self.fdr:g}, null: exchangeable with the {n_ref} reference images"
        lines = [f"{int(self.flagged.sum())} of {n} images flagged ({held})"]
        if self.fewest > n:
            at_all = smallest_reference(n, n, self.fdr)
            lines.append(
                f"the reference is too small to reject anything: it needs at least {at_all} images, and {self.needed} "
                "to flag a single one"
            )
        elif self.fewest > 1:
            lines.append(
                f"with {n_ref} reference images either none or at least {self.fewest} of {n} are flagged; "
                f"to flag a single one takes {self.needed}"
            )
        return lines


def judge(name: Score, audited: Scored, reference: Scored | None, fdr: float | None) -> Verdict:
    """Ranks ``audited``, and tests it against ``reference`` where ``fdr`` is not None.

    Args:
        name: of the score.
        audited: the images.
        reference: what they are compared with; tested against only where it is known not to be in the training data.
        fdr: the false-discovery rate to hold, or None.
    """
    columns = audited.columns
    score, stderr = (np.asarray(columns[key], np.float64) for key in (name, f"{name}/stderr"))
    low, high = Estimate(score, stderr, columns["nfe"], columns[f"{name}/n_units"]).interval()
    compared = None if reference is None else np.asarray(reference.columns[name], np.float64)
    z = robust_z(score, score if compared is None else compared)
    common = (name, score, stderr, low, high, z, compared, fdr)
    if fdr is None:
        return Verdict(*common)
    p_value = conformal_p_values(score, compared)
    return Verdict(*common, p_value, adjusted_p_values(p_value), benjamini_hochberg(p_value, fdr))


@dataclass(frozen=True)
class Agreement:
    """Scores beside distances to the training set.

    Attributes:
        copies: ``(n,)`` booleans, d₁/d₂ below its limit.
        correlation: Spearman's, between the score and −d₁/d₂; None where one of them does not vary.
    """

    copies: np.ndarray
    correlation: float | None


def agreement(verdict: Verdict, audited: Scored, max_ratio: float) -> Agreement:
    """Do both views tell of the same images?"""
    ratio = np.asarray(audited.columns["ratio"], np.float64)
    varies = len(ratio) >= 3 and np.ptp(ratio) > 0 and np.ptp(verdict.score) > 0
    correlation = float(stats.spearmanr(verdict.score, -ratio).statistic) if varies else None
    return Agreement(ratio < max_ratio, correlation)
