"""What the whole library shares: array types, score functions, estimates with standard errors, argument checks.

Layer 0: imports nothing from the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
PRNGKey = jax.Array


class ScoreFn(Protocol):
    """A score function: takes one point, returns the gradient of the log-density there.

    s = ∇ log q, ``(*shape) -> (*shape)``, 1/unit.

    For use inside ``jit`` make it a pytree whose arrays are data, so that new values do not recompile: a network
    module, or a ``Partial`` such as ``Partial(GaussianMixture.score, q)``.

    Example:
        >>> score: ScoreFn = lambda x: -x  # of N(0, I)
        >>> round(float(flux(score, jnp.zeros(3), radius=0.5, key=jax.random.key(0)).value), 4)
        1.0
    """

    def __call__(self, x: Array, /) -> Array:
        """The score at ``x``."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error and what it cost.

    value ± stderr, stderr = (sample standard deviation of the independent units) / √n_units.

    Attributes:
        value: the estimate, ``(*batch,)``, in the units of the quantity estimated.
        stderr: its standard error, same shape and units.
        nfe: score evaluations spent per point; a Jacobian-vector product counts as one.
        n_units: independent units behind ``stderr`` (single directions, pairs, blocks, replicates).
        n_zero: directions on which the score was exactly 0 while p < 2. They contribute 0.
        fixed_n_units: whether n_units was set in advance; False for ``adaptive_flux``, whose stopping depends on the
            data. Static: to stack estimates of both kinds, make it equal with ``dataclasses.replace`` first.

    Example:
        >>> kappa = Estimate(value=0.9, stderr=0.01, nfe=16, n_units=16)
        >>> [round(float(end), 3) for end in kappa.interval(0.95)]  # ± 2.13 standard errors: Student's t of 15 degrees
        [0.879, 0.921]
    """

    value: Any
    stderr: Any
    nfe: Any
    n_units: Any
    n_zero: Any = 0
    fixed_n_units: bool = field(default=True, metadata={"static": True})

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray] | tuple[float, float]:
        """Student's confidence interval, computed on the host.

        value ± t_{(1+level)/2, n_units−1} · stderr.

        Args:
            level: coverage, in (0, 1).

        Returns:
            Lower and upper ends as NumPy arrays of the shape of ``value``, or as numbers where it is a single one.

        Raises:
            ValueError: level outside (0, 1), or an estimate that is being traced by ``jit``.
        """
        require(0 < level < 1, "level", level, "must lie in (0, 1)")
        parts = [concrete(a) for a in (self.value, self.stderr, self.n_units)]
        require(
            all(a is not None for a in parts),
            "interval",
            "a traced value",
            "call .interval() outside of jit and vmap",
        )
        value, stderr, n_units = parts
        different, places = np.unique(n_units, return_inverse=True)  # few, of many estimates
        half = stats.t.ppf(0.5 + level / 2, different - 1)[places].reshape(np.shape(n_units)) * stderr
        low, high = value - half, value + half
        return (low, high) if np.ndim(low) else (float(low), float(high))


def max_abs(*arrays: Array) -> Array:
    """The largest |entry| over axis 0 of all arrays: divide by it and squares cannot overflow.

    1 where all entries are 0 or one is not finite; no gradient passes through it.
    """
    found = jnp.max(jnp.stack([jnp.max(jnp.abs(a), axis=0) for a in arrays]), axis=0)
    return jax.lax.stop_gradient(jnp.where((found > 0) & jnp.isfinite(found), found, 1))


def safe_sqrt(a: Array) -> Array:
    """√a with derivative 0 at a = 0, where the true one is infinite and would turn gradients into NaN."""
    vanishes = a == 0
    return jnp.where(vanishes, 0, jnp.sqrt(jnp.where(vanishes, 1, a)))


def standard_error(units: Array) -> Array:
    """Standard error of the mean: (sample standard deviation over axis 0) / √n, without overflow."""
    n, scale = units.shape[0], max_abs(units)
    within = units / scale
    return scale * safe_sqrt(jnp.sum((within - jnp.mean(within, axis=0)) ** 2, axis=0) / (n * (n - 1)))


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a bad argument in one line: its name, its value, and what is allowed.

    Raises:
        ValueError: ``condition`` is false.
    """
    if not condition:
        plain = float(str(value)) if isinstance(value, np.floating) else value  # 0.3, not np.float32(0.3)
        raise ValueError(f"{name}={shown(repr(plain))}: {allowed}")


