"""Initial noise by sharpness: SAIL (Jeon et al., ICML 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.mitigation.gap import gap_at_start, norm
from plap_jax.mitigation.initial_noise import InitialNoise
from plap_jax.sampling import Sampler
from plap_jax.typing import Array, ArrayLike

WEIGHT = 0.05  # of |x|, which keeps the noise from growing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SharpNoise(InitialNoise):
    """The initial noise is moved to where the prompt makes the density less sharp, then sampled from as usual.

    L(x_T) = (|s_Δ(x + s_Δ/|s_Δ|)| + .05 |x|)/√d, s_Δ = s(· | c) − s at t_max; Adam until L is at most ``threshold``, at
    most ``max_steps`` steps, ``candidates`` draws.

    SAIL of Jeon et al. (ICML 2025, arXiv 2412.04140), whose L is not divided by √d: their threshold of 8.2 for latents
    of 4 × 64 × 64 is .064 here. Their published code steps along ε̂(c) − ε̂(∅), against s_Δ, and draws again until enough
    noises are below the threshold. As |x| ≈ √d, L starts above .05; it falls below by making the noise smaller, and at
    few coordinates some draws are below by chance, so that each size and model needs its own threshold. Needs prompts
    and derivatives.

    Costs 12 evaluations for each step and each candidate tried (four, and a derivative of each), then plain sampling.

    Args:
        sampler: DDIM, ProbabilityFlow or ReverseSDE.
        threshold: of L, > 0.
        learning_rate: of Adam, > 0.
        max_steps: for each candidate, ≥ 1.
        candidates: draws of the initial noise, ≥ 1.

    Notes of a sample: ``loss_before``, ``loss_after``, L at its own noise and at the one taken; ``noise_steps``, of all
    candidates; ``candidates`` tried.

    Raises:
        ValueError: an argument out of range.
    """

    sampler: Sampler = field(metadata={"static": True})
    threshold: ArrayLike = 0.064
    learning_rate: ArrayLike = 0.05
    max_steps: ArrayLike = 10
    candidates: ArrayLike = 4
    evaluations: ClassVar[int] = 4

    def loss(self, plain: Diffusion, x: Array, condition: ArrayLike) -> Array:
        """L, from two pairs of evaluations."""
        sigma = plain.schedule.sigma(jnp.asarray(plain.schedule.t_max)).astype(x.dtype)
        pull = -gap_at_start(plain, x, condition) / sigma
        size = norm(pull)
        ahead = x + pull / jnp.where(size == 0, 1, size)
        return (norm(gap_at_start(plain, ahead, condition)) / sigma + WEIGHT * norm(x)) / math.sqrt(x.size)
