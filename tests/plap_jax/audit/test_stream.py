"""Chunks of an audit: bounded memory, nothing computed twice, undefined scores set aside."""

import tracemalloc

import numpy as np

from plap_jax.audit.images import Pictures
from plap_jax.audit.store import FolderStore, Surroundings
from plap_jax.audit.stream import score_all


def kept_in(folder):
    return Surroundings(FolderStore(folder))


class Counting:
    """A scorer that computes nothing, and a source that makes its images when they are read."""

    how = {"made": True}

    def __init__(self, n, chunk):
        self.names = [str(i) for i in range(n)]
        self.skipped, self.words, self.reads = [], "made", 0
        self.chunk = chunk
        self.largest = 0

    def read(self, index):
        self.reads += 1
        return np.full((32, 32, 3), index, np.float32)

    def identity(self, indices):
        return list(indices)

    def __call__(self, pictures, prompts):
        self.largest = max(self.largest, len(pictures))
        means = pictures[:, 0, 0, 0]
        return {"kappa": means, "kappa/stderr": means, "kappa/n_units": means, "nfe": means, "spent": means}


def test_memory_does_not_grow_with_the_images(tmp_path):
    peaks = []
    for n in (64, 1600):
        one = Counting(n, 32)
        tracemalloc.start()
        found = score_all(one, Pictures(one), None, key="images", around=kept_in(tmp_path / str(n)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.columns["kappa"].tolist() == list(range(n)) and one.reads == n and one.largest == 32
    held = 1600 * 32 * 32 * 3 * 4
    assert peaks[1] - peaks[0] < held / 8  # all at once would be 19 MB


def test_chunks_that_are_done_are_not_done_again(tmp_path):
    first, again, more = Counting(100, 32), Counting(100, 32), Counting(140, 32)
    for one, reads in ((first, 100), (again, 0), (more, 44)):  # of the last chunk but 4 images are new
        score_all(one, Pictures(one), None, key="images", around=kept_in(tmp_path / "cache"))
        assert one.reads == reads


class Undefined(Counting):
    """Has no finite score for every fifth image, and no finite standard error for the one after it."""

    def __call__(self, pictures, prompts):
        found = super().__call__(pictures, prompts)
        score, stderr = found["kappa"].copy(), found["kappa"].copy()
        score[score % 5 == 0], stderr[stderr % 5 == 1] = np.nan, np.inf
        return found | {"kappa": score, "kappa/stderr": stderr}


def test_images_without_a_finite_score_are_told_and_the_others_judged(tmp_path):
    one = Undefined(12, 4)
    found = score_all(one, Pictures(one), None, key="images", around=kept_in(tmp_path / "cache"))
    assert found.names == ["2", "3", "4", "7", "8", "9"] and found.columns["kappa"].tolist() == [2, 3, 4, 7, 8, 9]
    assert found.columns["index"].tolist() == [2, 3, 4, 7, 8, 9] and len(found.digests) == 6
    assert sorted(name for name, _ in found.skipped) == sorted(["0", "1", "5", "6", "10", "11"])
    assert {why for _, why in found.skipped} == {"the model's score is not finite here"}