def shown(value: object) -> str:
    """``str(value)`` for an error message: on one line, and cut to 80 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def concrete(x: ArrayLike) -> np.ndarray | None:
    """``x`` as a NumPy array, or None while it is traced by ``jit``, ``vmap`` or ``grad``.

    Values can only be checked when they are known; traced ones give NaN instead, see ``one_or_nan``.
    """
    return None if isinstance(x, jax.core.Tracer) else np.asarray(x)


def accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype for sums over coordinates: float32 at least, whatever the network's."""
    return jnp.promote_types(dtype, jnp.float32)


def at_least_float32(x: ArrayLike) -> Array:
    """x itself, or x in float32 if it is float16 or bfloat16."""
    return jnp.asarray(x, accumulation_dtype(jnp.result_type(x)))


def require_scalar(name: str, value: ArrayLike, holds: Callable[[float], bool], allowed: str) -> None:
    """Refuse an argument that is not one real number, or whose known (not traced) value fails ``holds``.

    Raises:
        ValueError: naming the argument.
    """
    real = isinstance(value, Real | np.generic | np.ndarray | jax.Array) and jnp.ndim(value) == 0
    require(real, name, value, allowed)
    known = concrete(value)
    require(known is None or holds(float(known)), name, value, allowed)


def require_key(key: object) -> None:
    """Refuse what is no key of ``jax.random``, such as a seed.

    Raises:
        ValueError: naming ``key``.
    """
    dtype, ndim = getattr(key, "dtype", None), getattr(key, "ndim", None)
    typed = ndim == 0 and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = ndim == 1 and dtype == jnp.uint32  # as jax.random.PRNGKey makes them
    require(typed or raw, "key", key, "must be one key, such as jax.random.key(0)")


def require_order(p: ArrayLike) -> None:
    """Refuse an order p below 1, where |s|^{p−2} s is no longer bounded near critical points.

    Raises:
        ValueError: p is known (not traced) and below 1, or not a finite number.
    """
    reason = "must be a single finite number >= 1; for p < 1 the flux |s|^(p-1) is unbounded at critical points"
    require_scalar("p", p, lambda v: math.isfinite(v) and v >= 1, reason)


def require_ball(x: ArrayLike, radius: ArrayLike, p: ArrayLike) -> None:
    """Refuse a ball whose centre is not a valid point or whose radius is not positive, or an order p below 1.

    Raises:
        ValueError: naming ``x``, ``radius`` or ``p``.
    """
    require_order(p)
    require_point(x)
    require_scalar("radius", radius, lambda v: math.isfinite(v) and v > 0, "must be a single finite number > 0")


def one_or_nan(p: ArrayLike = 1.0, radius: ArrayLike = 1.0) -> Array | float:
    """1 where ``require_order`` and ``require_ball`` would accept p and radius, NaN elsewhere.

    A factor for results: traced arguments cannot be refused, and a NaN argument does not always reach the result
    (1^NaN = 1, and a score may ignore its point). For known arguments, which are already checked, it is 1.0.

    Args:
        p: order.
        radius: radius of a ball, of a shape that broadcasts against p.

    Returns:
        A float when both are known, else an array of the default float dtype.
    """
    if concrete(p) is not None and concrete(radius) is not None:
        return 1.0
    fits = jnp.isfinite(p) & jnp.greater_equal(p, 1) & jnp.isfinite(radius) & jnp.greater(radius, 0)
    return jnp.where(fits, 1.0, jnp.nan)


def require_point(x: ArrayLike) -> None:
    """Refuse a point that is not of a real floating dtype, is empty, or holds NaN or infinity.

    Raises:
        ValueError: naming ``x``.
    """
    dtype = jnp.result_type(x)
    require(jnp.issubdtype(dtype, jnp.floating), "x", dtype, "must be of a floating dtype")
    require(math.prod(jnp.shape(x)) > 0, "x", jnp.shape(x), "must have at least one coordinate")
    known = concrete(x)
    if known is not None:
        finite = bool(np.all(np.isfinite(known.astype(np.float64))))
        require(finite, "x", known, "must be finite (no NaN, no infinity)")
