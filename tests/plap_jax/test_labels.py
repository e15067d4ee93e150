"""What counts as a copy."""

import numpy as np
import pytest

from plap_jax.labels import find_copies


def grid_of_points(n: int = 60, d: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def slow(generated: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One pair at a time, in float64."""
    nearest, ratio, distance, relative = [], [], [], []
    for x in generated.astype(float):
        apart = sorted((float(np.sqrt(((x - y) ** 2).sum())), j) for j, y in enumerate(reference.astype(float)))
        nearest.append(apart[0][1])
        ratio.append(apart[0][0] / apart[1][0])
        distance.append(apart[0][0] / np.sqrt(x.size))
        relative.append(apart[0][0] / (np.mean([a for a, _ in apart[:50]]) / 2))
    return tuple(map(np.array, (nearest, ratio, distance, relative)))


@pytest.mark.parametrize("n_reference", [2, 7, 60])
def test_every_criterion_against_one_pair_at_a_time(n_reference: int) -> None:
    reference = grid_of_points(n_reference)
    generated = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    found = find_copies(generated, reference)
    nearest, ratio, distance, relative = slow(generated, reference)
    assert (found.nearest == nearest).all()
    np.testing.assert_allclose(found.ratio, ratio, rtol=1e-6)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)
    np.testing.assert_allclose(found.relative, relative, rtol=1e-6)


def test_a_point_near_one_of_two_is_a_copy_and_one_between_them_is_not() -> None:
    reference = np.array([[0.0, 0.0], [3.0, 0.0]])
    generated = np.array([[0.0, 0.0], [0.74, 0.0], [0.76, 0.0], [1.5, 0.0]])  # d1/d2 = 1/3 at 0.75
    found = find_copies(generated, reference, max_distance=0.1)
    assert found.by_ratio.tolist() == [True, True, False, False]
    assert found.by_distance.tolist() == [True, False, False, False]
    assert found.counts(2).tolist() == [2, 0]


def test_images_are_compared_as_vectors_and_integers_do_not_wrap() -> None:
    reference = np.array([0, 250], np.uint8).reshape(2, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)
    generated = np.full((1, 2, 2, 1), 5, np.uint8)  # 5 − 250 is 11 modulo 256
    found = find_copies(generated, reference)
    assert found.nearest.tolist() == [0]
    assert found.distance[0] == 5.0
    assert found.ratio[0] == pytest.approx(5 / 245)


def test_a_duplicate_in_the_reference_is_refused_since_its_copies_would_count_as_new() -> None:
    points = grid_of_points(5)
    with pytest.raises(ValueError, match=r"^reference=\(6, 3\): must hold each point once: 5 of 6 are distinct"):
        find_copies(points, np.concatenate([points, points[2:3]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_ratio": 0.0}, r"^max_ratio=0(\.0)?: must lie in \(0, 1\]"),
        ({"max_ratio": 1.5}, r"^max_ratio=1\.5: must lie in \(0, 1\]"),
        ({"max_distance": 0.0}, r"^max_distance=0(\.0)?: must be > 0"),
        ({"reference": np.zeros((1, 3))}, r"^reference=\(1, 3\): must hold at least two points"),
        ({"generated": np.zeros((4, 2))}, r"^queries=\(4, 2\): must be \(n, \*\(3,\)\)"),
        ({"generated": np.full((1, 3), np.nan)}, r"must be finite"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_copies(**({"generated": grid_of_points(4), "reference": grid_of_points(5)} | change))
