"""Variance-preserving schedules, α² + σ² = 1: continuous (linear β, cosine) and the tables of DDPM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.diffusion.schedules import Schedule, floating
from plap_jax.typing import Array, ArrayLike, require


@jax.tree_util.register_static
@dataclass(frozen=True)
class VPLinear(Schedule):
    """Variance-preserving noise schedule with linear β.

    log α = −t²(β₁−β₀)/4 − tβ₀/2, σ² = 1 − α², t in [t_min, 1] (Song et al. 2021, eq. 33).

    Args:
        beta_min, beta_max: β₀ and β₁, 0 < β₀ ≤ β₁.
        t_min: in (0, 1); the score is unbounded as t → 0.

    Raises:
        ValueError: any of them outside its range.

    Example:
        >>> schedule = VPLinear()
        >>> t = schedule.time_at(0.6)  # the time at which σ = 0.6
        >>> round(float(schedule.alpha(t)), 4)
        0.8
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        require(self.beta_min > 0, "beta_min", self.beta_min, "must be > 0")
        good = self.beta_min <= self.beta_max < math.inf
        require(good, "beta_max", self.beta_max, f"must be finite and >= beta_min={self.beta_min}")
        require(0 < self.t_min < 1, "t_min", self.t_min, "must lie in (0, 1)")

    def alpha(self, t: ArrayLike) -> Array:
        """Factor of the data, exp(−t²(β₁−β₀)/4 − tβ₀/2)."""
        return jnp.exp(self._log_alpha(floating(t)))

    def sigma(self, t: ArrayLike) -> Array:
        """Standard deviation of the noise, √(1 − α²), without cancellation at small t."""
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(floating(t))))

    def log_snr(self, t: ArrayLike) -> Array:
        """Log-SNR, log(α²/σ²)."""
        log_alpha_sq = 2 * self._log_alpha(floating(t))
        return log_alpha_sq - jnp.log(-jnp.expm1(log_alpha_sq))

    def _log_alpha(self, t: Array) -> Array:
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def _time(self, sigma: Array) -> Array:
        # t²(β₁−β₀)/2 + tβ₀ = −log(1−σ²), solved in the form that has no difference of near-equal numbers
        integral = -jnp.log1p(-(sigma**2))
        root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)


