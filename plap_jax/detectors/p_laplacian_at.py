"""The p-Laplacian at the image itself: the operator without its ball average."""

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
    """−Δ_p u(αx₀) = −|s|^{p−2} ( tr J + (p−2) ŝᵀJŝ ), u = log q_t, exact; |s|² → |s|² + (smoothing · √d/σ)².

    At p = 1, (d−1) × the mean curvature of the level set of q through αx₀, positive around a maximum. At an exact
    maximum it is infinite for p < 2, and a memorized image is one. √d/σ is the size of s where noise is removed
    completely; a network knows ε̂ to no better than about 10⁻³ of that, so that the direction of a smaller s says
    nothing. The smoothing makes a memorized image the largest value that there is, (d/σ²) (smoothing √d/σ)^{p−2}, in
    place of ∞. With a prompt, s is the score given it.

    Args:
        sigma: noise level, > 0, within the schedule.
        p: order, ≥ 1.
        smoothing: in units of √d/σ; 0 for none, and then a memorized image may be refused as infinite.
    """

    sigma: float
    p: float = 1.0
    smoothing: float = 1e-3
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """−Δ_p u in units of u/length^p. The key is not used."""
        t = model.schedule.time_at(self.sigma)
        centre, _ = model.ball(query.image, t)
        eps = self.smoothing * math.sqrt(centre.size) / model.schedule.sigma(t)
        # Negated: Δ_p u is negative at maxima.
        return -p_laplacian(model.score_at(t, query.prompt), centre, self.p, eps=eps)

    def nfe(self, dim: int) -> int:
        """The score, and two for each of d + 1 Jacobian-vector products."""
        return 1 + 2 * (dim + 1)
