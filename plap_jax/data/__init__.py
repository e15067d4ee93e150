"""Data sets: mixtures in closed form, images in two pools, and samples of which some points are repeated."""

import importlib
from typing import Any

from plap_jax.data.captions import Captions, caption
from plap_jax.data.digest import fingerprint
from plap_jax.data.mixtures import random_mixture, triangle
from plap_jax.data.planting import Planted, plant

# Loaded on first use: Pillow, scikit-image and scikit-learn take longer to import than a mixture to sample.
_IMAGES = {
    "ImageData": "images",
    "digits": "bundled",
    "faces": "bundled",
    "huggingface": "hub",
    "imagefolder": "folder",
    "patches": "photographs",
}

__all__ = [
    "Captions",
    "ImageData",
    "Planted",
    "caption",
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


def __getattr__(name: str) -> Any:
    """An image data set, whose module is imported when it is first asked for."""
    if name in _IMAGES:
        return getattr(importlib.import_module(f"{__name__}.{_IMAGES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
