"""Sharpness: the curvature that the prompt adds, in the direction it pulls (Jeon et al., ICML 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query, gap_at, norm, unscaled
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey, at_least_float32, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sharpness(Detector):
    """The curvature that the prompt adds at the initial noise, in the direction in which it pulls.

    ‖J_Δ Δ‖₂, Δ = s(· | c) − s, J_Δ = ∇Δ = J_{s_c} − J_s, at the query's noise.

    Jeon et al. (ICML 2025, arXiv 2412.04140). Larger than ‖Δ‖ alone where Δ lies in directions that the prompt makes
    sharp. The product is one forward-mode derivative of the gap; no Hessian is formed.

    Args:
        sigma: noise level given to the network, > 0, within the schedule; None for that of t_max, the level of the
            noise. The noise is not rescaled, but under flow matching by √(α² + σ²), as VP has it at the same σ/α.
    """

    sigma: float | None = None
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "noise"})
    needs_derivatives: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The norm, in 1/unit³. The key is not used."""
        require_point(query.noise)
        t = model.schedule.t_max if self.sigma is None else model.schedule.time_at(self.sigma)
        x = at_least_float32(query.noise) if self.sigma is None else unscaled(model, query.noise, t)
        gap, product = jax.linearize(gap_at(model, t, query.prompt), x)
        size = norm(gap)
        # The product with the unit vector: with a large Δ it would overflow in a float16 network.
        return size * norm(product(gap / jnp.where(size == 0, 1, size)))

    @property
    def levels(self) -> tuple[float, ...]:
        """See ``Detector``."""
        return () if self.sigma is None else (self.sigma,)

    def nfe(self, dim: int) -> int:
        """Two scores, and two Jacobian-vector products that share the linearization."""
        return 2 + 2 * 2
