"""One small training run; as a script it can be killed from outside: ``python training_worker.py FOLDER``."""

import sys

import jax
from flax import nnx

from plap_jax.diffusion import Diffusion, VPLinear
from plap_jax.networks import ResidualMLP
from plap_jax.training import TrainConfig, TrainResult, train

CONFIG = TrainConfig(n_steps=800, batch_size=16, learning_rate=3e-3, chunk_steps=10, checkpoint_every=20)


def network(width: int = 8, seed: int = 0, prediction: str = "eps", n_conditions: int | None = None) -> Diffusion:
    mlp = ResidualMLP((2,), width=width, depth=1, embed_dim=4, n_conditions=n_conditions, rngs=nnx.Rngs(seed))
    return Diffusion(mlp, VPLinear(), prediction, data_std=1.5, conditioning="log_snr")


def data(n: int = 50) -> jax.Array:
    return 1.5 * jax.random.normal(jax.random.key(7), (n, 2))


def run(folder: str | None, **kwargs) -> TrainResult:
    kwargs = {"key": jax.random.key(1), "config": CONFIG, "checkpoint_dir": folder, **kwargs}
    return train(network(), data(), **kwargs)


if __name__ == "__main__":
    run(sys.argv[1], on_chunk=lambda step, losses: print(step, flush=True))
