"""Weights & Biases: what it holds is what the run wrote, without network, and its failures are warnings."""

import csv
import json
import logging
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb

from experiments import run
from experiments.core.report import Report, flatten
from experiments.core.tracking import WandbTracker
from experiments.publish.collect import SweepWatch
from tests.helpers.offline_runs import items, read_back
from tests.helpers.places import HELPERS


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A launch directory, and a process environment that forgets what the tracker sets."""
    for kind in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", "")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(SweepWatch, "directory", None)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


def saved(records):
    """Names of the files that are to be uploaded."""
    files = (r.files.files for r in records if r.WhichOneof("record_type") == "files")
    return {file.path for found in files for file in found}


@pytest.fixture
def sweep(environment, monkeypatch, tmp_path):
    """Two tracked runs in ``tmp_path/sweep``."""
    arguments = ["-m", "--config-dir", str(HELPERS / "conf"), "+exp=tiny", "tracking=offline", "seed=1,2"]
    monkeypatch.setattr(sys, "argv", ["experiments.run", *arguments, "hydra.sweep.dir=sweep"])
    assert run.main() == 0
    return tmp_path / "sweep"


def test_the_offline_file_holds_the_run(sweep, capfd):
    groups = set()
    for job in ("0", "1"):
        records = read_back(sweep / job)
        metrics = json.loads((sweep / job / "metrics.json").read_text())
        summary, history = items(records, "summary"), items(records, "history")
        assert {name: summary[name][-1] for name in flatten(metrics)} == flatten(metrics)

        (opened,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
        config = {item.key: json.loads(item.value_json) for item in opened.config.update}
        assert config["seed"] == int(job) + 1 and config["flux"]["p"] == 1 and config["sample"]["n"] == 64
        groups.add(opened.run_group)

        assert len(history["draw/loss"]) == 64 and history["step"][-1] == 63
        assert history["tables/x/_type"] == ["table-file"]
        (table,) = sweep.glob(f"{job}/wandb/offline-run-*/files/media/table/tables/x*.table.json")
        with (sweep / job / "tables" / "x.csv").open(newline="") as handle:
            expected = [[int(row["i"]), float(row["x"])] for row in csv.DictReader(handle)]
        assert json.loads(table.read_text()) == {"columns": ["i", "x"], "data": expected}
        assert history["figures/x/_type"] == ["image-file"]
        (png,) = sweep.glob(f"{job}/wandb/offline-run-*/files/media/images/figures/x*.png")
        assert png.read_bytes() == (sweep / job / "figures" / "x.png").read_bytes()

        kept = sweep / job / "checkpoints"
        (record,) = sweep.glob(f"{job}/wandb/offline-run-*")
        for path in (path.relative_to(kept) for path in kept.rglob("*") if path.is_file()):
            assert (record / "files" / "checkpoints" / path).read_bytes() == (kept / path).read_bytes()
            assert f"checkpoints/{path.as_posix()}" in saved(records)
    assert groups == {"tiny/sweep"}
    assert "wandb:" not in "".join(capfd.readouterr())


def test_a_page_is_kept_with_its_tables(environment, tmp_path):
    tracker, report = WandbTracker(), Report(tmp_path / "run", {"name": "audit"})
    (report.directory / "report.html").write_text("<p>all of it</p>")
    report.table("audit", [{"file": "a.png", "kappa": 0.5}])
    tracker.start(directory=report.directory, group="audit", config=report.config)
    tracker.publish(report)
    tracker.finish(failed=False)
    wandb.teardown()  # the service that writes the file has ended
    assert {"report.html", "tables/audit.csv"} <= saved(read_back(report.directory))
    (page,) = report.directory.glob("wandb/offline-run-*/files/report.html")
    assert page.read_text() == "<p>all of it</p>"


def test_an_offline_run_can_be_moved_to_another_machine(sweep, tmp_path):
    """Nothing in the record leads out of its directory: no absolute path, no link, and every file it names is there."""
    (record,) = sweep.glob("0/wandb/offline-run-*")
    elsewhere = tmp_path / "elsewhere" / "wandb" / record.name
    shutil.copytree(record, elsewhere, symlinks=True)
    records = read_back(elsewhere.parents[1])
    assert not any(path.is_symlink() for path in (elsewhere / "files").rglob("*"))
    assert not [r for r in records if str(tmp_path) in str(r) or r.WhichOneof("record_type") == "artifact"]
    assert len(saved(records)) >= 4 and all((elsewhere / "files" / name).is_file() for name in saved(records))


def test_all_its_files_are_in_the_run_directory(sweep, tmp_path):
    for kind in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
        assert Path(os.environ[f"WANDB_{kind}_DIR"]).is_relative_to(sweep / "1")
    assert not (tmp_path / "wandb").exists()
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def fails(*_, **__):
    """A tracker's failure with more than one line."""
    raise wandb.Error("no\nservice")


