"""Moments of units: their standard error, what it counts for directions that were missed, and merging."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from plap_jax.moments import MISSED, Moments, moments
from plap_jax.typing import standard_error

RANDOM = np.random.default_rng(0)
TAKEN = RANDOM.normal(size=40)


def drawn_and_left(noise):
    """Units of which TAKEN is subtracted, with so much noise left."""
    left = 0.3 + noise * RANDOM.normal(size=TAKEN.size)
    return left + TAKEN, left


def twin_stderr(drawn, left, shared):
    m = len(drawn)
    own = np.sum((left - left.mean()) ** 2) + shared**2
    missed = own + 12 * np.var(drawn - left, ddof=1)
    return np.sqrt(max(own, min(missed, np.sum((drawn - drawn.mean()) ** 2))) / (m * (m - 1)))


@pytest.mark.parametrize(
    ("noise", "n", "shared"),
    [
        (0.2, 40, 0.7),  # what was missed is counted
        (0.2, 10, 0.1),  # more than the plain mean's variance is not
        (0.2, 10, 9.0),  # less than what the units show and share neither
    ],
)
def test_against_numpy(noise, n, shared, x64):
    drawn, left = (a[:n] for a in drawn_and_left(noise))
    found = moments(jnp.asarray(drawn), jnp.asarray(left), shared)
    np.testing.assert_allclose(found.stderr, twin_stderr(drawn, left, shared), rtol=1e-12)
    np.testing.assert_allclose((found.mean, found.drawn_mean), (left.mean(), drawn.mean()), rtol=1e-12)
    plain = np.std(drawn, ddof=1) / n**0.5
    assert (found.stderr < 0.9 * plain, found.stderr > 1.1 * plain) == (n == 40, shared == 9)


def test_with_nothing_subtracted_it_is_the_standard_error_of_a_mean():
    drawn = jnp.asarray(drawn_and_left(1.0)[0])
    np.testing.assert_allclose(moments(drawn, drawn).stderr, stats.sem(drawn), rtol=1e-6)
    np.testing.assert_allclose(moments(drawn, drawn).stderr, standard_error(drawn), rtol=1e-6)


def test_merged_in_any_cut_they_are_those_of_the_whole(x64):
    drawn, left = map(jnp.asarray, drawn_and_left(0.5))
    whole = moments(drawn, left)
    for cuts in (np.array([20]), np.array([8, 17, 30])):
        parts = map(moments, jnp.split(drawn, cuts), jnp.split(left, cuts))
        np.testing.assert_allclose(reduce(Moments.merged, parts), whole, rtol=1e-12)
    # What the units of a part share is added up.
    a, b = moments(drawn[:20], left[:20], 3.0), moments(drawn[20:], left[20:], 4.0)
    np.testing.assert_allclose(a.merged(b).spread, np.hypot(whole.spread, 5.0), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_squares_stay_in_range(scale):
    drawn, left = (jnp.asarray(scale * a, jnp.float32) for a in drawn_and_left(0.5))
    found = moments(drawn[:20], left[:20]).merged(moments(drawn[20:], left[20:]))
    expected = twin_stderr(*(np.asarray(a, np.float64) for a in (drawn, left)), 0)
    np.testing.assert_allclose(found.stderr, expected, rtol=1e-5)


@pytest.mark.parametrize(("m", "rate"), [(16, 2.0), (64, 1.0), (64, 2.5), (256, 2.9)])
def test_directions_with_the_reverse_field_are_covered(m, rate):
    """z = ±1 is subtracted, and f = z but for ``rate`` in m units, one-sided, of which f = 1, z = −1 and e = 2.

    The sample has none of them in e^−rate of all cases, more than 5 %. What is counted for them is just enough: with
    two thirds of it (``MISSED`` = 8 for 12) those cases are lost where the rate is near 3.
    """
    random = np.random.default_rng(1)
    z = np.where(random.random((20_000, m)) < 0.5, 1.0, -1.0)
    reverse = (z < 0) & (random.random((20_000, m)) < 2 * rate / m)
    drawn = jnp.asarray(np.where(reverse, 1.0, z))
    found = jax.jit(jax.vmap(moments))(drawn, drawn - z)
    truth = 2 * rate / m  # of E f and of E e alike
    np.testing.assert_allclose((found.mean.mean(), found.drawn_mean.mean()), truth, rtol=0.05)
    half = stats.t.ppf(0.975, m - 1) * np.asarray(found.stderr)
    none = ~reverse.any(axis=1)
    assert none.mean() > 0.05
    assert np.mean(truth < half[none]) > 0.99  # but where all z are the same
    assert np.mean(np.abs(np.asarray(found.mean) - truth) <= half) > 0.95
    if rate > 2.5 and m > 100:
        assert np.all(truth > (8 / MISSED) ** 0.5 * half[none])
