"""The p-Laplacian of u = log q at a point, from the score s = ∇u alone.

Δ_p u = ∇·(|s|^{p−2} s) = |s|^{p−2} ( tr J + (p−2) ŝᵀJŝ ), J = ∇s, ŝ = s/|s|   (Brokman et al., SSVM 2025).
Sign: negative at maxima of q. p = 2 is the Laplacian; p = 1 is −(d−1) × the mean curvature of the level set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral

import jax
import jax.numpy as jnp
from jax import lax

from plap_jax.memory import products_at_once
from plap_jax.typing import (
    Array,
    ArrayLike,
    Estimate,
    PRNGKey,
    ScoreFn,
    accumulation_dtype,
    one_or_nan,
    require,
    require_key,
    require_order,
    require_point,
    require_scalar,
    standard_error,
)


def p_field(s: Array, p: ArrayLike, eps: ArrayLike = 0.0) -> tuple[Array, Array]:
    """The vector field whose divergence is the p-Laplacian.

    |s|^{p−2} s, with |s| → (|s|² + eps²)^{1/2}.

    Args:
        s: a score ``(d,)``, or a batch ``(*batch, d)``.
        p: order, ≥ 1; a scalar.
        eps: smoothing of the norm, in the units of s.

    Returns:
        The field, shaped like s, and booleans ``(*batch,)``: True where s is exactly 0 while p < 2 and eps = 0. There
        the field is set to 0, its limit for p > 1 and the middle of its range for p = 1.
    """
    s = s.astype(accumulation_dtype(s.dtype))
    p, eps = jnp.asarray(p, s.dtype), jnp.asarray(eps, s.dtype)
    norm, vanishes = safe_norm(s, eps)
    power = jnp.where(vanishes, 0, norm ** (p - 1))
    return power[..., None] * (s / norm[..., None]), vanishes & (p < 2)


def safe_norm(s: Array, eps: ArrayLike = 0.0) -> tuple[Array, Array]:
    """Norm (|s|² + eps²)^{1/2} over the last axis without overflow, 1 where it vanishes; and a mask of the latter."""
    largest = lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(s), axis=-1), jnp.abs(eps)))
    vanishes = largest == 0
    scale = jnp.where(vanishes, 1, largest)
    squared = jnp.sum((s / scale[..., None]) ** 2, axis=-1) + (eps / scale) ** 2
    return scale * jnp.sqrt(jnp.where(vanishes, 1, squared)), vanishes


def p_laplacian(
    score_fn: ScoreFn, x: Array, p: ArrayLike = 1.0, *, chunk: int | None = None, eps: ArrayLike = 0.0
) -> Array:
    """The p-Laplacian of log q at one point, exact; negative at maxima of q.

    Δ_p u(x) = |s|^{p−2} ( tr J + (p−2) ŝᵀJŝ ), by d + 1 Jacobian-vector products.

    Args:
        score_fn: s = ∇ log q, one point in, same shape out.
        x: the point ``(*shape)``, any shape, floating.
        p: order, ≥ 1; may be traced.
        chunk: products taken at once, at most; None: set by ``plap_jax.memory``, all d of them up to d = 724.
        eps: |s| → (|s|² + eps²)^{1/2}, in the units of s.

    Returns:
        A scalar in units of u/length^p; negative at maxima. At a critical point with eps = 0: ±inf or NaN for p < 2,
        the Laplacian for p = 2, 0 for p > 2.

    Raises:
        ValueError: p < 1, x not finite or not floating, score of another shape, chunk not a positive integer.

    Example:
        >>> q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.ones(1), covariance_type="spherical")
        >>> p_laplacian(q.score, jnp.array([3.0, 4.0]), 1.0)  # −(d−1)/|x| = −0.2
        >>> p_laplacian(q.score, jnp.array([3.0, 4.0]), 2.0)  # the Laplacian, −d = −2
    """
    require_order(p)
    require(
        chunk is None or (isinstance(chunk, Integral) and chunk >= 1),
        "chunk",
        chunk,
        "must be None or an integer >= 1",
    )
    _require_eps(eps)
    s, jacobian = _linearized(score_fn, x)
    chunk = products_at_once(s.size) if chunk is None else chunk
    return _assemble(s, _trace(jacobian, s.size, chunk, s.dtype), jacobian(_unit(s, eps)), p, eps)


def p_laplacian_estimate(
    score_fn: ScoreFn,
    x: Array,
    p: ArrayLike = 1.0,
    *,
    key: PRNGKey,
    n_probes: int,
    eps: ArrayLike = 0.0,
) -> Estimate:
    """The p-Laplacian at one point with a stochastic trace: for large d, where the exact one is too slow.

    Δ_p u(x) with Hutchinson's trace: |s|^{p−2} ( mean of vᵀJv + (p−2) ŝᵀJŝ ), v Rademacher probes.

    Cheaper than ``p_laplacian`` when n_probes is much smaller than d. Each probe is an independent unit.

    Args:
        score_fn: as for ``p_laplacian``.
        x: the point ``(*shape)``.
        p: order, ≥ 1.
        key: randomness.
        n_probes: Jacobian-vector products spent on the trace, ≥ 2.
        eps: as for ``p_laplacian``.

    Returns:
        ``Estimate`` of Δ_p u, same units and sign; nfe = n_probes + 2 (the score and the product with ŝ).

    Raises:
        ValueError: as ``p_laplacian``, and for fewer than two probes, or what is no key.

    Example:
        >>> q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 64)), jnp.ones(1), covariance_type="spherical")
        >>> laplacian = p_laplacian_estimate(q.score, jnp.ones(64), 2.0, key=jax.random.key(0), n_probes=8)
        >>> round(float(laplacian.value), 2)  # −d; every probe gives that, as ∇s = −I
        -64.0
    """
    require_order(p)
    _require_eps(eps)
    require_key(key)
    fits = isinstance(n_probes, Integral) and n_probes >= 2
    require(fits, "n_probes", n_probes, "must be an integer >= 2: one unit has no standard error")
    s, jacobian = _linearized(score_fn, x)
    probes = jax.random.rademacher(key, (n_probes, s.size), s.dtype)
    at_once = products_at_once(s.size)
    if n_probes <= at_once:
        units = jax.vmap(lambda v: v @ jacobian(v))(probes)
    else:
        units = lax.map(lambda v: v @ jacobian(v), probes, batch_size=at_once)
    value = _assemble(s, jnp.mean(units), jacobian(_unit(s, eps)), p, eps)
    slope = _assemble(s, jnp.ones_like(units[0]), jnp.zeros_like(s), p, eps)
    return Estimate(value, slope * standard_error(units), n_probes + 2, units.shape[0])


def _require_eps(eps: ArrayLike) -> None:
    require_scalar("eps", eps, lambda v: math.isfinite(v) and v >= 0, "must be a single finite number >= 0")


def _linearized(score_fn: ScoreFn, x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """The flat score at x and v ↦ Jv on flat vectors, with sums in float32 at least."""
    x = jnp.asarray(x)
    require_point(x)

    def flat_score(v: Array) -> Array:
        s = score_fn(v.reshape(x.shape))
        require(jnp.shape(s) == x.shape, "score_fn", jnp.shape(s), f"must return the shape of x, {x.shape}")
        return s.reshape(-1).astype(accumulation_dtype(s.dtype))

    s, jacobian = jax.linearize(flat_score, x.reshape(-1))
    return s, lambda v: jacobian(v.astype(x.dtype))


def _trace(jacobian: Callable[[Array], Array], dim: int, chunk: int, dtype: jnp.dtype) -> Array:
    """tr J = Σ_i e_iᵀJe_i, at most ``chunk`` unit vectors at a time."""

    def diagonal(i: Array) -> Array:
        # An index past the end, which pads the last chunk, gives the zero vector and adds nothing.
        e = jax.nn.one_hot(i, dim, dtype=dtype)
        return e @ jacobian(e)

    # The fewest chunks, of equal size: chunks of exactly ``chunk`` could leave the last one mostly padding.
    n_chunks = -(-dim // chunk)
    size = -(-dim // n_chunks)
    if n_chunks == 1:
        return jnp.sum(jax.vmap(diagonal)(jnp.arange(dim)))
    indices = jnp.arange(n_chunks * size).reshape(n_chunks, size)
    return lax.scan(lambda total, i: (total + jnp.sum(jax.vmap(diagonal)(i)), None), jnp.zeros((), dtype), indices)[0]


def _unit(s: Array, eps: ArrayLike) -> Array:
    """s/|s|: J is applied to it, since Js itself may overflow or vanish where ŝᵀJŝ does not."""
    return s / safe_norm(s, jnp.asarray(eps, s.dtype))[0]


def _assemble(s: Array, trace: Array, j_unit: Array, p: ArrayLike, eps: ArrayLike) -> Array:
    """|s|^{p−2} (tr J + (p−2) ŝᵀJŝ), with the limits at s = 0 that the operator itself has."""
    valid = one_or_nan(p)
    p, eps = jnp.asarray(p, s.dtype), jnp.asarray(eps, s.dtype)
    norm, vanishes = safe_norm(s, eps)
    # At a critical point ŝ has no direction; its average, tr J/d, gives the sign of the divergence.
    along = jnp.where(vanishes, trace / s.size, (s / norm) @ j_unit)
    factor = trace + (p - 2) * along
    infinite = jnp.where(factor > 0, jnp.inf, jnp.where(factor < 0, -jnp.inf, jnp.nan))
    at_critical = jnp.where(p == 2, factor, jnp.where(p > 2, 0, infinite))
    return (jnp.where(vanishes, at_critical, norm ** (p - 2) * factor) * valid).astype(s.dtype)
