"""Audits of very many images, on few and within this process."""

import threading
import time

import numpy as np
import pytest

from benchmarks import scale
from benchmarks.simulated_shards import thumbnails
from benchmarks.timing import Finished
from plap_jax.audit.command_line import main


def within(lock):
    """Runs what would be a process of its own."""

    def run_process(arguments):
        module, *options = arguments[2:]
        with lock:
            start = time.perf_counter()
            if module == "plap_jax.audit":
                assert main(options) == 0
            said = scale.bare_rate(scale.Path(options[1]), float(options[2])) if module == "benchmarks.scale" else ""
            return Finished(time.perf_counter() - start, 100.0, str(said))

    return run_process


def test_rows_of_few_images(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "run_process", within(threading.Lock()))
    monkeypatch.setattr(scale, "NETWORK", {"width": 32, "depth": 1, "embed_dim": 8})
    monkeypatch.setattr(scale, "N_TRAIN", 64)
    rows = {row.what: row for row in scale.of_network(tmp_path, (60, 100, 400), n_steps=2, seconds=0.05)}
    assert {what.partition(": ")[0] for what in rows} >= {"400 images, 1 process", "400 images, 2 processes"}
    growth = rows.pop("time beyond the start, 400 images / 4 × 100")  # of so few it is noise
    assert growth.goal == "≤ 1.1 ×, ≥ 0.9 ×" and all(row.median > 0 for row in rows.values())
    assert rows["400 images, 1 process: bare evaluations / time"].at_least == 0.85
    monkeypatch.setattr(scale, "IMAGES_EACH", 300)
    time_, memory = scale.of_very_many(tmp_path / "simulated", 1000, 200)
    assert time_.at_most == 300 and memory.at_most == 8192 and memory.median == 100
    assert len(list((tmp_path / "simulated" / "audit" / "evidence").iterdir())) == 4
    assert (tmp_path / "simulated" / "audit" / "audit.csv").read_text().count("\n") == 1001


@pytest.mark.slow
def test_a_network_with_convolutions(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "run_process", within(threading.Lock()))
    monkeypatch.setattr(scale, "N_TRAIN", 32)
    row = scale.of_unet(tmp_path / "unet", 60, 1, 0.05, width=8, multipliers=(1,), groups=4, patch=4)
    assert row.what == "60 images through a U-Net: bare evaluations / time"
    assert 0 < row.median < 1.5 and row.at_least == 0.85


def test_thumbnails_are_like_those_of_photographs_and_some_are_alike():
    found = thumbnails(4000, 0)
    assert found.shape == (4000, 256) and np.abs(found).max() <= 1 and 0.4 < found.std() < 0.7
    blank = found.min(axis=1) > 0.8
    assert 2 <= blank.sum() <= 20 and (found[~blank].std(axis=1) > 0.2).all()
