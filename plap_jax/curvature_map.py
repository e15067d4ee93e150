"""Which pixels are memorized: κ₁, or the trace of the curvature, taken apart into its coordinates.

κ₁ = −E_n⟨ŝ, n⟩ is a sum over coordinates j of −E_n[ŝ_j n_j], which by the divergence theorem is −(r/d) times the
ball's mean of ∂_j ŝ_j, ŝ = s/|s|. Where a share ρ of the coordinates is memorized, d times that is about 1/√ρ there and
0 elsewhere. The map comes from the evaluations that κ₁ takes anyhow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp

from plap_jax.directions import Directions, on_sphere, sample_directions
from plap_jax.memory import products_at_once
from plap_jax.operators import p_field
from plap_jax.typing import (
    Array,
    ArrayLike,
    PRNGKey,
    ScoreFn,
    at_least_float32,
    one_or_nan,
    require,
    require_ball,
    require_key,
    require_point,
    safe_sqrt,
    standard_error,
)


class CurvatureMap(NamedTuple):
    """A value for each coordinate or pixel, with its standard error.

    Attributes:
        value: of ``curvature_map``: no unit; 0 where the score does not point back to the centre, about 1 everywhere
            around a sharp maximum, 1/√ρ on the memorized part where that is a share ρ. Higher = more memorized.
        stderr: over the directions, or probes.
    """

    value: Array
    stderr: Array


def curvature_map(
    score_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    key: PRNGKey,
    n_samples: int = 64,
    directions: Directions = "iid",
    baseline: ScoreFn | None = None,
    channels: bool = False,
) -> CurvatureMap:
    """κ₁ coordinate by coordinate: where the score points back to the centre of a ball, and by how much.

    m_j = −Σ ŝ_j n_j / Σ n_j², over directions n, ŝ = s/|s| at x + r n.

    An estimate of −d E_n[ŝ_j n_j] = −r · (mean of ∂_j ŝ_j over the ball). Division by the sum of n_j² in place of its
    expectation takes most of the spread away: around an ideal maximum ŝ_j is proportional to n_j. Weighted by the mean
    of n_j² the map sums to κ₁ of ``flux`` in the same directions.

    Args:
        score_fn: s = ∇ log q, one point in, same shape out. A noise prediction ε̂ = −σ s gives minus the map.
        x: centre of the ball ``(*shape)``, floating.
        radius: r > 0, in the units of x; may be traced.
        key: randomness; the same key gives the same directions at every point.
        n_samples: directions, each one evaluation (two with a baseline). m of them tell a memorized coordinate from
            others at about √(m/2) standard errors.
        directions: as for ``flux``.
        baseline: a second score, in the same directions: the map is the difference, what the first has learned more.
        channels: the last axis of x holds channels, which are taken together: the map is of pixels, ``shape[:-1]``.

    Returns:
        ``CurvatureMap`` of ``x.shape``, or ``x.shape[:-1]`` with channels; float32 at least.

    Raises:
        ValueError: as ``flux``; channels of a point with one axis.

    Example:
        >>> centre, radius = model.ball(image, t)
        >>> found = curvature_map(model.score_at(t), centre, radius=radius, key=jax.random.key(0), channels=True)
        >>> mask = found.value > 3 * found.stderr
    """
    how = {"radius": radius, "key": key, "n_samples": n_samples, "directions": directions, "channels": channels}
    inward, weight = map_units(score_fn, x, **how)
    if baseline is not None:
        inward = inward - map_units(baseline, x, **how)[0]
    found = map_of_units(inward, weight)
    factor = jnp.asarray(one_or_nan(1.0, radius), found.value.dtype)
    return CurvatureMap(factor * found.value, factor * found.stderr)


def map_units(
    score_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    key: PRNGKey,
    n_samples: int,
    directions: Directions = "iid",
    channels: bool = False,
) -> tuple[Array, Array]:
    """Σ −ŝ_j n_j and Σ n_j² over the directions of each independent unit, ``(n_units, *map)`` both.

    What ``curvature_map`` is made of by ``map_of_units``; arguments and errors as there.
    """
    x = jnp.asarray(x)
    require_ball(x, radius, 1.0)
    require(not channels or x.ndim >= 2, "channels", channels, f"must be false for a point of shape {x.shape}")
    vectors = sample_directions(key, n_samples, x.shape, directions, x.dtype)
    points = on_sphere(x, radius, vectors)
    s = jax.vmap(score_fn)(points)
    require(s.shape == points.shape, "score_fn", s.shape[1:], f"must return the shape of x, {x.shape}")
    return units_of_scores(s, vectors, channels=channels)


def units_of_scores(s: Array, vectors: Array, *, channels: bool = False) -> tuple[Array, Array]:
    """``map_units`` of scores that are there already, so that several maps are made of one evaluation.

    Args:
        s: ``(m, *shape)``, the scores at x + r n.
        vectors: ``(n_units, m/n_units, d)``, the directions n as ``sample_directions`` gives them.
        channels: as for ``curvature_map``.

    Returns:
        Two arrays ``(n_units, *map)``, float32 at least.
    """
    unit = p_field(s.reshape(len(s), -1), 1.0)[0].reshape(s.shape)  # ŝ = s/|s|, 0 where s is
    n = vectors.reshape(s.shape).astype(unit.dtype)
    grouped, axes = (*vectors.shape[:2], *s.shape[1:]), (1, -1) if channels else (1,)
    inward, weight = (jnp.sum(a.reshape(grouped), axis=axes) for a in (-unit * n, n * n))
    return inward, weight


def map_of_units(inward: Array, weight: Array, strata: int = 1) -> CurvatureMap:
    """Σ inward / Σ weight over independent units, with the standard error of a ratio of two sums.

    Args:
        inward, weight: ``(n_units, …)``, as of ``map_units``; shapes that fit each other.
        strata: equal parts of the units, one after the other, each of at least two, whose means may differ, such as
            noise levels: the value is then the mean over them, and their differences are no part of the error.
    """
    total = weight.sum(axis=0)
    value = inward.sum(axis=0) / total
    off = inward - value * weight  # the ratio's linear part
    of_each = len(inward) // strata
    apart = off.reshape(strata, of_each, *off.shape[1:])
    apart = apart - apart.mean(axis=1, keepdims=True)
    spread = safe_sqrt((apart**2).sum(axis=(0, 1)) * of_each / (of_each - 1)) / total
    return CurvatureMap(value, spread)


def curvature_difference(
    score_fn: ScoreFn,
    x: Array,
    *,
    key: PRNGKey,
    n_probes: int = 16,
    baseline: ScoreFn | None = None,
    channels: bool = False,
) -> CurvatureMap:
    """The curvature at a point coordinate by coordinate: how fast the score falls off along each of them.

    −diag(J − J_base), J = ∇s: the mean over Rademacher probes v of −v ⊙ (J − J_base) v.

    Kim & Lee (ICML 2026, arXiv 2605.26756) take the score given the prompt, and for the baseline that without it, or
    another model's, at the last step of a generation. The sum over coordinates is the detector
    ``CurvatureDifference``. Unlike ``curvature_map`` it needs derivatives, has a unit, and sees the point alone rather
    than a ball around it.

    Args:
        score_fn: s = ∇ log q, one point in, same shape out; or a difference of scores, such as ``gap_at``.
        x: the point ``(*shape)``, floating: an image times α.
        key: randomness; the same key gives the same probes at every point.
        n_probes: ≥ 2, one Jacobian-vector product each (two with a baseline). The variance of an entry is that of the
            other entries of its row.
        baseline: a second score, or None for the curvature itself.
        channels: the last axis of x holds channels, which are added up: the map is of pixels, ``shape[:-1]``.

    Returns:
        ``CurvatureMap`` in 1/unit², of ``x.shape``, or ``x.shape[:-1]`` with channels; float32 at least. Higher = more
        memorized; negative where the score without the prompt falls off faster.

    Raises:
        ValueError: x not finite or not floating, fewer than two probes, channels of a point with one axis.
    """
    require_point(x)
    x = at_least_float32(x)
    require(not channels or x.ndim >= 2, "channels", channels, f"must be false for a point of shape {x.shape}")
    require_key(key)
    fits = isinstance(n_probes, Integral) and n_probes >= 2
    require(fits, "n_probes", n_probes, "must be an integer >= 2: one unit has no standard error")

    def difference(x: Array) -> Array:
        s = score_fn(x)
        require(s.shape == x.shape, "score_fn", s.shape, f"must return the shape of x, {x.shape}")
        return at_least_float32(s) if baseline is None else at_least_float32(s) - at_least_float32(baseline(x))

    _, jacobian = jax.linearize(difference, x)

    def unit(v: Array) -> Array:
        v = v.reshape(x.shape)
        diagonal = -v * jacobian(v)
        return jnp.sum(diagonal, axis=-1) if channels else diagonal

    probes = jax.random.rademacher(key, (n_probes, x.size), x.dtype)
    at_once = min(n_probes, products_at_once(x.size, 1 if baseline is None else 2))
    units = jax.lax.map(unit, probes, batch_size=at_once)
    return CurvatureMap(jnp.mean(units, axis=0), standard_error(units))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MapEstimator:
    """``curvature_map`` with its settings fixed, a function of the point alone, for ``map_points``.

    Args:
        score_fn, baseline: pytrees, e.g. ``Diffusion.score_at(t)``.
        radius, key, n_samples, directions, channels: as for ``curvature_map``.
    """

    score_fn: ScoreFn
    radius: ArrayLike
    key: PRNGKey
    baseline: ScoreFn | None = None
    n_samples: int = field(default=64, metadata={"static": True})
    directions: Directions = field(default="iid", metadata={"static": True})
    channels: bool = field(default=False, metadata={"static": True})

    def __call__(self, x: Array) -> CurvatureMap:
        """The map around one point; errors as ``curvature_map``."""
        how = {"n_samples": self.n_samples, "directions": self.directions, "channels": self.channels}
        return curvature_map(self.score_fn, x, radius=self.radius, key=self.key, baseline=self.baseline, **how)
