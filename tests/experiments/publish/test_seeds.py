"""An experiment over seeds: what is run, and what is taken as it lies there; processes are made up."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from experiments.core.checksums import sha256_json
from experiments.core.report import NOT_SCIENCE
from experiments.core.revision import require_clean
from experiments.core.schema import check
from experiments.publish import seeds
from experiments.publish.seeds import main

WORDS = ["+exp=memorization_trajectory", "scale=smoke"]


def config_sha256(words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = check(compose("config", list(words)))[0].model_dump(mode="json")
    return sha256_json({key: value for key, value in config.items() if key not in NOT_SCIENCE})


@pytest.fixture
def calls(monkeypatch):
    """Seeds that were run; each leaves what a run leaves, but for those in ``failing``."""
    made = SimpleNamespace(seeds=[], failing=set(), same_code=True)

    def run(command, **_):
        words = [word for word in command[3:] if word.startswith(("+exp", "seed", "scale", "flux"))]
        seed, directory = words[-1], Path(command[-1].partition("=")[2])
        made.seeds.append(seed)
        directory.mkdir(parents=True, exist_ok=True)
        if seed in made.failing:
            return subprocess.CompletedProcess(command, 1)
        (directory / "metrics.json").write_text("{}")
        manifest = {"config_sha256": config_sha256(words), "git": {"commit": "0123", "dirty": False}}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(seeds, "require_clean", lambda: None)
    monkeypatch.setattr(seeds, "same_code", lambda commit, paths: made.same_code and commit == "0123")
    return made


def test_a_finished_seed_of_the_same_config_and_code_is_not_run_again(calls, tmp_path):
    calls.failing = {"seed=2"}
    assert main([str(tmp_path), "1,2,3", *WORDS]) == 1
    assert calls.seeds == ["seed=1", "seed=2"]  # and goes no further
    calls.failing = set()
    assert main([str(tmp_path), "1,2,3", *WORDS]) == 0
    assert calls.seeds[2:] == ["seed=2", "seed=3"]
    assert main([str(tmp_path), "1,2,3", *WORDS]) == 0
    assert main([str(tmp_path), "1,2,3", *WORDS, "cache_dir=elsewhere"]) == 0
    assert len(calls.seeds) == 4
    assert main([str(tmp_path), "3", *WORDS, "flux.n_samples=8"]) == 0
    assert calls.seeds[4:] == ["seed=3"]  # another config
    calls.same_code = False
    assert main([str(tmp_path), "1", *WORDS]) == 0
    assert calls.seeds[5:] == ["seed=1"]


def test_a_run_of_a_changed_tree_is_made_again(calls, tmp_path):
    assert main([str(tmp_path), "1", *WORDS]) == 0
    manifest = tmp_path / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("false", "true"))
    assert main([str(tmp_path), "1", *WORDS]) == 0
    assert calls.seeds == ["seed=1", "seed=1"]


def test_a_changed_tree_and_bad_input_end_in_one_line(calls, changed_tree, tmp_path, monkeypatch, capsys):
    assert main([str(tmp_path), "1,x", *WORDS]) == 2 and main([str(tmp_path), "1"]) == 2
    assert main([str(tmp_path), "1", "+exp=memorization_trajectory", "flux.p=2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("flux.p=2")
    monkeypatch.setattr(seeds, "require_clean", lambda: require_clean(changed_tree))
    assert main([str(tmp_path), "1", *WORDS]) == 2
    assert capsys.readouterr().err.startswith("working tree=code.py: must be as committed")
    assert calls.seeds == []
