"""Nearest neighbours by brute force in bounded memory: who is a copy of whom."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors

from plap_jax.typing import require

# ‖x‖² − 2⟨x, y⟩ + ‖y‖² is fast and rounds where points nearly coincide. It only proposes: a few neighbours more
# than asked for are measured as ‖x − y‖, which decides.
SPARE = 4


def nearest(
    queries: ArrayLike,
    reference: ArrayLike,
    k: int = 1,
    *,
    exclude_self: bool = False,
    memory_mib: float = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """d_ij = ‖query_i − reference_j‖₂: the k smallest of each row, ascending, and their j.

    Distances are those of the difference in float64: a duplicate has distance exactly 0. Among equal distances the
    smaller index comes first, as far as both were proposed.

    Args:
        queries: ``(n, *shape)``, real; points of several axes (images) are compared as vectors.
        reference: ``(m, *shape)``, real.
        k: neighbours per query, 1 ≤ k ≤ m (m − 1 with exclude_self).
        exclude_self: queries and reference are the same points, and j = i does not count. A duplicate of i
            elsewhere in the reference does.
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
    # Float64 throughout; per query the proposed neighbours, their copy in the caller's dtype, and the query twice.
    budget = memory_mib * 2**20 / 2
    reference_blocks = list(_blocks(len(reference), max(proposed, int(budget / (24 * dim)))))
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
        centre = block.mean(axis=0)  # far from the origin the expanded square would lose all digits
        search = NearestNeighbors(algorithm="brute").fit(block - centre)
        for rows in query_blocks:
            points = _vectors(queries[rows])
            found = search.kneighbors(points - centre, min(proposed, len(block)), return_distance=False)
            measured = _distances(points, block, found)
            found = found + columns.start
            if exclude_self:
                measured[found == np.arange(rows.start, rows.stop)[:, None]] = np.inf
            distances[rows], indices[rows] = _smallest(
                np.concatenate([distances[rows], measured], axis=1),
                np.concatenate([indices[rows], found], axis=1),
                k,
            )
    return distances, indices


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
    require(1 <= k <= available, "k", k, f"must lie between 1 and {available}, the neighbours there are")
    require(memory_mib > 0, "memory_mib", memory_mib, "must be positive")
    same = len(queries) == len(reference) or not exclude_self
    require(same, "exclude_self", exclude_self, f"needs as many queries as reference points, {len(reference)}")


def _check_finite(name: str, points: np.ndarray, blocks: list[slice]) -> None:
    for rows in blocks:
        finite = np.isfinite(_vectors(points[rows])).all(axis=1)
        first = rows.start + int(np.argmin(finite))
        require(bool(finite.all()), name, points[first], f"must be finite, and row {first} is not")
