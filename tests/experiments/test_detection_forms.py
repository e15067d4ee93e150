"""The benchmark in three forms: all levels together, dear detectors on a subset, halves apart, what was foretold."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from scipy import stats
from sklearn.metrics import roc_auc_score

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.detection_benchmark import explaining
from experiments.detection_benchmark.forms import Halves, against, calibrated, methods_in
from experiments.detection_benchmark.halves import apart
from experiments.detection_benchmark.hypothesis import holds
from experiments.detection_benchmark.parts import Cell, parts
from experiments.detection_benchmark.results import Results
from experiments.detection_benchmark.scoring import CandidateScores, drawn, placed, score
from experiments.detection_benchmark.tasks import DetectionTask, tasks
from experiments.shared.captions import CaptionedImages
from plap_jax.adjustment import adjust
from plap_jax.detectors import QuantileRegression
from plap_jax.labels import find_copies
from plap_jax.metrics import Interval
from tests.helpers import memorizing_model
from tests.helpers.analytic_network import exact_diffusion
from tests.helpers.recorded import Recorded

RNG = np.random.default_rng(0)
N = 120
IMAGES = RNG.uniform(-1, 1, (N, 6, 6, 1)).astype(np.float32) * RNG.uniform(0.1, 1, (N, 1, 1, 1)).astype(np.float32)
HALVES = Halves.of(IMAGES, np.arange(N) % 2 == 0)
FORMS = ("raw", "calibrated", "baseline")


def checked(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", ["+exp=detection_benchmark_fashion", "scale=smoke", *overrides]))[0]


def scored(values, subset=None, cost=(3, 5)):
    values = np.atleast_2d(values)
    costs = np.asarray(cost[: len(values)])
    return CandidateScores(values, costs, costs / 10, [{"sigma": s} for s in range(len(values))], subset)


# --- what taking difficulty out takes away


def test_where_the_pixels_tell_copies_difficulty_is_part_of_what_is_taken_out():
    """Copies are smoother and a little more familiar; evidence is how smooth an image is, and whether it is a copy."""
    rng, n = np.random.default_rng(1), 1200
    copies, spread = np.arange(n) % 5 == 0, rng.uniform(0.2, 0.6, n)
    spread[copies] -= 0.1
    images = (spread[:, None, None, None] * rng.uniform(-1, 1, (n, 6, 6, 1))).astype(np.float32)
    captions = np.arange(n) // 5
    halves = Halves.of(images, captions % 2 == 0)
    units = DetectionTask("image", np.arange(n), copies, np.where(copies, 4, 0), captions, halves.validation)
    evidence = -10 * spread + 0.7 * copies + rng.normal(size=(2, n))
    report = Recorded()
    explaining.write(report, 2.0, units, scored(evidence), halves, 0)
    found = {key.split("/")[2]: value for key, value in report.metrics.items()}
    auc = {name: value.value for name, value in found.items()}
    assert 0.65 < auc["alone"] < auc["kept"]
    assert auc["taken_out"] < auc["taken_out_of_others"] < auc["kept"]
    assert found["alone"].n == len(np.unique(captions[~halves.validation]))
    adjusted = adjust(evidence.T, halves.difficulty, halves.digests, fitted=halves.validation & ~copies)
    test = ~halves.validation
    assert auc["taken_out_of_others"] == pytest.approx(roc_auc_score(copies[test], adjusted.score[test]))
    others = replace(units, positive=copies ^ (test & (captions % 3 == 0)))
    values = [explaining.scores(one, scored(evidence), halves).values for one in (units, others)]
    np.testing.assert_array_equal(*values, err_msg="labels of the test half are not looked at")


def test_too_few_copies_explain_nothing():
    report = Recorded()
    explaining.write(
        report, 1.0, task(np.zeros(N, bool)), scored(np.random.default_rng(8).normal(size=(1, N))), HALVES, 0
    )
    assert set(report.metrics.values()) == {None} and len(report.metrics) == 4


# --- all levels together


def test_all_levels_together_are_the_mean_of_what_an_audit_takes_and_cost_all_of_them():
    raw = scored(np.random.default_rng(1).normal(size=(2, N)))
    found = calibrated(raw, HALVES, (0.1, 0.2))
    audit = adjust(raw.values.T, HALVES.difficulty, HALVES.digests, fitted=HALVES.validation)
    np.testing.assert_array_equal(found.values, [*audit.residuals.T, audit.score])
    assert found.candidates[-1] == {"sigma": "all"} and found.evaluations.tolist() == [3, 5, 8]
    assert found.milliseconds.tolist() == pytest.approx([0.3, 0.5, 0.8])
    assert calibrated(raw, HALVES, (0.1,)).candidates == calibrated(raw, HALVES).candidates == raw.candidates


def test_against_a_baseline_levels_count_by_their_own_spread():
    """The second level is in units a thousand times as large, and counts no more for it."""
    noise, signal = np.random.default_rng(2).normal(size=(2, N)), np.arange(N) % 3 == 0
    one, control = scored((noise + 2 * signal) * [[1.0], [1000.0]]), scored(noise * 0)
    found = against(one, control, HALVES, (0.1, 0.2))
    standardized = [
        (level - np.median(level[HALVES.validation]))
        / stats.median_abs_deviation(level[HALVES.validation], scale="normal")
        for level in one.values
    ]
    np.testing.assert_allclose(found.values[2], np.mean(standardized, axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.values[:2], one.values)
    assert found.evaluations.tolist() == [6, 10, 16]


# --- dear detectors on a subset


def test_a_subset_is_drawn_at_random_the_same_for_all_of_its_size():
    some = drawn(50, N, seed=3)
    assert len(np.unique(some)) == 50 and some.max() < N and (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, drawn(50, N, seed=3))
    assert not np.array_equal(some, drawn(50, N, seed=4))
    assert drawn(None, N, 3) is None and drawn(N, N, 3) is None
    assert 15 < (some % 2).sum() < 35  # captions alternate between the halves, and so would every other image


def test_difficulty_is_taken_out_of_a_subset_by_its_own_validation_images():
    some = drawn(80, N, seed=0)
    values = np.random.default_rng(3).normal(size=(2, 80))
    found = calibrated(scored(placed(values, some, N), some), HALVES, (0.1, 0.2))
    alone = Halves(*(getattr(HALVES, name)[some] for name in ("difficulty", "digests", "validation")))
    np.testing.assert_array_equal(found.values[:, some], calibrated(scored(values), alone, (0.1, 0.2)).values)
    assert np.isnan(np.delete(found.values, some, axis=1)).all()


def task(positive):
    captions = np.arange(len(positive)) // 2
    copies = np.where(positive, 4, 0)
    return DetectionTask("image", np.arange(len(positive)), positive, copies, captions, captions % 2 == 0)


def test_detectors_of_a_subset_are_measured_and_compared_on_it_alone():
    config, positive = checked(), np.arange(N) % 5 == 0
    some = drawn(80, N, seed=0)
    rng = np.random.default_rng(4)
    values, dear = rng.normal(size=N) + positive, rng.normal(size=80) + 2 * positive[some]
    found = {"flux_p1": scored(values), "lhsd": scored(placed(dear[None], some, N), some)}
    results = Results(config.detectors, "flux_p1", 0, (4,))
    results.add(Cell("image", "unknown", 1.0), task(positive), found)
    report = Recorded()
    results.write(report)
    row = {row["detector"]: row for row in report.tables["detection"]}
    assert (row["flux_p1"]["images"], row["lhsd"]["images"]) == (N, 80)
    test = np.flatnonzero(np.isin(some, np.flatnonzero(~task(positive).validation)))
    aucs = [roc_auc_score(positive[some][test], one[test]) for one in (dear, values[some])]
    assert row["lhsd"]["auc"] == pytest.approx(aucs[0])
    assert row["lhsd"]["auc_minus_flux_p1"] == pytest.approx(aucs[0] - aucs[1])
    assert report.metrics["detection/image/unknown/g1/kall/lhsd/auc"].n == len(np.unique(some[test] // 2))
    whole = task(positive).test_classes()
    expected = roc_auc_score(whole[0][whole[0] | whole[1]], values[whole[0] | whole[1]])
    assert row["flux_p1"]["auc"] == pytest.approx(expected)


def test_a_prompt_is_scored_by_those_of_its_images_that_were():
    positive = np.arange(10) % 2 == 0
    prompts = DetectionTask("prompt", np.arange(20) // 2, positive, np.zeros(10, int), np.arange(10), positive)
    found = prompts.of_images(np.array([0, 1, 5, 6]))
    assert found.clusters.tolist() == [0, 2, 3] and found.positive.tolist() == [True, True, False]
    np.testing.assert_array_equal(found.of_units(np.array([[1.0, 3.0, 4.0, 5.0]])), [[2.0, 4.0, 5.0]])


def test_dear_detectors_come_after_the_others_with_the_reference_to_compare():
    some = drawn(40, N, seed=0)
    dear = scored(placed(np.zeros((1, 40)), some, N), some)
    found = parts({"lhsd": dear, "flux_p1": scored(np.zeros(N)), "flux_p1_baseline": scored(np.zeros(N))}, "flux_p1")
    assert [part.names for part in found] == [("flux_p1", "flux_p1_baseline"), ("lhsd",)]
    assert list(found[1].scored) == ["flux_p1", "flux_p1_baseline", "lhsd"]


# --- halves apart


def test_the_test_half_loses_what_is_nearly_in_the_validation_half_and_nothing_else():
    base = np.random.default_rng(5).uniform(-1, 1, (5, 4, 4, 1))
    images = np.concatenate([base, base[:2] + 0.01, base[2:3] + 0.01, base[4:] + 0.01]).astype(np.float32)
    prompts = np.array([0, 0, 1, 1, 1, 1, 0, 1, 1])  # 5 is like 0 of the other half, 6 like 1, 7 like 2, 8 like 4
    copies = find_copies(images, base.astype(np.float32))
    made = CaptionedImages(images, images + 1, prompts, 2.0, copies)
    kept = apart(made, np.array([True, False]), 0.05)
    left = [0, 1, 2, 3, 4, 6, 7, 8]
    np.testing.assert_array_equal(kept.images, images[left])
    np.testing.assert_array_equal(kept.noise, images[left] + 1)
    assert kept.prompts.tolist() == prompts[left].tolist() and kept.guidance == 2.0
    np.testing.assert_array_equal(kept.copies.ratio, copies.ratio[left])
    np.testing.assert_array_equal(kept.copies.by_ratio, copies.by_ratio[left])
    assert len(apart(made, np.array([False, True]), 0.05).images) == 8  # labels of halves exchanged: 0 goes instead
    assert len(apart(made, np.array([True, False]), 0.0).images) == 9


def test_a_caption_that_lost_all_its_images_is_no_unit():
    captions = SimpleNamespace(
        kind=np.array(["unique"] * 3), copies=np.array([8, 2, 4]), validation=np.array([True, False, True])
    )
    made = SimpleNamespace(prompts=np.array([0, 2, 2]), copies=SimpleNamespace(by_ratio=np.array([True, False, True])))
    _, prompt = tasks(SimpleNamespace(captions=captions), made, 0.6)
    assert prompt.clusters.tolist() == [0, 2] and prompt.positive.tolist() == [True, False]
    assert prompt.copies.tolist() == [8, 4] and prompt.groups.tolist() == [0, 1, 1]


# --- what was foretold


def test_the_lead_of_kappa_is_over_the_rival_that_is_best_in_the_same_form():
    config = checked()
    methods = methods_in(config.detectors, FORMS)
    n = 400
    positive = np.arange(n) % 5 == 0
    copies = np.where(positive, np.where(np.arange(n) % 3 == 0, 16, 2), 0)
    images = replace(task(positive), copies=copies)
    noise = np.random.default_rng(6).normal(size=(2, n))
    found = {
        "flux_p1": scored(noise[0]),
        "flux_p1_calibrated": scored(noise[0] + 2 * positive),
        "flux_p1_baseline": scored(noise[0] + 6 * positive),
        "flux_p2_calibrated": scored(9.0 * positive),  # of the family, no rival
        "score_norm": scored(9.0 * positive),  # raw, no rival of the others
        "score_norm_calibrated": scored(noise[1] + positive),
        "sima_calibrated": scored(noise[1]),
        "sima_baseline": scored(noise[1]),
    }
    results = Results(methods, "flux_p1", 0, (2, 16))
    results.add(Cell("image", "unknown", 1.0), images, found)
    results.add(Cell("image", "known", 1.0), images, found)
    report = Recorded()
    results.write(report)
    test = ~images.validation

    def auc(name, k):
        chosen = test & (~positive | (copies == k))
        return roc_auc_score(positive[chosen], found[name].values[0][chosen])

    for k in (2, 16):
        lead = report.metrics[f"hypothesis/calibrated/g1/k{k}/lead"]
        assert lead.value == pytest.approx(auc("flux_p1_calibrated", k) - auc("score_norm_calibrated", k))
    rivals = {row["form"]: row["best_rival_on_test"] for row in report.tables["hypothesis"]}
    assert rivals == {"calibrated": "score_norm_calibrated", "baseline": "sima_baseline"}
    assert (
        report.metrics["hypothesis/calibrated/share_held"] == 1 and report.metrics["hypothesis/calibrated/cells"] == 2
    )
    assert report.metrics["hypothesis/baseline/share_held"] == 1 and report.metrics["hypothesis/baseline/cells"] == 1


@pytest.mark.parametrize(
    ("form", "value", "low", "held"),
    [("calibrated", -0.01, -0.1, True), ("calibrated", -0.011, -0.1, False)]
    + [("baseline", 0.2, 0.001, True), ("baseline", 0.2, 0.0, False)],
)
def test_foretold_is_within_a_hundredth_or_against_a_baseline_strictly_the_first(form, value, low, held):
    assert holds(form, Interval(value, low, 1.0, 10)) is held


def test_a_lead_over_a_dear_rival_is_on_the_images_that_it_scored():
    config, positive = checked(), np.arange(N) % 5 == 0
    some = drawn(80, N, seed=0)
    rng = np.random.default_rng(7)
    ours, dear = rng.normal(size=N) + positive, rng.normal(size=80) + 3 * positive[some]
    found = {
        "flux_p1": scored(ours),
        "flux_p1_calibrated": scored(ours),
        "sima_calibrated": scored(-ours),
        "lhsd_calibrated": scored(placed(dear[None], some, N), some),
    }
    results = Results(methods_in(config.detectors, FORMS), "flux_p1", 0, (4,))
    results.add(Cell("image", "unknown", 1.0), task(positive), found)
    report = Recorded()
    results.write(report)
    test = np.flatnonzero(np.isin(some, np.flatnonzero(~task(positive).validation)))
    aucs = [roc_auc_score(positive[some][test], one[test]) for one in (ours[some], dear)]
    assert report.metrics["hypothesis/calibrated/g1/k4/lead"].value == pytest.approx(aucs[0] - aucs[1])


# --- quantile regression, which is fitted


def test_quantile_regression_is_fitted_to_images_that_training_has_not_seen(tmp_path):
    method = checked().detectors["quantile_regression"]
    assert method.kind is QuantileRegression and method.is_fitted and not method.runs_with("known")
    model = exact_diffusion(memorizing_model.mixture(), memorizing_model.SCHEDULE)
    nonmembers = memorizing_model.images(30, 5)
    network = SimpleNamespace(network=model, key="exact")
    study = SimpleNamespace(network=network, reference=memorizing_model.MEMORIZED, nonmembers=nonmembers)
    images = np.concatenate([memorizing_model.MEMORIZED[:3], memorizing_model.images(3, 1)])
    made = SimpleNamespace(images=images, noise=images, prompts=np.zeros(6, int), guidance=1.0)
    how = {"report": Report(tmp_path / "report", {}), "cache": Cache(tmp_path / "cache"), "prompt": "unknown"}
    method = method.model_copy(update={"grid": {"sigma": [0.1]}})
    found = score(method, study, made, name="quantile_regression", network=network, seed=0, **how)
    assert found.values.shape == (1, 6) and found.evaluations.tolist() == [8]
    assert found.values[0, :3].min() > found.values[0, 3:].max()


def test_a_fitted_detector_is_refused_at_a_level_that_the_schedule_lacks():
    with pytest.raises(UserError, match=r"^detectors\.quantile_regression\.grid=\{'sigma': 3\.0\}: must lie in \["):
        checked("detectors.quantile_regression.grid.sigma=[3.0]")
    with pytest.raises(UserError, match=r"^detectors\.quantile_regression\.detector\.max_fp=0\.1: unknown key"):
        checked("+detectors.quantile_regression.detector.max_fp=0.1")


# --- the configs


def test_captions_are_enough_for_a_hundred_negatives_in_the_test_half():
    """Shared captions and those of single images, of which hardly any leads to copies; class captions one per class."""
    for exp in ("detection_benchmark_fashion", "detection_benchmark_fashion_dit"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = check(compose("config", [f"+exp={exp}", "scale=cpu"]))[0]
        part = config.planting
        assert part.copies[0] == 40 and part.copies[-1] == 1
        assert (part.n_unique_single + part.n_grouped // part.group_size + 10) // 2 >= 115
        assert set(config.forms) == set(FORMS) and config.duplicate_distance == config.data.spec["duplicate_distance"]
        assert {name for name, method in config.detectors.items() if method.subset} == {"lhsd", "curvature_difference"}
        needed = sum(part.images) + part.n_grouped + part.n_class
        assert needed <= config.data.spec["n_train"]


def test_levels_of_flow_matching_are_those_of_the_same_noise():
    def composed(exp):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [f"+exp={exp}"]).noise_levels

    ours = np.asarray(composed("detection_benchmark_fashion"))
    ratio = ours / np.sqrt(1 - ours**2)
    np.testing.assert_allclose(composed("detection_benchmark_fashion_dit"), ratio / (1 + ratio), atol=0.005)
