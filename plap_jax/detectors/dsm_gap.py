"""DSM gap: how much the predicted noise changes over the first step of generation (code released in 2026)."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.sampling import DDIM
from plap_jax.typing import Array, PRNGKey, at_least_float32, require, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DSMGap(Detector):
    """How much the predicted noise changes over the first step of generation.

    ‖ε̂(x_2, t_2 | c) − ε̂(x_1, t_1 | c)‖₂², x_1 the query's noise, x_2 one DDIM step from it.

    Source: the "dynamical singularity metric" from step 0 to 1 in the code of "Early Detection of Memorization in
    Diffusion Models", released without names (github.com/randomnameforicml/icml-2026, 2026); we found no paper. There
    the step is guided, at scale 7.5. Here the unconditional ε̂ is never evaluated, so the step has no guidance,
    whatever the query's: half the cost, and the same at guidance 1.

    **The published sign, high when memorized, is not what exact scores give.** If the images of a prompt are N(μ, vI),
    V = α²v + σ², the change is (x_1 − α_1μ) α_2 v (α_1σ_2 − α_2σ_1)/(V_1 V_2): 0 for a single image, v = 0, whose path
    is straight, and growing with v as long as α²v < σ². What trained networks show is another effect. The statistic is
    returned as published: a low value is no evidence against memorization.

    Args:
        n_steps: n ≥ 2, steps of the sampler, which fix t_2; only the first is taken.
    """

    n_steps: int = field(default=50, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "noise"})

    def __post_init__(self) -> None:
        whole = isinstance(self.n_steps, Integral) and self.n_steps >= 2
        require(whole, "n_steps", self.n_steps, "must be an integer >= 2")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """A squared norm, no unit. The key is not used."""
        require_point(query.noise)
        schedule = model.schedule
        x = at_least_float32(query.noise)
        times = DDIM(self.n_steps).times(schedule)[:2]
        start, end = jnp.asarray(times, jnp.int32 if schedule.discrete else x.dtype)
        x0, first = model.denoise_and_eps(x, start, query.prompt)
        second = model.eps(model.noised(x0, end, first), end, query.prompt)
        return jnp.sum((second - first) ** 2)

    def nfe(self, dim: int) -> int:
        """Two."""
        return 2