def exits(*_, **__):
    """A tracker's failure that would end the process."""
    sys.exit(3)


@pytest.mark.parametrize("failure", [fails, exits])
def test_a_tracker_that_cannot_start_warns_once(environment, tmp_path, monkeypatch, caplog, failure):
    monkeypatch.setattr(wandb, "init", failure)
    tracker, report = WandbTracker(), Report(tmp_path / "run", {"name": "tiny"})
    with caplog.at_level(logging.WARNING):
        tracker.start(directory=report.directory, group="g", config=report.config)
        tracker.curve("loss", [1.0])
        tracker.publish(report)
        tracker.finish(failed=False)
    (warning,) = caplog.messages
    assert warning.startswith("tracking is off: ") and "\n" not in warning


@pytest.mark.parametrize("method", ["log", "summary", "finish"])
def test_a_tracker_that_fails_later_warns_once(environment, tmp_path, monkeypatch, caplog, method):
    class Broken:
        step = 0

        def __getattr__(self, name):
            return fails() if name == method else (lambda *_, **__: None)

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    tracker, report = WandbTracker(), Report(tmp_path / "run", {"name": "tiny"})
    with caplog.at_level(logging.WARNING):
        tracker.start(directory=report.directory, group="g", config=report.config)
        tracker.curve("loss", [1.0])
        if method != "finish":
            tracker.publish(report)
        tracker.finish(failed=False)
    assert caplog.messages == ["tracking is off: Error: no service"]


def test_tables_keep_numbers_as_numbers_and_labels_as_text(environment, tmp_path):
    rows = [
        {"n": 1, "mixed": 2, "small": np.float32(1e-7), "label": "007", "part": "a"},
        {"n": 2, "mixed": 0.5, "small": math.nan, "label": "3", "part": 4},
        {"n": None, "mixed": math.inf, "small": 1e300, "label": "1_0", "part": None},
    ]
    tracker, report = WandbTracker(), Report(tmp_path / "run", {"name": "tiny"})
    report.table("x", rows)
    report.table("empty", [])
    tracker.start(directory=report.directory, group="g", config=report.config)
    tracker.publish(report)
    tracker.finish(failed=False)
    assert not tracker.is_off
    (table,) = report.directory.glob("wandb/offline-run-*/files/media/table/tables/x*.table.json")
    stored = [dict(zip(rows[0], row, strict=True)) for row in json.loads(table.read_text())["data"]]
    assert [row["n"] for row in stored] == [1, 2, None] and type(stored[0]["n"]) is int
    assert [row["mixed"] for row in stored][:2] == [2, 0.5]
    assert stored[0]["small"] == 1e-7 and stored[2]["small"] == 1e300
    assert [row["label"] for row in stored] == ["007", "3", "1_0"]
    assert [row["part"] for row in stored] == ["a", "4", ""]


def test_long_curves_are_thinned_with_their_steps(environment, tmp_path, monkeypatch):
    logged = []

    class Run:
        def __getattr__(self, name):
            return logged.append if name == "log" else (lambda *_, **__: None)

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    tracker = WandbTracker()
    tracker.start(directory=tmp_path, group="g", config={})
    tracker.curve("loss", list(range(2500)), first_step=100, every=2)
    assert len(logged) <= 1000
    assert logged[1] == {"loss": 3.0, "step": 106}
    tracker.curve("loss", [])
    tracker.curve("loss", [7.0])
    assert logged[-1] == {"loss": 7.0, "step": 0}
