"""Training settings, as one frozen object."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax.numpy as jnp
import optax

from plap_jax.typing import Array, ArrayLike, require

LearningRateSchedule = Literal["cosine", "constant"]
Loop = Literal["scan", "python"]


@dataclass(frozen=True)
class TrainConfig:
    """Training settings: AdamW, a learning-rate schedule, an exponential moving average of the weights.

    Args:
        n_steps: optimizer steps, ≥ 1.
        batch_size: points per step, ≥ 1.
        learning_rate: the peak, > 0.
        schedule: "cosine" falls to zero at the last step, "constant" does not.
        warmup_steps: steps of linear warm-up from 0 to the peak, in [0, n_steps).
        ema_decay: in [0, 1): the result is ema ← d ema + (1−d) weights, d = min(ema_decay, (1+step)/(10+step)), so
            that even short runs forget the initial weights.
        chunk_steps: steps between returns to the host (progress, callbacks, checks), ≥ 1.
        checkpoint_every: steps between checkpoints, rounded up to whole chunks; None for the last one only.
        grad_clip: largest allowed norm of the gradient, > 0, or None.
        weight_decay: ≥ 0, per unit of learning rate.
        condition_dropout: share of points trained without their caption, in [0, 1].
        loop: "scan" compiles a chunk of steps into one call, best for dense networks; "python" calls a compiled
            step, best for convolutions on a CPU, which are slow within compiled loops.

    Raises:
        ValueError: a value outside its range.
    """

    n_steps: int = 4000
    batch_size: int = 256
    learning_rate: float = 2e-3
    schedule: LearningRateSchedule = "cosine"
    warmup_steps: int = 0
    ema_decay: float = 0.999
    chunk_steps: int = 500
    checkpoint_every: int | None = None
    grad_clip: float | None = None
    weight_decay: float = 0.0
    condition_dropout: float = 0.0
    loop: Loop = "scan"

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "chunk_steps"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, value, "must be an integer >= 1")
        good = self.checkpoint_every is None or self.checkpoint_every >= 1
        require(good, "checkpoint_every", self.checkpoint_every, "must be >= 1, or None")
        require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "must be finite and > 0")
        good = 0 <= self.warmup_steps < self.n_steps
        require(good, "warmup_steps", self.warmup_steps, f"must lie in [0, n_steps={self.n_steps})")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must lie in [0, 1)")
        good = self.grad_clip is None or 0 < self.grad_clip < math.inf
        require(good, "grad_clip", self.grad_clip, "must be finite and > 0, or None")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "must be finite and >= 0")
        good = 0 <= self.condition_dropout <= 1
        require(good, "condition_dropout", self.condition_dropout, "must lie in [0, 1]")
        for name, allowed in (("schedule", LearningRateSchedule), ("loop", Loop)):
            value = getattr(self, name)
            require(value in get_args(allowed), name, value, f"must be one of {', '.join(get_args(allowed))}")

    @property
    def recipe(self) -> TrainConfig:
        """The settings that determine what a step computes; those of driving and saving are set to the default."""
        return replace(
            self, **{name: getattr(TrainConfig, name) for name in ("loop", "chunk_steps", "checkpoint_every")}
        )

    def learning_rate_at(self, step: ArrayLike) -> Array:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            rates = optax.constant_schedule(self.learning_rate)
        else:
            rates = optax.cosine_decay_schedule(self.learning_rate, self.n_steps - self.warmup_steps)
        if self.warmup_steps:
            rise = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
            rates = optax.join_schedules([rise, rates], [self.warmup_steps])
        return jnp.asarray(rates(step))
