"""Variance-exploding schedules, α = 1: σ geometric in t, or t = σ itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.diffusion.schedules import Schedule, floating
from plap_jax.typing import Array, ArrayLike, require


def _check_sigma_range(low: float, high: float) -> None:
    require(low > 0, "sigma_min", low, "must be > 0")
    require(low < high < math.inf, "sigma_max", high, f"must be finite and > sigma_min={low}")


@jax.tree_util.register_static
@dataclass(frozen=True)
class VE(Schedule):
    """Variance-exploding noise schedule.

    α = 1, σ(t) = σ_min (σ_max/σ_min)^t, t in [0, 1] (Song et al. 2021, eq. 30).

    Args:
        sigma_min, sigma_max: 0 < σ_min < σ_max, in the units of the data.

    Raises:
        ValueError: any of them outside its range.

    Example:
        >>> schedule = VE(sigma_min=0.01, sigma_max=100.0)
        >>> round(float(schedule.sigma(0.5)), 4)  # halfway by the logarithm
        1.0
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: ClassVar[float] = 0.0
    t_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_sigma_range(self.sigma_min, self.sigma_max)

    def alpha(self, t: ArrayLike) -> Array:
        """Factor of the data, 1."""
        return jnp.ones_like(floating(t))

    def sigma(self, t: ArrayLike) -> Array:
        """Standard deviation of the noise, σ_min (σ_max/σ_min)^t."""
        return self.sigma_min * jnp.exp(floating(t) * self._log_ratio)

    def log_snr(self, t: ArrayLike) -> Array:
        """Log-SNR, −2 log σ."""
        return -2 * (math.log(self.sigma_min) + floating(t) * self._log_ratio)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def _time(self, sigma: Array) -> Array:
        return jnp.log(sigma / self.sigma_min) / self._log_ratio


@jax.tree_util.register_static
@dataclass(frozen=True)
class EDM(Schedule):
    """Noise schedule of EDM, in which time is the noise level itself.

    α = 1, σ(t) = t in [σ_min, σ_max]; training times log-normal (Karras et al. 2022, table 1).

    Args:
        sigma_min, sigma_max: 0 < σ_min < σ_max, in the units of the data.
        p_mean, p_std: log σ ~ N(p_mean, p_std²) in training, clipped to the range; p_std > 0.

    Raises:
        ValueError: any of them outside its range.

    Example:
        >>> schedule = EDM()
        >>> float(schedule.time_at(0.5))  # time is the noise level
        0.5
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        _check_sigma_range(self.sigma_min, self.sigma_max)
        require(math.isfinite(self.p_mean), "p_mean", self.p_mean, "must be finite")
        require(0 < self.p_std < math.inf, "p_std", self.p_std, "must be finite and > 0")

    @property
    def t_min(self) -> float:
        """The smallest time, σ_min."""
        return self.sigma_min

    @property
    def t_max(self) -> float:
        """The largest time, σ_max."""
        return self.sigma_max

    def alpha(self, t: ArrayLike) -> Array:
        """Factor of the data, 1."""
        return jnp.ones_like(floating(t))

    def sigma(self, t: ArrayLike) -> Array:
        """Standard deviation of the noise, t itself."""
        return floating(t)

    def log_snr(self, t: ArrayLike) -> Array:
        """Log-SNR, −2 log t."""
        return -2 * jnp.log(floating(t))

    def _quantile(self, u: Array) -> Array:
        return jnp.clip(jnp.exp(self.p_mean + self.p_std * jax.scipy.special.ndtri(u)), self.sigma_min, self.sigma_max)

    def _time(self, sigma: Array) -> Array:
        return sigma
