"""Networks to be timed: random weights in every layer, as values do not matter to the clock."""

import jax
from flax import nnx

from plap_jax.diffusion import Diffusion, DiscreteVP
from plap_jax.networks.mlp import ResidualMLP


def random_diffusion(
    dim: int, *, width: int, depth: int, embed_dim: int = 32, betas: tuple[float, float, int] = (1e-4, 0.02, 100)
) -> Diffusion:
    """An untrained ε predictor whose last layer, zero at first, is drawn too: scores that do not vanish."""
    network = ResidualMLP((dim,), width=width, depth=depth, embed_dim=embed_dim, rngs=nnx.Rngs(0))
    kernel = network.last.kernel
    kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape) / width**0.5
    first, last, length = betas
    return Diffusion(network, DiscreteVP.linear(length, first, last), data_std=2.0, conditioning="log_snr")
