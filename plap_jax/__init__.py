"""p-Laplacians of diffusion models: where does the learned density have sharp maxima, and are they training data?

The operator Δ_p u = ∇·(|s|^{p−2} s), s = ∇ log q, pointwise (``p_laplacian``) and averaged over balls (``flux``,
``volume``), computed from a score function alone.
"""

from plap_jax.flux import flux, volume
from plap_jax.mixtures import GaussianMixture
from plap_jax.operators import p_laplacian, p_laplacian_estimate
from plap_jax.typing import Estimate, ScoreFn

__all__ = ["Estimate", "GaussianMixture", "ScoreFn", "flux", "p_laplacian", "p_laplacian_estimate", "volume"]
