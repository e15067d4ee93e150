"""A diffusers folder on disk as a ``Diffusion``: the PyTorch network as a JAX function of its weights.

Nothing of PyTorch is imported before a folder is loaded.
"""

from plap_jax.pretrained.load import load_diffusers
from plap_jax.pretrained.model import Pretrained

__all__ = ["Pretrained", "load_diffusers"]
