"""The interface of all noise schedules x_t = α(t) x₀ + σ(t) ε.

Frozen, hashable objects, static under ``jit``; t is data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

from plap_jax.typing import Array, ArrayLike, PRNGKey, concrete, require

# time_at accepts noise levels this far (relatively) outside the schedule: σ(t_min) rounds in float32.
_SIGMA_TOLERANCE = 1e-5


def floating(a: ArrayLike) -> Array:
    """``a`` as an array of a floating dtype: integers and Python numbers get the default one."""
    a = jnp.asarray(a)
    return a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(jnp.result_type(float))


def noise_to_signal(sigma: float) -> float:
    """ς = σ/√(1 − σ²), the ratio σ/α at the noise level σ of a variance-preserving schedule.

    Raises:
        ValueError: σ outside (0, 1).
    """
    require(0 < sigma < 1, "sigma", sigma, "must lie in (0, 1): the noise level of a variance-preserving schedule")
    return sigma / math.sqrt((1 - sigma) * (1 + sigma))


class Schedule(ABC):
    """A noise schedule: how much signal and noise a point has at time t.

    α(t), σ(t) for t in [t_min, t_max], σ strictly increasing. All functions are elementwise in t.

    Results have the dtype of t (the default float for integers and Python numbers).
    """

    discrete: ClassVar[bool] = False

    @property
    @abstractmethod
    def t_min(self) -> float:
        """The smallest time, inclusive."""

    @property
    @abstractmethod
    def t_max(self) -> float:
        """The largest time, inclusive."""

    @abstractmethod
    def alpha(self, t: ArrayLike) -> Array:
        """Factor of the data, α(t)."""

    @abstractmethod
    def sigma(self, t: ArrayLike) -> Array:
        """Standard deviation of the noise, σ(t)."""

    @abstractmethod
    def log_snr(self, t: ArrayLike) -> Array:
        """Log-SNR, log(α²/σ²), decreasing in t."""

    @abstractmethod
    def _time(self, sigma: Array) -> Array:
        """The inverse of ``sigma``, unchecked."""

    def time_at(self, sigma: ArrayLike) -> Array:
        """The time at which the noise level is ``sigma``; on a discrete schedule the step with the nearest σ.

        Args:
            sigma: noise levels, any shape.

        Raises:
            ValueError: a level (known, not traced) that the schedule does not reach within [t_min, t_max].
        """
        known = concrete(sigma)
        if known is not None:
            with jax.ensure_compile_time_eval():
                low, high = float(self.sigma(self.t_min)), float(self.sigma(self.t_max))
            slack = 1 + _SIGMA_TOLERANCE
            inside = np.all((known >= low / slack) & (known <= high * slack))
            require(bool(inside), "sigma", sigma, f"must lie in [{low:.6g}, {high:.6g}] ({self.name})")
        t = self._time(floating(sigma))
        return jnp.clip(t, jnp.asarray(self.t_min, t.dtype), jnp.asarray(self.t_max, t.dtype))

    def reaches(self, noise_to_signal: float) -> bool:
        """Whether σ/α takes this value, which is the same on every schedule at the same mixture of image and noise."""
        ends = [-0.5 * float(self.log_snr(t)) for t in (self.t_min, self.t_max)]
        return (
            noise_to_signal > 0
            and ends[0] - _SIGMA_TOLERANCE <= math.log(noise_to_signal) <= ends[1] + _SIGMA_TOLERANCE
        )

    def time_at_ratio(self, noise_to_signal: float) -> Array:
        """The time at which σ/α is ``noise_to_signal``; on a discrete schedule the step with the nearest log ratio.

        Args:
            noise_to_signal: σ/α > 0, a number: σ itself where α = 1, σ/√(1 − σ²) where variance is preserved.

        Raises:
            ValueError: a ratio that the schedule does not reach within [t_min, t_max].
        """
        low, high = self._ratios
        allowed = f"must lie in [{low:.6g}, {high:.6g}] ({self.name})"
        require(self.reaches(noise_to_signal), "noise_to_signal", noise_to_signal, allowed)
        wanted = -2 * math.log(noise_to_signal)
        if self.discrete:
            steps = np.arange(self.t_min, self.t_max + 1)
            return jnp.asarray(np.argmin(np.abs(np.asarray(self.log_snr(steps)) - wanted)) + self.t_min, jnp.int32)
        apart = [float(self.log_snr(t)) - wanted for t in (self.t_min, self.t_max)]
        if apart[0] <= 0 or apart[1] >= 0:  # an end, within rounding
            return jnp.asarray(self.t_min if apart[0] <= 0 else self.t_max, jnp.result_type(float))
        t = brentq(lambda t: float(self.log_snr(t)) - wanted, self.t_min, self.t_max, xtol=1e-9)
        return jnp.asarray(t, jnp.result_type(float))

    @property
    def _ratios(self) -> tuple[float, float]:
        """σ/α at both ends."""
        return tuple(math.exp(-0.5 * float(self.log_snr(t))) for t in (self.t_min, self.t_max))

    def sample_times(self, key: PRNGKey, n: int) -> Array:
        """Training times ``(n,)``, one from each of n strata of equal probability.

        Stratified times make the loss of a batch less noisy than independent ones; in increasing order.
        Uniform on [t_min, t_max], or on the integer steps of a discrete schedule.
        """
        return self._quantile((jnp.arange(n) + jax.random.uniform(key, (n,))) / n)

    def check_time(self, t: ArrayLike) -> None:
        """Refuse a time outside the schedule.

        Raises:
            ValueError: t (known, not traced) outside [t_min, t_max], or not a whole step of a discrete one.
        """
        known = concrete(t)
        if known is not None:
            allowed = f"must lie in [{self.t_min:.6g}, {self.t_max:.6g}] ({self.name})"
            require(bool(np.all(self._within(known))), "t", t, allowed)
            whole = not self.discrete or bool(np.all(known == np.round(known)))
            require(whole, "t", t, f"must be a whole step of {self.name}")

    def one_or_nan(self, t: ArrayLike) -> Array | float:
        """1 where ``check_time`` would accept t, NaN elsewhere: a factor for results, for traced times."""
        if concrete(t) is not None:
            return 1.0  # checked already
        fits = self._within(t)
        if self.discrete:
            fits &= t == jnp.round(t)
        return jnp.where(fits, 1.0, jnp.nan)

    def _within(self, t: Array | np.ndarray) -> Array | np.ndarray:
        # t_min may have been rounded to float32
        return (t >= self.t_min * (1 - 1e-6)) & (t <= self.t_max * (1 + 1e-6))

    @property
    def name(self) -> str:
        """The class, for messages."""
        return type(self).__name__

    def _quantile(self, u: Array) -> Array:
        return jnp.clip(self.t_min + (self.t_max - self.t_min) * u, self.t_min, self.t_max)
