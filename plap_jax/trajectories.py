"""Flux along a generation: how early do the scores agree on one image? (Brokman et al., NeurIPS 2025 workshop)"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions, on_sphere, sample_directions
from plap_jax.operators import p_field
from plap_jax.sampling import NO_CONDITION, Trajectory
from plap_jax.typing import Array, ArrayLike, Estimate, PRNGKey, one_or_nan, require, require_order, standard_error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FluxAlong:
    """The flux density κ_p at every step of one generation, noisiest first; ``(N,)`` each, higher = more memorized.

    Attributes:
        unconditional: of the unconditional score s_∅.
        conditional: of the score given the prompt, s_c.
        gap: κ^Δ_p, of s_c − s_∅ = ∇ log q(c | x).
    """

    unconditional: Estimate
    conditional: Estimate
    gap: Estimate


def flux_along(
    diffusion: Diffusion,
    trajectory: Trajectory,
    prompt: ArrayLike,
    *,
    key: PRNGKey,
    n_samples: int = 16,
    directions: Directions = "iid",
    p: ArrayLike = 1.0,
) -> FluxAlong:
    """The flux density at every step of a generation: of the unconditional score, the conditional one, and their gap.

    κ_p(α_t x̂₀(x_t), σ_t√d) = −E_n[ |s|^{p−2} ⟨s, n⟩ ] at the level t of each step, for s = s_∅, s_c, s_c − s_∅.

    The centre is α_t x̂₀, the denoised prediction of the step scaled to its noise level. It is not x_t, around which
    even a perfect memorizer has only κ_1 ≈ 1/√2. The three share their network evaluations, two per direction and step.

    Args:
        diffusion: the model without guidance, whose network takes −1 for "no condition".
        trajectory: of one image, from ``DDIM.trajectory`` with or without guidance.
        prompt: the condition, an integer; −1 gives a gap of exactly 0.
        key: randomness; the same key gives all steps and all images the same directions.
        n_samples: directions per step.
        directions: see ``plap_jax.directions``.
        p: order, ≥ 1; may be traced.

    Returns:
        Estimates in the units of |s|^{p−1}, dtype of the states, float32 at least.

    Raises:
        ValueError: p < 1, a prompt that is not one integer, unknown directions, or an n_samples that does not fit them.
    """
    require_order(p)
    prompt = jnp.asarray(prompt)
    whole = prompt.ndim == 0 and jnp.issubdtype(prompt.dtype, jnp.integer)
    require(whole, "prompt", prompt, "must be a single integer, -1 for no prompt")
    shape, dtype = trajectory.denoised.shape[1:], trajectory.denoised.dtype
    vectors = sample_directions(key, n_samples, shape, directions, dtype)
    n = vectors.reshape(n_samples, *shape)
    prompts = jnp.stack([jnp.full_like(prompt, NO_CONDITION), prompt])

    def scores(x: Array, t: Array) -> Array:
        unconditional, conditional = jax.vmap(diffusion.score, in_axes=(None, None, 0))(x, t, prompts)
        # Two rows of a batch may round differently; without a prompt the gap is exactly 0.
        gap = jnp.where(prompt == NO_CONDITION, 0, conditional - unconditional)
        return jnp.stack([unconditional, conditional, gap])

    def at_step(step: tuple[Array, Array]) -> tuple[Array, Array]:
        t, x0 = step
        centre, radius = diffusion.ball(x0, t)
        s = jax.vmap(scores, in_axes=(0, None))(on_sphere(centre, radius, vectors), t)
        field, vanishes = p_field(s.reshape(n_samples, 3, -1), p)
        inward = -jnp.sum(field * n.reshape(n_samples, 1, -1).astype(field.dtype), axis=-1)
        return inward, jnp.sum(vanishes, axis=0)

    # Step by step: a batch of images is parallel enough, and memory stays that of one step.
    inward, n_zero = lax.map(at_step, (trajectory.times, trajectory.denoised))
    inward = jnp.moveaxis(inward, 1, 0) * jnp.asarray(one_or_nan(p), inward.dtype)  # (n_samples, N, 3)
    units = jnp.mean(inward.reshape(*vectors.shape[:2], *inward.shape[1:]), axis=1)
    value, stderr = jnp.mean(units, axis=0), standard_error(units)
    evaluations = (n_samples, n_samples, 2 * n_samples)
    return FluxAlong(*(Estimate(value[:, i], stderr[:, i], evaluations[i], len(units), n_zero[:, i]) for i in range(3)))
