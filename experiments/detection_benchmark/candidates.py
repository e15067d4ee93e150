"""A detector that was tried and is not better than the best others: here, so that the result can be repeated.

docs/results.md has the numbers. What is better by a paired interval would move to ``plap_jax.detectors``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import numpy as np

from plap_jax._flux import flux
from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions
from plap_jax.typing import Array, PRNGKey, require


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FluxContrast(Detector):
    """κ_1(σ) − w κ_1(σ'), σ < σ': κ_1 on the noise shell against that on a larger one, in the same directions.

    κ_1 ≈ √(1 − k/d) tells the dimension k of what the model knows around an image, at the scale of the noise. An image
    that is simple, memorized or not, is high at all scales; a memorized one is higher at small noise than its
    surroundings are at large noise. The larger shell is the local reference that takes simplicity out. Introduced here;
    w = 0 is ``FluxDensity``.

    Args:
        sigma: noise level, > 0, within the schedule.
        sigma_reference: the larger one.
        weight: w ≥ 0, no unit; 1 takes the difference.
        n_samples: directions per shell; an evaluation each, at each level.
        directions: see ``plap_jax.directions``.

    Raises:
        ValueError: sigma_reference (known, not traced) not above sigma, or a negative weight.
    """

    sigma: float
    sigma_reference: float
    weight: float = 1.0
    n_samples: int = field(default=8, metadata={"static": True})
    directions: Directions = field(default="iid", metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        numbers = (self.sigma, self.sigma_reference, self.weight)
        if all(isinstance(value, int | float | np.floating) for value in numbers):  # JAX puts placeholders here
            allowed = f"must be above sigma={self.sigma}"
            require(self.sigma_reference > self.sigma, "sigma_reference", self.sigma_reference, allowed)
            require(0 <= self.weight < math.inf, "weight", self.weight, "must be finite and >= 0")

    @property
    def levels(self) -> tuple[float, ...]:
        """Both."""
        return self.sigma, self.sigma_reference

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """In [−1 − w, 1 + w], no unit."""
        near, far = (self._kappa(model, query, key, sigma) for sigma in self.levels)
        return near - self.weight * far

    def _kappa(self, model: Diffusion, query: Query, key: PRNGKey, sigma: float) -> Array:
        t = model.schedule.time_at(sigma)
        centre, radius = model.ball(query.image, t)
        how = {"n_samples": self.n_samples, "directions": self.directions, "control": False}
        return flux(model.score_at(t, query.prompt), centre, radius=radius, key=key, **how).value

    def nfe(self, dim: int) -> int:
        """One per direction and level."""
        return 2 * self.n_samples
