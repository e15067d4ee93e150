"""A generation as a walk over nodes, at which a method may look at it and change it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.sampling import DDIM, ProbabilityFlow, ReverseSDE, Sampler
from plap_jax.sampling.clock import ends, time_at_log_snr
from plap_jax.sampling.ddim import Levels, levels_of, step
from plap_jax.typing import Array, PRNGKey, require


class Walk(Protocol):
    """The nodes 0 … n − 1 of a generation, from t_max to t_min, and how it gets from one to the next.

    ``look_takes_step``: x̂₀ at a node and the step from it come from one evaluation. Evaluations are questions to the
    model, which guidance doubles.
    """

    n_nodes: int
    n_moves: int
    times: Array
    look_takes_step: bool

    def move(self, diffusion: Diffusion, key: PRNGKey, x: Array, i: Array, condition: Any) -> tuple[Array, Array]:
        """From node i, i < n_moves: the next state, and evaluations."""
        ...

    def look(self, diffusion: Diffusion, key: PRNGKey, x: Array, i: Array, condition: Any) -> tuple[Array, Array]:
        """The state after looking at node i, and x̂₀ there; one evaluation."""
        ...

    def finish(self, diffusion: Diffusion, x: Array, condition: Any) -> tuple[Array, Array]:
        """The sample from the state after the last move, and evaluations."""
        ...


def require_nodes(nodes: int) -> None:
    """Refuse a number of nodes that makes no walk.

    Raises:
        ValueError: naming ``nodes``.
    """
    require(isinstance(nodes, Integral) and nodes >= 2, "nodes", nodes, "must be an integer >= 2")


def n_nodes_of(sampler: Sampler, nodes: int) -> int:
    """How many nodes the walk has: the steps of DDIM, else ``nodes``."""
    return sampler.n_steps if isinstance(sampler, DDIM) else nodes


def walk_of(sampler: Sampler, schedule: Schedule, dtype: jnp.dtype, nodes: int) -> Walk:
    """The walk of a sampler: the steps of DDIM; of the others ``nodes`` nodes at equal steps of log(α²/σ²).

    Between two nodes ``ProbabilityFlow`` and ``ReverseSDE`` take the steps that their tolerances ask for.
    """
    if isinstance(sampler, DDIM):
        return _Steps(sampler, schedule, dtype)
    return _Spans(sampler, schedule, dtype, nodes)


@dataclass(frozen=True)
class _Steps:
    sampler: DDIM
    schedule: Schedule
    dtype: jnp.dtype
    look_takes_step: bool = True

    @property
    def n_nodes(self) -> int:
        return self.sampler.n_steps

    @property
    def n_moves(self) -> int:
        return self.sampler.n_steps

    @cached_property
    def _levels(self) -> Levels:
        with jax.ensure_compile_time_eval():
            return levels_of(self.sampler, self.schedule, self.dtype)

    @property
    def times(self) -> Array:
        return self._levels.time

    def move(self, diffusion: Diffusion, key: PRNGKey, x: Array, i: Array, condition: Any) -> tuple[Array, Array]:
        return self.look(diffusion, key, x, i, condition)[0], jnp.asarray(1)

    def look(self, diffusion: Diffusion, key: PRNGKey, x: Array, i: Array, condition: Any) -> tuple[Array, Array]:
        at = jax.tree.map(lambda a: a[i], self._levels)
        return step(self.sampler, diffusion, key, x, condition, at)

    def finish(self, diffusion: Diffusion, x: Array, condition: Any) -> tuple[Array, Array]:
        return x, jnp.asarray(0)


@dataclass(frozen=True)
class _Spans:
    sampler: ProbabilityFlow | ReverseSDE
    schedule: Schedule
    dtype: jnp.dtype
    n_nodes: int
    look_takes_step: bool = False

    @property
    def n_moves(self) -> int:
        return self.n_nodes - 1

    @cached_property
    def log_snrs(self) -> Array:
        with jax.ensure_compile_time_eval():
            return jnp.linspace(*ends(self.schedule, self.dtype), self.n_nodes)

    @cached_property
    def times(self) -> Array:
        with jax.ensure_compile_time_eval():
            times = time_at_log_snr(self.schedule, self.log_snrs)
            return times.at[0].set(self.schedule.t_max).at[-1].set(self.schedule.t_min)

    def move(self, diffusion: Diffusion, key: PRNGKey, x: Array, i: Array, condition: Any) -> tuple[Array, Array]:
        span = (self.log_snrs[i], self.log_snrs[i + 1])
        return self.sampler.between(diffusion, jax.random.fold_in(key, i), x, span, condition)

    def look(self, diffusion: Diffusion, key: PRNGKey, x: Array, i: Array, condition: Any) -> tuple[Array, Array]:
        return x, diffusion.denoise(x, self.times[i], condition)

    def finish(self, diffusion: Diffusion, x: Array, condition: Any) -> tuple[Array, Array]:
        return self.sampler.finish(diffusion, x, condition)
