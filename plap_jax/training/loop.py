"""The training loop on the host: order of the data, checkpoints, progress, and stopping when the loss is not finite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from plap_jax.diffusion import Diffusion
from plap_jax.training.config import TrainConfig
from plap_jax.training.finished import Snapshots
from plap_jax.training.resume import Store, identity
from plap_jax.training.steps import State, Task, initial_state, many_steps, one_step, with_weights
from plap_jax.typing import ArrayLike, PRNGKey, accumulation_dtype, require, require_key

BATCH = "batch"  # the axis of the devices


class TrainResult(NamedTuple):
    """The result of training.

    Attributes:
        diffusion: the model, with the averaged weights.
        losses: ``(n_steps,)``, the loss of each step's batch, before its update.
        steps_done: steps taken by this call: fewer than n_steps if it resumed.
    """

    diffusion: Diffusion
    losses: np.ndarray
    steps_done: int


class NonFiniteLossError(ArithmeticError):
    """The loss or the weights became NaN or infinite: one line with the step, the rate, the last good checkpoint."""


def train(
    diffusion: Diffusion,
    data: ArrayLike,
    *,
    key: PRNGKey,
    config: TrainConfig,
    checkpoint_dir: str | os.PathLike | None = None,
    snapshot_dir: str | os.PathLike | None = None,
    snapshot_steps: Sequence[int] = (),
    copies: ArrayLike | None = None,
    conditions: ArrayLike | None = None,
    progress: bool = False,
    on_chunk: Callable[[int, np.ndarray], None] | None = None,
) -> TrainResult:
    """Train a diffusion model by denoising score matching, resuming from a checkpoint if there is one.

    Minimizes the mean of ``denoising_loss`` over data, times and noise, starting from the network's current weights.
    Every batch is shared by the most devices of this process that divide it, each with all data and weights; the losses
    are those of one device up to rounding. Within ``jax.default_device(device)`` it is that device alone.

    Args:
        diffusion: network and schedule; all floating-point arrays of the network are trained.
        data: ``(n, *shape)``, floating; kept on each device.
        key: determines order, times and noise.
        config: see ``TrainConfig``.
        copies: ``(n,)`` integers ≥ 0, the number of duplicates of each row, itself included; None: 1. The batches are
            those of ``np.repeat(data, copies)``, while each row is held once.
        conditions: ``(n,)`` integers, the captions, or None.
        progress: show a bar with step, loss and steps per second.
        checkpoint_dir: where to keep the newest checkpoint, ``step_XXXXXXXX/``; if there is one, training resumes from
            it. One run at a time.
        snapshot_dir: where to keep snapshots, ``step_XXXXXXXX/``: the network with the weights averaged so far, as
            ``save_diffusion`` writes it; see ``load_snapshots``. Snapshots of other runs are replaced; a resumed run
            keeps its own. They do not change the training by a single bit.
        snapshot_steps: numbers of steps after which to save one, in 0 … n_steps; 0 is the network as given.
        on_chunk: called as ``on_chunk(step, losses)`` after each chunk, with the number of steps so far and the
            losses of the chunk. Snapshots end a chunk.

    Raises:
        ValueError: data, copies or conditions of a wrong shape or dtype, or not finite; snapshot_steps outside
            0 … n_steps, or without a snapshot_dir.
        CheckpointError: the newest checkpoint is damaged, or of another network, data, key or config; or a snapshot
            from before it is missing or damaged.
        NonFiniteLossError: loss or weights became NaN or infinite; the last good checkpoint is kept.
        OSError: ``checkpoint_dir`` or ``snapshot_dir`` cannot be written.

    Example:
        >>> model = Diffusion(ResidualMLP((2,), rngs=nnx.Rngs(0)), VPLinear(), conditioning="log_snr")
        >>> data = jax.random.normal(jax.random.key(0), (100, 2))
        >>> result = train(model, data, key=jax.random.key(1), config=TrainConfig(n_steps=100, batch_size=32))
    """
    task = _task(diffusion, data, conditions, key)
    row_of = None if copies is None else _row_of(copies, len(task.data))
    mesh = mesh_for(config.batch_size)
    snapshots = Snapshots(snapshot_dir, snapshot_steps, config)
    state = initial_state(diffusion, config)
    losses = np.zeros(config.n_steps, accumulation_dtype(task.data.dtype))
    store, start = None, 0
    if checkpoint_dir is not None:
        store = Store(checkpoint_dir, identity(task, state.weights, config, row_of, mesh.size))
        state, losses, start = store.load(state, losses)
    if mesh.size > 1:
        state, task = jax.device_put((state, task), NamedSharding(mesh, PartitionSpec()))
    saved = start
    snapshots.begin(state, diffusion, start)
    with tqdm(total=config.n_steps, initial=start, unit="step", disable=not progress) as bar:
        for first, last in _chunks(start, config, snapshots.steps):
            state, chunk = _run_chunk(state, task, config, (first, last), row_of, mesh)
            _require_finite(state, chunk, first, config, store)
            losses[first:last] = chunk
            snapshots.save(state, diffusion, last)  # before the checkpoint, which promises all earlier snapshots
            if store is not None and (last == config.n_steps or last - saved >= (config.checkpoint_every or np.inf)):
                store.save(state, losses, last)
                saved = last
            bar.update(last - first)
            bar.set_postfix(loss=f"{chunk.mean():.4g}")
            if on_chunk is not None:
                on_chunk(last, chunk)
    finished = with_weights(diffusion, np.asarray(state.average))
    finished = replace(finished, network=jax.device_put(finished.network))
    return TrainResult(finished, losses, config.n_steps - start)


def batch_rows(key: PRNGKey, n: int, batch_size: int, first: int, count: int) -> np.ndarray:
    """Rows of the data for steps first … first+count−1: a stream of permutations of 0 … n−1, cut into batches.

    After e epochs each row has been visited exactly e times, so duplicates count in proportion to their number. Depends
    on the arguments alone; drawn on the host, where a permutation takes microseconds.

    Args:
        key: determines the permutations, one per epoch.
        n: rows of the data.
        batch_size: rows per step; batches run on across the end of an epoch.
        first, count: steps, counted from 0.

    Returns:
        ``(count, batch_size)``, int32.
    """
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    begin, end = first * batch_size, (first + count) * batch_size
    epochs = range(begin // n, -(-end // n))
    stream = [np.random.default_rng([*words, epoch]).permutation(n) for epoch in epochs]
    skipped = begin - epochs.start * n
    rows = np.concatenate(stream)[skipped : skipped + count * batch_size]
    return rows.reshape(count, batch_size).astype(np.int32)


def _task(diffusion: Diffusion, data: ArrayLike, conditions: ArrayLike | None, key: PRNGKey) -> Task:
    require_key(key)
    data = jnp.asarray(data)
    require(data.ndim >= 1 and data.size > 0, "data", data.shape, "must be (n, *shape) with n >= 1")
    require(jnp.issubdtype(data.dtype, jnp.floating), "data", str(data.dtype), "must be of a floating dtype")
    require(bool(np.isfinite(np.asarray(data)).all()), "data", "NaN or infinity", "must be finite")
    if conditions is not None:
        conditions = jnp.asarray(conditions)
        require(conditions.shape == data.shape[:1], "conditions", conditions.shape, f"must be ({len(data)},)")
        require(jnp.issubdtype(conditions.dtype, jnp.integer), "conditions", str(conditions.dtype), "must be integers")
    return Task(diffusion, data, conditions, key)


def _chunks(start: int, config: TrainConfig, stops: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, last) with ends at multiples of chunk_steps, at the stops and at n_steps, wherever the run starts."""
    ends = {*range(config.chunk_steps, config.n_steps, config.chunk_steps), *stops, config.n_steps}
    for end in sorted(end for end in ends if end > start):
        yield start, end
        start = end


