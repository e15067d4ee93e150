"""p-Laplacians of diffusion models: where does the learned density have sharp maxima, and are they training data?

The operator Δ_p u = ∇·(|s|^{p−2} s), s = ∇ log q, pointwise (``p_laplacian``) and averaged over balls (``flux``,
``volume``), computed from a score function alone.

Every submodule is an attribute, loaded when it is first used: ``plap_jax.bounds``, ``plap_jax.training``, … .
"""

import importlib
from types import ModuleType

from plap_jax._flux import FluxEstimator, flux
from plap_jax._volume import volume
from plap_jax.mixtures import GaussianMixture
from plap_jax.operators import p_laplacian, p_laplacian_estimate
from plap_jax.typing import Estimate, ScoreFn

__all__ = [
    "Estimate",
    "FluxEstimator",
    "GaussianMixture",
    "ScoreFn",
    "flux",
    "p_laplacian",
    "p_laplacian_estimate",
    "volume",
]

# Loaded on first use: scikit-learn, Flax and Orbax would make the import of the core several times as slow.
_SUBMODULES = frozenset(
    {
        "adaptive",
        "balls",
        "bootstrap",
        "bounds",
        "calibration",
        "checkpoints",
        "console",
        "control",
        "data",
        "detectors",
        "diffusion",
        "directions",
        "labels",
        "metrics",
        "mixtures",
        "moments",
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


def __getattr__(name: str) -> ModuleType:
    """A submodule of the library, imported when it is first asked for."""
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names and submodules."""
    return sorted({*__all__, *_SUBMODULES, *(name for name in globals() if name.startswith("__"))})
