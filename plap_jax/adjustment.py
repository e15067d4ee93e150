"""Difficulty taken out: each image compared with images as hard as itself, by a robust regression over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats
from sklearn.linear_model import HuberRegressor, Ridge
from threadpoolctl import threadpool_limits

from plap_jax.typing import require

MOST_FITTED = 100_000  # images
RIDGE = 1.0  # penalty on standardized coefficients
MOST_STEPS = 1000
EXPLAINED = 1e-6  # of the spread, below which difficulty explains all of it
SMALLEST = 0.05  # of the spread, added to residuals before their logarithm
FAR = 5.0  # robust standard deviations beyond which evidence counts by its logarithm
IMAGES_EACH = 10  # for each statistic that is fitted
ROWS = 2**16  # images whose difficulty is looked at together
CLIP = 5.0  # robust standard deviations beyond which a statistic of an image counts no more


@dataclass(frozen=True)
class Adjusted:
    """Evidence after difficulty was taken out.

    Attributes:
        score: ``(n,)`` S, the mean over the columns that were used, tempered; higher = more memorized.
        residuals: ``(n, L)`` in robust standard deviations; NaN in columns that were left out.
        spread: ``(n, L)`` that standard deviation, in the units of the evidence, of images as hard as each.
        explained: ``(L,)`` 1 − (MAD of the residuals/MAD of the evidence)², the share that difficulty explains.
        used: ``(L,)`` booleans, columns of evidence.
        features: ``(k,)`` booleans, statistics of difficulty that vary.
    """

    score: np.ndarray
    residuals: np.ndarray
    spread: np.ndarray
    explained: np.ndarray
    used: np.ndarray
    features: np.ndarray


def adjust(
    evidence: np.ndarray, difficulty: np.ndarray, digests: np.ndarray, fitted: np.ndarray | None = None
) -> Adjusted:
    """Calibrated scores: how far an image's evidence lies above that of images as hard as it is.

    For each column ℓ: T_ℓ = z·β_ℓ + r_ℓ by robust ridge regression (Huber's loss) over **all** images, audited and
    reference together; r_ℓ is divided by the spread that images of this difficulty have, exp(z·γ_ℓ), from a regression
    of log|r_ℓ|, and by the MAD over all; S = mean over ℓ of r_ℓ, of which what exceeds ±5 counts by its logarithm.
    With fewer than ten images for each statistic, z are its n/10 first principal components.

    The rule never learns which images are the reference: exchanging any two exchanges their scores, bit by bit, since
    images are taken in the order of their digests. That keeps conformal p-values of S valid (Marandon et al. 2024).
    Memorized images among those that are fitted cost power, not validity.

    Args:
        evidence: T ``(n, L)``, higher = more memorized. A column in which a value is not finite is left out.
        difficulty: z ``(n, k)``, finite; columns without spread are left out.
        digests: ``(n,)`` hashes of the images' content, bytes or text. Of more than 100,000 images those with the
            smallest are fitted.
        fitted: ``(n,)`` booleans, images that regressions and medians are taken over, such as one of each group of
            near-duplicates; None: all. It must not depend on which images are the reference.

    Raises:
        ValueError: lengths that differ, fewer than 3 images, difficulty that is not finite, or no column of evidence
            that is finite and varies.

    Example:
        >>> adjusted = adjust(found.columns, difficulty(images), digests)
        >>> p_values = conformal_p_values(adjusted.score[:n], adjusted.score[n:])
    """
    evidence, difficulty = np.asarray(evidence), np.asarray(difficulty, np.float64)
    n = len(evidence)
    fitted = np.ones(n, bool) if fitted is None else np.asarray(fitted, bool)
    require(evidence.ndim == 2, "evidence", evidence.shape, "must be (n, L)")
    require(difficulty.ndim == 2 and len(difficulty) == n, "difficulty", difficulty.shape, f"must be ({n}, k)")
    for name, given in {"digests": digests, "fitted": fitted}.items():
        require(len(given) == n, name, len(given), f"must be {n}, one for each image")
    require(fitted.sum() >= 3, "evidence", evidence.shape, "must be of at least 3 images that are fitted")
    require(bool(np.isfinite(difficulty).all()), "difficulty", difficulty.shape, "must be finite")
    used = np.array([bool(np.isfinite(column).all()) and _spread(column[fitted]) > 0 for column in evidence.T])
    allowed = "must hold a column that is finite and varies; a model that says the same of every image has none"
    require(bool(used.any()), "evidence", evidence.shape, allowed)
    # Sums of floating-point numbers depend on their order, which must not come of the side an image is on.
    z = _Standardized(difficulty, np.argsort(digests, kind="stable"), fitted)
    with threadpool_limits(1):  # sums of few columns: threads would mostly wait for each other
        residuals, spread, explained = _residuals(evidence, z, np.flatnonzero(used).tolist())
    used &= np.isfinite(residuals).all(axis=0)
    require(bool(used.any()), "evidence", evidence.shape, "must hold a column that difficulty does not explain wholly")
    score = np.empty(n)
    for some in blocks(n):
        score[some] = tempered(np.asfortranarray(residuals[some][:, used])).mean(axis=1)
    return Adjusted(score, residuals, spread, explained, used, z.varies)


def blocks(n: int) -> Iterator[slice]:
    """Rows that are computed together, so that what is held for it does not grow with n."""
    return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))


def tempered(residuals: np.ndarray) -> np.ndarray:
    """Residuals as the score counts them: r to ±5, and beyond sign(r) (5 + log(1 + |r| − 5)).

    So no single column decides, as one would in which nearly all images have the same evidence. Monotone: no ties.
    """
    size = np.abs(residuals)
    return np.sign(residuals) * np.where(size <= FAR, size, FAR + np.log1p(np.maximum(size - FAR, 0)))


def tempering(residuals: np.ndarray) -> np.ndarray:
    """The slope of ``tempered``: 1 to ±5, and beyond 1/(1 + |r| − 5). What an error in r counts in the score."""
    return 1 / (1 + np.maximum(np.abs(residuals) - FAR, 0))


def _spread(values: np.ndarray) -> float:
    """The median absolute deviation, of normal values their standard deviation."""
    return stats.median_abs_deviation(np.asarray(values, np.float64), scale="normal")


class _Standardized:
    """Columns of difficulty that vary, centred and scaled by median and MAD, and cut at ±CLIP.

    Of few images fewer columns: the first principal components, one for each IMAGES_EACH of them.

    Args:
        difficulty: ``(n, k)``.
        order: ``(n,)`` in which sums are taken.
        fitted: ``(n,)`` booleans.

    Attributes:
        fitted: places, in that order, of images that are fitted.
        varies: ``(k,)`` booleans.
    """

    def __init__(self, difficulty: np.ndarray, order: np.ndarray, fitted: np.ndarray):
        self._difficulty, self._axes, self.order = difficulty, None, order
        self.fitted = np.flatnonzero(fitted[order])
        spread = np.array([_spread(column[fitted]) for column in difficulty.T])
        self.varies = spread > 0
        self._spread = spread[self.varies]
        self._median = np.array([np.median(difficulty[fitted, k]) for k in np.flatnonzero(self.varies)])
        most = len(self.fitted) // IMAGES_EACH
        if self.varies.sum() > most:
            z = np.ascontiguousarray(self(self.fitted))
            self._axes = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)[2][:most]

    def __call__(self, places: np.ndarray | slice) -> np.ndarray:
        """``(m, …)`` of these places in the order."""
        z = (self._difficulty[self.order[places]][:, self.varies] - self._median) / self._spread
        z = np.clip(z, -CLIP, CLIP)
        return z if self._axes is None else z @ self._axes.T

    @cached_property
    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the first ``MOST_FITTED`` that are fitted, and their values."""
        places = self.fitted[:MOST_FITTED]
        return places, np.ascontiguousarray(self(places))

    def fit(self, model: HuberRegressor | Ridge, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray | float]:
        """What predicts from standardized difficulty, by a regression of ``values`` on that of some images."""
        places, z = self.chosen
        if not z.shape[1]:
            constant = float(np.median(values[self.fitted]))
            return lambda block: constant
        return model.fit(z, values[places]).predict


def _residuals(evidence: np.ndarray, z: _Standardized, columns: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What ``z`` does not explain of some columns, in robust standard deviations; these; and the share it explains.

    The spread of what is left depends on difficulty, too: log|r| is regressed on z, and r divided by the result. All
    columns are predicted together, block by block, since z of all images would be as large as all that is returned.
    """
    # One column is one piece of memory.
    residuals, spread = (np.full(evidence.shape, np.nan, order="F") for _ in range(2))
    explained, models, before = np.full(evidence.shape[1], np.nan), {}, {}
    for k in columns:
        values = np.asarray(evidence[:, k], np.float64)[z.order]
        before[k] = _spread(values[z.fitted])
        residuals[:, k] = (values - np.median(values[z.fitted])) / before[k]
        models[k] = z.fit(HuberRegressor(alpha=RIDGE, max_iter=MOST_STEPS), residuals[:, k])
    for some in blocks(len(evidence)):
        block = z(some)
        for k, predict in models.items():
            residuals[some, k] -= predict(block)
    for k in columns:
        residual = residuals[:, k]
        residual -= np.median(residual[z.fitted])
        after = _spread(residual[z.fitted])
        explained[k] = 1 - after**2 if after > EXPLAINED else 1.0
        if after > EXPLAINED:
            models[k] = z.fit(Ridge(alpha=RIDGE), np.log(np.abs(residual) + SMALLEST * after))
        else:
            residual[:] = np.nan
            del models[k]
    for some in blocks(len(evidence)):
        block = z(some)
        for k, predict in models.items():
            spread[some, k] = np.exp(predict(block))
    for k in models:
        own, residual = spread[:, k], residuals[:, k]
        own *= _spread((residual / own)[z.fitted])
        residual /= own
        residual -= np.median(residual[z.fitted])
        own *= before[k]
        for column in (residual, own):
            column[z.order] = column.copy()
    return residuals, spread, explained
