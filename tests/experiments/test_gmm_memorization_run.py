"""The mixture experiment at scale=smoke, run as a user runs it: what it leaves, twice the same, W&B included."""

import itertools
import json

import numpy as np
import pytest

from experiments.core.report import flatten
from experiments.figures.gmm_memorization import draw
from plap_jax._flux import circle_flux
from plap_jax.data import triangle
from plap_jax.diffusion import DiscreteVP
from tests.helpers import expected_numbers
from tests.helpers.left_behind import metrics
from tests.helpers.offline_runs import items, read_back

pytestmark = pytest.mark.slow  # its parts by themselves: test_gmm_memorization.py
EXP = "gmm_memorization"
REQUIRED = [
    *("/".join(("critical", *names)) for names in itertools.product(
        ("analytic", "learned"), ("boundary", "volume"), ("mode", "midpoint", "centre", "auc"))),
    *(f"control/d{d}/auc" for d in (2, 16, 64)),
    *(f"planted/d{d}/{name}" for d in (2, 16, 64) for name in ("auc", "tpr_at_1pct_fpr", "auc_vs_single")),
]  # fmt: skip


@pytest.fixture(scope="module")
def first(shared):
    return shared.first(EXP, "scale=smoke", "figures=null")


@pytest.fixture(scope="module")
def figures(first, tmp_path_factory):
    """Drawn from the arrays alone."""
    directory = tmp_path_factory.mktemp("figures")
    (directory / "arrays").symlink_to(first / "arrays")
    draw(directory)
    return directory / "figures"


def test_it_leaves_what_the_contract_says(first):
    found = metrics(first)
    assert [name for name in REQUIRED if name not in found] == []
    manifest = json.loads((first / "manifest.json").read_text())
    missing = {name for name, value in found.items() if value is None}
    assert missing == set(manifest["missing_metrics"]) and all("tpr_at_1pct_fpr" in name for name in missing)
    for name in found.keys() - missing:
        value = found[name]
        numbers = value if isinstance(value, dict) else {"low": value, "value": value, "high": value}
        assert numbers["low"] <= numbers["value"] <= numbers["high"], name
    assert found["critical/p"] == 1
    assert {"train/plane", "critical/estimates", "maps/estimates", "planted/d64/scoring"} <= set(
        manifest["wall_times_s"]
    )
    assert set(manifest["data_sha256"]) == {
        "train/plane", *(f"train/d{d}/{kind}" for d in (2, 16, 64) for kind in ("planted", "control"))
    }  # fmt: skip
    for pattern, count in {"arrays/*.npz": 5, "tables/*.csv": 4}.items():
        assert len(list(first.glob(pattern))) == count, pattern
    assert (first / "checkpoints" / "plane" / "sha256").is_file()
    assert list((first / "wandb").glob("offline-run-*"))


def test_the_analytic_score_tells_maxima_even_at_smoke_scale(first):
    found = metrics(first)
    assert found["critical/analytic/boundary/mode"]["value"] > 0.99
    assert found["critical/analytic/boundary/midpoint"]["value"] < 0
    assert found["critical/analytic/boundary/auc"]["value"] == 1
    assert found["planted/d64/memorizer_auc"]["value"] > 0.99


def test_learned_and_analytic_boundary_and_volume_are_four_things_that_agree(first):
    with np.load(first / "arrays" / "critical.npz") as arrays:
        values, reference, kinds = arrays["values"], arrays["reference"], arrays["kinds"]
    assert not np.isclose(values[0], values[1]).all() and not np.isclose(values[:, 0], values[:, 1]).all()
    stderr = values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
    assert (abs(values[:, 0].mean(axis=-1) - reference) < 6 * stderr[:, 0] + 1e-3).all()
    at_modes = values[:, :, kinds == "mode"].mean(axis=(2, 3))
    assert (at_modes > 0.7).all(), "inward at a maximum, by both estimators, for both scores"
    # three points of a kind are images of each other under the triangle's symmetry, for the analytic score
    np.testing.assert_allclose(reference[0, :3], reference[0, 0], rtol=1e-4)
    np.testing.assert_allclose(reference[0, 3:6], reference[0, 3], rtol=1e-4)
    assert np.ptp(reference[1, 3:6]) > 1e-3, "a network has no such symmetry"


