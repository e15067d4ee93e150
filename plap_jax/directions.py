"""Random directions on the unit sphere S^{d−1}: independent, antithetic, orthogonal or quasi-random.

Each single direction is uniform under every sampler, so all of them estimate the same mean; they differ in how
directions depend on each other, and so in variance. Standard errors are taken over *units*: groups of directions that
are independent of each other.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtri
from scipy.stats import qmc

from plap_jax.typing import Array, ArrayLike, PRNGKey, accumulation_dtype, require, require_key

Directions = Literal["iid", "antithetic", "orthogonal", "quasi"]
KINDS: tuple[str, ...] = get_args(Directions)

# With fewer independent units a standard error is too uncertain to act on.
MIN_UNITS = 8


def unit_size(kind: Directions, n: int, dim: int) -> int:
    """How many of ``n`` directions in dimension ``dim`` form one independent unit.

    iid: 1. antithetic: 2 (n, −n). orthogonal: the largest block b ≤ min(dim, n/8) that divides n. quasi: the largest
    b ≤ n/8 that divides n, best a power of two. Blocks of at most n/8 keep at least eight units, enough for a standard
    error; with few directions (n < 16), and for orthogonal ones in one dimension, blocks are single directions.

    Args:
        kind: dependence between directions.
        n: number of directions.
        dim: d, the number of coordinates of a point.

    Returns:
        The size of a unit; n divided by it is the number of units.

    Raises:
        ValueError: unknown kind; dim < 1; n not an integer ≥ 2, or for antithetic ones odd or < 4; for kinds with
            blocks, an n that no block size divides, such as 17, 31 or 127.
    """
    require(kind in KINDS, "directions", kind, f"must be one of {', '.join(KINDS)}")
    require(
        isinstance(n, Integral) and n >= 2,
        "n_samples",
        n,
        "must be an integer >= 2: one unit has no standard error",
    )
    require(dim >= 1, "dim", dim, "must be >= 1")
    if kind == "iid":
        return 1
    if kind == "antithetic":
        require(n % 2 == 0 and n >= 4, "n_samples", n, "must be an even number >= 4 for antithetic directions")
        return 2
    return _block(kind, n, n // MIN_UNITS if kind == "quasi" else min(dim, n // MIN_UNITS))


def _block(kind: str, n: int, largest: int) -> int:
    """The largest b ≤ ``largest`` that divides n; refused when that is 1 and need not be."""

    def block(m: int) -> int:
        return max(b for b in range(1, max(1, largest) + 1) if m % b == 0)

    if largest > 1 and block(n) == 1:
        # n is odd here, so that blocks of two divide both neighbours.
        better = max((n - 1, n + 1), key=block)
        allowed = f"no block of 2 to {largest} directions divides it; take for example {better}"
        require(False, "n_samples", n, f"{allowed} for {kind} directions")
    return block(n)


def sample_directions(
    key: PRNGKey, n: int, shape: tuple[int, ...], kind: Directions = "iid", dtype: jnp.dtype = jnp.float32
) -> Array:
    """Random unit vectors, grouped into independent units.

    n ~ Uniform(S^{d−1}), d = prod(shape): normals divided by their norm, paired or orthogonalised within units.

    Args:
        key: randomness.
        n: number of directions.
        shape: shape of a point; d is its number of entries.
        kind: dependence between directions, see ``unit_size``.
        dtype: floating dtype of the result; computed in float32 at least.

    Returns:
        Unit vectors ``(n_units, unit, *shape)`` with n_units · unit = n; different units are independent.

    Raises:
        ValueError: as ``unit_size``, or what is no key.
    """
    require_key(key)
    dim = math.prod(shape)
    unit = unit_size(kind, n, dim)
    block = 1 if kind == "antithetic" else unit
    draw = _quasi_normal if kind == "quasi" else jax.random.normal
    normals = draw(key, (n // unit, block, dim), accumulation_dtype(dtype))
    framed = block > 1 and kind == "orthogonal"
    vectors = orthonormal(normals) if framed else normals / jnp.linalg.norm(normals, axis=-1, keepdims=True)
    if kind == "antithetic":
        vectors = jnp.concatenate([vectors, -vectors], axis=1)
    return vectors.reshape(n // unit, unit, *shape).astype(dtype)


def on_sphere(x: Array, radius: ArrayLike, vectors: Array) -> Array:
    """x + r n for the m directions of ``sample_directions``: ``(m, *shape)``."""
    return x + jnp.asarray(radius, x.dtype) * vectors.reshape(-1, *x.shape)


def _quasi_normal(key: PRNGKey, shape: tuple[int, int, int], dtype: jnp.dtype) -> Array:
    """Φ⁻¹ of Sobol points, with a random digital shift per unit: ``(units, b, d)`` standard normals.

    Each point is uniform before Φ⁻¹, on a grid of 2²³; those of a unit fill the cube evenly, best for b = 2^k.
    """
    units, block, dim = shape
    most = qmc.Sobol.MAXDIM
    require(dim <= most, "dim", dim, f"must be <= {most} for quasi directions")
    points = qmc.Sobol(dim, scramble=False, bits=BITS).random_base2(math.ceil(math.log2(block)))[:block]
    whole = jnp.asarray(np.round(points * 2**BITS), jnp.uint32)
    shifted = whole ^ (jax.random.bits(key, (units, 1, dim), jnp.uint32) >> (32 - BITS))
    return ndtri((shifted.astype(dtype) + 0.5) / 2**BITS)


# The midpoints of 2²³ cells are exact in float32, and none is 0 or 1.
BITS = 23


def orthonormal(vectors: Array) -> Array:
    """Batches of vectors made orthonormal by Gram–Schmidt.

    Over axis −2: (units, b, d), b ≤ d → the same shape with orthonormal rows. Normal rows become Haar-distributed
    frames. Every row is projected twice, which keeps float32 frames orthogonal to rounding even when b = d. A batched
    QR would be several times slower on a CPU, where two of them in one program can deadlock.
    """

    def normalized(row: Array) -> Array:
        return row / jnp.linalg.norm(row, axis=-1, keepdims=True)

    def add_row(j: Array, frame: Array) -> Array:
        def outside(row: Array) -> Array:
            return row - jnp.einsum("ub,ubd->ud", jnp.einsum("ubd,ud->ub", frame, row), frame)

        row = normalized(lax.dynamic_index_in_dim(vectors, j, axis=1, keepdims=False))
        row = normalized(outside(normalized(outside(row))))
        return lax.dynamic_update_index_in_dim(frame, row, j, axis=1)

    return lax.fori_loop(0, vectors.shape[1], add_row, jnp.zeros_like(vectors))


def circle(n: int, dtype: jnp.dtype = jnp.float32) -> Array:
    """Equispaced directions of the plane, the nodes of a trapezoid rule on the circle.

    (cos 2πi/n, sin 2πi/n), i = 0, …, n−1.

    Means over them are exact for trigonometric polynomials of degree below n. Angles are taken in float64.

    Args:
        n: number of directions, ≥ 1.
        dtype: floating dtype of the result.

    Returns:
        Unit vectors ``(n, 2)``, counter-clockwise from (1, 0); no unit.

    Raises:
        ValueError: n not an integer ≥ 1.
    """
    require(isinstance(n, Integral) and n >= 1, "n", n, "must be an integer >= 1")
    angle = 2 * np.pi * np.arange(n) / n
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=-1), dtype)


def uniform_in_ball(key: PRNGKey, n: int, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Uniform random points of the unit ball.

    A direction times U^{1/d}, U uniform: ``(n, *shape)``, d = prod(shape).
    """
    require_key(key)
    key_direction, key_radius = jax.random.split(key)
    wide = accumulation_dtype(dtype)
    vectors = sample_directions(key_direction, n, shape, "iid", wide)[:, 0]
    # 1 − U lies in (0, 1], which excludes the centre: often a mode, where Δ_p u is infinite.
    radii = (1 - jax.random.uniform(key_radius, (n,), wide)) ** (1 / math.prod(shape))
    return (vectors * radii.reshape(n, *(1 for _ in shape))).astype(dtype)
