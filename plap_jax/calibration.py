"""From scores to decisions: conformal p-values against a reference, false-discovery control, robust z-scores.

Everything runs on the host in float64. Higher scores mean "memorized".
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from plap_jax.typing import ArrayLike, require

# 190/40 · 1/95 equals 0.05 on paper but differs in the last digit in floating point.
_ROUNDING = 1e-9


def conformal_p_values(scores: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """A p-value for each score: how often scores of known non-members are at least as high.

    p_i = (1 + #{j : r_j ≥ s_i}) / (n_ref + 1): ties count against rejection.

    Under the null that image i is exchangeable with the reference images, P(p_i ≤ u) ≤ u for every u, with equality at
    u = k/(n_ref + 1) if there are no ties (Vovk et al. 2005). The p-values of several images share one reference, so
    they are dependent, but in a way under which Benjamini–Hochberg remains valid (Bates et al. 2023).

    Args:
        scores: s, ``(n,)``, real.
        reference: r, ``(n_ref,)``, real, n_ref ≥ 1.

    Returns:
        ``(n,)`` float64 in [1/(n_ref + 1), 1].

    Raises:
        ValueError: no reference, or a score that is not finite.

    Example:
        >>> conformal_p_values([0.9, 0.2], reference=[0.1, 0.3, 0.5])  # 0.25 and 0.75
        >>> conformal_p_values([0.9], reference=[0.1] * 99)  # 0.01: the smallest p-value that 99 references allow
    """
    scores, reference = _finite("scores", scores), _finite("reference", reference)
    require(len(reference) >= 1, "reference", reference.shape, "must hold at least one score")
    at_least = len(reference) - np.searchsorted(np.sort(reference), scores, side="left")
    return (1 + at_least) / (len(reference) + 1)


def adjusted_p_values(p_values: ArrayLike) -> np.ndarray:
    """Benjamini–Hochberg adjusted p-values, also called q-values.

    q_(i) = min_{j ≥ i} p_(j) · m/j: the smallest false-discovery rate at which image i is still flagged (Benjamini &
    Hochberg 1995).

    Args:
        p_values: ``(m,)`` in [0, 1].

    Returns:
        ``(m,)`` float64 in [0, 1], in the order of ``p_values``.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    p_values = _finite("p_values", p_values)
    inside = bool(np.all((p_values >= 0) & (p_values <= 1)))
    require(inside, "p_values", p_values, "must lie in [0, 1]")
    return stats.false_discovery_control(p_values, method="bh") if len(p_values) else p_values


def benjamini_hochberg(p_values: ArrayLike, fdr: float) -> np.ndarray:
    """Which images to flag so that at most a share ``fdr`` of the flagged are false, on average.

    Flags q_i ≤ fdr, q the ``adjusted_p_values``.

    Args:
        p_values: ``(m,)`` in [0, 1], independent, or conformal with a shared reference.
        fdr: in (0, 1).

    Returns:
        ``(m,)`` booleans.

    Raises:
        ValueError: a p-value outside [0, 1], or fdr outside (0, 1).

    Example:
        >>> p_values = conformal_p_values([0.9, 0.8, 0.2], reference=np.linspace(0, 0.5, 99))
        >>> benjamini_hochberg(p_values, fdr=0.05)  # True, True, False
    """
    _require_rate(fdr)
    return adjusted_p_values(p_values) <= fdr * (1 + _ROUNDING)


def smallest_reference(m: int, m1: int, fdr: float) -> int:
    """How many reference images it takes to be able to flag m₁ of m images.

    ⌈m/(fdr · m₁) − 1⌉: the smallest possible p-value is 1/(n_ref + 1), and m₁ images that all have it are flagged if it
    is ≤ fdr · m₁/m.

    Args:
        m: images audited, ≥ 1.
        m1: images to be flagged, 1 ≤ m1 ≤ m.
        fdr: in (0, 1).

    Raises:
        ValueError: any of them out of range.
    """
    _require_rate(fdr)
    require(m >= 1, "m", m, "must be >= 1")
    require(1 <= m1 <= m, "m1", m1, f"must lie between 1 and m={m}")
    return max(1, math.ceil(m / (fdr * m1) * (1 - _ROUNDING) - 1))


def fewest_discoveries(m: int, n_reference: int, fdr: float) -> int:
    """The smallest number of images that this reference can flag, if it flags any.

    ⌈m/(fdr · (n_ref + 1))⌉: k flagged images have p ≤ fdr · k/m, and no p-value is below 1/(n_ref + 1). That many
    images above the whole reference are flagged. A result above m: this reference is too small to flag anything.

    Args:
        m: images audited, ≥ 1.
        n_reference: n_ref ≥ 1.
        fdr: in (0, 1).

    Raises:
        ValueError: any of them out of range.
    """
    _require_rate(fdr)
    require(m >= 1, "m", m, "must be >= 1")
    require(n_reference >= 1, "n_reference", n_reference, "must be >= 1")
    return max(1, math.ceil(m / (fdr * (n_reference + 1)) * (1 - _ROUNDING)))


def robust_z(scores: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """Scores in units of the reference's spread, from medians: for ranking on a common scale, not a test.

    z_i = (s_i − median r) / (1.4826 · median |r − median r|), no unit. For normal r the denominator estimates the
    standard deviation; up to half of r may be outliers.

    Args:
        scores: s, ``(n,)``, real.
        reference: r, ``(n_ref,)``, real, n_ref ≥ 1; may be the scores themselves.

    Returns:
        ``(n,)`` float64; all NaN if more than half of the reference is one repeated value, which has no spread.

    Raises:
        ValueError: no reference, or a score that is not finite.
    """
    scores, reference = _finite("scores", scores), _finite("reference", reference)
    require(len(reference) >= 1, "reference", reference.shape, "must hold at least one score")
    spread = stats.median_abs_deviation(reference, scale="normal")
    return (scores - np.median(reference)) / spread if spread > 0 else np.full(len(scores), np.nan)


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    require(values.ndim == 1, name, values.shape, "must have one axis")
    require(bool(np.isfinite(values).all()), name, values[~np.isfinite(values)][:1], "must be finite")
    return values


def _require_rate(fdr: float) -> None:
    require(0 < fdr < 1, "fdr", fdr, "must lie in (0, 1)")
