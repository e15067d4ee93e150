"""The table over seeds, on runs that are made up."""

import csv
import json

import numpy as np
import pytest

from experiments.pooled import N_DRAWS, main, pool, write

CELL = "image/unknown/g1"
NAMES = ["flux_p1", "flux_contrast", "copy_ratio"]
RNG = np.random.default_rng(0)


def make_run(directory, aucs, spread=0.01):
    """A run with these AUCs, whose captions move all detectors alike."""
    (directory / "arrays").mkdir(parents=True)
    (directory / "tables").mkdir()
    shared = spread * RNG.normal(size=500)
    resampled = np.asarray(aucs)[:, None] + shared
    arrays = {}
    for copies in ("all", "1to8"):
        prefix = f"{CELL}/k{copies}"
        arrays |= {f"{prefix}/names": np.asarray(NAMES), f"{prefix}/auc": np.asarray(aucs)}
        arrays[f"{prefix}/auc_resampled"] = resampled
    np.savez(directory / "arrays" / "resamples.npz", **arrays)
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    metrics = {f"detection/{CELL}/kall/{name}/tpr_at_1pct_fpr": interval for name in NAMES}
    (directory / "metrics.json").write_text(json.dumps(metrics))
    with (directory / "tables" / "detection.csv").open("w") as handle:
        writer = csv.writer(handle)
        writer.writerow(["task", "prompt", "guidance", "detector", "nfe", "ms_per_image", "needs"])
        writer.writerows(["image", "unknown", "1.0", name, 16, 0.1, "image"] for name in NAMES)


@pytest.fixture
def sweep(tmp_path):
    for i, auc in enumerate((0.90, 0.92, 0.94)):
        make_run(tmp_path / str(i), (auc, auc + 0.02, 1.0))
    return tmp_path


def test_means_are_over_seeds_and_intervals_hold_the_spread_between_them(sweep):
    runs = sorted(path for path in sweep.iterdir())
    cell = pool(runs, f"{CELL}/kall")
    assert cell is not None
    found = cell.interval("flux_p1")
    assert found.value == pytest.approx(0.92)
    assert found.n == 3
    # the mean of three seeds with standard deviation (n) sqrt(0.08/3)/100, and of captions with 0.01
    expected = np.sqrt((0.02**2 * 2 / 3 + 0.01**2) / 3)
    assert cell.draws.shape == (3, N_DRAWS)
    assert cell.draws[0].std() == pytest.approx(expected, rel=0.1)


def test_what_all_detectors_share_cancels_in_a_difference(sweep):
    runs = sorted(path for path in sweep.iterdir())
    cell = pool(runs, f"{CELL}/k1to8")
    assert cell is not None
    gain = cell.difference("flux_contrast", "flux_p1")
    assert gain.value == pytest.approx(0.02)
    assert gain.high - gain.low < 1e-6


def test_the_tables(sweep):
    rows = write(sweep)
    assert [row["detector"] for row in rows] == ["copy_ratio", "flux_contrast", "flux_p1"]
    assert rows[1]["nfe"] == "16"
    assert rows[1]["minus_flux_p1"] == pytest.approx(0.02)
    for name in ("detection.csv", "detection.md", "detection.tex", "flux_contrast_hard.md"):
        assert (sweep / "sweep" / name).is_file()
    with (sweep / "sweep" / "flux_contrast_all.csv").open() as handle:
        others = [row["other"] for row in csv.DictReader(handle)]
    assert others == ["flux_p1"]  # the oracle sees the training data


def test_a_sweep_without_runs_is_refused_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2
