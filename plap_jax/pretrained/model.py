"""Networks of a diffusers folder as pytrees for one point, channels last, with conversion to latents and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from plap_jax.diffusion import Diffusion
from plap_jax.parallel import map_points
from plap_jax.pretrained.kinds import Kind
from plap_jax.typing import Array, ArrayLike, require

Module = Callable[..., Array]  # a PyTorch module as a pytree: arrays with a batch axis, channels first
Progress = Callable[[int, int], None] | bool
TEXT_BATCH = 8  # prompts at a time


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
        predicted = self.unet(channels_first(x), jnp.reshape(level, (1,)))
        return channels_last(predicted)[..., : x.shape[-1]].astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextNetwork:
    """A ``UNet2DConditionModel`` applied to one latent with the prompt in row c: f(x, t, c).

    Args:
        unet: ``((1, C, h, w), (1,), (1, L, D)) -> (1, C, h, w)``.
        embeddings: ``(1 + n, L, D)``: the empty prompt, then prompts 0 … n−1. Data: another table of this size does
            not recompile.
    """

    unet: Module
    embeddings: Array

    def __call__(self, x: Array, level: ArrayLike, condition: ArrayLike | None = None) -> Array:
        """The prediction ``(h, w, C)``, the dtype of x.

        Args:
            x: latent ``(h, w, C)``.
            level: timestep, counted from 0.
            condition: number of a prompt; −1 or None is the empty prompt. A number beyond the table gives NaN.
        """
        row = jnp.asarray(-1 if condition is None else condition) + 1
        # NaN, not a neighbour's embedding, for a number beyond the table
        text = self.embeddings.at[row].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        predicted = self.unet(channels_first(x), jnp.reshape(level, (1,)), text[None])
        return channels_last(predicted).astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LatentEncoder:
    """Encoder to latents, deterministic: scaling · E[z | image], the mean of the VAE's posterior.

    Args:
        vae: ``(1, C, H, W)`` → means ``(1, c, h, w)``.
        scaling: the factor that gives latents about unit variance.
    """

    vae: Module
    scaling: float

    def __call__(self, image: Array) -> Array:
        """One image ``(H, W, C)`` in [−1, 1] → its latent ``(h, w, c)``."""
        return self.scaling * channels_last(self.vae(channels_first(image))).astype(image.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LatentDecoder:
    """Decoder to images: the VAE's image of latent/scaling, not clipped to [−1, 1]. Arguments as ``LatentEncoder``."""

    vae: Module
    scaling: float

    def __call__(self, latent: Array) -> Array:
        """One latent ``(h, w, c)`` → its image ``(H, W, C)``."""
        return channels_last(self.vae(channels_first(latent / self.scaling))).astype(latent.dtype)


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """CLIP text encoder: its last hidden states, which the U-Net attends to.

    Args:
        clip: token numbers ``(1, L)`` → ``(1, L, D)``.
        tokenize: n texts → token numbers ``(n, L)``, padded or cut to L.
    """

    clip: Module
    tokenize: Callable[[Sequence[str]], np.ndarray]

    def table(self, prompts: Sequence[str], size: int) -> np.ndarray:
        """Embeddings ``(1 + size, L, D)``: the empty prompt, the prompts, then NaN rows up to size."""
        texts = ["", *prompts]
        filled = texts + [""] * (-len(texts) % TEXT_BATCH)  # whole batches: one compilation for any number
        rows = map_points(Partial(_hidden_states, self.clip), self.tokenize(filled), batch_size=TEXT_BATCH)
        table = np.full((1 + size, *rows.shape[1:]), np.nan, rows.dtype)
        table[: len(texts)] = rows[: len(texts)]
        return table


