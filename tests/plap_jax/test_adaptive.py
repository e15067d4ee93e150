"""The flux until its standard error is small enough."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

from plap_jax import GaussianMixture, flux
from plap_jax._flux import circle_flux
from plap_jax.adaptive import adaptive_flux
from plap_jax.directions import sample_directions

KEY = jax.random.key(1)
TWO = GaussianMixture([0.5, 0.5], [[-2.0, 0.0], [2.0, 0.0]], [0.3, 0.3], "spherical")
SCORE = Partial(GaussianMixture.score, TWO)
MODE, BESIDE = jnp.array([2.0, 0.0]), jnp.array([0.7, 0.4])
HOW = {"radius": 0.5, "n_samples": 16}


@jax.jit
def to(target, key, x):
    return adaptive_flux(SCORE, x, key=key, target_stderr=target, max_samples=2048, **HOW)


def units_of(n_rounds):
    """The integrand in every direction of the first rounds, by NumPy."""
    keys = [jax.random.fold_in(KEY, i) for i in range(n_rounds)]
    n = jnp.concatenate([sample_directions(key, 16, (2,), "iid", BESIDE.dtype)[:, 0] for key in keys])
    s = np.asarray(jax.vmap(SCORE)(BESIDE + 0.5 * n), float)
    return -np.sum(s * n, axis=1) / np.linalg.norm(s, axis=1)


def test_rounds_are_one_sample_and_it_stops_at_the_first_that_is_good_enough():
    units, taken = units_of(40), []
    for target in (0.3, 0.1, 0.06):
        n = next(n for n in range(16, 641, 16) if stats.sem(units[:n]) <= target)
        found = to(target, KEY, BESIDE)
        taken.append(int(found.nfe))
        assert found.nfe == found.n_units == n
        np.testing.assert_allclose((found.value, found.stderr), (units[:n].mean(), stats.sem(units[:n])), rtol=1e-4)
    assert taken[0] < taken[1] < taken[2]
    easy, hard = to(0.01, KEY, MODE), to(0.01, KEY, BESIDE)
    assert easy.nfe == 16
    assert hard.nfe > 4 * easy.nfe


@jax.jit
def scaled(size):
    how = {"key": KEY, "target_stderr": 1e-6 * size, "p": 2.0, "max_samples": 160, **HOW}
    return adaptive_flux(lambda x: size * SCORE(x), BESIDE, **how)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_fields_whose_squares_leave_the_range_of_a_float_merge_too(size):
    """p = 2: κ and its standard error are multiples of the score."""

    one, other = scaled(1.0), scaled(size)
    np.testing.assert_allclose(other.value / size, one.value, rtol=1e-4)
    np.testing.assert_allclose(other.stderr / size, one.stderr, rtol=1e-4)


def test_the_budget_is_kept_and_told():
    found = jax.jit(partial(adaptive_flux, SCORE, key=KEY, target_stderr=1e-6, max_samples=40, **HOW))(BESIDE)
    assert found.nfe == 48  # the round that reaches it
    assert found.stderr > 1e-6


def test_derivatives_are_forward_mode():
    def value(radius):
        return adaptive_flux(SCORE, BESIDE, key=KEY, target_stderr=1.0, radius=radius).value

    def of_one_round(radius):
        return flux(SCORE, BESIDE, key=jax.random.fold_in(KEY, 0), radius=radius, n_samples=16).value

    slope = jax.jit(jax.grad(of_one_round))(0.5)
    assert abs(slope) > 0.01
    np.testing.assert_allclose(jax.jit(jax.jacfwd(value))(0.5), slope, rtol=1e-4)
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.eval_shape(jax.grad(value), 0.5)


@pytest.mark.parametrize("target", [0.0, -1.0, np.nan, np.inf])
def test_a_traced_target_that_is_none_gives_nan(target):
    found = to(jnp.float32(target), KEY, MODE)
    assert np.isnan(found.value) and np.isnan(found.stderr)


def test_a_point_does_not_depend_on_its_batch():
    both = jax.vmap(lambda x: to(0.05, KEY, x))(jnp.stack([MODE, BESIDE]))
    for i, x in enumerate((MODE, BESIDE)):
        alone = to(0.05, KEY, x)
        assert both.nfe[i] == alone.nfe
        np.testing.assert_allclose(both.value[i], alone.value, rtol=1e-5)


def test_a_batch_spends_what_its_hardest_point_needs_for_every_point():
    """Calls of the network, counted on the host: n · max(nfe), not Σ nfe."""
    calls = []

    def counted(x):
        jax.debug.callback(lambda _: calls.append(1), x)
        return SCORE(x)

    points = jnp.stack([MODE, BESIDE, MODE])
    one = partial(adaptive_flux, Partial(counted), key=KEY, target_stderr=0.1, **HOW)
    found = jax.block_until_ready(jax.jit(jax.vmap(one))(points))
    jax.effects_barrier()
    assert found.nfe[0] == found.nfe[2] == 16 < found.nfe[1]
    assert len(calls) == len(points) * found.nfe.max()


@pytest.mark.slow
def test_intervals_cover_nearly_what_they_say():
    exact = circle_flux(SCORE, BESIDE, radius=0.5)
    keys = jax.random.split(KEY, 2000)
    found = jax.vmap(lambda key: to(0.04, key, BESIDE))(keys)
    low, high = found.interval(0.95)
    covered = np.mean((low <= exact) & (exact <= high))
    assert 0.92 < covered <= 0.97
    assert abs(found.value.mean() - exact) < 4 * found.value.std() / np.sqrt(2000) + 0.003


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_stderr": 0.0}, r"^target_stderr=0\.0: must be a single finite number > 0"),
        ({"target_stderr": float("nan")}, r"^target_stderr=nan"),
        ({"n_samples": 4}, r"^n_samples=4: must hold at least 8 independent units; it holds 4"),
        ({"n_samples": 14, "directions": "antithetic"}, r"^n_samples=14: must hold at least 8 .* it holds 7"),
        ({"max_samples": 8}, r"^max_samples=8: must be an integer >= n_samples=16"),
        ({"radius": -1.0}, r"^radius=-1\.0"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        adaptive_flux(SCORE, BESIDE, **{"key": KEY, "target_stderr": 0.1, **HOW} | change)