@jax.tree_util.register_static
@dataclass(frozen=True)
class VPCosine(Schedule):
    """Variance-preserving cosine noise schedule.

    α = cos(a(t))/cos(a(0)), a(t) = (π/2)(t+s)/(1+s), σ² = 1 − α² (Nichol & Dhariwal 2021, eq. 17).

    Args:
        s: offset, ≥ 0.
        t_min, t_max: 0 < t_min < t_max < 1; α vanishes at t = 1.

    Raises:
        ValueError: any of them outside its range.

    Example:
        >>> schedule = VPCosine()
        >>> t = schedule.time_at_ratio(1.0)  # as much noise as signal
        >>> round(float(schedule.sigma(t)) ** 2, 4)
        0.5
    """

    s: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.999

    def __post_init__(self) -> None:
        require(0 <= self.s < math.inf, "s", self.s, "must be finite and >= 0")
        require(0 < self.t_min < 1, "t_min", self.t_min, "must lie in (0, 1)")
        require(self.t_min < self.t_max < 1, "t_max", self.t_max, f"must lie in (t_min={self.t_min}, 1)")

    def alpha(self, t: ArrayLike) -> Array:
        """Factor of the data, cos(a(t))/cos(a(0))."""
        return jnp.cos(self._angle(floating(t))) / math.cos(self._start)

    def sigma(self, t: ArrayLike) -> Array:
        """√(1 − α²), by cos²b − cos²a = sin(a−b) sin(a+b), which does not cancel at small t."""
        t = floating(t)
        turned = t * (math.pi / 2 / (1 + self.s))  # a(t) − a(0)
        return jnp.sqrt(jnp.sin(turned) * jnp.sin(turned + 2 * self._start)) / math.cos(self._start)

    def log_snr(self, t: ArrayLike) -> Array:
        """Log-SNR, log(α²/σ²)."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    @property
    def _start(self) -> float:
        return math.pi / 2 * self.s / (1 + self.s)

    def _angle(self, t: Array) -> Array:
        return (math.pi / 2) * (t + self.s) / (1 + self.s)

    def _time(self, sigma: Array) -> Array:
        # sin²a and cos²a from σ; atan2 is accurate at both ends, where arccos is not
        cos_start, sin_start = math.cos(self._start), math.sin(self._start)
        sine = jnp.sqrt(sin_start**2 + (cos_start * sigma) ** 2)
        cosine = cos_start * jnp.sqrt((1 - sigma) * (1 + sigma))
        return jnp.arctan2(sine, cosine) * (2 / math.pi) * (1 + self.s) - self.s


@jax.tree_util.register_static
@dataclass(frozen=True)
class DiscreteVP(Schedule):
    """Variance-preserving noise schedule of DDPM: a table of β, one per step.

    α_t² = Π_{i≤t} (1 − β_i), σ² = 1 − α², steps t = 0, …, T−1 (Ho et al. 2020, eq. 4, counted from 0).

    Args:
        betas: T numbers in (0, 1). The table is built in float64 whatever the dtype of later computations.

    Raises:
        ValueError: no numbers, or numbers outside (0, 1).

    Example:
        >>> schedule = DiscreteVP.linear(1000)  # of DDPM; its steps are 0 to 999
        >>> t = schedule.time_at(0.5)  # the step with the nearest σ
        >>> round(float(schedule.sigma(t)), 2)
        0.5
    """

    betas: tuple[float, ...]
    discrete: ClassVar[bool] = True
    t_min: ClassVar[int] = 0

    def __post_init__(self) -> None:
        betas = np.asarray(self.betas, np.float64)
        require(betas.ndim == 1 and betas.size > 0, "betas", self.betas, "must be a non-empty list")
        outside = betas[~((betas > 0) & (betas < 1))]
        require(outside.size == 0, "betas", outside[:1], "every beta must lie in (0, 1)")
        # accepts any sequence; a tuple is hashable
        object.__setattr__(self, "betas", tuple(betas.tolist()))

    @classmethod
    def linear(cls, n_steps: int = 100, beta_start: float = 1e-4, beta_end: float = 0.02) -> DiscreteVP:
        """Linear table: β from ``beta_start`` to ``beta_end`` in ``n_steps`` equal steps; DDPM uses 1,000 steps."""
        require(n_steps >= 1, "n_steps", n_steps, "must be >= 1")
        require(beta_start <= beta_end, "beta_start", beta_start, f"must not exceed beta_end={beta_end}")
        return cls(np.linspace(beta_start, beta_end, n_steps))

    @classmethod
    def scaled_linear(cls, n_steps: int = 1000, beta_start: float = 8.5e-4, beta_end: float = 0.012) -> DiscreteVP:
        """Table of latent diffusion models: √β in ``n_steps`` equal steps (Rombach et al. 2022)."""
        require(n_steps >= 1, "n_steps", n_steps, "must be >= 1")
        require(beta_start > 0, "beta_start", beta_start, "must lie in (0, 1)")
        require(beta_end > 0, "beta_end", beta_end, "must lie in (0, 1)")
        require(beta_start <= beta_end, "beta_start", beta_start, f"must not exceed beta_end={beta_end}")
        return cls(np.linspace(beta_start**0.5, beta_end**0.5, n_steps) ** 2)

    @classmethod
    def squared_cosine(cls, n_steps: int = 1000, s: float = 0.008, largest: float = 0.999) -> DiscreteVP:
        """Cosine table of β.

        β_t = min(1 − ᾱ((t+1)/T)/ᾱ(t/T), largest), ᾱ(u) = cos²((π/2)(u+s)/(1+s)) (Nichol & Dhariwal 2021, eq. 17).
        """
        require(n_steps >= 1, "n_steps", n_steps, "must be >= 1")
        signal = np.cos((np.linspace(0, 1, n_steps + 1) + s) / (1 + s) * (math.pi / 2)) ** 2
        return cls(np.minimum(1 - signal[1:] / signal[:-1], largest))

    @property
    def t_max(self) -> int:
        """T − 1."""
        return len(self.betas) - 1

    def alpha(self, t: ArrayLike) -> Array:
        """Factor of the data from the table, default float dtype."""
        return self._at(np.exp(self._log_alpha_sq / 2), t)

    def sigma(self, t: ArrayLike) -> Array:
        """Standard deviation of the noise from the table, default float dtype."""
        return self._at(self._sigmas, t)

    def log_snr(self, t: ArrayLike) -> Array:
        """Log-SNR from the table, log(α_t²/σ_t²), default float dtype."""
        return self._at(self._log_alpha_sq - 2 * np.log(self._sigmas), t)

    def _quantile(self, u: Array) -> Array:
        steps = len(self.betas)
        return jnp.clip((u * steps).astype(jnp.int32), 0, steps - 1)

    @cached_property
    def _log_alpha_sq(self) -> np.ndarray:
        return np.cumsum(np.log1p(-np.asarray(self.betas)))

    @cached_property
    def _sigmas(self) -> np.ndarray:
        return np.sqrt(-np.expm1(self._log_alpha_sq))

    def _at(self, table: np.ndarray, t: ArrayLike) -> Array:
        # NaN instead of the neighbouring entry for a traced step outside the table
        return (
            jnp.asarray(table, jnp.result_type(float))
            .at[jnp.asarray(t, jnp.int32)]
            .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        )

    def _time(self, sigma: Array) -> Array:
        edges = (self._sigmas[1:] + self._sigmas[:-1]) / 2
        return jnp.searchsorted(jnp.asarray(edges, sigma.dtype), sigma).astype(jnp.int32)
