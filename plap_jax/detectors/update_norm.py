"""Update norm: how far the sampler moves in each step, against generations known to be new (Broken Memories, 2026)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from plap_jax.detectors.base import Detector, Need, Query, norm
from plap_jax.diffusion import Diffusion
from plap_jax.memory import points_at_once
from plap_jax.parallel import map_points
from plap_jax.sampling import DDIM, guided
from plap_jax.typing import Array, ArrayLike, PRNGKey, at_least_float32, require, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class UpdateNorm(Detector):
    """How far the sampler moves in one step, at most, against generations that are known not to be memorized.

    max_{i ≤ k} (u_i − mean_i)/std_i, u_i = ‖x_{i+1} − x_i‖₂ over the first k steps of a guided DDIM of n steps.

    Huang et al., "Broken Memories" (KDD 2026, arXiv 2605.22050): guided towards a memorized image the sampler becomes
    unstable, and the norm of its update leaves the region, one for each step, in which those of other prompts lie. The
    region here is mean and standard deviation per step, from ``fit``. How they shape theirs, and the mitigation, is not
    taken over. Without a region the statistic is the mean of the norms, which is not comparable between steps.

    x is divided by √(α² + σ²): 1 where variance is preserved, as published, and the same updates on every schedule.

    **What exact scores give is not instability.** A single image μ behind a prompt, guidance 1, has a straight path of
    updates (α_{i+1} − α_i) μ + (σ_{i+1} − σ_i) ε, larger only by as much as a copy is larger than an average. A low
    value is no evidence against memorization. The sampler and its guidance must be those of the region.

    Args:
        n_steps: n ≥ 1, steps of the sampler.
        first: k in [1, n], the steps to run; None for all, the last of which ends in the sample.
        mean, std: ``(k,)``, std > 0, of norms per step; None, both, for no region.

    Example:
        >>> detector = UpdateNorm(n_steps=50, first=10).fit(model, others)  # others: a Query
        >>> detector.scores(model, queries, key=key)
    """

    n_steps: int = field(default=50, metadata={"static": True})
    first: int | None = field(default=None, metadata={"static": True})
    mean: ArrayLike | None = None
    std: ArrayLike | None = None
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "noise"})

    def __post_init__(self) -> None:
        DDIM(self.n_steps)  # refuses an invalid number of steps
        few = self.first is None or (isinstance(self.first, Integral) and 1 <= self.first <= self.n_steps)
        require(few, "first", self.first, f"must be an integer in [1, n_steps={self.n_steps}], or None")
        require((self.mean is None) == (self.std is None), "std", self.std, "must be given if and only if mean is")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Standard deviations beyond the mean; without a region a norm, in the units of the data. No use of the key."""
        norms = self.norms(model, query)
        if self.mean is None:
            return jnp.mean(norms)
        mean, std = (jnp.asarray(a, norms.dtype) for a in (self.mean, self.std))
        require(mean.shape == std.shape == norms.shape, "mean", mean.shape, f"must be {norms.shape}, one for each step")
        return jnp.max((norms - mean) / std)

    def norms(self, model: Diffusion, query: Query) -> Array:
        """The norms of the updates, ``(k,)``, noisiest first."""
        require_point(query.noise)
        schedule, x = model.schedule, at_least_float32(query.noise)
        steered = guided(model, query.guidance)
        times = DDIM(self.n_steps).times(schedule)[: self._taken + 1]
        times = jnp.asarray(times, jnp.int32 if schedule.discrete else x.dtype)

        def preserved(x: Array, t: Array) -> Array:
            return x / jnp.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).astype(x.dtype)

        def step(x: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            t, following = at
            x0, eps = steered.denoise_and_eps(x, t, query.prompt)
            moved = steered.noised(x0, following, eps)
            return moved, norm(preserved(moved, following) - preserved(x, t))

        x, norms = jax.lax.scan(step, x, (times[:-1], times[1:]))
        if self._taken < self.n_steps:
            return norms
        sample = steered.denoise(x, times[-1], query.prompt)
        return jnp.append(norms, norm(sample - preserved(x, times[-1])))

    def fit(self, model: Diffusion, queries: Query, *, batch_size: int | None = None) -> UpdateNorm:
        """The same detector with the region of these generations.

        Args:
            model: as for ``scores``.
            queries: prompts and noise of generations that are known not to be memorized, ``n ≥ 2``, with the guidance
                of those that are to be scored.
            batch_size: as for ``scores``.

        Raises:
            ValueError: as ``scores``; fewer than two queries, or a step in which all of them move equally far.
        """
        queries, n = self._checked(queries)
        require(n >= 2, "queries", n, "must be at least 2: one generation has no spread")
        self.check(model.schedule)
        size = batch_size or points_at_once(int(np.prod(np.shape(queries.noise)[1:])), self.nfe(0))
        fn = Partial(_norms, replace(self, mean=None, std=None), model)
        norms = map_points(fn, np.arange(n), queries, batch_size=size).astype(np.float64)
        mean, std = norms.mean(axis=0), norms.std(axis=0, ddof=1)
        good = bool(np.isfinite(norms).all() and (std > 0).all())
        require(good, "queries", n, "must have updates that are finite and differ in every step")
        return replace(self, mean=mean, std=std)

    def nfe(self, dim: int) -> int:
        """Two per step, those of the guided sampler itself."""
        return 2 * self._taken

    @property
    def _taken(self) -> int:
        return self.n_steps if self.first is None else self.first


def _norms(detector: UpdateNorm, model: Diffusion, index: Array, query: Query) -> Array:
    return detector.norms(model, query)
