"""A trained model, with conversion of images to the space in which it is scored, and of texts to what it is told."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.diffusion import Diffusion
from plap_jax.parallel import map_points
from plap_jax.pretrained.kinds import Kind
from plap_jax.typing import Array, ArrayLike, require

log = logging.getLogger(__name__)
Without = Literal["unconditional", "empty prompt", "refused"]
Progress = Callable[[int, int], None] | bool
TEXT_BATCH = 8  # prompts at a time


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """What a network is told of texts.

    Args:
        rows: n texts → an array ``(n, …)``, or a tuple of several, in the order in which the network takes them.
        nothing: → the same with one row, of the empty prompt.
        cut: texts → (tokens that are taken, how many of the texts have more), for every length that some text exceeds.
    """

    rows: Callable[[Sequence[str]], Any]
    nothing: Callable[[], Any]
    cut: Callable[[Sequence[str]], list[tuple[int, int]]] = lambda texts: []

    def table(self, prompts: Sequence[str], size: int) -> Any:
        """What is told of the empty prompt, the prompts, then NaN rows up to size; each ``(1 + size, …)``."""
        parts = [self.nothing()]
        parts += [self.rows(prompts[i : i + TEXT_BATCH]) for i in range(0, len(prompts), TEXT_BATCH)]
        return jax.tree.map(lambda *rows: _filled(np.concatenate(rows), 1 + size), *parts)

    def cut_in_words(self, prompts: Sequence[str]) -> str:
        """How many prompts are longer than what the model takes; "" where none is."""
        found = self.cut(prompts) if prompts else []
        return "; ".join(f"{n} of {len(prompts)} prompts are cut at {length} tokens" for length, n in found)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    table = np.full((size, *rows.shape[1:]), np.nan, rows.dtype)
    table[: len(rows)] = rows
    return table


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
        without: what no condition is to the network: "unconditional", the pass without condition of classifier-free
            guidance; "empty prompt", a text like others, so that there is no κ^Δ; or "refused", a condition is needed.
        base: loads the same model without its LoRAs: the natural baseline. None where there are none.
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
    without: Without = "unconditional"
    base: Callable[[], Pretrained] | None = None
    sources: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the weights."""
        network, schedule = (type(one).__name__ for one in (self.diffusion.network, self.diffusion.schedule))
        of = f", of {self.kind} {self.shape}" if self.kind == "latents" else ""
        predicts = self.diffusion.prediction
        return f"Pretrained({network} for images {self.image_shape}{of}, {schedule}, predicts {predicts})"

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

    def with_prompts(self, prompts: Sequence[str], *, size: int | None = None, tell: bool = True) -> Pretrained:
        """The same model with other prompts, numbered from 0.

        Args:
            prompts: texts, cut to what the text encoders take (77 tokens for CLIP), as in generation; a warning says
                how many.
            size: capacity of the table. Tables of equal size share all compilations; numbers without a prompt give NaN.
                None: the number of prompts.
            tell: warn of prompts that are cut.

        Raises:
            ValueError: a model without prompts, prompts that are not texts, or more than ``size``.
        """
        require(self.text is not None, "prompts", tuple(prompts), "must be empty: this model has no prompts")
        many = not isinstance(prompts, str) and all(isinstance(prompt, str) for prompt in prompts)
        require(many, "prompts", prompts, "must be a sequence of texts")
        size = len(prompts) if size is None else size
        require(size >= len(prompts), "size", size, f"must be at least {len(prompts)}, the number of prompts")
        network = self.diffusion.network
        if tell and (cut := self.text.cut_in_words(prompts)):
            log.warning("  %s", cut)
        told = self.text.table(prompts, size)
        table = jax.tree.map(lambda rows, like: jnp.asarray(rows, like.dtype), told, network.embeddings)
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
