"""Denoising score matching, resumable: a run that was killed and started again ends with the same bits."""

from plap_jax.training.config import TrainConfig
from plap_jax.training.finished import load_diffusion, load_snapshots, save_diffusion
from plap_jax.training.loop import NonFiniteLossError, TrainResult, batch_rows, train
from plap_jax.training.steps import denoising_loss

__all__ = [
    "NonFiniteLossError",
    "TrainConfig",
    "TrainResult",
    "batch_rows",
    "denoising_loss",
    "load_diffusion",
    "load_snapshots",
    "save_diffusion",
    "train",
]
