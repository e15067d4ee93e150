"""Denoising score matching: its floor, its average of weights, and what happens when it is killed or breaks."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from plap_jax import GaussianMixture
from plap_jax.checkpoints import CheckpointError, load_tree, read_about, save_tree
from plap_jax.diffusion import EDM, Diffusion, RectifiedFlow, VPCosine, VPLinear
from plap_jax.networks import ResidualMLP
from plap_jax.training import (
    NonFiniteLossError,
    TrainConfig,
    batch_rows,
    denoising_loss,
    load_diffusion,
    load_snapshots,
    save_diffusion,
    train,
)
from plap_jax.training.steps import Task, initial_state, many_steps, one_step, with_weights
from tests.helpers.devices import on_devices
from tests.helpers.places import HELPERS
from tests.helpers.training_worker import CONFIG, data, network, run

WORKER = HELPERS / "training_worker.py"
SHORT = replace(CONFIG, n_steps=25, chunk_steps=10, checkpoint_every=10)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


# --- the loss


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear:
    """ε̂ = gain(t) x for data N(0, std² I): gain = σ/(α² std² + σ²) is exact."""

    std: float

    def __call__(self, x, t, condition=None):
        alpha, sigma = VPLinear().alpha(t), VPLinear().sigma(t)
        return sigma * x / ((alpha * self.std) ** 2 + sigma**2)


def mean_loss(diffusion, t, n=20_000, std=1.5):
    """The loss at time t over n points of N(0, std² I) in two dimensions."""
    key_data, key_noise = jax.random.split(jax.random.key(3))
    x0, noise = std * jax.random.normal(key_data, (n, 2)), jax.random.normal(key_noise, (n, 2))
    return jnp.mean(jax.vmap(denoising_loss, (None, 0, None, 0))(diffusion, x0, t, noise))


def test_loss_of_the_exact_predictor_is_its_floor():
    schedule, std = VPLinear(), 1.5
    for t in (0.05, 0.3, 0.8):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        floor = (alpha * std) ** 2 / ((alpha * std) ** 2 + sigma**2)  # Var[ε | x_t]
        np.testing.assert_allclose(mean_loss(Diffusion(Linear(std), schedule), t), floor, rtol=0.03)
        assert mean_loss(Diffusion(Linear(0.8 * std), schedule), t) > 1.001 * floor


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nothing:
    def __call__(self, x, t, condition=None):
        return jnp.zeros_like(x)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow", "score"])
def test_loss_is_the_mean_square_of_the_predictions_own_error(prediction, x64):
    x0, noise, t = jnp.array([1.0, -2.0]), jnp.array([0.5, 0.25]), 0.4
    alpha, sigma = VPLinear().alpha(t), VPLinear().sigma(t)
    targets = {"eps": noise, "x0": x0, "v": alpha * noise - sigma * x0, "flow": noise - x0}
    targets["score"] = -noise / sigma
    loss = denoising_loss(Diffusion(Nothing(), VPLinear(), prediction), x0, t, noise)
    np.testing.assert_allclose(loss, np.mean(np.square(targets[prediction])), rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "prediction", "told"),
    [
        (RectifiedFlow(), "flow", "log_snr"),
        (EDM(), "edm", "log_snr"),
        (EDM(), "edm", "edm"),
        pytest.param(VPLinear(), "edm", "edm", marks=pytest.mark.slow),
    ],
    ids=["flow", "edm", "edm as published", "edm preserving"],
)
def test_flow_and_preconditioned_networks_learn_a_mixture(schedule, prediction, told):
    """The learned denoiser is that of the mixture, at every noise level; at the ends it is whatever F says."""
    mixture = GaussianMixture([0.5, 0.5], [[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.04], "spherical")
    points = mixture.sample(jax.random.key(7), 4000)
    mlp = ResidualMLP((2,), width=32, depth=2, embed_dim=16, rngs=nnx.Rngs(0))
    start = Diffusion(mlp, schedule, prediction, float(points.std()), told)
    config = TrainConfig(n_steps=800, batch_size=128, learning_rate=1e-2, ema_decay=0.99, chunk_steps=400)
    learned = train(start, points, key=jax.random.key(0), config=config).diffusion
    noise = jax.random.normal(jax.random.key(8), (500, 2))
    for ratio in (0.1, 0.4, 1.5):
        t = schedule.time_at_ratio(ratio)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = alpha * points[:500] + sigma * noise
        exact = (x + sigma**2 * jax.vmap(mixture.noised(alpha, sigma).score)(x)) / alpha
        found = jax.vmap(learned.denoise, (0, None))(x, t)
        assert float(jnp.mean((found - exact) ** 2)) < 0.1 * float(jnp.mean((exact - points.mean(0)) ** 2)), ratio


def test_training_reaches_the_floor_of_a_gaussian():
    points = 1.5 * jax.random.normal(jax.random.key(7), (4000, 2))
    config = TrainConfig(n_steps=800, batch_size=128, learning_rate=1e-2, ema_decay=0.99, chunk_steps=400)
    result = train(network(32), points, key=jax.random.key(0), config=config)
    for t in (0.05, 0.3, 0.8):
        floor = mean_loss(Diffusion(Linear(1.5), VPLinear()), t)
        np.testing.assert_allclose(mean_loss(result.diffusion, t), floor, rtol=0.01, atol=2e-3)
    assert result.losses[:20].mean() > 1.2 * result.losses[-200:].mean()


# --- steps


def test_average_of_weights_against_numpy():
    config = replace(CONFIG, n_steps=40, ema_decay=0.6)  # the ramp (1+s)/(10+s) is crossed at s = 12
    task = Task(network(), data(), None, jax.random.key(0))
    state = initial_state(task.diffusion, config)
    average = np.asarray(state.weights, np.float64)
    rows = batch_rows(task.key, 50, 16, 0, 40)
    for step in range(40):
        state, _ = one_step(state, task, config.recipe, step, rows[step])
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * np.asarray(state.weights, np.float64)
        np.testing.assert_allclose(state.average, average, rtol=1e-5, atol=1e-6)
    result = train(task.diffusion, task.data, key=task.key, config=replace(config, loop="python", chunk_steps=40))
    assert_same(result.diffusion, with_weights(task.diffusion, state.average))


def test_the_first_step_is_adams():
    config = replace(CONFIG, n_steps=2, learning_rate=0.01)
    task = Task(network(), data(), None, jax.random.key(0))
    before = np.asarray(initial_state(task.diffusion, config).weights)
    after, _ = one_step(initial_state(task.diffusion, config), task, config, 0, np.arange(16))
    moved = np.asarray(after.weights) - before
    # only the output layer has a gradient while it is zero; Adam's first step is ±learning_rate there
    last = np.asarray(initial_state(replace(task.diffusion, network=task.diffusion.network.last), config).weights)
    assert (np.abs(moved) > 1e-6).sum() == last.size
    np.testing.assert_allclose(np.abs(moved)[np.abs(moved) > 1e-6], 0.01, rtol=1e-3)
    # so small a clip brings the gradient down to Adam's ε = 1e-8, and the step with it
    config = replace(config, weight_decay=0.5, grad_clip=1e-9)
    shrunk, _ = one_step(initial_state(task.diffusion, config), task, config, 0, np.arange(16))
    moved = np.asarray(shrunk.weights) - before + 0.01 * 0.5 * before
    assert 1e-4 < np.abs(moved).max() < 0.01 / 5


def test_loops_agree():
    scanned = run(None, config=SHORT)
    python = run(None, config=replace(SHORT, loop="python"))
    np.testing.assert_allclose(scanned.losses, python.losses, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(scanned.diffusion), jax.tree.leaves(python.diffusion), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_training_is_deterministic_and_leaves_the_network_alone():
    start, points = network(), data()
    untouched = jax.tree.map(np.array, start)
    results = [train(start, points, key=jax.random.key(1), config=SHORT) for _ in range(2)]
    assert_same(results[0].diffusion, results[1].diffusion)
    np.testing.assert_array_equal(results[0].losses, results[1].losses)
    assert_same(start, untouched)
    other = train(start, points, key=jax.random.key(2), config=SHORT)
    assert not np.array_equal(other.losses, results[0].losses)


def test_one_compilation_for_all_chunks_networks_and_data():
    run(None, config=SHORT)
    before = many_steps._cache_size()
    train(network(seed=1), data() + 1, key=jax.random.key(1), config=replace(SHORT, checkpoint_every=20))
    assert many_steps._cache_size() == before


def test_double_precision(x64):
    points = data()
    assert points.dtype == jnp.float64
    result = train(
        network(), points, key=jax.random.key(0), config=replace(SHORT, n_steps=10, warmup_steps=5, loop="python")
    )
    assert result.losses.dtype == np.float64
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(result.diffusion.network))


def test_withheld_captions_are_no_captions():
    points, captions = data(), np.arange(50) % 3
    start = network(n_conditions=3)
    kwargs = {"key": jax.random.key(0), "config": replace(SHORT, condition_dropout=1.0)}
    withheld = train(start, points, conditions=captions, **kwargs)
    none = train(start, points, conditions=np.full(50, -1), **kwargs)
    assert_same(withheld.diffusion, none.diffusion)
    kwargs["config"] = replace(SHORT, condition_dropout=0.0)
    told = train(start, points, conditions=captions, **kwargs)
    assert not np.array_equal(told.losses, none.losses)


# --- order of the data


def test_copies_are_rows_that_are_repeated(tmp_path):
    """As an index map: the same batches, captions with them, and a checkpoint that knows how often each row stood."""
    points, copies, captions = data(), np.arange(50) % 4, np.arange(50) % 3
    start = network(n_conditions=3)
    kwargs = {"key": jax.random.key(0), "config": SHORT}
    folder = tmp_path / "steps"
    mapped = train(start, points, copies=copies, conditions=captions, checkpoint_dir=folder, **kwargs)
    rows = np.repeat(np.arange(50), copies)
    repeated = train(start, points[rows], conditions=captions[rows], **kwargs)
    np.testing.assert_allclose(mapped.losses, repeated.losses, rtol=1e-5)
    once = train(start, points, conditions=captions, **kwargs)
    assert not np.allclose(mapped.losses, once.losses, rtol=1e-2)
    with pytest.raises(CheckpointError, match="copies"):
        train(start, points, copies=copies[::-1], conditions=captions, checkpoint_dir=folder, **kwargs)


ON_FOUR_DEVICES = """
import json
import tempfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from plap_jax.training.loop import BATCH, mesh_for
from plap_jax.training.steps import Task, initial_state, one_step
from tests.helpers.training_worker import CONFIG, data, network, run

