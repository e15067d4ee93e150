"""One table and one plot over the runs of a sweep, failed ones included."""

import csv
import json

import pytest
from omegaconf import OmegaConf

from experiments.figures.style import grid, save
from experiments.publish.collect import collect, main, runs_in

INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.7, "n": 8}


def write_run(directory, overrides, metrics=None, error=None):
    (directory / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), directory / ".hydra" / "overrides.yaml")
    config = {"objective": "auc", "headline": ["deep/*"]}
    OmegaConf.save(OmegaConf.create(config), directory / ".hydra" / "config.yaml")
    if metrics is not None:
        (directory / "metrics.json").write_text(json.dumps(metrics))
    if error is not None:
        (directory / "error.txt").write_text(error)


@pytest.fixture
def sweep(tmp_path):
    for i in range(11):
        metrics = {"auc": INTERVAL | {"value": 0.4 + i / 40}, "deep/a": i, "other": 1.0, "none": None}
        write_run(tmp_path / str(i), ["+exp=tiny", f"seed={i % 3}", f"flux.p={i // 3}"], metrics)
    write_run(tmp_path / "11", ["+exp=tiny", "seed=2", "flux.p=3"], error="Traceback\n  …\nKeyError: 'a, b'\n")
    write_run(tmp_path / "12", ["+exp=tiny", "seed=0", "flux.p=4"])
    return tmp_path


def test_the_table_holds_every_run_and_every_metric(sweep):
    collect(sweep)
    with (sweep / "sweep" / "results.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["job"] for row in rows] == [str(i) for i in range(13)]
    assert list(rows[0])[:4] == ["job", "seed", "flux.p", "status"]  # what does not vary is left out
    assert rows[4] | {"auc": "0.5", "auc/low": "0.4", "auc/high": "0.7", "auc/n": "8", "deep/a": "4"} == rows[4]
    assert rows[4]["none"] == ""
    assert [row["status"] for row in rows[10:]] == ["ok", "failed: KeyError: 'a, b'", "failed: did not finish"]
    assert rows[11]["auc"] == ""


def test_the_short_table_and_the_plot_hold_the_headline(sweep):
    collect(sweep)
    lines = (sweep / "sweep" / "results.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["job", "seed", "flux.p", "status", "auc", "deep/a"]
    assert "0.400 [0.400, 0.700]" in lines[2]
    for kind in ("png", "pdf"):
        assert (sweep / "sweep" / f"results.{kind}").stat().st_size > 1000


@pytest.mark.parametrize("overrides", [["+exp=tiny"], ["+exp=tiny", "seed=1"]])
def test_a_sweep_of_one_run_without_metrics(tmp_path, overrides):
    write_run(tmp_path / "0", overrides)
    assert [run.error for run in collect(tmp_path)] == ["did not finish"]


def test_collecting_again_changes_nothing(sweep):
    collect(sweep)
    before = {path: path.read_bytes() for path in (sweep / "sweep").iterdir()}
    collect(sweep)
    assert {path: path.read_bytes() for path in (sweep / "sweep").iterdir()} == before
    assert len(runs_in(sweep)) == 13


def test_the_command_line(sweep, capsys):
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("11 of 13 runs")
    assert out[1] == "  failed: 11 (exp=tiny seed=2 flux.p=3): KeyError: 'a, b'"
    assert main([str(sweep / "0" / ".hydra")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "must be a directory with a run in each" in err
    assert main([]) == 2


def test_figures_are_the_same_bytes_for_the_same_data(tmp_path):
    for name in ("one", "two"):
        figure, axes = grid(1, 2, height=2)
        axes[0, 0].plot([1, 3, 2], label="a")
        axes[0, 1].imshow([[1, 2], [3, 4]])
        save(figure, tmp_path / name, "figure")
    for kind in ("png", "pdf"):
        one, two = (tmp_path / name / f"figure.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
