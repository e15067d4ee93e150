"""Difficulty taken out: each image compared with images as hard as itself, by a robust regression over all of them."""

from __future__ import annotations

from dataclasses import dataclass

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
    evidence, difficulty = np.asarray(evidence, np.float64), np.asarray(difficulty, np.float64)
    n = len(evidence)
    fitted = np.ones(n, bool) if fitted is None else np.asarray(fitted, bool)
    require(evidence.ndim == 2, "evidence", evidence.shape, "must be (n, L)")
    require(difficulty.ndim == 2 and len(difficulty) == n, "difficulty", difficulty.shape, f"must be ({n}, k)")
    for name, given in {"digests": digests, "fitted": fitted}.items():
        require(len(given) == n, name, len(given), f"must be {n}, one for each image")
    require(fitted.sum() >= 3, "evidence", evidence.shape, "must be of at least 3 images that are fitted")
    require(bool(np.isfinite(difficulty).all()), "difficulty", difficulty.shape, "must be finite")
    # Sums of floating-point numbers depend on their order, which must not come of the side an image is on.
    order = np.argsort(digests, kind="stable")
    evidence, difficulty, rows = evidence[order], difficulty[order], np.flatnonzero(fitted[order])
    used = np.isfinite(evidence).all(axis=0)
    used[used] = _spread(evidence[np.ix_(rows, used)]) > 0
    require(bool(used.any()), "evidence", evidence.shape, "must hold a column that is finite and varies")
    z, features = _standardized(difficulty, rows)
    residuals, spread = np.full(evidence.shape, np.nan), np.full(evidence.shape, np.nan)
    explained = np.full(evidence.shape[1], np.nan)
    with threadpool_limits(1):  # sums of few columns: threads would mostly wait for each other
        for column in np.flatnonzero(used):
            residuals[:, column], spread[:, column], explained[column] = _residuals(evidence[:, column], z, rows)
    used &= np.isfinite(residuals).all(axis=0)
    require(bool(used.any()), "evidence", evidence.shape, "must hold a column that difficulty does not explain wholly")
    score = tempered(residuals[:, used]).mean(axis=1)
    back = np.argsort(order)
    return Adjusted(score[back], residuals[back], spread[back], explained, used, features)


def tempered(residuals: np.ndarray) -> np.ndarray:
    """Residuals as the score counts them: r to ±5, and beyond sign(r) (5 + log(1 + |r| − 5)).

    So no single column decides, as one would in which nearly all images have the same evidence. Monotone: no ties.
    """
    size = np.abs(residuals)
    return np.sign(residuals) * np.where(size <= FAR, size, FAR + np.log1p(np.maximum(size - FAR, 0)))


def tempering(residuals: np.ndarray) -> np.ndarray:
    """The slope of ``tempered``: 1 to ±5, and beyond 1/(1 + |r| − 5). What an error in r counts in the score."""
    return 1 / (1 + np.maximum(np.abs(residuals) - FAR, 0))


def _spread(values: np.ndarray) -> np.ndarray:
    """The median absolute deviation, of normal values their standard deviation."""
    return stats.median_abs_deviation(values, axis=0, scale="normal")


def _standardized(difficulty: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns that vary, centred and scaled by median and MAD, and cut at ±CLIP; and which they are.

    Of few images fewer columns: the first principal components, one for each IMAGES_EACH of them.
    """
    spread = _spread(difficulty[rows])
    varies = spread > 0
    z = (difficulty[:, varies] - np.median(difficulty[np.ix_(rows, varies)], axis=0)) / spread[varies]
    z, most = np.clip(z, -CLIP, CLIP), len(rows) // IMAGES_EACH
    if z.shape[1] > most:
        axes = np.linalg.svd(z[rows] - z[rows].mean(axis=0), full_matrices=False)[2][:most]
        z = z @ axes.T
    return z, varies


def _residuals(values: np.ndarray, z: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """What ``z`` does not explain of ``values``, in robust standard deviations; these; and the share that it explains.

    The spread of what is left depends on difficulty, too: log|r| is regressed on z, and r divided by the result.
    """
    before = _spread(values[rows])
    scaled = (values - np.median(values[rows])) / before
    residual = scaled - _predicted(HuberRegressor(alpha=RIDGE, max_iter=MOST_STEPS), z, scaled, rows)
    residual -= np.median(residual[rows])
    after = _spread(residual[rows])
    if after <= EXPLAINED:
        return np.full(len(values), np.nan), np.full(len(values), np.nan), 1.0
    sizes = np.log(np.abs(residual) + SMALLEST * after)
    spread = np.exp(_predicted(Ridge(alpha=RIDGE), z, sizes, rows))
    spread *= _spread((residual / spread)[rows])
    residual = residual / spread
    return residual - np.median(residual[rows]), before * spread, float(1 - after**2)


def _predicted(model: HuberRegressor | Ridge, z: np.ndarray, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """By a regression on the first ``MOST_FITTED`` of ``rows``, which are in the order of their digests."""
    if not z.shape[1]:
        return np.full(len(values), np.median(values[rows]))
    chosen = rows[:MOST_FITTED]
    return model.fit(z[chosen], values[chosen]).predict(z)
