"""Near-duplicates: found among many images, and one of each group kept."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from plap_jax.data.linking import linked, named_by_first, rms
from plap_jax.data.rows import FileRows
from plap_jax.typing import require

AT_ONCE = 1024  # rows of a file that are read together
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
    rows = [(int(first[i]), int(i), float(rms(vectors[first[i]], vectors[i]))) for i in dropped]
    return np.unique(first), rows


def groups(vectors: np.ndarray | FileRows, distance: float) -> np.ndarray:
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
    if isinstance(vectors, FileRows):
        order = np.argsort(vectors.places)  # as they lie there
        labels = np.empty(len(order), int)
        labels[order] = _grouped(vectors.only(order), distance)
        return named_by_first(labels)
    return _grouped(_vectors(vectors), distance)


def _grouped(vectors: np.ndarray | FileRows, distance: float) -> np.ndarray:
    if distance == 0 or vectors.shape[0] < 2:
        return _first_identical(vectors)
    return linked(vectors, distance)


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
    labels = np.asarray(labels)
    require(len(digests) == len(labels), "digests", len(digests), f"must be {len(labels)}, one for each label")
    _, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    stays = sizes[group] == 1  # nearly all, so that only the others are looked at one by one
    best: dict[int, tuple[int, list[int]]] = {}
    for place in np.flatnonzero(~stays).tolist():
        label, digest = labels[place].item(), digests[place]
        number = int.from_bytes(digest) if isinstance(digest, bytes) else int(digest)
        smallest, places = best.get(label, (number + 1, []))
        if number < smallest:
            best[label] = number, [place]
        elif number == smallest:
            places.append(place)
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


def _vectors(images: np.ndarray) -> np.ndarray:
    images = np.ascontiguousarray(images)
    return images.reshape(len(images), math.prod(images.shape[1:]))


def _first_identical(vectors: np.ndarray | FileRows) -> np.ndarray:
    """For each row, the first row with the same bytes, without pairwise comparison."""
    seen: dict[bytes, int] = {}
    rows = (row for i in range(0, len(vectors), AT_ONCE) for row in vectors[i : i + AT_ONCE])
    return np.array([seen.setdefault(hashlib.sha256(row).digest(), i) for i, row in enumerate(rows)], int)
