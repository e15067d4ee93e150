"""Many points through a function of one: padding, compilations, devices."""

import dataclasses
import socket
import subprocess
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from plap_jax.audit import audit_images, merge_shards
from plap_jax.parallel import map_points
from tests.helpers.devices import on_devices, with_devices
from tests.helpers.memorizing_model import MEMORIZED, factory, images
from tests.helpers.places import ROOT

traces = {"count": 0}


def affine(weight, x, *shift):
    """A function that counts how often it is traced, which is how often it is compiled."""
    traces["count"] += 1
    return weight @ x + sum(shift)


def noisy(x, key, level):
    return {"noisy": x + level["sigma"] * jax.random.normal(key, x.shape), "norm": jnp.linalg.norm(x)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scale:
    factor: jax.Array

    def times(self, x):
        return self.factor * x

    __call__ = times


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 9, 10])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 1000])
def test_padding_leaves_no_trace(points, n, batch_size):
    weight = jnp.arange(9.0).reshape(3, 3)
    result = map_points(Partial(affine, weight), points[:n], batch_size=batch_size)
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, points[:n] @ np.asarray(weight).T, rtol=1e-5)


def test_batches_are_of_one_size_and_little_is_computed_in_vain():
    traced = []

    def record(x):
        jax.debug.callback(lambda x: traced.append(float(x)), x)
        return x

    result = map_points(record, np.arange(13.0, dtype=np.float32), batch_size=6)
    jax.effects_barrier()
    np.testing.assert_array_equal(result, np.arange(13))
    assert sorted(traced) == [*range(13), 12, 12], "three batches of five, not of six"


def test_further_arguments_and_pytrees_are_mapped_along(points):
    keys = jax.random.split(jax.random.key(0), 10)
    sigmas = np.linspace(0, 1, 10, dtype=np.float32)
    result = map_points(noisy, points, keys, {"sigma": sigmas}, batch_size=4)
    expected = jax.vmap(noisy)(points, keys, {"sigma": sigmas})
    assert set(result) == {"noisy", "norm"}
    np.testing.assert_allclose(result["noisy"], expected["noisy"], rtol=1e-6)
    np.testing.assert_allclose(result["norm"], expected["norm"], rtol=1e-6)


def test_other_data_of_the_same_shape_compile_nothing_new(points):
    shape_of_this_test = points[:, None, :].repeat(7, axis=1).swapaxes(1, 2)
    traces["count"] = 0
    for factor in (1.0, 2.0, 3.0):
        weight = factor * jnp.eye(3)
        result = map_points(Partial(affine, weight), factor * shape_of_this_test, batch_size=4)
        np.testing.assert_allclose(result, factor**2 * shape_of_this_test, rtol=1e-6)
    assert traces["count"] == 1
    one_more = np.concatenate([shape_of_this_test, shape_of_this_test[:1]])
    map_points(Partial(affine, jnp.eye(3)), one_more, batch_size=4)
    assert traces["count"] == 1, "10 and 11 points make the same three batches of four"


@pytest.mark.parametrize("fn", [Scale(jnp.float32(2)), Scale(jnp.float32(2)).times, Partial(Scale.times, Scale(2))])
def test_pytrees_and_their_methods_may_be_mapped(points, fn):
    np.testing.assert_allclose(map_points(fn, points), 2 * points)


def test_double_precision_stays(points, x64):
    result = map_points(Partial(affine, jnp.eye(3)), points.astype(np.float64) + 1e-12)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, points + np.float64(1e-12), rtol=1e-15)


def test_progress_counts_points(points, capsys):
    calls = []
    map_points(jnp.sin, points, batch_size=4, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4, 10), (8, 10), (10, 10)]
    assert not capsys.readouterr().err
    map_points(jnp.sin, points, batch_size=4, progress=True)
    assert "10/10" in capsys.readouterr().err


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.tree_util import Partial
from plap_jax.parallel import map_points

