"""A wide Gaussian with a few points planted in it, and the exact network of both: what memorization looks like."""

import jax.numpy as jnp
import numpy as np

from plap_jax import GaussianMixture
from plap_jax.diffusion import VPLinear
from tests.helpers.analytic_network import exact_diffusion

DIM, SHARP_SHARE = 6, 0.25
SHARP = np.full(DIM, 1.5, np.float32)
NEAR = 0.1


def mixture():
    """Component 0 is wide, component 1 the planted point."""
    means = jnp.stack([jnp.zeros(DIM), jnp.asarray(SHARP)])
    weights = jnp.array([1 - SHARP_SHARE, SHARP_SHARE])
    return GaussianMixture(weights, means, jnp.array([0.25, 1e-6]), "spherical")


VP = VPLinear()


def planted_diffusion(schedule=VP, prediction="eps"):
    """Condition k leaves component k alone, −1 all."""
    return exact_diffusion(mixture(), schedule, prediction)


def is_copy(points):
    """Which of ``(n, DIM)`` are the planted point."""
    return np.linalg.norm(np.asarray(points) - SHARP, axis=-1) < NEAR
