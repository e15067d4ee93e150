"""The estimators under study, and many independent repeats of one of them at many points and orders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from experiments.estimator_study.scenes import Scene
from plap_jax import flux, p_laplacian, p_laplacian_estimate, volume
from plap_jax._flux import circle_flux
from plap_jax.balls import flux_density
from plap_jax.directions import KINDS
from plap_jax.typing import Array, Estimate, PRNGKey, ScoreFn

# Score evaluations at a time: bounds the memory.
EVALUATIONS = 8192
# Directions drawn for a reference in more than two dimensions.
REFERENCE = 2**17


@dataclass(frozen=True)
class StudiedEstimator:
    """One way to estimate.

    Attributes:
        family: boundary, volume (both of κ_p) or pointwise (Δ_p u at the point).
        name: of the variant.
        estimate: (score_fn, x, radius, p, key, n) → Estimate.
        cost: score evaluations and Jacobian products of n directions, points or probes in dimension d.
    """

    family: str
    name: str
    estimate: Callable[..., Estimate]
    cost: Callable[[int, int], int]


def _boundary(score_fn: ScoreFn, x: Array, radius: Array, p: Array, key: PRNGKey, n: int, **how: object) -> Estimate:
    return flux(score_fn, x, radius=radius, p=p, key=key, n_samples=n, **how)


def _volume(score_fn: ScoreFn, x: Array, radius: Array, p: Array, key: PRNGKey, n: int, divergence: str) -> Estimate:
    average = volume(score_fn, x, radius=radius, p=p, key=key, n_samples=n, divergence=divergence)
    return flux_density(average, radius, x.size)


def _pointwise(score_fn: ScoreFn, x: Array, _: Array, p: Array, key: PRNGKey, n: int) -> Estimate:
    return p_laplacian_estimate(score_fn, x, p, key=key, n_probes=n)


PLAIN = "iid"
BOUNDARY = [StudiedEstimator("boundary", kind, partial(_boundary, directions=kind), lambda n, d: n) for kind in KINDS]
VOLUME = [
    StudiedEstimator("volume", "exact divergence", partial(_volume, divergence="exact"), lambda n, d: n * (d + 2)),
    StudiedEstimator(
        "volume", "finite differences", partial(_volume, divergence="finite_difference"), lambda n, d: 2 * n * d
    ),
]
POINTWISE = [StudiedEstimator("pointwise", "hutchinson", _pointwise, lambda n, d: n + 2)]


def chosen(names: list[str] | None, methods: Sequence[StudiedEstimator]) -> list[StudiedEstimator]:
    """The methods of these names; None: all."""
    return [method for method in methods if names is None or method.name in names]


def fits(method: StudiedEstimator, n: int) -> bool:
    """Whether the method takes so few directions, points or probes: two units at least."""
    return n >= (4 if method.name == "antithetic" else 2)


def repeated(
    method: StudiedEstimator,
    scene: Scene,
    points: np.ndarray,
    orders: tuple[float, ...],
    key: PRNGKey,
    n: int,
    repeats: int,
) -> Estimate:
    """Estimates of all points at all orders, ``(repeats, n orders, n points)`` each field, as NumPy arrays.

    All points and orders share the directions of a repeat, and so do methods with the same directions.
    """
    most = max(1, EVALUATIONS // (len(points) * method.cost(n, scene.dim)))
    # A divisor: what is left over would be compiled apart.
    at_once = max(b for b in range(1, min(most, repeats) + 1) if repeats % b == 0)
    keys = jax.random.split(key, repeats)
    found = _repeated(
        Partial(scene.score_fn),
        jnp.asarray(points, jnp.float32),
        jnp.float32(scene.radius),
        jnp.asarray(orders, jnp.float32),
        keys,
        estimate=method.estimate,
        n=n,
        at_once=at_once,
    )
    return jax.tree.map(np.asarray, found)


# Compiled fast rather than well: there are many programs, and each runs once.
@partial(jax.jit, static_argnames=("estimate", "n", "at_once"), compiler_options={"xla_backend_optimization_level": 1})
def _repeated(
    score_fn: ScoreFn,
    points: Array,
    radius: Array,
    orders: Array,
    keys: PRNGKey,
    *,
    estimate: Callable[..., Estimate],
    n: int,
    at_once: int,
) -> Estimate:
    def one(key: PRNGKey, p: Array, x: Array) -> Estimate:
        return jax.tree.map(jnp.asarray, estimate(score_fn, x, radius, p, key, n))

    over_points = jax.vmap(one, in_axes=(None, None, 0))
    # Only what depends on p is mapped over p: the score is evaluated once for all orders.
    over_orders = jax.vmap(over_points, in_axes=(None, 0, None))
    return lax.map(lambda key: over_orders(key, orders, points), keys, batch_size=at_once)


def references(scene: Scene, points: np.ndarray, orders: tuple[float, ...], key: PRNGKey) -> tuple[np.ndarray, ...]:
    """κ_p ``(n orders, n points)`` and its standard error: by quadrature in the plane, else from 131,072 directions.

    Half of them are pairs, which do best off the modes, half quasi-random, which do best elsewhere; the better half is
    the reference.
    """
    orders, points = jnp.asarray(orders, jnp.float32), jnp.asarray(points, jnp.float32)
    args = (Partial(scene.score_fn), points, jnp.float32(scene.radius), orders)
    if scene.dim == 2:
        exact = np.asarray(_quadrature(*args))
        return exact, np.zeros_like(exact)
    n = 64
    repeats = REFERENCE // (2 * n)
    ways = chosen(["antithetic", "quasi"], BOUNDARY)
    found = [repeated(way, scene, points, tuple(orders.tolist()), key, n, repeats).value for way in ways]
    means = np.stack([value.mean(0) for value in found])
    errors = np.stack([value.std(0, ddof=1) for value in found]) / repeats**0.5
    return tuple(np.take_along_axis(a, errors.argmin(0)[None], 0)[0] for a in (means, errors))


@jax.jit
def _quadrature(score_fn: ScoreFn, points: Array, radius: Array, orders: Array) -> Array:
    def one(p: Array, x: Array) -> Array:
        return circle_flux(score_fn, x, radius=radius, p=p, n_points=1024)

    return jax.vmap(lambda p: jax.vmap(partial(one, p))(points))(orders)


@jax.jit
def pointwise_exact(score_fn: ScoreFn, points: Array, orders: Array) -> Array:
    """Δ_p u ``(n orders, n points)``."""
    return lax.map(lambda p: lax.map(lambda x: p_laplacian(score_fn, x, p), points), orders)
