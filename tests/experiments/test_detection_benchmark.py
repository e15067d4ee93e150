"""The detection benchmark at scale=smoke, run as a user runs it, and its choices and measures by themselves."""

import csv
import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from sklearn.metrics import roc_auc_score

from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.schema import check
from experiments.detection_benchmark.evaluation import Chosen, Measured, choose, measure
from experiments.detection_benchmark.results import Cell, Results
from experiments.detection_benchmark.scoring import CandidateScores
from experiments.detection_benchmark.tasks import DetectionTask
from plap_jax.metrics import tpr_at_fpr
from tests.helpers import expected_numbers
from tests.helpers.experiment_run import FIXED

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


def metrics(directory):
    return json.loads((directory / "metrics.json").read_text())


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


@pytest.mark.slow
def test_again_with_the_same_cache_and_without_the_network_it_is_the_same(first, shared, tmp_path):
    shared.run("detection_benchmark", tmp_path / "again", *FIXED)
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()


def checked(*overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return check(compose("config", ["+exp=detection_benchmark", "scale=smoke", *overrides]))


def test_every_detector_of_the_configs_takes_part():
    config, _ = checked()
    assert set(config.detectors) == {path.stem for path in (CONF / "detector").glob("*.yaml")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("detectors.flux_p1.grid.sigma=[3.0]", r"^detectors\.flux_p1\.grid=\{'sigma': 3\.0\}: must lie in \["),
        ("detectors.flux_p1.grid.sigma=[0.1,0.1]", r"grid\.sigma=\[0\.1, 0\.1\]: must hold at least one value, none"),
        ("detectors.secmi.grid.sigma=[0.99995]", r"^detectors\.secmi\.grid=.*leaves no room for the step above it"),
        ("detectors.flux_p1.family=best", r"^detectors\.flux_p1\.family=best: must be one of 'p-laplacian'"),
        ("+detectors.flux_p1.detector.n_sample=3", r"n_sample"),
        ("+detectors.flux_p1.grid.sigm=[0.1]", r"^detectors\.flux_p1\.detector\.sigm=0\.1: unknown key"),
        (
            "detectors.flux_p1.detector.p=0.5",
            r"^detectors\.flux_p1\.detector: p=0\.5: must be a single",
        ),
        ("detectors.flux_p1.detector.n_samples=0", r"^detectors\.flux_p1\.detector: n_samples=0"),
        ("detectors.flipd_hutchinson.detector.n_probes=1", r"^detectors\.flipd_hutchinson\.detector: n_probes=1"),
        ("detectors.copy_ratio.family=other", r"^detectors\.copy_ratio\.family='?other'?: must be oracle"),
        ("reference=flux_gap_p1", r"^reference='?flux_gap_p1'?: must be one of .* that needs no prompt"),
        ("samples.guidance=[1.0,1.0]", r"samples\.guidance=\[1\.0, 1\.0\]: must not repeat a value"),
        ("planting.copies=[1,1,1,1,1,1]", r"planting\.copies=.*must not repeat a number"),
        ("model.n_conditions=4", r"model\.n_conditions=4: must be null"),
        ("min_copy_share=0.0", r"min_copy_share=0\.0: must be > 0"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(override, message):
    with pytest.raises(UserError, match=message):
        checked(override)


def test_what_is_unknown_is_not_told(first):
    with np.load(first / "arrays" / "scores.npz") as stored:
        a = dict(stored)

    def ranks(prompt, name):
        cell = f"image/{prompt}/g1"
        return a[f"{cell}/values"][a[f"{cell}/names"].tolist().index(name)]

    for name in ("flux_p1", "score_norm", "flipd"):
        assert not np.array_equal(ranks("known", name), ranks("unknown", name))
    assert np.array_equal(ranks("known", "copy_ratio"), ranks("unknown", "copy_ratio"))


class Recorded:
    """What a report is told."""

    def __init__(self):
        self.metrics, self.reasons, self.tables = {}, {}, {}

    def metric(self, name, value, reason=None):
        self.metrics[name], self.reasons[name] = value, reason

    def table(self, name, rows, kinds=()):
        self.tables[name] = rows

    def arrays(self, name, /, **arrays):
        assert all(array.dtype != object for array in map(np.asarray, arrays.values()))


def test_the_family_is_the_p_laplacian_that_is_best_on_the_validation_half():
    config, _ = checked()
    images = task()
    noise = np.random.default_rng(0).normal(size=images.positive.shape)

    def with_auc(validation, test):
        return scored(np.where(images.validation, validation, test) * images.positive + noise)

    found = {
        "flux_p1": with_auc(3, 1),  # the best of the family on the validation half
        "flux_p2": with_auc(1, 3),  # and on the test half
        "score_norm": with_auc(0, 2),  # the best of the others on the test half
        "pia": with_auc(9, 0),
        "copy_ratio": with_auc(9, 9),
    }
    results = Results(config.detectors, "flux_p1", 0, (4,))
    results.add(Cell("image", "unknown", 1.0), images, found)
    report = Recorded()
    results._family(report)
    (row,) = report.tables["family"]
    assert (row["chosen"], row["best_other_on_test"]) == ("flux_p1", "score_norm")
    lead = report.metrics["family/image/unknown/g1/lead_over_best_other"]
    test = ~images.validation
    aucs = [roc_auc_score(images.positive[test], found[n].values[0][test]) for n in ("flux_p1", "score_norm")]
    assert lead.value == pytest.approx(aucs[0] - aucs[1])
    assert lead.value < 0


# --- choices and measures, on scores that are made up

N_CAPTIONS, PER_CAPTION = 40, 5


def task(name="image", n_captions=N_CAPTIONS):
    clusters = np.repeat(np.arange(n_captions), PER_CAPTION)
    memorized = np.arange(n_captions) < 20
    validation = np.arange(n_captions) % 2 == 0
    copies = np.where(memorized, 4, 0)
    if name == "prompt":
        return DetectionTask(name, clusters, memorized, copies, np.arange(n_captions), validation)
    groups = np.arange(len(clusters))
    return DetectionTask(name, groups, memorized[clusters], copies[clusters], clusters, validation[clusters])


def scored(*values):
    values = np.stack(values)
    return CandidateScores(
        values, np.ones(len(values), int), np.ones(len(values)), [{"i": i} for i in range(len(values))]
    )


def test_a_candidate_is_chosen_by_the_validation_half_alone():
    images = task()
    noise = np.random.default_rng(0).normal(size=images.positive.shape)
    # the first is right on the test half only, the second on the validation half only
    first = np.where(images.validation, noise, images.positive)
    second = np.where(images.validation, images.positive, noise)
    chosen = choose(images, {"one": scored(first, second)})
    assert isinstance(chosen, Chosen)
    assert chosen.candidate.tolist() == [1]
    measured = measure(images, chosen, None, seed=0)
    assert isinstance(measured, Measured)
    assert 0.3 < measured.auc[0] < 0.7
    assert chosen.validation_auc[0] == 1


def test_a_low_score_is_not_turned_around():
    images = task()
    chosen = choose(images, {"one": scored(-images.positive.astype(float))})
    assert isinstance(chosen, Chosen)
    measured = measure(images, chosen, None, seed=0)
    assert isinstance(measured, Measured)
    assert measured.auc[0] == 0


def test_captions_are_scored_by_the_mean_of_their_images():
    prompts = task("prompt")
    values = np.random.default_rng(0).normal(size=(2, N_CAPTIONS * PER_CAPTION))
    expected = values.reshape(2, N_CAPTIONS, PER_CAPTION).mean(axis=2)
    np.testing.assert_allclose(prompts.of_units(values), expected)


def test_equal_detectors_differ_by_exactly_nothing_and_a_better_one_is_told():
    images = task()
    noise = np.random.default_rng(1).normal(size=(2, *images.positive.shape))
    weak, strong = images.positive + 2 * noise[0], images.positive + 0.25 * noise[1]
    chosen = choose(images, {"weak": scored(weak), "again": scored(weak), "strong": scored(strong)})
    assert isinstance(chosen, Chosen)
    measured = measure(images, chosen, None, seed=0)
    assert isinstance(measured, Measured)
    same, better = measured.difference(0, 1), measured.difference(2, 0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert better.low > 0


@pytest.mark.parametrize("n_captions", [218, 220])
def test_a_tpr_is_reported_from_a_hundred_captions_on_with_its_interval(n_captions):
    """In the test half are 10 captions with copies, and 99 or 100 without, of five images each."""
    config, _ = checked()
    images = task(n_captions=n_captions)
    values = 3 * images.positive + np.random.default_rng(0).normal(size=images.positive.shape)
    results = Results(config.detectors, "flux_p1", 0, (4,))
    results.add(Cell("image", "unknown", 1.0), images, {"flux_p1": scored(values)})
    report = Recorded()
    results.write(report)
    name = "detection/image/unknown/g1/kall/flux_p1/tpr_at_1pct_fpr"
    (row,) = report.tables["detection"]
    ends = [row[f"tpr_at_1pct_fpr{end}"] for end in ("", "_low", "_high")]
    if n_captions == 218:
        assert ends == [None, None, None] and report.metrics[name] is None
        assert report.reasons[name] == "99 negative caption(s), at least 100 are needed for a rate of 0.01"
    else:
        classes = [~images.validation & kind for kind in (images.positive, ~images.positive)]
        how = [*(values[c] for c in classes), *(images.clusters[c] for c in classes)]
        found = report.metrics[name]
        assert found.value == tpr_at_fpr(*how[:2]) and ends == [found.value, found.low, found.high]
        assert ends[1] < ends[0] < ends[2] and found.n == 110 and report.reasons[name] is None


def test_a_class_that_is_empty_is_told_and_not_measured():
    images = task()
    chosen = choose(images, {"one": scored(np.random.default_rng(0).normal(size=images.positive.shape))})
    assert isinstance(chosen, Chosen)
    assert (
        measure(images, chosen, 32, seed=0)
        == "0 memorized image(s) of 0 caption(s) in the test half, at least 2 needed"
    )


def test_its_numbers_are_those_that_were_committed(first):
    expected_numbers.check("detection_benchmark", first)