def _hidden_states(clip: Module, tokens: Array) -> Array:
    return clip(tokens[None])[0]


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model, with conversion between images and the space in which it is scored.

    Attributes:
        diffusion: the model, one point of ``shape`` at a time, channels last.
        kind: "pixels", or "latents" if the model works on the latents of a VAE.
        shape: of the scored points: ``image_shape``, or ``(h, w, c)`` of latents.
        image_shape: ``(H, W, C)``, values in [−1, 1].
        prompts: condition k means the k-th; −1 and None the empty prompt.
        encoder, decoder: one image → one scored point and back, as pytrees; None for pixels in [−1, 1].
        text: the text encoder; None for pixels.
        n_conditions: number of prompts the network knows by number; None: it has none, or takes texts.
        unit: how long one unit of [−1, 1] is in the space of the points, where they are pixels in units of their own:
            noise levels that compare across models are meant relative to it.
        sources: (file, SHA-256) of what was read, for models of files.
        notes: what a reader of a report has to know of these files, in words.
    """

    diffusion: Diffusion
    kind: Kind
    shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    prompts: tuple[str, ...] = ()
    encoder: Callable[[Array], Array] | None = None
    decoder: Callable[[Array], Array] | None = None
    text: TextEncoder | None = None
    n_conditions: int | None = None
    unit: float = 1.0
    sources: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def encode(self, images: ArrayLike, *, batch_size: int = 8, progress: Progress = False) -> np.ndarray:
        """The points that detectors score: latents scaling · E[z | image], or the images themselves for pixels.

        Args:
            images: ``(n, *image_shape)`` in [−1, 1].
            batch_size: images at a time, which bounds the memory.
            progress: as in ``plap_jax.parallel.map_points``.

        Returns:
            ``(n, *shape)`` float32.

        Raises:
            ValueError: images of another shape, or not finite.
        """
        return self._mapped("images", images, self.image_shape, self.encoder, batch_size, progress)

    def decode(self, latents: ArrayLike, *, batch_size: int = 8, progress: Progress = False) -> np.ndarray:
        """Images of latents, e.g. generated ones; the latents themselves for pixels. Not clipped to [−1, 1].

        Args:
            latents: ``(n, *shape)``.
            batch_size, progress: as for ``encode``.

        Returns:
            ``(n, *image_shape)`` float32.

        Raises:
            ValueError: latents of another shape, or not finite.
        """
        return self._mapped("latents", latents, self.shape, self.decoder, batch_size, progress)

    def with_prompts(self, prompts: Sequence[str], *, size: int | None = None) -> Pretrained:
        """The same model with other prompts, numbered from 0.

        Args:
            prompts: texts, truncated to the text encoder's length (77 tokens for CLIP), as in generation.
            size: capacity of the table. Tables of equal size share all compilations; numbers without a prompt give NaN.
                None: the number of prompts.

        Raises:
            ValueError: a model without prompts, prompts that are not texts, or more than ``size``.
        """
        require(self.text is not None, "prompts", tuple(prompts), "must be empty: this model has no prompts")
        many = not isinstance(prompts, str) and all(isinstance(prompt, str) for prompt in prompts)
        require(many, "prompts", prompts, "must be a sequence of texts")
        size = len(prompts) if size is None else size
        require(size >= len(prompts), "size", size, f"must be at least {len(prompts)}, the number of prompts")
        network = self.diffusion.network
        table = jnp.asarray(self.text.table(prompts, size), network.embeddings.dtype)
        network = dataclasses.replace(network, embeddings=table)
        diffusion = dataclasses.replace(self.diffusion, network=network)
        return dataclasses.replace(self, diffusion=diffusion, prompts=tuple(prompts))

    def _mapped(
        self, name: str, values: ArrayLike, shape: tuple, fn: Any, batch_size: int, progress: Progress
    ) -> np.ndarray:
        values = np.asarray(values, np.float32)
        fits = values.ndim == 4 and values.shape[1:] == shape and len(values) > 0
        require(fits, name, values.shape, f"must have shape (n, {', '.join(map(str, shape))}), n >= 1")
        return values if fn is None else map_points(fn, values, batch_size=batch_size, progress=progress)
