"""Networks to predict noise with, in flax.nnx: one point in, its prediction out, told the noise level and a caption."""

from plap_jax.networks.mlp import ResidualMLP, sinusoidal_embedding

__all__ = ["ResidualMLP", "sinusoidal_embedding"]
