"""The residual MLP: shapes, dtypes, what it is told and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from plap_jax.networks import ResidualMLP, sinusoidal_embedding
from plap_jax.networks.initial import lecun_normal, unit_normal


def make(shape=(3,), seed=0, **kwargs):
    """A small network whose output layer is not zero."""
    network = ResidualMLP(shape, **{"width": 8, "depth": 2, "embed_dim": 4, **kwargs}, rngs=nnx.Rngs(seed))
    kernel = network.last.kernel
    kernel[...] = jnp.ones(kernel.shape, kernel.dtype)
    return network


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 4), (3, 2, 2), ()])
def test_any_shape_and_zero_at_the_start(shape):
    network = ResidualMLP(shape, width=8, embed_dim=4, rngs=nnx.Rngs(0))
    x = jnp.ones(shape)
    np.testing.assert_array_equal(network(x, 0.3), jnp.zeros(shape))
    assert make(shape)(x, 0.3).shape == shape
    assert jax.vmap(make(shape))(jnp.ones((5, *shape)), jnp.linspace(-10, 10, 5)).shape == (5, *shape)


def test_output_depends_on_point_and_level():
    network, x = make(), jnp.array([0.1, 0.2, 0.3])
    assert not np.allclose(network(x, 0.0), network(2 * x, 0.0))
    assert not np.allclose(network(x, 0.0), network(x, 0.1))


def test_captions():
    network, x = make(n_conditions=3), jnp.ones(3)
    outputs = np.stack([network(x, 0.0, c) for c in (0, 1, 2, None)])
    assert len(np.unique(outputs, axis=0)) == 4
    np.testing.assert_array_equal(network(x, 0.0, -1), outputs[3])
    batched = jax.vmap(network, (None, None, 0))(x, 0.0, jnp.array([0, 1, 2, -1]))
    np.testing.assert_allclose(batched, outputs, rtol=1e-5)
    assert np.isnan(network(x, 0.0, 3)).all() and np.isnan(network(x, 0.0, -2)).all()


@pytest.mark.parametrize(
    ("dtype", "expected"), [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)]
)
def test_dtypes(dtype, expected):
    with jax.enable_x64(dtype == jnp.float64):
        network = make(n_conditions=2)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(network))
        assert network(jnp.ones(3, dtype), 0.5, 1).dtype == expected


def test_derivatives_in_double_precision(x64):
    network, x = make(), jnp.array([0.3, -0.2, 0.7])
    jacobian = jax.jacfwd(network)(x, 1.0)
    step = 1e-5 * jnp.eye(3)
    differences = jax.vmap(lambda e: (network(x + e, 1.0) - network(x - e, 1.0)) / 2e-5)(step).T
    np.testing.assert_allclose(jacobian, differences, rtol=1e-7, atol=1e-9)


def test_two_networks_of_one_architecture_share_compiled_code():
    call = jax.jit(lambda network, x, level: network(x, level))
    for seed in range(3):
        call(make(seed=seed), jnp.ones(3), 0.1 * seed)
    assert call._cache_size() == 1


def test_seeds_decide_the_weights():
    one, same, other = make(seed=0), make(seed=0), make(seed=1)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one.first.kernel[...], other.first.kernel[...])
    assert not np.array_equal(one.blocks[0].inner.kernel[...], one.blocks[1].inner.kernel[...])


def test_initial_weights_traced_and_not():
    key = jax.random.key(5)
    known = lecun_normal(key, (400, 50))
    traced = jax.jit(lecun_normal, static_argnums=1)(key, (400, 50))
    np.testing.assert_allclose(known, traced, rtol=1e-6)
    assert abs(known.std() * 20 - 1) < 0.02 and abs(known.mean()) < 1e-3
    assert abs(unit_normal(key, (400, 50)).std() - 1) < 0.02
    assert jax.eval_shape(lambda k: lecun_normal(k, (4, 5)), key).shape == (4, 5)


def test_embedding_of_the_level():
    level = 1.7
    wavelengths = np.geomspace(4, 40, 4)
    expected = np.concatenate([np.cos(2 * np.pi * level / wavelengths), np.sin(2 * np.pi * level / wavelengths)])
    np.testing.assert_allclose(sinusoidal_embedding(level, 8), expected, rtol=1e-5, atol=1e-6)
    codes = jax.vmap(lambda u: sinusoidal_embedding(u, 32))(jnp.linspace(-12, 12, 200))
    gaps = jnp.abs(codes[:, None] - codes[None]).max(-1) + jnp.eye(200)
    assert gaps.min() > 0.1  # no two levels look alike
    with pytest.raises(ValueError, match="dim=3: must be even and >= 2"):
        sinusoidal_embedding(level, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": (0,)}, r"shape=\(0,\): must hold positive sizes"),
        ({"width": 0}, "width=0: must be >= 1"),
        ({"depth": -1}, "depth=-1: must be >= 0"),
        ({"n_conditions": 0}, "n_conditions=0: must be >= 1, or None"),
        ({"embed_dim": 5}, "embed_dim=5: must be even and >= 2"),
    ],
)
def test_bad_sizes_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match=r"x=\(4,\): must have the shape of the network, \(3,\)"):
        make()(jnp.ones(4), 0.0)
    with pytest.raises(ValueError, match="condition=1: must be None: this network has no captions"):
        make()(jnp.ones(3), 0.0, 1)
