"""Anisotropy: norm of the noise gap at high noise plus its alignment at low noise (Asthana & Belagiannis 2026)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query, both_scores, norm, unscaled
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey, at_least_float32, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Anisotropy(Detector):
    """How much the prompt changes the predicted noise at high noise, plus how parallel the change is at low noise.

    ‖Δ(x, t_max)‖₂/√d + w cos(ε̂(x, t), Δ(x, t)), Δ = ε̂(· | c) − ε̂, x the query's noise at both times.

    Asthana & Belagiannis (ICLR 2026, arXiv 2601.20642): where log q is isotropic, as at high noise, the norm of the gap
    is informative; at low noise, whether it is parallel to the unconditional score. Nothing is generated: the initial
    noise is the input at the low level too, although the network was not trained on such x_t. Under VP it has the right
    norm at every level; under VE and EDM it is σ(t_max)/σ times too large; under flow matching it is multiplied by
    √(α² + σ²) at the low level, which gives the same cosine as VP at the same σ/α.

    Their weights γ₁ and γ₂ apply to the unscaled norm: w = γ₂/(γ₁√d) here, with no unit and independent of image size.
    Choose w and the level on a validation split, never on the labels that are reported.

    Where Δ or ε̂ vanishes exactly at the low level, the cosine is 0.

    Args:
        sigma_low: the low noise level, > 0, within the schedule.
        weight: w, no unit.
    """

    sigma_low: float
    weight: float = 1.0
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "noise"})

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The sum, no unit. The key is not used."""
        require_point(query.noise)
        schedule = model.schedule
        x = at_least_float32(query.noise)
        unconditional, conditional = both_scores(model, x, schedule.t_max, query.prompt)
        size = schedule.sigma(schedule.t_max).astype(x.dtype) * norm(conditional - unconditional) / math.sqrt(x.size)
        t = schedule.time_at(self.sigma_low)
        unconditional, conditional = both_scores(model, unscaled(model, x, t), t, query.prompt)
        # From scores: both signs flip and σ cancels.
        return size + self.weight * _cosine(unconditional, conditional - unconditional)

    @property
    def levels(self) -> tuple[float, ...]:
        """See ``Detector``."""
        return (self.sigma_low,)

    def nfe(self, dim: int) -> int:
        """Two at each of two levels."""
        return 4


def _cosine(a: Array, b: Array) -> Array:
    """⟨a, b⟩/(‖a‖‖b‖); 0 where either is exactly 0."""
    a, b = (jnp.ravel(v) / jnp.where(size == 0, 1, size) for v, size in ((v, norm(v)) for v in (a, b)))
    return jnp.sum(a * b)
