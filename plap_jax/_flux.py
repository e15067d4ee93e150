"""The p-Laplacian averaged over a ball, estimated from the flux through its boundary.

(1/|B_r|) ∫_{B_r} Δ_p u = (d/r) · E_n[ |s|^{p−2} ⟨s, n⟩ ], s at x + r n,
by the divergence theorem (Brokman et al., SSVM 2025).
Mean inward flux density: κ_p(x, r) = −E_n[ |s|^{p−2} ⟨s, n⟩ ]. Inward is positive: higher = sharper maximum of q.
The two agree for d + p > 2; for d = p = 1 the mass of Δ_1 u sits at the critical points, which a volume never samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from plap_jax.balls import positive_radius
from plap_jax.directions import Directions, circle, on_sphere, sample_directions
from plap_jax.operators import p_field
from plap_jax.typing import (
    Array,
    ArrayLike,
    Estimate,
    PRNGKey,
    ScoreFn,
    concrete,
    one_or_nan,
    require,
    require_ball,
    require_order,
    standard_error,
)


def flux(
    score_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    p: ArrayLike = 1.0,
    key: PRNGKey,
    n_samples: int = 16,
    directions: Directions = "iid",
) -> Estimate:
    """Mean inward flux density of the score through a sphere around x: how sharp a maximum of q lies inside.

    κ_p(x, r) = −E_n[ |s(x+rn)|^{p−2} ⟨s(x+rn), n⟩ ], n uniform on S^{d−1}: the mean inward flux density.

    κ_1 ∈ [−1, 1] is the mean cosine between the score and the direction back to the centre; near 1 at a sharp maximum.
    Given a noise prediction ε̂ = −σ s in place of the score, with p = 1, it returns −κ_1.

    Args:
        score_fn: s = ∇ log q, one point in, same shape out.
        x: centre of the ball ``(*shape)``, any shape, floating.
        radius: r > 0, in the units of x; may be traced.
        key: randomness; the same key gives the same directions at every point, which makes points comparable.
        n_samples: directions, each one score evaluation.
        p: order, ≥ 1; may be traced.
        directions: "iid", "antithetic", "orthogonal" or "quasi"; see ``plap_jax.directions``.

    Returns:
        ``Estimate`` of κ_p in the units of |s|^{p−1}, higher = sharper. n_units counts independent directions, pairs or
        blocks. Where s = 0 exactly and p < 2 a direction contributes 0 and is counted in n_zero.

    Raises:
        ValueError: p < 1, radius not positive, x not finite or not floating, a score of another shape, an unknown kind
            of directions, an n_samples that does not fit it, or what is no key. A traced p or radius out of range gives
            NaN instead.

    Example:
        >>> q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.ones(1), covariance_type="spherical")
        >>> kappa = flux(q.score, jnp.zeros(3), radius=0.5, key=jax.random.key(0))
        >>> kappa.value, kappa.interval()  # 1 at a mode: every score points at the centre
    """
    units, n_zero = flux_units(score_fn, x, radius=radius, p=p, key=key, n_samples=n_samples, directions=directions)
    return Estimate(jnp.mean(units), standard_error(units), n_samples, len(units), n_zero)


def flux_units(
    score_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    p: ArrayLike,
    key: PRNGKey,
    n_samples: int,
    directions: Directions,
) -> tuple[Array, Array]:
    """The independent units ``(n_units,)`` whose mean ``flux`` returns, and n_zero; arguments and errors as there."""
    x = jnp.asarray(x)
    require_ball(x, radius, p)
    vectors = sample_directions(key, n_samples, x.shape, directions, x.dtype)
    scores = jax.vmap(score_fn)(on_sphere(x, radius, vectors))
    return inward_units(scores, vectors, p=p, radius=radius)


def inward_units(scores: Array, vectors: Array, *, p: ArrayLike, radius: ArrayLike) -> tuple[Array, Array]:
    """``flux_units`` of scores that are known: ``(m, *shape)`` at ``on_sphere``.

    Raises:
        ValueError: scores of another shape than the points.
    """
    field, vanishes = _field(scores, vectors.reshape(-1, *vectors.shape[2:]), p)
    units = vectors.reshape(*vectors.shape[:2], -1).astype(field.dtype)
    # Not jnp.sum(field * units, -1): with units of one, XLA takes several times as long for it on a CPU.
    outward = jnp.einsum("nd,nd->n", field, units.reshape(field.shape), precision="highest")
    outward = jnp.mean(outward.reshape(units.shape[:2]), axis=1)
    return -jnp.asarray(one_or_nan(p, radius), field.dtype) * outward, jnp.sum(vanishes)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class FluxEstimator:
    """``flux`` with its settings fixed: a function of the point alone, to map over many points.

    x ↦ ``flux(score_fn, x, …)`` as a pytree: score, radius, order and key are data, the rest is static.

    Made for ``plap_jax.parallel.map_points`` and ``jit``: new weights, noise levels, radii, orders or keys do not
    recompile. All points share the same directions.

    Args:
        score_fn: s = ∇ log q as a pytree, e.g. ``Diffusion.score_at(t)``.
        radius, key, p, n_samples, directions: as for ``flux``.

    Raises:
        ValueError: a radius or an order that is known (not traced) and out of range.

    Example:
        >>> q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.ones(1), covariance_type="spherical")
        >>> score = jax.tree_util.Partial(GaussianMixture.score, q)
        >>> kappa = map_points(FluxEstimator(score, radius=0.5, key=jax.random.key(0)), np.zeros((100, 3), np.float32))
    """

    score_fn: ScoreFn
    radius: ArrayLike
    key: PRNGKey
    p: ArrayLike = 1.0
    n_samples: int = 16
    directions: Directions = "iid"

    def __post_init__(self) -> None:
        # Checked here because under jit and map_points both are traced. Arrays of values, for vmap, pass.
        positive_radius(self.radius)
        orders = concrete(self.p)
        for p in [] if orders is None else orders.ravel().tolist():
            require_order(p)

    def __call__(self, x: Array) -> Estimate:
        """κ_p(x, r), inward positive; errors as ``flux``."""
        return flux(
            self.score_fn,
            x,
            radius=self.radius,
            p=self.p,
            key=self.key,
            n_samples=self.n_samples,
            directions=self.directions,
        )

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """Named leaves and static fields, for JAX."""
        names = ("score_fn", "radius", "key", "p")
        leaves = tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names)
        return leaves, (self.n_samples, self.directions)

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: tuple) -> FluxEstimator:
        """Rebuild from leaves, for JAX; unchecked, since they may be placeholders or gradients."""
        self = object.__new__(cls)
        for name, value in zip(cls.__dataclass_fields__, (*leaves, *static), strict=True):
            object.__setattr__(self, name, value)
        return self


def circle_flux(score_fn: ScoreFn, x: Array, *, radius: ArrayLike, p: ArrayLike = 1.0, n_points: int = 256) -> Array:
    """The flux density in the plane without sampling error: equispaced points on the circle.

    κ_p(x, r) by the trapezoid rule, which converges exponentially in n_points where s is smooth on the circle.

    Args:
        score_fn: as for ``flux``.
        x: centre ``(2,)``.
        radius: r > 0.
        p: order, ≥ 1.
        n_points: equispaced directions, each one evaluation.

    Returns:
        κ_p, a scalar; inward positive.

    Raises:
        ValueError: as ``flux``, or x is not a point of the plane.
    """
    x = jnp.asarray(x)
    require_ball(x, radius, p)
    require(x.shape == (2,), "x", x.shape, "must be a point of the plane, shape (2,)")
    n = circle(n_points, x.dtype)
    field, _ = _field(jax.vmap(score_fn)(on_sphere(x, radius, n)), n, p)
    kappa = -jnp.mean(jnp.sum(field * n.astype(field.dtype), axis=-1))
    return kappa * jnp.asarray(one_or_nan(p, radius), kappa.dtype)


def _field(scores: Array, n: Array, p: ArrayLike) -> tuple[Array, Array]:
    """|s|^{p−2} s in directions ``(m, *shape)``: ``(m, d)``, and where s vanished ``(m,)``."""
    require(scores.shape == n.shape, "score_fn", scores.shape[1:], f"must return the shape of x, {n.shape[1:]}")
    return p_field(scores.reshape(n.shape[0], -1), p)
