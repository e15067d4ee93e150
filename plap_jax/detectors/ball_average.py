"""The p-Laplacian averaged over the noise ball, from points inside it; ``FluxDensity`` uses its boundary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax

from plap_jax._volume import volume
from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BallAverage(Detector):
    """Minus the p-Laplacian averaged over the noise ball, from points inside the ball.

    −(1/|B|) ∫_B Δ_p u, B the ball of radius r = σ√d around αx₀, by uniform points of it (Brokman et al., SSVM 2025).

    Equal in expectation to (d/r) κ_p = (√d/σ) κ_p (``FluxDensity``) for d + p > 2, at about d times the cost per point;
    included for comparison. Its variance is infinite around critical points if p ≤ 2 − d/2. In high dimension almost
    all of the volume lies near the shell. With a prompt, s is the conditional score.

    Args:
        sigma: noise level, > 0, within the schedule.
        p: order, ≥ 1.
        n_samples: points of the ball, ≥ 2.
    """

    sigma: float
    p: float = 1.0
    n_samples: int = field(default=4, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True
    needs_derivatives: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus the average, in units of u/length^p."""
        t = model.schedule.time_at(self.sigma)
        centre, radius = model.ball(query.image, t)
        score = model.score_at(t, query.prompt)
        # Negated: Δ_p u is negative at maxima.
        return -volume(score, centre, radius=radius, p=self.p, key=key, n_samples=self.n_samples).value

    def nfe(self, dim: int) -> int:
        """Per point, the score and two for each of d + 1 Jacobian-vector products."""
        return self.n_samples * (1 + 2 * (dim + 1))
