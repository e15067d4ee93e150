"""Chunks of an audit: bounded memory, nothing computed twice, undefined scores set aside, no number of their making."""

import contextlib
import itertools
import threading
import time
import tracemalloc

import jax
import numpy as np
import pytest

from plap_jax.audit import AuditSettings, reading, stream
from plap_jax.audit.gathering import Gatherer
from plap_jax.audit.images import Memory, Pictures
from plap_jax.audit.scores import Scorer
from plap_jax.audit.store import FolderStore, Surroundings
from plap_jax.audit.stream import score_all
from plap_jax.audit.subject import as_subject
from plap_jax.data.images import UnusableImage
from tests.helpers import memorizing_model


def kept_in(folder):
    return Surroundings(FolderStore(folder))


class Counting:
    """A scorer that computes nothing, and a source that makes its images when they are read."""

    how = {"made": True}

    def __init__(self, n, chunk, block=None):
        self.names = [str(i) for i in range(n)]
        self.skipped, self.words, self.reads, self.in_order = [], "made", 0, True
        self.settings, self.block = AuditSettings(chunk=chunk), block or chunk
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


def test_a_chunk_ends_by_time_too_and_what_is_kept_is_found_again(tmp_path, monkeypatch):
    clock, shown = itertools.count(0, 6), []
    monkeypatch.setattr(stream.time, "monotonic", lambda: next(clock))
    killed = Counting(90, 512, block=8)
    with monkeypatch.context() as patch:
        advance = stream.tqdm.update

        def update(bar, n):
            shown.append(bar.n + n)
            if shown[-1] >= 64:
                raise KeyboardInterrupt
            advance(bar, n)

        patch.setattr(stream.tqdm, "update", update)
        around = Surroundings(FolderStore(tmp_path), progress=True)
        with contextlib.suppress(KeyboardInterrupt):
            score_all(killed, Pictures(killed), None, key="images", around=around)
    # six seconds between two looks at the clock: three blocks in a chunk, and the bar moves with every block
    assert sorted(set(shown)) == [8, 16, 24, 32, 40, 48, 56, 64]
    assert len(list(tmp_path.glob("*.npz"))) == 2
    again = Counting(90, 512, block=8)
    found = score_all(again, Pictures(again), None, key="images", around=kept_in(tmp_path))
    assert again.reads == 90 - 48 and found.columns["kappa"].tolist() == list(range(90))


class Slow(Counting):
    """Files take a while to decode, and the model takes a while as well."""

    def __init__(self, n, block, in_order, of_image, of_block):
        super().__init__(n, n, block)
        self.in_order, self.of_image, self.of_block = in_order, of_image, of_block
        self.lock, self.held, self.most = threading.Lock(), 0, 0

    def read(self, index):
        time.sleep(self.of_image)
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        return super().read(index)

    def __call__(self, pictures, prompts):
        time.sleep(self.of_block)
        with self.lock:
            self.held -= len(pictures)
        return super().__call__(pictures, prompts)


@pytest.mark.parametrize(("block", "in_order", "of_image"), [(32, False, 0.004), (32, True, 0.001), (1, False, 0.1)])
def test_the_device_waits_for_no_file(block, in_order, of_image):
    """Decoding takes as long as the model, or several times as long with several threads; a tenth is left to wait."""
    of_block, blocks = 0.05, 16
    for _ in range(3):  # a machine that is busy with others
        one = Slow(block * blocks, block, in_order, of_image, of_block)
        begun = time.monotonic()
        score_all(one, Pictures(one), None, key="images", around=Surroundings())
        first = of_image * -(-block // (1 if in_order else reading.THREADS))
        waited = time.monotonic() - begun - first - of_block * blocks
        assert one.most <= 3 * max(block, reading.THREADS)
        if waited <= 0.1 * of_block * blocks:
            return
    raise AssertionError(f"the device waited {waited:.2f} of {of_block * blocks:.2f} s")


class Broken(Memory):
    """One image cannot be read; the others of its block stay in it."""

    def read(self, index):
        if index == 5:
            raise UnusableImage("broken")
        return super().read(index)


def test_numbers_are_the_same_bytes_wherever_chunks_end(monkeypatch):
    rows = np.concatenate([memorizing_model.images(30, 1), memorizing_model.MEMORIZED])
    how = {"evaluations": 256, "target_stderr": 0.03, "max_samples": 64}
    found = []
    for chunk, seconds in ((512, 15.0), (16, 15.0), (512, -1.0)):
        monkeypatch.setattr(stream, "SECONDS", seconds)
        settings = AuditSettings(chunk=chunk, **how)
        scorer = Scorer(as_subject(memorizing_model.factory(), None), settings, jax.random.key(0), 0.22)
        assert scorer.block == 8
        found.append(score_all(scorer, Pictures(Broken(rows)), None, key="images", around=Surroundings()))
    for other in found[1:]:
        assert other.names == found[0].names and other.skipped == found[0].skipped == [("5", "broken")]
        assert all(np.array_equal(other.columns[name], column) for name, column in found[0].columns.items())
    assert found[0].columns["nfe"].max() > found[0].columns["nfe"].min()


def test_a_block_is_several_batches_where_all_have_one_shape_and_images_are_small():
    subject = as_subject(memorizing_model.factory(), None)

    def block_and_batch(evaluations, **how):
        scorer = Gatherer(subject, AuditSettings(evaluations=evaluations, **how), jax.random.key(0), one_shape=True)
        return scorer.block, scorer.batch

    assert block_and_batch(9 * 64) == (4 * 16, 16)
    assert block_and_batch(9 * 64, chunk=40) == (2 * 16, 16)
    assert block_and_batch(9 * 4) == (2, 1)


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
