"""Flux along generation: against exact networks and a slow twin, and the experiment as a user runs it."""

import csv
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from sklearn.metrics import roc_auc_score

from experiments.core.catalogue import CONF, experiments
from experiments.core.errors import UserError
from experiments.core.schema import check
from experiments.memorization_trajectory.evaluation import calibrated
from plap_jax import GaussianMixture, flux
from plap_jax.diffusion import VPLinear
from plap_jax.directions import sample_directions
from plap_jax.sampling import DDIM, guided, initial_point
from plap_jax.trajectories import flux_along
from tests.helpers import expected_numbers
from tests.helpers.analytic_network import exact_diffusion
from tests.helpers.experiment_run import FIXED
from tests.helpers.left_behind import metrics
from tests.helpers.numpy_twin import Mixture

EXP = "memorization_trajectory"
SCHEDULE = VPLinear()
KEY = jax.random.key(0)


def follow(diffusion, shape, *, condition=None, guidance=1.0, n_steps=12, seed=1):
    start = initial_point(diffusion, jax.random.key(seed), shape)
    return DDIM(n_steps).trajectory(guided(diffusion, guidance), KEY, start, condition)


# --- the library


along = jax.jit(flux_along, static_argnames=("n_samples", "directions", "p"))


@jax.jit
def flux_at(diffusion, x, t, prompt):
    """κ_1 around ``x`` at the radius of its level, one score at a time."""
    radius = diffusion.ball(x, t)[1]
    return flux(diffusion.score_at(t, prompt), x, radius=radius, key=KEY)


@pytest.fixture(scope="module")
def corners():
    """Four corners as an exact network, and a way to one of them."""
    diffusion = exact_diffusion(GaussianMixture.empirical(np.eye(4).reshape(4, 2, 2)), SCHEDULE)
    return diffusion, follow(diffusion, (2, 2), condition=jnp.asarray(1), n_steps=10)


def slow_twin(mixture, schedule, way, prompt, vectors, p):
    """(3, N): loops over steps and directions, scores by textbook formulae, levels by the schedule's definition."""
    found = np.zeros((3, len(way.times)))
    alone = [np.eye(len(mixture.weights))[prompt]]
    with np.errstate(divide="ignore"):  # the logarithm of a weight of 0
        for i, (t, x0) in enumerate(zip(np.asarray(way.times), np.asarray(way.denoised), strict=True)):
            alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
            everyone = mixture.noised(alpha, sigma)
            chosen = Mixture(alone[0], mixture.means, mixture.covariances).noised(alpha, sigma)
            for n in vectors:
                x = (alpha * x0 + sigma * np.sqrt(x0.size) * n)[None]
                unconditional, conditional = everyone.score(x)[0], chosen.score(x)[0]
                for k, s in enumerate((unconditional, conditional, conditional - unconditional)):
                    found[k, i] -= np.linalg.norm(s) ** (p - 2) * (s @ n) / len(vectors)
    return found


@pytest.mark.parametrize(("p", "directions", "guidance"), [(1.0, "iid", 1.0), (2.5, "antithetic", 3.0)])
def test_it_agrees_with_a_slow_twin(x64, p, directions, guidance):
    rng = np.random.default_rng(0)
    means, weights = rng.normal(size=(3, 4)), np.array([0.5, 0.3, 0.2])
    covariances = np.stack([0.05 * np.eye(4) * (k + 1) for k in range(3)])
    diffusion = exact_diffusion(GaussianMixture(weights, means, covariances), SCHEDULE, "eps")
    way = follow(diffusion, (4,), condition=jnp.asarray(1), guidance=guidance, n_steps=6)
    found = along(diffusion, way, 1, key=KEY, n_samples=8, directions=directions, p=p)
    vectors = np.asarray(sample_directions(KEY, 8, (4,), directions, jnp.float64)).reshape(8, 4)
    assert found.gap.n_units == (4 if directions == "antithetic" else 8)
    expected = slow_twin(Mixture(weights, means, covariances), SCHEDULE, way, 1, vectors, p)
    for one, value in zip((found.unconditional, found.conditional, found.gap), expected, strict=True):
        np.testing.assert_allclose(one.value, value, rtol=1e-7, atol=1e-9)


def test_it_is_the_flux_of_each_score_at_each_step(corners):
    """The same numbers, standard errors and counts as ``flux`` gives one at a time."""
    diffusion, way = corners
    found = along(diffusion, way, 2, key=KEY)
    for i, t in enumerate(way.times):
        for one, prompt in ((found.unconditional, -1), (found.conditional, 2)):
            alone = flux_at(diffusion, diffusion.ball(way.denoised[i], t)[0], t, jnp.asarray(prompt))
            np.testing.assert_allclose(one.value[i], alone.value, atol=1e-5)
            np.testing.assert_allclose(one.stderr[i], alone.stderr, atol=1e-5)
            assert (one.nfe, one.n_units) == (alone.nfe, alone.n_units)
    assert found.gap.nfe == 32