assert len(jax.devices()) == 4
def used(x, key):
    return jnp.linalg.qr(jnp.outer(x, x) + jnp.eye(3))[1] + jax.random.normal(key)

def scaled(weight, x, key):
    return weight * used(x, key)

points = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
keys = jax.random.split(jax.random.key(0), 11)
on_another = jax.device_put(jnp.float32(2), jax.devices()[1])
for batch_size in (1, 3, 8, 100):
    result = map_points(Partial(scaled, on_another), points, keys, batch_size=batch_size)
    expected = 2 * jax.vmap(used)(points, keys)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
where = map_points(lambda x: jax.lax.axis_index("points") + 0 * x.astype(int), points[:, 0], batch_size=100)
assert where.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 2, where
"""


def test_several_devices_share_the_points():
    on_devices(4, ON_FOUR_DEVICES)


IN_TWO_PROCESSES = """
import sys
import jax, numpy as np

address, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, num_processes=2, process_id=process)
assert (len(jax.devices()), len(jax.local_devices())) == (4, 2)

from plap_jax.audit import audit_shard
from plap_jax.parallel import map_points
from tests.helpers.memorizing_model import MEMORIZED, factory, images

def share(x):
    return 10 * process + jax.lax.axis_index("points") + 0 * x

mine = map_points(share, np.arange(5.0 + process), batch_size=100)  # not of one shape
assert mine.tolist() == [10 * process] * 3 + [10 * process + 1] * (2 + process), mine
everything = np.concatenate([images(36, 1), MEMORIZED])
how = {"reference": images(200, 2), "noise_levels": (0.08, 0.32), "key": jax.random.key(0)}
audit_shard(factory(), everything, shard=f"{process + 1}/2", folder=folder, **how)
"""


@pytest.mark.slow
def test_each_process_of_several_has_its_own_points(tmp_path):
    """As on two hosts: JAX knows of all four devices, and each process computes on its own two."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = [[sys.executable, "-c", IN_TWO_PROCESSES, address, str(k), str(tmp_path)] for k in (0, 1)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(one, env=with_devices(2), cwd=ROOT, **quiet) for one in arguments]
    told = [one.communicate(timeout=300)[1] for one in started]
    assert [one.returncode for one in started] == [0, 0], told
    everything = np.concatenate([images(36, 1), MEMORIZED])
    how = {"reference": images(200, 2), "noise_levels": (0.08, 0.32), "key": jax.random.key(0)}
    found = merge_shards(tmp_path, images=everything, reference=how["reference"], maps=0)
    expected = audit_images(factory(), everything, maps=0, **how)
    np.testing.assert_allclose(found.kappa, expected.kappa, atol=2e-5)  # compiled by other options than here
    assert found.flagged.tolist() == expected.flagged.tolist() and found.flagged[36:].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.ones((0, 3))}, r"points=\(0, 3\): must be \(n, \*shape\) with at least one point"),
        ({"points": 1.0}, r"points=\(\): must be \(n, \*shape\)"),
        ({"points": np.array([[0.0, 1.0], [0.0, np.nan]])}, r"points=array.*point 1 is not"),
        ({"batch_size": 0}, r"batch_size=0: must be at least 1"),
    ],
)
def test_bad_input_is_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as refused:
        map_points(**{"fn": jnp.sin, "points": np.ones((4, 3))} | change)
    assert "\n" not in str(refused.value)


def test_arguments_of_another_length_are_refused(points):
    keys = jax.random.split(jax.random.key(0), 9)
    with pytest.raises(ValueError, match=r"args_batched\[0\]=\(9,\): must have leading axis 10"):
        map_points(noisy, points, keys, {"sigma": np.ones(10)})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Once:
    factor: float

    def __call__(self, x):
        return self.factor * x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Twice:
    factor: float

    def __call__(self, x):
        return 2 * self.factor * x


def test_functions_of_equal_fields_are_told_apart():
    points = np.ones((4, 1), np.float32)
    assert map_points(_Once(3.0), points).max() == 3
    assert map_points(_Twice(3.0), points).max() == 6
