"""What every detector shares: one signature, what it needs, what it costs, and one direction for all."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.memory import points_at_once
from plap_jax.parallel import map_points
from plap_jax.sampling import NO_CONDITION
from plap_jax.typing import Array, ArrayLike, PRNGKey, require

Need = Literal["image", "prompt", "noise", "training data"]
NEEDS: tuple[Need, ...] = get_args(Need)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Query:
    """What is known about one image, or with a leading axis n about many.

    Images and noise may be of half precision: all detectors compute in float32 at least (``Diffusion``).

    Attributes:
        image: ``(*shape)``, the clean image, generated or not; None where it is not known (not generated yet).
        prompt: the condition that the network is told, an integer; −1 or None: not known, and the network is told
            nothing.
        noise: x at t_max ``(*shape)`` from which the image is generated, as of ``plap_jax.sampling.initial_point``.
        guidance: g of classifier-free guidance with which it is generated; no unit.
    """

    image: Array | None = None
    prompt: ArrayLike | None = None
    noise: Array | None = None
    guidance: ArrayLike = 1.0


class Detector(ABC):
    """A statistic of one query, **higher = more memorized** for all inputs alike; see ``scores``.

    A frozen dataclass, registered with JAX: noise levels are data, so that another one compiles nothing again. It
    declares what it needs, whether it uses a prompt that it does not need, and what it costs.

    To JAX's comparison of structures two dataclasses of equal fields are the same: hand a detector to ``scores`` or
    ``map_points``, which tell classes apart, or close over it, but do not pass several kinds through one ``jit``.
    """

    needs: ClassVar[frozenset[Need]]
    takes_prompt: ClassVar[bool] = False

    @abstractmethod
    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The statistic of one query, a scalar, float32 at least.

        Args:
            model: whose network takes −1 (or None) for "no condition".
            query: with all that ``needs`` names.
            key: randomness; the same key gives all images the same directions or noise, which makes them comparable.
        """

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels at which the network is asked, of those that are parameters."""
        return (self.sigma,) if hasattr(self, "sigma") else ()

    def check(self, schedule: Schedule) -> None:
        """Refuse noise levels that the schedule does not have.

        Raises:
            ValueError: naming ``sigma``.
        """
        for level in self.levels:
            schedule.time_at(level)

    @abstractmethod
    def nfe(self, dim: int) -> int:
        """Network evaluations for one image of ``dim`` coordinates; a Jacobian-vector product counts as two."""

    def scores(
        self,
        model: Diffusion,
        queries: Query,
        *,
        key: PRNGKey,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | bool = False,
    ) -> np.ndarray:
        """The statistic of n queries, ``(n,)``.

        Args:
            model: as for ``statistic``.
            queries: fields with leading axis n, except guidance, which may be one number for all. Fields that the
                detector does not use may be None.
            key: one for all queries.
            batch_size: queries at a time; None takes as many as ``plap_jax.memory`` allows: about 4,096 evaluations of
                small images, in inverse proportion to d from d = 256 on.
            progress: as in ``plap_jax.parallel.map_points``.

        Raises:
            ValueError: something that the detector needs is missing, fields of different length, or a statistic that
                is not finite.
        """
        queries, n = self._checked(queries)
        floating = queries.image is None or jnp.issubdtype(jnp.result_type(queries.image), jnp.floating)
        require(floating, "queries.image", jnp.result_type(queries.image), "must be of a floating dtype, in [-1, 1]")
        self.check(model.schedule)  # refused here: in the statistic noise levels are traced
        shape = np.shape(queries.noise if queries.image is None else queries.image)[1:]
        dim = math.prod(shape)
        size = batch_size or points_at_once(dim, self.nfe(dim))
        fn = Partial(_statistic, self, model, key)
        found = map_points(fn, np.arange(n), queries, batch_size=size, progress=progress)
        return self._finite(found)

    def _checked(self, queries: Query) -> tuple[Query, int]:
        """Only what this detector uses, each with leading axis n."""
        fields = {"image": queries.image, "prompt": queries.prompt, "noise": queries.noise}
        for name, value in fields.items():
            needed = f"is needed by {type(self).__name__}"
            require(value is not None or name not in self.needs, f"queries.{name}", value, needed)
        if queries.prompt is not None:
            whole = jnp.issubdtype(jnp.result_type(queries.prompt), jnp.integer) and np.ndim(queries.prompt) == 1
            allowed = "must be one integer per image, >= -1"
            good = whole and bool(np.all(np.asarray(queries.prompt) >= NO_CONDITION))
            require(good, "queries.prompt", np.asarray(queries.prompt).ravel()[:3], allowed)
        if queries.prompt is not None and "prompt" in self.needs:
            known = bool(np.all(np.asarray(queries.prompt) != NO_CONDITION))
            require(known, "queries.prompt", NO_CONDITION, f"a prompt is needed by {type(self).__name__}")
        used = self.needs | ({"prompt"} if self.takes_prompt else set())
        fields = {name: value if name in used else None for name, value in fields.items()}
        lengths = {len(np.atleast_1d(value)) for value in fields.values() if value is not None}
        require(len(lengths) == 1, "queries", sorted(lengths), "must hold fields of one length, at least one")
        (n,) = lengths
        guidance = np.asarray(queries.guidance, np.float32)
        good = guidance.shape in ((), (n,)) and bool(np.isfinite(guidance).all())
        require(good, "queries.guidance", queries.guidance, f"must be one finite number, or one for each of {n}")
        guidance = np.broadcast_to(guidance, (n,))
        return replace(queries, **fields, guidance=guidance), n

    def _finite(self, found: np.ndarray) -> np.ndarray:
        broken = np.flatnonzero(~np.isfinite(found))
        allowed = f"must be finite; {broken.size} of {len(found)} are not, the first are {broken[:3].tolist()}"
        require(broken.size == 0, f"{type(self).__name__}.statistic", found[broken[:1]], allowed)
        return found


def _statistic(detector: Detector, model: Diffusion, key: PRNGKey, index: Array, query: Query) -> Array:
    return detector.statistic(model, query, key)


def gap_at(model: Diffusion, t: ArrayLike, prompt: ArrayLike) -> Partial:
    """x ↦ s(x, t | prompt) − s(x, t) = ∇ log q_t(prompt | x): the gap score, a pytree; two evaluations.

    Args:
        model: whose network takes −1 for "no condition".
        t: time, may be traced.
        prompt: an integer; −1 gives a gap of exactly 0.
    """
    return Partial(_gap, model, t, prompt)


def both_scores(model: Diffusion, x: Array, t: ArrayLike, prompt: ArrayLike) -> tuple[Array, Array]:
    """(s(x, t), s(x, t | prompt)), ``(*shape)`` each."""
    prompts = jnp.stack([jnp.full_like(jnp.asarray(prompt), NO_CONDITION), jnp.asarray(prompt)])
    unconditional, conditional = jax.vmap(model.score, in_axes=(None, None, 0))(x, t, prompts)
    return unconditional, conditional


def _gap(model: Diffusion, t: Array, prompt: Array, x: Array) -> Array:
    unconditional, conditional = both_scores(model, x, t, prompt)
    return conditional - unconditional


def norm(x: Any) -> Array:
    """‖x‖₂ over all coordinates."""
    return jnp.linalg.norm(jnp.ravel(x))
