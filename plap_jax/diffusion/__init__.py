"""Noise schedules, conversions between ε, x₀, v, flow and score, and networks paired with their schedule."""

from plap_jax.diffusion.conversion import PREDICTIONS, Prediction, convert, training_target
from plap_jax.diffusion.exploding import EDM, VE
from plap_jax.diffusion.flow import RectifiedFlow
from plap_jax.diffusion.model import Conditioning, Diffusion
from plap_jax.diffusion.preserving import DiscreteVP, VPCosine, VPLinear
from plap_jax.diffusion.schedules import Schedule, noise_to_signal

__all__ = [
    "EDM",
    "PREDICTIONS",
    "VE",
    "Conditioning",
    "Diffusion",
    "DiscreteVP",
    "Prediction",
    "RectifiedFlow",
    "Schedule",
    "VPCosine",
    "VPLinear",
    "convert",
    "noise_to_signal",
    "training_target",
]
