"""The p-Laplacian at the image itself, without a ball average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax

from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.operators import p_laplacian
from plap_jax.typing import Array, PRNGKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PLaplacianAt(Detector):
    """Minus the p-Laplacian of the log-density at the image itself, without a ball average.

    −Δ_p u(αx₀) = −|s|^{p−2} ( tr J + (p−2) ŝᵀJŝ ), u = log q_t, exact; |s|² → |s|² + (smoothing · √d/σ)².

    At p = 1, (d−1) × the mean curvature of the level set of q through αx₀, positive around a maximum. At an exact
    maximum, such as a memorized image, it is infinite for p < 2. √d/σ is the norm of s where noise is removed
    completely; networks know ε̂ to about 10⁻³ of that at best, so the direction of a smaller s is meaningless. With the
    smoothing a memorized image has the largest possible value, (d/σ²) (smoothing √d/σ)^{p−2}, instead of ∞. With a
    prompt, s is the conditional score.

    Args:
        sigma: noise level, > 0, within the schedule.
        p: order, ≥ 1.
        smoothing: in units of √d/σ; with 0, none, a memorized image may be refused as infinite.
    """

    sigma: float
    p: float = 1.0
    smoothing: float = 1e-3
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True
    needs_derivatives: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus the p-Laplacian, in units of u/length^p. The key is not used."""
        t = model.schedule.time_at(self.sigma)
        centre, _ = model.ball(query.image, t)
        eps = self.smoothing * math.sqrt(centre.size) / model.schedule.sigma(t)
        # Negated: Δ_p u is negative at maxima.
        return -p_laplacian(model.score_at(t, query.prompt), centre, self.p, eps=eps)

    def nfe(self, dim: int) -> int:
        """The score, and two for each of d + 1 Jacobian-vector products."""
        return 1 + 2 * (dim + 1)
