"""Remove near-duplicates from original images, keeping one of each group."""

from __future__ import annotations

import hashlib

import numpy as np
from sklearn.cluster import DBSCAN

from plap_jax.typing import require


def distinct(images: np.ndarray, distance: float) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Remove near-duplicates: keep the first image of each group of similar ones.

    Images with √(mean (a − b)²) ≤ distance are linked, and groups are transitive: if a resembles b and b resembles c,
    only a is kept. Any two kept images are further apart than ``distance``. The groups are the clusters of DBSCAN
    (Ester et al. 1996) with every point a core point. Memory grows with the number of links, 8 bytes each, not with n²;
    exact copies are removed first.

    Args:
        images: ``(n, *shape)``, real and finite.
        distance: root mean square over the coordinates of an image, in their units, ≥ 0; 0 means identical bytes.

    Returns:
        Indices of the images kept, ascending, and for each image dropped a row (kept, dropped, distance between these
        two), in the order of the dropped. The distance exceeds the threshold if the two are linked through others.

    Raises:
        ValueError: distance negative or not finite.
    """
    require(0 <= distance < np.inf, "duplicate_distance", distance, "must be a finite number >= 0")
    vectors = np.ascontiguousarray(images).reshape(len(images), -1)
    first = _first_identical(vectors)
    if distance > 0:
        unique, places = np.unique(first, return_inverse=True)
        radius = distance * vectors.shape[1] ** 0.5
        group = DBSCAN(eps=radius, min_samples=1, algorithm="brute").fit_predict(vectors[unique])
        first = unique[np.unique(group, return_index=True)[1][group]][places]
    dropped = np.flatnonzero(first != np.arange(len(images)))
    rows = [(int(first[i]), int(i), _rms(vectors[first[i]], vectors[i])) for i in dropped]
    return np.unique(first), rows


def _first_identical(vectors: np.ndarray) -> np.ndarray:
    """For each row, the first row with the same bytes, without pairwise comparison."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(hashlib.sha256(row).digest(), i) for i, row in enumerate(vectors)], int)


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))
