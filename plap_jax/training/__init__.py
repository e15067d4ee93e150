"""Denoising score matching, resumable: a run that is killed and restarted ends bit for bit the same."""

import importlib
from typing import Any

from plap_jax.training.config import TrainConfig
from plap_jax.training.steps import denoising_loss

# Loaded on first use: checkpoints need Orbax and the loop a progress bar; the steps need neither.
_LOADED = {
    "NonFiniteLossError": "loop",
    "TrainResult": "loop",
    "batch_rows": "loop",
    "load_diffusion": "finished",
    "load_snapshots": "finished",
    "save_diffusion": "finished",
    "train": "loop",
}

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


def __getattr__(name: str) -> Any:
    """The loop and the checkpoints, imported on first use."""
    if name in _LOADED:
        return getattr(importlib.import_module(f"{__name__}.{_LOADED[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
