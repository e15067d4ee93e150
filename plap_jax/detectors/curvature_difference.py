"""Curvature difference: the curvature that a prompt, or more training, adds (Kim & Lee, ICML 2026)."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

import jax
from jax.tree_util import Partial

from plap_jax.detectors.base import Detector, Need, Query, gap_at
from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.operators import p_laplacian_estimate
from plap_jax.typing import Array, ArrayLike, Estimate, PRNGKey, require


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class CurvatureDifference(Detector):
    """How much curvature the prompt adds at the image, or more training: minus a difference of traces.

    −tr(H_c − H_∅) at αx₀, H = ∇s, by Rademacher products: the sum over coordinates of −diag(H_c − H_∅).

    Kim & Lee (ICML 2026, arXiv 2605.26756) map −diag(H_c − H_∅) to tell which parts of a generated image are memorized:
    there the variance collapses, and −diag H is large. That map is ``plap_jax.curvature_map.curvature_difference``,
    which this sums: with the same key and ``gap_at`` as its score exactly. They take the last step of a generation,
    a small noise level, and add up channels and cut negative values off; we cut nothing, since that would make a bias
    of the noise of few probes.

    Curvature comes from constraints of the data, too, whence the difference. With ``baseline``, another model that has
    seen less (an earlier checkpoint, the base of a fine-tune) takes the place of H_∅, under the same prompt.

    For exact scores, with a single image behind the prompt in wide data of variance v: d α²v/(σ²(α²v + σ²)) ≈ d/σ².

    Args:
        sigma: noise level, > 0, within the schedule; small.
        n_probes: ≥ 2, two Jacobian-vector products each.
        baseline: a model of the same schedule, or None for the model without the prompt.
    """

    sigma: float
    n_probes: int = field(default=16, metadata={"static": True})
    baseline: Diffusion | None = None
    needs: ClassVar[frozenset[Need]] = frozenset({"image", "prompt"})
    needs_derivatives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.n_probes, Integral) and self.n_probes >= 2
        require(whole, "n_probes", self.n_probes, "must be an integer >= 2: one probe has no standard error")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The trace, in 1/unit²."""
        return self.estimate(model, query, key).value

    def estimate(self, model: Diffusion, query: Query, key: PRNGKey) -> Estimate:
        """The statistic with its standard error over probes."""
        self.check(model.schedule)
        t = model.schedule.time_at(self.sigma)
        centre, _ = model.ball(query.image, t)
        gap = gap_at(model, t, query.prompt)
        if self.baseline is not None:
            gap = Partial(_between, model, self.baseline, t, query.prompt)
        # Of any field, Δ_2 is the divergence. Negated: at a memorized image the score falls off in all directions.
        found = p_laplacian_estimate(gap, centre, 2.0, key=key, n_probes=self.n_probes)
        return Estimate(-found.value, found.stderr, self.nfe(centre.size), self.n_probes)

    def check(self, schedule: Schedule) -> None:
        """As ``Detector.check``; also refuses a baseline of another schedule."""
        super().check(schedule)
        same = self.baseline is None or self.baseline.schedule == schedule
        require(same, "baseline.schedule", self.baseline and self.baseline.schedule, f"must be the model's, {schedule}")

    def check_derivatives(self, model: Diffusion) -> None:
        """As ``Detector.check_derivatives``, of the baseline too."""
        super().check_derivatives(model)
        if self.baseline is not None:
            super().check_derivatives(self.baseline)

    def nfe(self, dim: int) -> int:
        """Two scores, and four for each product: those of the probes and one that the operator needs at any p."""
        return 2 + 4 * (self.n_probes + 1)


def _between(model: Diffusion, baseline: Diffusion, t: Array, prompt: ArrayLike, x: Array) -> Array:
    return model.score(x, t, prompt) - baseline.score(x, t, prompt)
