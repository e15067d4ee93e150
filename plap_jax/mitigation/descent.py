"""Adam until a number is small enough, at most so many steps, as two of the methods take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from plap_jax.typing import Array, ArrayLike


def descend(
    loss: Callable[[Any], Array], start: Any, *, target: ArrayLike, learning_rate: ArrayLike, max_steps: ArrayLike
) -> tuple[Any, Array, Array, Array]:
    """Minimise ``loss`` from ``start`` until it is at most ``target``.

    Returns:
        The point, the loss there, the loss at the start, and the number of steps taken; value and derivative of the
        loss are taken once more than that.
    """
    adam = optax.scale_by_adam()
    with_slope = jax.value_and_grad(loss)
    first, slope = with_slope(start)

    def goes_on(state: tuple) -> Array:
        _, _, value, _, steps = state
        return (value > target) & (steps < max_steps)

    def one(state: tuple) -> tuple:
        point, memory, _, slope, steps = state
        change, memory = adam.update(slope, memory)
        point = jax.tree.map(lambda a, d: (a - learning_rate * d).astype(a.dtype), point, change)
        return point, memory, *with_slope(point), steps + 1

    state = (start, adam.init(start), first, slope, jnp.asarray(0, jnp.int32))
    point, _, last, _, steps = jax.lax.while_loop(goes_on, one, state)
    return point, last, first, steps
