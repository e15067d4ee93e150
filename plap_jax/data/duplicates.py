"""Near-duplicates among original images, found in bounded memory: one of each group is kept."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from plap_jax.typing import require

# Pairs that are compared at a time. Were they all duplicates, each would take 40 bytes or so.
PAIRS = 2**22


def distinct(images: np.ndarray, distance: float) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """One image of each group that is connected by links √(mean (a − b)²) ≤ distance: the first.

    Groups are transitive: where a resembles b and b resembles c, only a is kept, and every two images that are kept lie
    further apart than ``distance``. Neighbours are asked for by radius and not by number, so that `neighbours.nearest`
    does not serve here: a group may be of any size.

    Args:
        images: ``(n, *shape)``, real and finite.
        distance: root mean square over the coordinates of an image, in their units, ≥ 0; 0 means identical bytes.

    Returns:
        Indices of the images kept, ascending, and for each image dropped a row (kept, dropped, distance between these
        two), in the order of what was dropped. The distance exceeds the threshold where others link the two.

    Raises:
        ValueError: distance negative or not finite.
    """
    require(0 <= distance < np.inf, "duplicate_distance", distance, "must be a finite number >= 0")
    vectors = np.ascontiguousarray(images).reshape(len(images), -1)
    first = _first_identical(vectors)
    if distance > 0 and len(images) > 1:
        unique = np.unique(first)
        first = unique[_first_linked(vectors[unique], distance)][np.searchsorted(unique, first)]
    dropped = np.flatnonzero(first != np.arange(len(images)))
    rows = [(int(first[i]), int(i), _rms(vectors[first[i]], vectors[i])) for i in dropped]
    return np.unique(first), rows


def _first_identical(vectors: np.ndarray) -> np.ndarray:
    """For each row the first row with the same bytes: any number of exact copies costs no comparison."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(hashlib.sha256(row).digest(), i) for i, row in enumerate(vectors)], int)


def _first_linked(vectors: np.ndarray, distance: float) -> np.ndarray:
    """For each row the first row of its connected group."""
    n, dim = vectors.shape
    search = NearestNeighbors(radius=distance * dim**0.5, algorithm="brute").fit(vectors)
    first = np.arange(n)
    size = max(1, PAIRS // n)
    for start in range(0, n, size):
        rows, columns = search.radius_neighbors_graph(vectors[start : start + size]).nonzero()
        links = np.concatenate([np.arange(n), rows + start]), np.concatenate([first, columns])
        n_groups, group = connected_components(coo_array((np.ones(len(links[0]), bool), links), shape=(n, n)), False)
        first = np.full(n_groups, n)
        np.minimum.at(first, group, np.arange(n))
        first = first[group]
    return first


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))
