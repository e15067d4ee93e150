"""A control variate for ball averages: what the mean of the field explains is subtracted, at no evaluation.

κ_p = −E_n⟨F(n), n⟩ with F(n) = |s|^{p−2} s at x + r n. For any vector c, ⟨c, n⟩ has mean 0, and away from modes most of
the variance of ⟨F(n), n⟩ is that of ⟨E F, n⟩: the score points the same way all over the ball. Direction i is given
the mean of the others, C₋ᵢ = F̄₋ᵢ − f̄₋ᵢ n̄₋ᵢ, and the coefficient bᵢ that the others regress on, so that
E[ bᵢ ⟨C₋ᵢ, nᵢ⟩ | others ] = 0 and nothing is biased. What every F has along its own n, f̄ on average, says nothing of
E F and is noise in F̄: it is taken out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from plap_jax.typing import Array, max_abs, safe_sqrt

# With fewer units a coefficient would cost more than it saves.
MIN_UNITS = 8
# Units that are each other's control, at most; the products of all pairs are kept, so this bounds the memory.
GROUP = 64
# Squared t of the regression that is shrunk to nothing.
INSIGNIFICANT = 2.0
# Of the coefficient. Were E F known, ⟨E F, n⟩ would be subtracted as it is; more comes of a few unlike directions.
LARGEST = 1.0
# Share of the noise taken out of the mean field that the regression counts as the control's. Where the integrand is
# nearly constant, at a sharp mode, what is left of the field explains nothing and is smaller than that.
NOISE = 0.1


def subtract_mean_field(along: Array, field: Array, directions: Array) -> tuple[Array, Array]:
    """eᵢ = fᵢ − bᵢ zᵢ, zᵢ = ⟨C₋ᵢ, nᵢ⟩, and what the eᵢ share: E eᵢ = E fᵢ exactly.

    C₋ᵢ = F̄₋ᵢ − f̄₋ᵢ n̄₋ᵢ, means over the units but i. bᵢ is the slope of f_j on z_j = ⟨C₋ᵢⱼ, n_j⟩ over j ≠ i,
    Σ (f_j − f̄) (z_j − z̄) / [ Σ (z_j − z̄)² + Σ (f̄₋ᵢⱼ ⟨n̄₋ᵢⱼ, n_j⟩)² / 10 ], between 0 and 1, times max(0, 1 − 2/t²), t
    its significance: where the mean explains nothing, as at a mode, nothing is subtracted. Gradients take bᵢ as given,
    which biases nothing.

    eᵢ and eⱼ share C and b, which their spread does not show: m(m−1) Cov(eᵢ, eⱼ) = E Σ_{i≠j} Dᵢⱼ Dⱼᵢ with
    Dᵢⱼ = bⱼ ⟨C₋ᵢⱼ, nᵢ⟩ − b̄ zᵢ, by how much unit j moves eᵢ, taken as 0 where chance makes it negative. What a control
    may miss altogether is counted in ``plap_jax.moments``.

    With fewer than 8 units nothing is subtracted; more than 64 are taken in groups as equal as can be.

    Args:
        along: fᵢ ``(m,)``, the mean of ⟨F, n⟩ over unit i.
        field: F̄ᵢ ``(m, d)``, the mean field of unit i.
        directions: n̄ᵢ ``(m, d)``, the mean direction of unit i; units are independent.

    Returns:
        eᵢ ``(m,)`` and √(Σ_{i≠j} Dᵢⱼ Dⱼᵢ), a scalar, both in the units of f.
    """
    m = along.shape[0]
    if m < MIN_UNITS:
        return along, jnp.zeros((), along.dtype)
    scale = max_abs(along, field.ravel())
    parts = (along / scale, field / scale, directions)
    n_groups = -(-m // GROUP)
    size, n_larger = divmod(m, n_groups)
    cut, found = n_larger * (size + 1), []
    for of_size, members in ((size + 1, slice(cut)), (size, slice(cut, None))):
        if len(range(m)[members]):
            groups = tuple(a[members].reshape(-1, of_size, *a.shape[1:]) for a in parts)
            found.append(jax.tree.map(jnp.ravel, jax.vmap(_within_group)(*groups)))
    residuals, shared = (jnp.concatenate(part) for part in zip(*found, strict=True))
    return scale * residuals, scale * safe_sqrt(jnp.sum(shared))


def _within_group(f: Array, field: Array, n: Array) -> tuple[Array, Array]:
    """eᵢ ``(m,)`` and Σ_{i≠j} Cov(eᵢ, eⱼ) of m units that are each other's control."""
    m = f.shape[0]
    others = 1 - jnp.eye(m, dtype=f.dtype)
    # [i, j], i ≠ j: ⟨F̄ᵢ, n̄ⱼ⟩ and ⟨n̄ᵢ, n̄ⱼ⟩
    products, overlaps = (jnp.matmul(a, n.T, precision="highest") * others for a in (field, n))
    of_field, of_overlaps, total = jnp.sum(products, axis=0), jnp.sum(overlaps, axis=0), jnp.sum(f)
    control = (of_field - (total - f) / (m - 1) * of_overlaps) / (m - 1)
    # [i, j]: the control of j without i, and the noise taken out of it
    noise = (total - f[:, None] - f) / (m - 2) * (of_overlaps - overlaps) / (m - 2) * others
    without = (of_field - products) / (m - 2) * others - noise
    # [i, j]: f_j and that control, about their means without i
    values = (f - ((total - f) / (m - 1))[:, None]) * others
    about = (without - jnp.sum(without, axis=1, keepdims=True) / (m - 1)) * others
    ridge = NOISE * _dot(noise, noise)
    squares = _dot(about, about) + ridge, _dot(without, without) + ridge, _dot(values, values)
    slope = _shrunk_slope(_dot(values, about), *squares)
    slope = lax.stop_gradient(slope)
    moved = (slope[:, None] * without - jnp.mean(slope) * control) * others  # [i, j]: e_j by i
    return f - slope * control, jnp.maximum(jnp.sum(moved * moved.T), 0)


def _dot(a: Array, b: Array) -> Array:
    """Σ_j aᵢⱼ bᵢⱼ: a contraction, which XLA computes several times faster on a CPU than a sum of products."""
    return jnp.einsum("ij,ij->i", a, b, precision="highest")


def _shrunk_slope(covariance: Array, spread: Array, square: Array, of_values: Array) -> Array:
    """min(b, 1) max(0, 1 − 2/t²) of m regressions on m − 1 others; 0 where control or values are constant, or b < 0.

    b = covariance / spread, the control's squares about its mean. t² is from its squares about 0: a chance mean of the
    control counts as noise, which is what keeps a few units from trusting a slope that is none.
    """
    freedom = len(covariance) - 3
    explains = (spread > 0) & (of_values > 0) & (covariance > 0)
    explained = covariance**2 / jnp.where(explains, square, 1)
    left = jnp.maximum(of_values - explained, 0)
    t_squared_inverse = left / (freedom * jnp.where(explains, explained, 1))
    slope = jnp.minimum(covariance / jnp.where(explains, spread, 1), LARGEST)
    return jnp.where(explains, slope * jnp.maximum(0, 1 - INSIGNIFICANT * t_squared_inverse), 0)
