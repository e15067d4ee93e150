"""A transformer for images, conditioned on the noise level and a caption by adaptive norms."""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from plap_jax.networks.conditioned import Conditioned, linear
from plap_jax.networks.initial import zeros
from plap_jax.networks.tokens import attend, fold, unfold
from plap_jax.typing import Array, ArrayLike, accumulation_dtype, require

_EPSILON = 1e-6  # of the norms: keeps a constant token finite
_LONGEST = 10_000  # wavelength of the positions, in tokens and over 2π


class DiT(Conditioned):
    """A transformer for images: squares of pixels as tokens, and norms that are told noise level and caption.

    h ← h + g₁ attention((1 + a₁) norm(h) + b₁), h ← h + g₂ W₂ gelu(W₁ ((1 + a₂) norm(h) + b₂)), ``depth`` times, with
    shifts, scales and gates (a, b, g) = V e from the embedding e of level and caption (Peebles & Xie 2023, adaLN-Zero).

    The V start at zero, so that every block starts as the identity; so does the output layer, so that an untrained
    network predicts 0 everywhere. Positions are fixed sines and cosines of row and column.

    Args:
        shape: (h, w, c) of one image; h and w divisible by patch.
        width: channels of a token, ≥ 4, divisible by 4 and by heads.
        depth: number of blocks, ≥ 1.
        heads: of the attention, ≥ 1.
        mlp_ratio: inner width of the two-layer network of a block, in units of width, ≥ 1.
        n_conditions: number of captions, or None for a network without.
        embed_dim: of the embedding of level and caption, even.
        patch: side of the squares of pixels that are one token, ≥ 1; attention costs the square of their number.
        dtype: of the blocks' products: None for that of the input and the parameters, or "bfloat16". Parameters are
            float32; norms, softmax, the sum h and the output layer are computed in float32 at least.
        rngs: ``nnx.Rngs``; the initial weights.

    Raises:
        ValueError: a size outside its range.

    Example:
        >>> network = DiT((8, 8, 1), width=64, depth=4, rngs=nnx.Rngs(0))
        >>> model = Diffusion(network, RectifiedFlow(), "flow", data_std=0.5, conditioning="log_snr")
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 4,
        n_conditions: int | None = None,
        embed_dim: int = 64,
        patch: int = 2,
        dtype: Literal["bfloat16"] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        sizes = {"width": width, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio, "patch": patch}
        super().__init__(shape, n_conditions, embed_dim, rngs, **sizes, dtype=dtype)
        for name, value in sizes.items():
            require(isinstance(value, Integral) and value >= 1, name, value, "must be an integer >= 1")
        require(len(self.shape) == 3, "shape", self.shape, "must be (h, w, c)")
        fits = all(size % patch == 0 for size in self.shape[:2])
        require(fits, "shape", self.shape, f"h and w must be divisible by patch={patch}")
        require(width % 4 == 0, "width", width, "must be divisible by 4: sines and cosines of row and column")
        require(width % heads == 0, "width", width, f"must be divisible by heads={heads}")
        require(dtype in (None, "bfloat16"), "dtype", dtype, 'must be None or "bfloat16"')
        self.patch = patch
        channels = self.shape[2] * patch**2
        self.first = linear(channels, width, rngs)
        self.blocks = nnx.List([_Block(width, heads, mlp_ratio, embed_dim, dtype, rngs) for _ in range(depth)])
        self.told = linear(embed_dim, 2 * width, rngs, kernel_init=zeros)
        self.last = linear(width, channels, rngs, kernel_init=zeros)

    def __call__(self, x: Array, level: ArrayLike, condition: ArrayLike | None = None) -> Array:
        """The prediction at one image.

        Args:
            x: ``(h, w, c)``, of unit scale.
            level: scalar, log(α²/σ²).
            condition: the caption's number, 0 … n_conditions−1; None or −1 for no caption.

        Returns:
            ``(h, w, c)``, float32 or wider, as ``x``.

        Raises:
            ValueError: x of another shape, or a condition where the network has none.
        """
        embedding = self.embedding(x, level, condition)
        tokens = fold(x.astype(accumulation_dtype(x.dtype)), self.patch)
        rows, columns, channels = tokens.shape
        h = self.first(tokens.reshape(-1, channels))
        h = h + jnp.asarray(positions(rows, columns, h.shape[-1]), h.dtype)
        for block in self.blocks:
            h = block(h, embedding)
        h = _told(h, *jnp.split(self.told(embedding), 2))
        return unfold(self.last(h).reshape(rows, columns, channels), self.patch)


class _Block(nnx.Module):
    """One block of ``DiT``: attention between tokens, then two layers at each, both gated."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, embed_dim: int, dtype: str | None, rngs: nnx.Rngs
    ) -> None:
        layer = partial(linear, rngs=rngs, dtype=dtype)
        self.heads = heads
        self.told = linear(embed_dim, 6 * width, rngs, kernel_init=zeros)
        # no bias: the softmax does not see that of the keys
        self.project = layer(width, 3 * width, use_bias=False)
        self.out = layer(width, width)
        self.inner = layer(width, mlp_ratio * width)
        self.outer = layer(mlp_ratio * width, width)

    def __call__(self, h: Array, embedding: Array) -> Array:
        scale, shift, gate, scale_2, shift_2, gate_2 = jnp.split(self.told(embedding), 6)
        h = h + gate * self._attention(_told(h, scale, shift))
        return h + gate_2 * self.outer(jax.nn.gelu(self.inner(_told(h, scale_2, shift_2))))

    def _attention(self, tokens: Array) -> Array:
        def split(each: Array) -> Array:
            return each.reshape(len(each), self.heads, -1).swapaxes(0, 1)

        query, key, value = (split(each) for each in jnp.split(self.project(tokens), 3, axis=-1))
        return self.out(attend(query, key, value).swapaxes(0, 1).reshape(tokens.shape))


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Positions of tokens, ``(rows · columns, width)``: sines and cosines of the row, then those of the column.

    sin(i/λ_k), cos(i/λ_k), λ_k = 10⁴ ^ (k/(width/4)), k < width/4, as in the paper.

    Args:
        rows, columns: tokens down and across.
        width: divisible by 4.
    """
    wavelengths = _LONGEST ** (np.arange(width // 4) / (width // 4))

    def along(index: np.ndarray) -> np.ndarray:
        angle = index.reshape(-1, 1) / wavelengths
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    row, column = np.indices((rows, columns))
    return np.concatenate([along(row), along(column)], axis=1)


def _told(h: Array, scale: Array, shift: Array) -> Array:
    """(1 + scale) (h − mean)/√(variance + ε) + shift, per token."""
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + _EPSILON)
    return (1 + scale) * normed + shift
