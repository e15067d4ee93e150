"""Denoising loss: the training loss at the image (Carlini et al., USENIX Security 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey, at_least_float32, require, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenoisingLoss(Detector):
    """Minus the training loss at the image, averaged over noise draws.

    −E_ε ‖ε − ε̂(αx₀ + σε)‖²/d, ε ~ N(0, I), (Carlini et al. 2023, arXiv 2301.13188).

    For exact scores its mean over the data lies in [−1, 0]: 0 where the noise is predicted perfectly, as around a
    memorized image. For N(μ, Σ), C = α²Σ + σ²I: −( tr(α²ΣC⁻¹)² + α²σ² ‖C⁻¹(x₀ − μ)‖² )/d. With a prompt
    ε̂ is conditional.

    Args:
        sigma: noise level, > 0, within the schedule.
        n_samples: draws, ≥ 1, one evaluation each, the same for all images.
    """

    sigma: float
    n_samples: int = field(default=16, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.n_samples, Integral) and self.n_samples >= 1
        require(whole, "n_samples", self.n_samples, "must be an integer >= 1")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus a mean square, no unit."""
        require_point(query.image)
        t = model.schedule.time_at(self.sigma)
        image = at_least_float32(query.image)  # the same draws whatever the precision of the images

        def loss(noise: Array) -> Array:
            return jnp.mean((noise - model.eps(model.noised(image, t, noise), t, query.prompt)) ** 2)

        noise = jax.random.normal(key, (self.n_samples, *image.shape), image.dtype)
        # Negated: memorized images have a small loss.
        return -jnp.mean(jax.vmap(loss)(noise))

    def nfe(self, dim: int) -> int:
        """One per draw."""
        return self.n_samples
