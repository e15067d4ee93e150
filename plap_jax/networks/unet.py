"""A U-Net for images, conditioned on the noise level and a caption."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from plap_jax.networks.conditioned import Conditioned, linear
from plap_jax.networks.initial import lecun_normal, ones, zeros
from plap_jax.networks.tokens import attend, fold, unfold
from plap_jax.typing import Array, ArrayLike, accumulation_dtype, require

_EPSILON = 1e-5  # of group norm: keeps a constant channel finite


class UNet(Conditioned):
    """A U-Net for images: residual blocks down and up a pyramid of resolutions, with skip connections.

    h ← h + W₂ silu((1 + a) norm(W₁ silu(norm(h))) + b) with 3×3 convolutions W₁, W₂, group norm, and scale and shift
    (a, b) = V e from the embedding e of level and caption (Ho et al. 2020; Nichol & Dhariwal 2021). Level i has
    width · multipliers[i] channels at 1/(patch · 2^i) of the resolution. Between levels, and between image and top
    level, 2×2 (patch × patch) pixels are folded into channels and mixed: no pixel is lost, and nothing overlaps.

    The output layer starts at zero, so that an untrained network predicts 0 everywhere.

    Args:
        shape: (h, w, c) of one image; h and w divisible by patch · 2^(levels − 1).
        width: channels per unit of multiplier, ≥ 1.
        multipliers: one per level, from the full resolution down, each ≥ 1.
        n_blocks: residual blocks per level, down and up each, ≥ 1.
        attention: levels with self-attention after each block, counted as Python does: (-1,) is the lowest resolution.
        n_conditions: number of captions, or None for a network without.
        embed_dim: of the embedding of level and caption, even.
        groups: of the group norms; divides width · multiplier on each level.
        patch: side of the squares of pixels that are one pixel on the top level. Convolutions at the full resolution
            take most of the time and hold few of the parameters: a step with patch=2 takes a sixth on a CPU.
        dtype: of convolutions and attention: None for that of the input and the parameters, or "bfloat16". Parameters
            are float32; norms, softmax and the output layer are computed in float32 at least, whatever the dtype.
        rngs: ``nnx.Rngs``; the initial weights.

    Raises:
        ValueError: a size outside its range.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        n_blocks: int = 1,
        attention: Sequence[int] = (-1,),
        n_conditions: int | None = None,
        embed_dim: int = 64,
        groups: int = 8,
        patch: int = 1,
        dtype: Literal["bfloat16"] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        sizes = {"width": width, "multipliers": multipliers, "n_blocks": n_blocks, "attention": attention}
        others = {"groups": groups, "patch": patch, "dtype": dtype}
        super().__init__(shape, n_conditions, embed_dim, rngs, **sizes, **others)
        widths = _checked_widths(self.shape, width, multipliers, n_blocks, groups, patch)
        levels = range(len(widths))
        good = _are_integers(attention) and all(-len(widths) <= level < len(widths) for level in attention)
        require(good, "attention", attention, f"must hold levels in -{len(widths)} ... {len(widths) - 1}")
        require(dtype in (None, "bfloat16"), "dtype", dtype, 'must be None or "bfloat16"')
        attends = {level % len(widths) for level in attention}
        self.patch = patch
        channels = self.shape[2] * patch**2

        def block(n_in: int, level: int) -> _ConvBlock:
            return _ConvBlock(n_in, widths[level], embed_dim, groups, level in attends, dtype, rngs)

        self.first = _conv(channels, widths[0], rngs, dtype=dtype)
        self.down = nnx.List([nnx.List([block(widths[i], i) for _ in range(n_blocks)]) for i in levels])
        self.middle = block(widths[-1], levels[-1])
        self.up = nnx.List([nnx.List([block(2 * widths[i], i) for _ in range(n_blocks)]) for i in levels])
        steps = list(zip(widths[:-1], widths[1:], strict=True))
        self.coarser = nnx.List([linear(4 * fine, coarse, rngs, dtype=dtype) for fine, coarse in steps])
        self.finer = nnx.List([linear(coarse, 4 * fine, rngs, dtype=dtype) for fine, coarse in steps])
        self.norm = _GroupNorm(widths[0], groups, rngs)
        self.last = _conv(widths[0], channels, rngs, kernel_init=zeros)

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
        h, skipped = self.first(fold(x, self.patch)), []
        for i, blocks in enumerate(self.down):
            if i > 0:
                h = self.coarser[i - 1](fold(h, 2))
            for block in blocks:
                h = block(h, embedding)
                skipped.append(h)
        h = self.middle(h, embedding)
        for i in reversed(range(len(self.up))):
            for block in self.up[i]:
                h = block(jnp.concatenate([h, skipped.pop()], axis=-1), embedding)
            if i > 0:
                h = unfold(self.finer[i - 1](h), 2)
        h = h.astype(accumulation_dtype(h.dtype))
        return unfold(self.last(jax.nn.silu(self.norm(h))), self.patch)


