"""Log-likelihoods along the probability flow, against mixtures whose log-density is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from plap_jax import GaussianMixture
from plap_jax.diffusion import EDM, VE, DiscreteVP, RectifiedFlow, VPCosine, VPLinear
from plap_jax.parallel import map_points
from plap_jax.sampling import log_likelihood, log_likelihood_estimate
from tests.helpers.analytic_network import exact_diffusion, traces

KEY = jax.random.key(0)
MIXTURE = ([0.3, 0.7], [[[-1.0, 0.5, 0.0]], [[1.0, 0.0, 0.2]]], [0.04, 0.09], "spherical")
POINTS = np.array([[[-0.9, 0.6, 0.1]], [[1.0, 0.0, 0.2]], [[0.1, 0.2, 0.0]], [[2.5, -1.0, 0.5]]])


def noised(schedule, t):
    return GaussianMixture(*MIXTURE).noised(schedule.alpha(t), schedule.sigma(t))


log_densities = jax.jit(lambda mixture, points: jax.vmap(mixture.log_prob)(points))


def name(schedule):
    return schedule.name


def prior_of(schedule):
    return Partial(GaussianMixture.log_prob, noised(schedule, schedule.t_max))


@pytest.mark.parametrize(
    "schedule", [VPLinear(), *(pytest.param(one, marks=pytest.mark.slow) for one in (EDM(), RectifiedFlow()))], ids=name
)
def test_log_likelihood_is_the_log_density_at_t_min(schedule, x64):
    diffusion = exact_diffusion(GaussianMixture(*MIXTURE), schedule)
    expected = log_densities(noised(schedule, schedule.t_min), POINTS)
    tight = {"rtol": 1e-7, "atol": 1e-7}
    found = map_points(Partial(log_likelihood, diffusion, prior=prior_of(schedule), **tight), POINTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_without_a_prior_the_error_is_what_the_laws_at_t_max_differ_by(x64):
    schedule = VPLinear()
    diffusion = exact_diffusion(GaussianMixture(*MIXTURE), schedule)
    exact = log_densities(noised(schedule, schedule.t_min), POINTS)
    found = map_points(Partial(log_likelihood, diffusion, rtol=1e-7, atol=1e-7), POINTS)
    ratio = float(schedule.alpha(1.0) / schedule.sigma(1.0))  # of the means at t_max, in units of σ: 0.0066
    assert 1e-4 < np.abs(found - exact).max() < 6 * ratio
    np.testing.assert_allclose(found, exact, atol=0.03)


def test_float32_is_close_and_nothing_compiles_twice():
    schedule = VE()
    for seed, point in enumerate(POINTS):
        mixture = GaussianMixture(*MIXTURE).noised(1.0, 0.1 * seed)
        x = jnp.asarray(point, jnp.float32)
        prior = Partial(GaussianMixture.log_prob, mixture.noised(1.0, 50.0))
        found = log_likelihood(exact_diffusion(mixture, schedule), x, prior=prior, rtol=1e-5 * (seed + 1))
        if seed == 0:
            traced = traces["count"]
        assert found.dtype == np.float32
        expected = log_densities(mixture.noised(1.0, 0.01), x[None])
        np.testing.assert_allclose(found, expected[0], rtol=2e-3, atol=5e-3)
    assert traces["count"] == traced


def test_condition_and_chunk_are_handed_on(x64):
    schedule = VPCosine()
    diffusion, x = exact_diffusion(GaussianMixture(*MIXTURE), schedule), jnp.asarray(POINTS[1])
    component = GaussianMixture([1.0], [MIXTURE[1][1]], [0.09], "spherical")
    first, last = (component.noised(schedule.alpha(t), schedule.sigma(t)) for t in (schedule.t_min, schedule.t_max))
    prior = Partial(GaussianMixture.log_prob, last)
    found = log_likelihood(diffusion, x, condition=1, prior=prior, chunk=2)
    np.testing.assert_allclose(found, log_densities(first, x[None])[0], rtol=1e-4)


def test_probes_agree_with_the_density_within_their_error(x64):
    schedule, x = VPLinear(), jnp.asarray(POINTS[2])
    diffusion = exact_diffusion(GaussianMixture(*MIXTURE), schedule)

    @jax.jit
    @jax.vmap
    def estimate(key):
        return log_likelihood_estimate(diffusion, x, key=key, n_probes=16, prior=prior_of(schedule))

    found = jax.tree.map(np.asarray, estimate(jax.random.split(KEY, 20)))
    z = (found.value - np.asarray(log_densities(noised(schedule, schedule.t_min), x[None]))) / found.stderr
    assert np.all(found.stderr > 0) and abs(z).max() < 4.5 and abs(z.mean()) < 4 / np.sqrt(20)
    assert 0.5 < z.std() < 2, "the standard error is that of the spread between keys"
    assert found.n_units[0] == 16 and np.all(found.nfe % (6 * 17) == 0)


def test_a_solver_that_does_not_arrive_gives_nan():
    diffusion = exact_diffusion(GaussianMixture(*MIXTURE), VPLinear())
    assert np.isnan(log_likelihood(diffusion, jnp.asarray(POINTS[0], jnp.float32), max_steps=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": 0.0}, "rtol=0.0: must be finite and > 0"),
        ({"atol": -1.0}, "atol=-1.0: must be finite and > 0"),
        ({"max_steps": 0}, "max_steps=0: must be an integer >= 1"),
        ({"chunk": 0}, "chunk=0: must be None or an integer >= 1"),
        ({"x": np.zeros(2, np.int32)}, "x=dtype('int32'): must be of a floating dtype"),
        ({"n_probes": 1}, "n_probes=1: must be an integer >= 2: one probe has no standard error"),
        (
            {"schedule": DiscreteVP.linear(10)},
            "schedule='DiscreteVP': must be continuous in time: a table of steps has no derivative; sample with DDIM",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message):
    diffusion = exact_diffusion(GaussianMixture(*MIXTURE), change.pop("schedule", VPLinear()))
    x = change.pop("x", POINTS[0])
    call = Partial(log_likelihood_estimate, key=KEY) if "n_probes" in change else log_likelihood
    with pytest.raises(ValueError) as refused:
        call(diffusion, x, **change)
    assert str(refused.value) == message
