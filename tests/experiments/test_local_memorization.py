"""Local memorization: measures against hand-made maps, maps against exact networks, and a run as a user starts it."""

import json

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.local_memorization.maps import KINDS, MAPS, maps_of, units_of
from experiments.local_memorization.measures import (
    best_threshold,
    ious,
    largest_masses,
    measure_mean,
    pixel_aucs,
    smoothed,
)
from experiments.publish import planted as publishing
from plap_jax import GaussianMixture
from plap_jax.curvature_map import curvature_difference, curvature_map
from plap_jax.diffusion import RectifiedFlow, VPLinear
from plap_jax.evidence import times_of
from tests.helpers.analytic_network import exact_diffusion
from tests.helpers.left_behind import metrics

EXP = "local_memorization"
# Digits are there on every machine; 8×8 pixels still hold every kind of region.
WORDS = (
    "scale=smoke", "tracking=disabled", "data=digits", "data.n_train=400", "data.n_heldout=300",
    "model=dit", "diffusion=rectified_flow", "model.patch=2", "model.depth=1",
    "planting.least_detail=0.1", "maps.names=[kappa,kappa_baseline,score_gap,curvature_baseline,error_difference]",
)  # fmt: skip


def config(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", [f"+exp={EXP}", "tracking=disabled", *overrides]))[0]


# --- measures

MASK = np.zeros((2, 4, 4), bool)
MASK[0, :2, :2] = True
MASK[1, :, 3] = True


def test_pixels_are_ranked_image_by_image():
    values = np.zeros((2, 4, 4))
    values[0, :2, :2] = 1
    values[1, :, 0] = 7  # as high as can be, and elsewhere
    np.testing.assert_allclose(pixel_aucs(values, MASK), [1.0, (0.5 * 8) / 12])
    np.testing.assert_allclose(pixel_aucs(10 * values + 3, MASK), pixel_aucs(values, MASK))


def test_the_threshold_is_one_for_all_and_the_best():
    values = np.where(MASK, 2.0, 0.0)
    values[1, 0, 0] = 5
    threshold = best_threshold(values, MASK)
    np.testing.assert_allclose(ious(values, MASK, threshold), [1, 4 / 5])
    np.testing.assert_allclose(ious(values, MASK, 10.0), 0)
    np.testing.assert_allclose(ious(values, MASK, -1.0), MASK.mean(axis=(1, 2)))


def test_the_largest_mass_hangs_together_by_sides():
    values = np.zeros((3, 5, 5))
    values[0, 0, 0], values[0, 1, 1] = 3.0, 4.0  # by a corner alone: two masses
    values[1, 0, :4] = 2.0
    np.testing.assert_allclose(largest_masses(values, 1.0), [3.0, 4.0, 0.0])


def test_smoothing_keeps_what_is_constant():
    values = np.full((2, 6, 6), 0.7)
    np.testing.assert_allclose(smoothed(values, 2.0), values)
    assert smoothed(values, 0) is values
    spot = np.zeros((1, 7, 7))
    spot[0, 3, 3] = 1
    wide = smoothed(spot, 1.0)
    assert wide.sum() == pytest.approx(1, abs=1e-2) and wide[0, 3, 3] < 0.3


def test_means_are_over_regions_and_not_over_images(tmp_path):
    report = Report(tmp_path, {})
    values, regions = np.array([1.0, 1.0, 1.0, 0.0]), np.array([5, 5, 5, 9])
    found = measure_mean(report, "mean", values, regions, seed=0)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)
    assert measure_mean(report, "one", values[:3], regions[:3], seed=0) is None
    assert report.metrics["one"] is None and report.metrics["mean"]["n"] == 2


# --- maps

SHAPE = (6, 6, 1)
KEY = jax.random.key(3)


def scene(schedule):
    """A network whose data share one part while the rest varies widely; a control of which all varies; images."""
    part = np.zeros(SHAPE, bool)
    part[:3, :3] = True
    spread = np.where(part, 1e-6, 4.0).ravel()
    mean = np.where(part, 0.8, 0.0).ravel()
    exact = GaussianMixture(np.ones(1), mean.reshape(1, *SHAPE), spread.reshape(1, *SHAPE), "diag")
    broad = GaussianMixture(np.ones(1), np.zeros((1, *SHAPE)), np.full((1, *SHAPE), 4.0), "diag")
    rng = np.random.default_rng(0)
    images = np.where(part, 0.8, rng.uniform(-1, 1, (3, *SHAPE))).astype(np.float32)
    return exact_diffusion(exact, schedule), exact_diffusion(broad, schedule), images, part[..., 0]


