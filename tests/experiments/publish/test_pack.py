"""Runs over seeds in one small file each, and back."""

import json
import shutil

import pytest

from experiments.publish import pack as module
from experiments.publish.pack import main, pack, unpack
from experiments.publish.pooled import runs_of


def run(sweep, seed, *, dirty=False):
    folder = sweep / str(seed)
    (folder / "tables").mkdir(parents=True)
    words = ["+exp=some", f"seed={seed}", "tracking=disabled", "cache_dir=/some/where", "hydra.run.dir=/else/where"]
    about = {"seed": seed, "git": {"commit": "0123", "dirty": dirty}, "overrides": words}
    (folder / "manifest.json").write_text(json.dumps(about))
    (folder / "metrics.json").write_text(json.dumps({"some/auc": seed / 10}))
    (folder / "tables" / "some.csv").write_text("a\n1\n")
    (folder / "tables" / "some.md").write_text("| a |\n")
    (folder / "run.log").write_text("many words")


@pytest.fixture
def results(tmp_path):
    for seed in (1, 2):
        run(tmp_path / "results" / "clothes", seed)
    return tmp_path / "results"


def test_what_was_packed_comes_back_without_places(results, tmp_path):
    [packed] = pack(results, tmp_path / "runs")
    assert packed.name == "clothes.tar.gz"
    unpack(tmp_path / "again", tmp_path / "runs")
    first, second = runs_of(tmp_path / "again" / "clothes")
    assert json.loads((second / "metrics.json").read_text()) == {"some/auc": 0.2}
    assert json.loads((first / "manifest.json").read_text())["overrides"] == ["+exp=some", "seed=1"]
    files = {path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file()}
    assert files == {"manifest.json", "metrics.json", "tables/some.csv"}


def test_the_same_runs_give_the_same_bytes_also_once_unpacked(results, tmp_path):
    [packed] = pack(results, tmp_path / "runs")
    before = packed.read_bytes()
    unpack(tmp_path / "again", tmp_path / "runs")
    [packed] = pack(tmp_path / "again", tmp_path / "runs")
    assert packed.read_bytes() == before


def test_a_seed_that_is_packed_and_not_there_stays_packed(results, tmp_path):
    [packed] = pack(results, tmp_path / "runs")
    both = packed.read_bytes()
    shutil.rmtree(results / "clothes" / "1")
    pack(results, tmp_path / "runs")
    assert packed.read_bytes() == both


def test_what_lies_there_stays_and_only_the_rest_is_laid_out(results, tmp_path):
    pack(results, tmp_path / "runs")
    (results / "clothes" / "1" / "metrics.json").write_text('{"some/auc": 7}')
    shutil.rmtree(results / "clothes" / "2")
    assert unpack(results, tmp_path / "runs") == [results / "clothes" / "2"]
    assert json.loads((results / "clothes" / "1" / "metrics.json").read_text()) == {"some/auc": 7}


def test_what_may_not_be_published_or_is_not_there_is_one_line(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    run(results / "clothes", 3, dirty=True)
    for words in ([str(results)], [], [str(results), "more"], [str(tmp_path / "nowhere")]):
        assert main(words) == 2
        told = capsys.readouterr()
        assert told.err.count("\n") == 1 and not told.out
    assert not (tmp_path / "runs" / "clothes.tar.gz").exists()
