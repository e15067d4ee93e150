"""Score norm: how steep log q is at the image; one evaluation, the baseline to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from plap_jax.detectors.base import Detector, Need, Query, norm
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScoreNorm(Detector):
    """Minus the norm of the score at the image: 0 at a mode.

    −‖s(αx₀)‖₂, no noise added.

    For N(μ, Σ): −α ‖(α²Σ + σ²I)⁻¹(x₀ − μ)‖. A memorized image is a mode, but not every mode is one: the mean of wide
    data scores just as high. With a prompt, s is the conditional score.

    Args:
        sigma: noise level, > 0, within the schedule.
    """

    sigma: float
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus the norm, in 1/unit. The key is not used."""
        require_point(query.image)
        t = model.schedule.time_at(self.sigma)
        centre, _ = model.ball(query.image, t)
        # Negated: the score vanishes at a memorized image.
        return -norm(model.score(centre, t, query.prompt))

    def nfe(self, dim: int) -> int:
        """One."""
        return 1
