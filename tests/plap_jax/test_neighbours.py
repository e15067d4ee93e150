"""Blockwise neighbours against the full distance matrix, with duplicates, ties and little memory."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from plap_jax.neighbours import nearest

ONE_POINT_AT_A_TIME = 1e-6


def brute_force(queries, reference, k, exclude_self=False):
    distances = cdist(np.float64(queries), np.float64(reference))
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("memory_mib", [ONE_POINT_AT_A_TIME, 0.01, 256])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_blocks_change_nothing(memory_mib, k):
    rng = np.random.default_rng(0)
    queries, reference = rng.normal(size=(23, 5)), rng.normal(size=(40, 5))
    distances, indices = nearest(queries, reference, k, memory_mib=memory_mib)
    expected, order = brute_force(queries, reference, k)
    np.testing.assert_allclose(distances, expected, rtol=1e-14)
    np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("memory_mib", [ONE_POINT_AT_A_TIME, 256])
def test_a_duplicate_is_at_distance_zero_and_a_point_is_no_neighbour_of_itself(memory_mib):
    rng = np.random.default_rng(1)
    points = rng.normal(size=(30, 4)).astype(np.float32)
    points[[7, 21]] = points[3]  # three copies
    points[12] = points[25]
    with_self, _ = nearest(points, points, memory_mib=memory_mib)
    np.testing.assert_array_equal(with_self, 0)

    distances, indices = nearest(points, points, 2, exclude_self=True, memory_mib=memory_mib)
    expected, _ = brute_force(points, points, 2, exclude_self=True)
    np.testing.assert_allclose(distances, expected, rtol=1e-14)
    assert not (indices == np.arange(30)[:, None]).any()
    assert [set(indices[i]) for i in (3, 7, 21)] == [{7, 21}, {3, 21}, {3, 7}]
    assert (indices[12, 0], indices[25, 0]) == (25, 12)
    assert (distances[[3, 7, 21]] == 0).all()


def test_neighbours_that_are_nearly_equally_far_are_told_apart_far_from_the_origin():
    # |x|² is 1e12 here: the expanded square alone would round these distances away.
    reference = 1e6 + np.array([[0.0, 0.0], [3e-3, 0.0], [1e-3, 0.0], [5e-3, 5e-3], [2e-3, 0.0], [9.0, 9.0]])
    distances, indices = nearest(reference[:1], reference, 4)
    np.testing.assert_array_equal(indices, [[0, 2, 4, 1]])
    np.testing.assert_allclose(distances, [[0, 1e-3, 2e-3, 3e-3]], rtol=1e-6)


@pytest.mark.parametrize("memory_mib", [0.01, 256])
@pytest.mark.parametrize("outliers", [[[1e10] * 3], [[1e10] * 3, [-1e12, 0, 0]], 1e9 + np.arange(36.0).reshape(12, 3)])
def test_outliers_leave_the_neighbours_of_all_others_alone(outliers, memory_mib):
    """Their squares leave no digit of a distance of 1; nor do a mean that follows them, or their own neighbours."""
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.normal(size=(200, 3)), outliers])
    points = points[rng.permutation(len(points))]
    for k, exclude_self in ((1, True), (5, False)):
        distances, indices = nearest(points, points, k, exclude_self=exclude_self, memory_mib=memory_mib)
        expected, order = brute_force(points, points, k, exclude_self)
        np.testing.assert_allclose(distances, expected, rtol=1e-14)
        np.testing.assert_array_equal(indices, order)


def test_two_far_clouds_are_told_apart_within_themselves():
    """No centre is near both: what rounding may hide is measured."""
    rng = np.random.default_rng(5)
    points = rng.normal(size=(120, 3)) + np.repeat([[-1e9], [1e9]], 60, axis=0)
    distances, indices = nearest(points, points, 2, exclude_self=True)
    expected, order = brute_force(points, points, 2, exclude_self=True)
    np.testing.assert_allclose(distances, expected, rtol=1e-14)
    np.testing.assert_array_equal(indices, order)


def test_more_duplicates_than_are_proposed():
    points = np.repeat(np.random.default_rng(6).normal(size=(5, 40)), 12, axis=0)
    distances, indices = nearest(points, points, 3, exclude_self=True)
    assert (distances == 0).all()
    assert (indices // 12 == np.arange(60)[:, None] // 12).all() and (indices != np.arange(60)[:, None]).all()


def test_among_equal_distances_the_smaller_index_comes_first():
    reference = np.array([[1.0], [-1.0], [1.0], [5.0], [-1.0]])
    _, indices = nearest(np.zeros((1, 1)), reference, 4)
    np.testing.assert_array_equal(indices, [[0, 1, 2, 4]])


def test_images_are_compared_as_vectors_whatever_their_type():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    expected, order = brute_force(images.reshape(12, -1), images.reshape(12, -1), 3)
    distances, indices = nearest(images, images, 3)
    np.testing.assert_allclose(distances, expected)
    np.testing.assert_array_equal(indices, order)
    on_device, _ = nearest(jnp.asarray(images), jnp.asarray(images), 3)
    np.testing.assert_array_equal(on_device, distances)


def test_the_arguments_are_left_as_they_were():
    queries, reference = np.ones((3, 2)), np.arange(8.0).reshape(4, 2)
    nearest(queries, reference, 2)
    np.testing.assert_array_equal(queries, 1)
    np.testing.assert_array_equal(reference, np.arange(8.0).reshape(4, 2))


@pytest.mark.slow
def test_memory_stays_within_its_bound():
    rng = np.random.default_rng(3)
    queries, reference = (rng.normal(size=(n, 512)).astype(np.float32) for n in (300, 6000))
    nearest(queries[:2], reference[:2])  # what is loaded once is not working memory
    bound_mib, result_mib = 4, 300 * (8 + 8) / 2**20
    tracemalloc.start()
    try:
        nearest(queries, reference, memory_mib=bound_mib)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / 2**20 < bound_mib + result_mib + 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.ones((3, 5))}, r"queries=\(3, 5\): must be \(n, \*\(2,\)\)"),
        ({"queries": np.ones((0, 2))}, r"queries=\(0, 2\): must be \(n, \*shape\) and hold a point"),
        ({"reference": np.ones(4)}, r"reference=\(4,\): must be \(n, \*shape\)"),
        ({"reference": np.array([[0.0, 1.0], [np.nan, 0.0]])}, r"reference=array.*row 1 is not"),
        ({"queries": np.array([[0.0, np.inf]])}, r"queries=array.*row 0 is not"),
        ({"k": 0}, r"k=0: must lie between 1 and 4"),
        ({"k": 4, "exclude_self": True}, r"k=4: must lie between 1 and 3"),
        ({"memory_mib": 0}, r"memory_mib=0: must be positive"),
        ({"queries": np.ones((3, 2)), "exclude_self": True}, r"exclude_self=True: needs as many queries"),
        ({"queries": np.ones((4, 2)), "exclude_self": True}, r"exclude_self=True: needs queries that are"),
    ],
)
def test_bad_input_is_named_in_one_line(change, message):
    points = np.arange(8.0).reshape(4, 2)
    with pytest.raises(ValueError, match=message) as refused:
        nearest(**{"queries": points, "reference": points, "k": 1} | change)
    assert "\n" not in str(refused.value)
