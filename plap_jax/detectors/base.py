"""What all detectors share: one signature, declared needs and cost, and higher = more memorized."""

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
from plap_jax.typing import Array, ArrayLike, PRNGKey, at_least_float32, require

Need = Literal["image", "prompt", "noise", "training data"]
NEEDS: tuple[Need, ...] = get_args(Need)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Query:
    """What is known about one image, or about n images with a leading axis n.

    Images and noise may be half precision: all detectors compute in float32 at least (``Diffusion``).

    Attributes:
        image: ``(*shape)``, the clean image, real or generated; None if unknown (not generated yet).
        prompt: the condition given to the network, an integer; −1 or None: unknown, the network runs unconditionally.
        noise: x at t_max ``(*shape)`` from which the image is generated, as from ``plap_jax.sampling.initial_point``.
        guidance: scale g of classifier-free guidance in its generation; no unit.
    """

    image: Array | None = None
    prompt: ArrayLike | None = None
    noise: Array | None = None
    guidance: ArrayLike = 1.0


class Detector(ABC):
    """A memorization score for images, **higher = more memorized** whatever the detector; see ``scores``.

    A frozen dataclass registered with JAX: noise levels are data, so that a new level does not recompile. It declares
    what it needs, whether it can use a prompt, whether it differentiates the network, and what it costs.

    JAX takes two dataclasses with equal fields for the same structure. Use ``scores`` or ``map_points``, which
    distinguish classes, or close over the detector; do not pass detectors of several classes through one ``jit``.
    """

    needs: ClassVar[frozenset[Need]]
    takes_prompt: ClassVar[bool] = False
    needs_derivatives: ClassVar[bool] = False

    @abstractmethod
    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The score of one query, a scalar, float32 at least.

        Args:
            model: network and schedule; the network takes −1 (or None) for "no condition".
            query: with every field that ``needs`` names.
            key: randomness; the same key gives all images the same directions or noise, which makes them comparable.
        """

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels among the parameters, at which the network is evaluated."""
        return (self.sigma,) if hasattr(self, "sigma") else ()

    def check(self, schedule: Schedule) -> None:
        """Refuse noise levels that the schedule does not have.

        Raises:
            ValueError: naming ``sigma``.
        """
        for level in self.levels:
            schedule.time_at(level)

    def check_derivatives(self, model: Diffusion) -> None:
        """Refuse a model without derivatives where the statistic takes some.

        Raises:
            ValueError: naming the detector, and how such a model is loaded.
        """
        allowed = "needs derivatives, and this model is PyTorch called from JAX: load it with bridge='torchax'"
        require(model.has_derivatives or not self.needs_derivatives, "detector", type(self).__name__, allowed)

    @abstractmethod
    def nfe(self, dim: int) -> int:
        """Network evaluations per image of ``dim`` coordinates; a Jacobian-vector product counts as two."""

    def scores(
        self,
        model: Diffusion,
        queries: Query,
        *,
        key: PRNGKey,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | bool = False,
    ) -> np.ndarray:
        """The memorization scores of n queries, ``(n,)``; higher = more memorized.

        Args:
            model: as for ``statistic``.
            queries: fields with leading axis n, except guidance, which may be one number for all. Fields that the
                detector does not use may be None.
            key: one for all queries.
            batch_size: queries at a time; None: set by ``plap_jax.memory``, about 4,096 evaluations of small images
                at once and, from d = 256 on, inversely proportional to d.
            progress: as in ``plap_jax.parallel.map_points``.

        Raises:
            ValueError: a field that the detector needs is missing, fields of different length, or a score that is not
                finite.

        Example:
            >>> model = Diffusion(ResidualMLP((2,), rngs=nnx.Rngs(0)), VPLinear(), conditioning="log_snr")
            >>> FluxDensity(sigma=0.5).scores(model, Query(image=jnp.zeros((5, 2))), key=jax.random.key(0)).shape
            (5,)
        """
        queries, n = self._checked(queries)
        floating = queries.image is None or jnp.issubdtype(jnp.result_type(queries.image), jnp.floating)
        require(floating, "queries.image", jnp.result_type(queries.image), "must be of a floating dtype, in [-1, 1]")
        self.check(model.schedule)  # here, because in the statistic noise levels are traced
        self.check_derivatives(model)
        shape = np.shape(queries.noise if queries.image is None else queries.image)[1:]
        dim = math.prod(shape)
        size = batch_size or points_at_once(dim, self.nfe(dim))
        fn = Partial(_statistic, self, model, key)
        found = map_points(fn, np.arange(n), queries, batch_size=size, progress=progress)
        return self._finite(found)

    def _checked(self, queries: Query) -> tuple[Query, int]:
        """Only the fields this detector uses, each with leading axis n."""
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
    """The gap between conditional and unconditional score, as a function of the point; two evaluations each.

    x ↦ s(x, t | prompt) − s(x, t) = ∇ log q_t(prompt | x), a pytree.

    Args:
        model: network and schedule; the network takes −1 for "no condition".
        t: time, may be traced.
        prompt: an integer; −1 gives a gap of exactly 0.
    """
    return Partial(_gap, model, t, prompt)


def both_scores(model: Diffusion, x: Array, t: ArrayLike, prompt: ArrayLike) -> tuple[Array, Array]:
    """Unconditional and conditional score, (s(x, t), s(x, t | prompt)), ``(*shape)`` each."""
    prompts = jnp.stack([jnp.full_like(jnp.asarray(prompt), NO_CONDITION), jnp.asarray(prompt)])
    unconditional, conditional = jax.vmap(model.score, in_axes=(None, None, 0))(x, t, prompts)
    return unconditional, conditional


def _gap(model: Diffusion, t: Array, prompt: Array, x: Array) -> Array:
    unconditional, conditional = both_scores(model, x, t, prompt)
    return conditional - unconditional


def unscaled(model: Diffusion, x: Array, t: ArrayLike) -> Array:
    """x in the place of x_t, not multiplied by α, as published for variance-preserving schedules.

    x √(α² + σ²), at most x itself: x under VP, VE and EDM.

    Under flow matching α² + σ² < 1, and x itself would be off by more noise than x_t has: 1 − α = σ there, and not
    σ²/2. So scaled it means the same as under a variance-preserving schedule at the same σ/α.

    Args:
        model: network and schedule.
        x: a clean image, or noise of unit variance at t_max, ``(*shape)``.
        t: time, may be traced.
    """
    x = at_least_float32(x)
    alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
    return x * jnp.minimum(1, jnp.sqrt(alpha**2 + sigma**2)).astype(x.dtype)


def norm(x: Any) -> Array:
    """Euclidean norm over all coordinates."""
    return jnp.linalg.norm(jnp.ravel(x))
