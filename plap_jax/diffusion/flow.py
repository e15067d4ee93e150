"""Flow matching on straight paths, α = 1 − t and σ = t: what SD3, FLUX and SiT are trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from plap_jax.diffusion.schedules import Schedule, floating
from plap_jax.typing import Array, ArrayLike, require

TrainingTimes = Literal["uniform", "logit_normal"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """Noise schedule of flow matching on straight paths from data to noise.

    α = 1 − t, σ = t, t in [t_min, t_max] (Liu et al. 2023; Esser et al. 2024, with data at t = 0).

    Its networks usually predict the direction of the path, ε − x₀: ``Diffusion(network, RectifiedFlow(), "flow")``.
    α² + σ² is not 1. The same mixture of image and noise as under a variance-preserving schedule has the same σ/α:
    ``time_at_ratio``, t = ς/(1 + ς). σ itself, as ``time_at`` takes it, is t.

    Args:
        t_min, t_max: 0 < t_min < t_max < 1; α vanishes at t = 1.
        training_times: "uniform", or "logit_normal", which prefers the middle of the path.
        logit_mean, logit_std: log(t/(1 − t)) ~ N(logit_mean, logit_std²) in training with "logit_normal", clipped to
            the range; logit_std > 0 (Esser et al. 2024, section 3.1).

    Raises:
        ValueError: any of them outside its range.

    Example:
        >>> schedule = RectifiedFlow()
        >>> float(schedule.time_at_ratio(1.0))  # as much noise as signal
        0.5
    """

    t_min: float = 1e-3
    t_max: float = 0.999
    training_times: TrainingTimes = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.t_min < 1, "t_min", self.t_min, "must lie in (0, 1)")
        require(self.t_min < self.t_max < 1, "t_max", self.t_max, f"must lie in (t_min={self.t_min}, 1)")
        known = get_args(TrainingTimes)
        require(
            self.training_times in known, "training_times", self.training_times, f"must be one of {', '.join(known)}"
        )
        require(math.isfinite(self.logit_mean), "logit_mean", self.logit_mean, "must be finite")
        require(0 < self.logit_std < math.inf, "logit_std", self.logit_std, "must be finite and > 0")

    def alpha(self, t: ArrayLike) -> Array:
        """Factor of the data, 1 − t."""
        return 1 - floating(t)

    def sigma(self, t: ArrayLike) -> Array:
        """Standard deviation of the noise, t itself."""
        return floating(t)

    def log_snr(self, t: ArrayLike) -> Array:
        """Log-SNR, 2 log((1 − t)/t)."""
        t = floating(t)
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    def _quantile(self, u: Array) -> Array:
        if self.training_times == "uniform":
            return super()._quantile(u)
        logit = self.logit_mean + self.logit_std * jax.scipy.special.ndtri(u)
        return jnp.clip(jax.nn.sigmoid(logit), self.t_min, self.t_max)

    def _time(self, sigma: Array) -> Array:
        return sigma
