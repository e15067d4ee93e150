"""Training images scored four ways, and audits of them: at scale=smoke on photographs of clothes, and by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from scipy.stats import median_abs_deviation
from sklearn.metrics import roc_auc_score

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import Flux, check
from experiments.figures.image_memorization import draw
from experiments.image_memorization import divisions
from experiments.image_memorization.calibrated import SEEN, adjusted, columns, digests, of_audits
from experiments.image_memorization.evaluation import Choice
from experiments.image_memorization.scoring import Scores, score_images
from experiments.image_memorization.study import CONTROL
from experiments.image_memorization.train_images import TrainImages
from experiments.shared.networks import MAIN, Trained, named_key
from plap_jax.adjustment import adjust
from plap_jax.data import Planted
from plap_jax.difficulty import difficulty
from plap_jax.diffusion import VPLinear
from plap_jax.evidence import evidence
from tests.helpers import memorizing_model
from tests.helpers.analytic_network import exact_diffusion
from tests.helpers.fashion import needs_fashion_mnist
from tests.helpers.left_behind import arrays, metrics

EXP, WORDS = "image_memorization_fashion", ("scale=smoke", "tracking=disabled", "figures=null")
DOSES = (1, 2, 4, 8, 16, 32, 40)
WAYS, KINDS = ("", "_calibrated", "_baseline", "_both"), ("", "_norm")
FIGURES = {"contact_sheet", "samples", "histograms", "levels", "dose_response", "learning", "calibrated", "difficulty"}


@pytest.fixture(scope="module")
def first(shared):
    return shared.first(EXP, *WORDS)


@needs_fashion_mnist
@pytest.mark.slow  # a whole run
def test_every_dose_is_scored_four_ways(first):
    found, manifest = metrics(first), json.loads((first / "manifest.json").read_text())
    required = [f"train_images/k{k}/auc{way}{kind}" for k in DOSES for way in WAYS for kind in KINDS]
    required += ["train_images/auc", *(f"train_images/auc{way}" for way in WAYS)]
    required += [f"audit/k{name}/{x}" for name in ("40_ref40", "8_ref60_baseline") for x in ("power", "false_share")]
    assert [name for name in required if name not in found] == []
    by_control = [f"train_images/k1/auc{way}{kind}" for way in WAYS[2:] for kind in (*KINDS, "_combined")]
    assert {found[name] for name in by_control} == {None}
    assert {manifest["missing_metrics"][name] for name in by_control} == {SEEN}
    assert found["train_images/k8/auc_norm"] == found["train_images/k8/score_norm_auc"]


@needs_fashion_mnist
@pytest.mark.slow
def test_its_figures_need_the_arrays_alone(first, tmp_path):
    (tmp_path / "arrays").symlink_to(first / "arrays")
    draw(tmp_path)
    assert {path.stem for path in tmp_path.glob("figures/*.png")} == FIGURES


@needs_fashion_mnist
@pytest.mark.slow
def test_the_aucs_are_those_of_the_test_half_over_all_levels(first):
    """From the arrays of the training images: each column by itself, its mean, scikit-learn's AUC."""
    a, found = arrays(first, "train_images"), metrics(first)
    test, copies = ~a["validation"], a["copies"][~a["validation"]]
    kappa, control = (a[f"kappa_{name}"][0].T[test].astype(float) for name in ("network", "control"))
    gain = kappa - control
    baseline = (gain - np.median(gain, axis=0)) / median_abs_deviation(gain, axis=0, scale="normal")
    far = np.abs(baseline) > 5  # beyond that its logarithm
    baseline[far] = np.sign(baseline[far]) * (5 + np.log(np.abs(baseline[far]) - 4))
    baseline = baseline.mean(axis=1)
    noise = -a["norm_network"].T[test] * a["sigma"]
    z, order = difficulty(a["images"][test]), digests(a["images"][test])

    def over_levels(values):
        return np.mean([adjust(column[:, None], z, order).score for column in values.T], axis=0)

    norm = over_levels(-np.log(noise))
    apart = a["contrast_network"].T[test] - a["contrast_control"].T[test]
    both = over_levels(gain), over_levels(apart)
    for dose in (2, 16, 40):
        chosen = (copies == dose) | (copies == 0)
        scores = {"_baseline": baseline, "_calibrated_norm": norm, "_both": both[0], "_both_combined": sum(both)}
        for name, values in scores.items():
            expected = roc_auc_score(copies[chosen] > 0, values[chosen])
            assert found[f"train_images/k{dose}/auc{name}"]["value"] == pytest.approx(expected), (dose, name)
    single = copies <= 1
    expected = roc_auc_score(copies[single], over_levels(kappa)[single])
    assert found["train_images/k1/auc_calibrated"]["value"] == pytest.approx(expected)
    planted = copies != 1
    expected = roc_auc_score(copies[planted] > 0, baseline[planted])
    assert found["train_images/auc_baseline"]["value"] == pytest.approx(expected)


