"""Exact nearest neighbours by brute force, in bounded memory."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from plap_jax.typing import require

# ‖x‖² − 2⟨x, y⟩ + ‖y‖² is fast but inexact where points nearly coincide, so it only proposes candidates: k plus a few
# spare ones, which are ranked by ‖x − y‖. Where rounding could have hidden a nearer point, all points are compared.
SPARE = 4
# Number of points from which the centre of a block is estimated.
N_FOR_CENTRE = 1000


def nearest(
    queries: ArrayLike,
    reference: ArrayLike,
    k: int = 1,
    *,
    exclude_self: bool = False,
    memory_mib: float = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest reference points of each query, and their distances.

    d_ij = ‖query_i − reference_j‖₂: the k smallest of each row, ascending, and their j. Exact, from differences in
    float64: a duplicate has distance exactly 0. Among equal distances the smaller index comes first, but with more
    than k + 4 equally distant points any k of them may be returned.

    Candidates are found by the expanded square, which is fast; queries for which its rounding error could matter
    (outliers, points with more than k + 3 duplicates) are compared with every reference point, which is slower.

    Args:
        queries: ``(n, *shape)``, real; points of several axes (images) are compared as vectors.
        reference: ``(m, *shape)``, real.
        k: neighbours per query, 1 ≤ k ≤ m (m − 1 with exclude_self).
        exclude_self: queries and reference are the same points, and j = i is skipped. A duplicate of i elsewhere in
            the reference counts.
        memory_mib: bound of the working memory in MiB, beyond the arguments and the result.

    Returns:
        Distances ``(n, k)`` float64, in the units of the points, and indices into the reference ``(n, k)`` int64.

    Raises:
        ValueError: shapes that do not match, no points, k out of range, a coordinate that is not finite, a memory
            bound that is not positive, or exclude_self with queries that are not the reference.
    """
    queries, reference = np.asarray(queries), np.asarray(reference)
    _check(queries, reference, k, exclude_self, memory_mib)
    dim = reference[0].size
    proposed = min(k + exclude_self + SPARE, len(reference))
    # In float64; per query: the candidates, their copy in the caller's dtype, and the query twice.
    budget = memory_mib * 2**20 / 2
    reference_blocks = list(_blocks(len(reference), max(proposed, int(budget / (24 * dim + 16)))))
    query_blocks = list(_blocks(len(queries), max(1, int(budget / (16 * (proposed + 1) * dim)))))
    _check_finite("queries", queries, query_blocks)
    _check_finite("reference", reference, reference_blocks)
    if exclude_self:
        same = all(np.array_equal(queries[rows], reference[rows]) for rows in query_blocks)
        require(same, "exclude_self", exclude_self, "needs queries that are the reference, in the same order")

    distances = np.full((len(queries), k), np.inf)
    indices = np.full((len(queries), k), -1)
    for columns in reference_blocks:
        block = _vectors(reference[columns])
        # Far from the origin the expanded square would lose all digits, and a mean follows outliers.
        centre = np.median(block[:: math.ceil(len(block) / N_FOR_CENTRE)], axis=0)
        search = NearestNeighbors(algorithm="brute").fit(block - centre)
        for rows in query_blocks:
            points = _vectors(queries[rows])
            found, apart = search.kneighbors(points - centre, min(proposed, len(block)))[::-1]
            measured = _distances(points, block, found)
            if len(block) > proposed:
                kth = np.partition(measured, k + exclude_self - 1, axis=1)[:, k + exclude_self - 1]
                for doubtful in _batches(
                    _may_miss(points - centre, apart[:, -1], kth), int(budget / (32 * len(block)))
                ):
                    found[doubtful] = _compared(points[doubtful], block, proposed)
                    measured[doubtful] = _distances(points[doubtful], block, found[doubtful])
            found = found + columns.start
            if exclude_self:
                measured[found == np.arange(rows.start, rows.stop)[:, None]] = np.inf
            distances[rows], indices[rows] = _smallest(
                np.concatenate([distances[rows], measured], axis=1),
                np.concatenate([indices[rows], found], axis=1),
                k,
            )
    return distances, indices


def _may_miss(centred: np.ndarray, furthest: np.ndarray, kth: np.ndarray) -> np.ndarray:
    """Rows for which a point that is not a candidate could be nearer than the k-th candidate.

    The expanded square of x and y is off by at most (d + 8) ε (‖x‖ + ‖y‖)² (sums of d products, norms, the centring and
    the square root); a nearer y has ‖y‖ ≤ ‖x‖ + kth, and an expanded distance of at least ``furthest``.
    """
    reach = 2 * np.linalg.norm(centred, axis=1) + kth
    rounding = (centred.shape[1] + 8) * np.finfo(np.float64).eps * reach**2
    return np.flatnonzero(~(furthest**2 - rounding >= kth**2))


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[part] for part in _blocks(len(rows), max(1, size)))


def _compared(points: np.ndarray, block: np.ndarray, n: int) -> np.ndarray:
    """The n nearest of the block to each point, by ‖x − y‖ for all of it: ``(len(points), n)``."""
    return np.argpartition(cdist(points, block), n - 1, axis=1)[:, :n]


def _smallest(distances: np.ndarray, indices: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest distances of each row, ties by index."""
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1)


def _distances(points: np.ndarray, block: np.ndarray, found: np.ndarray) -> np.ndarray:
    """‖points_i − block_{found_ij}‖, ``(n, proposed)``."""
    difference = block[found]
    difference -= points[:, None]
    return np.sqrt(np.einsum("ijd,ijd->ij", difference, difference))


def _vectors(points: np.ndarray) -> np.ndarray:
    return points.reshape(len(points), -1).astype(np.float64)


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _check(queries: np.ndarray, reference: np.ndarray, k: int, exclude_self: bool, memory_mib: float) -> None:
    for name, points in {"queries": queries, "reference": reference}.items():
        require(points.ndim >= 2 and points.size > 0, name, points.shape, "must be (n, *shape) and hold a point")
    allowed = f"must be (n, *{reference.shape[1:]}), points of the reference's shape"
    require(queries.shape[1:] == reference.shape[1:], "queries", queries.shape, allowed)
    available = len(reference) - exclude_self
    require(1 <= k <= available, "k", k, f"must lie between 1 and {available}, the number of available neighbours")
    require(memory_mib > 0, "memory_mib", memory_mib, "must be positive")
    same = len(queries) == len(reference) or not exclude_self
    require(same, "exclude_self", exclude_self, f"needs as many queries as reference points, {len(reference)}")


def _check_finite(name: str, points: np.ndarray, blocks: list[slice]) -> None:
    for rows in blocks:
        finite = np.isfinite(_vectors(points[rows])).all(axis=1)
        first = rows.start + int(np.argmin(finite))
        require(bool(finite.all()), name, points[first], f"must be finite, and row {first} is not")
