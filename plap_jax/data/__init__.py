"""Data sets: Gaussian mixtures, images split into two pools, and data with planted duplicates."""

import importlib
from typing import Any

from plap_jax.data.captions import Captions, caption
from plap_jax.data.digest import fingerprint
from plap_jax.data.mixtures import random_mixture, triangle
from plap_jax.data.planting import Planted, plant
from plap_jax.data.templates import PlantedTemplates, plant_templates

# Loaded on first use: importing Pillow, scikit-image and scikit-learn takes longer than sampling a mixture.
_IMAGES = {
    "ImageData": "images",
    "digits": "bundled",
    "faces": "bundled",
    "fashion_mnist": "idx",
    "huggingface": "hub",
    "idx_images": "idx",
    "imagefolder": "folder",
    "patches": "photographs",
}

__all__ = [
    "Captions",
    "ImageData",
    "Planted",
    "PlantedTemplates",
    "caption",
    "digits",
    "faces",
    "fashion_mnist",
    "fingerprint",
    "huggingface",
    "idx_images",
    "imagefolder",
    "patches",
    "plant",
    "plant_templates",
    "random_mixture",
    "triangle",
]


def __getattr__(name: str) -> Any:
    """An image data set, its module imported on first use."""
    if name in _IMAGES:
        return getattr(importlib.import_module(f"{__name__}.{_IMAGES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
