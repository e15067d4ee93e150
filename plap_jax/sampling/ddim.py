"""DDIM sampling: from noise to data in few steps of any schedule, deterministic or stochastic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.diffusion import EDM, Diffusion, RectifiedFlow, Schedule
from plap_jax.sampling.clock import ends, time_at_log_snr
from plap_jax.typing import Array, PRNGKey, at_least_float32, require, require_point

Spacing = Literal["time", "log_snr"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """All states of one DDIM generation, noisiest first; N is the number of steps.

    Attributes:
        times, alphas, sigmas: ``(N,)``, the levels at which the network was evaluated.
        states: ``(N+1, *shape)``, x_t at these levels, then the sample x₀.
        denoised: ``(N, *shape)``, x̂₀(x_t, t); the last one is the sample. ε̂ = (x_t − α x̂₀)/σ.
    """

    times: Array
    alphas: Array
    sigmas: Array
    states: Array
    denoised: Array


@jax.tree_util.register_static
@dataclass(frozen=True)
class DDIM:
    """DDIM sampler: from noise to a sample in few steps, deterministic or stochastic.

    x_s = α_s x̂₀ + √(σ_s² − c²) ε̂ + c z, c = η σ_s √(1 − SNR_t/SNR_s), SNR = α²/σ² (Song et al. 2021, eq. 12).

    From t_max to t_min; the last step, from t_min, gives the denoised point (α_s = 1, σ_s = 0). In this form it
    holds for variance-preserving (c is then eq. 16 of the paper) and for exploding schedules. η = 0 is a first-order
    solver of the probability flow and ignores the key; η = 1 is ancestral sampling.

    Args:
        n_steps: evaluations of the network, ≥ 1; on a discrete schedule at most its number of steps.
        eta: η in [0, 1].
        spacing: "time", equal steps of t, better for VP schedules; "log_snr", equal steps of
            log(α²/σ²); None: "log_snr" under EDM, where equal steps of t = σ would cover all small noise in one step,
            and "time" otherwise. Discrete schedules: "time", rounded to distinct whole steps.
        shift: s > 0, for flow matching: steps at t' = s t/(1 + (s − 1) t), which multiplies σ/α by s between the same
            ends. SD3 takes 3 (Esser et al. 2024, eq. 23). Only the steps move, not the laws at each t.
        clip: c > 0, in units of the data: x̂₀ is kept in [−c, c] at each step, and ε̂ is what then leads to x_t, as is
            usual for pixels in [−1, 1] (static thresholding; Saharia et al. 2022, sec. 2.3). Where α is small, x̂₀ has
            the network's errors times σ/α, and one that was trained briefly drifts off into black or white without it.
            None: as the network says, which is right for latents and for laws that have no bounds.

    Raises:
        ValueError: n_steps, eta, spacing, shift or clip outside their range.
    """

    n_steps: int = 100
    eta: float = 0.0
    spacing: Spacing | None = None
    shift: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.n_steps, Integral) and self.n_steps >= 1
        require(whole, "n_steps", self.n_steps, "must be an integer >= 1")
        require(0 <= self.eta <= 1, "eta", self.eta, "must lie in [0, 1]")
        known = self.spacing is None or self.spacing in get_args(Spacing)
        require(known, "spacing", self.spacing, f"must be one of {', '.join(get_args(Spacing))}, or None")
        require(0 < self.shift < math.inf, "shift", self.shift, "must be finite and > 0")
        plain = self.shift == 1 or self.spacing != "log_snr"
        require(plain, "shift", self.shift, "must be 1 where the spacing is 'log_snr'")
        bounded = self.clip is None or 0 < self.clip < math.inf
        require(bounded, "clip", self.clip, "must be finite and > 0, or None")

    def __call__(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> Array:
        """One sample.

        Args:
            diffusion: the model.
            key: randomness of z; unused when eta = 0.
            start: x at t_max, ``(*shape)``, as of ``initial_point``.
            condition: passed to the network.

        Returns:
            x₀ ``(*shape)``, dtype (float32 at least) and units of ``start``.

        Raises:
            ValueError: an invalid start; n_steps, spacing or shift that the schedule does not support.
        """
        return self.trajectory(diffusion, key, start, condition).states[-1]

    def counted(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> tuple[Array, Array]:
        """One sample, and how often the model was asked for it, ``()``."""
        return self(diffusion, key, start, condition), jnp.asarray(self.n_steps)

    def trajectory(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> Trajectory:
        """The sample with all states on the way; arguments and errors as for a call."""
        require_point(start)
        self.times(diffusion.schedule)  # checked before anything is traced
        return _generate(self, diffusion, key, at_least_float32(start), condition)

    def times(self, schedule: Schedule) -> np.ndarray:
        """The times of the steps, t_max = t_1 > … > t_N = t_min, ``(n_steps,)``; integers on a discrete schedule.

        Raises:
            ValueError: a discrete schedule with fewer steps, or spacing by log-SNR on a discrete one; a shift on a
                schedule other than ``RectifiedFlow``.
        """
        shifts = self.shift == 1 or isinstance(schedule, RectifiedFlow)
        require(shifts, "shift", self.shift, f"must be 1 for {schedule.name}, whose steps are not those of a flow")
        if schedule.discrete:
            allowed = f"must be at most {schedule.t_max + 1}, the steps of {schedule.name}"
            require(self.n_steps <= schedule.t_max + 1, "n_steps", self.n_steps, allowed)
            allowed = f"must be 'time' or None for {schedule.name}, which has only whole steps"
            require(self.spacing != "log_snr", "spacing", self.spacing, allowed)
            return np.round(np.linspace(schedule.t_max, 0, self.n_steps)).astype(np.int32)
        by_log_snr = isinstance(schedule, EDM) if self.spacing is None else self.spacing == "log_snr"
        if not by_log_snr:
            times = np.linspace(schedule.t_max, schedule.t_min, self.n_steps)
            if self.shift != 1:
                times[1:-1] *= self.shift / (1 + (self.shift - 1) * times[1:-1])
            return np.clip(times, schedule.t_min, schedule.t_max)
        with jax.ensure_compile_time_eval():
            first, last = ends(schedule, jnp.result_type(float))
            times = np.array(time_at_log_snr(schedule, jnp.linspace(first, last, self.n_steps)))
        times[-1], times[0] = schedule.t_min, schedule.t_max  # in this order: a single step starts from t_max
        return times


class Levels(NamedTuple):
    """What each of the N steps needs, ``(N,)`` each: its number, time and levels, and those of the state after it."""

    number: Array
    time: Array
    alpha: Array
    sigma: Array
    log_snr: Array
    next_alpha: Array
    next_sigma: Array
    next_log_snr: Array


def levels_of(sampler: DDIM, schedule: Schedule, dtype: jnp.dtype) -> Levels:
    """The levels of all steps; errors as of ``DDIM.times``."""
    times = jnp.asarray(sampler.times(schedule), jnp.int32 if schedule.discrete else dtype)
    alphas, sigmas, log_snrs = (f(times).astype(dtype) for f in (schedule.alpha, schedule.sigma, schedule.log_snr))
    # The state after the last step has no noise.
    following = (
        jnp.append(a[1:], jnp.asarray(last, dtype)) for a, last in ((alphas, 1), (sigmas, 0), (log_snrs, math.inf))
    )
    return Levels(jnp.arange(sampler.n_steps), times, alphas, sigmas, log_snrs, *following)


def step(
    sampler: DDIM, diffusion: Diffusion, key: PRNGKey, x: Array, condition: Any, at: Levels
) -> tuple[Array, Array]:
    """One step from ``x``, at the levels ``at`` of that step alone: the state after it, and x̂₀; one evaluation."""
    x0, eps = diffusion.denoise_and_eps(x, at.time, condition)
    if sampler.clip is not None:
        x0 = jnp.clip(x0, -sampler.clip, sampler.clip)
        eps = (x - at.alpha * x0) / at.sigma
    gained = -jnp.expm1(at.log_snr - at.next_log_snr)  # 1 − SNR_t/SNR_s
    kept = at.next_sigma * jnp.sqrt(1 - sampler.eta**2 * gained)
    moved = at.next_alpha * x0 + kept * eps
    if sampler.eta > 0:
        fresh = sampler.eta * at.next_sigma * jnp.sqrt(gained)
        moved += fresh * jax.random.normal(jax.random.fold_in(key, at.number), x.shape, x.dtype)
    return moved, x0


@partial(jax.jit, static_argnums=0)
def _generate(sampler: DDIM, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Trajectory:
    levels = levels_of(sampler, diffusion.schedule, start.dtype)

    def one(x: Array, at: Levels) -> tuple[Array, tuple[Array, Array]]:
        moved, x0 = step(sampler, diffusion, key, x, condition, at)
        return moved, (x, x0)

    x0, (states, denoised) = jax.lax.scan(one, start, levels)
    states = jnp.concatenate([states, x0[None]])
    return Trajectory(levels.time, levels.alpha, levels.sigma, states, denoised)
