"""Shards of an audit as runs: ``+exp=audit shards=2 shard=0``, then ``shards=2`` alone, which judges them."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.core.tracker import Tracker
from plap_jax.audit.command_line import main
from tests.helpers import memorizing_model
from tests.helpers.places import ROOT

MODEL = ("model=callable", "model.target=tests.helpers.memorizing_model:factory")
QUICK = ("scale=smoke", "noise_levels=[0.08,0.32]", "evaluations=1024", "tracking=disabled")


def checked(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", ["+exp=audit", *MODEL, *QUICK, *overrides]))


def run(directory, *overrides):
    """Within this process: its report."""
    config, module = checked(*overrides)
    report = Report(directory, config.model_dump(mode="json"))
    module.run(config, report=report, cache=Cache(directory / "cache"), tracker=Tracker())
    report.write_metrics()
    report.write_manifest()
    return report


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve memorized and 40 other images, and a reference."""
    base = tmp_path_factory.mktemp("data")
    np.save(base / "images.npy", np.concatenate([memorizing_model.images(40, 1), memorizing_model.MEMORIZED]))
    np.save(base / "reference.npy", memorizing_model.images(200, 2))
    return base


@pytest.fixture
def places(data, tmp_path):
    return f"images={data}/images.npy", f"reference={data}/reference.npy", f"out={tmp_path}/audit"


def test_shards_judged_together_are_the_audit_in_one_piece(places, data, tmp_path, capsys):
    for k in (1, 0):
        one = run(tmp_path / str(k), *places, "shards=2", f"shard={k}")
        assert one.metrics["audit/score_highest"] is None and 0 < one.metrics["audit/images"] < 52
    both, whole = run(tmp_path / "both", *places, "shards=2"), run(tmp_path / "whole", *places)
    tables = [(tmp_path / name / "tables" / "audit.csv").read_text() for name in ("both", "whole")]
    assert tables[0] == tables[1]
    spent = {name for name in whole.metrics if "evaluations" in name}  # what filled batches up differs
    assert {k: v for k, v in both.metrics.items() if k not in spent} == {
        k: v for k, v in whole.metrics.items() if k not in spent
    }
    assert (tmp_path / "both" / "report.html").is_file() and (tmp_path / "both" / "arrays" / "audit.npz").is_file()
    module = __import__(checked(*places)[0].figures, fromlist=["draw"])
    module.draw(tmp_path / "0")  # of a shard there is nothing to draw
    assert not (tmp_path / "0" / "figures").exists()
    # and from a terminal, which finds the model where the config did
    assert main(["merge", str(tmp_path / "audit")]) == 0
    assert "curvature maps of" in capsys.readouterr().out
    with (tmp_path / "audit" / "audit.csv").open(newline="") as handle:
        flagged = {row["file"] for row in csv.DictReader(handle) if row["flagged"] == "1"}
    assert len(flagged) == whole.metrics["audit/flagged"] >= 12


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("shard=0",), "shards=None: must be given with shard"),
        (("shards=4", "shard=4"), "shard=4: must lie in 0 ... 3, counted from 0"),
        (("shards=0",), "shards=0: must be >= 1"),
        (("shards=4", "reference=generated"), "reference='generated': cannot be cut into shards; give images"),
        (("shards=4", "images=null", "generate=5"), "generate=5: cannot be cut into shards; give images"),
    ],
)
def test_what_cannot_be_asked_is_one_line(overrides, line):
    with pytest.raises(UserError) as refused:
        checked("images=x", *overrides)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_a_merge_that_asks_for_something_else_is_refused(places, tmp_path):
    run(tmp_path / "0", *places, "shards=1", "shard=0")
    for change, line in {
        "fdr=0.1": "fdr is 0.05 there, and 0.1 here",
        "seed=3": "key is [0, 0] there, and [0, 3] here",
    }.items():
        with pytest.raises(ValueError, match="^shards=1: the shards were asked for something else: ") as refused:
            run(tmp_path / "merge", *places, "shards=1", change)
        assert str(refused.value).endswith(line)
    with pytest.raises(ValueError, match="^shards=2: the shards were asked for something else: shards is 1 there"):
        run(tmp_path / "merge", *places, "shards=2")


def process(*words, cwd):
    command = [sys.executable, "-m", "experiments.run", *words]
    how = {"cwd": cwd, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    return subprocess.run(command, check=False, **how)


@pytest.mark.slow
def test_a_sweep_over_shards_by_joblib(places, tmp_path):
    words = ("+exp=audit", *MODEL, *QUICK, *places, "shards=4", "figures=null")
    jobs = process(
        "-m",
        *words,
        "shard=range(0,4)",
        "hydra.sweep.dir=sweep",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        cwd=tmp_path,
    )
    assert jobs.returncode == 0, jobs.stderr
    assert len(list((tmp_path / "audit" / "evidence").glob("part-*.parquet"))) == 4
    assert process(*words, "hydra.run.dir=merged", cwd=tmp_path).returncode == 0
    alone = tuple(word for word in words if not word.startswith("shards="))
    assert process(*alone, "hydra.run.dir=whole", cwd=tmp_path).returncode == 0  # compiled as these are
    merged, whole = ((tmp_path / name / "tables" / "audit.csv").read_text() for name in ("merged", "whole"))
    assert merged == whole
