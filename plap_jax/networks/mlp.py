"""A residual MLP for points of any shape, conditioned on the noise level and a caption."""

from __future__ import annotations

import math

import jax
from flax import nnx

from plap_jax.networks.conditioned import Conditioned, linear
from plap_jax.networks.initial import zeros
from plap_jax.typing import Array, ArrayLike, require


class ResidualMLP(Conditioned):
    """A residual MLP for points of any shape.

    h ← h + W₂ silu(W₁ silu(h) + V e), e = silu(U [cos(level), sin(level)] + caption): ``depth`` blocks of ``width``.

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
        super().__init__(shape, n_conditions, embed_dim, rngs, width=width, depth=depth)
        require(width >= 1, "width", width, "must be >= 1")
        require(depth >= 0, "depth", depth, "must be >= 0")
        dim = math.prod(self.shape)
        self.first = linear(dim, width, rngs)
        self.blocks = nnx.List([_ResidualBlock(width, embed_dim, rngs) for _ in range(depth)])
        self.last = linear(width, dim, rngs, kernel_init=zeros)

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
        embedding = self.embedding(x, level, condition)
        h = self.first(x.reshape(-1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(jax.nn.silu(h)).reshape(self.shape)


class _ResidualBlock(nnx.Module):
    def __init__(self, width: int, embed_dim: int, rngs: nnx.Rngs) -> None:
        self.inner = linear(width, width, rngs)
        self.told = linear(embed_dim, width, rngs, use_bias=False)
        self.outer = linear(width, width, rngs)

    def __call__(self, h: Array, embedding: Array) -> Array:
        return h + self.outer(jax.nn.silu(self.inner(jax.nn.silu(h)) + self.told(embedding)))
