"""p-Laplacians of diffusion models: where does the learned density have sharp maxima, and are they training data?

The operator Δ_p u = ∇·(|s|^{p−2} s), s = ∇ log q, pointwise (``p_laplacian``) and averaged over balls (``flux``,
``volume``), computed from a score function alone.

The everyday names are here; everything else is in submodules, which load on first use: ``plap_jax.bounds``,
``plap_jax.training``, … .
"""

import importlib
from typing import TYPE_CHECKING, Any

from plap_jax._flux import FluxEstimator, flux
from plap_jax._volume import volume
from plap_jax.adaptive import adaptive_flux
from plap_jax.diffusion import EDM, VE, Diffusion, DiscreteVP, RectifiedFlow, VPCosine, VPLinear
from plap_jax.mixtures import GaussianMixture
from plap_jax.operators import p_laplacian, p_laplacian_estimate
from plap_jax.typing import Estimate, ScoreFn

if TYPE_CHECKING:
    from plap_jax.audit import audit_images
    from plap_jax.parallel import map_points
    from plap_jax.pretrained import UserModel, load_checkpoint, load_diffusers, load_torch

__version__ = "0.2.0"
__all__ = [
    "EDM",
    "VE",
    "Diffusion",
    "DiscreteVP",
    "Estimate",
    "FluxEstimator",
    "GaussianMixture",
    "RectifiedFlow",
    "ScoreFn",
    "UserModel",
    "VPCosine",
    "VPLinear",
    "adaptive_flux",
    "audit_images",
    "flux",
    "load_checkpoint",
    "load_diffusers",
    "load_torch",
    "map_points",
    "p_laplacian",
    "p_laplacian_estimate",
    "volume",
]

# Loaded on first use: scikit-learn, Flax and Orbax would make importing the core several times slower, and tqdm is not
# part of every JAX installation.
_FOUND_IN = {
    "UserModel": "pretrained",
    "audit_images": "audit",
    "load_checkpoint": "pretrained",
    "load_diffusers": "pretrained",
    "load_torch": "pretrained",
    "map_points": "parallel",
}
_SUBMODULES = frozenset(
    {
        "adaptive",
        "adjustment",
        "audit",
        "balls",
        "bootstrap",
        "bounds",
        "calibration",
        "checkpoints",
        "console",
        "curvature_map",
        "data",
        "detectors",
        "difficulty",
        "diffusion",
        "directions",
        "envelope",
        "evidence",
        "labels",
        "memory",
        "metrics",
        "mitigation",
        "mixtures",
        "neighbours",
        "networks",
        "operators",
        "parallel",
        "pretrained",
        "sampling",
        "training",
        "trajectories",
        "typing",
    }
)


def __getattr__(name: str) -> Any:
    """A name or submodule of the library, imported on first use."""
    if name in _FOUND_IN:
        return getattr(importlib.import_module(f"{__name__}.{_FOUND_IN[name]}"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names and submodules."""
    return sorted({*__all__, *_SUBMODULES, *(name for name in globals() if name.startswith("__"))})
