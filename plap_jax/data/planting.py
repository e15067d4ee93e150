"""Planted duplicates: repeat some points of a data set, so that what a model memorizes is known in advance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plap_jax.typing import ArrayLike, require


@dataclass(frozen=True)
class Planted:
    """Points and the number of copies of each in the training set: 0 held out, 1 single, ≥ 2 planted.

    The points must be exchangeable, so that their order carries no information about their role. Within every role
    points alternate between a validation and a test half: make choices on the first and report on the second.

    Attributes:
        points: ``(n, *shape)``, without duplicates.
        copies: ``(n,)`` nonnegative integers.
        validation: ``(n,)`` booleans.
    """

    points: np.ndarray
    copies: np.ndarray
    validation: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """The training set, copies included: ``(sum(copies), *shape)``."""
        return np.repeat(self.points, self.copies, axis=0)

    @property
    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The points of the training set, each once, and the number of copies of each: ``(m, *shape)``, ``(m,)``."""
        seen = self.copies > 0
        return self.points[seen], self.copies[seen]

    @property
    def control(self) -> np.ndarray:
        """The training set without planted points, for training a negative control."""
        return self.points[self.is_single]

    @property
    def is_planted(self) -> np.ndarray:
        """Repeated in training, ``(n,)`` booleans."""
        return self.copies >= 2

    @property
    def is_single(self) -> np.ndarray:
        """Once in training, ``(n,)`` booleans."""
        return self.copies == 1

    @property
    def is_heldout(self) -> np.ndarray:
        """Never in training, ``(n,)`` booleans."""
        return self.copies == 0


def plant(
    points: ArrayLike, *, doses: Mapping[int, int], n_single: int | None, heldout: ArrayLike | None = None
) -> Planted:
    """Repeat the first points, keep the next ones single, and hold out the rest.

    The first points are repeated as ``doses`` says, the highest dose first; the next ``n_single`` occur once.

    Args:
        points: exchangeable points ``(n, *shape)``.
        doses: copies → how many points get that many: copies ≥ 2, numbers ≥ 2 (one for each half).
        n_single: how many occur once, ≥ 2; None for all remaining points, which needs ``heldout``.
        heldout: ``(m, *shape)``, held-out points from a pool of their own; remaining points are then not used at all.
            None: the remaining points are held out.

    Returns:
        ``Planted``, with at least two held-out points.

    Raises:
        ValueError: numbers out of range, or too few points for them.
    """
    points = np.asarray(points)
    for copies, number in doses.items():
        require(copies >= 2, "doses", dict(doses), "must repeat points at least 2 times")
        require(number >= 2, "doses", dict(doses), "must give at least 2 points to every number of copies")
    n_planted = sum(doses.values())
    require(n_planted >= 2, "doses", dict(doses), "must plant something")
    if n_single is None:
        require(heldout is not None, "n_single", n_single, "must be a number where held-out points are what is left")
        n_single = len(points) - n_planted
    require(n_single >= 2, "n_single", n_single, f"must be >= 2; {n_planted} of {len(points)} points are planted")
    needed = n_planted + n_single + 2 * (heldout is None)
    what = f"must hold at least {needed}: {n_planted} to plant and {n_single} single ones"
    what += ", and two held-out ones" if heldout is None else ""
    require(len(points) >= needed, "points", points.shape, what)
    counts = [np.repeat(copies, number) for copies, number in sorted(doses.items(), reverse=True)]
    counts = np.concatenate([*counts, np.ones(n_single, int)])
    if heldout is None:
        counts = np.pad(counts, (0, len(points) - len(counts)))
    else:
        heldout = np.asarray(heldout)
        allowed = f"must be (m, *{points.shape[1:]}) with m >= 2"
        require(len(heldout) >= 2 and heldout.shape[1:] == points.shape[1:], "heldout", heldout.shape, allowed)
        points = np.concatenate([points[: len(counts)], heldout])
        counts = np.pad(counts, (0, len(heldout)))
    return Planted(points, counts, alternate(counts))


def alternate(roles: np.ndarray) -> np.ndarray:
    """``(n,)`` booleans: True for the first, third, … of those with the same role."""
    rank = np.zeros(len(roles), int)
    for value in np.unique(roles):
        members = roles == value
        rank[members] = np.arange(members.sum())
    return rank % 2 == 0
