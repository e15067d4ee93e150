"""Evidence of every image at all noise levels: what a verdict without a chosen level is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from plap_jax.audit.evaluator import Columns, Evaluator
from plap_jax.audit.settings import NAMES
from plap_jax.diffusion import Diffusion
from plap_jax.evidence import EvidenceAt, Kind, nfe_at_level, times_of
from plap_jax.typing import Array


@dataclass(frozen=True)
class Gatherer(Evaluator):
    """Asks one model for evidence, in directions that images, levels and models share (``plap_jax.evidence``).

    Attributes:
        kind: κ₁ without a prompt, given it, or κ^Δ.
    """

    kind: Kind = "kappa"

    @cached_property
    def times(self) -> dict[float, Array]:
        """Noise level ↦ time, of those that the model's schedule reaches."""
        model = self.subject.model
        return times_of(model.diffusion.schedule, self.settings.noise_levels, model.unit)

    @property
    def how(self) -> Mapping[str, Any]:
        """All that the evidence depends on beside images, prompts and code; JSON-able."""
        times = [float(t) for t in self.times.values()]
        return self.identity | {"n_directions": self.settings.n_directions, "times": times, "kind": self.kind}

    @property
    def words(self) -> str:
        """What the evidence is of."""
        return NAMES[self.kind]

    @property
    def cost(self) -> int:
        """All points at one level."""
        return nfe_at_level(self.kind, self.settings.n_directions)

    def columns(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Columns:
        """``kappa``, ``kappa_stderr``, ``contrast`` ``(n, L)``; ``n_units``, ``nfe``, ``spent``."""
        rows = (points,) if numbers is None else (points, numbers)
        how = (self.key, self.kind, self.settings.n_directions)
        found, computed = [], 0.0
        for t in self.times.values():
            values, share = self.in_batches(EvidenceAt(model, t, *how), *rows)
            found.append(values)
            computed += share
        kappa, stderr, _, contrast = (np.stack(values, axis=1) for values in zip(*found, strict=True))
        columns = {"kappa": kappa, "kappa_stderr": stderr, "contrast": contrast}
        n, cost = len(points), self.cost
        spent = {
            "n_units": np.full(n, self.settings.n_directions),
            "nfe": np.full(n, cost * len(found)),
            "spent": np.full(n, cost * computed),
        }
        return columns | spent
