"""The p-Laplacian of u = log q at a point, from the score s = ∇u alone.

Δ_p u = ∇·(|s|^{p−2} s) = |s|^{p−2} ( tr J + (p−2) ŝᵀJŝ ), J = ∇s, ŝ = s/|s|   (Brokman et al., SSVM 2025).
Sign: negative at maxima of q. p = 2 is the Laplacian; p = 1 is −(d−1) × the mean curvature of the level set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from plap_jax.directions import orthonormal, sample_directions
from plap_jax.typing import (
    Array,
    ArrayLike,
    Estimate,
    PRNGKey,
    ScoreFn,
    accumulation_dtype,
    one_or_nan,
    require,
    require_order,
    require_point,
    require_scalar,
    standard_error,
)

TraceMethod = Literal["hutchinson", "hutch++", "xtrace"]
TRACE_METHODS: tuple[str, ...] = get_args(TraceMethod)

# Hutch++ and XTrace give no standard error of their own that could be trusted: it is taken over this many replicates.
N_REPLICATES = 8


def p_field(s: Array, p: ArrayLike, eps: ArrayLike = 0.0) -> tuple[Array, Array]:
    """|s|^{p−2} s, with |s| → (|s|² + eps²)^{1/2}: the vector field whose divergence is Δ_p u.

    Args:
        s: a score ``(d,)``, or a batch ``(*batch, d)``.
        p: order, ≥ 1; a scalar.
        eps: smoothing of the norm, in the units of s.

    Returns:
        The field, of s's shape, and a boolean ``(*batch,)``: where s vanishes exactly while p < 2 and eps = 0, and the
        field was set to 0, its limit for p > 1 and the middle of its range for p = 1.
    """
    s = s.astype(accumulation_dtype(s.dtype))
    p, eps = jnp.asarray(p, s.dtype), jnp.asarray(eps, s.dtype)
    norm, vanishes = safe_norm(s, eps)
    power = jnp.where(vanishes, 0, norm ** (p - 1))
    return power[..., None] * (s / norm[..., None]), vanishes & (p < 2)


def safe_norm(s: Array, eps: ArrayLike = 0.0) -> tuple[Array, Array]:
    """(|s|² + eps²)^{1/2} over the last axis, without overflow or underflow, 1 where it vanishes; and where it does."""
    largest = lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(s), axis=-1), jnp.abs(eps)))
    vanishes = largest == 0
    scale = jnp.where(vanishes, 1, largest)
    squared = jnp.sum((s / scale[..., None]) ** 2, axis=-1) + (eps / scale) ** 2
    return scale * jnp.sqrt(jnp.where(vanishes, 1, squared)), vanishes


def p_laplacian(
    score_fn: ScoreFn, x: Array, p: ArrayLike = 1.0, *, chunk: int | None = None, eps: ArrayLike = 0.0
) -> Array:
    """Δ_p u(x) = |s|^{p−2} ( tr J + (p−2) ŝᵀJŝ ), exact, by d + 1 forward-mode products.

    Args:
        score_fn: s = ∇ log q, one point in, same shape out.
        x: the point ``(*shape)``, any shape, floating.
        p: order, ≥ 1; may be traced.
        chunk: products taken at once at most, to bound memory; None takes all d.
        eps: |s| → (|s|² + eps²)^{1/2}, in the units of s.

    Returns:
        A scalar in units of u/length^p; negative at maxima. At a critical point with eps = 0: ±inf or NaN for p < 2,
        the Laplacian for p = 2, 0 for p > 2.

    Raises:
        ValueError: p < 1, x not finite or not floating, score of another shape, chunk not a positive integer.
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
    return _assemble(s, _trace(jacobian, s.size, chunk, s.dtype), jacobian(_unit(s, eps)), p, eps)


