"""Flux density κ_p through the noise shell around an image (Brokman et al., SSVM 2025)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax

from plap_jax._flux import flux
from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions
from plap_jax.typing import Array, PRNGKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FluxDensity(Detector):
    """How strongly the score points back at the image from all around it: flux density through its noise shell.

    κ_p = −E_n[ |s|^{p−2} ⟨s, n⟩ ] at αx₀ + σ√d n, n uniform on the sphere (Brokman et al., SSVM 2025).

    κ_1 is the mean cosine between the predicted noise and n: near 1 where the score points back at the image from
    everywhere, as around a memorized image. With a prompt, s is the conditional score.

    Args:
        sigma: noise level, > 0, within the schedule.
        n_samples: directions, one evaluation each.
        p: order, ≥ 1.
        directions: as for ``plap_jax.flux``.
    """

    sigma: float
    p: float = 1.0
    n_samples: int = field(default=16, metadata={"static": True})
    directions: Directions = field(default="iid", metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The flux density κ_p, in the units of |s|^{p−1}."""
        t = model.schedule.time_at(self.sigma)
        centre, radius = model.ball(query.image, t)
        score = model.score_at(t, query.prompt)
        how = {"n_samples": self.n_samples, "directions": self.directions}
        return flux(score, centre, radius=radius, p=self.p, key=key, **how).value

    def nfe(self, dim: int) -> int:
        """One per direction."""
        return self.n_samples
