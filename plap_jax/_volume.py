"""The p-Laplacian averaged over a ball, estimated from points inside it: (1/|B_r|) ∫_{B_r} Δ_p u = −(d/r) κ_p.

The identity holds for d + p > 2; for d = p = 1 the mass of Δ_1 u sits at the critical points, which a volume never
samples.
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from numbers import Integral
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from plap_jax.directions import uniform_in_ball
from plap_jax.memory import products_at_once
from plap_jax.operators import p_field, p_laplacian
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
    require_scalar,
    standard_error,
)

Divergence = Literal["exact", "finite_difference"]


class InfiniteVarianceWarning(UserWarning):
    """The volume estimator's variance is infinite near critical points: its standard error cannot be trusted."""


def volume(
    score_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    p: ArrayLike = 1.0,
    key: PRNGKey,
    n_samples: int = 16,
    divergence: Divergence = "exact",
    chunk: int | None = None,
    step: ArrayLike | None = None,
) -> Estimate:
    """Average of the p-Laplacian over a ball from uniform points inside it; ``flux`` gives the same far cheaper.

    (1/|B_r|) ∫_{B_r(x)} Δ_p u ≈ mean of Δ_p u over uniform points of the ball.

    The divergence is exact (``p_laplacian``) or by central differences of the field F = |s|^{p−2} s,
    Σ_i e_i·(F(y + h e_i) − F(y − h e_i)) / 2h, with error O(h²) + O(machine epsilon/h).

    Around a non-degenerate critical point the variance is finite only if p > 2 − d/2. Otherwise (d = 2, p = 1, as in
    the published figure; d = 1, p ≤ 1.5) a warning says that the standard error cannot be trusted; a traced p gives no
    warning.

    Args:
        score_fn: as for ``flux``.
        x: centre ``(*shape)``.
        radius: r > 0, in the units of x.
        key: randomness.
        n_samples: points of the ball, ≥ 2.
        p: order, ≥ 1.
        divergence: "exact" (d + 2 evaluations and products per point) or "finite_difference" (2d evaluations).
        chunk: Jacobian-vector products taken at once, for the exact divergence; None: set by ``plap_jax.memory``.
        step: h > 0, in the units of x; default max(ε^{1/3} r, ε^{2/3} max_i |y_i|), ε the machine epsilon of
            x's dtype: small against the ball, large against the rounding of its points y.

    Returns:
        ``Estimate`` of the ball average, units u/length^p; negative at maxima: −(d/r) κ_p.

    Raises:
        ValueError: as ``flux``, an unknown divergence, or a step that is not positive.

    Example:
        >>> q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.ones(1), covariance_type="spherical")
        >>> average = volume(q.score, jnp.zeros(3), radius=0.5, key=jax.random.key(0), n_samples=256)
        >>> average.value, average.interval()  # negative: a maximum of q
    """
    x = jnp.asarray(x)
    require_ball(x, radius, p)
    require(isinstance(n_samples, Integral) and n_samples >= 2, "n_samples", n_samples, "must be an integer >= 2")
    allowed = get_args(Divergence)
    require(divergence in allowed, "divergence", divergence, f"must be one of {', '.join(allowed)}")
    if step is not None:
        require_scalar("step", step, lambda h: math.isfinite(h) and h > 0, "must be None or a single finite number > 0")
    _warn_infinite_variance(p, x.size)
    points = x + jnp.asarray(radius, x.dtype) * uniform_in_ball(key, n_samples, x.shape, x.dtype)
    if divergence == "exact":
        chunk = products_at_once(x.size, n_samples) if chunk is None else chunk
        at_point, per_point = partial(p_laplacian, score_fn, p=p, chunk=chunk), x.size + 2
    else:
        at_point, per_point = partial(_difference_divergence, score_fn, p=p, radius=radius, step=step), 2 * x.size
    units = jax.vmap(at_point)(points)
    units *= jnp.asarray(one_or_nan(p, radius), units.dtype)
    return Estimate(jnp.mean(units), standard_error(units), n_samples * per_point, n_samples)


def _difference_divergence(
    score_fn: ScoreFn, y: Array, *, p: ArrayLike, radius: ArrayLike, step: ArrayLike | None
) -> Array:
    """Σ_i e_i·(F(y + h e_i) − F(y − h e_i)) / 2h for F = |s|^{p−2} s."""
    dtype = accumulation_dtype(y.dtype)
    if step is None:
        # The ball's radius is the only length known here; the rounding error of h must stay a small fraction of it.
        root = float(jnp.finfo(y.dtype).eps) ** (1 / 3)
        step = lax.stop_gradient(jnp.maximum(root * radius, root**2 * jnp.max(jnp.abs(y))))
    h = jnp.asarray(step, y.dtype)

    def slope(i: Array) -> Array:
        e = jax.nn.one_hot(i, y.size, dtype=y.dtype).reshape(y.shape)
        ahead, behind = y + h * e, y - h * e
        fields = [_field_at(score_fn, z, p)[i] for z in (ahead, behind)]
        # The actual step, after y ± h was rounded.
        return (fields[0] - fields[1]) / jnp.sum(ahead - behind).astype(dtype)

    return jnp.sum(jax.vmap(slope)(jnp.arange(y.size)))


def _field_at(score_fn: ScoreFn, y: Array, p: ArrayLike) -> Array:
    """|s|^{p−2} s at one point, flat."""
    s = score_fn(y)
    require(jnp.shape(s) == y.shape, "score_fn", jnp.shape(s), f"must return the shape of x, {y.shape}")
    return p_field(s.reshape(-1), p)[0]


def _warn_infinite_variance(p: ArrayLike, dim: int) -> None:
    known = concrete(p)
    if known is not None and bool((known <= 2 - dim / 2).any()):
        warnings.warn(
            f"volume estimator with p={p}, d={dim}: its variance is infinite near critical points (p <= 2 - d/2), "
            "so its standard error and intervals cannot be trusted there; use flux",
            InfiniteVarianceWarning,
            stacklevel=3,
        )
