"""Random tokens: what the model is told of a prompt is partly replaced at random; the naive baseline."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.mitigation.base import Mitigation, Requirement, Sampled, counted, require_strength
from plap_jax.mitigation.embedding import row_of, tables_of, telling
from plap_jax.sampling import NO_CONDITION, Sampler
from plap_jax.typing import Array, ArrayLike, PRNGKey

TOKENS = 2**21  # folded into the key of a sample


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomTokens(Mitigation):
    """Each token of the prompt is replaced, with probability ``share``, by the same token of a random other prompt.

    After the random replacement of tokens in Somepalli et al. (NeurIPS 2023, arXiv 2305.20086), who replace those of
    the text. Here it is what the encoder says of a token, and the other prompts are those of the model's table, the
    empty one among them. A caption of a table is one token. What is told as a single vector of the whole prompt beside
    its tokens stays. Needs prompts, no derivatives, and a network that is told rows of a table, as ``PromptEmbedding``.

    Costs nothing beside plain sampling.

    Args:
        sampler: DDIM, ProbabilityFlow or ReverseSDE.
        share: in [0, 1].

    Notes of a sample: ``replaced``, the share of its tokens that were.

    Raises:
        ValueError: a share outside [0, 1].
    """

    sampler: Sampler = field(metadata={"static": True})
    share: ArrayLike = 0.2
    needs: ClassVar[frozenset[Requirement]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        require_strength("share", self.share, lambda v: 0 <= v <= 1, "must lie in [0, 1]")

    def check(self, diffusion: Diffusion, *, prompted: bool) -> None:
        """As of ``Mitigation``; also refuses a network without a table."""
        super().check(diffusion, prompted=prompted)
        tables_of(diffusion.network)

    def _sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
        tables, rebuild = tables_of(diffusion.network)
        condition = jnp.asarray(condition)
        keys = jax.random.split(jax.random.fold_in(key, TOKENS))
        leaves = jax.tree.leaves(tables)
        single = all(table.ndim == 2 for table in leaves)
        n_tokens = 1 if single else max(table.shape[1] for table in leaves if table.ndim > 2)
        # Rows beyond the prompts are NaN in text models: those are not among the others.
        known = jnp.isfinite(leaves[0]).reshape(len(leaves[0]), -1).all(axis=1)
        others = known & (jnp.arange(len(known)) != condition + 1)
        chosen = jax.random.categorical(keys[0], jnp.where(others, 0.0, -jnp.inf), shape=(n_tokens,))
        replaced = (jax.random.uniform(keys[1], (n_tokens,)) < self.share) & (condition != NO_CONDITION)

        def mixed(table: Array, own: Array) -> Array:
            if table.ndim == 2:
                return jnp.where(replaced[0], table[chosen[0]], own) if single else own
            length = table.shape[1]
            other = table[chosen[:length], jnp.arange(length)]
            return jnp.where(replaced[:length].reshape(-1, *(1,) * (own.ndim - 1)), other, own)

        row = jax.tree.map(mixed, tables, row_of(tables, condition))
        changed = dataclasses.replace(diffusion, network=telling(rebuild, tables, row))
        told = jnp.where(condition == NO_CONDITION, NO_CONDITION, 0)
        image, spent = counted(self.sampler, changed, key, start, told)
        return Sampled(image, spent, {"replaced": replaced.mean()})
