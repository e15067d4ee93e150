"""κ^Δ: the flux of the gap between conditional and unconditional score (Brokman et al., NeurIPS 2025 workshop)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax

from plap_jax._flux import flux
from plap_jax.detectors.base import Detector, Need, Query, gap_at
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions
from plap_jax.typing import Array, PRNGKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FluxGap(Detector):
    """Flux density of the gap between conditional and unconditional score: whether the prompt pulls towards this image.

    κ^Δ_p = −E_n[ |Δ|^{p−2} ⟨Δ, n⟩ ], Δ = s(· | c) − s = ∇ log q(c | ·), at αx₀ + σ√d n.

    If a prompt belongs to one image, it becomes more likely towards that image, and the gap points at it. A direction
    whose gap is exactly 0 contributes 0 (``plap_jax.flux``).

    Args:
        sigma: noise level, > 0, within the schedule.
        n_samples: directions, two evaluations each.
        p: order, ≥ 1.
        directions: as for ``plap_jax.flux``.
    """

    sigma: float
    p: float = 1.0
    n_samples: int = field(default=16, metadata={"static": True})
    directions: Directions = field(default="iid", metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image", "prompt"})

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The flux density κ^Δ_p of the gap, in the units of |s|^{p−1}."""
        t = model.schedule.time_at(self.sigma)
        centre, radius = model.ball(query.image, t)
        how = {"n_samples": self.n_samples, "directions": self.directions}
        return flux(gap_at(model, t, query.prompt), centre, radius=radius, p=self.p, key=key, **how).value

    def nfe(self, dim: int) -> int:
        """Two per direction."""
        return 2 * self.n_samples
