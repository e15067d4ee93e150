"""Late guidance: classifier-free guidance only once the prompt has let go (Jain et al., CVPR 2025)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.mitigation.base import Mitigation, Requirement, Sampled, require_strength
from plap_jax.mitigation.gap import answering, both_outputs, gap_of, norm, unguided
from plap_jax.mitigation.walk import n_nodes_of, require_nodes, walk_of
from plap_jax.sampling import Guided, Sampler
from plap_jax.typing import Array, ArrayLike, PRNGKey, require


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LateGuidance(Mitigation):
    """No guidance while the prompt pulls ever less, then all of it.

    ε̂(∅) + w_i g_i, g_i = ε̂(c) − ε̂(∅) at node i; w_i = ``early`` until |g| has its first local minimum, |g_i| >
    |g_{i−1}| for the first time, and from node i on the scale of the model's guidance.

    Jain et al. (CVPR 2025, arXiv 2411.16738): with a memorized prompt |g| is large early, in an attraction basin that
    guidance would keep the sample in, and falls when the basin has been left. Where |g| rises from the start, guidance
    begins at the second node. Needs a prompt; without guidance, or at scale 1 with early = 1, it changes nothing.

    Costs two evaluations at each step, as plain sampling with guidance. ``ProbabilityFlow`` and ``ReverseSDE`` are
    looked at between their steps, two evaluations more at each node.

    Args:
        sampler: DDIM, looked at at each step; or ProbabilityFlow or ReverseSDE, looked at at each of ``nodes``.
        early: guidance until then; 1: the conditional score, 0: the unconditional one, negative: away from the prompt,
            as their opposite guidance.
        until: instead of the minimum, the share of the nodes until which ``early`` is taken, in [0, 1]; the paper's
            static transition point.
        nodes: of ProbabilityFlow and ReverseSDE, ≥ 2, at equal steps of log(α²/σ²).

    Notes of a sample: ``late_from``, the node from which guidance is full, n nodes if never; ``gap_first``, |g| at the
    first node.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> model = guided(model_with_captions, 7.5)
        >>> sample(model, key, 16, shape=(32, 32, 3), sampler=LateGuidance(DDIM(50)), conditions=np.arange(16))
    """

    sampler: Sampler = field(metadata={"static": True})
    early: ArrayLike = 1.0
    until: ArrayLike | None = None
    nodes: int = field(default=25, metadata={"static": True})
    needs: ClassVar[frozenset[Requirement]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        require_nodes(self.nodes)
        require_strength("early", self.early, math.isfinite, "must be a finite number")
        if self.until is not None:
            require_strength("until", self.until, lambda v: 0 <= v <= 1, "must lie in [0, 1], or be None")

    def _sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
        require(condition is not None, "conditions", None, "LateGuidance needs a prompt for each sample")
        return _generate(self.sampler, self.nodes, self.early, self.until, diffusion, key, start, condition)


@partial(jax.jit, static_argnums=(0, 1))
def _generate(
    sampler: Sampler,
    nodes: int,
    early: ArrayLike,
    until: ArrayLike | None,
    diffusion: Diffusion,
    key: PRNGKey,
    start: Array,
    condition: Any,
) -> Sampled:
    plain, scale = unguided(diffusion)
    walk = walk_of(sampler, diffusion.schedule, start.dtype, nodes)
    n, times = n_nodes_of(sampler, nodes), walk.times

    def one(state: tuple, i: Array) -> tuple[tuple, Array]:
        x, before, late, spent = state
        outputs = both_outputs(plain, x, times[i], condition)
        size = norm(gap_of(plain, x, times[i], outputs))
        late = late | (size > before if until is None else i >= until * n)
        weight = jnp.where(late, scale, early).astype(x.dtype)
        if walk.look_takes_step:
            without, told = outputs
            # At 1 exactly the conditional answer, which the sum below would round.
            output = jnp.where(weight == 1, told, without + weight * (told - without))
            x, _ = walk.move(answering(plain, output), key, x, i, condition)
            asked = 0
        else:
            pulled = dataclasses.replace(plain, network=Guided(plain.network, weight))
            x, asked = walk.move(pulled, key, x, i, condition)
        return (x, size, late, spent + 2 * (1 + asked)), (size, late)

    first = (start, jnp.asarray(jnp.inf, start.dtype), jnp.asarray(False), jnp.asarray(0))
    (x, _, late, spent), (sizes, lates) = jax.lax.scan(one, first, jnp.arange(walk.n_moves))
    weight = jnp.where(late, scale, early).astype(x.dtype)
    pulled = dataclasses.replace(plain, network=Guided(plain.network, weight))
    image, asked = walk.finish(pulled, x, condition)
    since = jnp.where(jnp.any(lates), jnp.argmax(lates), n)
    notes = {"late_from": since.astype(jnp.int32), "gap_first": sizes[0]}
    return Sampled(image, (spent + 2 * asked).astype(jnp.int32), notes)
