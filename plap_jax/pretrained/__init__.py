"""Trained models as a ``Diffusion``: a diffusers folder, a checkpoint of this library, or a function of one's own.

Nothing of PyTorch is imported before a folder is loaded.
"""

from plap_jax.pretrained.checkpoint import load_checkpoint
from plap_jax.pretrained.function import UserModel, as_pretrained, load_function
from plap_jax.pretrained.load import load_diffusers
from plap_jax.pretrained.model import Pretrained

__all__ = ["Pretrained", "UserModel", "as_pretrained", "load_checkpoint", "load_diffusers", "load_function"]
