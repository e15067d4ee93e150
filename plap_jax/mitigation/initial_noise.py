"""What both methods that change the initial noise share: candidates, Adam, and a threshold."""

from __future__ import annotations

import math
from abc import abstractmethod
from numbers import Integral
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.mitigation.base import Mitigation, Requirement, Sampled, counted, require_strength
from plap_jax.mitigation.descent import descend
from plap_jax.mitigation.gap import unguided
from plap_jax.sampling import initial_point
from plap_jax.typing import Array, ArrayLike, PRNGKey, require

CANDIDATES = 2**22  # folded into the key of a sample


class InitialNoise(Mitigation):
    """Base of the methods that move x_T before plain sampling.

    Of ``candidates`` starts, the sample's own and further draws, each moved by Adam until ``loss`` is at most
    ``threshold``, at most ``max_steps`` steps: the first that gets there, else the one with the smallest loss.
    """

    threshold: ArrayLike
    learning_rate: ArrayLike
    max_steps: ArrayLike
    candidates: int
    needs: ClassVar[frozenset[Requirement]] = frozenset({"prompt", "derivatives"})
    evaluations: ClassVar[int]  # of the loss; its derivative costs twice as many more

    def __post_init__(self) -> None:
        require_strength("threshold", self.threshold, lambda v: 0 < v < math.inf, "must be finite and > 0")
        require_strength("learning_rate", self.learning_rate, lambda v: 0 < v < math.inf, "must be finite and > 0")
        for name, value in (("max_steps", self.max_steps), ("candidates", self.candidates)):
            if isinstance(value, int | float):
                whole = isinstance(value, Integral) and value >= 1
                require(whole, name, value, "must be an integer >= 1")

    @abstractmethod
    def loss(self, plain: Diffusion, x: Array, condition: ArrayLike) -> Array:
        """What is to become small, of x at t_max, a scalar."""

    def _sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
        plain, _ = unguided(diffusion)
        how = {"target": self.threshold, "learning_rate": self.learning_rate, "max_steps": self.max_steps}

        def candidate(state: tuple) -> tuple:
            number, best, least, before, steps = state
            drawn = initial_point(diffusion, jax.random.fold_in(key, CANDIDATES + number), start.shape)
            x = jnp.where(number == 0, start, drawn.astype(start.dtype))
            x, value, first, taken = descend(lambda x: self.loss(plain, x, condition), x, **how)
            better = value < least
            before = jnp.where(number == 0, first, before)
            return number + 1, jnp.where(better, x, best), jnp.where(better, value, least), before, steps + taken

        def goes_on(state: tuple) -> Array:
            return (state[0] < self.candidates) & ~(state[2] <= self.threshold)

        nothing, infinite = jnp.asarray(0, jnp.int32), jnp.asarray(jnp.inf, start.dtype)
        state = (nothing, start, infinite, infinite, nothing)
        tried, best, least, before, steps = jax.lax.while_loop(goes_on, candidate, state)
        image, spent = counted(self.sampler, diffusion, key, best, condition)
        notes = {"loss_before": before, "loss_after": least, "noise_steps": steps, "candidates": tried}
        return Sampled(image, (spent + 3 * self.evaluations * (tried + steps)).astype(jnp.int32), notes)
