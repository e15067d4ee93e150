"""Near-duplicates: found among many images, and one of each group kept."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from plap_jax.typing import require

# Images are compared in a sketch of so many coordinates first; its axes come from so many images.
SKETCH = 64
FOR_AXES = 512
# Images compared at once: so many of one neighbourhood with so many others; numbers held for one block of images.
LEAF = 64
OTHERS = 2**14
BLOCK = 2**21
# With more candidates for each of the others than this, all are compared by one matrix product.
CROWD = 4
# What the rounding of ‖a‖² + ‖b‖² − 2⟨a, b⟩ may add to a distance, as a share of the longest vector. It is less than
# √(d ε) of ‖a‖ + ‖b‖; too much of it costs time, not exactness.
ROUNDING = 1e-5
# Rows and columns of a thumbnail.
THUMBNAIL = 16


def distinct(images: np.ndarray, distance: float) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Remove near-duplicates: keep the first image of each group of similar ones.

    Any two kept images are further apart than ``distance``. See ``groups`` for what a group is.

    Args:
        images: ``(n, *shape)``, real and finite.
        distance: root mean square over the coordinates of an image, in their units, ≥ 0; 0 means identical bytes.

    Returns:
        Indices of the images kept, ascending, and for each image dropped a row (kept, dropped, distance between these
        two), in the order of the dropped. The distance exceeds the threshold if the two are linked through others.

    Raises:
        ValueError: distance negative or not finite.
    """
    first, vectors = groups(images, distance), _vectors(images)
    dropped = np.flatnonzero(first != np.arange(len(images)))
    rows = [(int(first[i]), int(i), float(_rms(vectors[first[i]], vectors[i]))) for i in dropped]
    return np.unique(first), rows


def groups(vectors: np.ndarray, distance: float) -> np.ndarray:
    """Groups of near-duplicates, each named by its first member.

    Vectors with √(mean (a − b)²) ≤ distance are linked, and groups are transitive: if a resembles b and b resembles c,
    all three are one group. Exact: the sketch that is compared first never lengthens a distance, and what is near in it
    is compared in full. Time grows with the pairs that are near in the sketch and not yet known to be of one group, not
    with all n²; only for vectors of nothing but noise, which no sketch tells apart, these are all pairs. Working memory
    is about 2 kB for each vector and 100 MiB, however many are near-duplicates of each other.

    >>> groups(np.array([[0.0], [7.0], [1.0], [2.0]]), 1.0)
    array([0, 1, 0, 0])

    Args:
        vectors: ``(n, *shape)``, real and finite, n ≥ 0: images, or their thumbnails.
        distance: in the units of the vectors, ≥ 0; 0 means identical bytes.

    Returns:
        ``(n,)`` int64: the index of the first vector of the same group.

    Raises:
        ValueError: distance negative or not finite.
    """
    require(0 <= distance < np.inf, "duplicate_distance", distance, "must be a finite number >= 0")
    vectors = _vectors(vectors)
    first = _first_identical(vectors)
    unique, places = np.unique(first, return_inverse=True)
    if distance == 0 or len(unique) < 2:
        return first
    return unique[_components(vectors, unique, distance)][places]


def representatives(labels: ArrayLike, digests: Sequence[bytes] | ArrayLike) -> np.ndarray:
    """Which image of each group stays: the one whose content has the smallest hash.

    Of k exact copies of it, the (hash mod k)-th in their order stays.

    In an audit the groups reach over audited and reference images, and the choice must not look at sides: exchanging
    two images must exchange the choice, or p-values against the reference are no longer valid. A rule that always
    drops the reference's copy leaves the audited set with more of whatever is often duplicated; with it the false
    discovery rate was .51 in a simulation. The hash of the content goes with the image wherever it lies. Exact copies
    have the same hash, and taking the first of them would prefer the side that comes first; hash mod k is as good as
    random, and so each of the k places is taken equally often.

    >>> representatives([0, 0, 2], [7, 5, 9])
    array([False,  True,  True])

    Args:
        labels: ``(n,)`` of ``groups``, of all images of all sides together.
        digests: n hashes of what an image is, as bytes of one length or as integers ≥ 0. They must not depend on its
            name, place or side; with a salt, so that nobody can make an image that is preferred.

    Returns:
        ``(n,)`` bool, true once in each group.

    Raises:
        ValueError: not as many digests as labels.
    """
    labels = np.asarray(labels).tolist()
    require(len(digests) == len(labels), "digests", len(digests), f"must be {len(labels)}, one for each label")
    best: dict[int, tuple[int, list[int]]] = {}
    for place, (label, digest) in enumerate(zip(labels, digests, strict=True)):
        number = int.from_bytes(digest) if isinstance(digest, bytes) else int(digest)
        smallest, places = best.get(label, (number + 1, []))
        if number < smallest:
            best[label] = number, [place]
        elif number == smallest:
            places.append(place)
    stays = np.zeros(len(labels), bool)
    stays[[places[number % len(places)] for number, places in best.values()]] = True
    return stays


