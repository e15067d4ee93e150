"""The mixture experiment at scale=smoke, run as a user runs it: what it leaves, twice the same, W&B included."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.figures.gmm_memorization import draw
from experiments.gmm_memorization.critical_points import critical_points
from plap_jax.data import triangle

ROOT = Path(__file__).parents[1]
REQUIRED = [
    *("/".join(("critical", *names)) for names in itertools.product(
        ("analytic", "learned"), ("boundary", "volume"), ("mode", "midpoint", "centre", "auc"))),
    *(f"control/d{d}/auc" for d in (2, 16, 64)),
    *(f"planted/d{d}/{name}" for d in (2, 16, 64) for name in ("auc", "tpr_at_1pct_fpr", "auc_vs_single")),
]  # fmt: skip


def run(directory, cache, *overrides):
    command = [sys.executable, "-m", "experiments.run", "+exp=gmm_memorization", "scale=smoke"]
    command += [f"hydra.run.dir={directory}", f"cache_dir={cache}", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    base = tmp_path_factory.mktemp("smoke")
    run(base / "run", base / "cache")
    return base / "run"


def metrics(directory):
    return json.loads((directory / "metrics.json").read_text())


def test_it_leaves_what_the_contract_says(first):
    found = metrics(first)
    assert [name for name in REQUIRED if name not in found] == []
    for name, value in found.items():
        numbers = value if isinstance(value, dict) else {"low": value, "value": value, "high": value}
        assert numbers["low"] <= numbers["value"] <= numbers["high"], name
    assert found["critical/p"] == 1
    manifest = json.loads((first / "manifest.json").read_text())
    assert {"train/plane", "critical/estimates", "maps/estimates", "planted/d64/scoring"} <= set(
        manifest["wall_times_s"]
    )
    assert set(manifest["data_sha256"]) == {
        "train/plane", *(f"train/d{d}/{kind}" for d in (2, 16, 64) for kind in ("planted", "control"))
    }  # fmt: skip
    for pattern, count in {"arrays/*.npz": 5, "tables/*.csv": 4, "figures/*.png": 9, "figures/*.pdf": 9}.items():
        assert len(list(first.glob(pattern))) == count, pattern
    assert (first / "checkpoints" / "plane" / "sha256").is_file()
    assert list((first / "wandb").glob("offline-run-*"))


def test_the_analytic_score_tells_maxima_even_at_smoke_scale(first):
    found = metrics(first)
    assert found["critical/analytic/boundary/mode"]["value"] > 0.99
    assert found["critical/analytic/boundary/midpoint"]["value"] < 0
    assert found["critical/analytic/boundary/auc"]["value"] == 1
    assert found["planted/d64/memorizer_auc"]["value"] > 0.99


def test_plotted_estimates_are_the_reported_ones(first):
    with np.load(first / "arrays" / "critical.npz") as arrays:
        at_modes = arrays["values"][1, 0][arrays["kinds"] == "mode"]
        reference = arrays["reference"][0]
    assert metrics(first)["critical/learned/boundary/mode"]["value"] == pytest.approx(at_modes.mean(), rel=1e-6)
    # three points of a kind are images of each other under the triangle's symmetry
    np.testing.assert_allclose(reference[:3], reference[0], rtol=1e-4)
    np.testing.assert_allclose(reference[3:6], reference[3], rtol=1e-4)


def test_the_headline_level_is_chosen_on_validation_points(first):
    with np.load(first / "arrays" / "planted_d16.npz") as arrays:
        validation_auc, chosen, copies = arrays["validation_auc"], arrays["chosen"], arrays["copies"]
        validation, kappa = arrays["validation"], arrays["kappa_network"]
    assert chosen == np.argmax(validation_auc)
    test = ~validation
    planted, heldout = kappa[chosen][test & (copies > 1)], kappa[chosen][test & (copies == 0)]
    by_hand = np.mean((planted[:, None] > heldout) + 0.5 * (planted[:, None] == heldout))
    assert metrics(first)["planted/d16/auc"]["value"] == pytest.approx(by_hand)


def test_figures_need_the_arrays_alone(first, tmp_path):
    (tmp_path / "arrays").symlink_to(first / "arrays")
    draw(tmp_path)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in (first / "figures").iterdir()}


def test_trained_again_elsewhere_the_metrics_are_the_same_bytes(first, tmp_path):
    run(tmp_path / "run", tmp_path / "cache", "tracking=disabled", "figures=null")
    assert (tmp_path / "run" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()


def test_changing_the_flux_trains_nothing_again(first, tmp_path):
    cache = first.parent / "cache"
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    assert len(before) == 7
    run(tmp_path / "run", cache, "tracking=disabled", "figures=null", "flux.p=2", "maps.enabled=false")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")} == before
    assert metrics(tmp_path / "run")["critical/p"] == 2


def test_critical_points_are_critical():
    mixture = triangle()
    points, kinds = critical_points(mixture)
    assert list(kinds) == ["mode"] * 3 + ["midpoint"] * 3 + ["centre"]
    for point, kind in zip(points, kinds, strict=True):
        curvature = np.linalg.eigvalsh(mixture.hessian(point))
        assert (curvature < 0).all() == (kind == "mode")
        assert (curvature > 0).all() == (kind == "centre")
