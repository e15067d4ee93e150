"""The map of κ₁: sums to it, has a closed form where a part is memorized, and knows its error."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import flux
from plap_jax.curvature_map import MapEstimator, curvature_difference, curvature_map, map_of_units
from plap_jax.directions import sample_directions
from plap_jax.parallel import map_points

SHAPE, KEY = (6, 6, 1), jax.random.key(0)
MASK = np.zeros(SHAPE, np.float32)
MASK[:3, :3] = 1  # a quarter


def part(x):
    """Ideal denoiser of a density that is sharp in the masked coordinates and flat in the others."""
    return -jnp.asarray(MASK) * x


def mixed(x):
    return -jnp.asarray(MASK) * x + 0.3 * jnp.sin(3 * x + 1)


def expected(n_masked, d):
    """d/|M| E√(Σ_M n²): the masked part of a uniform direction, squared, is Beta(|M|/2, (d − |M|)/2)."""
    logs = [math.lgamma((n_masked + 1) / 2), math.lgamma(d / 2), -math.lgamma(n_masked / 2), -math.lgamma((d + 1) / 2)]
    return d / n_masked * math.exp(sum(logs))


@pytest.mark.parametrize("directions", ["iid", "antithetic", "orthogonal"])
def test_weighted_by_the_directions_it_sums_to_kappa_1(directions):
    how = {"radius": 0.7, "key": KEY, "n_samples": 32, "directions": directions}
    found = curvature_map(mixed, 0.1 * jnp.ones(SHAPE), **how)
    n = sample_directions(KEY, 32, SHAPE, directions).reshape(32, *SHAPE)
    assert float((found.value * (n**2).mean(axis=0)).sum()) == pytest.approx(
        float(flux(mixed, 0.1 * jnp.ones(SHAPE), **how).value), abs=1e-6
    )


def test_a_loop_over_coordinates_gives_the_same():
    x = np.linspace(-1, 1, 36, dtype=np.float32).reshape(SHAPE)
    found = curvature_map(mixed, x, radius=0.5, key=KEY, n_samples=12)
    n = np.asarray(sample_directions(KEY, 12, SHAPE)).reshape(12, 36).astype(float)
    fields = np.stack([np.asarray(mixed(x + 0.5 * one.reshape(SHAPE).astype(np.float32))).ravel() for one in n])
    fields = fields / np.linalg.norm(fields, axis=1, keepdims=True)
    for j in (0, 7, 35):
        ratio = -sum(fields[k, j] * n[k, j] for k in range(12)) / sum(n[k, j] ** 2 for k in range(12))
        off = [-fields[k, j] * n[k, j] - ratio * n[k, j] ** 2 for k in range(12)]
        stderr = math.sqrt(sum(one**2 for one in off) / (12 * 11)) / np.mean(n[:, j] ** 2)
        assert float(found.value.ravel()[j]) == pytest.approx(ratio, rel=1e-4)
        assert float(found.stderr.ravel()[j]) == pytest.approx(stderr, rel=1e-3)


def test_the_memorized_part_has_its_closed_form_and_the_rest_is_zero():
    found = curvature_map(part, jnp.zeros(SHAPE), radius=1.0, key=KEY, n_samples=4096)
    inside = np.asarray(found.value)[MASK == 1]
    assert abs(inside.mean() - expected(9, 36)) < 0.02
    assert (np.asarray(found.value)[MASK == 0] == 0).all()
    assert expected(9, 36) == pytest.approx(2, rel=0.05)  # 1/√ρ


def test_intervals_cover():
    truth = expected(9, 36)
    keys = jax.random.split(jax.random.key(7), 400)
    found = jax.vmap(lambda key: curvature_map(part, jnp.zeros(SHAPE), radius=1.0, key=key, n_samples=64))(keys)
    inside = np.asarray(MASK, bool)
    covered = np.abs(np.asarray(found.value)[:, inside] - truth) <= 1.998 * np.asarray(found.stderr)[:, inside]
    assert 0.90 < covered.mean() < 0.98


def test_division_by_the_drawn_squares_takes_most_of_the_spread_away():
    keys = jax.random.split(jax.random.key(8), 400)
    ratio = jax.vmap(lambda key: curvature_map(part, jnp.zeros(SHAPE), radius=1.0, key=key, n_samples=64).value)(keys)

    def plain(key):
        n = sample_directions(key, 64, SHAPE).reshape(64, *SHAPE)
        s = jax.vmap(part)(n)
        return -36 * jnp.mean(s / jnp.sqrt(jnp.sum(s**2, axis=(1, 2, 3), keepdims=True)) * n, axis=0)

    spreads = [np.asarray(one)[:, MASK == 1].std(axis=0).mean() for one in (ratio, jax.vmap(plain)(keys))]
    assert spreads[0] < 0.3 * spreads[1]  # more of it in more dimensions: |s| varies less


def test_a_baseline_is_subtracted_in_the_same_directions():
    how = {"radius": 0.7, "key": KEY, "n_samples": 32}
    x = 0.1 * jnp.ones(SHAPE)
    both = curvature_map(mixed, x, baseline=part, **how)
    apart = curvature_map(mixed, x, **how).value - curvature_map(part, x, **how).value
    np.testing.assert_allclose(both.value, apart, atol=1e-5)
    assert float(jnp.abs(curvature_map(part, x, baseline=part, **how).stderr).max()) == 0


def test_channels_are_taken_together():
    def colours(x):
        return -x * jnp.asarray([1.0, 0.0, 0.0])

    found = curvature_map(colours, jnp.zeros((4, 4, 3)), radius=1.0, key=KEY, n_samples=2048, channels=True)
    assert found.value.shape == (4, 4)
    # 48/16 E√(Σ_M n²) over the red ones, a third of all: its mean over three channels
    assert float(found.value.mean()) == pytest.approx(expected(16, 48) / 3, rel=0.02)


def test_of_noise_levels_it_is_the_mean_and_their_differences_are_no_error():
    rng = np.random.default_rng(0)
    weight = rng.chisquare(1, (12, 2))  # two coordinates, three levels of four directions
    inward = weight * np.repeat([2.0, 1.0, 0.0], 4)[:, None] + 0.01 * rng.normal(size=(12, 2))
    found = map_of_units(inward, weight, strata=3)
    for j in range(2):
        ratio = sum(inward[:, j]) / sum(weight[:, j])
        variance = 0.0
        for level in range(3):
            off = [inward[k, j] - ratio * weight[k, j] for k in range(4 * level, 4 * level + 4)]
            variance += 4 / 3 * sum((one - sum(off) / 4) ** 2 for one in off)
        assert float(found.value[j]) == pytest.approx(ratio, rel=1e-5)
        assert float(found.stderr[j]) == pytest.approx(math.sqrt(variance) / sum(weight[:, j]), rel=1e-4)
    apart = inward - weight * np.repeat([2.0, 1.0, 0.0], 4)[:, None] + np.repeat([2.0, 1.0, 0.0], 4)[:, None]
    even = map_of_units(apart, np.ones((12, 2)), strata=3)
    assert (
        np.abs(even.value - 1).max() < 0.02
        and even.stderr.max() < 0.01 < map_of_units(apart, np.ones((12, 2))).stderr.min()
    )


def test_many_points_and_a_traced_radius():
    points = np.zeros((3, *SHAPE), np.float32)
    found = map_points(MapEstimator(jax.tree_util.Partial(part), 1.0, KEY, n_samples=16), points)
    one = curvature_map(part, points[0], radius=1.0, key=KEY, n_samples=16)
    np.testing.assert_allclose(found.value[2], one.value, rtol=1e-5)
    bad = jax.jit(lambda r: curvature_map(part, points[0], radius=r, key=KEY, n_samples=16).value)(-1.0)
    assert np.isnan(bad).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"radius": -1.0}, "radius=-1.0: must be"),
        ({"n_samples": 1}, "n_samples=1: must be"),
        ({"channels": True, "x": jnp.zeros(3)}, "channels=True: must be false"),
        ({"score_fn": lambda x: x[0]}, "score_fn="),
    ],
)
def test_bad_arguments_are_refused_in_one_line(changed, message):
    given = {"score_fn": part, "x": jnp.zeros(SHAPE), "radius": 1.0} | changed
    with pytest.raises(ValueError, match=message):
        curvature_map(given.pop("score_fn"), given.pop("x"), key=KEY, **given)


def test_the_curvature_by_coordinates_is_a_loop_over_probes():
    x = np.linspace(-1, 1, 36, dtype=np.float32).reshape(SHAPE)

    def coupled(x):
        return mixed(x) + jnp.roll(x, 1, axis=0)

    found = curvature_difference(coupled, x, key=KEY, n_probes=7, baseline=part)
    jacobian = np.asarray(jax.jacfwd(lambda v: (coupled(v.reshape(SHAPE)) - part(v.reshape(SHAPE))).ravel())(x.ravel()))
    probes = np.asarray(jax.random.rademacher(KEY, (7, 36), jnp.float32))
    units = np.stack([-v * (jacobian @ v) for v in probes]).reshape(7, *SHAPE)
    np.testing.assert_allclose(found.value, units.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.stderr, units.std(axis=0, ddof=1) / math.sqrt(7), rtol=1e-3, atol=1e-5)
    assert np.all(np.abs(found.value.ravel() + np.diag(jacobian)) < 6 * found.stderr.ravel() + 1e-4)
    pixels = curvature_difference(coupled, x, key=KEY, n_probes=7, baseline=part, channels=True)
    np.testing.assert_allclose(pixels.value, found.value[..., 0], rtol=1e-5, atol=1e-6)


def test_the_curvature_of_a_part_is_there_alone():
    found = curvature_difference(part, jnp.zeros(SHAPE, jnp.float16), key=KEY, n_probes=2)
    np.testing.assert_array_equal(found.value, MASK)  # diagonal: every probe is exact
    np.testing.assert_array_equal(found.stderr, 0)
    assert found.value.dtype == jnp.float32
    with pytest.raises(ValueError, match="^n_probes=1: must be an integer >= 2: one unit has no standard error$"):
        curvature_difference(part, jnp.zeros(SHAPE), key=KEY, n_probes=1)
    with pytest.raises(ValueError, match="^channels=True: must be false"):
        curvature_difference(lambda x: -x, jnp.zeros(3), key=KEY, channels=True)