def test_a_perfect_memorizer_scores_one_once_it_has_settled_and_not_around_x_t(x64):
    points = np.random.default_rng(3).normal(size=(5, 64))
    diffusion = exact_diffusion(GaussianMixture.empirical(points), SCHEDULE, "eps")
    way = follow(diffusion, (64,), condition=jnp.asarray(-1), n_steps=40)
    distance = jnp.linalg.norm(way.denoised - way.states[-1], axis=1)
    settled = np.asarray(distance < 1e-8)
    assert 6 <= settled.sum() < 30, "settled late, and not from the first step"
    kappa = np.asarray(flux_along(diffusion, way, -1, key=KEY).unconditional.value)
    np.testing.assert_allclose(kappa[settled], 1, atol=1e-9)
    # centred at the state instead, the same network at the same level
    for i in np.flatnonzero(settled):
        at_state = flux_at(diffusion, way.states[i], way.times[i], jnp.asarray(-1))
        assert at_state.value == pytest.approx(np.sqrt(0.5), abs=0.1)


def test_the_gap_of_a_perfect_memorizer_points_home_from_everywhere(x64):
    """Prompt 0 is the middle of a dense ring: ∇ log q(0 | x) points to it, as long as double precision resolves it.

    In general a gap points away from the nearest other image, and its flux is below 1 even for a perfect memorizer.
    """
    angle = 2 * np.pi * np.arange(96) / 96
    points = np.concatenate([np.zeros((1, 2)), np.stack([np.cos(angle), np.sin(angle)], axis=1)]) + [0.4, -0.2]
    diffusion = exact_diffusion(GaussianMixture.empirical(points), SCHEDULE, "eps")
    way = follow(diffusion, (2,), condition=jnp.asarray(0), n_steps=25)
    np.testing.assert_allclose(way.denoised, np.broadcast_to(points[0], (25, 2)), atol=1e-9)
    found = along(diffusion, way, 0, key=KEY)
    np.testing.assert_allclose(found.conditional.value, 1, atol=1e-9)
    resolved = np.asarray(way.alphas / way.sigmas < 5)
    assert resolved.sum() >= 15
    np.testing.assert_allclose(np.asarray(found.gap.value)[resolved], 1, atol=1e-6)


def test_noise_falls_along_the_steps(corners):
    """The index of a step is no time: the first step is the noisiest, and the last one has the flux of t_min."""
    diffusion, way = corners
    assert (np.diff(way.sigmas) < 0).all()
    found = along(diffusion, way, 1, key=KEY).unconditional.value
    for step, t in ((0, SCHEDULE.t_max), (-1, SCHEDULE.t_min)):
        centre = SCHEDULE.alpha(t) * way.denoised[step]
        assert float(found[step]) == pytest.approx(
            float(flux_at(diffusion, centre, jnp.asarray(t), jnp.asarray(-1)).value), abs=1e-5
        )


