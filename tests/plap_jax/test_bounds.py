"""Error bounds: they fail no more often than they may, hold where they are certain, and are attained somewhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.tree_util import Partial

from plap_jax import Estimate, GaussianMixture, flux
from plap_jax._flux import circle_flux
from plap_jax.adaptive import adaptive_flux
from plap_jax.balls import ball_average
from plap_jax.bounds import (
    empirical_bernstein,
    field_difference_bound,
    hoeffding,
    sampling_bound,
    score_error_bound,
    score_error_limit,
)
from plap_jax.directions import KINDS
from plap_jax.operators import p_field

KEY = jax.random.key(0)


# --- sampling


def test_values_by_hand(x64):
    np.testing.assert_allclose(hoeffding(50, 0.1), np.sqrt(2 * np.log(20) / 50))
    by_hand = np.sqrt(2 * 0.04 * np.log(40) / 50) + 14 * np.log(40) / (3 * 49)
    np.testing.assert_allclose(empirical_bernstein(0.04, 50, 0.1), by_hand)
    for variance, n_units in ((0.04, 50), (0.04, 5000)):
        estimate = Estimate(0.3, (variance / n_units) ** 0.5, n_units, n_units)
        both = hoeffding(n_units, 0.05), empirical_bernstein(variance, n_units, 0.05)
        np.testing.assert_allclose(sampling_bound(estimate, 0.1), min(both))
        assert (both[1] < both[0]) == (n_units == 5000)


def test_bernstein_is_looser_up_to_32_units_whatever_the_variance_and_not_beyond(x64):
    """Even at variance 0; at 33 units there are δ for which it is tighter. Small δ need more units."""
    deltas = np.linspace(1e-6, 1 - 1e-9, 101)
    for n_units in (2, 16, 31, 32):
        assert all(empirical_bernstein(0.0, n_units, delta) > hoeffding(n_units, delta) for delta in deltas)
    assert any(empirical_bernstein(0.0, 33, delta) < hoeffding(33, delta) for delta in deltas)
    assert empirical_bernstein(0.0, 58, 0.05) > hoeffding(58, 0.05)
    assert empirical_bernstein(0.0, 59, 0.05) < hoeffding(59, 0.05)
    # As tight as the variance is small, for many units.
    assert empirical_bernstein(0.01, 10_000, 0.05) < 0.2 * hoeffding(10_000, 0.05)


def random_case(key):
    """A mixture in the plane, a ball and a key for its directions."""
    keys = jax.random.split(key, 6)
    weights, variances = jax.nn.softmax(jax.random.normal(keys[0], (3,))), jnp.exp(jax.random.normal(keys[1], (3,)))
    mixture = GaussianMixture(weights, 2 * jax.random.normal(keys[2], (3, 2)), variances, "spherical")
    return mixture.score, 2 * jax.random.normal(keys[3], (2,)), jnp.exp(jax.random.normal(keys[4])), keys[5]


@pytest.fixture(scope="module")
def random_truths():
    """κ_1 of 1,000 random cases, by quadrature."""

    def truth(key):
        score_fn, x, radius, _ = random_case(key)
        return circle_flux(score_fn, x, radius=radius, n_points=1024)

    return jax.jit(jax.vmap(truth))(jax.random.split(KEY, 1000))


MORE = [*((kind, 64) for kind in KINDS if kind not in ("iid", "orthogonal")), ("iid", 512)]


@pytest.mark.parametrize(
    ("kind", "n"), [("orthogonal", 64), *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_sampling_bound_fails_in_no_more_than_its_share_of_random_cases(kind, n, random_truths):
    """1,000 random mixtures, points and radii in the plane."""

    def estimated(key):
        score_fn, x, radius, direction_key = random_case(key)
        return flux(score_fn, x, radius=radius, key=direction_key, n_samples=n, directions=kind)

    estimate = jax.jit(jax.vmap(estimated))(jax.random.split(KEY, 1000))
    error = np.abs(estimate.value - random_truths)
    assert error.max() > 1e-4  # there is something to bound
    assert np.mean(error > sampling_bound(estimate, 0.1)) <= 0.1
    assert np.all(error <= sampling_bound(estimate, 1e-6))
    assert n < 512 or np.median(sampling_bound(estimate, 0.1)) < 0.25


def test_sampling_bound_fails_sometimes_where_the_variance_is_largest():
    """Cosines ±1 with equal chances, κ_1 = 0: no bound of this kind could be much smaller."""
    keys = jax.random.split(KEY, 20_000)
    uphill = Partial(jnp.ones_like)  # both directions of a line, one towards and one away
    estimate = jax.vmap(lambda k: flux(uphill, jnp.zeros(1), radius=1.0, key=k, n_samples=32))(keys)
    share = np.mean(np.abs(estimate.value) > sampling_bound(estimate, 0.1))
    assert 1e-4 < share <= 0.1


@pytest.mark.parametrize(("estimator", "how"), [(flux, {}), (adaptive_flux, {"target_stderr": 0.1})])
def test_sampling_bound_takes_no_number_of_units_that_depends_on_them(estimator, how):
    """Scaling, jit and maps over leaves keep the mark."""
    estimate = jax.jit(partial(estimator, Partial(jnp.negative), radius=1.0, key=KEY, **how))(jnp.ones(2))
    for found in (estimate, jax.tree.map(np.asarray, estimate)):
        if estimator is flux:
            assert np.isfinite(sampling_bound(found, 0.1))
        else:
            with pytest.raises(ValueError, match="fixed_n_units=False: .* take flux, not adaptive_flux"):
                sampling_bound(found, 0.1)
    assert ball_average(estimate, 1.0, 2).fixed_n_units == (estimator is flux)


def test_sampling_bound_takes_cosines_only():
    bound = jax.jit(lambda value: sampling_bound(Estimate(value, 0.1, 16, 16), 0.1))
    assert np.isnan(bound(1.5)) and np.isnan(bound(-1.5))
    for value in (1.0, 1 + 1e-6, -1 - 1e-6):
        assert np.isfinite(bound(value)) and np.isfinite(sampling_bound(Estimate(value, 0.1, 16, 16), 0.1))


# --- scores that are not exact


@jax.jit
def difference_and_bound(s, other, p):
    difference = p_field(s, p)[0] - p_field(other, p)[0]
    return (
        jnp.linalg.norm(difference, axis=-1),
        field_difference_bound(s, other, p),
        field_difference_bound(other, s, p),
    )


vectors = hnp.arrays(np.float64, (32, 3), elements=st.floats(-100, 100, allow_subnormal=False))


@given(vectors, vectors, st.floats(1, 4), st.floats(-12, 2), st.booleans())
def test_bound_on_fields_always_holds(x64, s, change, p, log_size, opposite):
    other = -s if opposite else s + 10**log_size * change
    difference, bound, swapped = map(np.asarray, difference_and_bound(s, other, p))
    rounding = 1e-13 * np.maximum(np.linalg.norm(s, axis=1), np.linalg.norm(other, axis=1)) ** (p - 1)
    assert np.all(difference <= bound * (1 + 1e-9) + rounding)
    np.testing.assert_allclose(bound, swapped, rtol=1e-12)


def test_bound_on_fields_is_attained(x64):
    """By opposite scores for p ≤ 2, by scores of one length for p = 1, by nearly equal parallel ones for p ≥ 2."""
    s = np.array([[1.0, 2.0, -2.0]])
    for p in (1.0, 1.3, 1.7, 2.0):
        difference, bound, _ = difference_and_bound(s, -s, p)
        np.testing.assert_allclose(difference, bound, rtol=1e-12)
    difference, bound, _ = difference_and_bound(s, s[:, ::-1], 1.0)
    np.testing.assert_allclose(difference, bound, rtol=1e-12)
    assert bound < 2  # and not the trivial bound
    for p in (2.0, 2.5, 4.0):
        difference, bound, _ = difference_and_bound(s, 1.00001 * s, p)
        np.testing.assert_allclose(difference, bound, rtol=1e-4)


def test_bound_on_fields_of_any_magnitude():
    """float32: lengths whose squares under- or overflow; zero against anything."""
    direction = jnp.array([[1.0, 2.0, -2.0]]) / 3
    for size in (1e-30, 1e-22, 1.0, 1e22, 1e30):
        difference, bound, _ = difference_and_bound(size * direction, -2 * size * direction, 1.0)
        np.testing.assert_allclose([difference[0], bound[0]], 2, rtol=1e-5)
        assert difference_and_bound(jnp.zeros((1, 3)), size * direction, 1.0)[1] == 2
    for p in (1.0, 1.5, 2.0, 3.0):
        assert difference_and_bound(jnp.zeros((1, 3)), jnp.zeros((1, 3)), p)[1] == 0


def test_score_error_bound_holds_in_all_cases(x64):
    """κ_p of 2,000 pairs of mixtures, from different to nearly the same, p from 1 to 4, on the same directions."""

    @jax.jit
    def case(key):
        keys = jax.random.split(key, 8)
        weights = jax.nn.softmax(jax.random.normal(keys[0], (3,)))
        means, variances = jax.random.normal(keys[1], (3, 3)), jnp.exp(jax.random.normal(keys[2], (3,)))
        size = 10 ** jax.random.uniform(keys[3], minval=-6, maxval=1)
        moved = means + size * jax.random.normal(keys[4], (3, 3)), variances * jnp.exp(size * jnp.array([0.1, -0.1, 0]))
        true, other = (GaussianMixture(weights, *parts, "spherical").score for parts in ((means, variances), moved))
        p = jax.random.choice(keys[5], jnp.array([1.0, 1.2, 1.5, 1.9, 2.0, 2.1, 3.0, 4.0]))
        common = dict(radius=jnp.exp(jax.random.normal(keys[6])), p=p, key=keys[7], n_samples=32)
        values = [flux(score_fn, jnp.zeros(3), **common).value for score_fn in (true, other)]
        return jnp.abs(values[0] - values[1]), score_error_bound(true, other, jnp.zeros(3), **common).value

    difference, bound = jax.vmap(case)(jax.random.split(KEY, 2000))
    assert np.all(difference <= bound * (1 + 1e-9) + 1e-12)
    assert np.max(difference / bound) > 0.5 and np.min(bound) < 1e-5


def test_score_error_bound_is_attained_by_the_opposite_score():
    """κ_1 = 1 against −1 at the mean of a Gaussian."""
    common = dict(radius=0.5, key=KEY, n_samples=8)
    for kind in KINDS:
        bound = score_error_bound(jnp.negative, lambda x: x, jnp.zeros((3, 1)), directions=kind, **common)
        np.testing.assert_allclose(bound.value, 2, rtol=1e-6)
        np.testing.assert_allclose(bound.stderr, 0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_score_error_bound_says_how_sure_it_is(kind, x64):
    """The bound on the true κ is a mean over the sphere, here known: b = |n|² of one axis, so E b = 1/d."""
    n = 96 if kind == "orthogonal" else 64
    along = Partial(lambda x: x.at[1:].set(0))  # |ŝ − s| = |n_1| at the unit sphere; p = 3 with s = 0: b = 2 n_1²
    arguments = (jnp.zeros_like, along, jnp.zeros(3))
    run = jax.jit(
        jax.vmap(lambda k: score_error_bound(*arguments, radius=1.0, p=3.0, key=k, n_samples=n, directions=kind))
    )
    estimate = run(jax.random.split(KEY, 400))
    unit = {"iid": 1, "antithetic": 2, "orthogonal": 3, "quasi": 8}[kind]
    assert np.all(estimate.nfe == 2 * n) and np.all(estimate.n_units == n // unit)
    spread = estimate.value.std(ddof=1)
    assert abs(estimate.value.mean() - 2 / 3) <= 4 * spread / 20 + 1e-12
    np.testing.assert_allclose(np.sqrt(np.mean(estimate.stderr**2)), spread, rtol=0.2, atol=1e-12)
    if kind == "iid":  # alone, the value is too small about as often as not
        assert np.mean(estimate.value < 2 / 3) > 0.3


@pytest.mark.parametrize("n", [16, 512])
def test_score_error_limit_holds_where_the_interval_of_the_bound_does_not(n):
    """The other score is the reverse on 3 % of the circle, so that κ_1 differs by .06; 16 directions often miss it."""
    reverse = Partial(lambda x: jnp.where(jnp.arctan2(x[1], x[0]) < (0.06 - 1) * jnp.pi, x, -x))
    arguments, how = (Partial(jnp.negative), reverse, jnp.zeros(2)), {"radius": 1.0, "n_samples": n}
    keys = jax.random.split(KEY, 4000)
    mean = jax.jit(jax.vmap(lambda key: score_error_bound(*arguments, p=1.0, key=key, **how)))(keys)
    limit = jax.jit(jax.vmap(lambda key: score_error_limit(*arguments, delta=0.05, key=key, **how)))(keys)
    assert np.mean(limit < 0.06) <= 0.05 and np.all(limit <= 2)
    if n == 16:
        assert np.mean(mean.interval(0.95)[1] < 0.06) > 0.5
    else:
        assert limit.mean() < 0.2


def test_score_error_limit_is_the_smaller_of_both_bounds_one_sided():
    """With 16 units Hoeffding's, with 4,096 and little variance Bernstein's; never above 2."""
    near = Partial(lambda x: -x.at[1:].multiply(1.01))
    for n, smaller in ((16, hoeffding), (4096, empirical_bernstein)):
        how = {"radius": 1.0, "key": KEY, "n_samples": n}
        mean = score_error_bound(jnp.negative, near, jnp.zeros(2), p=1.0, **how)
        more = score_error_limit(jnp.negative, near, jnp.zeros(2), delta=0.1, **how) - mean.value
        arguments = (mean.stderr**2 * n, n, 0.1) if smaller is empirical_bernstein else (n, 0.1)
        np.testing.assert_allclose(more, smaller(*arguments), rtol=1e-5)
    opposite = score_error_limit(jnp.negative, lambda x: x, jnp.zeros(2), radius=1.0, key=KEY, delta=0.1)
    assert opposite == 2


def test_traced_balls_out_of_range_have_no_bound():
    bound = jax.jit(lambda r, p: score_error_bound(jnp.negative, jnp.sign, jnp.ones(2), radius=r, p=p, key=KEY).value)
    assert np.isfinite(bound(1.0, 1.0)) and np.isnan(bound(-1.0, 1.0)) and np.isnan(bound(1.0, 0.5))


def test_scores_of_mixed_precision_are_compared_in_the_wider_one(x64):
    narrow, wide = np.array([[1.0, 2.0]], np.float32), np.array([[1.0, 2.0 + 1e-9]])
    for pair in ((narrow, wide), (wide, narrow)):
        bound = field_difference_bound(*map(jnp.asarray, pair), 2.0)
        np.testing.assert_allclose(bound, 1e-9, rtol=1e-6)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hoeffding(16, 0.0), r"delta=0.0: must lie in \(0, 1\)"),
        (lambda: empirical_bernstein(0.1, 16, 1.5), r"delta=1.5: must lie in \(0, 1\)"),
        (lambda: empirical_bernstein(0.1, 1, 0.1), "n_units=1: must be >= 2"),
        (lambda: sampling_bound(Estimate(0.1, 0.1, 1, 1), 0.1), "n_units=1: must be >= 2"),
        (
            lambda: sampling_bound(Estimate(7.5, 0.1, 16, 16), 0.1),
            r"kappa.value=array\(7.5\): must be an estimate with p = 1",
        ),
        (
            lambda: sampling_bound(Estimate(np.array([0.5, -1.001]), 0.1, 16, 16), 0.1),
            r"kappa.value=.*: must be an est",
        ),
        (lambda: sampling_bound(0.3, 0.1), "kappa=0.3: must be an Estimate, as flux returns it"),
        (lambda: sampling_bound(Estimate(0.1, 0.1, 16, 16), float("nan")), r"delta=nan: must lie in \(0, 1\)"),
        (
            lambda: sampling_bound(Estimate(0.1, 0.1, 16, 16, fixed_n_units=False), 0.1),
            "kappa.fixed_n_units=False: the bound needs a number of units set in advance: take flux, not adaptive_flux",
        ),
    ],
)
def test_bad_levels_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 0.5}, "p=0.5: must be a single finite number >= 1"),
        ({"radius": -1.0}, "radius=-1.0: must be a single finite number > 0"),
        ({"x": jnp.array([jnp.nan, 1.0])}, "x=array.*nan.*: must be finite"),
        ({"n_samples": 1}, "n_samples=1: must be an integer >= 2"),
        ({"directions": "none"}, "directions='none': must be one of iid"),
        ({"score_fn": lambda x: x[:1]}, r"score_fn=\(1,\): must return the shape of x, \(2,\)"),
        ({"other_fn": jnp.sum}, r"other_fn=\(\): must return the shape of x, \(2,\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    good = {"score_fn": jnp.negative, "other_fn": jnp.negative, "x": jnp.ones(2), "radius": 1.0, "key": KEY}
    with pytest.raises(ValueError, match=f"^{message}"):
        score_error_bound(**good | change)
