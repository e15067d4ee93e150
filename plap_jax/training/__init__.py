"""Denoising score matching, resumable: a run that was killed and started again ends with the same bits."""

from plap_jax.training.config import TrainConfig
from plap_jax.training.loop import (
    NonFiniteLossError,
    TrainResult,
    batch_rows,
    load_diffusion,
    save_diffusion,
    train,
)
from plap_jax.training.steps import denoising_loss

__all__ = [
    "NonFiniteLossError",
    "TrainConfig",
    "TrainResult",
    "batch_rows",
    "denoising_loss",
    "load_diffusion",
    "save_diffusion",
    "train",
]