def thumbnail(image: ArrayLike) -> np.ndarray:
    """Means over 16 × 16 equal blocks of an image: little to keep of images that are seen once.

    t = A x Bᵀ for each channel, where A_ij is the share of pixel j in block i, by area where blocks cut pixels. An
    image with fewer rows or columns keeps them.

    Thumbnails are no further apart than their images, √(mean (t − t')²) ≤ √(mean (x − x')²), up to the rounding of
    float32: t − t' are weighted means of x − x', whose squares are at most the means of the squares (Jensen), and in
    the mean over all blocks every pixel counts equally. The converse fails: images that differ only in detail finer
    than a block have the same thumbnail.

    Args:
        image: ``(h, w, c)``, real.

    Returns:
        ``(min(h, 16) · min(w, 16) · c,)`` float32, in the units of the image.

    Raises:
        ValueError: an image of other than three axes.
    """
    image = np.asarray(image)
    require(image.ndim == 3, "image", image.shape, "must be (h, w, c)")
    height, width, _ = image.shape
    rows = np.tensordot(_block_means(height), image.astype(np.float64), 1)
    return np.einsum("jw,iwc->ijc", _block_means(width), rows).reshape(-1).astype(np.float32)


@functools.lru_cache
def _block_means(size: int) -> np.ndarray:
    """The matrix of means over equal blocks, ``(min(size, 16), size)``: rows sum to 1, columns are equal."""
    n = min(size, THUMBNAIL)
    block, pixel = np.arange(n)[:, None], np.arange(size)
    # In units of 1/(n size): blocks are size long, pixels n, and so nothing rounds.
    shared = np.minimum((block + 1) * size, (pixel + 1) * n) - np.maximum(block * size, pixel * n)
    return np.maximum(shared, 0) / size


def _components(vectors: np.ndarray, rows: np.ndarray, distance: float) -> np.ndarray:
    """For each of these rows, which differ, the place in ``rows`` of the first of its group.

    Neighbourhoods in the sketch are compared with each other unless their bounding boxes are too far apart. Members of
    one group are not compared again, so that near-duplicates without number cost no more than others.
    """
    sketch = _sketch(vectors, rows)
    squares = np.einsum("ij,ij->i", sketch, sketch)
    reach = distance * vectors.shape[1] ** 0.5 + ROUNDING * squares.max() ** 0.5
    # Their product is ‖a‖² + ‖b‖² − 2⟨a, b⟩.
    one = np.ones_like(squares)
    before, after = np.c_[-2 * sketch, squares, one], np.c_[sketch, one, squares].T
    leaves = list(_leaves(sketch, np.arange(len(rows))))
    low, high = (np.stack([f(sketch[leaf], axis=0) for leaf in leaves]) for f in (np.min, np.max))
    label = np.arange(len(rows))
    for i, leaf in enumerate(leaves):
        gap = np.maximum(np.maximum(low[i:] - high[i], low[i] - high[i:]), 0)
        close = np.flatnonzero(np.einsum("ij,ij->i", gap, gap) <= reach**2)
        for some in _parts(np.concatenate([leaves[i + j] for j in close]), OTHERS):
            if np.all(label[leaf] == label[leaf[0]]):
                some = some[label[some] != label[leaf[0]]]
            a, b = np.nonzero(before[leaf] @ after[:, some] <= reach**2)
            if len(a) > CROWD * len(some):
                a, b = _within(vectors, rows[leaf], rows[some], reach)
            _link(vectors, rows, leaf[a], some[b], distance, label)
    return label


