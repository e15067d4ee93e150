"""Classifier-free guidance: a network pulled towards its condition more, or less, than it was trained to be."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, ArrayLike, at_least_float32, require_scalar

NO_CONDITION = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guided:
    """A network with classifier-free guidance.

    f(x, ℓ, ∅) + g (f(x, ℓ, c) − f(x, ℓ, ∅)), ∅ = −1 with scale g (Ho & Salimans 2022, with g = 1 + w).

    g = 0 is the unconditional model, g = 1 the conditional one, g > 1 sharper than that. The weights 1 − g and g sum to
    one, and at a given x_t the noise, x₀, v and score are affine in each other: whatever the network predicts, this
    combines the scores, s_∅ + g (s_c − s_∅).

    A pytree: network and guidance are data, so that another scale does not recompile.

    Args:
        network: a callable pytree ``(x, level, condition) -> prediction`` with −1 for "no condition".
        guidance: g, a scalar, no unit.
    """

    network: Any
    guidance: ArrayLike

    def __call__(self, x: Array, level: ArrayLike, condition: ArrayLike | None = None) -> Array:
        """The guided prediction at one point, ``(*shape)``; without a condition the unconditional one."""
        if condition is None:
            return self.network(x, level, None)
        # One call for both, to share what does not depend on the condition.
        both = jnp.stack([jnp.full_like(condition, NO_CONDITION), jnp.asarray(condition)])
        # In float32 at least: the gap is small compared with the two predictions.
        unconditional, conditional = at_least_float32(jax.vmap(self.network, in_axes=(None, None, 0))(x, level, both))
        return unconditional + jnp.asarray(self.guidance, conditional.dtype) * (conditional - unconditional)


def guided(diffusion: Diffusion, guidance: ArrayLike) -> Diffusion:
    """The same model with classifier-free guidance.

    Args:
        diffusion: a model whose network takes −1 for "no condition".
        guidance: g, any finite scalar: 0 unconditional, 1 conditional.

    Raises:
        ValueError: guidance (known, not traced) that is not one finite number.
    """
    require_scalar("guidance", guidance, math.isfinite, "must be a single finite number")
    network = Guided(diffusion.network, jnp.asarray(guidance, jnp.result_type(float)))
    return dataclasses.replace(diffusion, network=network)
