"""Bounds on the error of flux estimates: sampling error, and error of the score.

They follow the second version of Brokman et al. (arXiv 2505.08246), with constants for every p ≥ 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.directions import Directions, on_sphere, sample_directions
from plap_jax.operators import safe_norm
from plap_jax.typing import (
    Array,
    ArrayLike,
    Estimate,
    PRNGKey,
    ScoreFn,
    accumulation_dtype,
    concrete,
    one_or_nan,
    require,
    require_ball,
    standard_error,
)

# A mean of cosines may come out this much beyond ±1.
_COSINE_TOLERANCE = 1e-4


def hoeffding(n_units: ArrayLike, delta: float) -> Array:
    """Half-width of Hoeffding's interval for κ_1 from m independent units.

    |κ̂_1 − κ_1| ≤ √(2 ln(2/δ)/m) with probability ≥ 1 − δ, for m independent units in [−1, 1] (Hoeffding 1963).

    Raises:
        ValueError: δ outside (0, 1).
    """
    _check_delta(delta)
    return jnp.sqrt(2 * jnp.log(2 / delta) / n_units)


def empirical_bernstein(variance: ArrayLike, n_units: ArrayLike, delta: float) -> Array:
    """Half-width of the empirical Bernstein interval for κ_1: narrower than Hoeffding's when the variance is small.

    |κ̂_1 − κ_1| ≤ √(2 V ln(4/δ)/m) + 14 ln(4/δ)/(3(m−1)), V the sample variance (Maurer & Pontil 2009, Theorem 4).

    Two-sided, for m ≥ 2 independent units in [−1, 1]. The second term makes it looser than ``hoeffding`` at m ≤ 32
    whatever the variance.

    Raises:
        ValueError: δ outside (0, 1), fewer than two units.
    """
    _check_delta(delta)
    known = concrete(n_units)
    require(known is None or bool(np.all(known >= 2)), "n_units", n_units, "must be >= 2")
    log_term = jnp.log(4 / delta)
    return jnp.sqrt(2 * jnp.asarray(variance) * log_term / n_units) + 14 * log_term / (3 * (jnp.asarray(n_units) - 1))


def sampling_bound(kappa: Estimate, delta: float) -> Array:
    """Half-width around κ̂_1 that holds the true κ_1 with probability at least 1 − δ, whatever the distribution.

    min(Hoeffding, empirical Bernstein), each at δ/2: |κ̂_1 − κ_1| exceeds it in at most a share δ of cases.

    Args:
        kappa: by ``flux`` with p = 1, whose units are independent and lie in [−1, 1]. The number of units that
            ``adaptive_flux`` takes depends on their values, so the bound does not apply to it.
        delta: allowed failure probability, in (0, 1).

    Returns:
        The bound, shape of ``kappa.value``, dimensionless.

    Raises:
        ValueError: δ outside (0, 1), fewer than two units, no estimate or one of ``adaptive_flux``, or a value beyond
            ±1, which is of another order than p = 1. A traced value gives NaN instead.
    """
    require(isinstance(kappa, Estimate), "kappa", kappa, "must be an Estimate, as flux returns it")
    allowed = "the bound needs a number of units set in advance: take flux, not adaptive_flux"
    require(kappa.fixed_n_units, "kappa.fixed_n_units", kappa.fixed_n_units, allowed)
    bound = _smaller(kappa, delta / 2)
    known, largest = concrete(kappa.value), 1 + _COSINE_TOLERANCE
    allowed = "must be an estimate with p = 1, which lies in [-1, 1]: the bound holds for no other order"
    require(known is None or not np.any(np.abs(known) > largest), "kappa.value", known, allowed)
    return jnp.where(jnp.abs(kappa.value) > largest, jnp.nan, bound)


def score_error_bound(
    score_fn: ScoreFn,
    other_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    p: ArrayLike = 1.0,
    key: PRNGKey,
    n_samples: int = 16,
    directions: Directions = "iid",
) -> Estimate:
    """Bound on how far an error of the score can move the flux density, estimated from n_samples directions.

    |κ_p(ŝ) − κ_p(s)| ≤ E_n[ b_p(ŝ, s) ], on the sphere of radius r about x.

    b_p bounds | |ŝ|^{p−2}ŝ − |s|^{p−2}s | pointwise: for 1 ≤ p ≤ 2, 2^{2−p}|ŝ−s|^{p−1}, and for p = 1 the smaller of
    that, 2, and 2|ŝ−s|/(|ŝ|+|s|) (Dunkl & Williams 1964); for p ≥ 2, (p−1) max(|ŝ|,|s|)^{p−2} |ŝ−s|. The bound is
    pointwise: ``.value`` bounds, without any probability, the difference of the two *estimates* of κ_p by ``flux`` with
    the same key, n_samples and directions.

    The true κ_p differ by at most E_n[b_p]. ``.value`` estimates that and can be too small, as can the upper end of
    ``.interval()``: a rare direction where the scores differ much may never have been sampled. For p = 1
    ``score_error_limit`` is a guaranteed bound; for other orders b_p is unbounded and there is no guarantee.

    Args:
        score_fn: the true score s.
        other_fn: its approximation ŝ.
        x, radius, p, key, n_samples, directions: as for ``flux``.

    Returns:
        ``Estimate`` of E_n[b_p], a scalar in the units of |s|^{p−1}; never negative. nfe counts both scores; the
        independent units are those of ``flux``.

    Raises:
        ValueError: as ``flux``, for either score.
    """
    x = jnp.asarray(x)
    require_ball(x, radius, p)
    vectors = sample_directions(key, n_samples, x.shape, directions, x.dtype)
    points = on_sphere(x, radius, vectors)
    s, other = (jax.vmap(f)(points) for f in (score_fn, other_fn))
    for name, values in (("score_fn", s), ("other_fn", other)):
        require(values.shape == points.shape, name, values.shape[1:], f"must return the shape of x, {x.shape}")
    bounds = field_difference_bound(s.reshape(n_samples, -1), other.reshape(n_samples, -1), p)
    units = jnp.mean(bounds.reshape(vectors.shape[:2]), axis=1)
    units = units * jnp.asarray(one_or_nan(p, radius), units.dtype)
    return Estimate(jnp.mean(units), standard_error(units), 2 * n_samples, units.shape[0])


def score_error_limit(
    score_fn: ScoreFn,
    other_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    key: PRNGKey,
    delta: float,
    n_samples: int = 16,
    directions: Directions = "iid",
) -> Array:
    """Guaranteed bound, with probability 1 − δ, on how far an error of the score moves the true κ_1.

    |κ_1(ŝ) − κ_1(s)| ≤ min(2, mean of b_1 + c), for the true κ_1 of both scores.

    b_1 of ``score_error_bound`` lies in [0, 2], so its mean over the sphere exceeds its mean over the directions by at
    most c: the smaller of Hoeffding's and the empirical Bernstein bound, one-sided, each at δ/2. c is about
    √(2 ln(2/δ)/n_units) where b_1 varies much: with few directions the bound is wide.

    Args:
        score_fn, other_fn, x, radius, key, n_samples, directions: as for ``score_error_bound``.
        delta: allowed failure probability, in (0, 1).

    Returns:
        The bound, a scalar without unit.

    Raises:
        ValueError: as ``score_error_bound``, and δ outside (0, 1).
    """
    how = {"radius": radius, "key": key, "n_samples": n_samples, "directions": directions}
    mean = score_error_bound(score_fn, other_fn, x, p=1.0, **how)
    return jnp.minimum(mean.value + _smaller(mean, delta), 2)


def _smaller(mean: Estimate, delta: float) -> Array:
    """The smaller half-width of ``hoeffding`` and ``empirical_bernstein``, both at δ, for units in a range of 2."""
    variance = jnp.asarray(mean.stderr) ** 2 * mean.n_units
    return jnp.minimum(hoeffding(mean.n_units, delta), empirical_bernstein(variance, mean.n_units, delta))


def field_difference_bound(s: Array, other: Array, p: ArrayLike) -> Array:
    """Pointwise bound b_p(ŝ, s) of ``score_error_bound`` for score vectors ``(*batch, d)``: ``(*batch,)``."""
    dtype = accumulation_dtype(jnp.promote_types(s.dtype, other.dtype))
    s, other, p = s.astype(dtype), other.astype(dtype), jnp.asarray(p, dtype)
    gap, a, b = (jnp.where(vanishes, 0, norm) for norm, vanishes in map(safe_norm, (other - s, s, other)))
    total = a + b
    dunkl_williams = jnp.where(total > 0, 2 * gap / jnp.where(total > 0, total, 1), 0)
    hoelder = 2 ** (2 - p) * gap ** (p - 1)
    lipschitz = (p - 1) * jnp.maximum(a, b) ** (p - 2) * gap
    low = jnp.where(p == 1, jnp.minimum(dunkl_williams, 2), hoelder)
    return jnp.where(p < 2, low, lipschitz)


def _check_delta(delta: float) -> None:
    require(0 < delta < 1, "delta", delta, "must lie in (0, 1)")
