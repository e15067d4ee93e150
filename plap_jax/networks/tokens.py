"""What networks of images share: squares of pixels folded into channels, and attention between what comes of it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from plap_jax.typing import Array, accumulation_dtype


def fold(h: Array, side: int) -> Array:
    """``(h, w, c) -> (h/side, w/side, side² c)``: squares of pixels become channels."""
    height, width, channels = h.shape
    squares = h.reshape(height // side, side, width // side, side, channels).transpose(0, 2, 1, 3, 4)
    return squares.reshape(height // side, width // side, -1)


def unfold(h: Array, side: int) -> Array:
    """The inverse of ``fold``."""
    height, width, channels = h.shape
    squares = h.reshape(height, width, side, side, channels // side**2).transpose(0, 2, 1, 3, 4)
    return squares.reshape(height * side, width * side, -1)


def attend(query: Array, key: Array, value: Array) -> Array:
    """Attention softmax(q kᵀ/√c) v, ``(..., n, c)`` each; the softmax in float32 at least."""
    # not jax.nn.dot_product_attention, whose softmax is float32 under float64 too
    wide = accumulation_dtype(query.dtype)
    logits = jnp.einsum("...ic,...jc->...ij", query, key, preferred_element_type=wide)
    return jax.nn.softmax(logits / math.sqrt(query.shape[-1])).astype(value.dtype) @ value
