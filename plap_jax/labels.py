"""Which generated points are copies, by their distances to the nearest training points."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from plap_jax.neighbours import nearest
from plap_jax.typing import ArrayLike, require

# The number of neighbours in the relative distance of Carlini et al. (2023).
N_FOR_SCALE = 50


@dataclass(frozen=True)
class Copies:
    """Distances of generated points to their nearest training points, and whether each is a copy by two criteria.

    Attributes:
        nearest: ``(n,)`` index of the nearest training point.
        ratio: ``(n,)`` d₁/d₂, distances to the nearest and the second nearest, in [0, 1].
        distance: ``(n,)`` d₁/√d, the root mean square difference per coordinate, in the units of the points.
        relative: ``(n,)`` d₁ / (½ mean distance to the 50 nearest, or to all if there are fewer).
        max_ratio: a copy by ratio has d₁/d₂ below it.
        max_distance: a copy by distance has d₁/√d below it.
    """

    nearest: np.ndarray
    ratio: np.ndarray
    distance: np.ndarray
    relative: np.ndarray
    max_ratio: float
    max_distance: float

    @property
    def by_ratio(self) -> np.ndarray:
        """Copies by ratio, ``(n,)`` booleans: d₁/d₂ < max_ratio (Yoon et al. 2023, Gu et al. 2023)."""
        return self.ratio < self.max_ratio

    @property
    def by_distance(self) -> np.ndarray:
        """Copies by distance, ``(n,)`` booleans: d₁/√d < max_distance (Carlini et al. 2023)."""
        return self.distance < self.max_distance

    def counts(self, n_reference: int) -> np.ndarray:
        """How many generated points are copies, by ratio, of each training point: ``(n_reference,)``."""
        return np.bincount(self.nearest[self.by_ratio], minlength=n_reference)


def find_copies(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    max_ratio: float = 1 / 3,
    max_distance: float = 0.1,
    memory_mib: float = 256,
) -> Copies:
    """Find the generated points that copy a training point.

    Two criteria: d₁/d₂ < max_ratio, relative to the local density of the training set, and d₁/√d < max_distance, which
    is absolute. A copy of a duplicated training point would have d₁ = d₂ and count as new, so a reference with
    duplicates is refused.

    Args:
        generated: ``(n, *shape)``, real; n ≥ 1.
        reference: the training points without duplicates, ``(m, *shape)``, m ≥ 2.
        max_ratio: in (0, 1].
        max_distance: > 0, in the units of the points; the default is 5 % of the range of images in [−1, 1].
        memory_mib: bound of the working memory.

    Raises:
        ValueError: shapes that do not match, fewer than two training points or equal ones, thresholds out of range,
            values that are not finite.
    """
    require(0 < max_ratio <= 1, "max_ratio", max_ratio, "must lie in (0, 1]")
    require(max_distance > 0, "max_distance", max_distance, "must be > 0")
    reference = np.asarray(reference)
    require(len(reference) >= 2, "reference", reference.shape, "must hold at least two points")
    distinct = len({hashlib.blake2b(np.ascontiguousarray(row), digest_size=16).digest() for row in reference})
    allowed = f"must hold each point once: {distinct} of {len(reference)} are distinct"
    require(distinct == len(reference), "reference", reference.shape, allowed)
    apart, indices = nearest(generated, reference, min(N_FOR_SCALE, len(reference)), memory_mib=memory_mib)
    return Copies(
        nearest=indices[:, 0],
        ratio=apart[:, 0] / apart[:, 1],  # the reference's points differ, so d₂ > 0
        distance=apart[:, 0] / np.sqrt(reference[0].size),
        relative=apart[:, 0] / (apart.mean(axis=1) / 2),
        max_ratio=max_ratio,
        max_distance=max_distance,
    )
