"""A network that counts, on the host and point by point, how often it is asked: what a detector claims is checked."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from plap_jax.diffusion import Diffusion, VPLinear

counts = {"evaluations": 0, "products": 0}


def _count(kind, x, *_):
    counts[kind] += 1
    return np.asarray(x)


def _counted(kind, x, *others):
    return io_callback(partial(_count, kind), jax.ShapeDtypeStruct(x.shape, x.dtype), x, *others)


def _count_product(dx, x):
    return _counted("products", dx, x)


def _batched_product(arguments, axes):
    return jax.vmap(_count_product, in_axes=axes)(*arguments), 0


# dx itself, counted as a product in both modes: a host call alone could not be transposed.
product = Primitive("counted_product")
product.def_impl(_count_product)
product.def_abstract_eval(lambda dx, x: dx)
mlir.register_lowering(product, mlir.lower_fun(_count_product, multiple_results=False))
batching.primitive_batchers[product] = _batched_product
ad.primitive_transposes[product] = lambda back, dx, x: (product.bind(back, x), None)


@jax.custom_jvp
def counted(x):
    """x, counted as an evaluation."""
    return _counted("evaluations", x)


@counted.defjvp
def _counted_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    # Handed x too, as of a network that is not linear: a product at another point is another product.
    return counted(x), product.bind(dx, x)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CountingNetwork:
    """ε̂ = x, for every condition."""

    def __call__(self, x, t, condition=None):
        # The condition must matter, or vmap over conditions alone would ask once for all of them.
        return counted(x if condition is None else x + 0 * jnp.asarray(condition, x.dtype))


COUNTING = Diffusion(CountingNetwork(), VPLinear())


def cost(detector, query, key):
    """(evaluations, a Jacobian-vector product counting as two; the statistic). Host calls are never merged by jit."""
    counts.update(evaluations=0, products=0)
    found = jax.block_until_ready(jax.jit(detector.statistic)(COUNTING, query, key))
    jax.effects_barrier()
    return counts["evaluations"] + 2 * counts["products"], found
