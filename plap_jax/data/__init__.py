"""Data sets: mixtures in closed form, images in two pools, and samples of which some points are repeated."""

from plap_jax.data.bundled import digits, faces
from plap_jax.data.folder import imagefolder
from plap_jax.data.hub import huggingface
from plap_jax.data.images import ImageData, fingerprint
from plap_jax.data.mixtures import random_mixture, triangle
from plap_jax.data.photographs import patches
from plap_jax.data.planting import Planted, captions, plant

__all__ = [
    "ImageData",
    "Planted",
    "captions",
    "digits",
    "faces",
    "fingerprint",
    "huggingface",
    "imagefolder",
    "patches",
    "plant",
    "random_mixture",
    "triangle",
]
