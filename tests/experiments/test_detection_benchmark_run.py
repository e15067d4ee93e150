"""The detection benchmark at scale=smoke, run as a user runs it."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.helpers import expected_numbers
from tests.helpers.experiment_run import FIXED
from tests.helpers.left_behind import metrics

pytestmark = pytest.mark.slow  # its choices and measures by themselves: test_detection_benchmark.py
NAMED = [
    *(
        "flux_p1",
        "flux_gap_p1",
        "noise_gap_norm",
        "sharpness",
        "anisotropy",
        "dsm_gap",
        "flipd",
        "normal_bundle",
    ),
    *("denoising_loss", "secmi", "pia", "sima", "score_norm", "manifold_bias", "copy_ratio"),
]
WITH_PROMPT = {"flux_gap_p1", "noise_gap_norm", "sharpness", "anisotropy", "dsm_gap"}
FIGURES = {f"{name}_{task}" for name in ("ranking", "roc", "cost", "copies") for task in ("image", "prompt")}


@pytest.fixture(scope="module")
def first(shared):
    return shared.first("detection_benchmark", *FIXED)


def test_it_leaves_every_metric_table_and_figure(first):
    found = metrics(first)
    for task in ("image", "prompt"):
        for prompt in ("known", "unknown"):
            for scale in ("1", "2", "4"):
                for copies in ("all", "1to8", 1, 2, 4, 8, 16, 32):
                    for name in NAMED:
                        key = f"detection/{task}/{prompt}/g{scale}/k{copies}/{name}"
                        exists = prompt == "known" or name not in WITH_PROMPT
                        for metric in ("auc", "tpr_at_1pct_fpr", "nfe"):
                            assert (f"{key}/{metric}" in found) == exists
    missing = json.loads((first / "manifest.json").read_text())["missing_metrics"]
    assert {name for name, value in found.items() if value is None} == set(missing)
    assert {path.stem for path in first.glob("figures/*.png")} == FIGURES
    for kind in ("csv", "md", "tex"):
        assert (first / "tables" / f"detection.{kind}").is_file()


def test_every_auc_is_of_the_test_half_of_what_was_generated(first):
    found = metrics(first)
    with np.load(first / "arrays" / "scores.npz") as stored:
        a = dict(stored)
    cells = {key.removesuffix("/names") for key in a if key.endswith("/names")}
    assert "image/unknown/g1" in cells
    for cell in cells:
        positive, test = a[f"{cell}/positive"], ~a[f"{cell}/validation"]
        for name, values in zip(a[f"{cell}/names"].tolist(), a[f"{cell}/values"], strict=True):
            metric = found[f"detection/{cell}/kall/{name}/auc"]
            if metric is not None:
                expected = roc_auc_score(positive[test], values[test])
                assert metric["value"] == pytest.approx(expected, abs=1e-9), (cell, name)
                assert metric["n"] == len(np.unique(a[f"{cell}/clusters"][test]))


def test_the_oracle_knows_the_labels_and_costs_nothing(first):
    found = metrics(first)
    assert found["detection/image/unknown/g1/kall/copy_ratio/auc"]["value"] == 1
    assert found["detection/image/unknown/g1/kall/copy_ratio/nfe"] == 0
    assert found["detection/image/known/g1/kall/flux_gap_p1/nfe"] == 32


def test_the_table_says_what_each_needs(first):
    with (first / "tables" / "detection.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    needs = {(row["prompt"], row["detector"]): row["needs"] for row in rows}
    assert needs["known", "flux_p1"] == "image, (prompt)"
    assert needs["unknown", "flux_p1"] == "image"
    assert needs["known", "sharpness"] == "noise, prompt"
    assert needs["known", "copy_ratio"] == "image, training data"
    assert all(float(row["ms_per_image"]) > 0 for row in rows)


def test_again_with_the_same_cache_and_without_the_network_it_is_the_same(first, shared, tmp_path):
    shared.run("detection_benchmark", tmp_path / "again", *FIXED)
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()


def test_what_is_unknown_is_not_told(first):
    with np.load(first / "arrays" / "scores.npz") as stored:
        a = dict(stored)

    def ranks(prompt, name):
        cell = f"image/{prompt}/g1"
        return a[f"{cell}/values"][a[f"{cell}/names"].tolist().index(name)]

    for name in ("flux_p1", "score_norm", "flipd"):
        assert not np.array_equal(ranks("known", name), ranks("unknown", name))
    assert np.array_equal(ranks("known", "copy_ratio"), ranks("unknown", "copy_ratio"))


def test_its_numbers_are_those_that_were_committed(first):
    expected_numbers.check("detection_benchmark", first)
