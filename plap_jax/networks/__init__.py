"""Noise-prediction networks in flax.nnx, for one point, conditioned on the noise level and a caption."""

from plap_jax.networks.conditioned import sinusoidal_embedding
from plap_jax.networks.dit import DiT
from plap_jax.networks.mlp import ResidualMLP
from plap_jax.networks.unet import UNet

__all__ = ["DiT", "ResidualMLP", "UNet", "sinusoidal_embedding"]