def _within(vectors: np.ndarray, left: np.ndarray, right: np.ndarray, reach: float) -> np.ndarray:
    """Pairs at most ``reach`` apart up to rounding, by one matrix product: quick where the sketch excludes few."""
    centre = vectors[left].mean(axis=0, dtype=np.float64)
    a, found = vectors[left] - centre, [np.zeros((2, 0), int)]
    for places in _parts(np.arange(len(right)), BLOCK // vectors.shape[1]):
        b = vectors[right[places]] - centre
        squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2 * a @ b.T
        near, other = np.nonzero(squares <= reach**2)
        found.append(np.stack([near, places[other]]))
    return np.concatenate(found, axis=1)


def _link(
    vectors: np.ndarray, rows: np.ndarray, a: np.ndarray, b: np.ndarray, distance: float, label: np.ndarray
) -> None:
    """Join, in ``label``, the groups of those pairs that are near in full."""
    for part in _parts(np.arange(len(a)), BLOCK // vectors.shape[1]):
        left, right = a[part], b[part]
        apart = label[left] != label[right]
        left, right = left[apart], right[apart]
        near = _rms(vectors[rows[left]], vectors[rows[right]]) <= distance
        if near.any():
            _join(label, label[left[near]], label[right[near]])


def _join(label: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Give groups a_k and b_k one name, the smallest of all that hang together."""
    names, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
    links = coo_array((np.ones(len(a), bool), np.split(ends, 2)), shape=(len(names), len(names)))
    part = connected_components(links, directed=False)[1]
    new = np.arange(len(label))
    new[names] = names[np.unique(part, return_index=True)[1]][part]
    label[:] = new[label]


def _sketch(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Few coordinates whose distances never exceed those of the vectors: ``(len(rows), ≤ 65)`` float64.

    The principal axes of some of the vectors, and the length of what is left: (V x, ‖x − Vᵀ V x‖). Projections shorten
    distances, and lengths differ by no more than the vectors do.
    """
    dim = vectors.shape[1]
    some = rows[np.linspace(0, len(rows) - 1, max(2, min(FOR_AXES, len(rows), 8 * BLOCK // dim)), dtype=int)]
    centre = vectors[some].mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(vectors[some] - centre, full_matrices=False)[2][:SKETCH]
    sketch = np.empty((len(rows), len(axes) + 1))
    for part in _parts(np.arange(len(rows)), BLOCK // dim):
        block = vectors[rows[part]] - centre
        along = block @ axes.T
        block -= along @ axes
        sketch[part] = np.c_[along, np.sqrt(np.einsum("ij,ij->i", block, block))]
    return sketch


def _leaves(points: np.ndarray, members: np.ndarray) -> Iterator[np.ndarray]:
    """Neighbourhoods of at most 64 points: halved at the median of the widest coordinate, as a k-d tree does."""
    if len(members) <= LEAF:
        yield members
        return
    some = points[members]
    order = np.argpartition(some[:, np.argmax(np.ptp(some, axis=0))], len(members) // 2)
    for half in np.split(members[order], [len(members) // 2]):
        yield from _leaves(points, half)


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + max(1, size)] for start in range(0, len(rows), max(1, size)))


def _vectors(images: np.ndarray) -> np.ndarray:
    images = np.ascontiguousarray(images)
    return images.reshape(len(images), math.prod(images.shape[1:]))


def _first_identical(vectors: np.ndarray) -> np.ndarray:
    """For each row, the first row with the same bytes, without pairwise comparison."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(hashlib.sha256(row).digest(), i) for i, row in enumerate(vectors)], int)


def _rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """√(mean (a − b)²) over the last axis, in float64."""
    return np.sqrt(np.mean(np.square(a.astype(np.float64) - b), axis=-1))
