"""Models of data in other units than [−1, 1]: images on the way in, generated points on the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.typing import Array, require


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Affine:
    """One image or point ``(h, w, c)`` ↦ scale · x + shift, both of ``(c,)``, as a pytree.

    Args:
        scale, shift: of the channels.
    """

    scale: Array
    shift: Array

    def __call__(self, x: Array) -> Array:
        """The same image in other units."""
        return x * self.scale.astype(x.dtype) + self.shift.astype(x.dtype)


@dataclass(frozen=True, eq=False)
class Units:
    """What a model's space is: images in [−1, 1] times ``scale`` plus ``shift``, for each channel.

    Attributes:
        scale, shift: ``(c,)``.
    """

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, scale: float | Sequence[float], shift: float | Sequence[float], channels: int) -> Units:
        """Checked.

        Raises:
            ValueError: not one finite number, or one for each channel; a scale that is not > 0.
        """
        found = {}
        for name, value in (("scale", scale), ("shift", shift)):
            allowed = f"must be one finite number, or one for each of {channels} channels"
            try:
                array = np.asarray(value, np.float32)
            except (TypeError, ValueError):
                array = np.full(2, np.nan, np.float32)
            require(array.shape in ((), (channels,)) and bool(np.isfinite(array).all()), name, value, allowed)
            found[name] = np.broadcast_to(array, (channels,))
        require(bool((found["scale"] > 0).all()), "scale", scale, "must be > 0")
        return cls(**found)

    @property
    def encoder(self) -> Affine | None:
        """From [−1, 1] to the model's space; None where they are the same."""
        if (self.scale == 1).all() and (self.shift == 0).all():
            return None
        return Affine(jnp.asarray(self.scale), jnp.asarray(self.shift))

    @property
    def decoder(self) -> Affine | None:
        """And back."""
        if self.encoder is None:
            return None
        return Affine(jnp.asarray(1 / self.scale), jnp.asarray(-self.shift / self.scale))

    @property
    def unit(self) -> float:
        """How long one unit of [−1, 1] is in the model's space: the geometric mean over channels."""
        return float(np.exp(np.log(self.scale.astype(np.float64)).mean()))
