"""Load trained models: a diffusers folder, a PyTorch module, a checkpoint of this library, or your own function.

PyTorch is imported only when a model of it is loaded.
"""

from plap_jax.pretrained.checkpoint import load_checkpoint
from plap_jax.pretrained.function import UserModel, as_pretrained, load_function
from plap_jax.pretrained.load import load_diffusers
from plap_jax.pretrained.model import Pretrained
from plap_jax.pretrained.module import load_torch

__all__ = [
    "Pretrained",
    "UserModel",
    "as_pretrained",
    "load_checkpoint",
    "load_diffusers",
    "load_function",
    "load_torch",
]
