"""The log-SNR ℓ = log(α²/σ²) as the time variable of generation, in which all schedules look alike.

With f = d ln α/dt and g² = dσ²/dt − 2fσ² (Song et al. 2021), g² dt = −σ² dℓ: the probability flow
dx = (f x − ½ g² s) dt and the reverse SDE dx = (f x − g² s) dt + g dW̄ become, with a = d ln α/dℓ,

    dx = (a x + ½ σ² s) dℓ    and    dx = (a x + σ² s) dℓ + σ dW,

ℓ increasing from pure noise to data. a = σ²/2 when α² + σ² = 1, and 0 when α = 1. Steps of equal size in ℓ are about
equally hard, unlike steps in t: under EDM all of the data appear within the last thousandth of t.
"""

from __future__ import annotations

import math
from numbers import Integral

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Schedule
from plap_jax.typing import Array, accumulation_dtype, require, require_scalar

# Halvings beyond the digits of the dtype: times down to 2⁻²⁴ of the range keep all their digits.
_RANGE = 24


def require_continuous(schedule: Schedule) -> None:
    """Refuse a discrete schedule: between its steps there are neither α and σ nor their derivatives.

    Raises:
        ValueError: a discrete schedule.
    """
    allowed = "must be continuous in time: a table of steps has no derivative; sample with DDIM"
    require(not schedule.discrete, "schedule", schedule.name, allowed)


def require_tolerances(rtol: float, atol: float, max_steps: int) -> None:
    """Refuse invalid tolerances and step limits.

    Raises:
        ValueError: rtol or atol not > 0 and finite, max_steps < 1.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        require_scalar(name, value, lambda v: 0 < v < math.inf, "must be finite and > 0")
    whole = isinstance(max_steps, Integral) and max_steps >= 1
    require(whole, "max_steps", max_steps, "must be an integer >= 1")


def ends(schedule: Schedule, dtype: jnp.dtype) -> tuple[Array, Array]:
    """First and last log-SNR of a generation, (ℓ(t_max), ℓ(t_min)), in float32 at least."""
    dtype = accumulation_dtype(dtype)
    first, last = (schedule.log_snr(jnp.asarray(t, dtype)) for t in (schedule.t_max, schedule.t_min))
    return first, last


def time_at_log_snr(schedule: Schedule, log_snr: Array) -> Array:
    """The time at which the log-SNR is ``log_snr``, to the last digit, by bisection; elementwise.

    Log-SNRs beyond the schedule give the nearer end.
    """

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        later = schedule.log_snr(middle) > log_snr
        return jnp.where(later, middle, low), jnp.where(later, high, middle)

    bracket = tuple(jnp.full_like(log_snr, t) for t in (schedule.t_min, schedule.t_max))
    low, high = jax.lax.fori_loop(0, jnp.finfo(log_snr.dtype).nmant + _RANGE, halve, bracket)
    return (low + high) / 2


def level(schedule: Schedule, log_snr: Array) -> tuple[Array, Array, Array]:
    """What both equations need at one log-SNR: (t, a, σ), a = d ln α/dℓ = (d ln α/dt)/(dℓ/dt)."""
    t = time_at_log_snr(schedule, log_snr)
    slope_alpha = jax.jvp(lambda t: jnp.log(schedule.alpha(t)), (t,), (jnp.ones_like(t),))[1]
    slope_log_snr = jax.jvp(schedule.log_snr, (t,), (jnp.ones_like(t),))[1]
    return t, slope_alpha / slope_log_snr, schedule.sigma(t)