class _ConvBlock(nnx.Module):
    """The residual block of ``UNet``, and self-attention h ← h + W softmax(q kᵀ/√width) v if requested."""

    def __init__(
        self, n_in: int, n_out: int, embed_dim: int, groups: int, attends: bool, dtype: str | None, rngs: nnx.Rngs
    ) -> None:
        self.before = _GroupNorm(n_in, groups, rngs)
        self.inner = _conv(n_in, n_out, rngs, dtype=dtype)
        self.between = _GroupNorm(n_out, groups, rngs, affine=False)  # its scale and shift come from the embedding
        self.told = linear(embed_dim, 2 * n_out, rngs)
        self.outer = _conv(n_out, n_out, rngs, dtype=dtype)
        self.shortcut = None if n_in == n_out else linear(n_in, n_out, rngs, dtype=dtype)
        self.attention = _Attention(n_out, groups, dtype, rngs) if attends else None

    def __call__(self, h: Array, embedding: Array) -> Array:
        scale, shift = jnp.split(self.told(embedding), 2)
        update = self.between(self.inner(jax.nn.silu(self.before(h))), 1 + scale, shift)
        h = (h if self.shortcut is None else self.shortcut(h)) + self.outer(jax.nn.silu(update))
        return h if self.attention is None else h + self.attention(h)


class _Attention(nnx.Module):
    def __init__(self, width: int, groups: int, dtype: str | None, rngs: nnx.Rngs) -> None:
        self.norm = _GroupNorm(width, groups, rngs)
        # no bias: the softmax does not see that of the keys
        self.project = linear(width, 3 * width, rngs, use_bias=False, dtype=dtype)
        self.out = linear(width, width, rngs, dtype=dtype)

    def __call__(self, h: Array) -> Array:
        tokens = self.norm(h).reshape(-1, h.shape[-1])
        query, key, value = jnp.split(self.project(tokens), 3, axis=-1)
        return self.out(attend(query, key, value)).reshape(h.shape)


class _GroupNorm(nnx.Module):
    """scale · (h − mean)/√(variance + ε) + shift, mean and variance over a group of channels at all pixels.

    Computed in float32 at least; the result has the dtype of h.
    """

    def __init__(self, width: int, groups: int, rngs: nnx.Rngs, affine: bool = True) -> None:
        self.groups = groups
        self.scale = nnx.Param(ones(rngs.params(), (width,))) if affine else None
        self.shift = nnx.Param(zeros(rngs.params(), (width,))) if affine else None

    def __call__(self, h: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        scale, shift = (scale, shift) if self.scale is None else (self.scale[...], self.shift[...])
        wide = h.astype(accumulation_dtype(h.dtype))
        centred = wide - self._mean(wide)
        return (centred * (scale * jax.lax.rsqrt(self._mean(jnp.square(centred)) + _EPSILON)) + shift).astype(h.dtype)

    def _mean(self, h: Array) -> Array:
        """Over pixels first, channels side by side in memory; then over a group, of which each channel gets a copy."""
        mean = jnp.mean(h, axis=(0, 1)).reshape(self.groups, -1)
        return jnp.broadcast_to(jnp.mean(mean, axis=1, keepdims=True), mean.shape).reshape(-1)


def _conv(n_in: int, n_out: int, rngs: nnx.Rngs, **kwargs) -> nnx.Conv:
    return nnx.Conv(n_in, n_out, (3, 3), **{"kernel_init": lecun_normal, "bias_init": zeros, **kwargs}, rngs=rngs)


def _checked_widths(
    shape: tuple[int, ...], width: int, multipliers: Sequence[int], n_blocks: int, groups: int, patch: int
) -> list[int]:
    """Channels per level."""
    require(len(shape) == 3, "shape", shape, "must be (h, w, c)")
    require(width >= 1, "width", width, "must be >= 1")
    good = _are_integers(multipliers) and len(multipliers) >= 1 and min(multipliers) >= 1
    require(good, "multipliers", multipliers, "must hold an integer >= 1 for each level")
    require(n_blocks >= 1, "n_blocks", n_blocks, "must be >= 1")
    require(patch >= 1, "patch", patch, "must be >= 1")
    factor = patch * 2 ** (len(multipliers) - 1)
    allowed = (
        f"h and w must be divisible by {factor} = patch * 2^(levels - 1), patch={patch}, {len(multipliers)} levels"
    )
    require(all(size % factor == 0 for size in shape[:2]), "shape", shape, allowed)
    widths = [width * m for m in multipliers]
    good = groups >= 1 and all(w % groups == 0 for w in widths)
    require(good, "groups", groups, f"must be >= 1 and divide the channels of each level, {widths}")
    return widths


def _are_integers(values: object) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, Integral) for value in values)
