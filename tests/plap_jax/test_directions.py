"""Directions: uniform one by one, dependent only within units, orthogonal and paired as promised."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plap_jax.directions import KINDS, circle, sample_directions, uniform_in_ball, unit_size


@pytest.mark.parametrize(
    ("kind", "n", "dim", "unit"),
    [
        ("iid", 2, 3, 1),
        ("iid", 1000, 1, 1),
        ("antithetic", 4, 3, 2),
        ("antithetic", 64, 1, 2),
        ("orthogonal", 16, 1, 1),
        ("orthogonal", 15, 16, 1),  # fewer than 16: single directions
        ("orthogonal", 16, 16, 2),
        ("orthogonal", 64, 3, 2),  # 3 does not divide 64
        ("orthogonal", 96, 3, 3),
        ("orthogonal", 64, 16, 8),
        ("orthogonal", 128, 16, 16),
        ("orthogonal", np.int64(1000), 16, 10),
        ("orthogonal", 97, 1, 1),  # a prime number, on a line
        ("quasi", 2, 3, 1),
        ("quasi", 15, 3, 1),  # fewer than 16: single directions
        ("quasi", 16, 3, 2),
        ("quasi", 64, 1, 8),  # a block may exceed the dimension
        ("quasi", 72, 3, 9),
        ("quasi", 100, 3, 10),
        ("quasi", 4096, 3, 512),
    ],
)
def test_units(kind, n, dim, unit):
    assert unit_size(kind, n, dim) == unit


@given(st.sampled_from(KINDS), st.integers(1, 500), st.integers(1, 5000))
def test_units_are_small_and_whole(kind, half, dim):
    n = 4 * half
    unit = unit_size(kind, n, dim)
    assert n % unit == 0 and n // unit >= 2
    assert unit <= max(n // 8, 2 if kind == "antithetic" else 1)
    assert kind != "orthogonal" or unit <= dim


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((), jnp.float32), ((3, 4, 4), jnp.float32), ((2,), jnp.float64), ((16,), jnp.float64)],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_unit_is(kind, shape, dtype, x64):
    n, dim = 128, math.prod(shape)
    draws = sample_directions(jax.random.key(0), n, shape, kind, dtype)
    unit = unit_size(kind, n, dim)
    assert draws.shape == (n // unit, unit, *shape) and draws.dtype == dtype
    vectors = np.asarray(draws, np.float64).reshape(n // unit, unit, dim)
    tolerance = 20 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=tolerance)
    if kind == "antithetic":
        np.testing.assert_array_equal(vectors[:, 0], -vectors[:, 1])
    if kind == "orthogonal":
        gram = vectors @ vectors.mT
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(gram.shape[-1]), gram.shape), atol=tolerance)


@pytest.fixture(scope="module")
def many():
    """30,000 independent draws of four units of each kind in space, and what is expected of one unit."""
    sizes = {"iid": 4, "antithetic": 8, "orthogonal": 96, "quasi": 32}
    keys = jax.random.split(jax.random.key(1), 30_000)

    def draw(kind):
        # Only four of the units of a draw are kept.
        return np.asarray(jax.jit(jax.vmap(lambda k: sample_directions(k, sizes[kind], (3,), kind)[:4]))(keys))

    return {kind: draw(kind) for kind in KINDS}


def z_scores(samples, expected):
    """How many standard errors the mean over axis 0 is off, entry by entry."""
    return (samples.mean(axis=0) - expected) / (samples.std(axis=0, ddof=1) / len(samples) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_direction_is_uniform(kind, many):
    draws = many[kind].astype(np.float64)
    sizes = {"iid": 1, "antithetic": 2, "orthogonal": 3, "quasi": 4}
    assert draws.shape == (30_000, 4, sizes[kind], 3)
    i, j = np.triu_indices(3)
    assert np.abs(z_scores(draws, 0)).max() < 4.5
    assert np.abs(z_scores(draws[..., i] * draws[..., j], np.where(i == j, 1 / 3, 0))).max() < 4.5
    # E n_i⁴ = 3/(d(d+2)), E n_i² n_j² = 1/(d(d+2)), and Archimedes: every coordinate is uniform on [−1, 1].
    fourth = draws[..., i] ** 2 * draws[..., j] ** 2
    assert np.abs(z_scores(fourth, np.where(i == j, 1 / 5, 1 / 15))).max() < 4.5
    for place in range(draws.shape[2]):
        for axis in range(3):
            assert stats.kstest(draws[:, 0, place, axis], stats.uniform(-1, 2).cdf).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_units_are_independent(kind, many):
    """No covariance between units, of linear, quadratic and cubic functions of their directions."""
    draws = many[kind].astype(np.float64)
    tilted = draws @ np.array([0.36, 0.48, 0.8])
    features = [tilted[:, :, 0], (tilted**2)[:, :, 0], np.maximum(tilted, 0).mean(axis=2)]
    cubes = (tilted**3).mean(axis=2)
    if "antithetic" in kind:  # an odd function of a pair vanishes; what rounding leaves of it has no law to test
        np.testing.assert_allclose(cubes, 0, atol=1e-6)
    else:
        features.append(cubes)
    features = np.stack([f - f.mean(axis=0) for f in features], axis=-1)
    products = np.einsum("rua,rvb->ruvab", features, features)
    for u in range(4):
        for v in range(u):
            assert np.abs(z_scores(products[:, u, v], 0)).max() < 4.5


def test_pairs_and_frames_do_what_they_are_for(many):
    """Pairs cancel odd functions; complete frames average a quadratic form to its trace / d."""
    form = np.diag([1.0, 2.0, -7.0]) + 0.3
    pairs, frames = (many[kind].astype(np.float64) for kind in ("antithetic", "orthogonal"))
    np.testing.assert_allclose(np.mean(pairs @ np.ones(3), axis=2), 0, atol=1e-7)
    means = np.einsum("rubi,ij,rubj->ru", frames, form, frames) / 3
    np.testing.assert_allclose(means, np.trace(form) / 3, rtol=1e-5)


def test_quasi_random_units_are_even_where_single_ones_are_not():
    """A smooth function in the plane and in space: the variance of a mean of 64 falls at least by half."""
    keys = jax.random.split(jax.random.key(8), 2000)
    for dim in (2, 3):

        def spread(kind, dim=dim):
            draws = jax.jit(jax.vmap(lambda key: sample_directions(key, 64, (dim,), kind)))(keys)
            return np.var(np.exp(np.asarray(draws, np.float64)[..., 0]).mean(axis=(1, 2)))

        assert spread("quasi") < 0.5 * spread("iid")


def test_quasi_random_directions_of_many_dimensions():
    draws = np.asarray(sample_directions(jax.random.key(9), 64, (1024,), "quasi"), np.float64).reshape(64, 1024)
    np.testing.assert_allclose(np.linalg.norm(draws, axis=1), 1, atol=1e-5)
    # Of 8 single directions the mean has the squared length 1/8.
    assert np.sum(draws.reshape(8, 8, 1024).mean(axis=1) ** 2, axis=1).max() < 0.05
    with pytest.raises(ValueError, match=r"^dim=30000: must be <= 21201 for quasi directions$"):
        sample_directions(jax.random.key(9), 16, (30_000,), "quasi")


def test_on_a_line_there_are_two_directions():
    draws = np.asarray(sample_directions(jax.random.key(4), 4000, (1,))).ravel()
    assert set(draws.tolist()) == {-1.0, 1.0}
    assert abs(draws.sum()) < 4 * 4000**0.5


@pytest.mark.parametrize("kind", ["iid", "antithetic", "orthogonal"])
def test_the_shape_of_a_point_changes_nothing(kind):
    flat = sample_directions(jax.random.key(5), 32, (12,), kind)
    image = sample_directions(jax.random.key(5), 32, (2, 3, 2), kind)
    np.testing.assert_array_equal(image.reshape(flat.shape), flat)


def test_bfloat16_directions_are_rounded_float32_ones():
    exact = sample_directions(jax.random.key(6), 64, (8,), "orthogonal", jnp.float32)
    rounded = sample_directions(jax.random.key(6), 64, (8,), "orthogonal", jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 3)], ids=str)
def test_points_of_the_ball_are_uniform(shape):
    dim = math.prod(shape)
    points = np.asarray(uniform_in_ball(jax.random.key(7), 20_000, shape), np.float64)
    assert points.shape == (20_000, *shape)
    points = points.reshape(-1, dim)
    norm = np.linalg.norm(points, axis=1)
    assert stats.kstest(norm**dim, "uniform").pvalue > 1e-3
    assert np.abs(z_scores(points, 0)).max() < 4
    assert norm.min() > 0
    # Norm and direction are independent: E |x| x_i² = E|x|³ / d.
    assert np.abs(z_scores(norm[:, None] * points**2, 1 / (dim + 3))).max() < 4


def test_circle_integrates_trigonometric_polynomials():
    directions = np.asarray(circle(12, jnp.float32), np.float64)
    angle = 2 * np.pi * np.arange(12) / 12
    np.testing.assert_allclose(directions, np.stack([np.cos(angle), np.sin(angle)], axis=1), atol=1e-7)
    x, y = directions.T
    np.testing.assert_allclose([np.mean(x**4 * y**2), np.mean(x**3 * y)], [1 / 16, 0], atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "n", "dim", "message"),
    [
        ("sobol", 16, 2, "directions='sobol': must be one of iid, antithetic, orthogonal, quasi"),
        (None, 16, 2, "directions=None: must be one of"),
        ("iid", 1, 2, "n_samples=1: must be an integer >= 2: one unit has no standard error"),
        ("iid", 0, 2, "n_samples=0: must be"),
        ("orthogonal", -8, 2, "n_samples=-8: must be"),
        ("iid", 16.0, 2, "n_samples=16.0: must be"),
        ("iid", "16", 2, "n_samples='16': must be"),
        ("antithetic", 2, 2, "n_samples=2: must be an even number >= 4 for antithetic directions"),
        ("antithetic", 7, 2, "n_samples=7: must be an even number"),
        ("iid", 16, 0, "dim=0: must be >= 1"),
        (
            "orthogonal",
            17,
            64,
            "n_samples=17: no block of 2 to 2 directions divides it; take for example 16",
        ),
        (
            "orthogonal",
            31,
            64,
            "n_samples=31: no block of 2 to 3 .* example (30|32) for orthogonal directions",
        ),
        ("orthogonal", 127, 64, "n_samples=127: no block of 2 to 15 directions divides it"),
        ("quasi", 17, 2, "n_samples=17: no block of 2 to 2 directions .* example (16|18) for quasi directions"),
        ("quasi", 127, 64, "n_samples=127: no block of 2 to 15 directions .* example (126|128) for quasi directions"),
        ("quasi", 1, 2, "n_samples=1: must be an integer >= 2"),
    ],
)
def test_bad_arguments_are_refused(kind, n, dim, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        unit_size(kind, n, dim)
    with pytest.raises(ValueError, match=f"^{message}"):
        sample_directions(jax.random.key(0), n, (dim,), kind)


@pytest.mark.parametrize("kind", ["orthogonal", "quasi"])
def test_no_number_of_directions_silently_loses_its_blocks(kind):
    """Either there are blocks, or none would fit, or the number is refused with one nearby that has them."""
    refused = 0
    for dim in (1, 2, 3, 64):
        for n in range(4, 300):
            fits = (n // 8 if kind == "quasi" else min(dim, n // 8)) > 1
            try:
                assert (unit_size(kind, n, dim) > 1) == fits
            except ValueError as error:
                better = int(str(error).split("example ")[1].split()[0])
                assert fits and abs(better - n) == 1 and unit_size(kind, better, dim) > 1
                refused += 1
    assert refused > 50


@pytest.mark.parametrize("n", [0, 2.5, "12"])
def test_circle_refuses(n):
    with pytest.raises(ValueError, match="^n=.*: must be an integer >= 1"):
        circle(n)
