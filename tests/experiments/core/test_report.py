"""What a run writes: whole files, plain JSON, the same bytes for the same numbers."""

import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.core.checksums import sha256_tree
from experiments.core.files import replacing, write_json
from experiments.core.report import Report, flatten
from plap_jax.metrics import Interval
from tests.helpers.places import ROOT

CONFIG = {"name": "tiny", "seed": 3, "flux": {"p": 1.0}, "cache_dir": "a", "tracking": {}}


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path / "run", CONFIG)


def read(report, name):
    return json.loads((report.directory / name).read_text())


def test_metrics_are_flat_sorted_and_plain(report):
    report.metric("b/auc", Interval(0.5, 0.4, 0.6, 12))
    report.metric("a", np.float32(0.1))
    report.metric("c", jnp.float32(2))
    report.metric("d", None, reason="no planted point")
    report.write_metrics()
    report.write_manifest()
    metrics = read(report, "metrics.json")
    assert list(metrics) == ["a", "b/auc", "c", "d"]
    assert metrics["b/auc"] == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 12}
    assert metrics["a"] == float(np.float32(0.1)) and metrics["c"] == 2 and metrics["d"] is None
    assert read(report, "manifest.json")["missing_metrics"] == {"d": "no planted point"}


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), jnp.float32("-inf"), "0.5", True, [1.0]])
def test_a_metric_is_a_finite_number(report, value):
    with pytest.raises(ValueError, match=r"^metric a=.*: must be a finite number$"):
        report.metric("a", value)
    with pytest.raises(ValueError, match="must be a finite number"):
        report.metric("a", Interval(0.5, value, 1.0, 3))
    assert not report.metrics


def test_a_metric_is_recorded_once_with_a_reason_for_none_and_is_no_wall_time(report):
    report.metric("a", 1.0)
    with pytest.raises(ValueError, match=r"metric a=2.0: must be recorded once"):
        report.metric("a", 2.0)
    with pytest.raises(ValueError, match="None needs a reason"):
        report.metric("b", None)
    with pytest.raises(ValueError, match="None needs a reason"):
        report.metric("b", 1.0, reason="why")
    for name in ("time/train", "train_s", "train_ms"):
        with pytest.raises(ValueError, match="wall times belong in the manifest"):
            report.metric(name, 1.0)


def test_metrics_know_nothing_of_wall_times(tmp_path):
    written = []
    for name in ("one", "two"):
        report = Report(tmp_path / name, CONFIG)
        with report.stage("train"):
            report.metric("a", Interval(1 / 3, 0.1, 0.7, 9))
        report.write_metrics()
        written.append((report.directory / "metrics.json").read_bytes())
    assert written[0] == written[1]


def test_the_manifest_says_where_the_numbers_come_from(report):
    with report.stage("train"):
        pass
    with pytest.raises(RuntimeError), report.stage("broken"):
        raise RuntimeError
    report.fingerprint("points", np.zeros(3))
    report.write_manifest()
    manifest = read(report, "manifest.json")
    assert manifest["seed"] == 3
    assert set(manifest["wall_times_s"]) == {"train", "broken"}
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy"} <= set(manifest["versions"])
    assert set(manifest["git"]) == {"commit", "dirty"}
    assert manifest["device"]["count"] >= 1
    assert len(manifest["data_sha256"]["points"]) == 64


def test_the_config_hash_is_that_of_the_science(tmp_path):
    def config_hash(name, **changes):
        report = Report(tmp_path / name, CONFIG | changes)
        report.write_manifest()
        return read(report, "manifest.json")["config_sha256"]

    assert config_hash("one") == config_hash("two", cache_dir="b", tracking={"mode": "online"})
    assert config_hash("one") != config_hash("three", flux={"p": 2.0})


def test_a_fingerprint_sees_values_shapes_and_types(report):
    x = np.arange(6.0)
    prints = {
        report.fingerprint("x", *arrays)
        for arrays in ((x,), (x.reshape(2, 3),), (x.astype(np.float32),), (x + 1,), (x, x), (np.asfortranarray(x),))
    }
    assert len(prints) == 5  # the memory order does not count


def test_arrays_tables_and_checkpoints(report, tmp_path):
    report.arrays("plane", x=jnp.ones(3), name="a")
    with np.load(report.directory / "arrays" / "plane.npz") as stored:
        assert stored["x"].dtype == np.float32 and stored["name"] == "a"
    report.table("points", [{"i": 0, "kappa": 1 / 3, "label": "007"}, {"i": 1, "kappa": None}])
    csv = (report.directory / "tables" / "points.csv").read_text().splitlines()
    assert csv == ["i,kappa,label", f"0,{1 / 3!r},007", "1,,"]
    rows = (report.directory / "tables" / "points.md").read_text().splitlines()
    assert [cell.strip() for cell in rows[2].split("|")[1:-1]] == ["0", "0.3333", "007"]

    source = tmp_path / "network"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "weights").write_text("1")
    for content in ("1", "2"):
        (source / "deep" / "weights").write_text(content)
        assert sha256_tree(report.checkpoint("network", source)) == sha256_tree(source)
    assert [path.name for path in (report.directory / "checkpoints").iterdir()] == ["network"]


def test_the_objective_is_a_metric_by_name(report, caplog):
    report.metric("a", Interval(0.5, 0.4, 0.6, 12))
    report.metric("b", 2)
    report.metric("c", None, reason="none")
    assert (report.objective("a"), report.objective("b")) == (0.5, 2.0)
    assert math.isnan(report.objective("c"))
    assert math.isnan(report.objective("d"))
    assert "objective=d" in caplog.text


def test_flatten_and_summary(report):
    report.metric("a/auc", Interval(0.5, 0.4, 0.6, 12))
    report.metric("b", 2)
    assert flatten(report.metrics) == {"a/auc": 0.5, "a/auc/low": 0.4, "a/auc/high": 0.6, "a/auc/n": 12, "b": 2}
    assert report.summary(["*/auc"]).split() == ["a/auc", "0.500", "[0.400,", "0.600]"]


def test_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "file"
    write_json(path, {"b": 1, "a": 2})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), replacing(path) as handle:
        handle.write(b"half")
        raise RuntimeError
    with pytest.raises(ValueError):
        write_json(path, {"a": math.nan})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_page_on_files_tells_every_key_of_the_manifest(report):
    report.write_manifest()
    page = (ROOT / "docs" / "files.md").read_text().partition("## manifest.json")[2]
    told = [key for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(read(report, "manifest.json"))