def test_without_a_prompt_the_gap_is_nothing(corners):
    found = along(*corners, -1, key=KEY)
    assert np.array_equal(found.gap.value, np.zeros(10))
    assert np.array_equal(found.gap.n_zero, np.full(10, 16))
    np.testing.assert_allclose(found.conditional.value, found.unconditional.value, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [(1, {"p": 0.5}, "^p=0.5"), (0.5, {}, "^prompt="), (1, {"n_samples": 1}, "^n_samples=1")],
)
def test_bad_arguments_are_refused(corners, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        flux_along(*corners, prompt, key=KEY, **options)


# --- the experiment


def test_difficulty_is_taken_out_at_each_step_by_what_that_step_foresees():
    """What is left of κ_1 is copying; a step at which all images are foreseen alike tells nothing."""
    rng = np.random.default_rng(0)
    z, copying = rng.normal(size=(3, 200, 4)), np.arange(200) % 10 == 0
    kappa = z[..., 0] + 0.5 * copying + 0.05 * rng.normal(size=(3, 200))
    kappa[0] = 1.0
    images, validation = rng.normal(size=(200, 4, 4, 1)).astype(np.float32), np.arange(200) % 2 == 0
    found = calibrated(kappa, z, images, validation)
    assert (found[0] == 0).all()
    for step in (1, 2):
        assert roc_auc_score(copying, kappa[step]) < 0.8 and roc_auc_score(copying, found[step]) > 0.99
        wrong = calibrated(kappa[step : step + 1], z[:1], images, validation)
        assert roc_auc_score(copying, wrong[0]) < 0.9
    moved = kappa + np.where(validation, 0, 100) * (np.arange(200) == 1)  # of the other half, and so not fitted
    again = calibrated(moved, z, images, validation)
    np.testing.assert_array_equal(np.delete(again, 1, axis=1), np.delete(found, 1, axis=1))


@pytest.fixture(scope="module")
def first(shared):
    return shared.first(EXP, *FIXED)


@pytest.fixture(scope="module")
def arrays(first):
    with np.load(first / "arrays" / "trajectory.npz") as stored:
        return dict(stored)


def scales(arrays):
    return [f"g{guidance:g}" for guidance in arrays["guidance"]]


def test_every_metric_is_that_of_the_arrays(first, arrays):
    found, n_steps, empty = metrics(first), 10, set()
    steps = dict(zip((10, 25, 50, 75, 100), (0, 2, 4, 7, 9), strict=True))
    compared = {"auc": np.full(len(arrays["prompts"]), True), "auc_own_caption": arrays["copies_of_caption"] > 0}
    for guidance, (kind, members) in itertools.product(scales(arrays), compared.items()):
        is_copy, values = arrays[f"{guidance}/is_copy"], arrays[f"{guidance}/values"]
        np.testing.assert_array_equal(is_copy, arrays[f"{guidance}/ratio"] < 0.5)
        assert found[f"trajectory/{guidance}/copy_fraction"]["value"] == pytest.approx(is_copy.mean())
        is_copy, values, prompts = is_copy[members], values[..., members], arrays["prompts"][members]
        for i, statistic in enumerate(("flux_p1", "flux_prompt_p1", "flux_gap_p1")):
            prefix = f"trajectory/{guidance}/{statistic}"
            early = f"{prefix}/first_step_{kind}_above_0.9"
            names = {f"{prefix}/{kind}_at_{share}pct": step for share, step in steps.items()}
            if f"{guidance}/{kind}" not in arrays:
                assert min(len(np.unique(prompts[some])) for some in (is_copy, ~is_copy)) < 2
                empty |= {*names, early}
                continue
            expected = [roc_auc_score(is_copy, step) for step in values[i]]
            np.testing.assert_allclose(arrays[f"{guidance}/{kind}"][i, :, 0], expected, atol=1e-12)
            for name, step in names.items():
                assert found[name]["value"] == pytest.approx(expected[step])
                assert found[name]["n"] == len(np.unique(prompts))
            above = np.flatnonzero(np.asarray(expected) > 0.9)
            assert found[early] == ((above[0] + 1) / n_steps if above.size else None)
            empty |= set() if above.size else {early}
    assert {"g1/auc", "g1/auc_own_caption"} <= set(arrays), "something to measure"
    missing = json.loads((first / "manifest.json").read_text())["missing_metrics"]
    assert set(missing) == empty == {name for name, value in found.items() if value is None}


def test_the_levels_are_those_of_the_steps_noisiest_first(arrays):
    for guidance in scales(arrays):
        times, sigmas = arrays[f"{guidance}/times"], arrays[f"{guidance}/sigmas"]
        assert (np.diff(sigmas) < 0).all()
        np.testing.assert_allclose(sigmas, SCHEDULE.sigma(times), rtol=1e-5)
        np.testing.assert_allclose(times, DDIM(10).times(SCHEDULE), rtol=1e-5)
        assert arrays[f"{guidance}/values"].shape == (3, 10, len(arrays["prompts"]))


def test_the_table_and_the_figure_are_there(first, arrays):
    with (first / "tables" / "trajectory.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(scales(arrays)) * 3 * 10
    row = next(r for r in rows if (r["guidance"], r["statistic"], r["step"]) == ("1.0", "flux_gap_p1", "4"))
    assert float(row["auc"]) == arrays["g1/auc"][2, 3, 0]
    assert float(row["sigma"]) == pytest.approx(arrays["g1/sigmas"][3])
    assert {path.suffix for path in first.glob("figures/trajectory.*")} == {".png", ".pdf"}


@pytest.mark.slow
def test_again_it_is_the_same_byte_for_byte(first, shared, tmp_path):
    shared.run(EXP, tmp_path / "again", *FIXED, "figures=null", cache=tmp_path / "cache")
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("samples.sampler.n_steps=0", r"^samples\.sampler\.n_steps=0: must be an integer >= 1$"),
        ("+samples.step_index=3", r"^samples\.step_index"),
        ("+detectors={}", r"^detectors"),
        ("flux.p=2.0", r"^flux\.p=2\.0: must be 1 here"),
        ("flux.radius=1.0", r"^flux\.radius=1\.0: must be null"),
        ("flux.n_samples=1", r"^flux\.n_samples=1: must be an integer >= 2"),
        ("sampler@samples.sampler=probability_flow", r"^samples\.sampler=.*: must be ddim, which keeps its steps"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(override, message):
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", ["+exp=memorization_trajectory", "scale=smoke", override])
    with pytest.raises(UserError, match=message):
        check(config)


def test_only_experiments_are_listed():
    assert {"memorization_trajectory", "detection_benchmark"} <= set(experiments())
    assert "digits" not in experiments()


def test_its_numbers_are_those_that_were_committed(first):
    expected_numbers.check("memorization_trajectory", first)
