"""The training loop on the host: order of the data, checkpoints, progress, and stopping when the loss breaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from plap_jax.diffusion import Diffusion
from plap_jax.training.config import TrainConfig
from plap_jax.training.finished import Snapshots
from plap_jax.training.resume import Store, identity
from plap_jax.training.steps import State, Task, initial_state, many_steps, one_step, with_weights
from plap_jax.typing import ArrayLike, PRNGKey, accumulation_dtype, require


class TrainResult(NamedTuple):
    """What training leaves.

    Attributes:
        diffusion: with the averaged weights.
        losses: ``(n_steps,)``, the loss of each step's batch, from before its update.
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
    conditions: ArrayLike | None = None,
    progress: bool = False,
    on_chunk: Callable[[int, np.ndarray], None] | None = None,
) -> TrainResult:
    """Minimize the mean of ``denoising_loss`` over data, times and noise, from the weights that the network has.

    Args:
        diffusion: network and schedule; all floating-point arrays of the network are trained.
        data: ``(n, *shape)``, floating; kept on the device.
        key: decides order, times and noise.
        config: see ``TrainConfig``.
        checkpoint_dir: where to keep ``step_XXXXXXXX/``, the newest; if there is one, training resumes there. One
            run at a time.
        snapshot_dir: where to keep ``step_XXXXXXXX/``, the network with the weights averaged so far, as
            ``save_diffusion`` writes it; see ``load_snapshots``. What stands there is replaced, except what this run
            itself left before it was killed. The training is the same, bit for bit, with and without.
        snapshot_steps: numbers of steps after which to do so, in 0 … n_steps; 0 is the network as given.
        conditions: ``(n,)`` integers, the captions, or None.
        progress: show a bar with step, loss and steps per second.
        on_chunk: called as ``on_chunk(step, losses)`` after each chunk, with the number of steps so far and the
            losses of the chunk. Snapshots end a chunk.

    Raises:
        ValueError: data or conditions of a wrong shape or dtype, or not finite; snapshot_steps outside 0 … n_steps,
            or without a snapshot_dir.
        CheckpointError: the newest checkpoint is damaged, or of another network, data, key or config; or a snapshot
            from before it is missing or damaged.
        NonFiniteLossError: the last good checkpoint is kept.
        OSError: ``checkpoint_dir`` or ``snapshot_dir`` cannot be written.
    """
    task = _task(diffusion, data, conditions, key)
    snapshots = Snapshots(snapshot_dir, snapshot_steps, config)
    state = initial_state(diffusion, config)
    losses = np.zeros(config.n_steps, accumulation_dtype(task.data.dtype))
    store, start = None, 0
    if checkpoint_dir is not None:
        store = Store(checkpoint_dir, identity(task, state.weights, config))
        state, losses, start = store.load(state, losses)
    saved = start
    snapshots.begin(state, diffusion, start)
    with tqdm(total=config.n_steps, initial=start, unit="step", disable=not progress) as bar:
        for first, last in _chunks(start, config, snapshots.steps):
            state, chunk = _run_chunk(state, task, config, first, last)
            _require_finite(state, chunk, first, config, store)
            losses[first:last] = chunk
            snapshots.save(state, diffusion, last)  # before the checkpoint: a resumed run finds all those behind it
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

    After e epochs, n e places of the stream, each row has been visited exactly e times: copies in proportion to
    their number. A function of its arguments alone, drawn on the host, where a permutation costs microseconds.

    Args:
        key: decides the permutations, one per epoch.
        n: rows of the data.
        batch_size: rows per step; a batch goes on into the next epoch where one ends.
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


def _run_chunk(state: State, task: Task, config: TrainConfig, first: int, last: int) -> tuple[State, np.ndarray]:
    count = last - first
    rows = batch_rows(task.key, len(task.data), config.batch_size, first, count)
    if config.loop == "python":
        losses = []
        for step in range(first, last):
            state, loss = one_step(state, task, config.recipe, step, rows[step - first])
            losses.append(loss)
        return state, np.stack(jax.device_get(losses))
    length = min(config.chunk_steps, config.n_steps)  # one shape for all chunks, so one compilation
    rows = np.pad(rows, ((0, length - count), (0, 0)))
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
