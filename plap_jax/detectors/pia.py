"""PIA: whether the network recovers the noise it predicted itself, once that is added (Kong et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from plap_jax.detectors.base import Detector, Need, Query, unscaled
from plap_jax.detectors.sima import quartic
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey, require_point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PIA(Detector):
    """Minus the error of predicting the network's own noise again, once it has been added to the image.

    −‖ε₀ − ε̂(αx₀ + σε₀, t)‖₄⁴, ε₀ = ε̂(x₀, t₀), t₀ the smallest time of the schedule (Kong et al., ICLR 2024).

    The network was trained on paths from a member x₀, so it recovers ε₀ there. The input at t₀ is x₀ itself, as
    published; under flow matching x₀ √(α² + σ²), which is closer to αx₀. ε₀ is not rescaled (the variant PIAN rescales
    it).

    Args:
        sigma: noise level of t, > 0, within the schedule and above its smallest.
    """

    sigma: float
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus a sum of fourth powers, no unit. The key is not used."""
        require_point(query.image)
        t = model.schedule.time_at(self.sigma)
        start = model.schedule.t_min
        first = model.eps(unscaled(model, query.image, start), start, query.prompt)
        again = model.eps(model.noised(query.image, t, first), t, query.prompt)
        # Negated: members have the smaller error.
        return -quartic(first - again)

    def nfe(self, dim: int) -> int:
        """Two."""
        return 2
