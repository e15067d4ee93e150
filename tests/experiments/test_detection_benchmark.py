"""The detection benchmark's scores, choices and measures by themselves; nothing is trained."""

from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from sklearn.metrics import roc_auc_score

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.detection_benchmark.evaluation import Chosen, Measured, choose, measure
from experiments.detection_benchmark.forms import Halves, against, calibrated, forms_of, methods_in
from experiments.detection_benchmark.parts import Cell
from experiments.detection_benchmark.results import Results
from experiments.detection_benchmark.scoring import CandidateScores, score
from experiments.detection_benchmark.tasks import DetectionTask, tasks
from plap_jax.metrics import tpr_at_fpr
from tests.helpers import memorizing_model
from tests.helpers.analytic_network import exact_diffusion
from tests.helpers.recorded import Recorded


def checked(*overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return check(compose("config", ["+exp=detection_benchmark", "scale=smoke", *overrides]))


# Taken by name alone: they cost, or repeat, much of what is there.
BY_NAME = {"clid", "curvature_difference", "lhsd", "manifold_bias_full", "quantile_regression", "update_norm"}


def test_every_detector_of_the_configs_takes_part_or_is_taken_by_name():
    config, _ = checked()
    assert set(config.detectors) == {path.stem for path in (CONF / "detector").glob("*.yaml")} - BY_NAME
    config, _ = checked(f"detector@detectors=[flux_p1,{','.join(sorted(BY_NAME))}]")
    assert set(config.detectors) == BY_NAME | {"flux_p1"}


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
        ("forms=[calibrated]", r"^forms=.*: must hold raw, and none twice"),
        ("+detectors.flux_p1.subset=1", r"^detectors\.flux_p1\.subset=1: must be >= 2"),
        ("duplicate_distance=-0.1", r"^duplicate_distance=-0\.1: must be >= 0"),
        ("forms=[raw,adjusted]", r"^forms\.1='?adjusted'?: must be one of 'raw', 'calibrated' or 'baseline'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(override, message):
    with pytest.raises(UserError, match=message):
        checked(override)


def test_forms_are_of_detectors_of_images_and_a_baseline_knows_no_prompt():
    config, _ = checked()
    forms = ("raw", "calibrated", "baseline")
    found = {
        (name, prompt): forms_of(config.detectors[name], prompt, forms)
        for name in ("flux_p1", "sharpness", "copy_ratio")
        for prompt in ("known", "unknown")
    }
    assert found["flux_p1", "unknown"] == forms and found["flux_p1", "known"] == ("raw", "calibrated")
    assert {found[name, "known"] for name in ("sharpness", "copy_ratio")} == {("raw",)}
    assert list(methods_in({"flux_p1": config.detectors["flux_p1"]}, forms)) == [
        "flux_p1",
        "flux_p1_calibrated",
        "flux_p1_baseline",
    ]


def test_difficulty_is_taken_out_by_the_validation_half_alone():
    """Scores that are the images' contrast say nothing afterwards; what is added to a few remains."""
    generator = np.random.default_rng(0)
    contrast = generator.uniform(0.05, 0.9, 400)
    images = (contrast[:, None, None, None] * generator.uniform(-1, 1, (400, 8, 8, 1))).astype(np.float32)
    memorized, validation = np.arange(400) % 20 == 0, np.arange(400) < 200
    raw = scored(np.log(contrast) + 0.5 * memorized + 0.02 * generator.normal(size=400), np.zeros(400))
    halves = Halves.of(images, validation)
    found = calibrated(raw, halves)
    test = ~validation
    auc_raw, auc_calibrated = (roc_auc_score(memorized[test], one.values[0][test]) for one in (raw, found))
    assert auc_raw < 0.85 and auc_calibrated > 0.99
    assert (found.values[1] == 0).all() and found.candidates == raw.candidates
    changed = scored(raw.values[0] + 100 * (test & memorized), np.zeros(400))
    plain = ~(test & memorized)
    np.testing.assert_array_equal(calibrated(changed, halves).values[0][plain], found.values[0][plain])


def test_a_baseline_is_subtracted_and_paid_for():
    one, other = scored([3.0, 1.0]), scored([1.0, 2.0])
    found = against(one, other, Halves.of(np.zeros((2, 4, 4, 1)), np.ones(2, bool)))
    assert found.values.tolist() == [[2.0, -1.0]] and found.evaluations.tolist() == [2]


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


def test_the_table_says_what_each_needs():
    config, _ = checked()
    images, values = task(), np.random.default_rng(0).normal(size=N_CAPTIONS * PER_CAPTION)
    names = ("flux_p1", "sharpness", "copy_ratio")
    results = Results(config.detectors, "flux_p1", 0, (4,))
    for prompt in ("known", "unknown"):
        found = {name: scored(values) for name in names if config.detectors[name].runs_with(prompt)}
        results.add(Cell("image", prompt, 1.0), images, found)
    report = Recorded()
    results.write(report)
    needs = {(row["prompt"], row["detector"]): row["needs"] for row in report.tables["detection"]}
    assert needs == {
        ("known", "flux_p1"): "image, (prompt)",
        ("known", "sharpness"): "noise, prompt",
        ("known", "copy_ratio"): "image, training data",
        ("unknown", "flux_p1"): "image",
        ("unknown", "copy_ratio"): "image, training data",
    }


def test_a_caption_is_memorized_when_enough_of_its_images_are_copies():
    prompts, is_copy = np.array([0, 0, 1, 1, 2, 2]), np.array([True, True, True, False, False, False])
    captions = SimpleNamespace(
        kind=np.array(["unique", "unique", "class"]),
        copies=np.array([8, 2, 0]),
        validation=np.array([True, False, False]),
    )
    made = SimpleNamespace(prompts=prompts, copies=SimpleNamespace(by_ratio=is_copy))
    image, prompt = tasks(SimpleNamespace(captions=captions), made, 0.5)
    np.testing.assert_array_equal(image.positive, is_copy)
    np.testing.assert_array_equal(image.copies, [8, 8, 2, 2, 0, 0])
    np.testing.assert_array_equal(image.validation, [True, True, False, False, False, False])
    np.testing.assert_array_equal(prompt.positive, [True, True, False])
    assert tasks(SimpleNamespace(captions=captions), made, 0.6)[1].positive.tolist() == [True, False, False]


def test_what_is_unknown_is_not_told_and_what_was_scored_is_kept(tmp_path):
    """A network of which each caption means one image: with its caption its score is another one."""
    config, _ = checked("detectors.score_norm.grid.sigma=[0.1]")
    model = exact_diffusion(memorizing_model.mixture(), memorizing_model.SCHEDULE)
    images = np.concatenate([memorizing_model.MEMORIZED[:3], memorizing_model.images(3, 1)])
    study = SimpleNamespace(network=SimpleNamespace(network=model, key="exact"), reference=memorizing_model.MEMORIZED)
    noise, prompts = np.random.default_rng(0).normal(size=images.shape).astype(np.float32), np.array([1, 2, 3, 0, 0, 0])
    made = SimpleNamespace(images=images, noise=noise, prompts=prompts, guidance=1.0)

    def found(name, prompt, report):
        how = {"name": name, "network": study.network, "prompt": prompt, "seed": 0}
        kept = {"report": Report(tmp_path / report, {}), "cache": Cache(tmp_path / "cache")}
        return score(config.detectors[name], study, made, **how, **kept)

    known, unknown = (found("score_norm", prompt, prompt) for prompt in ("known", "unknown"))
    assert known.values.shape == (1, 6) and known.evaluations.tolist() == [1] and known.candidates == [{"sigma": 0.1}]
    assert not np.allclose(known.values[:, :3], unknown.values[:, :3])
    again = found("score_norm", "known", "again")
    np.testing.assert_array_equal(again.values, known.values)
    assert again.milliseconds == known.milliseconds  # of the cache: nothing is timed alike twice

    oracle = [found("copy_ratio", prompt, f"oracle_{prompt}") for prompt in ("known", "unknown")]
    np.testing.assert_array_equal(oracle[0].values, oracle[1].values)
    assert oracle[0].evaluations.tolist() == [0] and oracle[0].values[0, :3].min() > oracle[0].values[0, 3:].max()
