"""Networks to be timed: random weights in every layer, as values do not matter to the clock."""

import math

import jax
from flax import nnx

from plap_jax.diffusion import Diffusion, DiscreteVP
from plap_jax.networks.mlp import ResidualMLP
from plap_jax.networks.unet import UNet
from plap_jax.typing import Array, ScoreFn

# The MLP of the experiments on images, as conf/model/mlp_images.yaml has it.
IMAGES = {"width": 256, "depth": 4, "embed_dim": 64}
# The U-Net of the experiment on natural patches, 16 × 16 RGB, as conf/model/unet.yaml has it.
PATCHES, PATCH_SHAPE = {"width": 32, "multipliers": (1, 2), "embed_dim": 64, "patch": 2}, (16, 16, 3)
MLPS = {
    "planted network": {"width": 128, "depth": 2},
    "images network": IMAGES,
    "larger network": {"width": 512, "depth": 4},
}


def random_diffusion(
    dim: int,
    *,
    width: int,
    depth: int,
    embed_dim: int = 32,
    betas: tuple[float, float, int] = (1e-4, 0.02, 100),
    seed: int = 0,
) -> Diffusion:
    """An untrained ε predictor whose last layer, zero at first, is drawn too: scores that do not vanish."""
    network = ResidualMLP((dim,), width=width, depth=depth, embed_dim=embed_dim, rngs=nnx.Rngs(seed))
    return _diffusion(network, betas)


def random_unet(
    shape: tuple[int, int, int], *, betas: tuple[float, float, int] = (1e-4, 0.02, 100), **sizes
) -> Diffusion:
    """The same with a U-Net."""
    return _diffusion(UNet(shape, **sizes, rngs=nnx.Rngs(0)), betas)


@jax.jit
def evaluate(score_fn: ScoreFn, points: Array) -> Array:
    """The bare network: scores, or noise, of a batch."""
    return jax.vmap(score_fn)(points)


def _diffusion(network: ResidualMLP | UNet, betas: tuple[float, float, int]) -> Diffusion:
    kernel = network.last.kernel
    fan_in = math.prod(kernel.shape[:-1])
    kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape) / math.sqrt(fan_in)
    first, last, length = betas
    return Diffusion(network, DiscreteVP.linear(length, first, last), data_std=2.0, conditioning="log_snr")
