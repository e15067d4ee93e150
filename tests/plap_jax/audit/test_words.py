"""What an audit was asked, in words: a page is passed on, so that absolute paths are not told."""

import numpy as np

from plap_jax.audit.stream import NEAR, Scored
from plap_jax.audit.words import listed, notices_of, where_from


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
    none = Scored({NEAR: np.zeros(3, bool)}, list("abc"))
    assert notices_of(None, None, none, none) == []
    one = Scored({NEAR: np.arange(3) < 1}, list("abc"))
    assert notices_of(None, None, one, one) == [
        "1 of 3 audited images is a near-duplicate of training images, as may be where training images are audited",
        "1 of 3 reference images is a near-duplicate of training images",
    ]
    assert listed([0.03, 0.5]) == "0.03, 0.5"
