"""Which of many vectors hang together, by steps no longer than a distance: exact, in little memory, without all pairs.

Each vector is sketched by few coordinates whose distances never exceed those of the vectors. The sketches are put into
cells by the widest coordinates, and ordered by the next one, so that those which may be near are found as slices, and
compared by one product of matrices. What is near in the sketch is compared in full.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from plap_jax.data.rows import Rows

# Vectors are compared in a sketch of so many coordinates, and one more; its axes come from so many vectors.
SKETCH = 15
FOR_AXES = 512
# Coordinates that cells are made of, and vectors that each holds on average, if so many are so close together.
AXES, CELL = 3, 64
# Vectors compared at once: so many of one cell with so many others; numbers held for one block of vectors.
LEAF = 256
OTHERS = 2**11
BLOCK = 2**21
# Products that are computed while others are linked: as many on all machines, so that all compare the same pairs.
AHEAD = 8
# With more candidates for each of the others than this, all are compared in full by one matrix product.
CROWD = 4
# What rounding to float32 may add to a distance of sketches, as a share of the longest vector: too much costs time, not
# exactness.
ROUNDING = 1e-4


def linked(vectors: Rows, distance: float) -> np.ndarray:
    """For each vector the first of its group, ``(n,)``; vectors with √(mean (a − b)²) ≤ distance are of one group.

    Args:
        vectors: real and finite.
        distance: > 0.
    """
    sketch = _Sketch.of(vectors, distance)
    parent = np.arange(len(sketch.order))  # in the order of the sketch
    for leaf, others, (a, b) in _ahead(sketch, parent):
        rows = sketch.order[leaf], sketch.order[others]
        if len(a) > CROWD * len(others):
            a, b = _within(vectors, *rows, sketch.reach)
        _link(vectors, sketch.order, leaf[a], others[b], distance, parent)
    labels = np.empty_like(parent)
    labels[sketch.order] = _roots(parent, np.arange(len(parent)))
    return named_by_first(labels)


def named_by_first(labels: np.ndarray) -> np.ndarray:
    """Groups ``(n,)`` of any names in 0 … n − 1, each named by its first member."""
    first = np.full(len(labels), len(labels))
    np.minimum.at(first, labels, np.arange(len(labels)))
    return first[labels]


def _ahead(sketch: _Sketch, parent: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, tuple]]:
    """Neighbourhoods, and pairs that are near in the sketch; some are looked for while others are linked."""

    def asked() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for leaf, some in sketch.neighbourhoods():
            known = _roots(parent, leaf)
            if np.all(known == known[0]):  # so that near-duplicates without number cost no more than others
                some = some[_roots(parent, some) != known[0]]
            yield from ((leaf, others) for others in _parts(some, OTHERS))

    waiting, tasks = deque(), asked()
    with threadpool_limits(1), ThreadPoolExecutor(min(AHEAD, os.cpu_count() or 1)) as pool:
        for leaf, others in islice(tasks, AHEAD):
            waiting.append((leaf, others, pool.submit(sketch.near, leaf, others)))
        while waiting:
            leaf, others, found = waiting.popleft()
            yield leaf, others, found.result()
            for leaf, others in islice(tasks, 1):
                waiting.append((leaf, others, pool.submit(sketch.near, leaf, others)))


@dataclass(frozen=True)
class _Sketch:
    """Few coordinates of each vector, in an order in which those that may be near are close together.

    Attributes:
        order: ``(n,)`` which vector each is.
        values: ``(n, k + 2)`` float32: coordinates x, then −‖x‖²/2 and 1.
        along: ``(n,)`` one coordinate, ascending in each cell.
        bounds: ``(m + 1,)`` where cells begin, and the last one ends.
        beside: ``(m, …)`` numbers of the cell itself and of those beside it that come later; m: there is none.
        reach: how far apart near vectors are at most, with rounding.
        limit: of the products in ``near``.
    """

    order: np.ndarray
    values: np.ndarray
    along: np.ndarray
    bounds: np.ndarray
    beside: np.ndarray
    reach: float
    limit: float

    @staticmethod
    def of(vectors: Rows, distance: float) -> _Sketch:
        """Distances of the sketch never exceed those of the vectors.

        The principal axes of some of the vectors, and the length of what is left: (V x, ‖x − Vᵀ V x‖). Projections
        shorten distances, and lengths differ by no more than the vectors do.
        """
        n, dim = vectors.shape
        some = vectors[np.linspace(0, n - 1, max(2, min(FOR_AXES, n, 8 * BLOCK // dim)), dtype=int)]
        centre = some.mean(axis=0, dtype=np.float64)
        axes = np.linalg.svd(some - centre, full_matrices=False)[2][:SKETCH]
        values, longest = np.empty((n, len(axes) + 3), np.float32), 0.0
        for part, found, squares in _projected(vectors, centre.astype(np.float32), axes.astype(np.float32)):
            values[part] = np.c_[found, -squares / 2, np.ones_like(squares)]
            longest = max(longest, float(squares.max()) ** 0.5)
        reach, n_axes = distance * dim**0.5 + ROUNDING * longest, min(AXES, len(axes))
        order, bounds, beside = _in_cells(values[:, : n_axes + 1], reach)
        values = values[order]
        along = np.ascontiguousarray(values[:, n_axes])
        rounding = 4 * values.shape[1] * np.finfo(np.float32).eps * longest**2
        return _Sketch(order, values, along, bounds, beside, reach, -(reach**2) / 2 - rounding)

    def neighbourhoods(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some of one cell, and those from there on, in it and beside it, that may be near to them."""
        for number, beside in enumerate(self.beside):
            cells, end = beside[beside < len(self.beside)].tolist(), self.bounds[number + 1]
            for start in range(self.bounds[number], end, LEAF):
                leaf = np.arange(start, min(start + LEAF, end))
                low, high = self.along[leaf[0]] - self.reach, self.along[leaf[-1]] + self.reach
                found = [np.arange(start, start + np.searchsorted(self.along[start:end], high, "right"))]
                for one in cells[1:]:
                    within = self.along[self.bounds[one] : self.bounds[one + 1]]
                    ends = np.searchsorted(within, low), np.searchsorted(within, high, "right")
                    found.append(self.bounds[one] + np.arange(*ends))
                yield leaf, np.concatenate(found)

    def near(self, leaf: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of which the sketches are near, as places in both."""
        left = self.values[leaf]
        left[:, -2:] = left[:, :-3:-1]
        # ⟨a, b⟩ − ‖a‖²/2 − ‖b‖²/2; the larger factor comes first, which is quicker.
        found = np.flatnonzero(self.values[others] @ left.T >= self.limit)
        b, a = np.divmod(found, len(leaf))
        return a, b


def _projected(vectors: Rows, centre: np.ndarray, axes: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Block by block: which, their sketch, and the squares of their lengths; in float32."""
    n, dim = vectors.shape
    size = max(1, BLOCK // dim)
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        block = (vectors[part] - centre).astype(np.float32, copy=False)
        along, squares = block @ axes.T, np.einsum("ij,ij->i", block, block)
        block -= along @ axes
        yield part, np.c_[along, np.sqrt(np.einsum("ij,ij->i", block, block))], squares


def _in_cells(lead: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order by cells, and in each by the last coordinate; where they begin; and which are beside which.

    Cells are as wide as the reach, or so wide that there are not more of them than one for every CELL vectors.
    """
    n, n_axes = len(lead), lead.shape[1] - 1
    most = max(1, round((n / CELL) ** (1 / n_axes)))
    numbers, shape = [], []
    for column in lead[:, :n_axes].T:
        low, width = column.min(), max(reach, float(np.ptp(column)) / most, np.finfo(np.float32).tiny)
        numbers.append(1 + ((column - low) / width).astype(np.int64))
        shape.append(int(numbers[-1].max()) + 2)  # an empty one at either end, so that none is beside the other
    cell = np.ravel_multi_index(numbers, shape)
    order = np.lexsort((lead[:, n_axes], cell))
    names, starts = np.unique(cell[order], return_index=True)
    steps = np.array([step for step in product((-1, 0, 1), repeat=n_axes) if step >= (0,) * n_axes])
    steps = steps @ np.cumprod([1, *shape[:0:-1]])[::-1]
    wanted = names[:, None] + steps
    places = np.searchsorted(names, wanted)
    there = names[np.minimum(places, len(names) - 1)] == wanted
    return order, np.append(starts, n), np.where(there, places, len(names))


def _roots(parent: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The names of their groups."""
    found = parent[places]
    while not np.array_equal(above := parent[found], found):
        found = above
    parent[places] = found  # a shorter way the next time
    return found


def _within(vectors: Rows, left: np.ndarray, right: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs at most ``reach`` apart up to rounding, by one matrix product: quick where the sketch excludes few."""
    a = vectors[left]
    centre, found = a.mean(axis=0, dtype=np.float64), [np.zeros((2, 0), int)]
    a = a - centre
    for places in _parts(np.arange(len(right)), BLOCK // vectors.shape[1]):
        b = vectors[right[places]] - centre
        squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2 * a @ b.T
        near, other = np.nonzero(squares <= reach**2)
        found.append(np.stack([near, places[other]]))
    return tuple(np.concatenate(found, axis=1))


def _link(vectors: Rows, rows: np.ndarray, a: np.ndarray, b: np.ndarray, distance: float, parent: np.ndarray) -> None:
    """Join, in ``parent``, the groups of those pairs that are near in full."""
    for part in _parts(np.arange(len(a)), BLOCK // vectors.shape[1]):
        left, right = _roots(parent, a[part]), _roots(parent, b[part])
        apart = np.flatnonzero(left != right)
        near = apart[rms(vectors[rows[a[part[apart]]]], vectors[rows[b[part[apart]]]]) <= distance]
        if len(near):
            _join(parent, left[near], right[near])


def _join(parent: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Give groups a_k and b_k one name, the smallest of all that hang together."""
    names, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
    links = coo_array((np.ones(len(a), bool), np.split(ends, 2)), shape=(len(names), len(names)))
    part = connected_components(links, directed=False)[1]
    parent[names] = names[np.unique(part, return_index=True)[1]][part]


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + max(1, size)] for start in range(0, len(rows), max(1, size)))


def rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """√(mean (a − b)²) over the last axis, in float64."""
    return np.sqrt(np.mean(np.square(a.astype(np.float64) - b), axis=-1))
