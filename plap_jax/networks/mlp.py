"""A residual MLP for points of any shape, conditioned on the noise level and a caption."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from plap_jax.networks.initial import lecun_normal, unit_normal, zeros
from plap_jax.typing import Array, ArrayLike, accumulation_dtype, require

# Wavelengths of the level's embedding, in units of the log-SNR, whose range is about [-10, 10]: the longest
# tells the ends apart, the shortest resolves neighbouring levels.
_SHORTEST, _LONGEST = 4.0, 40.0


def sinusoidal_embedding(level: ArrayLike, dim: int) -> Array:
    """(cos(2π level/λ_i), sin(2π level/λ_i)), λ_i geometric from 4 to 40.

    Args:
        level: scalar, the log-SNR.
        dim: even, ≥ 2.

    Returns:
        ``(dim,)``, the dtype of ``level`` (the default float for integers and Python numbers).

    Raises:
        ValueError: an odd or non-positive dim.
    """
    require(dim >= 2 and dim % 2 == 0, "dim", dim, "must be even and >= 2")
    frequencies = 2 * math.pi / np.geomspace(_SHORTEST, _LONGEST, dim // 2)
    angle = level * jnp.asarray(frequencies, jnp.result_type(level, float))
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


class ResidualMLP(nnx.Module):
    """h ← h + W₂ silu(W₁ silu(h) + V e), e = silu(U [cos, sin](level) + caption): ``depth`` blocks of ``width``.

    The output layer starts at zero, so that an untrained network predicts 0 everywhere.

    Args:
        shape: shape of one point.
        width: of the hidden layers, ≥ 1.
        depth: number of residual blocks, ≥ 0.
        n_conditions: number of captions, or None for a network without.
        embed_dim: of the embedding of level and caption, even.
        rngs: ``nnx.Rngs``; the initial weights.

    Raises:
        ValueError: a size outside its range.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 2,
        n_conditions: int | None = None,
        embed_dim: int = 32,
        rngs: nnx.Rngs,
    ) -> None:
        shape = tuple(int(n) for n in shape)
        require(all(n >= 1 for n in shape), "shape", shape, "must hold positive sizes")
        require(width >= 1, "width", width, "must be >= 1")
        require(depth >= 0, "depth", depth, "must be >= 0")
        require(n_conditions is None or n_conditions >= 1, "n_conditions", n_conditions, "must be >= 1, or None")
        require(embed_dim >= 2 and embed_dim % 2 == 0, "embed_dim", embed_dim, "must be even and >= 2")
        dim = math.prod(shape)
        self.shape = shape
        self.embed_dim = embed_dim
        self.embed = _linear(embed_dim, embed_dim, rngs)
        self.captions = None if n_conditions is None else _Captions(n_conditions, embed_dim, rngs)
        self.first = _linear(dim, width, rngs)
        self.blocks = nnx.List([_Block(width, embed_dim, rngs) for _ in range(depth)])
        self.last = nnx.Linear(width, dim, kernel_init=zeros, bias_init=zeros, rngs=rngs)

    def __call__(self, x: Array, level: ArrayLike, condition: ArrayLike | None = None) -> Array:
        """The prediction at one point.

        Args:
            x: ``(*shape)``, of unit scale.
            level: scalar, log(α²/σ²).
            condition: the caption's number, 0 … n_conditions−1; None or −1 for no caption.

        Returns:
            ``(*shape)``, float32 or wider, as ``x``.

        Raises:
            ValueError: x of another shape, or a condition where the network has none.
        """
        require(x.shape == self.shape, "x", x.shape, f"must have the shape of the network, {self.shape}")
        known = condition is None or self.captions is not None
        require(known, "condition", condition, "must be None: this network has no captions (n_conditions=None)")
        level = jnp.asarray(level, accumulation_dtype(x.dtype))
        embedding = self.embed(sinusoidal_embedding(level, self.embed_dim))
        if self.captions is not None:
            embedding += self.captions(condition)
        embedding = jax.nn.silu(embedding)
        h = self.first(x.reshape(-1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(jax.nn.silu(h)).reshape(self.shape)


class _Captions(nnx.Module):
    def __init__(self, n_conditions: int, embed_dim: int, rngs: nnx.Rngs) -> None:
        # the first row stands for "no caption", number −1
        self.table = nnx.Param(unit_normal(rngs.params(), (n_conditions + 1, embed_dim)))

    def __call__(self, condition: ArrayLike | None) -> Array:
        row = jnp.asarray(-1 if condition is None else condition) + 1
        # NaN, not a neighbour's embedding, for a number beyond the table
        return self.table[...].at[row].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


class _Block(nnx.Module):
    def __init__(self, width: int, embed_dim: int, rngs: nnx.Rngs) -> None:
        self.inner = _linear(width, width, rngs)
        self.told = _linear(embed_dim, width, rngs, use_bias=False)
        self.outer = _linear(width, width, rngs)

    def __call__(self, h: Array, embedding: Array) -> Array:
        return h + self.outer(jax.nn.silu(self.inner(jax.nn.silu(h)) + self.told(embedding)))


def _linear(n_in: int, n_out: int, rngs: nnx.Rngs, use_bias: bool = True) -> nnx.Linear:
    return nnx.Linear(n_in, n_out, use_bias=use_bias, kernel_init=lecun_normal, bias_init=zeros, rngs=rngs)