def p_laplacian_estimate(
    score_fn: ScoreFn,
    x: Array,
    p: ArrayLike = 1.0,
    *,
    key: PRNGKey,
    n_probes: int,
    method: TraceMethod = "hutchinson",
    eps: ArrayLike = 0.0,
) -> Estimate:
    """Δ_p u(x) with a stochastic trace: |s|^{p−2} ( E[vᵀJv] + (p−2) ŝᵀJŝ ).

    Hutchinson averages Rademacher probes, each an independent unit. Hutch++ (Meyer et al. 2021, arXiv 2010.09649) and
    XTrace (Epperly et al. 2024, arXiv 2301.07825) take the trace on a sampled range of J exactly and sample the rest;
    they run in eight independent replicates of n_probes/8 products each, which are the units.

    Args:
        score_fn: as for ``p_laplacian``.
        x: the point ``(*shape)``.
        p: order, ≥ 1.
        key: randomness.
        n_probes: Jacobian-vector products spent on the trace. Hutchinson: ≥ 2. Hutch++: a multiple of 24. XTrace: a
            multiple of 16. The last two need n_probes/24, n_probes/16 ≤ d.
        method: "hutchinson", "hutch++" or "xtrace".
        eps: as for ``p_laplacian``.

    Returns:
        ``Estimate`` of Δ_p u, same units and sign; nfe = n_probes + 2 (the score and the product with ŝ).

    Raises:
        ValueError: as ``p_laplacian``, and for an unknown method or an n_probes that does not fit it.
    """
    require_order(p)
    _require_eps(eps)
    require(method in TRACE_METHODS, "method", method, f"must be one of {', '.join(TRACE_METHODS)}")
    s, jacobian = _linearized(score_fn, x)
    _check_probes(method, n_probes, s.size)
    if method == "hutchinson":
        probes = jax.random.rademacher(key, (n_probes, s.size), s.dtype)
        units = jax.vmap(lambda v: v @ jacobian(v))(probes)
    else:
        one = _hutchpp if method == "hutch++" else _xtrace
        keys = jax.random.split(key, N_REPLICATES)
        units = jax.vmap(lambda k: one(k, jax.vmap(jacobian), s.size, n_probes // N_REPLICATES, s.dtype))(keys)
    value = _assemble(s, jnp.mean(units), jacobian(_unit(s, eps)), p, eps)
    slope = _assemble(s, jnp.ones_like(units[0]), jnp.zeros_like(s), p, eps)
    return Estimate(value, slope * standard_error(units), n_probes + 2, units.shape[0])


def _require_eps(eps: ArrayLike) -> None:
    require_scalar("eps", eps, lambda v: math.isfinite(v) and v >= 0, "must be a single finite number >= 0")


def _check_probes(method: str, n_probes: int, dim: int) -> None:
    multiple = {"hutchinson": 1, "hutch++": 3 * N_REPLICATES, "xtrace": 2 * N_REPLICATES}[method]
    allowed = "an integer >= 2" if multiple == 1 else f"a positive multiple of {multiple}"
    fits = isinstance(n_probes, Integral) and n_probes >= max(multiple, 2) and n_probes % multiple == 0
    require(fits, "n_probes", n_probes, f"must be {allowed} for {method}")
    most = multiple * dim
    require(multiple == 1 or n_probes <= most, "n_probes", n_probes, f"must be at most {most} for {method} here")


def _hutchpp(key: PRNGKey, products: Callable[[Array], Array], dim: int, n: int, dtype: jnp.dtype) -> Array:
    """tr(QJQᵀ) + E[gᵀJg], Q (rows) spanning J of n/3 probes, g probes without their part in Q: n products."""
    probes = dim**0.5 * sample_directions(key, 2 * (n // 3), (dim,), "iid", dtype)[:, 0]
    first, second = jnp.split(probes, 2)
    q = _range(products(first))
    rest = second - (second @ q.T) @ q
    return jnp.sum(q * products(q)) + jnp.sum(rest * products(rest)) / rest.shape[0]


def _range(images: Array) -> Array:
    """Orthonormal rows that span those of ``images``, with zeros in place of rows that rounding alone tells apart."""
    rounding = 10 * images.shape[1] ** 0.5 * float(jnp.finfo(images.dtype).eps)
    return orthonormal((images / _largest(images))[None], rounding)[0]


def _largest(a: Array) -> Array:
    """max |a|, or 1 where all is 0."""
    largest = jnp.max(jnp.abs(a))
    return jnp.where(largest > 0, largest, 1)


def _xtrace(key: PRNGKey, products: Callable[[Array], Array], dim: int, n: int, dtype: jnp.dtype) -> Array:
    """Mean over i of tr(P_iJ) + (d−m+1) vᵢᵀJvᵢ/|vᵢ|², vᵢ = (I − P_i)ωᵢ, P_i onto J of the other m−1 of n/2 probes ω.

    P_i = Qᵀ(I − sᵢsᵢᵀ)Q with Q (rows) spanning all J ω, and sᵢ the unit vector orthogonal to the others there.
    """
    m = n // 2
    probes = dim**0.5 * sample_directions(key, max(m, 2), (dim,), "iid", dtype)[:m, 0]
    y = products(probes)
    q = _range(y)
    z = products(q)
    # Of the triangle only directions matter. A probe that adds nothing to the range must not be divided by.
    triangle = jnp.tril((y / _largest(y)) @ q.T)
    triangle += jnp.diag(jnp.where(jnp.diag(triangle) > 0, 0, jnp.finfo(dtype).eps))
    s = solve_triangular(triangle, jnp.eye(m, dtype=dtype), lower=True).T
    s = s / safe_norm(s)[0][:, None]
    inside = probes @ q.T
    inside = inside - s * jnp.sum(s * inside, axis=-1, keepdims=True)
    rest, image = probes - inside @ q, y - inside @ z
    on_range = jnp.sum(q * z) - jnp.sum((s @ q) * (s @ z), axis=-1)
    return jnp.mean(on_range + (dim - m + 1) * jnp.sum(rest * image, axis=-1) / jnp.sum(rest**2, axis=-1))


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


def _trace(jacobian: Callable[[Array], Array], dim: int, chunk: int | None, dtype: jnp.dtype) -> Array:
    """tr J = Σ_i e_iᵀJe_i, at most ``chunk`` unit vectors at a time."""

    def diagonal(i: Array) -> Array:
        # One past the end, used to fill the last chunk, gives the zero vector and adds nothing.
        e = jax.nn.one_hot(i, dim, dtype=dtype)
        return e @ jacobian(e)

    # As few chunks as ``chunk`` allows, of one size: filled up to ``chunk`` itself, the last could be mostly in vain.
    n_chunks = 1 if chunk is None else -(-dim // chunk)
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
