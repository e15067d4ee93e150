"""Many samples of a model: in batches, one key for all, each sample independent of how many there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol

import jax
import numpy as np

from plap_jax.diffusion import Diffusion
from plap_jax.parallel import map_points
from plap_jax.typing import Array, PRNGKey, require

START_BATCH = 4096  # starting points drawn at a time


class Sampler(Protocol):
    """(diffusion, key, x at t_max, condition) -> x₀, one point: ``DDIM``, ``ProbabilityFlow``, ``ReverseSDE``.

    Hashable, static under ``jit``.
    """

    def __call__(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None, /) -> Array:
        """One sample."""
        ...


class NonFiniteSampleError(ArithmeticError):
    """A sample holds NaN or infinity; the message says how many do, and what to look at."""


def initial_point(diffusion: Diffusion, key: PRNGKey, shape: tuple[int, ...]) -> Array:
    """x_T = σ(t_max) ε, ε ~ N(0, I): where generation starts, ``(*shape)``, default float dtype.

    Right as far as α(t_max) times the spread of the data is small against σ(t_max).
    """
    return diffusion.schedule.sigma(diffusion.schedule.t_max) * jax.random.normal(key, shape)


def starting_points(diffusion: Diffusion, key: PRNGKey, n: int, *, shape: tuple[int, ...]) -> np.ndarray:
    """The points at t_max from which ``sample`` with the same key generates: ``(n, *shape)``."""
    draw = _Draw(diffusion, key, None, tuple(shape))
    return map_points(draw.start, np.arange(n, dtype=np.int32), batch_size=START_BATCH)


def sample(
    diffusion: Diffusion,
    key: PRNGKey,
    n: int,
    *,
    shape: tuple[int, ...],
    sampler: Sampler,
    conditions: Any = None,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | bool = False,
) -> np.ndarray:
    """n samples; the i-th depends on (key, i, conditions_i) alone, not on n or the size of the batches.

    Other weights, guidance, keys and conditions compile nothing again.

    Args:
        diffusion: the model.
        key: randomness of all samples.
        n: number of samples, ≥ 1.
        shape: of one sample.
        sampler: ``DDIM``, ``ProbabilityFlow``, ``ReverseSDE``, or a hashable function with their arguments.
        conditions: ``(n,)`` integers, the condition of each sample (−1 for none); None for no condition.
        batch_size: samples drawn at a time, which bounds the memory.
        progress: True for a bar on stderr, or a function of (samples done, n), called after each batch.

    Returns:
        ``(n, *shape)``, default float dtype, in the units of the data.

    Raises:
        ValueError: n, shape or batch_size < 1, conditions of another shape or not integers, and what the sampler
            refuses.
        NonFiniteSampleError: a sample with NaN or infinity.
    """
    require(isinstance(n, Integral) and n >= 1, "n", n, "must be an integer >= 1")
    shape = tuple(shape)
    positive = bool(shape) and all(isinstance(size, Integral) and size >= 1 for size in shape)
    require(positive, "shape", shape, "must hold positive sizes, at least one")
    columns = () if conditions is None else (_checked_conditions(conditions, n),)
    draw = _Draw(diffusion, key, sampler, tuple(map(int, shape)))
    samples = map_points(draw, np.arange(n, dtype=np.int32), *columns, batch_size=batch_size, progress=progress)
    broken = np.flatnonzero(~np.isfinite(samples.reshape(n, math.prod(shape))).all(axis=1))
    if broken.size > 0:
        raise NonFiniteSampleError(
            f"{broken.size} of {n} samples are not finite, the first is sample {broken[0]}: the network returned "
            f"NaN or infinity there, or {sampler} did not reach its end"
        )
    return samples


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Draw:
    """i ↦ the i-th sample, as a pytree: model and key are data."""

    diffusion: Diffusion
    key: PRNGKey
    sampler: Sampler | None = field(metadata={"static": True})
    shape: tuple[int, ...] = field(metadata={"static": True})

    def __call__(self, index: Array, condition: Array | None = None) -> Array:
        return self.sampler(self.diffusion, self._keys(index)[1], self.start(index), condition)

    def start(self, index: Array) -> Array:
        """Where the i-th sample starts."""
        return initial_point(self.diffusion, self._keys(index)[0], self.shape)

    def _keys(self, index: Array) -> Array:
        """Of the start and of the path of one sample."""
        return jax.random.split(jax.random.fold_in(self.key, index))


def _checked_conditions(conditions: Any, n: int) -> np.ndarray:
    conditions = np.asarray(conditions)
    require(conditions.shape == (n,), "conditions", conditions.shape, f"must have shape ({n},), one for each sample")
    whole = np.issubdtype(conditions.dtype, np.integer)
    require(whole, "conditions", conditions.dtype, "must be integers, -1 for no condition")
    return conditions.astype(np.int32)
