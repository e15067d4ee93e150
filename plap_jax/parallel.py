"""Apply a function of one point to many points: in batches, on this process's devices, compiled once."""

import inspect
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from tqdm import tqdm

from plap_jax.typing import Array, require

AXIS = "points"
QUEUED = 16  # batches on the devices at a time


def map_points(
    fn: Callable[..., Any],
    points: Array | np.ndarray,
    *args_batched: Any,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | bool = False,
) -> Any:
    """Apply a function of one point to many points: in batches, on this process's devices, compiled once.

    out_i = fn(points_i, *args_i), by `vmap` over batches, each split over `jax.local_devices()`.

    The n points are cut into ⌈n/batch_size⌉ batches of equal size; the last is padded with its last point, and the
    results of the padding are dropped. Calls with the same function and shapes share one compilation: put what varies
    (weights, noise level, radius, p) into a `jax.tree_util.Partial`, whose arrays are data, rather than into a new
    lambda, which compiles each time. With several devices each handles its own points, without communication; so does
    each process of several (`jax.distributed`), which is given its own points.

    Args:
        fn: function of one point, ``(*shape), ... -> pytree of arrays``: a `Partial`, a callable pytree, a bound
            method of a pytree, or a module-level function.
        points: ``(n, *shape)``, n ≥ 1.
        *args_batched: further arguments, pytrees with leading axis n (keys, captions, noise levels).
        batch_size: points evaluated at a time, over all devices together; rounded up to a multiple of their number.
        progress: True for a bar on stderr, or a function of (points done, n), called after each batch.

    Returns:
        The results of fn as NumPy arrays with leading axis n.

    Raises:
        ValueError: no points, a coordinate that is not finite, arguments of another length, batch_size below 1.

    Example:
        >>> q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.ones(1), "spherical")
        >>> map_points(q.score, np.ones((1000, 2), np.float32)).shape
        (1000, 2)
    """
    n = _checked_length(points, args_batched, batch_size)
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    size = math.ceil(math.ceil(n / math.ceil(n / batch_size)) / mesh.size) * mesh.size
    # Flattened once: doing so for every batch, in Python, costs as much as evaluating a small batch.
    leaves, structure = jax.tree.flatten(_as_pytree(fn))
    leaves = jax.device_put(leaves, NamedSharding(mesh, PartitionSpec()))
    split = NamedSharding(mesh, PartitionSpec(AXIS))

    columns = jax.tree.map(_on_host, (points, *args_batched))

    def evaluate(start: int) -> Any:
        rows = np.minimum(np.arange(start, start + size), n - 1)
        batch = jax.tree.map(lambda a: a[rows], columns)
        batch = jax.device_put(batch, split) if mesh.size > 1 else batch  # jit itself is quicker with one device
        return _evaluate(leaves, batch, structure=structure, structure_hash=hash(structure), mesh=mesh)

    starts = range(0, n, size)
    upcoming, ahead, results = iter(starts), deque(), []
    with tqdm(total=n, unit="point", disable=progress is not True) as bar:
        for start in starts:
            # The next batches are queued on the devices while this one is copied to the host.
            while len(ahead) < QUEUED and (following := next(upcoming, None)) is not None:
                ahead.append(evaluate(following))
            results.append(jax.tree.map(np.asarray, ahead.popleft()))
            done = min(start + size, n)
            bar.update(done - start)
            if callable(progress):
                progress(done, n)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *results)


@partial(jax.jit, static_argnames=("structure", "structure_hash", "mesh"))
def _evaluate(
    leaves: list[Array], batch: tuple, *, structure: jax.tree_util.PyTreeDef, structure_hash: int, mesh: Mesh
) -> Any:
    """fn over one batch; module-level, so that its cache of compilations outlives a call of `map_points`.

    The hash tells dataclasses of equal fields apart: to JAX's comparison of structures their classes are the same.
    """
    split, same = PartitionSpec(AXIS), PartitionSpec()
    # Per device rather than left to the partitioner, which would gather what it cannot split (as QR).
    each = jax.shard_map(
        lambda fn, batch: jax.vmap(fn)(*batch), mesh=mesh, in_specs=(same, split), out_specs=split, check_vma=False
    )
    return each(jax.tree.unflatten(structure, leaves), batch)


def _as_pytree(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Any callable as a pytree whose arrays are data."""
    if inspect.ismethod(fn):
        return Partial(fn.__func__, fn.__self__)
    return Partial(fn) if jax.tree_util.all_leaves([fn]) else fn


def _on_host(array: Any) -> Any:
    """Arrays as NumPy, where slicing does not compile; keys have no NumPy form."""
    return array if jax.dtypes.issubdtype(jnp.result_type(array), jax.dtypes.prng_key) else np.asarray(array)


def _checked_length(points: Any, args_batched: tuple, batch_size: int) -> int:
    shape = np.shape(points)
    require(len(shape) >= 1 and np.size(points) > 0, "points", shape, "must be (n, *shape) with at least one point")
    require(batch_size >= 1, "batch_size", batch_size, "must be at least 1")
    if jnp.issubdtype(jnp.result_type(points), jnp.inexact):
        finite = np.isfinite(points)
        first = int(np.argmin(finite)) // (finite.size // shape[0])
        require(bool(finite.all()), "points", points[first], f"must be finite, and point {first} is not")
    for position, argument in enumerate(args_batched):
        for leaf in jax.tree.leaves(argument):
            name = f"args_batched[{position}]"
            allowed = f"must have leading axis {shape[0]}, one entry for each point"
            require(np.shape(leaf)[:1] == shape[:1], name, np.shape(leaf), allowed)
    return shape[0]
