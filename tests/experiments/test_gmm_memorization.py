"""The parts of the mixture experiment by themselves, at scores that are exact: nothing is trained."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from experiments.core.schema import check
from experiments.gmm_memorization import critical_points, curvature_maps, planted
from plap_jax import GaussianMixture
from plap_jax._flux import circle_flux
from plap_jax.data import triangle
from plap_jax.diffusion import DiscreteVP
from plap_jax.metrics import auc
from tests.helpers.analytic_network import exact_diffusion
from tests.helpers.recorded import Recorded

SMALL = (
    *("critical.n_repeats=8", "critical.n_grid=3", "maps.n_grid=3", "maps.times=[2,60]", "maps.p=[1.0,2.0]"),
    *("planted.sigmas=[0.1,0.4]", "planted.memorizer_samples=16", "planted.samples.d16.n_single=20"),
)


@pytest.fixture(scope="module")
def config():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", ["+exp=gmm_memorization", "scale=smoke", *SMALL]))[0]


@pytest.fixture(scope="module")
def exact():
    """The plane's mixture, and in the network's place what a perfect one would say."""
    return critical_points.Setting(triangle(), exact_diffusion(triangle(), DiscreteVP.linear(), "eps"))


def test_critical_points_are_critical():
    mixture = triangle()
    points, kinds = critical_points.critical_points(mixture)
    assert list(kinds) == ["mode"] * 3 + ["midpoint"] * 3 + ["centre"]
    for point, kind in zip(points, kinds, strict=True):
        curvature = np.linalg.eigvalsh(mixture.hessian(point))
        assert (curvature < 0).all() == (kind == "mode")
        assert (curvature > 0).all() == (kind == "centre")


def test_maxima_are_told_by_both_estimators_and_both_scores(config, exact):
    report = Recorded()
    setting = critical_points.Setting(exact.mixture, exact.network, critical_points._compiled(config, exact))
    critical_points.run(config, setting, report=report)
    found = report.stored["critical"]
    values, reference, kinds = found["values"], found["reference"], found["kinds"]
    assert values.shape == (2, 2, 7, 8)
    np.testing.assert_allclose(reference[1], reference[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(values[1], values[0], rtol=1e-2, atol=1e-2)  # the same random numbers
    stderr = values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
    assert (abs(values[:, 0].mean(axis=-1) - reference) < 6 * stderr[:, 0] + 1e-3).all()
    np.testing.assert_allclose(reference[0, :3], reference[0, 0], rtol=1e-4)  # the triangle's symmetry
    for score in ("analytic", "learned"):
        assert report.metrics[f"critical/{score}/boundary/mode"].value > 0.99
        assert report.metrics[f"critical/{score}/boundary/midpoint"].value < 0
        assert report.metrics[f"critical/{score}/boundary/auc"].value == 1
    for j, estimator in enumerate(("boundary", "volume")):
        for kind in ("mode", "midpoint", "centre"):
            told = report.metrics[f"critical/analytic/{estimator}/{kind}"].value
            assert told == pytest.approx(values[0, j][kinds == kind].mean(), rel=1e-5)
    assert len(report.tables["critical"]) == 2 * 2 * 7


def test_maps_are_those_of_the_noised_mixture(config, exact):
    report = Recorded()
    curvature_maps.run(config, exact, report=report)
    found = report.stored["maps"]
    assert found["kappa"].shape == (2, 2, 2, 3, 3)  # levels, scores, orders, rows, columns
    for level, t in enumerate(config.maps.times):
        sigma = float(exact.network.schedule.sigma(t))
        axis = np.linspace(-1, 1, 3, dtype=np.float32) * found["extent"][level]
        for k, p in enumerate(config.maps.p):
            point = np.array([axis[2], axis[0]])
            expected = circle_flux(exact.noised(t).score, point, radius=sigma * 2**0.5, p=p)
            for kappa in found["kappa"][level, :, k]:
                assert kappa[0, 2] == pytest.approx(float(expected), rel=2e-3, abs=1e-4)
            assert report.metrics[f"maps/p{p:g}/t{t:g}/relative_error"] < 0.01
    assert len(report.tables["maps"]) == 4


@pytest.fixture(scope="module")
def drawn(config):
    return planted._draw(config, "d16", config.planted.samples["d16"])


def test_points_are_planted_as_often_as_the_config_says(config, drawn):
    mixture, points = drawn
    sample = config.planted.samples["d16"]
    assert mixture.shape == (sample.dim,) and mixture.n_components == sample.n_components
    assert sorted(np.unique(points.copies).tolist()) == [0, 1, sample.copies]
    assert len(points.train) == sample.copies * sample.n_planted + sample.n_single
    weights = planted._weights(points)
    assert weights.sum() == pytest.approx(1) and weights.max() == pytest.approx(sample.copies * weights.min())


def test_a_network_that_has_memorized_all_scores_as_the_memorizer_and_one_of_the_mixture_as_the_mixture(config, drawn):
    mixture, points = drawn
    memorizer = GaussianMixture.empirical(points.points[points.copies > 0], planted._weights(points))
    schedule = config.diffusion.make()
    networks = {
        planted.NETWORK: exact_diffusion(memorizer, schedule),
        planted.CONTROL: exact_diffusion(mixture, schedule),
    }
    kappa, levels = planted._score_all(config, "d16", mixture, points, networks)
    np.testing.assert_allclose(levels["sigma"], config.planted.sigmas, atol=0.05)
    asked = ~points.validation & ~points.is_single
    for mine, theirs in ((planted.NETWORK, planted.MEMORIZER), (planted.CONTROL, planted.MIXTURE)):
        np.testing.assert_array_equal(np.isfinite(kappa[theirs]), np.broadcast_to(asked, kappa[theirs].shape))
        assert np.isfinite(kappa[mine]).all()
        np.testing.assert_allclose(kappa[mine][:, asked], kappa[theirs][:, asked], rtol=1e-2, atol=1e-2)
    seen = auc(kappa[planted.NETWORK][1][points.is_planted], kappa[planted.NETWORK][1][points.is_heldout])
    unseen = auc(kappa[planted.CONTROL][1][points.is_planted], kappa[planted.CONTROL][1][points.is_heldout])
    assert seen > 0.95 and 0.2 < unseen < 0.8


def pairs_won(positive, negative):
    return np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative))


def test_the_level_is_chosen_on_the_validation_half_and_reported_on_the_other(config, drawn):
    _, points = drawn
    rng, n = np.random.default_rng(0), len(points.points)
    kappa = {score: rng.normal(size=(2, n)) for score in planted.SCORES}
    kappa[planted.NETWORK][0] += 3 * (points.is_planted & ~points.validation)  # right on the test half only
    kappa[planted.NETWORK][1] += 3 * (points.is_planted & points.validation)  # right on the validation half only
    report = Recorded()
    levels = {"t": np.array([5, 50]), "sigma": np.array([0.1, 0.4])}
    rows, chosen = planted._evaluate(report, config, "d16", points, kappa, levels)
    assert chosen == 1 and report.metrics["planted/d16/sigma"] == 0.4
    test = ~points.validation
    for name, score, negative in (
        ("planted/d16/auc", planted.NETWORK, points.is_heldout),
        ("planted/d16/auc_vs_single", planted.NETWORK, points.is_single),
        ("planted/d16/memorizer_auc", planted.MEMORIZER, points.is_heldout),
        ("planted/d16/mixture_auc", planted.MIXTURE, points.is_heldout),
        ("control/d16/auc", planted.CONTROL, points.is_heldout),
    ):
        values = kappa[score][1]
        expected = pairs_won(values[test & points.is_planted], values[test & negative])
        assert report.metrics[name].value == pytest.approx(expected), name
        assert report.metrics[name].low <= expected <= report.metrics[name].high
    assert [row["chosen"] for row in rows] == [False, True]
    values, half = kappa[planted.NETWORK][0], points.validation
    expected = pairs_won(values[half & points.is_planted], values[half & points.is_heldout])
    assert rows[0]["validation_auc"] == pytest.approx(expected)
    assert report.metrics["planted/d16/tpr_at_1pct_fpr"] is None  # too few negatives


def test_points_are_listed_with_the_most_memorized_first(drawn):
    _, points = drawn
    n = len(points.points)
    kappa = {score: np.arange(n, dtype=float) for score in planted.SCORES}
    kappa[planted.MIXTURE] = np.full(n, np.nan)
    rows = planted._point_rows("d16", points, kappa)
    assert [row["point"] for row in rows] == list(range(n - 1, -1, -1)) and rows[0]["rank"] == 1
    assert rows[0]["kappa_mixture"] is None and rows[0]["kappa_network"] == n - 1
    assert {row["half"] for row in rows} == {"validation", "test"}
    assert [row["copies"] for row in rows] == points.copies[::-1].tolist()
