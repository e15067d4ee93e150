"""The control variate: nothing biased, what is left of the variance, and what the standard error says of it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import Partial

from plap_jax import Estimate, GaussianMixture, flux
from plap_jax._flux import circle_flux, flux_moments
from plap_jax.control import FEWEST, GROUP, subtract_mean_field
from plap_jax.directions import sample_directions
from plap_jax.moments import MISSED
from plap_jax.operators import p_field
from tests.helpers.numpy_twin import planar_kappa

KEY = jax.random.key(0)
KINDS_WITH_CONTROL = ("iid", "orthogonal", "quasi")
WEIGHTS, MEANS, VARIANCES = np.array([0.5, 0.5]), np.array([[-3.0, 0.0], [3.0, 0.0]]), np.array([1.0, 1.0])
MODE, MIDPOINT, SLOPE, TAIL = (3.0, 0.0), (0.0, 0.0), (3.0, 1.0), (3.0, 2.5)

kappa = jax.jit(flux, static_argnames=("n_samples", "directions", "control"))


def score_of(dim, apart=3.0):
    means = apart / 3 * np.pad(MEANS, ((0, 0), (0, dim - 2)))
    parts = (jnp.asarray(a, jnp.result_type(float)) for a in (WEIGHTS, means, VARIANCES))
    return Partial(GaussianMixture.score, GaussianMixture(*parts, "spherical"))


def at(point, dim):
    return jnp.asarray(np.pad(point, (0, dim - 2)))


@partial(jax.jit, static_argnames=("n_samples", "kind", "n_keys"))
def repeated(score_fn, points, p, *, radius=1.0, n_samples=16, kind="iid", n_keys=2000):
    """Estimates ``(2, n_points, n_keys)``: with control and without, on the same directions."""

    def one(key, x):
        how = {"radius": radius, "p": p, "key": key, "n_samples": n_samples, "directions": kind}
        both = [flux(score_fn, x, control=control, **how) for control in (True, False)]
        return jax.tree.map(lambda *a: jnp.stack(a), *(replace(found, plain_mean=True) for found in both))

    def at_point(x):
        return lax.map(lambda key: one(key, x), jax.random.split(KEY, n_keys), batch_size=500)

    return jax.tree.map(lambda a: jnp.moveaxis(a, 2, 0), lax.map(at_point, points))


def moments(estimates):
    """Over the last axis: mean, its standard error, variance, root mean square standard error."""
    value, stderr = np.asarray(estimates.value, np.float64), np.asarray(estimates.stderr, np.float64)
    variance = value.var(axis=-1, ddof=1)
    return value.mean(axis=-1), (variance / value.shape[-1]) ** 0.5, variance, np.mean(stderr**2, axis=-1) ** 0.5


# --- nothing is biased


@pytest.mark.parametrize("kind", KINDS_WITH_CONTROL)
def test_the_mean_is_that_of_quadrature(kind):
    """d = 16, at a mode, between modes, on a slope and in a tail, p from 1 to 3."""
    where = (MODE, MIDPOINT, SLOPE, TAIL)
    points = jnp.stack([at(point, 16) for point in where])
    for p in (1.0, 1.5, 2.0, 3.0):
        mean, error = moments(repeated(score_of(16), points, p, kind=kind))[:2]
        expected = [planar_kappa(WEIGHTS, MEANS, VARIANCES, np.array(point), 1.0, p, 16) for point in where]
        assert np.all(np.abs(mean[0] - expected) < 4 * error[0] + 2e-6 * np.abs(expected)), (p, mean, expected)


@partial(jax.jit, static_argnums=(0, 1))
def units(m, dim):
    """fᵢ, F(nᵢ), nᵢ of m directions in a tail, in the floating dtype of the moment."""
    n = sample_directions(KEY, m, (dim,), dtype=jnp.result_type(float))[:, 0]
    field = p_field(jax.vmap(score_of(dim))(at(TAIL, dim) + n), 1.0)[0]
    return jnp.sum(field * n, axis=-1), field, n


def test_what_is_subtracted_has_mean_zero_whatever_the_others_are(x64):
    """bᵢ and F̄₋ᵢ do not know nᵢ: the opposite direction, with any field of its own, is given the opposite control."""
    along, field, n = units(12, 5)
    controlled = jax.jit(subtract_mean_field)
    subtracted = along - controlled(along, field, n)[0]
    for i in range(12):
        turned = [along.at[i].set(7.0), field.at[i].set(-3.0), n.at[i].set(-n[i])]
        opposite = turned[0] - controlled(*turned)[0]
        np.testing.assert_allclose(opposite[i], -subtracted[i], rtol=1e-9)
        assert abs(subtracted[i]) > 1e-4


# --- the formula


def twin_of_a_group(f, field, n):
    """eᵢ and Σ_{i≠j} Dᵢⱼ Dⱼᵢ one by one."""
    m = len(f)

    def parts(i, without):
        others = [k for k in range(m) if k != i and k not in without]
        noise = np.mean(f[others]) * np.mean(n[others], axis=0)
        return (np.mean(field[others], axis=0) - noise) @ n[i], noise @ n[i]

    def control(i, without):
        return parts(i, without)[0]

    slopes = np.zeros(m)
    for i in range(m):
        z, noise = np.array([parts(j, {i}) for j in range(m) if j != i]).T
        y = np.array([f[j] for j in range(m) if j != i])
        y = y - y.mean()
        ridge = 0.1 * noise @ noise
        slope = y @ (z - z.mean()) / (np.sum((z - z.mean()) ** 2) + ridge)
        explained = (y @ z) ** 2 / (z @ z + ridge)
        t_squared = explained / ((y @ y - explained) / (m - 3))
        slopes[i] = min(slope, 1) * max(0, 1 - 2 / t_squared) if slope > 0 else 0
    z = np.array([control(i, set()) for i in range(m)])
    shared = 0.0
    for i in range(m):
        for j in range(m):
            if i != j:
                i_by_j = slopes[j] * control(i, {j}) - slopes.mean() * z[i]
                j_by_i = slopes[i] * control(j, {i}) - slopes.mean() * z[j]
                shared += i_by_j * j_by_i
    return f - slopes * z, max(shared, 0)


@pytest.mark.parametrize("m", [8, 64, 65, 71, 72, 130])
def test_against_a_slow_twin(m, x64):
    """Groups: 65 = 33 + 32, 71 = 36 + 35, 72 = 36 + 36, 130 = 44 + 43 + 43."""
    n_groups = {65: 2, 71: 2, 72: 2, 130: 3}.get(m, 1)
    parts = [np.array(a) for a in units(m, 3)]
    found, in_common = jax.jit(subtract_mean_field)(*parts)
    groups = zip(*(np.array_split(a, n_groups) for a in parts), strict=True)
    residuals, shared = zip(*(twin_of_a_group(*group) for group in groups), strict=True)
    residuals = np.concatenate(residuals)
    np.testing.assert_allclose(found, residuals, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(in_common, sum(shared) ** 0.5, rtol=1e-9)
    assert sum(shared) > 0 and np.std(residuals) < 0.7 * np.std(parts[0])


def affine(c, slope, x):
    return c + slope * x


@pytest.mark.parametrize("slope", [-1.0, 0.0])
def test_of_an_affine_field_hardly_anything_is_left(slope, x64):
    """F = c + k n, d = 16: f is ⟨c, n⟩ and a constant. The standard error is that of what might have been missed."""
    m, dim = 32, 16
    c, centre = -5.0 * jnp.eye(dim)[0], jnp.zeros((1, dim))
    variance, stderr = moments(repeated(Partial(affine, c, slope), centre, 2.0, n_samples=m))[2:]
    np.testing.assert_allclose(variance[1, 0], 5**2 / dim / m, rtol=0.1)
    assert variance[0, 0] < 1e-3 * variance[1, 0]
    np.testing.assert_allclose(stderr[0, 0] ** 2, MISSED * variance[1, 0] / (m - 1), rtol=0.1)


def test_few_units_keep_their_plain_mean():
    how = {"radius": 1.0, "key": KEY, "n_samples": FEWEST - 1}
    both = [kappa(score_of(3), at(TAIL, 3), control=control, **how) for control in (False, True)]
    for plain, controlled in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(plain, controlled, rtol=3e-7)  # two compilations
    along, field, n = units(FEWEST - 1, 3)
    kept, shared = subtract_mean_field(along, field, n)
    np.testing.assert_array_equal(kept, along)
    assert shared == 0
    assert GROUP == 64


def test_pairs_have_nothing_to_subtract():
    how = {"radius": 1.0, "key": KEY, "n_samples": 32, "directions": "antithetic-orthogonal"}
    both = [kappa(score_of(3), at(TAIL, 3), control=control, **how) for control in (False, True)]
    assert both[0].value == both[1].value and both[0].stderr == both[1].stderr


# --- what is left of the variance, and what the standard error says of it


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_it_costs_little_at_modes_and_saves_much_away_from_them(dim):
    """16 directions, κ_1 in a ball of radius 1 of mixtures of standard deviation 1."""
    aside = (3.0, 2.0), TAIL, (3.6, -1.9)
    found = repeated(score_of(dim), jnp.stack([at(point, dim) for point in (MIDPOINT, *aside)]), 1.0)
    ratio = np.divide(*moments(found)[2])
    assert 0.9 < ratio[0] < 1.05
    assert np.all(ratio[1:] < 1 / 4), ratio
    # The mode of two components so near to each other that directions differ there: x = 1.5 tanh 1.5 x.
    modes = jnp.stack([at((x, 0.0), dim) for x in (1.46324, -1.46324, 0.0)])
    ratio = np.divide(*moments(repeated(score_of(dim, apart=1.5), modes, 1.0))[2])
    assert np.all(ratio < 1.05), ratio


@partial(jax.jit, static_argnames=("n_samples", "n_keys"))
def moments_of_units(score_fn, points, *, n_samples, n_keys=2000):
    """``Moments`` of single directions, leaves ``(n_points, n_keys)``."""
    how = {"radius": 1.0, "p": 1.0, "n_samples": n_samples, "directions": "iid", "control": True}

    def at_point(x):
        keys = jax.random.split(KEY, n_keys)
        return lax.map(lambda key: flux_moments(score_fn, x, key=key, **how)[0], keys, batch_size=500)

    return lax.map(at_point, points)


@pytest.mark.parametrize(("dim", "n_samples"), [(2, 71), (16, 32), (16, 64)])
def test_the_standard_error_is_that_of_the_mean(dim, n_samples):
    """Over 2,000 repetitions: the spread of what is left and shared gives the variance, and intervals cover.

    To that variance comes that of the directions which the control might miss.
    """
    where, m = (MIDPOINT, SLOPE, TAIL), n_samples
    points = jnp.stack([at(point, dim) for point in where])
    found = jax.tree.map(np.float64, moments_of_units(score_of(dim), points, n_samples=m))
    variance, plain = found.mean.var(axis=1, ddof=1), found.drawn_mean.var(axis=1, ddof=1)
    ratio = np.mean(found.spread**2, axis=1) / (m * (m - 1)) / variance
    assert np.all((ratio > 0.9) & (ratio < 1.2)), ratio
    stderr = np.asarray(found.stderr, np.float64)
    missed = MISSED * np.maximum(plain - variance, 0) / (m - 1)
    ratio = np.mean(stderr**2, axis=1) / np.minimum(variance + missed, plain)
    assert np.all((ratio > 0.9) & (ratio < 1.15)), ratio
    low, high = Estimate(found.mean, stderr, m, m).interval(0.95)
    truth = reference(dim, where)
    covered = np.mean((low <= truth[:, None]) & (truth[:, None] <= high), axis=1)
    assert covered[0] < 0.97  # between modes, where nothing is subtracted
    assert np.all(covered > 0.94), covered
    # The last 7 of 71 are not left without a control, which alone would leave a tenth.
    assert variance[2] < 0.08 * plain[2]


def reference(dim, where):
    """κ_1 by quadrature; in the plane by the trapezoid rule."""
    if dim > 3:
        return np.array([planar_kappa(WEIGHTS, MEANS, VARIANCES, np.array(point), 1.0, 1.0, dim) for point in where])
    return np.array([circle_flux(score_of(2), at(point, 2), radius=1.0, n_points=2048) for point in where])


# --- behaviour


def test_gradients_are_those_of_the_expectation(x64):
    """Mean gradient over keys against differences of the quadrature, in the radius and in the order."""
    score_fn, x = score_of(16), at(SLOPE, 16)
    arguments, h = (1.0, 1.5), 1e-5

    @jax.jit
    def gradients(keys):
        def value(radius, p, key):
            return flux(score_fn, x, radius=radius, p=p, key=key).value

        return jnp.stack(jax.vmap(jax.grad(value, (0, 1)), (None, None, 0))(*arguments, keys), axis=-1)

    found = np.asarray(gradients(jax.random.split(KEY, 3000)))
    assert np.all(np.isfinite(found))
    for i, e in enumerate(np.eye(2)):
        ahead, behind = (
            planar_kappa(WEIGHTS, MEANS, VARIANCES, np.array(SLOPE), *(arguments + s * h * e), 16) for s in (1, -1)
        )
        error = found[:, i].std() / len(found) ** 0.5
        assert abs(found[:, i].mean() - (ahead - behind) / (2 * h)) < 4 * error
        assert error < 0.02


@pytest.mark.parametrize("how", [{"control": False}, {"control": True}, {"directions": "antithetic"}])
def test_the_standard_error_has_gradients_where_nothing_is_subtracted(how, x64):
    """In the radius, against differences: at the modes and between them what is subtracted is exactly 0."""
    score_fn, key, h = score_of(3), jax.random.key(3), 1e-6

    @jax.jit
    def stderr(radius, x):
        return flux(score_fn, x, radius=radius, p=1.0, key=key, **how).stderr

    slopes = jax.jit(jax.grad(stderr))
    for point in (MODE, MIDPOINT, (-0.5, 0.0), SLOPE):
        x = at(point, 3)
        by_differences = (stderr(1 + h, x) - stderr(1 - h, x)) / (2 * h)
        if not how.get("control"):  # else gradients take the coefficients as given, and differences do not
            np.testing.assert_allclose(slopes(1.0, x), by_differences, rtol=1e-5, atol=1e-8)
        assert np.isfinite(slopes(1.0, x))


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_any_scale(scale):
    along, field, n = units(16, 3)
    controlled = jax.jit(subtract_mean_field)
    expected, shared = controlled(along, field, n)
    found = controlled(scale * along, scale * field, n)
    np.testing.assert_allclose(np.asarray(found[0], np.float64) / scale, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.float64(found[1]) / scale, shared, rtol=1e-4)
    # a field across all directions, of which rounding alone is seen
    across = Partial(lambda s, y: s * jnp.array([-y[1], y[0]]), scale)
    whirl = kappa(across, jnp.zeros(2), radius=1.0, p=2.0, key=KEY)
    assert abs(whirl.value) < 1e-6 * scale and 0 <= whirl.stderr < 1e-6 * scale


def test_no_number_is_made_of_a_score_that_is_none():
    broken = Partial(lambda y: jnp.where(y[0] > 1, jnp.nan, -y))
    found = kappa(broken, jnp.ones(2), radius=1.0, key=KEY)
    assert np.isnan(found.value) and np.isnan(found.stderr)
    zero = kappa(Partial(jnp.zeros_like), jnp.ones(2), radius=1.0, p=2.0, key=KEY)
    assert zero.value == zero.stderr == 0


def test_values_are_data():
    """p, radius, key and point traced; a batch as one by one; one compilation."""
    traced = jax.jit(lambda x, radius, p, key: flux(score_of(3), x, radius=radius, p=p, key=key))
    points = jnp.stack([at(point, 3) for point in (MODE, SLOPE, TAIL)])
    for seed, (radius, p) in enumerate(((0.5, 1.0), (1.0, 2.5))):
        key = jax.random.key(seed)
        together = jax.vmap(traced, (0, None, None, None))(points, radius, p, key)
        for i, x in enumerate(points):
            alone = traced(x, radius, p, key)
            np.testing.assert_allclose(together.value[i], alone.value, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(together.stderr[i], alone.stderr, rtol=1e-3, atol=1e-6)
    assert traced._cache_size() == 1
