"""What all methods share: one signature, that of a sampler, declared needs, and evaluations that are counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.mitigation.gap import unguided
from plap_jax.parallel import map_points
from plap_jax.sampling import DDIM, NO_CONDITION, ProbabilityFlow, ReverseSDE, Sampler, initial_point
from plap_jax.sampling.batches import (
    checked_conditions,
    checked_shape,
    keys_of,
    require_diffusion,
    require_finite_samples,
)
from plap_jax.sampling.clock import require_continuous
from plap_jax.typing import Array, PRNGKey, at_least_float32, require, require_key, require_point

Requirement = Literal["prompt", "derivatives"]
Progress = Callable[[int, int], None] | bool
SAMPLERS = (DDIM, ProbabilityFlow, ReverseSDE)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled:
    """One sample, or n of them with a leading axis, and what it took.

    Attributes:
        image: ``(*shape)``.
        nfe: evaluations of the network at one point, ``()``; with guidance two for each question to the model, a
            derivative counts as two more.
        notes: what the method did, name → ``()`` or one number for each of its checks; see the methods.
    """

    image: Array
    nfe: Array
    notes: dict[str, Array]


class Mitigation(ABC):
    """A sampler that keeps a model from copying its training images: it stands wherever a ``Sampler`` does.

    A frozen dataclass registered with JAX around one of the samplers: the sampler and counts are static, strengths are
    data, so that another strength compiles nothing. Equal ones are equal and hash alike, as samplers do.

    The model is handed over as for plain sampling: with guidance as ``plap_jax.sampling.guided`` gives it, or without.
    ``needs`` says what a method cannot do without.
    """

    sampler: Sampler
    needs: ClassVar[frozenset[Requirement]] = frozenset()

    def __call__(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> Array:
        """One sample; arguments as for ``DDIM``.

        Returns:
            x₀ ``(*shape)``, float32 at least.

        Raises:
            ValueError: an invalid start, or as ``check``.
        """
        return self.sampled(diffusion, key, start, condition).image

    def sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> Sampled:
        """One sample with its cost and what was done; arguments and errors as for a call."""
        require_point(start)
        self.check(diffusion, prompted=condition is not None)
        return self._sampled(diffusion, key, at_least_float32(start), condition)

    @abstractmethod
    def _sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
        """``sampled``, after the checks."""

    def check(self, diffusion: Diffusion, *, prompted: bool) -> None:
        """Refuse a model, or a sampler, that the method cannot work with.

        Raises:
            ValueError: no prompt or no derivatives where the method needs them, or a sampler that it does not take or
                that does not fit the schedule.
        """
        name = type(self).__name__
        require_sampler(self.sampler, diffusion.schedule)
        require(prompted or "prompt" not in self.needs, "conditions", None, f"{name} needs a prompt for each sample")
        allowed = f"{name} needs derivatives, and this model is PyTorch called from JAX: load it with bridge='torchax'"
        require(diffusion.has_derivatives or "derivatives" not in self.needs, "model", "without derivatives", allowed)

    def _many(self, draw: Draw, indices: np.ndarray, columns: tuple, batch_size: int, progress: Progress) -> Sampled:
        """The samples of these numbers, as NumPy arrays."""
        return map_points(draw, indices, *columns, batch_size=batch_size, progress=progress)


def generate(
    diffusion: Diffusion,
    key: PRNGKey,
    n: int,
    *,
    shape: tuple[int, ...],
    method: Mitigation,
    conditions: Any = None,
    first: int = 0,
    batch_size: int = 256,
    progress: Progress = False,
) -> Sampled:
    """Generate n samples by a method, with the evaluations that each took and what was done to it.

    The i-th starts from the same noise as the i-th of ``plap_jax.sampling.sample`` with the same key, and depends on
    (key, i, conditions_i) alone. New weights, strengths, guidance, keys and conditions do not recompile.

    Args:
        diffusion, key, n, shape, conditions, batch_size, progress: as for ``plap_jax.sampling.sample``.
        method: one of ``plap_jax.mitigation``.
        first: number of the first sample, ≥ 0: samples first … first + n − 1, of a longer list made in parts.

    Returns:
        ``Sampled`` of NumPy arrays with leading axis n.

    Raises:
        ValueError: as ``plap_jax.sampling.sample``, or anything that the method refuses.
        NonFiniteSampleError: a sample with NaN or infinity.

    Example:
        >>> model = Diffusion(ResidualMLP((2,), rngs=nnx.Rngs(0)), VPLinear(), conditioning="log_snr")
        >>> generate(model, jax.random.key(0), 10, shape=(2,), method=Unmitigated(DDIM(50))).nfe[:2]
        array([50, 50])
    """
    require_diffusion(diffusion)
    require_key(key)
    require(isinstance(n, Integral) and n >= 1, "n", n, "must be an integer >= 1")
    require(isinstance(first, Integral) and first >= 0, "first", first, "must be an integer >= 0")
    kind = isinstance(method, Mitigation)
    require(kind, "method", type(method).__name__, "must be a method of plap_jax.mitigation")
    shape = checked_shape(shape)
    columns = () if conditions is None else (checked_conditions(conditions, n),)
    prompted = bool(columns) and bool(np.any(columns[0] != NO_CONDITION))
    method.check(diffusion, prompted=prompted)
    draw = Draw(diffusion, key, method, shape)
    numbers = np.arange(first, first + n, dtype=np.int32)
    found = method._many(draw, numbers, columns, batch_size, progress)
    require_finite_samples(found.image, method.sampler)
    return found


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draw:
    """Maps i to the i-th sample; a pytree with model, key and strengths as data."""

    diffusion: Diffusion
    key: PRNGKey
    method: Mitigation
    shape: tuple[int, ...] = field(metadata={"static": True})

    def __call__(self, index: Array, condition: Array | None = None) -> Sampled:
        """One sample."""
        return self.method._sampled(self.diffusion, self.path_key(index), self.start(index), condition)

    def start(self, index: Array) -> Array:
        """Where the i-th sample starts, as for ``plap_jax.sampling.sample``."""
        return at_least_float32(initial_point(self.diffusion, keys_of(self.key, index)[0], self.shape))

    def path_key(self, index: Array) -> PRNGKey:
        """The randomness of its way."""
        return keys_of(self.key, index)[1]


def require_sampler(sampler: Sampler, schedule: Schedule) -> None:
    """Refuse a sampler whose steps and evaluations are not known here, or that cannot follow the schedule.

    Raises:
        ValueError: naming what does not fit.
    """
    allowed = "must be a DDIM, ProbabilityFlow or ReverseSDE"
    require(isinstance(sampler, SAMPLERS), "sampler", type(sampler).__name__, allowed)
    if isinstance(sampler, DDIM):
        sampler.times(schedule)
    else:
        require_continuous(schedule)


def cost_of_asking(diffusion: Diffusion, condition: Any) -> int:
    """Evaluations of the network for each question to the model: two with guidance and a prompt, else one."""
    return 1 if condition is None or unguided(diffusion)[0] is diffusion else 2


def require_strength(name: str, value: Any, holds: Callable[[float], bool], allowed: str) -> None:
    """Refuse a strength that is out of range; what JAX puts into its place when it rebuilds a pytree passes.

    Raises:
        ValueError: naming the strength.
    """
    if isinstance(value, bool | int | float | np.number | str) or value is None:
        real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        require(real and bool(holds(float(value))), name, value, allowed)


def counted(sampler: Sampler, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> tuple[Array, Array]:
    """One plain sample, and its evaluations of the network."""
    image, asked = sampler.counted(diffusion, key, start, condition)
    return image, jnp.asarray(asked * cost_of_asking(diffusion, condition), jnp.int32)
