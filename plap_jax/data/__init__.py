"""Data sets with known ground truth: mixtures in closed form, and samples of which some points are repeated."""

from plap_jax.data.mixtures import random_mixture, triangle
from plap_jax.data.planting import Planted, captions, plant

__all__ = ["Planted", "captions", "plant", "random_mixture", "triangle"]