def _row_of(copies: ArrayLike, n: int) -> np.ndarray:
    """The row behind each place of the training set, ``(sum(copies),)`` int32: the index map of duplicates."""
    copies = np.asarray(copies)
    require(copies.shape == (n,), "copies", copies.shape, f"must be ({n},)")
    allowed = "must be integers >= 0, of which one is not 0"
    require(np.issubdtype(copies.dtype, np.integer), "copies", str(copies.dtype), allowed)
    require(bool((copies >= 0).all() and copies.any()), "copies", copies, allowed)
    total = sum(copies.tolist())
    require(total < 2**31, "copies", total, "must be fewer than 2^31 in all")
    return np.repeat(np.arange(n, dtype=np.int32), copies.astype(np.int64))


def mesh_for(batch_size: int) -> Mesh:
    """The most devices of this process that divide the batch; the default device alone, where one was chosen."""
    chosen = jax.config.jax_default_device
    devices = jax.local_devices() if chosen is None else jax.local_devices()[:1]
    most = max(k for k in range(1, len(devices) + 1) if batch_size % k == 0)
    return Mesh(np.array(devices[:most]), (BATCH,))


def _run_chunk(
    state: State,
    task: Task,
    config: TrainConfig,
    steps: tuple[int, int],
    row_of: np.ndarray | None,
    mesh: Mesh,
) -> tuple[State, np.ndarray]:
    first, last = steps
    count = last - first
    rows = batch_rows(task.key, len(task.data if row_of is None else row_of), config.batch_size, first, count)
    rows = rows if row_of is None else row_of[rows]
    length = min(config.chunk_steps, config.n_steps)  # one shape for all chunks, so one compilation
    if config.loop == "scan":
        rows = np.pad(rows, ((0, length - count), (0, 0)))
    if mesh.size > 1:
        rows = jax.device_put(rows, NamedSharding(mesh, PartitionSpec(None, BATCH)))
    if config.loop == "python":
        losses = []
        for step in range(first, last):
            state, loss = one_step(state, task, config.recipe, step, rows[step - first])
            losses.append(loss)
        return state, np.stack(jax.device_get(losses))
    state, losses = many_steps(state, task, config.recipe, first, count, rows)
    return state, np.asarray(losses[:count])


def _require_finite(state: State, losses: np.ndarray, first: int, config: TrainConfig, store: Store | None) -> None:
    if np.isfinite(losses).all() and np.isfinite(np.asarray(state.weights)).all():
        return
    step = first + int(np.argmax(~np.append(np.isfinite(losses), False)))
    rate = float(config.learning_rate_at(step))
    newest = None if store is None else store.newest
    kept = "no checkpoint was written" if newest is None else f"the last good checkpoint is {newest}"
    raise NonFiniteLossError(f"the loss is not finite at step {step} (learning rate {rate:.3g}); {kept}")
