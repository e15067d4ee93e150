"""Estimates and their intervals, and how bad arguments are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from plap_jax import (
    Diffusion,
    Estimate,
    GaussianMixture,
    VPLinear,
    adaptive_flux,
    audit_images,
    flux,
    p_laplacian_estimate,
    volume,
)
from plap_jax.networks import ResidualMLP
from plap_jax.sampling import DDIM, sample
from plap_jax.training import TrainConfig, train
from plap_jax.typing import (
    accumulation_dtype,
    concrete,
    require,
    require_ball,
    require_key,
    require_order,
    require_point,
    require_scalar,
    shown,
    standard_error,
)


def test_interval_is_students():
    low, high = Estimate(1.0, 0.5, 64, 5).interval()
    # t_{0.975, 4} = 2.776 from a printed table.
    np.testing.assert_allclose([low, high], [1 - 0.5 * 2.776445, 1 + 0.5 * 2.776445], rtol=1e-6)
    assert type(low) is type(high) is float, "which print as numbers"
    low, high = Estimate(1.0, 0.5, 64, 5).interval(0.5)
    np.testing.assert_allclose(high - low, 2 * 0.5 * stats.t.ppf(0.75, 4))


def test_standard_error_of_any_magnitude():
    units = np.array([1.0, 2.0, 4.0, 9.0])
    for scale in (1e-30, 1.0, 1e30):
        np.testing.assert_allclose(standard_error(jnp.asarray(scale * units)), scale * stats.sem(units), rtol=1e-5)
    assert standard_error(jnp.zeros(4)) == standard_error(jnp.full(4, 2.0)) == 0
    assert not np.isfinite(standard_error(jnp.array([1.0, jnp.inf])))


def test_interval_of_a_batch():
    value, stderr, n_units = np.array([[0.0, 1.0], [2.0, -3.0]]), np.array([[0.1, 0.0], [1.0, 2.0]]), 17
    low, high = Estimate(jnp.asarray(value), jnp.asarray(stderr), 17, n_units).interval(0.9)
    half = stats.t.ppf(0.95, 16) * stderr
    np.testing.assert_allclose(low, value - half, rtol=1e-6)
    np.testing.assert_allclose(high, value + half, rtol=1e-6)


def test_interval_of_what_vmap_returns():
    batch = jax.vmap(lambda v: Estimate(v, 0.1 * v, 8, 4, jnp.int32(0)))(jnp.arange(1.0, 4.0))
    assert batch.n_units.shape == (3,)
    low, high = batch.interval()
    np.testing.assert_allclose((low + high) / 2, [1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(high - low, 0.2 * np.arange(1, 4) * stats.t.ppf(0.975, 3), rtol=1e-6)


def test_estimate_is_a_pytree_with_all_its_fields():
    estimate = Estimate(1.0, 2.0, 3, 4, 5)
    assert jax.tree.leaves(estimate) == [1.0, 2.0, 3, 4, 5]
    assert jax.tree.map(lambda leaf: leaf + 1, estimate) == Estimate(2.0, 3.0, 4, 5, 6)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, float("nan")])
def test_impossible_levels_are_refused(level):
    with pytest.raises(ValueError, match=r"level=.*: must lie in \(0, 1\)"):
        Estimate(1.0, 0.5, 64, 5).interval(level)


def test_interval_of_a_traced_estimate_is_refused():
    with pytest.raises(ValueError, match=r"call \.interval\(\) outside of jit and vmap"):
        jax.jit(lambda v: Estimate(v, v, 2, 2).interval())(1.0)


def test_refusal_is_one_short_line():
    with pytest.raises(ValueError) as caught:
        require(False, "points", np.full((50, 50), np.nan), "must be finite")
    message = str(caught.value)
    assert message.startswith("points=array([[nan, nan") and message.endswith("...: must be finite")
    assert "\n" not in message and len(message) < 120
    require(True, "points", 0, "anything")


def test_concrete_knows_what_is_traced():
    np.testing.assert_array_equal(concrete(jnp.arange(3)), [0, 1, 2])
    seen = []
    jax.jit(lambda v: seen.append(concrete(v)))(1.0)
    jax.vmap(lambda v: seen.append(concrete(v)))(jnp.ones(2))
    jax.grad(lambda v: (seen.append(concrete(v)), v)[1])(1.0)
    assert seen == [None, None, None]


@pytest.mark.parametrize(
    ("dtype", "expected"), [(jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32), (jnp.float32, jnp.float32)]
)
def test_sums_are_taken_in_float32_at_least(dtype, expected):
    assert accumulation_dtype(dtype) == expected
    assert accumulation_dtype(jnp.float64) == jnp.float64


@pytest.mark.parametrize("p", [0.999, 0, -1.0, float("nan"), float("inf"), "2", None, 1j, np.ones(2), jnp.float32(0.5)])
def test_orders_below_one_are_refused(p):
    with pytest.raises(ValueError, match=r"^p=.*: must be a single finite number >= 1; for p < 1"):
        require_order(p)


@pytest.mark.parametrize("p", [1, 1.0, np.float32(1.5), np.int64(2), jnp.asarray(3.0), np.asarray(1)])
def test_orders_of_any_numeric_type_are_taken(p):
    require_order(p)
    jax.jit(require_order)(p)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf"), "1", None, np.ones(3), jnp.zeros(())])
def test_radii_that_are_not_positive_are_refused(radius):
    with pytest.raises(ValueError, match=r"^radius=.*: must be a single finite number > 0$"):
        require_ball(jnp.ones(2), radius, 1.0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.array([1, 2]), r"x=dtype\('int32'\): must be of a floating dtype"),
        (jnp.array([True]), r"x=dtype\('bool'\): must be of a floating dtype"),
        (jnp.ones(2, jnp.complex64), r"x=dtype\('complex64'\): must be of a floating dtype"),
        (jnp.ones((3, 0)), r"x=\(3, 0\): must have at least one coordinate"),
        (jnp.array([1.0, jnp.nan]), "x=.*nan.*: must be finite"),
        (jnp.array([[jnp.inf]], jnp.bfloat16), "x=.*inf.*: must be finite"),
    ],
)
def test_what_is_no_point_is_refused(x, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        require_point(x)


def test_traced_values_are_not_refused():
    jax.jit(lambda v: require_scalar("p", v, lambda known: False, "nothing"))(1.0)
    with pytest.raises(ValueError, match="^p="):
        jax.jit(lambda v: require_scalar("p", v, lambda known: False, "a scalar"))(jnp.ones(2))


def test_values_in_messages_are_short_and_on_one_line():
    assert shown("a\n  b") == "a b" and shown(None) == "None" and shown("x" * 80) == "x" * 80
    assert shown("x" * 81) == "x" * 77 + "..."


def test_a_seed_is_no_key():
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        require_key(key)
    jax.vmap(require_key)(jax.random.split(jax.random.key(0), 3))
    for wrong in (0, None, np.uint32(3), np.zeros(2), jax.random.split(jax.random.key(0), 2)):
        with pytest.raises(ValueError, match=r"^key=.*: must be one key, such as jax.random.key\(0\)$"):
            require_key(wrong)


def test_whatever_draws_refuses_a_seed():
    q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.ones(1), covariance_type="spherical")
    x, images = jnp.ones(2), np.zeros((3, 4, 4, 1), np.float32)
    model = Diffusion(ResidualMLP((2,), width=4, rngs=nnx.Rngs(0)), VPLinear(), conditioning="log_snr")
    asked = {
        "flux": lambda: flux(q.score, x, radius=0.5, key=0),
        "adaptive_flux": lambda: adaptive_flux(q.score, x, radius=0.5, key=0, target_stderr=0.1),
        "volume": lambda: volume(q.score, x, radius=0.5, p=2.0, key=0),
        "p_laplacian_estimate": lambda: p_laplacian_estimate(q.score, x, 2.0, key=0, n_probes=2),
        "mixture": lambda: q.sample(0, 3),
        "sample": lambda: sample(model, 0, 3, shape=(2,), sampler=DDIM(2)),
        "train": lambda: train(model, jnp.ones((3, 2)), key=0, config=TrainConfig(n_steps=1)),
        "audit": lambda: audit_images(lambda: 1 / 0, images, key=0),
    }
    for name, call in asked.items():
        with pytest.raises(ValueError, match="^key=0: must be one key"):
            pytest.fail(f"{name} took a seed: {call()}")


@pytest.mark.parametrize("value", [-0.1, np.float64(-0.1), np.float32(-0.1)])
def test_a_refused_number_reads_as_it_was_written(value):
    with pytest.raises(ValueError, match=r"^radius=-0\.1: must be > 0$"):
        require_scalar("radius", value, lambda v: v > 0, "must be > 0")
