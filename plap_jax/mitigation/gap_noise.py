"""Initial noise by the size of the gap (Han et al., NeurIPS 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import jax

from plap_jax.diffusion import Diffusion
from plap_jax.mitigation.gap import gap_at_start, norm
from plap_jax.mitigation.initial_noise import InitialNoise
from plap_jax.sampling import Sampler
from plap_jax.typing import Array, ArrayLike


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GapNoise(InitialNoise):
    """The initial noise is moved to where the prompt changes the first step less, then sampled from as usual.

    min |g(x_T)|/√d, g = ε̂(c) − ε̂(∅) at t_max, by Adam until it is at most ``threshold``.

    After the per-sample method of Han et al. (NeurIPS 2025, arXiv 2510.08625), which reduces |g| at x_T so that the
    sample leaves the basin of a memorized image earlier; theirs takes the step of sharpness-aware minimization, this is
    plain descent. Needs prompts and derivatives.

    Costs six evaluations for each step and each candidate tried (two, and a derivative of each), then plain sampling.

    Args:
        sampler: DDIM, ProbabilityFlow or ReverseSDE.
        threshold: of |g|/√d, > 0.
        learning_rate, max_steps, candidates: as for ``SharpNoise``.

    Notes of a sample: as of ``SharpNoise``.

    Raises:
        ValueError: an argument out of range.
    """

    sampler: Sampler = field(metadata={"static": True})
    threshold: ArrayLike = 0.1
    learning_rate: ArrayLike = 0.05
    max_steps: ArrayLike = 10
    candidates: ArrayLike = 1
    evaluations: ClassVar[int] = 2

    def loss(self, plain: Diffusion, x: Array, condition: ArrayLike) -> Array:
        """|g|/√d."""
        return norm(gap_at_start(plain, x, condition)) / math.sqrt(x.size)
