"""Training steps of denoising score matching on the device: pure functions of the state and the step number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from plap_jax.diffusion import Diffusion
from plap_jax.training.config import TrainConfig
from plap_jax.typing import Array, ArrayLike, PRNGKey, accumulation_dtype


def denoising_loss(
    diffusion: Diffusion, x0: Array, t: ArrayLike, noise: Array, condition: ArrayLike | None = None
) -> Array:
    """Denoising loss at one point: mean squared error of the network's prediction.

    (1/d) |f(α x₀ + σ ε, t) − target|², for whatever the network f predicts (Ho et al. 2020).

    Args:
        diffusion: network and schedule.
        x0: one clean point, ``(*shape)``.
        t: time, a scalar.
        noise: ε, ``(*shape)``, standard normal.
        condition: the point's caption, if any.

    Returns:
        A scalar ≥ 0, float32 at least. For "eps" its mean over x₀ and ε is at least 1 − E|E[ε|x_t]|²/d.
    """
    error = diffusion.output(diffusion.noised(x0, t, noise), t, condition) - diffusion.target(x0, t, noise)
    return jnp.mean(jnp.square(error.astype(accumulation_dtype(x0.dtype))))


class State(NamedTuple):
    """What changes from step to step.

    Attributes:
        weights: ``(n_parameters,)``, all trained arrays in one vector: the optimizer is then a single pass over memory
            instead of dozens of small operations, which would cost more than a small network itself.
        average: their running average, same shape.
        optimizer: the state of optax.
    """

    weights: Array
    average: Array
    optimizer: Any


class Task(NamedTuple):
    """What stays the same: network structure and schedule, data ``(n, *shape)``, captions ``(n,)`` or None, the key."""

    diffusion: Diffusion
    data: Array
    conditions: Array | None
    key: PRNGKey


def initial_state(diffusion: Diffusion, config: TrainConfig) -> State:
    """The state at step 0, with the network's current weights."""
    weights, _ = _flatten(diffusion)
    # copies, because the state is donated to the first step and the caller keeps the network
    return State(jnp.copy(weights), jnp.copy(weights), _optimizer(config).init(weights))


def with_weights(diffusion: Diffusion, weights: Array) -> Diffusion:
    """``diffusion`` with the trained arrays replaced from ``(n_parameters,)``; NumPy's from NumPy's."""
    return _flatten(diffusion)[1](weights)


@partial(jax.jit, static_argnames="config", donate_argnames="state")
def one_step(state: State, task: Task, config: TrainConfig, step: ArrayLike, rows: Array) -> tuple[State, Array]:
    """One step on the points ``rows`` ``(batch_size,)``: the state after it and the loss before it."""
    return _step(state, task, config, step, rows)


@partial(jax.jit, static_argnames="config", donate_argnames="state")
def many_steps(
    state: State, task: Task, config: TrainConfig, first: ArrayLike, count: ArrayLike, rows: Array
) -> tuple[State, Array]:
    """``count`` steps from step ``first`` on ``rows`` ``(chunk_steps, batch_size)``; losses ``(chunk_steps,)``.

    The count is traced: a shorter last chunk or a resumed run does not recompile and takes bit for bit the same steps;
    loops compiled for different lengths might not.
    """

    def body(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, losses = carry
        state, loss = _step(state, task, config, first + i, rows[i])
        return state, losses.at[i].set(loss)

    losses = jnp.zeros(len(rows), accumulation_dtype(task.data.dtype))
    return lax.fori_loop(0, count, body, (state, losses))


def _step(state: State, task: Task, config: TrainConfig, step: ArrayLike, rows: Array) -> tuple[State, Array]:
    loss, gradient = jax.value_and_grad(_batch_loss)(state.weights, task, config, step, rows)
    updates, optimizer = _optimizer(config).update(gradient, state.optimizer, state.weights)
    weights = optax.apply_updates(state.weights, updates)
    decay = jnp.minimum(config.ema_decay, (1 + step) / (10 + step)).astype(weights.dtype)
    return State(weights, decay * state.average + (1 - decay) * weights, optimizer), loss


def _batch_loss(weights: Array, task: Task, config: TrainConfig, step: ArrayLike, rows: Array) -> Array:
    time_key, noise_key, caption_key = jax.random.split(jax.random.fold_in(task.key, step), 3)
    x0 = task.data[rows]
    t = task.diffusion.schedule.sample_times(time_key, len(rows))
    noise = jax.random.normal(noise_key, x0.shape, x0.dtype)
    condition = None
    if task.conditions is not None:
        withheld = jax.random.bernoulli(caption_key, config.condition_dropout, rows.shape)
        condition = jnp.where(withheld, -1, task.conditions[rows])
    loss = jax.vmap(denoising_loss, in_axes=(None, 0, 0, 0, None if condition is None else 0))
    return jnp.mean(loss(with_weights(task.diffusion, weights), x0, t, noise, condition))


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    clip = optax.identity() if config.grad_clip is None else optax.clip_by_global_norm(config.grad_clip)
    adam = optax.adamw(config.learning_rate_at, weight_decay=config.weight_decay)
    return optax.chain(clip, adam)


def _flatten(diffusion: Diffusion) -> tuple[Array, Callable[[Array], Diffusion]]:
    """All floating-point arrays of the network in one vector, and the inverse; other leaves stay as they are."""
    leaves, structure = jax.tree.flatten(diffusion.network)
    trained = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    vector, _ = ravel_pytree([leaf for leaf, is_trained in zip(leaves, trained, strict=True) if is_trained])

    sizes = [jnp.size(leaf) for leaf, is_trained in zip(leaves, trained, strict=True) if is_trained]

    def back(weights: Array) -> Diffusion:
        # np.split for NumPy arrays, to unpack a finished network without compiling. A split rather than slices: the
        # gradient of each slice would be a vector of full length, one per layer, all added up.
        split = np.split if isinstance(weights, np.ndarray) else jnp.split
        parts = iter(split(weights, np.cumsum(sizes)[:-1]))
        filled = [
            next(parts).reshape(leaf.shape).astype(leaf.dtype) if is_trained else leaf
            for leaf, is_trained in zip(leaves, trained, strict=True)
        ]
        return replace(diffusion, network=jax.tree.unflatten(structure, filled))

    return vector, back
