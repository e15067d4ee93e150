"""Stages on disk: built once, whole or absent, checked when read, found again after a kill."""

import json
import logging
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import experiments.core.cache
import experiments.figures
from experiments.core.cache import ENTRY, Cache, code_tag
from tests.helpers.places import HELPERS, ROOT

WORKER = HELPERS / "cache_worker.py"


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def counted(cache):
    """``counted(depends_on)`` reads a stage; ``counted.builds`` says how often it was computed."""

    def read(depends_on):
        return cache.arrays("stage", depends_on, compute)

    def compute():
        read.builds += 1
        return {"x": np.arange(5.0)}

    read.builds = 0
    return read


def test_a_stage_is_computed_once_for_what_it_depends_on(counted):
    first = counted({"a": 1, "b": [1, 2]})
    again = counted({"b": [1, 2], "a": 1})
    assert counted.builds == 1
    np.testing.assert_array_equal(first["x"], again["x"])
    counted({"a": 2, "b": [1, 2]})
    assert counted.builds == 2


def test_the_key_depends_on_the_environment(cache, monkeypatch):
    before = cache.key("stage", {"a": 1})
    monkeypatch.setattr(experiments.core.cache, "version", lambda name: "0.0")
    assert cache.key("stage", {"a": 1}) != before
    assert cache.key("other", {"a": 1}) != cache.key("stage", {"a": 1})


def test_arrays_come_from_the_file_in_either_case(cache):
    def compute():
        return {"bf": np.float32(1) / 3, "list": [1, 2]}

    fresh = cache.arrays("stage", {}, compute)
    stored = cache.arrays("stage", {}, compute)
    for name, value in fresh.items():
        assert value.dtype == stored[name].dtype
        assert value.tobytes() == stored[name].tobytes()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "entry", "add"])
def test_a_damaged_entry_is_reported_and_computed_again(cache, counted, caplog, damage):
    expected = counted({})["x"]
    (entry,) = (path for path in (cache.directory / "stage").iterdir() if path.is_dir())
    file = entry / "arrays.npz"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-10])
    elif damage == "remove":
        file.unlink()
    elif damage == "entry":
        (entry / ENTRY).write_text("{")
    else:
        (entry / "stranger").write_text("?")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(counted({})["x"], expected)
    assert counted.builds == 2
    assert "is damaged" in caplog.text and str(entry) in caplog.text
    counted({})
    assert counted.builds == 2


def test_a_builder_that_fails_leaves_no_entry_and_its_files_for_the_next_attempt(cache):
    def fails(directory):
        (directory / "step").write_text("1")
        raise RuntimeError("stop")

    def goes_on(directory):
        assert (directory / "step").read_text() == "1"

    with pytest.raises(RuntimeError):
        cache.stage("stage", {}, fails)
    entry = cache.stage("stage", {}, goes_on)
    assert json.loads((entry / ENTRY).read_text())["files"].keys() == {"step"}


@pytest.mark.slow
def test_a_killed_builder_is_resumed_once_while_another_process_waits(tmp_path):
    command = [sys.executable, str(WORKER), str(tmp_path)]
    start = {"cwd": ROOT, "env": {"PYTHONPATH": str(ROOT), "PATH": ""}, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **start) as victim:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("slow/*.partial/step_04")):
            assert time.monotonic() < deadline and victim.poll() is None
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL
    assert not [path for path in (tmp_path / "slow").iterdir() if path.is_dir() and path.suffix != ".partial"]

    with subprocess.Popen(command, **start) as one, subprocess.Popen(command, **start) as other:
        printed = [process.communicate(timeout=60)[0] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert printed[0] == printed[1]
    first, second, n_steps = printed[0].split("\n", 2)
    assert first == "from 0" and n_steps.strip() == "20"
    assert int(second.removeprefix("from ")) >= 5


def test_a_cache_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache_dir=.*file/cache: Not a directory; must be a directory"):
        Cache(tmp_path / "file" / "cache")


def test_code_tag_reads_modules_and_whole_packages(tmp_path):
    assert code_tag(experiments.core.cache) == code_tag(experiments.core.cache)
    assert code_tag(experiments.core.cache) != code_tag(experiments.figures)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("a = 1")
    module = type(experiments)("package")
    module.__file__, module.__path__ = str(package / "__init__.py"), [str(package)]
    before = code_tag(module)
    (package / "part.py").write_text("a = 2")
    assert code_tag(module) == before  # this process goes on with what it has loaded
    experiments.core.cache._digest.cache_clear()  # another process
    assert code_tag(module) != before
