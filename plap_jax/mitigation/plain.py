"""No mitigation at all, by the same signature: what the methods are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from plap_jax.diffusion import Diffusion
from plap_jax.mitigation.base import Mitigation, Sampled, counted
from plap_jax.sampling import Sampler
from plap_jax.typing import Array, PRNGKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unmitigated(Mitigation):
    """Plain sampling, with its evaluations counted: the samples of the sampler itself.

    Args:
        sampler: DDIM, ProbabilityFlow or ReverseSDE.
    """

    sampler: Sampler = field(metadata={"static": True})

    def _sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
        return Sampled(*counted(self.sampler, diffusion, key, start, condition), {})
