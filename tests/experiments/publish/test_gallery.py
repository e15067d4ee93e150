"""The page of figures: what is run, what is taken as it lies there, and what the page says."""

import importlib
import json
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF, experiments
from experiments.core.files import write_text
from experiments.core.revision import require_clean
from experiments.publish import gallery
from experiments.publish.exhibits import ENTRIES, Entry
from experiments.publish.gallery import ensure, section
from tests.helpers.places import ROOT

WORDS = ["+exp=gmm_memorization", "seed=1"]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Commands instead of processes; each leaves metrics."""
    made = []

    def run(command, **_):
        made.append(command)
        directory = Path(command[-1].partition("=")[2])
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "metrics.json").write_text("{}")
        (directory / "manifest.json").write_text(json.dumps({"git": {"commit": "0123456789", "dirty": False}}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gallery, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    return made


def test_a_run_is_taken_as_it_is_while_config_and_code_are_the_same(calls, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    assert ensure(directory, WORDS) == 0
    assert calls[0][1:4] == ["-m", "experiments.run", "+exp=gmm_memorization"]
    assert ensure(directory, WORDS) == 0 and len(calls) == 1
    assert ensure(directory, [*WORDS, "tracking=disabled"]) == 0 and len(calls) == 1  # no science
    ensure(directory, [*WORDS, "flux.p=2"])
    assert len(calls) == 2
    ensure(directory, WORDS)
    assert len(calls) == 3
    monkeypatch.setattr(gallery, "code_tag", lambda *_: "other code")
    ensure(directory, WORDS)
    assert len(calls) == 4
    (directory / "manifest.json").write_text(json.dumps({"git": {"commit": "0123456789", "dirty": True}}))
    ensure(directory, WORDS)
    assert len(calls) == 5


def test_nothing_is_run_from_a_changed_tree(calls, changed_tree, monkeypatch, capsys):
    monkeypatch.setattr(gallery, "require_clean", lambda: require_clean(changed_tree))
    assert gallery.main([]) == 2
    assert not calls
    assert capsys.readouterr().err.startswith("working tree=code.py: must be as committed")


def test_code_is_all_that_an_experiment_takes_names_from():
    names = [module.__name__ for module in gallery.imported(importlib.import_module("experiments.estimator_study"))]
    assert names[0] == "experiments.estimator_study" and len(set(names)) == len(names)
    direct = {"experiments.estimator_study.gains", "experiments.shared.networks"}
    assert direct | {"experiments.estimator_study.operator_cost", "experiments.shared.timing"} <= set(names)
    assert not [name for name in names if name.startswith(("experiments.figures", "experiments.detection_benchmark"))]


def test_a_failed_run_is_not_valid(monkeypatch, tmp_path):
    monkeypatch.setattr(gallery.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2))
    assert ensure(tmp_path, WORDS) == 2
    assert not (tmp_path / gallery.VALID).exists()


def test_the_page_shows_pictures_with_command_commit_and_numbers(monkeypatch, tmp_path, capsys):
    run = tmp_path / "run"
    for folder in ("figures", "tables"):
        (run / folder).mkdir(parents=True)
    for name in ("maps_kappa_t2.png", "maps_kappa_t2.pdf"):
        (run / "figures" / name).write_bytes(b"picture")
    (run / "tables" / "points.md").write_text("| a |\n|---|\n| 1 |\n")
    (run / "manifest.json").write_text(json.dumps({"git": {"commit": "0123456789", "dirty": False}}))
    numbers = {"auc": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 5}, "other": 1}
    (run / "metrics.json").write_text(json.dumps(numbers))
    monkeypatch.setattr(gallery, "FIGURES", tmp_path / "figures")
    for name in ("poster.txt", "drawn_once.png"):
        write_text(tmp_path / "figures" / "e" / name, "of months")
    text = section(
        Entry("e", "Title", "About.", "maps_kappa_t2", ("points",)), WORDS, run, {"maps_*": "Maps."}, ["auc"]
    )
    assert "# Title" in text and "![Maps.](maps_kappa_t2.png)" in text and "| a |" in text
    assert "`python -m experiments.run +exp=gmm_memorization seed=1`, commit 0123456" in text
    assert "drawn_once" not in text and "drawn_once.png drawn by no run any more" in capsys.readouterr().err
    assert [(tmp_path / "figures" / "e" / n).read_text() for n in ("poster.txt", "drawn_once.png")] == ["of months"] * 2
    assert "0.900 [0.800, 1.000]" in text and "other" not in text
    assert (tmp_path / "figures" / "e" / "maps_kappa_t2.pdf").read_bytes() == b"picture"


def test_those_that_are_named_are_drawn_and_the_pages_of_others_stay(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(gallery, "ensure", lambda directory, words: ran.append(words) or 0)
    monkeypatch.setattr(gallery, "require_clean", lambda: None)
    monkeypatch.setattr(gallery, "claim", lambda *_: None)
    monkeypatch.setattr(gallery, "section", lambda entry, *_: f"# {entry.title}, drawn anew\n")
    monkeypatch.setattr(gallery, "OmegaConf", SimpleNamespace(load=lambda _: SimpleNamespace(figures="f", headline=[])))
    drawn = SimpleNamespace(draw=lambda _: None, CAPTIONS={})
    monkeypatch.setattr(gallery, "importlib", SimpleNamespace(import_module=lambda _: drawn))
    monkeypatch.setattr(gallery, "FIGURES", tmp_path)
    write_text(tmp_path / "gmm_memorization" / "README.md", "# Of last year\n")
    assert gallery.main(["mitigation", "scale=smoke"]) == 0
    assert ran == [["+exp=mitigation", "seed=1", "scale=smoke"]]
    assert (tmp_path / "mitigation" / "README.md").read_text().endswith("drawn anew\n")
    assert (tmp_path / "gmm_memorization" / "README.md").read_text() == "# Of last year\n"
    page = (tmp_path / "README.md").read_text()
    assert page.index("(gmm_memorization/README.md)") < page.index(
        "[![Generation that does not copy](mitigation/pareto.png)]"
    )
    assert "estimator_study/README.md" not in page


def test_a_name_that_is_none_is_refused(capsys):
    assert gallery.main(["gmm"]) == 2
    assert capsys.readouterr().err.startswith("experiment='gmm': must be among gmm_memorization, image_memorization")


def test_no_two_experiments_share_a_folder():
    assert len({entry.folder for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.folder)
def test_every_entry_exists_and_has_captions(entry):
    assert entry.name in experiments()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"+exp={entry.name}", *entry.settings])
    module = importlib.import_module(config.figures)
    source = Path(module.__file__).read_text()
    for pattern in module.CAPTIONS:
        stem = pattern.rstrip("*").rstrip("_")
        assert stem.partition("_")[0] in source.partition("def draw")[2], pattern
    assert any(fnmatch(entry.picture, pattern) for pattern in module.CAPTIONS)
    committed = ROOT / "figures" / entry.folder
    for picture in committed.glob("*.png"):
        assert any(fnmatch(picture.stem, pattern) for pattern in module.CAPTIONS | gallery.OF_PAGE), picture.name


def test_a_page_is_photographed_where_there_is_a_browser(tmp_path, monkeypatch, capsys):
    shot = []
    fake = SimpleNamespace(chromium=lambda: "chromium", screenshot=lambda *places: shot.append(places))
    monkeypatch.setattr(gallery, "importlib", SimpleNamespace(import_module=lambda _: fake))
    gallery.photograph(tmp_path)  # a run without a page
    (tmp_path / "report.html").touch()
    gallery.photograph(tmp_path)
    assert shot == [(tmp_path / "report.html", tmp_path / "figures" / "report.png")]
    fake.chromium = lambda: None
    gallery.photograph(tmp_path)

    def missing(_):
        raise ModuleNotFoundError("No module named 'playwright'", name="playwright")

    monkeypatch.setattr(gallery, "importlib", SimpleNamespace(import_module=missing))
    gallery.photograph(tmp_path)
    told = capsys.readouterr().err
    assert "there is no Chromium" in told and "playwright (extra dev) is missing" in told and len(shot) == 1
