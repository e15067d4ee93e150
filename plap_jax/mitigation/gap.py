"""The gap g = ε̂(c) − ε̂(∅) between what a model predicts with and without the prompt, from one pair of evaluations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.sampling import NO_CONDITION, Guided
from plap_jax.typing import Array, ArrayLike


def unguided(diffusion: Diffusion) -> tuple[Diffusion, ArrayLike]:
    """The model without its guidance, and the guidance scale; (the model itself, 1) where it has none."""
    network = diffusion.network
    if not isinstance(network, Guided):
        return diffusion, 1.0
    return dataclasses.replace(diffusion, network=network.network), network.guidance


def both_outputs(plain: Diffusion, x: Array, t: ArrayLike, condition: ArrayLike) -> tuple[Array, Array]:
    """What the network says without and with the prompt, ``(*shape)`` each; two evaluations, asked for at once."""
    condition = jnp.asarray(condition)
    conditions = jnp.stack([jnp.full_like(condition, NO_CONDITION), condition])
    without, told = jax.vmap(plain.output, in_axes=(None, None, 0))(x, t, conditions)
    return without, told


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Known:
    """A network whose answer is known already."""

    output: Array

    def __call__(self, x: Array, level: ArrayLike, condition: Any = None) -> Array:
        """The answer."""
        return self.output


def answering(plain: Diffusion, output: Array) -> Diffusion:
    """The same model with this answer of its network, for conversions that ask it nothing."""
    return dataclasses.replace(plain, network=Known(output))


def gap_of(plain: Diffusion, x: Array, t: ArrayLike, outputs: tuple[Array, Array]) -> Array:
    """g = ε̂(c) − ε̂(∅) from ``both_outputs``, ``(*shape)``, whatever the network predicts."""
    without, told = (answering(plain, output).eps(x, t) for output in outputs)
    return told - without


def gap_at_start(plain: Diffusion, x: Array, condition: ArrayLike) -> Array:
    """g at t_max, two evaluations."""
    t = jnp.asarray(plain.schedule.t_max)
    return gap_of(plain, x, t, both_outputs(plain, x, t, condition))


def norm(x: Array) -> Array:
    """|x| over all coordinates, with derivative 0 at x = 0."""
    squares = jnp.sum(jnp.square(x))
    return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))
