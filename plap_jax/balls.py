"""Conversions of a flux density κ_p: to the ball average of Δ_p u, to the total flux through the sphere, and back."""

from __future__ import annotations

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from plap_jax.typing import Array, ArrayLike, Estimate, concrete, one_or_nan, require


def ball_average(kappa: Estimate, radius: ArrayLike, dim: int) -> Estimate:
    """The ball average of the p-Laplacian that a flux density amounts to.

    (1/|B_r|) ∫ Δ_p u = −(d/r) κ_p, comparable with what ``volume`` returns.

    Args:
        kappa: κ_p of one point or of many, ``(*batch,)``, in the units of |s|^{p−1}; inward positive.
        radius: r > 0 of the same balls, ``()`` or ``(*batch,)``, in the units of x.
        dim: d, the number of coordinates of a point.

    Returns:
        ``Estimate`` of the average, ``(*batch,)``, in units u/length^p; negative at maxima. Its stderr is d/r times
        that of κ_p, its counts are the same.

    Raises:
        ValueError: a radius that is known (not traced) and not finite and positive; traced ones give NaN.
    """
    return _scaled(kappa, -dim / positive_radius(radius))


def flux_density(average: Estimate, radius: ArrayLike, dim: int) -> Estimate:
    """The flux density that a ball average of the p-Laplacian amounts to.

    κ_p = −(r/d) · ball average of Δ_p u: the inverse of ``ball_average``.

    Args:
        average: ball averages of Δ_p u as ``volume`` returns them, ``(*batch,)``, units u/length^p; negative at maxima.
        radius: r > 0 of the same balls, ``()`` or ``(*batch,)``, in the units of x.
        dim: d, the number of coordinates of a point.

    Returns:
        ``Estimate`` of κ_p, ``(*batch,)``, in the units of |s|^{p−1}; inward positive, higher = sharper.

    Raises:
        ValueError: as ``ball_average``.
    """
    return _scaled(average, -positive_radius(radius) / dim)


def log_sphere_area(radius: ArrayLike, dim: int) -> Array:
    """Logarithm of the area of a sphere in d dimensions.

    ln( |S^{d−1}| r^{d−1} ) = ln 2 + (d/2) ln π − ln Γ(d/2) + (d−1) ln r: finite for any dimension.
    """
    require(dim >= 1, "dim", dim, "must be >= 1")
    # On the host: in float32 the large terms would leave an error of about 1e-3 at d = 3072.
    unit_sphere = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    return unit_sphere + (dim - 1) * jnp.log(positive_radius(radius))


def total_flux(kappa: Estimate, radius: ArrayLike, dim: int) -> Estimate:
    """Total inward flux through the sphere.

    ∮_{∂B_r} |s|^{p−2} ⟨s, −n⟩ dA = |S^{d−1}| r^{d−1} κ_p.

    The area overflows or underflows in high dimension; use ``log_total_flux`` there.

    Args:
        kappa: κ_p of one point or of many, ``(*batch,)``, in the units of |s|^{p−1}; inward positive.
        radius: r > 0 of the same balls, ``()`` or ``(*batch,)``, in the units of x.
        dim: d ≥ 1, the number of coordinates of a point.

    Returns:
        ``Estimate`` of the total, ``(*batch,)``, in the units of |s|^{p−1} · length^{d−1}; inward positive. Its stderr
        is scaled by the same area, its counts are the same.

    Raises:
        ValueError: dim < 1, or as ``ball_average``.
    """
    return _scaled(kappa, jnp.exp(log_sphere_area(radius, dim)))


def log_total_flux(kappa: Estimate, radius: ArrayLike, dim: int) -> tuple[Array, Array]:
    """Total flux as (sign, logarithm), for dimensions where the area overflows.

    (sign κ_p, ln|κ_p| + ln(|S^{d−1}| r^{d−1})).
    """
    value = jnp.asarray(kappa.value)
    return jnp.sign(value), jnp.log(jnp.abs(value)) + log_sphere_area(radius, dim)


def positive_radius(radius: ArrayLike) -> Array:
    """A radius, or one per estimate of a batch, checked; NaN where it is traced and not positive.

    Raises:
        ValueError: a known radius that is not finite and positive.
    """
    known = concrete(radius)
    fits = known is None or bool(np.all(np.isfinite(known) & (known > 0)))
    require(fits, "radius", radius, "must be finite and > 0")
    return jnp.asarray(radius) * one_or_nan(radius=radius)


def _scaled(estimate: Estimate, factor: Array) -> Estimate:
    return replace(estimate, value=factor * estimate.value, stderr=abs(factor) * estimate.stderr)
