"""Small networks of images with parameters at no special value, and how tests call them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# What is compiled is used once or twice, so the compiler need not try hard.
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
call = quick(lambda network, x, level, condition=None: network(x, level, condition))


def perturbed(network, seed=0):
    """None of its parameters is at a special value such as 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(a + 0.2 * rng.normal(size=a.shape).astype(a.dtype)), network)


def image(shape, seed=1, dtype=np.float32):
    """Of independent normal values."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))
