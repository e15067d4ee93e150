"""How sure: p-values against images known not to be in the training data, or a ranking without error control."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from plap_jax.audit.stream import Scored
from plap_jax.calibration import (
    adjusted_p_values,
    benjamini_hochberg,
    conformal_p_values,
    fewest_discoveries,
    robust_z,
    smallest_reference,
)
from plap_jax.envelope import ThresholdRow, false_discovery_envelope
from plap_jax.typing import Estimate, require

NO_CONTROL = "no error control"
EXTREME = 4.0  # robust standard deviations above the median of the reference


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
        tested: ``(n,)`` booleans: of near-duplicates one is tested; the others have NaN for p- and q-values, no flag.
    """

    name: str
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
    tested: np.ndarray | None = None

    @property
    def n_tested(self) -> int:
        """Images with a p-value, or all of them where nothing is tested."""
        return len(self.score) if self.tested is None else int(self.tested.sum())

    @cached_property
    def envelope(self) -> list[ThresholdRow]:
        """For every threshold p: how many are flagged, at most how many of them falsely, at least how many rightly.

        With 95 % confidence for all thresholds at once (``plap_jax.envelope``); empty where nothing is tested.
        """
        if self.fdr is None or not self.n_tested:
            return []
        found = false_discovery_envelope(len(self.reference), self.n_tested)
        return found.table(self.p_value[self.tested])

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
        return None if self.fdr is None else fewest_discoveries(max(1, self.n_tested), len(self.reference), self.fdr)

    @property
    def needed(self) -> int | None:
        """The smallest reference with which a single image could be flagged."""
        return None if self.fdr is None else smallest_reference(max(1, self.n_tested), 1, self.fdr)

    @property
    def lines(self) -> list[str]:
        """The result in words, the most important first."""
        n = len(self.score)
        if self.fdr is None:
            against = "the audited images themselves" if self.reference is None else "the model's own generations"
            return [f"{n} images ranked, z-scores against {against}: {NO_CONTROL}"]
        n_ref, n = len(self.reference), self.n_tested
        if n == 0:
            return ["no image is tested: each is a near-duplicate of a reference image, which stays in its place"]
        held = f"false-discovery rate {self.fdr:g}, null: exchangeable with the {n_ref} reference images"
        lines = [f"{int(self.flagged.sum())} of {n} images flagged ({held})"]
        if n < len(self.score):
            lines.append(self._set_aside)
        if (line := too_small(n, n_ref, self.fdr)) is not None:
            lines.append(line)
        elif self.fewest > 1:
            lines.append(several_at_once(n, n_ref, self.fdr))
        return lines

    @property
    def _set_aside(self) -> str:
        """Those that are not tested, and how many of them a reader should look at even so."""
        left = ~self.tested
        are = "image is a near-duplicate" if left.sum() == 1 else "images are near-duplicates"
        line = f"{left.sum()} audited {are} of another, audited or of the reference, and not tested"
        high = 0 if self.threshold is None else int((self.score[left] >= self.threshold).sum())
        return line + f"; {high} of them score{'s' * (high == 1)} as high as flagged ones" * (high > 0)


def too_small(n: int, n_reference: int, fdr: float) -> str | None:
    """That none of n images can be flagged, whatever is measured, in words; None where some can."""
    if fewest_discoveries(max(1, n), n_reference, fdr) <= n:
        return None
    at_all, needed = (smallest_reference(max(1, n), found, fdr) for found in (max(1, n), 1))
    found = f"the reference is too small to reject anything: it needs at least {at_all} images"
    return f"{found}, and {needed} to flag a single one"


def several_at_once(n: int, n_reference: int, fdr: float) -> str:
    """How many of n images have to stand out before any is flagged, in words."""
    fewest, needed = fewest_discoveries(n, n_reference, fdr), smallest_reference(n, 1, fdr)
    found = f"with {n_reference} reference images none is flagged unless at least {fewest} of {n} stand out"
    return f"{found}; to flag a single one takes {needed} reference images"


def judge(name: str, audited: Scored, reference: Scored | None, fdr: float | None) -> Verdict:
    """Ranks ``audited``, and tests it against ``reference`` where ``fdr`` is not None.

    Images whose column ``stays`` is false are near-duplicates of another: they are ranked, but neither tested nor
    compared with.

    Args:
        name: of the score.
        audited: the images.
        reference: what they are compared with; tested against only where it is known not to be in the training data.
        fdr: the false-discovery rate to hold, or None.

    Raises:
        ValueError: no reference image is left.
    """
    columns = audited.columns
    score, stderr = (np.asarray(columns[key], np.float64) for key in (name, f"{name}/stderr"))
    low, high = Estimate(score, stderr, columns["nfe"], columns[f"{name}/n_units"]).interval()
    tested = columns.get("stays", np.ones(len(score), bool))
    compared = None
    if reference is not None:
        kept = reference.columns.get("stays", np.ones(len(reference), bool))
        allowed = "must hold an image that is no near-duplicate of an audited one"
        require(bool(kept.any()), "reference", f"{len(kept)} images", allowed)
        compared = np.asarray(reference.columns[name], np.float64)[kept]
    z = robust_z(score, score if compared is None else compared)
    common = (name, score, stderr, low, high, z, compared, fdr)
    if fdr is None:
        return Verdict(*common)
    p_value, q_value, flagged = np.full(len(score), np.nan), np.full(len(score), np.nan), np.zeros(len(score), bool)
    p_value[tested] = conformal_p_values(score[tested], compared)
    q_value[tested] = adjusted_p_values(p_value[tested])
    flagged[tested] = benjamini_hochberg(p_value[tested], fdr)
    return Verdict(*common, p_value, q_value, flagged, tested)


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


def extreme_reference(verdict: Verdict, reference: Scored) -> list[tuple[str, float]]:
    """(name, score) of reference images that score like flagged ones, or far outside of the others; high to low.

    None where nothing is tested.
    """
    if verdict.fdr is None:
        return []
    spread = stats.median_abs_deviation(verdict.reference, scale="normal")
    limit = np.median(verdict.reference) + EXTREME * spread if spread > 0 else np.inf
    limit = limit if verdict.threshold is None else min(limit, verdict.threshold)
    scores = reference.columns[verdict.name]
    chosen = np.flatnonzero(reference.columns.get("stays", np.ones(len(scores), bool)) & (scores >= limit))
    return [(reference.names[i], float(scores[i])) for i in chosen[np.argsort(-scores[chosen])].tolist()]
