"""Near-duplicates against a flood fill of all pairs, in bounded work and memory; who stays; thumbnails."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from skimage.transform import resize_local_mean

from plap_jax.data import linking
from plap_jax.data.duplicates import distinct, groups, representatives, thumbnail
from plap_jax.data.rows import RowFile, stacked


def flood_fill(vectors, distance):
    """The slow twin: the full matrix of distances, and every index that can be reached from an earlier one."""
    near = cdist(np.float64(vectors), np.float64(vectors)) / vectors.shape[1] ** 0.5 <= distance
    first = np.full(len(vectors), -1)
    for i in range(len(vectors)):
        waiting = [i] if first[i] < 0 else []
        first[waiting] = i
        while waiting:
            new = np.flatnonzero(near[waiting.pop()] & (first < 0))
            first[new] = i
            waiting += new.tolist()
    return first


def clustered(rng, n=400, dim=80):
    """Smooth pictures with variants at many distances, exact copies, and two constant ones."""
    scale = 1 / (1 + np.arange(dim))
    vectors = rng.normal(size=(n // 4, dim))[rng.integers(0, n // 4, n)] * scale
    vectors += rng.normal(size=(n, dim)) * rng.uniform(0, 0.1, n)[:, None]
    vectors[[5, 50]] = vectors[300]
    vectors[[7, 70]] = [[0.0], [1e-3]]
    return vectors.astype(np.float32)


@pytest.fixture
def compared(monkeypatch):
    """How many pairs were near in the sketch, and how many of these were compared in full."""
    counts = {"near": 0, "full": 0}
    link, measure = linking._link, linking.rms

    def counting_link(vectors, rows, a, *rest):
        counts["near"] += len(a)
        link(vectors, rows, a, *rest)

    def counting_measure(a, b):
        counts["full"] += len(a)
        return measure(a, b)

    monkeypatch.setattr(linking, "_link", counting_link)
    monkeypatch.setattr(linking, "rms", counting_measure)
    return counts


# The finder


SIZES = [{}, dict(LEAF=5, OTHERS=7, BLOCK=200, CELL=3), dict(CROWD=0, BLOCK=200, CELL=2), dict(SKETCH=1), dict(CELL=1)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("distance", [1e-4, 0.05, 0.08, 5.0])
def test_groups_are_those_of_a_flood_fill(monkeypatch, sizes, distance):
    for name, value in sizes.items():
        monkeypatch.setattr(linking, name, value)
    vectors = clustered(np.random.default_rng(0))
    found = groups(vectors, distance)
    np.testing.assert_array_equal(found, flood_fill(vectors, distance))
    assert (distance > 1) == (len(np.unique(found)) == 1) and len(np.unique(found)) < 400


def test_noise_that_no_sketch_tells_apart():
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 0.05, (300, 400)).astype(np.float32)
    vectors[100:110] = vectors[200:210] + np.float32(0.02)
    found = groups(vectors, 0.05)
    np.testing.assert_array_equal(found, flood_fill(vectors, 0.05))
    assert len(np.unique(found)) == 290


def test_bytes_are_compared_as_numbers():
    """10 − 30 and 20² wrap around in uint8."""
    kept, rows = distinct(np.array([[10, 10], [200, 200], [30, 30], [255, 0]], np.uint8), 20.0)
    assert kept.tolist() == [0, 1, 3] and rows == [(0, 2, 20.0)]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_or_none(n):
    np.testing.assert_array_equal(groups(np.ones((n, 3, 3, 1)), 0.1), np.zeros(n))
    kept, rows = distinct(np.ones((n, 3, 3, 1)), 0.1)
    assert kept.tolist() == [0][:n] and rows == [(0, 1, 0.0)][: max(0, n - 1)]


def test_the_order_of_images_changes_no_group():
    rng = np.random.default_rng(2)
    vectors, order = clustered(rng), rng.permutation(400)
    found, permuted = groups(vectors, 0.06)[order], groups(vectors[order], 0.06)
    np.testing.assert_array_equal(found[:, None] == found, permuted[:, None] == permuted)


def test_the_sketch_never_lengthens_a_distance():
    vectors = clustered(np.random.default_rng(3), dim=200)
    sketch = linking._Sketch.of(vectors, 0.05)
    values, vectors = np.float64(sketch.values), np.float64(vectors[sketch.order])
    short, full = cdist(values[:, :-2], values[:, :-2]), cdist(vectors, vectors)
    rounding = sketch.reach - 0.05 * 200**0.5
    assert values.shape == (400, 18) and 0 < rounding < 1e-3 and np.all(short <= full + rounding)
    assert np.median(short[full > 0] / full[full > 0]) > 0.8


@pytest.mark.parametrize("distance", [-0.1, float("nan"), float("inf")])
def test_a_bad_distance_is_refused(distance):
    with pytest.raises(ValueError, match=f"^duplicate_distance={distance}: must be a finite number >= 0$"):
        groups(np.zeros((2, 2)), distance)


# Work and memory


def test_all_near_duplicates_of_each_other_cost_no_more_than_others(compared):
    vectors = np.random.default_rng(0).normal(0, 0.01, (20_000, 100)).astype(np.float32)
    tracemalloc.start()
    found = groups(vectors, 0.05)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found.any()
    assert compared["near"] <= 512 * 20_000 and compared["full"] < 15 * 20_000
    assert peak < 20_000**2 / 2, "half a byte for every pair"


def test_different_images_are_told_apart_by_their_sketches(compared):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(2000, 100)) / (1 + np.arange(100))).astype(np.float32)
    vectors[1500] = vectors[3] + np.float32(0.001)
    found = groups(vectors, 0.002)
    assert np.flatnonzero(found != np.arange(2000)).tolist() == [1500] and found[1500] == 3
    assert compared["near"] < 3 * 2000 and compared["full"] < 2000


def test_memory_does_not_grow_with_all_pairs():
    images = np.random.default_rng(0).uniform(-1, 1, (4000, 6)).astype(np.float32)
    tracemalloc.start()
    kept, _ = distinct(images, 0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) > 3900
    assert peak < 4000**2, "a byte for every pair"


def test_neighbourhoods_far_from_each_other_are_not_compared():
    """Points of a plane: a cell has eight others beside it, of which four come later."""
    points = np.random.default_rng(0).uniform(size=(8192, 2))
    found = list(linking._Sketch.of(points, 1e-4).neighbourhoods())
    assert sum(len(leaf) for leaf, _ in found) == 8192
    assert sum(len(leaf) * len(some) for leaf, some in found) < 8192 * 64 * 9


def test_rows_in_a_file_are_grouped_as_rows_in_memory_are(monkeypatch):
    monkeypatch.setattr(linking, "BLOCK", 200)
    vectors, file = clustered(np.random.default_rng(4)), RowFile()
    halves = [file.append(vectors[200:]), vectors[:200]]
    rows = stacked(halves[::-1])
    assert stacked([vectors[:200], vectors[200:]]).shape == rows.shape == (400, 80)
    np.testing.assert_array_equal(rows[np.array([399, 0, 1, 1])], vectors[[399, 0, 1, 1]])
    np.testing.assert_array_equal(rows.only(np.arange(400) % 2 == 0)[5:8], vectors[10:16:2])
    for distance in (0.0, 0.05):
        np.testing.assert_array_equal(groups(rows, distance), groups(vectors, distance))
    assert not len(rows[np.zeros(0, int)])


# The first of each group


def test_groups_are_transitive_and_keep_the_first():
    line = np.array([5.0, 0.0, 9.0, 1.0, 2.0, 0.0, 3.0, 20.0, 9.5])[:, None, None]  # 0–1–2–3 is a chain
    kept, rows = distinct(line, 1.0)
    np.testing.assert_array_equal(kept, [0, 1, 2, 7])
    assert rows == [(1, 3, 1.0), (1, 4, 2.0), (1, 5, 0.0), (1, 6, 3.0), (2, 8, 0.5)]


def test_distance_zero_means_identical():
    images = np.array([[0.0], [1e-7], [0.0], [1.0], [1.0]], np.float32)
    kept, rows = distinct(images, 0.0)
    np.testing.assert_array_equal(kept, [0, 1, 3])
    assert rows == [(0, 2, 0.0), (3, 4, 0.0)]


def test_what_is_dropped_is_told_with_its_distance():
    images = np.random.default_rng(0).uniform(-1, 1, (90, 3)).astype(np.float32)
    images[[40, 70]] = images[11]
    first = flood_fill(images, 0.15)
    kept, rows = distinct(images, 0.15)
    np.testing.assert_array_equal(kept, np.unique(first))
    assert 3 < len(rows) < 87 and [(a, b) for a, b, _ in rows] == [(first[i], i) for i in range(90) if first[i] != i]
    expected = cdist(np.float64(images), np.float64(images)) / 3**0.5
    np.testing.assert_allclose([d for *_, d in rows], [expected[a, b] for a, b, _ in rows])


# Who stays


def digest(content, salt):
    return hashlib.blake2b(str(content).encode(), digest_size=8, salt=salt.to_bytes(8)).digest()


def test_one_of_each_group_stays_and_goes_with_its_content():
    rng = np.random.default_rng(0)
    labels, digests = rng.integers(0, 40, 200), [digest(i, 0) for i in range(200)]
    stays = representatives(labels, digests)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        assert members[stays[members]].tolist() == [min(members, key=lambda i: digests[i])]
    order = rng.permutation(200)
    np.testing.assert_array_equal(representatives(labels[order], [digests[i] for i in order]), stays[order])
    numbers = np.array([int.from_bytes(one) for one in digests], np.uint64)
    np.testing.assert_array_equal(representatives(labels, numbers), stays)


def test_of_exact_copies_each_stays_equally_often():
    """And nothing but the number of copies and their content decides: never what else is in the group."""
    contents = ["copied", "near", "copied", "nearer", "copied"]
    kept = np.zeros(5)
    for salt in range(3000):
        digests = [digest(content, salt) for content in contents]
        stays = representatives(np.zeros(5, int), digests)
        kept += stays
        without = representatives(np.zeros(3, int), [digests[i] for i in (0, 2, 4)])
        assert not stays[[0, 2, 4]].any() or stays[[0, 2, 4]].tolist() == without.tolist()
    # The smallest of three hashes is the copies' in a third of cases: 333 for each copy, 1,000 for each of the others.
    assert np.abs(kept - [333, 1000, 333, 1000, 333]).max() < 4 * (1000 * 2 / 3) ** 0.5


def test_no_image_no_representative_and_too_few_digests_are_refused():
    assert representatives([], []).shape == (0,)
    with pytest.raises(ValueError, match="^digests=1: must be 2, one for each label$"):
        representatives([0, 0], [b"a"])


# Thumbnails

SHAPES = [(28, 28, 1), (32, 48, 3), (17, 40, 2), (64, 10, 3), (16, 16, 1), (8, 8, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_thumbnails_are_local_means(shape):
    image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    size = tuple(min(16, side) for side in shape[:2])
    expected = resize_local_mean(image, size, channel_axis=-1).reshape(-1)
    found = thumbnail(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_small_images_are_their_own_thumbnails():
    image = np.random.default_rng(0).integers(0, 256, (16, 9, 3), np.uint8)
    np.testing.assert_array_equal(thumbnail(image), image.reshape(-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_thumbnails_are_no_further_apart_than_their_images(shape):
    rng = np.random.default_rng(0)

    def ratio(difference):
        image = rng.uniform(-1, 1, shape)
        apart = thumbnail(image + difference) - thumbnail(image)
        return np.mean(apart**2) ** 0.5 / np.mean(difference**2) ** 0.5

    edge = np.zeros(shape)
    edge[-1, -1] = 1
    smooth = np.add.outer(np.linspace(0, 1, shape[0]), np.linspace(-1, 1, shape[1]))[..., None] * np.ones(shape)
    differences = [rng.normal(size=shape), edge, smooth, np.ones(shape)]
    ratios = [ratio(difference) for difference in differences]
    assert max(ratios) < 1 + 1e-5
    assert ratios[-1] == pytest.approx(1, abs=1e-5)


def test_thumbnails_of_other_than_images_are_refused():
    with pytest.raises(ValueError, match=r"^image=\(4, 4\): must be \(h, w, c\)$"):
        thumbnail(np.zeros((4, 4)))
