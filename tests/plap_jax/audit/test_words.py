"""What an audit was asked, in words: a page is passed on, so that absolute paths are not told."""

from types import SimpleNamespace

import numpy as np

from plap_jax.audit.stream import DIGEST, NEAR, Scored
from plap_jax.audit.words import listed, notices_of, where_from, without_score


def test_paths_are_told_as_given_and_of_absolute_ones_the_last_part(tmp_path):
    (tmp_path / "list.csv").write_text("file,prompt\n")
    told = where_from(np.zeros((1, 2, 2, 1)), "photos/others", str(tmp_path / "list.csv"), tmp_path / "seen")
    assert told == {
        "prompts": "list.csv",
        "training set": "seen",
        "folder of images": "an array in memory",
        "folder of reference": "photos/others",
    }
    told = where_from("photos", None, None, None)
    assert told == {"prompts": "none", "training set": "not at hand", "folder of images": "photos"}
    assert where_from("photos", None, "a cat", None)["prompts"] == "a cat"
    assert where_from("photos", None, ["a", "b"], None)["prompts"] == "one for each image"


def test_without_anything_to_tell_there_are_no_notices():
    assert notices_of(None, None, Scored({}, []), None) == []
    digests = [np.arange(3, dtype=np.uint64) + first for first in (0, 10)]
    none, other = (Scored({NEAR: np.zeros(3, bool), DIGEST: own}, list("abc")) for own in digests)
    assert notices_of(None, None, none, other) == []
    one, another = (Scored({NEAR: np.arange(3) < 1, DIGEST: own}, list("abc")) for own in digests)
    assert notices_of(None, None, one, another) == [
        "1 of 3 audited images is a near-duplicate of training images, as may be where training images are audited",
        "1 of 3 reference images is a near-duplicate of training images",
    ]
    assert listed([0.03, 0.5]) == "0.03, 0.5"


def test_images_without_a_score_are_told_and_files_that_are_none_are_not():
    """Rows of an array and of a result are then not the same."""
    scored = Scored({}, list("abc"), [("3", "holds NaN or infinity"), ("LICENSE", "not named as an image")])
    told = without_score("audited", scored, [*"abc", "3"])
    assert told == ["1 audited image is skipped and has no score: 3: holds NaN or infinity"]
    scored = Scored({}, list("def"), [("g", "broken"), ("h", "broken")])
    told = without_score("reference", scored, list("defgh"))
    assert told == ["2 reference images are skipped and have no score: g: broken, and 1 more"]
    assert without_score("reference", scored, list("def")) == []


def test_images_of_both_sides_are_told_where_the_reference_is_known_to_be_free_of_training_images():
    digests = np.arange(3, dtype=np.uint64)
    audited, reference = (Scored({DIGEST: digests + first}, list("abc")) for first in (0, 2))
    calibration = SimpleNamespace(left_out=(), not_reached=())
    assert notices_of(None, calibration, audited, reference, controlled=True) == [
        "1 of 3 audited images stands in the reference, too, "
        "which is to hold images known not to be in the training data",
    ]
    assert notices_of(None, calibration, audited, reference) == []
    assert notices_of(None, None, audited, reference, controlled=True) == [], "which is told with p-values"
