"""What all networks share: the shape of a point, and the embedding of noise level and caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

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
    """Sinusoidal embedding of the noise level.

    (cos(2π level/λ_i), sin(2π level/λ_i)), λ_i geometric from 4 to 40.

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


class Conditioned(nnx.Module):
    """Base class of the networks, with the embedding e = silu(U [cos(level), sin(level)] + caption).

    Args:
        shape: shape of one point.
        n_conditions: number of captions, or None for a network without.
        embed_dim: of e, even.
        rngs: ``nnx.Rngs``; the initial weights.
        others: further arguments of the network, for ``arguments``.

    Raises:
        ValueError: a size outside its range.
    """

    def __init__(
        self, shape: tuple[int, ...], n_conditions: int | None, embed_dim: int, rngs: nnx.Rngs, **others: Any
    ) -> None:
        shape = tuple(int(n) for n in shape)
        require(all(n >= 1 for n in shape), "shape", shape, "must hold positive sizes")
        require(n_conditions is None or n_conditions >= 1, "n_conditions", n_conditions, "must be >= 1, or None")
        require(embed_dim >= 2 and embed_dim % 2 == 0, "embed_dim", embed_dim, "must be even and >= 2")
        self.shape = shape
        self.embed_dim = embed_dim
        given = {"shape": shape, "n_conditions": n_conditions, "embed_dim": embed_dim, **others}
        self._arguments = tuple((name, _plain(value)) for name, value in given.items())  # hashed by jit, so no dict
        self.embed = linear(embed_dim, embed_dim, rngs)
        self.captions = None if n_conditions is None else _Captions(n_conditions, embed_dim, rngs)

    @property
    def arguments(self) -> dict[str, Any]:
        """What makes a network of the same architecture, beside ``rngs``: numbers, names, and tuples of numbers."""
        return dict(self._arguments)

    def embedding(self, x: Array, level: ArrayLike, condition: ArrayLike | None) -> Array:
        """The embedding e, ``(embed_dim,)``, float32 at least; checks the network's arguments.

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
        return jax.nn.silu(embedding)


class _Captions(nnx.Module):
    def __init__(self, n_conditions: int, embed_dim: int, rngs: nnx.Rngs) -> None:
        # the first row stands for "no caption", number −1
        self.table = nnx.Param(unit_normal(rngs.params(), (n_conditions + 1, embed_dim)))

    def __call__(self, condition: ArrayLike | None) -> Array:
        row = jnp.asarray(-1 if condition is None else condition) + 1
        # NaN, not a neighbour's embedding, for a number beyond the table
        return self.table[...].at[row].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _plain(value: Any) -> Any:
    """Python's own integers and tuples of them; anything else as it is."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(v) for v in value)
    return int(value) if isinstance(value, Integral) else value


def linear(n_in: int, n_out: int, rngs: nnx.Rngs, **kwargs) -> nnx.Linear:
    """A dense layer with weights from ``plap_jax.networks.initial``; other arguments as ``nnx.Linear``."""
    return nnx.Linear(n_in, n_out, **{"kernel_init": lecun_normal, "bias_init": zeros, **kwargs}, rngs=rngs)
