"""The flux until its standard error is small enough."""

from functools import partial
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from plap_jax import GaussianMixture
from plap_jax._flux import circle_flux, flux_moments
from plap_jax.adaptive import adaptive_flux
from plap_jax.directions import sample_directions
from plap_jax.moments import Moments

KEY = jax.random.key(1)
TWO = GaussianMixture([0.5, 0.5], [[-2.0, 0.0], [2.0, 0.0]], [0.3, 0.3], "spherical")
SCORE = Partial(GaussianMixture.score, TWO)
MODE, BESIDE = jnp.array([2.0, 0.0]), jnp.array([0.7, 0.4])
HOW = {"radius": 0.5, "n_samples": 16}


@partial(jax.jit, static_argnames="control")
def to(target, key, x, control=True):
    return adaptive_flux(SCORE, x, key=key, target_stderr=target, max_samples=2048, control=control, **HOW)


def moments_of(i, control=True):
    key = jax.random.fold_in(KEY, i)
    return flux_moments(SCORE, BESIDE, key=key, p=1.0, directions="iid", control=control, **HOW)[0]


def test_rounds_are_merged_as_one_sample():
    both = moments_of(0, control=False).merged(moments_of(1, control=False))
    # the units themselves, by asking for the integrand of every direction
    units = []
    for i in range(2):
        n = sample_directions(jax.random.fold_in(KEY, i), 16, (2,), "iid", BESIDE.dtype)[:, 0]
        s = jax.vmap(SCORE)(BESIDE + 0.5 * n)
        units.append(-np.sum(np.asarray(s * n), axis=1) / np.linalg.norm(s, axis=1))
    units = np.concatenate(units)
    np.testing.assert_allclose(both.mean, units.mean(), rtol=1e-5)
    np.testing.assert_allclose(both.stderr, units.std(ddof=1) / np.sqrt(32), rtol=1e-5)
    assert both.n == 32


def test_it_stops_at_the_first_round_that_is_good_enough():
    so_far = list(accumulate(map(moments_of, range(20)), Moments.merged))
    taken = []
    for target in (0.3, 0.1, 0.06):
        first = next(m for m in so_far if m.stderr <= target)
        found = to(target, KEY, BESIDE)
        taken.append(int(found.nfe))
        assert found.nfe == found.n_units == first.n
        np.testing.assert_allclose((found.value, found.stderr), (first.mean, first.stderr), rtol=1e-4)
    assert taken[0] < taken[1] < taken[2]
    easy, hard = to(0.01, KEY, MODE), to(0.01, KEY, BESIDE)
    assert easy.nfe == 16
    assert hard.nfe > 4 * easy.nfe


def test_the_budget_is_kept_and_told():
    found = adaptive_flux(SCORE, BESIDE, key=KEY, target_stderr=1e-6, max_samples=40, **HOW)
    assert found.nfe == 48  # the round that reaches it
    assert found.stderr > 1e-6


def test_derivatives_are_forward_mode():
    how = {"p": 1.0, "n_samples": 16, "directions": "iid", "control": True}

    def value(radius):
        return adaptive_flux(SCORE, BESIDE, key=KEY, target_stderr=1.0, radius=radius).value

    def of_one_round(radius):
        return flux_moments(SCORE, BESIDE, key=jax.random.fold_in(KEY, 0), radius=radius, **how)[0].mean

    slope = jax.grad(of_one_round)(0.5)
    assert abs(slope) > 0.01
    np.testing.assert_allclose(jax.jacfwd(value)(0.5), slope, rtol=1e-4)
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.grad(value)(0.5)


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


@pytest.mark.parametrize(("control", "most"), [(False, 0.97), (True, 1.0)])
def test_intervals_cover_nearly_what_they_say(control, most):
    exact = circle_flux(SCORE, BESIDE, radius=0.5)
    keys = jax.random.split(KEY, 2000)
    found = jax.vmap(lambda key: to(0.04, key, BESIDE, control))(keys)
    low, high = found.interval(0.95)
    covered = np.mean((low <= exact) & (exact <= high))
    assert 0.92 < covered <= most
    assert abs(found.value.mean() - exact) < 4 * found.value.std() / np.sqrt(2000) + 0.003


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_stderr": 0.0}, r"^target_stderr=0\.0: must be a single finite number > 0"),
        ({"target_stderr": float("nan")}, r"^target_stderr=nan"),
        ({"control": "no"}, r"^control='no': must be True or False"),
        ({"n_samples": 4}, r"^n_samples=4: must hold at least 8 independent units; it holds 4"),
        ({"n_samples": 14, "directions": "antithetic"}, r"^n_samples=14: must hold at least 8 .* it holds 7"),
        ({"max_samples": 8}, r"^max_samples=8: must be an integer >= n_samples=16"),
        ({"radius": -1.0}, r"^radius=-1\.0"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        adaptive_flux(SCORE, BESIDE, **{"key": KEY, "target_stderr": 0.1, **HOW} | change)
