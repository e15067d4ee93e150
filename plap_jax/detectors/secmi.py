"""SecMI: the error of one deterministic step up and back (Duan et al., ICML 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query, unscaled
from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.typing import Array, ArrayLike, PRNGKey, require, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SecMI(Detector):
    """Minus the error of one deterministic DDIM step up in noise and back.

    −‖x̃ − x_t‖²: x_t by n DDIM steps up from x₀, x̃ by one more step up and one back (Duan et al., ICML 2023).

    A DDIM step from t to s, in either direction, is x_s = α_s x̂₀(x_t, t) + σ_s ε̂(x_t, t). The step back
    undoes it exactly if ε̂ is constant along it, as for a memorized member.

    The n + 1 steps up are equal in the schedule's own time, from its smallest, where the point is x₀ itself (under flow
    matching x₀ √(α² + σ²)), to one step beyond the t of sigma. On a discrete schedule they are rounded to whole steps,
    the last one to at least one.

    Args:
        sigma: noise level of t, > 0; t and the step above it must lie within the schedule.
        n_steps: n ≥ 1, steps up to t, one evaluation each.
    """

    sigma: float
    n_steps: int = field(default=10, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.n_steps, Integral) and self.n_steps >= 1
        require(whole, "n_steps", self.n_steps, "must be an integer >= 1")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus a squared distance, in the squared units of the data. The key is not used."""
        require_point(query.image)
        times, above = self.times(model.schedule)

        def step(x: Array, start: Array, end: Array) -> Array:
            x0, eps = model.denoise_and_eps(x, start, query.prompt)
            alpha, sigma = (level(end).astype(x.dtype) for level in (model.schedule.alpha, model.schedule.sigma))
            return alpha * x0 + sigma * eps

        start, ends = unscaled(model, query.image, model.schedule.t_min), (times[:-1], times[1:])
        reached, _ = jax.lax.scan(lambda x, ends: (step(x, *ends), None), start, ends)
        back = step(step(reached, times[-1], above), above, times[-1])
        # Negated: members have the smaller error.
        return -jnp.sum((back - reached) ** 2)

    def times(self, schedule: Schedule) -> tuple[Array, Array]:
        """``(n_steps + 1,)`` times from the smallest to that of sigma, and the one above; integers when discrete."""
        t = schedule.time_at(self.sigma)
        share = jnp.arange(self.n_steps + 1) / self.n_steps
        if schedule.discrete:
            gap = (t - schedule.t_min) / self.n_steps
            times = schedule.t_min + jnp.round(share * (t - schedule.t_min)).astype(t.dtype)
            return times, t + jnp.maximum(1, jnp.round(gap)).astype(t.dtype)
        # So that the last is exactly t.
        return schedule.t_min * (1 - share) + t * share, t + (t - schedule.t_min) / self.n_steps

    def check(self, schedule: Schedule) -> None:
        """As ``Detector.check``; also refuses a sigma too near the top of the schedule for a step above it."""
        super().check(schedule)
        above: ArrayLike = self.times(schedule)[1]
        allowed = f"leaves no room for the step above it in {schedule.name}; lower it or take more n_steps"
        # Tolerates rounding of t, as the schedule itself does.
        require(float(above) <= schedule.t_max * (1 + 1e-6), "sigma", self.sigma, allowed)

    def nfe(self, dim: int) -> int:
        """The steps up to t, the step above it and the one back."""
        return self.n_steps + 2