@pytest.mark.parametrize("schedule", [VPLinear(), RectifiedFlow()], ids=["vp", "flow"])
def test_maps_that_have_a_control_find_the_part(schedule):
    model, control, images, part = scene(schedule)
    prompts, how = np.zeros(3, np.int32), {"levels": (0.3, 0.5), "evaluations": 64, "key": KEY}
    found = {}
    for group in ("shell", "curvature"):
        found |= maps_of(group, (model, control), images, prompts, **how)
    assert set(found) == set(MAPS)
    for name in ("kappa", "kappa_baseline", "curvature_baseline", "error_difference"):
        value, stderr = found[name]
        assert value.shape == stderr.shape == (3, 6, 6) and (stderr >= 0).all()
        assert pixel_aucs(value, np.stack([part] * 3)).min() > 0.97, name
    for name in ("kappa_gap", "score_gap", "curvature_gap"):  # the only prompt is that of everything
        np.testing.assert_allclose(found[name][0], 0, atol=1e-4)


def test_maps_are_those_of_the_library():
    """Batches, shared evaluations and the share of each level change nothing."""
    schedule = VPLinear()
    model, control, images, _ = scene(schedule)
    prompts, levels = np.zeros(3, np.int32), (0.3, 0.5)
    how = {"levels": levels, "evaluations": 32, "key": KEY}
    shell, curvature = (maps_of(group, (model, control), images, prompts, **how) for group in ("shell", "curvature"))
    raw, beyond, bent = [], [], []
    for i, t in enumerate(times_of(schedule, levels).values()):
        centre, radius = model.ball(images[1], t)
        key, one, other = jax.random.fold_in(KEY, i), model.score_at(t), control.score_at(t)
        around = {"radius": radius, "key": key, "channels": True}
        raw.append(curvature_map(one, centre, n_samples=16, **around))
        bent.append(curvature_difference(one, centre, key=key, n_probes=4, baseline=other, channels=True))
        bent[-1] = bent[-1]._replace(value=bent[-1].value * schedule.sigma(t) ** 2)
        beyond.append(curvature_map(one, centre, n_samples=16, baseline=other, **around))
    np.testing.assert_allclose(shell["kappa"][0][1], np.mean([m.value for m in raw], axis=0), atol=2e-4)
    spread = np.sqrt(np.sum([np.square(m.stderr) for m in raw], axis=0)) / 2
    np.testing.assert_allclose(shell["kappa"][1][1], spread, atol=2e-4)
    np.testing.assert_allclose(
        curvature["curvature_baseline"][0][1], np.mean([m.value for m in bent], axis=0), atol=2e-4
    )
    twin = np.mean([m.value for m in beyond], axis=0)  # in all directions, of which the map takes half
    assert np.corrcoef(shell["kappa_baseline"][0][1].ravel(), twin.ravel())[0, 1] > 0.9


def test_every_map_costs_as_much():
    for name, kind in KINDS.items():
        assert units_of(name, 128, 1) * kind.cost == 128
        assert 0 < 128 - 4 * units_of(name, 124, 4) * kind.cost <= 16
    assert units_of("kappa_baseline", 128, 1) == 64 and units_of("curvature_gap", 128, 4) == 8


# --- the experiment


@pytest.fixture(scope="module")
def first(shared):
    return shared.first(EXP, *WORDS)


