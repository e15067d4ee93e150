"""SimA: the norm of the noise predicted for a clean image (Rao et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query, unscaled
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SimA(Detector):
    """Minus the size of the noise that the network predicts for the clean image.

    −‖ε̂(x₀, t)‖₄⁴, with x₀ itself as x_t (Rao et al. 2025).

    The score is small near a mode. x₀ is not scaled by α, as published: under a variance-preserving schedule the mode
    lies at αx₀, and ‖(1−α)x₀/σ‖₄⁴ remains even for a perfect memorizer; it is small where σ is (1−α ≈ σ²/2). Under
    flow matching the image is x₀ √(α² + σ²), which gives the same value at the same σ/α.

    Args:
        sigma: noise level of t, > 0, within the schedule.
    """

    sigma: float
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus a sum of fourth powers, no unit. The key is not used."""
        require_point(query.image)
        t = model.schedule.time_at(self.sigma)
        # Negated: a memorized image has little to remove.
        return -quartic(model.eps(unscaled(model, query.image, t), t, query.prompt))

    def nfe(self, dim: int) -> int:
        """One."""
        return 1


def quartic(x: Array) -> Array:
    """Sum of fourth powers, ‖x‖₄⁴."""
    return jnp.sum(x**4)
