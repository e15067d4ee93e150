"""FLIPD: local intrinsic dimension from the Fokker–Planck equation (Kamkari et al., NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax

from plap_jax.detectors.base import Detector, Need, Query, norm
from plap_jax.diffusion import Diffusion
from plap_jax.operators import p_laplacian, p_laplacian_estimate
from plap_jax.typing import Array, PRNGKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FLIPD(Detector):
    """Minus the local intrinsic dimension at the image, from the Fokker–Planck equation.

    −( d + σ² tr ∇s + σ²‖s‖² ) at αx₀, no noise added.

    Kamkari et al. (NeurIPS 2024); for memorization Ross et al. (ICLR 2025). The noised density at a k-dimensional set
    scales as σ^{k−d}: the dimension is d plus the derivative of log q_t(αx₀) by log σ. An exact score gives
    −( α² tr Cov[x₀ | x_t = αx₀]/σ² + ‖ε̂‖² ) ≤ 0: 0 at a memorized image, −k on a k-dimensional subspace with wide data,
    and far lower for an image off the data. With a prompt, s is the conditional score.

    Args:
        sigma: noise level, > 0, within the schedule.
        n_probes: Rademacher probes of Hutchinson's trace, ≥ 2, one Jacobian-vector product each; None: the exact trace
            by d products.
    """

    sigma: float
    n_probes: int | None = field(default=None, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True
    needs_derivatives: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus the dimension, no unit."""
        t = model.schedule.time_at(self.sigma)
        centre, _ = model.ball(query.image, t)
        score = model.score_at(t, query.prompt)
        if self.n_probes is None:
            trace = p_laplacian(score, centre, 2.0)
        else:
            trace = p_laplacian_estimate(score, centre, 2.0, key=key, n_probes=self.n_probes).value
        # On a discrete schedule, the σ of the nearest step.
        sigma = model.schedule.sigma(t).astype(trace.dtype)
        # Negated: a memorized image is a point, of dimension 0.
        return -(centre.size + sigma**2 * trace + (sigma * norm(score(centre))) ** 2)

    def nfe(self, dim: int) -> int:
        """Two scores, and two for each product: those of the trace and one that the operator needs at any p."""
        return 2 + 2 * ((dim if self.n_probes is None else self.n_probes) + 1)
