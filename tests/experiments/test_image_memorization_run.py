"""The image experiment at scale=smoke, run as a user runs it: what it leaves, from what, twice the same, killed."""

import json
import os
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import roc_auc_score

from experiments.shared.networks import NETWORK
from plap_jax.checkpoints import read_about
from plap_jax.diffusion import Diffusion, VPLinear
from plap_jax.labels import find_copies
from plap_jax.networks.mlp import ResidualMLP
from plap_jax.training import load_diffusion
from tests.helpers import expected_numbers
from tests.helpers.experiment_run import FIXED
from tests.helpers.left_behind import arrays, metrics
from tests.helpers.places import ROOT

pytestmark = pytest.mark.slow  # its parts by themselves: test_image_memorization.py

DOSES = (1, 2, 4, 8, 16, 32)
REQUIRED = [
    *(f"train_images/{name}" for name in ("auc", "tpr_at_1pct_fpr", "auc_single_vs_heldout")),
    "control/auc",
    *(f"train_images/k{k}/gain_over_score_norm" for k in (2, 4, 8)),
    *(f"samples/{name}" for name in ("auc", "tpr_at_1pct_fpr", "copy_fraction")),
    *(f"samples/auc/p{p}" for p in ("1", "1.5", "2", "3")),
    *(f"dose/{k}/{name}" for k in DOSES for name in ("reproduced", "detected")),
]
FIGURES = {"contact_sheet", "samples", "histograms", "levels", "dose_response", "learning", "calibrated", "difficulty"}

EXP, WORDS = "image_memorization", (*FIXED, "train.chunk_steps=50", "train.checkpoint_every=50")


@pytest.fixture(scope="module")
def first(shared):
    return shared.first(EXP, *WORDS)


def test_it_leaves_what_the_contract_says(first):
    found = metrics(first)
    assert [name for name in REQUIRED if name not in found] == []
    manifest = json.loads((first / "manifest.json").read_text())
    missing = {name for name, value in found.items() if value is None}
    assert missing == set(manifest["missing_metrics"])
    assert {path.stem for path in first.glob("figures/*.png")} == FIGURES
    assert {path.stem for path in first.glob("figures/*.pdf")} == FIGURES
    assert {"images/train_images/network", "samples/network"} <= set(manifest["rates_per_s"])
    assert found["scoring/network_evaluations_per_image"] == 16
    assert (first / "checkpoints" / "network" / "sha256").is_file()


def test_the_headline_is_of_test_images_and_the_choice_of_validation_images(first):
    a, found = arrays(first, "train_images"), metrics(first)
    copies, validation = a["copies"], a["validation"]
    planted, heldout = copies >= 2, copies == 0
    every = np.array(
        [
            [roc_auc_score(planted[m], k[m]) for k in level]
            for level in a["kappa_network"]
            for m in [validation & (planted | heldout)]
        ]
    )
    assert every[tuple(a["chosen"])] == pytest.approx(every.max())
    kappa = a["kappa_network"][tuple(a["chosen"])]
    test = ~validation & ((copies == a["headline"]) | heldout)
    expected = roc_auc_score(copies[test] > 0, kappa[test])
    assert found["train_images/auc"]["value"] == pytest.approx(expected)
    control = a["kappa_control"][tuple(a["chosen"])]
    assert found["control/auc_headline"]["value"] == pytest.approx(roc_auc_score(copies[test] > 0, control[test]))
    everyone = ~validation & (planted | heldout)
    assert found["control/auc"]["value"] == pytest.approx(roc_auc_score(planted[everyone], control[everyone]))
    assert not np.allclose(kappa, control)


