"""The Gaussian mixtures of the experiments."""

from __future__ import annotations

import jax
import numpy as np

from plap_jax.mixtures import GaussianMixture
from plap_jax.typing import PRNGKey, require


def triangle(side: float = 5.0, variance: float = 0.1) -> GaussianMixture:
    """Three Gaussians at the corners of an equilateral triangle in the plane.

    ⅓ Σ_k N(μ_k, variance · I) in the plane, μ = side · (0, 1/√3), side · (±½, −1/(2√3)).

    The mixture of the published figure (Brokman et al., SSVM 2025), centred at the origin.

    Args:
        side: distance between two means, > 0.
        variance: variance of each coordinate within a component, > 0, in units of side².

    Raises:
        ValueError: side or variance not positive.
    """
    require(side > 0, "side", side, "must be > 0")
    require(variance > 0, "variance", variance, "must be > 0")
    means = side * np.array([[0, 3**-0.5], [-0.5, -0.5 * 3**-0.5], [0.5, -0.5 * 3**-0.5]])
    return GaussianMixture(np.full(3, 1 / 3), means, np.full(3, float(variance)), "spherical")


def random_mixture(key: PRNGKey, *, dim: int, n_components: int, spread: float, variance: float) -> GaussianMixture:
    """A mixture of equal spherical Gaussians with random means.

    (1/K) Σ_k N(μ_k, variance · I_d), μ_k ~ N(0, spread² I_d).

    Args:
        key: randomness of the means.
        dim: d ≥ 1.
        n_components: K ≥ 1.
        spread: standard deviation of each coordinate of the means, ≥ 0.
        variance: variance of each coordinate within a component, > 0.

    Raises:
        ValueError: any of these out of range.
    """
    require(dim >= 1, "dim", dim, "must be >= 1")
    require(n_components >= 1, "n_components", n_components, "must be >= 1")
    require(spread >= 0, "spread", spread, "must be >= 0")
    require(variance > 0, "variance", variance, "must be > 0")
    means = spread * jax.random.normal(key, (n_components, dim))
    weights = np.full(n_components, 1 / n_components)
    return GaussianMixture(weights, means, np.full(n_components, float(variance)), "spherical")