assert [mesh_for(size).size for size in (16, 6, 5)] == [4, 3, 1]
with jax.default_device(jax.devices()[1]):
    assert mesh_for(16).size == 1
told = {}
for loop in ("scan", "python"):
    result = run(None, config=replace(CONFIG, n_steps=25, chunk_steps=10, loop=loop))
    leaves = jax.tree.leaves(result.diffusion.network)
    told[loop] = [result.losses.tolist(), [np.asarray(leaf).tolist() for leaf in leaves]]

config = replace(CONFIG, n_steps=25, chunk_steps=10)
with tempfile.TemporaryDirectory() as folder:  # stopped, and on from its checkpoint
    stop = lambda step, losses: (_ for _ in ()).throw(KeyboardInterrupt) if step == 20 else None
    try:
        run(folder, config=replace(config, checkpoint_every=10), on_chunk=stop)
    except KeyboardInterrupt:
        pass
    resumed = run(folder, config=replace(config, checkpoint_every=10))
assert resumed.steps_done < 25 and resumed.losses.tolist() == told["scan"][0]

mesh, model = mesh_for(16), network(width=8)
everything = (initial_state(model, CONFIG), Task(model, data(), None, jax.random.key(1)))
state, task = jax.device_put(everything, NamedSharding(mesh, PartitionSpec()))
rows = jax.device_put(jnp.arange(16), NamedSharding(mesh, PartitionSpec(BATCH)))
program = one_step.lower(state, task, CONFIG.recipe, 0, rows).compile().as_text()
assert "f32[4,8]" in program and "f32[16,8]" not in program, "each device has a quarter of the batch"
assert "all-reduce" in program
print(json.dumps(told))
"""


def test_devices_share_each_batch():
    """The same losses and weights as on one device, up to rounding."""
    found = json.loads(on_devices(4, ON_FOUR_DEVICES))
    for loop, (losses, leaves) in found.items():
        expected = run(None, config=replace(SHORT, loop=loop, checkpoint_every=None))
        np.testing.assert_allclose(losses, expected.losses, rtol=1e-4)
        for a, b in zip(leaves, jax.tree.leaves(expected.diffusion.network), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (7, 7), (5, 16), (1, 3), (100, 32)])
def test_every_row_is_visited_once_per_epoch(n, batch_size):
    key, steps = jax.random.key(0), 3 * n
    rows = batch_rows(key, n, batch_size, 0, steps)
    assert rows.shape == (steps, batch_size) and rows.dtype == np.int32
    epochs = rows.reshape(-1, n)  # steps · batch_size is a multiple of n
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(n), epochs.shape))
    if n > 5:
        assert len(np.unique(epochs, axis=0)) == len(epochs)


def test_rows_are_a_function_of_key_and_step():
    key = jax.random.key(0)
    whole = batch_rows(key, 10, 4, 0, 50)
    for first, count in ((0, 1), (3, 7), (49, 1), (20, 30)):
        np.testing.assert_array_equal(batch_rows(key, 10, 4, first, count), whole[first : first + count])
    assert not np.array_equal(batch_rows(jax.random.key(1), 10, 4, 0, 50), whole)


# --- callbacks, progress, learning rate


def test_callback_and_progress(capsys):
    seen = []
    result = run(None, config=SHORT, progress=True, on_chunk=lambda step, losses: seen.append((step, losses)))
    assert [step for step, _ in seen] == [10, 20, 25]
    np.testing.assert_array_equal(np.concatenate([losses for _, losses in seen]), result.losses)
    assert result.steps_done == 25
    shown = capsys.readouterr().err
    assert "25/25" in shown and "loss=" in shown and "step/s" in shown
    run(None, config=SHORT)
    assert capsys.readouterr() == ("", "")


def test_learning_rate():
    rates = TrainConfig(n_steps=110, warmup_steps=10, learning_rate=2.0)
    np.testing.assert_allclose([rates.learning_rate_at(s) for s in (0, 5, 10, 60, 110)], [0, 1, 2, 1, 0], atol=1e-6)
    flat = TrainConfig(schedule="constant", learning_rate=2.0)
    np.testing.assert_allclose([flat.learning_rate_at(s) for s in (0, 3999)], 2.0)


# --- killed and resumed


@pytest.fixture(scope="module")
def uninterrupted():
    return run(None)


@pytest.mark.slow
def test_killed_and_resumed(tmp_path, uninterrupted):
    """A real SIGKILL at random moments, twice; saving takes most of the time here, so it is hit as well."""
    for _ in range(2):
        command = [sys.executable, str(WORKER), str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(random.randint(3, 25)):
            assert process.stdout.readline()
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
    assert 0 < len(list(tmp_path.glob("step_*"))) <= 2
    resumed = run(str(tmp_path))
    assert resumed.steps_done < CONFIG.n_steps
    assert_same(resumed.diffusion, uninterrupted.diffusion)
    np.testing.assert_array_equal(resumed.losses, uninterrupted.losses)
    assert [p.name for p in tmp_path.iterdir()] == [f"step_{CONFIG.n_steps:08d}"]
    again = run(str(tmp_path))
    assert again.steps_done == 0
    assert_same(again.diffusion, uninterrupted.diffusion)


class Stop(Exception):
    pass


def test_resumed_with_other_chunks(tmp_path, uninterrupted):
    def stop(step, losses):
        if step >= 75:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, config=replace(CONFIG, chunk_steps=25, checkpoint_every=25), on_chunk=stop)
    resumed = run(tmp_path, config=replace(CONFIG, chunk_steps=400, checkpoint_every=None))
    assert resumed.steps_done == CONFIG.n_steps - 75
    np.testing.assert_array_equal(resumed.losses, uninterrupted.losses)
    assert_same(resumed.diffusion, uninterrupted.diffusion)


def test_killed_while_an_old_checkpoint_is_deleted(tmp_path, monkeypatch):
    """Deleting goes file by file; a kill within it must not leave half a checkpoint where the next run looks."""

    def dies_within(path, **_):
        for file in filter(Path.is_file, Path(path).rglob("*")):
            file.unlink()
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", dies_within)
        with pytest.raises(Stop):
            run(tmp_path, config=SHORT)
    resumed = run(tmp_path, config=SHORT)
    assert 0 < resumed.steps_done < SHORT.n_steps
    assert_same(resumed.diffusion, run(None, config=SHORT).diffusion)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000025"]


# --- breaking


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trap:
    """Learns well until Adam steps over the edge of the square root."""

    weight: jax.Array

    def __call__(self, x, t, condition=None):
        return -jnp.sqrt(self.weight) * x


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = replace(SHORT, n_steps=200, learning_rate=0.01, schedule="constant")
    start = Diffusion(Trap(jnp.array([0.25, 0.25])), VPLinear())
    with pytest.raises(NonFiniteLossError) as caught:
        train(start, data(), key=jax.random.key(0), config=config, checkpoint_dir=tmp_path)
    found = re.fullmatch(
        r"the loss is not finite at step (\d+) \(learning rate 0.01\); the last good checkpoint is (\S+)",
        str(caught.value),
    )
    step, kept = int(found[1]), Path(found[2])
    assert kept == max(tmp_path.glob("step_*")) and read_about(kept)["notes"]["step"] == step // 10 * 10 > 0
    state, losses = load_tree(kept, (initial_state(start, config), np.zeros(200, np.float32)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert np.isfinite(losses).all() and (losses > 0).sum() == step // 10 * 10
    with pytest.raises(NonFiniteLossError, match="no checkpoint was written"):
        train(start, data(), key=jax.random.key(0), config=config)


@pytest.fixture
def trained(tmp_path):
    run(tmp_path, config=SHORT)
    return tmp_path


def refused(folder, **kwargs):
    with pytest.raises(CheckpointError) as caught:
        run(folder, **{"config": SHORT, **kwargs})
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_damaged_checkpoints_are_refused(trained):
    newest = max(trained.glob("step_*"))
    file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    original = file.read_bytes()
    flipped = bytearray(original)
    flipped[len(original) // 2] ^= 1
    for damaged in (original[:-10], bytes(flipped)):
        file.write_bytes(damaged)
        assert re.search(rf"damaged, the checksum of '\S*{file.name}' does not match", refused(trained))
    file.unlink()
    assert "damaged" in refused(trained)


def test_checkpoints_of_other_runs_are_refused(trained):
    assert "key is" in refused(trained, key=jax.random.key(2))
    assert "n_steps is 25 there, 26 is expected" in refused(trained, config=replace(SHORT, n_steps=26))
    kwargs = {"key": jax.random.key(1), "config": SHORT, "checkpoint_dir": trained}
    for start, points, message in (
        (network(12), data(), r"network\.blocks\.0\.inner\.bias\.value is float32\(8,\) there, float32\(12,\) is"),
        (network(prediction="v"), data(), "prediction is eps there, v is expected"),
        (replace(network(), schedule=VPCosine()), data(), r"diffusion.schedule is VPLinear\(.* there, VPCosine\("),
        (network(seed=1), data(), "initial weights is .* there"),
        (network(), data() + 1, "data is .* there"),
    ):
        with pytest.raises(CheckpointError, match=message):
            train(start, points, **kwargs)


@pytest.mark.parametrize("step", [None, "25", True, 0, 26])
def test_checkpoints_that_are_not_of_a_training_run_are_refused(trained, step):
    newest = max(trained.glob("step_*"))
    notes = read_about(newest)["notes"]
    save_tree(newest, {"w": jnp.ones(2)}, {"run": notes["run"], "step": step})
    assert f"step is {step} there, 1 to 25 is expected" in refused(trained)
    save_tree(newest, {"w": jnp.ones(2)})
    assert "its notes tell of no run" in refused(trained)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file" / "steps", config=SHORT)


# --- snapshots

SNAPSHOT_STEPS = (0, 7, 20, 25)


def snapshots_of(folder, **kwargs):
    """Folder of the snapshots, and the result, of a run with checkpoints in ``folder``."""
    kwargs = {"config": SHORT, "snapshot_dir": folder / "snapshots", "snapshot_steps": SNAPSHOT_STEPS, **kwargs}
    return folder / "snapshots", run(folder / "steps", **kwargs)


def assert_same_snapshots(folder, other):
    ours, theirs = (list(load_snapshots(path, network())) for path in (folder, other))
    assert [step for step, _ in ours] == list(SNAPSHOT_STEPS) == sorted(int(p.name[5:]) for p in folder.iterdir())
    assert_same(ours, theirs)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    return snapshots_of(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("loop", ["scan", "python"])
def test_snapshots_are_the_averages_and_change_nothing(loop, tmp_path):
    config = replace(SHORT, loop=loop)
    folder, result = snapshots_of(tmp_path, config=config)
    without = run(None, config=config)
    assert_same(result.diffusion, without.diffusion)
    np.testing.assert_array_equal(result.losses, without.losses)
    found = dict(load_snapshots(folder, network(seed=3)))
    assert list(found) == list(SNAPSHOT_STEPS)
    assert_same(found[0], network())
    assert_same(found[25], without.diffusion)
    task = Task(network(), data(), None, jax.random.key(1))
    state, rows = initial_state(task.diffusion, SHORT), batch_rows(task.key, 50, 16, 0, 7)
    for step in range(7):
        state, _ = one_step(state, task, SHORT.recipe, step, rows[step])
    expected = with_weights(task.diffusion, state.average)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found[7], expected)


def test_snapshots_of_a_run_stopped_anywhere(tmp_path, snapshots, monkeypatch):
    """Before, within and after the writing of a snapshot, one death after the other."""

    def dies(*_, **__):
        raise Stop

    def writes_and_dies(*args):
        save_diffusion(*args)
        raise Stop

    def after(stop):
        def on_chunk(step, losses):
            if step >= stop:
                raise Stop

        return on_chunk

    folder = tmp_path / "snapshots"
    writing, saving = "plap_jax.training.finished.save_diffusion", "plap_jax.training.resume.save_tree"
    for name, death in ((writing, dies), (writing, writes_and_dies), (saving, dies)):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(name, death)
            snapshots_of(tmp_path)
    for stop in (7, 10, 20):
        with pytest.raises(Stop):
            snapshots_of(tmp_path, on_chunk=after(stop))
    (folder / ".unfinished-abc").mkdir()
    _, result = snapshots_of(tmp_path)
    assert result.steps_done == 5
    assert_same_snapshots(folder, snapshots[0])


def test_snapshots_of_another_run_are_replaced(tmp_path, snapshots):
    kwargs = {"config": SHORT, "snapshot_dir": tmp_path, "snapshot_steps": SNAPSHOT_STEPS}
    train(network(seed=1), data(), key=jax.random.key(1), **kwargs)
    train(network(), data(), key=jax.random.key(1), **kwargs)
    assert_same_snapshots(tmp_path, snapshots[0])


def test_a_snapshot_that_is_gone_is_not_passed_over(tmp_path):
    folder, _ = snapshots_of(tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    snapshots_of(tmp_path)
    assert kept == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "step_00000007" / "about.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step_00000007: damaged.*; the run resumes after it, at step 25"):
        snapshots_of(tmp_path)
    with pytest.raises(CheckpointError, match="step_00000003: no such directory; the run resumes after it"):
        snapshots_of(tmp_path, snapshot_steps=(0, 3))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"snapshot_steps": (0, 26)}, r"snapshot_steps=\(0, 26\): must be integers in 0 \.\.\. n_steps=25"),
        ({"snapshot_steps": (-1,)}, r"snapshot_steps=\(-1,\): must be integers in 0"),
        ({"snapshot_steps": (2.5,)}, r"snapshot_steps=\(2\.5,\): must be integers in 0"),
        ({"snapshot_dir": None}, "snapshot_dir=None: must be a folder where there are snapshot_steps"),
    ],
)
def test_bad_snapshots_are_refused(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        snapshots_of(tmp_path, **kwargs)


# --- finished networks


def test_finished_networks_there_and_back(tmp_path):
    save_diffusion(tmp_path / "net", network(seed=3))
    loaded = load_diffusion(tmp_path / "net", network(seed=4))
    assert_same(loaded, network(seed=3))
    call = jax.jit(lambda score_fn, x: score_fn(x))
    for diffusion in (loaded, network(seed=3)):
        call(diffusion.score_at(0.5), jnp.ones(2))
    assert call._cache_size() == 1
    with pytest.raises(CheckpointError, match=r"bias\.value is float32\(8,\) there, float32\(16,\) is expected"):
        load_diffusion(tmp_path / "net", network(16))
    with pytest.raises(CheckpointError, match="prediction is eps there, x0 is expected"):
        load_diffusion(tmp_path / "net", network(prediction="x0"))


# --- bad input


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_steps", 0),
        ("n_steps", 10.5),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("schedule", "linear"),
        ("warmup_steps", -1),
        ("warmup_steps", 4000),
        ("ema_decay", 1.0),
        ("chunk_steps", 0),
        ("checkpoint_every", 0),
        ("grad_clip", 0.0),
        ("weight_decay", -0.1),
        ("condition_dropout", 1.5),
        ("loop", "while"),
    ],
)
def test_bad_config_values_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"^{field}=.*: must") as caught:
        TrainConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_every_setting_that_matters_is_part_of_the_runs_identity(trained):
    notes = read_about(max(trained.glob("step_*")))["notes"]["run"]
    driven = {"loop": "scan", "chunk_steps": 500, "checkpoint_every": None}  # a run may be resumed with others
    assert asdict(SHORT) | driven == {name: notes[name] for name in asdict(SHORT)}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"data": jnp.zeros((0, 2))}, r"data=\(0, 2\): must be"),
        ({"data": jnp.ones((4, 2), jnp.int32)}, "data='int32': must be of a floating dtype"),
        ({"data": jnp.array([[1.0, jnp.nan]])}, "data='NaN or infinity': must be finite"),
        ({"conditions": jnp.zeros(3, jnp.int32)}, r"conditions=\(3,\): must be \(50,\)"),
        ({"conditions": jnp.zeros(50)}, "conditions='float32': must be integers"),
        ({"copies": np.ones(49, int)}, r"copies=\(49,\): must be \(50,\)"),
        ({"copies": np.ones(50)}, "copies='float64': must be integers >= 0, of which one is not 0"),
        ({"copies": np.zeros(50, int)}, "copies=.*: must be integers >= 0, of which one is not 0"),
        ({"copies": np.full(50, 2**40, np.uint64)}, "copies=.*: must be fewer than"),
        ({"copies": -np.ones(50, int)}, "copies=.*: must be integers >= 0, of which one is not 0"),
    ],
)
def test_bad_data_is_refused(kwargs, message):
    points = kwargs.pop("data", data())
    with pytest.raises(ValueError, match=message):
        train(network(), points, key=jax.random.key(0), config=SHORT, **kwargs)