def test_kappa_is_the_mean_cosine_of_predicted_and_given_noise(first):
    """An independent way to κ_1, κ_2 and −|s|: noise by NumPy's generator, the network asked for ε."""
    a = arrays(first, "train_images")
    like = Diffusion(
        ResidualMLP((8, 8, 1), width=64, depth=4, embed_dim=64, rngs=nnx.Rngs(0)),
        VPLinear(0.1, 20.0, 1e-3),
        prediction="x0",
        data_std=1.0,
        conditioning="log_snr",
    )
    assert read_about(first / "checkpoints" / NETWORK)
    network = load_diffusion(first / "checkpoints" / NETWORK, like)
    level, n = 3, 4096
    sigma = a["sigma"][level]
    t = float(network.schedule.time_at(sigma))
    alpha = float(network.schedule.alpha(t))
    normal = np.random.default_rng(0).standard_normal((n, 64)).astype(np.float32)
    unit = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    eps = jax.jit(jax.vmap(lambda x: network.eps(x, t)))
    for i in (0, 40):
        x0 = a["images"][i].ravel()
        inputs = alpha * x0 + sigma * 8 * unit  # radius σ√64
        predicted = np.asarray(eps(inputs.reshape(n, 8, 8, 1))).reshape(n, 64).astype(float)
        inner = (predicted * unit).sum(axis=1)
        cosine = inner / np.linalg.norm(predicted, axis=1)
        for order, expected in ((0, cosine), (2, inner / sigma)):
            stderr = float(a["stderr_network"][order, level, i])
            assert a["kappa_network"][order, level, i] == pytest.approx(expected.mean(), abs=5 * stderr + 1e-3)
        centre = np.asarray(eps((alpha * x0).reshape(1, 8, 8, 1)))[0]
        assert a["norm_network"][level, i] == pytest.approx(-np.linalg.norm(centre) / sigma, rel=1e-3)


def test_samples_are_labelled_against_the_distinct_training_images(first):
    a, train, found = arrays(first, "samples"), arrays(first, "train_images"), metrics(first)
    reference = train["images"][train["copies"] > 0]
    labels = find_copies(a["images"], reference)
    np.testing.assert_array_equal(labels.nearest, a["nearest"])
    np.testing.assert_array_equal(labels.ratio, a["ratio"])
    is_copy = a["ratio"] < 0.5
    assert found["samples/copy_fraction"]["value"] == pytest.approx(is_copy.mean())
    assert found["samples/copy_fraction_by_distance"]["value"] == pytest.approx((a["distance"] < 0.1).mean())
    planted = train["copies"][a["nearest"][is_copy]] >= 2
    assert found["samples/copies_that_are_planted"]["value"] == pytest.approx(planted.mean())
    # no training image has copies in both halves
    halves = [set(a["nearest"][a["validation"] == half]) for half in (True, False)]
    assert not halves[0] & halves[1]


def test_samples_are_chosen_on_one_half_and_measured_on_the_other(first):
    a, found = arrays(first, "samples"), metrics(first)
    is_copy, validation = a["ratio"] < 0.5, a["validation"]
    for half in (validation, ~validation):
        assert 2 <= is_copy[half].sum() <= half.sum() - 2, "something to measure in both halves"
    by_validation = np.array(
        [[roc_auc_score(is_copy[validation], k[validation]) for k in x] for x in a["kappa_network"]]
    )
    assert by_validation[tuple(a["chosen"])] == pytest.approx(by_validation.max())
    assert by_validation.max() == pytest.approx(found["samples/validation_auc"])

    def on_test(values):
        return roc_auc_score(is_copy[~validation], values[~validation])

    kappa = a["kappa_network"][tuple(a["chosen"])]
    assert found["samples/auc"]["value"] == pytest.approx(on_test(kappa))
    assert found["samples/control_auc"]["value"] == pytest.approx(on_test(a["kappa_control"][tuple(a["chosen"])]))
    assert found["samples/auc/p1"]["value"] == pytest.approx(on_test(a["kappa_1"]))
    norm = a["norm_network"][a["chosen_norm"]]
    assert found["samples/score_norm_auc"]["value"] == pytest.approx(on_test(norm))
    gain = on_test(a["kappa_1"]) - on_test(norm)
    assert found["samples/gain_over_score_norm"]["value"] == pytest.approx(gain)
    # intervals count training images, not their copies
    for name in ("samples/auc", "samples/gain_over_score_norm", "directions/samples/difference"):
        assert found[name]["n"] == len(np.unique(a["nearest"][~validation]))


