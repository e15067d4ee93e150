"""Initial weights, drawn on the host: a network has dozens of shapes, and JAX would compile a sampler for each."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.typing import Array, PRNGKey


def lecun_normal(key: PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """N(0, 1/fan_in), fan_in = product of all sizes but the last: keeps the scale of unit-variance inputs.

    Args:
        key: one random key, known or traced (``jit``, ``eval_shape``): the numbers are the same.
        shape: (…, fan_out).
        dtype: of the result.
    """
    return _normal(key, shape, dtype, 1 / math.sqrt(math.prod(shape[:-1])))


def unit_normal(key: PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """N(0, 1), for tables of embeddings; arguments as ``lecun_normal``."""
    return _normal(key, shape, dtype, 1.0)


def zeros(key: PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """0, for biases and for output layers; arguments as ``lecun_normal``."""
    return _filled(key, shape, dtype, 0)


def ones(key: PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """1, for the scales of norms; arguments as ``lecun_normal``."""
    return _filled(key, shape, dtype, 1)


def _filled(key: PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype, value: int) -> Array:
    if isinstance(key, jax.core.Tracer):  # nothing is allocated for a shape
        return jnp.full(shape, value, dtype)
    return jax.device_put(np.full(shape, value, dtype))


def _normal(key: PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype, std: float) -> Array:
    def draw(words: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(np.asarray(words).ravel().tolist())
        return (std * rng.standard_normal(shape)).astype(dtype)

    words = jax.random.key_data(key)
    if isinstance(words, jax.core.Tracer):
        return jax.pure_callback(draw, jax.ShapeDtypeStruct(shape, dtype), words, vmap_method="sequential")
    return jax.device_put(draw(words))
