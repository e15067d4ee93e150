"""A network paired with its noise schedule: noise, score and denoised point at any noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from plap_jax.diffusion.conversion import PREDICTIONS, Prediction, convert, training_target
from plap_jax.diffusion.schedules import Schedule
from plap_jax.typing import Array, ArrayLike, at_least_float32, require

Conditioning = Literal["time", "log_snr", "edm"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diffusion:
    """A network paired with its noise schedule: predicted noise, score and denoised point at any noise level.

    x_t = α(t) x₀ + σ(t) ε, and the network predicts ε, x₀, v = α ε − σ x₀, the flow ε − x₀, EDM's F or the score.

    A pytree: the network and ``data_std`` are data, the rest is static. All methods take one point; use ``vmap`` or
    ``plap_jax.map_points`` for many.

    **Half precision.** Points and network outputs may be float16 or bfloat16; both are cast to float32 first, and every
    result is float32 at least: at σ = 0.03 a difference x_t − α x̂₀ taken in bfloat16 has lost its noise. The network
    therefore receives x in float32; one that computes in half precision casts it itself.

    Args:
        network: a callable pytree ``(x, level, condition=None) -> prediction``; x and prediction
            ``(*shape)``, level a scalar, condition whatever the network takes (ours: an integer, or None).
        schedule: the noise schedule.
        prediction: what the network returns: "eps", "x0", "v", "flow", "edm" or "score" (``convert``).
        data_std: standard deviation of one coordinate of the data, or None. When given, the network sees
            x_t / √(α² data_std² + σ²), which has unit variance at every level: the c_in of EDM.
        conditioning: how the network receives the noise level: "time", t itself; "log_snr", log(α²/σ²), which
            means the same under every schedule; "edm", c_noise = log(σ/α)/4, as EDM's networks do.

    Raises:
        ValueError: an unknown prediction or conditioning, or data_std not > 0; at the first use also "edm" predicted
            without data_std, which JAX may leave out when it rebuilds the pytree.

    Example:
        >>> network = jax.tree_util.Partial(lambda x, t, condition=None: x)  # yours; a flax.nnx module does as well
        >>> model = Diffusion(network, VPLinear(), prediction="eps")
        >>> model.score(jnp.ones(2), 0.5)  # −ε̂/σ
        >>> flux(model.score_at(0.5), jnp.ones(2), radius=0.1, key=jax.random.key(0))
        >>> rectified = Diffusion(network, RectifiedFlow(), prediction="flow")
        >>> preconditioned = Diffusion(network, EDM(), "edm", data_std=0.5, conditioning="edm")  # Karras et al. 2022
    """

    network: Any
    schedule: Schedule = field(metadata={"static": True})
    prediction: Prediction = field(default="eps", metadata={"static": True})
    data_std: ArrayLike | None = None
    conditioning: Conditioning = field(default="time", metadata={"static": True})

    def __post_init__(self) -> None:
        for name, allowed in (("prediction", PREDICTIONS), ("conditioning", get_args(Conditioning))):
            value = getattr(self, name)
            require(value in allowed, name, value, f"must be one of {', '.join(allowed)}")
        if isinstance(self.data_std, (int, float)):  # JAX puts placeholders here when it rebuilds the pytree
            good = 0 < self.data_std < math.inf
            require(good, "data_std", self.data_std, "must be finite and > 0, or None")

    @property
    def has_derivatives(self) -> bool:
        """Whether the network can be differentiated: False where a part of it is called outside of JAX and says so."""
        parts = jax.tree.leaves(self.network, is_leaf=lambda part: not getattr(part, "has_derivatives", True))
        return all(getattr(part, "has_derivatives", True) for part in parts)

    def output(self, x: Array, t: ArrayLike, condition: Any = None) -> Array:
        """The network's raw prediction at x_t = ``x``, given scaled input and level as it expects them.

        Args:
            x: the noised point, ``(*shape)``.
            t: time, a scalar; an integer step on a discrete schedule.
            condition: passed to the network.

        Returns:
            ``(*shape)``, the dtype of ``x``, float32 at least; NaN where t is traced and outside the schedule.

        Raises:
            ValueError: t (known, not traced) outside the schedule or between the steps of a discrete one, or the
                network returned another shape.
        """
        self.schedule.check_time(t)
        x = at_least_float32(x)
        level = self._told(t)
        if jnp.issubdtype(level.dtype, jnp.floating):
            level = level.astype(x.dtype)
        value = self.network(self._scaled(x, t), level, condition)
        require(value.shape == x.shape, "network", value.shape, f"must return the shape of its input, {x.shape}")
        return value.astype(x.dtype) * jnp.asarray(self.schedule.one_or_nan(t), x.dtype)

    def predict(self, x: Array, t: ArrayLike, condition: Any = None, target: Prediction = "eps") -> Array:
        """The ``target``, any kind of ``convert``, at x_t = ``x``, whatever the network itself predicts.

        Arguments, dtypes and errors as in ``output``; units and signs as in ``convert``.
        """
        return self._predictions(x, t, condition, (target,))[0]

    def eps(self, x: Array, t: ArrayLike, condition: Any = None) -> Array:
        """The predicted noise ε̂(x, t) = E[ε | x_t = x], ``(*shape)``, no unit."""
        return self.predict(x, t, condition, "eps")

    def score(self, x: Array, t: ArrayLike, condition: Any = None) -> Array:
        """The score s(x, t) = ∇ log q_t(x) = −ε̂/σ, ``(*shape)``, 1/unit; points towards higher density."""
        return self.predict(x, t, condition, "score")

    def denoise(self, x: Array, t: ArrayLike, condition: Any = None) -> Array:
        """The denoised point x̂₀(x, t) = E[x₀ | x_t = x] = (x − σ ε̂)/α, ``(*shape)``."""
        return self.predict(x, t, condition, "x0")

    def denoise_and_eps(self, x: Array, t: ArrayLike, condition: Any = None) -> tuple[Array, Array]:
        """The denoised point and the noise, (x̂₀, ε̂), ``(*shape)`` each, from one evaluation of the network."""
        return self._predictions(x, t, condition, ("x0", "eps"))

    def score_at(self, t: ArrayLike, condition: Any = None) -> Partial:
        """The score at time t as a function of the point, x ↦ s(x, t): a pytree for the estimators, t included as data.

        Raises:
            ValueError: t (known, not traced) outside the schedule.
        """
        return Partial(_score_at, self, self._time(t), condition)

    def eps_at(self, t: ArrayLike, condition: Any = None) -> Partial:
        """The predicted noise at time t as a function of the point, x ↦ ε̂(x, t) = −σ s(x, t); as ``score_at``.

        Raises:
            ValueError: t (known, not traced) outside the schedule.
        """
        return Partial(_eps_at, self, self._time(t), condition)

    def ball(self, x0: Array, t: ArrayLike) -> tuple[Array, Array]:
        """Centre and radius, (α x₀, σ √d), of the shell on which the noised x₀ concentrates.

        Args:
            x0: a clean point, ``(*shape)``, d = prod(shape).
            t: time, a scalar.

        Returns:
            The centre ``(*shape)`` and the radius ``()``, in the units of the data, float32 at least.

        Raises:
            ValueError: t (known, not traced) outside the schedule.
        """
        x0 = at_least_float32(x0)
        alpha, sigma = self._checked_level(t, x0.dtype)
        return alpha * x0, sigma * math.sqrt(x0.size)

    def noised(self, x0: Array, t: ArrayLike, noise: Array) -> Array:
        """The noised point x_t = α x₀ + σ ε, ``(*shape)``, float32 at least; times as in ``output``."""
        x0, noise = at_least_float32(x0), at_least_float32(noise)
        alpha, sigma = self._checked_level(t, x0.dtype)
        return alpha * x0 + sigma * noise

    def target(self, x0: Array, t: ArrayLike, noise: Array) -> Array:
        """What the network should predict at x_t = α x₀ + σ ε, ``(*shape)``; otherwise as ``noised``."""
        x0, noise = at_least_float32(x0), at_least_float32(noise)
        alpha, sigma = self._checked_level(t, x0.dtype)
        wanted = training_target(x0, noise, alpha, sigma, self.prediction, self.data_std)
        return wanted * jnp.asarray(self.schedule.one_or_nan(t), wanted.dtype)

    def _predictions(self, x: Array, t: ArrayLike, condition: Any, kinds: tuple[Prediction, ...]) -> tuple[Array, ...]:
        x = at_least_float32(x)
        value = self.output(x, t, condition)
        levels = self._level(t, x.dtype)
        found = (convert(value, x, *levels, self.prediction, kind, self.data_std) for kind in kinds)
        return tuple(one.astype(x.dtype) for one in found)

    def _told(self, t: ArrayLike) -> Array:
        """The noise level as the network receives it."""
        if self.conditioning == "time":
            return jnp.asarray(t)
        log_snr = self.schedule.log_snr(t)
        return log_snr if self.conditioning == "log_snr" else -log_snr / 8

    def _level(self, t: ArrayLike, dtype: jnp.dtype) -> tuple[Array, Array]:
        return self.schedule.alpha(t).astype(dtype), self.schedule.sigma(t).astype(dtype)

    def _checked_level(self, t: ArrayLike, dtype: jnp.dtype) -> tuple[Array, Array]:
        self.schedule.check_time(t)
        factor = jnp.asarray(self.schedule.one_or_nan(t), dtype)
        return tuple(factor * level for level in self._level(t, dtype))

    def _scaled(self, x: Array, t: ArrayLike) -> Array:
        if self.data_std is None:
            return x
        alpha, sigma = self._level(t, x.dtype)
        return x / jnp.sqrt((alpha * self.data_std) ** 2 + sigma**2).astype(x.dtype)

    def _time(self, t: ArrayLike) -> Array:
        """t as an array of fixed dtype, to avoid recompiling; a traced fraction of a step becomes −1, hence NaN."""
        self.schedule.check_time(t)
        if self.schedule.discrete:
            whole = jnp.asarray(t, jnp.int32)
            return whole if jnp.issubdtype(jnp.result_type(t), jnp.integer) else jnp.where(t == whole, whole, -1)
        return jnp.asarray(t, jnp.result_type(float))


def _score_at(diffusion: Diffusion, t: Array, condition: Any, x: Array) -> Array:
    return diffusion.score(x, t, condition)


def _eps_at(diffusion: Diffusion, t: Array, condition: Any, x: Array) -> Array:
    return diffusion.eps(x, t, condition)
