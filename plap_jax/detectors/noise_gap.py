"""Noise-gap norm: how much the prompt changes the predicted noise during generation (Wen et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query, both_scores, norm
from plap_jax.diffusion import Diffusion, convert
from plap_jax.sampling import DDIM
from plap_jax.typing import Array, PRNGKey, at_least_float32, require, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoiseGapNorm(Detector):
    """How much the prompt changes the predicted noise, averaged over the first steps of a generation.

    mean_{i ≤ k} ‖ε̂(x_i, t_i | c) − ε̂(x_i, t_i)‖₂, x_1, …, x_k the first points of a guided DDIM of n steps.

    Wen et al. (ICLR 2024, arXiv 2407.21720). The points are those of ``DDIM(n_steps)`` from the query's noise under
    the query's guidance, η = 0. A prompt with a single image pulls towards it from any noise. With exact scores such
    a prompt has the larger gap if the alternative is wider data of the same mean. The gap also depends on the mean and
    the frequency of a prompt, and it returns to 0 once the prompt's own image is the only one near: a single image
    need not score above a cluster. Values at different guidance are not comparable, since guidance changes the points.

    Not divided by √d: images of different size are not comparable either.

    Args:
        n_steps: n ≥ 1, steps of the sampler, which fix the times.
        first: k in [1, n], the steps to run and average; None for all.
    """

    n_steps: int = field(default=50, metadata={"static": True})
    first: int | None = field(default=None, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "noise"})

    def __post_init__(self) -> None:
        DDIM(self.n_steps)  # refuses an invalid number of steps
        few = self.first is None or (isinstance(self.first, Integral) and 1 <= self.first <= self.n_steps)
        require(few, "first", self.first, f"must be an integer in [1, n_steps={self.n_steps}], or None")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The mean norm, no unit. The key is not used."""
        require_point(query.noise)
        schedule = model.schedule
        start = at_least_float32(query.noise)
        dtype = start.dtype
        times = DDIM(self.n_steps).times(schedule)[: self._taken]
        times = jnp.asarray(times, jnp.int32 if schedule.discrete else dtype)
        guidance = jnp.asarray(query.guidance, dtype)

        def step(x: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            t, following = at
            alpha, sigma = (level(t).astype(dtype) for level in (schedule.alpha, schedule.sigma))
            unconditional, conditional = both_scores(model, x, t, query.prompt)
            gap = conditional - unconditional
            # Not DDIM.trajectory: it keeps only the guided prediction, so the gap would cost two more evaluations.
            score = unconditional + guidance * gap
            x0, eps = (convert(score, x, alpha, sigma, "score", kind) for kind in ("x0", "eps"))
            return model.noised(x0, following, eps), sigma * norm(gap)

        # The result of the last step is not used.
        _, norms = jax.lax.scan(step, start, (times, jnp.append(times[1:], times[-1])))
        return jnp.mean(norms)

    def nfe(self, dim: int) -> int:
        """Two per step, shared with the sampler."""
        return 2 * self._taken

    @property
    def _taken(self) -> int:
        return self.n_steps if self.first is None else self.first
