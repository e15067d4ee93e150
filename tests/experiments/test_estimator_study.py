"""The study of the estimators: scenes, methods and fits against closed forms."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.schema import check
from experiments.estimator_study import breakdown, gains, radius
from experiments.estimator_study.convergence import log_slope, slug
from experiments.estimator_study.methods import BOUNDARY, PLAIN, POINTWISE, VOLUME, chosen, fits, references, repeated
from experiments.estimator_study.scenes import AWAY, MODE, Scene, in_dimension, mixture_scene
from plap_jax import GaussianMixture
from tests.helpers.recorded import Recorded

# --- scenes and methods


def test_a_mixture_in_many_dimensions_is_that_of_the_plane_padded():
    mixture = in_dimension(5, 0.1)
    np.testing.assert_allclose(np.asarray(mixture.means)[:, 2:], 0)
    np.testing.assert_allclose(np.linalg.norm(mixture.means[0] - mixture.means[1]), 5, rtol=1e-6)
    scene = mixture_scene("m", mixture, 0, 4)
    away = np.linalg.norm(scene.points[scene.kinds == AWAY] - mixture.means[0], axis=1)
    np.testing.assert_allclose(away, 2 * np.sqrt(0.1 * 5), rtol=1e-5)
    assert scene.radius == pytest.approx(np.sqrt(0.05 * 5))


@pytest.mark.parametrize("method", [*BOUNDARY, *VOLUME], ids=lambda method: method.name)
def test_every_method_of_the_flux_estimates_it(method):
    """N(0, I) in three dimensions off its mode, p = 2: κ_2 = r, whatever the centre."""
    normal = GaussianMixture([1.0], np.zeros((1, 3)), np.ones(1), "spherical")
    points = np.array([[2.0, 0.0, 0.0]], np.float32)
    scene = Scene("normal", normal.score, points, np.array([AWAY]), 0.7)
    found = repeated(method, scene, points, (2.0,), jax.random.key(0), 16, 64)
    assert found.value.shape == (64, 1, 1)
    assert np.all(found.nfe == method.cost(16, 3))
    error = found.value.std() / 8 if method.family == "boundary" else 1e-3  # Δ_2 u is constant: nothing to sample
    assert abs(found.value.mean() - 0.7) <= 4 * error + 1e-5


@pytest.mark.parametrize("method", POINTWISE, ids=lambda method: method.name)
def test_the_operator_at_a_point_costs_what_it_says(method):
    normal = GaussianMixture([1.0], np.zeros((1, 3)), np.ones(1), "spherical")
    points = np.array([[2.0, 0.0, 0.0]], np.float32)
    scene = Scene("normal", normal.score, points, np.array([AWAY]), 0.7)
    found = repeated(method, scene, points, (2.0,), jax.random.key(0), 48, 2)
    assert np.all(found.nfe == method.cost(48, 3))


def test_references_are_exact_at_a_mode_and_say_how_uncertain_they_are():
    normal = GaussianMixture([1.0], np.zeros((1, 3)), np.ones(1), "spherical")
    points = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    scene = Scene("normal", normal.score, points, np.array([MODE, AWAY]), 0.5)
    truth, uncertain = references(scene, points, (1.0, 2.0, 3.0), jax.random.key(0))
    np.testing.assert_allclose(truth[:, 0], [1.0, 0.5, 0.25], rtol=1e-5)  # r^{p−1}
    assert abs(truth[1, 1] - 0.5) <= 5 * uncertain[1, 1] + 1e-5
    assert np.all(uncertain < 1e-3)


def test_methods_are_chosen_by_name_and_take_what_fits_them():
    assert [method.name for method in chosen(["hutchinson", PLAIN], (*BOUNDARY, *POINTWISE))] == [PLAIN, "hutchinson"]
    assert chosen(None, VOLUME) == VOLUME
    plain, pairs = (chosen([name], BOUNDARY)[0] for name in (PLAIN, "antithetic"))
    assert fits(pairs, 4) and not fits(pairs, 2) and fits(plain, 2) and not fits(plain, 1)


def test_an_infinite_variance_is_named_by_the_condition():
    rows = [breakdown._row(_estimate(), d, p, 8) for d, p in ((2, 1.0), (2, 1.5), (3, 1.0), (1, 1.5))]
    assert [row["variance"] for row in rows] == ["infinite", "finite", "finite", "infinite"]


def _estimate():
    one = np.ones((4, 1, 1))
    return breakdown.Estimate(one, 0.1 * one, 8, 8)


def test_names_of_metrics_are_plain():
    assert slug("mixture, d = 2") == "mixture_d_2"
    assert slug("held out") == "held_out"


def test_a_gain_is_a_ratio_of_mean_squares(monkeypatch):
    """Half the error, four times fewer evaluations."""
    scene = Scene("s", None, np.zeros((3, 2), np.float32), np.array([AWAY] * 3), 1.0)
    errors = {PLAIN: 0.2, "antithetic": 0.1}

    def fake(method, *_):
        return breakdown.Estimate(np.full((8, 1, 3), 1 + errors[method.name]), 0, 16, 16)

    monkeypatch.setattr(gains, "repeated", fake)
    config = type("C", (), {"seed": 0, "methods": list(errors), "gains": type("G", (), {"repeats": 8})})
    rows = gains._of_scene(config, scene, np.ones(3), 16)
    assert {row["method"]: round(row["gain"], 6) for row in rows} == {PLAIN: 1.0, "antithetic": 4.0}
    assert {row["points"] for row in rows} == {3}
    errors |= {PLAIN: 1e-7}
    rows = gains._of_scene(config, scene, np.ones(3), 16)
    assert all(row["points"] == 0 and np.isnan(row["gain"]) for row in rows)  # nothing to gain


def test_a_slope_is_that_of_a_power_and_is_told_of_two_errors_at_least():
    line = [{"n": n, "rmse": 3 * n**-0.5} for n in (8, 32, 128)]
    assert log_slope(line, "n", "rmse")[0] == pytest.approx(-0.5)
    exact = [{"n": n, "rmse": 0.0} for n in (8, 32)]
    for few in ([], line[:1], line[:1] * 2, [*exact, line[2]]):
        value, reason = log_slope(few, "n", "rmse")
        assert value is None and "fewer than two n" in reason


def test_bias_grows_with_the_square_of_the_radius():
    part = radius.Radii(radii=[0.1, 0.15, 0.2], n_samples=2, repeats=8)
    config = SimpleNamespace(radius=part, convergence=SimpleNamespace(p=[1.0]), variance=0.1, seed=0)
    report = Recorded()
    radius.run(config, report=report)
    assert report.metrics["radius/order/p1"] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("methods=[iid,sobol]", "methods='sobol': must be one of"),
        ("methods=[antithetic]", "must hold iid"),
        ("sigma=7.0", "sigma=7.0: must lie in"),
        ("convergence.p=[0.5,1.0]", "convergence.p.0=0.5: must be >= 1"),
        ("convergence.p=[2.0]", "must hold 1"),
        ("convergence.n_directions=[8,17]", "convergence.n_directions=17: must be an even number"),
        ("convergence.max_evaluations=7", "convergence.max_evaluations=7: must be >= 8"),
        ("dims=[2,16,2]", "dims=[2, 16, 2]: must not repeat a value"),
        ("dims=[1000000]", "dims.0=1000000: must be <= 21201"),
        ("breakdown.cases=[{d:0,p:1.0}]", "breakdown.cases.0.d=0"),
        ("breakdown.cases=[{d:2,p:1.0},{d:2,p:1.0}]", "must not repeat a value"),
        ("cost.chunks=[0]", "cost.chunks.0=0: must be >= 1"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_computed(override, line):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["+exp=estimator_study", "scale=smoke", override])
    with pytest.raises(UserError, match=re.escape(line)):
        check(config)
