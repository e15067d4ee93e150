"""Captions for conditional training: unique ones, and ones that several images share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from plap_jax.data.planting import Planted, alternate
from plap_jax.typing import ArrayLike, require

Kind = Literal["unique", "group", "class"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Captions:
    """A caption for every training point, and what kind of caption it is.

    Unique captions are what text-to-image models memorize by; shared ones are the controls.

    Attributes:
        of_point: ``(n,)`` int32, 0 … m−1; −1 for points not in the training set.
        kind: ``(m,)``: "unique", for one image; "group", for a few; "class", for all of a class.
        copies: ``(m,)`` integers, copies in training of the image with a unique caption; 0 for shared captions.
        validation: ``(m,)`` booleans: every other caption of the same kind and number of copies.
    """

    of_point: np.ndarray
    kind: np.ndarray
    copies: np.ndarray
    validation: np.ndarray

    def of_training(self, planted: Planted) -> np.ndarray:
        """The captions of ``planted.train``, copies included: ``(sum(copies),)``."""
        return np.repeat(self.of_point, planted.copies)

    def of_kind(self, kind: Kind) -> np.ndarray:
        """The numbers of the captions of one kind, in order."""
        return np.flatnonzero(self.kind == kind)


def caption(
    planted: Planted, *, n_unique: int = 0, n_grouped: int, group_size: int, classes: ArrayLike | None = None
) -> Captions:
    """Assign captions: unique ones first, then shared within groups, then one per class.

    Planted points and the first ``n_unique`` single points get one each, the next share in groups, the rest by class.

    Args:
        planted: the points.
        n_unique: single points with a caption of their own, ≥ 0.
        n_grouped: single points, after those, that share captions, ≥ 0.
        group_size: how many share one, ≥ 2; the last group may be smaller.
        classes: ``(n,)`` integers, the class of every point; None if no single point is left over.

    Raises:
        ValueError: numbers out of range, more than there are single points, or points left over without classes.
    """
    require(n_unique >= 0, "n_unique", n_unique, "must be >= 0")
    require(n_grouped >= 0, "n_grouped", n_grouped, "must be >= 0")
    require(group_size >= 2, "group_size", group_size, "must be >= 2")
    single = np.flatnonzero(planted.is_single)
    needed = n_unique + n_grouped
    allowed = f"must leave room among {len(single)} single points, n_unique={n_unique}"
    require(needed <= len(single), "n_grouped", n_grouped, allowed)
    own = np.concatenate([np.flatnonzero(planted.is_planted), single[:n_unique]])
    grouped, rest = single[n_unique:needed], single[needed:]

    found = np.full(len(planted.points), -1, np.int32)
    found[own] = np.arange(len(own))
    found[grouped] = len(own) + np.arange(len(grouped)) // group_size
    n_groups = -(-len(grouped) // group_size)
    n_classes = 0
    if len(rest):
        require(classes is not None, "classes", classes, f"must say the class of {len(rest)} points left over")
        classes = np.asarray(classes)
        allowed = f"must be integers, one for each of {len(found)} points"
        whole = classes.shape == found.shape and np.issubdtype(classes.dtype, np.integer)
        require(whole, "classes", classes.shape, allowed)
        names, places = np.unique(classes[rest], return_inverse=True)
        found[rest], n_classes = len(own) + n_groups + places, len(names)
    kind = np.repeat(KINDS, [len(own), n_groups, n_classes])
    copies = np.concatenate([planted.copies[own], np.zeros(n_groups + n_classes, int)])
    roles = np.char.add(kind, copies.astype(str))
    return Captions(found, kind, copies, alternate(roles))