@pytest.mark.slow
def test_a_run_leaves_metrics_tables_arrays_and_figures(first):
    found = metrics(first)
    for dose in (4, 2):
        for name in ("kappa", "kappa_baseline", "score_gap"):
            assert set(found[f"local/dit/{dose}/{name}/pixel_auc"]) == {"value", "low", "high", "n"}
            assert 0 <= found[f"local/dit/{dose}/{name}/iou"]["value"] <= 1
        gain, auc = (
            found[f"local/dit/{dose}/kappa_baseline/{key}"]["value"] for key in ("gain_over_kappa", "pixel_auc")
        )
        assert gain == pytest.approx(auc - found[f"local/dit/{dose}/kappa/pixel_auc"]["value"])
        assert found[f"local/dit/{dose}/detection/mass/auc"]["n"] == 3 + 6 + 6  # regions, decoys, plain images
    assert "local/dit/0/kappa_baseline/pixel_auc" in found and "local/dit/copies/detection/mass/auc" in found
    assert found["local/dit/maps/kappa_baseline/evaluations"] == 16
    with np.load(first / "arrays" / "local.npz") as arrays:
        assert arrays["images"].shape[0] == len(arrays["dose"]) == len(arrays["map_kappa_baseline"])
        assert arrays["table_auc"].shape == (3 * 5, 3)
        for i, mask in enumerate(arrays["masks"]):
            assert mask.any() and arrays["dose"][i] in (0, 2, 4)
    assert {path.stem for path in (first / "figures").iterdir()} == {"maps", "doses"}
    assert {"pixels", "detection"} <= {path.stem for path in (first / "tables").iterdir()}


def test_networks_are_named_by_their_class_and_have_their_sizes():
    assert config().network == "unet" and config().model.spec["patch"] == 2
    other = config("model=dit", "diffusion=rectified_flow")
    assert other.network == "dit" and other.model.spec["patch"] == 4 and other.prediction == "flow"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("planting.regions=[6]", "planting.regions=[6]: must be as long as planting.doses, 5"),
        ("planting.regions=[3,3,3,3,3]", "planting.regions=[3, 3, 3, 3, 3]: must be >= 6 each"),
        ("planting.doses=[16,16,8,4,2]", "planting.doses=[16, 16, 8, 4, 2]: must not repeat a number"),
        ("planting.kinds=[badge]", "planting.kinds.0"),
        ("maps.main=score_gap", "maps.main='score_gap': must be one of maps.names that needs no prompt: kappa, "),
        ("maps.names=[kappa,kappa]", "maps.names=['kappa', 'kappa']: must not repeat a map"),
        ("maps.evaluations=8", "maps.evaluations=8: must allow two directions or probes at each of maps.levels"),
        ("maps.levels=[[0.3,0.3]]", "maps.levels=[0.3, 0.3]: must be noise levels that the schedule reaches"),
        ("maps.choose_from=64", "maps.choose_from=64: must be one of the doses at most, the highest is 40"),
        ("model.n_conditions=3", "model.n_conditions=3: must be null"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(word, line):
    with pytest.raises(UserError) as refused:
        config(word)
    assert line in str(refused.value) and "\n" not in str(refused.value)


# --- the planted set for others


def test_the_published_set_is_the_one_that_is_trained_on(tmp_path, capsys):
    words = [word for word in WORDS if not word.startswith("tracking")]
    assert publishing.main([str(tmp_path), *words, "seed=3"]) == 0
    out = tmp_path / "arrays"
    about = json.loads((out / "about.json").read_text())
    assert about["seed"] == 3 and about["images"]["fresh"] == about["images"]["decoy"] == 24
    assert f"{about['images']['fresh']} fresh" in capsys.readouterr().out
    with np.load(out / "planted.npz") as stored:
        planted = dict(stored)
    assert planted["copies"].sum() == about["training_rows"]
    assert len(list((out / "images").iterdir())) == len(planted["images"]) == len(list((out / "masks").iterdir()))
    lines = (out / "images.csv").read_text().splitlines()
    assert lines[0].startswith("image,role,copies_in_training,caption,half,region,kind,dose")
    assert len(lines) == 1 + len(planted["images"])
    for i in np.flatnonzero(planted["role"] == "fresh")[:3]:
        twin = np.flatnonzero((planted["region"] == planted["region"][i]) & (planted["role"] == "template"))[0]
        mask = planted["masks"][i]
        np.testing.assert_array_equal(planted["images"][i][mask], planted["images"][twin][mask])
        assert lines[1 + i].split(",")[1] == "fresh"
    (out / "about.json").write_text("of somebody else")
    assert publishing.main([str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith("OUT=") and (out / "about.json").read_text() == "of somebody else"


def test_the_set_is_not_published_without_a_place_or_with_a_wrong_key(tmp_path, capsys):
    assert publishing.main([]) == publishing.main(["seed=1"]) == 2
    assert publishing.main([str(tmp_path), "planting.regions=[6]"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and told[2].startswith("planting.regions=[6]:")
