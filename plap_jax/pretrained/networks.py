"""Networks of a diffusers folder as pytrees for one point, channels last; encoder to latents and decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from plap_jax.typing import Array, ArrayLike, concrete, require

Module = Callable[..., Array]  # a PyTorch module as a pytree: arrays with a batch axis, channels first


def channels_first(x: Array) -> Array:
    """(H, W, C) → (1, C, H, W): one point as a PyTorch batch."""
    return jnp.transpose(x, (2, 0, 1))[None]


def channels_last(x: Array) -> Array:
    """(1, C, H, W) → (H, W, C)."""
    return jnp.transpose(x[0], (1, 2, 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PixelNetwork:
    """A ``UNet2DModel`` applied to one image: f(x, t).

    Args:
        unet: ``((1, C, H, W), (1,)) -> (1, C', H, W)``; if C' > C, the first C channels are the prediction and
            the rest a learned variance, which only generation uses.
    """

    unet: Module

    def __call__(self, x: Array, level: ArrayLike, condition: None = None) -> Array:
        """The prediction ``(H, W, C)``, the dtype of x; level is the timestep, counted from 0.

        Raises:
            ValueError: a condition.
        """
        require(condition is None, "condition", condition, "must be None: this model has no prompts")
        return _prediction(self.unet(channels_first(x), jnp.reshape(level, (1,))), x)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassNetwork:
    """A ``UNet2DModel`` of classes, or a DiT, applied to one image or latent: f(x, t, c).

    Args:
        network: ``((1, C, H, W), (1,), (1, 1)) -> (1, C', H, W)``, as for ``PixelNetwork``; the last is a class.
        n_classes: numbered from 0.
        nothing: the class that stands for no condition; None: there is none.
    """

    network: Module
    n_classes: int = field(metadata={"static": True})
    nothing: int | None = field(default=None, metadata={"static": True})

    def __call__(self, x: Array, level: ArrayLike, condition: ArrayLike | None = None) -> Array:
        """The prediction ``(H, W, C)``, the dtype of x.

        Args:
            x: ``(H, W, C)``.
            level: timestep, counted from 0.
            condition: a class; −1 or None for no condition, where the network knows that. A number beyond the classes
                gives NaN.

        Raises:
            ValueError: no condition (known, not traced), and a network that needs a class.
        """
        allowed = f"must be a class, 0 to {self.n_classes - 1}: this network knows no image without one"
        known = None if condition is None else concrete(condition)
        missing = condition is None or (known is not None and int(known) == -1)
        require(not missing or self.nothing is not None, "condition", None, allowed)
        number = jnp.asarray(-1 if condition is None else condition, jnp.int32)
        fits = (number >= (-1 if self.nothing is not None else 0)) & (number < self.n_classes)
        told = jnp.where(number < 0, self.nothing or 0, jnp.clip(number, 0, self.n_classes - 1))
        predicted = self.network(channels_first(x), jnp.reshape(level, (1,)), jnp.reshape(told, (1, 1)))
        return _prediction(predicted, x) * jnp.where(fits, 1, jnp.nan).astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextNetwork:
    """A network that is told a text, applied to one latent with the prompt in row c: f(x, t, c).

    Args:
        unet: ``((1, C, h, w), (1,), rows …) -> (1, C', h, w)``; C' as for ``PixelNetwork``.
        embeddings: what is told of the empty prompt, then of prompts 0 … n−1: an array ``(1 + n, L, D)``, or several
            with as many rows, in the order in which the network takes them. Data: another table of this size does not
            recompile.
        time_scale: the network is told time_scale · t.
    """

    unet: Module
    embeddings: Any
    time_scale: float = field(default=1.0, metadata={"static": True})

    def __call__(self, x: Array, level: ArrayLike, condition: ArrayLike | None = None) -> Array:
        """The prediction ``(h, w, C)``, the dtype of x.

        Args:
            x: latent ``(h, w, C)``.
            level: time of the schedule: a timestep, counted from 0, or t of flow matching.
            condition: number of a prompt; −1 or None is the empty prompt. A number beyond the table gives NaN.
        """
        row = jnp.asarray(-1 if condition is None else condition) + 1
        # NaN, not a neighbour's embedding, for a number beyond the table
        how = {"mode": "fill", "fill_value": jnp.nan, "wrap_negative_indices": False}
        told = [table.at[row].get(**how)[None] for table in jax.tree.leaves(self.embeddings)]
        level = level if self.time_scale == 1 else self.time_scale * level
        return _prediction(self.unet(channels_first(x), jnp.reshape(level, (1,)), *told), x)


def _prediction(output: Array, x: Array) -> Array:
    """The first channels of the output, as many as x has; a learned variance may follow."""
    return channels_last(output)[..., : x.shape[-1]].astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LatentEncoder:
    """Encoder to latents, deterministic: scaling · (E[z | image] − shift), the mean of the VAE's posterior.

    Args:
        vae: ``(1, C, H, W)`` → means ``(1, c, h, w)``.
        scaling, shift: they give latents of about mean 0 and variance 1.
    """

    vae: Module
    scaling: float
    shift: float = 0.0

    def __call__(self, image: Array) -> Array:
        """One image ``(H, W, C)`` in [−1, 1] → its latent ``(h, w, c)``."""
        return self.scaling * (channels_last(self.vae(channels_first(image))).astype(image.dtype) - self.shift)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LatentDecoder:
    """Decoder to images: the VAE's image of latent/scaling + shift, not clipped to [−1, 1].

    Arguments as ``LatentEncoder``.
    """

    vae: Module
    scaling: float
    shift: float = 0.0

    def __call__(self, latent: Array) -> Array:
        """One latent ``(h, w, c)`` → its image ``(H, W, C)``."""
        return channels_last(self.vae(channels_first(latent / self.scaling + self.shift))).astype(latent.dtype)