def test_plotted_estimates_are_the_reported_ones(first):
    found = metrics(first)
    with np.load(first / "arrays" / "critical.npz") as arrays:
        for i, score in enumerate(("analytic", "learned")):
            for j, estimator in enumerate(("boundary", "volume")):
                for kind in ("mode", "midpoint", "centre"):
                    reported = found[f"critical/{score}/{estimator}/{kind}"]["value"]
                    assert reported == pytest.approx(arrays["values"][i, j][arrays["kinds"] == kind].mean(), rel=1e-5)


def test_analytic_maps_are_those_of_the_noised_mixture_and_learned_ones_are_not(first):
    schedule = DiscreteVP.linear()
    with np.load(first / "arrays" / "maps.npz") as arrays:
        for level, t in enumerate(arrays["t"]):
            noised = triangle().noised(schedule.alpha(int(t)), schedule.sigma(int(t)))
            axis = np.linspace(-1, 1, arrays["kappa"].shape[-1], dtype=np.float32) * arrays["extent"][level]
            for row, column in ((1, 5), (7, 7), (10, 2)):
                point, radius = np.array([axis[column], axis[row]]), float(schedule.sigma(int(t))) * 2**0.5
                for k, p in enumerate(arrays["p"]):
                    expected = circle_flux(noised.score, point, radius=radius, p=float(p))
                    assert arrays["kappa"][level, 0, k, row, column] == pytest.approx(
                        float(expected), rel=1e-3, abs=1e-4
                    )
        analytic, learned = arrays["kappa"][-1, :, 0]
    assert 0.01 < abs(learned - analytic).mean() < 0.5


def pairs_won(positive, negative):
    return np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative))


@pytest.mark.parametrize("d", [2, 16, 64])
def test_ranking_metrics_by_brute_force_over_the_arrays(first, d):
    found = metrics(first)
    with np.load(first / "arrays" / f"planted_d{d}.npz") as saved:
        arrays = dict(saved)
    level, copies, test = arrays["chosen"], arrays["copies"], ~arrays["validation"]
    network, control = arrays["kappa_network"][level], arrays["kappa_control"][level]
    planted, single, heldout = (test & role for role in (copies > 1, copies == 1, copies == 0))
    assert found[f"planted/d{d}/auc"]["value"] == pytest.approx(pairs_won(network[planted], network[heldout]))
    assert found[f"planted/d{d}/auc_vs_single"]["value"] == pytest.approx(pairs_won(network[planted], network[single]))
    assert found[f"control/d{d}/auc"]["value"] == pytest.approx(pairs_won(control[planted], control[heldout]))
    chosen_by = [pairs_won(k[~test & (copies > 1)], k[~test & (copies == 0)]) for k in arrays["kappa_network"]]
    assert level == np.argmax(chosen_by)
    np.testing.assert_allclose(chosen_by, arrays["validation_auc"])


def test_what_training_has_seen_decides(first):
    found = metrics(first)
    for d in (2, 16, 64):
        control = found[f"control/d{d}/auc"]
        assert control["low"] <= 0.5 <= control["high"], "points that neither network nor memorizer has seen"
    assert found["planted/d16/auc"]["value"] > found["control/d16/auc"]["value"] + 0.2
    assert found["planted/d64/auc"]["value"] > found["control/d64/auc"]["value"] + 0.2


def test_wandb_holds_what_metrics_json_holds(first):
    summary = items(read_back(first), "summary")
    for name, value in flatten(metrics(first)).items():
        assert summary[name][-1] == value, name


def test_figures_need_the_arrays_alone(figures):
    assert len(list(figures.glob("*.png"))) == len(list(figures.glob("*.pdf"))) == 9


def test_trained_again_elsewhere_metrics_and_figures_are_the_same_bytes(first, figures, shared, tmp_path):
    again = tmp_path / "run"
    shared.run(EXP, again, "scale=smoke", "tracking=disabled", cache=tmp_path / "cache")
    assert (again / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()
    drawn = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in (again / "figures").iterdir()}


def test_changing_the_flux_trains_nothing_again(first, shared, tmp_path):
    def networks():
        # Not that of the plane, which another experiment may train meanwhile in the same cache.
        return {path: path.stat().st_mtime_ns for path in shared.cache.glob("train/d*/**/*.npy")}

    before = networks()
    assert len(before) == 6
    words = ("scale=smoke", "tracking=disabled", "figures=null")
    shared.run(EXP, tmp_path / "run", *words, "flux.p=2", "maps.enabled=false")
    assert networks() == before
    assert metrics(tmp_path / "run")["critical/p"] == 2


def test_its_numbers_are_those_that_were_committed(first):
    expected_numbers.check("gmm_memorization", first)