def test_a_level_without_evidence_for_an_image_is_left_out_for_all():
    rng = np.random.default_rng(0)
    network, control = rng.normal(size=(2, 40, 6))
    network[3, 1] = np.nan
    columns = [adjust((network - control)[:, [i]], np.zeros((40, 1)), digests(network)).score for i in (0, 2, 3, 4, 5)]
    way = adjusted(network, control, np.zeros((40, 2)), digests(network))["both"]
    np.testing.assert_allclose(way.scores["kappa"], columns[0])
    np.testing.assert_allclose(way.scores["combined"], np.mean([columns[0], *columns[3:]], axis=0))


def test_flagged_shares_by_hand():
    reference = np.linspace(-1, 1, 39)  # the smallest p-value is 1/40, as far as 2 of 4 may go at .05
    assert divisions.flagged_shares(np.array([5, 6, 0, -2, *reference]), 2, 39, 0.05) == (1, 0)
    assert divisions.flagged_shares(np.array([5, 0, 0, -2, *reference]), 2, 39, 0.05) == (0, 0)
    power, false_share = divisions.flagged_shares(np.array([5, 6, 7, -2, *reference]), 2, 39, 0.05)
    assert (power, false_share) == (1, pytest.approx(1 / 3))


def test_the_evidence_is_that_of_the_library_in_the_same_directions(tmp_path):
    """Scores of the experiment, of an exact network, against ``plap_jax.evidence`` with the same key."""
    points, network = memorizing_model.images(3, seed=1), exact_diffusion(memorizing_model.mixture(), VPLinear(), "eps")
    flux = Flux(p=1.0, n_samples=4, directions="iid", radius=None)
    config = SimpleNamespace(flux=flux, seed=5, scoring=SimpleNamespace(sigmas=(0.3,), p=(1.0,)))
    report, cache = Report(tmp_path, {"name": "x"}), Cache(tmp_path / "cache")
    scores = score_images(config, Trained(network, tmp_path), points, name="x", report=report, cache=cache)
    key = named_key(5, "scoring/directions")
    expected = evidence(network, points, key=key, levels=(0.3,), n_samples=4)
    np.testing.assert_allclose(of_audits(columns(scores)), expected.columns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(columns(scores)[:, 1], expected.log_norm[:, 0], rtol=1e-4, atol=1e-5)


def scored(copies, validation, sigmas=(0.1, 0.3)):
    """A study, and scores by which images of 8 copies stand out once the control is subtracted, and only then."""
    rng = np.random.default_rng(1)
    n = len(copies)
    images = Planted(rng.uniform(-1, 1, (n, 4, 4, 1)).astype(np.float32), copies, validation)
    kappa = rng.normal(0, 1, (1, len(sigmas), n))
    norm = -rng.uniform(1, 9, (len(sigmas), n))
    shift = 0.1 * rng.normal(size=(len(sigmas), n)) + (copies == 8)
    names = {
        MAIN: Scores(kappa + shift, kappa, norm, np.log(-norm) + shift, np.array(sigmas), np.ones(1)),
        CONTROL: Scores(kappa, kappa, norm, np.log(-norm), np.array(sigmas), np.ones(1)),
    }
    return SimpleNamespace(images=images), TrainImages(names, *[Choice(0, 0)] * 3)


def test_audits_flag_what_stands_out_and_their_power_is_a_mean_over_divisions(tmp_path):
    copies = np.repeat([8, 4, 1, 0], [6, 6, 10, 300])
    validation = np.arange(len(copies)) % 2 == 0
    kinds = [
        divisions.Audit(copies=8, reference=100, score="baseline", divisions=4),
        divisions.Audit(copies=8, reference=100, score="calibrated", divisions=4),
        divisions.Audit(copies=4, reference=100, score="raw", divisions=4),
        divisions.Audit(copies=8, reference=131, score="calibrated", divisions=4),
        divisions.Audit(copies=2, reference=100, score="calibrated", divisions=4),
    ]
    config = SimpleNamespace(seed=0, audits=divisions.Audits(heldout=20, fdr=0.1, kinds=kinds))
    report = Report(tmp_path, {"name": "x"})
    divisions.run(config, *scored(copies, validation), report=report)
    found = report.metrics
    assert found["audit/k8_ref100_baseline/power"] == 1
    assert 0 <= found["audit/k8_ref100_baseline/false_share"] < 0.3
    assert found["audit/k8_ref100/power"] < 0.5
    assert found["audit/k4_ref100_raw/power"] < 0.5
    missing = {name for name, value in found.items() if value is None}
    assert missing == {f"audit/{a}/{x}" for a in ("k8_ref131", "k2_ref100") for x in ("power", "false_share")}
    report.write_manifest()
    reasons = json.loads((tmp_path / "manifest.json").read_text())["missing_metrics"]
    assert reasons["audit/k8_ref131/power"] == "150 held-out images in the test half, 151 are needed"
    assert reasons["audit/k2_ref100/power"] == "no image stands 2 times in the training set"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("audits.kinds=[{copies: 8, reference: 9, score: best, divisions: 2}]", "audits.kinds.0.score="),
        (
            "audits.kinds=[{copies: 8, reference: 9, score: raw, divisions: 1}]",
            "audits.kinds.0.divisions=1: must be >= 2",
        ),
    ],
)
def test_impossible_audits_are_refused_before_anything_is_computed(override, message):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"+exp={EXP}", "scale=smoke", override])
    with pytest.raises(UserError) as refused:
        check(config)
    assert str(refused.value).startswith(message)