def test_doses_and_singles_are_measured_on_test_images_at_their_own_levels(first):
    a, found = arrays(first, "train_images"), metrics(first)
    test, copies = ~a["validation"], a["copies"]
    kappa, norm = a["kappa_network"][tuple(a["chosen_plain"])], a["norm_network"][a["chosen_norm"]]
    np.testing.assert_array_equal(kappa, a["kappa_1"])
    threshold = np.sort(kappa[test & (copies == 0)])[::-1][int(0.01 * (test & (copies == 0)).sum())]
    for dose in DOSES:
        chosen = test & ((copies == dose) | (copies == 0))
        by_kappa, by_norm = (roc_auc_score(copies[chosen] > 0, values[chosen]) for values in (kappa, norm))
        assert found[f"train_images/k{dose}/auc"]["value"] == pytest.approx(by_kappa)
        assert found[f"train_images/k{dose}/gain_over_score_norm"]["value"] == pytest.approx(by_kappa - by_norm)
        detected = (kappa[test & (copies == dose)] > threshold).mean()
        assert found[f"dose/{dose}/detected"]["value"] == pytest.approx(detected)
    headline = a["kappa_network"][tuple(a["chosen"])]
    chosen = test & (copies <= 1)
    assert found["train_images/auc_single_vs_heldout"]["value"] == pytest.approx(
        roc_auc_score(copies[chosen], headline[chosen])
    )


def test_few_and_many_directions_are_compared_on_the_same_images(first):
    for name in ("train_images", "samples"):
        a, found = arrays(first, f"directions_{name}"), metrics(first)
        few, many = (roc_auc_score(a["positive"], kappa) for kappa in a["kappa_1"])
        assert found[f"directions/{name}/auc_n8"]["value"] == pytest.approx(few)
        assert found[f"directions/{name}/auc_n128"]["value"] == pytest.approx(many)
        assert found[f"directions/{name}/difference"]["value"] == pytest.approx(few - many)
        assert abs(a["kappa_1"][0] - a["kappa_1"][1]).max() > 0


def test_the_dose_response_counts_images(first):
    a, train, samples = (arrays(first, name) for name in ("dose", "train_images", "samples"))
    is_copy = samples["ratio"] < samples["max_ratio"]
    for copies, reproduced, per_image in zip(a["copies"], a["reproduced"], a["samples_per_image"], strict=True):
        members = np.flatnonzero(train["copies"] == copies)
        times = [int((samples["nearest"][is_copy] == i).sum()) for i in members]
        assert reproduced == pytest.approx(np.mean(np.array(times) > 0))
        assert per_image == pytest.approx(np.mean(times))


def test_the_same_again_from_the_cache_and_without_it(first, shared, tmp_path):
    """Twice the same bytes; and what changes only the flux trains and samples nothing again."""
    shared.run(EXP, tmp_path / "again", *WORDS, "figures=null", cache=tmp_path / "other_cache")
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()
    done = shared.run(EXP, tmp_path / "flux", *WORDS, "flux.n_samples=4", "figures=null")
    assert (
        "step/s" not in done.stderr
        and "samples/network" not in json.loads((tmp_path / "flux" / "manifest.json").read_text())["rates_per_s"]
    )
    assert (tmp_path / "flux" / "metrics.json").read_bytes() != (first / "metrics.json").read_bytes()


# a checkpoint in the middle of training; generated images; scores
@pytest.mark.parametrize(
    "stage", ["train/network/*.partial/steps/step_*", "samples/**/*.partial", "score/**/*.partial"]
)
def test_killed_at_any_stage_and_started_again_it_ends_the_same(first, shared, tmp_path, stage):
    cache, directory = tmp_path / "cache", tmp_path / "run"
    # with a copy of what is compiled: a killed process may leave half a file
    shutil.copytree(shared.compiled, tmp_path / "compiled")
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            shared.command(EXP, directory, *WORDS, "figures=null", cache=cache),
            cwd=ROOT,
            env=shared.environment(tmp_path / "compiled"),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    until = time.monotonic() + 300
    while not list(cache.glob(stage)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert process.poll() is None, (tmp_path / "stderr").read_text()[-2000:]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (directory / "metrics.json").exists()
    shared.run(EXP, directory, *WORDS, "figures=null", cache=cache)
    assert (directory / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()


def test_its_numbers_are_those_that_were_committed(first):
    expected_numbers.check("image_memorization", first)
