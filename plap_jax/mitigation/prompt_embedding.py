"""Prompt embedding: what the model is told is changed until the prompt pulls less (Wen et al., ICLR 2024)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.mitigation.base import Mitigation, Requirement, Sampled, counted, require_strength
from plap_jax.mitigation.descent import descend
from plap_jax.mitigation.embedding import row_of, tables_of, telling
from plap_jax.mitigation.gap import norm, unguided
from plap_jax.sampling import NO_CONDITION, Sampler
from plap_jax.typing import Array, ArrayLike, PRNGKey, require


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptEmbedding(Mitigation):
    """The embedding of the prompt is changed until the prompt hardly changes the first step, then told instead of it.

    min_e |g(x_T, e)|/√d by Adam from the prompt's own embedding, g = ε̂(x_T, e) − ε̂(x_T, ∅) at t_max, until it is at
    most ``target``.

    With flow matching g = α (v_c − v_∅), α = 1 − t_max, and targets are as much smaller.

    Wen et al. (ICLR 2024, arXiv 2407.21720), whose target is of |g|; here it is of its root mean square over the
    coordinates, so that images of different size have the same. A prompt below the target stays as it is. Needs
    prompts, derivatives, and a network that is told rows of a table: those of ``plap_jax.networks`` with captions, and
    text models, where all that their encoders say of the prompt is changed.

    Costs one evaluation, three for each step and three more (a derivative counts as two), then plain sampling.

    Args:
        sampler: DDIM, ProbabilityFlow or ReverseSDE.
        target: of |g|/√d, > 0.
        learning_rate: of Adam, > 0.
        max_steps: ≥ 1.

    Notes of a sample: ``gap_before`` and ``gap_after``, |g|/√d; ``prompt_steps``, steps taken.

    Raises:
        ValueError: an argument out of range.
    """

    sampler: Sampler = field(metadata={"static": True})
    target: ArrayLike = 0.1
    learning_rate: ArrayLike = 0.05
    max_steps: ArrayLike = 10
    needs: ClassVar[frozenset[Requirement]] = frozenset({"prompt", "derivatives"})

    def __post_init__(self) -> None:
        require_strength("target", self.target, lambda v: 0 < v < math.inf, "must be finite and > 0")
        require_strength("learning_rate", self.learning_rate, lambda v: 0 < v < math.inf, "must be finite and > 0")
        if isinstance(self.max_steps, int | float):
            whole = isinstance(self.max_steps, Integral) and self.max_steps >= 1
            require(whole, "max_steps", self.max_steps, "must be an integer >= 1")

    def check(self, diffusion: Diffusion, *, prompted: bool) -> None:
        """As of ``Mitigation``; also refuses a network without a table."""
        super().check(diffusion, prompted=prompted)
        tables_of(diffusion.network)

    def _sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
        plain, _ = unguided(diffusion)
        tables, rebuild = tables_of(plain.network)
        t = jnp.asarray(plain.schedule.t_max)
        without = plain.eps(start, t, jnp.asarray(NO_CONDITION))

        def gap(row: Any) -> Array:
            told = dataclasses.replace(plain, network=telling(rebuild, tables, row))
            return norm(told.eps(start, t, jnp.asarray(0)) - without) / math.sqrt(start.size)

        how = {"target": self.target, "learning_rate": self.learning_rate, "max_steps": self.max_steps}
        row, after, before, steps = descend(gap, row_of(tables, condition), **how)
        tables, rebuild = tables_of(diffusion.network)
        changed = dataclasses.replace(diffusion, network=telling(rebuild, tables, row))
        told = jnp.where(jnp.asarray(condition) == NO_CONDITION, NO_CONDITION, 0)
        image, spent = counted(self.sampler, changed, key, start, told)
        notes = {"gap_before": before, "gap_after": after, "prompt_steps": steps}
        return Sampled(image, (spent + 1 + 3 * (1 + steps)).astype(jnp.int32), notes)
