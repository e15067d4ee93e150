"""Planting: some points of a data set are repeated, so that what a model memorizes is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plap_jax.typing import ArrayLike, require


@dataclass(frozen=True)
class Planted:
    """Points with the number of copies that training sees of each: 0 held out, 1 single, ≥ 2 planted.

    The order of points carries no information about their role beyond ``copies``: whoever builds one hands over
    exchangeable points. Within every role points fall alternately into a validation and a test half: choices are made
    on the first and reported on the second.

    Attributes:
        points: ``(n, *shape)``, each once.
        copies: ``(n,)`` nonnegative integers.
        validation: ``(n,)`` booleans.
    """

    points: np.ndarray
    copies: np.ndarray
    validation: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """Training set, copies included: ``(sum(copies), *shape)``."""
        return np.repeat(self.points, self.copies, axis=0)

    @property
    def control(self) -> np.ndarray:
        """The training set without any planted point: what the negative control is trained on."""
        return self.points[self.is_single]

    @property
    def is_planted(self) -> np.ndarray:
        """``(n,)``: repeated in training."""
        return self.copies >= 2

    @property
    def is_single(self) -> np.ndarray:
        """``(n,)``: once in training."""
        return self.copies == 1

    @property
    def is_heldout(self) -> np.ndarray:
        """``(n,)``: never in training."""
        return self.copies == 0


def plant(points: ArrayLike, *, n_planted: int, copies: int, n_single: int) -> Planted:
    """The first ``n_planted`` points ``copies`` times, the next ``n_single`` once, the rest held out.

    Args:
        points: exchangeable points ``(n, *shape)``.
        n_planted: how many are repeated, ≥ 2 (one for each half).
        copies: how often, ≥ 2.
        n_single: how many stand once, ≥ 2.

    Returns:
        ``Planted``, with at least two held-out points.

    Raises:
        ValueError: numbers out of range, or too few points for them.
    """
    points = np.asarray(points)
    require(n_planted >= 2, "n_planted", n_planted, "must be >= 2")
    require(copies >= 2, "copies", copies, "must be >= 2")
    require(n_single >= 2, "n_single", n_single, "must be >= 2")
    n, needed = len(points), n_planted + n_single + 2
    require(n >= needed, "points", points.shape, f"must hold at least {needed}: planted, single and two held-out ones")
    counts = np.zeros(n, int)
    counts[:n_planted] = copies
    counts[n_planted : n_planted + n_single] = 1
    return Planted(points, counts, _alternate(counts))


def _alternate(copies: np.ndarray) -> np.ndarray:
    """True for every other point among those with the same number of copies."""
    rank = np.zeros(len(copies), int)
    for value in np.unique(copies):
        members = copies == value
        rank[members] = np.arange(members.sum())
    return rank % 2 == 0
