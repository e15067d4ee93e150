"""Generate many samples: in batches, from one key, the i-th sample the same however many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol

import jax
import numpy as np

from plap_jax.diffusion import Diffusion
from plap_jax.parallel import map_points
from plap_jax.typing import Array, PRNGKey, require, require_key

START_BATCH = 4096  # starting points drawn at a time


class Sampler(Protocol):
    """A sampler of one point: ``DDIM``, ``ProbabilityFlow`` or ``ReverseSDE``.

    (diffusion, key, x at t_max, condition) -> x₀. Hashable, static under ``jit``.
    """

    def __call__(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None, /) -> Array:
        """One sample."""
        ...


class NonFiniteSampleError(ArithmeticError):
    """Samples hold NaN or infinity; the message says how many, and what to check."""


def initial_point(diffusion: Diffusion, key: PRNGKey, shape: tuple[int, ...]) -> Array:
    """The noise from which generation starts: x_T = σ(t_max) ε, ε ~ N(0, I), ``(*shape)``, default float dtype.

    Accurate if α(t_max) times the spread of the data is small compared with σ(t_max).
    """
    return diffusion.schedule.sigma(diffusion.schedule.t_max) * jax.random.normal(key, shape)


def starting_points(diffusion: Diffusion, key: PRNGKey, n: int, *, shape: tuple[int, ...]) -> np.ndarray:
    """The noise from which ``sample`` with the same key generates, ``(n, *shape)``."""
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
    """Generate n samples from a diffusion model.

    The i-th sample depends on (key, i, conditions_i) alone, not on n or the batch size. New weights, guidance, keys and
    conditions do not recompile.

    Args:
        diffusion: the model.
        key: randomness of all samples.
        n: number of samples, ≥ 1.
        shape: of one sample.
        sampler: ``DDIM``, ``ProbabilityFlow``, ``ReverseSDE``, or a hashable function with the same arguments.
        conditions: ``(n,)`` integers, the condition of each sample (−1 for none); None for no condition.
        batch_size: samples at a time, which bounds the memory.
        progress: True for a bar on stderr, or a function of (samples done, n), called after each batch.

    Returns:
        ``(n, *shape)``, default float dtype, in the units of the data.

    Raises:
        ValueError: n, shape or batch_size < 1, conditions of another shape or not integers, or anything that the
            sampler refuses.
        NonFiniteSampleError: a sample with NaN or infinity.

    Example:
        >>> model = Diffusion(ResidualMLP((2,), rngs=nnx.Rngs(0)), VPLinear(), conditioning="log_snr")
        >>> sample(model, jax.random.key(0), 10, shape=(2,), sampler=DDIM(50)).shape
        (10, 2)
    """
    require_diffusion(diffusion)
    require_key(key)
    require(isinstance(n, Integral) and n >= 1, "n", n, "must be an integer >= 1")
    shape = checked_shape(shape)
    columns = () if conditions is None else (checked_conditions(conditions, n),)
    draw = _Draw(diffusion, key, sampler, shape)
    samples = map_points(draw, np.arange(n, dtype=np.int32), *columns, batch_size=batch_size, progress=progress)
    require_finite_samples(samples, sampler)
    return samples


def require_diffusion(diffusion: object) -> None:
    """Refuse what is no ``Diffusion``.

    Raises:
        ValueError: saying how a model that an audit takes becomes one.
    """
    allowed = "must be a Diffusion; that of a UserModel is plap_jax.pretrained.as_pretrained(model).diffusion"
    require(isinstance(diffusion, Diffusion), "diffusion", type(diffusion).__name__, allowed)


def require_finite_samples(samples: np.ndarray, sampler: object) -> None:
    """Refuse samples ``(n, *shape)`` with NaN or infinity.

    Raises:
        NonFiniteSampleError: saying how many, and what to check.
    """
    n = len(samples)
    broken = np.flatnonzero(~np.isfinite(samples.reshape(n, -1)).all(axis=1))
    if broken.size > 0:
        raise NonFiniteSampleError(
            f"{broken.size} of {n} samples are not finite, the first is sample {broken[0]}: the network returned "
            f"NaN or infinity there, or {sampler} failed"
        )


def checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one sample.

    Raises:
        ValueError: one without axes, or with an empty one.
    """
    shape = tuple(shape)
    positive = bool(shape) and all(isinstance(size, Integral) and size >= 1 for size in shape)
    require(positive, "shape", shape, "must hold positive sizes, at least one")
    return tuple(map(int, shape))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Draw:
    """Maps i to the i-th sample; a pytree with model and key as data."""

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
        return keys_of(self.key, index)


def keys_of(key: PRNGKey, index: Array) -> Array:
    """The keys of the start and of the path of the sample with this number, ``(2,)``."""
    return jax.random.split(jax.random.fold_in(key, index))


def checked_conditions(conditions: Any, n: int) -> np.ndarray:
    """The conditions of n samples, ``(n,)`` int32.

    Raises:
        ValueError: of another shape, or not integers.
    """
    conditions = np.asarray(conditions)
    require(conditions.shape == (n,), "conditions", conditions.shape, f"must have shape ({n},), one for each sample")
    whole = np.issubdtype(conditions.dtype, np.integer)
    require(whole, "conditions", conditions.dtype, "must be integers, -1 for no condition")
    return conditions.astype(np.int32)
