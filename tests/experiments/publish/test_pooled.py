"""The table over seeds, on runs that are made up."""

import csv
import json

import numpy as np
import pytest

from experiments.publish.pooled import chosen_family, main, pool, runs_of, write
from plap_jax.metrics import mean_interval

CELL = "image/unknown/g1"
NAMES = ["flux_p1", "p_laplacian_p1", "manifold_bias", "denoising_loss", "copy_ratio"]
FAMILIES = ["p-laplacian", "p-laplacian", "p-laplacian", "other", "oracle"]


def make_run(directory, seed, aucs, validation):
    """A run with these AUCs."""
    (directory / "tables").mkdir(parents=True)
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    metrics = {f"detection/{CELL}/kall/{name}/tpr_at_1pct_fpr": interval for name in NAMES}
    for copies in ("all", "1to8"):
        for name, auc in zip(NAMES, aucs, strict=True):
            metrics[f"detection/{CELL}/k{copies}/{name}/auc"] = interval | {"value": auc}
    (directory / "metrics.json").write_text(json.dumps(metrics))
    (directory / "manifest.json").write_text(json.dumps({"seed": seed}))
    with (directory / "tables" / "detection.csv").open("w") as handle:
        writer = csv.writer(handle)
        head = ["task", "prompt", "guidance", "detector", "nfe", "ms_per_image", "needs", "family", "validation_auc"]
        writer.writerow(head)
        for name, family, auc in zip(NAMES, FAMILIES, validation, strict=True):
            writer.writerow(["image", "unknown", "1.0", name, 16, 0.1, "image", family, auc])


@pytest.fixture
def sweep(tmp_path):
    for seed, auc in enumerate((0.90, 0.92, 0.94)):
        # the second p-Laplacian is worse on the test half, and better on the validation half in two of three runs
        aucs = (auc, auc - 0.01, auc + 0.02, auc + (0.01, 0.02, 0.03)[seed], 1.0)
        make_run(tmp_path / str(seed), seed, aucs, (0.9, (0.95, 0.95, 0.88)[seed], 0.99, 0.98, 1.0))
    return tmp_path


def test_means_and_differences_are_students_over_seeds(sweep):
    cell = pool(runs_of(sweep), f"{CELL}/kall")
    assert cell is not None
    assert cell.interval("flux_p1") == mean_interval([0.90, 0.92, 0.94])
    found, expected = cell.difference("denoising_loss", "flux_p1"), mean_interval([0.01, 0.02, 0.03])
    np.testing.assert_allclose((found.value, found.low, found.high), (expected.value, expected.low, expected.high))
    same = cell.difference("manifold_bias", "flux_p1")  # what all detectors share cancels
    assert same.high - same.low < 1e-9


def test_the_family_is_chosen_on_the_validation_halves_and_kappa_under_another_name_is_no_member(sweep):
    assert chosen_family(runs_of(sweep)) == "p_laplacian_p1"


def test_the_table(sweep):
    rows = write(sweep)
    assert [row["detector"] for row in rows] == [
        "copy_ratio",
        "manifold_bias",
        "denoising_loss",
        "flux_p1",
        "p_laplacian_p1",
    ]
    assert rows[1]["nfe"] == "16"
    assert rows[1]["minus_flux_p1"] == pytest.approx(0.02)
    for name in ("detection.csv", "detection.md", "detection.tex"):
        assert (sweep / "sweep" / name).is_file()


@pytest.mark.parametrize("told", [0, 1, 3])
def test_a_tpr_that_fewer_than_two_seeds_tell_leaves_its_cells_empty(sweep, told):
    for seed in range(told, 3):
        path = sweep / str(seed) / "metrics.json"
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({key: None if "tpr" in key else value for key, value in metrics.items()}))
    row = write(sweep)[0]
    cells = [row[name] for name in ("tpr_at_1pct_fpr", "tpr_low", "tpr_high")]
    assert cells == ([0.5, 0.5, 0.5] if told == 3 else [None, None, None])
    assert row["auc_low"] <= row["auc"] <= row["auc_high"]


def test_a_detector_that_one_seed_could_not_measure_is_over_the_others(sweep):
    for seed, gone in enumerate(("k1to8", "kall/denoising_loss/auc", "k1to8")):
        path = sweep / str(seed) / "metrics.json"
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({key: None if gone in key else value for key, value in metrics.items()}))
    cell = pool(runs_of(sweep), f"{CELL}/kall")
    assert cell.interval("denoising_loss") == mean_interval([0.91, 0.97])
    assert cell.interval("flux_p1") == mean_interval([0.90, 0.92, 0.94])
    found, expected = cell.difference("denoising_loss", "flux_p1"), mean_interval([0.01, 0.03])
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high))
    assert pool(runs_of(sweep), f"{CELL}/k1to8") is None


def test_one_seed_twice_is_refused(sweep, capsys):
    (sweep / "2" / "manifest.json").write_text(json.dumps({"seed": 0}))
    assert main([str(sweep)]) == 2
    assert "must hold one run per seed" in capsys.readouterr().err


def test_a_sweep_without_runs_is_refused_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2
