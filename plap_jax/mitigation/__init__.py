"""Sampling that does not copy: methods of one signature, that of a sampler, with their evaluations counted."""

from plap_jax.mitigation.band import Band, fewest_images, load_band
from plap_jax.mitigation.base import Mitigation, Sampled, generate
from plap_jax.mitigation.gap_noise import GapNoise
from plap_jax.mitigation.guard import Guard
from plap_jax.mitigation.late_guidance import LateGuidance
from plap_jax.mitigation.plain import Unmitigated
from plap_jax.mitigation.prompt_embedding import PromptEmbedding
from plap_jax.mitigation.random_tokens import RandomTokens
from plap_jax.mitigation.sharp_noise import SharpNoise

__all__ = [
    "Band",
    "GapNoise",
    "Guard",
    "LateGuidance",
    "Mitigation",
    "PromptEmbedding",
    "RandomTokens",
    "Sampled",
    "SharpNoise",
    "Unmitigated",
    "fewest_images",
    "generate",
    "load_band",
]
