"""Planting: who stands in the training set how often."""

import numpy as np
import pytest

from plap_jax.data import caption, plant

POINTS = np.arange(40, dtype=np.float32).reshape(20, 2)
HELDOUT = -1 - np.arange(12, dtype=np.float32).reshape(6, 2)


def test_every_dose_gets_its_points_and_the_rest_is_held_out() -> None:
    planted = plant(POINTS, doses={2: 4, 5: 2}, n_single=6)
    assert planted.copies.tolist() == [5] * 2 + [2] * 4 + [1] * 6 + [0] * 8
    assert (planted.points == POINTS).all()
    rows, times = np.unique(planted.train, axis=0, return_counts=True)
    assert (rows == POINTS[:12]).all()
    assert times.tolist() == planted.copies[:12].tolist()
    assert (planted.control == POINTS[6:12]).all()


def test_a_pool_of_its_own_is_held_out_and_left_over_points_are_not_used() -> None:
    planted = plant(POINTS, doses={3: 2}, n_single=4, heldout=HELDOUT)
    assert planted.copies.tolist() == [3, 3, 1, 1, 1, 1] + [0] * 6
    assert (planted.points[planted.is_heldout] == HELDOUT).all()
    everyone = plant(POINTS, doses={3: 2}, n_single=None, heldout=HELDOUT)
    assert everyone.is_single.sum() == 18


def test_both_halves_hold_half_of_every_dose() -> None:
    planted = plant(POINTS, doses={2: 4, 5: 3}, n_single=5, heldout=HELDOUT)
    for copies in (0, 1, 2, 5):
        members = planted.copies == copies
        assert abs(int(planted.validation[members].sum()) * 2 - int(members.sum())) <= 1


def test_captions_have_one_image_a_group_or_a_class_behind_them() -> None:
    planted = plant(POINTS, doses={3: 2}, n_single=10, heldout=HELDOUT)
    classes = np.array([7, 9] * 9)  # of planted, single and held-out points alike
    found = caption(planted, n_unique=2, n_grouped=5, group_size=2, classes=classes)
    own, groups, of_classes = [0, 1, 2, 3], [4, 4, 5, 5, 6], [8, 7, 8]
    assert found.of_point.tolist() == [*own, *groups, *of_classes] + [-1] * 6
    assert found.of_point.dtype == np.int32
    assert found.kind.tolist() == ["unique"] * 4 + ["group"] * 3 + ["class"] * 2
    assert found.copies.tolist() == [3, 3, 1, 1, 0, 0, 0, 0, 0]
    assert found.validation.tolist() == [True, False] * 2 + [True, False, True] + [True, False]
    assert found.of_kind("group").tolist() == [4, 5, 6]
    along = found.of_training(planted)
    assert len(along) == len(planted.train)
    assert along[:8].tolist() == [0, 0, 0, 1, 1, 1, 2, 3]


def test_without_points_left_over_no_class_is_needed() -> None:
    planted = plant(POINTS, doses={3: 2}, n_single=5, heldout=HELDOUT)
    found = caption(planted, n_grouped=5, group_size=2)
    assert found.of_point.tolist() == [0, 1, 2, 2, 3, 3, 4] + [-1] * 6
    assert set(found.kind) == {"unique", "group"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doses": {1: 3}}, r"^doses=\{1: 3\}: must repeat points at least 2 times"),
        ({"doses": {2: 1}}, r"^doses=\{2: 1\}: must give at least 2 points to every number of copies"),
        ({"doses": {}}, r"^doses=\{\}: must plant something"),
        ({"n_single": 1}, r"^n_single=1: must be >= 2"),
        ({"n_single": None}, r"^n_single=None: must be a number where held-out points are what is left"),
        (
            {"n_single": 15},
            r"^points=\(20, 2\): must hold at least 21: 4 to plant and 15 single ones, and two held-out",
        ),
        (
            {"n_single": 17, "heldout": HELDOUT},
            r"^points=\(20, 2\): must hold at least 21: 4 to plant and 17 single ones",
        ),
        ({"doses": {2: 19}, "n_single": None, "heldout": HELDOUT}, r"^n_single=1: must be >= 2; 19 of 20 points"),
        ({"heldout": HELDOUT[:1]}, r"^heldout=\(1, 2\): must be \(m, \*\(2,\)\) with m >= 2"),
        ({"heldout": np.zeros((3, 5))}, r"^heldout=\(3, 5\): must be \(m, \*\(2,\)\)"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plant(**({"points": POINTS, "doses": {2: 4}, "n_single": 4} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 1}, r"^group_size=1: must be >= 2"),
        ({"n_unique": -1}, r"^n_unique=-1: must be >= 0"),
        ({"n_grouped": -1}, r"^n_grouped=-1: must be >= 0"),
        ({"n_unique": 2}, r"^n_grouped=4: must leave room among 4 single points, n_unique=2"),
        ({"n_grouped": 3}, r"^classes=None: must say the class of 1 points left over"),
        ({"n_grouped": 3, "classes": [1, 2]}, r"^classes=\(2,\): must be integers, one for each of 20 points"),
        ({"n_grouped": 3, "classes": np.zeros(20)}, r"^classes=\(20,\): must be integers"),
    ],
)
def test_captions_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    planted = plant(POINTS, doses={2: 4}, n_single=4)
    with pytest.raises(ValueError, match=message):
        caption(planted, **({"n_grouped": 4, "group_size": 2} | change))
